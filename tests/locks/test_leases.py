from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    InvalidKeyError,
    LeaseLostError,
    LimitExceededError,
    LockTimeoutError,
    SettingsError,
    UnsupportedError,
    WrongContextError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.locks.manager import Locks


async def test_a_lock_is_held_by_one_and_free_after_its_release(locks, kept):
    guard = await locks.try_acquire("stock", 10)
    assert guard is not None
    assert (guard.name, await guard.is_held(), guard.lost.is_set()) == ("stock", True, False)
    assert await locks.try_acquire("stock", 10) is None
    await guard.release()
    assert not await guard.is_held()
    assert not guard.lost.is_set()
    again = await locks.try_acquire("stock", 10)
    assert again is not None
    await again.release()
    assert await kept() == []


async def test_locks_of_other_names_and_namespaces_have_nothing_to_do_with_each_other(store, locks):
    others = Locks(store, namespace="other")
    assert await locks.try_acquire("a", 10)
    assert await locks.try_acquire("a/b", 10)
    assert await locks.try_acquire("a%2Fb", 10)
    assert await locks.try_acquire("ä", 10)
    assert await others.try_acquire("a", 10)
    assert await Locks(store, namespace="a/b").try_acquire("c", 10)
    assert await Locks(store, namespace="a").try_acquire("b/c", 10)


async def test_the_token_is_the_revision_of_the_acquiring_commit_and_grows(store, locks):
    tokens = []
    for _ in range(5):
        guard = await locks.try_acquire("stock", 10)
        tokens.append(guard.token)
        assert (await store.get("~locks/default/stock/lease0")).revision == guard.token
        await guard.extend(20)
        assert guard.token == tokens[-1]
        await guard.release()
    assert tokens == sorted(set(tokens))


async def test_each_owner_has_an_id_that_is_never_used_twice(store, locks):
    values = set()
    for locks_ in (locks, Locks(store), locks, Locks(store)):
        guard = await locks_.try_acquire("stock", 10)
        values.add((await store.get("~locks/default/stock/lease0")).value)
        await guard.release()
    assert len(values) == 4


# --- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [2, 2.0, timedelta(seconds=2)])
async def test_a_lease_runs_for_its_ttl_and_not_longer(locks, clock, ttl):
    guard = await locks.try_acquire("stock", ttl)
    clock.advance(1.999)
    assert await guard.is_held()
    assert not guard.lost.is_set()
    assert await locks.try_acquire("stock", 2) is None
    clock.advance(0.001)
    assert guard.lost.is_set()
    assert not await guard.is_held()
    assert await locks.try_acquire("stock", 2)


async def test_a_lease_that_ran_out_is_lost_though_nobody_took_the_lock(locks, clock):
    guard = await locks.try_acquire("stock", 2)
    clock.advance(2)
    with pytest.raises(LeaseLostError, match="ran out"):
        guard.expectations()
    with pytest.raises(LeaseLostError, match="ran out"):
        await guard.extend(2)
    with pytest.raises(LeaseLostError, match="ran out"):
        await guard.release()
    assert guard.lost.is_set()
    assert not await guard.is_held()


@pytest.mark.parametrize("length", [1, 2, 3, 7])
async def test_an_extended_lease_runs_from_the_extension_on(locks, clock, kept, length):
    guard = await locks.try_acquire("stock", 3)
    for _ in range(length):
        clock.advance(1)
        await guard.extend(3)
        assert await guard.is_held()
    clock.advance(2.999)
    assert await guard.is_held()
    assert await locks.try_acquire("stock", 3) is None
    await guard.release()
    assert await kept() == []
    assert await locks.try_acquire("stock", 3)


async def test_an_extension_never_makes_a_lease_shorter(locks, clock):
    guard = await locks.try_acquire("stock", 10)
    for _ in range(4):
        await guard.extend(1)
    clock.advance(9.999)
    assert await guard.is_held()
    assert await locks.try_acquire("stock", 3) is None
    clock.advance(0.001)
    assert await locks.try_acquire("stock", 3)


async def test_a_lock_extended_many_times_at_once_is_held_for_the_longest(locks, clock):
    guard = await locks.try_acquire("stock", 1)
    await asyncio.gather(*(guard.extend(seconds) for seconds in (3, 9, 2, 5, 4)))
    clock.advance(8.999)
    assert await guard.is_held()
    clock.advance(0.001)
    assert guard.lost.is_set()


async def test_a_clock_that_jumps_forward_ends_the_lease_for_its_holder_too(locks, clock):
    guard = await locks.try_acquire("stock", 60)
    clock.jump(timedelta(hours=1))
    assert guard.lost.is_set()
    other = await locks.try_acquire("stock", 60)
    assert other is not None
    assert not await guard.is_held()
    assert await other.is_held()


