"""Row ``leaf``: one leaf of a state of 10, 1,000 and 100,000 items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from itertools import count
from typing import Any

from harness import Bench, Case, Role, Row, Sample, contender, times_case, times_floor
from models import Commits, Item, Order, Tally, all_keys, assigned, few_keys, field_validator, items, replaced

__all__ = ["LEAF"]

_STATEMENT = "update(next(keys), next(numbers))"
_DICTS = (
    Case("one leaf of a dict of 10", size=10),
    Case("one leaf of a dict of 1,000", size=1_000),
    Case("one leaf of a dict of 100,000", size=100_000, goals=[times_floor(1.3)]),
)
_MAP_10 = Case("one leaf of a Map of 10", size=10, like=_DICTS[0])
_MAPS = (
    _MAP_10,
    Case("one leaf of a Map of 1,000", size=1_000, like=_DICTS[1]),
    Case("one leaf of a Map of 100,000", size=100_000, goals=[times_case(2, _MAP_10)], like=_DICTS[2]),
)
_ANY = Case("any leaf of a Map of 100,000", size=100_000, like=_DICTS[2])
LEAF = Row("leaf", *_MAPS, _ANY, *_DICTS)


def _plain(size: int) -> dict[str, Any]:
    return {"owner": "ada", "items": items(size)}


@contender("path copy", Role.FLOOR, *_DICTS)
async def _path_copy(bench: Bench) -> AsyncIterator[Sample]:
    # A history of whole states would hold a thousand copies of the dict.
    commits = Commits(Order.model_validate(_plain(bench.size)), Tally().hear, keep=0)
    validator = field_validator(Item)

    def update(key: str, quantity: int) -> None:
        state = commits.state
        copied = state.items.copy()
        copied[key] = assigned(copied[key], validator, "quantity", quantity)
        commits.commit(replaced(state, "items", copied))

    yield bench.timed(_STATEMENT, update=update, keys=few_keys(bench.size), numbers=count(1))


def _by_hand(bench: Bench, keys: Iterator[str]) -> Sample:
    from immutables import Map

    order = Order.model_validate(_plain(bench.size))
    commits = Commits(replaced(order, "items", Map(order.items)), Tally().hear)
    validator = field_validator(Item)

    def update(key: str, quantity: int) -> None:
        state = commits.state
        current: Any = state.items
        changed = assigned(current[key], validator, "quantity", quantity)
        commits.commit(replaced(state, "items", current.set(key, changed)))

    return bench.timed(_STATEMENT, update=update, keys=keys, numbers=count(1))


@contender("persistent map", Role.FLOOR, *_MAPS)
async def _persistent_map(bench: Bench) -> AsyncIterator[Sample]:
    yield _by_hand(bench, few_keys(bench.size))


@contender("persistent map", Role.FLOOR, _ANY)
async def _persistent_map_any(bench: Bench) -> AsyncIterator[Sample]:
    yield _by_hand(bench, all_keys(bench.size))


@contender("deep copy and validate", Role.PEER, *_DICTS)
async def _deep_copy(bench: Bench) -> AsyncIterator[Sample]:
    commits = Commits(Order.model_validate(_plain(bench.size)), Tally().hear, keep=0)

    def update(key: str, quantity: int) -> None:
        copied = commits.state.model_copy(deep=True)
        copied.items[key].quantity = quantity
        commits.commit(Order.model_validate(copied.model_dump()))

    yield bench.timed(_STATEMENT, update=update, keys=few_keys(bench.size), numbers=count(1))


@contender("patchdiff", Role.PEER, *_DICTS)
async def _patchdiff(bench: Bench) -> AsyncIterator[Sample]:
    produce = import_module("patchdiff").produce
    state = _plain(bench.size)
    hear = Tally().hear

    def update(key: str, quantity: int) -> None:
        nonlocal state

        def recipe(draft: Any) -> None:
            draft["items"][key]["quantity"] = quantity

        state, patches, inverse = produce(state, recipe)
        hear(state, patches, inverse)

    yield bench.timed(_STATEMENT, update=update, keys=few_keys(bench.size), numbers=count(1))


@asynccontextmanager
async def _ours(bench: Bench, state: Any, keys: Iterator[str]) -> AsyncIterator[Sample]:
    from states import set_quantity

    from reactstate import StateContainer

    tally = Tally()
    async with StateContainer(state) as container:
        container.on_change(tally.hear)
        yield bench.timed(
            "await container.update(set_quantity, next(keys), next(numbers))",
            container=container,
            set_quantity=set_quantity,
            keys=keys,
            numbers=count(1),
        )
        assert tally.count == container.version - 1


@contender("StateContainer", Role.OURS, *_MAPS)
async def _map_field(bench: Bench) -> AsyncIterator[Sample]:
    from states import map_order

    async with _ours(bench, map_order(bench.size), few_keys(bench.size)) as sample:
        yield sample


@contender("StateContainer", Role.OURS, _ANY)
async def _map_field_any(bench: Bench) -> AsyncIterator[Sample]:
    from states import map_order

    async with _ours(bench, map_order(bench.size), all_keys(bench.size)) as sample:
        yield sample


@contender("StateContainer", Role.OURS, *_DICTS)
async def _dict_field(bench: Bench) -> AsyncIterator[Sample]:
    from states import dict_order

    async with _ours(bench, dict_order(bench.size), few_keys(bench.size)) as sample:
        yield sample
