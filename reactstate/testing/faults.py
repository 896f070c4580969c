"""A file system in memory that fails, tears and loses power on demand.

Contract
    ``FaultyFileSystem`` is a ``FileSystem`` whose files live in memory in two layers: what was written, and what was
    synced. ``after_crash`` gives the file system that a restart would find: synced bytes, lengths and names are there;
    unsynced ones are there, lost, or torn at any byte and in any order, as a seeded random source decides. The same
    seed and the same calls give the same result. Directories themselves are durable once made.

    Every operation is counted in ``counts`` by its name: ``open``, ``pread``, ``pwrite``, ``fdatasync``, ``truncate``,
    ``rename``, ``remove``, ``sync_directory``, ``list_directory``, ``make_directory``, ``read_file``. Use it from any
    thread.
"""

from __future__ import annotations

import errno as codes
import os
import random
import threading
from collections import Counter
from typing import Literal

from reactstate.errors import AlreadyOpenError
from reactstate.persistence.filesystem import FileSystem, HeldLock

__all__ = ["FaultyFileSystem"]

Unsynced = Literal["torn", "lost", "kept"]


class _Inode:
    """A file's bytes as written, as synced, and the operations between the two."""

    __slots__ = ("data", "pending", "synced")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced = bytes(data)
        self.pending: list[tuple[int, bytes | None]] = []
        """Offset and bytes of a write, or length and None of a truncation."""

    def apply(self, offset: int, data: bytes | None) -> None:
        """Do one operation on the bytes as written."""
        _apply(self.data, offset, data)
        self.pending.append((offset, data))


class _Fault:
    __slots__ = ("action", "nth", "value")

    def __init__(self, nth: int, action: Literal["fail", "short", "lose"], value: int) -> None:
        self.nth = nth
        self.action = action
        self.value = value


class _Lock:
    __slots__ = ("_files", "_path")

    def __init__(self, files: FaultyFileSystem, path: str) -> None:
        self._files = files
        self._path = path

    def release(self) -> None:
        """Give the lock up."""
        self._files.unlock(self._path)


