"""The events of a watch, folded by key, until their reader has time for them.

Contract
    The events of a key are never reordered and none is lost: what was not taken yet is there with the place of its
    newest event. When more than ``capacity`` keys wait, the watch is not read on, and the store's change log keeps
    what comes. A reader that is cancelled takes nothing.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.kv.protocol import Event, Watch

__all__ = ["Changed", "Inbox"]

_BREATH: Final = 500
"""How many events are taken before others get a turn, when there is no end of them."""


class Changed:
    """A key, the revision of its first event that was not told yet, and its newest event."""

    __slots__ = ("event", "first", "key")

    def __init__(self, key: str, first: int, event: Event) -> None:
        self.key: str = key
        self.first: int = first
        self.event: Event = event


class _Folding:
    """What the task that reads a watch shares with the inbox, which it does not keep alive."""

    __slots__ = ("arrived", "capacity", "ended", "error", "pending", "room")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.pending: dict[str, Changed] = {}
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        self.error: Exception | None = None
        self.ended = False


class Inbox:
    """Reads a watch in a task of its own, which begins with the first ``wait`` and ends with the inbox.

    Args:
        watch: The watch.
        capacity: How many keys may wait.
        wanted: Says which keys are of interest; None: all.
    """

    __slots__ = ("__weakref__", "_folding", "_reading", "_wanted", "_watch")

    def __init__(self, watch: Watch, capacity: int, wanted: Callable[[str], bool] | None = None) -> None:
        self._watch = watch
        self._wanted = wanted
        self._folding = _Folding(capacity)
        self._reading: asyncio.Task[None] | None = None

    async def wait(self) -> bool:
        """Return when something is there to take; False: nothing will come.

        Raises:
            CompactedError: The watch met a gap; what came before it was taken.
        """
        folding = self._folding
        if self._reading is None and not folding.ended:
            self._reading = asyncio.get_running_loop().create_task(_read(self._watch, folding, self._wanted))
            weakref.finalize(self, _cancel, self._reading).atexit = False
        while not folding.pending:
            if folding.error is not None:
                error, folding.error = folding.error, None
                raise error
            if folding.ended:
                return False
            folding.arrived.clear()
            await folding.arrived.wait()
        return True

    def take(self, limit: int) -> list[Changed]:
        """Take up to *limit* keys, in the order of their newest events."""
        folding = self._folding
        pending = folding.pending
        if len(pending) <= limit:
            taken = list(pending.values())
            pending.clear()
        else:
            taken = [pending.pop(key) for key in list(islice(pending, limit))]
        folding.room.set()
        return taken

    def end(self) -> None:
        """Stop reading, and wake who waits."""
        folding = self._folding
        folding.ended = True
        folding.pending.clear()
        folding.error = None
        folding.arrived.set()
        if self._reading is not None:
            self._reading.cancel()

    async def aclose(self) -> None:
        """Stop reading, and let go of the watch."""
        self.end()
        reading = self._reading
        if reading is not None and reading is not asyncio.current_task():
            await asyncio.wait([reading])
        await self._watch.aclose()


async def _read(watch: Watch, folding: _Folding, wanted: Callable[[str], bool] | None) -> None:
    pending = folding.pending
    taken = 0
    try:
        async for event in watch:
            key = event.key
            if wanted is None or wanted(key):
                before = pending.pop(key, None)
                pending[key] = Changed(key, event.revision if before is None else before.first, event)
                folding.arrived.set()
            taken += 1
            if not taken % _BREATH:
                await asyncio.sleep(0)
            while len(pending) >= folding.capacity:
                folding.room.clear()
                await folding.room.wait()
    except Exception as exc:  # it is for the reader, who may not be there yet
        folding.error = exc
    finally:
        folding.ended = True
        folding.arrived.set()
        await watch.aclose()


def _cancel(reading: asyncio.Task[None]) -> None:
    """Cancel the task of an inbox that was dropped, from whatever thread the collector runs in."""
    if not reading.done():
        with suppress(RuntimeError):  # its event loop was closed, and with it whoever read
            reading.get_loop().call_soon_threadsafe(reading.cancel)
