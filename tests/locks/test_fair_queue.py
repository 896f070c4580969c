from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import ClosedError, CompactedError, LockTimeoutError, UnavailableError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import ABSENT, Put, Step
from reactstate.locks.manager import Locks
from reactstate.locks.waiting import PLACE_S
from reactstate.testing.stores import FaultyStore


@pytest.fixture
def start(turns):
    """Starts tasks that acquire the lock, note their turn and release it, one after another in the queue."""

    async def run(several, order, numbers, ttl=60, timeout=None):
        tasks = []
        for number in numbers:
            tasks.append(asyncio.create_task(take_turn(several[number % len(several)], order, number, ttl, timeout)))
            await turns(15)
        return tasks

    async def take_turn(locks, order, number, ttl, timeout):
        guard = await locks.acquire("stock", ttl, timeout)
        order.append(number)
        assert await guard.is_held()
        await asyncio.sleep(0)
        await guard.release()

    return run


async def test_waiters_have_the_lock_in_the_order_in_which_they_came(store, locks, clock, start, kept):
    several = [locks, Locks(store, clock=clock), Locks(store, clock=clock)]  # as three processes would
    guard = await locks.acquire("stock", 60)
    order = []
    tasks = await start(several, order, range(12))
    assert order == []
    await guard.release()
    await asyncio.gather(*tasks)
    assert order == list(range(12))
    assert await kept() == []
    assert [locks_._rooms for locks_ in several] == [{}, {}, {}]


async def test_nobody_who_comes_later_overtakes_though_the_lock_is_free_for_a_moment(locks, start, turns):
    guard = await locks.acquire("stock", 60)
    order = []
    waiting = await start([locks], order, [1, 2])
    await guard.release()
    late = asyncio.create_task(locks.acquire("stock", 60))  # comes before anybody was woken
    await asyncio.gather(*waiting)
    holder = await late
    assert order == [1, 2]
    with pytest.raises(LockTimeoutError):
        await asyncio.create_task(locks.acquire("stock", 60, 0))
    await holder.release()


async def test_a_holder_that_acquires_again_and_again_does_not_starve_the_others(locks):
    order = []

    async def work(name):
        for _ in range(10):
            async with locks.lock("stock", 60):
                order.append(name)
                await asyncio.sleep(0)

    await asyncio.gather(*map(work, "abc"))
    assert sorted(order) == sorted("abc" * 10)
    assert all(set(order[at : at + 3]) == set("abc") for at in range(3, 24))


async def test_trying_does_not_queue(locks, start, turns):
    guard = await locks.acquire("stock", 60)
    order = []
    waiting = await start([locks], order, [1])
    assert await locks.try_acquire("stock", 60) is None
    await guard.release()
    barger = await locks.try_acquire("stock", 60)
    assert barger is not None
    await turns()
    assert order == []
    await barger.release()
    await asyncio.gather(*waiting)


async def test_a_waiter_has_the_lock_as_soon_as_the_holders_lease_ends(locks, clock, start, turns):
    order = []
    holder = await locks.acquire("stock", 2)
    waiting = await start([locks], order, [1])
    clock.advance(1)
    await holder.extend(2)
    await turns()
    clock.advance(1.999)
    await turns()
    assert order == []
    clock.advance(0.001)
    await turns()
    assert order == [1]
    await asyncio.gather(*waiting)


async def test_waiting_ends_at_the_timeout_and_leaves_nothing_behind(locks, clock, start, turns, kept):
    guard = await locks.acquire("stock", 60)
    tasks = await start([locks], [], [1, 2, 3], timeout=5)
    assert len(await kept()) == 5
    clock.advance(4.999)
    await turns()
    assert not any(task.done() for task in tasks)
    clock.advance(0.001)
    for task in tasks:
        with pytest.raises(LockTimeoutError, match="'stock'"):
            await task
    clock.advance(PLACE_S)
    assert await kept() == ["lease0"]
    await guard.release()
    assert await asyncio.create_task(locks.acquire("stock", 60, 0))


async def test_the_last_who_leaves_lets_others_come_at_once(locks, clock, start, turns, kept):
    guard = await locks.acquire("stock", 60)
    tasks = await start([locks], [], [1, 2])
    for task in tasks:
        task.cancel()
        await turns()
    assert await kept() == ["lease0"]
    await guard.release()
    assert await locks.acquire("stock", 60, 0)


