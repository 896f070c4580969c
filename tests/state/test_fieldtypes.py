"""Which field types a State may have: each refusal with its sentence, and what is allowed round-trips."""

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar
from uuid import UUID

import annotated_types
import pydantic
import pydantic_core
import pytest
import typing_extensions
from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, RootModel, Tag

from reactstate.errors import StateDefinitionError, StateValidationError
from reactstate.state.document import from_document, states_equal, to_document
from reactstate.state.fieldtypes import compile_kind, kind_of, register_scalar
from reactstate.state.maps import Map
from reactstate.state.produce import produce
from reactstate.state.state import State

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"
    THREE = (1, 2)


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Data:
    x: int


class Typed(typing_extensions.TypedDict):
    x: int


class Pair(BaseModel, Generic[T]):
    left: T
    right: T


class Root(RootModel[list[int]]):
    pass


class Private(BaseModel):
    _hidden: int = 0


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Enumerated(BaseModel):
    model_config = ConfigDict(use_enum_values=True)


class Built(BaseModel):
    x: int = 0

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)


class Posted(BaseModel):
    x: int = 0

    def model_post_init(self, context: Any, /) -> None:
        pass


class Cat(State):
    type: Literal["cat"] = "cat"
    lives: int = 9


class Dog(State):
    type: Literal["dog"] = "dog"
    tricks: list[str] = []


class Cow(State):
    type: Literal["cow"] = "cow"


class Fish(State):
    colour: str = ""


class Empty(enum.Enum):
    pass


Alias = typing_extensions.TypeAliasType("Alias", dict[str, int])
Twice = typing_extensions.TypeAliasType("Twice", tuple[T, T], type_params=(T,))
Metres = NewType("Metres", float)


def field(annotation: Any, default: Any = ...) -> type[State]:
    """Return a State with one field of *annotation*."""
    return type("One", (State,), {"__annotations__": {"value": annotation}, "value": Field(default)})  # type: ignore[return-value]


def _tag(value: Any) -> str:
    return value["type"]


REFUSED: list[tuple[Any, str]] = [
    (Any, "name the type, or use pydantic's JsonValue"),
    (object, "name the type, or use pydantic's JsonValue"),
    (list, r"list\[int\]"),
    (dict, r"dict\[str, int\]"),
    (set, r"set\[str\]"),
    (frozenset, r"frozenset\[str\]"),
    (tuple, r"tuple\[int, str\]"),
    (Map, r"Map\[str, Flight\]"),
    (collections.deque[int], r"use list\[...\]"),
    (collections.defaultdict[str, int], "setdefault"),
    (collections.OrderedDict[str, int], "documents keep their keys sorted"),
    (collections.Counter[str], r"dict\[str, int\]"),
    (Sequence[int], r"list\[...\] or tuple"),
    (Iterable[int], r"use list\[...\]"),
    (Mapping[str, int], r"dict\[...\] or Map"),
    (MutableMapping[str, int], r"dict\[...\] or Map"),
    (Callable[[], int], "keep functions beside it"),
    (type[int], "store a name instead"),
    (bytearray, "use bytes"),
    (complex, "two floats"),
    (pydantic.SecretStr, "a secret does not belong in a state"),
    (pydantic.SecretBytes, "a secret does not belong in a state"),
    (pydantic.FutureDate, "need not when it is read"),
    (pydantic.FutureDatetime, "need not when it is read"),
    (pydantic.FilePath, "a path that must exist now"),
    (list[pydantic.DirectoryPath], "a path that must exist now"),
    (pydantic.Json[list[int]], "Json changes a value each time"),
    (pydantic.Base64Bytes, "EncodedBytes changes a value each time"),
    (pydantic.Base64Str, "EncodedStr changes a value each time"),
    (pydantic.ByteSize, "use int"),
    (Data, "use a State or a pydantic model"),
    (Typed, "use a State or a pydantic model"),
    (Point, "use a State or a pydantic model"),
    (BaseModel, "name a model"),
    (Pair, "give a generic one its arguments"),
    (Root, "use the type inside it directly"),
    (Private, r"has private attributes \(_hidden\)"),
    (Loose, "allows extra fields"),
    (Enumerated, "sets use_enum_values"),
    (Built, "defines __init__"),
    (Posted, "defines model_post_init"),
    (Empty, "has no members"),
    (typing_extensions.Self, "name the class"),
    (float | str, r"float and str look alike in a document \(string\)"),
    (str | datetime, "look alike in a document"),
    (str | bytes, "look alike in a document"),
    (int | Level, "look alike in a document"),
    (str | Colour, "look alike in a document"),
    (list[int] | set[int], r"look alike in a document \(array\)"),
    (list[int] | tuple[int, int], r"look alike in a document \(array\)"),
    (dict[str, int] | Cat, r"look alike in a document \(object\)"),
    (int | timedelta, "look alike in a document"),
    (Cat | Dog, "Field\\(discriminator='type'\\)"),
    (
        Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(_tag)],
        "a discriminator must name a field",
    ),
    (JsonValue | int, "look alike in a document"),
    (dict[Cat, int], "Cat cannot be a key"),
    (dict[tuple[list[int], int], int], "cannot be a key"),
    (set[Cat], "Cat cannot be an element of a set"),
    (set[list[int]], "cannot be an element of a set"),
    (Map[Cat, int], "Cat cannot be a key"),
    (Literal[Colour.RED, "Colour.RED"], "two of the literals look alike"),
    (Annotated[Cat, pydantic.Strict()], "strict is for values"),
    (list[Any], "name the type"),
    (list[T], "give the generic class its arguments"),
    (Literal[1.5], "."),
    (dict[str, Any], "name the type"),
    (dict[str, list[tuple[int, object]]], "name the type"),
]


