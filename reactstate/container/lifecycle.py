"""What keeps a container in its place: its event loop, its process, and its end.

Contract
    A container belongs to the event loop that opened it, and to the process. A call from another one raises
    WrongContextError. ``aclose`` writes what was accepted, lets running consumers finish the change that they are at,
    ends the subscriptions and lets go of the storage; once begun it is carried out, whether or not its caller waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from reactstate.errors import ClosedError, ReadOnlyError, UnknownOutcomeError, WrongContextError
from reactstate.state.observable import Observable
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.container.commit import Committer
    from reactstate.container.delivery import Consumer
    from reactstate.container.sharing import SharedCommitter
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import StateChange

__all__ = ["IN_RECIPE", "Lifecycle"]

S = TypeVar("S", bound=State)

_READ_ONLY = "this container was opened read-only; open it without read_only=True to write"
_CLOSED = "this container was closed; open it again"
IN_RECIPE = (
    "an update inside a recipe (or validator) of the same container; a recipe only changes its draft, "
    "so put what is to follow after the update"
)


class Lifecycle(Observable[S]):
    """The part of a container that opens, guards and closes it."""

    _persistence: StatePersistence[S]
    _committer: Committer[S] | None
    _clock: Clock
    _asked: float
    _confirmed: float

    def _live(self, persistence: StatePersistence[S], deadline: float) -> None:
        """Begin to live."""
        self._persistence = persistence
        self._committer = None
        self._sharing: SharedCommitter[S] | None = None
        self._remote = persistence.read_only or persistence.shared
        self._deadline = deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._following: asyncio.Task[None] | None = None
        self._consumers: dict[str, Consumer] = {}
        self._refusal: str | None = _READ_ONLY if persistence.read_only else None
        self._closing: asyncio.Task[None] | None = None
        _alive.add(self)

    # --- guards ---------------------------------------------------------------------------------------------------

    def _check_call(self) -> None:
        """Refuse a call that could only go wrong, where it is made."""
        refusal = self._refusal
        if self._closed:
            raise ClosedError(_CLOSED)
        if refusal is not None:
            raise (ReadOnlyError if refusal is _READ_ONLY else WrongContextError)(refusal)

    def _check_loop(self) -> None:
        """Refuse a call on another event loop; the first one decides which it is."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise WrongContextError(
                    "this container belongs to another event loop; use it there (asyncio.run_coroutine_threadsafe), "
                    "or open one of your own"
                )
            self._loop = loop
            self._thread = threading.get_ident()
        if self._closed:
            raise ClosedError(_CLOSED)

    def _check_watcher(self) -> None:
        if self._loop is not None and threading.get_ident() != self._thread:
            raise WrongContextError(
                "subscribe on the thread of the container's event loop (loop.call_soon_threadsafe); "
                "only state, version, current and history may be read from anywhere"
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* beside everything else; closing waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _shown(self, change: StateChange[S]) -> None:
        """Tell everybody of a change that was just made the head."""
        raise NotImplementedError

    # --- the end --------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Make every change so far durable, whatever ``durability`` says.

        Raises:
            UnknownOutcomeError: The storage failed to; open the container anew to see what is there.
            ReadOnlyError: This container only reads.
        """
        self._check_call()
        self._check_loop()
        if self._committer is not None:
            await self._committer.settle()
        await self._persistence.flush()

    async def aclose(self) -> None:
        """Write what was accepted, end all subscriptions and let go; a second call does nothing.

        Raises:
            StorageError: What was accepted could not be written.
            TimeoutError: It took longer than ``deadline``.
        """
        if self._closing is None:
            self._check_loop()
            self._closed = True
            self._refusal = _CLOSED
            self._closing = asyncio.get_running_loop().create_task(self._close(asyncio.current_task()))
        elif self._closing.done():
            return
        await asyncio.shield(self._closing)

    async def _close(self, caller: asyncio.Task[Any] | None) -> None:
        committer = self._committer
        try:
            async with asyncio.timeout(self._deadline):
                if committer is not None:
                    await committer.aclose()
                self._end_watching()
                # A handler may be the one who closes, and must not wait for itself.
                busy = [one.ended for one in self._consumers.values() if one.task is not caller]
                await asyncio.gather(*busy)
                if self._following is not None:
                    self._following.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self._persistence.aclose()
        except TimeoutError as exc:
            said = f"closing took longer than {self._deadline} s, so it is not known what was written"
            if committer is not None:
                committer.abandon(UnknownOutcomeError(f"{said}; open the container anew to see"))
            raise TimeoutError(said) from exc
        finally:
            self._refusal = _CLOSED
            self._end_watching()
            if self._following is not None:
                self._following.cancel()

    async def __aenter__(self) -> Self:
        self._check_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


_alive: weakref.WeakSet[Lifecycle[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for container in list(_alive):
        container._refusal = "this container was opened before the process forked; open one in the child"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
