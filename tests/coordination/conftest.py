from __future__ import annotations

import asyncio
import random
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest

from reactstate.clock import ManualClock
from reactstate.coordination.store import CoordinationStore
from reactstate.errors import UnavailableError, UnknownOutcomeError
from reactstate.kv.keys import StateKey
from reactstate.kv.memory import MemoryStore
from reactstate.kv.urls import open_store

START = datetime(2026, 1, 1, tzinfo=UTC)


class PatientClock(ManualClock):
    """A manual clock on which a pause between two attempts is soon over."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)


class QuickClock:
    """A clock on which sleeping takes no time of ours, but some turns of the loop."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.dice = random.Random(seed)

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000 + round(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(self.dice.randint(0, 3)):
            await asyncio.sleep(0)


class TroubledStore(MemoryStore):
    """A store whose next commits go as ``plan`` says, and then as ``always`` does.

    lost: applied, and the reply lost. unsent: not applied, and the reply lost. late: not applied yet, and the reply
    lost; ``arrive`` applies it. down: refused. A function is awaited before the commit, ``after`` is after a commit
    whose reply is lost.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.plan: deque[Any] = deque()
        self.always: Any = None
        self.after: Any = None
        self.reads_down = 0
        self.late: Any = None

    async def commit(self, steps, *, ranges=()):
        what = self.plan.popleft() if self.plan else self.always
        if what == "down":
            raise UnavailableError("refused")
        if what in {"lost", "unsent", "late"}:
            if what == "lost":
                await super().commit(steps, ranges=ranges)
            if what == "late":
                self.late = steps
            if self.after is not None:
                after, self.after = self.after, None
                await after()
            raise UnknownOutcomeError("no answer")
        if what is not None:
            await what()
        return await super().commit(steps, ranges=ranges)

    async def arrive(self) -> None:
        await super().commit(self.late)

    async def get(self, key):
        if self.reads_down:
            self.reads_down -= 1
            raise UnavailableError("refused")
        return await super().get(key)


@pytest.fixture
def key():
    """Make keys of one kind."""

    def make(id: object = "1", kind: str = "order") -> StateKey:  # noqa: A002 - as StateKey names it
        return StateKey("shop", "acme", kind, str(id))

    return make


@pytest.fixture
def clock():
    return PatientClock(START)


@pytest.fixture
def quick():
    return QuickClock()


@pytest.fixture
async def memory(clock):
    async with MemoryStore(clock=clock) as opened:
        yield opened


@pytest.fixture
async def troubled(clock):
    """A store with its own clock, so that pauses of the coordination store let nothing expire."""
    async with TroubledStore(clock=clock) as opened:
        yield opened


@pytest.fixture(params=["memory", "troubled", "sqlite", "lmdb"])
async def shared(request, clock, tmp_path):
    """A store of each engine, and one in memory that is used as if it were far away."""
    if request.param == "memory":
        opened = MemoryStore(clock=clock)
    elif request.param == "troubled":
        opened = TroubledStore(clock=clock)
    else:
        opened = await open_store(f"{request.param}:{tmp_path}/store", clock=clock)
    async with opened:
        yield opened


@pytest.fixture
async def here(shared, clock):
    async with CoordinationStore.open(store=shared, clock=clock) as opened:
        yield opened


@pytest.fixture
async def there(shared, clock):
    """Another one on the same store, as in another process."""
    async with CoordinationStore.open(store=shared, clock=clock) as opened:
        yield opened


@pytest.fixture
async def mine(troubled, quick):
    async with CoordinationStore.open(store=troubled, clock=quick) as opened:
        yield opened


@pytest.fixture
async def others(troubled, quick):
    async with CoordinationStore.open(store=troubled, clock=quick) as opened:
        yield opened
