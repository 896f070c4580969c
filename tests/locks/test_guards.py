from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import ConflictError, LeaseLostError, StorageError, UnsupportedError
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import ABSENT, Capability, Put, Step
from reactstate.kv.sqlite import SqliteStore
from reactstate.kv.transaction import StoreTransaction
from reactstate.locks.guard import check_guard
from reactstate.locks.manager import Locks
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


async def write(store, value, expected):
    await store.commit([Step("fenced", Put(value)), *expected])


async def test_the_holder_writes_and_the_store_expects_its_lease(store, locks):
    guard = await locks.try_acquire("stock", 10)
    assert [(step.key, step.op, step.expect) for step in guard.expectations()] == [
        ("~locks/default/stock/lease0", None, guard.token)
    ]
    assert guard.expectations() is guard.expectations()
    await write(store, b"mine", guard.expectations())
    assert (await store.get("fenced")).value == b"mine"


async def test_a_holder_that_was_paused_past_its_lease_is_refused_by_itself_and_by_the_store(store, locks, clock):
    guard = await locks.try_acquire("stock", 10)
    expected = guard.expectations()
    clock.advance(10)  # paused between two lines
    with pytest.raises(ConflictError):
        await write(store, b"stale", expected)
    with pytest.raises(LeaseLostError):
        await write(store, b"stale", guard.expectations())
    assert await store.get("fenced") is None


async def test_a_stale_holder_is_refused_whatever_the_next_holder_does(store, locks, clock):
    stale = await locks.try_acquire("stock", 10)
    taken = [stale.expectations()]
    for _ in range(4):
        clock.advance(3)
        await stale.extend(10)
        taken.append(stale.expectations())
    clock.advance(10)
    holder = await locks.try_acquire("stock", 10)
    for _ in range(7):
        for expected in taken:
            with pytest.raises(ConflictError):
                await write(store, b"stale", expected)
        clock.advance(3)
        await holder.extend(10)
        await write(store, b"mine", holder.expectations())
    await holder.release()
    for expected in [*taken, [Step("~locks/default/stock/lease0", None, holder.token)]]:
        with pytest.raises(ConflictError):
            await write(store, b"stale", expected)


async def test_a_released_guard_lets_no_commit_pass(store, locks):
    guard = await locks.try_acquire("stock", 10)
    taken = [guard.expectations()]
    await guard.extend(10)
    taken.append(guard.expectations())
    await guard.release()
    for expected in taken:
        with pytest.raises(ConflictError):
            await write(store, b"stale", expected)


async def test_a_commit_in_flight_is_not_refused_because_the_lease_is_renewed(store, locks, clock):
    guard = await locks.try_acquire("stock", 9)
    in_flight = []
    for second in range(60):
        in_flight.append((second + 9 - second % 3, guard.expectations()))
        while in_flight and in_flight[0][0] <= second + 1:  # under a lease that ends now: as late as can be
            _, expected = in_flight.pop(0)
            await write(store, b"%d" % second, expected)
        for _, expected in in_flight:
            await write(store, b"%d" % second, expected)
        clock.advance(1)
        if second % 3 == 2:
            await guard.extend(9)


async def test_what_was_expected_before_an_extension_holds_after_it(store, locks):
    guard = await locks.try_acquire("stock", 10)
    before = guard.expectations()
    await guard.extend(10)
    between = guard.expectations()
    await guard.extend(10)
    for expected in (before, between, guard.expectations()):
        await write(store, b"mine", expected)


async def test_commits_race_with_renewals_and_none_is_refused(store, clock, turns):
    locks = Locks(store, clock=clock)
    guard = await locks.try_acquire("stock", 3)

    async def work():
        for number in range(200):
            expected = guard.expectations()
            await turns(number % 7)
            await write(store, b"%d" % number, expected)

    async def renew():
        while True:
            clock.advance(1)
            await guard.extend(3)
            await turns(9)

    renewing = asyncio.create_task(renew())
    await asyncio.gather(work(), work())
    renewing.cancel()


async def test_a_keyed_update_and_a_transaction_under_a_lost_lock_are_refused(store, locks, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as carts:
        guard = await locks.try_acquire("carts", 10)
        await carts.put(Cart(id="a"), guard=guard)
        await guard.extend(10)
        await carts.put(Cart(id="a", count=1), guard=guard)
        await store.delete("~locks/default/carts/lease0")
        await store.delete("~locks/default/carts/lease1")
        with pytest.raises(LeaseLostError):  # it does not know
            await carts.put(Cart(id="a", count=2), guard=guard)
        clock.advance(10)
        with pytest.raises(LeaseLostError):  # it does
            await carts.put(Cart(id="a", count=2), guard=guard)
        assert (await carts.get("a")).count == 1
    tx = StoreTransaction(store)
    tx.put("fenced", b"stale")
    with pytest.raises(LeaseLostError):
        await tx.commit(guard.expectations())


async def test_an_engine_that_may_forget_what_it_acknowledged_fences_nothing(store, locks, monkeypatch):
    monkeypatch.setattr(store, "capabilities", store.capabilities - {Capability.FENCING})
    guard = await locks.try_acquire("stock", 10)
    with pytest.raises(UnsupportedError) as caught:
        guard.expectations()
    assert (caught.value.layer, caught.value.capability) == ("guard", "FENCING")
    with pytest.raises(UnsupportedError):
        check_guard(guard, store)


async def test_a_lock_of_another_store_is_refused(store, locks):
    guard = await locks.try_acquire("stock", 10)
    check_guard(guard, store)
    async with MemoryStore() as other:
        with pytest.raises(UnsupportedError, match="keep both in one store") as caught:
            check_guard(guard, other)
    assert caught.value.layer == "guard"


async def test_one_file_opened_twice_is_one_store(tmp_path):
    async with SqliteStore.open(tmp_path / "a.db") as home, SqliteStore.open(tmp_path / "a.db") as same:
        guard = await Locks(home).try_acquire("stock", 10)
        check_guard(guard, same)
        await write(same, b"mine", guard.expectations())
        async with SqliteStore.open(tmp_path / "b.db") as other:
            with pytest.raises(UnsupportedError):
                check_guard(guard, other)


class Preference:
    def expectations(self):
        return [Step("closed", None, ABSENT)]


async def test_a_guard_of_another_kind_is_left_to_its_store(store):
    check_guard(Preference(), store)


async def test_is_held_follows_an_extension_that_is_made_meanwhile(store, locks, monkeypatch):
    guard = await locks.try_acquire("stock", 10)
    read = store.get

    async def get(key):
        monkeypatch.setattr(store, "get", read)
        await guard.extend(10)
        await store.delete(key)
        return await read(key)

    monkeypatch.setattr(store, "get", get)
    assert await guard.is_held()


async def test_errors_of_the_storage_reach_the_caller(store, locks, monkeypatch):
    guard = await locks.try_acquire("stock", 10)

    async def commit(steps, *, ranges=()):
        raise StorageError("the disk is gone")

    monkeypatch.setattr(store, "commit", commit)
    for call in (lambda: locks.try_acquire("other", 1), lambda: guard.extend(10), guard.release):
        with pytest.raises(StorageError):
            await call()
    assert not guard.lost.is_set()
