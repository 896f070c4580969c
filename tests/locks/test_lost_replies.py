"""The store fails, or drops the reply, at every commit of every call: the lock ends held or free, and never in both."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from reactstate.errors import ConflictError, LeaseLostError, ReactStateError, UnavailableError, UnknownOutcomeError
from reactstate.kv.protocol import Put, Step
from reactstate.locks.manager import Locks
from reactstate.testing.stores import FaultyStore

FAULTS = ["fail", "drop", "late"]


class LateStore(FaultyStore):
    """A store whose commits may also arrive after their reply was given up."""

    late = 0
    arriving = ()
    overtaken = False

    async def commit(self, steps, *, ranges=()):
        if self.overtaken and self.arriving:
            await self.arrive()
        if not self.late:
            return await super().commit(steps, ranges=ranges)
        self.late -= 1
        self.arriving = (*self.arriving, steps)
        raise UnknownOutcomeError("no answer")

    async def arrive(self):
        for steps in self.arriving:
            try:
                await self.store.commit(steps)
            except ConflictError:
                continue
        self.arriving = ()


@pytest.fixture
def troubled(store, clock):
    return LateStore(store, clock=clock)


@pytest.fixture
async def locks(troubled, clock):
    """Locks on a clock that moves on whenever somebody sleeps."""

    async def move_on():
        while True:
            await asyncio.sleep(0)
            if clock._sleepers:
                clock.advance(0.005)

    moving = asyncio.create_task(move_on())
    yield Locks(troubled, clock=clock, deadline=5)
    moving.cancel()


def strike(store, fault, calls=1):
    if fault == "fail":
        store.fail(calls, on="commit")
    elif fault == "drop":
        store.drop_reply(calls)
    else:
        store.late = calls


async def owner_of(store):
    """Return the owner that the store names, whichever of the lease's entries are there."""
    found = [entry.value.partition(b"/")[0] async for entry in store.scan("~locks/default/stock/lease")]
    assert len(set(found)) <= 1
    return found[0] if found else None


async def check(store, guard):
    """A guard that says that it holds the lock does: the store names it, and lets its commits pass."""
    held = await guard.is_held()
    assert held == (await owner_of(store) == guard._value)
    if held:
        await store.commit([Step("fenced", Put(b"mine")), *guard.expectations()])
    return held


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("how", ["try_acquire", "acquire"])
async def test_a_lost_reply_to_acquiring_ends_in_a_held_lock(troubled, store, locks, fault, how):
    strike(troubled, fault, 3)
    guard = await getattr(locks, how)("stock", 60)
    assert await check(store, guard)
    await troubled.arrive()
    assert await check(store, guard)
    await guard.release()
    await troubled.arrive()
    assert await owner_of(store) is None


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_lost_reply_to_trying_for_a_held_lock_ends_in_none(troubled, store, locks, fault):
    holder = await locks.try_acquire("stock", 60)
    strike(troubled, fault)
    assert await locks.try_acquire("stock", 60) is None
    await troubled.arrive()
    assert await check(store, holder)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [0, 1, 2, 5])
async def test_a_lost_reply_to_extending_ends_in_an_extended_lease(troubled, store, clock, locks, fault, before):
    guard = await locks.try_acquire("stock", 60)
    for _ in range(before):
        await guard.extend(60)
    strike(troubled, fault, 2)
    await guard.extend(100)
    await troubled.arrive()
    assert await check(store, guard)
    clock.advance(70)
    assert await check(store, guard)
    for _ in range(4):
        await guard.extend(60)
        assert await check(store, guard)
    await guard.release()
    assert await owner_of(store) is None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("extended", [0, 1, 4])
async def test_a_lost_reply_to_releasing_ends_in_a_free_lock(troubled, store, locks, fault, extended):
    guard = await locks.try_acquire("stock", 60)
    for _ in range(extended):
        await guard.extend(60)
    strike(troubled, fault, 2)
    await guard.release()
    assert not await check(store, guard)
    assert not guard.lost.is_set()
    other = await locks.try_acquire("stock", 60)
    await troubled.arrive()
    assert await check(store, other)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", range(6))
async def test_a_fault_at_any_commit_of_waiting_costs_neither_the_lock_nor_a_place(troubled, store, locks, fault, call):
    holder = await Locks(store, clock=locks.clock).try_acquire("stock", 60)
    waiting = [asyncio.create_task(locks.acquire("stock", 60)) for _ in range(2)]
    for step in range(6):
        if step == call:
            strike(troubled, fault)
        for _ in range(5):
            await asyncio.sleep(0)
    await holder.release()
    for _ in range(2):
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (task,) = done
        waiting.remove(task)
        guard = task.result()
        assert await check(store, guard)
        if waiting:
            assert not waiting[0].done()
        await guard.release()
    await troubled.arrive()
    if fault == "late":  # a commit that arrives when nobody waits for its reply may take the lock for its TTL
        locks.clock.advance(60)
    assert await owner_of(store) is None
    assert await asyncio.create_task(locks.acquire("stock", 60))


@pytest.mark.parametrize("fault", ["drop", "late"])
@pytest.mark.parametrize("call", ["acquire", "extend", "release"])
async def test_an_outcome_that_stays_unknown_leaves_no_holder_and_a_lock_that_lapses(
    troubled, store, locks, clock, fault, call
):
    guard = None if call == "acquire" else await locks.try_acquire("stock", 60)
    strike(troubled, fault)
    troubled.fail(probability=1.0, on="get")
    with pytest.raises(UnknownOutcomeError):
        await {
            "acquire": lambda: locks.try_acquire("stock", 60),
            "extend": lambda: guard.extend(60),
            "release": lambda: guard.release(),
        }[call]()
    troubled.heal()
    if guard is not None:
        assert guard.lost.is_set()
        assert not await guard.is_held()
        with pytest.raises(LeaseLostError):
            guard.expectations()
    await troubled.arrive()
    clock.advance(60)
    other = await locks.try_acquire("stock", 60)
    assert await check(store, other)


