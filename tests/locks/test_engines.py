from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Put, Step
from reactstate.kv.sqlite import SqliteStore
from reactstate.locks.manager import Locks

TASKS, EACH = 12, 8


@pytest.fixture(params=["memory", "lmdb", "sqlite", "sqlite twice"])
async def stores(request, tmp_path):
    """Two stores that are one; of SQLite also two objects over one file, as two processes have them."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            found = [await stack.enter_async_context(MemoryStore())]
        elif request.param == "lmdb":
            found = [await stack.enter_async_context(LmdbStore.open(tmp_path / "a"))]
        else:
            count = 2 if request.param == "sqlite twice" else 1
            found = [await stack.enter_async_context(SqliteStore.open(tmp_path / "a.db")) for _ in range(count)]
        yield [found[0], found[-1]]


async def test_tasks_that_contend_for_a_lock_have_it_one_at_a_time_and_lose_no_update(stores):
    several = [Locks(store) for store in stores]
    inside = 0

    async def work(locks):
        nonlocal inside
        for _ in range(EACH):
            async with locks.lock("counter", 60) as guard:
                inside += 1
                assert inside == 1
                store = locks.store
                found = await store.get("counter")
                number = 0 if found is None else int(found.value)
                await asyncio.sleep(0)
                await store.commit([Step("counter", Put(b"%d" % (number + 1))), *guard.expectations()])
                inside -= 1

    await asyncio.gather(*(work(several[number % 2]) for number in range(TASKS)))
    store = stores[0]
    assert int((await store.get("counter")).value) == TASKS * EACH
    assert await store.list_keys("~locks/") == []
