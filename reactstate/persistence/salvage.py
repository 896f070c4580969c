"""Checking a directory to the last byte, and saving what is whole of a damaged one.

Contract
    Both read everything and change nothing where they read. ``verify`` reports damage that costs something; the torn
    tail of a crash costs nothing that was acknowledged and is not reported. ``recover`` puts together, from the newest
    whole snapshot, every record that can be reached from it without a gap, and says which versions are lost.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from reactstate.errors import CorruptionError, PatchError, StorageError
from reactstate.persistence.chain import damaged
from reactstate.persistence.frames import walk
from reactstate.persistence.names import segment_serial, snapshot_file, snapshot_version
from reactstate.persistence.protocol import Snapshot
from reactstate.state.patch import documents_equal, replay

if TYPE_CHECKING:
    from reactstate.persistence.blobs import BlobFolder
    from reactstate.persistence.chain import Limit
    from reactstate.persistence.file import FilePersistence
    from reactstate.persistence.filesystem import FileSystem
    from reactstate.persistence.protocol import Record, SchemaTag
    from reactstate.persistence.recovery import Archive

__all__ = ["RecoverReport", "VerifyReport", "recover", "refuse_unless_empty", "verify"]

_BATCH = 500


class VerifyReport:
    """What ``verify`` read.

    Attributes:
        records: Good records in the journal.
        frames: Good frames in the journal.
        snapshots: Good full snapshots.
        blobs: Good blobs.
        bytes: How many bytes were read.
        problems: What is damaged; empty when all is well.
    """

    __slots__ = ("blobs", "bytes", "frames", "problems", "records", "snapshots")

    def __init__(self) -> None:
        self.records: int = 0
        self.frames: int = 0
        self.snapshots: int = 0
        self.blobs: int = 0
        self.bytes: int = 0
        self.problems: list[CorruptionError] = []

    def __repr__(self) -> str:
        return (
            f"VerifyReport(records={self.records}, frames={self.frames}, snapshots={self.snapshots}, "
            f"blobs={self.blobs}, bytes={self.bytes}, problems={self.problems!r})"
        )


class RecoverReport:
    """What ``recover`` saved and what is lost.

    Attributes:
        version: The version of the state that was saved, 0 when none could be.
        records: How many records of its history were saved.
        blobs: How many blobs were saved.
        lost: Ranges of versions, first and last, that the damaged directory had and the new one has not.
        problems: The damage that was met.
    """

    __slots__ = ("blobs", "lost", "problems", "records", "version")

    def __init__(self) -> None:
        self.version: int = 0
        self.records: int = 0
        self.blobs: int = 0
        self.lost: list[tuple[int, int]] = []
        self.problems: list[CorruptionError] = []

    def __repr__(self) -> str:
        return (
            f"RecoverReport(version={self.version}, records={self.records}, blobs={self.blobs}, lost={self.lost}, "
            f"problems={self.problems!r})"
        )


class _Finds:
    """Everything that is whole in a directory."""

    __slots__ = ("blobs", "highest", "horizon", "records", "report", "schemas", "snapshots")

    def __init__(self) -> None:
        self.horizon = 0
        self.report = VerifyReport()
        self.snapshots: dict[int, Snapshot] = {}
        self.records: dict[int, Record] = {}
        self.schemas: dict[int, SchemaTag] = {}
        """The schema that each record is of, by version."""
        self.blobs: dict[str, bytes] = {}
        self.highest = 0


async def verify(archive: Archive, folder: BlobFolder, limit: Limit | None) -> VerifyReport:
    """Read everything up to *limit*; see ``FilePersistence.verify``."""
    finds = await _gather(archive, folder, limit, keep_blobs=False)
    _check_documents(archive, finds)
    return finds.report


def refuse_unless_empty(files: FileSystem, path: str) -> None:
    """Raise StorageError unless the directory *path* is empty or missing."""
    try:
        names = files.list_directory(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StorageError(f"{path!r} cannot be read: {exc}", path=path) from exc
    if names:
        raise StorageError(f"{path!r} is not empty; recover into a new directory", path=path)


async def recover(
    archive: Archive, folder: BlobFolder, limit: Limit | None, target: FilePersistence[Any]
) -> RecoverReport:
    """Write what is whole to *target*; see ``FilePersistence.recover``."""
    finds = await _gather(archive, folder, limit, keep_blobs=True)
    if not (finds.snapshots or finds.records or finds.blobs):
        raise StorageError("there is nothing to recover: no snapshot, record or blob is whole", path=archive.path(""))
    report = RecoverReport()
    report.problems = finds.report.problems
    await target.load()
    course = _best(finds)
    if course is not None:
        await _copy(course, target)
        report.version = course.end
        report.records = course.end - course.start
    kept = range(report.version - report.records + 1, report.version + 1)
    report.lost = _ranges([version for version in _known(finds) if version not in kept and version != report.version])
    for name, data in finds.blobs.items():
        await target.put_blob(name, data)
        report.blobs += 1
    return report


# --- reading --------------------------------------------------------------------------------------------------------


async def _gather(archive: Archive, folder: BlobFolder, limit: Limit | None, *, keep_blobs: bool) -> _Finds:
    finds = _Finds()
    report = finds.report
    names = archive.names()
    for version in sorted(version for name in names if (version := snapshot_version(name)) is not None):
        try:
            data = await archive.read(archive.path(snapshot_file(version)))
            report.bytes += len(data)
            finds.snapshots[version] = archive.unpack_snapshot(data, version)
            report.snapshots += 1
        except CorruptionError as exc:
            report.problems.append(exc)
        finds.highest = max(finds.highest, version)
    serials = sorted(serial for name in names if (serial := segment_serial(name)) is not None)
    last: int | None = None
    for serial in serials:
        if limit is None or serial <= limit[0]:
            last = await _gather_segment(archive, finds, serial, limit, last, newest=serial == serials[-1])
    for name in folder.names():
        try:
            blob = await folder.get(name)
        except CorruptionError as exc:
            report.problems.append(exc)
        else:
            report.blobs += 1
            report.bytes += len(blob or b"")
            if keep_blobs and blob is not None:
                finds.blobs[name] = blob
    return finds


async def _gather_segment(
    archive: Archive, finds: _Finds, serial: int, limit: Limit | None, last: int | None, *, newest: bool
) -> int | None:
    """Take what is whole in one segment, going on behind every damage; return the last version in it."""
    report = finds.report
    try:
        segment = archive.segment(serial, newest=newest and limit is None)
    except CorruptionError as exc:
        report.problems.append(exc)
        return None
    if segment is None:
        return None
    finds.horizon = segment.horizon
    if segment.continues and last is not None and last != segment.base:
        report.problems.append(
            CorruptionError(f"the records from version {last + 1} to {segment.base} are missing", path=segment.path)
        )
    schema = archive.schema(segment)
    data = await archive.read(segment.path)
    if limit is not None and limit[0] == serial:
        data = data[: limit[1]]
    report.bytes += len(data)
    last = segment.base
    start: int | None = segment.end
    while start is not None:
        found = walk(data, serial, start)
        for frame in found.frames:
            last = frame.first + frame.records - 1
            try:
                for record in archive.decode(segment, data, frame):
                    finds.records[record.version] = record
                    finds.schemas[record.version] = schema
                    report.records += 1
                report.frames += 1
            except CorruptionError as exc:
                report.problems.append(exc)
        if found.bad is not None and (found.proven or not newest or found.resume is not None):
            report.problems.append(damaged(segment.path, found.bad))
        start = found.resume
    finds.highest = max(finds.highest, last)
    return last


def _check_documents(archive: Archive, finds: _Finds) -> None:
    """Replay every record that has a document before it, and compare with the snapshots on the way."""
    document: Any = None
    schema: SchemaTag | None = None
    version = 0
    known = finds.horizon == 0 and 1 in finds.records
    if known:
        schema = finds.schemas[1]
    path = archive.path(snapshot_file(finds.horizon))
    if finds.horizon and finds.horizon not in finds.snapshots and path not in {p.path for p in finds.report.problems}:
        finds.report.problems.append(CorruptionError(f"the snapshot {path!r} is missing", path=path))
    for current in sorted(number for number in {*finds.snapshots, *finds.records} if number >= finds.horizon):
        record = finds.records.get(current)
        if record is not None and known and current == version + 1 and finds.schemas[current] == schema:
            try:
                document, _ = replay(document, record.patch)
            except (PatchError, TypeError, ValueError):
                finds.report.problems.append(
                    CorruptionError(f"the change to version {current} does not fit its document", path=archive.path(""))
                )
                known = False
            version = current
        elif record is not None and known:
            finds.report.problems.append(
                CorruptionError(
                    f"the records from version {version + 1} to {current} have a gap", path=archive.path("")
                )
            )
            known = False
        snapshot = finds.snapshots.get(current)
        if snapshot is not None:
            path = archive.path(snapshot_file(current))
            if known and version != current:
                finds.report.problems.append(
                    CorruptionError(f"the records from version {version + 1} to {current} are missing", path=path)
                )
            same = known and version == current and snapshot.schema == schema
            if same and not documents_equal(document, snapshot.document):
                finds.report.problems.append(
                    CorruptionError(f"{path!r} does not hold the document that the journal leads to", path=path)
                )
            document, schema, version, known = snapshot.document, snapshot.schema, current, True


# --- writing --------------------------------------------------------------------------------------------------------


class _Course:
    """A way through the whole records: snapshots where eras begin, and the records above each."""

    __slots__ = ("end", "eras", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.eras: list[tuple[Snapshot, list[Record]]] = []


def _best(finds: _Finds) -> _Course | None:
    """Return the course to the newest state that can be reached, with as much history as leads there."""
    starts = sorted(finds.snapshots)
    if 0 not in finds.snapshots and 1 in finds.records:
        starts.insert(0, 0)
    best: _Course | None = None
    for start in reversed(starts):
        course = _run(finds, start)
        # The newest whole snapshot is never given up for an older one that ends before it.
        if best is None or course.end >= best.end:
            best = course
    return best


def _run(finds: _Finds, start: int) -> _Course:
    """Follow the records from *start* for as long as they are there and fit."""
    course = _Course(start)
    snapshot = finds.snapshots.get(start)
    if snapshot is None:
        snapshot = Snapshot(0, None, finds.schemas[1], "", 0, 0)
    while True:
        records: list[Record] = []
        course.eras.append((snapshot, records))
        document = copy.deepcopy(snapshot.document)
        while (record := finds.records.get(course.end + 1)) is not None:
            if finds.schemas[record.version] != snapshot.schema:
                break
            try:
                document, _ = replay(document, record.patch)
            except (PatchError, TypeError, ValueError):
                return course
            records.append(record)
            course.end += 1
        following = finds.snapshots.get(course.end)
        if following is None or following.schema == snapshot.schema:
            return course
        snapshot = following


async def _copy(course: _Course, target: FilePersistence[Any]) -> None:
    for snapshot, records in course.eras:
        if snapshot.version or snapshot.document is not None:
            await target.save(snapshot, keep_since=course.start)
        for index in range(0, len(records), _BATCH):
            await target.append(records[index : index + _BATCH], snapshot.schema)


def _known(finds: _Finds) -> range:
    """Return the versions that the directory knew of."""
    return range(min([*finds.records, *finds.snapshots, finds.highest + 1]), finds.highest + 1)


def _ranges(versions: list[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for version in versions:
        if ranges and ranges[-1][1] == version - 1:
            ranges[-1] = (ranges[-1][0], version)
        else:
            ranges.append((version, version))
    return ranges
