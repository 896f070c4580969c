from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import struct
import subprocess
import sys
import uuid
from typing import Any

import cbor2
import orjson
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.codec import FORMATS, MAX_DEPTH, MAX_DIGITS, Codec, check_document
from reactstate.codec import formats as formats_module
from reactstate.codec.formats import load_format, load_format_number
from reactstate.errors import CodecError, DecodeError, SettingsError, UnsupportedError

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -0.0, 1e16, 5e-324, "null", ""])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6), max_leaves=25
)
every_format = pytest.mark.parametrize("name", FORMATS)


class FrozenList(list[Any]):
    pass


class FrozenDict(dict[str, Any]):
    pass


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int = 1


def nested(levels: int, leaf: Any = 0) -> Any:
    for level in range(levels):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


@every_format
@settings(deadline=None)
@given(document=documents)
def test_documents_come_back_with_their_values_types_and_order(name, document):
    codec = Codec(name)
    data = codec.encode_document(document)
    # repr tells 1, 1.0, True and -0.0 apart, and shows the order of keys
    assert repr(codec.decode_document(data)) == repr(document)
    assert repr(codec.decode_document(memoryview(data))) == repr(document)
    assert repr(codec.decode_document(bytearray(data))) == repr(document)


@every_format
@settings(deadline=None)
@given(document=documents)
def test_encoding_is_deterministic(name, document):
    codec = Codec(name)
    data = codec.encode_document(document)
    assert codec.encode_document(codec.decode_document(data)) == data


@every_format
def test_frozen_subclasses_of_list_and_dict_are_written_as_what_they_extend(name):
    codec = Codec(name)
    frozen = FrozenDict(a=FrozenList([1, None, FrozenDict(b=2**70)]))
    plain = {"a": [1, None, {"b": 2**70}]}
    assert codec.encode_document(frozen) == codec.encode_document(plain)
    assert codec.encode_document([FrozenList([1.5, None])]) == codec.encode_document([[1.5, None]])


@every_format
def test_large_documents_come_back(name):
    codec = Codec(name)
    document = {"items": {f"k{i}": [i, i / 7, str(i), None, i % 2 == 0] for i in range(5000)}}
    assert repr(codec.decode_document(codec.encode_document(document))) == repr(document)


@every_format
def test_ints_are_exact_up_to_the_most_digits_and_refused_beyond(name):
    codec = Codec(name)
    for power in (62, 63, 64, 65, 127, 128, 1000, 14000):
        for value in (2**power - 1, 2**power, 2**power + 1, -(2**power) - 1, -(2**power), -(2**power) + 1):
            assert codec.decode_document(codec.encode_document([value])) == [value]
    largest = 10**MAX_DIGITS - 1
    assert codec.decode_document(codec.encode_document(-largest)) == -largest
    for value in (largest + 1, -largest - 1, 10**100_000):
        with pytest.raises(CodecError, match="digits"):
            codec.encode_document({"a": value})


NEVER = [
    {1},
    frozenset(),
    b"x",
    bytearray(b"x"),
    math.nan,
    math.inf,
    -math.inf,
    dt.datetime(2026, 1, 1),
    dt.date(2026, 1, 1),
    dt.time(),
    decimal.Decimal(1),
    Point(),
    object(),
    int,
    1j,
    "\ud800",
    {1: 2},
    {None: 1},
    {b"a": 1},
    {"\udfff": 1},
    ormsgpack.Ext(1, b"x"),
    ormsgpack.Fragment(b"\x01"),
    cbor2.CBORTag(2, b"x"),
    cbor2.CBORSimpleValue(99),
    cbor2.undefined,
]
NEAREST = [(1,), Color.RED, uuid.UUID(int=1), orjson.Fragment(b"1")]


@every_format
@pytest.mark.parametrize("value", NEVER)
def test_what_cannot_be_read_back_is_never_written(name, value):
    codec = Codec(name)
    for document in (value, [value], {"a": [None, value]}, {"big": 2**70, "a": value}, [(value,)]):
        with pytest.raises(CodecError):
            codec.encode_document(document)
        with pytest.raises(CodecError):
            codec.encode(document, {"T": 1})


@every_format
@pytest.mark.parametrize("value", NEAREST)
def test_values_with_a_nearest_document_are_refused_by_encode(name, value):
    codec = Codec(name)
    for document in (value, [value], {"a": [None, value]}):
        with pytest.raises(CodecError):
            codec.encode(document, {"T": 1})
        if name != "json":
            with pytest.raises(CodecError):
                codec.encode_document(document)


