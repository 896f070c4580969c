"""The active transactions of one container: how many there may be, how long each may last, and what became of them.

Contract
    At most ``max_transactions`` are active at a time. Each is aborted ``transaction_timeout`` after it began, by the
    container's clock, whatever became of the task that began it; its snapshot is closed then. One that is being
    committed is left to its commit, which has the container's deadline.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from reactstate.errors import ClosedError, ReactStateError, TooManyTransactions, TransactionTimeout, UnavailableError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.kv.retry import until_available
from reactstate.mvcc.transaction import Transaction, TransactionState
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from reactstate.clock import Clock
    from reactstate.keyed.announcer import Announcer
    from reactstate.keyed.lifecycle import Lifecycle, Turns
    from reactstate.keyed.records import Labels, Records
    from reactstate.keyed.writing import Writer
    from reactstate.kv.protocol import ReadView
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard
    from reactstate.mvcc.transaction import Isolation

__all__ = ["Active", "TransactionStats"]

S = TypeVar("S", bound=State)

_LOGGER = logging.getLogger("reactstate.mvcc")


class TransactionStats:
    """What a container's transactions are doing, and did since it was opened.

    Attributes:
        active: How many are active.
        oldest_snapshot_version: The oldest revision that one of them reads; None: none of them reads a snapshot.
        versions_held: How many replaced versions the store holds for snapshots, whoever took them; None where the
            engine does not count them.
        commits: How many committed.
        aborts: How many were aborted.
        conflicts: How many of those because another commit came first.
    """

    __slots__ = ("aborts", "active", "commits", "conflicts", "oldest_snapshot_version", "versions_held")

    def __init__(
        self,
        active: int,
        oldest_snapshot_version: int | None,
        versions_held: int | None,
        commits: int,
        aborts: int,
        conflicts: int,
    ) -> None:
        self.active: int = active
        self.oldest_snapshot_version: int | None = oldest_snapshot_version
        self.versions_held: int | None = versions_held
        self.commits: int = commits
        self.aborts: int = aborts
        self.conflicts: int = conflicts

    def __repr__(self) -> str:
        return f"TransactionStats({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Active(Generic[S]):
    """The active transactions of one container, and what all of them need of it.

    Args:
        records: The collection.
        store: Where it is.
        writer: Knows the floor.
        clock: Measures how long a transaction lasts.
        deadline: Seconds after which a call gives up.
        turns: Who may write to which key.
        announcer: Tells of changes.
        place: The container, which says where it may be used.
        most: How many may be active.
        timeout: How long each may last.
    """

    __slots__ = (
        "_aborts",
        "_active",
        "_commits",
        "_most",
        "_reaper",
        "_seconds",
        "_snapshots",
        "announcer",
        "clock",
        "conflicts",
        "deadline",
        "place",
        "records",
        "store",
        "turns",
        "writer",
    )

    def __init__(
        self,
        records: Records[S],
        store: KeyValueStore,
        writer: Writer[S],
        clock: Clock,
        deadline: float,
        turns: Turns,
        announcer: Announcer[S],
        place: Lifecycle,
        most: int,
        timeout: timedelta,
    ) -> None:
        self.records: Records[S] = records
        self.store: KeyValueStore = store
        self.writer: Writer[S] = writer
        self.clock: Clock = clock
        self.deadline: float = deadline
        self.turns: Turns = turns
        self.announcer: Announcer[S] = announcer
        self.place: Lifecycle = place
        self.conflicts: int = 0
        self._most = most
        self._seconds = timeout.total_seconds()
        self._snapshots = store.supports(Capability.SNAPSHOT_READS)
        # In the order of their deadlines.
        self._active: dict[Transaction[S], None] = {}
        self._commits = 0
        self._aborts = 0
        self._reaper: asyncio.Task[None] | None = None

    async def begin(self, isolation: Isolation, guard: Guard | None, labels: Labels) -> Transaction[S]:
        """Begin a transaction.

        Raises:
            TooManyTransactions: As many as there may be are active.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        if len(self._active) >= self._most:
            raise TooManyTransactions(
                f"{self._most} transactions are active already; end some, or open the container with a larger "
                "max_transactions"
            )
        made = Transaction(self, isolation, guard, labels, self.clock.monotonic() + self._seconds)
        self._active[made] = None
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().create_task(self._reap())
        if self._snapshots:
            try:
                try:
                    block = self.store.snapshot()
                    view = await block.__aenter__()
                except UnavailableError:
                    block, view = await until_available(self._snapshot, clock=self.clock, deadline=self.deadline)
            except BaseException:
                self.leave(made)
                raise
            made._block, made._view, made._version = block, view, view.revision
            if made.state is not TransactionState.ACTIVE:  # it took too long
                await made._close_view()
        return made

    async def _snapshot(self) -> tuple[AbstractAsyncContextManager[ReadView], ReadView]:
        block = self.store.snapshot()
        return block, await block.__aenter__()

    def ended(self, state: TransactionState) -> None:
        """Count a transaction that has ended."""
        if state is TransactionState.COMMITTED:
            self._commits += 1
        elif state is TransactionState.ABORTED:
            self._aborts += 1

    def leave(self, transaction: Transaction[S]) -> None:
        """Take *transaction* out; it has ended."""
        self._active.pop(transaction, None)

    def timed_out(self) -> TransactionTimeout:
        """Return the error for a transaction that was open for too long."""
        return TransactionTimeout(
            f"this transaction was open for more than {self._seconds:g} s and was aborted; nothing was written: run it "
            "again, or open the container with a longer transaction_timeout"
        )

    def stats(self) -> TransactionStats:
        """Return what the transactions are doing."""
        active = [one for one in self._active if one.state is TransactionState.ACTIVE]
        oldest = min((one._version for one in active if one._block is not None), default=None)
        held = self.store._table.held if isinstance(self.store, MemoryStore) else None
        return TransactionStats(len(active), oldest, held, self._commits, self._aborts, self.conflicts)

    async def _reap(self) -> None:
        """Abort what is too old; ends when nothing was active for a while."""
        try:
            while True:
                oldest = next(iter(self._active), None)
                now = self.clock.monotonic()
                if oldest is not None and oldest._end <= now:
                    await self._abort(oldest, self.timed_out)
                    continue
                await self.clock.sleep(self._seconds if oldest is None else oldest._end - now)
                if not self._active:
                    return
        finally:
            self._reaper = None

    async def _abort(self, transaction: Transaction[S], why: Callable[[], ReactStateError]) -> None:
        self.leave(transaction)
        try:
            await transaction._expire(why)
        except ReactStateError as exc:
            _LOGGER.warning("the snapshot of a transaction could not be closed: %s", exc)

    async def aclose(self) -> None:
        """Abort every transaction that is not being committed."""
        reaper = self._reaper
        if reaper is not None:
            reaper.cancel()
            await asyncio.wait([reaper])
        for transaction in list(self._active):
            await self._abort(transaction, _closed)


def _closed() -> ClosedError:
    return ClosedError("the container of this transaction was closed, so it was aborted; open it again")
