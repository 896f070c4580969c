from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import ClosedError, ConflictError, UnavailableError, UnknownOutcomeError, UnsupportedError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, ANY, Add, Capability, Limits, Put, ReadView, Step
from reactstate.kv.terms import check_commit, check_key
from reactstate.testing.conformance import KeyValueStoreConformance
from reactstate.testing.conformance_commits import CommitPromises
from reactstate.testing.stores import FaultyStore

ALL = frozenset(Capability)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    return FaultyStore(MemoryStore(clock=clock), clock=clock)


class TestWithoutFaultsItIsTheStore(KeyValueStoreConformance):
    capabilities = ALL - {Capability.DURABLE, Capability.SHARED}

    async def open_store(self, place, clock, options):
        return FaultyStore(MemoryStore(options=options, clock=clock), clock=clock)


class TestWithLateWakeups(KeyValueStoreConformance):
    capabilities = ALL - {Capability.DURABLE, Capability.SHARED}

    async def open_store(self, place, clock, options):
        store = FaultyStore(MemoryStore(options=options, clock=clock), seed=1, clock=clock)
        store.delay_wakeups(20)
        return store


class Kept(FaultyStore):
    """A memory store that is there again when it is opened anew: durable and shared, as far as one process goes."""

    closed = False

    def __init__(self, store, clock):
        super().__init__(store, clock=clock)
        self.capabilities = ALL
        self.watches = []

    def check(self):
        if self.closed:
            raise ClosedError("closed")

    def _strike(self, operation):
        self.check()
        super()._strike(operation)

    async def scan(self, prefix="", **options):
        async for entry in super().scan(prefix, **options):
            self.check()
            yield entry

    def watch(self, prefix="", *, after=None):
        self.watches.append(super().watch(prefix, after=after))
        return self.watches[-1]

    @asynccontextmanager
    async def snapshot(self):
        async with super().snapshot() as view:
            yield KeptView(self, view)

    async def aclose(self):
        self.closed = True
        if self._cleaner is not None:
            self._cleaner.cancel()
        for watch in self.watches:
            await watch.aclose()


class KeptView(ReadView):
    def __init__(self, store, view):
        self.store, self.view, self.revision, self.cursor = store, view, view.revision, view.cursor

    async def get(self, key):
        self.store.check()
        return await self.view.get(key)

    async def scan(self, prefix="", **options):
        self.store.check()
        async for entry in self.view.scan(prefix, **options):
            yield entry


class TestAStoreThatIsKept(KeyValueStoreConformance):
    capabilities = ALL

    @pytest.fixture(autouse=True)
    def places(self):
        self.stores = {}

    async def open_store(self, place, clock, options):
        kept = StoreOptions(default_ttl=options.default_ttl)  # it keeps its change log longer than it is asked to
        return Kept(self.stores.setdefault(place, MemoryStore(options=kept, clock=clock)), clock)


class Poor(FaultyStore):
    """A store that offers nothing but reads and commits of one key, and says so."""

    def __init__(self, store, declared, clock):
        super().__init__(store, clock=clock)
        self.capabilities = declared

    async def commit(self, steps, *, ranges=()):
        check_commit(steps, ranges, self.limits)
        if ranges:
            self.require("commit", Capability.RANGE_EXPECT)
        if len(steps) > 1:
            self.require("commit", Capability.TRANSACTIONS)
        for step in steps:
            if step.expect is not ANY:
                self.require("commit", Capability.CAS)
            if isinstance(step.op, (Put, Add)) and step.op.ttl is not None:
                self.require("commit", Capability.TTL)
        return await super().commit(steps, ranges=ranges)

    async def delete(self, key):
        return await self.store.delete(key)

    def watch(self, prefix="", *, after=None):
        self.require("watch", Capability.WATCH)
        return super().watch(prefix, after=after)

    async def cursor(self):
        self.require("cursor", Capability.WATCH)
        return await super().cursor()

    @asynccontextmanager
    async def snapshot(self):
        self.require("snapshot", Capability.SNAPSHOT_READS)
        async with super().snapshot() as view:
            yield view

    async def checkpoint(self, path, **options):
        self.require("checkpoint", Capability.SNAPSHOT_READS)
        return await super().checkpoint(path, **options)


