"""MemoryStore: snapshots, the versions that they hold, and loading."""

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    CompactedError,
    ConflictError,
    LimitExceededError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import (
    Batch,
    Delete,
    Entry,
    Put,
    RangeExpect,
    Step,
)


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


async def listed(iterator):
    return [item async for item in iterator]


async def keys_of(iterator):
    return [item.key async for item in iterator]


async def values_of(source):
    return {entry.key: entry.value async for entry in source.scan()}


async def put_many(store, count, prefix="k"):
    for number in range(count):
        await store.put(f"{prefix}{number:05d}", b"%d" % number)


async def test_a_snapshot_does_not_change(store, clock):
    await store.put("a", b"1")
    await store.put("b", b"2")
    await store.put("gone", b"3")
    await store.put("soon", b"4", ttl=5)
    before = await values_of(store)
    async with store.snapshot() as view:
        entries = await listed(store.scan())
        await store.put("a", b"x")
        await store.put("a", b"y", ttl=1)
        await store.put("new", b"z")
        await store.delete("gone")
        await store.commit([Step("b", Delete()), Step("b2", Put(b""))])
        await store.put("b", b"again")
        clock.advance(60)
        await store.cleanup_expired()
        assert await values_of(view) == before
        assert await listed(view.scan()) == entries
        assert await keys_of(view.scan("b", reverse=True)) == ["b"]
        assert await view.get_many(["gone", "new", "b"]) == {"gone": entries[2], "b": entries[1]}
        assert (await view.get("soon")).value == b"4"
        assert await view.get("b2") is None
        assert [batch.keys async for batch in view.batches(3)] == [["a", "b", "gone"], ["soon"]]
        assert view.revision == 4
        assert (await anext(store.watch(after=view.cursor))).revision == 5
    assert await values_of(store) == {"b": b"again", "b2": b"", "new": b"z"}
    assert store.held_versions == 0
    assert len(store._table._order) == 3


async def test_a_snapshot_hides_what_had_expired_when_it_was_taken(store, clock):
    await store.put("a", b"", ttl=1)
    async with store.snapshot() as early:
        clock.advance(1)
        async with store.snapshot() as late:
            assert early.revision == late.revision
            for sweep in (False, True):
                if sweep:
                    assert await store.cleanup_expired() == 1
                assert await keys_of(early.scan()) == ["a"]
                assert [batch.deadlines async for batch in early.batches()] == [[1_767_225_601_000]]
                assert await keys_of(late.scan()) == []
                assert await late.get("a") is None
                assert [batch async for batch in late.batches()] == []
    assert store.held_versions == 0


async def test_only_versions_that_a_snapshot_sees_are_held(store):
    await store.put("a", b"0")
    await store.put("a", b"1")
    assert store.held_versions == 0
    async with store.snapshot():
        for number in range(100):
            await store.put("a", b"%d" % number)
        await store.commit([Step("new", Put(b""))])
        await store.delete("new")
        assert store.held_versions == 1
        assert len(store._table._order) == 1
    assert store.held_versions == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_a_version_is_held_exactly_as_long_as_a_snapshot_needs_it(store, order):
    views, blocks = [], []
    for number in range(3):
        await store.put("a", b"%d" % number)
        if number == 1:
            await store.put("gone", b"")
        block = store.snapshot()
        blocks.append(block)
        views.append(await block.__aenter__())
    await store.delete("gone")
    await store.put("a", b"now")
    # a: one version for each snapshot; gone: one that the second and the third see
    needed = [{"a0"}, {"a1", "gone"}, {"a2", "gone"}]
    open_ = {0, 1, 2}
    for number in order:
        assert store.held_versions == len(set().union(*(needed[place] for place in open_)))
        for place in open_:
            assert (await views[place].get("a")).value == b"%d" % place
            assert (await views[place].get("gone") is None) == (place == 0)
            assert len(await keys_of(views[place].scan())) == (1 if place == 0 else 2)
        await blocks[number].__aexit__(None, None, None)
        open_.remove(number)
    assert store.held_versions == 0
    assert store._table._old == {}
    assert list(store._table._order) == ["a"]