async def test_a_clock_that_jumps_back_keeps_others_out_and_ends_the_lease_for_its_holder(locks, clock):
    guard = await locks.try_acquire("stock", 60)
    clock.jump(timedelta(hours=-1))
    assert await guard.is_held()
    assert await locks.try_acquire("stock", 60) is None
    clock.advance(60)
    assert guard.lost.is_set()
    assert not await guard.is_held()
    assert await locks.try_acquire("stock", 60) is None  # the store's time does not go back
    with pytest.raises(LeaseLostError):
        await guard.release()
    assert await locks.try_acquire("stock", 60)  # what was left of the lease was removed


async def test_a_clock_that_jumps_to_and_fro_leaves_one_holder_that_the_store_confirms(store, clock):
    locks = Locks(store, clock=clock)
    first = await locks.try_acquire("stock", 60)
    clock.jump(timedelta(hours=1))
    second = await Locks(store, clock=clock).try_acquire("stock", 60)
    clock.jump(timedelta(hours=-1))
    assert [await first.is_held(), await second.is_held()] == [False, True]
    with pytest.raises(LeaseLostError):
        await first.extend(60)


async def test_a_store_that_ends_the_lease_first_is_believed(store, locks):
    guard = await locks.try_acquire("stock", 60)
    await store.delete("~locks/default/stock/lease0")
    assert not guard.lost.is_set()
    assert not await guard.is_held()
    assert guard.lost.is_set()


async def test_a_lease_of_an_engine_that_goes_by_a_servers_clock_ends_a_millisecond_early(store, clock, monkeypatch):
    monkeypatch.setattr(store, "ttl_clock", "server")
    guard = await Locks(store, clock=clock).try_acquire("stock", 2)
    clock.jump(timedelta(hours=1))
    assert not guard.lost.is_set()
    clock.advance(1.9995)
    assert guard.lost.is_set()


async def test_locks_go_by_the_clock_of_their_store():
    clock = ManualClock()
    async with MemoryStore(clock=clock) as store:
        guard = await Locks(store).try_acquire("stock", 5)
        clock.advance(5)
        assert guard.lost.is_set()


# --- who may do what ----------------------------------------------------------------------------------------------


async def test_a_former_holder_cannot_release_or_extend_and_is_told_so(locks, clock):
    former = await locks.try_acquire("stock", 2)
    clock.advance(2)
    holder = await locks.try_acquire("stock", 2)
    with pytest.raises(LeaseLostError, match=r"'stock'.*another owner"):
        await former.release()
    with pytest.raises(LeaseLostError, match=r"'stock'.*another owner"):
        await former.extend(5)
    assert await holder.is_held()
    await holder.release()


async def test_a_holder_whose_lease_is_gone_finds_out_from_the_store(store, locks):
    async def lose(guard):
        await store.delete("~locks/default/stock/lease0")
        return await locks.try_acquire("stock", 60)

    guard = await locks.try_acquire("stock", 60)
    holder = await lose(guard)
    with pytest.raises(LeaseLostError) as caught:
        await guard.extend(60)
    assert caught.value.__cause__ is not None
    assert guard.lost.is_set()
    assert await lose(holder)
    with pytest.raises(LeaseLostError):
        await holder.release()
    assert holder.lost.is_set()


async def test_a_released_guard_cannot_be_used_and_says_so(locks):
    guard = await locks.try_acquire("stock", 2)
    await guard.release()
    for use in (guard.release, lambda: guard.extend(2)):
        with pytest.raises(LeaseLostError, match="released by this guard"):
            await use()
    with pytest.raises(LeaseLostError, match="released by this guard"):
        guard.expectations()
    assert not guard.lost.is_set()


async def test_a_guard_released_while_it_is_extended_stays_released(locks, kept):
    guard = await locks.try_acquire("stock", 2)
    extending = asyncio.create_task(guard.extend(2))
    await guard.release()
    with pytest.raises(LeaseLostError, match="released"):
        await extending
    assert await kept() == []


async def test_the_task_that_holds_a_lock_is_told_at_once_that_it_does(locks):
    guard = await locks.acquire("stock", 10)
    with pytest.raises(WrongContextError, match="not reentrant"):
        await locks.acquire("stock", 10)
    with pytest.raises(WrongContextError, match="not reentrant"):
        async with locks.lock("stock", 10):
            pass
    assert await locks.try_acquire("stock", 10) is None
    with pytest.raises(LockTimeoutError):  # another task of the same program may wait for it
        await asyncio.create_task(locks.acquire("stock", 10, 0))
    await guard.release()
    await (await locks.acquire("stock", 10)).release()


async def test_a_task_whose_lease_ran_out_may_acquire_the_lock_again(locks, clock):
    await locks.acquire("stock", 10)
    clock.advance(10)
    assert await locks.acquire("stock", 10)


