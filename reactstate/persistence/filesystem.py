"""What a file persistence needs of a file system, and the local one.

Contract
    Whole files (snapshots, blobs, exports) are read and replaced by coroutines; ``replace_file`` is atomic and
    durable. Cancelling one of them stops the waiting only: the steps run in one thread, which goes on to their end and
    closes what it opened. Callers that write a path again must therefore wait for the write before; see
    ``reactstate.persistence.finishing``. The few small operations of the journal are synchronous and are called by the thread that owns the handle.
    Every failure is an ``OSError``; the callers turn it into a typed error with the path. Handles are used by one
    thread at a time.

Portability
    Nothing here is POSIX-only at import. Without ``os.fdatasync`` there is ``os.fsync``; macOS is asked for
    ``F_FULLFSYNC``; directories are not synced on Windows, which cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import filelock
from aiofiles.threadpool import wrap

from reactstate.errors import AlreadyOpenError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileSystem", "HeldLock", "LocalFileSystem", "pick_pread", "pick_pwrite", "pick_sync", "write_all"]

_BINARY: int = getattr(os, "O_BINARY", 0)
_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)


class HeldLock(Protocol):
    """A lock that is held until it is released."""

    def release(self) -> object:
        """Give the lock up."""
        ...


class FileSystem(ABC):
    """The file operations of a persistence; subclass it to keep files elsewhere or to inject faults.

    Paths are strings made by joining the persistence's directory and file names with ``os.path.join``.
    """

    @abstractmethod
    async def read_file(self, path: str) -> bytes:
        """Return all bytes of the file (FileNotFoundError when there is none)."""

    @abstractmethod
    async def replace_file(self, path: str, data: bytes) -> None:
        """Put *data* in place of the file, durably, so that a crash leaves the old bytes or the new, never a mixture."""

    @abstractmethod
    def make_directory(self, path: str) -> None:
        """Create the directory (0700) and its parents unless it is there."""

    @abstractmethod
    def list_directory(self, path: str) -> list[str]:
        """Return the names in the directory (FileNotFoundError when there is none)."""

    @abstractmethod
    def sync_directory(self, path: str) -> None:
        """Make the names in the directory durable."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove the file (FileNotFoundError when there is none)."""

    @abstractmethod
    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        """Return a handle; with *create* the file (0600) must not be there yet."""

    @abstractmethod
    def size(self, handle: int) -> int:
        """Return the length of the open file in bytes."""

    @abstractmethod
    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """Read up to *size* bytes at *offset*; fewer only at the end of the file."""

    @abstractmethod
    def pwrite(self, handle: int, data: bytes | memoryview, offset: int) -> int:
        """Write *data* at *offset* and return how many bytes were taken, which may be fewer."""

    @abstractmethod
    def sync(self, handle: int) -> None:
        """Make the file's bytes and length durable."""

    @abstractmethod
    def truncate(self, handle: int, size: int) -> None:
        """Cut the open file to *size* bytes."""

    @abstractmethod
    def close(self, handle: int) -> None:
        """Close the handle."""

    @abstractmethod
    def lock(self, path: str) -> HeldLock:
        """Take the lock at once, for as long as this process lives (AlreadyOpenError when another holds it)."""


