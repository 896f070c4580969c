from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from reactstate.errors import (
    ClosedError,
    StorageError,
    UnavailableError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Event, EventKind
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


def count_up(draft: Cart) -> None:
    draft.count += 1


@pytest.fixture(params=["whole", "plain"])
async def kept(request, store, plain_store):
    """A store that reads at one moment, and one that does not."""
    return store if request.param == "whole" else plain_store


@pytest.fixture
async def carts(kept, clock):
    async with KeyedContainer.open(Cart, store=kept, clock=clock) as container:
        yield container


class Told:
    """A watch that tells what it is told to."""

    def __init__(self, *events: Any) -> None:
        self.events = list(events)
        self.closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.events:
            await asyncio.get_running_loop().create_future()
        event = self.events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    async def aclose(self):
        self.closed += 1


async def test_a_watch_that_fails_is_told_and_ends(carts, kept, monkeypatch):
    watch = Told(StorageError("torn"))
    monkeypatch.setattr(type(kept), "watch", lambda *arguments, **named: watch)
    changes = carts.subscribe()
    with pytest.raises(StorageError):
        await anext(changes)
    with pytest.raises(StopAsyncIteration):
        await anext(changes)
    assert watch.closed


async def test_events_that_the_store_does_not_show_yet_are_waited_for(carts, kept, clock, settle, monkeypatch):
    """As with a replica that lags behind the log that is watched."""
    await carts.put(Cart(id="ada"))
    key = carts._records.key("ada")
    entry = await kept.get(key)
    later = entry.revision + 1
    watch = Told(Event(key, EventKind.PUT, later, "cursor"))
    monkeypatch.setattr(type(kept), "watch", lambda *arguments, **named: watch)
    async with carts.subscribe() as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await settle()
        assert not waiting.done()
        assert clock.slept
        await carts.update("ada", count_up)
        change = await waiting
        assert (change.version, change.revision) == (2, later)


async def test_reading_waits_for_a_store_that_is_out_of_reach(store, clock, settle):
    class Flaky(type(store)):
        failing = 2

        def snapshot(self):
            if self.failing:
                self.failing -= 1
                raise UnavailableError("refused")
            return super().snapshot()

    async with (
        Flaky() as flaky,
        KeyedContainer.open(Cart, store=flaky, clock=clock) as container,
        container.subscribe() as changes,
    ):
        await container.put(Cart(id="ada"))
        assert (await anext(changes)).id == "ada"
        flaky.failing = 10**6
        await container.put(Cart(id="bob"))
        with pytest.raises(UnavailableError):
            await anext(changes)
        flaky.failing = 0
        assert (await anext(changes)).id == "bob"


# --- ending -------------------------------------------------------------------------------------------------------


async def test_closing_the_container_ends_its_subscriptions(kept, clock, settle):
    container = await KeyedContainer.open(Cart, store=kept, clock=clock)
    changes, unread, values = container.subscribe(), container.subscribe(), container.watch("ada")
    waiting = asyncio.ensure_future(anext(changes))
    assert await anext(values) is None
    watching = asyncio.ensure_future(anext(values))
    await settle()
    await container.put(Cart(id="ada"))
    await container.aclose()
    done = await asyncio.gather(waiting, watching, return_exceptions=True)
    assert all(isinstance(one, StopAsyncIteration | Cart) or one.id == "ada" for one in done)
    for one in (changes, unread, values):
        with pytest.raises(StopAsyncIteration):
            await anext(one)
    with pytest.raises(ClosedError):
        container.subscribe()


async def test_closing_the_store_ends_its_subscriptions(clock, settle):
    store = MemoryStore()
    async with KeyedContainer.open(Cart, store=store, clock=clock) as container:
        changes, values = container.subscribe(), container.watch("ada")
        assert await anext(values) is None
        waiting = [asyncio.ensure_future(anext(one)) for one in (changes, values)]
        await settle()
        await store.aclose()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, StopAsyncIteration) for one in done)


async def test_closing_a_subscription_ends_who_waits_on_it(carts, settle):
    changes = carts.subscribe()
    waiting = asyncio.ensure_future(anext(changes))
    await settle()
    changes.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    changes.close()
    await changes.aclose()
    assert [change async for change in changes] == []
    never = carts.subscribe()
    await never.aclose()


async def test_a_subscription_that_is_dropped_lets_go_of_its_watch(carts, kept, settle):
    def reading():
        return [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_read"]

    changes = carts.subscribe()
    await carts.put(Cart(id="ada"))
    await anext(changes)
    assert reading()
    del changes
    gc.collect()
    await settle()
    assert not reading()


async def test_a_hot_watch_leaves_the_loop_to_others(carts, settle):
    start = await carts._store.cursor()
    for _ in range(1100):
        await carts.put(Cart(id="ada", count=_))
    changes = carts.subscribe(since=start)
    assert (await anext(changes)).version >= 1
    await changes.aclose()
