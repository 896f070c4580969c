"""Moments: points in time as callers give them, in milliseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from reactstate.kv.terms import MAX_DEADLINE_MS

if TYPE_CHECKING:
    from reactstate.clock import Clock

__all__ = ["Moment", "due_ms", "moment_ms", "now_ms"]

Moment: TypeAlias = "datetime | int"
"""An aware datetime, or milliseconds since 1970 (UTC)."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def now_ms(clock: Clock, now: Moment | None) -> int:
    """Return *now*, or the clock's time, in whole milliseconds that have passed."""
    return clock.time_ns() // 1_000_000 if now is None else moment_ms(now, early=True)


def due_ms(at: Moment | timedelta, clock: Clock) -> int:
    """Return when something is due that shall not be early; a timedelta is from now."""
    if isinstance(at, timedelta):
        return _checked(clock.time_ns() // 1_000_000 - (-at // _MILLISECOND))
    return moment_ms(at, early=False)


def moment_ms(at: Any, *, early: bool) -> int:
    """Return *at* in milliseconds, rounded down if *early*, else up.

    Raises:
        TypeError: It is no moment.
        ValueError: It is a naive datetime, or out of range.
    """
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError(f"{at!r} names no time zone; give an aware datetime, such as datetime.now(UTC)")
        since = at - _EPOCH
        return _checked(since // _MILLISECOND if early else -(-since // _MILLISECOND))
    if type(at) is not int:
        raise TypeError(f"a time is an aware datetime or milliseconds since 1970, not a {type(at).__name__}")
    return _checked(at)


def _checked(ms: int) -> int:
    if not 0 <= ms < MAX_DEADLINE_MS:
        raise ValueError(f"a time is between the years 1970 and 9999 (UTC), not {ms} ms since 1970")
    return ms
