"""MemoryLog: the newest commits of a memory store, for watches and for ranges that are expected to be unchanged.

A commit is one element of a list: the key of the one entry that it wrote, or a tuple of its kinds and keys. Full
lists become tuples, which the garbage collector does not walk again.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, TypeAlias

from reactstate.kv.protocol import EventKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.kv.watching import Changes

__all__ = ["DELETED", "EXPIRED", "MAX_COMMITS", "SEGMENT", "WRITTEN", "Change", "MemoryLog"]

MAX_COMMITS: Final = 1_000_000
"""The most commits that are kept, whatever their age."""

SEGMENT: Final = 8192
"""The most commits in one part of the log."""

WRITTEN, DELETED, EXPIRED = 0, 1, 2
_KINDS: Final = (EventKind.PUT, EventKind.DELETE, EventKind.EXPIRE)
_PARTS: Final = 4096
_POINTER: Final = 8
_CHANGE: Final = 20

Change: TypeAlias = str | tuple[bytes, *tuple[str, ...]]
"""What a commit did: the key of the one entry that it wrote, or what it did to each of the keys that follow."""


class MemoryLog:
    """The commits above ``floor``, one a revision, none missing.

    A commit is kept for *retention_ns*, up to 1/4096 longer, and never among more than ``MAX_COMMITS``.

    Args:
        retention_ns: How long commits are kept.
        revision: The newest revision that was issued before.
        now_ns: The time.

    Attributes:
        floor: The newest revision that is no longer in the log.
        tail: The newest commits; a writer may append to it while it has fewer than ``SEGMENT`` and the time is
            before ``turn_ns``.
        turn_ns: When the next part begins.
    """

    __slots__ = ("_grain", "_parts", "_retention", "_starts", "_times", "floor", "tail", "turn_ns")

    def __init__(self, retention_ns: int, revision: int, now_ns: int) -> None:
        self._retention = retention_ns
        self._grain = max(1_000_000, retention_ns // _PARTS)
        self.floor: int = revision
        self.tail: list[Change] = []
        self.turn_ns: int = now_ns + self._grain
        self._parts: list[Sequence[Change]] = [self.tail]
        self._starts = [revision + 1]
        self._times = [now_ns]

    @property
    def newest(self) -> int:
        """The newest revision in the log."""
        return self._starts[-1] + len(self.tail) - 1

    def record(self, change: Change, now_ns: int) -> None:
        """Append the next commit."""
        if now_ns >= self.turn_ns or len(self.tail) >= SEGMENT:
            self.turn(now_ns)
        self.tail.append(change)

    def trim(self, now_ns: int) -> None:
        """Forget what is too old."""
        if now_ns >= self.turn_ns:
            self.turn(now_ns)

    def turn(self, now_ns: int) -> None:
        """Begin a new part, and forget the parts that are too old or too many."""
        now_ns = max(now_ns, self._times[-1])  # a clock that went back makes nothing older
        if self.tail:
            self._parts[-1] = tuple(self.tail)
            self._starts.append(self._starts[-1] + len(self.tail))
            self.tail = []
            self._parts.append(self.tail)
            self._times.append(now_ns)
        self._times[-1] = now_ns
        self.turn_ns = now_ns + self._grain
        last = len(self._parts) - 1
        newest = self._starts[last] - 1
        gone = 0
        while gone < last and (
            self._times[gone] + self._grain + self._retention <= now_ns
            or newest - self._starts[gone] + 1 > MAX_COMMITS - SEGMENT
        ):
            gone += 1
        del self._parts[:gone], self._starts[:gone], self._times[:gone]
        self.floor = self._starts[0] - 1

    def after(self, revision: int, limit: int) -> list[Changes]:
        """Return the oldest commits above *revision*, which is not below ``floor``; about *limit* events of them."""
        found: list[Changes] = []
        number = revision + 1
        place = bisect_right(self._starts, number) - 1
        while place < len(self._parts) and limit > 0:
            skip = number - self._starts[place]
            for change in self._parts[place][skip : skip + limit]:
                if limit <= 0:
                    break
                if isinstance(change, str):
                    events = [(EventKind.PUT, change)]
                else:
                    events = [(_KINDS[kind], key) for kind, key in zip(change[0], change[1:], strict=True)]
                found.append((number, events))
                number += 1
                limit -= len(events)
            place += 1
        return found

    def touched(self, revision: int, start: str, end: str | None) -> set[str]:
        """Return the keys in ``[start, end)`` that commits above *revision* wrote or removed."""
        found: set[str] = set()
        number = revision + 1
        place = bisect_right(self._starts, number) - 1
        for part, first in zip(self._parts[place:], self._starts[place:], strict=True):
            for change in part[max(0, number - first) :]:
                for key in (change,) if isinstance(change, str) else change[1:]:
                    if key >= start and (end is None or key < end):
                        found.add(key)
        return found

    def memory(self) -> int:
        """Return about how many bytes the log takes, the keys that only it holds included."""
        return (self.newest - self.floor) * (_POINTER + _CHANGE)
