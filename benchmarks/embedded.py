"""Rows ``embedded``, ``unsynced`` and ``commit``: entries in files, read, written, and written for good.

Every store holds 100,000 entries, in files that are in the operating system's cache.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from entries import VALUE, batches, key, shuffled_keys, value
from harness import Bench, Case, Role, Row, Sample, ahead_of, at_most, contender, times_floor

__all__ = ["COMMIT", "EMBEDDED", "UNSYNCED"]

T = TypeVar("T")

_SIZE = 100_000
_READS = 5_000
_TASKS = 50
_EACH, _EACH_COMMITS = 40, 10

_MEDIAN = [at_most("5 us", 5e-6)]
_SQLITE_50 = Case("get, sqlite, p50", size=50, goals=_MEDIAN)
_SQLITE_99 = Case("get, sqlite, p99", size=99)
_LMDB_50 = Case("get, lmdb, p50", size=50, goals=_MEDIAN, like=_SQLITE_50)
_LMDB_99 = Case("get, lmdb, p99", size=99, like=_SQLITE_99)
EMBEDDED = Row("embedded", _SQLITE_50, _SQLITE_99, _LMDB_50, _LMDB_99)

_FEW = 1_000
_RATE = [at_most("10 us (100,000/s)", 10e-6)]
_SQLITE_FEW = Case("put over 1,000 keys, sqlite, not synced, 50 tasks", size=_FEW, goals=_RATE)
_LMDB_FEW = Case("put over 1,000 keys, lmdb, not synced, 50 tasks", size=_FEW, goals=_RATE, like=_SQLITE_FEW)
# Every such put dirties a page of its own, which the engine has to write. The goal keeps the ratio that the one above
# had to its floors, 5.5 us for sqlite and 2.2 us for lmdb.
_SQLITE_ALL = Case("put over 100,000 keys, sqlite, likewise", size=_SIZE, goals=[times_floor(10 / 5.5)])
_LMDB_ALL = Case("put over 100,000 keys, lmdb, likewise", size=_SIZE, goals=[times_floor(10 / 2.2)], like=_SQLITE_ALL)
UNSYNCED = Row("unsynced", _SQLITE_FEW, _LMDB_FEW, _SQLITE_ALL, _LMDB_ALL)

_ONE = Case("durable commit of 2 steps, sqlite, 1 task", size=1)
_MANY = Case("durable commit of 2 steps, sqlite, 50 tasks", size=_TASKS, goals=[ahead_of("diskcache (full sync)")])
COMMIT = Row("commit", _ONE, _MANY)

_SCHEMA = "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID"
_SELECT = "SELECT value FROM entries WHERE key = ?"
_REVISION = "SELECT revision FROM entries WHERE key = ?"
_UPSERT = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)"


def _sqlite(path: Path, synchronous: str, size: int = _SIZE) -> sqlite3.Connection:
    connection = sqlite3.connect(path / "entries.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("PRAGMA cache_size=-32768")
    connection.execute(_SCHEMA)
    connection.execute("BEGIN")
    connection.executemany(_UPSERT, ((key(number), value(number), 1) for number in range(size)))
    connection.execute("COMMIT")
    return connection


# --- reading ----------------------------------------------------------------------------------------------------


def _reads(percent: int, get: Callable[[str], Any]) -> Sample:
    """Return a sample of the given percentile of the times that single reads take."""
    keys = shuffled_keys(_SIZE)

    async def sample() -> float:
        seconds: list[float] = []
        for wanted in (next(keys) for _ in range(_READS)):
            start = perf_counter()
            get(wanted)
            seconds.append(perf_counter() - start)
        return _percentile(seconds, percent)

    return sample


def _awaited_reads(percent: int, get: Callable[[str], Awaitable[Any]]) -> Sample:
    keys = shuffled_keys(_SIZE)

    async def sample() -> float:
        seconds: list[float] = []
        for wanted in [next(keys) for _ in range(_READS)]:
            start = perf_counter()
            await get(wanted)
            seconds.append(perf_counter() - start)
        return _percentile(seconds, percent)

    return sample


def _percentile(seconds: list[float], percent: int) -> float:
    seconds.sort()
    return seconds[len(seconds) * percent // 100]


@contender("sqlite3", Role.FLOOR, _SQLITE_50, _SQLITE_99)
async def _sqlite_get(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_sqlite(bench.path(), "NORMAL")) as connection:
        execute = connection.cursor().execute
        yield _reads(bench.size, lambda wanted: execute(_SELECT, (wanted,)).fetchone())


@contender("lmdb", Role.FLOOR, _LMDB_50, _LMDB_99)
async def _lmdb_get(bench: Bench) -> AsyncIterator[Sample]:
    with _lmdb(bench.path()) as environment:

        def get(wanted: str) -> bytes | None:
            with environment.begin() as transaction:
                found: bytes | None = transaction.get(wanted.encode())
                return found

        yield _reads(bench.size, get)


def _lmdb(path: Path) -> Any:
    import lmdb

    environment = lmdb.open(str(path), map_size=1 << 30, sync=False)
    with environment.begin(write=True) as transaction:
        for number in range(_SIZE):
            transaction.put(key(number).encode(), value(number), append=True)
    return environment


@contender("diskcache", Role.PEER, _SQLITE_50, _SQLITE_99)
async def _diskcache_get(bench: Bench) -> AsyncIterator[Sample]:
    with _diskcache(bench.path()) as cache:
        yield _reads(bench.size, cache.get)


def _diskcache(path: Path, **settings: Any) -> Any:
    import diskcache

    cache: Any = diskcache.Cache(str(path), eviction_policy="none", cull_limit=0, size_limit=1 << 40, **settings)
    with cache.transact():
        for number in range(_SIZE):
            cache.set(key(number), value(number))
    return cache


@contender("py-key-value, diskcache", Role.PEER, _SQLITE_50, _SQLITE_99)
async def _py_key_value_get(bench: Bench) -> AsyncIterator[Sample]:
    async with _py_key_value(bench.path()) as store:
        yield _awaited_reads(bench.size, store.get)


@asynccontextmanager
async def _py_key_value(path: Path) -> AsyncIterator[Any]:
    from diskcache import Cache
    from key_value.aio.stores.disk import DiskStore

    with Cache(str(path), eviction_policy="none") as cache:
        store = DiskStore(disk_cache=cache)
        await store.put("first", {})  # which sets it up
        with cache.transact():
            for number in range(_SIZE):
                await store.put(key(number), {"value": value(number).decode()})
        yield store


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Any]:
    from reactstate import open_store

    async with open_store(url) as store:
        await store._load(batches(_SIZE), revision=0, replace=True)
        yield store


@contender("sqlite: store", Role.OURS, _SQLITE_50, _SQLITE_99)
async def _ours_sqlite_get(bench: Bench) -> AsyncIterator[Sample]:
    async with _opened(f"sqlite:{bench.path() / 'entries.db'}") as store:
        yield _awaited_reads(bench.size, store.get)


@contender("lmdb: store", Role.OURS, _LMDB_50, _LMDB_99)
async def _ours_lmdb_get(bench: Bench) -> AsyncIterator[Sample]:
    async with _opened(f"lmdb:{bench.path() / 'entries.lmdb'}") as store:
        yield _awaited_reads(bench.size, store.get)


# --- writing, not synced ----------------------------------------------------------------------------------------


def _in_batches(bench: Bench, write: Callable[[list[str]], None]) -> Sample:
    """Return a sample of one of the puts that *write* makes 50 of."""
    return bench.timed(
        "write([next(keys) for _ in repeated])",
        operations=_TASKS,
        write=write,
        keys=shuffled_keys(bench.size),
        repeated=range(_TASKS),
    )


def _by_tasks(bench: Bench, each: int, write: Callable[[T], Awaitable[Any]], targets: Iterator[T]) -> Sample:
    """Return a sample of one of the writes of which 50 tasks at once make *each*, one after another."""

    async def writer(own: list[T]) -> None:
        for target in own:
            await write(target)

    async def burst() -> None:
        await asyncio.gather(*(writer([next(targets) for _ in range(each)]) for _ in range(_TASKS)))

    return bench.timed("await burst()", operations=_TASKS * each, burst=burst)


@contender("sqlite3, 50 in a transaction", Role.FLOOR, _SQLITE_FEW, _SQLITE_ALL)
async def _sqlite_put(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_sqlite(bench.path(), "NORMAL")) as connection:
        numbers = count(2)

        def write(keys: list[str]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, [(wanted, VALUE, next(numbers)) for wanted in keys])
            connection.execute("COMMIT")

        yield _in_batches(bench, write)


@contender("lmdb, 50 in a transaction", Role.FLOOR, _LMDB_FEW, _LMDB_ALL)
async def _lmdb_put(bench: Bench) -> AsyncIterator[Sample]:
    with _lmdb(bench.path()) as environment:

        def write(keys: list[str]) -> None:
            with environment.begin(write=True) as transaction:
                for wanted in keys:
                    transaction.put(wanted.encode(), VALUE)

        yield _in_batches(bench, write)


@contender("diskcache", Role.PEER, _SQLITE_FEW, _SQLITE_ALL)
async def _diskcache_put(bench: Bench) -> AsyncIterator[Sample]:
    with _diskcache(bench.path()) as cache:
        keys = shuffled_keys(bench.size)
        yield bench.timed("put(next(keys), value)", put=cache.set, keys=keys, value=VALUE)


@contender("py-key-value, diskcache", Role.PEER, _SQLITE_FEW, _SQLITE_ALL)
async def _py_key_value_put(bench: Bench) -> AsyncIterator[Sample]:
    async with _py_key_value(bench.path()) as store:
        document = {"value": VALUE.decode()}
        yield _by_tasks(bench, _EACH, lambda wanted: store.put(wanted, document), shuffled_keys(bench.size))


@contender("sqlite: store", Role.OURS, _SQLITE_FEW, _SQLITE_ALL)
async def _ours_sqlite_put(bench: Bench) -> AsyncIterator[Sample]:
    async with _opened(f"sqlite:{bench.path() / 'entries.db'}?durability=never") as store:
        yield _by_tasks(bench, _EACH, lambda wanted: store.put(wanted, VALUE), shuffled_keys(bench.size))


@contender("lmdb: store", Role.OURS, _LMDB_FEW, _LMDB_ALL)
async def _ours_lmdb_put(bench: Bench) -> AsyncIterator[Sample]:
    async with _opened(f"lmdb:{bench.path() / 'entries.lmdb'}?durability=never") as store:
        yield _by_tasks(bench, _EACH, lambda wanted: store.put(wanted, VALUE), shuffled_keys(bench.size))


# --- committing, durably ----------------------------------------------------------------------------------------


class _ConflictError(Exception):
    pass


class _Transfers:
    """Commits of two steps, each on a pair of entries of its own, by hand."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._numbers = count(2)
        self._revisions = [1] * _SIZE

    def step(self, number: int) -> None:
        """Check and perform the two steps of the pair at *number*."""
        names = key(number), key(number + 1)
        for name in names:
            if self._execute(_REVISION, (name,)).fetchone() != (self._revisions[number],):
                raise _ConflictError
        self._revisions[number] = next(self._numbers)
        for name in names:
            self._execute(_UPSERT, (name, VALUE, self._revisions[number]))

    def commit(self, *numbers: int) -> None:
        """Do all that in one transaction."""
        self._execute("BEGIN IMMEDIATE")
        for number in numbers:
            self.step(number)
        self._execute("COMMIT")


