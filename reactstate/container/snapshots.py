"""Named snapshots: whole states that are kept beside the journal until somebody removes them.

Contract
    A snapshot exists once ``snapshot`` returned; it is then durable, whatever the journal's ``durability`` says. The
    ones that a container takes by itself are limited by ``max_snapshots``; named ones are never removed by themselves.
    A crash on the way leaves either the whole snapshot, or a few bytes that nobody sees.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson
import uuid_utils

from reactstate.clock import to_datetime
from reactstate.codec import Codec
from reactstate.errors import DecodeError, ReactStateError, StateNotFoundError
from reactstate.state.document import from_document, schema_of, to_document
from reactstate.state.snapshot import SnapshotInfo, check_snapshot_name, no_snapshot
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import StateChange, VersionedState
    from reactstate.state.config import StateConfig

__all__ = ["SnapshotInfo", "SnapshotShelf"]

S = TypeVar("S", bound=State)

_ID = re.compile(r"[0-9a-f]{32}")
_PREFIX = "snapshots/"
_LOGGER = logging.getLogger("reactstate.container")


class SnapshotShelf(Generic[S]):
    """The snapshots of one container, as blobs of its persistence: an ``info`` and a ``state`` each.

    Args:
        cls: The state type.
        persistence: Where the blobs are kept.
        clock: Tells when a snapshot was taken.
        config: Says when to take one by itself, and how many of these are kept.
    """

    __slots__ = ("_clock", "_cls", "_codec", "_config", "_due", "_persistence")

    def __init__(self, cls: type[S], persistence: StatePersistence[S], clock: Clock, config: StateConfig) -> None:
        self._cls = cls
        self._persistence = persistence
        self._clock = clock
        self._config = config
        self._codec = Codec("json", "zstd")
        self._due = to_datetime(clock.time_ns())
        if isinstance(config.snapshot_interval, timedelta):
            self._due += config.snapshot_interval

    async def put(self, current: VersionedState[S], name: str, *, automatic: bool = False) -> SnapshotInfo:
        """Keep *current* under *name*.

        Raises:
            StateNotFoundError: There is no state.
            StateValidationError: *name* is not text, or longer than 200 characters.
            StorageError: It could not be written.
        """
        if not current.exists:
            raise StateNotFoundError("there is no state to take a snapshot of")
        check_snapshot_name(name)
        now_ns = self._clock.time_ns()
        made = uuid_utils.uuid7(nanoseconds=max(now_ns, 0)).hex
        info = SnapshotInfo(made, name, current.version, to_datetime(now_ns), automatic=automatic)
        data = self._codec.encode(to_document(current.state), schema_of(self._cls))
        # The state comes last, and makes the snapshot: what a crash leaves behind is small.
        await self._persistence.put_blob(f"{_PREFIX}{made}/info", _pack(info))
        await self._persistence.put_blob(f"{_PREFIX}{made}/state", data)
        return info

    async def get(self, id: str) -> tuple[SnapshotInfo, S]:  # noqa: A002 - the public name
        """Return a snapshot and its state, migrated to today's classes.

        Raises:
            SnapshotNotFoundError: No snapshot has that id.
            CodecError: It cannot be read by today's classes.
        """
        info = data = None
        if _is_id(id):
            info = await self._persistence.get_blob(f"{_PREFIX}{id}/info")
            data = await self._persistence.get_blob(f"{_PREFIX}{id}/state")
        if info is None or data is None:
            raise no_snapshot(id)
        found = self._codec.decode(data)
        return _unpack(info), from_document(self._cls, found.document, found.schema)

    async def list(self) -> list[SnapshotInfo]:
        """Return the snapshots, oldest first."""
        names = {blob.name for blob in await self._persistence.list_blobs(_PREFIX)}
        infos: list[SnapshotInfo] = []
        for name in names:
            if name.endswith("/info") and f"{name.removesuffix('info')}state" in names:
                data = await self._persistence.get_blob(name)
                if data is not None:
                    infos.append(_unpack(data))
        return sorted(infos, key=lambda info: (info.created_at, info.version, info.id))

    async def delete(self, id: str) -> bool:  # noqa: A002 - the public name
        """Remove a snapshot; say whether it was there."""
        if not _is_id(id):
            return False
        there = await self._persistence.delete_blob(f"{_PREFIX}{id}/state")
        await self._persistence.delete_blob(f"{_PREFIX}{id}/info")
        return there

    # --- by itself ------------------------------------------------------------------------------------------------

    def is_due(self, change: StateChange[S]) -> bool:
        """Say whether the version that *change* made is to be kept."""
        interval = self._config.snapshot_interval
        if interval is None or change._state is None:
            return False
        if isinstance(interval, int):
            return change._version % interval == 0
        if change.timestamp < self._due:
            return False
        self._due = change.timestamp + interval
        return True

    async def take(self, current: VersionedState[S]) -> None:
        """Keep *current*, and remove the oldest of those taken by themselves that are too many."""
        try:
            await self.put(current, f"version {current.version}", automatic=True)
            automatic = [info for info in await self.list() if info.automatic]
            for info in automatic[: max(len(automatic) - self._config.max_snapshots, 0)]:
                await self.delete(info.id)
        except ReactStateError as exc:
            _LOGGER.warning("the snapshot of version %d could not be taken: %s", current.version, exc)


def _is_id(id: object) -> bool:  # noqa: A002 - the public name
    return isinstance(id, str) and _ID.fullmatch(id) is not None


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
