"""Each store here returns plausible wrong data in one way; the conformance suite must fail on it."""

from __future__ import annotations

import asyncio
import fnmatch

import pytest

from reactstate.errors import ConflictError, NotACounterError
from reactstate.kv.protocol import ANY, Add, Commit, Delete, Entry, Put, RangeExpect, Step
from reactstate.kv.terms import conflict
from reactstate.testing.stores import FaultyStore

# --- commits ------------------------------------------------------------------------------------------------------


class LostUpdate(FaultyStore):
    """Checks the expectations, and writes without them a moment later."""

    async def commit(self, steps, *, ranges=()):
        await self.store.commit([Step(step.key, None, step.expect) for step in steps], ranges=ranges)
        await asyncio.sleep(0)
        return await self.store.commit([Step(step.key, step.op) for step in steps])


class DirtyRead(FaultyStore):
    """Shows what a commit is about to write, also if it is refused."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.pending = {}

    async def commit(self, steps, *, ranges=()):
        for step in steps:
            if isinstance(step.op, Put):
                self.pending[step.key] = step.op.value
        await asyncio.sleep(0)
        try:
            return await self.store.commit(steps, ranges=ranges)
        finally:
            for step in steps:
                self.pending.pop(step.key, None)

    async def get(self, key):
        found = await self.store.get(key)
        if found is not None and key in self.pending:
            return Entry(key, self.pending[key], found.revision, found.expires_at)
        return found


class HalfApplied(FaultyStore):
    """Writes step after step: what comes before a counter that is none stays written."""

    async def commit(self, steps, *, ranges=()):
        try:
            return await self.store.commit(steps, ranges=ranges)
        except NotACounterError:
            for step in steps:
                if isinstance(step.op, Add):
                    break
                await self.store.commit([step])
            raise


class HalfAppliedOnConflict(FaultyStore):
    """Writes what it could, and refuses the rest."""

    async def commit(self, steps, *, ranges=()):
        try:
            return await self.store.commit(steps, ranges=ranges)
        except ConflictError as exc:
            await self.store.commit([step for step in steps if step.key not in exc.keys])
            raise


class TwoPhases(FaultyStore):
    """Makes the first half of a commit visible a moment before the second."""

    async def commit(self, steps, *, ranges=()):
        if len(steps) < 2:
            return await self.store.commit(steps, ranges=ranges)
        checks = [Step(step.key, None, step.expect) for step in steps[1:]]
        first = await self.store.commit([steps[0], *checks], ranges=ranges)
        await asyncio.sleep(0)
        second = await self.store.commit([Step(step.key, step.op) for step in steps[1:]])
        return Commit(second.revision, first.entries | second.entries)


class StaleConflict(FaultyStore):
    """Reports a conflict without the current entries."""

    async def commit(self, steps, *, ranges=()):
        try:
            return await self.store.commit(steps, ranges=ranges)
        except ConflictError as exc:
            raise conflict({}, exc.keys) from exc


class FirstConflictOnly(FaultyStore):
    """Stops checking at the first expectation that fails."""

    async def commit(self, steps, *, ranges=()):
        try:
            return await self.store.commit(steps, ranges=ranges)
        except ConflictError as exc:
            first = exc.keys[:1]
            raise conflict({key: exc.entries[key] for key in first if key in exc.entries}, first) from exc


class AbsentIsAny(FaultyStore):
    """Takes revision 0 for what is absent."""

    async def commit(self, steps, *, ranges=()):
        steps = [Step(one.key, one.op, ANY if one.expect == 0 else one.expect) for one in steps]
        return await self.store.commit(steps, ranges=ranges)


class CounterWraps(FaultyStore):
    async def commit(self, steps, *, ranges=()):
        try:
            return await self.store.commit(steps, ranges=ranges)
        except NotACounterError:
            found = await self.store.get(steps[0].key)
            if found is None or not found.value.lstrip(b"-").isdigit():
                raise
            total = (int(found.value) + steps[0].op.delta + (1 << 63)) % (1 << 64) - (1 << 63)
            return await self.store.commit([Step(steps[0].key, Put(b"%d" % total))])


class CounterOfDoubles(FaultyStore):
    """Adds as a double, as some script engines do."""

    async def commit(self, steps, *, ranges=()):
        done = await self.store.commit(steps, ranges=ranges)
        for step in steps:
            if isinstance(step.op, Add):
                value = b"%d" % int(float(done.entries[step.key].value))
                done = await self.store.commit([Step(step.key, Put(value))])
        return done


class LenientCounter(FaultyStore):
    """Takes for a counter what int() takes for a number."""

    async def commit(self, steps, *, ranges=()):
        try:
            return await self.store.commit(steps, ranges=ranges)
        except NotACounterError:
            found = await self.store.get(steps[0].key)
            try:
                total = int(found.value) + steps[0].op.delta
            except ValueError:
                raise NotACounterError("no counter") from None
            return await self.store.commit([Step(steps[0].key, Put(b"%d" % total))])


class DeletesTakeRevisions(FaultyStore):
    """Counts a delete of what is absent as a change."""

    async def commit(self, steps, *, ranges=()):
        done = await self.store.commit(steps, ranges=ranges)
        if any(isinstance(step.op, Delete) for step in steps) and not done.entries:
            return await self.store.commit([Step("~", Add(1))])
        return done


class ReusedRevision(FaultyStore):
    """Gives the revision of a deleted entry to the next one."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.deleted = 0

    def seen(self, entry):
        return None if entry is None else Entry(entry.key, entry.value, entry.revision - self.deleted, entry.expires_at)

    async def get(self, key):
        return self.seen(await self.store.get(key))

    async def commit(self, steps, *, ranges=()):
        before = await self.store.commit(())
        done = await self.store.commit(steps, ranges=ranges)
        if done.revision > before.revision and not done.entries:
            self.deleted += 1
        entries = {key: self.seen(entry) for key, entry in done.entries.items()}
        return Commit(done.revision - self.deleted, entries)


