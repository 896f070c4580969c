"""Versions: entries in memory, in key order, of which snapshots keep the versions that they need.

Contract
    Opening a snapshot costs the same whatever is stored. A version that is overwritten or deleted is held only if an
    open snapshot sees it, and let go when the last one that does is closed: at once as far as ``tidy`` has come,
    which works in pieces so that nobody waits for long.

    Entries are columns: dicts from text to bytes and integers, which the garbage collector does not walk.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import deque
from itertools import islice, repeat
from typing import Any, TypeAlias

from sortedcontainers import SortedList

from reactstate.kv.deadlines import Deadlines

__all__ = ["Version", "Versions"]

Version: TypeAlias = tuple[bytes, int, int]
"""Value, revision, and deadline in milliseconds since 1970 (0: never)."""

_Held: TypeAlias = tuple[int, int, bytes, int]
"""An old version: the revision that wrote it, the one that ended it, its value and its deadline."""

_OBJECTS = sys.getsizeof("") + sys.getsizeof(b"") + sys.getsizeof(1 << 30)
_HELD = sys.getsizeof((1, 2, 3, 4)) + sys.getsizeof((1,)) + sys.getsizeof(b"") + sys.getsizeof(1 << 30)
_POINTER = 8


class Versions:
    """A table of entries; it is told revisions and deadlines, and knows no clock.

    Attributes:
        values: The value of each entry.
        revisions: The revision of each entry.
        deadlines: When entries expire.
        of: The deadline of each entry that has one.
        revision: The newest revision that was issued.
        newest: The revision of the newest open snapshot; -1: none is open. An entry of a revision above it can be
            overwritten in place.
        bytes: The bytes of all keys and values.
        held: How many old versions are held.
        shape: Another number whenever an entry was added or removed, rather than overwritten.
    """

    __slots__ = (
        "_closed",
        "_held_bytes",
        "_needed",
        "_old",
        "_open",
        "_order",
        "_readers",
        "bytes",
        "deadlines",
        "held",
        "newest",
        "of",
        "revision",
        "revisions",
        "shape",
        "values",
    )

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.revisions: dict[str, int] = {}
        self.deadlines: Deadlines = Deadlines()
        self.of: dict[str, int] = self.deadlines.of
        self.revision: int = 0
        self.newest: int = -1
        self.bytes: int = 0
        self.held: int = 0
        self.shape: int = 0
        # The keys of all entries, and of those that are gone but still seen by a snapshot.
        self._order: SortedList[str] = SortedList()
        self._old: dict[str, tuple[_Held, ...]] = {}
        self._held_bytes = 0
        self._open: list[int] = []
        self._readers: dict[int, int] = {}
        # Each held version is noted once, under the newest open snapshot that sees it.
        self._needed: dict[int, list[str]] = {}
        self._closed: deque[tuple[int, list[str]]] = deque()

    # --- reading --------------------------------------------------------------------------------------------------

    def at(self, key: str, revision: int) -> Version | None:
        """Return the version of *key* that a snapshot of *revision* sees, or None."""
        written = self.revisions.get(key)
        if written is not None and written <= revision:
            return self.values[key], written, self.of.get(key, 0)
        for begin, end, value, deadline in self._old.get(key, ()):
            if begin <= revision < end:
                return value, begin, deadline
        return None

    def keys(
        self, first: str, last: str | None, limit: int, *, after: str | None = None, reverse: bool = False
    ) -> list[str]:
        """Return up to *limit* keys in ``[first, last)``, in order; some may be gone.

        Args:
            first: The first key of the range.
            last: The first key after it; None: it has no end.
            limit: How many at most.
            after: Go on after this key, in the direction of the reading.
            reverse: From the last to the first.
        """
        if after is None:
            found = self._order.irange(first, last, (True, False), reverse)
        elif reverse:
            found = self._order.irange(first, after, (True, False), reverse)
        else:
            found = self._order.irange(after, last, (False, False), reverse)
        return list(islice(found, limit))

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, key: str, value: bytes, revision: int, deadline: int) -> None:
        """Write an entry."""
        old = self.values.get(key)
        if old is None:
            if key not in self._old:
                self._order.add(key)
            self.bytes += _size(key) + len(value)
            self.shape += 1
        else:
            written = self.revisions[key]
            if written <= self.newest:
                self._hold(key, old, written, revision)
            self.bytes += len(value) - len(old)
        self.values[key] = value
        self.revisions[key] = revision
        if deadline:
            self.deadlines.set(key, deadline)
        elif key in self.of:
            self.deadlines.drop(key)

    def remove(self, key: str, revision: int) -> None:
        """Remove an entry, which is there."""
        value = self.values.pop(key)
        written = self.revisions.pop(key)
        if written <= self.newest:
            self._hold(key, value, written, revision)
        elif key not in self._old:
            self._order.remove(key)
        self.bytes -= _size(key) + len(value)
        self.shape += 1
        if key in self.of:
            self.deadlines.drop(key)

    def _hold(self, key: str, value: bytes, begin: int, end: int) -> None:
        chain = self._old.get(key)
        version = (begin, end, value, self.of.get(key, 0))
        self._old[key] = (version,) if chain is None else (*chain, version)
        keys = self._needed.get(self.newest)
        if keys is None:
            self._needed[self.newest] = [key]
        else:
            keys.append(key)
        self.held += 1
        self._held_bytes += len(value)

    def fill(self, keys: list[str], values: list[bytes], deadlines: list[int], revision: int, size: int) -> None:
        """Add entries to a new table, which nobody reads before ``settle``.

        Args:
            keys: Their keys, which ascend, batch after batch.
            values: Their values.
            deadlines: When they expire; 0: never.
            revision: What will be given to ``settle``, or probably will.
            size: The bytes of the values.
        """
        self.values.update(zip(keys, values, strict=True))
        self.revisions.update(zip(keys, repeat(revision)))
        _extend(self._order, keys)
        self.bytes += len("".join(keys).encode()) + size
        if any(deadlines):
            for key, deadline in zip(keys, deadlines, strict=True):
                if deadline:
                    self.deadlines.set(key, deadline)

    def settle(self, revision: int) -> None:
        """Let the entries of a new table be of *revision*, whatever ``fill`` was told."""
        self.revision = revision
        if self.revisions and next(iter(self.revisions.values())) != revision:
            self.revisions = dict.fromkeys(self.values, revision)

    # --- snapshots ------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """Open a snapshot; return its revision."""
        revision = self.revision
        if revision == self.newest:
            self._readers[revision] += 1
        else:
            self._readers[revision] = 1
            self._open.append(revision)
            self.newest = revision
        return revision

    def close(self, revision: int) -> None:
        """Close a snapshot; ``tidy`` then lets go of what only it saw."""
        self._readers[revision] -= 1
        if self._readers[revision]:
            return
        del self._readers[revision]
        del self._open[bisect_left(self._open, revision)]
        self.newest = self._open[-1] if self._open else -1
        keys = self._needed.pop(revision, None)
        if keys is not None:
            self._closed.append((revision, keys))

    @property
    def untidy(self) -> bool:
        """Whether there is something to do for ``tidy``."""
        return bool(self._closed)

    def tidy(self, limit: int) -> bool:
        """Look through up to *limit* versions that closed snapshots saw; say whether more are left."""
        while self._closed:
            revision, keys = self._closed[0]
            older = bisect_left(self._open, revision) - 1
            heir = self._open[older] if older >= 0 else -1
            while keys:
                if not limit:
                    return True
                limit -= 1
                self._release(keys.pop(), revision, heir)
            self._closed.popleft()
        return False

    def _release(self, key: str, revision: int, heir: int) -> None:
        """Let go of the version of *key* that the closed snapshot of *revision* saw, unless *heir*, an older one, does."""
        chain = self._old[key]
        place = 0
        while not chain[place][0] <= revision < chain[place][1]:
            place += 1
        begin, _, value, _ = chain[place]
        if heir >= begin:
            self._needed.setdefault(heir, []).append(key)
            return
        self.held -= 1
        self._held_bytes -= len(value)
        if len(chain) > 1:
            self._old[key] = chain[:place] + chain[place + 1 :]
            return
        del self._old[key]
        if key not in self.values:
            self._order.remove(key)

    def memory(self) -> int:
        """Return about how many bytes everything takes."""
        of = self.of
        return (
            self.bytes
            + len(self.values) * (_OBJECTS + _POINTER)
            + sum(map(sys.getsizeof, (self.values, self.revisions, of, self._old)))
            + 2 * sys.getsizeof(of)
            + self._held_bytes
            + self.held * _HELD
        )


def _extend(order: SortedList[str], keys: list[str]) -> None:
    """Append *keys*, which ascend and come after all that are there.

    ``SortedList.update`` would sort everything anew, at the end of a load for longer than other tasks should wait.
    """
    inner: Any = order
    lists, maxes, size = inner._lists, inner._maxes, order.DEFAULT_LOAD_FACTOR
    first = 0
    if keys and lists and len(lists[-1]) < size:
        first = size - len(lists[-1])
        lists[-1].extend(keys[:first])
        maxes[-1] = lists[-1][-1]
    for place in range(first, len(keys), size):
        lists.append(keys[place : place + size])
        maxes.append(lists[-1][-1])
    inner._len += len(keys)
    inner._index.clear()


def _size(key: str) -> int:
    return len(key) if key.isascii() else len(key.encode())
