"""LockGuard: a lock that is held, what shows it to the store, and what tells of its loss.

Contract
    A lock is held by lease: exclusion holds among those who look at the store, and among their commits as far as these
    carry ``expectations``. Nobody can promise that two processes, one of which was paused, do not run at the same
    time; what the guard promises is that the store refuses the one that was.

    The holder measures its lease on its own clock, from before the commit that wrote it was sent, so that it never
    runs longer here than in the store. A lease that has run out here is lost, even if nobody took the lock, and a
    guard that is lost stays lost.

    An expectation is an equality on the entry of the lease. That entry is not touched by the extensions that renew the
    lease each third of its length, so a commit in flight is not refused because of them; it must arrive before the
    lease ends under which it was made. Whoever acquires the lock does so in a commit that finds every such entry gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from reactstate.errors import (
    ConflictError,
    LeaseLostError,
    ReactStateError,
    UnavailableError,
    UnknownOutcomeError,
    UnsupportedError,
)
from reactstate.kv.protocol import Capability, Delete, Step
from reactstate.kv.retry import resolve, until_available
from reactstate.kv.store import KeyValueStore
from reactstate.kv.terms import ttl_ms
from reactstate.locks.extension import Extension
from reactstate.locks.lost import LostEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.kv.protocol import Ttl
    from reactstate.kv.transaction import Guard
    from reactstate.locks.layout import LockKeys
    from reactstate.locks.owner import Owner, Span

__all__ = ["LockGuard", "check_guard", "is_same_store"]

_HELD: Final = 0
_RELEASED: Final = 1
_LOST: Final = 2
_DELETE: Final = Delete()


class LockGuard:
    """A lock that was acquired; ``Locks`` makes it.

    Attributes:
        name: The lock's name.
        token: The fencing token: the revision of the acquiring commit, greater than that of every holder before.
        store: The store that the lock is in.
        lost: Tells when it is lost.
    """

    __slots__ = (
        "_current",
        "_expected",
        "_extending",
        "_keys",
        "_lost",
        "_made",
        "_on_loss",
        "_owner",
        "_places",
        "_revision",
        "_span",
        "_state",
        "_task",
        "_used",
        "_value",
        "_why",
        "name",
        "store",
        "token",
    )

    def __init__(self, owner: Owner, keys: LockKeys, value: bytes, token: int, span: Span) -> None:
        self.name: str = keys.name
        self.token: int = token
        self.store: KeyValueStore = owner.store
        self._owner = owner
        self._keys = keys
        self._value = value
        self._revision = token
        self._span = span
        self._current = 0
        self._places: list[tuple[int, Span]] | None = None
        self._used = 1
        self._made = 0
        self._state = _HELD
        self._task = asyncio.current_task()
        self._expected: tuple[Step] | None = None
        self._extending: asyncio.Lock | None = None
        self._lost: LostEvent | None = None
        self._on_loss: Callable[[], None] | None = None
        self._why: BaseException | None = None

    @property
    def lost(self) -> LostEvent:
        """Tells when the lock is lost."""
        if self._lost is None:
            self._lost = LostEvent(self)
        return self._lost

    # --- what holds ------------------------------------------------------------------------------------------------

    def expectations(self) -> Sequence[Step]:
        """Return what a commit must expect, so that the store refuses it once this guard does not hold the lock.

        Take them for each commit anew; they hold for as long as the lease does now, whether it is extended or not.

        Raises:
            LeaseLostError: The lock is known to be lost, or was released.
            UnsupportedError: The engine has no FENCING, so that its revisions prove nothing.
        """
        self._check_held()
        if self._expected is None:
            self.store.require("guard", Capability.FENCING)
            self._expected = (Step(self._keys.leases[self._current], None, self._revision),)
        return self._expected

    async def is_held(self) -> bool:
        """Ask the store whether this guard holds the lock.

        Raises:
            UnavailableError: The store stayed out of reach until the deadline.
        """
        if not self._is_live():
            return False
        owner = self._owner
        key, revision = self._keys.leases[self._current], self._revision
        found = await until_available(lambda: self.store.get(key), clock=owner.clock, deadline=owner.deadline)
        if found is not None and found.revision == revision:
            return self._is_live()
        if self._revision != revision:
            return await self.is_held()  # it was extended meanwhile
        self._lose(None)
        return False

    def _left(self) -> float:
        """Return for how many seconds the lease runs; 0 once the lock is not held."""
        if self._state != _HELD:
            return 0.0
        return max(self._span[0] - self._owner.clock.monotonic(), 0.0)

    def _is_live(self) -> bool:
        """Say whether the lock is held, as far as the clock can tell."""
        if self._state != _HELD:
            return False
        owner = self._owner
        end, end_ns = self._span
        if owner.clock.monotonic() < end and not (owner._host and owner.clock.time_ns() >= end_ns):
            return True
        self._lose(None)
        return False

    def _is_lost(self) -> bool:
        return self._state == _LOST or (self._state == _HELD and not self._is_live())

    def _is_released(self) -> bool:
        return self._state == _RELEASED

    def _check_held(self) -> None:
        if not self._is_live():
            raise self._error() from self._why

    def _error(self) -> LeaseLostError:
        if self._state == _RELEASED:
            return LeaseLostError(f"the lock {self.name!r} was released by this guard; acquire it anew")
        return LeaseLostError(
            f"the lease of the lock {self.name!r} ran out, or another owner has it; stop the work that it protected, "
            "and acquire it anew"
        )

    def _lose(self, why: BaseException | None) -> None:
        """Count the lock as lost, for ever."""
        if self._state != _HELD:
            return
        self._why = why
        self._end(_LOST)
        if self._lost is not None:
            self._lost._set()
        if self._on_loss is not None:
            self._on_loss()

    def _end(self, state: int) -> None:
        self._state = state
        self._task = None
        held = self._owner._held
        if held.get(self.name) is self:
            del held[self.name]

    # --- extending -------------------------------------------------------------------------------------------------

    async def extend(self, ttl: Ttl) -> None:
        """Let the lease run for *ttl* from now on; it is never made shorter.

        Args:
            ttl: A timedelta, or seconds; more than 0.

        Raises:
            LeaseLostError: The lock is no longer held; or the store stayed out of reach until the lease ran out.
            UnavailableError: The store stayed out of reach until the deadline; the lease is as it was.
            UnknownOutcomeError: It is not known whether it was extended; the lock counts as lost.
            ValueError: *ttl* is not more than 0.
        """
        ms = ttl_ms(ttl)
        if self._extending is None:
            self._extending = asyncio.Lock()
        async with self._extending:
            self._check_held()
            extension = Extension(self, ms, ttl)
            try:
                await extension.perform()
            except ConflictError as exc:
                self._lose(exc)
                raise self._error() from exc
            except UnknownOutcomeError as exc:
                self._lose(exc)
                raise
            except UnavailableError as exc:
                if self._is_live():
                    raise
                raise self._error() from exc
            self._check_held()

    # --- releasing -------------------------------------------------------------------------------------------------

    async def release(self) -> None:
        """Give the lock up; who waits for it is next.

        Raises:
            LeaseLostError: It was not held any longer, or was released before; nothing was taken from another holder.
            UnavailableError: The store stayed out of reach until the deadline; the lease is as it was.
            UnknownOutcomeError: It is not known whether it was released; it counts as lost, and lapses by its TTL. So
                does one whose release is cancelled.
        """
        if not self._is_live():
            if self._state == _LOST:
                await self._clear()
            raise self._error() from self._why
        steps = self._ending()
        try:
            try:
                await self.store.commit(steps)
            except (UnavailableError, UnknownOutcomeError) as exc:
                await self._release_at_last(steps, exc)
        except ConflictError as exc:
            self._lose(exc)
            raise self._error() from exc
        except (UnknownOutcomeError, asyncio.CancelledError) as exc:  # it may have arrived, or arrive yet
            self._lose(exc)
            raise
        self._end(_RELEASED)

    def _ending(self) -> tuple[Step, ...]:
        """Return the steps that free the lock, if it is still held."""
        leases, current = self._keys.leases, self._current
        proof = Step(leases[current], _DELETE, self._revision)
        if self._used == 1:
            return (proof,)
        return (proof, *(Step(key, _DELETE) for key in leases[: self._used] if key != proof.key))

    async def _release_at_last(self, steps: Sequence[Step], error: ReactStateError) -> None:
        """Go on with a release whose first commit failed with *error*."""
        first: ReactStateError | None = error

        async def attempt() -> bool:
            nonlocal first
            if first is not None:
                exc, first = first, None
                raise exc
            await self.store.commit(steps)
            return True

        async def applied() -> bool | None:
            found = await self.store.get(steps[0].key)
            return None if found is not None and found.revision == steps[0].expect else True

        await resolve(attempt, applied, clock=self._owner.clock, deadline=self._owner.deadline)

    async def _clear(self) -> None:
        """Remove what may be left of a lease that counts as lost, so that nobody waits for it."""
        try:
            await self.store.commit(self._ending())
        except ReactStateError:
            return  # it lapses by itself

    def __repr__(self) -> str:
        state = ("held", "released", "lost")[self._state]
        return f"<LockGuard {self.name!r} token={self.token} {state}>"


def is_same_store(one: KeyValueStore, other: KeyValueStore) -> bool:
    """Say whether a commit to *one* can expect what is in *other*.

    Two stores are one when they are the same object, or when both may be used by several processes and have the same
    engine and URL.
    """
    return one is other or (one.engine == other.engine and one.url == other.url and one.supports(Capability.SHARED))


def check_guard(guard: Guard, store: KeyValueStore) -> None:
    """Refuse a guard that cannot guard commits to *store*: of another store, as far as it says of which it is.

    Raises:
        UnsupportedError: It is a lock or claim of another store, or a lock of an engine without FENCING.
        TypeError: It is no guard.
    """
    home = getattr(guard, "store", None)
    if isinstance(home, KeyValueStore) and not is_same_store(home, store):
        what = f"the lock {guard.name!r}" if isinstance(guard, LockGuard) else repr(guard)
        raise UnsupportedError(
            f"{what} is kept in {home.url}, so it cannot guard a commit to {store.url}: the store checks the guard and "
            "writes in one commit; keep both in one store",
            layer="guard",
            engine=store.engine,
            capability="FENCING",
        )
    if isinstance(guard, LockGuard):
        store.require("guard", Capability.FENCING)
    elif not callable(getattr(guard, "expectations", None)):
        raise TypeError(f"guard={guard!r}: give what acquiring a lock or claiming an item returned")
