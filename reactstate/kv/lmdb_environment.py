"""A directory that LMDB has open: how it is opened, checked, made larger when it is full, and brought to disk.

Threads
    ``writing`` excludes the writers of this process from each other; LMDB excludes those of other processes, without a
    timeout. ``gate`` is held for the length of one read. Who holds both, while no view is open, is alone, and may map
    the file anew.

Durability
    ``always``: the pages of a commit are on disk before the page that makes them current is written, and that one is
    before the commit is visible. ``interval`` does not wait for that last page (MDB_NOMETASYNC): a power cut finds the
    last state or the one before, never a mix. ``never`` waits for nothing (MDB_NOSYNC): a killed process loses nothing,
    but a power cut may damage the file, unless the file system keeps the order of writes. An environment is opened as
    the most careful of its users needs it.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import lmdb

from reactstate.errors import (
    ClosedError,
    CorruptionError,
    LimitExceededError,
    ReactStateError,
    StorageError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv.lmdb_check import check_file

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Generator

__all__ = ["MAX_KEY_BYTES", "STATE", "UNREADABLE", "Durability", "Environment", "View"]

MAX_KEY_BYTES: Final = 503
"""LMDB's 511 bytes, less the deadline that stands before a key in the index of deadlines."""

STATE: Final = struct.Struct(">QQQ")
"""The newest revision, the newest time, and the newest revision that was removed from the change log."""

UNREADABLE: Final = (lmdb.Error, struct.error, UnicodeDecodeError)
"""What reading rows can raise: LMDB's errors, and those of bytes that are no row."""

Durability: TypeAlias = Literal["never", "interval", "always"]
"""What a commit waits for."""

_CARE: Final = {"never": 0, "interval": 1, "always": 2}
_FORMAT: Final = b"1"
_META: Final = b"reactstate"
_DBS: Final = (_META, b"entries", b"due", b"log")
_MAX_READERS: Final = 1024
_SMALLEST_MAP: Final = 1 << 20
_GROW_S: Final = 30.0
_FOLLOW_S: Final = 1.0
_CHECK_EVERY: Final = 1000
_ROOM_BYTES: Final = 1 << 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LOGGER = logging.getLogger("reactstate.kv")


class View(Protocol):
    """Something that holds a transaction open."""

    def drop(self) -> None:
        """Forget the transaction without ending it."""
        ...