def _pairs() -> Iterator[int]:
    """Yield the numbers of every other entry, over and over."""
    while True:
        yield from range(0, 2_000, 2)


@contender("sqlite3, a transaction each", Role.FLOOR, _ONE)
@contender("sqlite3, a transaction each", Role.PEER, _MANY)
async def _sqlite_commit(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_sqlite(bench.path(), "FULL")) as connection:
        transfers = _Transfers(connection)
        yield bench.timed("commit(next(pairs))", commit=transfers.commit, pairs=_pairs())


@contender("sqlite3, 50 in a transaction", Role.FLOOR, _MANY)
async def _sqlite_group(bench: Bench) -> AsyncIterator[Sample]:
    with closing(_sqlite(bench.path(), "FULL")) as connection:
        transfers = _Transfers(connection)
        yield bench.timed(
            "commit(*[next(pairs) for _ in repeated])",
            operations=bench.size,
            commit=transfers.commit,
            pairs=_pairs(),
            repeated=range(bench.size),
        )


@contender("sqlite3, a transaction each, in a thread", Role.ALSO, _ONE)
async def _sqlite_in_thread(bench: Bench) -> AsyncIterator[Sample]:
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        connection = await loop.run_in_executor(thread, _sqlite, bench.path(), "FULL")
        transfers, pairs = _Transfers(connection), _pairs()

        async def turn() -> None:
            await loop.run_in_executor(thread, transfers.commit, next(pairs))

        yield bench.timed("await turn()", turn=turn)
        await loop.run_in_executor(thread, connection.close)


@contender("diskcache (full sync)", Role.PEER, _ONE, _MANY)
async def _diskcache_commit(bench: Bench) -> AsyncIterator[Sample]:
    with _diskcache(bench.path(), sqlite_synchronous=2) as cache:
        pairs = _pairs()

        def turn() -> None:
            number = next(pairs)
            with cache.transact():
                cache.set(key(number), VALUE)
                cache.set(key(number + 1), VALUE)

        yield bench.timed("turn()", turn=turn)


@contender("sqlite: store", Role.OURS, _ONE, _MANY)
async def _ours_commit(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import ANY, Put, Step

    async with _opened(f"sqlite:{bench.path() / 'entries.db'}") as store:
        revisions: dict[int, int] = {}

        async def transfer(number: int) -> None:
            expected: Any = revisions.get(number, ANY)
            steps = (Step(key(number), Put(VALUE), expected), Step(key(number + 1), Put(VALUE), expected))
            revisions[number] = (await store.commit(steps)).revision

        pairs = _pairs()
        if bench.size == 1:

            async def turn() -> None:
                await transfer(next(pairs))

            yield bench.timed("await turn()", turn=turn)
        else:
            yield _by_tasks(bench, _EACH_COMMITS, transfer, pairs)