@pytest.mark.parametrize(("annotation", "sentence"), REFUSED, ids=[str(one)[:60] for one, _ in REFUSED])
def test_a_type_that_could_not_be_read_back_is_refused_with_what_to_use(annotation: Any, sentence: str) -> None:
    with pytest.raises(StateDefinitionError, match=sentence):
        field(annotation)


class _Loop:
    """What the statement ``type Loop = list[Loop]`` makes, in newer Pythons."""

    __name__ = "Loop"
    __type_params__ = ()

    @property
    def __value__(self) -> Any:
        return list[self]  # type: ignore[misc, valid-type]


def test_a_type_alias_that_refers_to_itself_is_refused() -> None:
    with pytest.raises(StateDefinitionError, match=r"Cart\.tree: the type alias Loop refers to itself"):
        compile_kind(_Loop(), "Cart.tree")


def test_what_pydantic_itself_refuses_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(pydantic.PydanticUserError, match="type"):
        field(Annotated[Cat | Fish, Field(discriminator="type")])
    with pytest.raises(pydantic_core.SchemaError):
        field(Literal["\ud800"])


def test_the_refusal_names_class_and_field() -> None:
    with pytest.raises(StateDefinitionError, match=r"^One\.value: .*deque"):
        field(collections.deque[int])


def test_a_nested_model_that_cannot_be_stored_is_refused_where_it_is_used() -> None:
    class Inside(BaseModel):
        when: collections.deque[int]

    with pytest.raises(StateDefinitionError, match=r"Inside\.when"):
        field(list[Inside])


