from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    ConflictError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability, Delete, Limits, Step
from reactstate.kv.urls import open_store
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.persistence.protocol import Snapshot
from reactstate.state.patch import apply_patch

LATER = {"cart": 2}
LAST = {"cart": 3}
BLOB = random.Random(1).randbytes(50_000)


class HastyClock(ManualClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds):
        self.advance(max(seconds, 0.001))
        await asyncio.sleep(0)


class CrashError(Exception):
    """The process ends here."""


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


async def opened(store, clock=None, **options):
    persistence = KeyValuePersistence(store, "cart", clock=clock or HastyClock(), **options)
    await persistence.load()
    return persistence


async def check(store, story, version, oldest, schema=None):
    """Load everything with eyes of its own, and look at every version that is kept."""
    loaded = await KeyValuePersistence(store, "cart").load(history=10_000)
    assert loaded.head.version == version
    assert loaded.head.document == story.document(version)
    assert loaded.head.change_id == f"{version:032x}"
    assert loaded.head.created_at_ns == 10**18 + 1
    if schema is not None:
        assert loaded.head.schema == schema
    numbers = [record.version for era in loaded.history for record in era.records]
    assert numbers == list(range(oldest, version + 1))
    for era in loaded.history:
        document = era.document
        for record in reversed(era.records):
            document = apply_patch(document, record.inverse)
            assert document == story.document(record.version - 1)


async def kinds(store):
    """Return the kinds of entries that there are, and how many of each; the sets of chunks are counted as sets."""
    found: dict[str, set[str]] = {}
    for key in await store.list_keys("~state/cart/"):
        _, _, kind, rest = key.split("/")
        found.setdefault(kind, set()).add(rest[:-7] if kind in {"base", "piece"} else rest)
    return {kind: len(rests) for kind, rests in found.items()}


@pytest.fixture(params=["memory", "sqlite", "lmdb"])
async def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"{request.param}://{tmp_path / 'store'}"
    async with open_store(url) as made:
        yield made


# --- what is kept ---------------------------------------------------------------------------------------------------


async def test_records_above_keep_since_stay_and_what_is_below_is_removed(store, story):
    a = await opened(store)
    await a.append(story.records(1, 30), story.schema)
    for keep_since, oldest in ((0, 1), (4, 5), (4, 5), (2, 5), (29, 30), (30, 31)):
        await a.save(story.snapshot(30), keep_since=keep_since)
        await check(store, story, 30, oldest)
        assert await kinds(store) == {"head": 1} | ({"record": 31 - oldest} if oldest < 31 else {}) | (
            {"base": 1} if oldest > 1 else {}
        )
    await a.append(story.records(31, 40), story.schema)
    await a.save(story.snapshot(30), keep_since=500)
    await check(store, story, 40, 41)
    assert await kinds(store) == {"head": 1, "base": 1}


async def test_eras_stay_as_long_as_their_records(store, story):
    a = await opened(store)
    await a.append(story.records(1, 4), story.schema)
    await a.save(story.snapshot(4, LATER), keep_since=0)
    await a.append(story.records(5, 8), LATER)
    await a.save(story.snapshot(8, LAST), keep_since=0)
    await a.append(story.records(9, 12), LAST)
    for keep_since, bases, schemas in (
        (0, 2, [story.schema, LATER, LAST]),
        (2, 3, [story.schema, LATER, LAST]),
        (4, 2, [LATER, LAST]),
        (7, 2, [LATER, LAST]),
        (10, 1, [LAST]),
        (12, 1, [LAST]),
    ):
        await a.save(story.snapshot(12, LAST), keep_since=keep_since)
        await check(store, story, 12, keep_since + 1, LAST)
        assert (await kinds(store))["base"] == bases
        loaded = await a.load()
        assert [era.schema for era in loaded.history] == schemas
        assert loaded.history[0].document == story.document({3: 4, 2: 8, 1: 12}[len(schemas)])


async def test_an_era_without_records_gives_way_to_the_next(store, story):
    a = await opened(store)
    await a.append(story.records(1, 4), story.schema)
    await a.save(story.snapshot(4, LATER), keep_since=0)
    await a.save(story.snapshot(4, LAST), keep_since=0)
    await check(store, story, 4, 1, LAST)
    assert (await kinds(store))["base"] == 1
    loaded = await a.load()
    assert [(era.schema, len(era.records)) for era in loaded.history] == [(story.schema, 4), (LAST, 0)]
    assert loaded.head.schema == LAST
    await a.save(story.snapshot(4, LATER), keep_since=4)
    await check(store, story, 4, 5, LATER)
    assert await kinds(store) == {"head": 1, "base": 1}


