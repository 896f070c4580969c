"""What reactstate makes of pydantic's core schemas: deep freezing, exact types, validation in parts."""

from __future__ import annotations

import sys
import types
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, Self, TypeVar
from uuid import UUID

import pydantic
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    WrapValidator,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)

from reactstate.errors import FrozenStateError, StateDefinitionError, StateValidationError
from reactstate.state.document import from_document, states_equal, to_document
from reactstate.state.fieldtypes import kind_of
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet
from reactstate.state.maps import Map
from reactstate.state.models import frozen_class
from reactstate.state.produce import produce
from reactstate.state.state import State

T = TypeVar("T")


def is_frozen(value: Any) -> bool:
    """Say whether nothing in *value* can be changed."""
    if isinstance(value, State):
        return all(is_frozen(value.__dict__[name]) for name in type(value).model_fields)
    if isinstance(value, BaseModel):
        cls: Any = type(value)
        return "__reactstate_derived__" in vars(cls) and all(
            is_frozen(value.__dict__[name]) for name in cls.model_fields
        )
    if isinstance(value, list):
        return type(value) is FrozenList and all(map(is_frozen, value))
    if isinstance(value, dict):
        return type(value) is FrozenDict and all(map(is_frozen, value.values()))
    if isinstance(value, set):
        return type(value) is FrozenSet
    if isinstance(value, tuple):
        return all(map(is_frozen, value))
    if isinstance(value, Map):
        return all(map(is_frozen, value.values()))
    return True


class Leaf(BaseModel):
    names: list[str] = []
    extra: dict[str, list[int]] = {}


class Branch(BaseModel):
    leaf: Leaf = Leaf()
    leaves: list[Leaf] = [Leaf()]
    perhaps: Leaf | None = Leaf()


class Trunk(State):
    branch: Branch = Branch()
    by_name: Map[str, Branch] = Map({"a": Branch()})
    either: int | list[list[int]] | None = [[1]]
    pair: tuple[Leaf, list[int]] = (Leaf(), [1])


class Node(State):
    name: str = ""
    children: list[Node] = []
    parent: Node | None = None
    index: dict[str, Node] = {}


class Link(BaseModel):
    to: Link | None = None
    tags: list[str] = []


class Chain(State):
    link: Link = Link()


class Ping(State):
    pongs: list[Pong] = []


class Pong(State):
    pings: list[Ping] = []
    note: PongNote | None = None


class PongNote(BaseModel):
    about: Pong | None = None
    words: list[str] = []


class Box(State, Generic[T], type_name="box", schema_version=3):
    content: T
    others: list[T] = []


def test_every_way_to_make_a_state_gives_a_deeply_frozen_one() -> None:
    branch = Branch(leaf=Leaf(names=["a"], extra={"x": [1]}))
    for state in (
        Trunk(),
        Trunk(branch=branch),
        Trunk.model_validate({"branch": {"leaf": {"names": ["a"]}}, "by_name": {"a": {}}}),
        Trunk.model_validate_json('{"branch": {"leaves": [{"names": ["a"]}]}, "either": [[2]]}'),
        TypeAdapter(Trunk).validate_python({"branch": branch}),
        from_document(Trunk, to_document(Trunk(branch=branch))),
        produce(Trunk(), {"branch": branch}).state,
        produce(Trunk(), lambda draft: setattr(draft.branch, "leaf", branch.leaf)).state,
        produce(Trunk(), lambda draft: draft.branch.leaves.append(branch.leaf)).state,
        produce(Trunk(), lambda draft: draft.by_name.update(b=branch)).state,
    ):
        assert is_frozen(state)
    assert not is_frozen(branch), "the model given stays the caller's"
    assert type(branch) is Branch
    branch.leaf.names.append("mine")


def test_a_plain_model_that_was_given_shares_nothing_with_the_state() -> None:
    leaf = Leaf(names=["a"])
    state = Trunk(branch=Branch(leaf=leaf), pair=(leaf, [1]))
    leaf.names.append("b")
    leaf.extra["x"] = [1]
    assert state.branch.leaf.names == state.pair[0].names == ["a"]
    new = produce(state, lambda draft: setattr(draft.branch, "leaf", leaf)).state
    leaf.names.append("c")
    assert new.branch.leaf.names == ["a", "b"]


