"""Ranges, the change log, and watches of an embedded store."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from reactstate.errors import (
    CompactedError,
    ConflictError,
    CorruptionError,
    InvalidKeyError,
)
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Delete, EventKind, Put, RangeExpect, Step

# --- ranges ---------------------------------------------------------------------------------------------------------


async def test_a_range_sees_neighbours_of_the_same_group(toys, table, store):
    await store.put("a1", b"")
    first = await toys.hold(table, store)
    jobs = [
        store.put("b", b""),
        store.commit([Step("x", Put(b""))], ranges=[RangeExpect("a", "b", 1)]),
        store.commit([Step("a2", Put(b"")), Step("a1", Delete())]),
        store.commit([Step("y", Put(b""))], ranges=[RangeExpect("a", "b", 1)]),
        store.commit([Step("y", Put(b""))], ranges=[RangeExpect("a", "b", 5)]),
        store.commit([Step("z", Put(b""))], ranges=[RangeExpect("a", None, 5)]),
        store.commit([], ranges=[RangeExpect("a", "b", 99)]),
    ]
    tasks = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.sleep(0)
    table.gate.set()
    await first
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(result, "revision", None) for result in done] == [3, 4, 5, None, 6, None, 6]
    assert done[3].keys == ("a1", "a2")
    assert set(done[3].entries) == {"a2"}
    assert done[5].keys == ("y",)


async def test_a_range_from_before_the_change_log_cannot_be_proven(toys, table, clock):
    async with toys.make(table, options=StoreOptions(change_log_retention=timedelta(seconds=8)), clock=clock) as store:
        await store.put("a", b"")
        clock.advance(60)
        await store.put("b", b"")
        assert table.state.floor == 1
        with pytest.raises(ConflictError, match="read the range anew") as caught:
            await store.commit([Step("c", Put(b""))], ranges=[RangeExpect("x", "y", 0)])
        assert caught.value.keys == ()
        with pytest.raises(ConflictError):
            await store.commit([Step("c", Put(b""))], ranges=[RangeExpect("x", "y", -5)])
        await store.commit([Step("c", Put(b""))], ranges=[RangeExpect("x", "y", 1)])


async def test_a_range_may_begin_in_the_middle_of_a_group(toys, table, store):
    first = await toys.hold(table, store)
    rest = [asyncio.ensure_future(store.put(key, b"")) for key in "abcd"]
    await asyncio.sleep(0)
    table.gate.set()
    await asyncio.gather(first, *rest)
    with pytest.raises(ConflictError) as caught:
        await store.commit([], ranges=[RangeExpect("", None, 3)])
    assert caught.value.keys == ("c", "d")


async def test_waiting_on_a_closed_feed_is_over_at_once(toys, table):
    store = toys.make(table)
    await store.aclose()
    assert store._feed.wait().done()


async def test_a_range_over_a_long_log_reads_all_of_it(store):
    await store.put("a", b"")
    for place in range(150):
        await store.put(f"b{place}", b"")
    with pytest.raises(ConflictError) as caught:
        await store.commit([], ranges=[RangeExpect("b149", "b15", 1)])
    assert caught.value.keys == ("b149",)
    assert (await store.commit([], ranges=[RangeExpect("a", "b", 1)])).revision == 151


# --- watching -------------------------------------------------------------------------------------------------------


async def test_a_watch_reads_a_long_log_in_pieces_and_waits_then(store):
    start = await store.cursor()
    for place in range(40):
        await store.commit([Step(f"{place:02}:{part:02}", Put(b"")) for part in range(30)])
    watch = store.watch(after=start)
    found = [(await anext(watch)).key for _ in range(1200)]
    assert found == [f"{place:02}:{part:02}" for place in range(40) for part in range(30)]
    event = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.delete("00:00")
    assert (await event).kind is EventKind.DELETE


async def test_what_others_commit_to_the_table_is_found_while_somebody_watches(toys, table, store, clock):
    async with toys.make(table, clock=clock) as other:
        event = asyncio.ensure_future(anext(store.watch()))
        await asyncio.sleep(0)
        await other.put("a", b"")
        assert (await asyncio.wait_for(event, 5)).key == "a"
        await toys.until(lambda: store._feed._ticks is None)


async def test_a_table_that_cannot_be_read_for_a_moment_does_not_end_the_watch(table, store):
    watch = store.watch()
    event = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    table.unreadable = True
    await asyncio.sleep(0.01)
    table.unreadable = False
    await store.put("a", b"")
    assert (await asyncio.wait_for(event, 5)).key == "a"


async def test_a_cursor_from_before_the_log_is_too_old_and_names_one_that_is_not(toys, table, clock):
    async with toys.make(table, options=StoreOptions(change_log_retention=timedelta(seconds=8)), clock=clock) as store:
        old = await store.cursor()
        await store.put("a", b"")
        clock.advance(60)
        await store.put("b", b"")
        with pytest.raises(CompactedError) as caught:
            await anext(store.watch(after=old))
        assert caught.value.resume == await store.cursor()
        with pytest.raises(CompactedError):
            await anext(store.watch(after="other:1"))
        with pytest.raises(InvalidKeyError):
            store.watch(after="nonsense")


async def test_a_cursor_newer_than_the_store_is_told(table, store):
    await store.put("a", b"")
    for cursor in ("toy:2", "toy:2.1"):
        with pytest.raises(CompactedError, match="older state") as caught:
            await anext(store.watch(after=cursor))
        assert caught.value.resume == "toy:1"
    later = store.watch(after="toy:1")
    event = asyncio.ensure_future(anext(later))
    await asyncio.sleep(0)
    await store.put("b", b"")
    assert (await event).revision == 2


async def test_a_gap_in_the_log_is_damage(table, store):
    start = await store.cursor()
    await store.put("a", b"")
    await store.put("b", b"")
    del table.state.log[0]
    with pytest.raises(CorruptionError, match="missing"):
        await anext(store.watch(after=start))
    table.state.log[0] = (2, 0, b"junk")
    with pytest.raises(CorruptionError, match="damaged"):
        await anext(store.watch(after=start))
    with pytest.raises(CorruptionError, match="damaged"):
        await store.commit([], ranges=[RangeExpect("a", "b", 0)])


async def test_a_commit_that_was_trimmed_while_it_is_waited_for_is_told(table, store):
    watch = store.watch()
    event = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    table.state.floor = 5
    table.state.newest = (5, 0)
    with pytest.raises(CompactedError):
        await asyncio.wait_for(event, 5)
