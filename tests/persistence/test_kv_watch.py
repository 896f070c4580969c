from __future__ import annotations

import asyncio

from reactstate.clock import ManualClock
from reactstate.errors import CompactedError, UnavailableError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.testing.stores import FaultyStore


class HastyClock(ManualClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds):
        self.advance(max(seconds, 0.001))
        await asyncio.sleep(0)


async def opened(store, **options):
    persistence = KeyValuePersistence(store, "cart", **{"clock": HastyClock()} | options)
    await persistence.load()
    return persistence


async def test_watch_wakes_for_the_changes_of_others_and_not_for_its_own(story):
    store = MemoryStore()
    a, b = await opened(store), await opened(store)
    wakes = a.watch_head()
    await anext(wakes)
    await a.append(story.records(1, 1), story.schema)
    waiting = asyncio.ensure_future(anext(wakes))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    await b.load()
    await b.append(story.records(2, 2), story.schema)
    async with asyncio.timeout(5):
        await waiting
    assert [record.version for record in (await a.fetch(1)).records] == [2]
    await wakes.aclose()


class Broken:
    """A watch that fails."""

    def __init__(self, error):
        self.error = error
        self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        raise self.error

    async def aclose(self):
        self.closed = True


async def test_watch_goes_on_after_failures_with_a_wakeup_so_that_nothing_is_missed(story):
    broken = [Broken(CompactedError("too old", None)), Broken(UnavailableError("gone"))]
    waiting = list(broken)

    class Breaking(MemoryStore):
        def watch(self, prefix="", *, after=None):
            return waiting.pop(0) if waiting else super().watch(prefix, after=after)

    store = FaultyStore(Breaking())
    a, b = await opened(store), await opened(store)
    store.fail(3, on="watch")
    wakes = a.watch_head()
    async with asyncio.timeout(5):
        for _ in range(3):
            await anext(wakes)
        await b.append(story.records(1, 1), story.schema)
        await anext(wakes)
    assert (await a.fetch(0)).version == 1
    assert [one.closed for one in broken] == [True, True]
    await wakes.aclose()


async def test_watch_ends_when_store_or_persistence_is_closed(story):
    store = MemoryStore()
    a, b, c = await opened(store), await opened(store), await opened(store)
    first, second = a.watch_head(), b.watch_head()
    await anext(first)
    await anext(second)
    await a.aclose()
    waiting = asyncio.ensure_future(anext(first, None))
    await asyncio.sleep(0)
    await c.append(story.records(1, 1), story.schema)
    async with asyncio.timeout(5):
        assert await waiting is None
    await store.aclose()
    async with asyncio.timeout(5):
        assert await anext(second, "ended") == "ended"
        third = c.watch_head()
        assert await anext(third, "ended") == "ended"


async def test_without_watch_it_looks_every_half_second(story):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.WATCH}

    clock = ManualClock()
    a = await opened(Plain(), clock=clock)
    wakes = a.watch_head()
    await anext(wakes)
    waiting = asyncio.ensure_future(anext(wakes))
    await asyncio.sleep(0)
    clock.advance(0.49)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.01)
    await waiting
    await a.aclose()
    waiting = asyncio.ensure_future(anext(wakes, "ended"))
    await asyncio.sleep(0)
    clock.advance(0.5)
    assert await waiting == "ended"
