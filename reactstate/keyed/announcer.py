"""Callbacks of a keyed container: every change is told once, its own at once, those of others as the watch brings them.

Contract
    A change that the container makes itself is told before the call that made it returns; a change made elsewhere is
    told when the store's watch brings it. For each id the revisions ascend, and none is told twice. An exception in a
    callback is logged and goes no further. Where the store's change log was too short, every current state is told, if
    the engine has SNAPSHOT_READS; else it is logged that changes were missed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from reactstate.errors import CodecError, CompactedError, ReactStateError
from reactstate.state.notify import Notifier
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.clock import Clock
    from reactstate.keyed.change import KeyedChange
    from reactstate.keyed.lifecycle import Turns
    from reactstate.keyed.subscription import KeyedSubscription
    from reactstate.kv.protocol import Cursor

__all__ = ["Announcer"]

S = TypeVar("S", bound=State)

_LOGGER = logging.getLogger("reactstate.keyed")
_PAUSE_S: Final = 1.0


class Announcer(Generic[S]):
    """The callbacks and the signal of one container; it costs nothing before the first is asked for.

    Args:
        sender: The container.
        turns: Which keys the container is writing to.
        subscribe: Makes a subscription to everything, from a cursor or from now on.
        key: Gives the key of an id.
        clock: Sleeps when the store cannot be reached.
    """

    __slots__ = ("_clock", "_feeding", "_foreign", "_key", "_own", "_subscribe", "_turns", "notifier")

    def __init__(
        self,
        sender: object,
        turns: Turns,
        subscribe: Callable[[Cursor | None], KeyedSubscription[S]],
        key: Callable[[object], str],
        clock: Clock,
    ) -> None:
        self.notifier: Notifier[KeyedChange[S]] = Notifier(sender)
        self._turns = turns
        self._subscribe = subscribe
        self._key = key
        self._clock = clock
        self._feeding: asyncio.Task[None] | None = None
        self._own: dict[str, int] = {}
        """Revisions that were told before their event came."""
        self._foreign: dict[str, int] = {}
        """Revisions whose event came while the container was still writing to their key."""

    @property
    def active(self) -> bool:
        """Whether anybody asked to be told."""
        return self._feeding is not None

    def start(self) -> None:
        """Begin to watch, from this call on; a second call does nothing."""
        if self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(self._subscribe(None)))

    async def aclose(self) -> None:
        """Tell nothing more of others' changes."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.wait([self._feeding])

    def tell(self, key: str, change: KeyedChange[S]) -> None:
        """Tell of a change that the container has just made."""
        if self._foreign.pop(key, 0) < change.revision:
            self._own[key] = change.revision
            self.notifier.deliver(change)

    async def _feed(self, subscription: KeyedSubscription[S]) -> None:
        while True:
            try:
                async for change in subscription:
                    self._pass_on(self._key(change.id), change)
            except CompactedError as exc:
                _LOGGER.warning("changes were missed, because the store keeps them too shortly: %s", exc)
                since: Cursor | None = exc.resume
            except CodecError:
                _LOGGER.exception("a state cannot be read; callbacks are not told of it")
                continue
            except ReactStateError:
                _LOGGER.exception("the store's watch failed; it is begun again")
                since = subscription.cursor
                await self._clock.sleep(_PAUSE_S)
            else:
                return
            await subscription.aclose()
            subscription = self._subscribe(since)

    def _pass_on(self, key: str, change: KeyedChange[S]) -> None:
        own = self._own.get(key, 0)
        if own:
            if change.revision >= own:
                del self._own[key]
            if change.revision <= own:
                return
        if key in self._turns:
            self._foreign[key] = change.revision
        self.notifier.deliver(change)
