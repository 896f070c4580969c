"""The commit of a transaction: what is written and expected, and what became of it when the reply is lost.

Contract
    Everything is in one commit of the store: it is written whole or not at all. Each written key expects the revision
    that was there when the transaction began, so a commit that is sent again is never applied twice. When its reply is
    lost, the records are read again: all of them name the transaction, and those that follow name it for a while.

    A transaction that only deletes leaves no record. After a lost reply it counts as committed when the states are gone
    and all that it read is as it was, also if another deleted them meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.errors import (
    CodecError,
    ConflictError,
    LeaseLostError,
    TransactionConflict,
    UnknownOutcomeError,
)
from reactstate.keyed.change import KeyedChange
from reactstate.keyed.records import Floor
from reactstate.kv.protocol import ABSENT, Delete, Put, Step
from reactstate.kv.retry import resolve, until_available
from reactstate.locks.guard import check_guard
from reactstate.state.change import ChangeType
from reactstate.state.produce import edit_between
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reactstate.keyed.records import Record, Records
    from reactstate.kv.protocol import Entry, RangeExpect
    from reactstate.kv.transaction import Guard
    from reactstate.mvcc.active import Active
    from reactstate.mvcc.transaction import Transaction

__all__ = ["Change", "commit_writes", "ids_of"]

S = TypeVar("S", bound=State)

_CREATE = ChangeType.CREATE
_UPDATE = ChangeType.UPDATE
_DELETE = ChangeType.DELETE


class Change(Generic[S]):
    """What a commit does to one key.

    Attributes:
        key: The key.
        kind: CREATE, UPDATE or DELETE.
        base: What is there before; None for a CREATE.
        state: The new state; of a DELETE the old one.
        record: What is there afterwards; None for a DELETE.
    """

    __slots__ = ("base", "key", "kind", "record", "state")

    def __init__(self, key: str, kind: ChangeType, base: Record[S] | None, state: S) -> None:
        self.key: str = key
        self.kind: ChangeType = kind
        self.base: Record[S] | None = base
        self.state: S = state
        self.record: Record[S] | None = None


def ids_of(records: Records[Any], keys: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of those of *keys* that are states of the collection, as text."""
    found: list[str] = []
    for key in keys:
        if key.startswith(records.root):
            try:
                found.append(str(records.id_at(key)))
            except CodecError:  # what no state of today's class can be kept under
                found.append(key)
    return tuple(found)


async def commit_writes(transaction: Transaction[S], guard: Guard | None) -> list[Change[S]]:
    """Commit what *transaction* has written, tell of it, and return what was done; see ``Transaction.commit``."""
    home = transaction._home
    bases = transaction._reads
    unread = [key for key in transaction._writes if key not in bases]
    if unread:
        bases = dict(bases)
        await _read_bases(transaction, unread, bases)
    await transaction._close_view()  # so that the versions that it saw need not be held
    changes = _plan(transaction, bases)
    expected: dict[str, Record[S] | None] = {}
    ranges: list[RangeExpect] = []
    if transaction._view is None or (changes and transaction.isolation == "serializable"):
        expected, ranges = bases, transaction._ranges
    elif len(changes) not in {0, len(transaction._writes)}:
        expected = {key: bases[key] for key in transaction._writes}
    if guard is not None:
        check_guard(guard, home.store)
    if not (changes or expected or ranges or guard):
        return changes
    sending = _Sending(home, transaction, changes, expected, ranges, guard)
    if not changes:
        await sending.send()
        return changes
    turns = home.turns
    taken: list[str] = []
    try:
        for key in sorted([change.key for change in changes]):  # in one order, so that no two wait for each other
            await turns.take(key)
            taken.append(key)
        revision = await sending.send()
        _settle(home, changes, sending.floor, revision)
    finally:
        for key in taken:
            turns.give(key)
        home.place._rest()
    return changes


