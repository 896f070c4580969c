"""Time is an argument: a Clock is passed in wherever time is read, so that tests need neither patching nor sleeping."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

__all__ = ["Clock", "ManualClock", "SystemClock", "to_datetime"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(timestamp_ns: int) -> datetime:
    """Return the aware UTC datetime of *timestamp_ns* (nanoseconds since 1970), exact to the microsecond."""
    return _EPOCH + timedelta(microseconds=timestamp_ns // 1000)


@runtime_checkable
class Clock(Protocol):
    """What reactstate needs of time."""

    def time_ns(self) -> int:
        """Return the time of day as nanoseconds since 1970 (UTC)."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds* of this clock."""
        ...


class SystemClock:
    """The operating system's clock."""

    __slots__ = ()

    if TYPE_CHECKING:

        def time_ns(self) -> int:
            """Return the time of day as nanoseconds since 1970 (UTC)."""
            ...

        def monotonic(self) -> float:
            """Return seconds from an arbitrary start; never goes back."""
            ...

    else:  # the functions themselves, as they are called at every change
        time_ns = staticmethod(time.time_ns)
        monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until ``advance`` is called.

    Sleepers wake in the order of their deadlines. Made for tests; use it from one event loop.
    """

    __slots__ = ("_count", "_monotonic_ns", "_now_ns", "_sleepers")

    def __init__(self, start: datetime | None = None) -> None:
        """Start at *start* (aware; default 2026-01-01 UTC)."""
        start = start if start is not None else datetime(2026, 1, 1, tzinfo=UTC)
        self._now_ns = round((start - _EPOCH) / timedelta(microseconds=1)) * 1000
        self._monotonic_ns = 0
        self._count = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        """Return the manual time of day as nanoseconds since 1970 (UTC)."""
        return self._now_ns

    def monotonic(self) -> float:
        """Return the seconds by which this clock was advanced."""
        return self._monotonic_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by *seconds*."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic_ns + round(seconds * 1e9), next(self._count), waiter))
        await waiter

    def advance(self, by: timedelta | float) -> None:
        """Move the clock forward by *by* (a timedelta, or seconds) and wake the sleepers whose time has come.

        Raises:
            ValueError: *by* is negative.
        """
        nanoseconds = round((by.total_seconds() if isinstance(by, timedelta) else by) * 1e9)
        if nanoseconds < 0:
            msg = "a clock never goes back; advance by a positive time"
            raise ValueError(msg)
        self._now_ns += nanoseconds
        self._monotonic_ns += nanoseconds
        due = sorted(sleeper for sleeper in self._sleepers if sleeper[0] <= self._monotonic_ns)
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._monotonic_ns]
        for _, _, waiter in due:
            if not waiter.done():
                waiter.set_result(None)
