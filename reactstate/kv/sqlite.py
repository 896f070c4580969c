"""SqliteStore: the embedded store of the standard library's SQLite, for one process or several.

Contract
    What is acknowledged with ``durability="always"`` is on disk: the write-ahead log is synced at each COMMIT
    (``synchronous=FULL``, and SQLite's answer to that setting is checked). Otherwise it has been handed to the
    operating system, so that it survives the process; ``flush`` syncs it. Every state that a crash leaves is one that
    was committed, whatever ``durability`` says.

    Writers of all processes take turns; one that waited 30 seconds raises UnavailableError, and wrote nothing. Readers
    wait for nobody.

Caveats
    The files must be on a local file system. Beside the database there are two files, ``-wal`` and ``-shm``, which
    belong to it: move, copy or replace it only while it is closed. The ``-wal`` file grows as long as one snapshot is held open.
    A file that is deleted or replaced while it is open is noticed at the next write, which raises StorageFailedError.
    SQLite keeps no checksums: it notices damage to its structure, not to a value.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import quote

from reactstate.clock import SystemClock
from reactstate.errors import (
    CorruptionError,
    ReadOnlyError,
    SettingsError,
    StorageFailedError,
    UnknownOutcomeError,
)
from reactstate.kv.embedded import EmbeddedStore
from reactstate.kv.opening import Opening
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Limits
from reactstate.kv.sqlite_file import connect, identity_of, is_busy, meaning_of, patiently, prepare, remember_open
from reactstate.kv.table import Reader, Table, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from reactstate.clock import Clock
    from reactstate.kv.table import LogRow, Row, ScanRow

__all__ = ["SqliteStore", "SqliteTable"]

T = TypeVar("T")

_LIMITS: Final = Limits(max_key_bytes=1 << 13, max_value_bytes=1 << 28, max_steps=100_000, max_commit_bytes=1 << 29)
_PATIENCE_S: Final = 30.0
_READ_PATIENCE_S: Final = 5.0
_IDLE_VIEWS: Final = 4
_VIEW_CACHE_BYTES: Final = 1 << 21

_GET: Final = "SELECT value, revision, deadline FROM entries WHERE key = ?"
_STAMP: Final = "SELECT revision, deadline FROM entries WHERE key = ?"
_CHUNK: Final = "SELECT key, value, revision, deadline FROM entries WHERE key >= ? {end} ORDER BY key {order} LIMIT ?"
_CHUNKS: Final = {
    (bounded, reverse): _CHUNK.format(end="AND key < ?" if bounded else "", order="DESC" if reverse else "ASC")
    for bounded in (False, True)
    for reverse in (False, True)
}
_REVISION: Final = "SELECT last, at_ms FROM change_log ORDER BY last DESC LIMIT 1"
_FLOOR: Final = "SELECT log_floor FROM meta"
_LOG: Final = "SELECT last, at_ms, events FROM change_log WHERE last > ? ORDER BY last LIMIT ?"
_KEPT: Final = "SELECT last FROM change_log WHERE at_ms >= ? ORDER BY last LIMIT 1"
_DUE: Final = "SELECT key FROM entries WHERE deadline > 0 AND deadline <= ? ORDER BY deadline LIMIT ?"
_PUT: Final = "INSERT OR REPLACE INTO entries (key, value, revision, deadline) VALUES (?, ?, ?, ?)"


class _Rows(Reader):
    """Reads through one connection.

    Args:
        connection: Used by one thread at a time.
        path: The file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        # one cursor, since each answer is fetched whole before the next question
        self._execute = connection.cursor().execute
        self._path = path

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        raise meaning_of(error, self._path) from error

    def _damaged(self, row: object) -> NoReturn:
        raise CorruptionError(
            f"{self._path} is damaged: it holds a row of other types ({type(row).__name__}); restore it from a "
            "checkpoint",
            path=self._path,
        )

    def get(self, key: str) -> Row | None:
        try:
            row: Any = self._execute(_GET, (key,)).fetchone()
        except sqlite3.Error as exc:
            self._fail(exc)
        if row is not None and not (type(row[0]) is bytes and type(row[1]) is int and type(row[2]) is int):
            self._damaged(row)
        found: Row | None = row
        return found

    def chunk(self, start: str, end: str | None, limit: int, *, reverse: bool = False) -> list[ScanRow]:
        statement = _CHUNKS[end is not None, reverse]
        try:
            rows: Any = self._execute(statement, (start, limit) if end is None else (start, end, limit)).fetchall()
        except sqlite3.Error as exc:
            self._fail(exc)
        for key, value, revision, deadline in rows:
            if not (type(value) is bytes and type(revision) is int and type(deadline) is int and type(key) is str):
                self._damaged(rows)
        found: list[ScanRow] = rows
        return found

    def revision(self) -> tuple[int, int]:
        revision, time_ms = self.numbers(_REVISION, 2)
        return revision, time_ms

    def log(self, after: int, limit: int) -> list[LogRow]:
        try:
            rows: Any = self._execute(_LOG, (after, limit)).fetchall()
        except sqlite3.Error as exc:
            self._fail(exc)
        for last, at_ms, events in rows:
            if not (type(last) is int and type(at_ms) is int and type(events) is bytes):
                self._damaged(rows)
        found: list[LogRow] = rows
        return found

    def log_floor(self) -> int:
        return self.numbers(_FLOOR, 1)[0]

    def numbers(self, question: str, count: int) -> tuple[int, ...]:
        """Return the one row that answers *question*."""
        try:
            row: Any = self._execute(question).fetchone()
        except sqlite3.Error as exc:
            self._fail(exc)
        if row is None or len(row) != count or not all(type(number) is int for number in row):
            self._damaged(row)
        numbers: tuple[int, ...] = row
        return numbers

    def close(self) -> None:
        self._connection.close()


