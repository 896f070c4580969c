"""StateChange, VersionedState and StateMetadata: what a commit leaves behind.

A change keeps what it did (a few edits) and the change that followed it, not the states: those are rebuilt from the
nearest state that is still held, by undoing what came after. Whatever costs time is made when it is asked for.
"""

from __future__ import annotations

import threading
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast
from uuid import UUID

import uuid_utils

from reactstate.clock import to_datetime
from reactstate.codec import checksum
from reactstate.errors import StateNotFoundError
from reactstate.state.document import from_document, states_equal, to_document
from reactstate.state.edits import apply_edits, invert_edits, render
from reactstate.state.fieldtypes import kind_of
from reactstate.state.patch import replay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reactstate.state.edits import Edit
    from reactstate.state.patch import Patch
    from reactstate.state.state import State

__all__ = ["ChangeType", "Origin", "StateChange", "StateMetadata", "VersionedState"]

S = TypeVar("S", bound="State")

_identity = threading.Lock()
_NO_TAGS: Final = MappingProxyType[str, Any]({})


class ChangeType(StrEnum):
    """What kind of change made a version."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    ROLLBACK = "rollback"


class _Dropped:
    """Stands for a state that is rebuilt when it is asked for."""

    __slots__ = ()


DROPPED: Any = _Dropped()


class Origin:
    """Where changes that were read from a journal take their states from.

    Attributes:
        cls: The state type as it is today.
        schema: The schema versions that the documents were written under.
        raw: Whether the raw document after the last change is kept; else it is made of that change's state.
    """

    __slots__ = ("_end", "cls", "raw", "schema")

    def __init__(self, cls: type[Any], schema: dict[str, int], document: Any = None, *, raw: bool = False) -> None:
        self.raw: bool = raw
        self.cls: type[Any] = cls
        self.schema: dict[str, int] = schema
        self._end: tuple[StateChange[Any] | None, Any] = (None, document)

    @property
    def last(self) -> StateChange[Any] | None:
        """The newest change of this run of records."""
        return self._end[0]

    @property
    def document(self) -> Any:
        """The raw document after the newest change, if it is kept."""
        return self._end[1]

    def end(self, last: StateChange[Any], document: Any) -> None:
        """Say which change is the newest, once it is linked to those before, and the document after it, if it is kept.

        The document is never changed in place: other threads may be reading it.
        """
        self._end = (last, document)

    def document_at(self, change: StateChange[Any]) -> Any:
        """Return the raw document after *change*, as a copy of one's own."""
        while True:
            last, document = self._end
            if last is not None and last._version >= change._version:
                break  # else a follower is just about to take *change* over, in another thread
        later: list[StateChange[Any]] = []
        one: StateChange[Any] | None = change
        while one is not None and one is not last:
            one = one._next
            if one is not None:
                later.append(one)
        document = _copied(document) if self.raw else _newest(last)
        for one in reversed(later):
            document, _ = replay(document, one.inverse)
        return document


def _newest(last: StateChange[Any]) -> Any:
    state = last._state if last._state is not DROPPED else last._rebuilt()
    return None if state is None else to_document(state)


def _copied(document: Any) -> Any:
    whole: Any = document
    if isinstance(document, dict):
        return {key: _copied(part) for key, part in whole.items()}
    if isinstance(document, list):
        return [_copied(part) for part in whole]
    return document


