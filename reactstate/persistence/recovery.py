"""Reading a persistence's directory: which files belong together, and what state and history they hold.

Contract
    Reading changes nothing. What does not fit is a ``CorruptionError`` with file and offset, never a guess: a bad frame
    that was durable, a gap in the versions, a patch that does not fit, a schema change without its snapshot. The one
    thing that is passed over is a torn tail of the newest segment, which no append was ever told to be durable.

How a state is found
    The newest segment's header names the *horizon*, the version from which records are kept. Reading starts at the
    newest good snapshot that leaves enough history above it, and replays the records from there. A damaged snapshot
    is passed over where an older or newer one and the segments between lead to the same state.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from reactstate.errors import CorruptionError, StorageError
from reactstate.persistence.chain import Chain, Recovered, Scan, Segment, compacted, damaged
from reactstate.persistence.frames import CONTINUES, DURABLE_SIZE, SEGMENT_SIZE, unpack_durable, unpack_segment, walk
from reactstate.persistence.names import DURABLE_FILE, segment_file, segment_serial, snapshot_file, snapshot_version
from reactstate.persistence.protocol import Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from reactstate.persistence.chain import Limit
    from reactstate.persistence.filesystem import FileSystem
    from reactstate.persistence.frames import Durable, Frame, Walk
    from reactstate.persistence.protocol import Record, SchemaTag
    from reactstate.persistence.sealing import Sealing

__all__ = ["Archive"]

_BREATH = 2000
_LOGGER = logging.getLogger("reactstate.persistence")


class Archive:
    """The reading side of a directory."""

    __slots__ = ("_directory", "_files", "_sealing")

    def __init__(self, files: FileSystem, directory: str, sealing: Sealing) -> None:
        self._files = files
        self._directory = directory
        self._sealing = sealing

    def path(self, file: str) -> str:
        """Return the path of a file in the directory."""
        return os.path.join(self._directory, file)  # noqa: PTH118 - paths are strings here

    # --- files --------------------------------------------------------------------------------------------------

    def scan(self, limit: Limit | None = None) -> Scan:
        """Look at the directory and read the segments' headers.

        Raises:
            CorruptionError: A header is damaged.
            CodecError: A header is of a newer version.
            StorageError: The directory cannot be read.
        """
        found = Scan()
        try:
            names = self._files.list_directory(self._directory)
        except FileNotFoundError:
            return found
        except OSError as exc:
            raise StorageError(f"{self._directory!r} cannot be read: {exc}", path=self._directory) from exc
        serials: list[int] = []
        for name in names:
            if (serial := segment_serial(name)) is not None:
                if limit is None or serial <= limit[0]:
                    serials.append(serial)
            elif (version := snapshot_version(name)) is not None:
                found.snapshots.append(version)
            elif name.endswith(".tmp"):
                found.temporary.append(self.path(name))
        found.snapshots.sort()
        serials.sort()
        for serial in serials:
            self._read_header(found, serial, newest=limit is None and serial == serials[-1])
        return found

    def _read_header(self, found: Scan, serial: int, *, newest: bool) -> None:
        path = self.path(segment_file(serial))
        try:
            handle = self._files.open(path)
            try:
                data = self._files.pread(handle, 4096, 0)
                needed = SEGMENT_SIZE + int.from_bytes(data[SEGMENT_SIZE - 12 : SEGMENT_SIZE - 8], "little")
                size = self._files.size(handle)
                if len(data) < needed <= size:
                    data = self._files.pread(handle, needed, 0)
                header = unpack_segment(data, serial)
                if header is None:
                    data = self._files.pread(handle, size, 0)
            finally:
                self._files.close(handle)
        except FileNotFoundError:
            # A writer's compaction removed it since the directory was listed; what is missing will be noticed.
            return
        except OSError as exc:
            raise StorageError(f"{path!r} cannot be read: {exc}", path=path) from exc
        if header is not None:
            _, flags, _, base, horizon, payload, end = header
            found.segments.append(
                Segment(path, serial, base, horizon, payload, end, header.format_id, continues=bool(flags & CONTINUES))
            )
        elif newest and walk(data, serial, 0).resume is None:
            found.torn = path
            found.torn_bytes = len(data)
        else:
            raise CorruptionError(
                f"the header of the journal segment {path!r} is damaged; use verify() and recover()",
                path=path,
                offset=0,
            )

    async def read(self, path: str) -> bytes:
        """Return the bytes of the file.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            return await self._files.read_file(path)
        except OSError as exc:
            raise StorageError(f"{path!r} cannot be read: {exc}", path=path) from exc

    async def snapshot(self, version: int) -> Snapshot:
        """Return the full snapshot at *version*.

        Raises:
            CorruptionError: It is damaged or missing.
            CodecError: It needs a key, library or version that is not there.
        """
        path = self.path(snapshot_file(version))
        try:
            data = await self.read(path)
        except StorageError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                raise CorruptionError(f"the snapshot {path!r} is missing", path=path) from exc
            raise
        return self.unpack_snapshot(data, version)

    def unpack_snapshot(self, data: bytes, version: int) -> Snapshot:
        """Return the snapshot at *version* from the bytes of its file."""
        return self._sealing.unpack_snapshot(data, version, self.path(snapshot_file(version)))

    def snapshot_bytes(self, version: int) -> int:
        """Return the size of the file of the snapshot at *version*; raises OSError."""
        handle = self._files.open(self.path(snapshot_file(version)))
        try:
            return self._files.size(handle)
        finally:
            self._files.close(handle)

    def names(self) -> list[str]:
        """Return the names of the files in the directory."""
        try:
            return self._files.list_directory(self._directory)
        except OSError as exc:
            raise StorageError(f"{self._directory!r} cannot be read: {exc}", path=self._directory) from exc

    def segment(self, serial: int, *, newest: bool) -> Segment | None:
        """Return one segment, or None when it is gone or was torn while it was made."""
        found = Scan()
        self._read_header(found, serial, newest=newest)
        return found.segments[0] if found.segments else None

    def decode(self, segment: Segment, data: bytes, frame: Frame) -> list[Record]:
        """Return the records of one frame."""
        return list(self._sealing.decode_records(data, [frame], (segment.format_id, segment.serial), segment.path))

    def schema(self, segment: Segment) -> SchemaTag:
        """Return the schema tag of *segment*."""
        return self._sealing.open_schema(segment.payload, segment.format_id, segment.serial, segment.path)

    async def frames(self, segment: Segment, limit: Limit | None, following: Segment | None) -> tuple[bytes, Walk]:
        """Read *segment*, check its frames and that their versions follow one another up to the *following* segment.

        Raises:
            CorruptionError: Something is damaged or missing that was durable.
        """
        data = await self.read(segment.path)
        short = False
        if limit is not None and limit[0] == segment.serial:
            short = len(data) < limit[1]
            data = data[: limit[1]]
        found = walk(data, segment.serial, segment.end)
        if short or (found.bad is not None and (limit is not None or following is not None or found.proven)):
            raise damaged(segment.path, found.end)
        version = segment.base
        for frame in found.frames:
            if frame.first != version + 1:
                raise damaged(segment.path, frame.offset)
            version += frame.records
        if following is not None and version != following.base and (following.continues or version > following.base):
            raise damaged(segment.path, found.end)
        return data, found

    def decoded(self, segment: Segment, data: bytes, found: Walk, start: int) -> Iterator[Record]:
        """Yield the records of *segment* above version *start*."""
        frames = [frame for frame in found.frames if frame.first + frame.records - 1 > start]
        header = (segment.format_id, segment.serial)
        for record in self._sealing.decode_records(data, frames, header, segment.path):
            if record.version > start:
                yield record

    # --- load ---------------------------------------------------------------------------------------------------

    async def load(self, found: Scan, history: int, limit: Limit | None = None) -> Recovered | None:
        """Return the newest state and at least the last *history* records that are kept, or None.

        Raises:
            CorruptionError: Durable bytes are damaged or missing.
            CodecError: Bytes need a key, library or version that is not there.
        """
        if not found.segments and not found.snapshots:
            return None
        newest = found.segments[-1] if found.segments else None
        last_version = end = dropped = 0
        if newest is not None:
            data, tail = found.tail = await self.frames(newest, limit, None)
            last_version = tail.frames[-1].first + tail.frames[-1].records - 1 if tail.frames else newest.base
            if tail.bad is not None and found.torn is not None:
                # The segment before was synced before the torn one was begun.
                raise damaged(newest.path, tail.bad)
            end = tail.end
            dropped = len(data[tail.end :].rstrip(b"\0"))
        dropped += found.torn_bytes
        chain = await self._start(found, last_version, history)
        frame_bytes = await self._replay(chain, found, limit, found.snapshots[-1] if found.snapshots else 0)
        if (
            newest is not None
            and chain.version in found.snapshots
            and (newest.continues or newest.base < chain.version)
        ):
            await self._change_schema(chain, chain.version)
        return Recovered(
            chain.loaded(history, dropped),
            newest,
            end,
            last_version,
            self.schema(newest) if newest is not None else None,
            found.snapshots[-1] if found.snapshots else 0,
            frame_bytes,
        )

    async def _change_schema(self, chain: Chain, version: int) -> None:
        """Go over to a snapshot of another schema that a crash kept from getting its segment."""
        try:
            snapshot = await self.snapshot(version)
        except CorruptionError as exc:
            _LOGGER.warning("passing over a damaged snapshot: %s", exc)
            return
        if snapshot.schema != chain.schema:
            chain.end_era()
            chain.begin(snapshot)

    async def _start(self, found: Scan, last_version: int, history: int) -> Chain:
        """Return a chain at the snapshot to replay from."""
        problem: CorruptionError | None = None
        for version in self._candidates(found, last_version, history):
            if version == 0 and 0 not in found.snapshots:
                return Chain(Snapshot(0, None, self.schema(found.segments[0]), "", 0, 0), history)
            try:
                snapshot = await self.snapshot(version)
            except CorruptionError as exc:
                _LOGGER.warning("passing over a damaged snapshot: %s", exc)
                problem = problem or exc
            else:
                return Chain(snapshot, history)
        raise problem or CorruptionError(
            f"no snapshot in {self._directory!r} leads to the journal's records; use recover()", path=self._directory
        )

    @staticmethod
    def _candidates(found: Scan, last_version: int, history: int) -> list[int]:
        """Return the versions to replay from, best first."""
        horizon = found.segments[-1].horizon if found.segments else 0
        # Where an era begins without its snapshot on the way, nothing older leads further.
        want = max(horizon, last_version - history)
        usable = [version for version in found.snapshots if version <= last_version]
        if found.segments and found.segments[0].base == 0 and 0 not in usable:
            usable.insert(0, 0)
        ahead = [version for version in found.snapshots if version > last_version][::-1]
        kept = [version for version in usable if version >= horizon]
        below = [version for version in kept if version <= want][::-1]
        above = [version for version in kept if version > want]
        older = [version for version in usable if version < horizon][::-1]
        return ahead + below + above + older

    def _needed(self, found: Scan, start: int) -> list[Segment]:
        """Return the segments with records above *start*, and the one before if it ends there."""
        needed: list[Segment] = []
        for segment in reversed(found.segments):
            needed.insert(0, segment)
            if segment.base <= start:
                return needed
        if needed:
            raise CorruptionError(
                f"the journal in {self._directory!r} lacks the records from version {start + 1} to {needed[0].base}",
                path=self._directory,
            )
        return needed

    async def _replay(self, chain: Chain, found: Scan, limit: Limit | None, newest_snapshot: int) -> int:
        """Replay everything above the chain's start; return the size of the frames above *newest_snapshot*."""
        frame_bytes = 0
        async for segment, data, tail in self._segments(chain, found, limit):
            frame_bytes += sum(
                [frame.end - frame.offset for frame in tail.frames if frame.first + frame.records - 1 > newest_snapshot]
            )
            replay_record = chain.replay
            keep = chain.records.append
            breath = _BREATH
            for record in self.decoded(segment, data, tail, chain.version):
                replay_record(record, segment.path)
                keep(record)
                breath -= 1
                if not breath:
                    breath = _BREATH
                    await asyncio.sleep(0)
        return frame_bytes

    async def _segments(
        self, chain: Chain, found: Scan, limit: Limit | None
    ) -> AsyncIterator[tuple[Segment, bytes, Walk]]:
        """Yield the segments above the chain's version, turning *chain* to a new era where one begins."""
        needed = self._needed(found, chain.version)
        for index, segment in enumerate(needed):
            following = needed[index + 1] if index + 1 < len(needed) else None
            if index and not segment.continues:
                if segment.base != chain.version:
                    raise damaged(segment.path, 0)
                chain.end_era()
                chain.begin(await self.snapshot(segment.base))
            if following is None and found.tail is not None:
                data, tail = found.tail
            else:
                data, tail = await self.frames(segment, limit, following)
            holds_more = bool(tail.frames) and tail.frames[-1].first + tail.frames[-1].records - 1 > chain.version
            if holds_more and self.schema(segment) != chain.schema:
                raise CorruptionError(
                    f"the records in {segment.path!r} do not belong to the snapshot before them; use recover()",
                    path=segment.path,
                )
            yield segment, data, tail

    # --- readers beside a writer --------------------------------------------------------------------------------

    def published(self) -> Durable | None:
        """Return how far the writer says that the journal is durable, or None where it has not said so."""
        path = self.path(DURABLE_FILE)
        try:
            handle = self._files.open(path)
            try:
                return unpack_durable(self._files.pread(handle, DURABLE_SIZE, 0))
            finally:
                self._files.close(handle)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"{path!r} cannot be read: {exc}", path=path) from exc

    def check_complete(self, found: Scan) -> None:
        """Refuse a directory whose journal file, of which the writer said that it was durable, is not there.

        Raises:
            CorruptionError: It is missing; nothing was changed.
        """
        published = self.published()
        if published is None or found.torn is not None or published.version <= max(found.snapshots, default=0):
            return  # whatever is missing, a full snapshot holds it
        if all(segment.serial < published.serial for segment in found.segments):
            path = self.path(segment_file(published.serial))
            raise CorruptionError(
                f"the journal file {path!r} is missing: versions up to {published.version} were durable in it; "
                "put it back from a backup, or remove the file 'durable' beside it to go on without those versions",
                path=path,
                offset=0,
            )

    def published_limit(self) -> Limit | None:
        """Return how far a reader may read; where nothing is published, that is what later frames prove durable."""
        published = self.published()
        if published is not None:
            return published.serial, published.offset
        segments = self.scan().segments
        if not segments:
            return None
        newest = segments[-1]
        data = self._peek(newest.path, 0, None)
        return newest.serial, max(newest.end, walk(data, newest.serial, newest.end).durable)

    def between(self, start: Limit, end: int) -> Iterator[Record]:
        """Yield the records in a segment from one offset to another, both published."""
        serial, offset = start
        path = self.path(segment_file(serial))
        segment = self.segment(serial, newest=False)
        if segment is None:
            raise StorageError(f"{path!r} is gone", path=path)
        data = self._peek(path, offset, end - offset)
        tail = walk(data, serial, 0, offset)
        if tail.bad is not None or tail.end != end - offset:
            raise damaged(path, offset + tail.end)
        yield from self.decoded(segment, data, tail, 0)

    def _peek(self, path: str, offset: int, size: int | None) -> bytes:
        try:
            handle = self._files.open(path)
            try:
                return self._files.pread(handle, self._files.size(handle) if size is None else size, offset)
            finally:
                self._files.close(handle)
        except OSError as exc:
            raise StorageError(f"{path!r} cannot be read: {exc}", path=path) from exc

    def moved(self, found: Scan, limit: Limit | None) -> bool:
        """Whether the files that *found* lists are no longer those of the directory."""
        now = self.scan(limit)
        return (now.snapshots, [segment.serial for segment in now.segments]) != (
            found.snapshots,
            [segment.serial for segment in found.segments],
        )

    # --- changes ------------------------------------------------------------------------------------------------

    async def changes(self, found: Scan, since: int, limit: Limit | None) -> AsyncIterator[Record]:
        """Yield the records above *since* with their inverses, oldest first.

        Raises:
            CompactedError: They are no longer kept from *since* on.
            CorruptionError: Durable bytes are damaged or missing.
        """
        if not found.segments:
            if found.snapshots and found.snapshots[-1] > since:
                raise compacted(since, found.snapshots[-1])
            return
        horizon = found.segments[-1].horizon
        if since < horizon:
            raise compacted(since, horizon)
        starts = [version for version in found.snapshots if horizon <= version <= since][::-1]
        if horizon == 0 and 0 not in starts:
            starts.append(0)
        chain = await self._first_good(found, starts)
        async for segment, data, tail in self._segments(chain, found, limit):
            for record in self.decoded(segment, data, tail, chain.version):
                chain.replay(record, segment.path)
                if record.version > since:
                    yield record

    async def _first_good(self, found: Scan, starts: list[int]) -> Chain:
        problem: CorruptionError | None = None
        for version in starts:
            if version == 0 and 0 not in found.snapshots:
                return Chain(Snapshot(0, None, self.schema(found.segments[0]), "", 0, 0), 0)
            try:
                return Chain(await self.snapshot(version), 0)
            except CorruptionError as exc:
                problem = problem or exc
        raise problem or CorruptionError(
            f"no snapshot in {self._directory!r} leads to the journal's records; use recover()", path=self._directory
        )