class OneRevisionForTwo(FaultyStore):
    """Reports the same revision for two commits that are made at the same time."""

    last = 0

    async def commit(self, steps, *, ranges=()):
        done = await self.store.commit(steps, ranges=ranges)
        self.last = done.revision
        await asyncio.sleep(0)
        return Commit(self.last, done.entries)


# --- ranges -------------------------------------------------------------------------------------------------------


class RangesOfEntries(FaultyStore):
    """Looks at the entries in a range, and not at what was removed from it."""

    async def commit(self, steps, *, ranges=()):
        for one in ranges:
            async for entry in self.store.scan(start=one.start, end=one.end):
                if entry.revision > one.revision:
                    raise conflict({}, [entry.key])
        return await self.store.commit(steps)


class PhantomsPass(FaultyStore):
    """Checks the entries that a range held, and not those that are new in it."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.created = {}

    async def commit(self, steps, *, ranges=()):
        for one in ranges:
            async for entry in self.store.scan(start=one.start, end=one.end):
                if entry.revision > one.revision and self.created.get(entry.key, 0) <= one.revision:
                    raise conflict({}, [entry.key])
        done = await self.store.commit(steps)
        for key in done.entries:
            self.created.setdefault(key, done.revision)
        return done


class InclusiveRange(FaultyStore):
    """Takes the end of a range for a part of it."""

    async def commit(self, steps, *, ranges=()):
        wider = [RangeExpect(one.start, one.end and f"{one.end}\0", one.revision) for one in ranges]
        return await self.store.commit(steps, ranges=wider)


class ExpiryIsNoChange(FaultyStore):
    """Does not count an expiry inside a range as a removal."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.deleted = set()

    async def commit(self, steps, *, ranges=()):
        self.deleted.update(step.key for step in steps if isinstance(step.op, Delete))
        try:
            return await self.store.commit(steps, ranges=ranges)
        except ConflictError as exc:
            if not ranges or self.deleted.union(exc.entries).intersection(exc.keys):
                raise
            return await self.store.commit(steps)


# --- reads --------------------------------------------------------------------------------------------------------


class StaleRead(FaultyStore):
    """Reads from a cache that learns of a write one read too late."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.cache = {}

    async def get(self, key):
        found = await self.store.get(key)
        shown = self.cache.get(key, found)
        self.cache[key] = found
        return shown


class PrefixIsLike(FaultyStore):
    """Matches a prefix as SQL's LIKE does."""

    async def scan(self, prefix="", **options):
        limit = options.pop("limit", None)
        async for entry in self.store.scan(**options):
            if limit == 0:
                return
            if fnmatch.fnmatchcase(entry.key, f"{prefix.replace('%', '*').replace('_', '?')}*"):
                limit = None if limit is None else limit - 1
                yield entry


class Utf16Order(FaultyStore):
    async def scan(self, prefix="", *, start=None, end=None, limit=None, reverse=False):
        found = [entry async for entry in self.store.scan(prefix, start=start, end=end)]
        found.sort(key=lambda entry: entry.key.encode("utf-16-be"), reverse=reverse)
        for entry in found[:limit]:
            yield entry


class InclusiveEnd(FaultyStore):
    async def scan(self, prefix="", *, start=None, end=None, limit=None, reverse=False):
        end = None if end is None else f"{end}\0"
        async for entry in self.store.scan(prefix, start=start, end=end, limit=limit, reverse=reverse):
            yield entry


class LimitBeforeReverse(FaultyStore):
    async def scan(self, prefix="", *, start=None, end=None, limit=None, reverse=False):
        found = [entry async for entry in self.store.scan(prefix, start=start, end=end, limit=limit)]
        for entry in found[::-1] if reverse else found:
            yield entry


class ScanOfOnePage(FaultyStore):
    """Forgets to ask for the second page."""

    async def scan(self, prefix="", *, start=None, end=None, limit=None, reverse=False):
        async for entry in self.store.scan(
            prefix, start=start, end=end, limit=min(limit or 1000, 1000), reverse=reverse
        ):
            yield entry


