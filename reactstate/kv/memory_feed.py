"""MemoryFeed: the change log of a memory store as watches see it, and the sweeping while somebody watches."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Final

from reactstate.errors import CompactedError
from reactstate.kv.watching import cursor_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.clock import Clock
    from reactstate.kv.memory import MemoryStore
    from reactstate.kv.watching import Changes

__all__ = ["MemoryFeed"]

_SECONDS: Final = 1.0


class MemoryFeed:
    """The change log of *store*; see ``reactstate.kv.watching.Feed``."""

    __slots__ = ("_store", "id")

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.id: str = store.id

    def changes_after(self, revision: int, limit: int) -> Sequence[Changes]:
        """Return the oldest commits above *revision*, about *limit* events of them.

        Raises:
            CompactedError: Commits above *revision* are no longer kept, or it was not issued yet.
        """
        store = self._store
        if not store._log.floor <= revision <= store._table.revision:
            raise CompactedError(
                "the events after this place are no longer kept; read what is there, and go on from `resume`",
                resume=cursor_at(self.id, store._table.revision),
            )
        return store._log.after(revision, limit)

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done at the next commit or when the store is closed; what expires is swept."""
        store = self._store
        if not store._closed:
            store._sweep()
            if store._sweeper is None or store._sweeper.done():
                sweeping = _sweep_while_watched(weakref.ref(store), store._clock)
                store._sweeper = asyncio.get_running_loop().create_task(sweeping)
        return store._waiters.wait()

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._store._closed


async def _sweep_while_watched(store: weakref.ref[MemoryStore], clock: Clock) -> None:
    """Sweep every second as long as somebody waits for events, without keeping the store alive."""
    while True:
        await clock.sleep(_SECONDS)
        found = store()
        if found is None or all(waiter.done() for waiter in found._waiters._futures):
            return
        await found._sweep_all()
        del found