async def test_no_timeout_waits_for_as_long_as_it_takes(locks, pass_time, start):
    order = []
    async with locks.lock("stock", 30):
        waiting = await start([locks], order, [1, 2], ttl=30)
        await pass_time(120, 0.5)
    await asyncio.gather(*waiting)
    assert order == [1, 2]


async def test_a_waiter_that_is_gone_loses_its_place_when_the_place_lapses(store, locks, clock, start, pass_time):
    guard = await locks.acquire("stock", 60)
    await store.commit(  # a process that queued, and was killed
        [
            Step("~locks/default/stock/wait.dead", Put(b"", PLACE_S), ABSENT),
            Step("~locks/default/stock/queued", Put(b"", PLACE_S)),
        ]
    )
    order = []
    waiting = await start([locks], order, [1])
    await guard.release()
    await pass_time(PLACE_S - 0.2)
    assert order == []
    await pass_time(1.5)
    assert order == [1]
    await asyncio.gather(*waiting)


async def test_what_the_last_waiter_left_behind_holds_nobody_up(store, locks, kept):
    await store.put("~locks/default/stock/queued", b"", ttl=60)
    guard = await locks.acquire("stock", 60)
    assert await kept() == ["lease0"]
    await guard.release()


async def test_a_waiter_whose_place_lapsed_queues_anew(store, locks, clock, start, pass_time, turns):
    guard = await locks.acquire("stock", 600)
    order = []
    waiting = await start([locks, Locks(store, clock=clock)], order, [0, 1])
    (first,) = [key for key in await store.list_keys() if "wait." in key and store._table.revisions[key] == 2]
    await store.delete(first)  # the process stood still for too long
    await turns()
    assert len([key for key in await store.list_keys() if "wait." in key]) == 2
    await pass_time(10)
    await guard.release()
    await asyncio.gather(*waiting)
    assert order == [1, 0]


async def test_places_are_renewed_in_one_commit_and_keep_their_order(faulty, clock, start, pass_time):
    locks = Locks(faulty, clock=clock)
    guard = await locks.acquire("stock", 600)
    order = []
    tasks = await start([locks], order, range(8))
    before = faulty.calls["commit"]
    await pass_time(10 * PLACE_S)
    assert 25 <= faulty.calls["commit"] - before <= 35
    await guard.release()
    await asyncio.gather(*tasks)
    assert order == list(range(8))


async def test_waiting_reads_and_writes_nothing_but_the_renewals(faulty, clock, start, turns):
    locks = Locks(faulty, clock=clock)
    guard = await locks.acquire("stock", 600)
    tasks = await start([locks], [], [1, 2, 3])
    before = faulty.calls.copy()
    await turns(2000)
    assert faulty.calls == before
    await guard.release()
    await asyncio.gather(*tasks)


async def test_the_places_of_a_restarted_watch_keep_their_order(store, locks, clock, start, pass_time):
    guard = await locks.acquire("stock", 600)
    order = []
    first = await start([locks], order, [1, 2])
    await pass_time(5)  # renewed, so that their entries are younger than their places
    later = await start([Locks(store, clock=clock)], order, [3])
    await guard.release()
    await asyncio.gather(*first, *later)
    assert order == [1, 2, 3]


# --- cancelled and in trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [False, True])
async def test_a_waiter_cancelled_at_any_await_leaves_no_place_and_no_held_lock(
    store, faulty, clock, turns, kept, free
):
    faulty.latency = 0.01  # so that every call waits
    locks = Locks(faulty, clock=clock)

    async def let_time_pass():
        while True:
            clock.advance(0.01)
            await asyncio.sleep(0)

    passing = asyncio.create_task(let_time_pass())
    direct = Locks(store, clock=clock)
    for count in range(120):
        holder = None if free else await direct.try_acquire("stock", 600)
        assert free or holder is not None
        task = asyncio.create_task(locks.acquire("stock", 600))
        await turns(count)
        if holder is not None:
            await holder.release()
            await turns(count % 11)
        done = task.done()
        task.cancel()
        try:
            guard = await task
        except asyncio.CancelledError:
            guard = None
        assert (guard is not None) == done
        if guard is not None:
            await guard.release()
        assert [key for key in await kept() if key != "queued"] == []
    passing.cancel()


