"""Waking whoever follows a head entry that others move.

Contract
    There is a wake-up at the start and after each move that the follower does not know of yet; where moves may have
    been missed (the store was out of reach, the change log was too short) there is one too. There may be more of them
    than moves: they say that there may be something to fetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reactstate.errors import ClosedError, CompactedError, ReactStateError
from reactstate.kv.protocol import Capability

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from reactstate.clock import Clock
    from reactstate.kv.protocol import Cursor, Watch
    from reactstate.kv.store import KeyValueStore

__all__ = ["wakeups"]

_POLL_S: Final = 0.5


async def wakeups(
    store: KeyValueStore, key: str, clock: Clock, *, known: Callable[[], int], ended: Callable[[], bool]
) -> AsyncIterator[None]:
    """Yield once at the start, and whenever the entry under *key* may have a revision above the *known* one.

    Args:
        store: Watched; without WATCH it is to be looked at every half second.
        key: The key of the entry.
        clock: Measures that half second, which is also the pause after an error.
        known: Returns the revision that needs no waking.
        ended: Says whether to stop; the end of the store ends it too.
    """
    if not store.supports(Capability.WATCH):
        while not ended():
            yield
            await clock.sleep(_POLL_S)
        return
    after: Cursor | None = None
    while not ended():
        watch: Watch | None = None
        try:
            watch = store.watch(key, after=after)
            yield
            async for event in watch:
                after = event.cursor
                if ended():
                    return
                if event.revision > known():
                    yield
            return
        except ClosedError:
            return
        except CompactedError:
            after = None
        except ReactStateError:
            await clock.sleep(_POLL_S)
        finally:
            if watch is not None:
                await watch.aclose()
