from __future__ import annotations

import asyncio
import contextlib
import gc
from datetime import timedelta
from typing import Any

import pytest

from reactstate.errors import (
    ClosedError,
    CodecError,
    CompactedError,
    InvalidKeyError,
    StorageError,
    UnavailableError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.subscription import KeyedSubscription
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Capability, Event, EventKind
from reactstate.state.change import ChangeType
from reactstate.state.state import State

CREATE, UPDATE, DELETE = ChangeType.CREATE, ChangeType.UPDATE, ChangeType.DELETE


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


async def take(changes: KeyedSubscription[Cart], settle: Any) -> list[Any]:
    """Return what is there to be told, without waiting for more."""
    found: list[Any] = []
    while True:
        waiting = asyncio.ensure_future(anext(changes))
        await settle()
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return found
        found.append(waiting.result())


def told(changes: list[Any]) -> list[tuple[Any, ...]]:
    return [(change.id, change.change_type, change.version) for change in changes]


async def test_every_change_is_told_to_a_reader_who_keeps_up(carts):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="ada"), actor="ada", action="open", tags={"n": 1})
        change = await anext(changes)
        assert (change.id, change.change_type, change.version, change.state) == ("ada", CREATE, 1, Cart(id="ada"))
        assert (change.actor, change.action, change.tags) == ("ada", "open", {"n": 1})
        assert change.timestamp == (await carts.current("ada")).timestamp
        assert change.cursor == changes.cursor
        assert not change.resync
        await carts.update("ada", count_up)
        change = await anext(changes)
        assert (change.change_type, change.version, change.state.count) == (UPDATE, 2, 1)
        await carts.delete("ada")
        change = await anext(changes)
        assert (change.id, change.change_type, change.version, change.state) == ("ada", DELETE, 3, None)
        assert (change.timestamp, change.actor, change.action, change.tags) == (None, None, None, {})
        assert repr(change) == "KeyedChange('ada', DELETE, version=3)"


async def test_it_is_live_from_the_call(carts, settle):
    changes = carts.subscribe()
    await carts.put(Cart(id="ada"))
    assert told(await take(changes, settle)) == [("ada", CREATE, 1)]
    await changes.aclose()


async def test_versions_in_between_are_folded_into_the_newest(carts, settle):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="ada"))
        await carts.put(Cart(id="bob"))
        for _ in range(5):
            await carts.update("ada", count_up)
        found = await take(changes, settle)
        assert told(found) == [("bob", CREATE, 1), ("ada", CREATE, 6)]
        assert found[1].state.count == 5


async def test_deleted_and_created_anew_is_one_create(carts, settle):
    await carts.put(Cart(id="ada"))
    async with carts.subscribe() as changes:
        await carts.delete("ada")
        await carts.put(Cart(id="ada"))
        assert told(await take(changes, settle)) == [("ada", CREATE, 3)]


async def test_created_and_deleted_between_two_readings_is_a_delete(carts, settle):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="ada"))
        await carts.delete("ada")
        assert told(await take(changes, settle)) == [("ada", DELETE, 2)]


async def test_only_the_prefix_that_was_asked_for_is_told(carts, settle):
    async with carts.subscribe("a%") as changes, carts.subscribe("") as everything:
        for name in ("a%", "a%/b", "ab", "b", "a"):
            await carts.put(Cart(id=name))
        assert [change.id for change in await take(changes, settle)] == ["a%", "a%/b"]
        assert len(await take(everything, settle)) == 5
    with pytest.raises(InvalidKeyError):
        carts.subscribe(3)


async def test_changes_of_other_containers_are_told_and_those_of_other_collections_are_not(carts, kept, settle):
    async with (
        KeyedContainer.open(Cart, store=kept) as other,
        KeyedContainer.open(Cart, store=kept, key="other") as elsewhere,
        carts.subscribe() as changes,
    ):
        await elsewhere.put(Cart(id="eve"))
        await other.put(Cart(id="ada"))
        assert told(await take(changes, settle)) == [("ada", CREATE, 1)]


async def test_a_cursor_resumes_without_loss_or_repetition(carts, settle):
    cursors = []
    async with carts.subscribe() as changes:
        for number in range(6):
            await carts.put(Cart(id=f"{number}"))
            cursors.append((await anext(changes)).cursor)
    for place, cursor in enumerate(cursors):
        async with carts.subscribe(since=cursor) as changes:
            assert changes.cursor == cursor
            expected = [(str(number), CREATE, 1) for number in range(place + 1, 6)]
            assert told(await take(changes, settle)) == expected