def test_json_finds_non_finite_floats_beside_none_and_the_word_null():
    codec = Codec("json")
    for document in (
        math.nan,
        [None, math.inf],
        [None, [math.nan]],
        {"a": None, "b": [math.inf, None]},
        {"null": [[None], {"a": -math.inf}]},
        FrozenList([math.nan]),
        FrozenDict(a=math.nan, b=None),
    ):
        with pytest.raises(CodecError, match="not finite"):
            codec.encode_document(document)
    for document in (None, "null", [None, 1.5, None], {"a": None}, ["\null", None, 1.5, True, {"null": None}]):
        assert codec.decode_document(codec.encode_document(document)) == document
    # written as their nearest document, so that only what is in them matters
    assert codec.encode_document([None, (1.5, None), uuid.UUID(int=0)]).startswith(b"[null,[1.5,null],")
    with pytest.raises(CodecError):
        codec.encode_document([None, (math.nan,)])


@every_format
def test_the_depth_limit_is_the_same_both_ways_and_for_all_formats(name):
    codec = Codec(name)
    for leaf in (0, None, 2**70, []):
        deepest = nested(MAX_DEPTH - (leaf == []), leaf)
        assert codec.decode_document(codec.encode_document(deepest)) == deepest
        with pytest.raises(CodecError, match="levels deep"):
            codec.encode_document([deepest])
    with pytest.raises(CodecError):
        codec.encode_document(nested(100_000))


@every_format
def test_cycles_are_refused(name):
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(CodecError, match="contains itself"):
        Codec(name).encode_document(cycle)


@pytest.mark.parametrize(
    ("name", "opening", "leaf", "closing"),
    [
        ("json", b"[", b"", b"]"),
        ("json", b'{"a":', b"1", b"}"),
        ("msgpack", b"\x91", b"\x01", b""),
        ("msgpack", b"\x81\xa1a", b"\x01", b""),
        ("cbor", b"\x81", b"\x01", b""),
        ("cbor", b"\xa1\x61a", b"\x01", b""),
    ],
)
def test_reading_refuses_deep_nesting(name, opening, leaf, closing):
    codec = Codec(name)
    codec.decode_document(opening * MAX_DEPTH + leaf + closing * MAX_DEPTH)
    for levels in (MAX_DEPTH + 1, MAX_DEPTH + 2, 1000, 1024, 1025, 100_000):
        with pytest.raises(DecodeError):
            codec.decode_document(opening * levels + leaf + closing * levels)
        with pytest.raises(DecodeError):
            codec.decode_document(opening * levels)


def test_a_deep_document_with_large_ints_read_near_the_recursion_limit_is_a_typed_error():
    codec = Codec("json")
    document = nested(MAX_DEPTH, 2**70)
    data = codec.encode_document(document)

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
            return
        with pytest.raises(DecodeError):
            codec.decode_document(data)
        with pytest.raises(CodecError):
            codec.encode_document(document)

    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1
    descend(sys.getrecursionlimit() - used - 150)


JUNK = {
    "json": [
        b"",
        b" ",
        b"{",
        b"nul",
        b"[1,]",
        b"1 2",
        b"[1]]",
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'[{"a":1e5,"b":{"c":1,"c":1}}]',
        b"{1:2}",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"[-1e999]",
        b'"\\ud800"',
        b'{"\\udc00":1}',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        "[1]".encode("utf-16"),
        b"9" * (MAX_DIGITS + 1),
        b"9" * 100_000,
        b"'a'",
        b"01",
        b'"\n"',
        b"\x00",
    ],
    "msgpack": [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x92\x01",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x01",
        b"\x81\xc0\x01",
        b"\x81\xc4\x01a\x01",
        b"\xc4\x01x",
        b"\x91\xc4\x00",
        b"\xd4\x05x",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xd4\x01\x05",
        b"\xc7\x0a\x01" + b"\x00" * 9 + b"\x05",
        b"\xc8\x70\x00\x01" + b"\x7f" * 0x7000,
        b"\xcc\x05",
        b"\xca\x3f\x80\x00\x00",
        b"\xa1\xff",
        b"\xa3\xed\xa0\x80",
        b"\xcb\x7f\xf8" + bytes(6),
        b"\x91\xcb\xff\xf0" + bytes(6),
        b"\xdd\xff\xff\xff\xff\x01",
        b"\xdf\xff\xff\xff\xff\xa1a\x01",
        b"\xdb\xff\xff\xff\xffa",
        b"\xdd\xff\xff\xff\xff" * 200,
        b"\xc9\xff\xff\xff\xff\x01a",
    ],
    "cbor": [
        b"",
        b"\x01\x02",
        b"\x82\x01",
        b"\xa2\x61a\x01\x61a\x02",
        b"\xa1\x01\x01",
        b"\xa1\x81\x01\x01",
        b"\xa1\x41a\x01",
        b"\xa1\xf6\x01",
        b"\x41a",
        b"\x9f\x01\xff",
        b"\x7f\x61a\xff",
        b"\xbf\x61a\x01\xff",
        b"\xff",
        b"\xf7",
        b"\xf8\x63",
        b"\x1c",
        b"\x61\xff",
        b"\x63\xed\xa0\x80",
        b"\xf9\x7e\x00",
        b"\xfb\x7f\xf0" + bytes(6),
        b"\x81\xfa\xff\x80\x00\x00",
        b"\x9b\x00\x00\xff\xff\xff\xff\xff\xff\x01",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x61a\x01",
        b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xffa",
        b"\x5b\x00\x00\xff\xff\xff\xff\xff\xffa",
        b"\xc2\x01",
        b"\xc2\x61a",
        b"\xc2\x59\x40\x00" + b"\x7f" * 0x4000,
        bytes.fromhex("82d81c8101d81d00"),
        bytes.fromhex("d901008263616161d81900"),
        bytes.fromhex("c5821b7fffffffffffffff01"),
        bytes.fromhex("c4821a3b9aca0001"),
    ],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, junk in JUNK.items() for data in junk])
