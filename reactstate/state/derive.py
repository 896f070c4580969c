"""select and derive: values that follow from states.

A view is computed when it is read and its sources have moved, and announces a change only when its value differs.

Guarantees
    No glitches: a view of views is computed at most once per commit of its source, after all the views that it needs,
    and ``fn`` never sees a mixture of two commits of one source.
    What ``fn`` reads beside its arguments is not tracked.

Errors
    What ``fn`` raises is raised to whoever reads the value, and logged (logger ``reactstate.state``) when it happens
    while a change is announced; the other views go on, and this one is computed anew after the next change. While a
    source has no state, the view has no value: reading it raises StateNotFoundError, and nothing is announced.

Lifetime
    A view that somebody listens to is kept by its sources until ``close``. Its subscriptions end when all containers
    below it are closed.

Source
    The push-pull propagation by height of functional reactive programming (Elliott, 2009; MobX, Solid).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from reactstate.errors import ClosedError, CompactedError, NoHistoricalState, StateNotFoundError
from reactstate.state.broadcast import Broadcast
from reactstate.state.history import check_version
from reactstate.state.notify import Notifier
from reactstate.state.observable import Observable
from reactstate.state.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from blinker import Signal

    from reactstate.state.observable import OnLag
    from reactstate.state.state import State
    from reactstate.state.subscription import Subscription

__all__ = ["View", "ViewChange", "derive", "select"]

T = TypeVar("T")
A = TypeVar("A")
S = TypeVar("S", bound="State")
S2 = TypeVar("S2", bound="State")

_LOGGER = logging.getLogger("reactstate.state")


class ViewChange(Generic[T]):
    """A change of a view's value (read-only).

    Attributes:
        version: How often the value has changed, from 1 on.
        old_state: The value before.
        new_state: The value now.
    """

    __slots__ = ("new_state", "old_state", "version")

    def __init__(self, version: int, old_state: T, new_state: T) -> None:
        self.version: int = version
        self.old_state: T = old_state
        self.new_state: T = new_state

    def __repr__(self) -> str:
        return f"ViewChange(version={self.version}, {self.old_state!r} -> {self.new_state!r})"


class View(Generic[T]):
    """A value computed from containers and other views; subscribed to like a container.

    Made by ``select`` and ``derive``. It may be read and subscribed to from any thread if its sources may.
    """

    def __init__(self, sources: tuple[Any, ...], fn: Callable[..., T], equal: Callable[[T, T], bool] | None) -> None:
        self._sources = sources
        self._fn = fn
        self._equal: Callable[[T, T], bool] = equal if equal is not None else _same
        self._lock = threading.RLock()
        self._height: int = 1 + max(_height(source) for source in sources)
        self._broadcast: Broadcast[ViewChange[T]] = Broadcast(1000)
        self._notifier: Notifier[ViewChange[T]] = Notifier(self)
        self._detach: list[Callable[[], None]] | None = None
        self._closed = False
        self._version = 0
        self._seen, values = self._read()
        self._value: T = fn(*values)

    # --- the value ------------------------------------------------------------------------------------------------

    @property
    def value(self) -> T:
        """The value now.

        Raises:
            StateNotFoundError: A source has no state.
        """
        return self._refresh()[1]

    @property
    def state(self) -> T:
        """The value now, under the name that containers use."""
        return self._refresh()[1]

    @property
    def version(self) -> int:
        """How often the value has changed since the view was made, as far as anybody looked."""
        return self._refresh()[0]

    def _stamps(self) -> tuple[int, ...]:
        return tuple([_stamp(source) for source in self._sources])

    def _read(self) -> tuple[tuple[int, ...], list[Any]]:
        """Return the versions and values of the sources, all of them at one moment."""
        while True:
            found = [_reading(source) for source in self._sources]
            stamps = tuple([version for version, _ in found])
            if stamps == self._stamps():  # else another thread has committed in between
                return stamps, [value for _, value in found]

    def _refresh(self) -> tuple[int, T]:
        """Bring the value up to date and announce it if it differs; return its version and itself."""
        with self._lock:
            if self._seen == self._stamps():
                return self._version, self._value
            stamps, values = self._read()
            old, new = self._value, self._fn(*values)
            if not self._equal(old, new):
                self._value = new
                self._version += 1
                change = ViewChange(self._version, old, new)
                self._broadcast.publish(change, self._version)
                self._notifier.enqueue(change)
            self._seen = stamps
            return self._version, self._value

    # --- watching -------------------------------------------------------------------------------------------------

    def subscribe(
        self, *, since: int | None = None, buffer: int | None = None, on_lag: OnLag = "raise"
    ) -> Subscription[ViewChange[T]]:
        """Return an iterator over the changes of the value from now on.

        Args:
            since: A view keeps no history: only None, or the current version.
            buffer: How many unread changes are kept for it.
            on_lag: What happens when it falls behind.

        Raises:
            CompactedError: *since* is an older version than the current one.
            NoHistoricalState: *since* is a newer version than the current one.
            ClosedError: The view, or every container below it, was closed.
        """
        if since is not None:
            check_version(since, "since")
        with self._lock:
            self._attach()
            version = self._version
            if since is not None and since < version:
                raise CompactedError(f"a view keeps no history; resume from version {version}", resume=version)
            if since is not None and since > version:
                raise NoHistoricalState(f"version {since} of this view does not exist yet", newest=version)
            return self._broadcast.subscribe(buffer=buffer, on_lag=on_lag, resync=self._resync, since=version)

    def _resync(self, _last: int) -> ViewChange[T]:
        with self._lock:
            return ViewChange(self._version, self._value, self._value)

    def watch(self) -> Watch[T]:
        """Return an iterator over the newest value: the current one first, then after each burst of changes."""
        return Watch(self.subscribe(buffer=1), self._refresh)

    def on_change(self, function: Callable[[ViewChange[T]], Any]) -> Callable[[], None]:
        """Call *function* after each change of the value; return the function that ends this.

        Raises:
            TypeError: It is a coroutine function; use ``subscribe`` in a task of your own.
        """
        self._attach()
        return self._notifier.on_change(function)

    @property
    def changed(self) -> Signal:
        """The blinker signal, sent as ``changed.send(view, change=change)``."""
        self._attach()
        return self._notifier.changed

    def _attach(self) -> None:
        """Listen to the containers below, from the first listener on, which hears of what comes after this."""
        with self._lock:
            roots = _roots(self)
            if self._closed or all(root._closed for root in roots):
                raise ClosedError("this view, or every container below it, was closed; nothing more will change")
            if self._detach is None:
                self._detach = [_graph_of(root).add(self) for root in roots]
            with contextlib.suppress(StateNotFoundError):
                self._refresh()

    def close(self) -> None:
        """Stop listening and end all subscriptions; the value can still be read."""
        with self._lock:
            self._closed = True
            for undo in self._detach or ():
                undo()
            self._detach = None
            self._broadcast.close()

    def __repr__(self) -> str:
        return f"View(version={self._version}, value={self._value!r})"


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # what cannot be compared, such as an array, counts as different
        return False


def _height(source: Any) -> int:
    return source._height if isinstance(source, View) else 0


def _stamp(source: Any) -> int:
    version: int = source._refresh()[0] if isinstance(source, View) else source._timeline.head._version
    return version


def _reading(source: Any) -> tuple[int, Any]:
    below: View[Any] | Observable[Any] = source
    return below._refresh() if isinstance(below, View) else below._newest()


def _roots(view: View[Any]) -> list[Observable[Any]]:
    found: dict[int, Observable[Any]] = {}
    for source in view._sources:
        below: View[Any] | Observable[Any] = source
        for root in _roots(below) if isinstance(below, View) else [below]:
            found[id(root)] = root
    return list(found.values())


class _Graph:
    """The views over one container, by height: one callback refreshes them all, lowest first."""

    def __init__(self, root: Observable[Any]) -> None:
        self._views: list[View[Any]] = []
        root._notifier.on_change(self._run)

    def add(self, view: View[Any]) -> Callable[[], None]:
        with _graphs:
            self._views = sorted([*self._views, view], key=_height)

        def undo() -> None:
            with _graphs:
                self._views = [one for one in self._views if one is not view]

        return undo

    def _run(self, _change: Any) -> None:
        views = self._views
        for view in views:
            try:
                view._refresh()
            except StateNotFoundError:
                continue
            except Exception:
                _LOGGER.exception("a view could not be computed: %r", view._fn)
        for view in views:
            view._notifier.drain()

    def end(self) -> None:
        """End the subscriptions of the views that have no open container any more."""
        for view in self._views:
            if all(root._closed for root in _roots(view)):
                view._broadcast.close()


_graphs = threading.Lock()


def _graph_of(root: Observable[Any]) -> _Graph:
    with _graphs:
        graph: _Graph | None = root._views
        if graph is None:
            graph = root._views = _Graph(root)
        return graph


@overload
def select(source: View[A], fn: Callable[[A], T], *, equal: Callable[[T, T], bool] | None = None) -> View[T]: ...
@overload
def select(source: Observable[S], fn: Callable[[S], T], *, equal: Callable[[T, T], bool] | None = None) -> View[T]: ...
def select(source: Any, fn: Callable[[Any], T], *, equal: Callable[[T, T], bool] | None = None) -> View[T]:
    """Return the view ``fn(source.state)``, which announces a change when its value differs.

    Args:
        source: A container or another view.
        fn: A pure function of the state.
        equal: Says whether two values are the same (default: equal and of one type).

    Raises:
        StateNotFoundError: The container has no state yet.
        TypeError: *source* is neither a container nor a view.
    """
    return derive(source, fn=fn, equal=equal)


@overload
def derive(
    one: Observable[S] | View[S], fn: Callable[[S], T], /, *, equal: Callable[[T, T], bool] | None = None
) -> View[T]: ...
@overload
def derive(
    one: Observable[S] | View[S],
    two: Observable[S2] | View[S2],
    fn: Callable[[S, S2], T],
    /,
    *,
    equal: Callable[[T, T], bool] | None = None,
) -> View[T]: ...
@overload
def derive(*sources: Any, fn: Callable[..., T], equal: Callable[[T, T], bool] | None = None) -> View[T]: ...
@overload
def derive(*sources: Any, equal: Callable[[Any, Any], bool] | None = None) -> View[Any]: ...
def derive(*sources: Any, fn: Any = None, equal: Callable[[Any, Any], bool] | None = None) -> View[Any]:
    """Return the view ``fn(*states)`` of several containers or views.

    Args:
        *sources: Containers or views; the function may be the last of them.
        fn: A pure function of their states, in order.
        equal: Says whether two values are the same (default: equal and of one type).

    Raises:
        StateNotFoundError: One of the containers has no state yet.
        TypeError: There is no source, or no function.
    """
    if fn is None:
        if not sources or isinstance(sources[-1], View | Observable):
            raise TypeError("derive needs a function: derive(a, b, fn=lambda a, b: ...)")
        sources, fn = sources[:-1], sources[-1]
    if not sources or not all(isinstance(source, View | Observable) for source in sources):
        raise TypeError("derive needs containers or views to compute from")
    return View(sources, fn, equal)
