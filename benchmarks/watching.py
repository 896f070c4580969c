"""Row ``watch``: how soon those who watch a store are told of a commit.

From before the put until the event is there, so that the commit itself is part of it.
"""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from statistics import median
from time import monotonic, perf_counter

from entries import VALUE
from harness import Bench, Case, Role, Row, Sample, at_most, contender

__all__ = ["WATCH"]

_HERE = Case("watch, in memory", goals=[at_most("50 us", 50e-6)])
_SQLITE = Case("watch, sqlite, within one process")
_FAR = Case("watch, sqlite, across two processes", goals=[at_most("20 ms", 0.020, scaled=False)])
WATCH = Row("watch", _HERE, _SQLITE, _FAR)

_EVENTS = 300
_FAR_EVENTS = 30


@contender("a future set by hand", Role.FLOOR, _HERE, _SQLITE)
async def _future(_: Bench) -> AsyncIterator[Sample]:
    loop = asyncio.get_running_loop()

    async def sample() -> float:
        seconds: list[float] = []
        waiting = loop.create_future()

        async def watch() -> None:
            nonlocal waiting
            for _ in range(_EVENTS):
                await waiting
                seconds.append(perf_counter() - start)
                waiting = loop.create_future()

        task = asyncio.create_task(watch())
        for told in range(_EVENTS):
            await asyncio.sleep(0)
            start = perf_counter()
            waiting.set_result(None)
            while len(seconds) == told:
                await asyncio.sleep(0)
        await task
        return median(seconds)

    yield sample


async def _within(url: str) -> AsyncIterator[Sample]:
    from reactstate import open_store

    async with open_store(url) as store:

        async def sample() -> float:
            seconds: list[float] = []
            events = store.watch("account/")
            told = asyncio.Event()

            async def watch() -> None:
                async for _ in events:
                    seconds.append(perf_counter() - start)
                    told.set()

            task = asyncio.create_task(watch())
            for _ in range(_EVENTS):
                await asyncio.sleep(0)
                told.clear()
                start = perf_counter()
                await store.put("account/1", VALUE)
                await told.wait()
            await events.aclose()
            await task
            return median(seconds)

        yield sample


@contender("MemoryStore", Role.OURS, _HERE)
async def _memory(_: Bench) -> AsyncIterator[Sample]:
    async for sample in _within("memory:"):
        yield sample


@contender("sqlite (each put is on disk)", Role.OURS, _SQLITE)
async def _sqlite(bench: Bench) -> AsyncIterator[Sample]:
    async for sample in _within(f"sqlite:{bench.path() / 'watched.db'}"):
        yield sample


_CHILD = """
import asyncio, sys, time
from reactstate import open_store

async def main(url):
    async with open_store(url) as store:
        events = store.watch("account/")
        print("ready", flush=True)
        async for _ in events:
            print(time.monotonic(), flush=True)

asyncio.run(main(sys.argv[1]))
"""


@contender("sqlite (each put is on disk)", Role.OURS, _FAR)
async def _across(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import open_store

    url = f"sqlite:{bench.path() / 'watched.db'}"
    pauses = random.Random(3)
    async with open_store(url) as store:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", _CHILD, url, stdout=PIPE)
        assert child.stdout is not None
        try:
            assert (await child.stdout.readline()).strip() == b"ready"

            async def sample() -> float:
                assert child.stdout is not None
                seconds: list[float] = []
                for _ in range(_FAR_EVENTS):
                    await asyncio.sleep(pauses.uniform(0, 0.010))  # else the child would look just as we put
                    start = monotonic()
                    await store.put("account/1", VALUE)
                    # The monotonic clocks of two processes of one machine are one clock.
                    seconds.append(float(await child.stdout.readline()) - start)
                return median(seconds)

            yield sample
        finally:
            child.terminate()
            await child.wait()
