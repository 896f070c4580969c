"""Storing a full snapshot, which files the compaction that follows leaves, and the removal of the others.

Contract
    Files are removed only after the segment whose header names the new horizon is durable, so that a crash at any
    step leaves files that are in the way and never a file too few. What cannot be removed is reported to the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from reactstate.errors import StorageError
from reactstate.persistence.names import segment_file, snapshot_file

if TYPE_CHECKING:
    from reactstate.persistence.filesystem import FileSystem
    from reactstate.persistence.journal import Journal

__all__ = ["next_horizon", "store", "tidy"]

_SPARE_SNAPSHOTS = 4
"""About how many snapshots are kept between the oldest record that is wanted and the newest."""

_LOGGER = logging.getLogger("reactstate.persistence")


async def store(files: FileSystem, path: str, data: bytes, journal: Journal, *, anew: bool) -> None:
    """Write the snapshot file *path*; with *anew* the open segment of *journal* does not go with it.

    Raises:
        StorageError: The system refused, and the snapshot that was there, if any, still counts.
        UnknownOutcomeError: The system failed, and the snapshot may have taken its place in front of a journal that
            does not go with it; the journal is not written any more.
    """
    try:
        await files.replace_file(path, data)
    except OSError as exc:
        if anew and await _may_hold(files, path, data):
            raise journal.fail(exc) from exc
        raise StorageError(f"the snapshot {path!r} could not be written: {exc}", path=path) from exc


async def _may_hold(files: FileSystem, path: str, data: bytes) -> bool:
    """Whether a replacement that failed may have taken place all the same."""
    try:
        return await files.read_file(path) == data
    except FileNotFoundError:
        return False
    except OSError:
        return True


def next_horizon(horizon: int, snapshots: list[int], keep_since: int) -> int:
    """Return the newest snapshot from which all records above *keep_since* can be replayed, *horizon* at least."""
    return max([version for version in snapshots if horizon <= version <= keep_since], default=horizon)


def tidy(files: FileSystem, directory: str, journal: Journal, snapshots: list[int], keep_since: int) -> list[int]:
    """Remove the files that hold nothing from the journal's horizon on; return the snapshots that are left."""
    horizon, segments = journal.horizon, journal.segments
    needed = _thinned(snapshots, horizon, (snapshots[-1] - keep_since) // _SPARE_SNAPSHOTS) | journal.starts
    old_snapshots = [version for version in snapshots if version < horizon or version not in needed]
    ends = [base for _, base in segments[1:]]
    old_segments = [serial for (serial, _), end in zip(segments, ends, strict=False) if end <= horizon]
    removed = False
    for file in [*map(segment_file, old_segments), *map(snapshot_file, old_snapshots)]:
        try:
            files.remove(os.path.join(directory, file))  # noqa: PTH118 - paths are strings here
            removed = True
        except OSError as exc:
            _LOGGER.warning("the compacted file %r in %r could not be removed: %s", file, directory, exc)
    if removed:
        with contextlib.suppress(OSError):
            files.sync_directory(directory)
    journal.segments = [known for known in segments if known[0] not in old_segments]
    return [version for version in snapshots if version not in old_snapshots]


def _thinned(snapshots: list[int], horizon: int, distance: int) -> set[int]:
    """Return the horizon, the newest snapshot, and those between that are far enough apart to be horizons later."""
    kept = [horizon]
    for version in snapshots:
        if version - kept[-1] >= max(1, distance):
            kept.append(version)
    return {*kept, snapshots[-1]}
