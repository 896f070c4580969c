"""Row ``keyed``: entries of a store in memory, one at a time, and two in one commit."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

from entries import VALUE, batches, key
from harness import Bench, Case, Role, Row, Sample, at_most, contender, times_floor

__all__ = ["KEYED"]

_SIZE = 100_000
_NEW = 5_000
# The goals are 200 ns and 1 us where a bare awaited get and put of a dict took 86 and 119 ns.
_GET = Case("get, in memory", size=_SIZE, goals=[times_floor(200 / 86)])
_PUT = Case("put over an existing key, in memory", size=_SIZE, goals=[times_floor(1000 / 119)])
_FRESH = Case("put of a new key, in memory", size=_SIZE, goals=[at_most("5 us", 5e-6)])
_TWO = Case("commit of 2 steps, in memory", size=_SIZE, goals=[at_most("3 us", 3e-6)])
KEYED = Row("keyed", _GET, _PUT, _FRESH, _TWO)

_KEY, _OTHER = key(4_711), key(31_415)


class _Library:
    """A library that holds ``_SIZE`` entries: statements of *names* to read and write one, and a way to remove some."""

    def __init__(self, get: str, put: str, remove: Callable[[str], Awaitable[Any]], /, **names: Any) -> None:
        self.get = get
        self.put = put
        self.remove = remove
        self.names: dict[str, Any] = {"key": _KEY, "value": VALUE} | names


Opened = Callable[[Bench], AbstractAsyncContextManager[_Library]]


async def _get(opened: Opened, bench: Bench) -> AsyncIterator[Sample]:
    async with opened(bench) as library:
        yield bench.timed(library.get, unroll=5, **library.names)


async def _put(opened: Opened, bench: Bench) -> AsyncIterator[Sample]:
    async with opened(bench) as library:
        yield bench.timed(library.put, unroll=5, **library.names)


async def _fresh(opened: Opened, bench: Bench) -> AsyncIterator[Sample]:
    places = random.Random(2)
    async with opened(bench) as library:
        namespace = dict(library.names)
        exec(f"async def write(keys):\n    for key in keys:\n        {library.put}", namespace)

        async def sample() -> float:
            # They fall between those that are there, and are gone again before the next sample.
            keys = list({f"{key(places.randrange(bench.size))}/new" for _ in range(_NEW)})
            start = perf_counter()
            await namespace["write"](keys)
            seconds = perf_counter() - start
            for gone in keys:
                await library.remove(gone)
            return seconds / len(keys)

        yield sample


def _library(name: str, role: Role) -> Callable[[Callable[[Bench], AsyncIterator[_Library]]], None]:
    """Register what the decorated function opens as a contender that gets, puts, and puts new keys."""

    def register(opened: Callable[[Bench], AsyncIterator[_Library]]) -> None:
        manager = asynccontextmanager(opened)
        contender(name, role, _GET)(partial(_get, manager))
        contender(name, role, _PUT)(partial(_put, manager))
        contender(name, role, _FRESH)(partial(_fresh, manager))

    return register


@_library("a dict behind an await", Role.FLOOR)
async def _dict(bench: Bench) -> AsyncIterator[_Library]:
    table = {key(number): VALUE for number in range(bench.size)}

    async def get(key: str) -> bytes | None:
        return table.get(key)

    async def put(key: str, value: bytes) -> None:
        table[key] = value

    async def remove(key: str) -> None:
        del table[key]

    yield _Library("await get(key)", "await put(key, value)", remove, get=get, put=put)


@contender("a dict and a SortedList behind an await", Role.ALSO, _FRESH)
async def _ordered(bench: Bench) -> AsyncIterator[Sample]:
    from sortedcontainers import SortedList

    table = {key(number): VALUE for number in range(bench.size)}
    order: Any = SortedList(table)

    async def put(key: str, value: bytes) -> None:
        if key not in table:
            order.add(key)
        table[key] = value

    async def remove(key: str) -> None:
        order.remove(key)
        del table[key]

    @asynccontextmanager
    async def opened(_: Bench) -> AsyncIterator[_Library]:
        yield _Library("", "await put(key, value)", remove, put=put)

    async with asynccontextmanager(_fresh)(opened, bench) as sample:
        yield sample


@_library("cachetools (no await)", Role.PEER)
async def _cachetools(bench: Bench) -> AsyncIterator[_Library]:
    from cachetools import LRUCache

    cache: Any = LRUCache(2 * bench.size)
    for number in range(bench.size):
        cache[key(number)] = VALUE

    async def remove(key: str) -> None:
        del cache[key]

    yield _Library("cache[key]", "cache[key] = value", remove, cache=cache)


@_library("aiocache", Role.PEER)
async def _aiocache(bench: Bench) -> AsyncIterator[_Library]:
    from aiocache import SimpleMemoryCache

    cache: Any = SimpleMemoryCache()
    for number in range(bench.size):
        await cache.set(key(number), VALUE)
    yield _Library("await cache.get(key)", "await cache.set(key, value)", cache.delete, cache=cache)
    await cache.clear()  # it is the class that holds them


@_library("py-key-value", Role.PEER)
async def _py_key_value(bench: Bench) -> AsyncIterator[_Library]:
    from key_value.aio.stores.memory import MemoryStore

    store: Any = MemoryStore()
    document = {"value": VALUE.decode()}  # it keeps mappings only
    for number in range(bench.size):
        await store.put(key(number), document)
    yield _Library("await store.get(key)", "await store.put(key, value)", store.delete, store=store, value=document)


@_library("MemoryStore", Role.OURS)
async def _ours(bench: Bench) -> AsyncIterator[_Library]:
    from reactstate import open_store

    async with open_store("memory:") as store:
        await store._load(batches(bench.size), revision=0, replace=True)
        yield _Library("await store.get(key)", "await store.put(key, value)", store.delete, store=store)


class _ConflictError(Exception):
    pass


@contender("two dicts behind an await", Role.FLOOR, _TWO)
async def _two_dicts(bench: Bench) -> AsyncIterator[Sample]:
    values = {key(number): VALUE for number in range(bench.size)}
    revisions = dict.fromkeys(values, 1)
    newest = 1

    async def commit(*steps: tuple[str, bytes, int]) -> int:
        nonlocal newest
        for name, _, expected in steps:
            if revisions.get(name) != expected:
                raise _ConflictError
        newest += 1
        for name, value, _ in steps:
            values[name] = value
            revisions[name] = newest
        return newest

    async def turn() -> None:
        nonlocal revision
        revision = await commit((_KEY, VALUE, revision), (_OTHER, VALUE, revision))

    revision = newest
    yield bench.timed("await turn()", turn=turn)


@contender("MemoryStore", Role.OURS, _TWO)
async def _two_steps(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import Put, Step, open_store

    async with open_store("memory:") as store:
        await store._load(batches(bench.size), revision=0, replace=True)

        async def turn() -> None:
            nonlocal revision
            steps = (Step(_KEY, Put(VALUE), revision), Step(_OTHER, Put(VALUE), revision))
            revision = (await store.commit(steps)).revision

        revision = (await store.commit((Step(_KEY, Put(VALUE)), Step(_OTHER, Put(VALUE))))).revision
        yield bench.timed("await turn()", turn=turn)
