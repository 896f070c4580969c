"""The one thread that writes a table, and how the event loop waits for it.

Contract
    Everything that waits when the thread comes round is done in one transaction (group commit), in the order in which
    it was asked for. A waiting caller is answered, and watchers are woken, after the transaction is as durable as
    ``durability`` says: with ``"always"`` it is on disk; with ``"interval"`` the thread flushes every
    ``flush_interval`` seconds, and after ``flush_every`` commits; with ``"never"`` only at the end. When the
    transaction of a group fails, every commit of the group gets the error, and nothing of it was written (or, with
    UnknownOutcomeError, nobody knows).

Caveats
    A caller that is cancelled no longer waits; its commit may still be made.
"""

from __future__ import annotations

import copy
import logging
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from reactstate.errors import ReactStateError, StorageError
from reactstate.kv.grouping import Group
from reactstate.kv.options import StoreStats
from reactstate.kv.watching import Waiters

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from reactstate.kv.grouping import Job, Judge
    from reactstate.kv.loading import Load
    from reactstate.kv.options import StoreOptions
    from reactstate.kv.table import Table, Writer

__all__ = ["Call", "WriteThread"]

T = TypeVar("T")

_MAX_GROUP: Final = 4096
"""The most commits of one transaction."""

_LOGGER = logging.getLogger("reactstate.kv")


class Call(Generic[T]):
    """Something else for the thread to do, between the commits before and after it.

    Args:
        work: What to do.
        future: Who waits for it; None: nobody, and a failure is logged.
    """

    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[], T], future: asyncio.Future[T] | None) -> None:
        self.work: Callable[[], T] = work
        self.future: asyncio.Future[T] | None = future


class _End(Call[None]):
    """The last call."""

    __slots__ = ()


_Item: TypeAlias = "Job | Call[Any]"


