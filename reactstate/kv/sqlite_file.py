"""The SQLite file of a store: made, checked, connected to, and what its errors mean.

Contract
    A file that is not this store's (another application's, a newer version's, no database at all) is left untouched.
    New files can be read and written by their owner only. The database file itself is never opened and closed beside
    SQLite, because that would drop SQLite's locks; nor is it opened in a forked child whose parent had it open,
    because SQLite would there count on locks that only the parent holds.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from reactstate.errors import CorruptionError, StorageError, UnavailableError, WrongContextError

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.errors import ReactStateError

__all__ = ["Identity", "connect", "identity_of", "is_busy", "meaning_of", "patiently", "prepare", "remember_open"]

_APPLICATION_ID: Final = 0x52534B56
_VERSION: Final = 1
_JOURNAL_BYTES: Final = 1 << 26
"""The size to which the -wal file is cut back once it was brought into the database."""

_CHECKPOINT_PAGES: Final = 8192
_DURABLE_CHECKPOINT_PAGES: Final = 1000
"""The pages of the -wal file after which it is brought into the database and used again.

Seldom is cheaper, unless every commit waits for the disk: to sync a file that still grows takes twice as long.
"""

_SCHEMA: Final = (
    # large values last, so that the others are read without them
    """CREATE TABLE entries (key TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, deadline INTEGER NOT NULL,
    value BLOB NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX due ON entries (deadline) WHERE deadline > 0",
    "CREATE TABLE change_log (last INTEGER PRIMARY KEY NOT NULL, at_ms INTEGER NOT NULL, events BLOB NOT NULL)",
    # the newest row also says what the newest revision and time are, so there always is one
    "INSERT INTO change_log VALUES (0, 0, x'')",
    "CREATE TABLE meta (id TEXT NOT NULL, log_floor INTEGER NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)

_SHORTEST_S: Final = 0.000_2
_LONGEST_S: Final = 0.005


class Identity(NamedTuple):
    """What tells a file from another one of the same name."""

    device: int
    inode: int


# --- errors -----------------------------------------------------------------------------------------------------


def is_busy(error: sqlite3.Error) -> bool:
    """Say whether *error* means that another connection is in the way for now."""
    return _code(error) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def _code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)  # errors of the sqlite3 module itself have none
    return code


def meaning_of(error: sqlite3.Error, path: str) -> ReactStateError:
    """Return the error for *error*, which a statement other than COMMIT met; the transaction was not applied."""
    code = _code(error) & 0xFF
    if is_busy(error):
        return UnavailableError(f"{path}: other processes held the database for too long; nothing was written")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or "decode to UTF-8" in str(error):
        return CorruptionError(
            f"{path} is damaged, or no SQLite database ({error}); restore it from a checkpoint", path=path
        )
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"{path}: the disk is full, so nothing was written; make room and try again", path=path)
    if code == sqlite3.SQLITE_CANTOPEN:
        return StorageError(
            f"{path} cannot be opened ({error}); check that it is there, that this user may read and write it and its "
            "directory, and that this process may open more files, of which each open snapshot needs two",
            path=path,
        )
    if code == sqlite3.SQLITE_READONLY:
        return StorageError(
            f"{path} cannot be written ({error}), and nothing was; check the rights to it and its directory, or open "
            "it with read_only=True",
            path=path,
        )
    return StorageError(f"{path}: SQLite failed, and nothing was written: {error}", path=path)


def patiently(work: Callable[[], object], path: str, patience_s: float) -> None:
    """Call *work* until no other connection is in the way.

    Raises:
        UnavailableError: One was for longer than *patience_s*.
    """
    deadline = time.monotonic() + patience_s
    pause = _SHORTEST_S
    while True:
        try:
            work()
        except sqlite3.Error as exc:
            if not is_busy(exc):
                raise
            if time.monotonic() >= deadline:
                raise meaning_of(exc, path) from exc
        else:
            return
        # SQLite's own waiting grows to 100 ms, which starves a waiter behind busy writers
        time.sleep(pause * (0.5 + random()))  # noqa: S311 - it spreads the waiters
        pause = min(pause * 2, _LONGEST_S)


# --- connections ------------------------------------------------------------------------------------------------