class StateChange(Generic[S]):
    """One committed change (read-only).

    Attributes:
        version: The version that it made.
        change_type: What kind of change it was.
        actor: Who made it, or None.
        action: What was done: the name given, else the recipe's own name unless it is a lambda.
        tags: The tags given; empty when none were.
    """

    __slots__ = (
        "__weakref__",
        "_actor",
        "_edits",
        "_id",
        "_next",
        "_origin",
        "_patches",
        "_state",
        "_tags",
        "_target",
        "_timestamp_ns",
        "_type",
        "_version",
        "_what",
    )

    def __init__(
        self,
        version: int,
        change_type: ChangeType,
        state: S | None,
        edits: list[Edit],
        timestamp_ns: int,
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        target: int | None = None,
    ) -> None:
        self._version = version
        self._type = change_type
        self._state = state
        self._edits = edits
        self._timestamp_ns = timestamp_ns
        self._actor = actor
        self._what = action
        self._tags = tags
        self._target = target
        self._id: str | None = None
        self._next: StateChange[S] | None = None
        self._origin: Origin | None = None
        self._patches: tuple[Patch, Patch] | None = None

    @classmethod
    def stored(
        cls,
        version: int,
        change_type: ChangeType,
        timestamp_ns: int,
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        target: int | None,
        change_id: str,
        patch: Patch,
        inverse: Patch,
        origin: Origin,
    ) -> StateChange[S]:
        """Return a change that was read from a journal."""
        made: StateChange[S] = cls(version, change_type, DROPPED, [], timestamp_ns, actor, action, tags, target)
        made._id = change_id
        made._patches = (patch, inverse)
        made._origin = origin
        return made

    @property
    def version(self) -> int:
        """The version that this change made; versions start at 1."""
        return self._version

    @property
    def change_type(self) -> ChangeType:
        """What kind of change it was."""
        return self._type

    @property
    def actor(self) -> str | None:
        """Who made it, or None."""
        return self._actor

    @property
    def action(self) -> str | None:
        """What was done: the name given, else the recipe's own name unless it is a lambda."""
        return self._what

    @property
    def tags(self) -> Mapping[str, Any]:
        """The tags given; empty when none were."""
        return _NO_TAGS if self._tags is None else MappingProxyType(self._tags)

    @property
    def timestamp(self) -> datetime:
        """When it was made (aware, UTC)."""
        return to_datetime(self._timestamp_ns)

    @property
    def change_id(self) -> UUID:
        """The UUIDv7 of this change, the same whenever and wherever it is read."""
        return UUID(self.change_id_hex)

    @property
    def change_id_hex(self) -> str:
        """``change_id`` as 32 hexadecimal digits."""
        if self._id is None:
            with _identity:
                if self._id is None:
                    self._id = uuid_utils.uuid7(nanoseconds=max(self._timestamp_ns, 0)).hex
        return self._id

    @property
    def new_state(self) -> S | None:
        """The state after this change; None when it deleted the state."""
        state = self._state
        if state is not DROPPED:
            return state
        origin = self._origin
        if origin is None or (self is origin.last and not origin.raw):
            return self._rebuilt()
        return cast("S | None", _read(origin, origin.document_at(self)))

    @property
    def old_state(self) -> S | None:
        """The state before this change; None when there was none."""
        if self._origin is not None:
            document, _ = replay(self._origin.document_at(self), self.inverse)
            return cast("S | None", _read(self._origin, document))
        state: S | None = apply_edits(self.new_state, invert_edits(self._edits))
        return state

    def _rebuilt(self) -> S | None:
        """Undo what came after, from the nearest state that is held."""
        later: list[StateChange[S]] = []
        one = self
        while True:
            following = one._next
            if following is None:
                raise StateNotFoundError(f"version {self._version} is not connected to a state any more")
            if following._origin is not None:  # a follower read it from the journal: it has patches, no edits
                state = following.old_state
                break
            later.append(following)
            state = following._state
            if state is not DROPPED:
                break
            one = following
        edits = [edit for change in reversed(later) for edit in invert_edits(change._edits)]
        rebuilt: S | None = apply_edits(state, edits)
        return rebuilt

    @property
    def patch(self) -> Patch:
        """The JSON Patch (RFC 6902) from the old document to the new one."""
        if self._patches is not None:
            return self._patches[0]
        return self._render(self._edits, lambda: self.old_state)

    @property
    def inverse(self) -> Patch:
        """The JSON Patch from the new document back to the old one."""
        if self._patches is not None:
            return self._patches[1]
        return self._render(invert_edits(self._edits), lambda: self.new_state)

    def _render(self, edits: list[Edit], before: Any) -> Patch:
        if len(edits) == 1 and isinstance(edits[0], tuple) and edits[0][0] is None:
            _, old, new = edits[0]
            if new is None:
                return [{"op": "replace", "path": "", "value": None}]
            return [{"op": "add" if old is None else "replace", "path": "", "value": to_document(new)}]
        state = self._state if self._state is not None and self._state is not DROPPED else self.new_state
        return [] if state is None else render(edits, kind_of(type(state)), before)

    def __repr__(self) -> str:
        said = "".join(
            f", {name}={value!r}"
            for name, value in (("actor", self.actor), ("action", self.action))
            if value is not None
        )
        return f"StateChange(version={self.version}, {self.change_type.name}{said})"


