"""Rows ``durable`` and ``writers``: updates that are on disk before they return, by one writer and by 100 at once.

Every contender but the one that says so syncs once for each update (row ``durable``) or batch (row ``writers``).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

from harness import Bench, Case, Role, Row, Sample, ahead_of_peers, contender, times_floor
from models import PROFILE

__all__ = ["DURABLE", "WRITERS"]

_ONE = Case("durable update, one writer", goals=[times_floor(1.6), ahead_of_peers()])
_WRITERS = 100
_EACH = 10
_ZEROS = 1 << 24
# 100,000 updates a second, where group commit by hand took 2.4 us for each: a ratio, since disks differ more than
# processors and the calibration loop knows nothing of them.
_BATCH_RATIO = 10 / 2.4
_BATCH = Case("durable update, 100 writers at once", size=_WRITERS, goals=[times_floor(_BATCH_RATIO)])
DURABLE = Row("durable", _ONE)
WRITERS = Row("writers", _BATCH)

_UPDATE = "update(next(numbers))"
_INSERT = "INSERT INTO journal (version, record) VALUES (?, ?)"
_SCHEMA = "CREATE TABLE journal (version INTEGER PRIMARY KEY, record BLOB NOT NULL)"


def _record(value: int) -> bytes:
    import orjson

    body = orjson.dumps(
        {
            "version": value,
            "change_id": "0193506b8f7a7c3e9d1f4a5b6c7d8e9f",
            "timestamp_ns": 1_700_000_000_000_000_000,
            "kind": "update",
            "patch": [{"op": "replace", "path": "/count", "value": value}],
        }
    )
    return b"%08x %s\n" % (crc32(body), body)


class _Journal:
    """The floor: a file that is appended to and synced."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path / "journal", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def append(self, data: bytes) -> None:
        os.write(self.fd, data)
        os.fdatasync(self.fd)

    def close(self) -> None:
        os.close(self.fd)


@contender("append + fdatasync", Role.FLOOR, _ONE)
async def _append(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_Journal(bench.path())) as journal:
        yield bench.timed("append(record(next(numbers)))", append=journal.append, record=_record, numbers=count(1))


@contender("overwrite zeros + fdatasync", Role.ALSO, _ONE)
async def _overwrite(bench: Bench) -> AsyncIterator[Sample]:
    # What databases do with a log that they recycle: no new blocks, so that a sync has no metadata to write.
    fd = os.open(bench.path() / "journal", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, bytes(_ZEROS))
    os.fsync(fd)
    position = 0

    def update(value: int) -> None:
        nonlocal position
        data = _record(value)
        os.pwrite(fd, data, position)
        position = (position + len(data)) % (_ZEROS - len(data))
        os.fdatasync(fd)

    yield bench.timed(_UPDATE, update=update, numbers=count(1))
    os.close(fd)


@contender("append + fdatasync in a thread", Role.ALSO, _ONE)
async def _append_in_thread(bench: Bench) -> AsyncIterator[Sample]:
    loop = asyncio.get_running_loop()
    with closing(_Journal(bench.path())) as journal:

        async def update(value: int) -> None:
            await loop.run_in_executor(None, journal.append, _record(value))

        yield bench.timed("await update(next(numbers))", update=update, numbers=count(1))


