from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import (
    LeaseLostError,
    LockTimeoutError,
    UnavailableError,
    UnknownOutcomeError,
    WrongContextError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.locks.manager import Locks


@pytest.fixture
def take_away(store):
    """Takes a lock from its holder, behind its back."""

    async def run(name="stock"):
        for number in range(3):
            await store.delete(f"~locks/default/{name}/lease{number}")

    return run


async def test_the_lock_is_held_in_the_block_and_free_after_it(locks, kept):
    async with locks.lock("stock", 10) as guard:
        assert await guard.is_held()
        assert await locks.try_acquire("stock", 10) is None
    assert await kept() == []
    assert not guard.lost.is_set()


async def test_the_lease_is_renewed_for_as_long_as_the_block_runs(locks, pass_time, kept):
    async with locks.lock("stock", 3) as guard:
        token = guard.token
        await pass_time(30)
        assert await guard.is_held()
        assert guard.token == token
        assert await locks.try_acquire("stock", 3) is None
    assert await kept() == []


async def test_without_renewal_the_lease_runs_out_and_ends_the_block(locks, clock, turns):
    steps = []

    async def work():
        async with locks.lock("stock", 3, renew=False) as guard:
            steps.append(guard)
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await turns()
    clock.advance(2)
    await steps[0].extend(3)  # by hand
    await turns()
    clock.advance(2)
    await turns()
    assert not task.done()
    clock.advance(1)
    with pytest.raises(LeaseLostError):
        await task
    assert steps[0].lost.is_set()
    assert not task.cancelled()


@pytest.mark.parametrize("renew", [True, False])
async def test_a_lease_that_runs_out_before_another_task_had_a_turn_ends_the_block(locks, clock, renew):
    with pytest.raises(LeaseLostError):
        async with locks.lock("stock", 3, renew=renew), asyncio.timeout(5):
            clock.advance(4)
            await asyncio.sleep(60)


async def test_a_lost_lock_cancels_the_block_which_ends_with_the_loss(locks, take_away, clock, turns):
    seen = []

    async def work():
        async with locks.lock("stock", 3) as guard:
            try:
                await asyncio.sleep(60)
            finally:
                seen.append(guard.lost.is_set())

    task = asyncio.create_task(work())
    await turns()
    await take_away()
    clock.advance(1)
    with pytest.raises(LeaseLostError) as caught:
        await task
    assert seen == [True]
    assert caught.value.__cause__ is not None
    assert task.cancelling() == 0


async def test_a_block_that_swallows_the_cancellation_ends_with_the_loss_all_the_same(locks, take_away, clock, turns):
    after = []

    async def work():
        async with locks.lock("stock", 3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
        after.append("unreached")

    task = asyncio.create_task(work())
    await turns()
    await take_away()
    clock.advance(1)
    with pytest.raises(LeaseLostError):
        await task
    assert after == []
    assert task.cancelling() == 0


async def test_after_the_loss_the_task_goes_on_without_a_cancellation(locks, take_away, clock, turns):
    async def work():
        try:
            async with locks.lock("stock", 3):
                await asyncio.sleep(60)
        except LeaseLostError:
            await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
            return "went on"

    task = asyncio.create_task(work())
    await turns()
    await take_away()
    clock.advance(1)
    assert await task == "went on"


async def test_a_block_that_finds_out_by_itself_gets_the_error_and_no_cancellation(locks, take_away):
    async with locks.lock("other", 3):
        with pytest.raises(LeaseLostError):
            async with locks.lock("stock", 3) as guard:
                await take_away()
                await guard.extend(3)
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_a_cancellation_from_outside_stays_one_and_the_lock_is_released(locks, turns, kept):
    async def work():
        async with locks.lock("stock", 10):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await turns()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert await kept() == []


@pytest.mark.parametrize("first", ["loss", "outside"])
async def test_a_cancellation_from_outside_beside_the_loss_stays_one(locks, take_away, clock, turns, first):
    guards = []

    async def work():
        async with locks.lock("stock", 3) as guard:
            guards.append(guard)
            try:
                await asyncio.sleep(60)
            finally:
                await turns(5)

    task = asyncio.create_task(work())
    await turns()
    await take_away()
    if first == "outside":
        task.cancel()
        await turns(1)
    assert not await guards[0].is_held()
    if first == "loss":
        await turns(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_goes_before_the_loss_which_is_noted(locks, take_away, clock, turns):
    async def work():
        async with locks.lock("stock", 3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise KeyError("mine") from None

    task = asyncio.create_task(work())
    await turns()
    await take_away()
    clock.advance(1)
    with pytest.raises(KeyError) as caught:
        await task
    assert "lease" in caught.value.__notes__[0]

    with pytest.raises(KeyError) as caught:
        async with locks.lock("stock", 3):
            raise KeyError("mine")
    assert not hasattr(caught.value, "__notes__")


async def test_a_block_may_release_its_lock_itself(locks):
    async with locks.lock("stock", 3) as guard:
        await guard.release()
        other = await locks.try_acquire("stock", 3)
    assert await other.is_held()


async def test_a_block_waits_for_its_lock_no_longer_than_the_timeout(locks, clock, turns):
    holder = await locks.try_acquire("stock", 60)

    async def work():
        async with locks.lock("stock", 3, timeout=2):
            pass

    task = asyncio.create_task(work())
    await turns()
    clock.advance(2)
    with pytest.raises(LockTimeoutError):
        await task
    await holder.release()
    await asyncio.create_task(work())


async def test_a_block_is_entered_once_and_by_async_with(locks):
    holding = locks.lock("stock", 3)
    with pytest.raises(WrongContextError, match="async with"):
        await holding.__aexit__(None, None, None)
    async with holding:
        pass
    with pytest.raises(WrongContextError, match="again"):
        await holding.__aenter__()


# --- a store in trouble -------------------------------------------------------------------------------------------


async def test_renewal_survives_a_store_that_is_away_for_less_than_the_lease(faulty, clock, pass_time):
    locks = Locks(faulty, clock=clock, deadline=0.2)
    async with locks.lock("stock", 6) as guard:
        faulty.fail(probability=1.0, on="commit")
        await pass_time(4)
        faulty.heal()
        await pass_time(20)
        assert await guard.is_held()


async def test_a_store_that_stays_away_ends_the_lease_and_the_block(faulty, clock, pass_time):
    locks = Locks(faulty, clock=clock, deadline=30)

    async def work():
        async with locks.lock("stock", 6):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await pass_time(1)
    faulty.fail(probability=1.0)
    await pass_time(4.5)
    assert not task.done()
    await pass_time(1)
    with pytest.raises(LeaseLostError):
        await task


async def test_a_renewal_whose_outcome_stays_unknown_ends_the_block(faulty, clock, pass_time):
    locks = Locks(faulty, clock=clock, deadline=30)

    async def work():
        async with locks.lock("stock", 6):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await pass_time(1)
    faulty.drop_reply(probability=1.0)
    faulty.fail(probability=1.0, on="get")
    await pass_time(6)
    with pytest.raises(LeaseLostError) as caught:
        await task
    assert isinstance(caught.value.__cause__, UnknownOutcomeError)


async def test_a_lock_that_cannot_be_released_is_told_at_the_end_of_the_block(faulty, clock, pass_time):
    locks = Locks(faulty, clock=clock, deadline=1)

    async def work(error=None):
        async with locks.lock("stock", 6):
            faulty.fail(probability=1.0)
            if error is not None:
                raise error

    task = asyncio.create_task(work())
    await pass_time(2)
    with pytest.raises(UnavailableError):
        await task
    faulty.heal()
    clock.advance(6)
    task = asyncio.create_task(work(KeyError("mine")))
    await pass_time(2)
    with pytest.raises(KeyError) as caught:
        await task
    assert caught.value.__notes__


async def test_a_release_that_is_cancelled_is_completed(faulty, store, clock, turns, kept):
    locks = Locks(faulty, clock=clock)

    async def work():
        async with locks.lock("stock", 6):
            faulty.delay(1, 1)

    task = asyncio.create_task(work())
    await turns()
    assert await kept() == ["lease0"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await kept() == []


async def test_on_the_systems_clock_a_lease_is_renewed_and_its_loss_ends_the_block(turns):
    async with MemoryStore() as store:
        locks = Locks(store)
        holding = locks.lock("stock", 60)
        async with holding as guard:
            assert 15 < holding._timer.when() - asyncio.get_running_loop().time() <= 20
            first = guard.expectations()
            await asyncio.sleep(0.002)  # leases are measured in milliseconds
            holding._start(guard)  # as the timer will
            await turns()
            assert guard.expectations() != first
        with pytest.raises(LeaseLostError):
            async with locks.lock("stock", 0.003, renew=False):
                await asyncio.sleep(60)
        async with locks.lock("stock", 60):
            pass
        assert await store.list_keys() == []
