from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import json
import math
import os
import subprocess
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.codec import MAX_DEPTH, MAX_DIGITS, check_document, checksum
from reactstate.codec.documents import write_json
from reactstate.errors import CodecError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)


class FrozenList(list[Any]):
    pass


class FrozenDict(dict[str, Any]):
    pass


class Text(str):
    __slots__ = ()


class Number(int):
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


@settings(deadline=None)
@given(documents)
def test_every_document_passes_the_check(document):
    check_document(document)


def test_subclasses_of_list_and_dict_are_documents():
    check_document(FrozenDict(a=FrozenList([1, FrozenDict()])))


@pytest.mark.parametrize(
    "value",
    [
        (1,),
        {1},
        frozenset(),
        b"x",
        bytearray(b"x"),
        math.nan,
        math.inf,
        -math.inf,
        dt.datetime(2026, 1, 1),
        dt.date(2026, 1, 1),
        uuid.UUID(int=1),
        decimal.Decimal(1),
        1j,
        Color.RED,
        Point(),
        Text("x"),
        Number(1),
        object(),
        int,
        pytest.param(10**MAX_DIGITS, id="too large"),
        pytest.param(-(10**MAX_DIGITS), id="too small"),
        "\ud800",
        {1: 2},
        {None: 1},
        {Text("a"): 1},
        {"\udfff": 1},
    ],
)
def test_what_is_not_a_document_is_refused_at_every_place(value):
    for document in (value, [value], {"a": value}, [{"a": [0, value]}]):
        with pytest.raises(CodecError):
            check_document(document)
        with pytest.raises(CodecError):
            checksum(document)


def test_the_largest_int_and_the_greatest_depth_are_accepted_and_one_more_is_not():
    check_document(10**MAX_DIGITS - 1)
    check_document(1 - 10**MAX_DIGITS)
    check_document(nested(MAX_DEPTH))
    with pytest.raises(CodecError, match="levels deep"):
        check_document(nested(MAX_DEPTH + 1))


def test_cycles_and_extreme_depth_are_refused_without_recursion():
    cycle: list[Any] = []
    cycle.extend((cycle, cycle))
    with pytest.raises(CodecError, match="contains itself"):
        check_document(cycle)
    with pytest.raises(CodecError):
        check_document(nested(100_000))


def test_the_refusal_names_the_place():
    with pytest.raises(CodecError, match=r"at /items/3/price: nan is not finite"):
        check_document({"items": [0, 1, 2, {"price": math.nan}]})
    with pytest.raises(CodecError, match="at its root: set is not"):
        check_document({1})
    with pytest.raises(CodecError, match=r"at /a~1b/0: a key of it is of type int"):
        check_document({"a/b": [{10**5000: 1}]})
    with pytest.raises(CodecError, match=r"at its root: a key of it is of type NoneType"):
        check_document({None: 1})
    with pytest.raises(CodecError, match=r"at /\\ud800: the key has a lone surrogate"):
        check_document({"\ud800": 1})


def test_checksum_is_the_sha256_of_the_sorted_json():
    document = {"b": [1, 2.5, None, True, "é\n"], "a": 2**70}
    text = '{"a":1180591620717411303424,"b":[1,2.5,null,true,"é\\n"]}'
    assert checksum(document) == hashlib.sha256(text.encode()).hexdigest()


@settings(deadline=None)
@given(documents)
def test_checksum_does_not_depend_on_the_order_of_keys(document):
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert checksum(document) == checksum(turned(document))


def test_checksum_tells_types_apart():
    assert len({checksum(value) for value in (1, 1.0, True, "1", [1], None, "", [], {}, 0.0, -0.0)}) == 11


def test_checksum_is_the_same_under_every_hash_seed():
    code = "from reactstate.codec import checksum; print(checksum({k: {k + 'x': 1.5} for k in {'a', 'b', 'c', 'd'}}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@settings(deadline=None)
@given(documents)
def test_written_json_is_read_back_by_the_standard_library(document):
    assert repr(json.loads(write_json(document))) == repr(document)


def test_a_lower_limit_of_the_interpreter_is_a_codec_error():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        with pytest.raises(CodecError, match="set_int_max_str_digits"):
            write_json(10**1000)
    finally:
        sys.set_int_max_str_digits(before)