@contender("temporary file + rename", Role.PEER, _ONE)
async def _rename(bench: Bench) -> AsyncIterator[Sample]:
    import orjson

    path = bench.path()
    directory = os.open(path, os.O_RDONLY)

    def update(value: int) -> None:
        fd = os.open(path / "new", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        os.write(fd, orjson.dumps(PROFILE | {"count": value}))
        os.fsync(fd)
        os.close(fd)
        (path / "new").replace(path / "state")
        os.fsync(directory)

    yield bench.timed(_UPDATE, update=update, numbers=count(1))
    os.close(directory)


def _sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path / "journal.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(_SCHEMA)
    return connection


@contender("sqlite3", Role.PEER, _ONE)
async def _sqlite3(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_sqlite(bench.path())) as connection:

        def update(value: int) -> None:
            connection.execute(_INSERT, (value, _record(value)))

        yield bench.timed(_UPDATE, update=update, numbers=count(1))


@contender("apsw", Role.PEER, _ONE, _BATCH)
async def _apsw(bench: Bench) -> AsyncIterator[Sample]:
    import apsw

    connection = apsw.Connection(str(bench.path() / "journal.db"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(_SCHEMA)

    def update(value: int) -> None:
        connection.execute(_INSERT, (value, _record(value)))

    def batch(rows: list[tuple[int, bytes]]) -> None:
        with connection:
            connection.executemany(_INSERT, rows)

    if bench.size == 1:
        yield bench.timed(_UPDATE, update=update, numbers=count(1))
    else:
        yield _batches(bench, batch)
    connection.close()


@contender("aiosqlite", Role.PEER, _ONE, _BATCH)
async def _aiosqlite(bench: Bench) -> AsyncIterator[Sample]:
    import aiosqlite

    async with aiosqlite.connect(bench.path() / "journal.db", isolation_level=None) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.execute(_SCHEMA)
        numbers = count(1)

        async def update() -> None:
            value = next(numbers)
            await connection.execute(_INSERT, (value, _record(value)))

        async def batch() -> None:
            await connection.execute("BEGIN")
            await connection.executemany(_INSERT, _rows(bench, numbers))
            await connection.commit()

        if bench.size == 1:
            yield bench.timed("await update()", update=update)
        else:
            yield bench.timed("await batch()", operations=bench.size, batch=batch)


@contender("lmdb", Role.PEER, _ONE, _BATCH)
async def _lmdb(bench: Bench) -> AsyncIterator[Sample]:
    import lmdb

    with lmdb.open(str(bench.path()), map_size=1 << 30) as environment:

        def update(value: int) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(value.to_bytes(8, "big"), _record(value), append=True)

        def batch(rows: list[tuple[int, bytes]]) -> None:
            with environment.begin(write=True) as transaction:
                for value, record in rows:
                    transaction.put(value.to_bytes(8, "big"), record, append=True)

        if bench.size == 1:
            yield bench.timed(_UPDATE, update=update, numbers=count(1))
        else:
            yield _batches(bench, batch)


@contender("ZODB", Role.PEER, _ONE)
async def _zodb(bench: Bench) -> AsyncIterator[Sample]:
    import transaction
    import ZODB
    import ZODB.FileStorage
    from persistent.mapping import PersistentMapping

    database = ZODB.DB(ZODB.FileStorage.FileStorage(str(bench.path() / "state.fs")))
    with database.transaction() as connection:
        connection.root()["profile"] = PersistentMapping(PROFILE)
    connection = database.open()
    profile = connection.root()["profile"]

    def update(value: int) -> None:
        profile["count"] = value
        transaction.commit()

    yield bench.timed(_UPDATE, update=update, numbers=count(1))
    connection.close()
    database.close()


def _disk_cache(bench: Bench, **settings: int) -> Sample:
    import diskcache

    cache = diskcache.Cache(str(bench.path()), **settings)

    def update(value: int) -> None:
        cache.set("profile", _record(value))

    return bench.timed(_UPDATE, update=update, numbers=count(1))


@contender("diskcache (full sync)", Role.PEER, _ONE)
async def _diskcache(bench: Bench) -> AsyncIterator[Sample]:
    yield _disk_cache(bench, sqlite_synchronous=2)


@contender("diskcache (as it comes: no sync for each update)", Role.ALSO, _ONE)
async def _diskcache_lax(bench: Bench) -> AsyncIterator[Sample]:
    yield _disk_cache(bench)


@contender("eventsourcing", Role.PEER, _ONE)
async def _eventsourcing(bench: Bench) -> AsyncIterator[Sample]:
    from eventsourcing.application import Application
    from sourced import Profile

    application: Any = Application(
        {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(bench.path() / "events.db"),
        }
    )
    profile = Profile(dict(PROFILE))

    def update(value: int) -> None:
        profile.set_count(value)
        application.save(profile)

    yield bench.timed(_UPDATE, update=update, numbers=count(1))
    application.close()


def _rows(bench: Bench, numbers: count[int]) -> list[tuple[int, bytes]]:
    return [(value, _record(value)) for value, _ in zip(numbers, range(bench.size), strict=False)]


def _batches(bench: Bench, batch: Callable[[list[tuple[int, bytes]]], None]) -> Sample:
    return bench.timed(
        "batch(rows(bench, numbers))", operations=bench.size, batch=batch, rows=_rows, bench=bench, numbers=count(1)
    )


@contender("sqlite3", Role.PEER, _BATCH)
async def _sqlite3_batch(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_sqlite(bench.path())) as connection:

        def batch(rows: list[tuple[int, bytes]]) -> None:
            connection.execute("BEGIN")
            connection.executemany(_INSERT, rows)
            connection.execute("COMMIT")

        yield _batches(bench, batch)


def _together(bench: Bench, update: Callable[[int], Any]) -> Sample:
    """Return a sample of one of the updates that ``bench.size`` tasks make at once, each one after another."""
    numbers = count(1)

    async def writer() -> None:
        for _ in range(_EACH):
            await update(next(numbers))

    async def burst() -> None:
        await asyncio.gather(*(writer() for _ in range(bench.size)))

    return bench.timed("await burst()", operations=bench.size * _EACH, burst=burst)


@contender("group commit by hand", Role.FLOOR, _BATCH)
async def _group_commit(bench: Bench) -> AsyncIterator[Sample]:
    loop = asyncio.get_running_loop()
    waiting: list[tuple[bytes, asyncio.Future[None]]] = []
    with closing(_Journal(bench.path())) as journal:

        def flush() -> None:
            group = waiting.copy()
            waiting.clear()
            journal.append(b"".join(record for record, _ in group))
            for _, done in group:
                done.set_result(None)

        def update(value: int) -> asyncio.Future[None]:
            if not waiting:
                loop.call_soon(flush)
            done = loop.create_future()
            waiting.append((_record(value), done))
            return done

        yield _together(bench, update)


@contender("StateContainer", Role.OURS, _ONE, _BATCH)
async def _ours(bench: Bench) -> AsyncIterator[Sample]:
    from states import Profile, profile, set_count

    from reactstate import FilePersistence, StateContainer

    path = bench.path() / "profile"
    opened = StateContainer.open(profile(), persistence=FilePersistence(path, durability="always"))
    async with opened as container:
        if bench.size == 1:
            yield bench.timed(
                "await container.update(set_count, next(numbers))",
                container=container,
                set_count=set_count,
                numbers=count(1),
            )
        else:
            yield _together(bench, lambda value: container.update(set_count, value))
        last = container.state
    async with StateContainer.open(Profile, persistence=FilePersistence(path)) as container:
        assert container.state == last
