"""What keeps a keyed container in its place: its event loop, its process, its writers in turn, and its end.

Contract
    A container belongs to the event loop that opened it, and to the process. A call from another one raises
    WrongContextError. Writes to one id of one container go one after another, in the order of their calls, so that
    tasks of one program never lose to each other; writes to different ids do not wait. ``aclose`` lets the writes that
    were begun finish, ends the subscriptions and closes the store if it is the container's own.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reactstate.errors import ClosedError, WrongContextError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from reactstate.kv.store import KeyValueStore

__all__ = ["IN_RECIPE", "Lifecycle", "Turns"]

_CLOSED = "this container was closed; open it again"
IN_RECIPE = (
    "a call inside a recipe (or validator) of the same container; a recipe only changes its draft, "
    "so put what is to follow after the update"
)


class Turns:
    """Who may write to which key: one at a time, in the order of coming."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[None]] | None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._queues

    def __bool__(self) -> bool:
        return bool(self._queues)

    async def take(self, key: str) -> None:
        """Return when it is the caller's turn."""
        queues = self._queues
        if key not in queues:
            queues[key] = None
            return
        queue = queues[key]
        if queue is None:
            queue = queues[key] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # it may have been passed over already
                    queue.remove(turn)
            else:
                self.give(key)
            raise

    def give(self, key: str) -> None:
        """Hand the turn on."""
        queue = self._queues[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():  # else its task was cancelled, and has not run since
                turn.set_result(None)
                return
        del self._queues[key]


class Lifecycle(ABC):
    """The part of a container that opens, guards and closes it."""

    def _live(self, store: KeyValueStore, deadline: float, *, owns_store: bool) -> None:
        """Begin to live, on the loop that runs."""
        self._store = store
        self._owns_store = owns_store
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._turns = Turns()
        self._idle: asyncio.Future[None] | None = None
        self._refusal: str | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        _alive.add(self)

    def _check_call(self) -> None:
        """Refuse a call that could only go wrong, where it is made."""
        if self._closed:
            raise ClosedError(_CLOSED)
        if self._refusal is not None:
            raise WrongContextError(self._refusal)

    def _check_loop(self) -> None:
        """Refuse a call on another event loop."""
        if asyncio.get_running_loop() is not self._loop:
            raise WrongContextError(
                "this container belongs to another event loop; use it there (asyncio.run_coroutine_threadsafe), "
                "or open one of your own"
            )
        self._check_call()

    def _check_watcher(self) -> None:
        """Refuse a subscription where it could miss something."""
        self._check_call()
        if asyncio._get_running_loop() is not self._loop:
            raise WrongContextError("subscribe on the event loop that the container was opened on")

    @abstractmethod
    async def _end_watching(self) -> None:
        """End all subscriptions, and let go of what they read from."""

    def _rest(self) -> None:
        """Note that a write has ended."""
        if self._idle is not None and not self._turns and not self._idle.done():
            self._idle.set_result(None)

    async def flush(self) -> None:
        """Make every change so far durable, whatever the store's ``durability`` says."""
        self._check_loop()
        await self._store.flush()

    async def aclose(self) -> None:
        """Let the writes that were begun finish, end all subscriptions and let go; a second call does nothing.

        Raises:
            StorageError: The container's own store could not be closed.
            TimeoutError: It took longer than ``deadline``.
        """
        if self._closing is None:
            self._check_loop()
            self._closed = True
            self._closing = asyncio.get_running_loop().create_task(self._close())
        elif self._closing.done():
            return
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await self._end_watching()
                if self._turns:
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
                if self._owns_store:
                    await self._store.aclose()
        except TimeoutError as exc:
            raise TimeoutError(
                f"closing took longer than {self._deadline} s, so it is not known what was written"
            ) from exc

    async def __aenter__(self) -> Self:
        self._check_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


_alive: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork() -> None:
    for container in list(_alive):
        container._refusal = "this container was opened before the process forked; open one in the child"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
