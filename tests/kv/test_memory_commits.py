"""MemoryStore: expectations, counters, ranges."""

from datetime import timedelta

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    ConflictError,
    InvalidKeyError,
    LimitExceededError,
    NotACounterError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import (
    ABSENT,
    Add,
    Cursor,
    Delete,
    Entry,
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


async def values_of(source):
    return {entry.key: entry.value async for entry in source.scan()}


@pytest.mark.parametrize(
    ("expect", "there", "absent"),
    [(ABSENT, False, True), (1, True, False), (2, False, False), (0, False, False), (-1, False, False)],
)
async def test_expectations(store, clock, expect, there, absent):
    await store.put("there", b"", ttl=10)  # revision 1
    await store.put("expired", b"", ttl=5)
    clock.advance(5)
    for key, holds in (("there", there), ("absent", absent), ("expired", absent)):
        if holds:
            await store.commit([Step(key, None, expect)])
        else:
            with pytest.raises(ConflictError) as caught:
                await store.commit([Step(key, None, expect)])
            assert caught.value.keys == (key,)
            assert set(caught.value.entries) == ({key} if key == "there" else set())
    assert store._table.revision == 2


async def test_a_conflict_names_every_key_that_failed_and_writes_nothing(store):
    await store.commit([Step("a", Put(b"1")), Step("b", Put(b"2"))])
    before = await values_of(store)
    steps = [Step("a", Put(b"x"), ABSENT), Step("b", Delete(), 9), Step("c", Put(b"x"), 3), Step("d", Put(b"x"))]
    with pytest.raises(ConflictError) as caught:
        await store.commit(steps)
    assert caught.value.keys == ("a", "b", "c")
    assert caught.value.entries == {"a": Entry("a", b"1", 1), "b": Entry("b", b"2", 1)}
    assert await values_of(store) == before
    assert await store.cursor() == Cursor(f"{store.id}:1")


async def test_a_commit_tells_what_it_wrote(store):
    await store.put("gone", b"")
    done = await store.commit(
        [Step("a", Put(b"1")), Step("n", Add(-3)), Step("gone", Delete()), Step("never", Delete())]
    )
    assert done.revision == 2
    assert done.entries == {"a": Entry("a", b"1", 2), "n": Entry("n", b"-3", 2)}
    assert await values_of(store) == {"a": b"1", "n": b"-3"}


async def test_what_changes_nothing_takes_no_revision(store):
    await store.put("a", b"")
    for steps in ([], [Step("a", None, 1)], [Step("b", Delete())], [Step("b", Delete(), ABSENT), Step("a")]):
        assert (await store.commit(steps)).revision == 1
        assert (await store.commit(steps)).entries == {}
    assert not await store.delete("b")
    assert (await store.put("a", b"")).revision == 2


@pytest.mark.parametrize("value", [b"", b"x", b"1.0", b" 1", b"+1", b"01", b"-0", b"9223372036854775808"])
async def test_add_meets_what_is_no_counter(store, value):
    await store.put("n", value)
    for steps in ([Step("n", Add(1))], [Step("a", Put(b"")), Step("n", Add(1, ttl=1))]):
        with pytest.raises(NotACounterError):
            await store.commit(steps)
    assert await values_of(store) == {"n": value}


async def test_a_counter_does_not_overflow(store):
    assert await store.increment("n", 2**63 - 1) == 2**63 - 1
    assert await store.increment("m", -(2**63)) == -(2**63)
    for key, delta in (("n", 1), ("m", -1)):
        with pytest.raises(NotACounterError):
            await store.increment(key, delta)
    assert await store.increment("n", -1) == 2**63 - 2


async def test_a_conflict_is_told_before_what_is_no_counter(store):
    await store.put("n", b"x")
    with pytest.raises(ConflictError):
        await store.commit([Step("n", Add(1)), Step("a", None, 7)])


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([Step("a", Put(b"")), Step("a")], InvalidKeyError),
        ([Step("b"), Step("a"), Step("b")], InvalidKeyError),
        (["a"], TypeError),
        ([Step("a", "put")], TypeError),
        ([Step("a", Add(1.5))], TypeError),
        ([Step("a", Add(True))], TypeError),
        ([Step("a", Put(b""), "7")], TypeError),
        ([Step("a", Put(b""), True)], TypeError),
        ([Step("a", Put(b"", ttl=0))], ValueError),
        ([Step("a", Put(b"", ttl=-1))], ValueError),
        ([Step("a", Put(b"", ttl="1"))], TypeError),
        ([Step("a", Put(b"", ttl=1e12))], LimitExceededError),
        ([Step("a", Put(b"", ttl=timedelta(days=365 * 7990)))], LimitExceededError),
        ([Step("n", Add(1, ttl=0))], ValueError),
    ],
)
async def test_a_commit_that_cannot_be_right_is_refused_whole(store, steps, error):
    with pytest.raises(error):
        await store.commit([Step("first", Put(b"")), *steps])
    with pytest.raises(error):
        await store.commit([*steps, Step("last", Put(b""))])
    assert await store.list_keys() == []