async def test_a_cursor_in_the_middle_of_what_was_folded_loses_nothing(carts, settle):
    start = await carts._store.cursor()
    for name in "abcab":
        await carts.put(Cart(id=name, count=(await carts.count()) + 10))
        await carts.update(name, count_up)
    async with carts.subscribe(since=start) as changes:
        first = await anext(changes)
        cursor = changes.cursor
        rest = told(await take(changes, settle))
    assert first.id == "c"
    async with carts.subscribe(since=cursor) as changes:
        resumed = await take(changes, settle)
    assert [(change.id, change.version) for change in resumed] == [(name, version) for name, _, version in rest]


async def test_what_is_no_cursor_is_refused(carts):
    with pytest.raises(InvalidKeyError):
        carts.subscribe(since="nonsense")
    with pytest.raises(ValueError, match="buffer"):
        carts.subscribe(buffer=0)
    with pytest.raises(ValueError, match="on_lag"):
        carts.subscribe(on_lag="perhaps")


async def test_a_cancelled_call_takes_nothing(carts, settle):
    async with carts.subscribe() as changes:
        for turns in range(12):
            name = str(turns)
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            await carts.put(Cart(id=name))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                found = await take(changes, settle)
            else:
                found = [waiting.result(), *await take(changes, settle)]
            assert [change.id for change in found] == [name]


async def test_two_readers_of_one_subscription_share_its_changes(carts, settle):
    async with carts.subscribe() as changes:
        one, two = asyncio.ensure_future(anext(changes)), asyncio.ensure_future(anext(changes))
        await settle()
        await carts.put(Cart(id="ada"))
        await carts.put(Cart(id="bob"))
        assert {(await one).id, (await two).id} == {"ada", "bob"}


async def test_a_key_that_is_always_ahead_of_its_events_is_told_all_the_same(kept, clock, settle):
    """Another change is committed each time between the event and the reading."""

    class Ahead(type(kept)):
        ahead: Any = None

        async def get_many(self, keys):
            await self._run()
            return await super().get_many(keys)

        def snapshot(self):
            inner = super().snapshot()
            outer = self

            class Block:
                async def __aenter__(self):
                    await outer._run()
                    return await inner.__aenter__()

                async def __aexit__(self, *arguments):
                    return await inner.__aexit__(*arguments)

            return Block()

        async def _run(self):
            if self.ahead is not None:
                await self.ahead()

    async with Ahead() as store, KeyedContainer.open(Cart, store=store, clock=clock) as container:
        steps = iter(range(8))

        async def go_on():
            if next(steps, None) is not None:
                await container.update("ada", count_up)

        await container.put(Cart(id="ada"))
        async with container.subscribe() as changes:
            store.ahead = go_on
            await container.update("ada", count_up)
            await container.put(Cart(id="bob"))
            found = await take(changes, settle)
            versions = [change.version for change in found if change.id == "ada"]
            assert len(versions) > 3
            assert versions == sorted(set(versions))
            assert versions[-1] == 10
            store.ahead = None
            for change in found:
                async with container.subscribe(since=change.cursor) as again:
                    later = [one.version for one in await take(again, settle) if one.id == "ada"]
                    seen = [one.version for one in found[: found.index(change) + 1] if one.id == "ada"]
                    assert later[-1:] == ([10] if not seen or seen[-1] != 10 else [])
                    assert not set(seen) & set(later)


@pytest.mark.parametrize("place", range(4))
async def test_deleted_and_created_anew_while_it_is_read_stays_in_order(kept, clock, settle, place):
    class Busy(type(kept)):
        between: Any = None

        async def get(self, key):
            await self._run()
            return await super().get(key)

        async def get_many(self, keys):
            await self._run()
            return await super().get_many(keys)

        def snapshot(self):
            inner = super().snapshot()
            outer = self

            class Block:
                async def __aenter__(self):
                    await outer._run()
                    return await inner.__aenter__()

                async def __aexit__(self, *arguments):
                    return await inner.__aexit__(*arguments)

            return Block()

        async def _run(self):
            if self.between:
                work = self.between.pop(0)
                if work is not None:
                    kept, self.between = self.between, None
                    await work()
                    self.between = kept

    async with Busy() as store, KeyedContainer.open(Cart, store=store, clock=clock) as container:

        async def churn():
            await container.put(Cart(id="ada"))
            await container.delete("ada")
            await container.put(Cart(id="other"))
            await container.delete("other")

        await container.put(Cart(id="ada"))
        async with container.subscribe() as changes:
            await container.delete("ada")
            store.between = [None] * place + [churn, None, churn]
            found = await take(changes, settle)
            store.between = None
            await container.put(Cart(id="ada"))
            found += await take(changes, settle)
        versions = [change.version for change in found if change.id == "ada"]
        assert versions == sorted(set(versions))
        assert found[-1].state == Cart(id="ada")