async def test_a_cancellation_does_not_wait_for_a_store_that_is_away(faulty, clock, turns):
    locks = Locks(faulty, clock=clock)
    guard = await locks.acquire("stock", 60)
    task = asyncio.create_task(locks.acquire("stock", 60))
    await turns()
    faulty.fail(probability=1.0)
    task.cancel()
    await turns()
    assert task.cancelled()
    faulty.heal()
    await guard.release()


async def test_a_store_that_is_away_for_a_while_only_delays_the_waiters(faulty, clock, start, pass_time, turns):
    locks = Locks(faulty, clock=clock, deadline=60)
    guard = await locks.acquire("stock", 600)
    faulty.fail(3)
    order = []
    tasks = await start([locks], order, [1, 2])
    await pass_time(1)
    faulty.fail(probability=1.0, on="commit")
    await pass_time(2)
    faulty.heal()
    await guard.release()
    await pass_time(2)
    await asyncio.gather(*tasks)
    assert sorted(order) == [1, 2]  # in the order in which the store could be reached


class Broken:
    """A watch that raises as soon as it is let go."""

    def __init__(self, watch, error, let_go):
        self.watch, self.error, self.let_go = watch, error, let_go

    def __aiter__(self):
        return self

    async def __anext__(self):
        await self.let_go.wait()
        raise self.error

    async def aclose(self):
        await self.watch.aclose()


class BrokenWatch(FaultyStore):
    """A store whose next watches break off, as a connection does."""

    broken = 0
    error: Exception = UnavailableError("the connection is gone")

    def __init__(self, store, clock):
        super().__init__(store, clock=clock)
        self.let_go = asyncio.Event()
        self.let_go.set()

    def watch(self, prefix="", *, after=None):
        watch = super().watch(prefix, after=after)
        if not self.broken:
            return watch
        self.broken -= 1
        return Broken(watch, self.error, self.let_go)


@pytest.mark.parametrize("error", [UnavailableError("the connection is gone"), CompactedError("events were missed")])
async def test_a_watch_that_breaks_off_is_begun_anew(store, clock, start, pass_time, error):
    broken = BrokenWatch(store, clock)
    broken.broken, broken.error = 5, error
    locks = Locks(broken, clock=clock)
    guard = await locks.acquire("stock", 600)
    order = []
    tasks = await start([locks], order, [1, 2])
    await guard.release()
    await pass_time(2)
    await asyncio.gather(*tasks)
    assert order == [1, 2]


async def test_waiting_ends_with_the_error_when_the_store_stays_away(faulty, clock, start, pass_time, turns):
    locks = Locks(faulty, clock=clock, deadline=3)
    guard = await locks.acquire("stock", 600)
    faulty.fail(probability=1.0, on="scan")
    tasks = await start([locks], [], [1, 2])
    await pass_time(4)
    for task in tasks:
        with pytest.raises(UnavailableError):
            await task
    faulty.heal()
    await guard.release()


async def test_waiting_ends_with_whatever_error_the_watch_has(store, clock, start, turns):
    broken = BrokenWatch(store, clock)
    broken.broken, broken.error = 1, OSError("what an engine should not raise")
    locks = Locks(broken, clock=clock)
    await locks.acquire("stock", 600)
    tasks = await start([locks], [], [1])
    with pytest.raises(OSError, match="should not"):
        await tasks[0]


async def test_waiting_ends_when_the_store_is_closed(clock, start, turns):
    store = MemoryStore(clock=clock)
    locks = Locks(store, clock=clock)
    await locks.acquire("stock", 600)
    tasks = await start([locks], [], [1, 2])
    await store.aclose()
    for task in tasks:
        with pytest.raises(ClosedError):
            await task


async def test_a_store_away_at_the_moment_of_acquiring_is_tried_until_the_timeout(
    faulty, clock, start, pass_time, turns
):
    locks = Locks(faulty, clock=clock, deadline=60)
    guard = await locks.acquire("stock", 600)
    tasks = await start([locks], [], [1], timeout=5)
    faulty.fail(probability=1.0, on="get_many")
    await guard.release()
    await pass_time(6)
    with pytest.raises((UnavailableError, LockTimeoutError)):
        await tasks[0]


async def test_a_renewal_whose_reply_is_lost_costs_no_place(faulty, clock, start, pass_time):
    locks = Locks(faulty, clock=clock)
    guard = await locks.acquire("stock", 600)
    order = []
    tasks = await start([locks], order, [1, 2])
    faulty.drop_reply(1)
    await pass_time(PLACE_S * 4)
    await guard.release()
    await asyncio.gather(*tasks)
    assert order == [1, 2]
    assert faulty.dropped == 1


