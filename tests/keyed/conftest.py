from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import UnavailableError, UnknownOutcomeError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability


class QuickClock:
    """A clock on which sleeping takes no time of ours."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000 + round(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class TroubledStore(MemoryStore):
    """A store whose next commits go as they are told: ``"lost"``, ``"unsent"``, ``"down"``, a function, or None.

    lost: applied, and the reply lost. unsent: not applied, and the reply lost. down: refused. late: not applied now,
    and the reply lost, but applied by ``arrive``. A function is awaited before the commit. ``after`` is awaited after
    a commit whose reply is lost.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.plan: deque[Any] = deque()
        self.always: Any = None
        self.down = False
        self.stale: deque[Any] = deque()
        self.after: Any = None
        self.commits = 0
        self._arriving: Any = None

    async def commit(self, steps, *, ranges=()):
        self.commits += 1
        what = self.plan.popleft() if self.plan else self.always
        if what is None:
            return await super().commit(steps, ranges=ranges)
        if what == "down":
            raise UnavailableError("refused")
        if what in {"lost", "unsent", "late"}:
            if what == "lost":
                await super().commit(steps, ranges=ranges)
            if what == "late":
                self._arriving = steps
            if self.after is not None:
                after, self.after = self.after, None
                await after()
            raise UnknownOutcomeError("no answer")
        await what()
        return await super().commit(steps, ranges=ranges)

    async def arrive(self) -> None:
        await super().commit(self._arriving)

    async def get(self, key):
        if self.down:
            raise UnavailableError("refused")
        if self.stale:
            return self.stale.popleft()
        return await super().get(key)


class PlainStore(MemoryStore):
    """An engine that can watch, and neither reads at one moment nor orders its events over all keys."""

    capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS, Capability.TOTAL_ORDER}


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
def store_clock() -> ManualClock:
    """The store's own, so that its housekeeping does not move the container's time."""
    return ManualClock()


@pytest.fixture
async def store(store_clock):
    async with TroubledStore(clock=store_clock) as opened:
        yield opened


@pytest.fixture
async def plain_store(store_clock):
    async with PlainStore(clock=store_clock) as opened:
        yield opened


@pytest.fixture
def settle():
    """Let everything that is ready run."""

    async def run() -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    return run
