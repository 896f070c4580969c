"""Published lists, dicts and sets cannot be changed, and are otherwise the built-ins."""

from __future__ import annotations

import copy
import heapq
import json
import pickle
from typing import Any

import orjson
import pytest
from pydantic import JsonValue

from reactstate.errors import FrozenStateError
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet, freeze
from reactstate.state.state import State


class Board(State):
    items: list[list[int]] = [[1]]
    table: dict[str, list[int]] = {"a": [1]}
    tags: set[str] = {"x"}
    anything: JsonValue = {"deep": [{"er": [1]}]}
    pair: tuple[list[int], int] = ([1], 2)


def _mutations() -> list[Any]:
    def augmented_list(value: Any) -> None:
        value += [1]

    def repeated(value: Any) -> None:
        value *= 2

    def augmented(value: Any) -> None:
        value |= value

    def narrowed(value: Any) -> None:
        value &= {1}

    def reduced(value: Any) -> None:
        value -= {1}

    def toggled(value: Any) -> None:
        value ^= {1}

    lists = [
        lambda x: x.append(1), lambda x: x.extend([1]), lambda x: x.insert(0, 1), lambda x: x.pop(),
        lambda x: x.remove(1), lambda x: x.clear(), lambda x: x.sort(), lambda x: x.sort(key=str),
        lambda x: x.reverse(), lambda x: x.__setitem__(0, 1), lambda x: x.__setitem__(slice(0, 1), []),
        lambda x: x.__delitem__(0), augmented_list, repeated,
    ]  # fmt: skip
    dicts = [
        lambda x: x.pop("a"), lambda x: x.popitem(), lambda x: x.clear(), lambda x: x.update(b=1),
        lambda x: x.setdefault("b", 1), lambda x: x.setdefault("a"), lambda x: x.__setitem__("a", 1),
        lambda x: x.__delitem__("a"), augmented,
    ]  # fmt: skip
    sets = [
        lambda x: x.add(2), lambda x: x.remove(1), lambda x: x.discard(1), lambda x: x.pop(), lambda x: x.clear(),
        lambda x: x.update([2]), lambda x: x.intersection_update([2]), lambda x: x.difference_update([1]),
        lambda x: x.symmetric_difference_update([1]), augmented, narrowed, reduced, toggled,
    ]  # fmt: skip
    return [
        *((FrozenList([1, 2]), one) for one in lists),
        *((FrozenDict({"a": 1}), one) for one in dicts),
        *((FrozenSet({1}), one) for one in sets),
    ]


@pytest.mark.parametrize(("value", "mutate"), _mutations())
def test_every_mutator_raises_and_says_what_to_do(value: Any, mutate: Any) -> None:
    before = repr(value)
    with pytest.raises(FrozenStateError, match=r"container\.update"):
        mutate(value)
    assert repr(value) == before


def test_everything_inside_a_published_state_is_frozen() -> None:
    for state in (Board(), Board.model_validate_json("{}"), Board.model_validate_json(Board().model_dump_json())):
        assert type(state.items) is type(state.items[0]) is FrozenList
        assert type(state.table) is FrozenDict
        assert type(state.table["a"]) is FrozenList
        assert type(state.tags) is FrozenSet
        anything: Any = state.anything
        assert type(anything) is FrozenDict
        assert type(anything["deep"]) is FrozenList
        assert type(anything["deep"][0]["er"]) is FrozenList
        assert type(state.pair[0]) is FrozenList
    with pytest.raises(FrozenStateError):
        Board().items[0].append(2)


def test_the_callers_own_containers_stay_theirs() -> None:
    mine: dict[str, Any] = {"deep": [1]}
    items = [[1]]
    state = Board(items=items, anything=mine)
    mine["deep"].append(2)
    items[0].append(2)
    assert state.items == [[1]]
    assert state.anything == {"deep": [1]}


def test_states_cannot_be_set_or_deleted_from() -> None:
    state = Board()
    with pytest.raises(FrozenStateError, match=r"Board\.tags cannot be set.*draft\.tags"):
        state.tags = set()
    with pytest.raises(FrozenStateError, match="cannot be deleted"):
        del state.tags
    with pytest.raises(FrozenStateError):
        state.other = 1  # type: ignore[attr-defined]


def test_they_are_built_ins_to_isinstance_equality_and_serializers() -> None:
    items, table, tags = FrozenList([1]), FrozenDict({"a": 1}), FrozenSet({1})
    assert isinstance(items, list)
    assert isinstance(table, dict)
    assert isinstance(tags, set)
    assert items == [1]
    assert table == {"a": 1}
    assert tags == {1}
    assert {1} == tags
    assert orjson.dumps([items, table]) == json.dumps([items, table], separators=(",", ":")).encode()


def test_copies_are_the_same_object_and_pickles_are_plain() -> None:
    for value, plain in ((FrozenList([1]), list), (FrozenDict({"a": 1}), dict), (FrozenSet({1}), set)):
        assert copy.copy(value) is value
        assert copy.deepcopy(value) is value
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            back = pickle.loads(pickle.dumps(value, protocol))
            assert type(back) is plain
            assert back == value
        assert type(value.copy()) is plain


def test_operators_give_plain_results_on_either_side() -> None:
    items, table, tags = FrozenList([1, 2]), FrozenDict({"a": 1}), FrozenSet({1, 2})
    for result in (items + [3], [3] + items, items * 2, 2 * items, items[:1], items + items):  # noqa: RUF005
        assert type(result) is list
    for made in (table | {"b": 2}, {"b": 2} | table, table | table, FrozenDict.fromkeys("ab")):
        assert type(made) is dict
    for some in (
        tags | {3}, {3} | tags, tags & {1}, {1} & tags, tags - {1}, {1} - tags, tags ^ {3}, {3} ^ tags,
        tags.union([3]), tags.intersection([1]), tags.difference([1]), tags.symmetric_difference([3]),
    ):  # fmt: skip
        assert type(some) is set
    assert tags | {3} == {1, 2, 3}
    assert {3} - tags == {3}
    assert tags ^ {2, 3} == {1, 3}
    assert tags.difference([1]) == {2}


def test_what_python_lets_through_is_only_what_bypasses_the_methods() -> None:
    with pytest.raises(FrozenStateError):
        FrozenList([2, 1]).sort()
    assert sorted(FrozenList([2, 1])) == [1, 2]
    leaked = FrozenList([1])
    heapq.heappush(leaked, 0)  # documented: C code does not ask the subclass
    assert leaked == [0, 1]


def test_freeze_reaches_every_list_and_dict_of_json() -> None:
    frozen = freeze({"a": [1, {"b": []}], "c": FrozenList([[1]])})
    assert type(frozen) is FrozenDict
    assert type(frozen["a"][1]["b"]) is FrozenList
    assert type(frozen["c"][0]) is FrozenList


def test_a_copy_or_pickle_of_a_state_is_as_frozen_as_the_state() -> None:
    state = Board()
    assert copy.copy(state) is state
    assert copy.deepcopy(state) is state
    assert state.model_copy() is state
    assert state.model_copy(deep=True) is state
    back = pickle.loads(pickle.dumps(state))
    assert back == state
    assert type(back.items[0]) is FrozenList
    assert type(back.anything["deep"][0]["er"]) is FrozenList


def test_a_changed_copy_is_validated_and_frozen() -> None:
    state = Board()
    assert type(state.model_copy(update={"items": [[2]]}).items[0]) is FrozenList
    made = Board.model_construct(items=[["3"]])
    assert made.items == [[3]]
    assert type(made.items[0]) is FrozenList