async def test_late_wake_ups_change_no_order(store, clock, start, turns):
    faulty = FaultyStore(store, clock=clock, seed=3)
    faulty.delay_wakeups(20)
    several = [Locks(faulty, clock=clock), Locks(faulty, clock=clock)]
    guard = await several[0].acquire("stock", 600)
    order = []
    tasks = await start(several, order, range(10))
    await guard.release()
    await asyncio.gather(*tasks)
    assert order == list(range(10))


@pytest.fixture
def places(store):
    """Returns the places in the queue, each with its ticket, in order."""

    async def run():
        return sorted([(entry.revision, entry.key) async for entry in store.scan("~locks/default/stock/wait.")])

    return run


async def test_a_waiter_whose_place_went_while_nobody_watched_queues_anew(store, clock, start, turns, places):
    broken = BrokenWatch(store, clock)
    broken.broken, broken.error = 1, CompactedError("events were missed")
    broken.let_go.clear()
    locks = Locks(broken, clock=clock)
    guard = await locks.acquire("stock", 600)
    order = []
    tasks = await start([locks], order, [1, 2])
    (first, _) = await places()
    await store.delete(first[1])
    broken.let_go.set()
    await turns()
    await guard.release()
    await asyncio.gather(*tasks)
    assert order == [2, 1]


@pytest.mark.parametrize("change", ["renewed", "gone", "joined"])
async def test_what_changes_between_the_last_look_and_the_commit_is_followed(store, locks, start, places, change, kept):
    guard = await locks.acquire("stock", 600)
    order = []
    tasks = await start([locks], order, [1] if change == "joined" else [1, 2])
    ticket, place = (await places())[0]
    read = store.get_many

    async def get_many(keys):
        found = await read(keys)
        store.get_many = read
        if change == "renewed":
            await store.put(place, b"%d" % ticket, ttl=PLACE_S)
        elif change == "gone":
            await store.delete(place)
        else:
            await store.put("~locks/default/stock/queued", b"", ttl=PLACE_S)
        return found

    store.get_many = get_many
    await guard.release()
    await asyncio.gather(*tasks)
    assert order == {"renewed": [1, 2], "gone": [2, 1], "joined": [1]}[change]
    assert await kept() == []


async def test_who_leaves_as_another_comes_leaves_the_sign_for_that_one(store, locks, start, turns, kept):
    guard = await locks.acquire("stock", 600)
    tasks = await start([locks], [], [1])
    tasks[0].cancel()
    await store.put("~locks/default/stock/queued", b"", ttl=PLACE_S)  # the other one, of whom no event came yet
    await turns()
    assert await kept() == ["lease0", "queued"]
    await guard.release()


async def test_one_may_wait_again_where_others_are_told_of_an_error(store, clock, start, turns):
    broken = BrokenWatch(store, clock)
    broken.broken, broken.error = 1, OSError("what an engine should not raise")
    broken.let_go.clear()
    locks = Locks(broken, clock=clock)
    guard = await locks.acquire("stock", 600)
    order = []
    (failing,) = await start([locks], order, [1])
    broken.let_go.set()

    broken.latency = 0.5  # the one that fails takes its time to leave
    await turns(3)
    broken.latency = 0.0
    again = asyncio.create_task(locks.acquire("stock", 600))
    await turns()
    clock.advance(1)
    with pytest.raises(OSError, match="should not"):
        await failing
    await guard.release()
    assert await again


async def test_an_acquisition_cancelled_while_the_store_is_away_lapses(store, locks, monkeypatch):
    commit = store.commit

    async def applied_and_cancelled(steps, *, ranges=()):
        monkeypatch.setattr(store, "commit", away)
        await commit(steps)
        raise asyncio.CancelledError

    async def away(steps, *, ranges=()):
        raise UnavailableError("away")

    monkeypatch.setattr(store, "commit", applied_and_cancelled)
    with pytest.raises(asyncio.CancelledError):
        await locks.try_acquire("stock", 5)
    monkeypatch.setattr(store, "commit", commit)
    assert await locks.try_acquire("stock", 5) is None
    locks.clock.advance(5)
    assert await locks.try_acquire("stock", 5)
