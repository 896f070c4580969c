"""Callbacks in order: every callback sees every item, one after another, whoever announces them.

Guarantees
    Items pass through one queue, which one caller at a time empties. An item announced inside a callback, or by
    another thread meanwhile, is delivered after the current one by whoever is emptying the queue, so no callback is
    ever entered twice at once and all see the same order: the order of ``enqueue``. For an order of versions that
    holds across threads, call ``enqueue`` under the lock that makes the version and ``drain`` outside of it;
    ``deliver`` is both at once.

    An exception in a callback is logged with its traceback (logger ``reactstate.state``) and goes no further.
    KeyboardInterrupt and SystemExit pass on, once the other callbacks have seen the current item; what is still queued
    is delivered first by the next ``deliver`` or ``drain``.

Why no item is left behind
    Who finds the queue being emptied by another leaves the item to it. The other looks at the queue once more after
    it has given up its turn, and so sees the item, unless somebody has taken the turn before.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from blinker import Signal

__all__ = ["Notifier"]

T = TypeVar("T")

_logger = logging.getLogger("reactstate.state")


class Notifier(Generic[T]):
    """The callbacks and the signal of one source of items.

    Args:
        sender: Who is named as the sender of the signal ``changed``; it is referred to weakly.
    """

    __slots__ = ("_callbacks", "_changed", "_lock", "_queue", "_registered", "_sender", "_turn")

    def __init__(self, sender: object = None) -> None:
        self._sender = None if sender is None else weakref.ref(sender)
        # Held for a moment, and reentrant, as a finalizer may undo a registration while another one is made.
        self._lock = threading.RLock()
        self._registered: dict[object, Callable[[T], object]] = {}
        self._callbacks: tuple[Callable[[T], object], ...] = ()
        self._changed: Signal | None = None
        self._queue: deque[T] = deque()
        # Who pops the one token has the turn: atomic like a lock's acquire without blocking, in a third of its time.
        self._turn: list[None] = [None]

    @property
    def changed(self) -> Signal:
        """The blinker signal that sends ``sender, change=item``; made when it is first asked for."""
        with self._lock:
            if self._changed is None:
                from blinker import Signal

                self._changed = Signal("Sent after each change, as the keyword argument change.")
            return self._changed

    def on_change(self, fn: Callable[[T], object]) -> Callable[[], None]:
        """Call *fn* with every item from now on; return the function that undoes this.

        *fn* is kept alive until then. The undo may be called any number of times; an item that is being delivered
        just then may still reach *fn*. What *fn* returns is ignored.

        Raises:
            TypeError: *fn* cannot be called, or is a coroutine function, which nobody would await.
        """
        if not callable(fn):
            raise TypeError(f"a callback must be callable, not {type(fn).__name__}")
        for part in (fn, getattr(fn, "__call__", None)):  # noqa: B004 - its kind is asked for, not whether it is there
            if inspect.iscoroutinefunction(part) or inspect.isasyncgenfunction(part):
                raise TypeError("a callback must not be a coroutine function; read a subscription with 'async for'")
        registration = object()
        with self._lock:
            self._registered[registration] = fn
            self._callbacks = tuple(self._registered.values())

        def undo() -> None:
            with self._lock:
                if self._registered.pop(registration, None) is not None:
                    self._callbacks = tuple(self._registered.values())

        return undo

    def enqueue(self, item: T) -> None:
        """Put *item* at the end of the queue, if anybody is there to hear of it; call ``drain`` afterwards."""
        if self._callbacks or self._changed is not None:
            self._queue.append(item)

    def deliver(self, item: T) -> None:
        """Call all callbacks with *item*, after those before it; see the module for when and by whom."""
        callbacks, queue, turn = self._callbacks, self._queue, self._turn
        if callbacks and not queue and self._changed is None:
            # The usual case, without a detour through the queue.
            try:
                turn.pop()
            except IndexError:
                queue.append(item)
                self.drain()
                return
            interrupt = None
            try:
                for callback in callbacks:
                    try:
                        if (result := callback(item)) is not None:
                            _refuse(result, callback)
                    except BaseException as exc:
                        interrupt = interrupt or _failed(exc, callback)
            finally:
                turn.append(None)
            if interrupt is not None:
                raise interrupt
            if queue:
                self.drain()
        elif callbacks or self._changed is not None:
            queue.append(item)
            self.drain()

    def drain(self) -> None:
        """Deliver what is queued, unless somebody is at it already."""
        queue, turn = self._queue, self._turn
        while queue:
            try:
                turn.pop()
            except IndexError:
                return
            interrupt = None
            try:
                while queue and interrupt is None:
                    item = queue.popleft()
                    for callback in self._callbacks:
                        try:
                            if (result := callback(item)) is not None:
                                _refuse(result, callback)
                        except BaseException as exc:
                            interrupt = interrupt or _failed(exc, callback)
                    if self._changed is not None:
                        interrupt = self._send(self._changed, item) or interrupt
            finally:
                turn.append(None)
            if interrupt is not None:
                raise interrupt

    def _send(self, signal: Signal, item: T) -> BaseException | None:
        """Call the receivers of *signal* as it would, but each by itself; return the first interrupt."""
        interrupt = None
        if signal.receivers and not signal.is_muted:
            sender = None if self._sender is None else self._sender()
            for receiver in list(signal.receivers_for(sender)):
                try:
                    if (result := receiver(sender, change=item)) is not None:
                        _refuse(result, receiver)
                except BaseException as exc:
                    interrupt = interrupt or _failed(exc, receiver)
        return interrupt


def _failed(exc: BaseException, callback: object) -> BaseException | None:
    """Log what a callback raised, or return it when it must pass on."""
    if isinstance(exc, (KeyboardInterrupt, SystemExit)):
        return exc
    _logger.error("a callback failed: %r", callback, exc_info=exc)
    return None


def _refuse(result: object, callback: object) -> None:
    """Report a coroutine that a callback returned, which only shows when it is called."""
    if inspect.iscoroutine(result):
        result.close()
        _logger.error("a callback returned a coroutine, which nobody awaits: %r", callback)
