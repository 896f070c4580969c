"""The table in an LMDB environment, and its readers and writer.

Layout
    Four databases: ``entries`` (a key's UTF-8 to revision, deadline and value), ``due`` (deadline and key, for those
    that have one), ``log`` (newest revision to time and events), and ``reactstate`` (format, id, and the newest
    revision and time). Numbers are 64 bits, most significant byte first.

Threads
    ``latest`` and views are used by one thread, ``write`` and ``flush`` by another. Writers of one process take turns;
    those of several do by LMDB's own lock, which has no timeout.
"""

from __future__ import annotations

import os
import struct
from itertools import islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import lmdb

from reactstate.errors import ClosedError, LimitExceededError, ReadOnlyError, SettingsError
from reactstate.kv.lmdb_environment import MAX_KEY_BYTES, STATE, UNREADABLE
from reactstate.kv.lmdb_sharing import acquire, release
from reactstate.kv.table import Reader, Table, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from lmdb import Transaction

    from reactstate.kv.lmdb_environment import Durability, Environment
    from reactstate.kv.table import LogRow, Row, ScanRow

__all__ = ["LmdbTable"]

T = TypeVar("T")

_SMALLEST_MAP: Final = 1 << 20
_LARGEST_MAP: Final = 1 << 46
_MAX_KEY: Final = 511
_ROW: Final = struct.Struct(">QQ")  # revision, deadline
_ROW_BYTES: Final = _ROW.size
_NUMBER: Final = struct.Struct(">Q")
_NUMBER_BYTES: Final = _NUMBER.size
_deadline_of = cast("Callable[[Row | None], int]", itemgetter(2))