@pytest.mark.parametrize("call", ["acquire", "wait", "extend", "release"])
async def test_a_store_out_of_reach_until_the_deadline_has_changed_nothing(troubled, store, locks, call):
    guard = await locks.try_acquire("stock", 60)
    troubled.fail(probability=1.0)
    with pytest.raises(UnavailableError):
        await {
            "acquire": lambda: locks.try_acquire("other", 60),
            "wait": lambda: asyncio.create_task(locks.acquire("stock", 60)),
            "extend": lambda: guard.extend(60),
            "release": guard.release,
        }[call]()
    troubled.heal()
    assert not guard.lost.is_set()
    assert await check(store, guard)
    await guard.release()


async def test_a_store_out_of_reach_until_the_lease_ends_loses_the_lock(troubled, locks):
    guard = await locks.try_acquire("stock", 2)
    troubled.fail(probability=1.0)
    with pytest.raises(UnavailableError):  # the last try comes before the end
        await guard.extend(60)
    await locks.clock.sleep(2)
    with pytest.raises(LeaseLostError):
        await guard.extend(60)


async def test_a_lease_that_ran_out_during_the_search_for_its_outcome_is_lost(troubled, store, locks, clock):
    guard = await locks.try_acquire("stock", 60)
    troubled.drop_reply(1)

    async def get(key):
        clock.advance(60)
        raise UnavailableError("away")

    troubled.get = get
    with pytest.raises(UnknownOutcomeError):
        await guard.extend(1)
    assert guard.lost.is_set()


async def test_a_lease_is_measured_from_the_first_commit_that_may_have_been_applied(troubled, locks, clock):
    troubled.drop_reply(1)
    troubled.fail(4, on="get")
    began = clock.monotonic()
    guard = await locks.try_acquire("stock", 60)
    assert clock.monotonic() > began
    clock.advance(60 - (clock.monotonic() - began))
    assert guard.lost.is_set()


async def test_a_lease_is_measured_anew_after_commits_that_were_not_applied(troubled, store, locks, clock):
    troubled.fail(6, on="commit")
    guard = await locks.try_acquire("stock", 60)
    assert clock.monotonic() > 0
    left = guard._span[0] - clock.monotonic()
    clock.advance(left - 0.002)
    assert await guard.is_held()


async def test_a_lease_that_lapses_while_an_extension_is_under_way_is_lost_for_good(troubled, store, locks, clock):
    guard = await locks.try_acquire("stock", 60)
    commit = troubled.commit

    async def late(steps, *, ranges=()):
        done = await commit(steps)
        clock.advance(60)
        assert guard.lost.is_set()
        return done

    troubled.commit = late
    with pytest.raises(LeaseLostError):
        await guard.extend(100)
    del troubled.commit
    assert not await guard.is_held()
    with pytest.raises(LeaseLostError):
        await guard.release()
    assert await locks.try_acquire("stock", 60)


async def test_an_extension_that_arrives_just_before_its_repetition_counts(troubled, store, locks):
    guard = await locks.try_acquire("stock", 60)
    for _ in range(5):
        troubled.overtaken = True
        strike(troubled, "late")
        await guard.extend(60)
        assert await check(store, guard)
    await guard.release()
    assert await owner_of(store) is None


async def test_an_extension_that_was_cancelled_leaves_the_lock_to_its_holder(troubled, store, locks, clock):
    guard = await locks.try_acquire("stock", 60)
    commit = troubled.commit
    for _ in range(6):

        async def applied_and_cancelled(steps, *, ranges=()):
            await commit(steps)
            raise asyncio.CancelledError

        troubled.commit = applied_and_cancelled
        with pytest.raises(asyncio.CancelledError):
            await guard.extend(60)
        del troubled.commit
        assert await check(store, guard)
        await guard.extend(60)
        assert await check(store, guard)
    await guard.release()
    assert await owner_of(store) is None


async def test_an_acquisition_cancelled_after_its_commit_is_taken_back(troubled, store, locks):
    commit = troubled.commit

    async def applied_and_cancelled(steps, *, ranges=()):
        del troubled.commit
        await commit(steps)
        raise asyncio.CancelledError

    troubled.commit = applied_and_cancelled
    with pytest.raises(asyncio.CancelledError):
        await locks.try_acquire("stock", 60)
    assert await owner_of(store) is None


async def test_any_mix_of_faults_leaves_one_holder_at_most(store, clock):
    troubled = FaultyStore(store, clock=clock, seed=11)
    several = [Locks(troubled, clock=clock, deadline=3) for _ in range(4)]
    holders = []
    entered = itertools.count()

    async def move_on():
        while True:
            await asyncio.sleep(0)
            if clock._sleepers:
                clock.advance(0.01)

    async def work(locks):
        for _ in range(25):
            try:
                async with locks.lock("stock", 2, timeout=30) as guard:
                    next(entered)
                    for _ in range(3):
                        if await guard.is_held():
                            holders.append(guard.token)
                            expected = guard.expectations()
                            await troubled.store.commit([Step("fenced", Put(b"%d" % guard.token)), *expected])
                        await clock.sleep(0.3)
            except ReactStateError:
                continue

    moving = asyncio.create_task(move_on())
    troubled.fail(probability=0.1)
    troubled.drop_reply(probability=0.1)
    troubled.delay(0.05, probability=0.1)
    await asyncio.gather(*map(work, several))
    moving.cancel()
    assert holders == sorted(holders)
    assert next(entered) > 50
