"""One ring of items for many subscribers, each of which reads it at its own speed.

Usage
    ``publish(item, version)`` adds an item; ``subscribe()`` returns a ``Subscription`` that receives every item
    published from then on, in order, once. Publishing costs O(1 + subscribers that are waiting), however many are
    subscribed; with none it costs next to nothing and keeps nothing.

Lagging
    The ring holds the newest ``capacity`` items, or as many as the largest ``buffer`` asked for, exactly. A
    subscription whose unread items are more than its buffer loses the oldest of them: it is told how many
    (``LaggedError``), or is carried to the current state in one item (``on_lag="resync"``), and stays subscribed. The
    publisher never waits and never hears of it.

Closing
    After ``Broadcast.close()`` each subscription still delivers what it has not read, then ends. ``close`` of a
    subscription ends that one at once. A subscription that is dropped without being closed is forgotten: the
    broadcast refers to it weakly unless somebody waits on it.

Thread safety
    ``publish`` may be called from any thread by one caller at a time: whoever orders the versions holds a lock
    anyway. Everything else may be called from any thread at any time, and a subscription may be read by tasks of
    several event loops and by threads together; each item goes to exactly one of them.

    No wake-up is lost: a subscriber finds nothing unread and registers itself as waiting within one critical section,
    and a publisher adds its item and takes the waiting ones within one critical section of the same lock. Whichever
    comes second sees what the first has done: the subscriber the item, or the publisher the subscriber. Waking
    happens after the lock is given back, by ``call_soon_threadsafe`` when the subscriber waits on another event loop.
    A woken subscriber is no longer registered, so that a burst wakes it once. No foreign code runs under the lock.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from reactstate.errors import ClosedError
from reactstate.state.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable

    from reactstate.state.subscription import Waiter

__all__ = ["Broadcast"]

T = TypeVar("T")


class Broadcast(Generic[T]):
    """A ring of the newest items, and the subscriptions that read it.

    Args:
        capacity: How many unread items each subscription may have before it lags, unless it asks for another buffer.
        version_of: Tells the version of an item of a backlog or resync; its attribute ``version`` by default.

    Raises:
        TypeError: *capacity* is no int.
        ValueError: *capacity* is below 1, or more than a sequence can hold.
    """

    __slots__ = ("__weakref__", "_closed", "_live", "_lock", "_next", "_ring", "_version_of", "_waiting", "capacity")

    def __init__(self, capacity: int = 1000, *, version_of: Callable[[T], int] = attrgetter("version")) -> None:
        _check_size("capacity", capacity)
        self.capacity: int = capacity
        self._version_of = version_of
        self._lock = threading.Lock()
        self._ring: deque[tuple[int, T]] = deque(maxlen=capacity)
        # How many items were published while somebody was subscribed: the position of the next one.
        self._next = 0
        self._live: dict[weakref.ref[Subscription[T]], int] = {}
        # Those with waiters, in the order in which they came to wait.
        self._waiting: dict[Subscription[T], None] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def subscribers(self) -> int:
        """How many subscriptions are live."""
        return len(self._live)

    def publish(self, item: T, version: int) -> None:
        """Add *item*, which made *version*, and wake those who wait; after ``close`` nothing happens.

        Calls must not overlap. It never blocks on a subscriber and raises nothing because of one.
        """
        if not self._live:
            if self._ring:
                self._trim()
            return
        with self._lock:
            if self._closed:
                return
            self._ring.append((version, item))
            self._next += 1
            if not self._waiting:
                return
            waiters = self._take_waiters()
        _wake(waiters)

    def subscribe(
        self,
        *,
        buffer: int | None = None,
        on_lag: Literal["raise", "resync"] = "raise",
        resync: Callable[[int], T | None] | None = None,
        backlog: Iterable[T] | AsyncIterable[T] = (),
        since: int = 0,
    ) -> Subscription[T]:
        """Return a subscription to everything that is published from now on.

        Args:
            buffer: How many unread items it may have before it lags; ``capacity`` by default.
            on_lag: ``"raise"`` says how many items were lost; ``"resync"`` delivers one item of *resync* instead.
            resync: Called with the version of the newest item delivered; returns the item that carries the subscriber
                from there to the current state, in place of everything that it covers. When it returns None or
                nothing newer, the subscriber gets ``LaggedError`` after all.
            backlog: Older items, by rising version, which are delivered first. It may overlap with the live ones: what
                it has delivered is not delivered again. Meanwhile the live ones count against the buffer.
            since: The version that the subscriber starts from, before any item.

        Raises:
            ClosedError: The broadcast is closed.
            TypeError: *buffer* or *since* is no int.
            ValueError: *buffer* is below 1 or more than a sequence can hold, *on_lag* is unknown, or ``"resync"`` was asked for without *resync*.
        """
        if buffer is None:
            buffer = self.capacity
        _check_size("buffer", buffer)
        _check_int("since", since)
        if on_lag not in ("raise", "resync"):
            given = repr(on_lag) if isinstance(on_lag, str) else f"a {type(on_lag).__name__}"
            raise ValueError(f"on_lag must be 'raise' or 'resync', not {given}")
        if on_lag == "resync" and resync is None:
            raise ValueError("on_lag='resync' needs the callable resync")
        subscription = Subscription(
            self, buffer=buffer, resync=resync if on_lag == "resync" else None, backlog=backlog, since=since
        )
        with self._lock:
            if self._closed:
                raise ClosedError("the broadcast is closed; nothing more will be published")
            if not self._live:
                self._ring = deque(maxlen=self.capacity)
            self._live[weakref.ref(subscription, self._forget)] = buffer
            if buffer > (self._ring.maxlen or 0):
                self._ring = deque(self._ring, maxlen=buffer)
            subscription._start(self._next)
        return subscription

    def close(self) -> None:
        """End every subscription after what it has not read; a second call does nothing."""
        with self._lock:
            self._closed = True
            waiters = self._take_waiters()
        _wake(waiters)

    def _take_waiters(self) -> list[Waiter]:
        """Return all who wait, who are then waiting no more; called under the lock."""
        waiters: list[Waiter] = []
        for subscription in self._waiting:
            waiters.extend(subscription._waiters)
            subscription._waiters.clear()
        self._waiting.clear()
        return waiters

    def _leave(self, subscription: Subscription[T]) -> None:
        """Forget a subscription that was closed, and wake those who wait on it."""
        with self._lock:
            waiters = list(subscription._waiters)
            subscription._waiters.clear()
            self._waiting.pop(subscription, None)
        _wake(waiters)
        self._forget(weakref.ref(subscription))

    def _forget(self, reference: weakref.ref[Subscription[T]]) -> None:
        """Drop a subscription, and of the ring what no other one needs.

        It may run wherever the garbage collector does, even inside a critical section of this very broadcast, so it
        takes the lock only if it is free. Otherwise the ring is cut at the next occasion.
        """
        buffer = self._live.pop(reference, 0)
        if not self._live or buffer > self.capacity:
            self._trim()

    def _trim(self) -> None:
        """Cut the ring to what the live subscriptions may still ask for, unless it is in use right now."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            buffers = list(self._live.values())
            if not buffers:
                self._ring = deque(maxlen=self.capacity)
            else:
                self._ring = deque(self._ring, maxlen=max(self.capacity, *buffers))
        finally:
            self._lock.release()


def _check_int(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not a {type(value).__name__}")
    return value


def _check_size(name: str, value: object) -> None:
    size = _check_int(name, value)
    if size < 1:
        raise ValueError(f"{name} must be at least 1")
    if size > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}")


def _wake(waiters: Iterable[Waiter]) -> None:
    """Let those who wait look again."""
    # The public function raises where no loop runs, which would cost more than the rest in a thread of its own.
    running = asyncio._get_running_loop()
    for waiter in waiters:
        if not isinstance(waiter, asyncio.Future):
            waiter.release()
        elif waiter.get_loop() is running:
            _resolve(waiter)
        else:
            try:
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:
                # Its event loop was closed, and with it whoever waited.
                continue


def _resolve(waiter: asyncio.Future[None]) -> None:
    """Wake one task, unless it was cancelled meanwhile."""
    if not waiter.done():
        waiter.set_result(None)