class TestAStoreThatDeclaresNothing(KeyValueStoreConformance):
    capabilities = frozenset()

    async def open_store(self, place, clock, options):
        return Poor(MemoryStore(options=options, clock=clock), self.capabilities, clock)


class TestAStoreWithoutOrderOrSnapshots(KeyValueStoreConformance):
    capabilities = ALL - {
        Capability.DURABLE,
        Capability.SHARED,
        Capability.SNAPSHOT_READS,
        Capability.RANGE_EXPECT,
        Capability.TOTAL_ORDER,
    }

    async def open_store(self, place, clock):
        return Poor(MemoryStore(clock=clock), self.capabilities, clock)


class Small(FaultyStore):
    """A store that takes little."""

    def __init__(self, store, clock):
        super().__init__(store, clock=clock)
        self.limits = Limits(max_key_bytes=301, max_value_bytes=1000, max_steps=100, max_commit_bytes=20_000)

    async def get(self, key):
        check_key(key, self.limits)
        return await super().get(key)

    async def commit(self, steps, *, ranges=()):
        check_commit(steps, ranges, self.limits)
        return await super().commit(steps, ranges=ranges)


class TestAStoreThatTakesLittle(CommitPromises):
    capabilities = ALL - {Capability.DURABLE, Capability.SHARED}

    async def open_store(self, place, clock, options):
        return Small(MemoryStore(options=options, clock=clock), clock)


