"""select and derive: values that follow from states.

A view is computed when it is read and its sources have moved, and announces a change only when its value differs.

Guarantees
    No glitches: a view of views is computed at most once per commit of its source, after all the views that it needs,
    and whoever reads ``value`` never sees a mixture of two commits of one source.
    What ``fn`` reads beside its arguments is not tracked.

Lifetime
    A view that somebody listens to is kept by its sources; ``close`` ends that.

Source
    The push-pull propagation by height of functional reactive programming (Elliott, 2009; MobX, Solid).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from reactstate.state.broadcast import Broadcast
from reactstate.state.notify import Notifier
from reactstate.state.observable import Observable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from blinker import Signal

    from reactstate.state.observable import OnLag
    from reactstate.state.state import State
    from reactstate.state.subscription import Subscription

__all__ = ["View", "ViewChange", "derive", "select"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
S = TypeVar("S", bound="State")
S2 = TypeVar("S2", bound="State")


class ViewChange(Generic[T]):
    """A change of a view's value (read-only).

    Attributes:
        version: How often the view has announced a change, from 1 on.
        old_state: The value before.
        new_state: The value now.
    """

    __slots__ = ("new_state", "old_state", "version")

    def __init__(self, version: int, old_state: T, new_state: T) -> None:
        self.version = version
        self.old_state = old_state
        self.new_state = new_state

    def __repr__(self) -> str:
        return f"ViewChange(version={self.version}, {self.old_state!r} -> {self.new_state!r})"


class View(Generic[T]):
    """A value computed from containers and other views; subscribed to like a container.

    Made by ``select`` and ``derive``.
    """

    def __init__(self, sources: tuple[Any, ...], fn: Callable[..., T], equal: Callable[[T, T], bool] | None) -> None:
        self._sources = sources
        self._fn = fn
        self._equal = equal if equal is not None else _same
        self._lock = threading.RLock()
        self._height: int = 1 + max(source._height if isinstance(source, View) else 0 for source in sources)
        self._broadcast: Broadcast[ViewChange[T]] = Broadcast(1000)
        self._notifier: Notifier[ViewChange[T]] = Notifier(self)
        self._detach: list[Callable[[], None]] | None = None
        self._closed = False
        self._version = 0
        self._seen: tuple[int, ...] = ()
        self._value: T
        self._compute()

    # --- the value ------------------------------------------------------------------------------------------------

    @property
    def value(self) -> T:
        """The value now."""
        return self._refresh()[0]

    @property
    def state(self) -> T:
        """The value now, under the name that containers use."""
        return self._refresh()[0]

    @property
    def version(self) -> int:
        """How often the value has changed since the view was made."""
        return self._refresh()[1]

    def _stamps(self) -> tuple[int, ...]:
        return tuple([source.version for source in self._sources])

    def _compute(self) -> T:
        """Compute the value from one consistent reading of the sources."""
        while True:
            stamps = self._stamps()
            value = self._fn(*[_reading(source) for source in self._sources])
            if stamps == self._stamps():
                break
        self._seen = stamps
        self._value = value
        return value

    def _refresh(self) -> tuple[T, int, ViewChange[T] | None]:
        """Bring the value up to date; return it, the version, and the change if it differs from before."""
        with self._lock:
            if self._seen == self._stamps():
                return self._value, self._version, None
            old = self._value
            new = self._compute()
            if self._equal(old, new):
                self._value = old
                return old, self._version, None
            self._version += 1
            change = ViewChange(self._version, old, new)
            self._broadcast.publish(change, self._version)
            self._notifier.enqueue(change)
            return new, self._version, change

    # --- watching -------------------------------------------------------------------------------------------------

    def subscribe(
        self, *, since: int | None = None, buffer: int | None = None, on_lag: OnLag = "raise"
    ) -> Subscription[ViewChange[T]]:
        """Return an iterator over the changes of the value from now on.

        Args:
            since: Not kept by views: only None, or the current version.
            buffer: How many unread changes are kept for it.
            on_lag: What happens when it falls behind.

        Raises:
            ValueError: *since* is another version than the current one.
        """
        self._attach()
        with self._lock:
            if since is not None and since != self.version:
                raise ValueError("a view keeps no history; subscribe without since")
            return self._broadcast.subscribe(buffer=buffer, on_lag=on_lag, resync=self._resync, since=self._version)

    def _resync(self, _last: int) -> ViewChange[T]:
        return ViewChange(self._version, self._value, self._value)

    async def watch(self) -> AsyncIterator[T]:
        """Iterate over the newest value: the current one first, then after each burst of changes."""
        subscription = self.subscribe(buffer=1, on_lag="resync")
        yield self.value
        async with subscription:
            async for change in subscription:
                yield change.new_state

    def on_change(self, function: Callable[[ViewChange[T]], Any]) -> Callable[[], None]:
        """Call *function* after each change of the value; return the function that ends this."""
        self._attach()
        return self._notifier.on_change(function)

    @property
    def changed(self) -> Signal:
        """The blinker signal, sent as ``changed.send(view, change=change)``."""
        self._attach()
        return self._notifier.changed

    def _attach(self) -> None:
        """Listen to the containers below, from the first listener on."""
        with self._lock:
            if self._detach is None and not self._closed:
                self._compute()
                self._detach = [_graph_of(root).add(self) for root in _roots(self)]

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
    return a is b or (type(a) is type(b) and bool(a == b))


def _reading(source: Any) -> Any:
    return source.value if isinstance(source, View) else source.state


def _roots(view: View[Any]) -> list[Observable[Any]]:
    found: dict[int, Observable[Any]] = {}
    for source in view._sources:
        for root in _roots(source) if isinstance(source, View) else [source]:
            found[id(root)] = root
    return list(found.values())


class _Graph:
    """The views over one container, by height: one callback refreshes them all, lowest first."""

    def __init__(self, root: Observable[Any]) -> None:
        self._views: list[View[Any]] = []
        root._notifier.on_change(self._run)

    def add(self, view: View[Any]) -> Callable[[], None]:
        self._views = sorted([*self._views, view], key=lambda one: one._height)

        def undo() -> None:
            self._views = [one for one in self._views if one is not view]

        return undo

    def _run(self, _change: Any) -> None:
        views = self._views
        for view in views:
            view._refresh()
        for view in views:
            view._notifier.drain()


_graphs = threading.Lock()


def _graph_of(root: Observable[Any]) -> _Graph:
    with _graphs:
        graph: _Graph | None = root.__dict__.get("_views")
        if graph is None:
            graph = _Graph(root)
            root.__dict__["_views"] = graph
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
    """
    return View((source,), fn, equal)


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
        TypeError: There is no source, or no function.
    """
    if fn is None:
        if not sources or isinstance(sources[-1], View | Observable):
            raise TypeError("derive needs a function: derive(a, b, fn=lambda a, b: ...)")
        sources, fn = sources[:-1], sources[-1]
    if not sources or not all(isinstance(source, View | Observable) for source in sources):
        raise TypeError("derive needs containers or views to compute from")
    return View(sources, fn, equal)
