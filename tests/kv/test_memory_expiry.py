"""MemoryStore: times to live, sweeps, and the deadlines behind them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    LimitExceededError,
)
from reactstate.kv.deadlines import Deadlines
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import (
    ABSENT,
    Add,
    Delete,
    Entry,
    EventKind,
    Put,
    RangeExpect,
    Step,
)

HOUR = timedelta(hours=1)


class ReversibleClock(ManualClock):
    """A clock that can also go back."""

    __slots__ = ("back",)

    def __init__(self):
        super().__init__()
        self.back = 0

    def time_ns(self):
        return super().time_ns() - self.back


@pytest.fixture
def clock():
    return ReversibleClock()


@pytest.fixture
async def store(clock):
    async with MemoryStore(clock=clock) as store:
        yield store


async def keys_of(iterator):
    return [item.key async for item in iterator]


async def values_of(source):
    return {entry.key: entry.value async for entry in source.scan()}


async def upcoming(watch, count):
    return [await anext(watch) for _ in range(count)]


def told(events):
    return [(event.kind.value, event.key, event.revision) for event in events]


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_expired_entry_is_invisible_at_once_to_everything(store, clock):
    await store.put("a", b"7", ttl=0.0015)  # rounded up to 2 ms
    await store.put("b", b"8")
    clock.advance(0.001)
    found = await store.get("a")
    assert found.expires_at == datetime(2026, 1, 1, 0, 0, 0, 2000, tzinfo=UTC)
    assert await store.list_keys() == ["a", "b"]
    clock.advance(0.001)
    assert await store.get("a") is None
    assert await store.get_many(["a", "b"]) == {"b": Entry("b", b"8", 2)}
    assert await store.list_keys() == await keys_of(store.scan()) == ["b"]
    assert await keys_of(store.scan(reverse=True)) == ["b"]
    async with store.snapshot() as view:
        assert await view.get("a") is None
        assert await view.get_many(["a", "b"]) == {"b": Entry("b", b"8", 2)}
        assert await keys_of(view.scan()) == ["b"]
        assert [batch.keys async for batch in view.batches()] == [["b"]]
    assert not await store.delete("a")
    assert (await store.commit([Step("a", Delete())])).revision == 2
    assert not await store.compare_and_swap("a", 1, b"")
    assert await store.increment("a", 3) == 3
    assert (await store.get("a")).expires_at is None


async def test_an_expired_entry_counts_as_absent_for_put_if_absent(store, clock):
    await store.put("a", b"1", ttl=1)
    clock.advance(1)
    assert await store.put_if_absent("a", b"2")
    await store.put("b", b"1", ttl=1)
    clock.advance(1)
    assert (await store.commit([Step("b", Put(b"2"), ABSENT)])).revision == 4
    assert await values_of(store) == {"a": b"2", "b": b"2"}


async def test_a_put_without_ttl_clears_it_and_an_add_keeps_it(store, clock):
    await store.put("a", b"1", ttl=5)
    await store.put("n", b"1", ttl=HOUR)
    await store.commit([Step("m", Add(1, ttl=5))])
    await store.put("a", b"2")
    assert (await store.commit([Step("n", Add(1, ttl=1)), Step("m", Add(1, ttl=99))])).entries["m"].expires_at
    clock.advance(5)
    assert await values_of(store) == {"a": b"2", "n": b"2"}
    assert (await store.get("n")).expires_at == datetime(2026, 1, 1, 1, tzinfo=UTC)


async def test_default_ttl_is_for_put_and_its_like_and_never_for_commit(clock):
    async with MemoryStore(options=StoreOptions(default_ttl=HOUR), clock=clock) as store:
        await store.put("a", b"")
        await store.put("a", b"")
        await store.put_if_absent("b", b"")
        await store.increment("c")
        await store.put("d", b"", ttl=HOUR * 2)
        await store.commit([Step("e", Put(b""))])
        clock.advance(HOUR)
        assert await store.list_keys() == ["d", "e"]


async def test_a_ttl_that_is_none_is_refused(store):
    await store.put("a", b"")
    for ttl, error in ((0, ValueError), (-1, ValueError), (1e12, LimitExceededError), ("1", TypeError)):
        for call in (store.put, store.put_if_absent):
            for key in ("a", "b"):
                with pytest.raises(error):
                    await call(key, b"x", ttl=ttl)
    assert await values_of(store) == {"a": b""}


async def test_the_stores_time_never_goes_back(store, clock):
    await store.put("a", b"", ttl=10)
    clock.advance(10)
    assert await store.get("a") is None
    clock.back = 10**12
    assert await store.get("a") is None
    await store.commit([Step("b", Put(b"", ttl=1))])
    assert (await store.get("b")).expires_at == datetime(2026, 1, 1, 0, 0, 11, tzinfo=UTC)
    assert await store.cleanup_expired() == 1


async def test_a_sweep_is_one_commit(store, clock):
    watch = store.watch()
    for key in ("a", "b", "c"):
        await store.put(key, b"", ttl=0.5)
    await store.put("d", b"")
    clock.advance(0.499)
    assert await store.cleanup_expired() == 0
    clock.advance(0.001)
    assert await store.cleanup_expired() == 3
    assert await store.cleanup_expired() == 0
    events = (await upcoming(watch, 7))[4:]
    assert {event.key for event in events} == {"a", "b", "c"}
    assert {(event.kind, event.revision) for event in events} == {(EventKind.EXPIRE, 5)}


async def test_a_large_sweep_lets_other_tasks_go_on(store, clock):
    await store.commit([Step(f"k{number}", Put(b"", ttl=1 + number % 3)) for number in range(10_000)])
    clock.advance(3)
    task = asyncio.create_task(store.cleanup_expired())
    await asyncio.sleep(0)
    assert 0 < len(store._table.values) < 10_000
    assert await store.list_keys() == []
    assert await task == 10_000
    assert store._table.revision == 4
    assert store.stats().bytes == 0


async def test_a_large_sweep_before_a_range_sees_a_store_closed_meanwhile(store, clock):
    await store.commit([Step(f"k{number}", Put(b"", ttl=1)) for number in range(9000)])
    clock.advance(1)
    task = asyncio.create_task(store.commit([Step("a", Put(b""))], ranges=[RangeExpect("", None, 1)]))
    await asyncio.sleep(0)
    await store.aclose()
    with pytest.raises(ClosedError):
        await task


async def test_an_expired_entry_that_is_overwritten_gives_one_put(store, clock):
    watch = store.watch()
    await store.put("a", b"", ttl=1)
    clock.advance(2)
    await store.put("a", b"new", ttl=5)
    assert await store.cleanup_expired() == 0
    await store.put("z", b"")
    assert told(await upcoming(watch, 3)) == [("PUT", "a", 1), ("PUT", "a", 2), ("PUT", "z", 3)]


async def test_renewing_a_ttl_leaves_nothing_behind(store, clock):
    for _ in range(2000):
        await store.put("session", b"", ttl=1)
        await store.put("short", b"", ttl=0.001)
        clock.advance(1)
        assert await store.put_if_absent("lock", b"", ttl=HOUR)
        await store.delete("lock")
    deadlines = store._table.deadlines
    assert len(deadlines._buckets) + len(deadlines._numbers) + len(deadlines._sorted) < 500
    assert await store.cleanup_expired() == 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(1, 5000), st.integers(0, 3000), st.integers(1, 4)),
        max_size=40,
    )
)
def test_deadlines_tell_exactly_what_is_due(steps):
    deadlines, model, now = Deadlines(), {}, 10_000
    for key, ttl, passes, limit in steps:
        if ttl is not None:
            deadlines.set(key, now + ttl)
            model[key] = now + ttl
        elif key in model:
            deadlines.drop(key)
            del model[key]
        assert deadlines.next <= min(model.values(), default=deadlines.next)
        now += passes
        due = {key for key, deadline in model.items() if deadline <= now}
        found = deadlines.due(now, limit)
        assert len(found) == min(limit, len(due))
        assert set(found) <= due
        for key in found:
            deadlines.drop(key)
            del model[key]
        assert deadlines.of == model


async def test_start_cleanup_task_sweeps_until_the_store_is_closed(clock):
    store = MemoryStore(clock=clock)
    first = store.start_cleanup_task(timedelta(minutes=10))
    task = store.start_cleanup_task(timedelta(minutes=5))
    await store.put("a", b"", ttl=60)
    await asyncio.sleep(0)
    assert first.cancelled()
    clock.advance(300)
    await turns(5)
    assert store.stats().expired_count == 1
    await store.aclose()
    assert task.cancelled()
    with pytest.raises(ClosedError):
        store.start_cleanup_task(HOUR)
