"""The journal while it is written: one open segment, its frames, and what is durable of them.

Contract
    All methods but the properties are called by one thread (the flusher). ``write`` puts one frame behind the last
    good one, or nothing: when the system refuses the write, the file is cut back to its last good length and the
    journal goes on. A failed fsync, or a cut that fails, is never tried again, because the system may have thrown the
    bytes away while it reports success the second time: the journal is then *failed*, and whatever was not known to be
    durable has an unknown outcome.

Room in advance
    With ``durability="always"`` the segment is filled with zeros some way ahead, so that an fsync has bytes to write
    and no new length. Zeros after the last frame are the clean end of a journal; closing cuts them off.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from reactstate.errors import StorageError, StorageFailedError, UnknownOutcomeError
from reactstate.persistence.filesystem import write_all
from reactstate.persistence.frames import CONTINUES, associated_data, pack_durable, pack_frame, pack_segment
from reactstate.persistence.names import DURABLE_FILE, segment_file

if TYPE_CHECKING:
    from reactstate.persistence.filesystem import FileSystem
    from reactstate.persistence.protocol import SchemaTag
    from reactstate.persistence.sealing import Sealing

__all__ = ["Journal", "Turn"]

_STEP = 1 << 16
_LOGGER = logging.getLogger("reactstate.persistence")


class Turn:
    """What a new segment is to be.

    Attributes:
        schema: The schema tag of its documents.
        version: The version of the snapshot that it comes with.
        horizon: From which version on records are to be kept.
        anew: Whether its documents start from that snapshot rather than going on from the segment before.
        forced: Whether to make it even if the open segment is empty and would do.
    """

    __slots__ = ("anew", "forced", "horizon", "schema", "version")

    def __init__(self, schema: SchemaTag, version: int, horizon: int, *, anew: bool, forced: bool = False) -> None:
        self.schema: SchemaTag = schema
        self.version: int = version
        self.horizon: int = horizon
        self.anew: bool = anew
        self.forced: bool = forced


class Journal:
    """The segment that is written, and how far it is durable.

    Attributes:
        serial: The segment's serial; 0 while there is none.
        base: The version before the segment's first record.
        horizon: From which version on records are kept.
        last_version: The version of the newest record that was written.
        offset: Where the next frame goes: everything before is good.
        durable: Everything before this offset is on disk.
        frame_bytes: How many bytes of frames were written or found so far.
        failure: Why nothing may be written any more, or None.
        segments: The serial and base of every segment that is kept, the open one last.
        starts: The versions of the snapshots from which documents start anew.
    """

    __slots__ = (
        "_ahead",
        "_allocated",
        "_directory",
        "_files",
        "_handle",
        "_publisher",
        "_sealing",
        "base",
        "durable",
        "failure",
        "frame_bytes",
        "horizon",
        "last_version",
        "offset",
        "path",
        "publish_written",
        "segments",
        "serial",
        "starts",
    )

    def __init__(self, files: FileSystem, directory: str, sealing: Sealing, *, durability: str) -> None:
        self._files = files
        self._directory = directory
        self._sealing = sealing
        self._ahead = durability == "always"
        self.publish_written: bool = durability == "never"
        self._handle: int = -1
        self._publisher: int = -1
        self._allocated: int = 0
        self.path: str = directory
        self.serial: int = 0
        self.base: int = 0
        self.horizon: int = 0
        self.last_version: int = 0
        self.offset: int = 0
        self.durable: int = 0
        self.frame_bytes: int = 0
        self.failure: BaseException | None = None
        self.segments: list[tuple[int, int]] = []
        self.starts: set[int] = set()

    # --- opening and closing ------------------------------------------------------------------------------------

    def resume(self, serial: int, end: int) -> None:
        """Go on with an existing segment whose last good frame ends at *end*; cut off and sync what is there.

        Raises:
            StorageError: The system refused.
        """
        self.path = os.path.join(self._directory, segment_file(serial))  # noqa: PTH118 - paths are strings here
        try:
            self._handle = self._files.open(self.path, write=True)
            if self._files.size(self._handle) > end:
                self._files.truncate(self._handle, end)
            # A killed process leaves bytes that are written and not durable; what follows will say that they are.
            self._files.sync(self._handle)
        except OSError as exc:
            raise StorageError(f"the journal {self.path!r} cannot be opened: {exc}", path=self.path) from exc
        self.serial = serial
        self.offset = self.durable = self._allocated = end

    def close(self) -> None:
        """Sync and cut off the room in advance if the journal is well, and close the files in any case.

        Raises:
            UnknownOutcomeError: The last sync failed.
        """
        try:
            if self.failure is None and self._handle >= 0:
                self.sync()
                self.publish()
                if self._allocated > self.offset:
                    with contextlib.suppress(OSError):
                        self._files.truncate(self._handle, self.offset)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files without writing anything."""
        for handle in (self._handle, self._publisher):
            if handle >= 0:
                with contextlib.suppress(OSError):
                    self._files.close(handle)
        self._handle = self._publisher = -1

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, first: int, count: int, payload: bytes) -> None:
        """Write one frame with *count* records from version *first* on; it is not durable yet.

        Raises:
            StorageError: The system refused; nothing of the frame was kept.
            UnknownOutcomeError: The system refused to take back what it had refused to write.
            StorageFailedError: The journal failed earlier.
        """
        self.check()
        sealed = self._sealing.seal(payload, associated_data(self.serial, self.offset))
        frame = pack_frame(self.serial, self.offset, self.durable, first, count, sealed)
        end = self.offset + len(frame)
        if self._ahead and end > self._allocated and len(frame) < _STEP:
            self._allocate()
        try:
            write_all(self._files, self._handle, frame, self.offset)
        except OSError as exc:
            self._cut_back()
            raise StorageError(
                f"the journal {self.path!r} could not be written: {exc}; nothing was kept of it, so it can be tried again",
                path=self.path,
            ) from exc
        self.offset = end
        self._allocated = max(self._allocated, end)
        self.last_version = first + count - 1
        self.frame_bytes += len(frame)

    def sync(self) -> None:
        """Make every frame written so far durable; ``publish`` tells followers.

        Raises:
            UnknownOutcomeError: The system failed to; nothing is written from now on.
            StorageFailedError: The journal failed earlier.
        """
        self.check()
        if self.durable == self.offset:
            return
        try:
            self._files.sync(self._handle)
        except OSError as exc:
            raise self.fail(exc) from exc
        self.durable = self.offset

    def publish(self) -> None:
        """Tell followers how far they may read."""
        offset = self.offset if self.publish_written else self.durable
        path = os.path.join(self._directory, DURABLE_FILE)  # noqa: PTH118 - paths are strings here
        try:
            if self._publisher < 0:
                try:
                    self._publisher = self._files.open(path, write=True)
                except FileNotFoundError:
                    self._publisher = self._files.open(path, write=True, create=True)
            self._files.pwrite(self._publisher, pack_durable(self.serial, offset, self.last_version), 0)
        except OSError as exc:
            # Followers only stay behind; what was promised to the writer holds.
            _LOGGER.warning("followers of %r cannot be told what is durable: %s", self._directory, exc)

    def check(self) -> None:
        """Raise StorageFailedError if the journal failed earlier."""
        if self.failure is not None:
            raise StorageFailedError(
                f"an earlier write to {self.path!r} has an unknown outcome, so nothing more is written; "
                "close this persistence and open it anew to read back what is there",
                path=self.path,
            ) from self.failure

    # --- segments -----------------------------------------------------------------------------------------------

    def turn(self, turn: Turn) -> None:
        """Go on in a new segment, unless the open one is empty and already what is asked for.

        Raises:
            StorageError: The system refused; the journal goes on in the old segment.
            UnknownOutcomeError: The system failed in a way that leaves open what is there after a restart.
            StorageFailedError: The journal failed earlier.
        """
        self.check()
        anew = turn.anew or turn.version > self.last_version or self.serial == 0
        horizon = turn.version if turn.version > self.last_version else turn.horizon
        if not (anew or turn.forced) and self.last_version == self.base and horizon == self.horizon:
            return
        if self.serial:
            self.sync()
        base = turn.version if anew else self.last_version
        serial = self.serial + 1
        path = os.path.join(self._directory, segment_file(serial))  # noqa: PTH118 - paths are strings here
        header = pack_segment(
            self._sealing.format_id,
            0 if anew else CONTINUES,
            serial,
            base,
            horizon,
            self._sealing.seal_schema(turn.schema, serial),
        )
        handle = self._create(path, header, keep_going=not anew or turn.version == self.serial == 0)
        if self._handle >= 0:
            if self._allocated > self.offset:
                with contextlib.suppress(OSError):
                    self._files.truncate(self._handle, self.offset)
            with contextlib.suppress(OSError):
                self._files.close(self._handle)
        self._handle = handle
        self.path = path
        self.serial = serial
        self.base = self.last_version = base
        self.horizon = horizon
        self.offset = self.durable = self._allocated = len(header)
        self.segments.append((serial, base))
        if anew:
            self.starts.add(base)
        self.publish()

    def _create(self, path: str, header: bytes, *, keep_going: bool) -> int:
        """Create the file of a new segment with its header, durably, and return its handle."""
        handle = -1
        try:
            handle = self._files.open(path, write=True, create=True)
            write_all(self._files, handle, header, 0)
        except OSError as exc:
            if handle >= 0:
                self._discard(handle, path, exc)
            if not keep_going:
                # The snapshot on disk does not go with the open segment: only a restart can bring them together.
                raise self.fail(exc) from exc
            raise StorageError(f"the journal segment {path!r} could not be created: {exc}", path=path) from exc
        try:
            self._files.sync(handle)
            self._files.sync_directory(self._directory)
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._files.close(handle)
            raise self.fail(exc) from exc
        return handle

    def _discard(self, handle: int, path: str, cause: OSError) -> None:
        """Remove a segment that could not be written, so that a restart does not find it."""
        try:
            self._files.close(handle)
            self._files.remove(path)
            self._files.sync_directory(self._directory)
        except OSError as exc:
            raise self.fail(exc) from cause

    # --- inside -------------------------------------------------------------------------------------------------

    def _allocate(self) -> None:
        """Fill some room after the last frame with zeros; without it everything works, only slower."""
        with contextlib.suppress(OSError):
            self._allocated = max(self._allocated, self.offset)
            taken = self._files.pwrite(self._handle, bytes(_STEP), self._allocated)
            self._allocated += taken

    def _cut_back(self) -> None:
        try:
            self._files.truncate(self._handle, self.offset)
        except OSError as exc:
            raise self.fail(exc) from exc
        self._allocated = self.offset

    def fail(self, exc: BaseException) -> UnknownOutcomeError:
        """Write nothing from now on, because of *exc*; return the error for who waits."""
        self.failure = exc
        return UnknownOutcomeError(
            f"the file system failed under {self.path!r} ({exc}), so it is not known what is durable; "
            "close this persistence and open it anew to read back what is there"
        )
