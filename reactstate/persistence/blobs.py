"""Named blobs as files: written whole, atomically and durably, and checked when they are read.

Contract
    Writes and removals come one after another, each to its end: one whose caller is cancelled is carried out all the
    same, before the next. Damage to one blob is met by who reads it; listing passes it over with a warning.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from reactstate.errors import ClosedError, CorruptionError, StorageError
from reactstate.persistence.finishing import finish
from reactstate.persistence.names import BLOB_DIRECTORY, blob_file, blob_name, check_blob_name
from reactstate.persistence.protocol import BlobInfo
from reactstate.persistence.sealing import FILE_HEADER_SIZE

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.persistence.filesystem import FileSystem
    from reactstate.persistence.sealing import Sealing

__all__ = ["BlobFolder"]

_LOGGER = logging.getLogger("reactstate.persistence")


class BlobFolder:
    """The blobs of one persistence; a write to a name waits for the write before it."""

    __slots__ = ("_clock", "_files", "_sealing", "closed", "directory", "writing")

    def __init__(self, files: FileSystem, directory: str, sealing: Sealing, clock: Clock) -> None:
        self._files = files
        self._sealing = sealing
        self._clock = clock
        self.writing: asyncio.Lock = asyncio.Lock()
        self.closed: bool = False
        self.directory: str = os.path.join(directory, BLOB_DIRECTORY)  # noqa: PTH118 - paths are strings here

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, blob_file(check_blob_name(name)))  # noqa: PTH118 - as above

    async def put(self, name: str, data: bytes) -> None:
        """Store *data* under *name*."""
        path = self._path(name)
        packed = self._sealing.pack_blob(name, data, self._clock.time_ns())
        await finish(self._put(path, packed))

    async def _put(self, path: str, packed: bytes) -> None:
        async with self.writing:
            self._check()
            try:
                await self._files.replace_file(path, packed)
            except OSError as exc:
                raise StorageError(f"the blob {path!r} could not be written: {exc}", path=path) from exc

    async def get(self, name: str) -> bytes | None:
        """Return the bytes under *name*, or None."""
        path = self._path(name)
        try:
            data = await self._files.read_file(path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"the blob {path!r} could not be read: {exc}", path=path) from exc
        return self._sealing.unpack_blob(data, name, path)

    def _check(self) -> None:
        if self.closed:
            raise ClosedError("the persistence was closed before this blob was its turn; nothing was changed")

    def names(self) -> list[str]:
        """Return all names, sorted."""
        try:
            files = self._files.list_directory(self.directory)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StorageError(f"{self.directory!r} cannot be read: {exc}", path=self.directory) from exc
        return sorted(name for file in files if (name := blob_name(file)) is not None)

    def infos(self, prefix: str) -> list[BlobInfo]:
        """Return the blobs whose name starts with *prefix*, by name; reads the header of each.

        One whose header is damaged is passed over: its size and time are not known, and the others are whole.
        """
        infos: list[BlobInfo] = []
        for name in self.names():
            if not name.startswith(prefix):
                continue
            path = self._path(name)
            try:
                handle = self._files.open(path)
                try:
                    data = self._files.pread(handle, FILE_HEADER_SIZE, 0)
                finally:
                    self._files.close(handle)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise StorageError(f"the blob {path!r} could not be read: {exc}", path=path) from exc
            try:
                header = self._sealing.blob_header(data, path)
            except CorruptionError as exc:
                _LOGGER.warning("passing over a damaged blob: %s", exc)
                continue
            infos.append(BlobInfo(name, header.size_bytes, header.number))
        return infos

    async def delete(self, name: str) -> bool:
        """Remove the blob, durably; say whether it was there."""
        return await finish(self._delete(self._path(name)))

    async def _delete(self, path: str) -> bool:
        async with self.writing:
            self._check()
            return await asyncio.to_thread(self._remove, path)

    def _remove(self, path: str) -> bool:
        try:
            self._files.remove(path)
            self._files.sync_directory(self.directory)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise StorageError(f"the blob {path!r} could not be removed: {exc}", path=path) from exc
        return True

    def clean(self) -> None:
        """Remove temporary files that a crash left behind."""
        for file in self._files.list_directory(self.directory):
            if file.endswith(".tmp"):
                self._files.remove(os.path.join(self.directory, file))  # noqa: PTH118 - as above
