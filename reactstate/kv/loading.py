"""Putting batches of entries into a table in one transaction, while they are still being read.

Contract
    All or nothing: when the batches end in an error, or whoever waits is cancelled before their end, the table stays
    as it was. The entries get one revision, above the checkpoint's and every one that the table has issued, and the
    change log begins anew there, so that cursors from before become too old.
"""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING, Final

from reactstate.errors import ConflictError
from reactstate.kv.changelog import encode_changes
from reactstate.kv.terms import check_key, check_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from reactstate.kv.grouping import Judge
    from reactstate.kv.protocol import Batch, Limits
    from reactstate.kv.table import ScanRow, Table, Writer

__all__ = ["Load"]

_AHEAD: Final = 2
_CHECK_ROWS: Final = 256
_ALL: Final = 1 << 62
_MOST_BYTES_A_SIGN: Final = 4


class _Stopped(Exception):  # noqa: N818 - nobody sees it
    """Rolls the transaction back, because the batches ended early."""


class Load:
    """One load: ``feed`` takes batches in on the event loop, ``run`` writes them on another thread.

    Args:
        table: Where they are put.
        judge: Knows the time, and whether values are compressed.
        limits: The largest sizes that the table takes.
        revision: The checkpoint's revision.
        replace: Whether what is there is removed; else it is a conflict.
    """

    def __init__(self, table: Table, judge: Judge, limits: Limits, revision: int, *, replace: bool) -> None:
        self._table = table
        self._judge = judge
        self._limits = limits
        self._revision = revision
        self._replace = replace
        self._slots = asyncio.Semaphore(_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._handed: queue.SimpleQueue[Batch | _Stopped | None] = queue.SimpleQueue()
        self._kept: list[Batch] = []
        self._ended = False

    async def feed(self, batches: AsyncIterator[Batch], done: asyncio.Future[int]) -> int:
        """Hand all *batches* to ``run``, whose result *done* is to become, and return that."""
        done.add_done_callback(self._finished)
        try:
            async for batch in batches:
                await self._slots.acquire()
                if done.done():
                    break
                self._handed.put(batch)
        except BaseException:
            self._handed.put(_Stopped())
            raise
        self._handed.put(None)
        return await done

    def _finished(self, done: asyncio.Future[int]) -> None:
        self._slots.release()
        if not done.cancelled():
            done.exception()  # it is retrieved, even if whoever fed was cancelled

    def run(self, *, sync: bool) -> int:
        """Write everything that is fed, in one transaction; return the number of entries."""
        return self._table.write(self._work, sync=sync)

    def _work(self, writer: Writer) -> int:
        newest, stored_ms = writer.revision()
        now_ms = self._judge.time.writing(stored_ms)
        if not self._replace:
            _check_empty(writer, now_ms)
        revision = max(newest, self._revision) + 1
        writer.clear()
        count = 0
        for batch in self._batches():
            writer.load(self._rows(batch, revision))
            count += len(batch.keys)
        writer.append_log((revision, now_ms, encode_changes(revision, (), b"", ())))
        writer.trim_log(_ALL)
        writer.advance(revision, now_ms)
        return count

    def _batches(self) -> Iterator[Batch]:
        yield from self._kept  # those of a run that has to be made again
        while not self._ended:
            batch = self._handed.get()
            if isinstance(batch, _Stopped):
                raise batch
            if batch is None:
                self._ended = True
                return
            if self._table.repeats:
                self._kept.append(batch)
            self._loop.call_soon_threadsafe(self._slots.release)
            yield batch

    def _rows(self, batch: Batch, revision: int) -> list[ScanRow]:
        limits = self._limits
        if batch.keys and max(map(len, batch.keys)) * _MOST_BYTES_A_SIGN > limits.max_key_bytes:
            for key in batch.keys:
                check_key(key, limits)
        if batch.values and max(map(len, batch.values)) > limits.max_value_bytes:
            for value in batch.values:
                check_value(value, limits)
        if self._judge.compresses:
            stored = self._judge.stored
            return [
                (key, *stored(value, revision), deadline)
                for key, value, deadline in zip(batch.keys, batch.values, batch.deadlines, strict=True)
            ]
        return [
            (key, value, revision, deadline)
            for key, value, deadline in zip(batch.keys, batch.values, batch.deadlines, strict=True)
        ]


def _check_empty(writer: Writer, now_ms: int) -> None:
    first: str | None = ""
    while first is not None:
        chunk = writer.chunk(first, None, _CHECK_ROWS)
        first = chunk[-1][0] + "\0" if len(chunk) == _CHECK_ROWS else None
        for key, _, _, deadline in chunk:
            if deadline == 0 or deadline > now_ms:
                raise ConflictError(
                    f"the store is not empty: it holds {key!r}; pass replace=True to remove what it holds",
                    keys=(key,),
                )
