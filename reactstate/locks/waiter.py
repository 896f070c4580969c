"""Waiter: a task that waits for a lock, as the waiting room sees it."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.clock import Clock

__all__ = ["Waiter"]


class Waiter:
    """One who waits.

    Args:
        prefix: What its place starts with.

    Attributes:
        key: Its place.
        ticket: The revision that created the place; 0: there is none.
        revision: The newest revision of the place that is known.
        gone: Whether the place was found to be gone.
        late: Whether the time to wait is over.
        error: What makes waiting impossible.
    """

    __slots__ = ("_prefix", "_timers", "_woken", "error", "gone", "key", "late", "revision", "ticket")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.key: str = prefix + secrets.token_hex(8)
        self.ticket: int = 0
        self.revision: int = 0
        self.gone: bool = False
        self.late: bool = False
        self.error: Exception | None = None
        self._woken = asyncio.Event()
        self._timers: dict[str, asyncio.Task[None]] = {}

    def move(self) -> None:
        """Take another place, which is yet to be created."""
        self.key = self._prefix + secrets.token_hex(8)
        self.ticket = self.revision = 0
        self.gone = False

    def wake(self) -> None:
        """Let it look at what has changed."""
        self._woken.set()

    async def woken(self) -> None:
        """Return when it was woken since the last call."""
        await self._woken.wait()
        self._woken.clear()

    def set_timer(self, name: str, clock: Clock, seconds: float, then: Callable[[], None]) -> None:
        """Call *then* in so many seconds, in place of an earlier timer of this name."""
        self.end_timer(name)

        async def run() -> None:
            await clock.sleep(seconds)
            then()

        self._timers[name] = asyncio.get_running_loop().create_task(run())

    def end_timer(self, name: str) -> None:
        """Stop a timer, if there is one."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def time_out(self) -> None:
        """Note that the time to wait is over."""
        self.late = True
        self.wake()

    def close(self) -> None:
        """Stop its timers."""
        for name in tuple(self._timers):
            self.end_timer(name)
