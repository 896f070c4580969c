"""Reading a table as entries: piece by piece, so that neither memory nor the event loop is held for long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from reactstate.errors import ClosedError
from reactstate.kv.grouping import COMPRESSED, value_of
from reactstate.kv.protocol import Batch, Entry, ReadView
from reactstate.kv.terms import check_key, span, to_moment
from reactstate.kv.watching import cursor_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeAlias

    from reactstate.kv.protocol import Cursor, Limits
    from reactstate.kv.table import Reader, Row, ScanRow

__all__ = ["Chunks", "TableView", "check_limit", "entry_of", "scan_entries"]

Chunks: TypeAlias = "Callable[[str, str | None, int], tuple[list[ScanRow], int]]"
"""Reads up to so many rows of a range, and tells the time at which they are judged."""

_FIRST_ROWS: Final = 8
_MOST_ROWS: Final = 1024
_CHUNK_BYTES: Final = 1 << 20


def entry_of(key: str, row: Row, max_bytes: int) -> Entry:
    """Return the entry that *row* is.

    Raises:
        CorruptionError: Its compressed value is damaged.
    """
    value, stamp, deadline = row
    if stamp >= COMPRESSED:
        value = value_of(key, row, max_bytes)
        stamp &= ~COMPRESSED
    return Entry(key, value, stamp, to_moment(deadline) if deadline else None)


async def scan_entries(
    read: Chunks, bounds: tuple[str, str | None], limit: int | None, max_bytes: int, *, reverse: bool
) -> AsyncIterator[Entry]:
    """Iterate over the entries of a range in key order; the event loop has its turn between two pieces."""
    first, last = bounds
    left = -1 if limit is None else limit
    rows = _FIRST_ROWS
    while left:
        asked = min(rows, left) if left > 0 else rows
        chunk, now_ms = read(first, last, asked)
        for key, value, stamp, deadline in chunk:
            if deadline == 0 or deadline > now_ms:
                yield entry_of(key, (value, stamp, deadline), max_bytes)
                left -= 1
                if not left:
                    return
        if len(chunk) < asked:
            return
        rows = _next_rows(rows, chunk)
        if reverse:
            last = chunk[-1][0]
        else:
            first = chunk[-1][0] + "\0"  # the first key after that one
        await asyncio.sleep(0)


def _next_rows(rows: int, chunk: list[ScanRow]) -> int:
    """Return how many rows to read next: twice as many, but not too many bytes if they are as large as these."""
    size = sum(len(row[1]) for row in chunk) // len(chunk) + 1
    return min(rows * 2, _MOST_ROWS, max(1, _CHUNK_BYTES // size))


class TableView(ReadView):
    """A view of one state of a table.

    What had expired when it was taken is not in it; what had not stays.

    Args:
        reader: Reads that state; closed with the view.
        store: The id of the table, for the cursor.
        now_ms: When the view was taken.
        limits: The sizes of keys and values.
        check: Refuses where the store must not be used.
    """

    def __init__(self, reader: Reader, store: str, now_ms: int, limits: Limits, check: Callable[[], None]) -> None:
        self.revision: int
        self.revision, stored_ms = reader.revision()
        self.cursor: Cursor = cursor_at(store, self.revision)
        self._now_ms = max(now_ms, stored_ms)
        self._reader: Reader | None = reader
        self._limits = limits
        self._check_store = check

    def _open(self) -> Reader:
        self._check_store()
        if self._reader is None:
            raise ClosedError("this view has ended with its block; take another snapshot")
        return self._reader

    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None."""
        check_key(key, self._limits)
        row = self._open().get(key)
        if row is None or 0 < row[2] <= self._now_ms:
            return None
        return entry_of(key, row, self._limits.max_value_bytes)

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
        self._open()
        check_limit(limit)

        def read(first: str, last: str | None, rows: int) -> tuple[list[ScanRow], int]:
            return self._open().chunk(first, last, rows, reverse=reverse), self._now_ms

        return scan_entries(read, span(prefix, start, end), limit, self._limits.max_value_bytes, reverse=reverse)

    async def batches(self, size: int = 10_000, *, revisions: bool = True) -> AsyncIterator[Batch]:
        """Iterate over everything in key order, by columns of up to *size* entries."""
        max_bytes = self._limits.max_value_bytes
        first: str | None = ""
        rows = _FIRST_ROWS
        batch = Batch([], [], [], [])
        while first is not None:
            asked = min(rows, size - len(batch.keys))
            chunk = self._open().chunk(first, None, asked)
            first = chunk[-1][0] + "\0" if len(chunk) == asked else None
            for key, value, stamp, deadline in chunk:
                if deadline == 0 or deadline > self._now_ms:
                    batch.keys.append(key)
                    batch.values.append(
                        value if stamp < COMPRESSED else value_of(key, (value, stamp, deadline), max_bytes)
                    )
                    if revisions:
                        batch.revisions.append(stamp & ~COMPRESSED)
                    batch.deadlines.append(deadline)
            if len(batch.keys) == size:
                yield batch
                batch = Batch([], [], [], [])
            if first is not None:
                rows = _next_rows(rows, chunk)
                await asyncio.sleep(0)
        if batch.keys:
            yield batch

    def close(self) -> None:
        """Let the state go; a second call does nothing."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def check_limit(limit: int | None) -> None:
    """Refuse a limit that is negative.

    Raises:
        ValueError: It is.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit is a number of entries, not {limit}")
