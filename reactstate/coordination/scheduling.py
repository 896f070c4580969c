"""Scheduling: timeouts, chains whose next step becomes ready, and claims on what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.coordination.base import Coordinating
from reactstate.coordination.due import DueIndex
from reactstate.coordination.layout import encode
from reactstate.coordination.moments import due_ms, now_ms
from reactstate.coordination.results import Claim
from reactstate.errors import UnsupportedError
from reactstate.kv.terms import ttl_ms

if TYPE_CHECKING:
    from datetime import timedelta

    from reactstate.coordination.moments import Moment
    from reactstate.kv.keys import StateKey
    from reactstate.kv.protocol import Ttl

__all__ = ["Scheduling"]


class Scheduling(Coordinating):
    """The part of a coordination store that keeps what is due at which time."""

    def _begin_scheduling(self) -> None:
        self._timeouts = DueIndex(self._writer, "timeout")
        self._chains = DueIndex(self._writer, "chain")

    # --- timeouts -------------------------------------------------------------------------------------------------

    async def index_timeout(self, key: StateKey, at: Moment | timedelta) -> None:
        """Let *key* time out at *at*, exact to the millisecond and never early.

        A key has one timeout: indexing it again moves it, in one commit, and ends a claim of it.

        Args:
            key: Whose timeout it is; nothing need be stored under it.
            at: An aware datetime, milliseconds since 1970 (UTC), or a timedelta from now.

        Raises:
            TypeError: *at* is none of these.
            ValueError: *at* is naive, or out of range.
            InvalidKeyError: *key* is no StateKey.
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was indexed.
        """
        await self._index(self._ready(self._timeouts), key, at, None)

    async def remove_timeout_index(self, key: StateKey) -> bool:
        """Remove the timeout of *key*, claimed or not; say whether it had one. It raises as ``index_timeout`` does."""
        return await self._remove(self._ready(self._timeouts), key)

    async def get_expired_timeouts(self, now: Moment | None = None, limit: int | None = None) -> list[StateKey]:
        """Return the keys whose timeout has come and is not claimed, in the order of their times.

        One that came back when a lease ended is in the order of that time.

        Args:
            now: The time that counts (an aware datetime, or milliseconds since 1970); None: the clock's.
            limit: At most so many; None: all.

        Raises:
            ValueError: *limit* is negative.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        return await self._due(self._timeouts, now, limit)

    async def claim_expired_timeouts(self, limit: int, lease: Ttl, now: Moment | None = None) -> list[Claim]:
        """Take up to *limit* timeouts that have come, each of which is nobody else's until the lease ends.

        Complete each with ``complete``; what is not completed goes to the next who claims after the lease.

        Args:
            limit: At most so many; 1 or more.
            lease: For how long: a timedelta, or seconds; more than 0.
            now: The time that counts, and from which the lease runs; None: the clock's.

        Raises:
            ValueError: *limit* or *lease* is not more than 0.
            UnavailableError: The store stayed out of reach until the deadline; nothing was claimed.
            UnknownOutcomeError: It is not known whether some were claimed; they come back when the lease ends.
        """
        return await self._claim(self._ready(self._timeouts), limit, lease, now)

    # --- chains ---------------------------------------------------------------------------------------------------

    async def index_chain_ready(self, key: StateKey, at: Moment | timedelta, step: str | None = None) -> None:
        """Let the next step of the chain *key* be ready at *at*, exact to the millisecond and never early.

        A chain has one next step: indexing it again moves it, in one commit, and ends a claim of it. Whoever runs the
        steps by claims brings the chain to its next one by ``complete(claim, next_at=..., step=...)``.

        Args:
            key: Which chain; nothing need be stored under it.
            at: An aware datetime, milliseconds since 1970 (UTC), or a timedelta from now.
            step: Which step it is; the claim tells it.

        Raises:
            TypeError: *step* is no text; and all that ``index_timeout`` raises.
        """
        await self._index(self._ready(self._chains), key, at, step)

    async def remove_chain_ready_index(self, key: StateKey) -> bool:
        """Remove the next step of *key*, claimed or not; say whether it had one. It raises as ``index_timeout`` does."""
        return await self._remove(self._ready(self._chains), key)

    async def get_ready_chains(self, now: Moment | None = None, limit: int | None = None) -> list[StateKey]:
        """Return the chains whose next step is ready and not claimed; it is as ``get_expired_timeouts``."""
        return await self._due(self._chains, now, limit)

    async def claim_ready_chains(self, limit: int, lease: Ttl, now: Moment | None = None) -> list[Claim]:
        """Take up to *limit* chains whose next step is ready; it is as ``claim_expired_timeouts``."""
        return await self._claim(self._ready(self._chains), limit, lease, now)

    # --- claims ---------------------------------------------------------------------------------------------------

    async def complete(
        self, claim: Claim, *, next_at: Moment | timedelta | None = None, step: str | None = None
    ) -> None:
        """End *claim*: its item is done.

        Args:
            claim: What was claimed.
            next_at: When the item is due again, in the same commit; None: it leaves the index.
            step: Of a chain, the step that is ready then.

        Raises:
            LeaseLostError: The item was claimed by another, moved or removed since; nothing was changed. A lease that
                ran out is no hindrance as long as nobody else has the item.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was completed.
        """
        index = self._index_of(claim)
        again = None if next_at is None else due_ms(next_at, self._clock)
        _check_step(step)
        if step is not None and again is None:
            raise ValueError("a step is ready at a time: give next_at with it")
        await index.complete(claim, again, step)

    async def release(self, claim: Claim) -> None:
        """End *claim*: its item is due again at once, for whoever comes. It raises as ``complete`` does."""
        await self._index_of(claim).release(claim)

    async def extend(self, claim: Claim, lease: Ttl, now: Moment | None = None) -> Claim:
        """Let *claim* run for *lease* from *now* on; return the claim to go on with, which replaces this one.

        It raises as ``complete`` does.
        """
        index = self._index_of(claim)
        return await index.extend(claim, now_ms(self._clock, now) + ttl_ms(lease))

    # --- both indexes ---------------------------------------------------------------------------------------------

    def _ready(self, index: DueIndex) -> DueIndex:
        self._check_write()
        return index

    def _index_of(self, claim: Claim) -> DueIndex:
        if not isinstance(claim, Claim):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"give a claim, as claim_expired_timeouts returns it, not a {type(claim).__name__}")
        index = self._ready(self._timeouts if claim.kind == "timeout" else self._chains)
        if not index.made(claim):
            raise UnsupportedError(
                f"{claim!r} is of another store or namespace; complete it with the coordination store that it is from",
                layer="coordination",
                engine=self._store.engine,
            )
        return index

    async def _index(self, index: DueIndex, key: StateKey, at: Moment | timedelta, step: str | None) -> None:
        text = self._layout.text(key)
        due = due_ms(at, self._clock)
        _check_step(step)
        turn = await self._take_turn(index, text)
        try:
            await index.index(text, due, step)
        finally:
            self._give_turn(turn)

    async def _remove(self, index: DueIndex, key: StateKey) -> bool:
        text = self._layout.text(key)
        turn = await self._take_turn(index, text)
        try:
            return await index.remove(text)
        finally:
            self._give_turn(turn)

    async def _take_turn(self, index: DueIndex, text: str) -> str:
        """Wait until no other task of this store moves the item; return what ``_give_turn`` needs."""
        turn = index.pointer(text)
        await self._turns.take(turn)
        return turn

    async def _due(self, index: DueIndex, now: Moment | None, limit: int | None) -> list[StateKey]:
        self._check_loop()
        if limit is not None and limit < 0:
            raise ValueError(f"limit is how many at most, not {limit}")
        return await index.due(now_ms(self._clock, now), limit)

    async def _claim(self, index: DueIndex, limit: int, lease: Ttl, now: Moment | None) -> list[Claim]:
        if limit < 1:
            raise ValueError(f"limit is 1 or more, not {limit}")
        return await index.claim(limit, ttl_ms(lease), now_ms(self._clock, now))


def _check_step(step: str | None) -> None:
    if step is not None:
        encode(step)