def _read(origin: Origin, document: Any) -> Any:
    return None if document is None else from_document(origin.cls, document, origin.schema)


class StateMetadata:
    """What is known of a version beside its state (read-only).

    Attributes:
        version: The version.
        created_at: When the state was created (aware, UTC).
        updated_at: When this version was made (aware, UTC).
        tags: The tags of the change that made it.
        checksum: The checksum of its canonical document, the same in every format and on every machine.
    """

    __slots__ = ("_checksum", "_state", "created_at", "tags", "updated_at", "version")

    def __init__(
        self, version: int, created_at: datetime, updated_at: datetime, tags: Mapping[str, Any], state: Any
    ) -> None:
        self.version: int = version
        self.created_at: datetime = created_at
        self.updated_at: datetime = updated_at
        self.tags: Mapping[str, Any] = tags
        self._state = state
        self._checksum: str | None = None

    @property
    def checksum(self) -> str:
        """The checksum of the canonical document; made when it is asked for."""
        if self._checksum is None:
            self._checksum = checksum(None if self._state is None else to_document(self._state))
        return self._checksum

    def __repr__(self) -> str:
        return f"StateMetadata(version={self.version}, updated_at={self.updated_at.isoformat()})"


class VersionedState(Generic[S]):
    """A state with its version (read-only).

    It keeps nothing alive but its state, so that holding one costs no more as the container goes on.

    Attributes:
        version: The version; 0 when nothing was stored yet.
        transaction_id: The transaction that wrote it, or None.
    """

    __slots__ = ("_created_ns", "_metadata", "_state", "_tags", "_timestamp_ns", "transaction_id", "version")

    def __init__(
        self, state: S | None, change: StateChange[S], created_ns: int, transaction_id: str | None = None
    ) -> None:
        self._state = state
        self.version: int = change._version
        self._timestamp_ns = change._timestamp_ns
        self._tags = change._tags
        self._created_ns = created_ns
        self.transaction_id: str | None = transaction_id
        self._metadata: StateMetadata | None = None

    @property
    def state(self) -> S:
        """The state.

        Raises:
            StateNotFoundError: This version deleted it, or nothing was stored yet.
        """
        if self._state is None:
            raise StateNotFoundError(
                "nothing is stored yet; set a first state"
                if self.version == 0
                else f"version {self.version} deleted it"
            )
        return self._state

    @property
    def exists(self) -> bool:
        """Whether there is a state: False before the first one and after a delete."""
        return self._state is not None

    @property
    def timestamp(self) -> datetime:
        """When this version was made (aware, UTC)."""
        return to_datetime(self._timestamp_ns)

    @property
    def metadata(self) -> StateMetadata:
        """Times, tags and checksum."""
        if self._metadata is None:
            tags = _NO_TAGS if self._tags is None else MappingProxyType(self._tags)
            self._metadata = StateMetadata(
                self.version, to_datetime(self._created_ns), to_datetime(self._timestamp_ns), tags, self._state
            )
        return self._metadata

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VersionedState):
            return NotImplemented
        mine, theirs = self._state, cast("VersionedState[State]", other)._state
        if self.version != other.version or mine is None or theirs is None:
            return self.version == other.version and mine is theirs
        return states_equal(mine, theirs)

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"VersionedState(version={self.version}, state={self._state!r})"
