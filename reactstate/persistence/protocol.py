"""Where a container's changes go.

A persistence stores *raw documents* and JSON Patches and knows nothing of Python types: containers turn states into
documents (and migrate documents into states), so that bytes which no class can read any more are still there.

Contract
    ``append`` is all or nothing for the records of one call, and what it acknowledges is as durable as the
    persistence's ``durability`` says. Records are appended in the order of their versions, without a gap. ``load``
    returns what was acknowledged, whatever happened in between, or raises a typed error; it never invents a state.

Failures of ``append``
    StorageError: nothing of this call was kept, and the persistence can still be used.
    UnknownOutcomeError: the records may or may not be durable; every later write raises StorageFailedError until the
    persistence is opened anew. A shared one can still be used: ``fetch`` tells what became of them.
    ConflictError, UnavailableError: only of shared ones; nothing of this call was kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence

    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard

__all__ = ["BlobInfo", "Era", "Fetched", "Loaded", "Record", "SchemaTag", "Snapshot", "StatePersistence"]

S = TypeVar("S")

SchemaTag = dict[str, int]
"""The schema version of the root type and of every State nested in it, by type name; the root's name comes first."""


class Record:
    """One change, as it is stored.

    Attributes:
        version: The version that the change made.
        change_id: UUIDv7, as 32 hexadecimal digits.
        timestamp_ns: Nanoseconds since 1970 (UTC).
        kind: The value of the ``ChangeType``, such as ``"update"``.
        actor: Who made the change, or None.
        action: What was done, or None.
        tags: The caller's tags, or None.
        target: The version that an undo or redo concerns, or None.
        patch: JSON Patch (RFC 6902) from the document before to the document after; ``[]`` only for no change.
        inverse: The JSON Patch back; filled in by ``load`` and ``changes``, None where it is not known.
    """

    __slots__ = (
        "action",
        "actor",
        "change_id",
        "inverse",
        "kind",
        "patch",
        "tags",
        "target",
        "timestamp_ns",
        "version",
    )

    def __init__(
        self,
        version: int,
        change_id: str,
        timestamp_ns: int,
        kind: str,
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        target: int | None,
        patch: list[dict[str, Any]],
        inverse: list[dict[str, Any]] | None = None,
    ) -> None:
        self.version: int = version
        self.change_id: str = change_id
        self.timestamp_ns: int = timestamp_ns
        self.kind: str = kind
        self.actor: str | None = actor
        self.action: str | None = action
        self.tags: Mapping[str, Any] | None = tags
        self.target: int | None = target
        self.patch: list[dict[str, Any]] = patch
        self.inverse: list[dict[str, Any]] | None = inverse