def test_published_plain_models_cannot_be_changed_and_look_like_their_class() -> None:
    leaf = Trunk().branch.leaf
    with pytest.raises(FrozenStateError, match=r"Leaf\.names"):
        leaf.names = []
    with pytest.raises(FrozenStateError):
        del leaf.names
    with pytest.raises(FrozenStateError):
        leaf.names.append("x")
    assert isinstance(leaf, Leaf)
    assert leaf == Leaf()
    assert Leaf() == leaf
    assert leaf != Leaf(names=["x"])
    assert leaf != 5
    assert repr(leaf) == repr(Leaf())
    assert leaf.model_dump() == {"names": [], "extra": {}}
    assert frozen_class(Trunk) is Trunk


def test_a_pickled_plain_model_comes_back_as_its_own_class() -> None:
    import copy
    import pickle

    leaf = Trunk(branch=Branch(leaf=Leaf(names=["a"]))).branch.leaf
    back = pickle.loads(pickle.dumps(leaf))
    assert type(back) is Leaf
    assert back == leaf
    back.names.append("b")
    assert copy.copy(leaf) is leaf
    assert copy.deepcopy(leaf) is leaf


def test_recursive_models_are_frozen_at_every_depth() -> None:
    for state in (
        Node(children=[Node(children=[Node(name="x")])], parent=Node(), index={"a": Node(children=[Node()])}),
        Node.model_validate({"children": [{"children": [{"name": "x"}]}]}),
        Node.model_validate_json('{"children": [{"children": [{"name": "x", "index": {"a": {}}}]}]}'),
        Chain(link=Link(to=Link(to=Link(tags=["a"])))),
        Chain.model_validate({"link": {"to": {"to": {"tags": ["a"]}}}}),
    ):
        assert is_frozen(state)
        assert states_equal(from_document(type(state), to_document(state)), state)
    new = produce(Node(children=[Node()]), lambda d: d.children[0].children.append(Node(name="deep"))).state
    assert is_frozen(new)


def test_mutually_recursive_models_are_finished_together() -> None:
    state = Ping(pongs=[Pong(pings=[Ping(), Ping(pongs=[Pong()])], note=PongNote(about=Pong(), words=["a"]))])
    assert is_frozen(state)
    assert is_frozen(Pong.model_validate({"pings": [{"pongs": [{"note": {"words": ["x"]}}]}]}))
    assert states_equal(from_document(Ping, to_document(state)), state)
    new = produce(state, lambda d: d.pongs[0].pings[1].pongs[0].pings.append(Ping())).state
    assert is_frozen(new)
    assert new.pongs[0].pings[0] is state.pongs[0].pings[0]
    assert new.pongs[0].note is state.pongs[0].note


def test_classes_defined_inside_functions_may_refer_to_each_other() -> None:
    class Parent(State):
        children: list[Child] = []

    class Child(State):
        parent: Parent | None = None
        tags: list[str] = []

    Parent.model_rebuild()
    state = Parent(children=[Child(parent=Parent(), tags=["a"])])
    assert is_frozen(state)
    assert states_equal(from_document(Parent, to_document(state)), state)


def test_a_rebuilt_class_is_as_hard_as_before() -> None:
    class Inner(State):
        tags: list[str] = []

    class Outer(State):
        inner: Inner = Inner()

    for _ in range(2):
        Outer.model_rebuild(force=True)
        Inner.model_rebuild(force=True)
        assert is_frozen(Outer.model_validate({"inner": {"tags": ["a"]}}))
        assert produce(Outer(), lambda draft: draft.inner.tags.append("x")).state.inner.tags == ["x"]


def test_a_class_that_refers_to_a_refused_one_cannot_be_used() -> None:
    class Good(State):
        bad: Bad | None = None

    with pytest.raises(StateDefinitionError, match=r"Bad\.anything"):

        class Bad(State):
            good: Good | None = None
            anything: object = None

    with pytest.raises((StateDefinitionError, pydantic.PydanticUserError)):
        Good()


def test_a_class_that_refers_to_one_not_defined_yet_says_so_when_it_is_used() -> None:
    class Early(State):
        late: Late | None = None

    class Late(State):
        early: Early | None = None

    for _ in range(2):
        with pytest.raises(StateDefinitionError, match=r"Early\.late: .*Late.* is not defined yet"):
            Late()
    Early.model_rebuild()
    assert Late(early=Early()).early == Early()


