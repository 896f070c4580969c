"""produce: the same as changing a deep copy of a plain structure, but shared, with patches, and all or nothing."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, model_validator

from reactstate.errors import StateValidationError, TransitionError
from reactstate.state.document import from_document, states_equal, to_document
from reactstate.state.edits import apply_edits, invert_edits
from reactstate.state.maps import Map
from reactstate.state.patch import apply_patch, documents_equal
from reactstate.state.produce import OpenDraft, check_state_value, edit_between, produce, run_recipe
from reactstate.state.state import State


class Leaf(BaseModel):
    n: int = 0
    words: list[str] = []


class Cat(State):
    type: Literal["cat"] = "cat"
    lives: int = 9


class Dog(State):
    type: Literal["dog"] = "dog"
    tricks: list[int] = []


class Twig(State):
    n: int = 0
    numbers: list[int] = []
    leaf: Leaf = Leaf()
    twigs: list[Twig] = []
    table: dict[str, list[int]] = {}


class Plant(State):
    n: int = 0
    ratio: float = 0.0
    twig: Twig = Twig()
    twigs: list[Twig] = []
    numbers: list[int] = []
    nested: list[list[int]] = []
    table: dict[str, list[int]] = {}
    by_name: dict[str, Twig] = {}
    tags: set[str] = set()
    sets: dict[str, set[int]] = {}
    entries: Map[str, Twig] = Map()
    counts: Map[str, int] = Map()
    maps: list[Map[str, list[int]]] = []
    loose: set[int | float | bool] = set()
    mixed: dict[int | float | bool, int] = {}
    anything: JsonValue = None
    pet: Annotated[Cat | Dog, Field(discriminator="type")] = Cat()
    perhaps: Twig | None = None
    checked: Annotated[list[list[int]], pydantic.AfterValidator(lambda value: value)] = []


KEYS = st.sampled_from(["a", "b", "c", "d/~", ""])
INTS = st.integers(0, 3)
MIXED = st.sampled_from([0, 1, False, True, 0.0, -0.0, 1.0, 2, 2.5])
NUMBERS = st.lists(INTS, max_size=4)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTS | st.sampled_from([0.0, -0.0, 1.0]) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
LEAVES = st.fixed_dictionaries({"n": INTS, "words": st.lists(KEYS, max_size=2)})
TWIGS: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries({"n": INTS, "numbers": NUMBERS, "leaf": LEAVES}),
    lambda inner: st.fixed_dictionaries(
        {"n": INTS, "twigs": st.lists(inner, max_size=2), "table": st.dictionaries(KEYS, NUMBERS, max_size=2)}
    ),
    max_leaves=3,
)
TWIG_STATES = TWIGS.map(Twig.model_validate)
PETS = st.one_of(
    st.fixed_dictionaries({"type": st.just("cat"), "lives": INTS}),
    st.fixed_dictionaries({"type": st.just("dog"), "tricks": NUMBERS}),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": INTS,
    "ratio": st.floats(),
    "twig": TWIGS,
    "twigs": st.lists(TWIGS, max_size=3),
    "numbers": NUMBERS,
    "nested": st.lists(NUMBERS, max_size=3),
    "table": st.dictionaries(KEYS, NUMBERS, max_size=3),
    "by_name": st.dictionaries(KEYS, TWIGS, max_size=2),
    "tags": st.sets(KEYS, max_size=3),
    "sets": st.dictionaries(KEYS, st.sets(INTS, max_size=3), max_size=2),
    "entries": st.dictionaries(KEYS, TWIGS, max_size=3),
    "counts": st.dictionaries(KEYS, INTS, max_size=3),
    "maps": st.lists(st.dictionaries(KEYS, NUMBERS, max_size=2), max_size=2),
    "loose": st.sets(MIXED, max_size=3),
    "mixed": st.dictionaries(MIXED, INTS, max_size=3),
    "anything": JSON,
    "pet": PETS,
    "perhaps": st.none() | TWIGS,
    "checked": st.lists(NUMBERS, max_size=2),
}
PLANTS = st.fixed_dictionaries({}, optional=FIELDS).map(Plant.model_validate)


class Plain:
    """A model as a plain object, to be changed beside a draft."""

    def __init__(self, model: BaseModel) -> None:
        for name in type(model).model_fields:
            setattr(self, name, plain(getattr(model, name)))


def plain(value: Any) -> Any:
    """Return *value* as plain objects, lists, dicts and sets."""
    if isinstance(value, BaseModel):
        return Plain(value)
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if isinstance(value, tuple) else [plain(one) for one in value]
    if isinstance(value, dict | Map):
        return {key: plain(one) for key, one in value.items()}
    return set(value) if isinstance(value, set) else value


def document_of(value: Any) -> Any:
    """Return what pydantic can make the state of."""
    if isinstance(value, Plain):
        return {name: document_of(one) for name, one in vars(value).items()}
    if isinstance(value, list):
        return [document_of(one) for one in value]
    if isinstance(value, dict):
        return {key: document_of(one) for key, one in value.items()}
    return value


def like(x: Any, value: Any) -> Any:
    """Return a copy of *value* to put into *x*: plain, if *x* is."""
    return plain(value) if isinstance(x, list | dict | Plain) else copy.deepcopy(value)


def _list_steps(draw: Any, values: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Return a change of a list; the argument is the list, as a draft or plain."""
    kind = draw(st.integers(0, 10))
    at, value, more = draw(st.integers(-3, 3)), draw(values), draw(st.lists(values, max_size=2))

    def change(x: Any) -> Any:
        if kind == 0:
            x.append(like(x, value))
        elif kind == 1:
            x.insert(at, like(x, value))
        elif kind == 2:
            x.extend([like(x, one) for one in more])
        elif kind == 3:
            x.reverse()
        elif kind == 4:
            x[at:] = [like(x, one) for one in more]
        elif kind == 5:
            del x[:2]
        elif kind == 6:
            x.clear()
        elif not x:
            x.append(like(x, value))
        elif kind == 7:
            x[at % len(x)] = like(x, value)
        elif kind == 8:
            del x[at % len(x)]
        elif kind == 9:
            x.append(x.pop(at % len(x)))
        else:
            x[0], x[-1] = x[-1], x[0]

    return change


