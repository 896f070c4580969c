"""History: the newest changes, oldest first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from reactstate.errors import NoHistoricalState
from reactstate.state.change import DROPPED, StateChange

if TYPE_CHECKING:
    from datetime import timedelta

    from reactstate.clock import Clock
    from reactstate.state.state import State

__all__ = ["HELD", "History", "check_steps", "check_version", "version_text"]

S = TypeVar("S", bound="State")

HELD = 8
"""How many of the newest changes hold their state; those of older ones are rebuilt."""

_LONG = 64
"""From how many bits on an int is too long for an error text; Python refuses to print the longest ones at all."""


def check_version(version: object, name: str = "version") -> int:
    """Return *version* if it can be one; whether it is kept, or was ever made, is another question.

    Raises:
        TypeError: It is no int, or a bool.
    """
    if isinstance(version, bool) or not isinstance(version, int):
        raise TypeError(f"{name} must be an int, such as container.version, not a {type(version).__name__}")
    return version


def check_steps(steps: object) -> int:
    """Return *steps* if one can go back so many versions.

    Raises:
        TypeError: It is no int, or a bool.
        ValueError: It is less than 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an int from 1 on, not a {type(steps).__name__}")
    if steps < 1:
        raise ValueError("steps must be 1 or more")
    return steps


def version_text(version: int) -> str:
    """Return how an error text names *version*, however large a caller made it."""
    bits = version.bit_length()
    return str(version) if bits < _LONG else f"of {bits} bits"


class History(Sequence[StateChange[S]]):
    """The newest changes of a container, oldest first; a sequence that only the container extends.

    It keeps edits and the newest few states, not a copy per version. Versions in it have no gaps. It may be read from
    any thread; an iteration sees the changes that were kept when it began.

    Args:
        size: The most changes that are kept.
        retention: How long they are kept; None for ever. The newest change always stays.
        clock: Tells their age.
    """

    def __init__(self, size: int, retention: timedelta | None, clock: Clock) -> None:
        self.size = size
        self.retention = retention
        self._changes: deque[StateChange[S]] = deque(maxlen=size)
        self._retention_ns = None if retention is None else round(retention.total_seconds() * 1e9)
        self._clock = clock
        self._expiring = threading.Lock()

    def extend(self, change: StateChange[S]) -> None:
        """Append the next change."""
        changes = self._changes
        if changes:
            changes[-1]._next = change
            if len(changes) >= HELD:
                changes[-HELD]._state = DROPPED
        changes.append(change)
        if self._retention_ns is not None:
            self._expire()

    def clear(self) -> None:
        """Forget all changes."""
        self._changes.clear()

    def _expire(self) -> None:
        """Drop the changes that are older than the retention; the newest always stays."""
        oldest = self._clock.time_ns() - (self._retention_ns or 0)
        with self._expiring:  # two readers must not both remove the last but one
            while len(self._changes) > 1 and self._changes[0]._timestamp_ns < oldest:
                self._changes.popleft()

    def _kept(self) -> deque[StateChange[S]]:
        if self._retention_ns is not None:
            self._expire()
        return self._changes

    def __len__(self) -> int:
        return len(self._kept())

    @overload
    def __getitem__(self, index: int) -> StateChange[S]: ...
    @overload
    def __getitem__(self, index: slice) -> list[StateChange[S]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return list(self._kept())[index] if isinstance(index, slice) else self._kept()[index]

    def __iter__(self) -> Iterator[StateChange[S]]:
        return iter(list(self._kept()))

    def __reversed__(self) -> Iterator[StateChange[S]]:
        return iter(list(self._kept())[::-1])

    @property
    def oldest_version(self) -> int | None:
        """The version of the oldest change that is kept."""
        kept = list(self._kept())
        return kept[0]._version if kept else None

    @property
    def newest_version(self) -> int | None:
        """The version of the newest change."""
        kept = list(self._changes)
        return kept[-1]._version if kept else None

    def find(self, version: int) -> StateChange[S]:
        """Return the change that made *version*.

        Raises:
            TypeError: *version* is no int.
            NoHistoricalState: It is not kept.
        """
        check_version(version)
        changes = list(self._kept())
        place = version - changes[0]._version if changes else -1
        if not 0 <= place < len(changes):
            raise self.missing(f"version {version_text(version)} is not in the history")
        return changes[place]

    def get_previous(self, steps: int = 1) -> StateChange[S]:
        """Return the change that was the newest *steps* versions ago.

        Raises:
            TypeError: *steps* is no int.
            ValueError: *steps* is less than 1.
            NoHistoricalState: It is not kept.
        """
        check_steps(steps)
        newest = self.newest_version
        if newest is None:
            raise self.missing("there is no history yet")
        return self.find(newest - steps)

    def find_time(self, moment: datetime) -> StateChange[S]:
        """Return the newest change that had been made at *moment*.

        Raises:
            TypeError: *moment* is no datetime.
            ValueError: *moment* has no time zone.
            NoHistoricalState: No kept change is that old.
        """
        if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"a point in time is a datetime with a time zone, not a {type(moment).__name__}")
        if moment.tzinfo is None:
            raise ValueError("a point in time needs a time zone, such as datetime.UTC")
        for change in reversed(list(self._kept())):
            if change.timestamp <= moment:
                return change
        raise self.missing(f"no version is as old as {moment.isoformat()}")

    def missing(self, what: str) -> NoHistoricalState:
        """Return the error that says which versions are kept."""
        oldest, newest = self.oldest_version, self.newest_version
        kept = "none" if oldest is None else f"{oldest} to {newest}"
        return NoHistoricalState(f"{what}; versions kept: {kept}", oldest=oldest, newest=newest)

    def __repr__(self) -> str:
        return f"History({self.oldest_version}..{self.newest_version})"
