"""Holding: the block that runs while a lock is held."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from reactstate.clock import SystemClock
from reactstate.errors import ReactStateError, UnavailableError, WrongContextError
from reactstate.locks.owner import TICK_S

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from reactstate.kv.protocol import Ttl
    from reactstate.locks.guard import LockGuard
    from reactstate.locks.layout import LockKeys
    from reactstate.locks.manager import Locks

__all__ = ["Holding"]

_SHORTEST_PAUSE_S: Final = 0.01


class Holding(AbstractAsyncContextManager["LockGuard"]):
    """What ``Locks.lock`` returns; see there.

    Args:
        locks: Acquires the lock.
        keys: Which one.
        ttl: How long the lease is.
        ms: The same in milliseconds.
        limit: For how many seconds to wait for the lock.
        renew: Whether the lease is extended.
    """

    __slots__ = (
        "_before",
        "_guard",
        "_interrupted",
        "_keeper",
        "_keys",
        "_limit",
        "_locks",
        "_ms",
        "_renew",
        "_task",
        "_timer",
        "_ttl",
    )

    def __init__(self, locks: Locks, keys: LockKeys, ttl: Ttl, ms: int, limit: float | None, *, renew: bool) -> None:
        self._locks = locks
        self._keys = keys
        self._ttl = ttl
        self._ms = ms
        self._limit = limit
        self._renew = renew
        self._guard: LockGuard | None = None
        self._task: asyncio.Task[Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._before = 0
        self._interrupted = False

    async def __aenter__(self) -> LockGuard:
        if self._task is not None:
            raise WrongContextError("this block was entered before; call lock() again for another one")
        self._task = task = asyncio.current_task()
        self._guard = guard = await self._locks._wait_for(self._keys, self._ttl, self._ms, self._limit)
        self._before = 0 if task is None else task.cancelling()
        guard._on_loss = self._interrupt
        pause = self._ms / 3000 if self._renew else guard._left() + TICK_S
        loop = asyncio.get_running_loop()
        if type(self._locks.clock) is SystemClock:
            # Most blocks end before that, and this sleeps as that clock does, without the cost of a task.
            self._timer = loop.call_later(pause, self._start, guard)
        else:
            self._start(guard, pause)
        return guard

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard = self._guard
        if guard is None:
            raise WrongContextError("this block was not entered; use it with 'async with'")
        guard._on_loss = None
        if self._timer is not None:
            self._timer.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
        outside = error if isinstance(error, asyncio.CancelledError) else None
        if self._interrupted:
            outside = self._take_back(outside)
        failure = await self._let_go(guard)
        if outside is not None:
            raise outside
        if error is not None and not isinstance(error, asyncio.CancelledError):
            if failure is not None:
                error.add_note(str(failure))
        elif failure is not None:
            raise failure

    def _interrupt(self) -> None:
        """Cancel the block, because the lock is lost; one that finds out by itself gets the error instead."""
        task = self._task
        if task is not None and task is not asyncio.current_task():
            self._interrupted = True
            task.cancel(f"the lock {self._keys.name!r} was lost")

    def _take_back(self, cancelled: asyncio.CancelledError | None) -> asyncio.CancelledError | None:
        """Take the cancellation of the block back; return *cancelled* if there was one from outside too."""
        task = self._task
        return cancelled if task is not None and task.uncancel() > self._before else None

    async def _let_go(self, guard: LockGuard) -> ReactStateError | None:
        """Release the lock, unless the block did; return what came in the way."""
        if guard._is_released():
            return None
        try:
            await guard.release()
        except ReactStateError as exc:
            return exc
        except asyncio.CancelledError:
            await self._locks._finish(guard._clear())
            raise
        return None

    def _start(self, guard: LockGuard, pause: float = 0.0) -> None:
        # From now on, and not from when the task begins, which may be later by any time.
        at = self._locks.clock.monotonic() + pause
        self._keeper = asyncio.get_running_loop().create_task(self._keep(guard, at))

    async def _keep(self, guard: LockGuard, at: float) -> None:
        """Extend the lease at the time *at* of the clock and from then on, and see when it is lost."""
        clock = self._locks.clock
        while True:
            if (pause := at - clock.monotonic()) > 0:
                await clock.sleep(pause)
            if not guard._is_live():
                return
            pause = guard._left() + TICK_S
            if self._renew:
                try:
                    await guard.extend(self._ttl)
                    pause = self._ms / 3000
                except UnavailableError:
                    pause = max(guard._left() / 3, _SHORTEST_PAUSE_S)
                except Exception as exc:  # whatever it is, the lease cannot be kept
                    guard._lose(exc)
                    return
            at = clock.monotonic() + pause
