"""LostEvent: what tells that a lock was lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from reactstate.locks.owner import TICK_S

if TYPE_CHECKING:
    from collections.abc import Generator

    from reactstate.locks.guard import LockGuard

__all__ = ["LostEvent"]


class LostEvent:
    """Tells of the loss of a lock: awaitable, with ``is_set`` and ``wait``.

    It is set once the lease has run out, or was found to be gone. Releasing the lock is no loss: then it is never set.
    """

    __slots__ = ("_guard", "_waiting")

    def __init__(self, guard: LockGuard) -> None:
        self._guard = guard
        self._waiting: set[asyncio.Future[None]] = set()

    def is_set(self) -> bool:
        """Say whether the lock is known to be lost; asks this process's clock, not the store."""
        return self._guard._is_lost()

    async def wait(self) -> Literal[True]:
        """Return True once the lock is lost; after a release, never."""
        clock = self._guard._owner.clock
        while not self.is_set():
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(told)
            waits: set[asyncio.Future[None]] = {told}
            if (left := self._guard._left()) > 0:
                waits.add(asyncio.ensure_future(clock.sleep(left + TICK_S)))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._waiting.discard(told)
                for wait in waits:
                    wait.cancel()
        return True

    def _set(self) -> None:
        for told in self._waiting:
            if not told.done():
                told.set_result(None)

    def __await__(self) -> Generator[object, None, Literal[True]]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return f"<LostEvent {'set' if self.is_set() else 'unset'}>"