class _View(_Rows):
    """Reads the state that was there when it was made, and gives its connection back."""

    def __init__(
        self, connection: sqlite3.Connection, path: str, release: Callable[[sqlite3.Connection], None]
    ) -> None:
        super().__init__(connection, path)
        self._release = release
        try:
            self._execute("BEGIN")
            self._at = super().revision()  # the first read is what fixes the state
        except BaseException:
            connection.close()
            raise

    def revision(self) -> tuple[int, int]:
        return self._at

    def close(self) -> None:
        try:
            self._execute("ROLLBACK")
        except sqlite3.Error:
            self._connection.close()
        else:
            self._release(self._connection)


class _Writer(_Rows, Writer):
    """Reads and writes inside a transaction; SQLite's own errors fly up to ``SqliteTable.write``."""

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        raise error

    def stamp(self, key: str) -> tuple[int, int] | None:
        found: tuple[int, int] | None = self._execute(_STAMP, (key,)).fetchone()
        return found

    def apply(self, rows: Mapping[str, Row | None]) -> None:
        # row by row: one statement of many rows would copy every page that it touches, to undo itself
        puts = [(key, *row) for key, row in rows.items() if row is not None]
        if puts:
            self._connection.executemany(_PUT, puts)
        if len(puts) < len(rows):
            gone = [(key,) for key, row in rows.items() if row is None]
            self._connection.executemany("DELETE FROM entries WHERE key = ?", gone)

    def due(self, now_ms: int, limit: int) -> list[str]:
        return [key for (key,) in self._execute(_DUE, (now_ms, limit))]

    def advance(self, revision: int, time_ms: int) -> None:
        # the change log's newest row says so already
        pass

    def append_log(self, row: LogRow) -> None:
        self._execute("INSERT INTO change_log (last, at_ms, events) VALUES (?, ?, ?)", row)

    def trim_log(self, before_ms: int) -> None:
        newest, time_ms = self.revision()
        if time_ms < before_ms:
            floor = newest  # its row stays, for its revision and time
        else:
            # times never go back, so what is to go is a first part
            (kept,) = self._execute(_KEPT, (before_ms,)).fetchone()
            (floor,) = self._execute("SELECT max(last) FROM change_log WHERE last < ?", (kept,)).fetchone()
        if floor:
            self._execute("DELETE FROM change_log WHERE last <= ? AND last < ?", (floor, newest))
            self._execute("UPDATE meta SET log_floor = ?", (floor,))

    def clear(self) -> None:
        self._execute("DELETE FROM entries")

    def load(self, rows: Sequence[ScanRow]) -> None:
        self._connection.executemany("INSERT INTO entries (key, value, revision, deadline) VALUES (?, ?, ?, ?)", rows)