class ServerClock(FaultyStore):
    """A store whose own clock decides that entries have expired."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.ttl_clock = "server"


class TestAStoreWithAClockOfItsOwn(KeyValueStoreConformance):
    capabilities = ALL - {Capability.DURABLE, Capability.SHARED}

    @pytest.fixture(autouse=True)
    def server(self):
        self.clock = ManualClock()

    async def open_store(self, place, clock, options):
        return ServerClock(MemoryStore(options=options, clock=self.clock), clock=self.clock)

    async def pass_server_time(self, span):
        self.clock.advance(span)


# --- faults -------------------------------------------------------------------------------------------------------


async def test_a_failed_call_has_not_reached_the_store(store):
    await store.put("k", b"1")
    store.fail(2)
    with pytest.raises(UnavailableError):
        await store.put("k", b"2")
    with pytest.raises(UnavailableError):
        await store.get("k")
    assert (await store.get("k")).value == b"1"
    assert store.failed == {"commit": 1, "get": 1}
    assert store.calls == {"commit": 2, "get": 2}


async def test_every_operation_can_fail_alone(store):
    put = await store.put("k", b"")
    operations = {
        "get": lambda: store.get("k"),
        "get_many": lambda: store.get_many(["k"]),
        "scan": lambda: store.list_keys(),
        "commit": lambda: store.increment("n"),
        "snapshot": lambda: enter(store),
        "cursor": store.cursor,
    }
    for failing in operations:
        store.fail(on=failing)
        for name, call in operations.items():
            if name == failing:
                with pytest.raises(UnavailableError):
                    await call()
            else:
                await call()
    store.fail(on="watch")
    with pytest.raises(UnavailableError):
        store.watch()
    watch = store.watch()
    assert (await store.put("k", b"")).revision > put.revision
    assert (await anext(aiter(watch))).key == "k"
    await watch.aclose()


async def enter(store):
    async with store.snapshot():
        pass


async def test_a_dropped_reply_is_of_a_commit_that_was_applied(store):
    store.drop_reply()
    with pytest.raises(UnknownOutcomeError):
        await store.put("k", b"1")
    assert (await store.get("k")).value == b"1"
    store.drop_reply()
    with pytest.raises(ConflictError):  # there was no reply to drop but the refusal
        await store.commit([Step("k", Put(b"2"), ABSENT)])
    with pytest.raises(UnknownOutcomeError):
        await store.increment("n")
    assert await store.increment("n") == 2
    assert store.dropped == 2


async def test_the_same_seed_gives_the_same_faults(clock):
    async def run(seed):
        store = FaultyStore(MemoryStore(clock=clock), seed=seed, clock=clock)
        store.fail(probability=0.3)
        store.drop_reply(probability=0.3)
        outcomes = []
        for _ in range(60):
            try:
                await store.put("k", b"")
                outcomes.append("done")
            except (UnavailableError, UnknownOutcomeError) as exc:
                outcomes.append(type(exc).__name__)
        return outcomes

    first, again, other = await run(7), await run(7), await run(8)
    assert first == again
    assert first != other
    assert {"done", "UnavailableError", "UnknownOutcomeError"} == set(first)


async def test_delays_and_latency_are_taken_from_the_clock(store, clock):
    store.delay(5)
    store.latency = 1.0
    slow = asyncio.ensure_future(store.get("k"))
    await asyncio.sleep(0)
    clock.advance(5)
    await asyncio.sleep(0)
    assert not slow.done()
    clock.advance(1)
    await slow
    fast = asyncio.ensure_future(store.get("k"))
    await asyncio.sleep(0)
    assert not fast.done()
    clock.advance(1)
    await fast


async def test_healing_ends_all_faults(store):
    store.fail(3)
    store.fail(probability=1, on="get")
    store.drop_reply(3)
    store.delay(1, probability=1)
    store.delay_wakeups(5)
    store.latency = 2.0
    store.heal()
    await store.put("k", b"")
    assert await store.get("k") is not None
    assert not store.failed


@pytest.mark.parametrize("wrong", [{"calls": -1}, {"probability": 1.5}, {"probability": -0.1}])
def test_faults_that_cannot_be_are_refused(store, wrong):
    for fault in (store.fail, store.drop_reply, lambda **given: store.delay(1, **given)):
        with pytest.raises(ValueError):
            fault(**wrong)
    with pytest.raises(ValueError):
        store.delay_wakeups(-1)


async def test_late_wakeups_come_merged_and_in_order(clock):
    store = FaultyStore(MemoryStore(clock=clock), seed=3, clock=clock)
    store.delay_wakeups(30)
    watches = [store.watch() for _ in range(3)]
    seen = [[] for _ in watches]
    most_behind = 0

    async def follow(watch, events):
        async for event in watch:
            events.append(event.revision)

    following = [asyncio.create_task(follow(*pair)) for pair in zip(watches, seen, strict=True)]
    issued = []
    for _ in range(50):
        issued.append((await store.put("k", b"")).revision)
        await asyncio.sleep(0)
        most_behind = max(most_behind, *(len(issued) - len(events) for events in seen))
    while any(len(events) < len(issued) for events in seen):  # noqa: ASYNC110 - the events are what is waited for
        await asyncio.sleep(0)
    assert seen == [issued] * 3
    assert most_behind > 1
    await store.aclose()
    await asyncio.gather(*following)


async def test_it_says_what_the_store_says(store, tmp_path):
    assert (store.engine, store.url, store.limits) == (store.store.engine, store.store.url, store.store.limits)
    await store.put("k", b"", ttl=1)
    assert await store.memory_usage() > 0
    assert await store.size_on_disk() == 0
    await store.flush()
    assert store.stats().put_count == 1
    await store.checkpoint(tmp_path / "c")
    assert await store.restore(tmp_path / "c", replace=True) == 1
    async with store.snapshot() as view:
        assert await store._load(view.batches(), revision=50, replace=True) == 1
    assert (await store.get("k")).revision > 50
    with pytest.raises(UnsupportedError):
        store.require("tests", Capability.DURABLE)
