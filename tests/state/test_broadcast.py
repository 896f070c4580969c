from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.errors import ClosedError, CompactedError, LaggedError, WrongContextError
from reactstate.state.broadcast import Broadcast


class Item:
    def __init__(self, version):
        self.version = version

    def __eq__(self, other):
        return isinstance(other, Item) and other.version == self.version

    __hash__ = None

    def __repr__(self):
        return f"Item({self.version})"


def items(*versions):
    return [Item(version) for version in versions]


def publish(broadcast, *versions):
    for version in versions:
        broadcast.publish(Item(version), version)


def take(subscription):
    """The version of the next unread item, or a gap as ("missed", n), the end as "end", nothing as None."""
    try:
        item = subscription.get_nowait()
    except LaggedError as exc:
        return ("missed", exc.missed)
    except ClosedError:
        return "end"
    return item and item.version


def read_all(subscription):
    out = []
    while (entry := take(subscription)) is not None:
        out.append(entry)
        if entry == "end":
            break
    return out


async def spin(times=10):
    for _ in range(times):
        await asyncio.sleep(0)


async def later(versions, pause=0, error=None):
    for version in versions:
        for _ in range(pause):
            await asyncio.sleep(0)
        yield Item(version)
    if error is not None:
        raise error


# --- delivery and lagging ---------------------------------------------------------------------------------------


def test_capacity_is_exact():
    broadcast = Broadcast(capacity=7)
    subscription = broadcast.subscribe()
    publish(broadcast, *range(1, 8))
    assert subscription.pending == 7
    assert read_all(subscription) == [1, 2, 3, 4, 5, 6, 7]
    publish(broadcast, *range(8, 16))
    assert subscription.pending == 7
    assert read_all(subscription) == [("missed", 1), 9, 10, 11, 12, 13, 14, 15]


def test_each_subscription_lags_by_its_own_buffer_and_the_ring_holds_the_largest():
    broadcast = Broadcast(capacity=4)
    small, usual, large = broadcast.subscribe(buffer=2), broadcast.subscribe(), broadcast.subscribe(buffer=6)
    publish(broadcast, *range(1, 9))
    assert len(broadcast._ring) == 6
    assert read_all(small) == [("missed", 6), 7, 8]
    assert read_all(usual) == [("missed", 4), 5, 6, 7, 8]
    assert read_all(large) == [("missed", 2), 3, 4, 5, 6, 7, 8]
    large.close()
    assert len(broadcast._ring) == 4
    publish(broadcast, 9)
    assert read_all(usual) == [9]
    assert read_all(large) == ["end"]


def test_a_buffer_that_joins_later_keeps_what_the_ring_holds():
    broadcast = Broadcast(capacity=3)
    first = broadcast.subscribe()
    publish(broadcast, 1, 2, 3)
    second = broadcast.subscribe(buffer=5)
    publish(broadcast, 4)
    assert read_all(first) == [("missed", 1), 2, 3, 4]
    assert read_all(second) == [4]


ACTIONS = st.lists(
    st.tuples(st.just("publish"), st.integers(1, 5))
    | st.tuples(st.just("subscribe"), st.integers(1, 8))
    | st.tuples(st.sampled_from(["read", "close", "drop"]), st.integers(0, 5)),
    max_size=60,
)