def write_all(files: FileSystem, handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write *data* at *offset*, going on after short writes.

    Raises:
        OSError: The system refused, or took nothing.
    """
    taken = files.pwrite(handle, data, offset)
    if taken < len(data):
        data = memoryview(data)
    while taken < len(data):
        more = files.pwrite(handle, data[taken:], offset + taken)
        if more <= 0:
            raise OSError(5, "the file system takes no more bytes")
        taken += more


def pick_sync(control: Any, system: Any) -> Callable[[int], None]:
    """Return the cheapest function that makes a file durable, of the modules *control* (fcntl) and *system* (os)."""
    full = getattr(control, "F_FULLFSYNC", None)
    if full is None:
        chosen: Callable[[int], None] = getattr(system, "fdatasync", system.fsync)
        return chosen

    def full_sync(handle: int) -> None:
        try:
            control.fcntl(handle, full)
        except OSError:
            # Network and foreign file systems do not know the request; a true failure fails here again.
            system.fsync(handle)

    return full_sync


def pick_pread(system: Any) -> Callable[[int, int, int], bytes]:
    """Return a positioned read of the module *system* (os), made of two calls where it has none (Windows)."""
    found: Callable[[int, int, int], bytes] | None = getattr(system, "pread", None)
    if found is not None:
        return found

    def seek_and_read(handle: int, size: int, offset: int) -> bytes:
        system.lseek(handle, offset, os.SEEK_SET)
        data: bytes = system.read(handle, size)
        return data

    return seek_and_read


def pick_pwrite(system: Any) -> Callable[[int, bytes | memoryview, int], int]:
    """Return a positioned write of the module *system* (os), made of two calls where it has none (Windows)."""
    found: Callable[[int, bytes | memoryview, int], int] | None = getattr(system, "pwrite", None)
    if found is not None:
        return found

    def seek_and_write(handle: int, data: bytes | memoryview, offset: int) -> int:
        system.lseek(handle, offset, os.SEEK_SET)
        taken: int = system.write(handle, data)
        return taken

    return seek_and_write


def _control() -> Any:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return None
    return fcntl


_pread = pick_pread(os)
_pwrite = pick_pwrite(os)
_sync = pick_sync(_control(), os)


class LocalFileSystem(FileSystem):
    """The operating system's files: 0600, in directories of 0700."""

    async def read_file(self, path: str) -> bytes:
        """Read without holding up the event loop; the file is closed even when the caller is cancelled."""
        with open(path, "rb") as file:  # noqa: ASYNC230, PTH123 - opening is quick, and so nobody else has to close it
            data: bytes = await wrap(file, loop=asyncio.get_running_loop()).read()
        return data

    async def replace_file(self, path: str, data: bytes) -> None:
        """Write a temporary file beside *path*, sync it, rename it over *path* and sync the directory."""
        await asyncio.to_thread(self._replace, path, data)

    def _replace(self, path: str, data: bytes) -> None:
        temporary = f"{path}.{secrets.token_hex(6)}.tmp"
        handle = self.open(temporary, write=True, create=True)
        try:
            try:
                write_all(self, handle, data, 0)
                self.sync(handle)
            finally:
                self.close(handle)
            os.replace(temporary, path)  # noqa: PTH105 - paths are strings in this module
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108 - as above
            raise
        self.sync_directory(os.path.dirname(path))  # noqa: PTH120 - as above

    def make_directory(self, path: str) -> None:
        """Create what is missing, and make the new names durable in their parents."""
        missing: list[str] = []
        here = os.path.abspath(path)  # noqa: PTH100 - as above
        while not os.path.isdir(here) and here != os.path.dirname(here):  # noqa: PTH112, PTH120 - as above
            missing.append(here)
            here = os.path.dirname(here)  # noqa: PTH120 - as above
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)  # noqa: PTH102 - as above
            self.sync_directory(os.path.dirname(directory))  # noqa: PTH120 - as above
        # Where a file is in the way the loop above ended at its parent and mkdir was told that it exists.
        if missing and not os.path.isdir(path):  # noqa: PTH112 - as above
            raise NotADirectoryError(20, "a file is where the directory should be", path)

    def list_directory(self, path: str) -> list[str]:
        """List the names, in no particular order."""
        return os.listdir(path)  # noqa: PTH208 - as above

    def sync_directory(self, path: str) -> None:
        """Sync through a handle of the directory; on Windows there is nothing to do."""
        if os.name == "nt":  # pragma: no cover - Windows
            return
        handle = os.open(path, os.O_RDONLY | _CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: str) -> None:
        """Unlink the file."""
        os.unlink(path)  # noqa: PTH108 - as above

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        """Open with the flags asked for; never inherited by child processes."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | _BINARY | _CLOEXEC
        return os.open(path, flags | os.O_CREAT | os.O_EXCL if create else flags, 0o600)

    def size(self, handle: int) -> int:
        """Ask the system."""
        return os.fstat(handle).st_size

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """Read until *size* bytes are there or the file ends."""
        parts: list[bytes] = []
        while size > 0 and (part := _pread(handle, size, offset)):
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return b"".join(parts)

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(handle, size)

    def pwrite(self, handle: int, data: bytes | memoryview, offset: int) -> int:
        """Write once; the system may take fewer bytes."""
        return _pwrite(handle, data, offset)

    def sync(self, handle: int) -> None:
        """Sync with the cheapest call that makes bytes and length durable."""
        _sync(handle)

    def close(self, handle: int) -> None:
        """Close the descriptor."""
        os.close(handle)

    def lock(self, path: str) -> HeldLock:
        """Hold a lock of the operating system, which a killed process cannot leave behind."""
        lock = filelock.FileLock(path, timeout=0, mode=0o600, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as exc:
            raise AlreadyOpenError(
                f"another container or process has {os.path.dirname(path)!r} open for writing; "  # noqa: PTH120 - as above
                "close it first, or open with read_only=True"
            ) from exc
        except NotImplementedError as exc:  # pragma: no cover - systems without file locks
            raise OSError(38, "the file system does not offer locks", path) from exc
        return lock