_CIRCLE = """
from __future__ import annotations
from reactstate.state.state import State

class First(State):
    second: Second | None = None
    thirds: list[Third] = []

class Second(State):
    third: Third | None = None

class Third(State):
    first: First | None = None
    bad: {annotation} = None
"""


@pytest.fixture
def circle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what defines a module with three classes that refer to each other."""
    module = types.ModuleType("circle")
    monkeypatch.setitem(sys.modules, "circle", module)

    def define(annotation: str) -> dict[str, Any]:
        exec(compile(_CIRCLE.format(annotation=annotation), "circle", "exec"), module.__dict__)
        return module.__dict__

    return define


@pytest.mark.parametrize("used_first", ["First", "Second", "Third"])
@pytest.mark.parametrize("how", ["made", "read", "compiled"])
def test_a_circle_of_states_is_finished_when_the_last_is_known(circle: Any, used_first: str, how: str) -> None:
    found = circle("int | None")
    if how == "made":
        found[used_first]()
    elif how == "read":
        from_document(found[used_first], {})
    else:
        kind_of(found[used_first])
    first, second, third = found["First"], found["Second"], found["Third"]
    state = first(second=second(third=third(first=first(thirds=[third()]))))
    assert is_frozen(state)
    assert is_frozen(first.model_validate({"thirds": [{"first": {"thirds": [{}]}}]}))
    assert is_frozen(third.model_validate_json('{"first": {"thirds": [{"first": {"thirds": []}}]}}'))
    assert states_equal(from_document(first, to_document(state)), state)
    with pytest.raises(pydantic.ValidationError, match="stands where"):
        third(first=type("Sub", (first,), {})())


def test_a_circle_with_a_refused_class_cannot_be_used_anywhere(circle: Any) -> None:
    with pytest.raises(StateDefinitionError, match=r"Third\.bad: object cannot be a field"):
        circle("object")
    found = vars(sys.modules["circle"])
    for name in ("First", "Second"):
        for _ in range(2):
            with pytest.raises((StateDefinitionError, pydantic.PydanticUserError)):
                found[name]()


def test_the_kind_of_a_published_plain_model_is_that_of_its_class() -> None:
    assert kind_of(type(Trunk().branch)) is kind_of(Branch)


def test_generic_states_have_their_names_versions_and_checks_per_parametrisation() -> None:
    state = Box[list[int]](content=[1], others=[[2]])
    assert is_frozen(state)
    assert kind_of(Box[list[int]]).type_name == "box[list[int]]"
    assert kind_of(Box[list[int]]).schema_version == 3
    assert states_equal(from_document(Box[list[int]], to_document(state)), state)
    assert produce(state, lambda draft: draft.content.append(2)).state.content == [1, 2]
    with pytest.raises(StateDefinitionError, match="deque"):
        import collections

        Box[collections.deque[int]]

    class Crate(Box[int]):
        label: str = ""

    assert to_document(Crate(content=1)) == {"content": 1, "label": "", "others": []}


def test_a_state_inside_a_plain_model_and_in_type_adapters_is_hardened() -> None:
    class Holder(BaseModel):
        node: Node
        nodes: dict[str, list[Node]] = {}

    holder = Holder.model_validate({"node": {"children": [{}]}, "nodes": {"a": [{"children": [{}]}]}})
    assert is_frozen(holder.node)
    assert is_frozen(holder.nodes["a"][0])
    assert is_frozen(TypeAdapter(list[Node]).validate_python([{"children": [{}]}])[0])
    assert is_frozen(TypeAdapter(Node | int).validate_json('{"children": [{}]}'))
    assert Node.model_json_schema()["$defs"]["Node"]["properties"].keys() == {"name", "children", "parent", "index"}


def test_an_instance_of_an_undeclared_subclass_is_refused_where_it_is_set() -> None:
    class Special(Node):
        price: int = 0

    class SpecialLeaf(Leaf):
        price: int = 0

    with pytest.raises(pydantic.ValidationError, match="a Special stands where Node is declared"):
        Node(children=[Special()])
    with pytest.raises(pydantic.ValidationError, match="a SpecialLeaf stands where Leaf is declared"):
        Trunk(branch=Branch(leaf=SpecialLeaf()))
    with pytest.raises(StateValidationError, match=r"Node\.parent: a Special stands where Node is declared"):
        produce(Node(), {"parent": Special()})
    with pytest.raises(StateValidationError, match=r"Node\.children: a Special"):
        produce(Node(), lambda draft: draft.children.append(Special()))


def test_a_state_that_was_given_is_kept_and_not_copied() -> None:
    child = Node(name="a")
    assert Node(children=[child]).children[0] is child
    assert produce(Node(), {"parent": child}).state.parent is child


# --- validators ---------------------------------------------------------------------------------------------------


class Range(State):
    low: int = 0
    high: int = 0
    calls: int = 0

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


def test_two_fields_move_together_under_a_model_validator() -> None:
    new = produce(Range(low=1, high=2), lambda d: (setattr(d, "low", 20), setattr(d, "high", 30))).state
    assert (new.low, new.high) == (20, 30)
    with pytest.raises(StateValidationError, match=r"Range: Value error, low must not be above high") as caught:
        produce(Range(low=1, high=2), {"low": 20})
    assert isinstance(caught.value.cause, pydantic.ValidationError)
    assert caught.value.__cause__ is caught.value.cause


def test_an_after_validator_may_assign_to_self_until_validation_ends() -> None:
    class Totalled(State):
        items: dict[str, int] = {}
        total: int = 0
        names: list[str] = []

        @model_validator(mode="after")
        def add_up(self) -> Self:
            self.total = sum(self.items.values())
            self.names = sorted(self.items)
            return self

        @model_validator(mode="after")
        def nothing_else(self) -> Self:
            with pytest.raises(FrozenStateError, match="has no field 'other'"):
                self.other = 1  # type: ignore[attr-defined]
            return self

    state = Totalled(items={"b": 2, "a": 1})
    assert (state.total, state.names) == (3, ["a", "b"])
    assert is_frozen(state)
    with pytest.raises(FrozenStateError):
        state.total = 1
    produced = produce(state, lambda draft: draft.items.update(c=3))
    assert (produced.state.total, produced.state.names) == (6, ["a", "b", "c"])
    assert is_frozen(produced.state)
    assert sorted(operation["path"] for operation in produced.patch) == ["/items/c", "/names/2", "/total"]
    with pytest.raises(StateValidationError):
        produce(state, lambda draft: draft.items.update(c="x"))


def test_a_validator_of_a_plain_model_may_put_in_what_it_likes_and_the_result_is_frozen() -> None:
    class Summed(BaseModel):
        parts: list[int] = []
        seen: list[int] = []

        @model_validator(mode="after")
        def remember(self) -> Self:
            self.seen = list(self.parts)
            return self

    class Replaced(BaseModel):
        parts: list[int] = []

        @model_validator(mode="after")
        def other(self) -> Replaced:
            return Replaced.model_construct(parts=sorted(self.parts))

    class Owner(State):
        summed: Summed = Summed()
        many: list[Summed] = []
        replaced: Replaced = Field(default_factory=lambda: Replaced.model_validate({}))
        union: Summed | int = 0

    state = Owner(summed=Summed(parts=[1]), many=[Summed(parts=[2])], union=Summed(parts=[3]))
    assert is_frozen(state)
    assert is_frozen(Owner.model_validate({"replaced": {"parts": [2, 1]}, "union": {"parts": [1]}}))
    new = produce(state, lambda draft: draft.summed.parts.append(5)).state
    assert new.summed.seen == [1, 5]
    assert is_frozen(new)
    new = produce(state, lambda draft: draft.many[0].parts.append(5)).state
    assert new.many[0].seen == [2, 5]
    new = produce(state, lambda draft: draft.replaced.parts.extend([2, 1])).state
    assert new.replaced.parts == [1, 2]
    assert is_frozen(new)


def _sorted(values: Any) -> Any:
    return sorted(values)


class Needed(BaseModel):
    x: int


class Validated(State):
    before: Annotated[list[int], BeforeValidator(lambda value: list(value) if isinstance(value, str) else value)] = []
    after: Annotated[list[int], AfterValidator(_sorted)] = []
    wrap: Annotated[list[int], WrapValidator(lambda value, handler: [*handler(value)][:3])] = []
    plain: Annotated[list[int], PlainValidator(lambda value: list(value))] = []
    models: Annotated[list[Leaf], AfterValidator(lambda value: [*value])] = []
    by_decorator: list[int] = []
    unvalidated: Annotated[list[int], pydantic.SkipValidation] = []

    @field_validator("by_decorator", mode="after")
    @classmethod
    def descending(cls, value: list[int], info: ValidationInfo) -> list[int]:
        assert "after" in info.data, "the fields before it are there"
        return sorted(value, reverse=True)


def test_field_validators_of_every_mode_give_frozen_values_and_run_on_changes() -> None:
    state = Validated.model_validate(
        {"before": "12", "after": [2, 1], "wrap": [1, 2, 3, 4], "plain": (1,), "models": [{"names": ["a"]}],
         "by_decorator": [1, 2], "unvalidated": [1]}
    )  # fmt: skip
    assert is_frozen(state)
    assert (state.before, state.after, state.wrap, state.by_decorator) == ([1, 2], [1, 2], [1, 2, 3], [2, 1])

    def recipe(draft: Validated) -> None:
        draft.after.append(0)
        draft.wrap.insert(0, 0)
        draft.by_decorator.append(9)
        draft.models[0].names.append("b")
        draft.before = "34"  # type: ignore[assignment]

    new = produce(state, recipe).state
    assert is_frozen(new)
    assert (new.before, new.after, new.wrap, new.by_decorator) == ([3, 4], [0, 1, 2], [0, 1, 2], [9, 2, 1])
    assert new.models[0].names == ["a", "b"]
    assert states_equal(from_document(Validated, to_document(new)), new)


def test_a_validator_that_returns_another_type_is_refused_when_the_value_is_set() -> None:
    class Wrong(State):
        a: Annotated[list[int], AfterValidator(tuple)] = [1]

    with pytest.raises(pydantic.ValidationError, match="a tuple stands where a list is declared"):
        Wrong()

    class Element(State):
        a: list[Annotated[int, PlainValidator(lambda value: value)]] = []

    with pytest.raises(StateValidationError, match=r"Element\.a: a str stands where a int is declared"):
        produce(Element(), lambda draft: draft.a.append("x"))

    class Half(State):
        needed: Annotated[Needed, PlainValidator(lambda _: Needed.model_construct())]

    with pytest.raises(pydantic.ValidationError, match="a Needed lacks 'x'; make it with its constructor"):
        Half(needed=Needed(x=1))


@pytest.mark.parametrize(
    ("annotation", "value", "wrong", "sentence"),
    [
        (list[int], [1], (1,), "a tuple stands where a list is declared"),
        (dict[str, int], {"a": 1}, Map({"a": 1}), "a Map stands where a dict is declared"),
        (Map[str, int], {"a": 1}, {"a": 1}, "a dict stands where a Map is declared"),
        (set[int], {1}, frozenset((1,)), "a frozenset stands where a set is declared"),
        (frozenset[int], {1}, {1}, "a set stands where a set is declared"),
        (tuple[int, int], (1, 2), [1, 2], "a list stands where a tuple is declared"),
        (tuple[int, int], (1, 2), (1, 2, 3), "2 parts are declared, not 3"),
        (int | list[int], 1, {1}, "a set is not one of the declared types"),
        (Leaf, Leaf(), Branch(), "a Branch stands where Leaf is declared"),
        (Literal["a", "b"], "a", 5, "a int stands where a literal is declared"),
        (date, date(2020, 1, 1), "x", "a str stands where a date is declared"),
    ],
)
def test_what_a_validator_returns_must_be_of_the_declared_type(
    annotation: Any, value: Any, wrong: Any, sentence: str
) -> None:
    box: list[Any] = []
    checked = Annotated[annotation, AfterValidator(lambda found: box[0] if box else found)]
    cls = type("One", (State,), {"__annotations__": {"value": checked, "values": dict[str, checked]}, "values": {}})
    state = cls(value=value, values={"a": value})
    assert is_frozen(state)
    document = to_document(state)
    assert states_equal(from_document(cls, document), state)
    box.append(wrong)
    with pytest.raises(pydantic.ValidationError, match=sentence):
        cls(value=value)
    for recipe in ({"value": value}, lambda draft: draft.values.update(b=value)):
        with pytest.raises(StateValidationError, match=sentence):
            produce(state, recipe)


def test_free_form_json_may_have_a_validator_of_its_own() -> None:
    def no_secret(value: Any) -> Any:
        if "secret" in str(value):
            raise ValueError("no secrets")
        return value

    class Free(State):
        value: Annotated[JsonValue, AfterValidator(no_secret)] = None
        values: list[Annotated[JsonValue, AfterValidator(no_secret)]] = []
        models: list[Annotated[Leaf, AfterValidator(no_secret)]] = []

    state = Free(value={"a": [1]}, values=[{"b": [2]}], models=[Leaf()])
    assert is_frozen(state)

    def recipe(draft: Any) -> None:
        draft.value["a"].append({"c": []})
        draft.values[0]["b"].append(3)
        draft.values.append([4])
        draft.models.append(Leaf(names=["x"]))
        draft.models[0].names.append("y")

    new = produce(state, recipe).state
    assert is_frozen(new)
    assert to_document(new) == {
        "models": [{"extra": {}, "names": ["y"]}, {"extra": {}, "names": ["x"]}],
        "value": {"a": [1, {"c": []}]},
        "values": [{"b": [2, 3]}, [4]],
    }
    for bad in (
        lambda draft: draft.value["a"].append("secret"),
        lambda draft: draft.values[0].update(x="secret"),
        lambda draft: draft.models[0].names.append("secret"),
        lambda draft: draft.models.append(Leaf(names=["secret"])),
    ):
        with pytest.raises(StateValidationError, match="no secrets"):
            produce(state, bad)


def test_model_validators_before_and_wrap_validate_the_whole_model_again() -> None:
    class Tagged(State):
        tags: list[str] = []
        count: int = 0

        @model_validator(mode="before")
        @classmethod
        def count_them(cls, data: Any) -> Any:
            return {**data, "count": len(data["tags"])} if isinstance(data, dict) and "tags" in data else data

    class Wrapped(State):
        a: int = 0

        @model_validator(mode="wrap")
        @classmethod
        def clamp(cls, data: Any, handler: Any) -> Any:
            made = handler(data)
            return made if made.a < 10 else handler({"a": 10})

    assert produce(Tagged(), lambda draft: draft.tags.append("x")).state.count == 1
    assert produce(Wrapped(), {"a": 50}).state.a == 10

    class Owner(State):
        tagged: Tagged = Tagged()
        wrapped: dict[str, Wrapped] = {"a": Wrapped()}

    new = produce(Owner(), lambda draft: (draft.tagged.tags.append("x"), setattr(draft.wrapped["a"], "a", 99))).state
    assert (new.tagged.count, new.wrapped["a"].a) == (1, 10)
    assert states_equal(from_document(Owner, to_document(new)), new)


def test_a_validator_on_all_fields_is_seen() -> None:
    class Positive(State):
        a: int = 1
        items: list[int] = [1]

        @field_validator("*")
        @classmethod
        def check(cls, value: Any) -> Any:
            if value == 0 or value == [0]:  # noqa: PLR1714
                raise ValueError("zero")
            return value

    with pytest.raises(StateValidationError, match="zero"):
        produce(Positive(), {"a": 0})
    with pytest.raises(StateValidationError, match="zero"):
        produce(Positive(), lambda draft: draft.items.__setitem__(0, 0))


# --- configuration ------------------------------------------------------------------------------------------------


def test_aliases_serializers_excludes_and_computed_fields_do_not_touch_the_document() -> None:
    class Aliased(BaseModel):
        x: int = Field(default=0, alias="ex")

    class Odd(State):
        a: int = Field(default=0, alias="A")
        b: list[int] = Field(default=[], validation_alias=AliasChoices("B", "bee"), exclude=True)
        c: date = Field(default=date(2020, 1, 1), serialization_alias="sea")
        inner: Aliased = Aliased()
        inners: list[Aliased] = []

        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return self.a * 2

        @field_serializer("c")
        def shout(self, value: date) -> str:
            return f"{value}!"

    state = Odd.model_validate({"A": 1, "bee": [1], "inner": {"ex": 5}, "inners": [{"ex": 6}]})
    document = to_document(state)
    assert document == {"a": 1, "b": [1], "c": "2020-01-01", "inner": {"x": 5}, "inners": [{"x": 6}]}
    assert states_equal(from_document(Odd, document), state)
    new = produce(state, lambda d: (d.b.append(2), setattr(d, "a", 2), setattr(d.inners[0], "x", 7))).state
    assert to_document(new) == {**document, "a": 2, "b": [1, 2], "inners": [{"x": 7}]}
    assert produce(state, {"inner": state.inners[0]}).state.inner.x == 6
    assert produce(state, {"inner": {"ex": 9}}).state.inner.x == 9


def test_the_configuration_of_a_class_holds_for_its_elements_and_its_quick_path() -> None:
    class Configured(State):
        model_config = ConfigDict(str_strip_whitespace=True, str_max_length=5, allow_inf_nan=False)
        name: str = ""
        names: list[str] = []
        by_name: dict[str, str] = {}
        ratio: float = 0.0

    new = produce(Configured(), lambda d: (setattr(d, "name", " a "), d.names.append(" b "))).state
    assert (new.name, new.names) == ("a", ["b"])
    for recipe in (
        lambda d: setattr(d, "name", "too long"),
        lambda d: d.names.append("too long"),
        lambda d: d.by_name.update(a="too long"),
        lambda d: setattr(d, "ratio", float("nan")),
    ):
        with pytest.raises(StateValidationError):
            produce(Configured(), recipe)


def test_a_strict_class_is_read_back_and_stays_strict() -> None:
    class StrictInner(BaseModel):
        model_config = ConfigDict(strict=True)
        on: date = date(2020, 1, 1)

    class Strict(State):
        model_config = ConfigDict(strict=True)
        at: datetime = datetime(2020, 1, 1)
        dates: list[date] = []
        keys: dict[UUID, tuple[date, set[UUID]]] = {}
        inner: StrictInner = StrictInner()
        perhaps: date | None = None
        number: int = 0
        by_name: Map[str, date] = Map()

    full = Strict(
        dates=[date(2020, 1, 1)], keys={UUID(int=1): (date(2020, 1, 1), {UUID(int=2)})}, perhaps=date(2020, 1, 1),
        by_name=Map({"a": date(2020, 1, 1)}),
    )  # fmt: skip
    assert states_equal(from_document(Strict, to_document(full)), full)
    for recipe in (
        lambda d: setattr(d, "number", "1"),
        lambda d: setattr(d, "number", True),
        lambda d: d.dates.append("2020-01-01"),
    ):
        with pytest.raises(StateValidationError):
            produce(full, recipe)

    class Outer(State):
        strict: Strict = Strict()
        flag: Annotated[bool, pydantic.Strict()] = False
        on: date | None = Field(default=None, strict=True)

    outer = Outer(strict=full, on=date(2020, 1, 1))
    assert states_equal(from_document(Outer, to_document(outer)), outer)
    with pytest.raises(StateValidationError):
        produce(outer, {"flag": 1})


def test_a_field_that_is_frozen_can_be_written_once_only() -> None:
    class Once(State):
        name: str = Field(frozen=True)
        items: list[int] = Field(default=[], frozen=True)

    state = Once(name="a", items=[1])
    with pytest.raises(StateValidationError, match="frozen"):
        produce(state, {"name": "b"})
    with pytest.raises(StateValidationError, match="frozen"):
        produce(state, {"items": []})
    with pytest.raises(FrozenStateError):
        produce(state, lambda draft: draft.items.append(2))


def test_defaults_and_default_factories_are_validated_and_frozen() -> None:
    class Defaults(State):
        items: list[int] = Field(default_factory=lambda: [1])
        text: list[int] = ["5"]  # type: ignore[list-item]
        seen: list[str] = Field(default_factory=lambda data: [str(data["items"])])

    assert is_frozen(Defaults())
    assert Defaults().text == [5]
    assert Defaults().seen == ["[1]"]


def test_a_cached_property_is_computed_anew_for_the_next_state() -> None:
    class Lazy(State):
        items: list[int] = []

        @cached_property
        def total(self) -> int:
            return sum(self.items)

        @property
        def first(self) -> int:
            return self.items[0]

        @first.setter
        def first(self, value: int) -> None:
            self.items[0] = value

    class Holder(State):
        lazy: Lazy = Lazy(items=[1])

    state = Lazy(items=[1, 2])
    assert state.total == 3

    def recipe(draft: Lazy) -> None:
        assert draft.total == 3
        draft.items.append(3)
        assert draft.total == 6
        draft.first = 10
        assert draft.first == 10

    new = produce(state, recipe).state
    assert new.total == 15
    assert state == Lazy(items=[1, 2])
    assert to_document(state) == {"items": [1, 2]}
    assert produce(Holder(), lambda draft: setattr(draft.lazy, "first", 4)).state.lazy.total == 4


# --- names --------------------------------------------------------------------------------------------------------


NAMES = (
    "id", "state", "version", "data", "items", "copy", "json", "schema", "dict", "validate", "keys", "values",
    "construct", "parse_obj", "parse_raw", "from_orm", "update_forward_refs", "schema_json", "fields", "config",
    "draft", "base", "kind", "root", "patch", "name", "type",
)  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_fields_may_have_the_names_of_pydantics_own_attributes() -> None:
    namespace = {"__annotations__": dict.fromkeys(NAMES, "list[int]"), **{name: [1] for name in NAMES}}

    class Named(State):
        vars().update(namespace)

    class Middle(State):
        json: list[int] = []

    class Leafy(Middle):
        copy: int = 5
        dict: int = 6
        json: list[int] = [3]

    class Template(State, Generic[T]):
        schema: T
        items: list[T] = []

    for cls in (Named, type("Sub", (Named,), {})):
        state = cls()
        for name in NAMES:
            assert getattr(state, name) == [1]
            new = produce(state, lambda draft, name=name: getattr(draft, name).append(2)).state
            assert getattr(new, name) == [1, 2]
        assert states_equal(from_document(cls, to_document(state)), state)
    assert to_document(Leafy()) == {"copy": 5, "dict": 6, "json": [3]}
    new = produce(Leafy(), {"copy": 7, "dict": 8}).state
    assert (new.copy, new.dict) == (7, 8)
    assert produce(Template[int](schema=1), {"schema": 2}).state.schema == 2


def test_what_pydantic_has_under_these_names_still_works_on_instances() -> None:
    with pytest.warns(DeprecationWarning, match="dict"):
        assert Range().dict() == {"low": 0, "high": 0, "calls": 0}  # type: ignore[deprecated]
    with pytest.raises(AttributeError):
        Range.dict  # noqa: B018


def test_merge_is_for_the_class_to_define() -> None:
    from reactstate.errors import MergeUnsupportedError

    with pytest.raises(MergeUnsupportedError, match=r"Range does not define merge\(self, other\)"):
        Range().merge(Range())


def test_merge_and_check_transition_cannot_be_fields() -> None:
    for name in ("merge", "check_transition"):
        with pytest.raises(StateDefinitionError, match=rf"Bad\.{name} cannot be a field"):
            type("Bad", (State,), {"__annotations__": {name: int}, name: 1})


def test_a_private_attribute_or_an_init_of_a_state_is_refused() -> None:
    with pytest.raises(StateDefinitionError, match="private attributes"):

        class Private(State):
            _cache: int = 0

    with pytest.raises(StateDefinitionError, match="defines __init__"):

        class Built(State):
            def __init__(self, **data: Any) -> None:
                super().__init__(**data)


def test_json_input_has_the_same_limits_as_python_input() -> None:
    class Free(State):
        value: JsonValue = None
        at: date = date(2020, 1, 1)

    with pytest.raises(pydantic.ValidationError):
        Free.model_validate_json('{"value": NaN}')
    with pytest.raises(pydantic.ValidationError):
        Free.model_validate_json('{"value": [Infinity]}')
    assert Free.model_validate_json('{"value": {"a": [1, 2.5, null, true, "x"]}}').value == {
        "a": [1, 2.5, None, True, "x"]
    }


def test_discriminated_unions_of_states_and_plain_models() -> None:
    class Cat(State):
        type: Literal["cat"] = "cat"
        toys: list[str] = []

    class Dog(BaseModel):
        type: Literal["dog", "puppy"] = "dog"
        toys: list[str] = []

    class Home(State):
        pet: Annotated[Cat | Dog, Field(discriminator="type")] = Cat()
        pets: list[Annotated[Cat | Dog, Field(discriminator="type")]] = []
        perhaps: Annotated[Cat | Dog, Field(discriminator="type")] | None = None

    home = Home.model_validate({"pet": {"type": "puppy"}, "pets": [{"type": "cat"}, {"type": "dog", "toys": ["a"]}]})
    assert is_frozen(home)

    def recipe(draft: Home) -> None:
        draft.pet.toys.append("ball")
        draft.pets[0].toys.append("mouse")
        draft.perhaps = Dog(toys=["bone"])
        draft.perhaps.toys.append("stick")
        draft.pets[1] = Cat()

    new = produce(home, recipe).state
    assert is_frozen(new)
    assert states_equal(from_document(Home, to_document(new)), new)
    assert new.perhaps is not None
    assert new.perhaps.toys == ["bone", "stick"]
    assert type(new.pets[1]) is Cat
    with pytest.raises(StateValidationError):
        produce(home, lambda draft: setattr(draft.pet, "type", "cow"))
