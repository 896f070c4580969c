"""AtomicState: the container for threads.

Guarantees
    Readers never wait: ``state`` is one attribute. An update runs its recipe outside any lock and takes effect only if
    nobody else committed meanwhile; else it runs again on the newer state. Recipes must therefore be pure.
    Subscribers and callbacks see the changes in the order of their versions, from whichever thread they come. A
    callback may be called by another thread than the one that made its change, after that thread's update returned.

Source
    Clojure's atom; the compare-and-swap is a lock held for a few attribute assignments.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

import uuid_utils

from reactstate.clock import Clock, SystemClock, to_datetime
from reactstate.errors import ClosedError, ConflictError, StateNotFoundError, StateValidationError, WrongContextError
from reactstate.state.change import DROPPED, ChangeType, StateChange, VersionedState
from reactstate.state.config import StateConfig
from reactstate.state.derive import select
from reactstate.state.document import states_equal, to_document
from reactstate.state.history import check_version, version_text
from reactstate.state.observable import Observable
from reactstate.state.patch import diff
from reactstate.state.produce import OpenDraft, check_state_value, run_recipe
from reactstate.state.snapshot import SnapshotInfo, check_snapshot_name, no_snapshot
from reactstate.state.state import State
from reactstate.state.timeline import Plan, Timeline, action_of, check_labels, check_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from datetime import datetime
    from typing import Self

    from reactstate.state.derive import View
    from reactstate.state.edits import Edit
    from reactstate.state.patch import Patch
    from reactstate.state.produce import Recipe
    from reactstate.state.timeline import Planner

__all__ = ["AtomicState"]

S = TypeVar("S", bound=State)
Ts = TypeVarTuple("Ts")
T = TypeVar("T")


_CLOSED = "this container was closed; its state can still be read"
_IN_RECIPE = (
    "a recipe (or validator) of this container is running in this thread; it only changes its draft, "
    "so put what is to follow after the update"
)


class _InRecipe(threading.local):
    """The containers whose recipes this thread is running."""

    def __init__(self) -> None:
        self.containers: list[object] = []


_in_recipe = _InRecipe()


class AtomicState(Observable[S]):
    """A state that many threads read and update, in memory.

    Args:
        initial: The first state; it becomes version 1.
        config: How much history is kept, and so on; snapshots are only taken when they are asked for.
        clock: Tells the time of each change.

    Raises:
        StateValidationError: *initial* is no whole State.
        TypeError: *config* is no StateConfig.

    Example:
        >>> class Counter(State):
        ...     hits: int = 0
        >>> counter = AtomicState(Counter())
        >>> counter.update(lambda draft: setattr(draft, "hits", draft.hits + 1)).version
        2
    """

    def __init__(self, initial: S, *, config: StateConfig | None = None, clock: Clock | None = None) -> None:
        config = config if config is not None else StateConfig()
        if not isinstance(config, StateConfig):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"config is a StateConfig, not a {type(config).__name__}")
        config.check_alone()
        if not isinstance(initial, State):  # pyright: ignore[reportUnnecessaryIsInstance] - states come from callers
            raise StateValidationError(f"a container holds a State, not a {type(initial).__name__}")
        cls = type(initial)
        check_state_value(cls, initial)
        self._clock = clock if clock is not None else SystemClock()
        timeline = Timeline(cls, self._clock, config.history_size, config.history_retention)
        self._lock = threading.RLock()
        self._snapshots: dict[str, tuple[SnapshotInfo, S]] = {}
        self._start(timeline, config.buffer_size, config.on_lag, self._lock)
        timeline.show(timeline.push(ChangeType.CREATE, initial, [(None, None, initial)], None, None, None))

    # --- writing --------------------------------------------------------------------------------------------------

    def update(
        self,
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> VersionedState[S]:
        """Change the state by *recipe* and return what is current then.

        Args:
            recipe: A function of a draft, or a mapping of field names to values. It may run more than once.
            *args: Further arguments for the recipe.
            actor: Who makes the change.
            action: What is done (default: the recipe's name).
            tags: Anything else worth keeping with the change.
            expected_version: Only change this version.

        Raises:
            StateValidationError: A value does not fit.
            TransitionError: ``check_transition`` refused the change.
            ConflictError: The state is not of *expected_version*.
            StateNotFoundError: There is no state.
            TypeError: *recipe* is no recipe, or *expected_version* no int.
            WrongContextError: It was called inside a recipe of the same container, where nothing that writes, nor
                ``close``, can be called.
        """
        check = None if expected_version is None else self._version_check(expected_version)
        return self._update(recipe, args, actor, action, tags, check)

    def compare_and_swap(
        self,
        expected: S | int,
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change the state by *recipe* if it is *expected* (a state or a version), and say whether it was.

        Raises:
            TypeError: *expected* is neither a state nor a version.
        """
        if isinstance(expected, bool) or not isinstance(expected, State | int):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"expected is a state or a version, not a {type(expected).__name__}")
        try:
            self._update(recipe, args, actor, action, tags, lambda head: _expect_same(head, expected))
        except _NotExpectedError:
            return False
        return True

    def set(
        self,
        new_state: S,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> VersionedState[S]:
        """Put a whole new state in place of the current one; after a delete this creates it anew."""
        return self._commit(lambda timeline: timeline.plan_set(new_state), actor, action, tags, expected_version)

    def merge(
        self, other: S, *, actor: str | None = None, action: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> VersionedState[S]:
        """Merge *other* into the state, by the state's own ``merge``.

        Raises:
            MergeUnsupportedError: The class does not define it.
        """
        return self._commit(lambda timeline: timeline.plan_merge(other), actor, action, tags)

    def delete(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> VersionedState[S]:
        """Remove the state; the versions go on."""
        return self._commit(lambda timeline: timeline.plan_delete(), actor, action, tags, expected_version)

    def edit(
        self, *, actor: str | None = None, action: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> contextlib.AbstractContextManager[S]:
        """Give a ``with`` block a draft of the current state, and commit it at its end.

        Nothing is locked: when the state moved meanwhile the block ends with ConflictError. An exception in the block
        discards the draft.
        """
        self._check_call()
        check_labels(actor, action)
        return self._edit(actor, action, check_tags(tags))

    @contextlib.contextmanager
    def _edit(self, actor: str | None, action: str | None, tags: Mapping[str, Any] | None) -> Generator[S]:
        current = self.current
        opened = OpenDraft(current.state)
        try:
            yield cast("S", opened.draft)
        except BaseException:
            opened.discard()
            raise
        with self._recipe():
            state, edits = opened.finish()
        self._commit(
            lambda _: Plan(ChangeType.UPDATE, state, edits) if edits else None, actor, action, tags, current.version
        )

    def rollback(
        self,
        steps: int = 1,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> VersionedState[S]:
        """Come back to the version *steps* before the current one, as a new version.

        Raises:
            TypeError: *steps* is no int.
            ValueError: *steps* is less than 1.
            NoHistoricalState: That version is not kept.
        """
        return self._commit(lambda timeline: timeline.plan_rollback(steps), actor, action, tags)

    def rollback_to(
        self,
        version: int,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> VersionedState[S]:
        """Come back to *version*, as a new version.

        Raises:
            TypeError: *version* is no int.
            NoHistoricalState: It is not kept.
        """
        return self._commit(lambda timeline: timeline.plan_rollback_to(version), actor, action, tags)

    def undo(self, *, actor: str | None = None, tags: Mapping[str, Any] | None = None) -> VersionedState[S]:
        """Revert the newest change that is neither undo nor redo nor already undone."""
        return self._commit(lambda timeline: timeline.plan_undo(), actor, None, tags)

    def redo(self, *, actor: str | None = None, tags: Mapping[str, Any] | None = None) -> VersionedState[S]:
        """Bring back the change that was undone last."""
        return self._commit(lambda timeline: timeline.plan_redo(), actor, None, tags)

    @contextlib.contextmanager
    def _recipe(self) -> Generator[None]:
        """Mark this thread as running code that must not write to this container."""
        _in_recipe.containers.append(self)
        try:
            yield
        finally:
            _in_recipe.containers.pop()

    def _version_check(self, expected: int) -> Callable[[StateChange[S]], None]:
        check_version(expected, "expected_version")

        def check(head: StateChange[S]) -> None:
            if head._version != expected:
                raise ConflictError(
                    f"version {version_text(expected)} was expected, but the state is at version {head._version}; "
                    "read it and try again",
                    current=self.current,
                )

        return check

    def _check_recipe(self) -> None:
        running = _in_recipe.containers
        if running and any(container is self for container in running):
            raise WrongContextError(_IN_RECIPE)

    def _check_call(self) -> None:
        self._check_recipe()
        if self._closed:
            raise ClosedError(_CLOSED)

    def _update(
        self,
        recipe: Recipe,
        args: tuple[Any, ...],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        check: Callable[[StateChange[S]], None] | None,
    ) -> VersionedState[S]:
        """Run *recipe* on the newest state, and take effect if it is still the newest; without a view of the rest."""
        self._check_call()
        if actor is not None or action is not None:
            check_labels(actor, action)
        if tags is not None:
            tags = check_tags(tags)
        timeline, running = self._timeline, _in_recipe.containers
        name = action if action is not None else action_of(recipe)
        while True:
            head = timeline.head
            base = head._state
            if base is DROPPED:  # so many changes were made since that another is the head
                continue
            if check is not None:
                check(head)
            if base is None:
                raise StateNotFoundError(f"the state was deleted in version {head._version}; set a new one")
            running.append(self)
            try:
                state, edits = run_recipe(base, recipe, args)
            finally:
                running.pop()
            if state is base:
                shown = timeline.current()
                if shown.version == head._version:
                    return shown
                continue
            with self._lock:
                if self._closed:
                    raise ClosedError(_CLOSED)
                if timeline.head is not head:
                    continue
                change = timeline.advance(state, edits, actor, name, tags)
                shown = VersionedState(state, change, timeline._created_ns)
                self._broadcast.publish(change, change._version)
                self._notifier.enqueue(change)
            self._notifier.drain()
            return shown

    def _commit(
        self,
        planner: Planner[S],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        expected_version: int | None = None,
    ) -> VersionedState[S]:
        """Plan on a view of the newest state, and take effect if it is still the newest."""
        self._check_call()
        check_labels(actor, action)
        tags = check_tags(tags)
        while True:
            view = self._view()
            if expected_version is not None:
                view.expect_version(expected_version)
            with self._recipe():
                plan = planner(view)
            if plan is None:
                current = self._timeline.current()
                if current.version == view.version:
                    return current
                continue
            name = action if action is not None else plan.action
            shown = self._swap(view.head, plan.change_type, plan.state, plan.edits, actor, name, tags, plan.target)
            if shown is not None:
                return shown

    def _swap(
        self,
        head: StateChange[S],
        change_type: ChangeType,
        state: S | None,
        edits: list[Edit],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        target: int | None = None,
    ) -> VersionedState[S] | None:
        """Make the next version if *head* is still the newest; None if it is not."""
        timeline = self._timeline
        with self._lock:
            if self._closed:
                raise ClosedError(_CLOSED)
            if timeline.head is not head:
                return None
            change = timeline.push(change_type, state, edits, actor, action, tags, target)
            shown = timeline.show(change)
            self._broadcast.publish(change, change._version)
            self._notifier.enqueue(change)
        self._notifier.drain()
        return shown

    def _view(self) -> Timeline[S]:
        with self._lock:
            return self._timeline.view()

    # --- snapshots ------------------------------------------------------------------------------------------------

    def snapshot(self, name: str = "") -> SnapshotInfo:
        """Keep the current state under *name* for as long as this container lives, or until it is deleted.

        Raises:
            StateNotFoundError: There is no state.
        """
        self._check_call()
        check_snapshot_name(name)
        current = self.current
        now_ns = self._clock.time_ns()
        made = uuid_utils.uuid7(nanoseconds=max(now_ns, 0)).hex
        info = SnapshotInfo(made, name, current.version, to_datetime(now_ns), automatic=False)
        self._snapshots[made] = (info, current.state)
        return info

    def restore(
        self, snapshot_id: str, *, actor: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> VersionedState[S]:
        """Come back to the state of a snapshot, as a new version.

        Raises:
            SnapshotNotFoundError: No snapshot has that id.
        """
        self._check_call()
        found = self._snapshots.get(snapshot_id) if isinstance(snapshot_id, str) else None  # pyright: ignore[reportUnnecessaryIsInstance] - ids come from callers
        if found is None:
            raise no_snapshot(snapshot_id)
        state = found[1]
        return self._commit(lambda timeline: timeline.plan_return(state, "restore"), actor, None, tags)

    def list_snapshots(self) -> list[SnapshotInfo]:
        """Return the snapshots, oldest first."""
        return [info for info, _ in list(self._snapshots.values())]

    def delete_snapshot(self, snapshot_id: str) -> bool:
        """Remove a snapshot; say whether it was there."""
        self._check_call()
        if not isinstance(snapshot_id, str):  # pyright: ignore[reportUnnecessaryIsInstance] - ids come from callers
            return False
        return self._snapshots.pop(snapshot_id, None) is not None

    # --- reading --------------------------------------------------------------------------------------------------

    def at(self, version: int | datetime) -> S:
        """Return the state at a version, or the one that was current at a point in time.

        Raises:
            NoHistoricalState: It is not kept.
            StateNotFoundError: It was deleted then.
            TypeError: *version* is neither an int nor a datetime.
            ValueError: The point in time has no time zone.
        """
        return self._view().at(version)

    def diff(self, old: int, new: int) -> Patch:
        """Return the JSON Patch from version *old* to version *new*.

        Raises:
            NoHistoricalState: One of them is not kept.
            StateNotFoundError: The state was deleted in one of them.
        """
        view = self._view()
        return diff(to_document(view.at(old)), to_document(view.at(new)))

    def get(self, consistency: Any = None) -> S:  # noqa: ARG002 - every read of memory is as strong as can be
        """Return the state; it is always current, whatever *consistency* asks."""
        return self.state

    def select(self, fn: Callable[[S], T], *, equal: Callable[[T, T], bool] | None = None) -> View[T]:
        """Return the view ``fn(state)``, which announces a change when its value differs."""
        return select(self, fn, equal=equal)

    # --- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all subscriptions; the state can still be read.

        Raises:
            WrongContextError: It was called inside a recipe of this container.
        """
        self._check_recipe()
        with self._lock:
            self._closed = True
        self._end_watching()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AtomicState({self._timeline.cls.__name__}, version={self.version})"


class _NotExpectedError(ConflictError):
    """What ``compare_and_swap`` expected is not there; told apart from a recipe's own ConflictError."""


def _expect_same(head: StateChange[Any], expected: State | int) -> None:
    if isinstance(expected, int):
        same = head._version == expected
    else:
        state = head.new_state
        same = state is not None and states_equal(state, expected)
    if not same:
        raise _NotExpectedError("the state is not the expected one")
