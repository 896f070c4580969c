"""The canonical document: what it looks like, that it is one and the same everywhere, and the way back."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue

from reactstate.codec.formats import Format
from reactstate.errors import DecodeError, StateDefinitionError, StateValidationError, UnknownTypeError
from reactstate.state.document import (
    check_depth,
    from_document,
    schema_of,
    states_equal,
    to_document,
)
from reactstate.state.fieldtypes import kind_of
from reactstate.state.kinds import MAX_DEPTH, MISSING, Kind
from reactstate.state.maps import Map
from reactstate.state.patch import documents_equal
from reactstate.state.produce import check_state_value, edit_between, produce
from reactstate.state.state import State, state_key


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    weights: list[float] = []


class Item(State):
    name: str = ""
    price: Decimal = Decimal(0)


class Everything(State):
    flag: bool = False
    number: int = 0
    ratio: float = 0.0
    text: str = ""
    raw: bytes = b""
    price: Decimal = Decimal(0)
    key: UUID = UUID(int=0)
    day: date = date(2020, 1, 1)
    clock: time = time(0)
    at: datetime = datetime(2020, 1, 1)
    took: timedelta = timedelta(0)
    colour: Colour = Colour.RED
    choice: Literal["a", 1, None] = "a"  # noqa: PYI061 - None among literals is the subject
    anything: JsonValue = None
    items: list[Item] = []
    table: dict[str, list[int]] = {}
    mixed: dict[int | str, int] = {}
    keyed: dict[tuple[int, str], Colour] = {}
    tags: set[str] = set()
    fixed: frozenset[int | None] = frozenset()
    pair: tuple[int, Item] = (0, Item())
    entries: Map[str, Item] = Map()
    perhaps: Item | None = None
    either: int | float | bool | None = None
    part: Part = Part()


class Tree(State):
    children: list[Tree] = []
    note: JsonValue = None


class Sets(State):
    floats: set[float] = set()
    decimals: set[Decimal] = set()
    scalars: set[int | str | bool | None] = set()
    numbers: set[int | float] = set()
    keys: dict[int | bool | float, int] = {}
    prices: dict[Decimal, int] = {}
    frozen: frozenset[Decimal] = frozenset()
    pair: tuple[int | bool | float, Decimal] = (0, Decimal(0))
    moments: Map[datetime, int] = Map()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ZONES = st.one_of(st.none(), st.integers(-23 * 60, 23 * 60).map(lambda n: timezone(timedelta(minutes=n))))
ITEMS = st.builds(Item, name=TEXT, price=st.decimals(allow_nan=False, allow_infinity=False, places=2))
EVERYTHING = st.builds(
    Everything,
    flag=st.booleans(),
    number=st.integers(),
    ratio=st.floats(),
    text=TEXT,
    raw=st.binary(max_size=5),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    key=st.uuids(),
    day=st.dates(),
    clock=st.builds(lambda clock, zone: clock.replace(tzinfo=zone, fold=0), st.times(), ZONES),
    at=st.builds(lambda at, zone: at.replace(tzinfo=zone, fold=0), st.datetimes(), ZONES),
    took=st.timedeltas(),
    colour=st.sampled_from(Colour),
    choice=st.sampled_from(["a", 1, None]),
    anything=JSON,
    items=st.lists(ITEMS, max_size=3),
    table=st.dictionaries(TEXT, st.lists(st.integers(), max_size=3), max_size=3),
    mixed=st.dictionaries(st.integers() | TEXT, st.integers(), max_size=3),
    keyed=st.dictionaries(st.tuples(st.integers(), TEXT), st.sampled_from(Colour), max_size=3),
    tags=st.sets(TEXT, max_size=3),
    fixed=st.frozensets(st.integers() | st.none(), max_size=3),
    pair=st.tuples(st.integers(), ITEMS),
    entries=st.dictionaries(TEXT, ITEMS, max_size=3),
    perhaps=st.none() | ITEMS,
    either=st.none() | st.booleans() | st.integers() | st.floats(),
    part=st.builds(Part, weights=st.lists(st.floats(), max_size=3)),
)
NUMBERS = st.sampled_from([0, 1, 2, True, False, 0.0, -0.0, 1.0, 2.5])
PRICES = st.sampled_from([Decimal(one) for one in ("0", "-0", "1", "1.0", "1.00", "2")])
MOMENTS = st.sampled_from(
    [datetime(2020, 1, 1, 12, tzinfo=UTC), datetime(2020, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))]
)
SETS = st.builds(
    Sets,
    floats=st.sets(st.sampled_from([0.0, -0.0, 1.0, float("inf")])),
    decimals=st.sets(PRICES),
    scalars=st.sets(st.sampled_from([0, 1, True, False, "1", "a", None])),
    numbers=st.sets(st.sampled_from([0, 0.0, -0.0, 1, 1.0, 10, 9.5, float("inf")])),
    keys=st.dictionaries(NUMBERS, st.integers(0, 1)),
    prices=st.dictionaries(PRICES, st.integers(0, 1)),
    frozen=st.frozensets(PRICES),
    pair=st.tuples(NUMBERS, PRICES),
    moments=st.dictionaries(MOMENTS, st.integers(0, 1)),
)


@given(EVERYTHING)
def test_every_state_is_read_back_from_its_document_through_every_format(state: Everything) -> None:
    document = to_document(state)
    for format_ in (_format("json"), _format("msgpack"), _format("cbor")):
        back = from_document(Everything, format_.decode(format_.encode(document)))
        assert states_equal(back, state)
        assert documents_equal(to_document(back), document)


def _format(name: str) -> Format:
    from reactstate.codec.formats import load_format

    return load_format(name)


@given(SETS, SETS)
def test_equal_elements_with_different_documents_are_told_apart(a: Sets, b: Sets) -> None:
    same = documents_equal(to_document(a), to_document(b))
    assert states_equal(a, b) == same
    state, edits = edit_between(a, b)
    assert bool(edits) == (not same)
    assert documents_equal(to_document(state), to_document(b))
    assert states_equal(from_document(Sets, to_document(a)), a)


def test_the_document_has_one_fixed_form() -> None:
    state = Everything(
        ratio=float("nan"),
        raw=b"\xff\xfe",
        price=Decimal("1.10"),
        took=timedelta(days=-1, microseconds=5),
        at=datetime(2020, 1, 1, tzinfo=UTC),
        mixed={1: 1, "1": 2},
        keyed={(1, "a"): Colour.BLUE},
        tags={"b", "a"},
        fixed=frozenset((3, None, 10)),
        entries=Map({"b": Item(), "a": Item()}),
        part=Part(weights=[float("-inf")]),
    )
    assert orjson.dumps(to_document(state)).decode() == (
        '{"anything":null,"at":"2020-01-01T00:00:00+00:00","choice":"a","clock":"00:00:00","colour":"red",'
        '"day":"2020-01-01","either":null,"entries":{"a":{"name":"","price":"0"},"b":{"name":"","price":"0"}},'
        '"fixed":[null,3,10],"flag":false,"items":[],"key":"00000000-0000-0000-0000-000000000000",'
        '"keyed":{"[1,\\"a\\"]":"blue"},"mixed":{"\\"1\\"":2,"1":1},"number":0,"pair":[0,{"name":"","price":"0"}],'
        '"part":{"weights":["-inf"]},"perhaps":null,"price":"1.10","ratio":"nan","raw":"//4=","table":{},'
        '"tags":["a","b"],"text":"","took":-86399999995}'
    )


_PROGRAM = """
import orjson
from reactstate.state.document import to_document
from reactstate.state.maps import Map
from reactstate.state.produce import produce
from reactstate.state.state import State

