"""Map: an immutable mapping whose updates share what they do not touch."""

from __future__ import annotations

import copy
import pickle
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.errors import FrozenStateError, StateValidationError
from reactstate.state.maps import Map, map_of
from reactstate.state.produce import produce
from reactstate.state.state import State


class Flight(State):
    gate: str = ""
    delays: list[int] = []


class Airport(State):
    flights: Map[str, Flight] = Map()
    counts: Map[int, int] = Map()


ENTRIES = st.dictionaries(st.text(max_size=3), st.integers())


@given(ENTRIES, st.text(max_size=3), st.integers())
def test_a_map_agrees_with_a_dict(entries: dict[str, int], key: str, value: int) -> None:
    made = Map(entries)
    assert made == entries
    assert entries == made
    assert len(made) == len(entries)
    assert set(made) == set(entries)
    assert (key in made) == (key in entries)
    assert made.get(key, -1) == entries.get(key, -1)
    assert made.set(key, value) == {**entries, key: value}
    assert made.merged({key: value}) == {**entries, key: value}
    assert made == entries, "the updates above must not have touched it"
    if key in entries:
        assert made.delete(key) == {one: part for one, part in entries.items() if one != key}
    else:
        with pytest.raises(KeyError):
            made.delete(key)
        with pytest.raises(KeyError):
            made[key]


def test_equality_is_that_of_mappings() -> None:
    assert Map({"a": 1}) == Map({"a": 1})
    assert Map({"a": 1}) != Map({"a": 2})
    assert Map({"a": 1}) == MappingProxyType({"a": 1})
    assert Map({"a": 1}) != [("a", 1)]
    with pytest.raises(TypeError):
        hash(Map())


def test_it_is_made_of_pairs_and_of_a_parametrised_alias_too() -> None:
    assert Map([("a", 1)]) == {"a": 1}
    assert Map[str, int]({"a": 1}) == {"a": 1}
    assert repr(Map({"a": 1})) == "Map({'a': 1})"


def test_the_mutators_of_a_dict_raise() -> None:
    entries = Map({"a": 1})
    mutations: list[Any] = [
        lambda: entries.pop("a"), lambda: entries.popitem(), entries.clear, lambda: entries.update(b=2),
        lambda: entries.setdefault("b", 2), lambda: entries.__setitem__("a", 2), lambda: entries.__delitem__("a"),
    ]  # fmt: skip
    for mutate in mutations:
        with pytest.raises(FrozenStateError, match="a Map inside a published state"):
            mutate()
    with pytest.raises(AttributeError):
        entries.other = 1  # type: ignore[attr-defined]
    assert entries == {"a": 1}


def test_copies_are_the_same_object_and_pickles_are_equal() -> None:
    entries = Map({"a": [1]})
    assert copy.copy(entries) is entries
    assert copy.deepcopy(entries) is entries
    assert pickle.loads(pickle.dumps(entries)) == entries


def test_a_map_whose_entries_stay_as_they_are_is_kept_by_validation() -> None:
    flights = Map({"LH1": Flight()})
    state = Airport(flights=flights)
    assert state.flights is flights
    assert Airport(flights=state.flights).flights is flights


def test_entries_are_validated_one_by_one() -> None:
    state = Airport(flights={"LH1": {"gate": "A1"}}, counts={"1": "2"})  # type: ignore[dict-item, arg-type]
    assert type(state.flights) is Map
    assert state.flights["LH1"] == Flight(gate="A1")
    assert state.counts == {1: 2}
    assert Airport.model_validate_json(state.model_dump_json()) == state
    with pytest.raises(StateValidationError, match=r"Airport\.counts: "):
        produce(state, lambda draft: draft.counts.update({1: "x"}))


def test_an_update_shares_every_entry_that_it_does_not_touch() -> None:
    base = Airport(flights=Map({str(n): Flight() for n in range(100)}))

    def recipe(draft: Airport) -> None:
        draft.flights["5"].delays.append(3)
        draft.flights["new"] = Flight(gate="B")
        del draft.flights["7"]

    new = produce(base, recipe).state
    assert new.flights["5"].delays == [3]
    assert base.flights["5"].delays == []
    assert set(new.flights) ^ set(base.flights) == {"new", "7"}
    assert all(new.flights[key] is base.flights[key] for key in base.flights if key not in {"5", "7"})


def test_a_draft_of_a_map_is_edited_like_a_dict_while_it_is_read() -> None:
    base = Airport(counts=Map({n: n for n in range(20)}))

    def recipe(draft: Airport) -> None:
        for key in draft.counts:
            if key % 2:
                del draft.counts[key]
            else:
                draft.counts[key] += 1
        assert draft.counts.pop(0) == 1
        assert draft.counts.setdefault(99, 5) == 5
        draft.counts.update({98: 4})
        assert len(draft.counts) == 11
        assert 98 in draft.counts
        key, value = draft.counts.popitem()
        draft.counts[key] = value
        assert draft.counts == {**{n: n + 1 for n in range(2, 20, 2)}, 99: 5, 98: 4}

    new = produce(base, recipe).state
    assert new.counts == {**{n: n + 1 for n in range(2, 20, 2)}, 99: 5, 98: 4}
    assert produce(new, lambda draft: draft.counts.clear()).state.counts == {}


def test_map_of_shares_the_entries() -> None:
    entries = Map({"a": 1})
    assert map_of(entries._entries) == entries