ALLOWED: list[tuple[Any, list[Any]]] = [
    (None, [None]),
    (bool, [True, False]),
    (int, [0, -1, 2**63, -(2**64), 10**4299, -(10**4299)]),
    (float, [0.0, -0.0, 1e308, float("inf"), float("-inf"), float("nan"), 5e-324]),
    (str, ["", "é\u2028\x00", "\U0001f600"]),
    (bytes, [b"", b"\xff\xfe\x00", bytes(range(256))]),
    (Decimal, [Decimal("1.10"), Decimal("-0"), Decimal("1E+30")]),
    (UUID, [UUID(int=0), UUID(int=2**128 - 1)]),
    (date, [date.min, date.max]),
    (time, [time(1, 2, 3, 4), time.fromisoformat("10:00:00+02:00")]),
    (datetime, [datetime.min, datetime.max, datetime.fromisoformat("2020-01-01T00:00:00-05:30")]),
    (timedelta, [timedelta(0), timedelta(-1, 5, 7), timedelta.max, timedelta.min]),
    (Colour, list(Colour)),
    (Level, list(Level)),
    (Mixed, list(Mixed)),
    (Access, [Access.READ, Access.READ | Access.WRITE, Access(0)]),
    (Literal["a", 1, True, None, b"x", Colour.RED], ["a", 1, None, b"x", Colour.RED]),  # noqa: PYI061 - None among literals is the subject
    (Path, [Path("/a/b"), Path()]),
    (PurePosixPath, [PurePosixPath("a")]),
    (PureWindowsPath, [PureWindowsPath("c:\\a")]),
    (pydantic.HttpUrl, [pydantic.HttpUrl("https://example.org/a?b=c#d")]),
    (pydantic.AnyUrl, [pydantic.AnyUrl("redis://h:1/2")]),
    (pydantic.PostgresDsn, [pydantic.PostgresDsn("postgresql://u:p@a:1,b:2/db")]),
    (ipaddress.IPv4Address, [ipaddress.IPv4Address("1.2.3.4")]),
    (ipaddress.IPv6Network, [ipaddress.IPv6Network("::/8")]),
    (ipaddress.IPv4Interface, [ipaddress.IPv4Interface("1.2.3.4/8")]),
    (JsonValue, [None, True, 1, 1.5, "a", [1, [2.0]], {"a": {"b": [None]}}]),
    (JsonValue | None, [None, [1]]),
    (list[int], [[], [1, 2]]),
    (list[date], [[date(2020, 1, 1)]]),
    (dict[str, list[int]], [{"a": [1], "": []}]),
    (dict[int | str, int], [{1: 1, "1": 2}]),
    (dict[tuple[int, str], int], [{(1, "a"): 1, (1, "b"): 2}]),
    (dict[Colour, int], [{Colour.RED: 1}]),
    (dict[Level, int], [{Level.LOW: 1}]),
    (dict[str | None, int], [{None: 1, "null": 2}]),
    (dict[bool | int, str], [{True: "a", 5: "b"}]),
    (dict[float, int], [{1.5: 1, float("inf"): 2}]),
    (dict[Decimal, int], [{Decimal("1.0"): 1}]),
    (dict[datetime, int], [{datetime.fromisoformat("2020-01-01T00:00:00+01:00"): 1}]),
    (dict[bytes, UUID], [{b"\xff": UUID(int=1)}]),
    (dict[frozenset[int], int], [{frozenset((2, 1)): 1}]),
    (dict[int, str], [{2**70: "x"}]),
    (set[str], [set(), {"b", "a"}]),
    (set[int | str | None], [{1, "1", None}]),
    (set[tuple[int, str]], [{(2, "b"), (1, "a")}]),
    (set[float], [{1.5, float("inf"), -2.0}]),
    (frozenset[Decimal], [frozenset((Decimal("1.0"), Decimal(2)))]),
    (set[frozenset[int]], [{frozenset((1, 2)), frozenset()}]),
    (tuple[int, str, list[int]], [(1, "a", [2])]),
    (tuple[int, ...], [(), (1, 2, 3)]),
    (tuple[()], [()]),
    (Map[str, int], [Map(), Map({"b": 1, "a": 2})]),
    (Map[int, list[Cat]], [Map({1: [Cat()]})]),
    (int | float, [1, 1.0, float("nan")]),
    (bool | int | str | None, [True, 1, "1", None]),
    (date | int, [date(2020, 1, 1), 5]),
    (Literal["auto"] | int, ["auto", 3]),
    (Literal["auto"] | str, ["auto", "other"]),  # noqa: PYI051 - as users write it
    (list[int] | None, [None, [1]]),
    (list[int] | str | dict[str, int], [[1], "a", {"a": 1}]),
    (Cat | None, [None, Cat(lives=3)]),
    (Cat | list[Dog] | str, [Cat(), [Dog(tricks=["sit"])], "x"]),
    (Annotated[Cat | Dog, Field(discriminator="type")], [Cat(), Dog(tricks=["sit"])]),
    (list[Annotated[Cat | Dog, Field(discriminator="type")] | None], [[Cat(), None, Dog()]]),
    (Annotated[Cat | Dog, Discriminator("type")] | str, [Cat(), "none"]),
    (Annotated[Cat | Dog, Discriminator("type")], [Cat(), Dog()]),
    (Annotated[Annotated[Cat | Dog, Field(discriminator="type")] | Cow, Field(discriminator="type")], [Cow(), Dog()]),
    (list[timedelta], [[timedelta(1)]]),
    (Map[str, int] | None, [None, Map({"a": 1})]),
    (frozenset[int] | None, [None, frozenset((1,))]),
    (tuple[int, ...] | str, [(1,), "a"]),
    (Pair[int], [Pair[int](left=1, right=2)]),
    (Annotated[int, Field(gt=0)], [1]),
    (list[Annotated[int, Field(gt=0)]], [[1]]),
    (Annotated[list[int] | None, annotated_types.MaxLen(3)], [[1, 2]]),
    (Annotated[str, "documented", annotated_types.doc("why")], ["a"]),
    (Annotated[date, pydantic.Strict()], [date(2020, 1, 1)]),
    (list[Annotated[date, pydantic.Strict()]], [[date(2020, 1, 1)]]),
    (pydantic.PositiveInt, [3]),
    (pydantic.AwareDatetime, [datetime.fromisoformat("2020-01-01T00:00:00+00:00")]),
    (pydantic.NaiveDatetime | None, [datetime(2020, 1, 1), None]),
    (pydantic.PastDate, [date(2020, 1, 1)]),
    (Alias, [{"a": 1}]),
    (Twice[int], [(1, 2)]),
    (Metres, [1.5]),
]


