"""Watching a keyed container: by subscription, by the newest value of one id, and by callbacks."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from reactstate.keyed.announcer import Announcer
from reactstate.keyed.reads import Reads
from reactstate.keyed.subscription import KeyedSubscription, KeyedWatch
from reactstate.kv.protocol import Capability
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from blinker import Signal

    from reactstate.keyed.change import KeyedChange
    from reactstate.keyed.ids import Id
    from reactstate.kv.protocol import Cursor
    from reactstate.state.config import StateConfig
    from reactstate.state.observable import OnLag

__all__ = ["Watches"]

S = TypeVar("S", bound=State)


class Watches(Reads[S]):
    """The part of a container that tells of changes."""

    def _begin_telling(self, config: StateConfig) -> None:
        """Be ready to be watched."""
        self._config = config
        self._watching: weakref.WeakSet[KeyedSubscription[S] | KeyedWatch[S]] = weakref.WeakSet()
        self._announcer = Announcer[S](self, self._turns, self._subscribe_all, self._records.key, self._clock)

    def subscribe(
        self,
        prefix: str = "",
        *,
        since: Cursor | None = None,
        buffer: int | None = None,
        on_lag: OnLag | None = None,
    ) -> KeyedSubscription[S]:
        """Return an iterator over what becomes of the states whose ids begin with *prefix*, live from this call.

        It gives the newest state of each changed id, whoever changed it; see ``reactstate.keyed.subscription``.

        Args:
            prefix: Only ids whose text begins with it.
            since: Go on after this cursor, which a change or a subscription gave, here or in another process.
            buffer: How many changed ids wait for the reader before the store's change log does (default:
                ``StateConfig.buffer_size``).
            on_lag: ``"raise"``: CompactedError when the changes asked for are no longer kept. ``"resync"``: every
                current state instead, as changes with ``resync=True`` (needs SNAPSHOT_READS).

        Raises:
            UnsupportedError: The store has no WATCH.
            InvalidKeyError: *since* is no cursor.
            ValueError: *buffer* or *on_lag* has a value that cannot be used.
            WrongContextError: It was called inside a recipe, or away from the container's event loop.
        """
        self._check_watcher()
        buffer = self._config.buffer_size if buffer is None else buffer
        on_lag = self._config.on_lag if on_lag is None else on_lag
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        if on_lag not in {"raise", "resync"}:
            raise ValueError(f"on_lag must be 'raise' or 'resync', not {on_lag!r}")
        self._store.require("subscription", Capability.WATCH)
        if on_lag == "resync":
            self._store.require("subscription with on_lag='resync'", Capability.SNAPSHOT_READS)
        made = KeyedSubscription(
            self._records,
            self._store,
            self._clock,
            self._records.prefix(prefix),
            since=since,
            buffer=buffer,
            resync=on_lag == "resync",
            deadline=self._deadline,
        )
        self._watching.add(made)
        return made

    def watch(self, id: Id) -> KeyedWatch[S]:  # noqa: A002 - the public name
        """Return an iterator over the newest state of *id*: what is there first, then after each burst of changes.

        None stands for no state. States in between are skipped.

        Raises:
            UnsupportedError: The store has no WATCH.
            InvalidKeyError: *id* is no id of such a state.
        """
        self._check_watcher()
        self._store.require("watch", Capability.WATCH)
        key = self._records.key(id)
        made = KeyedWatch[S](self._store, key, lambda: self._writer.read(key))
        self._watching.add(made)
        return made

    def on_change(self, function: Callable[[KeyedChange[S]], Any]) -> Callable[[], None]:
        """Call *function* after each change, in the order of versions of each id; return the function that ends this.

        Changes of this container are told before the call that makes them returns, others as the store tells of them.
        An exception in it is logged and goes no further.

        Raises:
            UnsupportedError: The store has no WATCH.
            TypeError: It is a coroutine function; use ``subscribe`` in a task of your own.
        """
        self._check_watcher()
        self._announcer.start()
        return self._announcer.notifier.on_change(function)

    @property
    def changed(self) -> Signal:
        """The blinker signal, sent as ``changed.send(container, change=change)`` after each change; as ``on_change``."""
        self._check_watcher()
        self._announcer.start()
        return self._announcer.notifier.changed

    def _subscribe_all(self, since: Cursor | None) -> KeyedSubscription[S]:
        resyncs = self._store.supports(Capability.SNAPSHOT_READS)
        return self.subscribe(since=since, on_lag="resync" if resyncs else "raise")

    async def _end_watching(self) -> None:
        watching = list(self._watching)
        for one in watching:
            one.close()
        await self._announcer.aclose()
        for one in watching:
            await one.aclose()
