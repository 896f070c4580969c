"""CoordinationStore: dedup keys, counters, states, timeouts, chains, groups and locks over one store.

Guarantees
    Every call is one atomic step, as durable as the store says before it returns. ``check_and_set``, ``increment`` and
    ``compare_and_swap`` are linearizable: they act as if one after another, in an order that agrees with what callers
    saw, whatever process they are in. A call that fails with any error but UnknownOutcomeError has changed nothing.

    A version is the store's revision of the commit that wrote the entry: it grows with each write of a key, removals
    included, and never repeats.

    A lost reply is cleared up (see ``reactstate.coordination.writing``): a lost ``check_and_set`` is told from a
    duplicate by an id that is stored with it, a lost ``increment`` is never made twice. UnknownOutcomeError is left
    for a store that stays out of reach until the deadline, for engines without LINEARIZABLE_READS, and for a new
    dedup key that others wrote over meanwhile.

Limits
    ``check_and_set`` and ``add_to_group`` store nothing beside the entry. So if the reply is lost, and the new entry is
    deleted by another or expires before the store can be asked, it is made once more.

    What is claimed is leased by the caller's clock; see ``reactstate.coordination.due``.

Thread safety
    A coordination store belongs to the event loop that opened it. Any number of them, in any number of processes, may
    be open on one namespace.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

from reactstate.clock import SystemClock
from reactstate.coordination.base import NEEDED
from reactstate.coordination.entries import Entries
from reactstate.coordination.opening import check_open
from reactstate.coordination.scheduling import Scheduling
from reactstate.coordination.watching import KeySubscription
from reactstate.errors import ClosedError, CompactedError, UnavailableError
from reactstate.keyed.opening import open_store_at
from reactstate.kv.keys import StateKey
from reactstate.kv.opening import Opening
from reactstate.kv.protocol import Capability
from reactstate.locks.manager import Locks

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.coordination.opening import Dedup
    from reactstate.coordination.results import KeyChange
    from reactstate.kv.protocol import Cursor, Ttl
    from reactstate.kv.store import KeyValueStore
    from reactstate.locks.guard import LockGuard

__all__ = ["CoordinationStore"]

_PAUSE_S: Final = 1.0
_LOGGER = logging.getLogger("reactstate.coordination")


class CoordinationStore(Entries, Scheduling):
    """What programs that share a store coordinate by; see the module.

    Made by ``await CoordinationStore.open(url)``.

    Example:
        >>> async def handle(message: str, seen: CoordinationStore) -> None:
        ...     if await seen.check_and_set(StateKey("shop", "acme", "message", message), ttl=3600):
        ...         print("new")
    """

    def __init__(self) -> None:
        raise TypeError(f"open it: await {type(self).__name__}.open(url)")

    @classmethod
    def open(
        cls,
        url: str | None = None,
        namespace: str = "default",
        *,
        store: KeyValueStore | None = None,
        clock: Clock | None = None,
        deadline: float = 30.0,
        dedup: Dedup = "strict",
    ) -> Opening[Self]:
        """Open a coordination store; await it, or use it with ``async with``.

        Args:
            url: Where it is, such as ``sqlite:shop.db``; the coordination store closes what it opens.
            namespace: Stores of two namespaces have nothing in common, neither keys nor timeouts nor locks.
            store: An open store, instead of a URL; it stays open. With neither, everything is kept in memory.
            clock: Tells what is due, and measures leases and deadlines; None: the store's.
            deadline: Seconds after which a call gives up when the store cannot be reached or others keep writing
                first, and ``aclose`` gives up waiting.
            dedup: ``"strict"``: the engine must be able to compare-and-swap. ``"eventual"``: one that cannot is taken
                too; there ``check_and_set`` may tell several callers of one moment that each is the first, and calls
                that need more raise UnsupportedError.

        Raises:
            UnsupportedError: The store has no CAS, TRANSACTIONS or TTL, or the URL needs an engine that is not there.
            SettingsError: An argument has a value that cannot be used.
            InvalidKeyError: *namespace* is no name.
        """

        async def make() -> Self:
            check_open(url, namespace, store, deadline, dedup)
            opened = store if store is not None else await open_store_at(url, clock or SystemClock())
            try:
                if dedup == "strict":
                    opened.require("coordination", *NEEDED)
                self = cls.__new__(cls)
                self._setup(opened, namespace, clock or opened._clock, deadline, owns_store=store is None)
            except BaseException:
                if store is None:
                    await opened.aclose()
                raise
            return self

        return Opening(make)

    def _setup(self, store: KeyValueStore, namespace: str, clock: Clock, deadline: float, *, owns_store: bool) -> None:
        self._live(store, deadline, owns_store=owns_store)
        self._coordinate(store, namespace, clock, deadline)
        self._begin_counting()
        self._begin_scheduling()
        self._namespace = namespace
        self._watching: weakref.WeakSet[KeySubscription] = weakref.WeakSet()
        self._telling: set[asyncio.Task[None]] = set()
        self._locks: Locks | None = None

    # --- locks ----------------------------------------------------------------------------------------------------

    @property
    def locks(self) -> Locks:
        """The locks of this namespace.

        Raises:
            UnsupportedError: The engine has no LOCKS.
        """
        self._check_call()
        if self._locks is None:
            self._locks = Locks(self._store, clock=self._clock, deadline=self._deadline, namespace=self._namespace)
        return self._locks

    async def try_acquire(self, name: str, ttl: Ttl) -> LockGuard | None:
        """Acquire a lock if nobody holds it, or return None at once; see ``Locks.try_acquire``."""
        self._check_loop()
        return await self.locks.try_acquire(name, ttl)

    async def acquire(self, name: str, ttl: Ttl, timeout: Ttl | None = None) -> LockGuard:
        """Acquire a lock, after those who came before; see ``Locks.acquire``."""
        self._check_loop()
        return await self.locks.acquire(name, ttl, timeout)

    def lock(
        self, name: str, ttl: Ttl, *, renew: bool = True, timeout: Ttl | None = None
    ) -> AbstractAsyncContextManager[LockGuard]:
        """Return a block that runs while a lock is held, and gets its guard; see ``Locks.lock``."""
        return self.locks.lock(name, ttl, renew=renew, timeout=timeout)

    # --- watching -------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        *,
        namespace: str | None = None,
        tenant: str | None = None,
        kind: str | None = None,
        prefix: str = "",
        since: Cursor | None = None,
    ) -> KeySubscription:
        """Return an iterator over what is done to keys, whoever does it, live from this call.

        Args:
            namespace: Only keys of this namespace.
            tenant: Only keys for this tenant.
            kind: Only keys of this kind.
            prefix: Only keys whose id begins with it.
            since: Go on after this cursor, which a change or a subscription gave, here or in another process.

        Raises:
            UnsupportedError: The store has no WATCH.
            InvalidKeyError: *since* is no cursor, or a part of a key no text.
            WrongContextError: It was called away from the event loop of this store.
        """
        self._check_watcher()
        self._store.require("subscription", Capability.WATCH)
        first = self._layout.keys + _known_part(namespace, tenant, kind)

        def wanted(key: StateKey) -> bool:
            return (
                (namespace is None or key.namespace == namespace)
                and (tenant is None or key.tenant == tenant)
                and (kind is None or key.kind == kind)
                and key.id.startswith(prefix)
            )

        made = KeySubscription(self._store.watch(first, after=since), self._layout, wanted, since)
        self._watching.add(made)
        return made

    def on_change(
        self,
        function: Callable[[KeyChange], Any],
        *,
        namespace: str | None = None,
        tenant: str | None = None,
        kind: str | None = None,
        prefix: str = "",
    ) -> Callable[[], None]:
        """Call *function* after each change to such keys, in order; return the function that ends this.

        An exception in it is logged and goes no further. Changes that are no longer kept when their turn comes are
        logged as missed. The arguments, and what it raises, are as in ``subscribe``.

        Raises:
            TypeError: *function* is a coroutine function; use ``subscribe`` in a task of your own.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError("a callback is a plain function; use subscribe in a task for one that awaits")

        def begin(since: Cursor | None) -> KeySubscription:
            return self.subscribe(namespace=namespace, tenant=tenant, kind=kind, prefix=prefix, since=since)

        task = asyncio.get_running_loop().create_task(_tell(begin, begin(None), function, self._clock))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

        def end() -> None:
            task.cancel()

        return end

    async def _end_watching(self) -> None:
        for one in list(self._watching):
            await one.aclose()
        telling = [task for task in self._telling if task is not asyncio.current_task()]
        for task in telling:
            task.cancel()
        if telling:
            await asyncio.wait(telling)


def _known_part(namespace: str | None, tenant: str | None, kind: str | None) -> str:
    """Return what the keys begin with, as far as the first part that may be any."""
    parts: list[str] = []
    for part in (namespace, tenant, kind):
        if part is None:
            break
        parts.append(part)
    return StateKey.prefix(*parts)


async def _tell(
    begin: Callable[[Cursor | None], KeySubscription],
    first: KeySubscription,
    function: Callable[[KeyChange], Any],
    clock: Clock,
) -> None:
    """Call *function* after each change that *first* tells of, and then those that ``begin(since)`` do."""
    changes: KeySubscription | None = first
    since: Cursor | None = None
    while True:
        try:
            if changes is None:
                changes = begin(since)
            async with changes:
                async for change in changes:
                    since = change.cursor
                    try:
                        function(change)
                    except Exception:
                        _LOGGER.exception("a callback failed at %r; the others go on", change)
            return
        except CompactedError as exc:
            _LOGGER.warning("a callback came too late for some changes, and goes on with those that are kept")
            since = exc.resume
        except UnavailableError:
            _LOGGER.warning("the store cannot be watched; callbacks go on when it can be reached again")
            await clock.sleep(_PAUSE_S)
        except ClosedError:
            return
        changes = None
