"""The one thread that writes a journal, and how the event loop waits for it.

Contract
    Batches are written in the order of ``submit``. All batches that wait when the thread comes round go into one frame
    and one fsync (group commit); each awaitable is done when its records are as durable as ``durability`` says. A
    batch is all or nothing. When one fails, the batches that waited behind it fail too, because their records build on
    versions that are not there.

Waiting
    Going to another thread and back through the event loop costs as much as a fast disk. So ``submit`` may hold the
    loop for at most 0.3 ms, and only while nothing else is under way and the flushes before were faster than that:
    then it returns an awaitable that is done already. A disk that stalls costs the loop one such wait, after which
    everything completes by ``call_soon_threadsafe`` until the disk is fast again.

Followers
    A flush is published to followers before its waiter is released, so that a reader which looks after a change was
    acknowledged sees it. Whatever ``sync`` and ``close`` cover is published when they are done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from reactstate.errors import ReactStateError, StorageError
from reactstate.persistence.journal import Turn

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Awaitable, Callable, Generator

    from reactstate.persistence.journal import Journal
    from reactstate.persistence.protocol import SchemaTag

__all__ = ["PATIENCE_S", "Batch", "Flusher", "done"]

PATIENCE_S = 0.0003
"""The longest time for which the event loop is held, in seconds."""

_MAX_GROUP_BYTES = 1 << 22
_LOGGER = logging.getLogger("reactstate.persistence")


class _Done:
    """An awaitable that is done."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, Any, None]:
        if self._error is not None:
            raise self._error
        yield from ()


_DONE = _Done(None)


def done() -> Awaitable[None]:
    """Return an awaitable that is done."""
    return _DONE


class Batch:
    """The records of one append, encoded: *count* of them from version *first* on."""

    __slots__ = ("count", "done", "error", "first", "future", "parts", "schema", "signal")

    def __init__(self, first: int, count: int, parts: bytes, schema: SchemaTag) -> None:
        self.first: int = first
        self.count: int = count
        self.parts: bytes = parts
        self.schema: SchemaTag = schema
        self.done: bool = False
        self.error: BaseException | None = None
        self.future: asyncio.Future[None] | None = None
        self.signal: LockType | None = None


class _Order:
    """Something else for the thread to do, between the batches before and after it."""

    __slots__ = ("done", "error", "future", "signal", "turn")

    def __init__(self, turn: Turn | None) -> None:
        self.turn = turn
        self.future: asyncio.Future[None] | None = None
        self.done = False
        self.error: BaseException | None = None
        self.signal: LockType | None = None


class _End(_Order):
    """The last order; without a future nobody waits, and nothing more is written."""

    __slots__ = ()