class WriteThread:
    """Writes *table* on a thread of its own, from construction until ``end``.

    It knows the store only by what both share, so that a store which nobody holds any more can be collected.

    Args:
        table: What is written; closed by the thread at the end.
        judge: Judges commits.
        options: Say how durable an answered commit is.
        loop: Where callers wait.

    Attributes:
        stats: What was counted; changed on the loop only.
        waiters: Who waits for commits; woken on the loop.
    """

    def __init__(self, table: Table, judge: Judge, options: StoreOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.stats: StoreStats = StoreStats()
        self.waiters: Waiters = Waiters()
        self._table = table
        self._judge = judge
        self._loop = loop
        self._sync = options.durability == "always"
        self._interval = options.flush_interval if options.durability == "interval" else None
        self._flush_every = options.flush_every
        self._unflushed = 0
        self._flush_at: float | None = None
        self._pending: deque[_Item] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._idle = False
        self._thread = threading.Thread(target=self._run, name="reactstate-store", daemon=True)
        self._thread.start()

    # --- called on the loop ----------------------------------------------------------------------------------------

    def submit(self, item: _Item) -> None:
        """Have *item* done after everything submitted before."""
        self._pending.append(item)
        if self._idle:
            self._idle = False
            self._wake.put(None)

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have *work* done on the thread; return a future of its result."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.submit(Call(work, future))
        return future

    def sweep(self) -> asyncio.Future[Group]:
        """Have one piece of what has expired removed; return a future of what that was."""
        return self.call(self._sweep)

    def sweep_some_time(self) -> None:
        """Have it removed without waiting for it; a failure is logged."""
        self.submit(Call(self._sweep, None))

    def load(self, load: Load) -> asyncio.Future[int]:
        """Have *load* run; return a future of the number of entries."""
        return self.call(lambda: self._load(load))

    def end(self) -> asyncio.Future[None]:
        """Do what was submitted, flush, close the table, and end the thread; return a future of that."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.submit(_End(self._close, future))
        return future

    def abandon(self) -> None:
        """Do the same when nobody can wait for it."""
        self.submit(_End(self._close, None))

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            item = self._next()
            if item is None:
                self._flush_in_time()
            elif isinstance(item, tuple):
                self._commit(self._group(item))
            else:
                self._perform(item)
                if isinstance(item, _End):
                    return

    def _next(self) -> _Item | None:
        """Wait for something to do; None: it is time to flush."""
        pending = self._pending
        while not pending:
            patience = None if self._flush_at is None else self._flush_at - time.monotonic()
            if patience is not None and patience <= 0:
                return None
            self._idle = True
            if pending:  # it came between the look and the sign, and did not see the sign
                break
            try:
                self._wake.get(timeout=patience)
            except queue.Empty:
                return None
        self._idle = False
        if self._flush_at is not None and self._flush_at <= time.monotonic():
            return None
        return pending.popleft()

    def _group(self, first: Job) -> list[Job]:
        """Return *first* and the commits that wait right behind it."""
        jobs = [first]
        pending = self._pending
        while pending and len(jobs) < _MAX_GROUP:
            item = pending[0]
            if not isinstance(item, tuple):
                break
            jobs.append(item)
            pending.popleft()
        return jobs

    def _commit(self, jobs: list[Job]) -> None:
        judge = self._judge

        def work(writer: Writer) -> Group:
            return judge.judge(jobs, writer)

        try:
            group = self._table.write(work, sync=self._sync)
        except Exception as exc:
            self._post(self._refuse, jobs, _typed(exc))
            return
        self._post(self._deliver, jobs, group)
        if group.changed:
            self._wrote(len(jobs))

    def _sweep(self) -> Group:
        group = self._table.write(self._judge.sweep, sync=self._sync)
        if group.changed:
            self._wrote(1)
        return group

    def _load(self, load: Load) -> int:
        count = load.run(sync=self._sync)
        self._wrote(1)
        return count

    def _wrote(self, commits: int) -> None:
        """Note that *commits* were made and not flushed, and flush if they are too many."""
        if self._interval is None:
            return
        self._unflushed += commits
        if self._flush_at is None:
            self._flush_at = time.monotonic() + self._interval
        if self._flush_every is not None and self._unflushed >= self._flush_every:
            self._flush_in_time()

    def _flush_in_time(self) -> None:
        try:
            self.flush()
        except Exception as exc:
            _LOGGER.exception("a flush failed: the newest commits may not survive a power cut", exc_info=exc)

    def flush(self) -> None:
        """Bring every commit to disk, on the thread."""
        self._flush_at = None
        self._unflushed = 0
        self._table.flush()

    def _perform(self, call: Call[Any]) -> None:
        try:
            result = call.work()
        except Exception as exc:
            if call.future is not None:
                self._post(_fail, call.future, _typed(exc))
            else:
                _LOGGER.warning("the store could not finish what it does by itself: %s", exc)
            return
        self._post(self._answer, call, result)

    def _close(self) -> None:
        try:
            if not self._sync:
                self._table.flush()
        finally:
            self._table.close()

    def _post(self, what: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # the loop is closed, and with it everybody who waited
            return

    # --- back on the loop ------------------------------------------------------------------------------------------

    def _count(self, group: Group) -> None:
        stats = self.stats
        stats.put_count += group.puts
        stats.delete_count += group.deletes
        stats.expired_count += group.expired
        stats.conflict_count += group.conflicts
        if group.changed:
            self.waiters.wake()

    def _deliver(self, jobs: list[Job], group: Group) -> None:
        for job, outcome in zip(jobs, group.outcomes, strict=True):
            future: asyncio.Future[Any] = job[-1]
            if not future.done():
                if isinstance(outcome, ReactStateError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._count(group)

    def _refuse(self, jobs: list[Job], error: ReactStateError) -> None:
        for job in jobs:
            # one error for each of them: a raised error belongs to the task that handles it
            _fail(job[-1], _another(error))

    def _answer(self, call: Call[Any], result: Any) -> None:
        if call.future is not None and not call.future.done():
            call.future.set_result(result)
        if isinstance(result, Group):
            self._count(result)
        else:
            self.waiters.wake()


def _fail(future: asyncio.Future[Any], error: ReactStateError) -> None:
    if not future.done():
        future.set_exception(error)


def _typed(error: Exception) -> ReactStateError:
    if isinstance(error, ReactStateError):
        return error
    typed = StorageError(f"the transaction failed, and nothing was written: {error!r}")
    typed.__cause__ = error
    return typed


def _another(error: ReactStateError) -> ReactStateError:
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other