@pytest.mark.parametrize(("annotation", "values"), ALLOWED, ids=[str(one)[:60] for one, _ in ALLOWED])
def test_every_value_of_an_allowed_type_is_read_back_as_it_was(annotation: Any, values: list[Any]) -> None:
    cls = field(annotation)
    for value in values:
        state = cls(value=value)
        document = to_document(state)
        back = from_document(cls, document)
        assert states_equal(back, state)
        assert to_document(back) == document or value != value  # noqa: PLR0124 - NaN
        assert type(back.value) is type(state.value)  # type: ignore[attr-defined]
        via_draft = produce(state, {"value": value}).state
        assert via_draft is state or value != value  # noqa: PLR0124


def test_a_value_that_no_document_can_say_is_refused_when_it_is_set() -> None:
    from zoneinfo import ZoneInfo

    cases: list[tuple[Any, Any, str]] = [
        (str, "\ud800", "valid string"),
        (dict[str, int], {"\ud800": 1}, "valid string"),
        (JsonValue, "\ud800", "valid string"),
        (JsonValue, {"\udfff": 1}, "valid string"),
        (JsonValue, float("nan"), "finite number"),
        (JsonValue, [float("inf")], "finite number"),
        (JsonValue, {1, 2}, "valid JSON value"),
        (JsonValue, (1, 2), "."),
        (int, 10**4300, "4300 digits"),
        (int, -(10**5000), "4300 digits"),
        (dict[int, int], {10**4300: 1}, "4300 digits"),
        (JsonValue, [10**4300], "4300 digits"),
        (Path, Path("\udcff"), "cannot be stored and read back"),
        (time, time(1, tzinfo=ZoneInfo("Europe/Berlin")), "no offset"),
        (time, time(1, fold=1), "fold=1"),
        (datetime, datetime(2020, 1, 1, fold=1), "fold=1"),
        (datetime, datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "whole minutes"),
        (datetime | int, datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "whole minutes"),
        (dict[float, int], {float("nan"): 1}, "NaN cannot be a key"),
        (set[float], {float("nan")}, "NaN cannot be a key"),
        (set[tuple[int, float]], {(1, float("nan"))}, "NaN cannot be a key"),
        (Map[float, int], {float("nan"): 1}, "NaN cannot be a key"),
        (ipaddress.IPv4Address, ipaddress.IPv4Interface("1.2.3.4/8"), "."),
    ]
    for annotation, value, sentence in cases:
        cls = field(annotation, default=None if annotation is JsonValue else ...)
        with pytest.raises(pydantic.ValidationError):
            cls(value=value)
        with pytest.raises(StateValidationError, match=sentence):
            produce(_any_state(cls, annotation), {"value": value})


def _any_state(cls: type[State], annotation: Any) -> State:
    for declared, values in ALLOWED:
        if declared == annotation:
            return cls(value=values[0])
    empty: dict[Any, Any] = {
        dict[int, int]: {}, datetime | int: 1, dict[float, int]: {}, dict[str, int]: {}, set[tuple[int, float]]: set(),
        Map[float, int]: Map(),
    }  # fmt: skip
    return cls(value=empty[annotation])


def test_instances_of_subclasses_of_scalars_become_the_declared_type() -> None:
    class MyDatetime(datetime):
        pass

    class MyBytes(bytes):
        pass

    class MyStr(str):
        __slots__ = ()

    class MyUUID(UUID):
        pass

    class MyDelta(timedelta):
        pass

    class All(State):
        at: datetime
        raw: bytes
        text: str
        key: UUID
        number: int
        took: timedelta
        either: date | int

    class MyDate(date):
        pass

    state = All(
        at=MyDatetime(2020, 1, 1),
        raw=MyBytes(b"x"),
        text=MyStr("x"),
        key=MyUUID(int=1),
        number=Level.LOW,
        took=MyDelta(1),
        either=MyDate(2020, 1, 1),
    )
    assert [type(getattr(state, name)) for name in All.model_fields] == [
        datetime, bytes, str, UUID, int, timedelta, date,
    ]  # fmt: skip


def test_a_subclass_of_a_scalar_that_would_lose_something_is_refused() -> None:
    class Precise(datetime):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Precise)

        __hash__ = datetime.__hash__

    class One(State):
        at: datetime

    with pytest.raises(pydantic.ValidationError, match="a Precise cannot be stored where a datetime is declared"):
        One(at=Precise(2020, 1, 1))


