"""Deadlines: when entries in memory expire, and which of them are due.

Deadlines are kept in buckets of about a second, from which an entry that is overwritten or deleted is taken at once,
so that renewing a time to live over and over leaves nothing behind. Only the bucket that is being looked through is
sorted. Nothing in here is an object for each entry that the garbage collector would have to walk.
"""

from __future__ import annotations

import sys
from heapq import heapify, heappop, heappush
from typing import Final

__all__ = ["Deadlines"]

_SHIFT: Final = 10
_SPARE: Final = 64
_NEVER: Final = sys.maxsize


class Deadlines:
    """The deadlines of the entries that have one, in milliseconds.

    Attributes:
        of: The deadline of each key; to be read only.
        next: No deadline is before it.
    """

    __slots__ = ("_buckets", "_horizon", "_numbers", "_sorted", "next", "of")

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.next: int = _NEVER
        # Buckets by number; an empty one stays until its time comes, or until most are empty.
        self._buckets: dict[int, dict[str, None]] = {}
        self._numbers: list[int] = []
        self._horizon = -1
        self._sorted: list[tuple[int, str]] = []

    def set(self, key: str, deadline: int) -> None:
        """Set the deadline of *key*, in place of an earlier one."""
        if key in self.of:
            self.drop(key)
        self.of[key] = deadline
        number = deadline >> _SHIFT
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket[key] = None
        elif number <= self._horizon:
            heappush(self._sorted, (deadline, key))
            self.next = min(self.next, deadline)
        else:
            if len(self._buckets) > 2 * len(self.of) + _SPARE:
                self._buckets = {number: bucket for number, bucket in self._buckets.items() if bucket}
                self._numbers = sorted(self._buckets)
            self._buckets[number] = {key: None}
            heappush(self._numbers, number)
            self.next = min(self.next, number << _SHIFT)

    def drop(self, key: str) -> None:
        """Forget the deadline of *key*, which has one."""
        bucket = self._buckets.get(self.of.pop(key) >> _SHIFT)
        if bucket is not None:  # what is in the sorted part is passed over when its turn comes
            bucket.pop(key, None)

    def due(self, now: int, limit: int) -> list[str]:
        """Return up to *limit* keys whose deadline is at or before *now*; the caller must ``drop`` each of them."""
        if now < self.next:
            return []
        found: dict[str, None] = {}
        of, numbers, ready, current = self.of, self._numbers, self._sorted, now >> _SHIFT
        while numbers and numbers[0] <= current and len(found) < limit:
            bucket = self._buckets[numbers[0]]
            if numbers[0] == current:
                ready.extend((of[key], key) for key in bucket)
                heapify(ready)
                bucket.clear()
                self._horizon = current
            while bucket and len(found) < limit:
                found[bucket.popitem()[0]] = None
            if not bucket:
                del self._buckets[heappop(numbers)]
        while ready and ready[0][0] <= now and len(found) < limit:
            deadline, key = heappop(ready)
            if of.get(key) == deadline:
                found[key] = None
        self.next = min(ready[0][0] if ready else _NEVER, numbers[0] << _SHIFT if numbers else _NEVER)
        return list(found)