async def test_an_unreadable_state_is_told_as_an_error_and_the_rest_goes_on(carts, kept, settle):
    async with carts.subscribe() as changes:
        await kept.put(carts._records.key("bad"), b"nonsense")
        await carts.put(Cart(id="good"))
        with pytest.raises(CodecError):
            await anext(changes)
        assert changes.cursor is not None
        assert (await anext(changes)).id == "good"


async def test_a_key_that_is_no_id_is_told_as_an_error(kept):
    class Numbered(State):
        id: int

    async with KeyedContainer.open(Numbered, store=kept) as numbered, numbered.subscribe() as changes:
        await kept.put(numbered._records.root + "x", b"")
        await kept.delete(numbered._records.root + "x")
        await numbered.put(Numbered(id=1))
        with pytest.raises(CodecError):
            await anext(changes)
        assert (await anext(changes)).id == 1


async def test_many_changed_ids_pass_a_small_buffer(carts, settle):
    async with carts.subscribe(buffer=3) as changes:
        for number in range(700):
            await carts.put(Cart(id=str(number)))
        found = [await anext(changes) for _ in range(700)]
        assert {change.id for change in found} == {str(number) for number in range(700)}
        assert await take(changes, settle) == []


async def test_a_backlog_of_many_ids_is_read_in_pages(carts):
    start = await carts._store.cursor()
    for number in range(700):
        await carts.put(Cart(id=str(number)))
    async with carts.subscribe(since=start) as changes:
        assert [(await anext(changes)).id for _ in range(700)] == [str(number) for number in range(700)]


# --- lagging ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def short(store_clock):
    options = StoreOptions(change_log_retention=timedelta(seconds=10))
    async with MemoryStore(options=options, clock=store_clock) as opened:
        yield opened


@pytest.fixture
async def lagging(short, store_clock, clock):
    """A container with five states, and a cursor that is too old."""
    async with KeyedContainer.open(Cart, store=short, clock=clock) as container:
        await container.put(Cart(id="first"))
        cursor = await short.cursor()
        for number in range(5):
            await container.put(Cart(id=str(number)))
        await container.delete("first")
        await container.put(Cart(id="last"))
        for _ in range(20):  # a log forgets by the piece
            store_clock.advance(30)
            await container.update("last", count_up)
        yield container, cursor


async def test_who_comes_too_late_is_told_where_to_resume(lagging, settle):
    container, cursor = lagging
    async with container.subscribe(since=cursor) as changes:
        with pytest.raises(CompactedError) as caught:
            await anext(changes)
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
        assert changes.closed
    async with container.subscribe(since=caught.value.resume) as changes:
        await container.put(Cart(id="new"))
        found = await take(changes, settle)
        assert told(found)[-1] == ("new", CREATE, 3)


async def test_a_resync_tells_every_current_state_and_goes_on(lagging, settle):
    container, cursor = lagging
    async with container.subscribe(since=cursor, on_lag="resync") as changes:
        found = await take(changes, settle)
        assert [change.id for change in found] == ["0", "1", "2", "3", "4", "last"]
        assert all(change.resync and change.change_type is UPDATE for change in found)
        assert "resync=True" in repr(found[0])
        assert {change.cursor for change in found[:-1]} == {cursor}
        assert found[-1].cursor != cursor
        await container.update("last", count_up)
        (change,) = await take(changes, settle)
        assert (change.id, change.change_type, change.resync) == ("last", UPDATE, False)
    async with container.subscribe(since=found[-1].cursor) as changes:
        assert told(await take(changes, settle)) == told([change])


