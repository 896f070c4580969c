"""MemoryStore: watches, cursors, and the log behind them."""

import asyncio
import gc
import weakref
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import (
    CompactedError,
    InvalidKeyError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.memory_feed import MemoryFeed
from reactstate.kv.memory_log import MAX_COMMITS, SEGMENT, MemoryLog
from reactstate.kv.protocol import (
    Add,
    Cursor,
    Delete,
    EventKind,
    Put,
    Step,
)

HOUR = timedelta(hours=1)


class ReversibleClock(ManualClock):
    """A clock that can also go back."""

    __slots__ = ("back",)

    def __init__(self):
        super().__init__()
        self.back = 0

    def time_ns(self):
        return super().time_ns() - self.back


@pytest.fixture
def clock():
    return ReversibleClock()


@pytest.fixture
async def store(clock):
    async with MemoryStore(clock=clock) as store:
        yield store


async def upcoming(watch, count):
    return [await anext(watch) for _ in range(count)]


def told(events):
    return [(event.kind.value, event.key, event.revision) for event in events]


async def test_a_watch_tells_of_every_commit_in_order(store):
    watch = store.watch("k/")
    await store.put("k/1", b"")
    await store.put("other", b"")
    await store.commit([Step("k/2", Put(b"")), Step("x", Put(b"")), Step("k/1", Delete()), Step("k/3", Add(1))])
    await store.delete("k/2")
    assert told(await upcoming(watch, 5)) == [
        ("PUT", "k/1", 1),
        ("PUT", "k/2", 3),
        ("DELETE", "k/1", 3),
        ("PUT", "k/3", 3),
        ("DELETE", "k/2", 4),
    ]
    await watch.aclose()


async def test_a_waiting_watch_wakes_at_the_next_commit(store):
    watch = store.watch()
    for number, write in enumerate(
        (
            lambda: store.put("a", b""),
            lambda: store.put("a", b""),
            lambda: store.commit([Step("a", Put(b""))]),
            lambda: store.put("b", b"", ttl=1),
            lambda: store.delete("a"),
        ),
        1,
    ):
        task = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        assert not task.done()
        await write()
        assert (await task).revision == number
    await watch.aclose()


async def test_a_watch_resumes_after_any_event(store):
    watch = store.watch()
    await store.put("a", b"")
    await store.commit([Step(key, Put(b"")) for key in "bcd"])
    await store.commit([Step("a", Delete()), Step("b", Delete())])
    events = await upcoming(watch, 6)
    start = store.watch(after=Cursor(f"{store.id}:0"))
    assert await upcoming(start, 6) == events
    for number, event in enumerate(events, 1):
        again = store.watch(after=event.cursor)
        assert await upcoming(again, 6 - number) == events[number:]
    assert events[-1].cursor == await store.cursor()


async def test_a_cursor_that_is_none_or_of_another_store_is_refused(store):
    for cursor in ("", "x", "x:", ":1", f"{store.id}:-1", f"{store.id}:1.x", 7):
        with pytest.raises(InvalidKeyError):
            store.watch(after=cursor)
    async with MemoryStore() as other:
        foreign = await other.cursor()
    for cursor in (foreign, Cursor(f"{store.id}:99"), Cursor(f"{store.id}:0.1")):
        watch = store.watch(after=cursor)
        with pytest.raises(CompactedError) as caught:
            await anext(watch)
        await store.put("a", b"")
        assert (await anext(store.watch(after=caught.value.resume))).key == "a"


async def test_events_are_kept_as_long_as_the_retention_says(store, clock):
    early = await store.cursor()
    await store.put("a", b"")
    clock.advance(HOUR)
    assert (await anext(store.watch(after=early))).key == "a"
    await store.put("b", b"")
    clock.advance(timedelta(seconds=1))
    late = store.watch(after=early)
    with pytest.raises(CompactedError) as caught:
        await anext(late)
    assert caught.value.resume == await store.cursor()
    with pytest.raises(StopAsyncIteration):
        await anext(late)
    assert (await anext(store.watch(after=Cursor(f"{store.id}:1")))).key == "b"


async def test_a_watch_that_keeps_up_is_never_too_late(store, clock):
    watch = store.watch()
    for number in range(1, 50):
        await store.put("a", b"")
        assert (await anext(watch)).revision == number
        clock.advance(HOUR * 3)
        clock.back = number * 10**9
    assert store._log.floor == 48


async def test_the_log_holds_a_million_commits_at_most(clock):
    log = MemoryLog(10**18, 5, 0)
    for number in range(MAX_COMMITS + 2 * SEGMENT):
        log.record("key" if number % 5 else (b"\x00\x01", "key", "gone"), 0)
    newest = 5 + MAX_COMMITS + 2 * SEGMENT
    assert log.newest == newest
    assert MAX_COMMITS - 2 * SEGMENT <= newest - log.floor <= MAX_COMMITS
    assert [revision for revision, _ in log.after(log.floor, 3)] == [log.floor + 1, log.floor + 2, log.floor + 3]
    assert log.after(newest, 100) == []
    assert log.memory() > 0


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", (b"\x00\x02", "a", "c")]), st.integers(0, 2000)), max_size=60),
    st.integers(1, 20),
)
def test_the_log_is_what_was_recorded_and_is_not_too_old(commits, limit):
    log, now, model = MemoryLog(4096 * 10**6, 0, 0), 0, []
    for number, (change, passes) in enumerate(commits, 1):
        now += passes * 10**6
        log.record(change, now)
        model.append((number, now, ["c", "a"] if isinstance(change, tuple) else [change]))
    kept = [(number, keys) for number, _, keys in model if number > log.floor]
    assert all(now - time >= 4096 * 10**6 for number, time, _ in model if number <= log.floor)
    found, place = [], log.floor
    while some := log.after(place, limit):
        assert sum(len(events) for _, events in some[:-1]) < limit
        found += [(number, sorted((key for _, key in events), reverse=True)) for number, events in some]
        place = some[-1][0]
    assert found == kept
    touched = {key for number, keys in kept for key in keys if number > log.floor + 1}
    assert log.touched(log.floor + 1, "", None) == touched
    assert log.touched(log.floor + 1, "b", "c") == touched & {"b"}