class LmdbTable(Table):
    """A table in an LMDB environment, which it shares with the other tables of this process on the same directory.

    Args:
        path: The directory.
        map_size: How large the file can become before it is mapped anew, in bytes.
        read_only: Open without writing anything.
        durability: What each commit waits for, at least; see ``reactstate.kv.lmdb_environment``.

    Raises:
        SettingsError: *path* is empty, or *map_size* cannot be used.
        StorageError: The directory cannot be used.
        CorruptionError: The file is damaged.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        map_size: int = 1 << 40,
        read_only: bool = False,
        durability: Durability = "always",
    ) -> None:
        place = os.fspath(path)
        if not place or "\0" in place:
            raise SettingsError(f"{place!r} is no path; give the directory of an lmdb store")
        if type(map_size) is not int or not _SMALLEST_MAP <= map_size <= _LARGEST_MAP:
            raise SettingsError(f"map_size={map_size!r}: give bytes, from {_SMALLEST_MAP} to {_LARGEST_MAP}")
        self._env: Environment | None = acquire(place, map_size=map_size, read_only=read_only, durability=durability)
        self._read_only = read_only
        self.path: str = self._env.path
        self.id: str = self._env.id
        self.latest: Reader = _Latest(self)
        self._views: set[_View] = set()

    @property
    def env(self) -> Environment:
        """The environment.

        Raises:
            ClosedError: The table was closed.
        """
        if self._env is None:
            raise ClosedError(f"the store {self.path} is closed")
        return self._env

    def view(self) -> Reader:
        """Return a reader of the state as it is now; it must be closed.

        Raises:
            UnavailableError: All readers are taken.
        """
        env = self.env
        found = _begin(env, lambda txn: _View(self, env, txn), keep=True)
        self._views.add(found)
        return found

    def write(self, work: Callable[[Writer], T], *, sync: bool) -> T:
        """Run *work* in one transaction and return its result; see ``Table.write``."""
        env = self.env
        if self._read_only:
            raise ReadOnlyError(f"{self.path} was opened with read_only=True; open it without to write")
        with env.writing:
            try:
                result, changed = self._run(env, work)
            except UNREADABLE as exc:
                raise env.error(exc) from exc
            if sync and changed:
                env.confirm()
        return result

    def _run(self, env: Environment, work: Callable[[Writer], T]) -> tuple[T, bool]:
        """Return the result of *work*, and whether it wrote anything."""
        while True:
            env.check()
            try:
                txn = env.env.begin(db=env.entries, write=True, buffers=True)
            except lmdb.MapResizedError:
                env.follow()
                continue
            writer = _TableWriter(env, txn)
            try:
                result = work(writer)
            except lmdb.MapFullError:
                txn.abort()
                env.grow()
                continue
            except BaseException:
                txn.abort()
                raise
            try:
                txn.commit()
            except lmdb.MapFullError:
                env.grow()
                continue
            except lmdb.Error as exc:
                raise env.commit_error(exc) from exc
            return result, writer.changed

    def token(self) -> int:
        """Return the number of the last transaction."""
        env = self.env
        try:
            with env.gate:
                return env.env.info()["last_txnid"]
        except lmdb.Error as exc:
            raise env.error(exc) from exc

    def flush(self) -> None:
        """Bring every commit so far to disk; see ``Table.flush``."""
        env = self.env
        if not self._read_only:
            with env.writing:
                try:
                    env.check()
                except lmdb.Error as exc:
                    raise env.error(exc) from exc
                env.sync()

    def size(self) -> int:
        """Return the bytes that the files take."""
        total = 0
        for name in ("data.mdb", "lock.mdb"):
            try:
                total += Path(self.path, name).stat().st_size
            except OSError:
                continue
        return total

    def close(self) -> None:
        """Close the views of this table, and the files if no other table of this process uses them."""
        env, self._env = self._env, None
        if env is not None:
            for view in list(self._views):
                view.close()
            release(env)


# --- reading --------------------------------------------------------------------------------------------------------


def _begin(env: Environment, use: Callable[[Transaction[bytes]], T], *, keep: bool = False) -> T:
    """Return what *use* makes of a transaction that reads; with *keep* it goes on living."""
    cleared = False
    while True:
        try:
            with env.gate:
                txn = env.env.begin(db=env.entries)
                try:
                    return use(txn)
                finally:
                    if not keep:
                        txn.abort()
        except lmdb.MapResizedError:
            env.follow_to_read()
        except lmdb.ReadersFullError as exc:
            if cleared or not env.clear_readers():
                raise env.error(exc) from exc
            cleared = True
        except UNREADABLE as exc:
            raise env.error(exc) from exc


class _Rows:
    """Reads rows in one transaction."""

    __slots__ = ("_env", "_txn")

    def __init__(self, env: Environment, txn: Transaction[Any]) -> None:
        self._env = env
        self._txn = txn

    def get(self, key: str) -> Row | None:
        packed = self._txn.get(key.encode())
        return None if packed is None else _unpack(packed)

    def chunk(self, start: str, end: str | None, limit: int, *, reverse: bool = False) -> list[ScanRow]:
        first = start.encode()[:_MAX_KEY]  # no key is longer, so those from the cut text on are those from it on
        last = None if end is None else end.encode()[: _MAX_KEY + 1]
        cursor = self._txn.cursor()
        if reverse:
            found = _downwards(cursor, first, last)
        else:
            there = cursor.set_range(first) if first else cursor.first()
            found = cursor.iternext() if there else iter(())
            if last is not None:
                found = takewhile(lambda item: bytes(item[0]) < last, found)
        unpack = _ROW.unpack_from
        return [
            (str(key, "utf-8"), bytes(packed[_ROW_BYTES:]), *unpack(packed)) for key, packed in islice(found, limit)
        ]

    def revision(self) -> tuple[int, int]:
        revision, time_ms, _ = self._state()
        return revision, time_ms

    def log(self, after: int, limit: int) -> list[LogRow]:
        cursor = self._txn.cursor(self._env.log)
        if not cursor.set_range(_NUMBER.pack(after + 1)):
            return []
        return [
            (_NUMBER.unpack(last)[0], _NUMBER.unpack_from(packed)[0], bytes(packed[_NUMBER_BYTES:]))
            for last, packed in islice(cursor.iternext(), limit)
        ]

    def log_floor(self) -> int:
        return self._state()[2]

    def _state(self) -> tuple[int, int, int]:
        packed = self._txn.get(b"state", b"", self._env.meta)
        return cast("tuple[int, int, int]", STATE.unpack(packed))


def _unpack(packed: bytes) -> Row:
    revision, deadline = _ROW.unpack_from(packed)
    return bytes(packed[_ROW_BYTES:]), revision, deadline


def _downwards(cursor: Any, first: bytes, last: bytes | None) -> Iterator[Any]:
    if last is None:
        there = cursor.last()
    elif not last:
        there = False
    elif cursor.set_range(last[:_MAX_KEY]):
        # A cut text is itself before the one that it was cut from, but no key is as long as it.
        there = cursor.prev()
    else:
        there = cursor.last()
    return takewhile(lambda item: bytes(item[0]) >= first, cursor.iterprev()) if there else iter(())


class _Latest(Reader):
    """Reads what was committed last, each time in a transaction of its own."""

    __slots__ = ("_table",)

    def __init__(self, table: LmdbTable) -> None:
        self._table = table

    def get(self, key: str) -> Row | None:
        env = self._table.env
        try:
            with env.gate:
                packed = env.env.begin(env.entries).get(key.encode())
            if packed is None:
                return None
            revision, deadline = _ROW.unpack_from(packed)
            return packed[_ROW_BYTES:], revision, deadline
        except (lmdb.Error, struct.error):
            return self._read(lambda rows: rows.get(key))

    def _read(self, use: Callable[[_Rows], T]) -> T:
        env = self._table.env
        return _begin(env, lambda txn: use(_Rows(env, txn)))

    def chunk(self, start: str, end: str | None, limit: int, *, reverse: bool = False) -> list[ScanRow]:
        return self._read(lambda rows: rows.chunk(start, end, limit, reverse=reverse))

    def revision(self) -> tuple[int, int]:
        return self._read(lambda rows: rows.revision())

    def log(self, after: int, limit: int) -> list[LogRow]:
        return self._read(lambda rows: rows.log(after, limit))

    def log_floor(self) -> int:
        return self._read(lambda rows: rows.log_floor())

    def close(self) -> None:
        """Do nothing: there is no state to let go."""


class _View(Reader):
    """Reads one state; made with the gate held."""

    def __init__(self, table: LmdbTable, env: Environment, txn: Transaction[bytes]) -> None:
        self._table = table
        self._env = env
        self._rows: _Rows | None = _Rows(env, txn)
        env.views.add(self)

    def _read(self, use: Callable[[_Rows], T]) -> T:
        with self._env.gate:
            if self._rows is None:
                raise ClosedError(f"this view of {self._env.path} was closed; take another")
            try:
                return use(self._rows)
            except UNREADABLE as exc:
                raise self._env.error(exc) from exc

    def get(self, key: str) -> Row | None:
        return self._read(lambda rows: rows.get(key))

    def chunk(self, start: str, end: str | None, limit: int, *, reverse: bool = False) -> list[ScanRow]:
        return self._read(lambda rows: rows.chunk(start, end, limit, reverse=reverse))

    def revision(self) -> tuple[int, int]:
        return self._read(lambda rows: rows.revision())

    def log(self, after: int, limit: int) -> list[LogRow]:
        return self._read(lambda rows: rows.log(after, limit))

    def log_floor(self) -> int:
        return self._read(lambda rows: rows.log_floor())

    def drop(self) -> None:
        """Forget the transaction without ending it; the gate is held."""
        self._rows = None

    def close(self) -> None:
        """Let the state go; a second call does nothing."""
        with self._env.gate:
            rows, self._rows = self._rows, None
            if rows is not None:
                rows._txn.abort()
                self._env.views.discard(self)
        self._table._views.discard(self)


# --- writing --------------------------------------------------------------------------------------------------------


class _TableWriter(_Rows, Writer):
    """Reads and writes rows in one transaction."""

    __slots__ = ("_timed", "changed")

    def __init__(self, env: Environment, txn: Transaction[memoryview]) -> None:
        super().__init__(env, txn)
        self._timed = txn.stat(env.due)["entries"] > 0
        self.changed = False

    def stamp(self, key: str) -> tuple[int, int] | None:
        """Return revision and deadline of the row under *key*, or None."""
        packed = self._txn.get(key.encode())
        return None if packed is None else cast("tuple[int, int]", _ROW.unpack_from(packed))

    def apply(self, rows: Mapping[str, Row | None]) -> None:
        """Write each key's row in place of what is there; None removes it."""
        self.changed = True
        found = rows.values()
        if not self._timed and None not in found and not any(map(_deadline_of, found)):
            pack = _ROW.pack
            self._txn.cursor().putmulti(
                [
                    (key.encode(), pack(stamp, 0) + value)
                    for key, (value, stamp, _) in cast("Mapping[str, Row]", rows).items()
                ]
            )
            return
        for key, row in rows.items():
            self._apply(key.encode(), row)

    def _apply(self, key: bytes, row: Row | None) -> None:
        txn, due = self._txn, self._env.due
        deadline = 0 if row is None else row[2]
        if self._timed:
            packed = txn.get(key)
            if packed is not None:
                before = _ROW.unpack_from(packed)[1]
                if before == deadline:
                    deadline = 0  # it is in the index already
                elif before:
                    txn.delete(_NUMBER.pack(before) + key, b"", due)
        if row is None:
            txn.delete(key)
            return
        txn.put(key, _ROW.pack(row[1], row[2]) + row[0])
        if deadline:
            txn.put(_NUMBER.pack(deadline) + key, b"", db=due)
            self._timed = True

    def due(self, now_ms: int, limit: int) -> list[str]:
        """Return up to *limit* keys of rows with a deadline at or before *now_ms*."""
        cursor = self._txn.cursor(self._env.due)
        if not cursor.first():
            return []
        after = _NUMBER.pack(now_ms + 1)
        keys = takewhile(lambda found: found < after, map(bytes, cursor.iternext(values=False)))
        return [str(found[_NUMBER_BYTES:], "utf-8") for found in islice(keys, limit)]

    def advance(self, revision: int, time_ms: int) -> None:
        """Store the newest revision and time."""
        self._set_state(revision, time_ms, self.log_floor())

    def _set_state(self, revision: int, time_ms: int, floor: int) -> None:
        self.changed = True
        self._txn.put(b"state", STATE.pack(revision, time_ms, floor), db=self._env.meta)

    def append_log(self, row: LogRow) -> None:
        """Append to the change log."""
        self.changed = True
        last, time_ms, events = row
        self._txn.put(_NUMBER.pack(last), _NUMBER.pack(time_ms) + events, db=self._env.log)

    def trim_log(self, before_ms: int) -> None:
        """Remove the rows of the change log that were written before *before_ms*, and raise the floor."""
        revision, time_ms, floor = self._state()
        cursor = self._txn.cursor(self._env.log)
        there = cursor.first()
        removed = floor
        while there:
            if _NUMBER.unpack_from(cursor.value())[0] >= before_ms:
                break
            removed = _NUMBER.unpack(cursor.key())[0]
            there = cursor.delete()  # the cursor is on the next row then
            there = there and bool(cursor.key())
        if removed != floor:
            self._set_state(revision, time_ms, removed)

    def clear(self) -> None:
        """Remove every entry."""
        self.changed = True
        self._txn.drop(self._env.entries, delete=False)
        self._txn.drop(self._env.due, delete=False)
        self._timed = False

    def load(self, rows: Sequence[ScanRow]) -> None:
        """Write rows with ascending keys, none of which is there yet."""
        pack = _ROW.pack
        packed = [(key.encode(), pack(revision, deadline) + value) for key, value, revision, deadline in rows]
        longest = max((len(item[0]) for item in packed), default=0)
        if longest > MAX_KEY_BYTES:
            raise LimitExceededError(
                f"a key of {longest} bytes is longer than the {MAX_KEY_BYTES} that this store takes",
                limit=MAX_KEY_BYTES,
                actual=longest,
            )
        self.changed = True
        self._txn.cursor().putmulti(packed, append=True)
        timed = [(_NUMBER.pack(row[3]) + row[0].encode(), b"") for row in rows if row[3]]
        if timed:
            timed.sort()
            self._txn.cursor(self._env.due).putmulti(timed)
            self._timed = True

    def close(self) -> None:
        """Do nothing: the table ends the transaction."""
