"""Timeline: versions in a row, and what it takes to make the next one.

It is pure and knows nothing of loops, locks or disks. The *head* is what everybody sees; the *tip* is where the next
change starts from. They are the same, except while changes wait in a container for their flush.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from reactstate.errors import ConflictError, StateNotFoundError, StateValidationError
from reactstate.state.change import DROPPED, ChangeType, StateChange, VersionedState
from reactstate.state.fieldtypes import kind_of
from reactstate.state.history import HELD, History, check_steps, check_version, version_text
from reactstate.state.models import new_object
from reactstate.state.produce import check_state_value, edit_between, run_recipe
from reactstate.state.state import State

if TYPE_CHECKING:
    from datetime import timedelta

    from reactstate.clock import Clock
    from reactstate.state.edits import Edit
    from reactstate.state.models import ModelKind

__all__ = ["Plan", "Planner", "Timeline", "action_of", "check_labels", "check_tags"]

S = TypeVar("S", bound=State)

_CREATE = ChangeType.CREATE
_UPDATE = ChangeType.UPDATE


class Plan(Generic[S]):
    """What the next change is to be.

    Attributes:
        change_type: Its type.
        state: The state after it; None for a delete.
        edits: What it does.
        action: What to call it when the caller gave no name.
        target: The version that an undo or redo concerns.
    """

    __slots__ = ("action", "change_type", "edits", "state", "target")

    def __init__(
        self,
        change_type: ChangeType,
        state: S | None,
        edits: list[Edit],
        action: str | None = None,
        target: int | None = None,
    ) -> None:
        self.change_type: ChangeType = change_type
        self.state: S | None = state
        self.edits: list[Edit] = edits
        self.action: str | None = action
        self.target: int | None = target

    @classmethod
    def update(cls, state: S, edits: list[Edit]) -> Plan[S]:
        """Return the plan of an update."""
        return cls(ChangeType.UPDATE, state, edits)


def action_of(recipe: Any) -> str | None:
    """Return the name of a recipe that is a function with a name."""
    name = getattr(recipe, "__name__", None)
    return name if type(name) is str and name != "<lambda>" else None


def check_tags(tags: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a copy of the tags of a change.

    Raises:
        StateValidationError: A key is not a str, or a value is not a str, an integer of 64 bits, a finite float, a
            bool or None. Subclasses of them are refused, since not every format can store them.
    """
    if tags is None:
        return None
    if not isinstance(tags, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - tags come from callers
        raise StateValidationError(f"tags are a mapping of names to values, not a {type(tags).__name__}")
    for name, value in tags.items():
        if not _is_text(name):
            raise StateValidationError(
                "the name of a tag is a str without lone surrogates, and of no subclass; "
                f"this {type(name).__name__} cannot be stored"
            )
        if not _is_tag(value):
            raise StateValidationError(
                f"tag {name!r}: tags are text with text, an integer of 64 bits, a finite float, a bool or None; "
                f"this {type(value).__name__} cannot be stored"
            )
    return dict(tags)


def check_labels(actor: Any, action: Any) -> None:
    """Refuse an actor or action that could not be stored.

    Raises:
        StateValidationError: One of them is neither a str nor None; a subclass of str is refused, since not every
            format can store it.
    """
    for name, value in (("actor", actor), ("action", action)):
        if value is not None and not _is_text(value):
            raise StateValidationError(
                f"{name} is a str without lone surrogates, and of no subclass, or None; "
                f"this {type(value).__name__} cannot be stored"
            )


def _is_text(value: Any) -> bool:
    return type(value) is str and (value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value))


def _is_tag(value: Any) -> bool:
    if value is None or type(value) is bool:
        return True
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 63
    if type(value) is float:
        return math.isfinite(value)
    return _is_text(value)