class ScanByOffset(FaultyStore):
    """Reads page after page by number, so that a removal moves the next page."""

    async def scan(self, prefix="", *, start=None, end=None, limit=None, reverse=False):
        offset = 0
        while True:
            found = [one async for one in self.store.scan(prefix, start=start, end=end, reverse=reverse)]
            page = found[offset : offset + 500] if limit is None else found[:limit]
            for entry in page:
                yield entry
            offset += 500
            if limit is not None or not page:
                return


class TextKeys(FaultyStore):
    """Folds the case of keys, as some databases compare text."""

    async def get(self, key):
        found = [entry async for entry in self.store.scan() if entry.key.casefold() == key.casefold()]
        return found[0] if found else await self.store.get(key)


class NulEndsKey(FaultyStore):
    """Reads keys as C text."""

    async def get(self, key):
        found = await self.store.get(key)
        return found or await self.store.get(key.partition("\0")[0] or key)


class WrongCounts(FaultyStore):
    def stats(self):
        stats = self.store.stats()
        stats.hit_count, stats.miss_count = stats.miss_count, stats.hit_count
        return stats


class ValuesAsText(FaultyStore):
    """Keeps values as text."""

    async def get(self, key):
        found = await self.store.get(key)
        if found is None:
            return None
        return Entry(key, found.value.decode(errors="replace").encode(), found.revision, found.expires_at)


CAUGHT = [
    (LostUpdate, "test_no_update_is_lost_among_swaps"),
    (LostUpdate, "test_one_of_many_who_write_what_is_absent_wins"),
    (LostUpdate, "test_concurrent_operations_are_strictly_serialisable"),
    (DirtyRead, "test_concurrent_operations_are_strictly_serialisable"),
    (HalfApplied, "test_a_refused_counter_takes_the_whole_commit_with_it"),
    (HalfAppliedOnConflict, "test_a_commit_with_one_failing_expectation_changes_nothing"),
    (HalfAppliedOnConflict, "test_a_conflict_names_all_that_failed_with_their_current_entries"),
    (TwoPhases, "test_the_steps_of_one_commit_share_its_one_revision"),
    (TwoPhases, "test_a_snapshot_among_transfers_holds_the_right_total"),
    (TwoPhases, "test_a_watch_among_writers_tells_each_commit_once_and_whole"),
    (TwoPhases, "test_a_cancelled_commit_is_done_whole_or_not_at_all"),
    (StaleConflict, "test_an_expectation_holds_or_refuses"),
    (FirstConflictOnly, "test_a_conflict_names_all_that_failed_with_their_current_entries"),
    (AbsentIsAny, "test_an_expectation_holds_or_refuses"),
    (CounterWraps, "test_a_counter_that_would_overflow_is_refused_and_stays"),
    (CounterOfDoubles, "test_a_counter_is_exact_to_64_bits"),
    (LenientCounter, "test_what_is_no_counter_is_refused_and_stays"),
    (DeletesTakeRevisions, "test_deleting_what_is_absent_takes_no_revision"),
    (ReusedRevision, "test_a_revision_is_never_issued_again_after_deletes"),
    (ReusedRevision, "test_a_deleted_or_replaced_entry_is_not_what_it_was"),
    (OneRevisionForTwo, "test_concurrent_commits_have_revisions_of_their_own"),
    (OneRevisionForTwo, "test_concurrent_operations_are_strictly_serialisable"),
    (RangesOfEntries, "test_a_phantom_is_found_although_it_is_gone_again"),
    (RangesOfEntries, "test_a_write_inside_the_range_is_a_conflict"),
    (PhantomsPass, "test_a_write_inside_the_range_is_a_conflict"),
    (PhantomsPass, "test_no_phantom_slips_into_a_checked_range"),
    (InclusiveRange, "test_a_range_is_half_open"),
    (ExpiryIsNoChange, "test_an_expiry_inside_the_range_is_a_conflict_swept_or_not"),
    (StaleRead, "test_a_read_sees_what_was_acknowledged_before_it_began"),
    (StaleRead, "test_concurrent_operations_are_strictly_serialisable"),
    (PrefixIsLike, "test_a_prefix_matches_itself_and_nothing_else"),
    (Utf16Order, "test_a_scan_is_in_the_order_of_utf8_bytes"),
    (InclusiveEnd, "test_start_and_end_are_a_half_open_range_also_within_a_prefix"),
    (LimitBeforeReverse, "test_a_limit_takes_the_first_of_the_order"),
    (ScanOfOnePage, "test_a_scan_gives_each_entry_that_was_there_all_the_time_once"),
    (ScanByOffset, "test_a_scan_goes_on_when_what_it_stands_on_is_removed"),
    (TextKeys, "test_keys_of_every_kind_are_kept_apart"),
    (NulEndsKey, "test_keys_of_every_kind_are_kept_apart"),
    (ValuesAsText, "test_what_was_put_is_read_back_to_the_byte"),
    (WrongCounts, "test_a_store_counts_what_it_does"),
]


@pytest.mark.parametrize(("fault", "test"), CAUGHT)
def test_a_planted_fault_is_caught(fails, fault, test):
    assert fails(fault, test)
