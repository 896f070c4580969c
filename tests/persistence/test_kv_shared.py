from __future__ import annotations

import asyncio

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    CompactedError,
    ConflictError,
    CorruptionError,
    StorageError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability, Delete, Put, Step
from reactstate.kv.urls import open_store
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.persistence.protocol import Record
from reactstate.testing.stores import FaultyStore

LATER = {"cart": 2}
HEAD = "~state/cart/head/"


class HastyClock(ManualClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds):
        self.advance(max(seconds, 0.001))
        await asyncio.sleep(0)


class Hooked(MemoryStore):
    """Calls what the test gives before and after each commit."""

    before = after = None

    async def commit(self, steps, *, ranges=()):
        if self.before is not None:
            await self.before(steps)
        done = await super().commit(steps, ranges=ranges)
        if self.after is not None:
            await self.after(steps)
        return done


async def opened(store, key="cart", **options):
    persistence = KeyValuePersistence(store, key, **{"clock": HastyClock()} | options)
    await persistence.load()
    return persistence


def numbers(records):
    return [record.version for record in records]


async def stored(store):
    loaded = await KeyValuePersistence(store, "cart").load()
    return [(record.version, record.change_id) for era in loaded.history for record in era.records]


def by(writer, version, story):
    record = story.record(version)
    return Record(
        version, f"{writer}{version:031x}", record.timestamp_ns, record.kind, writer, None, None, None, record.patch
    )


@pytest.fixture(params=["memory", "sqlite", "lmdb"])
async def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"{request.param}://{tmp_path / 'store'}"
    async with open_store(url) as made:
        yield made


# --- two writers ----------------------------------------------------------------------------------------------------


async def test_of_two_writers_one_wins_and_the_other_fetches_what_it_missed(store, story):
    a, b = await opened(store), await opened(store)
    assert a.shared
    await a.append([by("a", 1, story)], story.schema)
    with pytest.raises(ConflictError):
        await b.append([by("b", 1, story)], story.schema)
    fetched = await b.fetch(0)
    assert (fetched.version, numbers(fetched.records)) == (1, [1])
    await b.append([by("b", 2, story), by("b", 3, story)], story.schema)
    with pytest.raises(ConflictError):
        await a.append([by("a", 2, story)], story.schema)
    assert numbers((await a.fetch(1)).records) == [2, 3]
    assert (await a.fetch(3)).records == []
    await a.append([by("a", 4, story)], story.schema)
    assert [change_id[0] for _, change_id in await stored(store)] == ["a", "b", "b", "a"]


async def test_racing_writers_lose_nothing_and_write_nothing_twice(store, story):
    async def write(name):
        writer = await opened(store)
        version = (await writer.fetch(0)).version
        made = []
        while len(made) < 25:
            try:
                await writer.append([by(name, version + 1, story)], story.schema)
            except ConflictError:
                version = (await writer.fetch(version)).version
                continue
            version += 1
            made.append((version, f"{name}{version:031x}"))
        return made

    made = [change for changes in await asyncio.gather(*map(write, "abc")) for change in changes]
    assert await stored(store) == sorted(made)


async def test_an_append_passes_over_a_compaction_by_somebody_else(store, story):
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await b.load()
    await b.save(story.snapshot(10), keep_since=5)
    await a.append(story.records(11, 11), story.schema)
    assert numbers((await a.load()).history[0].records) == list(range(6, 12))


async def test_fetch_says_what_it_cannot_lead_to(store, story):
    a, b = await opened(store), await opened(store)
    assert (await b.fetch(0)).version == 0
    with pytest.raises(CompactedError):
        await b.fetch(3)
    await a.append(story.records(1, 10), story.schema)
    await b.load()
    await a.save(story.snapshot(10), keep_since=6)
    with pytest.raises(CompactedError) as caught:
        await b.fetch(5)
    assert caught.value.resume == 6
    assert numbers((await b.fetch(6)).records) == [7, 8, 9, 10]
    assert (await b.fetch(10)).records == []
    with pytest.raises(CompactedError):
        await b.fetch(11)
    await a.save(story.snapshot(10, LATER), keep_since=6)
    with pytest.raises(CompactedError):
        await b.fetch(10)
    with pytest.raises(ConflictError):
        await b.append(story.records(11, 11), story.schema)
    with pytest.raises(ConflictError):  # the snapshot of one who has not seen that somebody else went over already
        await b.save(story.snapshot(10, LATER), keep_since=6)
    await b.load()
    await b.append(story.records(11, 100), LATER)
    assert len((await a.fetch(10)).records) == 90


