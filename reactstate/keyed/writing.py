"""One write to one state: read, plan, commit on condition, and what to do when that is refused or not answered.

Contract
    A commit expects the revision that it was planned on, so it is applied once or not at all, however often it is
    sent. Refused, the plan is made again on what is there now, at first at once and then after a jittered pause, until
    the deadline. Not answered, the record is read: its change id, and those of the changes right before it, tell
    whether the commit was applied.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from reactstate.errors import (
    CodecError,
    ConflictError,
    ContentionError,
    LeaseLostError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.keyed.records import Floor, Record
from reactstate.kv.retry import resolve, until_available
from reactstate.state.change import ChangeType
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.keyed.records import Labels, Records
    from reactstate.kv.protocol import Entry, Step
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard

__all__ = ["Plan", "Planned", "Writer", "Written"]

S = TypeVar("S", bound=State)

_AT_ONCE: Final = 3
"""How often a refused commit is planned anew without a pause."""
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.2


class Planned(Generic[S]):
    """What a write is to do: ``CREATE`` or ``UPDATE`` to a state, or ``DELETE``."""

    __slots__ = ("change_type", "state")

    def __init__(self, change_type: ChangeType, state: S) -> None:
        self.change_type: ChangeType = change_type
        self.state: S = state


Plan: TypeAlias = Callable[[Record[S] | None], Planned[S] | None]
"""Says what is to become of the current record, or of its absence; None: nothing. It may be asked more than once."""


class Written(Generic[S]):
    """What became of a write.

    Attributes:
        record: The record that is there now; None when none is.
        change_type: What was done; None: nothing was to be done.
        version: The version that was made, also by a delete; 0 for none.
        revision: The store's revision of the commit; 0 when another followed before it could be learned.
    """

    __slots__ = ("change_type", "record", "revision", "version")

    def __init__(
        self, record: Record[S] | None, change_type: ChangeType | None = None, version: int = 0, revision: int = 0
    ) -> None:
        self.record: Record[S] | None = record
        self.change_type: ChangeType | None = change_type
        self.version: int = version
        self.revision: int = revision


class _Attempt(Generic[S]):
    """A commit, and the search for its outcome."""

    __slots__ = ("_base", "_key", "_record", "_steps", "_writer")

    def __init__(
        self,
        writer: Writer[S],
        key: str,
        base: Record[S] | None,
        record: Record[S] | None,
        steps: list[Step],
    ) -> None:
        self._writer = writer
        self._key = key
        self._base = base
        self._record = record
        self._steps = steps

    async def commit(self) -> int:
        """Send it; return its revision."""
        return (await self._writer.store.commit(self._steps)).revision

    async def applied(self) -> int | None:
        """Return the revision of the commit if it was applied (0: others have followed), None if it was not yet.

        Raises:
            ConflictError: It was not, and never will be.
            UnknownOutcomeError: Nothing is left that could tell.
        """
        entry = await self._writer.store.get(self._key)
        if self._base is not None and entry is not None and entry.revision == self._base.revision:
            return None
        if self._record is None:
            return self._deleted(entry)
        if entry is None:
            await self._vanished(self._record)
            return None
        found = self._decoded(entry)
        place = found.version - self._record.version
        made_by = (found.change_id, *found.earlier)
        if place < 0:
            return None
        if place >= len(made_by):
            raise UnknownOutcomeError(
                "the reply to a commit was lost, and the state was changed too often since to tell whether it was "
                "applied; read it before deciding what to do"
            )
        if made_by[place] != self._record.change_id:
            raise ConflictError("another change was made first", keys=(self._key,))
        return entry.revision if place == 0 else 0

    async def _vanished(self, record: Record[S]) -> None:
        """Look into a state that is not there though it was to be written."""
        if self._base is None:
            floor = self._writer.records.floor(await self._writer.store.get(self._writer.records.floor_key))
            if floor.version <= record.version:
                return  # nobody has deleted what this commit would have created, so it was not applied
        raise UnknownOutcomeError(
            "the reply to a commit was lost and the state was deleted since, so nothing tells whether it was applied; "
            "read it before deciding what to do"
        )

    def _deleted(self, entry: Entry | None) -> int:
        """Look into a state that was to be deleted, and changed."""
        if entry is not None and self._base is not None and self._decoded(entry).born == self._base.born:
            raise ConflictError("another change was made first", keys=(self._key,))
        return 0

    def _decoded(self, entry: Entry) -> Record[S]:
        try:
            return self._writer.records.read(entry)
        except CodecError as exc:
            raise UnknownOutcomeError(
                "the reply to a commit was lost, and what is stored now cannot be read, so nothing tells whether it "
                "was applied"
            ) from exc


class Writer(Generic[S]):
    """Reads and writes the states of one collection, one at a time.

    Args:
        records: The collection.
        store: Where it is.
        clock: Tells the time of each change, and measures the deadline.
        deadline: Seconds after which a write gives up.
    """

    __slots__ = ("_deadline", "_floor", "clock", "records", "store")

    def __init__(self, records: Records[S], store: KeyValueStore, clock: Clock, deadline: float) -> None:
        self.records: Records[S] = records
        self.store: KeyValueStore = store
        self.clock: Clock = clock
        self._deadline = deadline
        self._floor: Floor | None = None

    async def read(self, key: str) -> Record[S] | None:
        """Return the record under *key*, or None.

        Raises:
            CodecError: It cannot be read by today's class.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        try:
            entry = await self.store.get(key)
        except UnavailableError:
            entry = await until_available(lambda: self.store.get(key), clock=self.clock, deadline=self._deadline)
        return None if entry is None else self.records.read(entry)

    async def write(self, key: str, plan: Plan[S], labels: Labels, guard: Guard | None) -> Written[S]:
        """Do what *plan* says; see the module.

        Raises:
            ContentionError: Others kept writing first until the deadline.
            LeaseLostError: What *guard* expects is no longer so.
            UnsupportedError: *guard* is a lock of another store.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether the change was made.
        """
        if guard is not None:
            from reactstate.locks.guard import check_guard

            check_guard(guard, self.store)
        clock, records = self.clock, self.records
        end = clock.monotonic() + self._deadline
        refused = 0
        while True:
            base = await self.read(key)
            planned = plan(base)
            if planned is None:
                return Written(base)
            kind = planned.change_type
            record: Record[S] | None = None
            floor: Floor | None = None
            if kind is ChangeType.DELETE and base is not None:
                floor = await self._current_floor()
                steps = records.delete_steps(key, base, floor)
            elif base is not None:
                record = records.advance(base, planned.state, labels, clock.time_ns())
                steps = records.advance_steps(key, record, base)
            else:
                floor = await self._current_floor()
                record = records.create(planned.state, floor, labels, clock.time_ns())
                steps = records.create_steps(key, record, floor)
            guarded: set[str] = set()
            if guard is not None:
                expected = guard.expectations()
                guarded.update(step.key for step in expected)
                steps.extend(expected)
            attempt = _Attempt(self, key, base, record, steps)
            try:
                revision = await resolve(attempt.commit, attempt.applied, clock=clock, deadline=end - clock.monotonic())
            except ConflictError as exc:
                if not guarded.isdisjoint(exc.keys):
                    raise LeaseLostError(
                        "the lock of this write is held no longer, so nothing was written; stop the work that it "
                        "protected"
                    ) from exc
                self._floor = None
                refused += 1
                await self._pause(refused, end, exc)
                continue
            return self._done(key, kind, base, record, floor, revision)

    def _done(
        self,
        key: str,
        kind: ChangeType,
        base: Record[S] | None,
        record: Record[S] | None,
        floor: Floor | None,
        revision: int,
    ) -> Written[S]:
        if record is not None:
            if revision:
                record.committed(revision)
                self.records.keep(key, record)
            return Written(record, kind, record.version, revision)
        self.records.forget(key)
        version = 0 if base is None else base.version + 1
        if floor is not None and version > floor.version:
            self._floor = Floor(version, revision) if revision else None
        return Written(None, kind, version, revision)

    async def _current_floor(self) -> Floor:
        """Return the floor as it was last seen; a commit that depends on it expects that it is still so."""
        if self._floor is None:
            key = self.records.floor_key
            entry = await until_available(lambda: self.store.get(key), clock=self.clock, deadline=self._deadline)
            self._floor = self.records.floor(entry)
        return self._floor

    async def _pause(self, refused: int, end: float, cause: ConflictError) -> None:
        pause = 0.0
        if refused > _AT_ONCE:
            most = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(refused - _AT_ONCE, 10))
            pause = random.random() * most  # noqa: S311 - not for secrets
        if self.clock.monotonic() + pause >= end:
            raise ContentionError(
                f"others kept writing to this state for {self._deadline:g} s; nothing was changed, try again"
            ) from cause
        await (self.clock.sleep(pause) if pause else asyncio.sleep(0))
