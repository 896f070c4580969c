"""Row ``watch``: how soon those who watch a store are told of a commit.

From before the put until the event is there, so that the commit itself is part of it.
"""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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


class _Watcher:
    """A task that takes the time at each event of *events*."""

    def __init__(self, events: AsyncIterator[object]) -> None:
        self._seconds: list[float] = []
        self._start = 0.0
        self._told = asyncio.Event()
        self._task = asyncio.create_task(self._watch(events))

    async def _watch(self, events: AsyncIterator[object]) -> None:
        async for _ in events:
            self._seconds.append(perf_counter() - self._start)
            self._told.set()

    async def measure(self, cause: Callable[[], Awaitable[object]]) -> float:
        """Return the median of the times from before *cause* until its event is there."""
        for _ in range(_EVENTS):
            await asyncio.sleep(0)  # so that it waits again
            self._told.clear()
            self._start = perf_counter()
            await cause()
            await self._told.wait()
        return median(self._seconds)

    async def end(self) -> None:
        await self._task


@contender("a future set by hand", Role.FLOOR, _HERE, _SQLITE)
async def _future(_: Bench) -> AsyncIterator[Sample]:
    loop = asyncio.get_running_loop()

    async def sample() -> float:
        waiting = loop.create_future()

        async def events() -> AsyncIterator[None]:
            nonlocal waiting
            for _ in range(_EVENTS):
                await waiting
                waiting = loop.create_future()
                yield

        async def tell() -> None:
            waiting.set_result(None)

        watcher = _Watcher(events())
        figure = await watcher.measure(tell)
        await watcher.end()
        return figure

    yield sample


@asynccontextmanager
async def _watched(url: str) -> AsyncIterator[Sample]:
    from reactstate import open_store

    async with open_store(url) as store:

        async def sample() -> float:
            events = store.watch("account/")
            watcher = _Watcher(events)
            figure = await watcher.measure(lambda: store.put("account/1", VALUE))
            await events.aclose()
            await watcher.end()
            return figure

        yield sample


@contender("MemoryStore", Role.OURS, _HERE)
async def _memory(_: Bench) -> AsyncIterator[Sample]:
    async with _watched("memory:") as sample:
        yield sample


@contender("sqlite (each put is on disk)", Role.OURS, _SQLITE)
async def _sqlite(bench: Bench) -> AsyncIterator[Sample]:
    async with _watched(f"sqlite:{bench.path() / 'watched.db'}") as sample:
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
