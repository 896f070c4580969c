"""AtomicState: the container for threads.

Guarantees
    Readers never wait: ``state`` is one attribute. An update runs its recipe outside any lock and takes effect only if
    nobody else committed meanwhile; else it runs again on the newer state. Recipes must therefore be pure.
    Subscribers and callbacks see the changes in the order of their versions, from whichever thread they come.

Source
    Clojure's atom; the compare-and-swap is a lock held for a few attribute assignments.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from reactstate.clock import Clock, SystemClock
from reactstate.errors import ClosedError, ConflictError, WrongContextError
from reactstate.state.change import ChangeType, VersionedState
from reactstate.state.config import StateConfig
from reactstate.state.document import states_equal, to_document
from reactstate.state.observable import Observable
from reactstate.state.patch import diff
from reactstate.state.produce import check_state_value
from reactstate.state.state import State
from reactstate.state.timeline import Timeline, check_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from typing import Self

    from reactstate.state.patch import Patch
    from reactstate.state.produce import Recipe
    from reactstate.state.timeline import Plan

__all__ = ["AtomicState"]

S = TypeVar("S", bound=State)


class _InRecipe(threading.local):
    def __init__(self) -> None:
        self.containers: list[object] = []


_in_recipe = _InRecipe()


class AtomicState(Observable[S]):
    """A state that many threads read and update, in memory.

    Args:
        initial: The first state; it becomes version 1.
        config: How much history is kept, and so on.
        clock: Tells the time of each change.

    Example:
        >>> class Counter(State):
        ...     hits: int = 0
        >>> counter = AtomicState(Counter())
        >>> counter.update(lambda draft: setattr(draft, "hits", draft.hits + 1)).version
        2
    """

    def __init__(self, initial: S, *, config: StateConfig | None = None, clock: Clock | None = None) -> None:
        config = config if config is not None else StateConfig()
        cls = type(initial)
        check_state_value(cls, initial)
        timeline = Timeline(cls, clock or SystemClock(), config.history_size, config.history_retention)
        self._lock = threading.RLock()
        self._start(timeline, config.buffer_size, config.on_lag, self._lock)
        timeline.show(timeline.push(ChangeType.CREATE, initial, [(None, None, initial)], None, None, None))

    # --- writing --------------------------------------------------------------------------------------------------

    def update(
        self,
        recipe: Recipe,
        *args: Any,
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
        """
        return self._commit(
            lambda timeline: timeline.plan_update(recipe, args), actor, action, tags, _version_check(expected_version)
        )

    def compare_and_swap(
        self,
        expected: S | int,
        recipe: Recipe,
        *args: Any,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change the state by *recipe* if it is *expected* (a state or a version), and say whether it was."""

        def check(timeline: Timeline[S]) -> None:
            if isinstance(expected, int):
                timeline.expect_version(expected)
            elif timeline.tip_state is None or not states_equal(timeline.tip_state, expected):
                raise ConflictError("the state is not the expected one", current=timeline.tip_as_current())

        try:
            self._commit(lambda timeline: timeline.plan_update(recipe, args), actor, action, tags, check)
        except ConflictError:
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
        return self._commit(
            lambda timeline: timeline.plan_set(new_state), actor, action, tags, _version_check(expected_version)
        )

    def merge(
        self, other: S, *, actor: str | None = None, action: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> VersionedState[S]:
        """Merge *other* into the state, by the state's own ``merge``."""
        return self._commit(lambda timeline: timeline.plan_merge(other), actor, action, tags)

    def delete(
        self, *, actor: str | None = None, action: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> VersionedState[S]:
        """Remove the state; the versions go on."""
        return self._commit(lambda timeline: timeline.plan_delete(), actor, action, tags)

    def rollback(
        self, steps: int = 1, *, actor: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> VersionedState[S]:
        """Come back to the version *steps* before the current one, as a new version."""
        return self._commit(lambda timeline: timeline.plan_rollback(steps), actor, None, tags)

    def rollback_to(
        self, version: int, *, actor: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> VersionedState[S]:
        """Come back to *version*, as a new version."""
        return self._commit(lambda timeline: timeline.plan_rollback_to(version), actor, None, tags)

    def undo(self, *, actor: str | None = None, tags: Mapping[str, Any] | None = None) -> VersionedState[S]:
        """Revert the newest change that is neither undo nor redo nor already undone."""
        return self._commit(lambda timeline: timeline.plan_undo(), actor, None, tags)

    def redo(self, *, actor: str | None = None, tags: Mapping[str, Any] | None = None) -> VersionedState[S]:
        """Bring back the change that was undone last."""
        return self._commit(lambda timeline: timeline.plan_redo(), actor, None, tags)

    def _commit(
        self,
        planner: Callable[[Timeline[S]], Plan[S] | None],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        check: Callable[[Timeline[S]], None] | None = None,
    ) -> VersionedState[S]:
        """Plan on a view of the newest state, and take effect if it is still the newest."""
        if any(container is self for container in _in_recipe.containers):
            raise WrongContextError("an update inside a recipe of the same container; change the draft instead")
        tags = check_tags(tags)
        timeline = self._timeline
        while True:
            with self._lock:
                if self._closed:
                    raise ClosedError("this container was closed")
                view = timeline.view()
            if check is not None:
                check(view)
            _in_recipe.containers.append(self)
            try:
                plan = planner(view)
            finally:
                _in_recipe.containers.pop()
            with self._lock:
                if timeline.version != view.version:
                    continue
                if plan is None:
                    return timeline.current()
                change = timeline.push(
                    plan.change_type, plan.state, plan.edits, actor, action or plan.action, tags, plan.target
                )
                made = timeline.show(change)
                self._broadcast.publish(change, change.version)
                self._notifier.enqueue(change)
            self._notifier.drain()
            return made

    # --- looking back ---------------------------------------------------------------------------------------------

    def at(self, version: int | datetime) -> S:
        """Return the state at a version, or the one that was current at a point in time.

        Raises:
            NoHistoricalState: It is not kept.
            StateNotFoundError: It was deleted then.
        """
        return self._timeline.view().at(version)

    def diff(self, old: int, new: int) -> Patch:
        """Return the JSON Patch from version *old* to version *new*."""
        return diff(to_document(self.at(old)), to_document(self.at(new)))

    def close(self) -> None:
        """End all subscriptions; the state can still be read."""
        with self._lock:
            self._closed = True
            self._broadcast.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AtomicState(version={self.version}, state={self._timeline.state!r})"


def _version_check(expected: int | None) -> Callable[[Timeline[Any]], None] | None:
    return None if expected is None else lambda timeline: timeline.expect_version(expected)
