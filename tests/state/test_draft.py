"""Drafts read and write like the model, the dict, the list and the set that they stand for."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, MutableMapping, MutableSequence, MutableSet
from typing import Any

import pytest
from pydantic import BaseModel, JsonValue

from reactstate.errors import FrozenStateError, StateValidationError
from reactstate.state.draft import is_draft, node_of
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet
from reactstate.state.maps import Map
from reactstate.state.produce import OpenDraft, produce
from reactstate.state.state import State


class Child(State):
    n: int = 0
    tags: list[str] = []
    inner: Child | None = None

    def double(self) -> None:
        self.n *= 2

    @property
    def label(self) -> str:
        return f"child {self.n}"

    @label.setter
    def label(self, value: str) -> None:
        self.n = int(value.removeprefix("child "))


class Plain(BaseModel):
    n: int = 0
    items: list[int] = []


class Board(State):
    title: str = ""
    a: Child = Child()
    b: Child = Child()
    perhaps: Child | None = None
    children: list[Child] = []
    numbers: list[int] = []
    nested: list[list[int]] = []
    table: dict[str, list[int]] = {}
    by_name: dict[str, Child] = {}
    tags: set[str] = set()
    entries: Map[str, Child] = Map()
    lists: Map[str, list[int]] = Map()
    plain: Plain = Plain()
    anything: JsonValue = None
    pair: tuple[int, Child] = (0, Child())
    by_number: dict[int, int] = {}


def full() -> Board:
    return Board(
        a=Child(n=1, tags=["x"]),
        b=Child(n=2),
        children=[Child(n=n) for n in range(5)],
        numbers=[3, 1, 2],
        nested=[[1], [2]],
        table={"x": [1], "y": [2]},
        by_name={"k": Child(n=7)},
        tags={"p", "q"},
        entries={"e": Child(n=9)},
        lists={"l": [1]},
        plain=Plain(n=1, items=[1]),
        anything={"deep": [{"er": [1]}]},
    )


def run(recipe: Callable[[Board], Any], base: Board | None = None) -> Board:
    return produce(base if base is not None else full(), recipe).state


# --- models -------------------------------------------------------------------------------------------------------


def test_a_draft_is_an_instance_of_its_model_and_runs_its_methods_and_properties() -> None:
    def recipe(draft: Board) -> None:
        assert isinstance(draft, Board)
        assert isinstance(draft.a, Child)
        assert isinstance(draft.plain, Plain)
        assert draft.a is draft.a
        assert draft.a.label == "child 1"
        draft.a.double()
        draft.a.double()
        draft.b.label = "child 30"
        draft.plain.items.append(2)
        assert draft.a.label == "child 4"
        assert draft.model_fields_set == full().model_fields_set

    new = run(recipe)
    assert (new.a.n, new.b.n, new.plain.items) == (4, 30, [1, 2])


def test_container_drafts_are_mutable_collections() -> None:
    def recipe(draft: Board) -> None:
        assert isinstance(draft.numbers, MutableSequence)
        assert isinstance(draft.table, MutableMapping)
        assert isinstance(draft.entries, MutableMapping)
        assert isinstance(draft.tags, MutableSet)

    run(recipe)


def test_an_unknown_name_cannot_be_set_and_no_field_deleted() -> None:
    def unknown(draft: Any) -> None:
        draft.other = 1

    def method(draft: Any) -> None:
        draft.merge = 1

    def deletion(draft: Any) -> None:
        del draft.title

    for recipe in (unknown, method):
        with pytest.raises(StateValidationError, match="Board has no field"):
            run(recipe)
    with pytest.raises(StateValidationError, match="assign its default instead"):
        run(deletion)


def test_a_value_of_the_wrong_type_is_refused_at_once_with_its_place() -> None:
    cases: list[tuple[Callable[[Any], Any], str]] = [
        (lambda d: setattr(d, "title", 5), r"^Board\.title: "),
        (lambda d: setattr(d, "title", "\ud800"), r"^Board\.title: "),
        (lambda d: setattr(d.a, "n", "x"), r"^Child\.n: "),
        (lambda d: d.numbers.append("x"), r"^Board\.numbers: "),
        (lambda d: d.nested[1].append("x"), r"^Board\.nested\.1: "),
        (lambda d: d.nested.append([1, "x"]), r"^Board\.nested\.1: "),
        (lambda d: d.table.update(x=["x"]), r"^Board\.table\.0: "),
        (lambda d: d.table["x"].append(None), r"^Board\.table\.x: "),
        (lambda d: d.tags.add(5), r"^Board\.tags: "),
        (lambda d: d.entries.update(e=5), r"^Board\.entries: "),
        (lambda d: d.children[3].tags.append(5), r"^Board\.children\.3\.tags: "),
        (lambda d: d.children.append(Board()), r"^Board\.children: "),
        (lambda d: d.anything["deep"].append({1, 2}), r"^Board\.anything\.deep"),
        (lambda d: d.by_number.update({"x": 1}), r"^Board\.by_number: "),
        (lambda d: setattr(d.plain, "n", None), r"^Plain\.n: "),
    ]
    for recipe, place in cases:
        with pytest.raises(StateValidationError, match=place):
            run(recipe)


def test_a_refused_value_leaves_the_draft_as_it_was() -> None:
    def recipe(draft: Any) -> None:
        for bad in (
            lambda: setattr(draft, "title", 5),
            lambda: draft.numbers.extend([1, "x"]),
            lambda: draft.table.__setitem__("x", 5),
            lambda: draft.tags.add(5),
            lambda: draft.numbers.__setitem__(slice(0, 2), ["x"]),
            lambda: draft.children.insert(0, 5),
        ):
            with pytest.raises(StateValidationError):
                bad()

    base = full()
    assert run(recipe, base) is base


def test_nested_drafts_can_be_swapped_moved_and_assigned_to_their_own_place() -> None:
    def recipe(draft: Board) -> None:
        draft.a.tags.append("moved")
        draft.a, draft.b = draft.b, draft.a
        draft.a.n += 100
        draft.b.tags.append("again")
        draft.b = draft.b
        draft.b.tags.append("and again")
        draft.perhaps = draft.a
        draft.perhaps.n += 1000
        draft.pair = (1, draft.b)
        draft.children[0] = draft.children[4]
        draft.children[4].n = 44
        draft.anything = {"b": draft.b.n, "all": [draft.a.n]}

    new = run(recipe)
    assert new.a == Child(n=102)
    assert new.b == Child(n=1, tags=["x", "moved", "again", "and again"])
    assert new.perhaps == Child(n=1102)
    assert new.pair == (1, new.b)
    assert [child.n for child in new.children] == [4, 1, 2, 3, 44]
    assert new.anything == {"b": 1, "all": [102]}


def test_none_is_assigned_like_any_other_value_beside_drafts() -> None:
    def recipe(draft: Board) -> None:
        draft.a.n = 5
        draft.perhaps = Child()
        draft.perhaps = None
        draft.anything = None
        draft.title = "t"

    new = run(recipe)
    assert (new.a.n, new.perhaps, new.anything, new.title) == (5, None, None, "t")
    assert run(lambda draft: (draft.a, setattr(draft, "perhaps", None)), Board(perhaps=Child())).perhaps is None


def test_a_draft_put_into_a_new_value_is_copied_as_it_is_just_then() -> None:
    def recipe(draft: Board) -> None:
        draft.a.n = 5
        draft.by_name["copy"] = Child(inner=draft.a, tags=draft.a.tags)
        draft.a.n = 6
        draft.children.append(draft.a)
        draft.a.n = 7
        draft.children += [draft.a]
        draft.lists["copy"] = draft.numbers
        draft.numbers.append(9)
        draft.table = dict(draft.table)
        draft.table["x"].append(5)
        draft.tags = draft.tags | {"new"}
        draft.plain = Plain(items=draft.plain.items)

    new = run(recipe)
    assert new.by_name["copy"] == Child(inner=Child(n=5, tags=["x"]), tags=["x"])
    assert [child.n for child in new.children[-2:]] == [6, 7]
    assert new.lists["copy"] == [3, 1, 2]
    assert new.table == {"x": [1, 5], "y": [2]}
    assert new.tags == {"p", "q", "new"}
    assert type(new.table["y"]) is FrozenList


def test_a_value_that_contains_itself_or_is_shared_is_taken_as_a_value() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    table: dict[str, Any] = {}
    table["me"] = table
    for bad in (cyclic, table, [table], {"a": cyclic}):
        for recipe in (
            lambda d, bad=bad: setattr(d, "anything", bad),
            lambda d, bad=bad: d.anything["deep"].append(bad),
            lambda d, bad=bad: d.nested.append(bad),
        ):
            with pytest.raises(StateValidationError):
                run(recipe)

    def circle(draft: Board) -> None:
        draft.a.inner = draft.a
        draft.a.inner.inner = draft.a

    once = Child(n=1, tags=["x"])
    assert run(circle).a.inner == Child(n=1, tags=["x"], inner=Child(n=1, tags=["x"], inner=once))

    shared = [1]

    def recipe(draft: Board) -> None:
        draft.table = {"a": shared, "b": shared}
        draft.table["a"].append(2)

    assert run(recipe).table == {"a": [1, 2], "b": [1]}
    assert shared == [1]
    gc.collect()


def test_a_draft_is_shown_dumped_compared_and_copied_as_it_is_now() -> None:
    def recipe(draft: Board) -> None:
        draft.a.tags.append("y")
        draft.table["x"].append(9)
        draft.entries["e"].n = 10
        draft.plain.items.append(3)
        draft.title = "t"
        assert draft.model_dump()["a"] == {"n": 1, "tags": ["x", "y"], "inner": None}
        assert '"y"' in draft.model_dump_json()
        assert dict(draft)["table"] == {"x": [1, 9], "y": [2]}
        assert repr(draft).startswith("<draft of Board(title='t'")
        assert "9" in str(draft)
        assert repr(draft.a.tags) == "<draft of ['x', 'y']>"
        assert repr(draft.tags) in {"<draft of FrozenSet({'p', 'q'})>", "<draft of FrozenSet({'q', 'p'})>"}
        assert draft.entries == {"e": Child(n=10)}
        for made in (copy.copy(draft), copy.deepcopy(draft), pickle.loads(pickle.dumps(draft)), draft.model_copy()):
            assert type(made) is Board
            assert made.a.tags == ["x", "y"]
            assert made == draft
        assert pickle.loads(pickle.dumps(draft.numbers)) == [3, 1, 2]
        assert type(copy.copy(draft.numbers)) is FrozenList
        assert type(copy.deepcopy(draft.table)) is FrozenDict
        assert type(copy.copy(draft.tags)) is FrozenSet
        assert draft.a == Child(n=1, tags=["x", "y"])
        assert Child(n=1, tags=["x", "y"]) == draft.a
        assert draft.a != draft.b
        for unhashable in (draft, draft.a, draft.numbers, draft.table, draft.tags, draft.entries):
            with pytest.raises(TypeError):
                hash(unhashable)
        assert draft.model_fields_set == full().model_fields_set | {"title"}
        assert draft.model_extra is None

    run(recipe)


def test_what_stands_in_a_tuple_is_published_and_replaced_as_a_whole() -> None:
    def recipe(draft: Board) -> None:
        assert type(draft.pair[1]) is Child
        with pytest.raises(FrozenStateError):
            draft.pair[1].n = 5
        draft.pair = (1, Child(n=5))

    assert run(recipe).pair == (1, Child(n=5))


# --- life ---------------------------------------------------------------------------------------------------------


def test_no_draft_can_be_used_after_its_recipe() -> None:
    kept: list[Any] = []

    def recipe(draft: Board) -> None:
        kept.extend(
            [
                draft,
                draft.a,
                draft.children[0],
                draft.children.pop(),
                draft.plain,
                draft.entries["e"],
                draft.by_name["k"],
            ]
        )
        kept.extend([draft.numbers, draft.table, draft.table["x"], draft.tags, draft.entries, draft.anything])

    new = run(recipe)
    for draft in kept:
        for use in (
            (
                lambda draft: draft.n,
                lambda draft: setattr(draft, "n", 1),
                lambda draft: delattr(draft, "n"),
                lambda draft: draft.model_dump(),
                lambda draft: vars(draft),
            )
            if isinstance(draft, BaseModel)
            else (
                len,
                list,
                copy.copy,
                lambda draft: draft == [],
                lambda draft: 1 in draft,
                lambda draft: draft.clear(),
                lambda draft: draft.copy(),
            )
        ):
            with pytest.raises(FrozenStateError, match="while its recipe runs"):
                use(draft)
        assert "after its recipe" in repr(draft)
        assert "after its recipe" in str(draft)
        assert isinstance(draft, BaseModel | MutableSequence | MutableMapping | MutableSet)
    for draft in kept:
        with pytest.raises((FrozenStateError, StateValidationError)):
            produce(new, lambda fresh, draft=draft: setattr(fresh, "a", draft))
    for mutate in (
        lambda: kept[-6].append(1),
        lambda: kept[-5].update(a=[1]),
        lambda: kept[-3].add("x"),
        lambda: kept[-2].update(a=Child()),
        lambda: kept[-6].sort(),
        lambda: kept[-6].__setitem__(0, 1),
        lambda: kept[-5].__delitem__("x"),
    ):
        with pytest.raises(FrozenStateError):
            mutate()


def test_a_draft_is_dead_after_a_recipe_that_raised() -> None:
    kept: list[Any] = []

    def recipe(draft: Board) -> None:
        kept.append(draft)
        kept.append(draft.a)
        draft.a.n = 99
        raise KeyError("half-way")

    base = full()
    before = base.model_dump()
    with pytest.raises(KeyError, match="half-way"):
        run(recipe, base)
    assert base.model_dump() == before
    for draft in kept:
        with pytest.raises(FrozenStateError):
            draft.n  # noqa: B018


def test_an_open_draft_is_finished_or_discarded_once() -> None:
    base = full()
    opened = OpenDraft(base)
    opened.draft.a.n = 50
    state, edits = opened.finish()
    assert state.a.n == 50
    assert len(edits) == 1
    with pytest.raises(FrozenStateError):
        opened.draft.title = "x"
    discarded = OpenDraft(base)
    discarded.draft.a.n = 50
    discarded.discard()
    with pytest.raises(FrozenStateError):
        discarded.draft.a  # noqa: B018
    assert base.a.n == 1


def test_is_draft_knows_drafts_only() -> None:
    def recipe(draft: Board) -> None:
        assert is_draft(draft)
        assert is_draft(draft.numbers)
        assert is_draft(draft.a)
        assert node_of(draft.a).where() == "Board.a"
        assert node_of(draft.children[2]).where() == "Board.children.2"

    run(recipe)
    assert not is_draft(full())
    assert not is_draft([])


# --- lists --------------------------------------------------------------------------------------------------------


def _slices(x: Any) -> None:
    x[1:3] = [10, 11, 12]
    x[::2] = [0 for _ in x[::2]]
    x[::-1] = list(x)
    x[5:2] = [7]
    del x[0:1]
    del x[-1:]
    del x[::2]
    del x[10:20]


LISTS: list[Callable[[Any], Any]] = [
    lambda x: x.append(9),
    lambda x: x.extend([9, 8]),
    lambda x: x.extend(x),
    lambda x: x.insert(0, 9),
    lambda x: x.insert(-1, 9),
    lambda x: x.insert(100, 9),
    lambda x: x.insert(-100, 9),
    lambda x: x.pop(),
    lambda x: x.pop(0),
    lambda x: x.pop(-2),
    lambda x: x.remove(1),
    lambda x: x.clear(),
    lambda x: x.reverse(),
    lambda x: x.sort(),
    lambda x: x.sort(key=lambda n: -n),
    lambda x: x.sort(reverse=True),
    lambda x: x.__setitem__(0, 9),
    lambda x: x.__setitem__(-1, 9),
    lambda x: x.__setitem__(slice(None), []),
    lambda x: x.__delitem__(1),
    lambda x: x.__delitem__(-1),
    lambda x: x.__iadd__([1, 2]),
    lambda x: x.__imul__(3),
    lambda x: x.__imul__(0),
    _slices,
]


@pytest.mark.parametrize("mutate", LISTS)
def test_a_list_draft_does_what_a_list_does(mutate: Callable[[Any], Any]) -> None:
    plain = [3, 1, 2, 5, 4]
    mutate(plain)

    def recipe(draft: Board) -> None:
        mutate(draft.numbers)
        assert draft.numbers == plain
        assert list(draft.numbers) == plain
        assert len(draft.numbers) == len(plain)
        assert [draft.numbers[n] for n in range(len(plain))] == plain

    assert run(recipe, Board(numbers=[3, 1, 2, 5, 4])).numbers == plain


def test_a_list_draft_reads_like_a_list() -> None:
    def recipe(draft: Any) -> None:
        x = draft.numbers
        plain = [3, 1, 2]
        assert x[-1] == 2
        assert x[0:2] == [3, 1]
        assert x + [1] == [*plain, 1]  # noqa: RUF005 - the operator is the subject
        assert [1] + x == [1, *plain]  # noqa: RUF005 - as above
        assert x * 2 == 2 * x == plain * 2
        assert x.index(2) == 2
        assert x.index(1, 1) == 1
        assert x.count(1) == 1
        assert 3 in x
        assert 9 not in x
        assert list(reversed(x)) == [2, 1, 3]
        assert x < [4]
        assert x <= [3, 1, 2]
        assert x > [1]
        assert x >= [3]
        assert x != [3]
        assert x.copy() == plain
        assert type(x.copy()) is list
        for bad in (lambda: x[3], lambda: x[-4], lambda: x.pop(5), lambda: x.__setitem__(7, 1)):
            with pytest.raises(IndexError):
                bad()
        for wrong in (lambda: x.index(9), lambda: x.remove(9), lambda: x.index(3, 1)):
            with pytest.raises(ValueError, match="not in the list"):
                wrong()
        with pytest.raises(TypeError):
            draft.children["a"]

    base = full()
    assert run(recipe, base) is base


def test_drafts_of_items_move_with_them() -> None:
    def recipe(draft: Board) -> None:
        second = draft.children[1]
        last = draft.children[-1]
        second.n = 11
        draft.children.insert(0, Child(n=100))
        second.tags.append("still mine")
        assert second in draft.children
        assert draft.children.index(second) == 2
        draft.children.reverse()
        last.n = 44
        draft.children.sort(key=lambda child: child.n)
        second.n = 12
        popped = draft.children.pop(0)
        popped.n = 1000
        draft.children.append(popped)
        popped.n = 2000
        assert draft.children[-1].n == 1000
        assert popped not in draft.children
        draft.children.remove(last)
        last.n = 5000

    base = full()
    new = run(recipe, base)
    assert [child.n for child in new.children] == [2, 3, 12, 100, 1000]
    assert new.children[2].tags == ["still mine"]
    assert new.children[0] is base.children[2]
    assert new.children[1] is base.children[3]


def test_nested_lists_are_drafts_wherever_they_stand() -> None:
    def recipe(draft: Board) -> None:
        draft.nested[0].append(10)
        draft.nested += [[3], [4]]
        draft.nested[2].append(30)
        draft.nested.insert(0, [])
        draft.nested[0].append(0)
        draft.nested[1] += [11]
        draft.nested[3][0] *= 7
        assert draft.nested == [[0], [1, 10, 11], [2], [21, 30], [4]]
        draft.nested.sort(reverse=True)
        assert draft.nested[0] == [21, 30] if draft.nested[0] > draft.nested[1] else True
        draft.nested[0] = draft.nested[1]
        draft.nested[0].append(5)

    base = full()
    new = run(recipe, base)
    assert new.nested == [[4, 5], [4], [2], [1, 10, 11], [0]]
    assert new.nested[2] is base.nested[1]


def test_a_list_may_change_while_it_is_iterated_over() -> None:
    def recipe(draft: Board) -> None:
        for number in draft.numbers:
            if number < 6:
                draft.numbers.append(number + 3)
        for child in draft.children:
            child.n += 1
            if child.n == 3:
                draft.children.remove(child)

    plain = [3, 1, 2]
    for number in plain:
        if number < 6:
            plain.append(number + 3)
    new = run(recipe)
    assert new.numbers == plain
    assert [child.n for child in new.children] == [1, 2, 3, 5]


def test_slices_of_models_keep_their_drafts() -> None:
    def recipe(draft: Board) -> None:
        first, second = draft.children[0:2]
        first.n = 50
        draft.children[:] = sorted(draft.children, key=lambda child: -child.n)
        second.n = 60

    base = full()
    new = run(recipe, base)
    assert [child.n for child in new.children] == [50, 4, 3, 2, 1]
    assert new.children[1] is base.children[4]


class Rows(State):
    rows: list[dict[str, int]] = []
    sets: list[set[int]] = []
    maps: list[Map[str, int]] = []
    perhaps: list[Child | None] = []
    by_name: dict[str, Child | None] = {}
    nested: list[list[int]] = []
    table: dict[str, list[int]] = {}


def test_parts_that_were_only_read_or_changed_back_are_shared() -> None:
    base = Rows(
        rows=[{"a": 1}, {"b": 2}],
        sets=[{1}, {2}],
        maps=[Map({"a": 1})],
        perhaps=[None, Child()],
        by_name={"a": None, "b": Child()},
        nested=[[1], [2]],
        table={"a": [1], "b": [2]},
    )

    def recipe(draft: Any) -> None:
        assert draft.rows[1]["b"] == 2
        assert 2 in draft.sets[1]
        assert draft.maps[0]["a"] == 1
        draft.rows.insert(0, {"new": 1})
        draft.sets.insert(0, {0})
        draft.maps.insert(0, {})
        assert draft.perhaps[0] is None
        draft.perhaps.insert(0, None)
        assert draft.perhaps[1] is None
        assert draft.by_name["a"] is None
        draft.nested[0] = [5]
        draft.nested[0].append(6)
        draft.nested[0] = [1]
        draft.nested[1].append(3)
        draft.nested[1].pop()
        draft.table["a"] = [1]
        draft.table["b"] = [7]
        draft.table["b"].append(8)
        draft.rows[1]["a"] = 1
        draft.sets[1].add(1)
        draft.maps[1]["a"] = 1

    new = produce(base, recipe).state
    assert new.rows[1] is base.rows[0]
    assert new.rows[2] is base.rows[1]
    assert new.sets[1] is base.sets[0]
    assert new.maps[1] is base.maps[0]
    assert new.nested is base.nested
    assert new.table["a"] is base.table["a"]
    assert new.table["b"] == [7, 8]
    assert new.by_name is base.by_name
    assert produce(base, lambda d: (d.nested.__setitem__(0, [9]), d.nested[0].append(1))).state.nested == [[9, 1], [2]]
    assert produce(base, lambda d: (d.nested[0].append(1), d.nested[0].pop())).state is base


def test_the_class_of_a_draft_has_no_fields_as_attributes() -> None:
    def recipe(draft: Board) -> None:
        assert not hasattr(type(draft), "children")
        object.__setattr__(draft, "numbers", [7])
        with pytest.raises(StateValidationError):
            object.__setattr__(draft, "numbers", "x")

    assert run(recipe).numbers == [7]


def test_a_node_is_abstract() -> None:
    from reactstate.state.draft import Node

    with pytest.raises(NotImplementedError):
        Node().finish(None, [])
    with pytest.raises(NotImplementedError):
        Node().current()


# --- dicts and maps -----------------------------------------------------------------------------------------------


DICTS: list[Callable[[Any], Any]] = [
    lambda x: x.__setitem__("a", 9),
    lambda x: x.__setitem__("new", 9),
    lambda x: x.__delitem__("a"),
    lambda x: x.pop("a"),
    lambda x: x.pop("none", 0),
    lambda x: x.update(a=5, z=6),
    lambda x: x.update({"q": 1}),
    lambda x: x.update([("q", 1)]),
    lambda x: x.setdefault("a", 3),
    lambda x: x.setdefault("new", 3),
    lambda x: x.clear(),
    lambda x: x.__ior__({"a": 7, "r": 1}),
    lambda x: (x.pop("a"), x.update(a=1)),
    lambda x: (x.clear(), x.update(b=2)),
    lambda x: [x.__setitem__(key, value + 1) for key, value in list(x.items())],
]


class Tables(State):
    table: dict[str, int] = {}
    entries: Map[str, int] = Map()


@pytest.mark.parametrize("mutate", DICTS)
def test_dict_and_map_drafts_do_what_a_dict_does(mutate: Callable[[Any], Any]) -> None:
    start = {"a": 1, "b": 2}
    plain = dict(start)
    mutate(plain)
    base = Tables(table=start, entries=start)

    def recipe(draft: Tables) -> None:
        for x in (draft.table, draft.entries):
            mutate(x)
            assert x == plain
            assert dict(x) == plain
            assert sorted(x) == sorted(plain)
            assert len(x) == len(plain)
            assert {key: x[key] for key in plain} == plain

    new = produce(base, recipe).state
    assert new.table == plain
    assert new.entries == plain
    assert new is base if plain == start else list(new.table) == list(plain)


def test_dict_drafts_read_like_dicts() -> None:
    def recipe(draft: Tables) -> None:
        for x in (draft.table, draft.entries):
            assert "a" in x
            assert "z" not in x
            assert x.get("z") is None
            assert x.get("a") == 1
            assert x | {"z": 1} == {"a": 1, "b": 2, "z": 1}  # type: ignore[operator]
            assert {"z": 1} | x == {"a": 1, "b": 2, "z": 1}  # type: ignore[operator]
            assert x.copy() == {"a": 1, "b": 2}  # type: ignore[attr-defined]
            assert x.keys() == {"a", "b"}
            assert sorted(x.values()) == [1, 2]
            assert [*reversed(x)] == [*x][::-1]  # type: ignore[call-overload]
            assert x != {"a": 1}
            assert x != 5
            for missing in (lambda x=x: x["z"], lambda x=x: x.pop("z"), lambda x=x: x.__delitem__("z")):
                with pytest.raises(KeyError):
                    missing()
            with pytest.raises(StateValidationError):
                x[[]] = 1  # type: ignore[index]
            with pytest.raises(TypeError):
                x[[]]  # type: ignore[index]
        assert draft.table == draft.entries

    base = Tables(table={"a": 1, "b": 2}, entries={"a": 1, "b": 2})
    assert produce(base, recipe).state is base


def test_popitem_takes_the_newest_entry_until_none_is_left() -> None:
    def recipe(draft: Tables) -> None:
        assert draft.table.popitem() == ("b", 2)
        draft.table["c"] = 3
        assert draft.table.popitem() == ("c", 3)
        assert draft.table.popitem() == ("a", 1)
        with pytest.raises(KeyError):
            draft.table.popitem()

    assert produce(Tables(table={"a": 1, "b": 2}), recipe).state.table == {}


def test_parts_of_dicts_and_maps_are_drafts() -> None:
    def recipe(draft: Board) -> None:
        draft.table.setdefault("new", []).append(1)
        draft.table["x"] += [2]
        draft.table["y"].append(3)
        draft.lists.setdefault("new", []).append(1)
        draft.lists["l"] += [2]
        draft.by_name["k"].tags.append("t")
        draft.entries["e"].double()
        draft.entries["e"].tags.append("u")
        assert draft.entries["e"].n == 18
        popped = draft.by_name.pop("k")
        popped.n = 70
        draft.by_name["moved"] = popped
        for child in draft.entries.values():
            child.n += 1
        for key, value in draft.table.items():
            value.append(len(key))
        draft.anything["deep"][0]["er"].append(2)  # type: ignore[index, call-overload, union-attr]
        draft.anything["deep"][0]["more"] = {"x": None}  # type: ignore[index, call-overload]
        draft.anything["deep"] += ["end"]  # type: ignore[index, call-overload, operator]

    new = run(recipe)
    assert new.table == {"x": [1, 2, 1], "y": [2, 3, 1], "new": [1, 3]}
    assert new.lists == {"l": [1, 2], "new": [1]}
    assert new.by_name == {"moved": Child(n=70, tags=["t"])}
    assert new.entries == {"e": Child(n=19, tags=["u"])}
    assert new.anything == {"deep": [{"er": [1, 2], "more": {"x": None}}, "end"]}


def test_a_key_is_validated_like_a_value() -> None:
    def recipe(draft: Any) -> None:
        draft.by_number["5"] = "6"
        assert draft.by_number.setdefault("7", 8) == 8
        assert draft.by_number == {5: 6, 7: 8}

    assert run(recipe).by_number == {5: 6, 7: 8}


# --- sets ---------------------------------------------------------------------------------------------------------


def _in_place(x: Any) -> None:
    x |= {"n"}
    x &= {"n", "p", "z"}
    x ^= {"p", "w"}
    x -= {"w"}


SETS: list[Callable[[Any], Any]] = [
    lambda x: x.add("n"),
    lambda x: x.add("p"),
    lambda x: x.discard("p"),
    lambda x: x.discard("none"),
    lambda x: x.remove("p"),
    lambda x: x.clear(),
    lambda x: x.update(["n", "m"], {"o"}),
    lambda x: x.update(),
    lambda x: x.difference_update(["p"], ["q"]),
    lambda x: x.difference_update(x),
    lambda x: x.intersection_update(["p", "z"]),
    lambda x: x.symmetric_difference_update(["p", "n"]),
    lambda x: x.update(x),
    _in_place,
]


@pytest.mark.parametrize("mutate", SETS)
def test_a_set_draft_does_what_a_set_does(mutate: Callable[[Any], Any]) -> None:
    plain = {"p", "q"}
    mutate(plain)

    def recipe(draft: Board) -> None:
        mutate(draft.tags)
        assert draft.tags == plain
        assert set(draft.tags) == plain
        assert len(draft.tags) == len(plain)

    base = full()
    new = run(recipe, base)
    assert new.tags == plain
    assert type(new.tags) is FrozenSet
    assert (new is base) == (plain == {"p", "q"})


def test_a_set_draft_reads_like_a_set() -> None:
    def recipe(draft: Any) -> None:
        x = draft.tags
        assert "p" in x
        assert x | {"n"} == {"p", "q", "n"}
        assert {"n"} | x == {"p", "q", "n"}
        assert x & {"p"} == {"p"}
        assert x - {"p"} == {"q"}
        assert {"p", "n"} - x == {"n"}
        assert x ^ {"p"} == {"q"}
        assert x.union(["n"]) == {"p", "q", "n"}
        assert x.intersection(["p"]) == {"p"}
        assert x.difference(["p"]) == {"q"}
        assert x.symmetric_difference(["p"]) == {"q"}
        assert x.issubset({"p", "q", "r"})
        assert x.issuperset({"p"})
        assert x.isdisjoint(["n"])
        assert x <= {"p", "q"}
        assert x >= {"p"}
        assert x < {"p", "q", "r"}
        assert x != {"p"}
        assert x.copy() == {"p", "q"}
        assert type(x.copy()) is type(x | {"n"}) is set
        with pytest.raises(KeyError):
            x.remove("none")
        with pytest.raises(TypeError):
            x.discard([])
        assert x.pop() in {"p", "q"}
        assert len(x) == 1
        x.update("pq")

    base = full()
    assert run(recipe, base) is base