async def test_many_steps_are_one_commit(store):
    done = await store.commit([Step(f"k{number}", Put(b"")) for number in range(5000)])
    assert done.revision == 1
    assert len(done.entries) == len(await store.list_keys()) == 5000


async def test_conveniences(store):
    assert await store.put_if_absent("a", b"1")
    assert not await store.put_if_absent("a", b"2")
    assert await store.compare_and_swap("a", 1, b"3")
    assert not await store.compare_and_swap("a", 1, b"4")
    assert await store.increment("n") == 1
    assert await store.delete("a")
    assert not await store.delete("a")
    await store.flush()
    assert await values_of(store) == {"n": b"1"}


async def test_a_range_conflicts_with_what_was_written_or_removed_in_it(store, clock):
    for key in ("a", "b", "c", "d"):
        await store.put(key, b"")
    seen = store._table.revision
    await store.put("b", b"new")
    await store.delete("c")
    await store.commit([Step("b", Put(b"newer")), Step("z", Put(b""))])
    write = [Step("~", Put(b""))]
    for start, end in (("a", "b"), ("d", "z"), ("b", "b"), ("c", "b")):
        await store.commit(write, ranges=[RangeExpect(start, end, seen)])
    for start, end, keys in (("a", "d", ("b", "c")), ("c", None, ("c", "z", "~")), ("", "c", ("b",))):
        with pytest.raises(ConflictError) as caught:
            await store.commit(write, ranges=[RangeExpect(start, end, seen)])
        assert caught.value.keys == keys
        assert "c" not in caught.value.entries
        assert set(caught.value.entries) == set(keys) - {"c"}
    await store.commit(write, ranges=[RangeExpect("", None, store._table.revision)])


async def test_an_expiry_in_a_range_is_a_removal(store, clock):
    await store.put("a", b"", ttl=1)
    seen = store._table.revision
    await store.commit([Step("b", Put(b""))], ranges=[RangeExpect("a", "b", seen)])
    clock.advance(1)
    with pytest.raises(ConflictError) as caught:
        await store.commit([Step("b", Put(b""))], ranges=[RangeExpect("a", "b", seen)])
    assert (caught.value.keys, caught.value.entries) == (("a",), {})


async def test_a_range_older_than_the_log_is_a_conflict(store, clock):
    await store.put("a", b"")
    await store.put("b", b"")
    clock.advance(HOUR + timedelta(seconds=1))
    with pytest.raises(ConflictError, match="oldest change") as caught:
        await store.commit([Step("c", Put(b"")), Step("b", None, 9)], ranges=[RangeExpect("", None, 1)])
    assert caught.value.keys == ("b",)
    await store.commit([Step("c", Put(b""))], ranges=[RangeExpect("", None, 2)])


async def test_a_commit_with_bad_ranges_is_refused(store):
    for ranges in (["a"], [RangeExpect(1, None, 1)], [RangeExpect("", 2, 1)], [RangeExpect("", None, "1")]):
        with pytest.raises((TypeError, InvalidKeyError)):
            await store.commit([Step("a", Put(b""))], ranges=ranges)
