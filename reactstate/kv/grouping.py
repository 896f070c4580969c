"""Groups of commits, judged one after another inside one transaction of a table.

Contract
    Every commit of a group is all or nothing, and gets a revision of its own. Its expectations, ranges and counters
    are judged before its first write, against the table and what its neighbours before it wrote; one that is refused
    leaves no trace. All writes of the group reach the table together.

Time
    The time of a group is the latest of the clock, of the newest time stored, and of every time seen before: a store's
    time never goes back. What has expired by then is absent for every expectation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from reactstate.codec.compression import load_compression
from reactstate.errors import (
    ConflictError,
    CorruptionError,
    DecodeError,
    DecompressionLimitError,
    LimitExceededError,
    NotACounterError,
)
from reactstate.kv.changelog import DELETED, EXPIRED, PUT, decode_changes, encode_changes
from reactstate.kv.protocol import ANY, Add, Commit, Delete, Entry, Put
from reactstate.kv.terms import add, conflict, expects, to_deadline, to_moment

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from reactstate.clock import Clock
    from reactstate.kv.options import StoreOptions
    from reactstate.kv.protocol import Limits, RangeExpect, Step, Ttl
    from reactstate.kv.table import Row, Writer

__all__ = ["COMPRESSED", "SWEEP", "CommitJob", "Group", "Job", "Judge", "Outcome", "PutJob", "StoreTime", "value_of"]

COMPRESSED: Final = 1 << 62
"""Added to the revision of a row whose value is compressed; no revision grows so large."""

SWEEP: Final = 10_000
"""The most entries that are swept with one revision."""

_WORTH: Final = 64
"""Values of fewer bytes are stored as they are."""

_ZSTD: Final = load_compression("zstd")
_LOG_ROWS: Final = 64

Change: TypeAlias = tuple[str, bytes | None, int]
"""A key, its new value (None: it is removed), and its deadline."""

CommitJob: TypeAlias = "tuple[Sequence[Step], Sequence[RangeExpect], asyncio.Future[Commit]]"
"""A commit that waits: its steps, its ranges, and who waits for it."""

PutJob: TypeAlias = "tuple[str, bytes, Ttl | None, asyncio.Future[Entry]]"
"""A commit of one put that expects nothing, which most commits are."""

Job: TypeAlias = "CommitJob | PutJob"

Outcome: TypeAlias = "Commit | Entry | ConflictError | NotACounterError | LimitExceededError | CorruptionError"
"""What became of one commit of a group that was written."""


def value_of(key: str, row: Row, max_bytes: int) -> bytes:
    """Return the value of *row*, which is stored under *key*.

    Raises:
        CorruptionError: It is compressed and damaged, or larger than *max_bytes*.
    """
    if row[1] < COMPRESSED:
        return row[0]
    try:
        return _ZSTD.decompress(row[0], max_bytes)
    except (DecodeError, DecompressionLimitError) as exc:
        raise CorruptionError(f"the compressed value under {key!r} is damaged; restore or delete it") from exc


class Group:
    """What a group of commits came to.

    Attributes:
        outcomes: A Commit or an error for each commit, in order.
        changed: Whether anything was written.
        time_ms: The group's time.
        puts: Entries written.
        deletes: Entries deleted.
        expired: Expired entries swept.
        conflicts: Commits refused because an expectation failed.
    """

    __slots__ = ("changed", "conflicts", "deletes", "expired", "outcomes", "puts", "time_ms")

    def __init__(self, time_ms: int) -> None:
        self.outcomes: list[Outcome] = []
        self.changed: bool = False
        self.time_ms: int = time_ms
        self.puts: int = 0
        self.deletes: int = 0
        self.expired: int = 0
        self.conflicts: int = 0


class StoreTime:
    """The time of a store, in milliseconds since 1970: it never goes back, whatever the clock does.

    The event loop's thread and the writer's each keep the newest time that they saw, and respect the other's.

    Args:
        clock: Tells the time.
    """

    __slots__ = ("_clock", "_read_ms", "_written_ms")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_ms = 0
        self._written_ms = 0

    def reading(self, stored_ms: int) -> int:
        """Return the time on the event loop's thread; *stored_ms* is the newest stored that it knows."""
        self._read_ms = max(self._clock.time_ns() // 1_000_000, self._read_ms, self._written_ms, stored_ms)
        return self._read_ms

    def writing(self, stored_ms: int) -> int:
        """Return the time on the writer's thread; *stored_ms* is the newest stored."""
        self._written_ms = max(self._clock.time_ns() // 1_000_000, self._read_ms, self._written_ms, stored_ms)
        return self._written_ms


class Judge:
    """Judges the commits of one store; used by its writer's thread only.

    Args:
        time: The store's time.
        options: Says whether values are compressed and how long the change log is kept.
        limits: Bound what a compressed value may become.

    Attributes:
        compresses: Whether values that become smaller are stored compressed.
        time: The store's time.
    """

    __slots__ = ("_limits", "_retention_ms", "_trim_ms", "_trimmed_ms", "compresses", "time")

    def __init__(self, time: StoreTime, options: StoreOptions, limits: Limits) -> None:
        self.time: StoreTime = time
        self.compresses: bool = options.compression == "zstd"
        self._limits = limits
        self._retention_ms = max(1, int(options.change_log_retention.total_seconds() * 1000))
        self._trim_ms = min(self._retention_ms // 8, 60_000)
        self._trimmed_ms = 0

    def judge(self, jobs: Sequence[Job], writer: Writer) -> Group:
        """Judge *jobs* and write what is granted; raises only what the table does."""
        transaction = _Transaction(self, writer)
        group = transaction.group
        if any(len(job) == 3 and job[1] for job in jobs):
            while transaction.sweep() == SWEEP:
                pass
        outcomes = group.outcomes
        for job in jobs:
            try:
                if len(job) == 4:
                    outcomes.append(transaction.put(job[0], job[1], job[2]))
                else:
                    outcomes.append(transaction.commit(job[0], job[1]))
            except ConflictError as exc:
                group.conflicts += 1
                outcomes.append(exc)
            except (NotACounterError, LimitExceededError, CorruptionError) as exc:
                outcomes.append(exc)
        transaction.finish()
        return group

    def sweep(self, writer: Writer) -> Group:
        """Remove up to ``SWEEP`` expired entries."""
        transaction = _Transaction(self, writer)
        transaction.sweep()
        transaction.finish()
        return transaction.group

    def stored(self, value: bytes, revision: int) -> tuple[bytes, int]:
        """Return value and revision as a row keeps them."""
        if self.compresses and len(value) >= _WORTH:
            small = _ZSTD.compress(value)
            if len(small) < len(value):
                return small, revision | COMPRESSED
        return value, revision

    def trim_before(self, now_ms: int) -> int | None:
        """Return up to which time the change log is to be trimmed, or None: not now."""
        if now_ms - self._trimmed_ms < self._trim_ms:
            return None
        self._trimmed_ms = now_ms
        return now_ms - self._retention_ms


class _Transaction:
    """One transaction of the table: the rows that its commits wrote so far, and the events for the change log."""

    __slots__ = ("_counts", "_judge", "_keys", "_kinds", "_max_bytes", "_newest", "_rows", "_writer", "group")

    def __init__(self, judge: Judge, writer: Writer) -> None:
        self._judge = judge
        self._writer = writer
        self._newest, stored_ms = writer.revision()
        self._rows: dict[str, Row | None] = {}
        self._counts: list[int] = []
        self._kinds = bytearray()
        self._keys: list[str] = []
        self._max_bytes = judge._limits.max_value_bytes
        self.group = Group(judge.time.writing(stored_ms))

    # --- one commit -----------------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes, ttl: Ttl | None) -> Entry:
        """Perform a commit of one put that expects nothing."""
        deadline = 0 if ttl is None else to_deadline(self.group.time_ms, ttl)
        self._newest = revision = self._newest + 1
        if self._judge.compresses:
            self._rows[key] = (*self._judge.stored(value, revision), deadline)
        else:
            self._rows[key] = (value, revision, deadline)
        self._keys.append(key)
        self._kinds.append(PUT)
        self._counts.append(1)
        self.group.puts += 1
        return Entry(key, value, revision, to_moment(deadline) if deadline else None)

    def commit(self, steps: Sequence[Step], ranges: Sequence[RangeExpect]) -> Commit:
        self._check(steps, ranges)
        return self._perform(self._changes(steps))

    def _check(self, steps: Sequence[Step], ranges: Sequence[RangeExpect]) -> None:
        """Check every expectation, and name all that fail in one error."""
        failed = [step.key for step in steps if step.expect is not ANY and not expects(step, self._revision(step.key))]
        unproven = False
        for span in ranges:
            touched = self._touched(span)
            if touched is None:
                unproven = True
            else:
                failed.extend(sorted(touched.difference(failed)))
        if failed:
            raise conflict(self._entries(failed), failed)
        if unproven:
            raise ConflictError(
                "a range was read before the oldest event of the change log, so it cannot be shown to be unchanged; "
                "nothing was written: read the range anew"
            )

    def _changes(self, steps: Sequence[Step]) -> list[Change]:
        """Return what *steps* change, in order."""
        changes: list[Change] = []
        now_ms = self.group.time_ms
        for step in steps:
            op = step.op
            if isinstance(op, Put):
                changes.append((step.key, op.value, 0 if op.ttl is None else to_deadline(now_ms, op.ttl)))
            elif isinstance(op, Add):
                changes.append(self._sum(step.key, op))
            elif isinstance(op, Delete) and self._revision(step.key):
                changes.append((step.key, None, 0))
        return changes

    def _sum(self, key: str, op: Add) -> Change:
        row = self._row(key)
        if row is not None:
            return key, add(key, value_of(key, row, self._max_bytes), op.delta), row[2]
        return key, add(key, None, op.delta), 0 if op.ttl is None else to_deadline(self.group.time_ms, op.ttl)

    def _perform(self, changes: list[Change]) -> Commit:
        if not changes:
            return Commit(self._newest, {})
        self._newest = revision = self._newest + 1
        entries: dict[str, Entry] = {}
        stored, rows, kinds = self._judge.stored, self._rows, self._kinds
        for key, value, deadline in changes:
            if value is None:
                rows[key] = None
                kinds.append(DELETED)
            else:
                rows[key] = (*stored(value, revision), deadline)
                kinds.append(PUT)
                entries[key] = Entry(key, value, revision, to_moment(deadline) if deadline else None)
            self._keys.append(key)
        self._counts.append(len(changes))
        self.group.puts += len(entries)
        self.group.deletes += len(changes) - len(entries)
        return Commit(revision, entries)

    # --- what is there ---------------------------------------------------------------------------------------------

    def _row(self, key: str) -> Row | None:
        """Return the row under *key* that is there and has not expired."""
        row = self._rows[key] if key in self._rows else self._writer.get(key)
        return None if row is None or 0 < row[2] <= self.group.time_ms else row

    def _revision(self, key: str) -> int:
        """Return the revision of the entry under *key*; 0: there is none."""
        if key in self._rows:
            row = self._rows[key]
            stamp = None if row is None else (row[1], row[2])
        else:
            stamp = self._writer.stamp(key)
        return 0 if stamp is None or 0 < stamp[1] <= self.group.time_ms else stamp[0] & ~COMPRESSED

    def _entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        found = ((key, self._row(key)) for key in keys)
        return {
            key: Entry(key, value_of(key, row, self._max_bytes), row[1] & ~COMPRESSED, to_moment(row[2]))
            for key, row in found
            if row is not None
        }

    def _touched(self, span: RangeExpect) -> set[str] | None:
        """Return the keys in *span* that were written or removed after its revision; None: nobody knows."""
        after = max(0, span.revision)
        if after >= self._newest:
            return set()
        if self._writer.log_floor() > after:
            return None
        keys: set[str] = set()
        place = after
        while rows := self._writer.log(place, _LOG_ROWS):
            for last, _, events in rows:
                place = last
                for revision, changes in decode_changes(last, events):
                    if revision > after:
                        keys.update(key for _, key in changes)
        own = self._newest - len(self._counts)  # the newest revision before this transaction
        keys.update(self._keys[sum(self._counts[: max(0, after - own)]) :])
        start, end = span.start, span.end
        return {key for key in keys if key >= start and (end is None or key < end)}

    # --- all commits together --------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Remove up to ``SWEEP`` expired entries, before any commit of this transaction; return how many."""
        keys = self._writer.due(self.group.time_ms, SWEEP)
        if keys:
            self._writer.apply(dict.fromkeys(keys))
            self._newest += 1
            self._keys.extend(keys)
            self._kinds.extend(bytes((EXPIRED,)) * len(keys))
            self._counts.append(len(keys))
            self.group.expired += len(keys)
        return len(keys)

    def finish(self) -> None:
        """Hand everything to the table."""
        if not self._counts:
            return
        writer, now_ms = self._writer, self.group.time_ms
        self.group.changed = True
        if self._rows:
            writer.apply(self._rows)
        writer.append_log((self._newest, now_ms, encode_changes(self._newest, self._counts, self._kinds, self._keys)))
        before = self._judge.trim_before(now_ms)
        if before is not None:
            writer.trim_log(before)
        writer.advance(self._newest, now_ms)
