"""What was found by attacking the locks: calls that are cancelled while the store is at work, and odd guards."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import LeaseLostError, UnsupportedError
from reactstate.kv.memory import MemoryStore
from reactstate.locks.guard import check_guard
from reactstate.locks.manager import Locks


class Unhurried(MemoryStore):
    """A store that applies a commit when ``gate`` is set, also when its caller no longer waits, as a thread would."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.gate = asyncio.Event()
        self.gate.set()
        self.commits: list[asyncio.Task] = []

    async def commit(self, steps, *, ranges=()):
        task = asyncio.ensure_future(self._commit_later(tuple(steps), tuple(ranges)))
        self.commits.append(task)
        return await asyncio.shield(task)

    async def _commit_later(self, steps, ranges):
        await self.gate.wait()
        return await super().commit(steps, ranges=ranges)

    async def settle(self):
        self.gate.set()
        await asyncio.gather(*self.commits, return_exceptions=True)


@pytest.fixture
async def unhurried(clock):
    async with Unhurried(clock=clock) as store:
        yield store


async def test_a_lock_whose_release_was_cancelled_is_held_by_nobody_or_another_and_its_guard_says_so(
    unhurried, clock, turns
):
    guard = await Locks(unhurried, clock=clock).acquire("stock", 5)
    unhurried.gate.clear()
    release = asyncio.ensure_future(guard.release())
    await turns()
    release.cancel()
    with pytest.raises(asyncio.CancelledError):
        await release
    assert not await guard.is_held()  # although the store has not carried the release out yet
    assert guard.lost.is_set()
    with pytest.raises(LeaseLostError):
        guard.expectations()
    await unhurried.settle()
    other = await Locks(unhurried, clock=clock).try_acquire("stock", 5)
    assert other is not None
    with pytest.raises(LeaseLostError):
        await guard.release()
    assert await other.is_held()


@pytest.mark.parametrize("after", range(12))
async def test_a_waiter_that_is_cancelled_while_it_queues_up_leaves_no_sign(unhurried, clock, turns, after):
    first, second = Locks(unhurried, clock=clock), Locks(unhurried, clock=clock)
    held = await first.acquire("stock", 5)
    waiting = asyncio.ensure_future(second.acquire("stock", 5))
    for _ in range(after):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await held.release()
    await unhurried.settle()
    await turns()
    assert [entry.key async for entry in unhurried.scan("~locks/")] == []
    await (await first.acquire("stock", 5, timeout=0)).release()


async def test_the_sign_stays_for_others_when_a_waiter_leaves(unhurried, clock, turns):
    first, second, third = (Locks(unhurried, clock=clock) for _ in range(3))
    held = await first.acquire("stock", 5)
    patient = asyncio.ensure_future(second.acquire("stock", 5))
    await turns()
    hasty = asyncio.ensure_future(third.acquire("stock", 5))
    for _ in range(4):
        await asyncio.sleep(0)
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    assert await unhurried.get("~locks/default/stock/queued") is not None
    await held.release()
    assert (await patient).token > held.token


async def test_what_is_no_guard_is_refused_before_anything_is_written(store):
    with pytest.raises(TypeError):
        check_guard("stock", store)  # type: ignore[arg-type]


async def test_a_guard_of_ones_own_is_taken_if_it_is_of_this_store_or_does_not_say(store):
    class Own:
        def expectations(self):
            return ()

    guard = Own()
    check_guard(guard, store)
    guard.store = store
    check_guard(guard, store)
    async with MemoryStore() as other:
        guard.store = other
        with pytest.raises(UnsupportedError):
            check_guard(guard, store)
