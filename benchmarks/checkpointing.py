"""Rows ``checkpoint``, ``million`` and ``scan``: everything that a store holds, saved, restored, and walked through."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from entries import VALUE, batches, key, value
from harness import BYTES, Bench, Case, Role, Row, Sample, at_most, contender

__all__ = ["CHECKPOINT", "MILLION", "SCAN"]

_THOUSAND, _HUNDRED, _ALL = 1_000, 100_000, 1_000_000
_SAVE_1K = Case("checkpoint of 1,000 entries", size=_THOUSAND, goals=[at_most("5 ms", 0.005)])
_LOAD_1K = Case("restore of 1,000 entries", size=_THOUSAND, goals=[at_most("3 ms", 0.003)])
_SAVE_100K = Case("checkpoint of 100,000 entries", size=_HUNDRED, goals=[at_most("60 ms", 0.060)])
_LOAD_100K = Case("restore of 100,000 entries", size=_HUNDRED, goals=[at_most("60 ms", 0.060)])
CHECKPOINT = Row("checkpoint", _SAVE_1K, _LOAD_1K, _SAVE_100K, _LOAD_100K)

_SAVE_1M = Case("checkpoint of 1,000,000 entries", size=_ALL, goals=[at_most("500 ms", 0.5)])
_LOAD_1M = Case("restore of 1,000,000 entries", size=_ALL, goals=[at_most("700 ms", 0.7)])
_FILE = Case("its file", size=_ALL, goals=[at_most("25 MB", 25e6, scaled=False)], unit=BYTES)
_PEAK = Case("peak extra memory of a save", size=_ALL, goals=[at_most("40 MB", 40e6, scaled=False)], unit=BYTES)
_HELD = Case("longest wait of a writer while saving", size=_ALL, goals=[at_most("20 ms", 0.020)])
_HELD_LOAD = Case("longest wait of a task while restoring", size=_ALL)
MILLION = Row("million", _SAVE_1M, _LOAD_1M, _FILE, _PEAK, _HELD, _HELD_LOAD)

_LITTLE = [at_most("1 MB", 1e6, scaled=False)]
_SCANS = {
    "memory": (Case("scan of 1,000,000, memory"), Case("its memory, memory", goals=_LITTLE, unit=BYTES)),
    "sqlite": (Case("scan of 1,000,000, sqlite"), Case("its memory, sqlite", goals=_LITTLE, unit=BYTES)),
    "lmdb": (Case("scan of 1,000,000, lmdb"), Case("its memory, lmdb", goals=_LITTLE, unit=BYTES)),
}
SCAN = Row("scan", *(case for cases in _SCANS.values() for case in cases))


# --- by hand ----------------------------------------------------------------------------------------------------


def _table(size: int) -> dict[str, bytes]:
    return {key(number): value(number) for number in range(size)}


def _replace_durably(path: Path, data: list[bytes]) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        for part in data:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


_CHUNK = 20_000


def _save(table: dict[str, bytes], path: Path) -> None:
    import orjson
    from zstandard import ZstdCompressor

    compressor, keys, data = ZstdCompressor(1), list(table), []
    for start in range(0, len(keys), _CHUNK):
        names = keys[start : start + _CHUNK]
        for part in (orjson.dumps(names), b"".join(map(table.__getitem__, names))):
            packed = compressor.compress(part)
            data += [len(packed).to_bytes(4, "little"), packed]
    _replace_durably(path, data)


def _load(path: Path) -> dict[str, bytes]:
    import orjson
    from zstandard import ZstdDecompressor

    decompressor, table, data, at = ZstdDecompressor(), {}, path.read_bytes(), 0
    parts: list[bytes] = []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        parts.append(decompressor.decompress(data[at + 4 : end]))
        at = end
    for packed_keys, packed_values in zip(parts[::2], parts[1::2], strict=True):
        names = orjson.loads(packed_keys)
        table.update(zip(names, struct.unpack(f"{len(VALUE)}s" * len(names), packed_values), strict=True))
    return table


def _timed(work: Callable[[], Any]) -> Sample:
    async def sample() -> float:
        start = perf_counter()
        work()
        return perf_counter() - start

    return sample


@contender("a dict, zstd and fsync, by hand", Role.FLOOR, _SAVE_1K, _SAVE_100K, _SAVE_1M)
async def _by_hand(bench: Bench) -> AsyncIterator[Sample]:
    table, path = _table(bench.size), bench.path() / "saved"
    yield _timed(lambda: _save(table, path))


@contender("a dict, zstd and fsync, by hand", Role.FLOOR, _LOAD_1K, _LOAD_100K, _LOAD_1M)
async def _loaded_by_hand(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    _save(_table(bench.size), path)
    yield _timed(lambda: _load(path))


def _pickle(table: dict[str, bytes], path: Path) -> None:
    _replace_durably(path, [pickle.dumps(table)])


@contender("pickle and fsync", Role.PEER, _SAVE_1K, _SAVE_100K, _SAVE_1M)
async def _pickled(bench: Bench) -> AsyncIterator[Sample]:
    table, path = _table(bench.size), bench.path() / "saved"
    yield _timed(lambda: _pickle(table, path))


@contender("pickle and fsync", Role.PEER, _LOAD_1K, _LOAD_100K, _LOAD_1M)
async def _unpickled(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    _pickle(_table(bench.size), path)
    yield _timed(lambda: pickle.loads(path.read_bytes()))


@contender("pickle and fsync", Role.ALSO, _FILE)
async def _pickled_size(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    _pickle(_table(bench.size), path)

    async def sample() -> float:
        return path.stat().st_size

    yield sample


# --- checkpoints ------------------------------------------------------------------------------------------------


class _Shared:
    """A store of *size* entries that several contenders hold at once, since filling it takes a while."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._users = 0
        self._store: Any = None

    async def __aenter__(self) -> Any:
        from reactstate import open_store

        if self._users == 0:
            self._store = await open_store("memory:")
            await self._store._load(batches(self._size), revision=0, replace=True)
        self._users += 1
        return self._store

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users == 0:
            await self._store.aclose()


