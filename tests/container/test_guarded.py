"""update(guard=) and concurrency="pessimistic": locks in the store of the state."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from reactstate import (
    ContentionError,
    KeyedContainer,
    LeaseLostError,
    ManualClock,
    MVCCContainer,
    State,
    StateConfig,
    StateContainer,
    Strong,
    UnavailableError,
    UnsupportedError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.locks.manager import Locks
from reactstate.testing.stores import FaultyStore


class Tally(State):
    n: int = 0
    names: list[str] = []


def add(draft: Tally, name: str = "") -> None:
    draft.n += 1
    draft.names.append(name)


PESSIMISTIC = StateConfig(concurrency="pessimistic")


def share(store: Any, what: Any = Tally, **arguments: Any) -> Any:
    return StateContainer.open(what, store=store, key="tally", **arguments)


async def driven(clock: ManualClock, work: Any) -> Any:
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(60):
        while not task.done():
            clock.advance(0.003)
            await asyncio.sleep(0)
    return await task


async def test_a_holder_that_slept_through_its_lease_is_refused_by_the_store():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    sleepy = ManualClock()  # its process is paused: time does not go on for it
    async with share(store, Tally(), clock=clock) as tally:
        stale = await Locks(store, clock=sleepy).acquire("tally", 5)
        await tally.update(add, "first", guard=stale)
        clock.advance(6)
        fresh = await Locks(store, clock=clock).acquire("tally", 5)
        assert fresh.token > stale.token
        with pytest.raises(LeaseLostError):
            await tally.update(add, "stale", guard=stale)
        await tally.update(add, "second", guard=fresh)
        assert tally.state.names == ["first", "second"]
        assert tally.version == 3
    await store.aclose()


async def test_only_the_updates_of_the_guard_that_is_lost_fail():
    clock, sleepy = ManualClock(), ManualClock()
    store = MemoryStore(clock=clock)
    async with share(store, Tally(), clock=clock) as tally:
        lost = await Locks(store, clock=sleepy).acquire("one", 5)
        clock.advance(6)
        held = await Locks(store, clock=clock).acquire("two", 60)
        results = await asyncio.gather(
            tally.update(add, "a"),
            tally.update(add, "b", guard=held),
            tally.update(add, "c", guard=lost),
            tally.update(add, "d", guard=lost),
            tally.update(add, "e", guard=held),
            tally.update(add, "f"),
            return_exceptions=True,
        )
        assert [isinstance(result, LeaseLostError) for result in results] == [False, False, True, True, False, False]
        assert sorted(tally.state.names) == ["a", "b", "e", "f"]
        assert tally.version == 5
    await store.aclose()


async def test_a_guard_that_was_released_or_is_of_another_store_is_refused(tmp_path):
    store, other = MemoryStore(), MemoryStore()
    async with share(store, Tally()) as tally, StateContainer(Tally()) as alone:
        elsewhere = await Locks(other).acquire("tally", 60)
        with pytest.raises(UnsupportedError):
            await tally.update(add, guard=elsewhere)
        held = await Locks(store).acquire("tally", 60)
        with pytest.raises(UnsupportedError):
            await alone.update(add, guard=held)
        await held.release()
        with pytest.raises(LeaseLostError):
            await tally.update(add, guard=held)
        assert tally.version == 1
    await store.aclose()
    await other.aclose()


async def test_a_lost_reply_under_a_guard_takes_effect_once():
    clock = ManualClock()
    below = MemoryStore(clock=clock)
    store = FaultyStore(below, clock=clock)
    async with await driven(clock, share(store, Tally(), clock=clock)) as tally:
        guard = await Locks(below, clock=clock).acquire("tally", 3600)
        # The state is opened over the store that fails; the lock was made in the one below.
        guard.store = store
        store.drop_reply(1)
        assert (await driven(clock, tally.update(add, guard=guard))).version == 2
        assert tally.state.n == 1
        store.fail(probability=1.0)
        with pytest.raises(UnavailableError):
            await driven(clock, tally.update(add, guard=guard))
        store.heal()
        assert (await driven(clock, tally.get(Strong()))).n == 1
    await below.aclose()


async def test_pessimistic_writers_go_one_after_another_and_no_recipe_runs_more_than_twice():
    store = MemoryStore()
    runs: dict[str, int] = {}

    def enter(draft: Tally, name: str) -> None:
        runs[name] = runs.get(name, 0) + 1
        draft.n += 1
        draft.names.append(name)

    async with (
        share(store, Tally(), config=PESSIMISTIC) as a,
        share(store, config=PESSIMISTIC) as b,
        share(store, config=PESSIMISTIC) as c,
    ):

        async def work(container: Any, name: str) -> None:
            for turn in range(20):
                await container.update(enter, f"{name}{turn}")

        await asyncio.gather(
            *(work(one, f"{name}{task}/") for one, name in ((a, "a"), (b, "b"), (c, "c")) for task in "xy")
        )
        assert (await a.get(Strong())).n == (await b.get(Strong())).n == 120
        assert len(set(a.state.names)) == 120
        assert max(runs.values()) <= 2
        assert not [key for key in await store.list_keys() if "lease" in key]
    await store.aclose()


async def test_pessimistic_and_optimistic_writers_may_share_one_state():
    store = MemoryStore()
    async with share(store, Tally(), config=PESSIMISTIC) as a, share(store) as b:
        await asyncio.gather(*(one.update(add) for _ in range(50) for one in (a, b)))
        assert (await a.get(Strong())).n == (await b.get(Strong())).n == 100
    await store.aclose()


async def test_a_lock_that_somebody_keeps_is_contention_at_the_deadline_and_lapses_with_its_lease():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    async with share(store, clock=clock, what=Tally(), config=PESSIMISTIC, deadline=2.0) as tally:
        committer = tally._committer
        stuck = await Locks(store, clock=clock, namespace="~state").acquire(committer._name, timedelta(seconds=8))
        with pytest.raises(ContentionError):
            await driven(clock, tally.update(add))
        assert tally.version == 1
        clock.advance(10)
        assert (await driven(clock, tally.update(add))).version == 2
        with pytest.raises(LeaseLostError):
            await stuck.release()
    await store.aclose()


async def test_a_pessimistic_writer_that_slept_through_its_lease_begins_anew():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    async with share(store, Tally(), clock=clock, config=PESSIMISTIC) as tally:
        locks = tally._committer._locks
        sleepy = Locks(store, clock=ManualClock(), namespace="~state")
        tally._committer._locks = sleepy
        real, taken = sleepy.acquire, []

        async def acquire(name: str, ttl: Any, timeout: Any = None) -> Any:
            guard = await real(name, ttl, timeout)
            if not taken:
                taken.append(guard)
                clock.advance(60)  # the lease is over, and this process does not know
                await locks.acquire(name, 1)
                clock.advance(2)
            return guard

        sleepy = type("Sleepy", (), {"acquire": staticmethod(acquire)})()
        tally._committer._locks = sleepy
        assert (await driven(clock, tally.update(add))).version == 2
        assert tally.state.n == 1
    await store.aclose()


async def test_pessimistic_needs_a_store_with_locks(tmp_path):
    for opening in (
        lambda: StateContainer.open(Tally(), config=PESSIMISTIC),
        lambda: StateContainer.open(Tally(), f"file:{tmp_path}", config=PESSIMISTIC),
        lambda: StateContainer.open(Tally(), f"sqlite:{tmp_path}/app.db?durability=interval", config=PESSIMISTIC),
    ):
        with pytest.raises(UnsupportedError):
            await opening()
    with pytest.raises(UnsupportedError):
        StateContainer(Tally(), config=PESSIMISTIC)
    async with StateContainer.open(Tally(), f"sqlite:{tmp_path}/other.db", config=PESSIMISTIC) as tally:
        assert (await tally.update(add)).version == 2


class Account(State):
    id: str
    balance: int = 0


async def test_keyed_updates_and_transactions_refuse_a_lock_of_another_store_and_a_stale_holder():
    clock = ManualClock()
    store, other = MemoryStore(clock=clock), MemoryStore(clock=clock)
    elsewhere = await Locks(other, clock=clock).acquire("bank", 60)
    stale = await Locks(store, clock=ManualClock()).acquire("bank", 5)
    async with (
        KeyedContainer.open(Account, store=store, clock=clock) as accounts,
        MVCCContainer.open(Account, store=store, clock=clock) as bank,
    ):
        await accounts.put(Account(id="ada"), guard=stale)
        for guard, error in ((elsewhere, UnsupportedError), (stale, LeaseLostError)):
            if guard is stale:
                clock.advance(6)
            with pytest.raises(error):
                await accounts.update("ada", {"balance": 1}, guard=guard)
            with pytest.raises(error):
                async with bank.transaction(guard=guard) as tx:
                    tx.write(Account(id="ada", balance=2))
        assert (await accounts.get("ada")).balance == 0
    await store.aclose()
    await other.aclose()