async def test_one_who_opened_before_anything_was_there_takes_over_the_schema(story):
    store = MemoryStore()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 2), LATER)
    assert (await b.fetch(0)).version == 2
    await b.append(story.records(3, 3), LATER)
    assert len(await stored(store)) == 3


async def test_a_change_of_schema_that_loses_the_race_changes_nothing(story):
    store = MemoryStore()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 2), story.schema)
    with pytest.raises(ConflictError):
        await b.save(story.snapshot(2, LATER), keep_since=0)
    await b.load()
    await a.append(story.records(3, 3), story.schema)
    with pytest.raises(ConflictError):
        await b.save(story.snapshot(2, LATER), keep_since=0)
    assert [key for key in await store.list_keys() if "/base/" in key] == []
    await b.fetch(2)
    with pytest.raises(ValueError, match="newest version 3"):
        await b.save(story.snapshot(2, LATER), keep_since=0)
    await b.save(story.snapshot(3, LATER), keep_since=0)
    assert (await a.load()).head.schema == LATER


async def test_another_change_of_the_same_version_after_a_restore_is_found(story, tmp_path):
    store = MemoryStore()
    a, b = await opened(store), await opened(store)
    await a.append([by("a", 1, story)], story.schema)
    await store.checkpoint(tmp_path / "early")
    await a.append([by("a", 2, story)], story.schema)
    await store.restore(tmp_path / "early", replace=True)
    await b.load()
    await b.append([by("b", 2, story)], story.schema)
    with pytest.raises(ConflictError):
        await a.append([by("a", 3, story)], story.schema)
    with pytest.raises(StorageError, match="restored"):
        await a.fetch(2)
    await b.append([by("b", 3, story)], story.schema)
    with pytest.raises(StorageError, match="restored"):
        await a.fetch(2)
    with pytest.raises(ConflictError):
        await a.save(story.snapshot(9), keep_since=0)
    assert await stored(store) == [(1, f"a{1:031x}"), (2, f"b{2:031x}"), (3, f"b{3:031x}")]


# --- lost replies ---------------------------------------------------------------------------------------------------


async def test_a_lost_reply_is_resolved_as_applied(story):
    store = FaultyStore(MemoryStore())
    a = await opened(store)
    for version in range(1, 10):
        store.drop_reply(1)
        await a.append([story.record(version)], story.schema)
    assert store.dropped == 9
    assert numbers((await a.fetch(0)).records) == list(range(1, 10))


async def test_a_lost_request_is_sent_again(story):
    store = Hooked()

    async def lose(steps):
        store.before = None
        raise UnknownOutcomeError("no answer")

    a = await opened(store)
    for version in range(1, 5):
        store.before = lose
        await a.append([story.record(version)], story.schema)
    assert len(await stored(store)) == 4


async def test_a_request_that_arrives_after_its_repetition_is_not_applied_twice(story):
    store = Hooked()
    late = []

    async def lose(steps):
        store.before = arrive
        late.append(steps)
        raise UnknownOutcomeError("no answer")

    async def arrive(steps):
        store.before = None
        await MemoryStore.commit(store, late.pop())

    a = await opened(store)
    for version in range(1, 4):
        store.before = lose
        await a.append([story.record(version)], story.schema)
    assert not late
    assert len(await stored(store)) == 3