async def test_a_snapshot_above_the_newest_version_starts_anew(store, story):
    a = await opened(store)
    await a.save(story.snapshot(5), keep_since=0)
    await check(store, story, 5, 6, story.schema)
    await a.append(story.records(6, 8), story.schema)
    await a.save(story.snapshot(20, LATER), keep_since=0)
    await check(store, story, 20, 21, LATER)
    assert await kinds(store) == {"head": 1, "base": 1}
    await a.append(story.records(21, 21), LATER)
    await check(store, story, 21, 21, LATER)


async def test_a_deleted_state_needs_no_base(store):
    a = await opened(store)
    await a.save(Snapshot(7, None, LATER, "a" * 32, 1, 2), keep_since=7)
    loaded = await a.load()
    assert (loaded.head.version, loaded.head.document) == (7, None)
    assert await kinds(store) == {"head": 1}


async def test_a_compaction_of_what_is_gone_does_nothing(story):
    store = MemoryStore()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 3), story.schema)
    await b.load()
    await store.commit([Step(key, Delete()) for key in await store.list_keys()])
    await a._compactor.compact(3)
    assert await store.list_keys() == []
    with pytest.raises(ConflictError):
        await b.save(story.snapshot(3), keep_since=3)
    with pytest.raises(ConflictError):
        await b.append(story.records(4, 4), story.schema)


async def test_a_save_comes_after_the_appends_before_it(story):
    store = MemoryStore()
    a = await opened(store)
    writing = a.append(story.records(1, 9), story.schema)
    await a.save(story.snapshot(9), keep_since=4)
    await writing
    await check(store, story, 9, 5)


async def test_a_head_newer_than_a_view_is_not_forgotten_for_it(story):
    store = MemoryStore()
    a = await opened(store)
    async with store.snapshot() as empty:
        await a.append(story.records(1, 2), story.schema)
        async with store.snapshot() as early:
            await a.append(story.records(3, 3), story.schema)
            assert await a._head.read(empty) is None
            assert (await a._head.read(early)).version == 2
    assert a._head.known.version == 3


# --- beside others --------------------------------------------------------------------------------------------------


async def test_appends_during_a_compaction_are_kept(story):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await b.load()
    version = 10

    async def append(steps):
        nonlocal version
        if steps[0].key.endswith("/head/") or version > 14:
            return
        version += 1
        await b.append([story.record(version)], story.schema)

    store.before = append
    await a.save(story.snapshot(10), keep_since=6)
    store.before = None
    assert version > 10
    await check(store, story, version, 7)


async def test_an_append_between_plan_and_commit_of_a_compaction_is_kept(story):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await b.load()

    async def append(steps):
        if steps[0].key.endswith("/head/"):
            store.before = None
            await b.append(story.records(11, 12), story.schema)

    store.before = append
    await a.save(story.snapshot(10), keep_since=6)
    await check(store, story, 12, 7)
    await a.fetch(10)
    await a.append(story.records(13, 13), story.schema)


@pytest.mark.parametrize("other", [3, 6, 8])
async def test_of_two_compactions_at_once_the_later_base_stays(story, other):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await b.load()

    async def compact(steps):
        if steps[0].key.endswith("/head/"):
            store.before = None
            await b.save(story.snapshot(10), keep_since=other)

    store.before = compact
    await a.save(story.snapshot(10), keep_since=6)
    await check(store, story, 10, max(6, other) + 1)
    assert await kinds(store) == {"head": 1, "base": 1, "record": 10 - max(6, other)}


async def test_a_change_of_schema_during_a_compaction_is_kept(story):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await b.load()

    async def rebase(steps):
        if steps[0].key.endswith("/head/"):
            store.before = None
            await b.save(story.snapshot(10, LATER), keep_since=0)

    store.before = rebase
    await a.save(story.snapshot(10), keep_since=6)
    await check(store, story, 10, 7, LATER)


