"""Extension: one extension of a lease.

Contract
    It writes the entry of the lease that ends first, on proof of the one that is current, which stays as it is: what a
    commit in flight expects still holds. Nobody else can have acquired the lock when the proof holds, so whatever is
    found in the entry that is written is this owner's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reactstate.errors import ConflictError, UnknownOutcomeError
from reactstate.kv.protocol import ABSENT, Put, Step
from reactstate.kv.retry import resolve
from reactstate.locks.layout import LEASES

if TYPE_CHECKING:
    from reactstate.kv.protocol import Expectation, Ttl
    from reactstate.locks.guard import LockGuard
    from reactstate.locks.owner import Span

__all__ = ["Extension"]

_NEVER: Final[Span] = (0.0, 0)


class Extension:
    """An extension of a lease by its holder.

    Args:
        guard: The holder.
        ms: How long the lease is to run, in milliseconds.
        ttl: The same, as the caller gave it.
    """

    __slots__ = ("_expect", "_guard", "_ms", "_places", "_proof", "_span", "_target", "_ttl", "_unsure", "_value")

    def __init__(self, guard: LockGuard, ms: int, ttl: Ttl) -> None:
        if guard._places is None:
            guard._places = [(guard._revision, guard._span)] + [(0, _NEVER)] * (LEASES - 1)
        places, current = guard._places, guard._current
        guard._made += 1
        self._guard = guard
        self._ms = ms
        self._ttl = ttl
        self._value = b"%b/%d" % (guard._value, guard._made)
        self._proof = Step(guard._keys.leases[current], None, guard._revision)
        self._places = places
        self._target = min((place for place in range(LEASES) if place != current), key=lambda place: places[place][1])
        revision, (end, _) = places[self._target]
        self._expect: Expectation = ABSENT if end <= guard._owner.clock.monotonic() else revision
        self._span = guard._span
        self._unsure = False
        guard._used = max(guard._used, self._target + 1)

    async def perform(self) -> None:
        """Commit it, and let the guard know.

        Raises:
            ConflictError: The lock is no longer held.
            UnavailableError: The store stayed out of reach; nothing was changed.
            UnknownOutcomeError: It is not known what became of it.
        """
        guard, owner = self._guard, self._guard._owner
        deadline = min(owner.deadline, guard._left())
        revision = await resolve(self._attempt, self._applied, clock=owner.clock, deadline=deadline)
        self._places[self._target] = (revision, self._span)
        if self._span >= guard._span:
            guard._current, guard._revision, guard._span = self._target, revision, self._span
            guard._expected = None

    async def _attempt(self) -> int:
        guard = self._guard
        key = guard._keys.leases[self._target]
        while True:
            if not self._unsure:  # of several that may have been applied, the first counts
                self._span = guard._owner._begin(self._ms)
            try:
                done = await guard.store.commit((Step(key, Put(self._value, self._ttl), self._expect), self._proof))
            except UnknownOutcomeError:
                self._unsure = True
                raise
            except ConflictError as exc:
                if self._proof.key in exc.keys:
                    raise
                # The proof holds, so what is there is an earlier extension, known less well here than it seemed.
                found = exc.entries.get(key)
                if found is not None and found.value == self._value:
                    return int(found.revision)
                self._expect = ABSENT if found is None else found.revision
                continue
            return done.revision

    async def _applied(self) -> int | None:
        found = await self._guard.store.get(self._guard._keys.leases[self._target])
        return found.revision if found is not None and found.value == self._value else None
