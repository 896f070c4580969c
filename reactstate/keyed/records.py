"""What is kept of each state, and where: the records of one collection.

Layout
    Each state is one entry, an envelope of the codec that names the schema it was written under. Its document is a
    list: layout number, version, the version and store revision at which the state was created, the change's id, the
    ids of the changes right before it, the times of the change and of the creation, actor, action, tags, and the
    state's own document.

    One more entry for each collection holds its *floor*: the highest version at which a state was deleted. A state is
    created at the version after the floor, in a commit that expects the floor to be unchanged, and deleting one at
    version v raises the floor to v + 1 if it was lower, in the same commit. So the versions of an id never repeat or
    go back, though nothing is kept of an id that was deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import uuid_utils

from reactstate.codec import Codec
from reactstate.errors import CodecError, DecodeError, SchemaVersionError
from reactstate.keyed.ids import Ids
from reactstate.kv.keys import StateKey
from reactstate.kv.protocol import ABSENT, Delete, Put, Step
from reactstate.state.change import ChangeType, StateChange, VersionedState
from reactstate.state.document import from_document, schema_of, to_document
from reactstate.state.kinds import is_array, is_object
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactstate.keyed.ids import Id
    from reactstate.kv.protocol import Entry, Expectation

__all__ = ["Floor", "Labels", "Record", "Records"]

S = TypeVar("S", bound=State)

_NAMESPACE: Final = "~keyed"
_LAYOUT: Final = 1
_PARTS: Final = 12
_REMEMBERED_CHANGES: Final = 8
_RECENT_NS: Final = 60_000_000_000


class Labels:
    """What a change is to be known by: who made it, what was done, and whatever else is worth keeping."""

    __slots__ = ("action", "actor", "tags")

    def __init__(self, actor: str | None, action: str | None, tags: Mapping[str, Any] | None) -> None:
        self.actor: str | None = actor
        self.action: str | None = action
        self.tags: Mapping[str, Any] | None = tags


class Floor:
    """The floor of a collection, and what a commit must expect of its entry so that it is still this one."""

    __slots__ = ("expect", "version")

    def __init__(self, version: int, expect: Expectation) -> None:
        self.version: int = version
        self.expect: Expectation = expect


class Record(Generic[S]):
    """One state as it is kept.

    Attributes:
        state: The state.
        version: Its version.
        revision: The store's revision of its entry; 0 before it was committed.
        born: The version that created it.
        born_revision: The store's revision of the commit that did.
        change_id: The id of the change that made this version: 32 hexadecimal digits. When a transaction made it, the
            transaction's id, which is the text of a UUID with dashes, a colon, and how many changes it made.
        earlier: The ids of the changes right before it, newest first, as far as they were made shortly before: by
            them a writer whose reply was lost finds out whether its change was made.
        timestamp_ns: When this version was made.
        created_ns: When the state was created.
        labels: What the change is known by.
    """

    __slots__ = (
        "born",
        "born_revision",
        "change_id",
        "created_ns",
        "earlier",
        "labels",
        "revision",
        "state",
        "timestamp_ns",
        "version",
    )

    def __init__(
        self,
        state: S,
        version: int,
        born: int,
        born_revision: int,
        change_id: str,
        earlier: tuple[str, ...],
        timestamp_ns: int,
        created_ns: int,
        labels: Labels,
        revision: int = 0,
    ) -> None:
        self.state: S = state
        self.version: int = version
        self.born: int = born
        self.born_revision: int = born_revision
        self.change_id: str = change_id
        self.earlier: tuple[str, ...] = earlier
        self.timestamp_ns: int = timestamp_ns
        self.created_ns: int = created_ns
        self.labels: Labels = labels
        self.revision: int = revision

    def committed(self, revision: int) -> None:
        """Note the revision of the commit that wrote it."""
        self.revision = revision
        if self.version == self.born:
            self.born_revision = revision

    @property
    def transaction_id(self) -> str | None:
        """The id of the transaction that made this version; None: it was made by itself."""
        found, colon, _ = self.change_id.partition(":")
        return found if colon else None

    @property
    def transaction_size(self) -> int:
        """How many changes were made in the same commit."""
        size = self.change_id.partition(":")[2]
        return int(size) if size.isdigit() else 1

    def versioned(self) -> VersionedState[S]:
        """Return it as callers see it."""
        labels = self.labels
        change = StateChange(
            self.version,
            ChangeType.UPDATE,
            self.state,
            [],
            self.timestamp_ns,
            labels.actor,
            labels.action,
            labels.tags,
        )
        return VersionedState(self.state, change, self.created_ns, self.transaction_id)


class Records(Generic[S]):
    """The records of one collection: keys, encoding, versions, and the newest states that were decoded.

    It does no I/O, so that whoever commits, one state or many in one transaction, uses the same pieces.

    Args:
        cls: The state type.
        collection: The collection's name.
        cache_size: How many decoded states are kept.

    Attributes:
        ids: The ids of the type.
        root: What the keys of all states begin with.
        floor_key: The key of the floor.
        kept: The newest records that were decoded or committed, by key; look at the revision.

    Raises:
        StateDefinitionError: The type has no ``id``.
    """

    __slots__ = ("_codec", "_most", "_plain", "_write", "cls", "collection", "floor_key", "ids", "kept", "root")

    def __init__(self, cls: type[S], collection: str, cache_size: int) -> None:
        self.cls: type[S] = cls
        self.collection: str = collection
        self.ids: Ids = Ids(cls)
        self.root: str = StateKey.prefix(_NAMESPACE, collection, "state")
        self.floor_key: str = str(StateKey(_NAMESPACE, collection, "floor", ""))
        self._codec = Codec()
        self._write = self._codec.writer(schema_of(cls))
        self.kept: dict[str, Record[S]] = {}
        self._most = cache_size
        self._plain = self.ids.only_text

    # --- keys -----------------------------------------------------------------------------------------------------

    def key(self, id: object) -> str:  # noqa: A002 - the public name
        """Return the key of the state *id*.

        Raises:
            InvalidKeyError: It is no id of such a state.
        """
        if type(id) is str and id and self._plain and "%" not in id and "/" not in id:
            return self.root + id
        return self._key(self.ids.text(id))

    def key_of(self, state: S) -> str:
        """Return the key under which *state* is kept.

        Raises:
            StateValidationError: Its id cannot be used.
        """
        if self._plain:  # as in ``key``
            id_: object = getattr(state, "id")  # noqa: B009 - State itself has no such attribute
            if type(id_) is str and id_ and "%" not in id_ and "/" not in id_:
                return self.root + id_
        return self._key(self.ids.of(state))

    def prefix(self, prefix: str) -> str:
        """Return what the keys begin with whose ids begin with *prefix*.

        Raises:
            InvalidKeyError: It is no text.
        """
        return self._key(self.ids.prefix(prefix))

    def id_at(self, key: str) -> Id:
        """Return the id of the state that is kept under *key*.

        Raises:
            DecodeError: It is no key of such a state.
        """
        return self.ids.parse(key[len(self.root) :].replace("%2F", "/").replace("%25", "%"))

    def _key(self, text: str) -> str:
        if "%" in text or "/" in text:
            return str(StateKey(_NAMESPACE, self.collection, "state", text))
        return self.root + text

    # --- entries --------------------------------------------------------------------------------------------------

    def read(self, entry: Entry, *, keep: bool = True) -> Record[S]:
        """Return the record of *entry*; for an entry that did not change, the same as before.

        Args:
            entry: An entry of this collection.
            keep: Whether a record that had to be decoded is kept for the next time.

        Raises:
            CodecError: It cannot be read by today's class.
        """
        found = self.kept.get(entry.key)
        if found is not None and found.revision == entry.revision:
            return found
        try:
            record = self._decode(entry)
        except CodecError as exc:
            exc.add_note(f"this is what is stored under {entry.key!r}; it was left as it is")
            raise
        if keep:
            self.keep(entry.key, record)
        return record

    def keep(self, key: str, record: Record[S]) -> None:
        """Remember a record that was committed or decoded; the oldest makes room for it."""
        cache = self.kept
        if key in cache:
            if cache[key].revision > record.revision:
                return
            del cache[key]
        elif len(cache) >= self._most:
            del cache[next(iter(cache))]
        cache[key] = record

    def forget(self, key: str) -> None:
        """Remember nothing of a state that was deleted."""
        self.kept.pop(key, None)

    def encode(self, record: Record[S]) -> bytes:
        """Return the bytes of *record*.

        Raises:
            StateValidationError: The state is nested too deeply to be stored.
        """
        labels = record.labels
        return self._write(
            [
                _LAYOUT,
                record.version,
                record.born,
                record.born_revision,
                record.change_id,
                list(record.earlier),
                record.timestamp_ns,
                record.created_ns,
                labels.actor,
                labels.action,
                None if labels.tags is None else dict(labels.tags),
                to_document(record.state),
            ]
        )

    def _decode(self, entry: Entry) -> Record[S]:
        found = self._codec.decode(entry.value)
        parts = found.document
        if not is_array(parts) or not parts or type(parts[0]) is not int:
            raise DecodeError("these bytes are no record of a keyed container")
        if parts[0] > _LAYOUT:
            raise SchemaVersionError(
                f"the record has layout {parts[0]}, and this version reads {_LAYOUT}; read it with a newer reactstate",
                stored=parts[0],
                current=_LAYOUT,
            )
        if not _is_record(parts):
            raise DecodeError("this record of a keyed container has parts that do not belong there")
        _, version, born, born_revision, change_id, earlier, timestamp_ns, created_ns, actor, action, tags, doc = parts
        state = from_document(self.cls, doc, found.schema)
        if self.key_of(state) != entry.key:
            raise DecodeError(f"the state that is kept here has the id {self.ids.of(state)!r}, which is another place")
        return Record(
            state,
            version,
            born,
            born_revision or entry.revision,
            change_id,
            tuple(earlier),
            timestamp_ns,
            created_ns,
            Labels(actor, action, tags),
            entry.revision,
        )

    # --- versions -------------------------------------------------------------------------------------------------

    @staticmethod
    def floor(entry: Entry | None) -> Floor:
        """Return the floor that *entry* says; without one it is 0.

        Raises:
            DecodeError: It is no floor.
        """
        if entry is None:
            return Floor(0, ABSENT)
        if not entry.value.isdigit():
            raise DecodeError(f"what is stored under {entry.key!r} is no version; it was left as it is")
        return Floor(int(entry.value), entry.revision)

    def create(self, state: S, floor: Floor, labels: Labels, now_ns: int, change_id: str | None = None) -> Record[S]:
        """Return the first record of a state that is not there."""
        version = floor.version + 1
        return Record(state, version, version, 0, change_id or _change_id(now_ns), (), now_ns, now_ns, labels)

    def advance(
        self, base: Record[S], state: S, labels: Labels, now_ns: int, change_id: str | None = None
    ) -> Record[S]:
        """Return the record that follows *base*."""
        earlier: tuple[str, ...] = ()
        if abs(now_ns - base.timestamp_ns) < _RECENT_NS:
            earlier = (base.change_id, *base.earlier)[:_REMEMBERED_CHANGES]
        return Record(
            state,
            base.version + 1,
            base.born,
            base.born_revision,
            change_id or _change_id(now_ns),
            earlier,
            now_ns,
            base.created_ns,
            labels,
        )

    def create_steps(self, key: str, record: Record[S], floor: Floor) -> list[Step]:
        """Return the steps that create a state."""
        return [
            Step(key, Put(self.encode(record)), ABSENT),
            Step(self.floor_key, None, floor.expect),
        ]

    def advance_steps(self, key: str, record: Record[S], base: Record[S]) -> list[Step]:
        """Return the steps that replace *base* by *record*."""
        return [Step(key, Put(self.encode(record)), base.revision)]

    def delete_steps(self, key: str, base: Record[S], floor: Floor) -> list[Step]:
        """Return the steps that delete *base*."""
        steps = [Step(key, Delete(), base.revision)]
        deleted = base.version + 1
        if deleted > floor.version:
            steps.append(Step(self.floor_key, Put(b"%d" % deleted), floor.expect))
        return steps


def _change_id(now_ns: int) -> str:
    return uuid_utils.uuid7(nanoseconds=max(now_ns, 0)).hex


def _is_record(parts: list[Any]) -> bool:
    if len(parts) != _PARTS:
        return False
    _, version, born, born_revision, change_id, earlier, timestamp_ns, created_ns, actor, action, tags, _ = parts
    numbers = (version, born, born_revision, timestamp_ns, created_ns)
    return (
        all(type(number) is int for number in numbers)
        and version >= born >= 1
        and type(change_id) is str
        and is_array(earlier)
        and all(type(one) is str for one in earlier)
        and (actor is None or type(actor) is str)
        and (action is None or type(action) is str)
        and (tags is None or is_object(tags))
    )