async def test_a_change_of_schema_that_loses_the_race_at_the_last_moment_leaves_nothing(story):
    store = Hooked()
    a, b = await opened(store), await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await b.load()

    async def append(steps):
        if steps[0].key.endswith("/head/"):
            store.before = None
            await b.append(story.records(11, 11), story.schema)

    store.before = append
    with pytest.raises(ConflictError):
        await a.save(story.snapshot(10, LATER), keep_since=0)
    await check(store, story, 11, 1, story.schema)
    assert await kinds(store) == {"head": 1, "record": 11}


async def test_chunks_that_a_sweep_took_from_a_slow_compaction_are_written_again(story):
    clock = HastyClock()
    store = Hooked(clock=clock)
    a, b = await opened(store, clock), await opened(store, clock)
    await a.append(story.records(1, 10), story.schema)
    await b.load()

    async def sweep(steps):
        if steps[0].key.endswith("/head/"):
            store.before = None
            clock.advance(3600)
            await b.save(story.snapshot(10, LATER), keep_since=0)
            assert (await kinds(store))["base"] == 1

    store.before = sweep
    await a.save(story.snapshot(10), keep_since=6)
    await check(store, story, 10, 7, LATER)
    assert (await kinds(store))["base"] == 2


async def test_a_sweep_leaves_what_a_compaction_names_in_the_meantime(story):
    clock = HastyClock()
    store = Hooked(clock=clock)
    a, b = await opened(store, clock), await opened(store, clock)
    await a.append(story.records(1, 10), story.schema)
    await b.load()
    held = asyncio.Event()
    about = asyncio.Event()

    async def hold(steps):
        if steps[0].key.endswith("/head/"):
            store.before = None
            about.set()
            await held.wait()

    store.before = hold
    slow = asyncio.ensure_future(a.save(story.snapshot(10), keep_since=6))
    await about.wait()
    clock.advance(3600)
    named: list[str] = []

    async def name(steps):
        if isinstance(steps[0].op, Delete) and "/base/" in steps[0].key:
            store.before = None
            named.append(steps[0].key)
            held.set()
            await slow

    store.before = name
    # The other one sees the chunks as left over, and is about to remove them when they are named.
    await b._compactor.sweep([])
    assert named
    await check(store, story, 10, 7)
    assert await kinds(store) == {"head": 1, "base": 1, "record": 4}


async def test_a_sweep_removes_nothing_after_the_store_was_put_back(story, tmp_path):
    store = Hooked()
    a = await opened(store)
    await a.append(story.records(1, 10), story.schema)
    await store.checkpoint(tmp_path / "early")

    async def restore(steps):
        if any(isinstance(step.op, Delete) and "/record/" in step.key for step in steps):
            store.before = None
            await store.restore(tmp_path / "early", replace=True)

    store.before = restore
    await a.save(story.snapshot(10), keep_since=6)
    assert store.before is None
    await check(store, story, 10, 1)


# --- crashes and lost replies ---------------------------------------------------------------------------------------


async def prepared(story, clock, small=False):
    store = Hooked(clock=clock)
    if small:
        store.limits = Limits(400, 400, 4, 1600)
    a = await opened(store, clock)
    for start in range(1, 31, 3):
        await a.append(story.records(start, start + 2), story.schema)
    return store, a


async def crash_at(store, count, when, work):
    """Let commit number *count* crash, before or after it is applied; say whether it came to that."""
    left = count

    async def crash(steps):
        nonlocal left
        left -= 1
        if left < 0:
            raise CrashError

    setattr(store, when, crash)
    with contextlib.suppress(CrashError):
        await work
    setattr(store, when, None)
    return left < 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rebase", [False, True])