def test_junk_is_a_decode_error(name, data):
    with pytest.raises(DecodeError):
        Codec(name).decode_document(data)


@pytest.mark.parametrize(
    "tag", [0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 1004, 43000, 55799, 9999]
)
@pytest.mark.parametrize("body", [b"\x01", b"\x82\x01\x02", b"\x41a", b"\x6a2026-01-01"])
def test_foreign_cbor_tags_are_refused(tag, body):
    head = bytes((0xC0 | tag,)) if tag < 24 else b"\xd9" + struct.pack(">H", tag)
    for data in (head + body, b"\x81" + head + body):
        with pytest.raises(DecodeError):
            Codec("cbor").decode_document(data)


@every_format
@settings(deadline=None)
@given(data=st.data())
def test_random_and_damaged_bytes_are_a_document_or_a_decode_error(name, data):
    codec = Codec(name)
    raw = bytearray(data.draw(st.binary(max_size=30) | documents.map(codec.encode_document)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        document = codec.decode_document(bytes(raw))
    except DecodeError:
        return
    check_document(document)
    again = codec.encode_document(document)
    assert repr(codec.decode_document(again)) == repr(document)
    if name == "msgpack":
        assert again == raw


@every_format
def test_cut_bytes_and_trailing_bytes_are_decode_errors(name):
    codec = Codec(name)
    data = codec.encode_document({"a": [1, 2.5, "x", None, {"b": 2**70}], "c": True})
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            codec.decode_document(data[:end])
    for tail in (b"\x00", b"1", b"\xff", data):
        with pytest.raises(DecodeError):
            codec.decode_document(data + tail)


def test_json_of_other_writers_is_read_where_its_meaning_is_certain():
    codec = Codec("json")
    assert codec.decode_document(b' { "b" : [ 1E2, -0, 1e16 ],\n"a": "\\u0041\\/" } ') == {
        "b": [100.0, 0, 1e16],
        "a": "A/",
    }


def test_formats_are_found_by_name_and_by_number():
    for name in FORMATS:
        found = load_format(name)
        assert load_format_number(found.number) is found
        assert found.name == name
    with pytest.raises(SettingsError, match="choose one of json, msgpack, cbor"):
        load_format("yaml")
    with pytest.raises(DecodeError, match="newer version"):
        load_format_number(99)


@pytest.mark.parametrize(("name", "module"), [("msgpack", "ormsgpack"), ("cbor", "cbor2")])
def test_a_missing_extra_says_what_to_install(monkeypatch, name, module):
    monkeypatch.delitem(formats_module._loaded, name, raising=False)
    monkeypatch.delitem(sys.modules, f"reactstate.codec.{name}_format", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=rf"pip install 'reactstate\[{name}\]'") as caught:
        Codec(name)
    assert (caught.value.layer, caught.value.capability, caught.value.extra) == ("codec", name, name)
    assert isinstance(caught.value.__cause__, ImportError)


def test_importing_the_codec_imports_no_extra():
    code = (
        "import sys, reactstate.codec\n"
        "reactstate.codec.Codec()\n"
        "print(sorted({'ormsgpack', 'cbor2', 'lz4', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
