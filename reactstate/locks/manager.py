"""Locks: exclusion by lease, with a fencing token, over any store that can compare and swap.

Contract
    Of all who use locks of one namespace in one store, at most one holds a lock of a name at a time by the store's
    time: it is acquired by a commit that finds no live lease, and held for as long as the lease is extended. The
    token of each holder is greater than that of the one before.

    That a holder which was paused past its lease does no harm is for fencing: its commits carry
    ``guard.expectations()``, and the store refuses them (see ``reactstate.locks.guard``).

    ``acquire`` is fair: those who wait have the lock one after another in the order in which they came, across
    processes. A waiter whose process is gone loses its place when the place's own lease runs out (3 s).
    ``try_acquire`` does not queue: it takes the lock when it is free, also before those who wait.

    A lock is not reentrant. One task that acquires a lock which it holds is told so at once.

Outcomes
    A lost reply is followed up: the entry names its owner by an id that is never used twice. Where the store stays
    out of reach until the deadline, UnknownOutcomeError is raised and nobody holds the lock; if it was taken after
    all, it lapses by its TTL. The same holds for a call that is cancelled, which takes back what it can, and for a
    commit that reaches the store only after its reply was given up.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from reactstate.errors import (
    ConflictError,
    InvalidKeyError,
    LockTimeoutError,
    ReactStateError,
    SettingsError,
    UnavailableError,
    UnknownOutcomeError,
    WrongContextError,
)
from reactstate.kv.protocol import ABSENT, Capability, Delete, Put, Step
from reactstate.kv.retry import resolve
from reactstate.kv.store import KeyValueStore
from reactstate.kv.terms import ttl_ms
from reactstate.locks.acquisition import Acquisition
from reactstate.locks.guard import LockGuard
from reactstate.locks.holding import Holding
from reactstate.locks.layout import LockKeys
from reactstate.locks.owner import Owner
from reactstate.locks.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from reactstate.clock import Clock
    from reactstate.kv.protocol import Ttl

__all__ = ["Locks"]

_MOST_KEYS: Final = 1024
_FIRST_SWEEP: Final = 1024


class Locks(Owner):
    """Locks over a store.

    Args:
        store: Where they are kept; it stays open.
        clock: Measures leases, timeouts and deadlines; None: the store's.
        deadline: For how many seconds a store that cannot be reached is tried again.
        namespace: Locks of one name in two namespaces have nothing to do with each other.

    Raises:
        UnsupportedError: The engine lacks CAS, TRANSACTIONS, TTL or LOCKS.
        SettingsError: *store* is no store, or *deadline* not more than 0.

    Example:
        >>> async with open_store("sqlite:shop.db") as store:
        ...     locks = Locks(store)
        ...     async with locks.lock("stock", ttl=30) as guard:
        ...         await store.commit([Step("apples", Put(b"3")), *guard.expectations()])
    """

    __slots__ = ("_id", "_keys", "_made", "_namespace", "_rooms", "_sweep_at", "_tasks")

    def __init__(
        self, store: KeyValueStore, *, clock: Clock | None = None, deadline: float = 30.0, namespace: str = "default"
    ) -> None:
        if not isinstance(store, KeyValueStore):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise SettingsError(f"store={store!r}: give an open store, such as await open_store('sqlite:app.db')")
        if not deadline > 0:
            raise SettingsError(f"deadline={deadline!r}: give the seconds to wait, more than 0")
        store.require("locks", Capability.CAS, Capability.TRANSACTIONS, Capability.TTL, Capability.LOCKS)
        super().__init__(store, store._clock if clock is None else clock, deadline)
        if not isinstance(namespace, str):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise InvalidKeyError(f"the namespace of locks is text, not a {type(namespace).__name__}")
        self._namespace = namespace
        self._id = secrets.token_hex(16).encode()
        self._made = 0
        self._keys: dict[str, LockKeys] = {}
        self._rooms: dict[str, WaitingRoom] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep_at = _FIRST_SWEEP

    async def try_acquire(self, name: str, ttl: Ttl) -> LockGuard | None:
        """Acquire the lock if nobody holds it, or return None at once.

        Args:
            name: Which lock.
            ttl: How long the lease is: a timedelta, or seconds; more than 0.

        Raises:
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether the lock was taken; nobody holds it, and it lapses by its TTL.
            ValueError: *ttl* is not more than 0.
            InvalidKeyError: *name* is no text, or empty.
        """
        ms = ttl_ms(ttl)
        keys = self._keys_of(name)
        try:
            return await self._take(keys, ttl, ms, keys.free, self.deadline)
        except ConflictError:
            return None

    async def acquire(self, name: str, ttl: Ttl, timeout: Ttl | None = None) -> LockGuard:
        """Acquire the lock, after those who came before.

        Args:
            name: Which lock.
            ttl: How long the lease is, from when the lock is acquired: a timedelta, or seconds; more than 0.
            timeout: How long to wait; 0: not at all, None: as long as it takes.

        Raises:
            LockTimeoutError: It was not acquired within *timeout*.
            WrongContextError: This task holds the lock.
            UnsupportedError: The engine has no WATCH, so that nobody can be woken; poll ``try_acquire``.
            UnavailableError: The store stayed out of reach until the deadline (or *timeout*); nothing was changed.
            UnknownOutcomeError: It is not known whether the lock was taken; nobody holds it, and it lapses by its TTL.
            ValueError: *ttl* is not more than 0, or *timeout* negative.
            InvalidKeyError: *name* is no text, or empty.
        """
        return await self._wait_for(
            self._keys_of(name), ttl, ttl_ms(ttl), None if timeout is None else _seconds(timeout)
        )

    def lock(
        self, name: str, ttl: Ttl, *, renew: bool = True, timeout: Ttl | None = None
    ) -> AbstractAsyncContextManager[LockGuard]:
        """Return a block that runs while the lock is held, and gets its guard.

        When the lock is lost, ``guard.lost`` is set and the block is cancelled; it ends with LeaseLostError, also when
        it swallows the cancellation. A cancellation from outside stays one. An error of the block's own goes first.

        Args:
            name: Which lock.
            ttl: How long the lease is.
            renew: Extend the lease at each third of it; else the block must end, or extend it, before it runs out.
            timeout: How long to wait for the lock; None: as long as it takes.

        Raises:
            LeaseLostError: (at the end of the block) The lock was lost.
            LockTimeoutError: (at its beginning) It was not acquired within *timeout*; and all that ``acquire`` raises.
        """
        limit = None if timeout is None else _seconds(timeout)
        return Holding(self, self._keys_of(name), ttl, ttl_ms(ttl), limit, renew=renew)

    # --- for the other modules here --------------------------------------------------------------------------------

    async def _wait_for(self, keys: LockKeys, ttl: Ttl, ms: int, limit: float | None) -> LockGuard:
        """Do what ``acquire`` promises, with arguments that were checked."""
        name = keys.name
        if Capability.WATCH not in self.store.capabilities:
            self.store.require("locks", Capability.WATCH)
        held = self._held.get(name)
        if held is not None and held._task is asyncio.current_task() and held._is_live():
            raise WrongContextError(
                f"this task holds the lock {name!r}, and locks are not reentrant: it would wait for itself; pass the "
                "guard on, or extend it"
            )
        end = None if limit is None else self.clock.monotonic() + limit
        try:
            return await self._take(keys, ttl, ms, keys.unclaimed, self._until(end))
        except ConflictError as exc:
            if limit == 0:
                raise LockTimeoutError(
                    f"the lock {name!r} is held, or others wait for it; try again, or give a timeout"
                ) from exc
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = WaitingRoom(self, keys)
        try:
            return await room.acquire(ttl, ms, end)
        finally:
            if room.is_empty and self._rooms.get(name) is room:
                del self._rooms[name]

    async def _take(self, keys: LockKeys, ttl: Ttl, ms: int, rest: Sequence[Step], deadline: float) -> LockGuard:
        """Acquire the lock in one commit, with the steps *rest*.

        Raises:
            ConflictError: It is held, or *rest* expects what is not so.
        """
        self._made += 1
        value = b"%b.%d" % (self._id, self._made)
        steps = (Step(keys.leases[0], Put(value, ttl), ABSENT), *rest)
        span = self._begin(ms)
        try:
            try:
                token = (await self.store.commit(steps)).revision
            except (UnavailableError, UnknownOutcomeError) as exc:
                acquisition = Acquisition(self, steps, value, ms, span, exc)
                token = await resolve(acquisition.attempt, acquisition.applied, clock=self.clock, deadline=deadline)
                span = acquisition.span
        except asyncio.CancelledError:
            await self._finish(self._withdraw(keys, value))
            raise
        guard = LockGuard(self, keys, value, token, span)
        held = self._held
        held[keys.name] = guard
        if len(held) > self._sweep_at:
            self._forget_lapsed()
        return guard

    def _until(self, end: float | None) -> float:
        """Return for how many seconds the store is tried again, by a call that is to end at *end*."""
        return self.deadline if end is None else max(min(self.deadline, end - self.clock.monotonic()), 0.0)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for *work*, which goes on if this wait is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _keys_of(self, name: str) -> LockKeys:
        try:
            return self._keys[name]
        except (KeyError, TypeError):
            pass
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - names come from callers
            raise InvalidKeyError(f"the name of a lock is text, not a {type(name).__name__}")
        if len(self._keys) >= _MOST_KEYS:
            self._keys.clear()
        keys = self._keys[name] = LockKeys(self._namespace, name)
        return keys

    def _forget_lapsed(self) -> None:
        """Let go of guards that nobody released and whose lease ran out."""
        for guard in tuple(self._held.values()):
            guard._is_live()
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._held))

    async def _withdraw(self, keys: LockKeys, value: bytes) -> None:
        """Free the lock if it was taken as *value*; the answer to that commit was not waited for."""
        key = keys.leases[0]
        try:
            try:
                # A commit, as this one is judged after the one in question, and a read may not be.
                await self.store.commit((Step(key, None, ABSENT),))
            except ConflictError as exc:
                found = exc.entries.get(key)
                if found is not None and found.value == value:
                    await self.store.commit((Step(key, Delete(), found.revision),))
        except ReactStateError:
            return  # it lapses by itself

    def __repr__(self) -> str:
        return f"Locks({self.store.url!r}, namespace={self._namespace!r})"


def _seconds(timeout: Ttl) -> float:
    """Return a timeout in seconds.

    Raises:
        ValueError: It is negative, or no number.
        TypeError: It is neither a timedelta nor a number.
    """
    if isinstance(timeout, timedelta):
        seconds = timeout.total_seconds()
    elif isinstance(timeout, (int, float)) and not isinstance(timeout, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
        seconds = timeout
    else:
        raise TypeError(f"a timeout is a timedelta or seconds, not a {type(timeout).__name__}")
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"a timeout is 0 or more, not {timeout}; None waits as long as it takes")
    return seconds