@pytest.mark.parametrize("small", [False, True])
async def test_a_crash_at_any_step_of_a_save_loses_nothing_and_its_leftovers_are_removed_later(
    story, when, rebase, small
):
    count, crashed = 0, True
    while crashed:
        clock = HastyClock()
        store, a = await prepared(story, clock, small)
        await a.save(story.snapshot(30), keep_since=5)
        snapshot = story.snapshot(30, LATER if rebase else None)
        crashed = await crash_at(store, count, when, a.save(snapshot, keep_since=20))
        loaded = await KeyValuePersistence(store, "cart").load()
        oldest = loaded.history[0].records[0].version
        assert oldest in {6, 21}
        await check(store, story, 30, oldest)
        # Another process goes on, and sweeps what is old enough.
        b = await opened(store, clock)
        schema = (await b.load()).head.schema
        await b.append(story.records(31, 32), schema)
        await b.save(story.snapshot(32, schema), keep_since=25)
        await check(store, story, 32, 26)
        clock.advance(3600)
        await b.save(story.snapshot(32, schema), keep_since=26)
        await check(store, story, 32, 27)
        bases = 2 if rebase and schema == LATER else 1
        assert await kinds(store) == {"head": 1, "base": bases, "record": 6}
        count += 1
    assert count > 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lost_reply_or_request_at_any_step_of_a_save_is_resolved(story, when):
    count, lost = 0, True
    while lost:
        clock = HastyClock()
        store, a = await prepared(story, clock)
        left = count

        async def lose(steps):
            nonlocal left
            left -= 1
            if left == -1:
                raise UnknownOutcomeError("no answer")

        setattr(store, when, lose)
        await a.save(story.snapshot(30, LATER), keep_since=0)
        await a.append(story.records(31, 32), LATER)
        await a.save(story.snapshot(32, LATER), keep_since=20)
        await a.save(story.snapshot(32, LATER), keep_since=31)
        setattr(store, when, None)
        lost = left < 0
        await check(store, story, 32, 32, LATER)
        assert (await kinds(store))["base"] == 1 or lost
        count += 1
    assert count > 6


async def test_a_save_whose_outcome_stays_unknown_leaves_its_chunks_alone(story):
    store, a = await prepared(story, HastyClock())

    async def refuse(steps):
        raise StorageFailedError("open it anew")

    async def lose(steps):
        if steps[0].key.endswith("/head/"):
            store.after, store.before = None, refuse
            store.flush = lambda: refuse(())
            raise UnknownOutcomeError("no answer")

    store.after = lose
    with pytest.raises(UnknownOutcomeError):
        await a.save(story.snapshot(30), keep_since=20)
    store.before = None
    await check(store, story, 30, 21)


async def test_what_cannot_be_swept_is_left_and_reported(story, caplog):
    store, a = await prepared(story, HastyClock())

    async def fail(steps):
        if isinstance(steps[0].op, Delete):
            raise UnavailableError("gone")

    store.before = fail
    await a.save(story.snapshot(30), keep_since=20)
    assert "could not be removed" in caplog.text
    await check(store, story, 30, 21)
    assert (await kinds(store))["record"] == 30
    store.before = None
    await a._compactor.sweep([])
    assert (await kinds(store))["record"] == 10


async def test_a_sweep_takes_many_records_in_pieces(story):
    store = MemoryStore()
    a = await opened(store)
    await a.append(story.records(1, 1200), story.schema)
    await a.save(story.snapshot(1200), keep_since=1100)
    assert await kinds(store) == {"head": 1, "base": 1, "record": 100}
    empty = MemoryStore()
    await (await opened(empty))._compactor.sweep([])
    assert await empty.list_keys() == []


async def test_chunks_of_blobs_that_nothing_names_are_swept_and_those_in_use_are_not(story):
    clock = HastyClock()
    store = Hooked(clock=clock)
    a = await opened(store, clock)
    await a.append(story.records(1, 10), story.schema)

    async def crash(steps):
        if "/blob/" in steps[0].key:
            raise CrashError

    await a.put_blob("kept", BLOB)
    await a.put_blob("kept/too", BLOB)
    store.before = crash
    for name in ("kept", "gone"):
        with pytest.raises(CrashError):
            await a.put_blob(name, BLOB * 2)
    store.before = None
    assert await kinds(store) == {"head": 1, "record": 10, "blob": 2, "piece": 4}
    await a.save(story.snapshot(10), keep_since=2)
    assert (await kinds(store))["piece"] == 4
    clock.advance(3600)
    await a.save(story.snapshot(10), keep_since=3)
    assert (await kinds(store))["piece"] == 2
    assert await a.get_blob("kept") == BLOB
    assert await a.get_blob("kept/too") == BLOB


async def test_a_large_history_is_compacted_while_the_event_loop_goes_on(story):
    class Plain(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

    store = Plain()
    a = await opened(store)
    await a.append(story.records(1, 3000), story.schema)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    await a.save(story.snapshot(3000), keep_since=2990)
    ticking.cancel()
    assert ticks > 1
    await check(store, story, 3000, 2991)
