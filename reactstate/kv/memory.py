"""MemoryStore: the store in this process's memory.

Contract
    Every operation is done in one piece on the event loop: a commit is atomic and strictly serialisable, and seen by
    every read that begins afterwards. Nothing survives ``aclose`` or the process.

    A snapshot costs nothing to take, and later writers never wait for it. The versions that it sees are held as long
    as it is open, and those that nobody sees any more are not.

    What is expired is invisible at once. It is removed by ``cleanup_expired``, by a commit with ranges, and at least
    every second while somebody waits for events.

Caveats
    A store belongs to one event loop and takes no part in a fork. The newest 1,000,000 commits are kept for watches
    at most, even if they are younger than ``change_log_retention``.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from reactstate.clock import SystemClock
from reactstate.errors import ClosedError, CompactedError, ConflictError, SettingsError
from reactstate.kv.memory_commit import changed_keys, failures, loaded, plan, quick_plan, refusal
from reactstate.kv.memory_feed import MemoryFeed
from reactstate.kv.memory_log import DELETED, EXPIRED, SEGMENT, MemoryLog
from reactstate.kv.memory_view import KeyRange, MemoryView, entries_of
from reactstate.kv.options import StoreOptions, StoreStats
from reactstate.kv.protocol import Capability, Commit, Entry, Limits, Step
from reactstate.kv.store import KeyValueStore
from reactstate.kv.terms import check_commit, check_key, check_value, to_deadline, to_moment, ttl_ms
from reactstate.kv.versions import Versions
from reactstate.kv.watching import LogWatch, Waiters, cursor_at, place_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from reactstate.clock import Clock
    from reactstate.kv.memory_commit import Write
    from reactstate.kv.memory_log import Change
    from reactstate.kv.protocol import Batch, Cursor, RangeExpect, ReadView, Ttl, Watch

__all__ = ["MemoryStore"]

_MAX_KEY: Final = 8192
_MAX_VALUE: Final = 256 * 1024 * 1024
_MAX_STEPS: Final = 100_000
_MAX_COMMIT: Final = 512 * 1024 * 1024
_SWEEP: Final = 4000
_MS: Final = 1_000_000
_DELETED: Final = bytes([DELETED])


class MemoryStore(KeyValueStore):
    """A key-value store in memory: multi-version, ordered, watched, with times to live.

    Values are kept as they are: the options ``compression``, ``cache_capacity`` and those about durability have no
    effect.

    Args:
        options: How it is opened.
        clock: Decides what has expired.
        name: Put into the URL, to tell several stores apart.

    Raises:
        SettingsError: ``read_only`` is set; an empty store that nobody may write to is of no use.

    Example:
        >>> async with MemoryStore() as store:
        ...     await store.put("greeting", b"hello")
    """

    engine = "memory"
    capabilities: frozenset[Capability] = frozenset(
        {
            Capability.CAS,
            Capability.TRANSACTIONS,
            Capability.RANGE_EXPECT,
            Capability.SNAPSHOT_READS,
            Capability.WATCH,
            Capability.TOTAL_ORDER,
            Capability.TTL,
            Capability.LOCKS,
            Capability.FENCING,
            Capability.LINEARIZABLE_READS,
        }
    )
    limits: Limits = Limits(_MAX_KEY, _MAX_VALUE, _MAX_STEPS, _MAX_COMMIT)

    def __init__(self, *, options: StoreOptions | None = None, clock: Clock | None = None, name: str = "") -> None:
        options = StoreOptions() if options is None else options
        if options.read_only:
            raise SettingsError("read_only=True: a memory store begins empty, so it must be written to")
        self.options = options
        self.url: str = f"memory:{name}"
        self.id: str = secrets.token_hex(8)
        self._clock = SystemClock() if clock is None else clock
        self._time_ns: Callable[[], int] = self._clock.time_ns
        self._default_ttl = options.default_ttl
        self._seen_ms = 0
        self._closed = False
        self._table = Versions()
        self._log = self._new_log(0)
        self._waiters = Waiters()
        self._sweeper: asyncio.Task[None] | None = None
        self._hits = 0
        self._misses = 0
        self._puts = 0
        self._deletes = 0
        self._expired = 0
        self._conflicts = 0

    def _new_log(self, revision: int) -> MemoryLog:
        retention = self.options.change_log_retention
        return MemoryLog(round(retention.total_seconds() * 1e9), revision, self._time_ns())

    def readable(self) -> Versions:
        """Return the table as it is now; for what reads this store piece by piece.

        Raises:
            ClosedError: The store was closed.
        """
        if self._closed:
            raise ClosedError(f"the store {self.url} was closed; open another one")
        return self._table

    def now_ms(self) -> int:
        """Return the store's time, which never goes back, in milliseconds since 1970."""
        now = self._time_ns() // _MS
        if now < self._seen_ms:
            return self._seen_ms
        self._seen_ms = now
        return now

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None when there is none or it has expired."""
        table = self._table
        try:
            value = table.values[key]
            if table.of and key in table.of:
                return self._get(key)
        except (KeyError, TypeError):
            return self._get(key)
        self._hits += 1
        # Made without __init__, whose call would take half of the time.
        entry = _blank()
        entry.key = key
        entry.value = value
        entry.revision = table.revisions[key]
        entry.expires_at = None
        return entry

    def _get(self, key: str) -> Entry | None:
        self.readable()
        check_key(key, self.limits)
        entry = self.read(key)
        if entry is None:
            self._misses += 1
        else:
            self._hits += 1
        return entry

    def read(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None, without counting it."""
        table = self._table
        value = table.values.get(key)
        if value is None:
            return None
        deadline = table.of.get(key, 0)
        if not deadline:
            return Entry(key, value, table.revisions[key])
        if deadline <= self.now_ms():
            return None
        return Entry(key, value, table.revisions[key], to_moment(deadline))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that there are, by key, in the order asked for; all of them of one moment."""
        found: dict[str, Entry] = {}
        self.readable()
        for key in keys:
            entry = self._get(key)
            if entry is not None:
                found[key] = entry
        return found

    def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        """Iterate over the entries in key order; other tasks go on after each 1,000."""
        return entries_of(self, prefix, start, end, limit, reverse=reverse)

    async def list_keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        """Return the keys that start with *prefix*, in order."""
        if limit is not None and limit < 0:
            raise ValueError(f"limit is 0 or more, not {limit}")
        found: list[str] = []
        keys = KeyRange(prefix)
        while (limit is None or len(found) < limit) and (piece := keys.take(self.readable())):
            found += filter(self._is_live, piece)
            await asyncio.sleep(0)
        self.readable()
        return found if limit is None else found[:limit]

    def _is_live(self, key: str) -> bool:
        table = self._table
        return key in table.values and (key not in table.of or table.of[key] > self.now_ms())

    def snapshot(self) -> AbstractAsyncContextManager[ReadView]:
        """Return a block in which the store can be read as it was when the block was entered."""
        self.readable()
        return MemoryView(self)

    # --- writing --------------------------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> Entry:
        """Write *value* under *key*, whatever is there; return the entry."""
        table = self._table
        if type(key) is str and type(value) is bytes and ttl is None and self._default_ttl is None:
            old = table.values.get(key)
            if (
                old is not None
                and table.revisions[key] > table.newest
                and len(value) <= _MAX_VALUE
                and key not in table.of
            ):  # what Versions.write and MemoryLog.record would do, without the calls
                table.revision = revision = table.revision + 1
                table.values[key] = value
                table.revisions[key] = revision
                table.bytes += len(value) - len(old)
                log, now_ns = self._log, self._time_ns()
                if now_ns >= log.turn_ns or len(log.tail) >= SEGMENT:
                    log.turn(now_ns)
                log.tail.append(key)
                if self._waiters._futures:
                    self._waiters.wake()
                self._puts += 1
                entry = _blank()
                entry.key = key
                entry.value = value
                entry.revision = revision
                entry.expires_at = None
                return entry
        return self._put(key, value, ttl)

    def _put(self, key: str, value: bytes, ttl: Ttl | None) -> Entry:
        table = self.readable()
        key = self._plain(key)
        check_value(value, self.limits)
        ttl = self._ttl(ttl)
        deadline = 0 if ttl is None else to_deadline(self.now_ms(), ttl)
        revision = table.revision + 1
        table.write(key, value, revision, deadline)
        table.revision = revision
        self._puts += 1
        self._announce(key, self._time_ns())
        return Entry(key, value, revision, to_moment(deadline) if deadline else None)

    def _plain(self, key: str) -> str:
        """Check a key that is to be kept; return it as plain text (a member of a StrEnum is none)."""
        if type(key) is str and 0 < len(key) <= _MAX_KEY and key.isascii():
            return key
        check_key(key, self.limits)
        return str.__str__(key)

    def _announce(self, change: Change, now_ns: int) -> None:
        """Append a commit, whose revision was issued, to the log, and wake who waits for it."""
        self._log.record(change, now_ns)
        if self._waiters._futures:
            self._waiters.wake()

    async def put_if_absent(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> bool:
        """Write *value* under *key* if there is no entry; say whether there was none."""
        key = self._plain(key)
        check_value(value, self.limits)
        if ttl is not None:
            ttl_ms(ttl)
        self.readable()
        if self._is_live(key):
            self._conflicts += 1
            return False
        self._put(key, value, ttl)
        return True

    async def delete(self, key: str) -> bool:
        """Remove the entry under *key*; say whether there was one."""
        table = self.readable()
        key = self._plain(key)
        if not self._is_live(key):
            return False
        table.revision += 1
        table.remove(key, table.revision)
        self._deletes += 1
        self._announce((_DELETED, key), self._time_ns())
        return True

    async def commit(self, steps: Sequence[Step], *, ranges: Sequence[RangeExpect] = ()) -> Commit:
        """Check every expectation and then perform every step, or nothing; see ``KeyValueStore.commit``."""
        table = self.readable()
        now_ns = self._time_ns()
        now = now_ns // _MS
        if now >= self._seen_ms:
            self._seen_ms = now
        else:
            now = self._seen_ms
        work = None if ranges else quick_plan(table, steps, now, self.limits)
        if work is None:
            check_commit(steps, ranges, self.limits)
            if ranges:
                await self._sweep_all()  # so that an expiry counts as a removal
                table, now = self.readable(), self.now_ms()
            work = self._check(table, steps, ranges, now)
        if not work:
            return Commit(table.revision, {})
        revision = table.revision + 1
        entries: dict[str, Entry] = {}
        for key, value, deadline in work:
            if value is None:
                table.remove(key, revision)
                continue
            table.write(key, value, revision, deadline)
            entry = entries[key] = _blank()
            entry.key = key
            entry.value = value
            entry.revision = revision
            entry.expires_at = to_moment(deadline) if deadline else None
        table.revision = revision
        count = len(entries)
        self._puts += count
        if count == len(work):
            self._announce(work[0][0] if count == 1 else (bytes(count), *entries), now_ns)
        else:
            self._deletes += len(work) - count
            self._announce((bytes([write[1] is None for write in work]), *[write[0] for write in work]), now_ns)
        return Commit(revision, entries)

    def _check(self, table: Versions, steps: Sequence[Step], ranges: Sequence[RangeExpect], now: int) -> list[Write]:
        """Return what a commit is to do, if its expectations hold."""
        steps = [step if type(step.key) is str else Step(self._plain(step.key), step.op, step.expect) for step in steps]
        failed, known = failures(table, steps, now), True
        if ranges:
            self._log.trim(self._time_ns())
            moved, known = changed_keys(self._log, ranges)
            failed = list(dict.fromkeys(failed + moved))
        if failed or not known:
            self._conflicts += 1
            raise refusal({key: entry for key in failed if (entry := self.read(key)) is not None}, failed, known=known)
        return plan(table, steps, now)

    # --- expiry ---------------------------------------------------------------------------------------------------

    async def cleanup_expired(self) -> int:
        """Remove what has expired; return how many entries that were.

        They go in one commit; if there are very many, in one for each 4,000, between which other tasks go on.
        """
        self.readable()
        return await self._sweep_all()

    async def _sweep_all(self) -> int:
        total = swept = self._sweep()
        while swept == _SWEEP:
            await asyncio.sleep(0)
            swept = self._sweep()
            total += swept
        return total

    def _sweep(self) -> int:
        table = self._table
        keys = table.deadlines.due(self.now_ms(), _SWEEP) if table.of else ()
        if not keys:
            return 0
        table.revision += 1
        for key in keys:
            table.remove(key, table.revision)
        self._expired += len(keys)
        self._announce((bytes([EXPIRED]) * len(keys), *keys), self._time_ns())
        return len(keys)

    def start_cleanup_task(self, interval: timedelta) -> asyncio.Task[None]:
        """Call ``cleanup_expired`` every *interval* until the store is closed; a second call replaces the first."""
        self.readable()
        return super().start_cleanup_task(interval)

    # --- watching -------------------------------------------------------------------------------------------------

    def watch(self, prefix: str = "", *, after: Cursor | None = None) -> Watch:
        """Iterate over what is committed to keys that start with *prefix*; see ``KeyValueStore.watch``."""
        newest = self.readable().revision
        feed = MemoryFeed(self)
        if after is None:
            return LogWatch(feed, prefix, newest)
        self._log.trim(self._time_ns())
        now = cursor_at(self.id, newest)
        try:
            revision, skip = place_of(self.id, after, now)
        except CompactedError as exc:
            return LogWatch(feed, prefix, newest, error=exc)
        return LogWatch(feed, prefix, revision, skip)

    async def cursor(self) -> Cursor:
        """Return the place in the events that is now."""
        return cursor_at(self.id, self.readable().revision)

    # --- the whole ------------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """Return what this object counted since it was opened; also after it was closed."""
        return StoreStats(
            get_count=self._hits + self._misses,
            hit_count=self._hits,
            miss_count=self._misses,
            put_count=self._puts,
            delete_count=self._deletes,
            expired_count=self._expired,
            conflict_count=self._conflicts,
            bytes=self._table.bytes,
        )

    @property
    def held_versions(self) -> int:
        """How many old versions are held for open snapshots."""
        return self._table.held

    async def flush(self) -> None:
        """Do nothing: there is no disk."""
        self.readable()

    async def memory_usage(self) -> int:
        """Return about how many bytes the store takes in this process, held versions and the change log included."""
        return self.readable().memory() + self._log.memory()

    async def _load(self, batches: AsyncIterator[Batch], *, revision: int, replace: bool) -> int:
        self._refuse_load(replace=replace)
        table = await loaded(batches, self.limits, max(revision, self._table.revision) + 1)
        self._refuse_load(replace=replace)
        table.settle(max(revision, self._table.revision) + 1)  # another one if somebody wrote meanwhile
        self._table = table
        self._log = self._new_log(table.revision)
        self._waiters.wake()
        return len(table.values)

    def _refuse_load(self, *, replace: bool) -> None:
        table = self.readable()
        if not replace and any(map(self._is_live, table.values)):
            raise ConflictError(
                "the store is not empty, and nothing was changed; pass replace=True to replace what it holds"
            )

    async def aclose(self) -> None:
        """Let go of everything; scans, snapshots and watches end, and a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        revision = self._table.revision
        self._table = Versions()
        self._table.revision = revision
        self._log = self._new_log(revision)
        self._waiters.close()
        tasks = [task for task in (self._cleaner, self._sweeper) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        # a fixture may close the store on another loop, while nothing goes on on the one that it was used on
        loop = asyncio.get_running_loop()
        ending = [task for task in tasks if task.get_loop() is loop]
        if ending:
            await asyncio.wait(ending)


_blank: Callable[[], Entry] = partial(object.__new__, Entry)
