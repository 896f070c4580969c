"""One reader of a broadcast: a cursor into its ring, read by ``async for`` or by threads.

Guarantees
    Each item that was published since ``subscribe`` is delivered once, in order, or is counted in the ``missed`` of a
    ``LaggedError``, or is covered by a resync. A backlog comes first, and passes into the live items without a gap
    or a duplicate. A call that is cancelled or times out takes nothing: the next one returns the item. An item goes to
    exactly one of several tasks or threads that read one subscription.

Caveats
    With a backlog, ``missed`` counts versions, and is exact when versions have no gaps. If reading the backlog fails,
    the error is raised once and the subscription is closed, since what would follow has a gap.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from reactstate.errors import ClosedError, LaggedError, WrongContextError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import TracebackType
    from typing import Self, TypeAlias

    from reactstate.state.broadcast import Broadcast

    Waiter: TypeAlias = asyncio.Future[None] | threading.Lock

__all__ = ["Subscription"]

T = TypeVar("T")

# How many items of a backlog are read ahead at a time: one task switch for all of them.
_READ_AHEAD: Final = 256


class _Outcome:
    """Why there is no item.

    An Enum would be the plainer form, but to look up one of its members costs as much as to read an item.
    """

    __slots__ = ()


_NOTHING: Final = _Outcome()
_ENDED: Final = _Outcome()
_BEHIND: Final = _Outcome()
_READING: Final = _Outcome()


class Subscription(Generic[T]):
    """A subscription to a broadcast, made by its ``subscribe``.

    It is an async iterator and a context manager, plain and async. ``async for`` may be left and taken up again, also
    after a ``LaggedError``. Threads without an event loop use ``next`` and ``get_nowait``.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_broadcast",
        "_buffer",
        "_closed",
        "_covered",
        "_cursor",
        "_older",
        "_plain",
        "_reading",
        "_resync",
        "_version",
        "_waiters",
    )

    def __init__(
        self,
        broadcast: Broadcast[T],
        *,
        buffer: int,
        resync: Callable[[int], T | None] | None,
        backlog: Iterable[T] | AsyncIterable[T],
        since: int,
    ) -> None:
        self._broadcast = broadcast
        self._buffer = buffer
        self._resync = resync
        self._cursor = 0
        # Whether only live items are left to read, none of which was delivered in another form.
        self._plain = False
        self._version = since
        # Live items up to this version were delivered already, by the backlog or a resync.
        self._covered: int | None = None
        self._closed = False
        self._waiters: dict[Waiter, None] = {}
        self._reading: asyncio.Task[None] | None = None
        self._backlog: AsyncIterator[T] | None = None
        self._older: deque[tuple[int, T]] = deque()
        if isinstance(backlog, AsyncIterable):
            self._backlog = aiter(backlog)
        else:
            version_of = broadcast._version_of
            self._older.extend((version_of(item), item) for item in backlog)

    def _start(self, position: int) -> None:
        """Begin with the live items from *position* on; called under the broadcast's lock."""
        self._cursor = position

    @property
    def closed(self) -> bool:
        """Whether this subscription was closed; at the end of its broadcast it is not until it was read to the end."""
        return self._closed

    @property
    def pending(self) -> int:
        """How many items are unread and still kept, the backlog included as far as it was read."""
        with self._broadcast._lock:
            if self._closed:
                return 0
            return len(self._older) + min(self._broadcast._next - self._cursor, self._buffer)

    @property
    def version(self) -> int:
        """The version of the newest item delivered, or the one that the subscription started from."""
        return self._version

    # --- reading on an event loop -------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item, waiting for it if there is none.

        Raises:
            LaggedError: Items were lost because they were not read in time; the next call goes on with the oldest kept.
            StopAsyncIteration: The subscription was closed, or its broadcast was and everything is read.
        """
        broadcast = self._broadcast
        while True:
            # This look without the lock saves time only: what it misses, registering finds.
            if broadcast._next != self._cursor or not self._plain or broadcast._closed:
                item = self._take()
                if item is _BEHIND:
                    item = self._catch_up()
                if not isinstance(item, _Outcome):
                    return item
                if item is _ENDED:
                    raise StopAsyncIteration
                if item is _READING:
                    await self._read_backlog()
                    continue
            waiter = asyncio.get_running_loop().create_future()
            if self._register(waiter):
                try:
                    await waiter
                except BaseException:
                    self._unregister(waiter)
                    raise

    async def _read_backlog(self) -> None:
        """Read the next part of the backlog.

        An async generator that is cancelled is finished, and its rest would be lost. So a task of its own reads it,
        which the cancellation of a reader does not reach.
        """
        reading = self._reading
        if reading is None:
            reading = self._reading = asyncio.ensure_future(self._read_ahead())
            # The error is for a reader, if there is one left; that there is none is no error.
            reading.add_done_callback(_look_at)
        elif reading.get_loop() is not asyncio.get_running_loop():
            raise WrongContextError("another event loop is reading the backlog of this subscription; read it there")
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
        except BaseException:
            # What was read before the error comes first; then this is asked again.
            if not self._older and not self._closed:
                self.close()
                raise
        else:
            if self._reading is reading:
                self._reading = None

    async def _read_ahead(self) -> None:
        backlog = self._backlog
        if backlog is None:
            return
        version_of = self._broadcast._version_of
        for _ in range(_READ_AHEAD):
            try:
                item = await anext(backlog)
            except StopAsyncIteration:
                self._backlog = None
                return
            self._older.append((version_of(item), item))

    # --- reading in a thread ------------------------------------------------------------------------------------

    def next(self, timeout: float | None = None) -> T:
        """Return the next item, blocking the thread until there is one; not for use on an event loop.

        Args:
            timeout: How many seconds to wait at most; None waits for ever.

        Raises:
            TypeError: *timeout* is no number of seconds.
            ValueError: *timeout* is NaN.
            TimeoutError: Nothing came in time.
            LaggedError: Items were lost because they were not read in time; the next call goes on with the oldest kept.
            ClosedError: The subscription was closed, or its broadcast was and everything is read.
            WrongContextError: The backlog is an async iterator, which only an event loop can read.
        """
        seconds = None if timeout is None else _seconds(timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        expired = False
        while True:
            item = self._take()
            if item is _NOTHING:
                if expired:
                    raise TimeoutError(f"nothing was published within {seconds} seconds; the subscription goes on")
                expired = not self._block(deadline)
            else:
                item = self._settle(item)
                if not isinstance(item, _Outcome):
                    return item

    def get_nowait(self) -> T | None:
        """Return the next item, or None when nothing is unread.

        Raises:
            LaggedError: Items were lost because they were not read in time; the next call goes on with the oldest kept.
            ClosedError: The subscription was closed, or its broadcast was and everything is read.
            WrongContextError: The backlog is an async iterator, which only an event loop can read.
        """
        while True:
            item = self._take()
            if item is _NOTHING:
                return None
            item = self._settle(item)
            if not isinstance(item, _Outcome):
                return item

    def _settle(self, item: T | _Outcome) -> T | _Outcome:
        """Do without waiting what *item* asks for."""
        if item is _BEHIND:
            return self._catch_up()
        if item is _READING:
            raise WrongContextError("the backlog of this subscription is read on an event loop; use 'async for'")
        if item is _ENDED:
            raise ClosedError("the subscription has ended; nothing more will come")
        return item

    def _block(self, deadline: float | None) -> bool:
        """Return True when there may be something to read, False at the deadline."""
        waiter = threading.Lock()
        waiter.acquire()
        if not self._register(waiter):
            return True
        try:
            if deadline is None:
                return waiter.acquire()
            remaining = min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
            return waiter.acquire(timeout=remaining)
        finally:
            self._unregister(waiter)

    # --- the cursor ---------------------------------------------------------------------------------------------

    def _take(self) -> T | _Outcome:
        """Return the next item and move past it, or say why there is none."""
        broadcast = self._broadcast
        with broadcast._lock:
            if not self._plain:
                if self._closed:
                    return _ENDED
                if self._older:
                    self._version, item = self._older.popleft()
                    self._covered = self._version
                    return item
                if self._backlog is not None or self._reading is not None:
                    return _READING
                if self._covered is not None:
                    self._skip_covered(self._covered)
                self._plain = self._covered is None
            unread = broadcast._next - self._cursor
            if not unread:
                return _ENDED if broadcast._closed else _NOTHING
            if unread > self._buffer:
                return _BEHIND
            self._version, item = broadcast._ring[-unread]
            self._cursor += 1
            return item

    def _skip_covered(self, covered: int) -> None:
        """Move past the kept items up to the version *covered*; called under the lock.

        When it ends on an item that is newer, nothing later can be covered, and the question is settled.
        """
        broadcast = self._broadcast
        unread = broadcast._next - self._cursor
        kept = min(unread, self._buffer)
        newer = 0
        while newer < kept and broadcast._ring[-newer - 1][0] > covered:
            newer += 1
        if newer < kept:
            self._cursor = broadcast._next - newer
        elif unread > kept:
            # Some were lost, of which the backlog has brought those up to *covered*.
            lost = broadcast._ring[-kept][0] - covered - 1
            self._cursor = max(self._cursor, broadcast._next - kept - max(lost, 0))
        if newer:
            self._covered = None

    def _catch_up(self) -> T | _Outcome:
        """Return the item that carries the subscriber to the current state, or raise LaggedError.

        NOTHING means that another reader has caught up meanwhile.
        """
        broadcast = self._broadcast
        cursor = self._cursor
        item = None if self._resync is None else self._resync(self._version)
        version = None if item is None else broadcast._version_of(item)
        with broadcast._lock:
            missed = broadcast._next - self._cursor - self._buffer
            if self._closed or missed <= 0 or self._cursor != cursor:
                return _NOTHING
            if item is None or version is None or version <= self._version:
                self._cursor += missed
                raise LaggedError(missed)
            self._version = self._covered = version
            self._plain = False
            self._skip_covered(version)
            return item

    def _register(self, waiter: Waiter) -> bool:
        """Have *waiter* woken by the next item, unless there is something to read already."""
        broadcast = self._broadcast
        with broadcast._lock:
            if self._closed or broadcast._closed or broadcast._next != self._cursor:
                return False
            self._waiters[waiter] = None
            broadcast._waiting[self] = None
            return True

    def _unregister(self, waiter: Waiter) -> None:
        """Take *waiter* back, if nobody has woken it."""
        broadcast = self._broadcast
        with broadcast._lock:
            self._waiters.pop(waiter, None)
            if not self._waiters:
                broadcast._waiting.pop(self, None)

    # --- ending -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the subscription: who waits on it gets the end, what is unread is dropped; a second call does nothing."""
        with self._broadcast._lock:
            if self._closed:
                return
            self._closed = True
            self._plain = False
            self._older.clear()
        self._broadcast._leave(self)
        reading = self._reading
        if reading is not None and not reading.done():
            try:
                reading.get_loop().call_soon_threadsafe(reading.cancel)
            except RuntimeError:
                # Its event loop was closed, and with it whoever reads.
                return

    async def aclose(self) -> None:
        """Close, and wait until the backlog has let go of what it reads from."""
        self.close()
        if self._reading is not None:
            await asyncio.wait([self._reading])
        aclose = getattr(self._backlog, "aclose", None)
        self._backlog = None
        if aclose is not None:
            await aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _seconds(timeout: object) -> float:
    """Return *timeout* as what a lock can wait."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout is a number of seconds or None, not a {type(timeout).__name__}")
    seconds = min(max(timeout, 0), threading.TIMEOUT_MAX)
    if math.isnan(seconds):
        raise ValueError("timeout must not be NaN; None waits for ever")
    return seconds


def _look_at(reading: asyncio.Task[None]) -> None:
    """Look at the error of a task that may have no reader left, so that asyncio does not report it as overlooked."""
    if not reading.cancelled():
        reading.exception()