class Environment:
    """A directory that LMDB has open, and what the tables on it share.

    Args:
        path: The directory; it is made when it is not there.
        map_size: How large the file can become before it is mapped anew, in bytes.
        read_only: Open without writing.
        durability: What a commit waits for; see the module.

    Attributes:
        env: LMDB's own object; another one after the file was mapped anew.
        id: The random text that names these files.
        entries: Key (UTF-8) to revision, deadline and value.
        due: Deadline and key, to nothing.
        log: Newest revision to time and events.
        meta: ``format``, ``id`` and ``state``.
        views: What is open; changed with the gate held.
        failed: Why nothing may be written until the directory is opened anew; None: it may.
        users: How many tables use it.
        process: The process that it belongs to.
    """

    def __init__(self, path: str, *, map_size: int, read_only: bool, durability: Durability) -> None:
        self.path: str = path
        self.writing: LockType = threading.Lock()
        self.gate: LockType = threading.Lock()
        self.views: set[View] = set()
        self.failed: str | None = None
        self.users: int = 0
        self.process: int = os.getpid()
        self._file = Path(path, "data.mdb")
        self._map_size = map_size
        self._read_only = read_only
        self._durability: Durability = durability
        self._closed = False
        self._groups = 0
        self._opened = False
        self._opening = threading.Lock()

    # --- opening and closing ----------------------------------------------------------------------------------------

    def open(self, *, read_only: bool, durability: Durability) -> bool:
        """Open it for one more user, unless the path leads to other files by now; say whether it is open.

        Raises:
            StorageError: It cannot be opened.
            CorruptionError: It is damaged.
            StorageFailedError: A write failed, and another store of this process still has it open.
            UnavailableError: It must be opened anew, and this process has had snapshots open for too long.
            UnknownOutcomeError: Earlier commits of this process could not be brought to disk.
        """
        with self._opening:
            if not self._opened:
                self._read_only, self._durability = read_only, durability
                self._make_directory()
                check_file(self._file)
                self._open()
                self._opened = True
            elif not self.current():
                return False
            elif self.failed is not None:
                raise StorageFailedError(
                    f"{self.failed}; close the other stores on it in this process first", path=self.path
                )
            else:
                self._upgrade(read_only=read_only, durability=durability)
        return True

    def _make_directory(self) -> None:
        place = Path(self.path)
        try:
            if self._read_only:
                if not self._file.exists():
                    raise self._absent()
                return
            place.mkdir(0o700)
        except FileExistsError as exc:
            if not place.is_dir():
                raise StorageError(
                    f"{self.path} is a file, and an lmdb store is a directory; give another path", path=self.path
                ) from exc
        except OSError as exc:
            raise StorageError(f"the directory {self.path} cannot be used: {exc.strerror}", path=self.path) from exc

    def _absent(self) -> StorageError:
        return StorageError(f"there is no store in {self.path}; open it once for writing", path=self.path)

    def _open(self) -> None:
        env = self._map()
        try:
            self._prepare(env)
            found = self._file.stat()
        except ReactStateError:
            env.close()
            raise
        except UNREADABLE as exc:
            env.close()
            raise self.error(exc) from exc
        except OSError as exc:
            env.close()
            raise StorageError(f"{self._file} cannot be read: {exc.strerror}", path=self.path) from exc
        self.env = env
        self._map_size = env.info()["map_size"]
        self._inode = (found.st_dev, found.st_ino)
        self._file_bytes = found.st_size

    def _map(self) -> lmdb.Environment:
        size = self._map_size
        while True:
            try:
                return lmdb.Environment(
                    self.path,
                    map_size=size,
                    readonly=self._read_only,
                    create=False,
                    metasync=self._durability == "always",
                    sync=self._durability != "never",
                    mode=0o600,
                    max_readers=_MAX_READERS,
                    max_dbs=4,
                )
            except lmdb.MemoryError as exc:
                # The process may not have so many addresses; a smaller map is made larger when it is full.
                size //= 2
                if size < _SMALLEST_MAP:
                    raise self.error(exc) from exc
            except (lmdb.Error, OSError) as exc:
                raise self.error(exc) from exc

    def _prepare(self, env: lmdb.Environment) -> None:
        if env.reader_check():
            _LOGGER.info("%s: the places of killed readers were cleared", self.path)
        with env.begin() as txn:
            try:
                fresh = txn.get(b"format", db=env.open_db(_META, txn, create=False)) is None
            except lmdb.NotFoundError as exc:
                fresh = True
                if txn.stat()["entries"]:
                    raise StorageError(
                        f"{self.path} holds the data of another application; give another path", path=self.path
                    ) from exc
        if self._read_only:
            if fresh:
                raise self._absent()
            dbs = [env.open_db(name, create=False) for name in _DBS]
            with env.begin() as txn:
                self.id: str = self._describe(txn, dbs[0])
        else:
            # Databases opened in a transaction that reads end with it, and without one LMDB would stop every thread
            # while it waits for the writers of other processes.
            with env.begin(write=True) as txn:
                dbs = [env.open_db(name, txn, create=fresh) for name in _DBS]
                if txn.get(b"format", db=dbs[0]) is None:
                    txn.put(b"format", _FORMAT, db=dbs[0])
                    txn.put(b"id", uuid.uuid4().hex.encode(), db=dbs[0])
                    txn.put(b"state", STATE.pack(0, 0, 0), db=dbs[0])
                self.id = self._describe(txn, dbs[0])
            if fresh:
                env.sync(True)
        self.meta: lmdb._Database = dbs[0]
        self.entries: lmdb._Database = dbs[1]
        self.due: lmdb._Database = dbs[2]
        self.log: lmdb._Database = dbs[3]

    def _describe(self, txn: lmdb.Transaction[bytes], meta: lmdb._Database) -> str:
        """Return the id, once the format is known to be this one."""
        stored = txn.get(b"format", b"", meta)
        if stored != _FORMAT:
            raise StorageError(
                f"{self.path} is of format {stored.decode(errors='replace')!r}, and this version of reactstate knows "
                f"{_FORMAT.decode()!r}; update reactstate",
                path=self.path,
            )
        name = txn.get(b"id", b"", meta)
        if not name or len(txn.get(b"state", b"", meta)) != STATE.size:
            raise CorruptionError(f"{self._file} has lost its id or revision; restore it", path=str(self._file))
        return name.decode()

    def current(self) -> bool:
        """Say whether the path still leads to the file that is open."""
        try:
            found = self._file.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def close(self) -> None:
        """Close it; called when nothing else runs."""
        self._closed = True
        if self._opened:
            self.env.close()

    def forget(self) -> None:
        """Let go, in a forked child, of what belongs to the parent."""
        # A transaction without a reference ends, but LMDB sees another process and leaves the place of the reader to
        # the parent. What the environment still holds then is memory and descriptors, which are the child's own.
        for view in self.views:
            view.drop()
        self.views.clear()
        self.close()

    # --- being alone ------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, patience_s: float) -> Generator[None]:
        """Hold the gate while no view is open; ``writing`` is held already."""
        deadline = time.monotonic() + patience_s
        while True:
            with self.gate:
                if not self.views:
                    yield
                    return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self.path} must be mapped anew, which cannot be done while this process has snapshots of it "
                    "open; close them, or open the store with a larger map_size"
                )
            time.sleep(0.001)

    def _upgrade(self, *, read_only: bool, durability: Durability) -> None:
        """Open it anew where a further user needs more of it."""
        careful = durability if _CARE[durability] > _CARE[self._durability] else self._durability
        if (self._read_only and not read_only) or careful != self._durability:
            with self.writing, self._alone(_GROW_S):
                if not self._read_only:
                    self.sync()
                self._read_only = self._read_only and read_only
                self._durability = careful
                self._reopen()

    def _reopen(self) -> None:
        self.env.close()
        try:
            self._open()
        except ReactStateError as exc:
            self.failed = str(exc)
            raise

    def clear_readers(self) -> bool:
        """Clear the places of killed readers; say whether there were any."""
        with self.gate:
            return self.env.reader_check() > 0

    def grow(self) -> None:
        """Make room, by clearing the places of killed readers or by a larger map; ``writing`` is held.

        Raises:
            UnavailableError: This process has had views open for too long.
            StorageError: There are no addresses for a larger map.
        """
        if not self.env.reader_check():
            self._resize(self._map_size * 2, _GROW_S)

    def follow(self) -> None:
        """Map all of a file that another process has made larger; ``writing`` is held."""
        self._resize(self._map_size, _GROW_S)

    def follow_to_read(self) -> None:
        """Map all of a file that another process has made larger, on a thread that only reads.

        Raises:
            UnavailableError: This process is writing, or has views open.
        """
        if not self.writing.acquire(timeout=_FOLLOW_S):
            raise UnavailableError(f"{self.path} has grown, and this process is busy writing to it; read again")
        try:
            self._resize(self._map_size, _FOLLOW_S)
        finally:
            self.writing.release()

    def _resize(self, size: int, patience_s: float) -> None:
        with self._alone(patience_s):
            try:
                used = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
                while size < used * 2:
                    size *= 2
                self.env.set_mapsize(size)
            except lmdb.Error as exc:
                self._reopen()  # LMDB's object is of no use any more
                raise StorageError(
                    f"{self.path} cannot be mapped with {size} bytes ({exc.reason}), and nothing was changed; let "
                    "this process have more addresses",
                    path=self.path,
                ) from exc
            self._map_size = size

    # --- writing ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look after the files before a write; ``writing`` is held.

        Raises:
            StorageFailedError: They were deleted or replaced, or an earlier write failed.
            CorruptionError: They were cut off.
        """
        if self._closed:
            raise ClosedError(f"the store {self.path} was closed; open it anew")
        if self.failed is not None:
            raise StorageFailedError(f"{self.failed}; open the store anew", path=self.path)
        try:
            found = self._file.stat()
        except OSError as exc:
            raise self._fail(f"{self._file} was deleted while it was open") from exc
        if (found.st_dev, found.st_ino) != self._inode:
            raise self._fail(f"{self._file} was replaced while it was open")
        if found.st_size < self._file_bytes:
            self.failed = f"{self._file} was cut off while it was open"
            raise CorruptionError(f"{self.failed}; restore it", path=str(self._file), offset=found.st_size)
        self._file_bytes = found.st_size
        self._groups += 1
        if self._groups % _CHECK_EVERY == 0:
            self.env.reader_check()
        if self._file_bytes * 2 > self._map_size and not self.views:
            # In good time: when the map is full, an open view holds the writers up.
            self.grow()

    def _fail(self, why: str) -> StorageFailedError:
        self.failed = why
        return StorageFailedError(f"{why}; open the store anew", path=self.path)

    def confirm(self) -> None:
        """Wait until the last commit is on disk, as ``sync`` does, if it did not wait itself; ``writing`` is held."""
        if self._durability != "always":
            self.sync()

    def sync(self) -> None:
        """Bring everything to disk.

        Raises:
            UnknownOutcomeError: That failed; nothing more may be written.
        """
        try:
            self.env.sync(True)
        except lmdb.Error as exc:
            raise self._unknown(exc) from exc

    def _unknown(self, exc: lmdb.Error) -> UnknownOutcomeError:
        self.failed = f"{self.path} could not be brought to disk ({exc.reason})"
        return UnknownOutcomeError(f"{self.failed}; open the store anew and read what is there")

    def commit_error(self, exc: lmdb.Error) -> ReactStateError:
        """Return what a commit that LMDB gave up raises; ``writing`` is held."""
        try:
            self.env.begin().abort()
        except lmdb.PanicError:
            # So LMDB is after it failed to write the page that makes a commit current, and after nothing else.
            return self._unknown(exc)
        except lmdb.Error:
            pass
        if exc.code == errno.EIO and not self._is_full():
            self.failed = f"{self.path} could not be brought to disk ({exc.reason})"
            return StorageError(f"{self.failed}; nothing was changed", path=self.path)
        return self.error(exc)

    def _is_full(self) -> bool:
        """Say whether there is no room, for LMDB reports a write that was cut short as a failing disk."""
        try:
            space = os.statvfs(self.path)
            if space.f_bavail * space.f_frsize < _ROOM_BYTES:
                return True
            import resource

            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            return limit != resource.RLIM_INFINITY and self._file.stat().st_size + _ROOM_BYTES > limit
        except (OSError, ImportError, AttributeError):
            return False

    # --- errors -----------------------------------------------------------------------------------------------------

    def error(self, exc: Exception) -> ReactStateError:
        """Return what an error of LMDB, or of bytes that are no row, is for the caller; nothing was changed."""
        if self._closed:
            return ClosedError(f"the store {self.path} was closed; open it anew")
        if self.failed is not None:
            return StorageFailedError(f"{self.failed}; open the store anew", path=self.path)
        if isinstance(exc, OSError):
            return StorageError(f"{self.path} cannot be used: {exc.strerror}", path=self.path)
        if not isinstance(exc, lmdb.Error):
            return CorruptionError(f"{self._file} holds what is no row ({exc}); restore it", path=str(self._file))
        if isinstance(exc, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.NotFoundError)):
            return CorruptionError(f"{self._file} is damaged ({exc.reason}); restore it", path=str(self._file))
        if isinstance(exc, lmdb.PanicError):
            return StorageFailedError(f"an earlier write to {self.path} failed; open the store anew", path=self.path)
        if isinstance(exc, lmdb.VersionMismatchError):
            return StorageError(f"{self._file} is of another version of LMDB ({exc.reason})", path=self.path)
        if isinstance(exc, lmdb.ReadersFullError):
            return UnavailableError(
                f"all {_MAX_READERS} places for readers of {self.path} are taken; close snapshots, here or in other "
                "processes"
            )
        if isinstance(exc, lmdb.BadValsizeError):
            return LimitExceededError(
                f"a key is longer than the {MAX_KEY_BYTES} bytes that this store takes",
                limit=MAX_KEY_BYTES,
                actual=MAX_KEY_BYTES + 1,
            )
        if isinstance(exc, lmdb.TxnFullError):
            return StorageError(f"that is too much for one commit to {self.path}; split it", path=self.path)
        if exc.code in _NO_ROOM or (exc.code == errno.EIO and self._is_full()):
            return StorageError(f"there is no room for {self.path}, and nothing was changed", path=self.path)
        if exc.code in {errno.EACCES, errno.EPERM, errno.EROFS}:
            return StorageError(
                f"this user may not write in {self.path}; to read, LMDB needs to write lock.mdb", path=self.path
            )
        return StorageError(f"{self.path} cannot be used: {exc}", path=self.path)
