"""Every allowed value: set, written, read back through every format, and the same; or refused before it is published.

Annotations are drawn at random, with the values that fit them. A class may be refused when it is defined, and a value
when it is set; what was published once must be read back, whatever it is.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
import math
import os
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, NewType, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, ValidationError

from reactstate.codec.documents import check_document, checksum
from reactstate.codec.envelope import Codec
from reactstate.errors import DecodeError, StateDefinitionError, StateValidationError
from reactstate.state.document import from_document, schema_of, states_equal, to_document
from reactstate.state.fieldtypes import register_scalar
from reactstate.state.maps import Map
from reactstate.state.patch import documents_equal
from reactstate.state.produce import produce
from reactstate.state.state import State

LAWS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODECS = [Codec(name) for name in ("json", "msgpack", "cbor")]


def one_field(annotation):
    """Return a State with one field of *annotation*."""
    return type("One", (State,), {"__annotations__": {"value": annotation}, "__module__": __name__})


def identical(a, b):
    """Say whether two documents have the same bytes, so that ``1``, ``1.0``, ``True`` and the order of keys count."""
    return documents_equal(a, b) and repr(a) == repr(b)


def assert_read_back(state):
    """The law of documents."""
    cls = type(state)
    document = to_document(state)
    check_document(document)
    for codec in CODECS:
        found = codec.decode(codec.encode(document, schema_of(cls)))
        assert identical(found.document, document)
        back = from_document(cls, found.document, found.schema)
        assert type(back) is cls
        assert states_equal(back, state)
        assert states_equal(state, back)
        assert identical(to_document(back), document)
        assert checksum(found.document) == checksum(document)
        assert produce(state, lambda draft, back=back: back).state is state


# --- every field type ---------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.StrEnum):
    SMALL = enum.auto()
    LARGE = enum.auto()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Number(enum.Enum):
    ZERO = 0
    BIG = 1 << 80


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"
    PAIR = (1, 2)
    HALF = 0.5
    NOT = None
    ALSO_ONE = 1  # noqa: PIE796 - an alias


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Bits(enum.IntFlag):
    A = 1
    B = 4


class Plain(BaseModel):
    x: int = 0
    weights: list[float] = []


class Nested(State):
    name: str = ""
    plain: Plain = Plain()
    perhaps: Decimal | None = None


class Circle(State):
    type: Literal["circle"] = "circle"
    radius: float = 0.0


class Square(BaseModel):
    type: Literal[Colour.RED] = Colour.RED
    side: Decimal = Decimal(0)


class Polygon(State):
    type: Literal["polygon", "star"] = "polygon"
    corners: list[tuple[int, int]] = []


register_scalar(Fraction, encode=str)


class Turn(complex):
    """A registered scalar that is a subclass of a built-in."""


register_scalar(Turn, encode=repr)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "~", "/", '"', "\\", "\x00", "\u2028", "\U0001f600", "1", "true", "null", "nan"]
)
EDGES = {"2**53": 2**53 + 1, "i64": 2**63 - 1, "u63": 2**63, "-i65": -(2**63) - 1, "u65": 2**64, "huge": 10**4300 - 1}
INTEGERS = st.integers(-3, 3) | st.integers() | st.sampled_from([*EDGES]).map(EDGES.get)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1.0, 1e16, 5e-324, 1.7976931348623157e308])
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [Decimal("1.0"), Decimal("1.00"), Decimal("-0"), Decimal("1E+400"), Decimal("0E-30")]
)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
ZONES = st.none() | st.just(UTC) | OFFSETS | st.builds(timezone, st.just(timedelta(hours=1)), st.just("CET"))
URLS = st.sampled_from(
    ["https://example.com", "https://ex.org/a%20b?q=ä#x", "http://[::1]:8080/~u", "https://例え.jp/"]
)
UNSIGNED = st.integers(0, 2**32 - 1)
IPV4 = st.builds(ipaddress.IPv4Address, UNSIGNED)
IPV6 = st.builds(ipaddress.IPv6Address, st.integers(0, 2**128 - 1)) | st.just(ipaddress.IPv6Address("fe80::1%eth0"))


def unfolded(moment):
    """A naive time that is ambiguous is refused; one with an offset is not ambiguous."""
    return moment.replace(fold=0) if moment.tzinfo is None else moment


SCALARS = {
    "None": (None, st.none()),
    "bool": (bool, st.booleans()),
    "int": (int, INTEGERS),
    "float": (float, FLOATS),
    "str": (str, TEXT),
    "bytes": (bytes, st.binary(max_size=8)),
    "Decimal": (Decimal, DECIMALS),
    "UUID": (UUID, st.uuids(allow_nil=True)),
    "date": (date, st.dates()),
    "time": (time, st.times(timezones=ZONES).map(unfolded)),
    "datetime": (datetime, st.datetimes(timezones=ZONES).map(unfolded)),
    "timedelta": (timedelta, st.timedeltas() | st.sampled_from([timedelta.min, timedelta.max])),
    "enum of str": (Colour, st.sampled_from(Colour)),
    "StrEnum": (Size, st.sampled_from(Size)),
    "IntEnum": (Level, st.sampled_from(Level)),
    "enum of int": (Number, st.sampled_from(Number)),
    "enum of all sorts": (Mixed, st.sampled_from(Mixed)),
    "Flag": (Access, st.integers(0, 3).map(Access)),
    "IntFlag": (Bits, st.sampled_from([Bits(0), Bits.A, Bits.A | Bits.B, Bits(8), Bits(1 << 70)])),
    "literals": (Literal["a", 1, True, b"x", Colour.RED], st.sampled_from(["a", 1, True, b"x", Colour.RED])),
    "plain literals": (Literal["a", "b", 2, False], st.sampled_from(["a", "b", 2, False])),
    "Path": (Path, TEXT.map(Path)),
    "PurePosixPath": (PurePosixPath, TEXT.map(PurePosixPath)),
    "PureWindowsPath": (PureWindowsPath, TEXT.map(PureWindowsPath)),
    "AnyUrl": (pydantic.AnyUrl, URLS),
    "HttpUrl": (pydantic.HttpUrl, URLS),
    "PostgresDsn": (pydantic.PostgresDsn, st.sampled_from(["postgres://u:p@a:1,b:2/db", "postgresql://h/x?y=z"])),
    "IPv4Address": (ipaddress.IPv4Address, IPV4),
    "IPv6Address": (ipaddress.IPv6Address, IPV6),
    "IPv4Interface": (ipaddress.IPv4Interface, st.builds(lambda ip, n: f"{ip}/{n}", IPV4, st.integers(0, 32))),
    "IPv6Network": (ipaddress.IPv6Network, st.sampled_from(["::/0", "2001:db8::/32"])),
    "registered": (Fraction, st.fractions()),
    "registered builtin": (Turn, st.complex_numbers(allow_nan=False).map(Turn)),
    "NewType": (NewType("Metres", float), FLOATS),
    "constrained": (Annotated[int, Field(ge=0)], INTEGERS.map(abs)),
    "any Decimal": (
        Annotated[Decimal, Field(allow_inf_nan=True)],
        st.decimals().filter(lambda value: not value.is_snan()),
    ),
    "aware": (pydantic.AwareDatetime, st.datetimes(timezones=OFFSETS)),
}
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SHAPES = st.one_of(
    st.builds(Circle, radius=FLOATS),
    st.builds(Square, side=DECIMALS),
    st.builds(Polygon, type=st.sampled_from(["polygon", "star"]), corners=st.just([(1, 2)])),
)
Shape = Annotated[Circle | Square | Polygon, Field(discriminator="type")]
WHOLES = {
    "JsonValue": (JsonValue, JSON),
    "plain model": (Plain, st.builds(Plain, x=INTEGERS, weights=st.lists(FLOATS, max_size=2))),
    "State": (Nested, st.builds(Nested, name=TEXT, perhaps=st.none() | DECIMALS)),
    "discriminated": (Shape, SHAPES),
}
SIMPLE = st.sampled_from([*SCALARS.values(), *WHOLES.values()])


def tuple_of(fields):
    annotations, values = zip(*fields, strict=True)
    return tuple[annotations], st.tuples(*values)


def frozenset_of(field):
    return frozenset[field[0]], st.frozensets(field[1], max_size=3)


def set_of(field):
    return set[field[0]], st.lists(field[1], max_size=4).map(set)


def list_of(field):
    return list[field[0]], st.lists(field[1], max_size=3)


def variadic(field):
    return tuple[field[0], ...], st.lists(field[1], max_size=3).map(tuple)


def union_of(fields):
    annotations, values = zip(*fields, strict=True)
    return Union[annotations], st.one_of(values)  # noqa: UP007 - it has to be made


HASHABLE = st.recursive(
    st.sampled_from([*SCALARS.values()]),
    lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=2).map(tuple_of), inner.map(frozenset_of)),
    max_leaves=2,
)


@st.composite
def mappings(draw, inner):
    (key, keys), (value, values) = draw(HASHABLE), draw(inner)
    kind = draw(st.sampled_from([dict, Map]))
    return kind[key, value], st.dictionaries(keys, values, max_size=4).map(kind)


def larger(inner):
    several = st.lists(inner, min_size=2, max_size=3)
    sets = HASHABLE.map(set_of) | HASHABLE.map(frozenset_of)
    return st.one_of(
        inner.map(list_of), inner.map(variadic), several.map(tuple_of), several.map(union_of), mappings(inner), sets
    )


FIELDS = st.recursive(SIMPLE, larger, max_leaves=4)


@pytest.mark.parametrize("name", [*SCALARS, *WHOLES])
@settings(LAWS, max_examples=4)
@given(data=st.data())
def test_every_allowed_type_is_read_back_alone_and_in_every_container(name, data):
    annotation, values = ({**SCALARS, **WHOLES})[name]
    field = annotation, values
    containers = [field, list_of(field), variadic(field), tuple_of([field, (int, INTEGERS)])]
    containers += [(dict[str, annotation], st.dictionaries(TEXT, values, max_size=3))]
    containers += [(Map[str, annotation], st.dictionaries(TEXT, values, max_size=3).map(Map))]
    if name in SCALARS:
        hashed = values.filter(lambda value: not is_nan(value))
        containers += [set_of((annotation, hashed)), frozenset_of((annotation, hashed))]
        containers += [(dict[annotation, int], st.dictionaries(hashed, INTEGERS, max_size=3))]
        containers += [(Map[annotation, int], st.dictionaries(hashed, INTEGERS, max_size=3).map(Map))]
        containers += [
            (dict[tuple[annotation, int], str], st.dictionaries(st.tuples(hashed, INTEGERS), TEXT, max_size=2))
        ]
    if name != "None":
        containers.append((annotation | None, st.none() | values))
    for number, (declared, wanted) in enumerate(containers):
        cls = CLASSES.setdefault((name, number), None) or one_field(declared)
        CLASSES[name, number] = cls
        assert_read_back(cls(value=data.draw(wanted)))


CLASSES: dict[Any, Any] = {}


def is_nan(value):
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan())


# To see that False is no address, pydantic tries to make one of it, which Python's ipaddress warns of.
@pytest.mark.filterwarnings("ignore:__int__ returned non-int:DeprecationWarning")
@settings(LAWS, max_examples=100)
@given(data=st.data())
def test_whatever_can_be_declared_and_set_can_be_read_back(data):
    annotation, values = data.draw(FIELDS)
    try:
        cls = one_field(annotation)
    except StateDefinitionError:
        return
    for _ in range(3):
        try:
            state = cls(value=data.draw(values))
        except ValidationError:
            continue
        assert_read_back(state)
        model = state.value
        assert identical(to_document(cls(value=model)), to_document(state))


# --- what pydantic makes of a value ---------------------------------------------------------------------------------

SUBCLASSES = [
    *(type(f"My{cls.__name__}", (cls,), {}) for cls in (str, int, float, bytes, Decimal, UUID, date, time, datetime)),
    *(type(f"My{cls.__name__}", (cls,), {}) for cls in (timedelta, list, dict, set, tuple, frozenset)),
]
MY = {cls.__name__[2:]: cls for cls in SUBCLASSES}
BERLIN = ZoneInfo("Europe/Berlin")
INPUTS: list[Any] = [
    None, True, False, 0, 1, -1, 2**64, -(10**400), 10**4300 - 1, 10**4300, -(10**4300), 0.0, -0.0, 1.0, 0.5, 1e300,
    math.nan, math.inf, -math.inf, "", "1", "01", " 1 ", "1_0", "1.0", "1e3", "true", "yes", "nan", "-inf", "9" * 4301,
    "2024-02-29", "2024-02-29T12:00:00Z", "2024-02-29T12:00:00.1234567+01:30", "12:00", "P1DT2S", "red", "small", "null",
    "\ud800", "a\udfff", "\x00", "http://e.x", "::1", "10.0.0.0/8", "00000000000000000000000000000001", b"", b"1", b"\xff",
    bytearray(b"1"), Decimal(1), Decimal("1.50"), Decimal("NaN"), Decimal("Infinity"), Fraction(1, 3),
    date(2024, 2, 29), datetime(2024, 2, 29), datetime(2024, 10, 27, 2, 30, fold=1),
    datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    datetime(1890, 1, 1, tzinfo=BERLIN), datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=30))), datetime.max,
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), time(12, tzinfo=BERLIN), time(12, fold=1), time.max,
    timedelta.max, timedelta(microseconds=-1), UUID(int=1), Colour.RED, Size.SMALL, Level.HIGH, Mixed.NOT, Access(3),
    Bits(-1), Path("\ud800"), Path("a"), ipaddress.ip_address("::1"), complex("nan"), Plain(), Nested(), Circle(), Square(),
    [], [1], ["1", 1, True, 1.0], [math.nan], [[1]], (1,), (1, "a"), {}, {"1": 1}, {1: 1}, {True: 1, "1": 2}, {math.nan: 1},
    {"\ud800": 1}, {(1, 2): 1}, {"type": "circle"}, {"type": "star"}, set(), {1, "1"}, {math.nan}, {-0.0}, frozenset({1}),
    Map(), Map({1: 1}), Map({"a": [1]}), object(), Plain,
    MY["str"]("red"), MY["int"](1), MY["float"](1.5), MY["bytes"](b"1"), MY["Decimal"]("1.5"), MY["UUID"](int=1),
    MY["date"](2024, 2, 29), MY["time"](12), MY["datetime"](2024, 2, 29), MY["timedelta"](1), MY["list"]([1]),
    MY["dict"]({"a": 1}), MY["set"]({1}), MY["tuple"]((1, 2)), MY["frozenset"]({1}),
]  # fmt: skip
TARGETS = [
    *(annotation for annotation, _ in {**SCALARS, **WHOLES}.values()),
    list[int], list[float], list[str | int], list[datetime], set[float], set[int | str],
    set[int | float | bool | None], frozenset[Decimal], set[tuple[int, float]], set[datetime], tuple[int, str],
    tuple[float, ...], dict[str, int], dict[int, float], dict[float, str], dict[bool, int], dict[int | str, int],
    dict[int | float | bool, int], dict[Colour, int], dict[datetime, int], dict[UUID, int], dict[tuple[int, ...], int],
    dict[frozenset[float], int], Map[str, int], Map[int, list[int]], Map[float | None, int], dict[str, JsonValue],
    int | float, bool | int | float | None, int | str, Decimal | int, date | int, list[int] | dict[str, int] | str,
    Nested | None, dict[str, Nested], set[Annotated[Decimal, Field(allow_inf_nan=True)]], Literal[1, "1"] | None,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:__int__ returned non-int")  # what ipaddress says to True
@pytest.mark.parametrize("annotation", TARGETS, ids=str)
def test_what_pydantic_makes_of_any_value_is_refused_when_set_or_read_back(annotation):
    cls = one_field(annotation)
    base = None
    for value in INPUTS:
        try:
            state = cls(value=value)
        except ValidationError:
            if base is not None:
                with pytest.raises(StateValidationError):
                    produce(base, {"value": value})
            continue
        assert_read_back(state)
        base = state if base is None else base
        assert states_equal(produce(base, {"value": value}).state, state)


def test_a_signaling_nan_is_a_value_but_neither_key_nor_element():
    number = Annotated[Decimal, Field(allow_inf_nan=True)]
    assert_read_back(one_field(number)(value=Decimal("sNaN")))
    for annotation in (set[number], frozenset[number], dict[number, int], Map[number, int], set[tuple[number, int]]):
        for nan in ("sNaN", "NaN", "-sNaN7"):
            cls = one_field(annotation)
            value = {(nan, 1)} if annotation == set[tuple[number, int]] else {nan: 1}
            with pytest.raises(ValidationError, match="never be found again"):
                cls(value=value if annotation in {dict[number, int], Map[number, int]} else [*value])


def test_a_flag_made_of_false_has_the_document_of_no_flags():
    class Fresh(enum.Flag):
        ONE = enum.auto()

    assert_read_back(one_field(Fresh)(value=Fresh(False)))
    assert to_document(one_field(Fresh)(value=Fresh(0))) == {"value": 0}


@pytest.mark.parametrize(
    "annotation",
    [
        Literal[1] | bool,
        Literal[True] | int,
        Literal[1] | float | None,
        Literal[0] | Decimal,
        Literal[1] | Fraction,
        Literal[Level.LOW] | int,
        Literal[Level.LOW] | Level,
        Literal[Number.ZERO] | Number,
        bool | Literal[0, "off"],
    ],
    ids=str,
)
def test_literals_that_pydantic_takes_for_equal_values_of_another_type_are_refused(annotation):
    with pytest.raises(StateDefinitionError, match=r"1 == 1\.0 == True"):
        one_field(annotation)


def test_the_keys_of_a_map_become_those_that_are_declared():
    for annotation, entries, key in (
        (Map[float, int], {1: 1}, 1.0),
        (Map[int, int], {True: 1}, 1),
        (Map[tuple[float, int], int], {(1, True): 1}, (1.0, 1)),
    ):
        state = one_field(annotation)(value=Map(entries))
        assert_read_back(state)
        assert repr([*state.value]) == repr([key])
        assert one_field(annotation)(value=state.value).value == state.value


# --- documents that somebody else wrote -----------------------------------------------------------------------------

FOREIGN = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(["[1]", "{}", "1"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("annotation", TARGETS, ids=str)
@settings(LAWS, max_examples=5)
@given(document=FOREIGN)
@example(document=[[1], {}])
@example(document={"[1]": 1, "{}": [[]]})
@example(document={"type": []})
def test_a_foreign_document_is_read_as_a_state_or_is_a_decode_error(annotation, document):
    cls = CLASSES.get(str(annotation)) or one_field(annotation)
    CLASSES[str(annotation)] = cls
    for given_document in (document, {"value": document}, {"value": [document]}, {"value": {"a": document}}):
        shown = repr(given_document)
        try:
            state = from_document(cls, given_document)
        except DecodeError:
            continue
        assert_read_back(state)
        assert repr(given_document) == shown


# --- equality and checksums -----------------------------------------------------------------------------------------

ALIKE = [
    None, True, 1, 1.0, 0, False, 0.0, -0.0, math.nan, math.inf, "1", "nan", Decimal(1), Decimal("1.0"), Decimal("1.00"),
    b"1", date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    time(12, tzinfo=UTC), time(13, tzinfo=timezone(timedelta(hours=1))), Level.LOW, Colour.RED, Plain(), Plain(x=1),
    Nested(), Nested(perhaps=Decimal(0)), Nested(perhaps=Decimal("0.0")), [1], [True], {1}, {1.0}, {True}, {-0.0}, {0.0},
    {1: 0}, {True: 0}, {1.0: 0}, {"1": 0}, (), (1,), (1.0,), timedelta(0), timedelta(1), UUID(int=1), Path("a"), Path("a/"),
]  # fmt: skip
UNIONS = [
    None | bool | int | float, None | int | str, None | Decimal, None | datetime | int, None | time, None | Nested,
    list[int | bool], set[int | float | bool], dict[int | float | bool, int], dict[int | str, int], tuple[int | float, ...],
    Map[bool | int | float, int], frozenset[bool | float], list[set[bool | float]], JsonValue, dict[float, set[float]],
    set[tuple[int | float, ...]], set[frozenset[bool | int]], set[datetime], dict[Decimal, int], Path | None, Plain | None,
]  # fmt: skip


@pytest.mark.parametrize("annotation", UNIONS, ids=str)
def test_states_equal_is_an_equivalence_and_agrees_with_documents_and_checksums(annotation):
    cls = one_field(annotation)
    states = []
    for value in [*ALIKE, *([one] for one in ALIKE), *({key: 1} for key in ALIKE if is_hashable(key))]:
        for _ in range(2):
            try:
                states.append(cls(value=value))
            except ValidationError:
                break
    documents = [to_document(state) for state in states]
    for a, one in zip(states, documents, strict=True):
        assert states_equal(a, a)
        for b, other in zip(states, documents, strict=True):
            same = identical(one, other)
            assert states_equal(a, b) == states_equal(b, a) == same
            assert (checksum(one) == checksum(other)) == same
            assert (produce(a, lambda _, b=b: b).state is a) == same


def is_hashable(value):
    try:
        hash(value)
    except TypeError:
        return False
    return True


def test_states_of_two_types_are_never_equal():
    assert not states_equal(one_field(int)(value=1), one_field(int)(value=1))


@settings(LAWS, max_examples=40)
@given(data=st.data())
def test_the_way_a_value_was_put_together_does_not_matter(data):
    annotation = data.draw(st.sampled_from([dict[str, int], Map[str, int], dict[int | str, int], Map[float, int]]))
    keys = {
        dict[str, int]: TEXT,
        Map[str, int]: TEXT,
        dict[int | str, int]: INTEGERS | TEXT,
        Map[float, int]: st.floats(allow_nan=False),
    }
    entries = data.draw(st.dictionaries(keys[annotation], INTEGERS, max_size=6))
    mixed = dict(data.draw(st.permutations([*entries.items()])))
    cls = CLASSES.setdefault(("put together", str(annotation)), one_field(annotation))
    one, other = cls(value=entries), cls(value=mixed)
    grown = cls(value={})
    for key, value in mixed.items():
        grown = produce(grown, lambda draft, key=key, value=value: draft.value.update({key: value})).state
    for state in (other, grown):
        assert states_equal(one, state)
        assert identical(to_document(one), to_document(state))


def dump() -> str:
    """Return the checksum of the documents and patches of states that are full of hashes."""
    digest = hashlib.sha256()
    names = [f"name{number}" for number in range(30)]
    cases: list[tuple[Any, Any, Any]] = [
        (set[str], set(names), set(names[5:])),
        (frozenset[str], frozenset(names), frozenset(names[5:])),
        (set[tuple[str, int]], {(name, 1) for name in names}, {(name, 2) for name in names}),
        (Map[str, int], Map(dict.fromkeys(names, 1)), Map(dict.fromkeys(names[3:], 2))),
        (dict[frozenset[str], int], {frozenset(names[:n]): n for n in range(5)}, {}),
        (dict[str, set[str]], {name: set(names) for name in names}, {name: {name} for name in names}),
        (set[frozenset[str]], {frozenset(names[:n]) for n in range(9)}, set()),
        (Map[Colour, set[Size]], Map({Colour.RED: {*Size}}), Map({Colour.BLUE: {*Size}})),
    ]
    for annotation, before, after in cases:
        cls = one_field(annotation)
        state = cls(value=before)
        produced = produce(state, {"value": after})
        for codec in CODECS:
            digest.update(codec.encode(to_document(state), schema_of(cls)))
        digest.update(repr((to_document(produced.state), produced.patch, produced.inverse)).encode())
    return digest.hexdigest()


def test_documents_and_patches_are_the_same_bytes_whatever_the_hash_seed():
    script = f"import runpy; print(runpy.run_path({__file__!r})['dump']())"
    made = []
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        made.append(done.stdout.strip())
    assert made == [dump()] * 2