class SqliteTable(Table):
    """A table in an SQLite database.

    Args:
        path: The file; made when it is not there.
        options: How it is opened.
        patience_s: How long a writer waits for other processes.

    Raises:
        StorageError: It cannot be opened or made, or is not a store's.
        CorruptionError: It is damaged, or no database.
        UnavailableError: Other processes held it for too long.
        WrongContextError: This process was forked while it was open.
    """

    repeats = False

    def __init__(self, path: str, options: StoreOptions, *, patience_s: float = _PATIENCE_S) -> None:
        self._path = path
        self._durable = options.durability == "always"
        self._read_only = options.read_only
        self._patience_s = patience_s
        self._failed: str | None = None
        self._wal: int | None = None
        self._idle: list[sqlite3.Connection] = []
        self._identity = prepare(path, read_only=options.read_only, patience_s=patience_s)
        remember_open(self._identity, 1)
        connections: list[sqlite3.Connection] = []
        try:
            half = options.cache_capacity // 2
            reader = self._connect("ro" if options.read_only else "query", half, patience_s)
            connections.append(reader)
            self._reader = _Rows(reader, path)
            self.latest: Reader = self._reader
            self.id: str = self._read_id(reader)
            self._log_identity = identity_of(f"{path}-wal")  # as long as a connection is open, no other removes it
            self._writer: _Writer | None = None
            if not options.read_only:
                writer = self._connect("rw", half, patience_s)
                connections.append(writer)
                self._writer = _Writer(writer, path)
        except BaseException:
            for connection in connections:
                connection.close()
            remember_open(self._identity, -1)
            raise

    def _connect(self, mode: str, cache_bytes: int, patience_s: float) -> sqlite3.Connection:
        try:
            connection = connect(
                self._path, mode, cache_bytes=cache_bytes, durable=self._durable, patience_s=patience_s
            )
            # a writer waits by ``patiently`` from here on, and a reader waits on the event loop
            wait_ms = 0 if mode == "rw" else int(min(self._patience_s, _READ_PATIENCE_S) * 1000)
            connection.execute(f"PRAGMA busy_timeout = {wait_ms}")
        except sqlite3.Error as exc:
            raise meaning_of(exc, self._path) from exc
        try:
            self._check_file()
        except StorageFailedError:
            connection.close()
            raise
        return connection

    def _read_id(self, connection: sqlite3.Connection) -> str:
        try:
            row: Any = connection.execute("SELECT id FROM meta").fetchone()
        except sqlite3.Error as exc:
            raise meaning_of(exc, self._path) from exc
        if row is None or type(row[0]) is not str:
            raise CorruptionError(f"{self._path} is damaged: it has no identity", path=self._path)
        identity: str = row[0]
        return identity

    def view(self) -> Reader:
        """Return a reader of the state as it is now; it must be closed."""
        connection = (
            self._idle.pop()
            if self._idle
            else self._connect("ro" if self._read_only else "query", _VIEW_CACHE_BYTES, _READ_PATIENCE_S)
        )
        return _View(connection, self._path, self._take_back)

    def _take_back(self, connection: sqlite3.Connection) -> None:
        if len(self._idle) < _IDLE_VIEWS:
            self._idle.append(connection)
        else:
            connection.close()

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, work: Callable[[Writer], T], *, sync: bool) -> T:
        """Run *work* in one transaction and return its result; what it raises rolls everything back."""
        writer = self._writer
        if writer is None:
            raise ReadOnlyError(f"{self._path} was opened with read_only=True; open it without to write")
        self._check_failed()
        execute = writer._execute
        try:
            try:
                execute("BEGIN IMMEDIATE")
            except sqlite3.Error as exc:
                if not is_busy(exc):
                    raise
                patiently(lambda: execute("BEGIN IMMEDIATE"), self._path, self._patience_s)
            self._check_file()
            self._check_log()
            result = work(writer)
        except BaseException as exc:
            self._roll_back()
            if isinstance(exc, sqlite3.Error):
                raise meaning_of(exc, self._path) from exc
            raise
        try:
            execute("COMMIT")
        except BaseException as exc:
            self._roll_back()
            raise self._meaning_of_commit(exc) from exc
        if sync and not self._durable:
            self.flush()
        return result

    def _roll_back(self) -> None:
        writer = self._writer
        with suppress(sqlite3.Error):
            if writer is not None and writer._connection.in_transaction:
                writer._execute("ROLLBACK")

    def _meaning_of_commit(self, error: BaseException) -> Exception:
        # A page that could not be written ends the transaction before its last page, which makes it valid. After
        # every other error that page may be in the log, where a recovery would find it.
        if isinstance(error, sqlite3.Error) and (
            is_busy(error) or getattr(error, "sqlite_errorcode", 0) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
        ):
            return meaning_of(error, self._path)
        self._failed = f"{self._path} could not be brought to disk before ({error}); open the store anew"
        return UnknownOutcomeError(
            f"{self._path} could not be brought to disk ({error}), so it is not known whether this was committed; "
            "open the store anew and look"
        )

    def _check_failed(self) -> None:
        if self._failed is not None:
            raise StorageFailedError(self._failed, path=self._path)

    def _check_file(self) -> None:
        if identity_of(self._path) != self._identity:
            self._failed = (
                f"{self._path} was deleted or replaced while it was open, so nothing is written any more; open the "
                "store anew"
            )
            self._check_failed()

    def _check_log(self) -> None:
        found = identity_of(f"{self._path}-wal")
        if found is None or found != self._log_identity:
            self._failed = (
                f"{self._path}-wal, which belongs to the database, was deleted or replaced while it was open, so "
                "nothing is written any more; close every store on it, and open it anew"
            )
            self._check_failed()

    def flush(self) -> None:
        """Bring every commit so far to disk.

        Raises:
            UnknownOutcomeError: That failed; later writes raise StorageFailedError.
            StorageFailedError: It failed before, or the file was deleted or replaced.
        """
        if self._read_only:
            return
        self._check_failed()
        self._check_file()
        try:
            self._flush_log()
        except FileNotFoundError:
            return  # nothing was ever written
        except OSError as exc:
            self._failed = f"{self._path} could not be brought to disk before ({exc}); open the store anew"
            raise UnknownOutcomeError(
                f"{self._path} could not be brought to disk ({exc}): the newest commits may be lost by a power cut; "
                "open the store anew and look"
            ) from exc

    def _flush_log(self) -> None:
        # What has left the -wal file for the database was synced by SQLite before.
        if self._wal is None:
            # kept open, because a failure that happened in the meantime is told to those who have it open
            self._wal = os.open(f"{self._path}-wal", os.O_RDWR)
            if os.name != "nt":  # Windows cannot, and need not
                directory = os.open(Path(self._path).parent, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
        _sync(self._wal)

    # --- the rest --------------------------------------------------------------------------------------------------

    def token(self) -> int:
        """Return a number that differs after another connection has committed."""
        return self._reader.numbers("PRAGMA data_version", 1)[0]

    def size(self) -> int:
        """Return the bytes that the files take."""
        total = 0
        for name in ("", "-wal", "-shm"):
            with suppress(OSError):
                total += Path(self._path + name).stat().st_size
        return total

    def memory(self) -> int:
        """Return about how many bytes the caches take: as much of the file as fits."""
        pages, page, cache = (
            self._reader.numbers(f"PRAGMA {name}", 1)[0] for name in ("page_count", "page_size", "cache_size")
        )
        return min(pages * page, -cache * 1024)

    def close(self) -> None:
        """Close the files."""
        try:
            for connection in self._idle:
                connection.close()
            self._reader.close()
            writer = self._writer
            if writer is not None:
                if self._failed is None:
                    with suppress(sqlite3.Error):  # another process may be reading; it, or the next one, does it then
                        writer._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                writer.close()
            if self._wal is not None:
                os.close(self._wal)
        except sqlite3.Error as exc:
            raise meaning_of(exc, self._path) from exc
        finally:
            remember_open(self._identity, -1)


def _sync(file: int) -> None:
    """Bring what was written to *file* to the disk itself."""
    if sys.platform == "darwin":  # pragma: no cover - there fsync stops at the disk's own cache
        import fcntl

        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        getattr(os, "fdatasync", os.fsync)(file)


class SqliteStore(EmbeddedStore):
    """A store in an SQLite file; open it with ``SqliteStore.open``."""

    @classmethod
    def open(
        cls, path: str | PathLike[str], *, options: StoreOptions | None = None, clock: Clock | None = None
    ) -> Opening[SqliteStore]:
        """Open the store in the file *path*, which is made when it is not there; await it, or use ``async with``.

        Args:
            path: The file; its directory must be there.
            options: How to open it.
            clock: Decides that an entry has expired; None: the system's.

        Raises:
            SettingsError: *path* is no path of a file.
            StorageError: (when awaited) It cannot be opened or made, is another application's, or of a newer version.
            CorruptionError: (when awaited) It is damaged, or no database.
            UnavailableError: (when awaited) Other processes held it for too long.
        """
        name = os.fsdecode(path)
        if not name or name == ":memory:" or "\0" in name:
            raise SettingsError(f"{name!r} is not the path of a file; open memory: for a store without one")
        place = os.path.realpath(name)
        chosen = StoreOptions() if options is None else options

        async def make() -> SqliteStore:
            table = await _open_table(place, chosen)
            return cls(
                table,
                url=f"sqlite://{quote(os.fsencode(place))}",
                engine="sqlite",
                options=chosen,
                clock=SystemClock() if clock is None else clock,
                limits=_LIMITS,
            )

        return Opening(make)


async def _open_table(path: str, options: StoreOptions) -> SqliteTable:
    opening = asyncio.get_running_loop().run_in_executor(None, SqliteTable, path, options)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[SqliteTable]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
