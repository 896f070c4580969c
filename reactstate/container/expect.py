"""What the caller of a write may expect of the state that it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reactstate.errors import ConflictError, UnsupportedError
from reactstate.state.document import states_equal
from reactstate.state.history import check_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard
    from reactstate.state.state import State
    from reactstate.state.timeline import Timeline

__all__ = ["NotExpectedError", "check_guarded", "expect_same", "expect_version"]


class NotExpectedError(ConflictError):
    """What ``compare_and_swap`` expected is not there; told apart from a recipe's own ConflictError."""


def check_guarded(guard: Guard, store: KeyValueStore | None) -> None:
    """Refuse a guard that could not be checked in the commits to *store*.

    Raises:
        UnsupportedError: There is no store, or it is a lock of another one.
    """
    if store is None:
        raise UnsupportedError(
            "guard= needs a lock in the same store as the state; this container has no store",
            layer="container",
            capability="FENCING",
        )
    from reactstate.locks.guard import check_guard

    check_guard(guard, store)


def expect_version(expected: int | None) -> Callable[[Timeline[Any]], None] | None:
    """Return what refuses a tip of another version than *expected*; None expects nothing."""
    if expected is None:
        return None
    version = check_version(expected, "expected_version")
    return lambda timeline: timeline.expect_version(version)


def expect_same(expected: State | int) -> Callable[[Timeline[Any]], None]:
    """Return what refuses a tip that is not *expected*, a state or a version."""

    def check(timeline: Timeline[Any]) -> None:
        state = timeline.tip_state
        if isinstance(expected, int):
            same = timeline.tip_version == expected
        else:
            same = state is not None and states_equal(state, expected)
        if not same:
            raise NotExpectedError("the state is not the expected one; read it and try again")

    return check