class Hashed(State):
    tags: set[str] = set()
    kinds: frozenset[str] = frozenset()
    entries: Map[str, int] = Map()
    table: dict[str, int] = {}

names = [f"name{n}" for n in range(40)]
state = Hashed(tags=set(names), kinds=frozenset(names), entries={n: 1 for n in names}, table=dict.fromkeys(names, 1))
other = Hashed(tags=set(names[20:] + ["x", "y", "z"]), entries={n: 2 for n in names[10:] + ["x", "y"]})
produced = produce(state, lambda draft: other)
edited = produce(state, lambda draft: (draft.tags.difference_update(names[:9]), draft.tags.update("abc")))
print(orjson.dumps([to_document(state), produced.patch, produced.inverse, edited.patch, edited.inverse]).decode())
"""


def test_documents_and_patches_are_the_same_whatever_the_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1


def test_states_equal_tells_apart_what_python_takes_for_the_same() -> None:
    class Loose(State):
        value: int | float | bool | None = None
        anything: JsonValue = None
        items: list[int | bool] = []

    def one(value: Any) -> Loose:
        return Loose(value=value, anything=value if value == value else None)  # noqa: PLR0124 - NaN

    values: list[Any] = [1, True, 1.0, 0, False, 0.0, -0.0, None, 2, 2.0]
    for at, a in enumerate(values):
        for other, b in enumerate(values):
            assert states_equal(one(a), one(b)) == (at == other)
            assert states_equal(Loose(anything=[a]), Loose(anything=[b])) == (at == other)
    nan = Loose(value=float("nan"))
    assert states_equal(nan, Loose(value=float("nan")))
    assert nan != Loose(value=float("nan"))
    assert not states_equal(Loose(items=[1]), Loose(items=[True]))
    assert not states_equal(Item(), Tree())
    assert produce(one(1), {"value": True, "anything": 1.0}).patch == [
        {"op": "replace", "path": "/value", "value": True},
        {"op": "replace", "path": "/anything", "value": 1.0},
    ]
    assert produce(nan, {"value": float("nan")}).state is nan


# --- reading ------------------------------------------------------------------------------------------------------


def test_missing_fields_with_a_default_are_filled_in_and_others_are_decode_errors() -> None:
    class Needed(State):
        name: str
        count: int = 5
        items: list[int] = Field(default_factory=lambda: [1])

    assert from_document(Needed, {"name": "a"}) == Needed(name="a", count=5, items=[1])
    for document in (
        {},
        {"name": "a", "other": 1},
        {"name": 5},
        {"name": "a", "count": "many"},
        {"name": None},
        [],
        "x",
        None,
        5,
        {"name": "a", "items": {}},
    ):
        with pytest.raises(DecodeError) as caught:
            from_document(Needed, document)
        assert caught.value.__cause__ is not None or "expected" in str(caught.value)


def test_an_unknown_field_at_any_depth_is_a_decode_error() -> None:
    class Deep(State):
        item: Item = Item()
        items: list[Item] = []
        part: Part = Part()
        entries: Map[str, Part] = Map()

    for document in (
        {"item": {"nam": "x"}},
        {"items": [{"name": "a", "other": 1}]},
        {"part": {"weight": []}},
        {"entries": {"a": {"weight": []}}},
    ):
        with pytest.raises(DecodeError, match="Deep"):
            from_document(Deep, document)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("raw", "not base64!"),
        ("raw", 5),
        ("price", 1.5),
        ("price", "x"),
        ("key", "x"),
        ("key", 5),
        ("took", "x"),
        ("took", True),
        ("took", 10**30),
        ("at", "yesterday"),
        ("at", {}),
        ("colour", "green"),
        ("colour", []),
        ("choice", "b"),
        ("choice", True),
        ("choice", {}),
        ("ratio", "x"),
        ("ratio", None),
        ("ratio", [1]),
        ("mixed", {"x": 1}),
        ("mixed", {"[": 1}),
        ("mixed", {"null": 1}),
        ("mixed", []),
        ("mixed", {"1": 1, "1 ": 2}),
        ("keyed", {"[1]": "red"}),
        ("keyed", {'[1,"a",2]': "red"}),
        ("keyed", {"5": "red"}),
        ("tags", {"a": 1}),
        ("tags", [5]),
        ("tags", None),
        ("pair", [1]),
        ("pair", {}),
        ("pair", [1, 2]),
        ("table", []),
        ("table", {"a": 5}),
        ("entries", []),
        ("entries", {"a": 1}),
        ("items", {}),
        ("items", [None]),
        ("perhaps", 5),
        ("either", "x"),
        ("either", []),
        ("part", []),
        ("part", {"weights": {}}),
        pytest.param("number", 10**5000, id="huge number"),
        pytest.param("took", 10**5000, id="huge time"),
        ("text", "\ud800"),
        ("anything", float("nan")),
        ("anything", {"a": {1, 2}}),
    ],
)
def test_a_document_that_does_not_fit_is_a_decode_error(name: str, part: Any) -> None:
    with pytest.raises(DecodeError):
        from_document(Everything, {name: part})


def test_a_union_says_what_it_does_not_know() -> None:
    class Cat(State):
        type: Literal["cat"] = "cat"

    class Dog(State):
        type: Literal["dog"] = "dog"
        born: date = date(2020, 1, 1)

    class Home(State):
        pet: Cat | Dog = Field(default=Cat(), discriminator="type")

    assert from_document(Home, {"pet": {"type": "dog", "born": "2021-01-01"}}).pet == Dog(born=date(2021, 1, 1))
    for pet in ({"type": "cow"}, {}, {"type": {}}, 5, None):
        with pytest.raises(DecodeError):
            from_document(Home, {"pet": pet})


def test_the_document_given_is_not_changed_and_becomes_no_part_of_the_state() -> None:
    document = to_document(Everything(anything={"a": [1]}, table={"a": [1]}))
    state = from_document(Everything, document, schema_of(Everything))
    document["anything"]["a"].append(2)
    document["table"]["a"].append(2)
    assert state.anything == {"a": [1]}
    assert state.table == {"a": [1]}
    made = to_document(state)
    made["table"]["a"].append(3)
    assert state.table == {"a": [1]}
    assert type(made["table"]) is dict
    assert type(made["table"]["a"]) is list
    assert type(made["anything"]["a"]) is list


def test_the_document_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(UnknownTypeError, match="a 'Tree' is stored here, and 'Item' was asked for") as caught:
        from_document(Item, {}, {"Tree": 1})
    assert (caught.value.expected, caught.value.found) == ("Item", "Tree")
    with pytest.raises(UnknownTypeError):
        from_document(Item, {}, {})


# --- depth --------------------------------------------------------------------------------------------------------


def _tree(depth: int) -> Tree:
    tree = Tree()
    for _ in range((depth - 2) // 2):
        tree = Tree(children=[tree])
    return tree


def test_a_state_may_be_nested_to_the_limit_and_no_deeper() -> None:
    deep = _tree(MAX_DEPTH)
    assert kind_of(Tree).depth(deep) == MAX_DEPTH
    assert states_equal(from_document(Tree, to_document(deep)), deep)
    assert check_state_value(Tree, deep) is deep
    too_deep = Tree(children=[deep])
    for refuse in (
        lambda: check_state_value(Tree, too_deep),
        lambda: produce(Tree(), lambda draft: too_deep),
        lambda: produce(Tree(), lambda draft: draft.children.append(deep)),
        lambda: produce(Tree(), {"children": [deep]}),
        lambda: check_depth(kind_of(Tree), too_deep),
    ):
        with pytest.raises(StateValidationError, match="nested 128 levels deep"):
            refuse()
    with pytest.raises(DecodeError, match="nested 128 levels deep"):
        from_document(Tree, to_document(too_deep))


def test_very_deep_values_and_documents_give_typed_errors() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    document: Any = {}
    for _ in range(100_000):
        document = {"children": [document]}
    try:
        for bad in ({"note": nested}, document):
            for schema in (None, {"Tree": 1}, {"Tree": 1, "Other": 2}):
                with pytest.raises(DecodeError):
                    from_document(Tree, bad, schema)
        with pytest.raises(StateValidationError):
            produce(Tree(), {"note": nested})
        with pytest.raises(StateValidationError):
            produce(Tree(), lambda draft: draft.children.append(document))
        with pytest.raises(StateValidationError):
            produce(Tree(), lambda draft: setattr(draft, "note", {"a": nested}))
        tree = Tree()
        for _ in range(3000):
            tree = Tree(children=[tree])
        with pytest.raises(StateValidationError):
            to_document(tree)
        with pytest.raises(StateValidationError):
            check_state_value(Tree, tree)
    finally:
        for one in (nested, document):
            _unravel(one)


def _unravel(value: Any) -> None:
    """Take a deep structure apart, which the interpreter would free by recursion."""
    while value:
        value = value.pop("children")[0] if isinstance(value, dict) else value.pop()


# --- names --------------------------------------------------------------------------------------------------------


def test_a_state_key_is_its_id_or_its_type_name() -> None:
    class ById(State):
        id: str | int | bool | None = 1

    class ByUUID(State):
        id: UUID = UUID(int=1)

    class ByProperty(State, type_name="shop.cart"):
        owner: str = "ada"

        @property
        def id(self) -> str:
            return f"cart-{self.owner}"

    class Named(State, type_name="shop.other"):
        pass

    assert state_key(ById(id="a")) == "a"
    assert state_key(ById(id=0)) == "0"
    assert state_key(ByUUID()) == str(UUID(int=1))
    assert state_key(ByProperty()) == "cart-ada"
    assert state_key(Named()) == "shop.other"
    for wrong in ("", None, True):
        with pytest.raises(StateValidationError, match=r"ById\.id must be a str, int or UUID that is not empty"):
            state_key(ById(id=wrong))


def test_schema_of_names_every_state_root_first() -> None:
    class Inner(State, type_name="in", schema_version=4):
        pass

    class Middle(BaseModel):
        inner: dict[str, list[Inner]] = {}

    class Outer(State, schema_version=2):
        middle: tuple[Middle, ...] = ()
        again: Outer | None = None
        entries: Map[str, Item | None] = Map()

    assert schema_of(Outer) == {"Outer": 2, "in": 4, "Item": 1}
    assert next(iter(schema_of(Outer))) == "Outer"


def test_two_nested_states_cannot_share_a_type_name() -> None:
    class Left(State, type_name="same"):
        pass

    class Right(State, type_name="same"):
        pass

    with pytest.raises(StateDefinitionError, match="two classes have the type name 'same'"):

        class Both(State):
            left: Left = Left()
            right: list[Right] = []


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", 5, "\x00"])
def test_a_type_name_must_be_printable_text(name: Any) -> None:
    with pytest.raises(StateDefinitionError, match="type_name must be a str of printable characters"):

        class Bad(State, type_name=name):
            pass


def test_a_class_keyword_is_not_inherited() -> None:
    class Base(State, type_name="base", schema_version=3):
        a: int = 0

    class Sub(Base):
        b: int = 0

    assert schema_of(Base) == {"base": 3}
    assert schema_of(Sub) == {"Sub": 1}


def test_the_protocol_of_kinds_has_no_silent_defaults() -> None:
    kind = Kind()
    calls: list[Any] = [
        lambda: kind.encode(1), lambda: kind.decode(1), lambda: kind.seal(1), lambda: kind.diff(1, 2, None, []),
        lambda: kind.holds(1), lambda: kind.child(1), lambda: kind.own(1, {}), lambda: kind.part(1, 1),
        lambda: kind.replaced(1, 1, 1), lambda: kind.without(1, 1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()
    assert kind.parts() == ()
    assert kind.of(1) is kind
    assert repr(MISSING) == "MISSING"