class Snapshot:
    """A whole document at one version.

    Attributes:
        version: The version of the newest change in it.
        document: The canonical document, or None after a delete.
        schema: The types and schema versions that wrote the document.
        change_id: The id of the newest change in it.
        created_at_ns: When the state was created (its newest CREATE).
        updated_at_ns: When its newest change was made.
        tags: The tags of its newest change, or None.
    """

    __slots__ = ("change_id", "created_at_ns", "document", "schema", "tags", "updated_at_ns", "version")

    def __init__(
        self,
        version: int,
        document: Any,
        schema: SchemaTag,
        change_id: str,
        created_at_ns: int,
        updated_at_ns: int,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        self.version: int = version
        self.document: Any = document
        self.schema: SchemaTag = schema
        self.change_id: str = change_id
        self.created_at_ns: int = created_at_ns
        self.updated_at_ns: int = updated_at_ns
        self.tags: Mapping[str, Any] | None = tags


class Loaded:
    """What ``load`` found.

    Attributes:
        head: The newest version as a snapshot (its document is the caller's to keep and to change).
        history: The newest records, oldest first, in eras: a new era begins wherever the schema tag changed or a full
            snapshot replaced the documents before it. Each era is ``(schema, records, document)``, where *document*
            is the raw document after its last record. The last era's document is the head's.
        dropped_bytes: How many bytes of a torn, never acknowledged tail were cut off (0 after a clean close).
    """

    __slots__ = ("dropped_bytes", "head", "history")

    def __init__(self, head: Snapshot, history: list[Era], dropped_bytes: int = 0) -> None:
        self.head: Snapshot = head
        self.history: list[Era] = history
        self.dropped_bytes: int = dropped_bytes


class Era:
    """A run of records over documents of one schema.

    Attributes:
        schema: The schema tag of the documents and patches.
        records: Oldest first, each with its inverse.
        document: The raw document after the last record.
    """

    __slots__ = ("document", "records", "schema")

    def __init__(self, schema: SchemaTag, records: list[Record], document: Any) -> None:
        self.schema: SchemaTag = schema
        self.records: list[Record] = records
        self.document: Any = document


class Fetched:
    """What ``fetch`` found.

    Attributes:
        version: The newest version.
        records: The records after the version asked for, oldest first, without a gap.
    """

    __slots__ = ("records", "version")

    def __init__(self, version: int, records: list[Record]) -> None:
        self.version: int = version
        self.records: list[Record] = records


class BlobInfo:
    """One named blob.

    Attributes:
        name: Its name.
        size_bytes: How large it is.
        modified_ns: When it was written, in nanoseconds since 1970 (UTC).
    """

    __slots__ = ("modified_ns", "name", "size_bytes")

    def __init__(self, name: str, size_bytes: int, modified_ns: int) -> None:
        self.name: str = name
        self.size_bytes: int = size_bytes
        self.modified_ns: int = modified_ns


class StatePersistence(ABC, Generic[S]):
    """Where the changes of one container go; *S* is its state type.

    One persistence serves one container at a time. All methods are called from the event loop that called ``load``.

    Attributes:
        read_only: Nothing can be written; ``follow`` tells of what another process writes.
        store: The key-value store that it writes to, if it does.
        shared: Several processes may write under the same name. ``append`` and a ``save`` under a new schema then raise
            ConflictError, and write nothing, when another one came first; ``fetch`` gives what it wrote.
    """

    read_only: bool = False
    shared: bool = False
    store: KeyValueStore | None = None

    @abstractmethod
    async def load(self, *, history: int = 1000) -> Loaded | None:
        """Open for use, recover, and return what is stored, or None when nothing is.

        Args:
            history: How many of the newest records are wanted at least (fewer when there are fewer).

        Raises:
            AlreadyOpenError: Another writer has it open.
            CorruptionError: Durable bytes are damaged.
            CodecError: The bytes are of a newer format, or need a key that is not there.
            StorageError: It cannot be read.
        """

    @abstractmethod
    def append(self, records: Sequence[Record], schema: SchemaTag) -> Awaitable[None]:
        """Write *records* in one flush; when the awaitable is done they are as durable as ``durability`` says.

        The encoding happens in the call, so that a record which cannot be encoded raises here and changes nothing.
        The awaitable may be done already when it is returned. *schema* must be the tag of the newest snapshot
        (``save`` a new snapshot first when the types changed).
        """

    def append_guarded(self, records: Sequence[Record], schema: SchemaTag, guard: Guard) -> Awaitable[None]:  # noqa: ARG002 - overridden where it can be done
        """Write *records* as ``append`` does, on condition that *guard* still holds its lock.

        Raises:
            LeaseLostError: (awaited) It does not; nothing was written.
            UnsupportedError: There is no store that could check it.
        """
        raise UnsupportedError(
            "guard= needs a lock in the same store as the state; this container has no store",
            layer="container",
            capability="FENCING",
        )

    @abstractmethod
    def changes(self, since: int = 0) -> AsyncIterator[Record]:
        """Iterate over the kept records with a version above *since*, oldest first, then stop.

        Raises:
            CompactedError: Records above *since* are no longer kept; ``resume`` is the oldest version to ask from.
        """

    def follow(self, since: int = 0) -> AsyncIterator[Record]:  # noqa: ARG002 - overridden where it can be done
        """Iterate over the records above *since* as another process makes them durable; for ``read_only`` ones.

        Raises:
            UnsupportedError: This persistence cannot follow.
        """
        raise UnsupportedError("this persistence cannot follow another writer", layer="persistence")

    async def fetch(self, since: int) -> Fetched:  # noqa: ARG002 - overridden where it can be done
        """Return what all writers have committed after version *since*; cheap when that is nothing.

        Raises:
            CompactedError: Records above *since* are no longer kept, or the documents went over to another schema.
            UnsupportedError: This persistence is not shared.
        """
        raise UnsupportedError("this persistence has one writer only", layer="persistence")

    def watch_head(self) -> AsyncIterator[None]:
        """Iterate, for ever, whenever there may be something new to ``fetch``; for shared ones.

        Raises:
            UnsupportedError: This persistence is not shared.
        """
        raise UnsupportedError("this persistence has one writer only", layer="persistence")

    def cursor_place(self, name: str) -> tuple[KeyValueStore, str] | None:  # noqa: ARG002 - as ``fetch``
        """Return the store and the key at which the cursor of the consumer *name* can be committed with its effects.

        None where the state is in no store.
        """
        return None

    @abstractmethod
    async def save(self, snapshot: Snapshot, *, keep_since: int) -> None:
        """Store *snapshot* as the newest full state and compact: records up to *keep_since* may be dropped."""

    @property
    @abstractmethod
    def compaction_due(self) -> bool:
        """Whether the journal has outgrown its newest snapshot, so that ``save`` should be called."""

    async def flush(self) -> None:
        """Make everything appended so far durable, whatever ``durability`` says."""

    @abstractmethod
    async def put_blob(self, name: str, data: bytes) -> None:
        """Store *data* under *name*, atomically and durably, in place of what was there.

        Raises:
            InvalidKeyError: *name* is empty, too long, or not made of ``A-Z a-z 0-9 . _ - /`` parts.
        """

    @abstractmethod
    async def get_blob(self, name: str) -> bytes | None:
        """Return the bytes stored under *name*, or None."""

    @abstractmethod
    async def list_blobs(self, prefix: str = "") -> list[BlobInfo]:
        """Return the blobs whose name starts with *prefix*, by name."""

    @abstractmethod
    async def delete_blob(self, name: str) -> bool:
        """Remove a blob; say whether it was there."""

    @abstractmethod
    async def aclose(self) -> None:
        """Flush, release what is held, and be done; a second call does nothing."""