async def test_a_resync_of_many_states_is_read_in_pages_and_survives_cancellation(lagging, settle):
    container, cursor = lagging
    for number in range(600):
        await container.put(Cart(id=f"x{number:03}"))
    async with container.subscribe("x", since=cursor, on_lag="resync") as changes:
        found: list[Any] = []
        for turns in range(40):
            waiting = asyncio.ensure_future(anext(changes))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            done = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if not isinstance(done, BaseException):
                found.append(done)
        found += await take(changes, settle)
    assert [change.id for change in found] == [f"x{number:03}" for number in range(600)]


async def test_a_resync_of_nothing_goes_on(lagging, settle):
    container, cursor = lagging
    async with container.subscribe("none", since=cursor, on_lag="resync") as changes:
        assert await take(changes, settle) == []
        assert changes.cursor != cursor
        await container.put(Cart(id="none/1"))
        assert told(await take(changes, settle)) == [("none/1", CREATE, 3)]


async def test_a_resync_can_be_left_half_way(lagging):
    container, cursor = lagging
    for number in range(600):
        await container.put(Cart(id=f"x{number:03}"))
    async with container.subscribe("x", since=cursor, on_lag="resync") as changes:
        await anext(changes)
        assert changes._view is not None
    assert changes._view is None


async def test_a_cursor_of_another_store_is_too_late(carts):
    async with MemoryStore() as other:
        cursor = await other.cursor()
    async with carts.subscribe(since=cursor) as changes:
        with pytest.raises(CompactedError):
            await anext(changes)


# --- trouble ------------------------------------------------------------------------------------------------------


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


# --- the newest value of one id -----------------------------------------------------------------------------------


async def test_watch_gives_what_is_there_first_and_then_the_newest(carts, settle):
    async with carts.watch("ada") as values:
        assert await anext(values) is None
        await carts.put(Cart(id="ada"))
        await carts.put(Cart(id="ada/2"))
        assert await anext(values) == Cart(id="ada")
        for _ in range(5):
            await carts.update("ada", count_up)
        assert (await anext(values)).count == 5
        await carts.delete("ada")
        assert await anext(values) is None
        waiting = asyncio.ensure_future(anext(values))
        await carts.put(Cart(id="ada/2", count=7))
        await settle()
        assert not waiting.done()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await carts.put(Cart(id="ada"))
        assert await anext(values) == Cart(id="ada")
    with pytest.raises(InvalidKeyError):
        carts.watch("")


async def test_watch_goes_on_after_a_state_that_cannot_be_read(carts, kept):
    async with carts.watch("ada") as values:
        await kept.put(carts._records.key("ada"), b"nonsense")
        with pytest.raises(CodecError):
            await anext(values)
        waiting = asyncio.ensure_future(anext(values))
        await kept.delete(carts._records.key("ada"))
        assert await waiting is None


async def test_watch_goes_on_after_a_gap(carts, kept, settle, monkeypatch):
    watches = [Told(CompactedError("gap", resume="there")), Told()]
    asked: list[Any] = []

    def watch(self, prefix="", *, after=None):
        asked.append(after)
        return watches[len(asked) - 1]

    monkeypatch.setattr(type(kept), "watch", watch)
    values = carts.watch("ada")
    assert await anext(values) is None
    waiting = asyncio.ensure_future(anext(values))
    await carts.put(Cart(id="ada"))
    await settle()
    assert asked == [None, "there"]
    assert await waiting == Cart(id="ada")
    await values.aclose()
    assert all(one.closed for one in watches)


async def test_watch_reads_again_after_it_failed_or_was_cancelled(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as carts, carts.watch("ada") as values:
        store.down = True
        with pytest.raises(UnavailableError):
            await anext(values)
        store.down = False
        await carts.put(Cart(id="ada"))
        assert await anext(values) == Cart(id="ada")


async def test_watch_ends_when_its_own_store_is_closed_under_a_reading(clock):
    container = await KeyedContainer.open(Cart, clock=clock)
    values, changes = container.watch("ada"), container.subscribe()
    await container.put(Cart(id="ada"))
    await container._store.aclose()
    with pytest.raises(ClosedError):
        await anext(values)
    await container.aclose()
    assert [value async for value in values] == []
    assert [change async for change in changes] == []


def test_the_capabilities_of_the_plain_store_are_what_the_tests_need(plain_store):
    assert Capability.WATCH in plain_store.capabilities
    assert Capability.SNAPSHOT_READS not in plain_store.capabilities
