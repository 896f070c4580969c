# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""Watching: the events of each commit, in order, together, without a gap, from any cursor."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reactstate.errors import CompactedError, InvalidKeyError
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Add, Capability, Delete, EventKind, Put, Step
from reactstate.testing.conformance_reads import AWKWARD_KEYS
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

if TYPE_CHECKING:
    from reactstate.kv.protocol import Cursor, Event
    from reactstate.kv.store import KeyValueStore

__all__ = ["WatchPromises"]

_WATCH, _TRANSACTIONS = Capability.WATCH, Capability.TRANSACTIONS


async def _story(store: KeyValueStore) -> int:
    """Commit a few things of every kind; return how many events that makes."""
    await store.put("a", b"1")
    await store.commit([Step("b", Put(b"1")), Step("a", Put(b"2")), Step("c", Add(1))])
    await store.commit([Step("absent", Delete())])
    await store.commit([Step("a")])
    await store.commit([Step("b", Delete()), Step("d", Put(b"")), Step("absent", Delete())])
    await store.put("e", b"")
    return 7


def _plain(event: Event) -> tuple[str, EventKind, int]:
    return event.key, event.kind, event.revision


class WatchPromises(StoreSuite):
    """What a watch may be relied on for."""

    @promise(_WATCH)
    async def test_a_watch_tells_each_write_with_its_revision(self, lab: StoreLab) -> None:
        store = lab.store
        async with aclosing(store.watch()) as watch:
            first = await store.put("k", b"1")
            second = (await store.commit((Step("n", Add(1)),))).entries["n"]
            third = await store.commit((Step("k", Delete()),))
            fourth = await store.put("k", b"1")
            assert [_plain(event) for event in await lab.take(watch, 4)] == [
                ("k", EventKind.PUT, first.revision),
                ("n", EventKind.PUT, second.revision),
                ("k", EventKind.DELETE, third.revision),
                ("k", EventKind.PUT, fourth.revision),
            ]

    @promise(_WATCH)
    async def test_a_watch_begins_when_it_is_called(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("before", b"")
        watch = store.watch()
        put = await store.put("k", b"")
        assert _plain(await anext(watch)) == ("k", EventKind.PUT, put.revision)
        await watch.aclose()

    @promise(_WATCH)
    async def test_a_waiting_watch_is_woken_by_a_commit(self, lab: StoreLab) -> None:
        store = lab.store
        async with aclosing(store.watch()) as watch:
            for _ in range(20):
                waiting = asyncio.ensure_future(anext(watch))
                await asyncio.sleep(0)
                put = await store.put("k", b"")
                assert (await waiting).revision == put.revision

    @promise(_WATCH)
    async def test_what_changed_nothing_is_not_told(self, lab: StoreLab) -> None:
        store = lab.store
        async with aclosing(store.watch()) as watch:
            await store.commit((Step("absent", Delete()),))
            await store.commit((Step("absent"),))
            await store.commit(())
            put = await store.put("k", b"")
            assert _plain(await anext(watch)) == ("k", EventKind.PUT, put.revision)

    @promise(_WATCH, _TRANSACTIONS)
    async def test_the_events_of_one_commit_come_together_once_each(self, lab: StoreLab) -> None:
        store = lab.store
        async with aclosing(store.watch()) as watch:
            count = await _story(store)
            events = await lab.take(watch, count)
        revisions = [event.revision for event in events]
        assert revisions == sorted(revisions)
        groups = [{event.key for event in events if event.revision == number} for number in dict.fromkeys(revisions)]
        assert groups == [{"a"}, {"a", "b", "c"}, {"b", "d"}, {"e"}]
        kinds = {(event.key, event.revision): event.kind for event in events}
        assert [kind for (key, _), kind in kinds.items() if key == "b"] == [EventKind.PUT, EventKind.DELETE]

    @promise(_WATCH, _TRANSACTIONS)
    async def test_a_watch_resumes_after_every_cursor_also_in_the_middle_of_a_commit(self, lab: StoreLab) -> None:
        store = lab.store
        start = await store.cursor()
        count = await _story(store)
        async with aclosing(store.watch(after=start)) as watch:
            events = await lab.take(watch, count)
        last = await store.put("end", b"")
        cursors: list[Cursor] = [start, *(event.cursor for event in events)]
        assert len(set(cursors)) == len(cursors)
        for place, cursor in enumerate(cursors):
            async with aclosing(store.watch(after=cursor)) as watch:
                rest = await lab.take(watch, count - place + 1)
            assert [_plain(event) for event in rest[:-1]] == [_plain(event) for event in events[place:]]
            assert rest[-1].revision == last.revision

    @promise(_WATCH, _TRANSACTIONS)
    async def test_a_prefix_selects_events_and_their_cursors_resume_the_rest(self, lab: StoreLab) -> None:
        store = lab.store
        start = await store.cursor()
        for number in range(6):
            await store.commit(
                [Step("a/1", Put(b"")), Step(f"b/{number}", Put(b"")), Step(f"a/{number + 2}", Put(b""))]
            )
        async with aclosing(store.watch("a/", after=start)) as watch:
            events = await lab.take(watch, 12)
        assert all(event.key.startswith("a/") for event in events)
        assert len({_plain(event) for event in events}) == 12
        for place in range(11):
            async with aclosing(store.watch("a/", after=events[place].cursor)) as watch:
                rest = await lab.take(watch, 11 - place)
            assert [_plain(event) for event in rest] == [_plain(event) for event in events[place + 1 :]]
        async with aclosing(store.watch("b/", after=start)) as watch:
            assert [event.key for event in await lab.take(watch, 6)] == [f"b/{number}" for number in range(6)]

    @promise(_WATCH)
    async def test_a_prefix_of_a_watch_is_data_too(self, lab: StoreLab) -> None:
        store = lab.store
        start = await store.cursor()
        for key in AWKWARD_KEYS:
            await store.put(key, b"")
        for prefix in (*AWKWARD_KEYS, "a"):
            inside = [key for key in AWKWARD_KEYS if key.startswith(prefix)]
            async with aclosing(store.watch(prefix, after=start)) as watch:
                assert [event.key for event in await lab.take(watch, len(inside))] == inside, f"prefix {prefix!r}"

    @promise(_WATCH)
    async def test_the_cursor_of_now_misses_nothing_that_comes_later(self, lab: StoreLab) -> None:
        store = lab.store
        for _ in range(5):
            await store.put("before", b"")
            cursor = await store.cursor()
            put = await store.put("k", b"")
            async with aclosing(store.watch(after=cursor)) as watch:
                assert _plain(await anext(watch)) == ("k", EventKind.PUT, put.revision)

    @promise(_WATCH)
    async def test_every_watch_gets_everything_also_one_that_is_slow(self, lab: StoreLab) -> None:
        store = lab.store
        watches = [store.watch() for _ in range(4)]
        first = await store.put("k", b"")
        assert (await anext(watches[0])).revision == first.revision
        revisions = [first.revision]
        revisions.extend([(await store.put("k", b"")).revision for _ in range(1500)])
        for number, watch in enumerate(watches):
            expected = revisions[1:] if number == 0 else revisions
            assert [event.revision for event in await lab.take(watch, len(expected))] == expected
            await watch.aclose()

    @promise(_WATCH)
    async def test_a_wait_that_is_cancelled_loses_no_event(self, lab: StoreLab) -> None:
        store = lab.store
        async with aclosing(store.watch()) as watch:
            issued: list[int] = []
            seen: list[int] = []
            for number in range(30):
                waiting = asyncio.ensure_future(anext(watch))
                for _ in range(number % 3):
                    await asyncio.sleep(0)
                if number % 2:
                    issued.append((await store.put("k", b"")).revision)
                waiting.cancel()
                result = (await asyncio.gather(waiting, return_exceptions=True))[0]
                if not isinstance(result, BaseException):
                    seen.append(result.revision)
            while len(seen) < len(issued):
                seen.append((await anext(watch)).revision)
            assert seen == issued

    @promise(_WATCH)
    async def test_closing_a_watch_ends_it_and_a_wait_in_it(self, lab: StoreLab) -> None:
        watch = lab.store.watch()
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0)
        await watch.aclose()
        assert await waiting is None
        await watch.aclose()
        await lab.store.put("k", b"")
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    @promise(_WATCH)
    async def test_closing_the_store_ends_its_watches(self, lab: StoreLab) -> None:
        store = lab.store
        idle, busy = store.watch(), store.watch("k")
        waiting = asyncio.ensure_future(collect(busy))
        put = await store.put("k", b"")
        await asyncio.sleep(0.001)
        await store.aclose()
        lab.abandon(store)
        assert {event.revision for event in await waiting} <= {put.revision}
        assert {event.revision for event in await collect(idle)} <= {put.revision}
        with pytest.raises(StopAsyncIteration):
            await anext(idle)
        for watch in (idle, busy):
            await watch.aclose()

    @promise(_WATCH)
    async def test_what_is_no_cursor_or_prefix_is_refused(self, lab: StoreLab) -> None:
        wrong: list[Any] = ["", "x", ":", "7", 7, b"a:1"]
        for cursor in wrong:
            with pytest.raises(InvalidKeyError):
                await anext(lab.store.watch(after=cursor))
        prefixes: list[Any] = ["\ud800", None, 1]
        for prefix in prefixes:
            with pytest.raises(InvalidKeyError):
                await anext(lab.store.watch(prefix))

    @promise(_WATCH)
    async def test_the_cursor_of_another_store_says_where_to_resume(self, lab: StoreLab) -> None:
        other = await lab.open("other")
        for _ in range(3):
            await other.put("k", b"")
        cursor = await other.cursor()
        for _ in range(5):  # so that the same place exists here
            await lab.store.put("k", b"")
        with pytest.raises(CompactedError) as caught:
            await anext(lab.store.watch(after=cursor))
        put = await lab.store.put("k", b"")
        async with aclosing(lab.store.watch(after=caught.value.resume)) as watch:
            assert (await anext(watch)).revision == put.revision

    @promise(_WATCH, options=True)
    async def test_a_cursor_within_the_retention_is_never_too_old(self, lab: StoreLab) -> None:
        store = await lab.open("kept", StoreOptions(change_log_retention=lab.ttl(1000)))
        cursor = await store.cursor()
        issued: list[int] = []
        for _ in range(9):
            issued.extend([(await store.put("k", b"")).revision for _ in range(20)])
            await lab.pass_time(1)
        async with aclosing(store.watch(after=cursor)) as watch:
            assert [event.revision for event in await lab.take(watch, len(issued))] == issued

    @promise(_WATCH, options=True)
    async def test_a_cursor_beyond_the_retention_has_no_gap_or_says_so(self, lab: StoreLab) -> None:
        retention = timedelta(seconds=10) if lab.store.ttl_clock == "host" else lab.ttl(1)
        store = await lab.open("compacted", StoreOptions(change_log_retention=retention))
        cursor = await store.cursor()
        issued: list[int] = []
        for _ in range(4):
            issued.extend([(await store.put("k", b"")).revision for _ in range(300)])
            await lab.pass_time(11)
        issued.append((await store.put("k", b"")).revision)
        watch = store.watch(after=cursor)
        try:
            told = [event.revision for event in await lab.take(watch, len(issued))]
        except CompactedError as exc:
            async with aclosing(store.watch(after=exc.resume)) as again:
                put = await store.put("k", b"")
                rest = [event.revision for event in await lab.until(again, put.revision)]
            assert rest == [*issued, put.revision][-len(rest) :], "from where it says to resume there is no gap"
        else:
            assert told == issued
            await watch.aclose()
        await lab.rebase(store)

    @promise(_WATCH, Capability.DURABLE)
    async def test_a_cursor_outlives_the_store_object(self, lab: StoreLab) -> None:
        start = await lab.store.cursor()
        count = await _story(lab.store)
        async with aclosing(lab.store.watch(after=start)) as watch:
            events = await lab.take(watch, count)
        again = await lab.reopen(lab.store)
        last = await again.put("end", b"")
        for place, event in enumerate(events):
            async with aclosing(again.watch(after=event.cursor)) as watch:
                rest = await lab.take(watch, count - place)
            assert [_plain(one) for one in rest[:-1]] == [_plain(one) for one in events[place + 1 :]]
            assert rest[-1].revision == last.revision

    @promise(_WATCH, Capability.SHARED)
    async def test_a_watch_sees_what_another_object_of_the_store_commits(self, lab: StoreLab) -> None:
        store, other = lab.store, await lab.open()
        async with aclosing(store.watch("k")) as watch:
            for number in range(20):
                writer = other if number % 3 else store
                put = await writer.put(f"k{number % 4}", b"")
                assert _plain(await anext(watch)) == (put.key, EventKind.PUT, put.revision)
        await lab.rebase(store)
        await lab.rebase(other)
