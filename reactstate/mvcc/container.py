"""MVCCContainer: a keyed container whose states can be read and written together, in transactions.

Guarantees
    A transaction is all or nothing: what it wrote is as durable as the store says before its commit returns, and no
    reader ever sees a part of it. Lost updates and dirty reads do not happen at any level; ``"serializable"``, the
    default, allows no anomaly at all, ``"snapshot"`` allows write skew. ``reactstate.mvcc.transaction`` says what is
    checked.

    Transactions, and the verbs of KeyedContainer beside them, count as commits of the same kind: a transaction loses
    against an ``update`` that came first, and an ``update`` runs again when a transaction came first. Transactions never
    wait for each other, but for the moment in which one commits to the same id.

    On an engine with SNAPSHOT_READS a reader never sees a mix of two commits, even one that will abort. On others such a
    read is a TransactionConflict, at once or at the latest at the commit.

    Old versions are kept as long as the oldest active transaction needs them, and no longer; ``stats`` shows how many. A
    transaction that stays open holds them, and whatever a snapshot costs its engine, until ``transaction_timeout``.

Nesting
    Transactions know nothing of each other: one that is begun inside another is its own, and commits or aborts alone;
    where it commits what the outer one has read, the outer one loses. A call of the container's own verbs inside a
    transaction is no part of it.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from reactstate.errors import SettingsError, TransactionConflict, TransactionNotActive
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.records import Labels
from reactstate.kv.opening import Opening
from reactstate.kv.protocol import Capability
from reactstate.mvcc.active import Active
from reactstate.mvcc.subscription import TransactionSubscription
from reactstate.state.state import State
from reactstate.state.timeline import check_labels, check_tags

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.kv.protocol import Cursor
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard
    from reactstate.mvcc.active import TransactionStats
    from reactstate.mvcc.transaction import Isolation, Transaction
    from reactstate.state.config import StateConfig

__all__ = ["MVCCContainer"]

S = TypeVar("S", bound=State)
R = TypeVar("R")

_ISOLATIONS: Final = ("serializable", "snapshot")
_ACTION: Final = "transaction"
_UNSAID: Final = Labels(None, _ACTION, None)
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.2


class MVCCContainer(KeyedContainer[S]):
    """Many states of one type, each under its ``id``, read and written one by one or together in transactions.

    Made by ``await MVCCContainer.open(Type, url)``.

    Example:
        >>> class Account(State):
        ...     id: str
        ...     balance: int = 0
        >>> async def transfer(bank: MVCCContainer[Account], amount: int) -> None:
        ...     async with bank.transaction() as tx:
        ...         await tx.update("ada", lambda draft: setattr(draft, "balance", draft.balance - amount))
        ...         await tx.update("bob", lambda draft: setattr(draft, "balance", draft.balance + amount))
    """

    @classmethod
    def open(  # pyright: ignore[reportIncompatibleMethodOverride] - what is opened is of this class, which is one of that
        cls,
        state_type: type[S],
        url: str | None = None,
        *,
        key: str | None = None,
        store: KeyValueStore | None = None,
        config: StateConfig | None = None,
        clock: Clock | None = None,
        deadline: float = 30.0,
        max_transactions: int = 1000,
        transaction_timeout: timedelta = timedelta(seconds=30),
    ) -> Opening[Self]:
        """Open a container; await it, or use it with ``async with``.

        Args:
            state_type: The type of its states; it has a field or property ``id`` of type str, int or UUID.
            url: Where they are kept, such as ``sqlite:bank.db``; the container closes what it opens.
            key: The collection's name (default: the type name). A KeyedContainer of the same name has the same states.
            store: An open store, instead of a URL; it stays open. With neither, states are kept in memory.
            config: As for KeyedContainer.
            clock: Tells the time of each change, and how long transactions last.
            deadline: Seconds after which a call gives up when the store cannot be reached.
            max_transactions: How many transactions may be active at a time. Each takes a snapshot, of which engines
                other than memory have a limited number too.
            transaction_timeout: How long after its beginning a transaction is aborted that has not ended.

        Raises:
            SettingsError: An argument has a value that cannot be used.
            StateDefinitionError: As for KeyedContainer; also UnsupportedError and InvalidKeyError.
        """
        opening = super().open(state_type, url, key=key, store=store, config=config, clock=clock, deadline=deadline)

        async def make() -> Self:
            _check_options(max_transactions, transaction_timeout)
            self = await opening
            self._begin_transactions(max_transactions, transaction_timeout)
            return self

        return Opening(make)

    def _begin_transactions(self, most: int, timeout: timedelta) -> None:
        self._active = Active(
            self._records,
            self._store,
            self._writer,
            self._clock,
            self._deadline,
            self._turns,
            self._announcer,
            self,
            most,
            timeout,
        )
        self._following: set[TransactionSubscription[S]] = set()

    def transaction(
        self,
        isolation: Isolation = "serializable",
        *,
        guard: Guard | None = None,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> TransactionBlock[S]:
        """Return a block that is one transaction: it commits at its end, and aborts when the body raises or is cancelled.

        Args:
            isolation: ``"serializable"`` or ``"snapshot"``; see ``reactstate.mvcc.transaction``.
            guard: A lock in the same store, whose holder alone may commit.
            actor: Who makes the changes.
            action: What is done (default: ``"transaction"``).
            tags: Anything else worth keeping with each version: str keys, scalar values.

        Raises:
            ValueError: *isolation* is neither.
            TooManyTransactions: (on entering) ``max_transactions`` are active already.
            TransactionConflict: (on leaving) As ``Transaction.commit``; also LeaseLostError, UnavailableError,
                UnknownOutcomeError and TransactionTimeout.
            WrongContextError: It was called inside a recipe, or on another event loop.
        """
        self._check_call()
        if isolation not in _ISOLATIONS:
            raise ValueError(f"isolation is 'serializable' or 'snapshot', not {isolation!r}")
        labels = _UNSAID
        if actor is not None or action is not None or tags is not None:
            check_labels(actor, action)
            labels = Labels(actor, action or _ACTION, check_tags(tags))
        return TransactionBlock(self, isolation, guard, labels)

    async def begin_transaction(
        self,
        isolation: Isolation = "serializable",
        *,
        guard: Guard | None = None,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Transaction[S]:
        """Begin a transaction that the caller ends with ``commit`` or ``abort``; the arguments are those of a block.

        One that is never ended is aborted after ``transaction_timeout``.
        """
        return await self.transaction(isolation, guard=guard, actor=actor, action=action, tags=tags)._begin()

    async def run(
        self,
        function: Callable[[Transaction[S]], Awaitable[R]],
        *,
        attempts: int = 20,
        isolation: Isolation = "serializable",
        guard: Guard | None = None,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> R:
        """Run *function* in a transaction, again with a new one when it loses; return what it returned.

        Between attempts it waits, the longer the more were lost, for a random part of that time.

        Args:
            function: An async function of the transaction. It may run more than once, so it does nothing that must not
                be repeated.
            attempts: How often it runs at most.
            isolation: As for ``transaction``.
            guard: As for ``transaction``.
            actor: As for ``transaction``.
            action: As for ``transaction``.
            tags: As for ``transaction``.

        Raises:
            TransactionConflict: The last attempt lost too.
            ValueError: *attempts* is less than 1.
        """
        if attempts < 1:
            raise ValueError(f"attempts is how often it runs at most, 1 or more, not {attempts}")
        lost = 0
        while True:
            try:
                async with self.transaction(isolation, guard=guard, actor=actor, action=action, tags=tags) as made:
                    return await function(made)
            except TransactionConflict:
                lost += 1
                if lost >= attempts:
                    raise
            if lost > 1:
                most = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(lost, 10))
                await self._clock.sleep(random.random() * most)  # noqa: S311 - not for secrets
            else:
                await asyncio.sleep(0)

    def transactions(self, prefix: str = "", *, since: Cursor | None = None) -> TransactionSubscription[S]:
        """Return an iterator over what was committed, with all changes of a transaction together, live from this call.

        See ``reactstate.mvcc.subscription``; ``subscribe`` tells of each id by itself.

        Args:
            prefix: Only ids whose text begins with it.
            since: Go on after this cursor, which an earlier one gave, here or in another process.

        Raises:
            UnsupportedError: The store has no WATCH, SNAPSHOT_READS or TOTAL_ORDER.
            InvalidKeyError: *since* is no cursor.
            WrongContextError: It was called inside a recipe, or away from the container's event loop.
        """
        self._check_watcher()
        needed = (Capability.WATCH, Capability.SNAPSHOT_READS, Capability.TOTAL_ORDER)
        self._store.require("subscription to transactions", *needed)
        made = TransactionSubscription(
            self._records,
            self._store,
            self._clock,
            self._records.prefix(prefix),
            since,
            self._deadline,
            self._following.discard,
        )
        self._following.add(made)
        return made

    def stats(self) -> TransactionStats:
        """Return what the transactions are doing, and did since the container was opened."""
        return self._active.stats()

    async def _end_watching(self) -> None:
        for one in list(self._following):
            await one.aclose()
        await self._active.aclose()
        await super()._end_watching()


class TransactionBlock(Generic[S]):
    """One transaction as a block, made by ``MVCCContainer.transaction``; it is entered once."""

    __slots__ = ("_container", "_entered", "_guard", "_isolation", "_labels", "_transaction")

    def __init__(self, container: MVCCContainer[S], isolation: Isolation, guard: Guard | None, labels: Labels) -> None:
        self._container = container
        self._isolation: Isolation = isolation
        self._guard = guard
        self._labels = labels
        self._entered = False
        self._transaction: Transaction[S] | None = None

    async def _begin(self) -> Transaction[S]:
        container = self._container
        container._check_loop()
        return await container._active.begin(self._isolation, self._guard, self._labels)

    async def __aenter__(self) -> Transaction[S]:
        if self._entered:
            raise TransactionNotActive("a transaction's block is entered once; call transaction() for each")
        self._entered = True
        self._transaction = made = await self._begin()
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        made = self._transaction
        if made is None:
            return
        if error is None:
            await made._leave()
        else:
            await made._drop()


def _check_options(most: Any, timeout: Any) -> None:
    if type(most) is not int or most < 1:
        raise SettingsError(f"max_transactions={most!r}: give how many may be active, 1 or more")
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise SettingsError(f"transaction_timeout={timeout!r}: give a timedelta of more than 0")
