"""Each store here returns plausible wrong data in one way; the conformance suite must fail on it."""

from __future__ import annotations

import asyncio
import fnmatch
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Add, Delete, Event, EventKind, Put, Step
from reactstate.kv.terms import conflict, expects
from reactstate.testing.stores import FaultyStore

# --- expiry -------------------------------------------------------------------------------------------------------


class ExpiredInGet(FaultyStore):
    """Shows an expired entry until it is swept."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.last = {}

    async def get(self, key):
        found = await self.store.get(key)
        if found is None and key in self.last:
            return self.last[key]
        return found

    async def commit(self, steps, *, ranges=()):
        done = await self.store.commit(steps, ranges=ranges)
        for step in steps:
            self.last.pop(step.key, None)
        self.last.update({key: entry for key, entry in done.entries.items() if entry.expires_at})
        return done

    async def cleanup_expired(self):
        self.last.clear()
        return await self.store.cleanup_expired()


class ExpiredInScan(ExpiredInGet):
    async def get(self, key):
        return await self.store.get(key)

    async def scan(self, prefix="", **options):
        seen = {entry.key: entry async for entry in self.store.scan(prefix, **options)}
        shown = {key: entry for key, entry in self.last.items() if key.startswith(prefix)} | seen
        for key in sorted(shown):
            yield shown[key]


class ExpiredInExpectations(ExpiredInGet):
    async def get(self, key):
        return await self.store.get(key)

    async def commit(self, steps, *, ranges=()):
        failing = [
            step.key for step in steps if step.key in self.last and not expects(step, self.last[step.key].revision)
        ]
        if failing:
            raise conflict({key: self.last[key] for key in failing}, failing)
        return await super().commit(steps, ranges=ranges)


class TtlInSeconds(FaultyStore):
    """Rounds times to live up to whole seconds."""

    async def commit(self, steps, *, ranges=()):
        def rounded(op):
            if isinstance(op, Put) and isinstance(op.ttl, (int, float, timedelta)) and op.ttl:
                seconds = op.ttl.total_seconds() if isinstance(op.ttl, timedelta) else op.ttl
                return Put(op.value, -(-seconds // 1))
            return op

        return await self.store.commit([Step(one.key, rounded(one.op), one.expect) for one in steps], ranges=ranges)


class TtlNotCleared(FaultyStore):
    """Keeps an earlier TTL when a Put has none."""

    async def commit(self, steps, *, ranges=()):
        changed = []
        for step in steps:
            found = await self.store.get(step.key)
            op = step.op
            if isinstance(op, Put) and op.ttl is None and found is not None and found.expires_at is not None:
                left = found.expires_at - datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC)
                op = Put(op.value, left)
            changed.append(Step(step.key, op, step.expect))
        return await self.store.commit(changed, ranges=ranges)


class AddRenewsTtl(FaultyStore):
    """Gives a counter a new TTL whenever something is added to it."""

    async def commit(self, steps, *, ranges=()):
        done = await self.store.commit(steps, ranges=ranges)
        for step in steps:
            if isinstance(step.op, Add) and step.op.ttl is not None:
                entry = done.entries[step.key]
                done = await self.store.commit([Step(step.key, Put(entry.value, step.op.ttl))])
        return done


class DefaultTtlInCommit(FaultyStore):
    async def commit(self, steps, *, ranges=()):
        ttl = self.options.default_ttl
        if ttl is not None:
            steps = [
                Step(one.key, Put(one.op.value, one.op.ttl or ttl) if isinstance(one.op, Put) else one.op, one.expect)
                for one in steps
            ]
        return await self.store.commit(steps, ranges=ranges)


class FollowsTheClockBack(FaultyStore):
    """Judges by the clock, whatever it said before."""

    async def get(self, key):
        self.store._seen_ms = 0
        return await self.store.get(key)

    async def commit(self, steps, *, ranges=()):
        self.store._seen_ms = 0
        return await self.store.commit(steps, ranges=ranges)


class ExpiryIsDelete(FaultyStore):
    def watch(self, prefix="", *, after=None):
        inner = self.store.watch(prefix, after=after)

        async def events():
            async for event in inner:
                kind = EventKind.DELETE if event.kind is EventKind.EXPIRE else event.kind
                yield Event(event.key, kind, event.revision, event.cursor)

        return events()


# --- snapshots ----------------------------------------------------------------------------------------------------


class MovingSnapshot(FaultyStore):
    """Reads the store as it is now."""

    @asynccontextmanager
    async def snapshot(self):
        async with self.store.snapshot() as view:
            view.get = self.store.get
            yield view


class SnapshotForgetsDeletes(FaultyStore):
    """Keeps old values, but not what was deleted since."""

    @asynccontextmanager
    async def snapshot(self):
        async with self.store.snapshot() as view:
            frozen = view.get

            async def get(key):
                return await frozen(key) if await self.store.get(key) is not None else None

            view.get = get
            yield view


class SnapshotCursorTooLate(FaultyStore):
    """Takes the cursor when it is asked for and not with the snapshot."""

    @asynccontextmanager
    async def snapshot(self):
        store = self.store

        class Late:
            def __init__(self, view):
                self.view = view

            @property
            def cursor(self):
                return f"{store.id}:{store._table.revision}"

            def __getattr__(self, name):
                return getattr(self.view, name)

        async with store.snapshot() as view:
            yield Late(view)


# --- watching -----------------------------------------------------------------------------------------------------


class Rewatched(FaultyStore):
    """A watch whose events are changed by ``alter``, which gets them commit by commit."""

    def watch(self, prefix="", *, after=None):
        return self.altered(self.store.watch(prefix, after=after))

    async def altered(self, inner):
        async for event in inner:
            yield event


class EventsOutOfOrder(Rewatched):
    """Tells of every second change before the first."""

    async def altered(self, inner):
        while True:
            try:
                first = await anext(inner)
                second = await asyncio.wait_for(anext(inner), 0.001)
            except TimeoutError:
                yield first
            except StopAsyncIteration:
                return
            else:
                yield Event(second.key, second.kind, second.revision, second.cursor)
                yield first


class EventsFolded(Rewatched):
    """Tells only the newest change of each key when several have come."""

    async def altered(self, inner):
        waiting = {}
        while True:
            try:
                event = await asyncio.wait_for(anext(inner), 0.001)
                waiting.pop(event.key, None)
                waiting[event.key] = event
            except TimeoutError:
                for event in waiting.values():
                    yield event
                waiting.clear()
            except StopAsyncIteration:
                return


class CursorSkipsRest(FaultyStore):
    """Resumes after the commit of an event, not after the event."""

    def watch(self, prefix="", *, after=None):
        if isinstance(after, str) and "." in after:
            after = after.rpartition(".")[0]
        return self.store.watch(prefix, after=after)


class CursorRepeatsCommit(FaultyStore):
    """Resumes at the beginning of the commit of an event."""

    def watch(self, prefix="", *, after=None):
        if isinstance(after, str) and "." in after:
            store, _, place = after.rpartition(":")
            after = f"{store}:{int(place.partition('.')[0]) - 1}"
        return self.store.watch(prefix, after=after)


class WatchBeginsLate(FaultyStore):
    """Begins at the first event that is asked for, not at the call."""

    def watch(self, prefix="", *, after=None):
        async def events():
            async for event in self.store.watch(prefix, after=after):
                yield event

        return events()


class WatchPrefixIsPattern(FaultyStore):
    def watch(self, prefix="", *, after=None):
        inner = self.store.watch(after=after)

        async def events():
            async for event in inner:
                if fnmatch.fnmatchcase(event.key, f"{prefix}*"):
                    yield event

        return events()


class ForeignCursor(FaultyStore):
    """Takes the cursor of any store for one of its own."""

    def watch(self, prefix="", *, after=None):
        if isinstance(after, str) and ":" in after:
            after = f"{self.store.id}:{after.rpartition(':')[2]}"
        return self.store.watch(prefix, after=after)


class EventForNothing(FaultyStore):
    """Tells of the deletion of what was not there."""

    async def commit(self, steps, *, ranges=()):
        gone = [one for one in steps if isinstance(one.op, Delete) and await self.store.get(one.key) is None]
        done = await self.store.commit(steps, ranges=ranges)
        for step in gone:
            await self.store.commit([Step(step.key, Put(b""))])
            await self.store.commit([Step(step.key, Delete())])
        return done


# --- life ---------------------------------------------------------------------------------------------------------


class RestoredRevisions(FaultyStore):
    """Keeps the counter of the store that a checkpoint is restored into."""

    async def restore(self, path, *, replace=False, progress=None):
        other = MemoryStore(clock=self._clock)
        count = await other.restore(path)
        old = [entry async for entry in self.store.scan()]
        if old and not replace:
            raise conflict({}, [])
        entries = [entry async for entry in other.scan()]
        gone = [Step(entry.key, Delete()) for entry in old if entry.key not in {one.key for one in entries}]
        await self.store.commit([*gone, *(Step(entry.key, Put(entry.value)) for entry in entries)])
        if progress is not None:
            progress(count)
        return count


class ScanEndsWhenClosed(FaultyStore):
    """Lets a scan end when the store is closed, as if there were no more."""

    async def scan(self, prefix="", **options):
        entries = [entry async for entry in self.store.scan(prefix, **options)]
        for entry in entries:
            if self.closed:
                return
            yield entry

    closed = False

    async def aclose(self):
        self.closed = True
        await super().aclose()


CAUGHT = [
    (ExpiredInGet, "test_an_entry_expires_when_its_time_is_up"),
    (ExpiredInGet, "test_a_host_clock_is_followed_to_the_millisecond"),
    (ExpiredInScan, "test_an_entry_expires_when_its_time_is_up"),
    (ExpiredInExpectations, "test_an_expired_entry_is_absent_for_every_expectation_before_it_is_swept"),
    (ExpiredInExpectations, "test_the_conveniences_do_not_see_an_expired_entry"),
    (ExpiredInExpectations, "test_a_lease_has_one_holder_also_when_it_is_taken_over"),
    (TtlInSeconds, "test_a_host_clock_is_followed_to_the_millisecond"),
    (TtlNotCleared, "test_a_put_without_a_ttl_clears_the_one_before_and_one_with_it_begins_anew"),
    (TtlNotCleared, "test_a_swap_sets_the_ttl_that_it_says"),
    (AddRenewsTtl, "test_a_counter_gets_its_ttl_only_when_it_is_created"),
    (DefaultTtlInCommit, "test_the_default_ttl_is_for_put_put_if_absent_and_increment_only"),
    (FollowsTheClockBack, "test_a_clock_that_jumps_back_brings_nothing_back"),
    (ExpiryIsDelete, "test_a_sweep_is_told_as_an_expiry_with_a_revision_of_its_own"),
    (MovingSnapshot, "test_a_snapshot_does_not_move_whatever_is_written"),
    (MovingSnapshot, "test_each_snapshot_shows_the_moment_when_it_was_taken"),
    (MovingSnapshot, "test_what_was_alive_stays_visible_in_a_snapshot"),
    (SnapshotForgetsDeletes, "test_a_snapshot_does_not_move_whatever_is_written"),
    (SnapshotCursorTooLate, "test_a_watch_from_a_snapshots_cursor_joins_without_a_gap"),
    (EventsOutOfOrder, "test_a_watch_tells_each_write_with_its_revision"),
    (EventsOutOfOrder, "test_every_watch_gets_everything_also_one_that_is_slow"),
    (EventsFolded, "test_a_watch_tells_each_write_with_its_revision"),
    (CursorSkipsRest, "test_a_watch_resumes_after_every_cursor_also_in_the_middle_of_a_commit"),
    (CursorRepeatsCommit, "test_a_watch_resumes_after_every_cursor_also_in_the_middle_of_a_commit"),
    (WatchBeginsLate, "test_a_watch_begins_when_it_is_called"),
    (WatchPrefixIsPattern, "test_a_prefix_of_a_watch_is_data_too"),
    (ForeignCursor, "test_the_cursor_of_another_store_says_where_to_resume"),
    (EventForNothing, "test_what_changed_nothing_is_not_told"),
    (RestoredRevisions, "test_a_checkpoint_is_restored_into_another_store_above_its_revisions"),
    (RestoredRevisions, "test_a_cursor_from_before_a_restore_is_too_old"),
    (ScanEndsWhenClosed, "test_closing_during_a_scan_does_not_pass_for_its_end"),
]


@pytest.mark.parametrize(("fault", "test"), CAUGHT)
def test_a_planted_fault_is_caught(fails, fault, test):
    assert fails(fault, test)