@given(st.integers(1, 6), ACTIONS)
def test_every_subscriber_sees_each_item_once_in_order_or_an_exact_gap(capacity, actions):
    broadcast = Broadcast(capacity=capacity)
    version = 0
    live = []
    for action, n in actions:
        if action == "publish":
            for _ in range(n):
                version += 1
                publish(broadcast, version)
                for _, _, unread in live:
                    unread.append(version)
        elif action == "subscribe":
            live.append((broadcast.subscribe(buffer=n), n, []))
        elif live:
            subscription, buffer, unread = live[n % len(live)]
            if action == "read":
                missed = max(len(unread) - buffer, 0)
                assert subscription.pending == min(len(unread), buffer)
                if missed:
                    assert take(subscription) == ("missed", missed)
                    del unread[:missed]
                elif unread:
                    assert take(subscription) == unread.pop(0)
                    assert subscription.version == version - len(unread)
                else:
                    assert take(subscription) is None
            else:
                del live[n % len(live)]
                if action == "close":
                    subscription.close()
                del subscription
        assert broadcast.subscribers == len(live)
        assert len(broadcast._ring) <= max([capacity, *(buffer for _, buffer, _ in live)])
        if not live:
            assert not broadcast._ring
    broadcast.close()
    for subscription, buffer, unread in live:
        missed = len(unread) - buffer
        gap = [("missed", missed)] if missed > 0 else []
        assert read_all(subscription) == [*gap, *unread[-buffer:], "end"]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_tasks_at_random_speeds_see_every_item_or_an_exact_gap(seed, count):
    dice = random.Random(seed)

    async def read(subscription):
        seen = []
        while True:
            try:
                async for item in subscription:
                    seen.append(item.version)
                    await spin(dice.choice([0, 0, 1, 5]))
            except LaggedError as exc:
                seen.append(("missed", exc.missed))
                continue
            return seen

    async def main():
        broadcast = Broadcast(capacity=3)
        subscriptions = [broadcast.subscribe(buffer=dice.choice([None, 1, 8])) for _ in range(count)]
        tasks = [asyncio.create_task(read(subscription)) for subscription in subscriptions]
        for version in range(1, 60):
            publish(broadcast, version)
            await spin(dice.choice([0, 0, 1, 4]))
        broadcast.close()
        for seen in await asyncio.gather(*tasks):
            expected = 1
            for entry in seen:
                if isinstance(entry, tuple):
                    expected += entry[1]
                else:
                    assert entry == expected
                    expected += 1
            assert expected == 60

    asyncio.run(main())


async def test_iteration_goes_on_after_a_lag_with_the_oldest_kept():
    broadcast = Broadcast(capacity=2)
    subscription = broadcast.subscribe()
    publish(broadcast, 1, 2, 3)
    with pytest.raises(LaggedError) as caught:
        async for _ in subscription:
            pass
    assert caught.value.missed == 1
    assert (await anext(subscription)).version == 2
    broadcast.close()
    assert [item.version async for item in subscription] == [3]


def test_publishing_without_subscribers_keeps_nothing_alive():
    broadcast = Broadcast()
    item = Item(1)
    alive = weakref.ref(item)
    broadcast.publish(item, 1)
    del item
    assert alive() is None
    subscription = broadcast.subscribe()
    item = Item(2)
    alive = weakref.ref(item)
    broadcast.publish(item, 2)
    del item
    assert alive() is not None
    subscription.close()
    assert alive() is None


