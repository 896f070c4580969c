"""Transaction: reads of one moment, and writes that are made together or not at all.

Isolation
    ``"serializable"``: the transactions that committed could have run one after another, in the order of their
    commits. Everything that this one read is checked at its commit, ids that were absent and ranges that were scanned
    included; one that wrote nothing needs no check on an engine with SNAPSHOT_READS.

    ``"snapshot"``: only what it writes is checked. Of two transactions that write one id at a time the first to commit
    wins, so no update is lost, but each may write what the other has read (write skew).

    Writing or deleting an id reads the version that is replaced: where that moved, the commit is refused at both
    levels, also if the state itself was never read.

Reads
    With SNAPSHOT_READS, all reads show the moment at which the transaction began, and its own writes. Without, each
    read is of its own moment, and is checked against those before it as soon as it could differ: while there are up to
    100 of them at once, else at the commit. One that no longer fits is a TransactionConflict, and the transaction is
    aborted. There both levels check everything at the commit, also when nothing was written.

End
    A transaction that is neither committed nor aborted within ``transaction_timeout`` is aborted, and its next use
    raises TransactionTimeout. It belongs to the event loop of its container; its reads may go on at the same time.
    Where a commit is cancelled, or its outcome stays unknown, the state is UNKNOWN: it was made whole or not at all.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, TypeVarTuple

import uuid_utils

from reactstate.errors import (
    ConflictError,
    ReactStateError,
    StateNotFoundError,
    StateValidationError,
    TransactionConflict,
    TransactionNotActive,
    UnavailableError,
    UnknownOutcomeError,
    WrongContextError,
)
from reactstate.kv.protocol import ABSENT, Capability, RangeExpect, Step
from reactstate.kv.retry import attempts, until_available
from reactstate.kv.terms import prefix_end
from reactstate.mvcc.committing import commit_writes, ids_of
from reactstate.state.produce import check_state_value, run_recipe
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from reactstate.keyed.ids import Id
    from reactstate.keyed.records import Labels, Record
    from reactstate.kv.protocol import Entry, ReadView
    from reactstate.kv.transaction import Guard
    from reactstate.mvcc.active import Active
    from reactstate.mvcc.committing import Change
    from reactstate.state.change import VersionedState

__all__ = ["Isolation", "Transaction", "TransactionState"]

S = TypeVar("S", bound=State)
Ts = TypeVarTuple("Ts")

Isolation: TypeAlias = Literal["serializable", "snapshot"]
"""What a transaction promises about what others do meanwhile; see the module."""

_LOOK_BACK: Final = 100
"""The most earlier reads that are checked again before the commit, where an engine has no SNAPSHOT_READS."""


class TransactionState(StrEnum):
    """How far a transaction has come."""

    ACTIVE = "active"
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    """The commit was sent, and nobody has learned what became of it."""


_ACTIVE: Final = TransactionState.ACTIVE
_COMMITTED: Final = TransactionState.COMMITTED
_ABORTED: Final = TransactionState.ABORTED
_UNKNOWN: Final = TransactionState.UNKNOWN


class Transaction(Generic[S]):
    """Reads and writes of many states that are committed together; see the module.

    Made by ``MVCCContainer.transaction``, ``begin_transaction`` and ``run``.

    Attributes:
        isolation: ``"serializable"`` or ``"snapshot"``.
        state: How far it has come.
    """

    __slots__ = (
        "_block",
        "_changes",
        "_committing",
        "_doom",
        "_end",
        "_guard",
        "_home",
        "_id",
        "_labels",
        "_ranges",
        "_reads",
        "_version",
        "_view",
        "_writes",
        "isolation",
        "state",
    )

    def __init__(self, home: Active[S], isolation: Isolation, guard: Guard | None, labels: Labels, end: float) -> None:
        self._home = home
        self.isolation: Isolation = isolation
        self.state: TransactionState = _ACTIVE
        self._guard = guard
        self._labels = labels
        self._end = end
        self._id: str | None = None
        self._block: AbstractAsyncContextManager[ReadView] | None = None
        self._view: ReadView | None = None
        self._version = 0
        self._reads: dict[str, Record[S] | None] = {}
        self._writes: dict[str, S | None] = {}
        self._ranges: list[RangeExpect] = []
        self._changes: list[Change[S]] = []
        self._committing = False
        self._doom: Callable[[], ReactStateError] | None = None

    # --- what is known of it --------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its id, a UUIDv7 as text, which every version that it makes keeps as ``transaction_id``."""
        if self._id is None:
            self._id = str(uuid_utils.uuid7(nanoseconds=max(self._home.clock.time_ns(), 0)))
        return self._id

    @property
    def snapshot_version(self) -> int:
        """The store's revision that its reads show.

        Without SNAPSHOT_READS it is the newest one that its reads were found to fit; 0 before the first.
        """
        return self._version

    @property
    def read_set(self) -> frozenset[Id]:
        """The ids that it has read, those that were absent included; a scan is kept as a range instead."""
        return frozenset(map(self._home.records.id_at, self._reads))

    @property
    def write_set(self) -> frozenset[Id]:
        """The ids that it writes or deletes."""
        return frozenset(map(self._home.records.id_at, self._writes))

    @property
    def written(self) -> dict[Id, VersionedState[S]]:
        """The versions that its commit made, by id; empty before it, and without those that it deleted."""
        id_at = self._home.records.id_at
        return {id_at(one.key): one.record.versioned() for one in self._changes if one.record is not None}

    # --- reading --------------------------------------------------------------------------------------------------

    async def read(self, id: Id) -> S | None:  # noqa: A002 - the public name
        """Return the state *id* as this transaction sees it, or None when there is none.

        Raises:
            TransactionConflict: Another commit changed what was read before (on an engine without SNAPSHOT_READS).
            TransactionTimeout: It was open for too long, and was aborted.
            TransactionNotActive: It has ended.
            CodecError: What is stored cannot be read by today's class; it was left as it is.
            InvalidKeyError: *id* is no id of such a state.
            UnavailableError: The store stayed out of reach until the deadline.
            WrongContextError: It was called inside a recipe, or on another event loop.
        """
        self._check()
        key = self._home.records.key(id)
        if key in self._writes:
            return self._writes[key]
        record = self._reads[key] if key in self._reads else await self._read(key)
        return None if record is None else record.state

    async def _read(self, key: str) -> Record[S] | None:
        home, view = self._home, self._view
        try:
            entry = await (home.store if view is None else view).get(key)
        except UnavailableError:
            source = home.store if view is None else view
            entry = await until_available(lambda: source.get(key), clock=home.clock, deadline=home.deadline)
        except ReactStateError:
            self._check()  # its view ends with it
            raise
        if self.state is not _ACTIVE or self._committing:  # its commit has not checked what was read only now
            self._check()
        if key in self._reads:  # by another read meanwhile, whose result was given out
            return self._reads[key]
        record: Record[S] | None = None
        if entry is not None:
            record = home.records.kept.get(key)
            if record is None or record.revision != entry.revision:
                record = home.records.read(entry)
        self._reads[key] = record
        if view is None:
            await self._place(entry)
        return record

    def scan(self, prefix: str = "") -> AsyncIterator[S]:
        """Iterate over the states whose ids begin with *prefix*, its own writes included, in the order of their keys.

        What it writes while the iteration goes on may or may not be seen. The whole range counts as read, however far
        the iteration went.

        Args:
            prefix: Only ids whose text begins with it; no sign in it has a meaning of its own.

        Raises:
            UnsupportedError: The engine has no RANGE_EXPECT, so that the range could not be checked at the commit
                (snapshot isolation on an engine with SNAPSHOT_READS needs no check).
            TransactionConflict: As ``read``; also TransactionTimeout, TransactionNotActive and CodecError.
            UnavailableError: The store could not be reached; begin the scan again.
        """
        self._check()
        if self.isolation == "serializable" or self._view is None:
            self._home.store.require("scan in a transaction", Capability.RANGE_EXPECT)
        return self._scan(self._home.records.prefix(prefix))

    async def _scan(self, prefix: str) -> AsyncIterator[S]:
        self._check()
        records, writes = self._home.records, self._writes
        source = self._view if self._view is not None else self._home.store
        if self._view is None:
            await self._prove()
        self._ranges.append(RangeExpect(prefix, prefix_end(prefix), self._version))
        own = sorted((key for key in writes if key.startswith(prefix)), reverse=True)
        entries = source.scan(prefix)
        try:
            async for entry in entries:
                self._check()
                if self._view is None and entry.revision > self._version:
                    await self._conflict((entry.key,))
                while own and own[-1] < entry.key:
                    state = writes[own.pop()]
                    if state is not None:
                        yield state
                if own and own[-1] == entry.key:
                    own.pop()
                state = writes[entry.key] if entry.key in writes else records.read(entry, keep=False).state
                if state is not None:
                    yield state
        except ReactStateError:
            self._check()  # its view ends with it
            raise
        finally:
            aclose = getattr(entries, "aclose", None)
            if aclose is not None:
                await aclose()
        while own:
            self._check()
            state = writes[own.pop()]
            if state is not None:
                yield state

    # --- reading without a snapshot -------------------------------------------------------------------------------

    async def _place(self, entry: Entry | None) -> None:
        """Make sure that the newest read fits those before it."""
        # An entry that was there at a moment that all reads fit, and is there still, fits them too.
        if entry is not None and entry.revision <= self._version:
            return
        if len(self._reads) > 1 or self._ranges:
            if len(self._reads) + len(self._ranges) <= min(_LOOK_BACK, self._home.store.limits.max_steps):
                await self._prove()
        elif entry is not None:
            self._version = entry.revision

    async def _prove(self) -> None:
        """Find the newest moment that all reads fit, by a commit that expects them and writes nothing."""
        home = self._home
        steps = [_expected(key, record) for key, record in self._reads.items()]

        async def check() -> int:
            return (await home.store.commit(steps, ranges=self._ranges)).revision

        try:
            retrying = attempts(home.clock, home.deadline, UnavailableError, UnknownOutcomeError)
            self._version = max(self._version, await retrying(check))
        except UnknownOutcomeError as exc:  # it would have written nothing
            raise UnavailableError("the store gave no answer, so the reads could not be checked; try again") from exc
        except ConflictError as exc:
            await self._conflict(exc.keys, exc)

    async def _conflict(self, keys: tuple[str, ...], cause: ConflictError | None = None) -> None:
        ids = ids_of(self._home.records, keys)
        self._doomed(lambda: _moved(ids))
        self._home.conflicts += 1
        await self._release()
        raise _moved(ids) from cause

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, state: S) -> None:
        """Create *state*, or put it in place of the one with its id, when the transaction commits.

        Raises:
            StateValidationError: It is no state of this type, or its id cannot be used.
            TransactionTimeout: As ``read``; also TransactionNotActive.
        """
        self._check()
        records = self._home.records
        self._writes[records.key_of(check_state_value(records.cls, state))] = state

    def delete(self, id: Id) -> None:  # noqa: A002 - the public name
        """Remove the state *id*, if there is one, when the transaction commits.

        Raises:
            InvalidKeyError: *id* is no id of such a state.
            TransactionTimeout: As ``read``; also TransactionNotActive.
        """
        self._check()
        self._writes[self._home.records.key(id)] = None

    async def update(
        self,
        id: Id,  # noqa: A002 - the public name
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
    ) -> S:
        """Read the state *id*, change it by *recipe* and write it; return the new state.

        Args:
            id: Which one.
            recipe: A synchronous function of a draft, or a mapping of field names to values.
            *args: Further arguments for the recipe.

        Raises:
            StateNotFoundError: There is no such state.
            StateValidationError: A value does not fit, or the recipe changed the id.
            TransitionError: ``check_transition`` refused the change.
            TransactionConflict: As ``read``; also TransactionTimeout, TransactionNotActive, CodecError, InvalidKeyError
                and UnavailableError.
        """
        base = await self.read(id)
        records = self._home.records
        if base is None:
            raise StateNotFoundError(f"there is no {records.cls.__name__} {id!r}; write one first")
        state, _ = run_recipe(base, recipe, args)
        if records.ids.of(state) != records.ids.of(base):
            raise StateValidationError("a recipe cannot change the id; write it under its new id and delete the old")
        self.write(state)
        return state

    # --- ending ---------------------------------------------------------------------------------------------------

    async def commit(self, *, guard: Guard | None = None) -> None:
        """Write everything, on condition that what the isolation level checks still holds; ``written`` tells versions.

        An id that was deleted and written anew is one update. A state that is equal to the one that is there makes no
        version. Each change goes through ``check_transition``, from the state that is replaced to the last one written.

        Args:
            guard: A lock in the same store, whose holder alone may commit (default: the one given at the beginning).

        Raises:
            TransactionConflict: Another commit came first; nothing was written. ``keys`` are the ids that moved, as
                text. Run the transaction again, or let ``MVCCContainer.run`` do that.
            TransitionError: ``check_transition`` refused a change; nothing was written.
            LeaseLostError: The lock of *guard* is held no longer; nothing was written.
            LimitExceededError: It is larger than the store takes; nothing was written.
            UnavailableError: The store stayed out of reach until the deadline; nothing was written.
            UnknownOutcomeError: It is not known whether it was written.
            TransactionTimeout: As ``read``; also TransactionNotActive.
        """
        self._check()
        self._committing = True
        state = _UNKNOWN  # what it stays when the caller is cancelled
        try:
            self._changes = await commit_writes(self, self._guard if guard is None else guard)
            state = _COMMITTED
        except TransactionConflict:
            self._home.conflicts += 1
            state = _ABORTED
            raise
        except Exception as exc:
            if not isinstance(exc, UnknownOutcomeError):
                state = _ABORTED
            raise
        finally:
            self.state = state
            self._home.ended(state)
            await self._release()

    async def abort(self) -> None:
        """Give everything up; it does nothing where that has happened already.

        Raises:
            TransactionNotActive: It was committed, is being committed, or nobody knows whether it was.
        """
        if self.state is _ACTIVE and not self._committing:
            self.state = _ABORTED
            self._home.ended(_ABORTED)
        elif self.state is not _ABORTED:
            raise self._inactive()
        self._doom = None
        await self._release()

    async def _leave(self) -> None:
        """Commit at the end of a block, unless that was done or given up inside it."""
        if self.state is _ACTIVE:
            await self.commit()
        elif self._doom is not None:
            raise self._doom()

    async def _drop(self) -> None:
        """Abort at the end of a block whose body raised."""
        if not self._committing:
            await self.abort()

    async def _expire(self, why: Callable[[], ReactStateError]) -> None:
        """Abort it from outside; *why* makes the error of its next use."""
        if not self._committing:
            self._doomed(why)
            await self._release()

    def _doomed(self, why: Callable[[], ReactStateError]) -> None:
        if self.state is _ACTIVE:
            self._doom = why
            self.state = _ABORTED
            self._home.ended(_ABORTED)

    async def _release(self) -> None:
        """Let go of the snapshot, and of the place among the active transactions."""
        self._home.leave(self)
        await self._close_view()

    async def _close_view(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            await block.__aexit__(None, None, None)

    def _check(self) -> None:
        if self.state is not _ACTIVE or self._committing:
            raise self._inactive()
        home = self._home
        if home.clock.monotonic() >= self._end:
            self._doomed(home.timed_out)
            raise home.timed_out()
        place = home.place
        if _get_running_loop() is not place._loop:
            raise WrongContextError(
                "a transaction is used on the event loop of its container; call it there "
                "(asyncio.run_coroutine_threadsafe)"
            )
        if place._closed or place._refusal is not None:
            place._check_call()

    def _inactive(self) -> ReactStateError:
        if self._doom is not None:
            return self._doom()
        how = "is being committed" if self.state is _ACTIVE else f"has ended: it is {self.state}"
        return TransactionNotActive(f"this transaction {how}; begin another")

    def __repr__(self) -> str:
        return (
            f"Transaction({self.isolation!r}, {self.state.name}, snapshot_version={self._version}, "
            f"{len(self._reads)} read, {len(self._writes)} written)"
        )


def _expected(key: str, record: Record[Any] | None) -> Step:
    return Step(key, None, ABSENT if record is None else record.revision)


def _moved(ids: tuple[str, ...]) -> TransactionConflict:
    return TransactionConflict(
        "another commit changed what this transaction reads, so it was aborted; run it again", ids
    )