async def test_a_lost_request_whose_place_was_taken_is_a_conflict(story):
    store = Hooked()
    a, b = await opened(store), await opened(store)

    async def lose(steps):
        store.before = None
        await b.append([by("b", 1, story)], story.schema)
        raise UnknownOutcomeError("no answer")

    store.before = lose
    with pytest.raises(ConflictError):
        await a.append([by("a", 1, story)], story.schema)
    assert await stored(store) == [(1, f"b{1:031x}")]


async def test_a_lost_reply_is_resolved_though_others_went_on_and_their_changes_wake(story):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append([by("a", 1, story)], story.schema)
    wakes = a.watch_head()
    await anext(wakes)

    async def lose(steps):
        store.after = None
        await b.load()
        await b.append([by("b", 3, story)], story.schema)
        raise UnknownOutcomeError("no answer")

    store.after = lose
    await a.append([by("a", 2, story)], story.schema)
    async with asyncio.timeout(5):
        await anext(wakes)
    assert numbers((await a.fetch(2)).records) == [3]
    await a.append([by("a", 4, story)], story.schema)
    assert [change_id[0] for _, change_id in await stored(store)] == ["a", "a", "b", "a"]
    await wakes.aclose()


@pytest.mark.parametrize("further", [0, 1])
async def test_a_lost_reply_to_what_was_compacted_since_is_told_by_the_head_or_unknown(story, further):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 3), story.schema)

    async def lose(steps):
        store.after = None
        await b.load()
        if further:
            await b.append(story.records(5, 5), story.schema)
        await b.save(story.snapshot(4 + further), keep_since=4 + further)
        raise UnknownOutcomeError("no answer")

    store.after = lose
    if further:
        with pytest.raises(UnknownOutcomeError):
            await a.append(story.records(4, 4), story.schema)
    else:
        await a.append(story.records(4, 4), story.schema)
    await a.load()
    await a.append(story.records(5 + further, 5 + further), story.schema)


async def test_an_outcome_that_stays_unknown_is_said_so_and_the_persistence_goes_on(story):
    store = FaultyStore(MemoryStore())
    a = await opened(store, deadline=5.0)
    await a.append(story.records(1, 1), story.schema)

    store.drop_reply(1)
    original = store.commit

    async def commit(steps, *, ranges=()):
        try:
            return await original(steps, ranges=ranges)
        except UnknownOutcomeError:
            store.fail(probability=1.0)
            raise

    store.commit = commit
    with pytest.raises(UnknownOutcomeError):
        await a.append(story.records(2, 2), story.schema)
    with pytest.raises(UnavailableError):
        await a.append(story.records(2, 2), story.schema)
    store.heal()
    with pytest.raises(ConflictError):
        await a.append(story.records(2, 2), story.schema)
    assert numbers((await a.fetch(1)).records) == [2]
    await a.append(story.records(3, 3), story.schema)
    assert len(await stored(store)) == 3


async def test_an_applied_commit_that_the_store_cannot_make_durable_is_of_unknown_outcome(story):
    class Failing(Hooked):
        async def flush(self):
            raise StorageFailedError("the disk is gone")

    store = Failing()

    async def lose(steps):
        store.after = None
        raise UnknownOutcomeError("the sync failed")

    a = await opened(store)
    store.after = lose
    with pytest.raises(UnknownOutcomeError, match="durable"):
        await a.append(story.records(1, 1), story.schema)


async def test_a_store_that_refuses_after_a_lost_reply_leaves_the_outcome_unknown(story):
    store = Hooked()

    async def refuse(steps):
        raise StorageFailedError("open it anew")

    async def lose(steps):
        store.before = refuse
        raise UnknownOutcomeError("the sync failed")

    a = await opened(store)
    store.before = lose
    with pytest.raises(UnknownOutcomeError) as caught:
        await a.append(story.records(1, 1), story.schema)
    assert isinstance(caught.value.__cause__, StorageFailedError)
    store.before = refuse
    with pytest.raises(StorageFailedError):
        await a.append(story.records(1, 1), story.schema)