async def test_guards_that_nobody_released_are_let_go_of(locks, clock):
    for number in range(1500):
        assert await locks.try_acquire(f"name {number}", 1)
        clock.advance(0.01)
    assert len(locks._held) < 1200
    assert len(locks._keys) <= 1024


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "error"),
    [(0, ValueError), (-1, ValueError), (timedelta(0), ValueError), (float("nan"), ValueError), (None, TypeError)],
)
async def test_a_ttl_that_is_none_is_refused_before_anything_happens(locks, kept, ttl, error):
    for call in (locks.try_acquire, locks.acquire):
        with pytest.raises(error):
            await call("stock", ttl)
    with pytest.raises(error):
        locks.lock("stock", ttl)
    guard = await locks.try_acquire("stock", 1)
    with pytest.raises(error):
        await guard.extend(ttl)
    assert await guard.is_held()
    assert await kept() == ["lease0"]


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError),
        (float("nan"), ValueError),
        (timedelta(seconds=-1), ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
async def test_a_timeout_that_is_none_is_refused(locks, timeout, error):
    with pytest.raises(error, match="timeout"):
        await locks.acquire("stock", 1, timeout)
    with pytest.raises(error, match="timeout"):
        locks.lock("stock", 1, timeout=timeout)


@pytest.mark.parametrize("name", ["", 1, None, b"stock", ["stock"]])
async def test_a_name_that_is_none_is_refused(locks, name):
    with pytest.raises(InvalidKeyError, match="name of a lock"):
        await locks.try_acquire(name, 1)
    with pytest.raises(InvalidKeyError, match="name of a lock"):
        await locks.acquire(name, 1)
    with pytest.raises(InvalidKeyError, match="name of a lock"):
        locks.lock(name, 1)


async def test_a_name_that_no_store_can_keep_is_refused(locks):
    with pytest.raises(InvalidKeyError, match="surrogate"):
        await locks.try_acquire("\ud800", 1)
    with pytest.raises(LimitExceededError):
        await locks.try_acquire("x" * 10_000, 1)


@pytest.mark.parametrize("capability", ["CAS", "TRANSACTIONS", "TTL", "LOCKS"])
async def test_an_engine_without_what_locks_need_is_refused_at_once(store, monkeypatch, capability):
    monkeypatch.setattr(store, "capabilities", store.capabilities - {Capability(capability)})
    with pytest.raises(UnsupportedError) as caught:
        Locks(store)
    assert (caught.value.layer, caught.value.engine, caught.value.capability) == ("locks", "memory", capability)


async def test_waiting_needs_a_watch_and_trying_does_not(store, monkeypatch):
    monkeypatch.setattr(store, "capabilities", store.capabilities - {Capability.WATCH})
    locks = Locks(store)
    with pytest.raises(UnsupportedError, match="WATCH"):
        await locks.acquire("stock", 1)
    assert await locks.try_acquire("stock", 1)


async def test_locks_are_made_of_a_store_a_deadline_and_a_namespace(store):
    with pytest.raises(SettingsError, match="store"):
        Locks("sqlite:app.db")
    with pytest.raises(SettingsError, match="deadline"):
        Locks(store, deadline=0)
    with pytest.raises(InvalidKeyError, match="namespace"):
        Locks(store, namespace=3)
    assert repr(Locks(store, namespace="jobs")) == "Locks('memory:', namespace='jobs')"


async def test_a_guard_shows_its_name_token_and_state(locks, clock):
    guard = await locks.try_acquire("stock", 1)
    assert repr(guard) == f"<LockGuard 'stock' token={guard.token} held>"
    assert repr(guard.lost) == "<LostEvent unset>"
    clock.advance(1)
    assert repr(guard.lost) == "<LostEvent set>"
    assert repr(guard).endswith("lost>")
    other = await locks.try_acquire("stock", 1)
    await other.release()
    assert repr(other).endswith("released>")


# --- the event ----------------------------------------------------------------------------------------------------


async def test_lost_wakes_those_who_wait_for_it_when_the_lease_runs_out(locks, clock, turns):
    guard = await locks.try_acquire("stock", 2)
    waits = [asyncio.create_task(guard.lost.wait()), asyncio.ensure_future(guard.lost)]
    await turns()
    clock.advance(1)
    await guard.extend(2)
    await turns()
    clock.advance(1)
    await turns()
    assert not any(wait.done() for wait in waits)
    clock.advance(1)
    assert await asyncio.gather(*waits) == [True, True]
    assert await guard.lost is True


async def test_lost_wakes_those_who_wait_for_it_when_the_loss_is_noticed(store, locks, turns):
    guard = await locks.try_acquire("stock", 60)
    wait = asyncio.create_task(guard.lost.wait())
    await turns()
    await store.delete("~locks/default/stock/lease0")
    assert not await guard.is_held()
    assert await wait


async def test_lost_is_not_set_by_a_release(locks, clock, turns):
    guard = await locks.try_acquire("stock", 2)
    wait = asyncio.create_task(guard.lost.wait())
    await turns()
    await guard.release()
    clock.advance(5)
    await turns()
    assert not wait.done()
    wait.cancel()
    late = asyncio.create_task(guard.lost.wait())
    await turns()
    assert not late.done()
    late.cancel()
    await asyncio.wait([wait, late])
