"""A container over a disk with faults, step by step beside a toy model that is a list of states and two stacks.

The model predicts the outcome of every call exactly, whole groups of concurrent ones included: which changes share a
flush, which fail with it, and what those answer that were judged by it.
"""

from __future__ import annotations

import asyncio
import copy
import errno
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from reactstate import (
    ConflictError,
    FilePersistence,
    ManualClock,
    NoHistoricalState,
    ReactStateError,
    SnapshotNotFoundError,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    StateValidationError,
    StorageError,
    StorageFailedError,
    TransitionError,
    UnknownOutcomeError,
    apply_patch,
    invert,
    to_document,
)
from reactstate.testing.faults import FaultyFileSystem

Document = dict[str, Any] | None
Call = tuple[Any, ...]


class Shelf(State):
    n: int = 0
    books: dict[str, int] = {}
    order: list[str] = []

    def merge(self, other: Shelf) -> Shelf:
        return Shelf(n=max(self.n, other.n), books={**self.books, **other.books}, order=list(self.order))

    def check_transition(self, previous: Shelf) -> None:
        if self.n < 0:
            raise TransitionError("below zero")


class Odd:
    """A recipe whose name could not be stored, so that the record of its change cannot be written."""

    __name__ = "\ud800"

    def __call__(self, draft: Shelf) -> None:
        draft.n += 7


NAMES = ["a", "b", "c"]


def edit(draft: Any, step: tuple[str, Any]) -> None:
    """Do *step* on a draft."""
    kind, value = step
    if kind == "add":
        draft.n += value
    elif kind == "put":
        draft.books[value] = draft.n
        draft.order.append(value)
    elif kind == "drop":
        draft.books.pop(value, None)
    elif kind == "sort":
        draft.order.sort()
    elif kind == "break":
        raise ZeroDivisionError
    else:
        draft.n = "no number"


def edited(document: dict[str, Any], step: tuple[str, Any]) -> dict[str, Any]:
    """Do *step* on a document; raise what the container is to raise."""
    kind, value = step
    document = copy.deepcopy(document)
    if kind == "add":
        document["n"] += value
    elif kind == "put":
        document["books"][value] = document["n"]
        document["order"].append(value)
    elif kind == "drop":
        document["books"].pop(value, None)
    elif kind == "sort":
        document["order"].sort()
    elif kind == "break":
        raise ZeroDivisionError
    else:
        raise StateValidationError("n")
    return document


class Entry:
    """A version of the model."""

    def __init__(self, version: int, kind: str, action: str | None, document: Document, target: int | None = None):
        self.version = version
        self.kind = kind
        self.action = action
        self.document = document
        self.target = target


class Model:
    """All versions, of which *size* are kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: list[Entry] = []

    def copy(self) -> Model:
        twin = Model(self.size)
        twin.entries = list(self.entries)
        return twin

    @property
    def version(self) -> int:
        return len(self.entries)

    @property
    def document(self) -> Document:
        return self.entries[-1].document if self.entries else None

    @property
    def oldest(self) -> int:
        return max(1, self.version - self.size + 1)

    def at(self, version: int) -> Document:
        if not (0 < version <= self.version and version >= self.oldest - 1):
            raise NoHistoricalState(str(version))
        return self.entries[version - 1].document

    def before(self, version: int) -> Document:
        return self.entries[version - 2].document if version > 1 else None

    def stacks(self) -> tuple[list[int], list[int]]:
        """Return what can be undone and redone, newest last, from the whole row of versions."""
        undoable: list[int] = []
        undone: list[int] = []
        for entry in self.entries:
            if entry.target is None:
                undoable.append(entry.version)
                undone = []
            else:
                source, goal = (undoable, undone) if entry.action == "undo" else (undone, undoable)
                assert source.pop() == entry.target
                goal.append(entry.target)
        return undoable, undone

    def back(self, document: Document, action: str, target: int | None = None) -> Entry | None:
        return None if document == self.document else Entry(self.version + 1, "rollback", action, document, target)

    def next(self, call: Call) -> Entry | None:
        """Return what *call* makes of the newest version, None for nothing; raise what the container is to raise."""
        verb, argument, *more = call
        version, document = self.version + 1, self.document
        if more and more[0] is not None and self.version != self.expected(more[0]):
            raise ConflictError("expectation")
        if verb == "set":
            kind = "create" if document is None else "update"
            return None if argument == document else Entry(version, kind, "set", argument)
        if verb in {"rollback", "rollback_to"}:
            goal = self.version - argument if verb == "rollback" else argument
            return self.back(self.at(goal), "rollback")
        if verb in {"undo", "redo"}:
            stack = self.stacks()[verb == "redo"]
            if not stack or stack[-1] <= 1 or stack[-1] < self.oldest:
                raise NoHistoricalState(verb)
            target = stack[-1]
            return self.back(self.before(target) if verb == "undo" else self.at(target), verb, target)
        if document is None:
            raise StateNotFoundError(verb)
        if verb == "delete":
            return Entry(version, "delete", "delete", None)
        if verb == "merge":
            made = {
                "n": max(document["n"], argument["n"]),
                "books": {**document["books"], **argument["books"]},
                "order": document["order"],
            }
            return None if made == document else Entry(version, "merge", "merge", made)
        if verb == "poison":
            return Entry(version, "update", "poison", {**document, "n": document["n"] + 7})
        made = edited(document, argument)
        if made["n"] < 0:
            raise TransitionError("below zero")
        return None if made == document else Entry(version, "update", "edit", made)

    def expected(self, offset: Literal["right", "wrong"]) -> int:
        raise NotImplementedError


def shelf(document: dict[str, Any]) -> Shelf:
    return Shelf(n=document["n"], books=document["books"], order=document["order"])


steps = st.one_of(
    st.tuples(st.just("add"), st.integers(-1, 3)),
    st.tuples(st.sampled_from(["put", "drop"]), st.sampled_from(NAMES)),
    st.sampled_from([("sort", None), ("break", None), ("spoil", None)]),
)
documents = st.builds(
    lambda n, books, order: {"n": n, "books": books, "order": order},
    st.integers(0, 5),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=2),
    st.lists(st.sampled_from(NAMES), max_size=2),
)
