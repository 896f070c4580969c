"""What the tests of locks share: a clock that is moved by hand, stores that go by it, and locks over them."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.kv.memory import MemoryStore
from reactstate.locks.manager import Locks
from reactstate.testing.stores import FaultyStore
from reactstate.testing.suite import SuiteClock


@pytest.fixture
def clock():
    return SuiteClock()


@pytest.fixture
async def store(clock):
    async with MemoryStore(clock=clock) as store:
        yield store


@pytest.fixture
def locks(store, clock):
    return Locks(store, clock=clock)


@pytest.fixture
def faulty(store, clock):
    return FaultyStore(store, clock=clock)


@pytest.fixture
def turns():
    """Lets other tasks run for so many turns of the event loop."""

    async def run(count=40):
        for _ in range(count):
            await asyncio.sleep(0)

    return run


@pytest.fixture
def pass_time(clock, turns):
    """Lets time pass in small steps, in each of which other tasks run."""

    async def run(seconds, step=0.1):
        for _ in range(round(seconds / step)):
            clock.advance(step)
            await turns(15)

    return run


@pytest.fixture
def kept(store):
    """Returns what the store keeps of all locks: the last parts of its keys."""

    async def run():
        return [key.rpartition("/")[2] for key in await store.list_keys("~locks/")]

    return run