def test_the_log_gives_whole_commits_and_about_as_many_events_as_asked_for():
    log = MemoryLog(10**18, 0, 0)
    for _ in range(3):
        log.record((b"\x00\x01\x02", "a", "b", "c"), 0)
    assert [len(log.after(0, limit)) for limit in (1, 3, 4, 6, 100)] == [1, 1, 2, 2, 3]
    assert log.after(2, 2) == [(3, [(EventKind.PUT, "a"), (EventKind.DELETE, "b"), (EventKind.EXPIRE, "c")])]


async def test_waiting_at_a_closed_store_ends_at_once(store):
    await store.aclose()
    assert MemoryFeed(store).wait().done()
    assert store._sweeper is None


async def test_a_watch_reads_on_in_pieces(store):
    watch = store.watch()
    for number in range(SEGMENT + 2000):
        await store.put("a" if number % 3 else f"k{number}", b"")
    revisions = [event.revision for event in await upcoming(watch, SEGMENT + 2000)]
    assert revisions == list(range(1, SEGMENT + 2001))


async def test_expiry_is_told_while_somebody_watches(store, clock):
    watch = store.watch()
    await store.put("a", b"", ttl=0.2)
    await store.put("b", b"", ttl=2.5)
    await upcoming(watch, 2)
    task = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    clock.advance(0.9)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(0.1)
    assert told([await task]) == [("EXPIRE", "a", 3)]
    task = asyncio.ensure_future(anext(watch))
    for _ in range(3):
        await asyncio.sleep(0)
        assert not task.done()
        clock.advance(0.5)
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.5)
    assert told([await task]) == [("EXPIRE", "b", 4)]


async def test_expiry_is_told_to_who_begins_to_wait_late(store, clock):
    watch = store.watch()
    await store.put("a", b"", ttl=0.2)
    clock.advance(99)
    assert told(await upcoming(watch, 2)) == [("PUT", "a", 1), ("EXPIRE", "a", 2)]


async def test_the_sweeper_ends_when_nobody_watches(store, clock):
    watch = store.watch()
    task = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    sweeper = store._sweeper
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await task
    assert not sweeper.done()
    clock.advance(1)
    await sweeper
    again = asyncio.ensure_future(anext(store.watch()))
    await asyncio.sleep(0)
    assert store._sweeper is not sweeper
    again.cancel()


async def test_the_sweeper_does_not_keep_the_store_alive(clock):
    store = MemoryStore(clock=clock)
    task = asyncio.ensure_future(anext(store.watch()))
    await asyncio.sleep(0)
    sweeper, gone = store._sweeper, weakref.ref(store)
    task.cancel()
    await asyncio.wait([task])
    del store, task
    gc.collect()
    assert gone() is None
    clock.advance(1)
    await sweeper
