"""Row ``memory``: how many bytes each kept version of a state of 1,000 items costs."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from itertools import count
from typing import Any

from harness import BYTES, Bench, Case, Role, Row, Sample, at_most, contender
from models import Commits, Item, Order, all_keys, assigned, field_validator, items, replaced

__all__ = ["MEMORY"]

_VERSIONS = 500
_GOALS = [at_most("4 KB", 4_000, scaled=False)]
_DICT = Case("memory per kept version, dict of 1,000", size=1_000, goals=_GOALS, unit=BYTES)
_MAP = Case("memory per kept version, Map of 1,000", size=1_000, goals=_GOALS, unit=BYTES, like=_DICT)
MEMORY = Row("memory", _DICT, _MAP)

Step = Callable[[], Awaitable[None]]


def _growth(step: Step, kept: Callable[[], int]) -> Sample:
    """Return a sample of the bytes that one *step* leaves behind, which is to make one version that is kept."""

    async def sample() -> float:
        before = kept()
        # What a first update builds once and for all belongs to no version.
        await step()
        gc.collect()
        tracemalloc.start()
        try:
            start, _ = tracemalloc.get_traced_memory()
            for _ in range(_VERSIONS):
                await step()
            gc.collect()
            end, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept() == before + _VERSIONS + 1
        return (end - start) / _VERSIONS

    return sample


@contender("shared by a persistent map", Role.FLOOR, _DICT)
async def _persistent_map(bench: Bench) -> AsyncIterator[Sample]:
    from immutables import Map

    order = Order.model_validate({"owner": "ada", "items": items(bench.size)})
    commits = Commits(replaced(order, "items", Map(order.items)), keep=100_000)
    validator = field_validator(Item)
    names, numbers = all_keys(bench.size), count(1)

    async def step() -> None:
        key, state = next(names), commits.state
        current: Any = state.items
        changed = assigned(current[key], validator, "quantity", next(numbers))
        commits.commit(replaced(state, "items", current.set(key, changed)))

    yield _growth(step, lambda: len(commits.history))


@contender("path copies", Role.ALSO, _DICT)
async def _path_copies(bench: Bench) -> AsyncIterator[Sample]:
    commits = Commits(Order.model_validate({"owner": "ada", "items": items(bench.size)}), keep=100_000)
    validator = field_validator(Item)
    names, numbers = all_keys(bench.size), count(1)

    async def step() -> None:
        key, state = next(names), commits.state
        copied = state.items.copy()
        copied[key] = assigned(copied[key], validator, "quantity", next(numbers))
        commits.commit(replaced(state, "items", copied))

    yield _growth(step, lambda: len(commits.history))


@contender("deep copy", Role.PEER, _DICT)
async def _deep_copy(bench: Bench) -> AsyncIterator[Sample]:
    state = Order.model_validate({"owner": "ada", "items": items(bench.size)})
    history: list[Order] = []
    names, numbers = all_keys(bench.size), count(1)

    async def step() -> None:
        history.append(state.model_copy(deep=True))
        state.items[next(names)].quantity = next(numbers)

    async def sample() -> float:
        history.clear()
        return await growth()

    growth = _growth(step, lambda: len(history))
    yield sample


@contender("patchdiff", Role.PEER, _DICT)
async def _patchdiff(bench: Bench) -> AsyncIterator[Sample]:
    produce = import_module("patchdiff").produce
    state: Any = {"owner": "ada", "items": items(bench.size)}
    history: list[object] = []
    names, numbers = all_keys(bench.size), count(1)

    async def step() -> None:
        nonlocal state

        def recipe(draft: Any) -> None:
            draft["items"][next(names)]["quantity"] = next(numbers)

        state, patches, inverse = produce(state, recipe)
        history.append((patches, inverse))

    yield _growth(step, lambda: len(history))


def _ours(make: Callable[[], Any]) -> Sample:
    from states import set_quantity

    from reactstate import StateConfig, StateContainer

    numbers = count(1)

    async def sample() -> float:
        names = all_keys(1_000)
        async with StateContainer(make(), config=StateConfig(history_size=10 * _VERSIONS)) as container:

            async def step() -> None:
                await container.update(set_quantity, next(names), next(numbers))

            return await _growth(step, lambda: len(container.history))()

    return sample


@contender("StateContainer", Role.OURS, _DICT)
async def _dict_field(bench: Bench) -> AsyncIterator[Sample]:
    from states import dict_order

    yield _ours(lambda: dict_order(bench.size))


@contender("StateContainer", Role.OURS, _MAP)
async def _map_field(bench: Bench) -> AsyncIterator[Sample]:
    from states import map_order

    yield _ours(lambda: map_order(bench.size))
