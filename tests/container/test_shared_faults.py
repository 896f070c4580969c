"""A shared container over a store that fails, loses replies and wakes late: nothing is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from reactstate import (
    ConflictError,
    ManualClock,
    State,
    StateConfig,
    StateContainer,
    Strong,
    TransientError,
    UnknownOutcomeError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.testing.stores import FaultyStore

CONFIG = StateConfig(history_size=10_000, buffer_size=10_000)


class Ledger(State):
    entries: list[str] = []


def enter(draft: Ledger, name: str) -> None:
    draft.entries.append(name)


def share(store: Any, what: Any = Ledger, **arguments: Any) -> Any:
    return StateContainer.open(what, store=store, key="ledger", config=CONFIG, **arguments)


async def driven(clock: ManualClock, work: Any) -> Any:
    """Return what *work* does while time goes on."""
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(60):
        while not task.done():
            clock.advance(0.003)
            await asyncio.sleep(0)
    return await task


@pytest.mark.parametrize("seed", range(12))
async def test_every_acknowledged_update_is_there_once_and_every_container_sees_one_order(seed):
    clock, dice = ManualClock(), random.Random(seed)
    below = MemoryStore(clock=clock)
    stores = [FaultyStore(below, seed=seed * 10 + place, clock=clock) for place in range(3)]
    opened = [await share(store, Ledger(), clock=clock, deadline=5.0) for store in stores]
    seen: list[list[int]] = [[] for _ in opened]
    for container, versions in zip(opened, seen, strict=True):
        container.on_change(lambda change, versions=versions: versions.append(change.version))
    for store in stores:
        store.fail(probability=0.1)
        store.drop_reply(probability=0.15)
        store.delay(0.002, probability=0.2)
        store.delay_wakeups(20)
    acknowledged: list[str] = []
    doubtful: list[str] = []

    async def work(place: int, turn: int) -> None:
        name = f"{place}/{turn}"
        container = opened[place]
        await clock.sleep(dice.random() * 0.2)
        try:
            if turn % 5 == 0:
                await container.update(enter, name, expected_version=container.version)
            else:
                await container.update(enter, name)
        except (ConflictError, TransientError):
            return
        except UnknownOutcomeError:
            doubtful.append(name)
            return
        acknowledged.append(name)

    await driven(clock, asyncio.gather(*(work(place, turn) for turn in range(25) for place in range(3))))
    for store in stores:
        store.heal()
    final = [await driven(clock, container.get(Strong())) for container in opened]
    assert final[0] == final[1] == final[2]
    entries = final[0].entries
    assert len(entries) == len(set(entries))
    assert set(acknowledged) <= set(entries) <= set(acknowledged) | set(doubtful)
    assert len(acknowledged) > 40
    orders = [[change.change_id for change in container.history] for container in opened]
    assert orders[0] == orders[1] == orders[2]
    for container, versions in zip(opened, seen, strict=True):
        assert versions == list(range(2, container.version + 1))
        await container.aclose()
    async with share(below, clock=clock) as again:
        assert again.state.entries == entries
        assert [change.new_state.entries for change in again.history] == [
            entries[:count] for count in range(len(entries) + 1)
        ]
    await below.aclose()


@pytest.mark.parametrize("place", range(40))
async def test_an_update_that_is_cancelled_at_any_step_is_made_whole_or_not_at_all(place):
    clock = ManualClock()
    below = MemoryStore(clock=clock)
    store = FaultyStore(below, seed=place, clock=clock)
    store.delay(0.001)
    opening = share(store, Ledger(), clock=clock)
    async with await driven(clock, opening) as a, share(below, clock=clock) as b:
        first = asyncio.ensure_future(a.update(enter, "first"))
        rival = asyncio.ensure_future(b.update(enter, "rival"))
        for _ in range(place):
            clock.advance(0.0005)
            await asyncio.sleep(0)
        first.cancel()
        second = await driven(clock, a.update(enter, "second"))
        await driven(clock, rival)
        await driven(clock, asyncio.gather(first, return_exceptions=True))
        store.heal()
        entries = (await driven(clock, a.get(Strong()))).entries
        assert second.state.entries.count("second") == 1
        assert entries.count("rival") == 1
        assert entries.count("first") <= 1
        assert (await driven(clock, b.get(Strong()))).entries == entries
        assert a.version == b.version == len(entries) + 1
    await below.aclose()