class Timeline(Generic[S]):
    """The versions of one state.

    Args:
        cls: The state type.
        clock: Tells the time of each change.
        history_size: The most changes that are kept.
        history_retention: How long they are kept.
    """

    __slots__ = (
        "_ages",
        "_changes",
        "_created_ns",
        "_extend",
        "_time_ns",
        "cls",
        "head",
        "history",
        "kind",
        "pending",
        "state",
        "tip",
        "tip_state",
        "tip_version",
        "undoable",
        "undone",
        "version",
    )

    def __init__(
        self, cls: type[S], clock: Clock, history_size: int = 1000, history_retention: timedelta | None = None
    ) -> None:
        self.cls: type[S] = cls
        self.kind: ModelKind = kind_of(cls)
        self.history: History[S] = History(history_size, history_retention, clock)
        self._extend = self.history.extend
        self._changes = self.history._changes
        self._ages = history_retention is not None
        self.pending: deque[StateChange[S]] = deque()
        self.state: S | None = None
        self.version: int = 0
        nothing: StateChange[S] = StateChange(0, ChangeType.DELETE, None, [], 0, None, None, None)
        self.head: StateChange[S] = nothing
        self.tip: StateChange[S] = nothing
        self.tip_state: S | None = None
        self.tip_version: int = 0
        self.undoable: list[int] = []
        self.undone: list[int] = []
        self._time_ns = clock.time_ns
        self._created_ns = 0

    # --- the row of versions --------------------------------------------------------------------------------------

    def push(
        self,
        change_type: ChangeType,
        state: S | None,
        edits: list[Edit],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        target: int | None = None,
    ) -> StateChange[S]:
        """Make the next change at the tip; nobody sees it before ``show``."""
        self.tip_version = version = self.tip_version + 1
        self.tip = change = StateChange(
            version, change_type, state, edits, self._time_ns(), actor, action, tags, target
        )
        self.tip_state = state
        if target is None:
            self.undoable.append(version)
            if self.undone:
                self.undone.clear()
        else:
            self._note_undo(change)
        return change

    def show(self, change: StateChange[S]) -> VersionedState[S]:
        """Make *change*, the oldest that is not shown yet, the head; return what everybody sees now."""
        self._extend(change)
        self.head = change
        self.state = state = change._state
        self.version = version = change._version
        if change._type is _CREATE:
            self._created_ns = change._timestamp_ns
        if not version & 1023:
            del self.undoable[: -self.history.size]
        return VersionedState(state, change, self._created_ns)

    def advance(
        self, state: S, edits: list[Edit], actor: str | None, action: str | None, tags: Mapping[str, Any] | None
    ) -> StateChange[S]:
        """Push and show an update at once, when nothing is pending.

        Every update in memory takes this path, so it calls nothing that it can do itself: what ``StateChange`` and
        ``History.extend`` do is written out here.
        """
        self.version = self.tip_version = version = self.tip_version + 1
        change: StateChange[S] = new_object(StateChange)
        change._version = version
        change._type = _UPDATE
        change._state = state
        change._edits = edits
        change._timestamp_ns = self._time_ns()
        change._actor = actor
        change._what = action
        change._tags = tags
        change._target = change._id = change._next = change._origin = change._patches = None
        self.head = self.tip = change
        self.state = self.tip_state = state
        changes = self._changes
        if changes:
            changes[-1]._next = change
            if len(changes) >= HELD:
                changes[-HELD]._state = DROPPED
        changes.append(change)
        if self._ages:
            self.history._expire()
        self.undoable.append(version)
        if self.undone:
            self.undone.clear()
        if not version & 1023:
            del self.undoable[: -self.history.size]
        return change

    def withdraw(self) -> None:
        """Drop all pending changes: the tip is the head again."""
        self.pending.clear()
        self.tip, self.tip_state, self.tip_version = self.head, self.state, self.version
        self.undoable.clear()
        self.undone.clear()
        for change in self.history:
            self._note(change)

    def adopt(self, change: StateChange[S], state: S | None) -> None:
        """Append a change that was made elsewhere or read from a journal; *state* is the state after it."""
        change._state = state
        self._note(change)
        self.tip, self.tip_state, self.tip_version = change, state, change.version
        self.show(change)

    def adopt_run(self, changes: list[StateChange[S]], state: S | None) -> None:
        """Append changes that were made elsewhere, at once; *state* is the state after the last one.

        Nobody sees the states in between as the current one; they are rebuilt when a change is asked for them.
        """
        for change in changes:
            self._note(change)
            self._extend(change)
            if change._type is _CREATE:
                self._created_ns = change._timestamp_ns
        newest = changes[-1]
        newest._state = state
        self.head = self.tip = newest
        self.state = self.tip_state = state
        self.version = self.tip_version = newest._version
        del self.undoable[: -self.history.size]

    def take_over(self, other: Timeline[S]) -> None:
        """Go on from where *other*, which nobody else uses, is, with its history."""
        self.history._changes = self._changes = other.history._changes
        self.undoable, self.undone = other.undoable, other.undone
        self.begin(other.head, other.state, other._created_ns)

    def begin(self, snapshot: StateChange[S], state: S | None, created_ns: int) -> None:
        """Start from a version whose change is not in the history; *snapshot* stands for it."""
        self.head = snapshot
        self.tip = snapshot
        self.version = self.tip_version = snapshot.version
        self.state = self.tip_state = state
        self._created_ns = created_ns

    def restart(self, snapshot: StateChange[S], state: S | None, created_ns: int) -> None:
        """Go on from a newer version; the changes on the way to it are not known, so the history begins anew."""
        self.history.clear()
        self.undoable.clear()
        self.undone.clear()
        self.begin(snapshot, state, created_ns)

    def _note(self, change: StateChange[S]) -> None:
        if change._target is not None:
            self._note_undo(change)
        else:
            self.undoable.append(change._version)
            self.undone.clear()

    def _note_undo(self, change: StateChange[S]) -> None:
        target = change._target
        if target is None:
            return
        source, goal = (self.undoable, self.undone) if change._what == "undo" else (self.undone, self.undoable)
        if source and source[-1] == target:  # else what is kept of the history begins after it
            source.pop()
        goal.append(target)

    def current(self) -> VersionedState[S]:
        """Return the head."""
        while True:
            head = self.head
            state = head._state  # one attribute of one object: no other thread can come between version and state
            if state is not DROPPED:  # else so many changes were shown since that another is the head
                return VersionedState(state, head, self._created_ns)

    def view(self) -> Timeline[S]:
        """Return what everybody sees now, without what is pending; it shares the history.

        Where several threads write, it is called under their lock.
        """
        seen = cast("Timeline[S]", object.__new__(Timeline))
        for name in Timeline.__slots__:
            setattr(seen, name, getattr(self, name))
        seen.tip, seen.tip_state, seen.tip_version = self.head, self.state, self.version
        seen.undoable = self.undoable[-1:]
        seen.undone = self.undone[-1:]
        seen.pending = deque()
        return seen

    def at(self, version: int | datetime) -> S:
        """Return the state at a version or point in time.

        Raises:
            TypeError: *version* is neither an int nor a datetime.
            ValueError: The point in time has no time zone.
            NoHistoricalState: It is not kept.
            StateNotFoundError: It was deleted then.
        """
        if isinstance(version, int) and not isinstance(version, bool):
            state = self.state_at(version)
        elif isinstance(version, datetime):
            state = self.state_at_time(version)
        else:
            raise TypeError(f"a version or a datetime is needed, not a {type(version).__name__}")
        if state is None:
            raise StateNotFoundError(f"the state was deleted at {version}")
        return state

    # --- looking back ---------------------------------------------------------------------------------------------

    def change_at(self, version: int) -> StateChange[S]:
        """Return the change that made *version*, pending ones included.

        Raises:
            NoHistoricalState: It is not kept.
        """
        if self.pending and self.pending[0]._version <= version <= self.tip_version:
            return self.pending[version - self.pending[0]._version]
        return self.history.find(version)

    def state_at(self, version: int) -> S | None:
        """Return the state after *version*; None when that version deleted it.

        Raises:
            NoHistoricalState: It is not kept.
        """
        if version == self.tip_version and version > 0:
            return self.tip_state
        oldest = self.history.oldest_version
        if oldest is not None and version == oldest - 1 and version > 0:
            return self.history[0].old_state
        return self.change_at(version).new_state

    def state_at_time(self, moment: datetime) -> S | None:
        """Return the state that was current at *moment*.

        Raises:
            ValueError: *moment* has no time zone.
            NoHistoricalState: No kept version is that old.
        """
        return self.history.find_time(moment).new_state

    # --- plans: what the next change is to be ---------------------------------------------------------------------

    def need_state(self) -> S:
        """Return the state at the tip.

        Raises:
            StateNotFoundError: There is none.
        """
        if self.tip_state is None:
            raise StateNotFoundError(
                "nothing is stored yet; set a first state"
                if self.tip_version == 0
                else f"the state was deleted in version {self.tip_version}; set a new one"
            )
        return self.tip_state

    def plan_update(self, recipe: Any, args: tuple[Any, ...]) -> Plan[S] | None:
        """Plan what *recipe* does to the tip; None when it changes nothing."""
        base = self.need_state()
        state, edits = run_recipe(base, recipe, args)
        return None if state is base else Plan(_UPDATE, state, edits, action_of(recipe))

    def plan_set(self, new_state: S) -> Plan[S] | None:
        """Plan a whole new state."""
        check_state_value(self.cls, new_state)
        if self.tip_state is None:
            return Plan(ChangeType.CREATE, new_state, [(None, None, new_state)], "set")
        state, edits = edit_between(self.tip_state, new_state)
        return None if state is self.tip_state else Plan(_UPDATE, state, edits, "set")

    def plan_create(self, first: S) -> Plan[S]:
        """Plan the first version."""
        return Plan(ChangeType.CREATE, first, [(None, None, first)])

    def plan_merge(self, other: S) -> Plan[S] | None:
        """Plan the merge of the tip with *other*."""
        base = self.need_state()
        check_state_value(self.cls, other)
        merged = base.merge(other)
        check_state_value(self.cls, merged)
        state, edits = edit_between(base, merged)
        return None if state is base else Plan(ChangeType.MERGE, state, edits, "merge")

    def plan_delete(self) -> Plan[S]:
        """Plan the removal of the state."""
        return Plan(ChangeType.DELETE, None, [(None, self.need_state(), None)], "delete")

    def plan_return(self, state: S | None, action: str, target: int | None = None) -> Plan[S] | None:
        """Plan to come back to *state*, an earlier one."""
        base = self.tip_state
        if base is None or state is None:
            if base is state:
                return None
            return Plan(ChangeType.ROLLBACK, state, [(None, base, state)], action, target)
        found, edits = edit_between(base, state)
        if found is base and target is None:
            return None
        return Plan(ChangeType.ROLLBACK, found, edits, action, target)

    def plan_rollback(self, steps: int) -> Plan[S] | None:
        """Plan to come back to the version *steps* before the tip.

        Raises:
            TypeError: *steps* is no int.
            ValueError: *steps* is less than 1.
            NoHistoricalState: That version is not kept.
        """
        return self.plan_rollback_to(self.tip_version - check_steps(steps))

    def plan_rollback_to(self, version: int) -> Plan[S] | None:
        """Plan to come back to *version*.

        Raises:
            TypeError: *version* is no int.
            NoHistoricalState: It is not kept.
        """
        return self.plan_return(self.state_at(check_version(version)), "rollback")

    def plan_undo(self) -> Plan[S] | None:
        """Plan to revert the newest change that is neither undo nor redo nor already undone."""
        if not self.undoable or self.undoable[-1] <= 1:
            raise self.history.missing("there is nothing left to undo")
        target = self.undoable[-1]
        return self.plan_return(self.change_at(target).old_state, "undo", target)

    def plan_redo(self) -> Plan[S] | None:
        """Plan to bring back the last undone change."""
        if not self.undone:
            raise self.history.missing("there is nothing to redo")
        target = self.undone[-1]
        return self.plan_return(self.change_at(target).new_state, "redo", target)

    def expect_version(self, expected: int) -> None:
        """Refuse when the tip is not of version *expected*.

        Raises:
            TypeError: *expected* is no int.
            ConflictError: It is not.
        """
        if self.tip_version != check_version(expected, "expected_version"):
            raise ConflictError(
                f"version {version_text(expected)} was expected, but the state is at version {self.tip_version}; read it and try again",
                current=self.tip_as_current(),
            )

    def tip_as_current(self) -> VersionedState[S]:
        """Return the tip as a versioned state."""
        created_ns = self._created_ns
        for change in self.pending:
            if change._type is _CREATE:
                created_ns = change._timestamp_ns
        return VersionedState(self.tip_state, self.tip, created_ns)


Planner = Callable[[Timeline[S]], Plan[S] | None]
"""Says what the next change of a timeline is to be; None for no change."""