def test_a_subclass_that_writes_itself_in_another_way_is_refused() -> None:
    class Named(UUID):
        def __str__(self) -> str:
            return "me"

    with pytest.raises(pydantic.ValidationError, match="a Named cannot be stored where a UUID is declared"):
        field(UUID)(value=Named(int=1))


def test_a_discriminator_may_be_given_as_an_object() -> None:
    class Home(State):
        pet: Cat | Dog = Field(default=Cat(), discriminator=Discriminator("type"))

    assert from_document(Home, {"pet": {"type": "dog"}}).pet == Dog()


def test_a_zone_becomes_the_offset_that_is_read_back() -> None:
    from datetime import timezone
    from zoneinfo import ZoneInfo

    class One(State):
        at: datetime
        either: datetime | int = 0

    berlin = datetime(2020, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    state = One(at=berlin, either=berlin)
    assert state.at.timestamp() == berlin.timestamp()
    assert state.at.tzinfo == state.either.tzinfo == timezone(timedelta(hours=1))  # type: ignore[union-attr]
    assert state.at.fold == 0


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and self.degrees == other.degrees

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


class Kelvin(Celsius):
    def __init__(self, degrees: float) -> None:
        super().__init__(float(degrees))


def test_a_registered_scalar_is_stored_by_its_functions_and_tried_when_it_is_set() -> None:
    register_scalar(Celsius, encode=lambda value: str(value.degrees), decode=lambda text: Celsius(float(text)))
    cls = field(list[Celsius])
    state = cls(value=[Celsius(1.5)])
    assert to_document(state) == {"value": ["1.5"]}
    assert states_equal(from_document(cls, {"value": ["1.5"]}), state)
    with pytest.raises(pydantic.ValidationError, match="this Celsius cannot be stored and read back"):
        cls(value=[Celsius(float("nan"))])

    register_scalar(Kelvin, encode=lambda value: f"{value.degrees} K")
    with pytest.raises(pydantic.ValidationError, match="this Kelvin cannot be stored and read back"):
        field(Kelvin)(value=Kelvin(1.0))

    class Warm(Celsius):
        pass

    with pytest.raises(pydantic.ValidationError, match="this Warm cannot be stored and read back"):
        cls(value=[Warm(1.0)])


def test_a_registered_scalar_whose_reader_raises_anything_gives_a_decode_error() -> None:
    from reactstate.errors import DecodeError

    class Odd(Celsius):
        pass

    def read(text: str) -> Odd:
        raise KeyError(text)

    register_scalar(Odd, encode=str, decode=read)
    cls = field(Odd)
    with pytest.raises(DecodeError):
        from_document(cls, {"value": "x"})


def test_metadata_of_one_field_leaves_the_kind_of_the_class_alone() -> None:
    class Inner(State):
        n: int = 0

    class Outer(State):
        plain: Inner = Inner()
        noted: Annotated[Inner, "a note"] = Inner()
        checked: Annotated[Inner, pydantic.AfterValidator(lambda inner: inner)] = Inner()

    assert kind_of(Inner).annotation is Inner
    assert not kind_of(Inner).custom
    new = produce(Outer(), lambda draft: setattr(draft.checked, "n", 3)).state
    assert new.checked.n == 3


def ascending(values: list[int] | None) -> list[int] | None:
    if values and sorted(values) != values:
        raise ValueError("must ascend")
    return values


Ascending = Annotated[list[int], pydantic.AfterValidator(ascending)]
PerhapsAscending = Annotated[list[int] | None, pydantic.AfterValidator(ascending)]


def test_an_annotated_validator_runs_on_every_change_inside_its_value() -> None:
    class Outer(State):
        direct: Ascending = []
        inside: dict[str, list[Ascending]] = {}
        perhaps: list[PerhapsAscending] = []

    base = Outer(direct=[1, 2], inside={"a": [[1], [2, 3]]}, perhaps=[None, [1]])
    for recipe in (
        lambda draft: draft.direct.append(0),
        lambda draft: draft.inside["a"][1].append(0),
        lambda draft: draft.perhaps[1].append(0),
        lambda draft: draft.inside["a"].append([2, 1]),
        lambda draft: draft.inside["a"][0].insert(0, 5),
    ):
        with pytest.raises(StateValidationError, match="must ascend"):
            produce(base, recipe)
    new = produce(base, lambda draft: draft.inside["a"][1].append(9)).state
    assert new.inside == {"a": [[1], [2, 3, 9]]}
    assert new.inside["a"][0] is base.inside["a"][0]