class FaultyFileSystem(FileSystem):
    """A file system in memory with faults.

    Args:
        seed: Decides what a crash tears.

    Attributes:
        counts: How often each operation was called.
        calls: How many operations were called in all.
        crashed: Whether the crash that was asked for has happened.
    """

    def __init__(self, seed: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self.calls: int = 0
        self.crashed: bool = False
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._mutex = threading.RLock()
        self._directories: set[str] = {os.sep}
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._renames: dict[str, list[tuple[str, _Inode | None, str | None]]] = {}
        """For each directory, its unsynced changes of names: name, new file or None, and the old name of a rename."""
        self._handles: dict[int, _Inode] = {}
        self._next_handle = 1
        self._temporary = 0
        self._faults: dict[str, list[_Fault]] = {}
        self._crash_at: int | None = None
        self._locked: set[str] = set()

    # --- faults -------------------------------------------------------------------------------------------------

    def fail(self, operation: str, *, nth: int = 1, error: int = codes.EIO) -> None:
        """Let the *nth* next call of *operation* raise ``OSError(error)`` and do nothing."""
        self._add(operation, _Fault(self.counts[operation] + nth, "fail", error))

    def short_write(self, *, nth: int = 1, size: int = 1) -> None:
        """Let the *nth* next ``pwrite`` take only *size* bytes."""
        self._add("pwrite", _Fault(self.counts["pwrite"] + nth, "short", size))

    def lose_sync(self, *, nth: int = 1) -> None:
        """Let the *nth* next ``fdatasync`` report success and make nothing durable."""
        self._add("fdatasync", _Fault(self.counts["fdatasync"] + nth, "lose", 0))

    def crash(self, *, at: int) -> None:
        """Crash in the call number *at* from now on: it may or may not take effect, and everything later raises."""
        self._crash_at = self.calls + at

    def after_crash(self, unsynced: Unsynced = "torn") -> FaultyFileSystem:
        """Return the file system that a restart finds.

        Args:
            unsynced: ``"torn"`` for a power cut that keeps any part of what was not synced, ``"lost"`` for one that
                keeps none of it, ``"kept"`` for a process that was killed under a system that lives on.
        """
        with self._mutex:
            after = FaultyFileSystem(self._random.randrange(1 << 32) if unsynced == "torn" else self._seed)
            after._directories = set(self._directories)
            names = self._names if unsynced == "kept" else self._surviving_names(unsynced)
            twins: dict[int, _Inode] = {}
            for path, inode in names.items():
                if id(inode) not in twins:
                    twins[id(inode)] = _Inode(self._surviving_bytes(inode, unsynced))
                after._names[path] = twins[id(inode)]
            after._durable_names = dict(after._names)
            return after

    def _surviving_names(self, unsynced: Unsynced) -> dict[str, _Inode]:
        names = dict(self._durable_names)
        if unsynced == "torn":
            # A directory's changes reach the disk in their order; how many of them is chance.
            for changes in self._renames.values():
                for name, inode, source in changes[: self._random.randint(0, len(changes))]:
                    _rename(names, name, inode, source)
        return names

    def _surviving_bytes(self, inode: _Inode, unsynced: Unsynced) -> bytes:
        if unsynced == "kept":
            return bytes(inode.data)
        data = bytearray(inode.synced)
        if unsynced == "torn":
            for offset, written in inode.pending:
                fate = self._random.random()
                if written is None or fate < 0.4:
                    if fate < 0.7:
                        _apply(data, offset, written)
                elif fate < 0.8:
                    _apply(data, offset, written[: self._random.randint(0, len(written))])
        return bytes(data)

    # --- looking and spoiling -----------------------------------------------------------------------------------

    def paths(self) -> list[str]:
        """Return the paths of all files, sorted."""
        with self._mutex:
            return sorted(self._names)

    def contents(self, path: str) -> bytes:
        """Return a file's bytes without counting a call."""
        with self._mutex:
            return bytes(self._names[os.path.abspath(path)].data)  # noqa: PTH100 - paths are strings here

    def put(self, path: str, data: bytes) -> None:
        """Put *data* in a file, durably, without counting a call: for tests that damage files."""
        with self._mutex:
            path = os.path.abspath(path)  # noqa: PTH100 - as above
            self._names[path] = self._durable_names[path] = _Inode(data)

    def copy(self) -> FaultyFileSystem:
        """Return a file system of its own with the same files."""
        return self.after_crash("kept")

    # --- the operations -----------------------------------------------------------------------------------------

    async def read_file(self, path: str) -> bytes:
        """Return the bytes as written."""
        with self._call("read_file"):
            return bytes(self._inode(path).data)

    async def replace_file(self, path: str, data: bytes) -> None:
        """Do what a real one does, step by step, so that each step can fail."""
        with self._mutex:
            self._temporary += 1
            temporary = f"{path}.{self._temporary}.tmp"
        handle = self.open(temporary, write=True, create=True)
        try:
            offset = 0
            while offset < len(data):
                offset += self.pwrite(handle, data[offset:], offset)
            self.sync(handle)
            self.rename(temporary, path)
        except OSError:
            if not self.crashed:
                self.remove(temporary)
            raise
        finally:
            self.close(handle)
        self.sync_directory(os.path.dirname(path))  # noqa: PTH120 - paths are strings here

    def rename(self, source: str, path: str) -> None:
        """Rename a file over another."""
        with self._call("rename"):
            inode = self._inode(source)
            self._change(path, inode, os.path.abspath(source))  # noqa: PTH100 - as above

    def make_directory(self, path: str) -> None:
        """Make the directory and its parents, durably."""
        with self._call("make_directory"):
            here = os.path.abspath(path)  # noqa: PTH100 - as above
            while here not in self._directories:
                if here in self._names:
                    raise NotADirectoryError(codes.ENOTDIR, "a file is in the way", path)
                self._directories.add(here)
                here = os.path.dirname(here)  # noqa: PTH120 - as above

    def list_directory(self, path: str) -> list[str]:
        """List the files and directories in it."""
        with self._call("list_directory"):
            here = os.path.abspath(path)  # noqa: PTH100 - as above
            if here not in self._directories:
                raise FileNotFoundError(codes.ENOENT, "no such directory", path)
            return [
                os.path.basename(name)  # noqa: PTH119 - as above
                for name in [*self._names, *self._directories]
                if os.path.dirname(name) == here != name  # noqa: PTH120 - as above
            ]

    def sync_directory(self, path: str) -> None:
        """Make the directory's names durable."""
        with self._call("sync_directory"):
            for name, inode, source in self._renames.pop(os.path.abspath(path), []):  # noqa: PTH100 - as above
                _rename(self._durable_names, name, inode, source)

    def remove(self, path: str) -> None:
        """Remove the name."""
        with self._call("remove"):
            self._inode(path)
            self._change(path, None, None)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:  # noqa: ARG002 - memory has no modes
        """Return a new handle."""
        with self._call("open"):
            if create:
                if os.path.abspath(path) in self._names:  # noqa: PTH100 - as above
                    raise FileExistsError(codes.EEXIST, "the file is there", path)
                if os.path.dirname(os.path.abspath(path)) not in self._directories:  # noqa: PTH100, PTH120 - as above
                    raise FileNotFoundError(codes.ENOENT, "no such directory", path)
                self._change(path, _Inode(), None)
            handle = self._next_handle
            self._next_handle += 1
            self._handles[handle] = self._inode(path)
            return handle

    def size(self, handle: int) -> int:
        """Return the length as written."""
        with self._mutex:
            return len(self._handles[handle].data)

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """Return bytes as written."""
        with self._call("pread"):
            return bytes(self._handles[handle].data[offset : offset + size])

    def pwrite(self, handle: int, data: bytes | memoryview, offset: int) -> int:
        """Write, or take fewer bytes if that was asked for."""
        with self._call("pwrite") as fault:
            if fault is not None:
                data = data[: fault.value]
            self._handles[handle].apply(offset, bytes(data))
            return len(data)

    def sync(self, handle: int) -> None:
        """Make the file's bytes durable, unless they are to be lost."""
        with self._call("fdatasync") as fault:
            if fault is None:
                inode = self._handles[handle]
                inode.synced = bytes(inode.data)
                inode.pending.clear()

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        with self._call("truncate"):
            self._handles[handle].apply(size, None)

    def close(self, handle: int) -> None:
        """Forget the handle."""
        with self._mutex:
            self._handles.pop(handle, None)

    def lock(self, path: str) -> HeldLock:
        """Take the lock."""
        with self._call("lock"):
            path = os.path.abspath(path)  # noqa: PTH100 - as above
            if path in self._locked:
                raise AlreadyOpenError(f"another persistence holds {path!r}; close it first")
            self._locked.add(path)
            return _Lock(self, path)

    def unlock(self, path: str) -> None:
        """Give a lock up."""
        with self._mutex:
            self._locked.discard(path)

    # --- inside -------------------------------------------------------------------------------------------------

    def _inode(self, path: str) -> _Inode:
        inode = self._names.get(os.path.abspath(path))  # noqa: PTH100 - as above
        if inode is None:
            raise FileNotFoundError(codes.ENOENT, "no such file", path)
        return inode

    def _change(self, path: str, inode: _Inode | None, source: str | None) -> None:
        path = os.path.abspath(path)  # noqa: PTH100 - as above
        _rename(self._names, path, inode, source)
        self._renames.setdefault(os.path.dirname(path), []).append((path, inode, source))  # noqa: PTH120 - as above

    def _add(self, operation: str, fault: _Fault) -> None:
        with self._mutex:
            self._faults.setdefault(operation, []).append(fault)

    def _call(self, operation: str) -> _Call:
        return _Call(self, operation)

    def enter(self, operation: str) -> tuple[_Fault | None, bool]:
        """Count a call; return its fault, and whether the machine goes down while it is carried out."""
        self.calls += 1
        self.counts[operation] += 1
        if self.crashed:
            raise OSError(codes.EIO, "the machine is down")
        if self._crash_at is not None and self.calls >= self._crash_at:
            self.crashed = True
            if self._random.random() < 0.5:
                raise OSError(codes.EIO, "the machine went down")
            return None, True
        for fault in self._faults.get(operation, []):
            if fault.nth == self.counts[operation]:
                if fault.action == "fail":
                    raise OSError(fault.value, os.strerror(fault.value))
                return fault, False
        return None, False


class _Call:
    """Holds the mutex for one operation, and lets the machine go down behind it."""

    __slots__ = ("_dying", "_files", "_operation")

    def __init__(self, files: FaultyFileSystem, operation: str) -> None:
        self._files = files
        self._operation = operation
        self._dying = False

    def __enter__(self) -> _Fault | None:
        self._files._mutex.acquire()
        try:
            fault, self._dying = self._files.enter(self._operation)
        except OSError:
            self._files._mutex.release()
            raise
        return fault

    def __exit__(self, *exc: object) -> None:
        self._files._mutex.release()
        if self._dying:
            raise OSError(codes.EIO, "the machine went down")


def _apply(data: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        if offset < len(data):
            del data[offset:]
        else:
            data.extend(bytes(offset - len(data)))
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(written)] = written


def _rename(names: dict[str, _Inode], name: str, inode: _Inode | None, source: str | None) -> None:
    if source is not None:
        names.pop(source, None)
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode
