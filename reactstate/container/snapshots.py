"""Named snapshots: whole states that are kept beside the journal until somebody removes them.

Contract
    A snapshot exists once ``snapshot`` returned; it is then durable, whatever the journal's ``durability`` says. The
    ones that a container takes by itself are limited by ``max_snapshots``; named ones are never removed by themselves.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson
import uuid_utils

from reactstate.clock import to_datetime
from reactstate.codec import Codec
from reactstate.errors import DecodeError, SnapshotNotFoundError, StateNotFoundError, StateValidationError
from reactstate.state.document import from_document, schema_of, to_document
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import VersionedState

__all__ = ["SnapshotInfo", "SnapshotShelf"]

S = TypeVar("S", bound=State)

_ID = re.compile(r"[0-9a-f]{32}")
_PREFIX = "snapshots/"


class SnapshotInfo:
    """What is known of a snapshot without reading it (read-only).

    Attributes:
        id: What ``restore`` takes.
        name: The name it was given; empty when it was taken without one.
        version: The version that it holds.
        created_at: When it was taken (aware, UTC).
        automatic: The container took it by itself.
    """

    __slots__ = ("automatic", "created_at", "id", "name", "version")

    def __init__(self, id: str, name: str, version: int, created_at: datetime, *, automatic: bool) -> None:  # noqa: A002 - the public name
        self.id = id
        self.name = name
        self.version = version
        self.created_at = created_at
        self.automatic = automatic

    def __repr__(self) -> str:
        return f"SnapshotInfo(id={self.id!r}, name={self.name!r}, version={self.version})"


class SnapshotShelf(Generic[S]):
    """The snapshots of one container, as blobs of its persistence: an ``info`` and a ``state`` each."""

    __slots__ = ("_clock", "_cls", "_codec", "_persistence")

    def __init__(self, cls: type[S], persistence: StatePersistence[S], clock: Clock) -> None:
        self._cls = cls
        self._persistence = persistence
        self._clock = clock
        self._codec = Codec("json", "zstd")

    async def put(self, current: VersionedState[S], name: str, *, automatic: bool = False) -> SnapshotInfo:
        """Keep *current* under *name*.

        Raises:
            StateNotFoundError: There is no state.
            StateValidationError: *name* is not text, or longer than 200 characters.
            StorageError: It could not be written.
        """
        if not current.exists:
            raise StateNotFoundError("there is no state to take a snapshot of")
        if not isinstance(name, str) or len(name) > 200 or not name.isprintable():
            raise StateValidationError("a snapshot's name is printable text of at most 200 characters")
        now_ns = self._clock.time_ns()
        made = uuid_utils.uuid7(nanoseconds=now_ns).hex
        info = SnapshotInfo(made, name, current.version, to_datetime(now_ns), automatic=automatic)
        data = self._codec.encode(to_document(current.state), schema_of(self._cls))
        await self._persistence.put_blob(f"{_PREFIX}{made}/state", data)
        await self._persistence.put_blob(f"{_PREFIX}{made}/info", _pack(info))
        return info

    async def get(self, id: str) -> tuple[SnapshotInfo, S]:  # noqa: A002 - the public name
        """Return a snapshot and its state, migrated to today's classes.

        Raises:
            SnapshotNotFoundError: No snapshot has that id.
            CodecError: It cannot be read by today's classes.
        """
        info = data = None
        if isinstance(id, str) and _ID.fullmatch(id):
            info = await self._persistence.get_blob(f"{_PREFIX}{id}/info")
            data = await self._persistence.get_blob(f"{_PREFIX}{id}/state")
        if info is None or data is None:
            raise SnapshotNotFoundError(f"no snapshot has the id {id!r}; list_snapshots() tells which there are")
        found = self._codec.decode(data)
        return _unpack(info), from_document(self._cls, found.document, found.schema)

    async def list(self) -> list[SnapshotInfo]:
        """Return the snapshots, oldest first."""
        blobs = await self._persistence.list_blobs(_PREFIX)
        found = [await self._persistence.get_blob(blob.name) for blob in blobs if blob.name.endswith("/info")]
        return sorted((_unpack(data) for data in found if data is not None), key=lambda info: info.id)

    async def delete(self, id: str) -> bool:  # noqa: A002 - the public name
        """Remove a snapshot; say whether it was there."""
        if not isinstance(id, str) or not _ID.fullmatch(id):
            return False
        there = await self._persistence.delete_blob(f"{_PREFIX}{id}/info")
        await self._persistence.delete_blob(f"{_PREFIX}{id}/state")
        return there

    async def trim(self, most: int) -> None:
        """Remove the oldest of those taken by themselves until *most* are left."""
        automatic = [info for info in await self.list() if info.automatic]
        for info in automatic[: max(len(automatic) - most, 0)]:
            await self.delete(info.id)


def _pack(info: SnapshotInfo) -> bytes:
    return orjson.dumps(
        {
            "id": info.id,
            "name": info.name,
            "version": info.version,
            "created_at": info.created_at.isoformat(),
            "automatic": info.automatic,
        }
    )


def _unpack(data: bytes) -> SnapshotInfo:
    try:
        found: dict[str, Any] = orjson.loads(data)
        created = datetime.fromisoformat(found["created_at"]).astimezone(UTC)
        return SnapshotInfo(found["id"], found["name"], found["version"], created, automatic=found["automatic"])
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("the description of a snapshot is damaged") from exc
