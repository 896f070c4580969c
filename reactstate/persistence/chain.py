"""What reading a directory is made of: segments, the chain of documents that records lead through, and the result."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from reactstate.errors import CompactedError, CorruptionError, PatchError
from reactstate.persistence.protocol import Era, Loaded, Snapshot
from reactstate.state.patch import replay

if TYPE_CHECKING:
    from reactstate.persistence.frames import Walk
    from reactstate.persistence.protocol import Record, SchemaTag

__all__ = ["Chain", "Limit", "Recovered", "Scan", "Segment", "compacted", "damaged"]

Limit = tuple[int, int]
"""A segment's serial and an offset in it: nothing behind is read."""


class Segment:
    """A segment whose header is good."""

    __slots__ = ("base", "continues", "end", "format_id", "horizon", "path", "payload", "serial")

    def __init__(
        self,
        path: str,
        serial: int,
        base: int,
        horizon: int,
        payload: bytes,
        end: int,
        format_id: int,
        *,
        continues: bool,
    ) -> None:
        self.path: str = path
        self.serial: int = serial
        self.base: int = base
        self.horizon: int = horizon
        self.payload: bytes = payload
        self.end: int = end
        self.format_id: int = format_id
        self.continues: bool = continues


class Scan:
    """The files of a directory.

    Attributes:
        snapshots: The versions of the full snapshots, ascending.
        segments: The segments with a good header, ascending.
        torn: The newest segment's path, if a crash left it without a good header.
        torn_bytes: The size of that file.
        temporary: Paths of temporary files that a crash left behind.
        tail: The bytes and frames of the newest segment, once they were read.
    """

    __slots__ = ("segments", "snapshots", "tail", "temporary", "torn", "torn_bytes")

    def __init__(self) -> None:
        self.tail: tuple[bytes, Walk] | None = None
        self.snapshots: list[int] = []
        self.segments: list[Segment] = []
        self.torn: str | None = None
        self.torn_bytes: int = 0
        self.temporary: list[str] = []


class Recovered:
    """What was found, and what a writer has to know to go on.

    Attributes:
        loaded: For the caller.
        segment: The newest segment, or None.
        end: Where its last good frame ends.
        last_version: The version of the newest record or, without one, of the newest segment's base.
        schema: The newest segment's schema tag, or None without a segment.
        snapshot_version: The newest snapshot's version, 0 without one.
        frame_bytes: How many bytes of frames are above the newest snapshot.
    """

    __slots__ = ("end", "frame_bytes", "last_version", "loaded", "schema", "segment", "snapshot_version")

    def __init__(
        self,
        loaded: Loaded,
        segment: Segment | None,
        end: int,
        last_version: int,
        schema: SchemaTag | None,
        snapshot_version: int,
        frame_bytes: int,
    ) -> None:
        self.loaded: Loaded = loaded
        self.segment: Segment | None = segment
        self.end: int = end
        self.last_version: int = last_version
        self.schema: SchemaTag | None = schema
        self.snapshot_version: int = snapshot_version
        self.frame_bytes: int = frame_bytes


class Chain:
    """Replays segment after segment; one for each reading."""

    __slots__ = (
        "change_id",
        "created_at_ns",
        "document",
        "eras",
        "records",
        "schema",
        "tags",
        "updated_at_ns",
        "version",
    )

    def __init__(self, snapshot: Snapshot, history: int) -> None:
        self.eras: list[Era] = []
        self.records: deque[Record] = deque(maxlen=history)
        self.begin(snapshot)

    def begin(self, snapshot: Snapshot) -> None:
        """Go on from *snapshot*."""
        self.version: int = snapshot.version
        self.document: Any = snapshot.document
        self.schema: SchemaTag = snapshot.schema
        self.change_id: str = snapshot.change_id
        self.created_at_ns: int = snapshot.created_at_ns
        self.updated_at_ns: int = snapshot.updated_at_ns
        self.tags = snapshot.tags

    def end_era(self) -> None:
        """Put what was replayed since the last era into one."""
        self.eras.append(Era(self.schema, list(self.records), self.document))
        self.records.clear()

    def replay(self, record: Record, path: str) -> None:
        """Apply *record*, and give it its inverse."""
        try:
            self.document, record.inverse = replay(self.document, record.patch)
        except (PatchError, TypeError, ValueError) as exc:
            raise CorruptionError(
                f"the change to version {record.version} in {path!r} does not fit the document before it", path=path
            ) from exc
        self.version = record.version
        self.change_id = record.change_id
        self.updated_at_ns = record.timestamp_ns
        self.tags = record.tags
        if record.kind == "create":
            self.created_at_ns = record.timestamp_ns

    def loaded(self, history: int, dropped_bytes: int) -> Loaded:
        """Return what was read, with at most *history* records."""
        self.end_era()
        kept: list[Era] = []
        for era in reversed(self.eras):
            era.records = era.records[max(0, len(era.records) - history) :]
            history -= len(era.records)
            if era.records or not kept:
                kept.append(era)
        head = Snapshot(
            self.version, self.document, self.schema, self.change_id, self.created_at_ns, self.updated_at_ns, self.tags
        )
        return Loaded(head, kept[::-1], dropped_bytes)


def damaged(path: str, offset: int) -> CorruptionError:
    """Return the error for durable records that are damaged or missing."""
    return CorruptionError(
        f"the journal {path!r} is damaged at offset {offset} though its records were durable; nothing was changed, "
        "use verify() to see the extent and recover(to=...) to save what is whole",
        path=path,
        offset=offset,
    )


def compacted(since: int, resume: int) -> CompactedError:
    """Return the error for records that are no longer kept."""
    return CompactedError(
        f"the changes after version {since} are no longer kept; ask from {resume} on, with the state at that version",
        resume,
    )
