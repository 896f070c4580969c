from __future__ import annotations

import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.errors import CorruptionError
from reactstate.kv.changelog import DELETED, EXPIRED, PUT, decode_changes, encode_changes
from reactstate.kv.protocol import EventKind

KINDS = {PUT: EventKind.PUT, DELETED: EventKind.DELETE, EXPIRED: EventKind.EXPIRE}

keys = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
events = st.lists(st.tuples(st.sampled_from([PUT, DELETED, EXPIRED]), keys), min_size=1, max_size=5)
groups = st.lists(events, max_size=8)


def encode(last, commits):
    flat = [event for commit in commits for event in commit]
    return encode_changes(
        last, [len(commit) for commit in commits], bytearray(kind for kind, _ in flat), [key for _, key in flat]
    )


def forged(last, document):
    body = orjson.dumps(document)
    return b"\x01" + zlib.crc32(body, last & 0xFFFFFFFF).to_bytes(4, "big") + body


@given(st.integers(0, 1 << 62), groups)
def test_what_is_encoded_is_decoded(spare, commits):
    last = spare + len(commits)
    expected = [
        (last - len(commits) + place, [(KINDS[kind], key) for kind, key in commit])
        for place, commit in enumerate(commits, 1)
    ]
    decoded = [(revision, list(changes)) for revision, changes in decode_changes(last, encode(last, commits))]
    assert decoded == expected


def test_a_group_of_single_puts_takes_little_more_than_its_keys():
    names = [f"key:{place}" for place in range(50)]
    row = encode_changes(50, [1] * 50, bytes(50), names)
    assert len(row) < len(orjson.dumps(names)) + 16


@given(groups.filter(bool), st.data())
def test_a_changed_byte_is_found_out(commits, data):
    row = bytearray(encode(100, commits))
    place = data.draw(st.integers(0, len(row) - 1))
    row[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptionError):
        decode_changes(100, bytes(row))


@given(groups.filter(bool), st.data())
def test_a_cut_row_is_found_out(commits, data):
    row = encode(100, commits)
    with pytest.raises(CorruptionError):
        decode_changes(100, row[: data.draw(st.integers(0, len(row) - 1))])


def test_a_row_under_another_revision_is_found_out():
    row = encode(7, [[(PUT, "a")]])
    with pytest.raises(CorruptionError, match="row of revision 8"):
        decode_changes(8, row)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [0, ""],
        [0, "", 5],
        [0, "9", ["a"]],
        [0, "0", ["a", "b"]],
        [0, 5, ["a"]],
        [[2], "", ["a"]],
        [[-1, 2], "", ["a"]],
        [["x"], "", ["a"]],
        ["x", "", ["a"]],
        [0, "", [5]],
        [0, "-", ["a"]],
    ],
)
def test_a_row_of_another_form_is_found_out(document):
    with pytest.raises(CorruptionError):
        decode_changes(9, forged(9, document))


def test_a_row_that_is_no_json_is_found_out():
    body = b"\xff"
    row = b"\x01" + zlib.crc32(body, 9).to_bytes(4, "big") + body
    with pytest.raises(CorruptionError):
        decode_changes(9, row)