async def test_a_store_out_of_reach_is_tried_again_until_the_deadline(story):
    store = FaultyStore(MemoryStore())
    clock = HastyClock()
    a = await opened(store, clock=clock, deadline=10.0)
    for call in (
        lambda: a.append(story.records(1, 1), story.schema),
        lambda: a.fetch(0),
        lambda: a.load(),
        lambda: a.save(story.snapshot(1), keep_since=1),
        lambda: a.put_blob("x", b"1"),
        lambda: a.get_blob("x"),
        lambda: a.list_blobs(),
        lambda: a.delete_blob("x"),
    ):
        store.fail(4)
        await call()
    store.heal()
    began = clock.monotonic()
    store.fail(probability=1.0, on="commit")
    with pytest.raises(UnavailableError):
        await a.append(story.records(2, 2), story.schema)
    assert 5 < clock.monotonic() - began < 11
    store.heal()
    await a.append(story.records(2, 2), story.schema)


async def test_a_record_above_the_head_is_damage_and_not_a_race(story):
    store = MemoryStore()
    a = await opened(store)
    await a.append(story.records(1, 1), story.schema)
    entry = await store.get("~state/cart/record/00000000000000000001")
    await store.commit([Step("~state/cart/record/00000000000000000002", Put(entry.value))])
    with pytest.raises(CorruptionError):
        await a.append(story.records(2, 2), story.schema)


# --- readers beside writers -----------------------------------------------------------------------------------------


async def test_loads_and_fetches_beside_appends_and_compactions_see_one_moment(story):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

        async def get_many(self, keys):
            await asyncio.sleep(0)
            return await super().get_many(keys)

        async def commit(self, steps, *, ranges=()):
            await asyncio.sleep(0)
            return await super().commit(steps, ranges=ranges)

    store = Plain()
    writer, compactor, reader = await opened(store), await opened(store), await opened(store)
    await writer.append(story.records(1, 1), story.schema)
    running = True

    async def write():
        for version in range(2, 120):
            await writer.append([story.record(version)], story.schema)

    async def compact():
        version = 1
        while running:
            fetched = await compactor.load()
            version = fetched.head.version
            await compactor.save(fetched.head, keep_since=version - 5)

    async def read():
        seen = 0
        while running:
            loaded = await reader.load()
            assert loaded.head.version >= seen
            seen = loaded.head.version
            assert loaded.head.document == story.document(seen)
            records = loaded.history[-1].records
            assert numbers(records) == list(range(seen - len(records) + 1, seen + 1))
            try:
                fetched = await reader.fetch(seen)
            except CompactedError:
                continue
            assert numbers(fetched.records) == list(range(seen + 1, fetched.version + 1))

    others = [asyncio.ensure_future(compact()), asyncio.ensure_future(read())]
    await write()
    running = False
    await asyncio.gather(*others)
    assert (await reader.load()).head.document == story.document(119)


async def test_a_load_begins_anew_when_the_entries_are_newer_than_the_head(story):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}
        replaced = False

        async def get_many(self, keys):
            if self.replaced:
                self.replaced = False
                entries = [entry async for entry in self.scan()]
                await self.commit([Step(entry.key, Put(entry.value)) for entry in entries])
            return await super().get_many(keys)

    store = Plain()
    a = await opened(store)
    await a.append(story.records(1, 5), story.schema)
    store.replaced = True
    assert (await a.load()).head.version == 5
    # A restore that gave the head an older revision than the records, as one in pieces may.
    head = await store.get(HEAD)
    record = await store.get("~state/cart/record/00000000000000000003")
    await store.commit([Step(record.key, Put(record.value))])
    assert (await store.get(HEAD)).revision == head.revision
    assert (await a.load()).head.version == 5
    await store.commit([Step(record.key, Delete())])
    with pytest.raises(CorruptionError):
        await a.load()


async def test_a_load_that_finds_the_state_removed_meanwhile_finds_nothing(story):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}
        removed = False

        async def get_many(self, keys):
            if self.removed:
                await self.commit([Step(key, Delete()) for key in await self.list_keys()])
            return await super().get_many(keys)

    store = Plain()
    a = await opened(store)
    await a.append(story.records(1, 5), story.schema)
    store.removed = True
    assert await a.load() is None
