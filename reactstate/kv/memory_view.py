"""MemoryView: a memory store at one revision, and the scan that it shares with the store."""

from __future__ import annotations

import asyncio
import sys
from itertools import islice, repeat
from typing import TYPE_CHECKING, Final, Protocol

from reactstate.errors import ClosedError
from reactstate.kv.protocol import Batch, Entry, ReadView
from reactstate.kv.terms import check_key, span, to_moment
from reactstate.kv.watching import cursor_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from reactstate.kv.memory import MemoryStore
    from reactstate.kv.protocol import Cursor
    from reactstate.kv.versions import Versions

__all__ = ["KeyRange", "MemoryView", "Source", "entries_of"]

_FIRST: Final = 64
_CHUNK: Final = 1000
_PIECE: Final = 2500
_TIDY: Final = 500


class KeyRange:
    """Reads the keys of a range in pieces, between which anything may be written.

    Args:
        prefix: Only keys that start with it.
        start: Only keys from it on.
        end: Only keys before it.
        reverse: From the last to the first.
        size: The keys of the first piece; later ones have more.
    """

    __slots__ = ("_after", "_ended", "_first", "_last", "_reverse", "_size")

    def __init__(
        self,
        prefix: str = "",
        start: str | None = None,
        end: str | None = None,
        *,
        reverse: bool = False,
        size: int = _FIRST,
    ) -> None:
        self._first, self._last = span(prefix, start, end)
        self._reverse = reverse
        self._size = size
        self._after: str | None = None
        self._ended = False

    def take(self, table: Versions, size: int | None = None) -> list[str]:
        """Return the next keys, some of which may be gone; none when the range is at its end."""
        if self._ended:
            return []
        if size is None:
            size, self._size = self._size, _CHUNK
        keys = table.keys(self._first, self._last, size, after=self._after, reverse=self._reverse)
        if len(keys) < size:
            self._ended = True
        else:
            self._after = keys[-1]
        return keys