class Flusher:
    """Owns *journal* and its thread from ``start`` to ``close``.

    Args:
        journal: What is written; no other thread calls its methods meanwhile.
        durability: ``"always"`` syncs before a batch is done; otherwise ``sync`` must be called for that.
        loop: Where awaitables are completed.
        on_end: Called by the thread once it writes nothing any more: the place to release a lock.
    """

    __slots__ = (
        "__weakref__",
        "_always",
        "_finished",
        "_jobs",
        "_journal",
        "_loop",
        "_mutex",
        "_on_end",
        "_pulse_s",
        "_submitted",
        "_thread",
    )

    def __init__(
        self, journal: Journal, durability: str, loop: asyncio.AbstractEventLoop, on_end: Callable[[], object]
    ) -> None:
        self._journal = journal
        self._always = durability == "always"
        self._loop = loop
        self._on_end = on_end
        self._jobs: queue.SimpleQueue[Batch | _Order] = queue.SimpleQueue()
        # Each is written by one thread only: what was handed over, and what is done of it.
        self._submitted = 0
        self._finished = 0
        self._mutex = allocate_lock()
        self._pulse_s = 0.0
        self._thread = threading.Thread(target=self._run, name="reactstate-flusher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    # --- the event loop's side ----------------------------------------------------------------------------------

    def submit(self, batch: Batch) -> Awaitable[None]:
        """Hand *batch* over; the awaitable is done when it is written and, with ``"always"``, durable."""
        idle = self._submitted == self._finished
        self._submitted += 1
        if not idle or self._pulse_s > PATIENCE_S:
            batch.future = self._loop.create_future()
            self._jobs.put(batch)
            return batch.future
        # One lock a batch: were it shared, a wait that an exception ends would leave a signal for the next one.
        signal = batch.signal = allocate_lock()
        signal.acquire()
        self._jobs.put(batch)
        if not signal.acquire(timeout=PATIENCE_S):
            with self._mutex:
                if not batch.done:
                    batch.future = self._loop.create_future()
                    return batch.future
        return _DONE if batch.error is None else _Done(batch.error)

    async def sync(self) -> None:
        """Return when everything submitted so far is durable.

        Raises:
            UnknownOutcomeError: The sync failed.
            StorageFailedError: An earlier one did.
        """
        await self._order(_Order(None))

    async def turn(self, turn: Turn) -> None:
        """Return when what is submitted from now on goes to a new segment; see ``Journal.turn``."""
        await self._order(_Order(turn))

    async def close(self) -> None:
        """Write what was submitted, sync, close the journal and end the thread.

        Raises:
            UnknownOutcomeError: The last sync failed.
        """
        await self._order(_End(None))

    def abandon(self) -> None:
        """End the thread without another write, for a persistence that nobody holds any more."""
        self._jobs.put(_End(None))

    async def _order(self, order: _Order) -> None:
        future = order.future = self._loop.create_future()
        self._submitted += 1
        self._jobs.put(order)
        # The order is carried out whether or not its caller stays to see it; what failed then fails what comes later.
        future.add_done_callback(_look_at)
        await asyncio.shield(future)

    # --- the thread's side --------------------------------------------------------------------------------------

    def _run(self) -> None:
        waiting: Batch | _Order | None = None
        while True:
            job = waiting if waiting is not None else self._jobs.get()
            waiting = None
            if isinstance(job, Batch):
                group = [job]
                size = len(job.parts)
                with contextlib.suppress(queue.Empty):
                    while size < _MAX_GROUP_BYTES:
                        waiting = self._jobs.get_nowait()
                        if not isinstance(waiting, Batch):
                            break
                        group.append(waiting)
                        size += len(waiting.parts)
                        waiting = None
                self._flush(group)
            else:
                self._obey(job)
                if isinstance(job, _End):
                    return

    def _flush(self, group: list[Batch]) -> None:
        started = time.perf_counter()
        good, stale = self._in_sequence(group)
        error: BaseException | None = None
        if good:
            try:
                self._write(good)
            except ReactStateError as exc:
                error = exc
            except Exception as exc:
                error = StorageError(f"the journal could not be written: {exc!r}", path=self._journal.path)
                error.__cause__ = exc
        for batch in stale:
            batch.error = StorageError(
                f"the journal ends at version {self._journal.last_version} and the records begin at {batch.first}, "
                "because an append before them failed; nothing was kept, append from the version that follows",
                path=self._journal.path,
            )
        if error is None and good and (self._always or self._journal.publish_written):
            self._journal.publish()
        taken = time.perf_counter() - started
        self._finish(good, error)
        self._pulse_s += (taken - self._pulse_s) / 4
        if stale:
            self._finish(stale, None)

    def _in_sequence(self, group: list[Batch]) -> tuple[list[Batch], list[Batch]]:
        """Split off the batches that do not follow what is written."""
        expected = self._journal.last_version + 1
        good: list[Batch] = []
        stale: list[Batch] = []
        for batch in group:
            if batch.first == expected and not stale:
                good.append(batch)
                expected += batch.count
            else:
                stale.append(batch)
        return good, stale

    def _write(self, group: list[Batch]) -> None:
        journal = self._journal
        journal.check()
        if journal.serial == 0:
            journal.turn(Turn(group[0].schema, 0, 0, anew=True))
        payload = group[0].parts if len(group) == 1 else b"".join([batch.parts for batch in group])
        journal.write(group[0].first, sum([batch.count for batch in group]), payload)
        if self._always:
            journal.sync()

    def _obey(self, order: _Order) -> None:
        error: BaseException | None = None
        try:
            if isinstance(order, _End):
                self._end(order)
            elif order.turn is not None:
                self._journal.turn(order.turn)
            else:
                self._journal.sync()
                self._journal.publish()
        except ReactStateError as exc:
            error = exc
        except Exception as exc:
            error = StorageError(f"the journal could not be written: {exc!r}", path=self._journal.path)
            error.__cause__ = exc
        self._finish([order], error)

    def _end(self, order: _Order) -> None:
        try:
            if order.future is None:
                self._journal.abandon()
            else:
                self._journal.close()
        finally:
            self._on_end()

    def _finish(self, jobs: list[Any], error: BaseException | None) -> None:
        """Let the event loop know; it looks under the mutex whether a job is done before it waits for longer."""
        later: list[Batch | _Order] = []
        with self._mutex:
            self._finished += len(jobs)
            for index, job in enumerate(jobs):
                if error is not None:
                    job.error = error if index == 0 else _twin(error)
                job.done = True
                if job.future is not None:
                    later.append(job)
                elif job.signal is not None:
                    job.signal.release()
        if later:
            # The loop is closed when its program ended without closing the persistence; nobody waits then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_resolve, later)


def _resolve(jobs: list[Batch | _Order]) -> None:
    for job in jobs:
        future = job.future
        if future is not None and not future.done():
            if job.error is None:
                future.set_result(None)
            else:
                future.set_exception(job.error)


def _look_at(future: asyncio.Future[None]) -> None:
    """Keep asyncio from reporting an error that its caller did not stay for."""
    if not future.cancelled():
        future.exception()


def _twin(error: BaseException) -> BaseException:
    """Return an equal error, so that two callers do not write their tracebacks into one."""
    if isinstance(error, StorageError):
        twin: BaseException = type(error)(str(error), path=error.path)
    else:
        twin = type(error)(str(error))
    twin.__cause__ = error.__cause__
    return twin