async def _read_bases(transaction: Transaction[S], keys: list[str], bases: dict[str, Record[S] | None]) -> None:
    home = transaction._home
    source = transaction._view if transaction._view is not None else home.store
    entries = await until_available(lambda: source.get_many(keys), clock=home.clock, deadline=home.deadline)
    for key in keys:
        entry = entries.get(key)
        bases[key] = None if entry is None else home.records.read(entry)


def _plan(transaction: Transaction[S], bases: dict[str, Record[S] | None]) -> list[Change[S]]:
    """Return what is to be done, what writes states before what deletes some."""
    changes: list[Change[S]] = []
    deletions: list[Change[S]] = []
    for key, state in transaction._writes.items():
        base = bases[key]
        if state is None:
            if base is not None:
                deletions.append(Change(key, _DELETE, base, base.state))
        elif base is None:
            changes.append(Change(key, _CREATE, None, state))
        else:
            _, edits = edit_between(base.state, state)
            if edits:
                changes.append(Change(key, _UPDATE, base, state))
    return changes + deletions if deletions else changes


class _Sending(Generic[S]):
    """One commit, sent until it is known what became of it."""

    __slots__ = (
        "_changes",
        "_expected",
        "_guarded",
        "_home",
        "_needs_floor",
        "_others",
        "_ranges",
        "_steps",
        "_transaction",
        "floor",
    )

    def __init__(
        self,
        home: Active[S],
        transaction: Transaction[S],
        changes: list[Change[S]],
        expected: dict[str, Record[S] | None],
        ranges: list[RangeExpect],
        guard: Guard | None,
    ) -> None:
        self._home = home
        self._transaction = transaction
        self._changes = changes
        self._expected = expected
        self._ranges = ranges
        self._guarded = [] if guard is None else list(guard.expectations())
        self._needs_floor = False
        written: set[str] = set()
        for change in changes:
            written.add(change.key)
            if change.kind is not _UPDATE:
                self._needs_floor = True
        self._steps: list[Step] = []
        self._others = [
            Step(key, None, ABSENT if record is None else record.revision)
            for key, record in expected.items()
            if key not in written
        ]
        self.floor: Floor | None = None

    async def send(self) -> int:
        """Send it; return its revision, 0 when others followed before it could be learned.

        Raises:
            TransactionConflict: Another commit came first.
            LeaseLostError: What the guard expects is no longer so.
            UnavailableError: The store stayed out of reach; nothing was changed.
            UnknownOutcomeError: It is not known what became of it.
        """
        home = self._home
        end = home.clock.monotonic() + home.deadline
        while True:
            if self._needs_floor:
                self.floor = await home.writer._current_floor()
            self._make_steps()
            try:
                return await resolve(
                    self._commit, self._applied, clock=home.clock, deadline=end - home.clock.monotonic()
                )
            except ConflictError as exc:
                home.writer._floor = None
                floor_only = self._needs_floor and set(exc.keys) == {home.records.floor_key}
                if floor_only and home.clock.monotonic() < end:
                    continue  # another state was deleted, which changes no more than the versions of new ones
                if any(step.key in exc.keys for step in self._guarded):
                    raise LeaseLostError(
                        "the lock of this transaction is held no longer, so nothing was written; stop the work that it "
                        "protected"
                    ) from exc
                raise TransactionConflict(
                    "another commit came first to what this transaction read or wrote; nothing was written: run it "
                    "again",
                    ids_of(home.records, exc.keys),
                ) from exc

    def _make_steps(self) -> None:
        home, transaction = self._home, self._transaction
        records, floor, labels = home.records, self.floor, transaction._labels
        steps: list[Step] = []
        floor_step: Step | None = None
        if self._changes:
            now_ns, transaction_id = home.clock.time_ns(), f"{transaction.id}:{len(self._changes)}"
            for change in self._changes:
                base = change.base
                if base is None and floor is not None:
                    record = change.record = records.create(change.state, floor, labels, now_ns, transaction_id)
                    steps.append(Step(change.key, Put(records.encode(record)), ABSENT))
                    floor_step = floor_step or Step(records.floor_key, None, floor.expect)
                elif base is not None and change.kind is _UPDATE:
                    record = change.record = records.advance(base, change.state, labels, now_ns, transaction_id)
                    steps.append(Step(change.key, Put(records.encode(record)), base.revision))
                elif base is not None:
                    steps.append(Step(change.key, Delete(), base.revision))
            raised = 0 if floor is None else _raised(self._changes, floor)
            if floor is not None and raised:
                floor_step = Step(records.floor_key, Put(b"%d" % raised), floor.expect)
        if floor_step is not None:
            steps.append(floor_step)
        self._steps = [*steps, *self._others, *self._guarded]

    async def _commit(self) -> int:
        return (await self._home.store.commit(self._steps, ranges=self._ranges)).revision

    # --- a lost reply ---------------------------------------------------------------------------------------------

    async def _applied(self) -> int | None:
        """Return the revision of the commit if it was applied (0: others have followed), None if it was not yet.

        Raises:
            ConflictError: It was not, and never will be.
            UnknownOutcomeError: Nothing is left that could tell.
        """
        home, keys = self._home, [change.key for change in self._changes]
        if not keys:
            return None  # it writes nothing, so it can be sent as often as one likes
        entries = await home.store.get_many([home.records.floor_key, *keys])
        gone = 0
        for change in self._changes:
            entry, base, record = entries.get(change.key), change.base, change.record
            if base is not None and entry is not None and entry.revision == base.revision:
                return None
            if record is None:
                if entry is not None and base is not None and self._decoded(entry).born == base.born:
                    raise ConflictError("another change was made first", keys=(change.key,))
                gone += 1
            elif entry is not None:
                found = self._decoded(entry)
                place = found.version - record.version
                made_by = (found.change_id, *found.earlier)
                if place < 0:
                    return None
                if place < len(made_by):
                    if made_by[place] != record.change_id:
                        raise ConflictError("another change was made first", keys=(change.key,))
                    return entry.revision if place == 0 else 0
            elif base is None and home.records.floor(entries.get(home.records.floor_key)).version <= record.version:
                return None  # nobody has deleted what this commit would have created, so it was not applied
        if gone == len(keys) and await self._reads_hold():
            return 0
        raise UnknownOutcomeError(
            "the reply to a transaction's commit was lost, and what it wrote was changed too often since to tell whether "
            "it was applied; read it before deciding what to do"
        )

    async def _reads_hold(self) -> bool:
        steps = [*self._others, *self._guarded]
        found = await self._home.store.get_many([step.key for step in steps])
        return not self._ranges and all(
            (found[step.key].revision if step.key in found else ABSENT) == step.expect for step in steps
        )

    def _decoded(self, entry: Entry) -> Record[S]:
        try:
            return self._home.records.read(entry, keep=False)
        except CodecError as exc:
            raise UnknownOutcomeError(
                "the reply to a transaction's commit was lost, and what is stored now cannot be read, so nothing tells "
                "whether it was applied"
            ) from exc


def _settle(home: Active[S], changes: list[Change[S]], floor: Floor | None, revision: int) -> None:
    """Remember what was committed, and tell of it."""
    records = home.records
    for change in changes:
        record = change.record
        if record is None:
            records.forget(change.key)
        elif revision:
            record.committed(revision)
            records.keep(change.key, record)
    if floor is not None:
        raised = _raised(changes, floor)
        if raised:
            home.writer._floor = Floor(raised, revision) if revision else None
    if revision and home.announcer.active:
        for change in changes:
            record, base = change.record, change.base
            version = record.version if record is not None else 0 if base is None else base.version + 1
            told = KeyedChange(records.id_at(change.key), change.kind, record, version, revision, None)
            home.announcer.tell(change.key, told)


def _raised(changes: Iterable[Change[Any]], floor: Floor) -> int:
    """Return the version that the floor is raised to; 0: it stays."""
    deleted = max((change.base.version + 1 for change in changes if change.record is None and change.base), default=0)
    return deleted if deleted > floor.version else 0