_filled = {size: _Shared(size) for size in (_THOUSAND, _HUNDRED, _ALL)}


@contender("MemoryStore", Role.OURS, _SAVE_1K, _SAVE_100K, _SAVE_1M)
async def _checkpoint(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    async with _filled[bench.size] as store:

        async def sample() -> float:
            start = perf_counter()
            await store.checkpoint(path)
            return perf_counter() - start

        yield sample


@contender("MemoryStore", Role.OURS, _LOAD_1K, _LOAD_100K, _LOAD_1M)
async def _restore(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import open_store

    path = bench.path() / "saved"
    async with _filled[bench.size] as store:
        await store.checkpoint(path)

    async def sample() -> float:
        async with open_store("memory:") as restored:
            start = perf_counter()
            count = await restored.restore(path)
            seconds = perf_counter() - start
        assert count == bench.size
        return seconds

    yield sample


@contender("MemoryStore", Role.OURS, _FILE)
async def _size(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    async with _filled[bench.size] as store:
        size: int = await store.checkpoint(path)

    async def sample() -> float:
        return size

    yield sample


async def _traced(work: Awaitable[Any]) -> float:
    """Return the most bytes that Python objects took while *work* was done, beyond those that were there before."""
    tracemalloc.start()
    try:
        await work
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contender("MemoryStore", Role.OURS, _PEAK)
async def _peak(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    async with _filled[bench.size] as store:

        async def sample() -> float:
            return await _traced(store.checkpoint(path))

        yield sample


async def _longest_wait(turn: Callable[[], Awaitable[Any]], work: Awaitable[Any]) -> float:
    """Return the longest time between two turns of a task that always has another one to make, while *work* is done."""
    longest, working = 0.0, True

    async def turns() -> None:
        nonlocal longest
        last = perf_counter()
        while working:
            await turn()
            await asyncio.sleep(0)
            now = perf_counter()
            longest = max(longest, now - last)
            last = now

    task = asyncio.create_task(turns())
    await asyncio.sleep(0)
    await work
    working = False
    await task
    return longest


@contender("MemoryStore", Role.OURS, _HELD)
async def _held(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "saved"
    places = random.Random(4)
    async with _filled[bench.size] as store:

        async def write() -> None:
            await store.put(key(places.randrange(bench.size)), VALUE)

        async def sample() -> float:
            return await _longest_wait(write, store.checkpoint(path))

        yield sample


@contender("MemoryStore", Role.OURS, _HELD_LOAD)
async def _held_load(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import open_store

    path = bench.path() / "saved"
    async with _filled[bench.size] as store:
        await store.checkpoint(path)

    async def sample() -> float:
        async with open_store("memory:") as restored, open_store("memory:") as other:
            return await _longest_wait(lambda: other.put("here", VALUE), restored.restore(path))

    yield sample


# --- scanning ---------------------------------------------------------------------------------------------------


async def _walk(store: Any) -> None:
    count = 0
    async for _ in store.scan("account/"):
        count += 1
    assert count == _ALL


@asynccontextmanager
async def _stored(engine: str, bench: Bench) -> AsyncIterator[Any]:
    from reactstate import open_store

    url = "memory:" if engine == "memory" else f"{engine}:{bench.path() / 'entries'}?durability=never"
    async with open_store(url) as store:
        await store._load(batches(_ALL), revision=0, replace=True)
        yield store


def _register_scans(engine: str, seconds: Case, peak: Case) -> None:
    @contender("store", Role.OURS, seconds)
    async def _scan(bench: Bench) -> AsyncIterator[Sample]:
        async with _stored(engine, bench) as store:

            async def sample() -> float:
                start = perf_counter()
                await _walk(store)
                return perf_counter() - start

            yield sample

    @contender("store", Role.OURS, peak)
    async def _scan_memory(bench: Bench) -> AsyncIterator[Sample]:
        async with _stored(engine, bench) as store:
            most = await _traced(_walk(store))

        async def sample() -> float:
            return most  # a count that no other moment changes, and slow to take

        yield sample


for _engine, _cases in _SCANS.items():
    _register_scans(_engine, *_cases)
