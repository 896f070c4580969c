from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import TransitionError, UnavailableError, UnknownOutcomeError
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.kv.sqlite import SqliteStore
from reactstate.mvcc.container import MVCCContainer
from reactstate.state.state import State


class Account(State):
    id: str
    balance: int = 0

    def check_transition(self, previous: Account) -> None:
        if self.balance == -13:
            raise TransitionError("no account may have -13")


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
        if seconds > 5:  # the end of a transaction, which these tests reach by other means
            await asyncio.Event().wait()
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class TroubledStore(MemoryStore):
    """A store whose next commits go as they are told: ``"lost"``, ``"unsent"``, ``"down"``, a function, or None.

    lost: applied, and the reply lost. unsent: not applied, and the reply lost. down: refused. A function is awaited
    before the commit. ``after`` is awaited after a commit whose reply is lost.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.plan: deque[Any] = deque()
        self.after: Any = None
        self.commits = 0
        self.down = 0

    async def commit(self, steps, *, ranges=()):
        self.commits += 1
        what = self.plan.popleft() if self.plan else None
        if what is None:
            return await super().commit(steps, ranges=ranges)
        if what == "down":
            raise UnavailableError("refused")
        if what in {"lost", "unsent"}:
            if what == "lost":
                await super().commit(steps, ranges=ranges)
            if self.after is not None:
                after, self.after = self.after, None
                await after()
            raise UnknownOutcomeError("no answer")
        await what()
        return await super().commit(steps, ranges=ranges)

    def _refuse(self) -> None:
        if self.down:
            self.down -= 1
            raise UnavailableError("refused")

    def snapshot(self):
        self._refuse()
        return super().snapshot()

    async def get(self, key):
        self._refuse()
        return await super().get(key)


class PlainStore(TroubledStore):
    """An engine that cannot read at one moment."""

    capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS, Capability.TOTAL_ORDER}


class PlainerStore(TroubledStore):
    """An engine that can neither read at one moment nor expect that a range is as it was."""

    capabilities = PlainStore.capabilities - {Capability.RANGE_EXPECT}


class NoRangesStore(TroubledStore):
    """An engine that reads at one moment, and cannot expect that a range is as it was."""

    capabilities = MemoryStore.capabilities - {Capability.RANGE_EXPECT}


ENGINES = {"memory": TroubledStore, "plain": PlainStore, "plainer": PlainerStore, "no ranges": NoRangesStore}


@pytest.fixture
def open_store(tmp_path):
    """Open a store by the name of its engine."""

    async def opening(engine: str) -> Any:
        if engine == "sqlite":
            return await SqliteStore.open(tmp_path / "bank.db")
        if engine == "lmdb":
            return await LmdbStore.open(tmp_path / "bank.lmdb")
        return ENGINES[engine]()

    return opening


@pytest.fixture(params=["memory"])
def engine(request) -> str:
    return request.param


@pytest.fixture
async def store(engine, open_store):
    async with await open_store(engine) as opened:
        yield opened


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def bank(store, clock):
    async with MVCCContainer.open(Account, store=store, clock=clock) as opened:
        yield opened


@pytest.fixture
def account():
    return Account


@pytest.fixture
def settle():
    """Let everything that is ready run."""

    async def run() -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    return run