@pytest.mark.parametrize("arguments", [{"buffer": 0}, {"buffer": -1}, {"on_lag": "block"}, {"on_lag": "resync"}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|needs"):
        Broadcast().subscribe(**arguments)
    with pytest.raises(ValueError, match="capacity"):
        Broadcast(capacity=0)


# --- waiting ----------------------------------------------------------------------------------------------------


async def test_a_waiting_subscriber_is_woken_once_per_burst():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    seen = []

    async def read():
        async for item in subscription:
            seen.append(item.version)

    task = asyncio.create_task(read())
    await spin()
    assert len(broadcast._waiting) == 1
    publish(broadcast, 1)
    assert not broadcast._waiting
    publish(broadcast, 2, 3)
    assert not broadcast._waiting
    await spin(2)
    assert seen == [1, 2, 3]
    assert len(broadcast._waiting) == 1
    broadcast.close()
    await task


async def test_two_tasks_on_one_subscription_share_its_items():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    seen = []

    async def read():
        async for item in subscription:
            seen.append(item.version)
            await spin(1)

    tasks = [asyncio.create_task(read()) for _ in range(3)]
    for version in range(1, 30):
        publish(broadcast, version)
        await spin(version % 3)
    broadcast.close()
    await asyncio.gather(*tasks)
    assert sorted(seen) == list(range(1, 30))


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("published_first", [False, True])
async def test_a_cancelled_wait_loses_nothing(steps, published_first):
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    seen = []

    async def read():
        async for item in subscription:
            seen.append(item.version)
            await asyncio.sleep(0)

    task = asyncio.create_task(read())
    if published_first:
        publish(broadcast, 1, 2)
    await spin(steps)
    if not published_first:
        publish(broadcast, 1, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not broadcast._waiting
    assert not subscription._waiters
    publish(broadcast, 3)
    broadcast.close()
    seen.extend([item.version async for item in subscription])
    assert seen == [1, 2, 3]


async def test_a_timeout_takes_nothing():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    other = asyncio.create_task(anext(subscription))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(subscription), 0.001)
    assert len(subscription._waiters) == 1
    publish(broadcast, 1)
    assert (await other).version == 1
    assert subscription.get_nowait() is None


async def test_publishing_to_many_subscribers_reaches_them_all():
    broadcast = Broadcast()
    subscriptions = [broadcast.subscribe() for _ in range(1000)]
    tasks = [asyncio.create_task(anext(subscription)) for subscription in subscriptions]
    await spin(2)
    publish(broadcast, 1)
    publish(broadcast, 2)
    assert [item.version for item in await asyncio.gather(*tasks)] == [1] * 1000
    assert [subscription.pending for subscription in subscriptions] == [1] * 1000
    assert len(broadcast._ring) == 2


# --- closing ----------------------------------------------------------------------------------------------------


async def test_after_close_the_unread_items_are_delivered_then_the_iteration_ends():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    publish(broadcast, 1, 2)
    broadcast.close()
    broadcast.close()
    assert broadcast.closed
    publish(broadcast, 3)
    assert [item.version async for item in subscription] == [1, 2]
    assert [item.version async for item in subscription] == []
    assert not subscription.closed
    with pytest.raises(ClosedError):
        subscription.next()
    with pytest.raises(ClosedError):
        subscription.get_nowait()
    with pytest.raises(ClosedError):
        broadcast.subscribe()


@pytest.mark.parametrize("what", ["broadcast", "close", "aclose"])
async def test_closing_ends_a_pending_wait(what):
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    other = broadcast.subscribe()
    tasks = [asyncio.create_task(anext(s, None)) for s in (subscription, subscription, other)]
    await spin()
    if what == "broadcast":
        broadcast.close()
        assert await asyncio.gather(*tasks) == [None] * 3
        return
    for _ in range(2):
        if what == "close":
            subscription.close()
        else:
            await subscription.aclose()
    assert await asyncio.gather(*tasks[:2]) == [None] * 2
    assert subscription.closed
    assert subscription.pending == 0
    assert broadcast.subscribers == 1
    publish(broadcast, 1)
    assert (await tasks[2]).version == 1


async def test_a_subscription_is_both_kinds_of_context_manager():
    broadcast = Broadcast()
    with broadcast.subscribe() as one:
        assert broadcast.subscribers == 1
    async with broadcast.subscribe() as two:
        assert not two.closed
    assert one.closed
    assert two.closed
    assert broadcast.subscribers == 0


def test_a_dropped_subscription_is_forgotten_without_close():
    broadcast = Broadcast(capacity=2)
    kept = broadcast.subscribe()
    dropped = broadcast.subscribe(buffer=50)
    publish(broadcast, *range(1, 41))
    assert len(broadcast._ring) == 40
    del dropped
    assert broadcast.subscribers == 1
    assert len(broadcast._ring) == 2
    assert read_all(kept) == [("missed", 38), 39, 40]
    alive = weakref.ref(broadcast)
    del broadcast, kept
    gc.collect()
    assert alive() is None


def test_a_subscription_collected_inside_a_critical_section_is_forgotten_without_a_deadlock():
    broadcast = Broadcast()
    dropped = broadcast.subscribe()
    publish(broadcast, 1)
    with broadcast._lock:
        del dropped
    assert broadcast.subscribers == 0
    publish(broadcast, 2)
    assert not broadcast._ring
    fresh = broadcast.subscribe()
    publish(broadcast, 3)
    assert read_all(fresh) == [3]


# --- resync -----------------------------------------------------------------------------------------------------


def test_a_resync_replaces_everything_unread_and_nothing_comes_twice():
    broadcast = Broadcast(capacity=2)
    asked = []

    def resync(since):
        asked.append(since)
        return Item(5)

    subscription = broadcast.subscribe(on_lag="resync", resync=resync, since=1)
    publish(broadcast, 2)
    assert read_all(subscription) == [2]
    publish(broadcast, 3, 4, 5)
    assert read_all(subscription) == [5]
    publish(broadcast, 6)
    assert read_all(subscription) == [6]
    assert asked == [2]


def test_a_resync_ahead_of_the_publisher_covers_what_is_published_later():
    broadcast = Broadcast(capacity=1)
    subscription = broadcast.subscribe(on_lag="resync", resync=lambda since: Item(5))
    publish(broadcast, 1, 2, 3)
    assert read_all(subscription) == [5]
    publish(broadcast, 4)
    publish(broadcast, 5)
    assert read_all(subscription) == []
    publish(broadcast, 6)
    assert read_all(subscription) == [6]


def test_a_resync_that_is_overtaken_goes_on_with_what_it_does_not_cover():
    broadcast = Broadcast(capacity=3)
    state = {"version": 4}
    subscription = broadcast.subscribe(on_lag="resync", resync=lambda since: Item(state["version"]))
    publish(broadcast, 1, 2, 3, 4, 5, 6)
    assert read_all(subscription) == [4, 5, 6]

    def overtaken(since):
        version = state["version"]
        if version == 4:
            state["version"] = 12
            publish(broadcast, 7, 8, 9, 10, 11, 12)
        return Item(version)

    other = broadcast.subscribe(on_lag="resync", resync=overtaken)
    publish(broadcast, 1, 2, 3, 4)
    assert read_all(other) == [4, 12]


@pytest.mark.parametrize("answer", [None, Item(1)])
def test_a_resync_that_has_nothing_newer_is_a_lag(answer):
    broadcast = Broadcast(capacity=2)
    subscription = broadcast.subscribe(on_lag="resync", resync=lambda since: answer, since=1)
    publish(broadcast, 2, 3, 4)
    assert read_all(subscription) == [("missed", 1), 3, 4]


async def test_an_error_of_resync_reaches_the_subscriber_and_is_asked_again():
    broadcast = Broadcast(capacity=1)
    answers = deque([CompactedError("gone"), Item(3)])

    def resync(since):
        answer = answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    subscription = broadcast.subscribe(on_lag="resync", resync=resync)
    publish(broadcast, 1, 2, 3)
    with pytest.raises(CompactedError):
        await anext(subscription)
    assert (await anext(subscription)).version == 3
    assert subscription.get_nowait() is None


def test_two_readers_that_resync_at_once_deliver_the_state_once():
    broadcast = Broadcast(capacity=1)
    inner = []

    def resync(since):
        if not inner:
            inner.append(None)
            inner[0] = subscription.get_nowait()
        return Item(3)

    subscription = broadcast.subscribe(on_lag="resync", resync=resync)
    publish(broadcast, 1, 2, 3)
    assert subscription.get_nowait() is None
    assert inner == [Item(3)]


@given(st.integers(1, 4), st.lists(st.integers(0, 6), max_size=20))
def test_with_resync_versions_rise_and_end_at_the_current_one(buffer, bursts):
    broadcast = Broadcast(capacity=2)
    version = 0
    seen = []
    subscription = broadcast.subscribe(buffer=buffer, on_lag="resync", resync=lambda since: Item(version))
    for burst in bursts:
        for _ in range(burst):
            version += 1
            publish(broadcast, version)
        before = len(seen)
        seen.extend(read_all(subscription))
        if burst <= buffer:
            assert seen[before:] == list(range(version - burst + 1, version + 1))
        else:
            assert seen[before:] == [version]
    assert seen == sorted(set(seen))
    assert subscription.version == version


# --- backlog ----------------------------------------------------------------------------------------------------


@given(
    stored=st.integers(0, 12), since=st.integers(0, 12), live=st.integers(0, 12), buffer=st.integers(1, 15), lazy=st.booleans()
)  # fmt: skip
def test_a_backlog_passes_into_live_items_without_gap_or_duplicate(stored, since, live, buffer, lazy):
    async def main(overlap):
        broadcast = Broadcast(capacity=100)
        versions = range(since + 1, stored + overlap + 1)
        backlog = later(versions, pause=1) if lazy else items(*versions)
        subscription = broadcast.subscribe(backlog=backlog, buffer=buffer, since=since)
        publish(broadcast, *range(stored + 1, stored + live + 1))
        broadcast.close()
        expected, seen = since + 1, []
        while True:
            try:
                async for item in subscription:
                    seen.append(item.version)
                    assert item.version == expected
                    expected += 1
            except LaggedError as exc:
                expected += exc.missed
                continue
            break
        assert expected == max(stored + live, since) + 1
        covered = max(stored + overlap, since)
        lost = max(stored + live - buffer - covered, 0)
        assert len(seen) == max(stored + live - since, 0) - lost

    since = min(since, stored)
    for overlap in {0, live // 2, live}:
        asyncio.run(main(overlap))


async def test_a_cancelled_read_of_the_backlog_loses_nothing():
    for steps in range(12):
        broadcast = Broadcast()
        subscription = broadcast.subscribe(backlog=later(range(1, 6), pause=1))
        publish(broadcast, 6)
        seen = []

        async def read(subscription=subscription, seen=seen):
            async for item in subscription:
                seen.append(item.version)

        task = asyncio.create_task(read())
        await spin(steps)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        broadcast.close()
        seen.extend([item.version async for item in subscription])
        assert seen == [1, 2, 3, 4, 5, 6]


async def test_a_long_backlog_is_read_in_parts():
    broadcast = Broadcast()
    subscription = broadcast.subscribe(backlog=later(range(1, 1001)))
    assert (await anext(subscription)).version == 1
    assert subscription.pending < 400
    publish(broadcast, 1001)
    broadcast.close()
    assert [item.version async for item in subscription] == list(range(2, 1002))


async def test_two_tasks_share_a_backlog():
    broadcast = Broadcast()
    subscription = broadcast.subscribe(backlog=later(range(1, 600), pause=1))
    broadcast.close()
    seen = []

    async def read():
        seen.extend([item.version async for item in subscription])

    await asyncio.gather(read(), read())
    assert sorted(seen) == list(range(1, 600))


async def test_an_error_of_the_backlog_comes_after_its_items_and_ends_the_subscription():
    broadcast = Broadcast()
    subscription = broadcast.subscribe(backlog=later([1, 2], error=CompactedError("gone", resume=7)))
    publish(broadcast, 9)
    assert (await anext(subscription)).version == 1
    assert (await anext(subscription)).version == 2
    with pytest.raises(CompactedError):
        await anext(subscription)
    assert subscription.closed
    assert [item async for item in subscription] == []
    await subscription.aclose()


async def test_an_error_of_the_backlog_reaches_one_of_two_tasks():
    broadcast = Broadcast()
    subscription = broadcast.subscribe(backlog=later([], pause=1, error=CompactedError("gone")))
    results = await asyncio.gather(*(anext(subscription, None) for _ in range(2)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["CompactedError", "NoneType"]


@pytest.mark.parametrize("how", ["close", "aclose", "thread"])
async def test_closing_while_the_backlog_is_read_ends_the_wait_and_the_reading(how):
    let_go = asyncio.Event()

    async def endless():
        try:
            yield Item(1)
            await asyncio.Event().wait()
        finally:
            let_go.set()

    subscription = Broadcast().subscribe(backlog=endless())
    task = asyncio.create_task(anext(subscription, None))
    await spin()
    if how == "close":
        subscription.close()
    elif how == "aclose":
        await subscription.aclose()
    else:
        await asyncio.to_thread(subscription.close)
    assert await task is None
    await asyncio.wait_for(let_go.wait(), 1)


async def test_aclose_lets_go_of_a_backlog_that_was_not_read_to_the_end():
    let_go = []

    async def backlog():
        try:
            for version in range(1, 10_000):
                yield Item(version)
        finally:
            let_go.append(True)

    async with Broadcast().subscribe(backlog=backlog()) as subscription:
        assert (await anext(subscription)).version == 1
    assert let_go == [True]


async def test_cancelling_a_reader_while_its_subscription_closes_cancels_it():
    subscription = Broadcast().subscribe(backlog=later([1], pause=100))
    task = asyncio.create_task(anext(subscription, None))
    await spin()
    subscription.close()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await subscription.aclose()


async def test_an_async_backlog_is_refused_to_threads_and_to_a_second_event_loop():
    go = asyncio.Event()

    async def backlog():
        await go.wait()
        yield Item(1)

    subscription = Broadcast().subscribe(backlog=backlog())
    for read in (subscription.next, subscription.get_nowait):
        with pytest.raises(WrongContextError):
            read()
    task = asyncio.create_task(anext(subscription))
    await spin()

    async def elsewhere():
        await anext(subscription)

    with pytest.raises(WrongContextError):
        await asyncio.to_thread(asyncio.run, elsewhere())
    go.set()
    assert (await task).version == 1


def test_closing_after_the_loop_of_the_backlog_is_gone_is_quiet():
    broadcast = Broadcast()
    subscription = broadcast.subscribe(backlog=later([1], pause=3))
    loop = asyncio.new_event_loop()
    task = loop.create_task(anext(subscription))
    loop.run_until_complete(spin(2))
    reading = subscription._reading
    loop.close()
    subscription.close()
    assert broadcast.subscribers == 0
    for pending in (task, reading):
        pending._log_destroy_pending = False
    task.get_coro().close()


def test_a_version_can_be_told_in_another_way():
    broadcast = Broadcast(capacity=1, version_of=lambda item: item[0])
    subscription = broadcast.subscribe(backlog=[(1, "a"), (2, "b")], on_lag="resync", resync=lambda since: (5, "e"))
    for item in [(2, "b"), (3, "c"), (4, "d")]:
        broadcast.publish(item, item[0])
    assert [subscription.get_nowait() for _ in range(4)] == [(1, "a"), (2, "b"), (5, "e"), None]


# --- threads ----------------------------------------------------------------------------------------------------


def test_a_thread_waits_for_the_next_item():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    with pytest.raises(TimeoutError):
        subscription.next(timeout=0.001)
    with pytest.raises(TimeoutError):
        subscription.next(timeout=-1)
    assert not broadcast._waiting
    publish(broadcast, 1)
    assert subscription.next(timeout=0).version == 1
    thread = threading.Thread(target=lambda: [publish(broadcast, 2), broadcast.close()])
    thread.start()
    assert subscription.next().version == 2
    with pytest.raises(ClosedError):
        subscription.next(timeout=5)
    thread.join()


def test_closing_ends_a_thread_that_waits():
    subscription = Broadcast().subscribe()
    ended = []

    def read():
        with pytest.raises(ClosedError):
            subscription.next()
        ended.append(True)

    thread = threading.Thread(target=read)
    thread.start()
    while not subscription._waiters:
        pass
    subscription.close()
    thread.join(5)
    assert ended == [True]


def test_a_lag_in_a_thread_is_told_or_resynced():
    broadcast = Broadcast(capacity=1)
    told, carried = broadcast.subscribe(), broadcast.subscribe(on_lag="resync", resync=lambda since: Item(3))
    publish(broadcast, 1, 2, 3)
    with pytest.raises(LaggedError):
        told.next()
    assert told.next().version == carried.next().version == 3


def test_threads_and_event_loops_see_every_item_in_order_without_a_lost_wakeup():
    count = 3000
    broadcast = Broadcast(capacity=count)
    failures = []

    def check(name, seen):
        if seen != list(range(1, count + 1)):
            failures.append((name, len(seen)))

    def in_thread(subscription):
        seen = []
        try:
            while True:
                seen.append(subscription.next(timeout=20).version)
        except ClosedError:
            check("thread", seen)

    def in_loop(subscription):
        async def read():
            check("loop", [item.version async for item in subscription])

        asyncio.run(asyncio.wait_for(read(), 20))

    shared, shared_seen = broadcast.subscribe(), []

    def in_shared():
        try:
            while True:
                shared_seen.append(shared.next(timeout=20).version)
        except ClosedError:
            return

    threads = [threading.Thread(target=in_thread, args=(broadcast.subscribe(),)) for _ in range(3)]
    threads += [threading.Thread(target=in_loop, args=(broadcast.subscribe(),)) for _ in range(2)]
    threads += [threading.Thread(target=in_shared) for _ in range(2)]
    for thread in threads:
        thread.start()
    pause = threading.Event()
    for version in range(1, count + 1):
        publish(broadcast, version)
        if version % 100 == 0:
            pause.wait(0.001)
    broadcast.close()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    assert sorted(shared_seen) == list(range(1, count + 1))


def test_subscribing_and_dropping_in_threads_while_publishing_never_loses_an_item():
    broadcast = Broadcast(capacity=10**6)
    pairs = []

    def come_and_go():
        for _ in range(150):
            subscription = broadcast.subscribe()
            pairs.append((subscription.next(timeout=20).version, subscription.next(timeout=20).version))

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    version = 0
    while any(thread.is_alive() for thread in threads):
        version += 1
        publish(broadcast, version)
    assert len(pairs) == 450
    assert all(second == first + 1 for first, second in pairs)
    publish(broadcast, version + 1)
    assert not broadcast._ring


def test_a_closed_event_loop_does_not_hurt_the_publisher():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    loop = asyncio.new_event_loop()
    task = loop.create_task(anext(subscription))
    loop.run_until_complete(spin(2))
    loop.close()
    publish(broadcast, 1)
    assert not broadcast._waiting
    assert subscription.get_nowait().version == 1
    task._log_destroy_pending = False
    task.get_coro().close()


async def test_a_task_that_is_cancelled_while_a_thread_wakes_it_loses_nothing():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    task = asyncio.create_task(anext(subscription))
    await spin()
    thread = threading.Thread(target=publish, args=(broadcast, 1))
    thread.start()
    thread.join()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await anext(subscription)).version == 1


def test_registering_finds_what_was_published_after_the_look():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    publish(broadcast, 1)
    assert subscription._block(None)
    assert not broadcast._waiting
    assert subscription.next().version == 1


def test_publishing_wakes_a_task_of_a_loop_that_runs_again_later():
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    loop = asyncio.new_event_loop()
    task = loop.create_task(anext(subscription))
    loop.run_until_complete(spin(2))
    publish(broadcast, 1)
    assert loop.run_until_complete(task).version == 1
    loop.close()
