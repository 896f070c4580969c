"""EmbeddedStore: a whole store made of a table in files.

Contract
    Reads run on the event loop's own thread; writes on one thread of their own, in groups (``reactstate.kv.writing``),
    each group in one transaction (``reactstate.kv.grouping``). What was acknowledged is as durable as
    ``StoreOptions.durability`` says, and every read that begins afterwards sees it.

    Several processes, and several stores of one process, may use one table. Commits of this store wake its watches at
    once; those of others are found by looking every 5 milliseconds, while somebody watches.

Threads and processes
    A store belongs to the event loop that it was opened on. On another loop or thread, and in a forked child, every
    operation raises WrongContextError and touches nothing.

Closing
    Commits that were begun are completed by ``aclose``; later ones raise ClosedError. A commit whose caller is
    cancelled may still be made.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from asyncio import get_running_loop
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from reactstate.errors import ClosedError, CompactedError, ReadOnlyError, WrongContextError
from reactstate.kv.feeding import TableFeed
from reactstate.kv.grouping import SWEEP, Judge, StoreTime
from reactstate.kv.loading import Load
from reactstate.kv.protocol import Capability
from reactstate.kv.reading import TableView, check_limit, entry_of, scan_entries
from reactstate.kv.store import KeyValueStore
from reactstate.kv.terms import check_commit, check_key, check_value, span, ttl_ms
from reactstate.kv.watching import LogWatch, cursor_at, place_of
from reactstate.kv.writing import WriteThread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from typing import NoReturn

    from reactstate.clock import Clock
    from reactstate.kv.options import StoreOptions, StoreStats
    from reactstate.kv.protocol import Batch, Commit, Cursor, Entry, Limits, RangeExpect, Step, Ttl, Watch
    from reactstate.kv.table import ScanRow, Table

__all__ = ["EmbeddedStore"]

_MANY: Final = 256
"""Keys that are read before the event loop has its turn."""


class EmbeddedStore(KeyValueStore):
    """A store made of a table.

    It must be made on the event loop that is to use it, and owns the table from then on.

    Args:
        table: Where everything is kept.
        url: Where that is, for messages.
        engine: The engine's name.
        options: How it was opened.
        clock: Decides that an entry has expired.
        limits: The largest sizes that the table takes; of a commit at least those of a key and a value together.
    """

    def __init__(
        self, table: Table, *, url: str, engine: str, options: StoreOptions, clock: Clock, limits: Limits
    ) -> None:
        self.engine = engine
        self.url = url
        self.options = options
        self.limits = limits
        self.capabilities: frozenset[Capability] = frozenset(Capability) - (
            frozenset() if options.durability == "always" else {Capability.FENCING}
        )
        self._clock = clock
        self._table = table
        self._loop = get_running_loop()
        self._owner: asyncio.AbstractEventLoop | None = self._loop  # None: closed, or in a forked child
        self._forked = False
        self._time = StoreTime(clock)
        self._stored_ms = 0
        self._stored_token: int | None = None
        self._judge = Judge(self._time, options, limits)
        self._writes = WriteThread(table, self._judge, options, self._loop)
        sweep = None if options.read_only else self._writes.sweep_some_time
        self._feed = TableFeed(table, self._loop, self._writes.waiters, clock, self._check, sweep)
        self._views: weakref.WeakSet[TableView] = weakref.WeakSet()
        self._closing: asyncio.Future[None] | None = None
        self._finalizer = weakref.finalize(self, self._writes.abandon)
        self._finalizer.atexit = False  # its thread has ended by then; what was acknowledged is in the table
        _opened.add(self)

    # --- where it may be used --------------------------------------------------------------------------------------

    def _check(self) -> None:
        try:
            running = get_running_loop()
        except RuntimeError:  # a thread without a loop
            running = None
        if running is not self._owner or running is None:
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self._forked:
            raise WrongContextError(
                f"{self.url} was opened before this process was forked, and belongs to the parent; open it after the "
                "fork, or start the process by 'spawn'"
            )
        if self._owner is None:
            raise ClosedError(f"{self.url} was closed; open it anew")
        raise WrongContextError(
            f"{self.url} belongs to the event loop that it was opened on; open it anew for this one, or hand the work "
            "over with asyncio.run_coroutine_threadsafe"
        )

    def _check_writable(self) -> None:
        self._check()
        if self.options.read_only:
            raise ReadOnlyError(f"{self.url} was opened with read_only=True; open it without to write")

    # --- reading ---------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None when there is none or it has expired."""
        if get_running_loop() is not self._owner:
            self._refuse()
        check_key(key, self.limits)
        stats = self._writes.stats
        stats.get_count += 1
        row = self._table.latest.get(key)
        if row is None or 0 < row[2] <= self._now_ms():
            stats.miss_count += 1
            return None
        stats.hit_count += 1
        return entry_of(key, row, self.limits.max_value_bytes)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that there are, by key, in the order asked for."""
        self._check()
        found: dict[str, Entry] = {}
        for place, key in enumerate(keys, 1):
            entry = await self.get(key)
            if entry is not None:
                found[key] = entry
            if place % _MANY == 0:
                await asyncio.sleep(0)
        return found

    def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        """Iterate over the entries in key order; see ``KeyValueStore.scan``.

        Raises:
            ValueError: *limit* is negative.
            ClosedError: The store was closed, at the call or meanwhile.
        """
        self._check()
        check_limit(limit)

        def read(first: str, last: str | None, rows: int) -> tuple[list[ScanRow], int]:
            self._check()
            return self._table.latest.chunk(first, last, rows, reverse=reverse), self._now_ms()

        return scan_entries(read, span(prefix, start, end), limit, self.limits.max_value_bytes, reverse=reverse)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[TableView]:
        """Return a block in which the store can be read as it was when the block was entered."""
        self._check()
        now_ms = self._now_ms()
        view = TableView(self._table.view(), self._table.id, now_ms, self.limits, self._check)
        self._views.add(view)
        try:
            yield view
        finally:
            if not self._forked:
                view.close()

    def _now_ms(self) -> int:
        """Return the time that reads go by: never before what any process has stored."""
        token = self._table.token()
        if token != self._stored_token:
            self._stored_token = token
            self._stored_ms = self._table.latest.revision()[1]
        return self._time.reading(self._stored_ms)

    # --- writing ---------------------------------------------------------------------------------------------------

    async def commit(self, steps: Sequence[Step], *, ranges: Sequence[RangeExpect] = ()) -> Commit:
        """Check every expectation and then perform every step, or nothing; see ``KeyValueStore.commit``."""
        self._check_writable()
        steps, ranges = tuple(steps), tuple(ranges)
        check_commit(steps, ranges, self.limits)
        future: asyncio.Future[Commit] = self._loop.create_future()
        self._writes.submit((steps, ranges, future))
        return await future

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> Entry:
        """Write *value* under *key*, whatever is there; return the entry."""
        if get_running_loop() is not self._owner or self.options.read_only:
            self._check_writable()
        check_key(key, self.limits)
        check_value(value, self.limits)
        ttl = self.options.default_ttl if ttl is None else ttl
        if ttl is not None:
            ttl_ms(ttl)
        future: asyncio.Future[Entry] = self._loop.create_future()
        self._writes.submit((key, value, ttl, future))
        return await future

    async def cleanup_expired(self) -> int:
        """Remove what has expired, in transactions of up to 10,000 entries; return how many entries that were."""
        removed = 0
        while True:
            self._check_writable()
            group = await self._writes.sweep()
            removed += group.expired
            if group.expired < SWEEP:
                return removed

    async def _load(self, batches: AsyncIterator[Batch], *, revision: int, replace: bool) -> int:
        self._check_writable()
        load = Load(self._table, self._judge, self.limits, revision, replace=replace)
        return await load.feed(batches, self._writes.load(load))

    # --- watching --------------------------------------------------------------------------------------------------

    async def cursor(self) -> Cursor:
        """Return the place in the events that is now: watching from it misses nothing that is committed later."""
        self._check()
        return cursor_at(self._table.id, self._table.latest.revision()[0])

    def watch(self, prefix: str = "", *, after: Cursor | None = None) -> Watch:
        """Iterate over what is committed to keys that start with *prefix*; see ``KeyValueStore.watch``."""
        self._check()
        newest = self._table.latest.revision()[0]
        if after is None:
            return LogWatch(self._feed, prefix, newest)
        here = cursor_at(self._table.id, newest)
        try:
            revision, skip = place_of(self._table.id, after, here)
        except CompactedError as exc:
            return LogWatch(self._feed, prefix, newest, error=exc)
        if revision + (1 if skip else 0) > newest:
            error = CompactedError(
                "the cursor is newer than the store, which was put back to an older state; read what is there, and go "
                "on from `resume`",
                resume=here,
            )
            return LogWatch(self._feed, prefix, newest, error=error)
        return LogWatch(self._feed, prefix, revision, skip)

    # --- housekeeping ----------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """Return what this object counted since it was opened; ``bytes`` are those of the files."""
        return replace(self._writes.stats, bytes=0 if self._owner is None else self._table.size())

    async def flush(self) -> None:
        """Make every commit so far durable, whatever ``durability`` says.

        Raises:
            UnknownOutcomeError: That failed; later writes raise StorageFailedError.
        """
        self._check()
        await self._writes.call(self._writes.flush)

    async def size_on_disk(self) -> int:
        """Return the bytes that the files take."""
        self._check()
        return self._table.size()

    async def memory_usage(self) -> int:
        """Return about how many bytes the store takes in this process."""
        self._check()
        return self._table.memory()

    async def aclose(self) -> None:
        """Complete what was begun, flush, and close the files; scans, views and watches end.

        A second call waits for the first.

        Raises:
            StorageError: What was committed without ``durability="always"`` could not be flushed; the files are
                closed all the same.
        """
        if self._closing is None:
            self._check()
            self._owner = None
            self._finalizer.detach()
            _opened.discard(self)
            if self._cleaner is not None:
                self._cleaner.cancel()
            self._feed.close()
            for view in tuple(self._views):
                view.close()
            self._closing = self._writes.end()
            await asyncio.shield(self._closing)
        elif not self._closing.done():
            if get_running_loop() is not self._loop:
                self._refuse()
            await asyncio.wait((self._closing,))


_opened: weakref.WeakSet[EmbeddedStore] = weakref.WeakSet()
_inherited: list[EmbeddedStore] = []
"""The stores of the parent process; kept in a forked child, so that nothing of them is closed there."""


def _forget_all() -> None:
    for store in tuple(_opened):
        store._owner = None
        store._forked = True
        store._finalizer.detach()
        store._feed.forget()
        _inherited.append(store)
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
