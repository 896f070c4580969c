"""The commit path of a shared container with ``concurrency="pessimistic"``: one writer at a time, by a lock.

Contract
    Before a flush the lock of the state is acquired, in the order of those who wait for it, and what others wrote
    until then is taken over; so a recipe runs at most twice, however many processes write. The lock is held until
    nothing is waiting to be written here, and no longer than a few flushes.

    Safety does not rest on the lock: each commit is still conditional on the head, and it carries the lock's
    expectation, so that a process which slept through its lease is refused and begins anew. A lock whose holder died
    lapses after its lease.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reactstate.container.sharing import SharedCommitter
from reactstate.errors import ContentionError, LeaseLostError, LockTimeoutError, ReactStateError
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from reactstate.locks.guard import LockGuard
    from reactstate.locks.manager import Locks
    from reactstate.persistence.protocol import Record

__all__ = ["ExclusiveCommitter"]

S = TypeVar("S", bound=State)

_LEASE_S: Final = 10.0
_TURNS: Final = 16
"""After so many flushes the lock is given up, so that others come to it."""

_LOGGER = logging.getLogger("reactstate.container")


class ExclusiveCommitter(SharedCommitter[S]):
    """Writes the pending changes of one container while it holds the lock of its state.

    Args:
        locks: Where the lock is.
        name: Its name.
        arguments: As for SharedCommitter.
        options: As for SharedCommitter.
    """

    __slots__ = ("_held", "_locks", "_name", "_own", "_turns_left")

    def __init__(self, locks: Locks, name: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._locks = locks
        self._name = name
        self._held: LockGuard | None = None
        # Whether what is being written depends on the lock held here, not on one that its caller holds.
        self._own = False
        self._turns_left = 0

    def _flush(self) -> None:
        if self._held is None and self._timeline.pending and not self._flushing:
            self._scheduled = False
            self._hold_flushes()
            self._container._spawn(self._enter())
            return
        super()._flush()

    async def _enter(self) -> None:
        """Acquire the lock, take over what others wrote, and let the flush, or the recipes, go on."""
        try:
            try:
                self._held = await self._locks.acquire(self._name, _LEASE_S, self._deadline)
            except LockTimeoutError as exc:
                raise ContentionError(
                    f"other writers held the lock of this state for {self._deadline} s; try again when there are fewer"
                ) from exc
            self._turns_left = _TURNS
            await self._catch_up(lost=True)
        except Exception as exc:  # passed on to those who wait
            self._fail_all(exc)
        self._loop.call_soon(self._leave_when_idle)  # after the recipes that run again now

    def _append(self, records: list[Record]) -> Awaitable[None]:
        self._own = self._held is not None and self._guards.get(records[0].version) is None
        if self._held is None or not self._own:
            return super()._append(records)
        return self._persistence.append_guarded(records, self._schema, self._held)

    def _done(self, error: Exception | None) -> None:
        if isinstance(error, LeaseLostError) and self._own:
            self._leave()
            self._hold_flushes()
            self._container._spawn(self._lose())
            return
        self._turns_left -= 1
        if self._turns_left <= 0:
            self._leave()
        super()._done(error)
        self._loop.call_soon(self._leave_when_idle)

    def _leave_when_idle(self) -> None:
        if not self._timeline.pending and not self._flushing:
            self._leave()

    def _leave(self) -> None:
        """Give the lock up, if it is held; others need not wait for its lease."""
        held, self._held = self._held, None
        if held is not None:
            self._container._spawn(self._release_lock(held))

    async def _release_lock(self, held: LockGuard) -> None:
        try:
            await held.release()
        except LeaseLostError:
            return  # somebody else has it already
        except ReactStateError as exc:
            _LOGGER.warning("the lock of a state could not be released; it lapses after its lease: %s", exc)
