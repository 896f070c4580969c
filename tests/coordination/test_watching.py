from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from reactstate.clock import ManualClock
from reactstate.coordination.store import CoordinationStore
from reactstate.errors import CompactedError, InvalidKeyError, UnavailableError, UnsupportedError
from reactstate.kv.keys import StateKey
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Capability, EventKind
from reactstate.testing.stores import FaultyStore


class PatientClock(ManualClock):
    async def sleep(self, seconds):
        await asyncio.sleep(0.001)


async def take(changes, count):
    async with asyncio.timeout(5):
        return [await anext(changes) for _ in range(count)]


async def settle():
    for _ in range(30):
        await asyncio.sleep(0)


async def test_each_change_of_a_key_is_told_once_in_order(here, there, key):
    async with here.subscribe(kind="order") as changes:
        first = await there.set(key(), "a")
        await here.increment(key("2"))
        await there.delete(key())
        told = await take(changes, 3)
    assert [(one.key, one.kind) for one in told] == [
        (key(), EventKind.PUT),
        (key("2"), EventKind.PUT),
        (key(), EventKind.DELETE),
    ]
    assert told[0].version == first < told[1].version < told[2].version
    assert "PUT" in repr(told[0])
    assert changes.closed


async def test_an_expiry_is_told(memory, clock, key):
    async with CoordinationStore.open(store=memory) as here, here.subscribe() as changes:
        await here.check_and_set(key(), ttl=1)
        clock.advance(1)
        await memory.cleanup_expired()
        assert [one.kind for one in await take(changes, 2)] == [EventKind.PUT, EventKind.EXPIRE]


async def test_only_what_was_asked_for_is_told(here):
    keys = [StateKey(*parts) for parts in ("abcd", "abce", "abxd", "axcd", "xbcd")]
    asked = [
        ({}, keys),
        ({"namespace": "a"}, keys[:4]),
        ({"namespace": "a", "tenant": "b"}, keys[:3]),
        ({"tenant": "b"}, [*keys[:3], keys[4]]),
        ({"tenant": "b", "kind": "c"}, [*keys[:2], keys[4]]),
        ({"namespace": "a", "tenant": "b", "kind": "c", "prefix": "d"}, keys[:1]),
        ({"prefix": "d"}, [keys[0], *keys[2:]]),
    ]
    subscriptions = [here.subscribe(**filters) for filters, _ in asked]
    await here.index_timeout(keys[0], 5)
    await here.add_to_group(keys[0], "ada")
    for key in keys:
        await here.set(key, "x")
    for changes, (_, expected) in zip(subscriptions, asked, strict=True):
        assert [one.key for one in await take(changes, len(expected))] == expected


async def test_a_subscription_goes_on_from_a_cursor(here, there, key):
    async with here.subscribe() as changes:
        assert changes.cursor is None
        await here.set(key("1"), "x")
        await here.set(key("2"), "x")
        (first,) = await take(changes, 1)
        assert changes.cursor == first.cursor
    async with there.subscribe(since=first.cursor) as changes:
        assert [one.key for one in await take(changes, 1)] == [key("2")]


async def test_who_comes_too_late_is_told_where_to_go_on(clock, key):
    options = StoreOptions(change_log_retention=timedelta(seconds=1))
    async with MemoryStore(clock=clock, options=options) as store, CoordinationStore.open(store=store) as here:
        await here.set(key(), "x")
        changes = here.subscribe()
        cursor = await store.cursor()
        await here.set(key(), "y")
        clock.advance(10)
        await here.set(key(), "z")
        late = here.subscribe(since=cursor)
        clock.advance(10)
        await here.set(key(), "!")
        with pytest.raises(CompactedError) as caught:
            await anext(late)
        assert late.closed
        again = here.subscribe(since=caught.value.resume)
        await here.set(key(), "?")
        assert len(await take(again, 1)) == 1
        await changes.aclose()


async def test_closing_wakes_who_waits(here):
    changes = here.subscribe()
    waiting = asyncio.ensure_future(anext(changes))
    await settle()
    await here.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(changes)
    await changes.aclose()


async def test_an_event_that_comes_while_it_is_closed_is_not_told(here, key):
    changes = here.subscribe()
    waiting = asyncio.ensure_future(anext(changes))
    await settle()
    await here.set(key(), "x")
    changes._closed = True
    with pytest.raises(StopAsyncIteration):
        await waiting
    await changes.aclose()


async def test_a_closed_subscription_tells_nothing_more(here, key):
    changes = here.subscribe()
    await here.set(key(), "x")
    await changes.aclose()
    assert [one async for one in changes] == []


