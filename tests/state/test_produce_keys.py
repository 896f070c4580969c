"""Keys that are equal but not the same: a part is found by any of them, and keeps its own."""

from __future__ import annotations

import enum
import operator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from reactstate.state.maps import Map
from reactstate.state.produce import produce
from reactstate.state.state import State

from .laws import assert_laws
from .programs import put_back


class Size(enum.StrEnum):
    SMALL = "small"


class Keyed(State):
    ints: dict[int, list[int]] = {1: [0]}
    cells: Map[int, list[int]] = Map({1: [0]})
    names: dict[str, list[int]] = {"small": [0]}
    sizes: Map[Size, list[int]] = Map({Size.SMALL: [0]})
    floats: dict[float, list[int]] = {0.0: [0]}
    mixed: Map[bool | int, list[int]] = Map({False: [0]})
    grid: Map[tuple[int, float], list[int]] = Map({(1, 0.0): [0]})
    money: dict[Decimal, list[int]] = {Decimal("1.0"): [0]}
    days: dict[datetime, list[int]] = {datetime(2024, 1, 1, tzinfo=UTC): [0]}


EQUAL = {
    "ints": [True, 1.0, Decimal(1)],
    "cells": [True, 1.0, Decimal(1)],
    "names": [Size.SMALL],
    "sizes": ["small"],
    "floats": [0, -0.0, False],
    "mixed": [0, 0.0],
    "grid": [(True, 0), (1.0, -0.0)],
    "money": [1, 1.0, Decimal("1.00")],
    "days": [datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))],
}
BY_KEY = {
    "edit": lambda part, key: part[key].append(1),
    "edit what is there by default": lambda part, key: part.setdefault(key, []).append(1),
    "delete": lambda part, key: operator.delitem(part, key),
    "pop": lambda part, key: part.pop(key).append(1),
    "put": lambda part, key: operator.setitem(part, key, [1]),
    "update": lambda part, key: part.update({key: [1]}),
    "put back": put_back,
}


@pytest.mark.parametrize("call", BY_KEY.values(), ids=[*BY_KEY])
@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in EQUAL.items() for key in keys], ids=str)
def test_a_part_is_found_by_a_key_that_equals_its_own_which_it_keeps(name, key, call):
    base = Keyed()
    own = next(iter(getattr(base, name)))
    produced = produce(base, lambda draft: call(getattr(draft, name), key))
    if call is not put_back:
        assert all(type(made) is type(own) for made in getattr(produced.state, name))
    assert_laws(base, produced)
    after = [*getattr(produced.state, name)]
    assert after == ([] if call in {BY_KEY["delete"], BY_KEY["pop"]} else [own])
