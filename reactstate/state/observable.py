"""What every container offers to those who watch it.

Usage
    ``subscribe`` iterates over every change, ``watch`` over the newest state, ``on_change`` calls a function, and
    ``changed`` is a blinker signal. All of them tell of a change after it was committed, in the order of versions.

Lagging
    A subscription that falls behind its buffer gets ``LaggedError(missed=n)`` and stays subscribed; with
    ``on_lag="resync"`` it gets one change instead that carries it to the current state. Callbacks never lag.

    That change has the action ``"resync"`` and the newest version. What lies between is not known to it: its
    ``old_state`` is None, and its ``patch`` replaces the whole document, whatever the subscriber had. So it is right
    for whoever applies patches or takes ``new_state``; whoever compares the two states looks at ``action`` first. A
    subscriber that needs the old state keeps the last one that it was given.

Thread safety
    ``state``, ``version``, ``current`` and ``history`` may be read from any thread, without waiting.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from reactstate.errors import ClosedError, CompactedError, NoHistoricalState
from reactstate.state.broadcast import Broadcast
from reactstate.state.change import ChangeType, StateChange, VersionedState
from reactstate.state.history import check_version, version_text
from reactstate.state.notify import Notifier
from reactstate.state.state import State
from reactstate.state.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from blinker import Signal

    from reactstate.state.edits import Edit
    from reactstate.state.history import History
    from reactstate.state.subscription import Subscription
    from reactstate.state.timeline import Timeline

__all__ = ["Observable", "OnLag"]

S = TypeVar("S", bound=State)

OnLag = Literal["raise", "resync"]


class Observable(Generic[S]):
    """A row of versions that can be read and watched; the base of all containers of one state."""

    _timeline: Timeline[S]
    _closed: bool
    _views: Any = None

    def _start(self, timeline: Timeline[S], buffer_size: int, on_lag: OnLag, lock: Any = None) -> None:
        self._timeline = timeline
        self._closed = False
        self._on_lag: OnLag = on_lag
        self._publishing: AbstractContextManager[Any] = lock if lock is not None else contextlib.nullcontext()
        self._broadcast: Broadcast[StateChange[S]] = Broadcast(buffer_size)
        self._notifier: Notifier[StateChange[S]] = Notifier(self)

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> S:
        """The current state.

        Raises:
            StateNotFoundError: Nothing was stored yet, or it was deleted.
        """
        state = self._timeline.state
        return state if state is not None else self._timeline.current().state

    @property
    def version(self) -> int:
        """The version of the current state; 0 when nothing was stored yet."""
        return self._timeline.version

    @property
    def current(self) -> VersionedState[S]:
        """The current state with its version and metadata, taken together."""
        return self._timeline.current()

    @property
    def history(self) -> History[S]:
        """The newest changes, oldest first."""
        return self._timeline.history

    # --- watching -------------------------------------------------------------------------------------------------

    def subscribe(
        self, *, since: int | None = None, buffer: int | None = None, on_lag: OnLag | None = None
    ) -> Subscription[StateChange[S]]:
        """Return an iterator over the changes from now on, live from this call.

        Args:
            since: Begin with the kept changes after this version, then go on live, without gap.
            buffer: How many unread changes are kept for it (default: ``StateConfig.buffer_size``).
            on_lag: What happens when it falls behind (default: ``StateConfig.on_lag``): ``"raise"``, or ``"resync"``
                for one change with that action, whose ``old_state`` is None.

        Raises:
            CompactedError: Changes after *since* are no longer kept; ``resume`` is the oldest version to ask from.
            NoHistoricalState: *since* is newer than the newest version.
            ClosedError: The container was closed.
            TypeError: *since* or *buffer* is no int.
            ValueError: *since*, *buffer* or *on_lag* is out of range.
        """
        self._check_watcher()
        if since is not None:
            check_version(since, "since")
        with self._publishing:
            if self._closed:
                raise ClosedError("this container was closed; open it again to subscribe")
            backlog = [] if since is None else self._since(since)
            return self._broadcast.subscribe(
                buffer=buffer,
                on_lag=on_lag if on_lag is not None else self._on_lag,
                resync=self._resync,
                backlog=backlog,
                since=self._timeline.version if since is None else since,
            )

    def _check_watcher(self) -> None:
        """Refuse a subscription where it could miss something; a container that may be watched anywhere does nothing."""

    def _since(self, since: int) -> list[StateChange[S]]:
        """Return the kept changes after version *since*."""
        if since < 0:
            raise ValueError("since must be a version: 0 or more")
        timeline = self._timeline
        newest = timeline.version
        if since > newest:
            raise NoHistoricalState(
                f"version {version_text(since)} does not exist yet; the newest is {newest}",
                oldest=timeline.history.oldest_version,
                newest=newest,
            )
        if since == newest:
            return []
        oldest = timeline.history.oldest_version
        resume = newest if oldest is None else oldest - 1
        if since < resume:
            raise CompactedError(
                f"changes after version {since} are no longer all kept; resume from version {resume}", resume=resume
            )
        return [change for change in timeline.history if change._version > since]

    def _resync(self, _last: int = 0) -> StateChange[S] | None:
        """Return one change that carries a subscriber who fell behind to the current state.

        Its old state is None: the last state that the subscriber saw is mostly no longer kept, and to hold it would
        cost every subscriber.
        """
        current = self._timeline.current()
        if current.version == 0:
            return None
        state = current.state if current.exists else None
        kind = ChangeType.DELETE if state is None else ChangeType.UPDATE
        edits: list[Edit] = [(None, None, state)]
        return StateChange(current.version, kind, state, edits, current._timestamp_ns, None, "resync", None)

    def watch(self) -> Watch[S]:
        """Return an iterator over the newest state: the current one first, then after each burst of changes.

        States in between are skipped; a deleted state is not reported.
        """
        return Watch(self.subscribe(buffer=1, on_lag="raise"), self._newest)

    def _newest(self) -> tuple[int, S]:
        current = self._timeline.current()
        return current.version, current.state

    def on_change(self, function: Callable[[StateChange[S]], Any]) -> Callable[[], None]:
        """Call *function* after each change, in the order of versions; return the function that ends this.

        An exception in it is logged and goes no further. An update made inside it is delivered after the current
        change.

        Raises:
            TypeError: It is a coroutine function; use ``subscribe`` in a task of your own.
        """
        return self._notifier.on_change(function)

    @property
    def changed(self) -> Signal:
        """The blinker signal, sent as ``changed.send(container, change=change)`` after each change."""
        return self._notifier.changed

    def _end_watching(self) -> None:
        """End all subscriptions, and those of the views that can change no more."""
        self._broadcast.close()
        if self._views is not None:
            self._views.end()