class Source(Protocol):
    """What a scan reads from."""

    def readable(self) -> Versions:
        """Return the table as it is now.

        Raises:
            ClosedError: It can no longer be read.
        """
        ...

    def read(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None."""
        ...


async def entries_of(
    source: Source, prefix: str, start: str | None, end: str | None, limit: int | None, *, reverse: bool
) -> AsyncIterator[Entry]:
    """Iterate over the entries of a range, each as it is when it is reached; see ``KeyValueStore.scan``."""
    table = source.readable()
    keys = KeyRange(prefix, start, end, reverse=reverse)
    left = sys.maxsize if limit is None else limit
    if left < 0:
        raise ValueError(f"limit is 0 or more, not {limit}")
    while left and (piece := keys.take(table)):
        for key in piece:
            entry = source.read(key)
            if entry is None:
                continue
            yield entry
            source.readable()
            left -= 1
            if not left:
                return
        await asyncio.sleep(0)
        table = source.readable()


class MemoryView(ReadView):
    """A block in which a memory store is read as it was when the block was entered; a block is entered once.

    Args:
        store: The store.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._table: Versions | None = None
        self._entered = False
        self._now = 0

    async def __aenter__(self) -> Self:
        table = self._store.readable()
        if self._entered:
            raise ClosedError("a snapshot is entered once; take another one")
        self._entered = True
        self._now = self._store.now_ms()
        self._table = table
        self.revision: int = table.open()
        self.cursor: Cursor = cursor_at(self._store.id, self.revision)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        table, self._table = self._table, None
        if table is not None:
            table.close(self.revision)
            if table.untidy:
                _tidy(table, asyncio.get_running_loop())

    def readable(self) -> Versions:
        """Return the table that this reads.

        Raises:
            ClosedError: The block was left, or the store closed.
        """
        self._store.readable()
        if self._table is None:
            raise ClosedError("a snapshot is read inside its block only; take another one")
        return self._table

    def read(self, key: str) -> Entry | None:
        """Return the entry that the snapshot sees under *key*, or None."""
        found = self.readable().at(key, self.revision)
        if found is None:
            return None
        value, revision, deadline = found
        if not deadline:
            return Entry(key, value, revision)
        return Entry(key, value, revision, to_moment(deadline)) if deadline > self._now else None

    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None."""
        table = self._table
        if table is not None and type(key) is str and key not in table.of and not self._store._closed:
            revision = table.revisions.get(key)
            if revision is not None and revision <= self.revision:
                return Entry(key, table.values[key], revision)
        self.readable()
        check_key(key, self._store.limits)
        return self.read(key)

    def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        """Iterate over the entries in key order; see ``KeyValueStore.scan``."""
        return entries_of(self, prefix, start, end, limit, reverse=reverse)

    async def batches(self, size: int = 10_000, *, revisions: bool = True) -> AsyncIterator[Batch]:
        """Iterate over everything in key order, by columns of up to *size* entries.

        Raises:
            ValueError: *size* is not more than 0.
        """
        if size < 1:
            raise ValueError(f"size is 1 or more, not {size}")
        keys, columns = KeyRange(), _Columns(self.readable())
        batch = Batch([], [], [], [])
        while piece := keys.take(self.readable(), min(_PIECE, size - len(batch.keys))):
            self._add(batch, piece, columns, revisions=revisions)
            if len(batch.keys) == size:
                yield batch
                batch = Batch([], [], [], [])
            await asyncio.sleep(0)
        if batch.keys:
            yield batch

    def _add(self, batch: Batch, keys: list[str], columns: _Columns, *, revisions: bool) -> None:
        """Add the columns of those of *keys* that the snapshot sees."""
        table = self.readable()
        of = table.of
        written = table.revision != self.revision
        found = columns.take(keys, revisions=revisions or written)
        # Else something was written over since, or may have expired before this snapshot.
        if found is not None and table.deadlines.next > self._now and not (written and max(found[1]) > self.revision):
            batch.keys += keys
            batch.values += found[0]
            if revisions:
                batch.revisions += found[1]
            batch.deadlines += map(of.get, keys, repeat(0)) if of else repeat(0, len(keys))
            return
        for key in keys:
            entry = table.at(key, self.revision)
            if entry is not None and not 0 < entry[2] <= self._now:
                batch.keys.append(key)
                batch.values.append(entry[0])
                if revisions:
                    batch.revisions.append(entry[1])
                batch.deadlines.append(entry[2])


class _Columns:
    """Reads the columns of a table from its first key to its last.

    As long as the entries lie in memory in the order of their keys, as after a load, it walks along them, which takes
    a fifth of the time of looking them up.

    Args:
        table: The table.
    """

    __slots__ = ("_in_step", "_keys", "_revisions", "_shape", "_table", "_values")

    def __init__(self, table: Versions) -> None:
        self._table = table
        self._shape = table.shape
        self._in_step = True
        self._keys = iter(table.values)
        self._values = iter(table.values.values())
        self._revisions = iter(table.revisions.values())

    def take(self, keys: list[str], *, revisions: bool) -> tuple[list[bytes], list[int]] | None:
        """Return the values of the next *keys*, and their revisions if they are wanted; None: one of them is gone."""
        table, count = self._table, len(keys)
        if self._in_step:
            # Iterators go on over a dictionary whose values change, but not over one that grew or shrank.
            if self._shape == table.shape and list(islice(self._keys, count)) == keys:
                return list(islice(self._values, count)), list(islice(self._revisions, count))
            self._in_step = False
        try:
            values = list(map(table.values.__getitem__, keys))
            return values, list(map(table.revisions.__getitem__, keys)) if revisions else []
        except KeyError:
            return None


def _tidy(table: Versions, loop: asyncio.AbstractEventLoop) -> None:
    """Let go of what closed snapshots saw, a piece now and the rest bit by bit as the loop goes on."""
    if table.tidy(_TIDY):
        loop.call_soon(_tidy, table, loop)
