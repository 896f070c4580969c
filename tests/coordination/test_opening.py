from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from contextlib import suppress

import pytest

from reactstate.clock import ManualClock
from reactstate.coordination.store import CoordinationStore
from reactstate.errors import (
    ClosedError,
    InvalidKeyError,
    LockTimeoutError,
    SettingsError,
    UnsupportedError,
    WrongContextError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability


async def test_it_is_opened_by_url_by_store_or_in_memory(tmp_path, key):
    url = f"sqlite:{tmp_path}/store"
    opened = await CoordinationStore.open(url)
    await opened.set(key(), "a")
    await opened.aclose()
    async with CoordinationStore.open(url) as opened:
        assert (await opened.get(key())).value == "a"
    async with MemoryStore() as store:
        async with CoordinationStore.open(store=store) as opened:
            await opened.set(key(), "b")
        assert await store.list_keys()
    async with CoordinationStore.open() as opened:
        assert await opened.get(key()) is None


async def test_its_clock_is_that_of_its_store_unless_another_is_given(key):
    clock = ManualClock()
    async with MemoryStore(clock=clock) as store:
        async with CoordinationStore.open(store=store) as opened:
            await opened.index_timeout(key(), clock.time_ns() // 1_000_000 + 1000)
            assert await opened.get_expired_timeouts() == []
            clock.advance(1)
            assert await opened.get_expired_timeouts() == [key()]
        async with CoordinationStore.open(store=store, clock=ManualClock()) as opened:
            assert await opened.get_expired_timeouts() == []
    async with CoordinationStore.open("memory:", clock=clock) as opened:
        await opened.check_and_set(key(), ttl=1)
        clock.advance(1)
        assert await opened.check_and_set(key())


async def test_wrong_arguments_are_refused():
    async with MemoryStore() as store:
        for arguments, error in (
            ({"url": 5}, SettingsError),
            ({"url": "memory:", "store": store}, SettingsError),
            ({"store": "memory:"}, SettingsError),
            ({"deadline": 0}, SettingsError),
            ({"deadline": True}, SettingsError),
            ({"dedup": "loose"}, SettingsError),
            ({"namespace": ""}, InvalidKeyError),
            ({"namespace": None}, InvalidKeyError),
            ({"url": "nonsense:x"}, (SettingsError, UnsupportedError)),
        ):
            with pytest.raises(error):
                await CoordinationStore.open(**arguments)
    with pytest.raises(TypeError, match="open"):
        CoordinationStore()


async def test_a_store_that_was_opened_for_nothing_is_closed(monkeypatch):
    opened = []

    class Bare(MemoryStore):
        capabilities = frozenset({Capability.CAS})

        def __init__(self, **arguments):
            super().__init__(**arguments)
            opened.append(self)

    monkeypatch.setattr("reactstate.kv.memory.MemoryStore", Bare)
    with pytest.raises(UnsupportedError, match="TRANSACTIONS"):
        await CoordinationStore.open()
    with pytest.raises(ClosedError):
        await opened[0].get("key")


async def test_locks_are_handed_through(here, there):
    guard = await here.try_acquire("stock", 30)
    assert guard.name == "stock"
    assert await there.try_acquire("stock", 30) is None
    with pytest.raises(LockTimeoutError):
        await there.acquire("stock", 30, 0)
    await guard.release()
    async with there.lock("stock", 30, renew=False, timeout=0) as other:
        assert other.token > guard.token
        assert await here.locks.try_acquire("stock", 30) is None
    assert await here.acquire("stock", 30)


async def test_locks_are_refused_where_there_are_none(key):
    class Unlocked(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.LOCKS}

    async with Unlocked() as store, CoordinationStore.open(store=store) as opened:
        assert await opened.check_and_set(key())
        with pytest.raises(UnsupportedError, match="LOCKS"):
            await opened.try_acquire("stock", 1)
        with pytest.raises(UnsupportedError):
            opened.lock("stock", 1)


async def test_another_loop_or_thread_is_told_so(memory, key):
    opened = await CoordinationStore.open(store=memory)
    told = []

    def elsewhere():
        for call in (
            lambda: opened.get(key()),
            lambda: opened.check_and_set(key()),
            lambda: opened.set(key(), "a"),
            lambda: opened.try_acquire("lock", 1),
            lambda: opened.get_expired_timeouts(),
        ):

            async def run(call=call):
                await call()

            with suppress(WrongContextError):
                asyncio.run(run())
                told.append(call)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not told
    await opened.aclose()


def test_another_loop_of_the_same_thread_is_told_before_it_writes(key):
    opened = None

    async def first():
        nonlocal opened
        opened = await CoordinationStore.open()

    async def second():
        with pytest.raises(WrongContextError):
            await opened.check_and_set(key())
        with pytest.raises(WrongContextError):
            await opened.increment(key())

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_forked_child_is_told_so(memory, key):
    opened = await CoordinationStore.open(store=memory)

    async def ask():
        await opened.check_and_set(key())

    def child():
        code = 1
        try:
            asyncio.run(ask())
        except WrongContextError:
            code = 0
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    await opened.aclose()


async def test_a_second_close_does_nothing_and_a_closed_one_refuses(here, key):
    await here.aclose()
    await here.aclose()
    for call in (
        lambda: here.set(key(), "a"),
        lambda: here.increment(key()),
        lambda: here.get_expired_timeouts(),
        lambda: here.claim_expired_timeouts(1, 1),
        lambda: here.add_to_group(key(), "ada"),
        lambda: here.try_acquire("lock", 1),
    ):
        with pytest.raises(ClosedError):
            await call()
    with pytest.raises(ClosedError):
        here.lock("lock", 1)
    with pytest.raises(ClosedError):
        here.subscribe()