async def test_short_snapshots_beside_a_long_one_leave_nothing_behind(store):
    await store.put("a", b"")
    async with store.snapshot() as long:
        for number in range(200):
            async with store.snapshot():
                await store.put("a", b"%d" % number)
        assert store.held_versions == 1
        assert (await long.get("a")).value == b""


async def test_many_versions_are_let_go_of_bit_by_bit(store):
    await put_many(store, 2000)
    async with store.snapshot():
        for number in range(2000):
            await store.delete(f"k{number:05d}")
        assert store.held_versions == 2000
        assert len(store._table._order) == 2000
    assert store.held_versions == 1500
    async with store.snapshot() as view:
        assert await keys_of(view.scan()) == []
    for _ in range(5):
        await asyncio.sleep(0)
    assert store.held_versions == 0
    assert len(store._table._order) == 0


async def test_a_snapshot_is_read_inside_its_block_only(store):
    await put_many(store, 3)
    block = store.snapshot()
    for use in (lambda: block.get("a"), lambda: listed(block.scan()), lambda: listed(block.batches())):
        with pytest.raises(ClosedError):
            await use()
    async with block as view:
        scan, batches = view.scan(), view.batches(1)
        await anext(scan)
        await anext(batches)
    for use in (
        lambda: view.get("a"),
        lambda: view.get_many(["a"]),
        lambda: anext(scan),
        lambda: anext(batches),
        block.__aenter__,
    ):
        with pytest.raises(ClosedError):
            await use()
    await block.__aexit__(None, None, None)


async def test_batches_are_the_snapshot_by_columns_whatever_is_written_meanwhile(store, clock):
    for number in range(2500):
        await store.put(f"k{number:05d}", b"%d" % number, ttl=60 if number % 7 == 0 else None)
    entries = await listed(store.scan())
    async with store.snapshot() as view:
        with pytest.raises(ValueError, match="size"):
            await listed(view.batches(0))
        found = []
        async for batch in view.batches(400):
            assert len(batch.keys) == (400 if len(found) < 6 else 100)
            found.append(batch)
            if len(found) == 2:
                await store.put("k01000", b"changed")
                await store.delete("k01400")
                await store.put("k01500x", b"new")
                clock.advance(60)
                await store.cleanup_expired()
            elif len(found) == 4:
                await store.put("k02000", b"changed")
        rows = [row for b in found for row in zip(b.keys, b.values, b.revisions, b.deadlines, strict=True)]
    deadline = 1_767_225_600_000 + 60_000
    assert rows == [(e.key, e.value, e.revision, deadline if e.expires_at else 0) for e in entries]


@pytest.mark.parametrize("revisions", [True, False])
@given(data=st.data(), ordered=st.booleans(), older=st.booleans())
async def test_batches_are_of_the_snapshot_whatever_is_written_between_them(revisions, data, ordered, older):
    names = [f"{number:02d}" for number in range(24)]
    changes = st.tuples(st.sampled_from(names), st.sampled_from([b"new", b"newer", None]))
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr("reactstate.kv.memory_view._PIECE", 3)
        store = await stack.enter_async_context(MemoryStore(clock=ManualClock()))
        filled = names[::2] if ordered else data.draw(st.permutations(names[::2]))
        if ordered:
            await store._load(given_batches(Batch(filled, [b"v"] * 12, [1] * 12, [0] * 12)), revision=1, replace=True)
        else:
            for name in filled:
                await store.put(name, b"v")
        if older:
            await stack.enter_async_context(store.snapshot())
        for name, value in data.draw(st.lists(changes, max_size=3)):
            await (store.delete(name) if value is None else store.put(name, value))
        expected = await listed(store.scan())
        found = Batch([], [], [], [])
        async with store.snapshot() as view:
            async for batch in view.batches(4, revisions=revisions):
                found.keys += batch.keys
                found.values += batch.values
                found.revisions += batch.revisions
                for name, value in data.draw(st.lists(changes, max_size=3)):
                    await (store.delete(name) if value is None else store.put(name, value))
        assert found.keys == [entry.key for entry in expected]
        assert found.values == [entry.value for entry in expected]
        assert found.revisions == ([entry.revision for entry in expected] if revisions else [])


async def given_batches(*batches):
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


LATER = 1_767_225_600_000 + 5000