def _dict_steps(draw: Any, keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    kind, key, other, value = draw(st.integers(0, 5)), draw(keys), draw(keys), draw(values)

    def change(x: Any) -> Any:
        if kind == 0:
            x[key] = like(x, value)
        elif kind == 1:
            x.pop(key, None)
        elif kind == 2:
            x.setdefault(key, like(x, value))
        elif kind == 3:
            x.pop(key, None)
            x[other] = like(x, value)
        elif kind == 4:
            x.update({other: like(x, value)})
        elif key in x:
            x[other] = x.pop(key)

    return change


def _set_steps(draw: Any, values: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    kind, value, more = draw(st.integers(0, 5)), draw(values), draw(st.sets(values, max_size=3))

    def change(x: Any) -> Any:
        if kind == 0:
            x.add(value)
        elif kind == 1:
            x.discard(value)
        elif kind == 2:
            x.update(more)
        elif kind == 3:
            x.symmetric_difference_update(more)
        elif kind == 4:
            x.clear()
            x.update(more)
        else:
            for one in list(x):
                if one not in more:
                    x.remove(one)

    return change


def _some(x: Any, key: str) -> Any:
    """Return some part of a list or mapping, or None."""
    if not x:
        return None
    return x[sorted(x)[len(key) % len(x)]] if hasattr(x, "keys") else x[len(key) % len(x)]


def _at(part: Callable[[Any], Any], step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return *step*, done to what *part* finds, if it finds anything."""

    def change(x: Any) -> None:
        found = part(x)
        if found is not None:
            step(found)

    return change


def _twig_steps(draw: Any) -> Callable[[Any], Any]:
    where, key, n = draw(st.integers(0, 4)), draw(KEYS), draw(INTS)
    kind = draw(st.integers(0, 3))
    steps = [
        lambda: _list_steps(draw, INTS),
        lambda: _list_steps(draw, TWIG_STATES),
        lambda: _dict_steps(draw, KEYS, NUMBERS),
        lambda: None,
    ][kind]()

    def change(x: Any) -> None:
        twig = (x.twig, x.perhaps, _some(x.twigs, key), _some(x.by_name, key), _some(x.entries, key))[where]
        if twig is None:
            return
        twig.n = n
        if kind == 3:
            twig.leaf.n += 1
            twig.leaf.words.append(key)
        else:
            steps((twig.numbers, twig.twigs, twig.table)[kind])

    return change


def _json_steps(draw: Any) -> Callable[[Any], Any]:
    key, value = draw(KEYS), draw(JSON)

    def change(x: Any) -> None:
        for one in (
            x.anything,
            _some(x.anything, key) if not isinstance(x.anything, str) and _sized(x.anything) else None,
        ):
            if hasattr(one, "append"):
                one.append(like(x, value))
            elif hasattr(one, "keys"):
                one[key] = like(x, value)
            else:
                x.anything = {key: like(x, value)}

    return change


def _sized(value: Any) -> bool:
    return hasattr(value, "append") or hasattr(value, "keys")


def _pet_steps(draw: Any) -> Callable[[Any], Any]:
    value, numbers = draw(INTS), _list_steps(draw, INTS)

    def change(x: Any) -> None:
        if x.pet.type == "dog":
            numbers(x.pet.tricks)
        else:
            x.pet.lives = value

    return change


def _whole_steps(draw: Any) -> Callable[[Any], Any]:
    field = draw(st.sampled_from(list(FIELDS)))
    whole = draw(FIELDS[field])
    return lambda x: _assign(x, field, copy.deepcopy(whole))


def _same_steps(draw: Any) -> Callable[[Any], Any]:
    def change(x: Any) -> None:
        x.numbers, x.counts, x.tags = list(x.numbers), dict(x.counts), set(x.tags)

    return change


def _number_steps(draw: Any) -> Callable[[Any], Any]:
    value = draw(INTS)
    return lambda x: setattr(x, "n", value)


STEPS: list[Callable[[Any], Callable[[Any], Any]]] = [
    _number_steps,
    _whole_steps,
    _same_steps,
    _pet_steps,
    _json_steps,
    _twig_steps,
    _twig_steps,
    _twig_steps,
    lambda draw: _at(lambda x: x.numbers, _list_steps(draw, INTS)),
    lambda draw: _at(lambda x: x.nested, _list_steps(draw, NUMBERS)),
    lambda draw: _at(lambda x: _some(x.nested, "abc"), _list_steps(draw, INTS)),
    lambda draw: _at(lambda x: x.table, _dict_steps(draw, KEYS, NUMBERS)),
    lambda draw: _at(lambda x: _some(x.table, "ab"), _list_steps(draw, INTS)),
    lambda draw: _at(lambda x: x.tags, _set_steps(draw, KEYS)),
    lambda draw: _at(lambda x: x.sets, _dict_steps(draw, KEYS, st.sets(INTS, max_size=2))),
    lambda draw: _at(lambda x: _some(x.sets, "ab"), _set_steps(draw, INTS)),
    lambda draw: _at(lambda x: x.counts, _dict_steps(draw, KEYS, INTS)),
    lambda draw: _at(lambda x: x.entries, _dict_steps(draw, KEYS, TWIG_STATES)),
    lambda draw: _at(lambda x: x.by_name, _dict_steps(draw, KEYS, TWIG_STATES)),
    lambda draw: _at(lambda x: x.twigs, _list_steps(draw, TWIG_STATES)),
    lambda draw: _at(lambda x: _some(x.maps, "a"), _dict_steps(draw, KEYS, NUMBERS)),
    lambda draw: _at(lambda x: x.checked, _list_steps(draw, NUMBERS)),
    lambda draw: _at(lambda x: _some(x.checked, "ab"), _list_steps(draw, INTS)),
    lambda draw: _at(lambda x: x.loose, _set_steps(draw, MIXED)),
    lambda draw: _at(lambda x: x.mixed, _dict_steps(draw, MIXED, INTS)),
]


@st.composite
def changes(draw: Any) -> Callable[[Any], Any]:
    """A change of a Plant, as a draft or as a plain object."""
    change: Callable[[Any], Any] = draw(st.sampled_from(STEPS))(draw)
    return change


def _assign(x: Any, field: str, value: Any) -> None:
    """Assign a whole field: to the plain object, what it looks like there."""
    setattr(x, field, plain(getattr(Plant.model_validate({field: value}), field)) if isinstance(x, Plain) else value)


@settings(max_examples=120, deadline=None)
@given(PLANTS, st.lists(changes(), min_size=1, max_size=6))
def test_a_recipe_does_what_it_would_do_to_a_deep_copy(base: Plant, recipe: list[Callable[[Any], Any]]) -> None:
    before = to_document(base)
    expected = plain(base)
    for change in recipe:
        change(expected)

    def run(draft: Plant) -> None:
        for change in recipe:
            change(draft)

    produced = produce(base, run)
    state, document = produced.state, to_document(produced.state)

    # the result is the same, and the base is what it was
    assert documents_equal(document, to_document(Plant.model_validate(document_of(expected))))
    assert documents_equal(to_document(base), before)
    # nothing changed: the base itself, and only then
    assert (state is base) == documents_equal(before, document) == (produced.patch == [])
    assert states_equal(state, base) == (state is base)
    # the patches lead there and back
    assert documents_equal(apply_patch(before, produced.patch), document)
    assert documents_equal(apply_patch(document, produced.inverse), before)
    # what was not touched is shared
    touched = {operation["path"].split("/")[1] for operation in produced.patch}
    for name in Plant.model_fields:
        if name not in touched:
            assert getattr(state, name) is getattr(base, name)
    _assert_shared(base, state)
    # the edits lead there and back on the values, sharing what they do not touch
    back = apply_edits(state, invert_edits(produced.edits))
    forth = apply_edits(base, produced.edits)
    for made, wanted in ((back, base), (forth, state)):
        assert states_equal(made, wanted)
        assert documents_equal(to_document(made), to_document(wanted))
        for name in Plant.model_fields:
            if name not in touched:
                assert getattr(made, name) is getattr(wanted, name)
    # the result is a state like any other
    assert states_equal(from_document(Plant, document), state)
    assert documents_equal(to_document(base), before)


def _assert_shared(old: Any, new: Any) -> None:
    """Parts at the same place whose documents are equal must be one object, unless they are scalars."""
    if old is new or type(old) is not type(new):
        return
    if isinstance(old, BaseModel):
        for name in type(old).model_fields:
            _assert_shared(getattr(old, name), getattr(new, name))
            assert not _equal_parts(getattr(old, name), getattr(new, name))
    elif isinstance(old, dict | Map):
        for key in old.keys() & new.keys():
            _assert_shared(old[key], new[key])


def _equal_parts(a: Any, b: Any) -> bool:
    """Say whether two models, or lists of them, that are not one object have equal documents."""
    return a is not b and isinstance(a, State) and states_equal(a, b)


@settings(max_examples=50, deadline=None)
@given(PLANTS, PLANTS)
def test_a_whole_new_state_gives_patches_and_edits_as_a_recipe_does(base: Plant, other: Plant) -> None:
    produced = produce(base, lambda draft: other)
    before, after = to_document(base), to_document(other)
    assert produced.state is (base if documents_equal(before, after) else other)
    assert documents_equal(apply_patch(before, produced.patch), after)
    assert documents_equal(apply_patch(after, produced.inverse), before)
    assert states_equal(apply_edits(base, produced.edits), other)
    assert states_equal(apply_edits(other, invert_edits(produced.edits)), base)
    assert edit_between(base, base) == (base, [])


@settings(max_examples=40, deadline=None)
@given(PLANTS, st.lists(st.lists(changes(), min_size=1, max_size=2), min_size=1, max_size=6))
def test_going_back_many_versions_at_once_leads_to_the_first(base: Plant, recipes: list[Any]) -> None:
    states, undo = [base], []
    for recipe in recipes:
        state, edits = run_recipe(
            states[-1], lambda draft, recipe=recipe: [change(draft) for change in recipe] and None
        )
        states.append(state)
        undo.append(invert_edits(edits))
    newest = to_document(states[-1])
    back = apply_edits(states[-1], [edit for edits in reversed(undo) for edit in edits])
    assert states_equal(back, base)
    assert documents_equal(to_document(states[-1]), newest), "going back changes no state"


# --- recipes ------------------------------------------------------------------------------------------------------


def test_a_recipe_that_raises_changes_nothing() -> None:
    base = Plant(numbers=[1])
    document = to_document(base)

    def recipe(draft: Plant) -> None:
        draft.n = 5
        draft.numbers.append(2)
        raise LookupError("half-way")

    with pytest.raises(LookupError, match="half-way"):
        produce(base, recipe)
    assert to_document(base) == document


def test_a_whole_new_state_may_be_returned_but_not_as_well() -> None:
    base = Plant(n=1)
    assert produce(base, lambda draft: Plant(n=2)).state == Plant(n=2)
    assert produce(base, lambda draft: Plant(n=1)).state is base
    assert produce(base, lambda draft: base).state is base

    def both(draft: Plant) -> Plant:
        draft.n = 5
        return Plant(n=2)

    with pytest.raises(StateValidationError, match="do one of both"):
        produce(base, both)


def test_a_state_of_a_subclass_is_refused_and_other_results_are_ignored() -> None:
    class Special(Plant):
        price: int = 0

    base = Plant(numbers=[1, 2], perhaps=Twig())
    with pytest.raises(StateValidationError, match="a Plant is needed here, not a Special"):
        produce(base, lambda draft: Special())
    for result in (5, "x", Twig(), [Plant()], object()):
        assert produce(base, lambda draft, result=result: result).state is base
    assert produce(base, lambda draft: draft.numbers.pop()).state.numbers == [1]
    assert produce(base, lambda draft: draft).state is base
    assert produce(base, lambda draft: draft.perhaps).state is base
    assert produce(base, lambda draft: setattr(draft, "n", 7) or draft).state.n == 7


def test_what_runs_later_is_no_recipe() -> None:
    async def coroutine(draft: Plant) -> None:
        draft.n = 5

    async def asynchronous_generator(draft: Plant) -> Any:
        draft.n = 5
        yield 1

    def generator(draft: Plant) -> Any:
        draft.n = 5
        yield 1

    def future(draft: Plant) -> Any:
        return asyncio.new_event_loop().create_future()

    base = Plant()
    for recipe in (coroutine, asynchronous_generator, generator):
        with pytest.raises(TypeError, match="a recipe must be a plain function"):
            produce(base, recipe)
    loop = asyncio.new_event_loop()
    try:
        waiting = loop.create_future()
        with pytest.raises(TypeError, match="a recipe must be a plain function"):
            produce(base, lambda draft: waiting)
    finally:
        loop.close()
    assert base.n == 0


def test_arguments_go_to_the_recipe() -> None:
    def add(draft: Plant, name: str, n: int = 1) -> None:
        draft.counts[name] = n

    assert produce(Plant(), add, "a").state.counts == {"a": 1}
    assert produce(Plant(), add, "a", 5).state.counts == {"a": 5}
    with pytest.raises(TypeError, match="further arguments need a recipe"):
        produce(Plant(), {"n": 1}, 5)
    with pytest.raises(TypeError, match="a recipe is a function of a draft, or a mapping of fields, not a int"):
        produce(Plant(), 5)  # type: ignore[arg-type]


def test_a_mapping_sets_fields_by_name() -> None:
    assert produce(Plant(), {"n": 3, "numbers": [1]}).state == Plant(n=3, numbers=[1])
    assert produce(Plant(), MappingProxyType({"n": 3})).state.n == 3
    assert produce(base := Plant(), {}).state is base
    for bad in ({"other": 1}, {"model_fields": 1}, {"merge": 1}, {5: 1}):
        with pytest.raises(StateValidationError, match="Plant has no field"):
            produce(Plant(), bad)
    with pytest.raises(StateValidationError, match=r"Plant\.n"):
        produce(Plant(), {"ratio": 1.0, "n": "x"})


def test_a_result_unpacks_and_shows_itself() -> None:
    produced = produce(Plant(n=1), {"n": 2})
    state, patch, inverse = produced
    assert state.n == 2
    assert patch == [{"op": "replace", "path": "/n", "value": 2}]
    assert inverse == [{"op": "replace", "path": "/n", "value": 1}]
    assert produced.patch is produced.patch
    assert produced.inverse is produced.inverse
    assert repr(produced).startswith("Produced(state=Plant(n=2,")


def test_a_recipe_may_use_produce_itself_and_other_drafts() -> None:
    def recipe(draft: Plant) -> None:
        other = produce(Plant(n=1, numbers=[1]), lambda inner: inner.numbers.extend(draft.numbers)).state
        draft.numbers = other.numbers

        def inner(second: Plant) -> None:
            second.twig = draft.twig
            draft.twigs.append(second.twig)

        produce(Plant(), inner)

    new = produce(Plant(numbers=[5], twig=Twig(n=3)), recipe).state
    assert new.numbers == [1, 5]
    assert new.twigs == [Twig(n=3)]


# --- transitions and validators -----------------------------------------------------------------------------------


class Order(State):
    status: Literal["open", "paid", "shipped"] = "open"
    paid: int = 0
    seen: list[str] = []

    def check_transition(self, previous: Order) -> None:
        if previous.status == "shipped" and self.status != "shipped":
            raise TransitionError("what was shipped stays shipped")


def test_a_transition_that_is_refused_changes_nothing() -> None:
    shipped = Order(status="shipped")
    for recipe in ({"status": "open"}, lambda draft: setattr(draft, "status", "open"), lambda draft: Order()):
        with pytest.raises(TransitionError, match="stays shipped"):
            produce(shipped, recipe)
    assert shipped.status == "shipped"
    assert produce(shipped, {"paid": 5}).state.paid == 5
    assert produce(shipped, {"status": "shipped"}).state is shipped, "nothing changed, so nothing is asked"


def test_an_open_draft_asks_for_the_transition_too() -> None:
    opened = OpenDraft(Order(status="shipped"))
    opened.draft.status = "open"
    with pytest.raises(TransitionError):
        opened.finish()


def test_model_validators_run_once_per_changed_model_innermost_first() -> None:
    calls: list[str] = []

    class Inner(State):
        n: int = 0

        @model_validator(mode="after")
        def log(self) -> Self:
            calls.append(f"inner {self.n}")
            if self.n > 100:
                raise ValueError("too much")
            return self

    class Middle(BaseModel):
        inner: Inner = Inner()
        m: int = 0

        @model_validator(mode="after")
        def log(self) -> Self:
            calls.append(f"middle {self.m} {self.inner.n}")
            return self

    class Outer(State):
        middle: Middle = Middle()
        other: Inner = Inner()
        inners: dict[str, Inner] = {}

        @model_validator(mode="after")
        def log(self) -> Self:
            calls.append(f"outer {self.middle.m}")
            return self

    base = Outer(inners={"a": Inner()})

    def recipe(draft: Outer) -> None:
        draft.middle.inner.n = 1
        draft.middle.inner.n = 2
        draft.middle.m = 3

    calls.clear()
    new = produce(base, recipe).state
    assert calls == ["inner 2", "middle 3 2", "outer 3"]
    assert new.other is base.other
    calls.clear()
    assert produce(base, lambda draft: setattr(draft, "other", base.other)).state is base
    assert calls == []
    with pytest.raises(StateValidationError, match=r"Outer\.inners\.a: Value error, too much"):
        produce(base, lambda draft: setattr(draft.inners["a"], "n", 101))


def test_a_validator_that_undoes_the_change_gives_the_base_itself() -> None:
    class Clamped(State):
        n: int = 0
        items: list[int] = []

        @model_validator(mode="after")
        def clamp(self) -> Self:
            self.n = min(self.n, 10)
            return self

    class Owner(State):
        clamped: Clamped = Clamped(n=10)

    base = Clamped(n=10, items=[1])
    assert produce(base, {"n": 50}).state is base
    new = produce(base, lambda draft: (setattr(draft, "n", 50), draft.items.append(2))).state
    assert new.n == 10
    assert new.items == [1, 2]
    assert produce(owner := Owner(), lambda draft: setattr(draft.clamped, "n", 99)).state is owner


def test_an_error_of_the_users_own_code_goes_through_as_it_is() -> None:
    class Broken(State):
        n: int = 0

        @model_validator(mode="after")
        def fail(self) -> Self:
            if self.n:
                raise KeyError("mine")
            return self

    with pytest.raises(KeyError, match="mine"):
        produce(Broken(), {"n": 1})


def test_check_state_value_takes_exactly_the_type() -> None:
    state = Order()
    assert check_state_value(Order, state) is state
    for other in (Plant(), None, {}, "x"):
        with pytest.raises(StateValidationError, match="a Order is needed here"):
            check_state_value(Order, other)


def test_a_state_without_fields_can_be_produced_from() -> None:
    class Nothing(State):
        pass

    base = Nothing()
    assert produce(base, lambda draft: None).state is base
    assert produce(base, lambda draft: Nothing()).state is base
    assert to_document(base) == {}
    assert from_document(Nothing, {}) == base


def test_the_fields_that_were_set_are_known_afterwards() -> None:
    base = Plant(n=1)
    new = produce(base, lambda draft: (setattr(draft, "ratio", 1.0), draft.numbers.append(1))).state
    assert new.model_fields_set == {"n", "ratio"}
    assert produce(new, {"ratio": 2.0}).state.model_fields_set == {"n", "ratio"}
    assert base.model_fields_set == {"n"}