async def test_subscriptions_are_refused_where_nothing_can_be_watched(key):
    class Blind(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.WATCH}

    async with Blind() as store, CoordinationStore.open(store=store) as here:
        with pytest.raises(UnsupportedError, match="WATCH"):
            here.subscribe()
        with pytest.raises(UnsupportedError):
            here.on_change(print)


async def test_wrong_arguments_are_refused(here):
    with pytest.raises(InvalidKeyError):
        here.subscribe(since="nonsense")
    with pytest.raises(InvalidKeyError):
        here.subscribe(namespace=5)

    async def slow(change):
        raise AssertionError(change)

    with pytest.raises(TypeError, match="plain function"):
        here.on_change(slow)


async def test_callbacks_are_called_and_one_that_fails_stops_nothing(here, there, key, caplog):
    seen = []
    both = asyncio.Event()

    def callback(change):
        seen.append(change.key.id)
        if len(seen) == 2:
            both.set()
        if change.key.id == "1":
            raise RuntimeError("mine")

    end = here.on_change(callback, kind="order")
    with caplog.at_level(logging.ERROR):
        await there.set(key("1"), "x")
        await there.set(key("1", "other"), "x")
        await there.set(key("2"), "x")
        async with asyncio.timeout(5):
            await both.wait()
    assert seen == ["1", "2"]
    assert "failed" in caplog.text
    end()
    end()
    await there.set(key("3"), "x")
    await settle()
    assert seen == ["1", "2"]


async def test_a_callback_that_comes_too_late_goes_on(clock, key, caplog):
    options = StoreOptions(change_log_retention=timedelta(seconds=1))
    async with MemoryStore(clock=clock, options=options) as store, CoordinationStore.open(store=store) as here:
        seen = []
        here.on_change(lambda change: seen.append(change.key.id))
        for number in range(3):
            await here.set(key(number), "x")
            clock.advance(10)
        await store.put("unrelated", b"x")
        with caplog.at_level(logging.WARNING):
            await settle()
            await here.set(key("new"), "x")
            await settle()
        assert "too late" in caplog.text
        assert seen[-1] == "new"


async def test_callbacks_go_on_when_the_store_can_be_watched_again(key, caplog, monkeypatch):
    async with MemoryStore() as inner:
        store = FaultyStore(inner)
        watches = []

        class Broken:
            def __init__(self, watch):
                self.watch = watch
                self.broken = asyncio.Event()

            async def __anext__(self):
                event = asyncio.ensure_future(anext(self.watch))
                broken = asyncio.ensure_future(self.broken.wait())
                await asyncio.wait([event, broken], return_when=asyncio.FIRST_COMPLETED)
                broken.cancel()
                if event.done():
                    return event.result()
                event.cancel()
                raise UnavailableError("gone")

            async def aclose(self):
                await self.watch.aclose()

        def watch(*arguments, **options):
            watches.append(Broken(FaultyStore.watch(store, *arguments, **options)))
            return watches[-1]

        monkeypatch.setattr(store, "watch", watch)
        seen = []
        second = asyncio.Event()

        def callback(change):
            seen.append(change.key.id)
            if change.key.id == "2":
                second.set()

        async with CoordinationStore.open(store=store, clock=PatientClock()) as here:
            here.on_change(callback)
            await here.set(key("1"), "x")
            await settle()
            store.fail(2, on="watch")
            watches[0].broken.set()
            await settle()
            await here.set(key("2"), "x")
            async with asyncio.timeout(5):
                await second.wait()
        assert seen == ["1", "2"]
        assert "reached again" in caplog.text


async def test_callbacks_of_a_store_that_is_closed_under_them_end(memory, key, caplog):
    here = await CoordinationStore.open(store=memory)
    here.on_change(lambda change: None)
    here._closed = True

    async def late(self):
        raise CompactedError("too late", resume=None)

    (changes,) = here._watching
    changes._watch.__class__ = type("Late", (changes._watch.__class__,), {"__anext__": late})
    (task,) = here._telling
    await settle()
    assert task.done()
    assert task.exception() is None


async def test_callbacks_end_with_their_store(here, key):
    here.on_change(lambda change: None)
    await settle()
    (task,) = here._telling
    await here.aclose()
    assert task.done()


async def test_a_callback_may_close_what_it_is_told_of(memory, key):
    here = await CoordinationStore.open(store=memory)
    closing = []

    def callback(change):
        closing.append(asyncio.ensure_future(here.aclose()))

    here.on_change(callback)
    await here.set(key(), "x")
    await settle()
    await asyncio.gather(*closing)
    assert not here._telling