def connect(path: str, mode: str, *, cache_bytes: int, durable: bool, patience_s: float) -> sqlite3.Connection:
    """Return a connection to the database at *path*, for any one thread at a time.

    Args:
        path: The file, which must exist.
        mode: ``"rw"``, ``"ro"``, or ``"query"``: like rw, but for reading.
        cache_bytes: How large its cache of pages may become.
        durable: Whether COMMIT waits for the disk.
        patience_s: How long a statement waits for other connections.

    Raises:
        sqlite3.Error: It cannot be opened.
        StorageError: SQLite does not take a setting.
    """
    access = "ro" if mode == "ro" else "rw"
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={access}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=patience_s,
    )
    try:
        for setting, value in (
            ("synchronous", 2 if durable else 1),
            ("fullfsync", 1),
            ("checkpoint_fullfsync", 1),
            ("cache_size", -max(1, cache_bytes // 1024)),
            ("cell_size_check", 1),
            ("journal_size_limit", _JOURNAL_BYTES),
            ("wal_autocheckpoint", _DURABLE_CHECKPOINT_PAGES if durable else _CHECKPOINT_PAGES),
            ("query_only", 0 if mode == "rw" else 1),
        ):
            connection.execute(f"PRAGMA {setting} = {value}").fetchall()
            _check_answer(path, setting, value, connection.execute(f"PRAGMA {setting}").fetchone())
    except BaseException:
        connection.close()
        raise
    return connection


def _check_answer(path: str, setting: str, value: int, answer: object) -> None:
    if answer != (value,):
        raise StorageError(f"{path}: SQLite does not take {setting} = {value}, its answer is {answer!r}", path=path)


def identity_of(path: str) -> Identity | None:
    """Return the identity of the file at *path*, or None when there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - asked at each group of commits
    except OSError:
        return None
    return Identity(found.st_dev, found.st_ino)


# --- making and checking ----------------------------------------------------------------------------------------


def prepare(path: str, *, read_only: bool, patience_s: float) -> Identity:
    """Make the database at *path* if there is none, and check that it is a store's; return its identity.

    Raises:
        StorageError: It is another application's, of a newer version, or cannot be opened or made.
        CorruptionError: It is damaged, or no database.
        UnavailableError: Other processes held it for too long.
        WrongContextError: This process was forked while it was open.
    """
    try:
        if not read_only:
            with _making:
                _make_file(path)
        found = Path(path).stat()
    except FileNotFoundError as exc:
        raise StorageError(
            f"{path} is not there; " + ("nothing can be read" if read_only else "make its directory first"), path=path
        ) from exc
    except (OSError, ValueError) as exc:
        raise StorageError(f"{path} cannot be opened: {exc}", path=path) from exc
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{path} is no file; give the path of a file", path=path)
    identity = Identity(found.st_dev, found.st_ino)
    if identity in _inherited:
        raise WrongContextError(
            f"{path} was open when this process was forked, and SQLite's locks do not work here for it; start the "
            "process by 'spawn' or 'forkserver', or open the store after the fork only"
        )
    try:
        if found.st_size:
            _check_owner(path, patience_s, read_only=read_only)
        elif read_only:
            raise StorageError(f"{path} is empty; there is nothing to read", path=path)
        if not read_only:
            _complete(path, patience_s)
    except sqlite3.Error as exc:
        raise meaning_of(exc, path) from exc
    return identity


def _make_file(path: str) -> None:
    """Make an empty file at *path* if there is none."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        return
    # closing is harmless only here: nobody else of this process can have it open yet
    os.close(file)


_making = threading.Lock()


def _check_owner(path: str, patience_s: float, *, read_only: bool) -> None:
    """Refuse a database that is not a store's, without touching it."""
    # A store's first page is complete once its first journal is gone, so the file can be read as it lies. Only where
    # a journal is left may SQLite have to put the file right first.
    mend = Path(f"{path}-journal").exists()
    how = ("mode=ro" if read_only else "mode=rw") if mend else "mode=ro&immutable=1"
    with closing(
        sqlite3.connect(f"file:{quote(os.fsencode(path))}?{how}", uri=True, isolation_level=None, timeout=patience_s)
    ) as connection:
        if not mend:
            # A file into which the write-ahead log was brought in part only (it was killed, or the disk was full, or
            # another process is at it) is shorter than its first page says. Without this SQLite would take that for
            # damage; the log, which is not looked at here, makes it whole.
            connection.execute("PRAGMA writable_schema = ON")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if mend and not read_only and application == 0 and _is_empty(connection):
            return  # the journal was that of its making, which was cut off
    _check_header(path, application, version)


def _check_header(path: str, application: int, version: int) -> None:
    if application != _APPLICATION_ID:
        raise StorageError(
            f"{path} is a database of another application, and was left as it is; give another path", path=path
        )
    if version != _VERSION:
        raise StorageError(
            f"{path} was written by a newer version of reactstate (format {version}, this one knows {_VERSION}); "
            "install that one",
            path=path,
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT 1 FROM sqlite_master").fetchall()


def _complete(path: str, patience_s: float) -> None:
    """Make the tables if there are none, and see that readers and writers do not wait for each other."""
    with closing(connect(path, "rw", cache_bytes=1 << 20, durable=True, patience_s=patience_s)) as connection:
        (application,) = _ask(connection, "PRAGMA application_id", path, patience_s)
        if application == 0:
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"), path, patience_s)
            try:
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                if application == 0 and _is_empty(connection):
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute("INSERT INTO meta VALUES (?, 0)", (secrets.token_hex(12),))
                else:
                    (version,) = connection.execute("PRAGMA user_version").fetchone()
                    _check_header(path, application, version)
                patiently(lambda: connection.execute("COMMIT"), path, patience_s)
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise
        if _ask(connection, "PRAGMA journal_mode", path, patience_s) != ("wal",):
            mode = _ask(connection, "PRAGMA journal_mode = WAL", path, patience_s)
            if mode != ("wal",):
                raise StorageError(
                    f"{path}: SQLite cannot keep a write-ahead log here ({mode[0]}); use a local file system", path=path
                )


def _ask(connection: sqlite3.Connection, question: str, path: str, patience_s: float) -> tuple[int | str]:
    """Return the one row of *question*, once no other connection is in the way."""
    answers: list[tuple[int | str]] = []
    patiently(lambda: answers.extend(connection.execute(question).fetchall()), path, patience_s)
    return answers[-1]


# --- forks ------------------------------------------------------------------------------------------------------

_open: Counter[Identity] = Counter()
_inherited: set[Identity] = set()
"""Files that the parent had open when this process was forked."""


def remember_open(identity: Identity, step: int) -> None:
    """Note that the file was opened once more (*step* 1) or less (-1)."""
    with _making:
        _open[identity] += step
        if not _open[identity]:
            del _open[identity]


def _inherit() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent may have held it
    _making = threading.Lock()
    _inherited.update(_open)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)