async def test_load_replaces_everything_at_once(store, clock):
    await store.put("old", b"")
    cursor, watch = await store.cursor(), store.watch()
    batches = (Batch(["a", "b"], [b"1", b"2"], [1, 2], [0, LATER]), Batch(["é"], [b"3"], [3], [0]))
    async with store.snapshot() as view:
        assert await store._load(given_batches(*batches), revision=70, replace=True) == 3
        assert await values_of(view) == {"old": b""}
    assert await values_of(store) == {"a": b"1", "b": b"2", "é": b"3"}
    assert {entry.revision for entry in await listed(store.scan())} == {71}
    assert store.stats().bytes == 2 + 2 + 3
    for late in (watch, store.watch(after=cursor)):
        with pytest.raises(CompactedError) as caught:
            await anext(late)
    assert (await store.put("c", b"")).revision == 72
    assert (await anext(store.watch(after=caught.value.resume))).key == "c"
    clock.advance(5)
    assert await store.list_keys() == ["a", "c", "é"]
    assert await store.cleanup_expired() == 1
    with pytest.raises(ConflictError):
        await store.commit([Step("x", Put(b""))], ranges=[RangeExpect("", None, 1)])


async def test_load_stays_above_every_revision_of_the_store(store):
    for _ in range(9):
        await store.put("a", b"")

    async def batches():
        yield Batch(["a"], [b"1"], [1], [0])
        await store.put("a", b"written meanwhile")

    assert await store._load(batches(), revision=3, replace=True) == 1
    assert await store.get("a") == Entry("a", b"1", 11)


@pytest.mark.parametrize("size", [1, 7, 999, 1000, 1001, 2500, 10_000])
async def test_what_was_loaded_stays_in_key_order_whatever_is_written_after(store, size):
    keys = [f"{number:05d}" for number in range(5_000)]
    pieces = (keys[place : place + size] for place in range(0, len(keys), size))
    batches = [Batch(piece, [b""] * len(piece), [1] * len(piece), [0] * len(piece)) for piece in pieces]
    await store._load(given_batches(*batches), revision=1, replace=True)
    store._table._order._check()
    assert await store.list_keys() == keys
    gone = set(keys[::3])
    await store.commit([Step(key, Delete()) for key in gone] + [Step(f"{key}+", Put(b"")) for key in keys[::5]])
    expected = sorted({*keys, *(f"{key}+" for key in keys[::5])} - gone)
    assert await store.list_keys() == expected
    assert await keys_of(store.scan(reverse=True)) == expected[::-1]


async def test_a_store_that_is_not_empty_is_not_replaced_unasked(store, clock):
    await store.put("a", b"", ttl=1)
    with pytest.raises(ConflictError):
        await store._load(given_batches(), revision=1, replace=False)
    clock.advance(1)
    assert await store._load(given_batches(Batch(["b"], [b""], [1], [0])), revision=1, replace=False) == 1

    async def batches():
        await store.put("c", b"")
        yield Batch(["d"], [b""], [1], [0])

    await store.delete("b")
    with pytest.raises(ConflictError):
        await store._load(batches(), revision=1, replace=False)
    assert await store.list_keys() == ["c"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (RuntimeError("cut off"), RuntimeError),
        (Batch(["k" * 8193], [b""], [1], [0]), LimitExceededError),
        (Batch(["k"], [b"x" * 11], [1], [0]), LimitExceededError),
    ],
)
async def test_a_load_that_fails_leaves_the_store_as_it_was(store, monkeypatch, bad, error):
    monkeypatch.setattr("reactstate.kv.memory._MAX_VALUE", 10)
    monkeypatch.setattr(MemoryStore, "limits", type(store.limits)(8192, 10, 10, 100))
    await store.put("a", b"1")
    good = Batch(["k" * 8000], [b""], [1], [0])
    with pytest.raises(error):
        await store._load(given_batches(good, bad), revision=1, replace=True)
    assert await values_of(store) == {"a": b"1"}
    assert await store.cursor() == f"{store.id}:1"


async def test_a_load_into_a_store_closed_meanwhile_is_refused(store):
    async def batches():
        yield Batch(["a"], [b""], [1], [0])
        await store.aclose()

    with pytest.raises(ClosedError):
        await store._load(batches(), revision=1, replace=True)
