from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, precondition, rule

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    LimitExceededError,
    ReadOnlyError,
    SettingsError,
    StorageFailedError,
    UnsupportedError,
)
from reactstate.kv import lmdb_sharing
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.lmdb_environment import MAX_KEY_BYTES
from reactstate.kv.lmdb_table import LmdbTable
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Capability, EventKind
from reactstate.kv.urls import open_store

NEVER = StoreOptions(durability="never")


def put(table, rows, revision=1, time_ms=1, *, sync=False):
    def work(writer):
        writer.apply(rows)
        writer.append_log((revision, time_ms, b"events of %d" % revision))
        writer.advance(revision, time_ms)

    table.write(work, sync=sync)


def everything(table):
    latest = table.latest
    return latest.revision(), latest.log_floor(), latest.chunk("", None, 10_000), latest.log(0, 10_000)


def run(script, *args, **options):
    """Run *script* in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def table(place):
    table = LmdbTable(place)
    yield table
    table.close()


# --- the table against a toy model ------------------------------------------------------------------------------------

KEYS = st.one_of(
    st.sampled_from(["a", "b", "ab", "a\0", "ä", "日", "🙂", "z" * MAX_KEY_BYTES]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
)
BOUNDS = st.one_of(KEYS, st.sampled_from(["", "z" * 600, "ä" * 400]))
ROWS = st.tuples(
    st.binary(max_size=20), st.integers(1, (1 << 63) - 1), st.sampled_from([0, 0, 5, 7, 9, 253_402_300_799_999])
)


class Toy(RuleBasedStateMachine):
    views = Bundle("views")

    @initialize(durability=st.sampled_from(["always", "interval", "never"]))
    def begin(self, durability):
        self.place = Path(tempfile.mkdtemp()) / "store"
        self.durability = durability
        self.table = LmdbTable(self.place, durability=durability)
        self.id = self.table.id
        self.rows = {}
        self.log = []
        self.floor = 0
        self.revision = 0
        self.time = 0

    def teardown(self):
        if hasattr(self, "table"):
            self.table.close()
            shutil.rmtree(self.place.parent)

    @rule(rows=st.dictionaries(KEYS, st.none() | ROWS, max_size=6), sync=st.booleans(), passes=st.integers(0, 3))
    def write(self, rows, sync, passes):
        self.revision += 1
        self.time += passes
        entry = (self.revision, self.time, b"e" * passes)

        def work(writer):
            writer.apply(rows)
            writer.append_log(entry)
            writer.advance(self.revision, self.time)
            assert writer.revision() == (self.revision, self.time)
            for key, row in rows.items():
                assert writer.get(key) == row
                assert writer.stamp(key) == (None if row is None else row[1:])
            return "done"

        assert self.table.write(work, sync=sync) == "done"
        self.log.append(entry)
        self.rows.update(rows)
        self.rows = {key: row for key, row in self.rows.items() if row is not None}

    @rule(rows=st.dictionaries(KEYS, ROWS, max_size=4))
    def fail(self, rows):
        def work(writer):
            writer.clear()
            writer.apply(rows)
            writer.advance(1 << 60, 1 << 40)
            raise KeyError("on purpose")

        with pytest.raises(KeyError, match="on purpose"):
            self.table.write(work, sync=True)

    @rule(before=st.integers(0, 12))
    def trim(self, before):
        self.table.write(lambda writer: writer.trim_log(before), sync=False)
        gone = list(itertools.takewhile(lambda row: row[1] < before, self.log))
        if gone:
            self.floor = gone[-1][0]
            del self.log[: len(gone)]

    @rule(rows=st.dictionaries(KEYS, ROWS, max_size=8))
    def load(self, rows):
        def work(writer):
            writer.clear()
            for part in itertools.batched(sorted(rows), 3) if sys.version_info >= (3, 12) else parts(sorted(rows), 3):
                writer.load([(key, *rows[key]) for key in part])

        self.table.write(work, sync=False)
        self.rows = dict(rows)

    @rule(now=st.integers(0, 12), limit=st.integers(0, 5))
    def due(self, now, limit):
        found = self.table.write(lambda writer: writer.due(now, limit), sync=False)
        due = sorted((row[2], key) for key, row in self.rows.items() if 0 < row[2] <= now)
        assert found == [key for _, key in due[:limit]]

    @rule(start=BOUNDS, end=st.none() | BOUNDS, limit=st.integers(0, 6), reverse=st.booleans(), writing=st.booleans())
    def chunk(self, start, end, limit, reverse, writing):
        def read(reader):
            return reader.chunk(start, end, limit, reverse=reverse)

        found = self.table.write(read, sync=False) if writing else read(self.table.latest)
        keys = sorted((key for key in self.rows if key >= start and (end is None or key < end)), reverse=reverse)
        assert found == [(key, *self.rows[key]) for key in keys[:limit]]

    @rule(key=KEYS)
    def get(self, key):
        assert self.table.latest.get(key) == self.rows.get(key)

    @rule(after=st.integers(0, 12), limit=st.integers(0, 4))
    def read_log(self, after, limit):
        assert self.table.latest.log(after, limit) == [row for row in self.log if row[0] > after][:limit]
        assert self.table.latest.log_floor() == self.floor

    @rule(target=views)
    def view(self):
        return self.table.view(), dict(self.rows), list(self.log), (self.revision, self.time), self.floor

    @rule(view=views, key=KEYS)
    def look(self, view, key):
        reader, rows, log, revision, floor = view
        assert reader.get(key) == rows.get(key)
        assert reader.chunk("", None, 1000) == [(name, *rows[name]) for name in sorted(rows)]
        assert reader.log(0, 1000) == log
        assert reader.revision() == revision
        assert reader.log_floor() == floor

    @rule(view=consumes(views))
    def let_go(self, view):
        view[0].close()
        view[0].close()
        with pytest.raises(ClosedError):
            view[0].get("a")

    @precondition(lambda self: not self.table._views)
    @rule()
    def open_anew(self):
        self.table.flush()
        self.table.close()
        self.table = LmdbTable(self.place, durability=self.durability)
        assert self.table.id == self.id
        assert self.table.latest.revision() == (self.revision, self.time)


def parts(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


TestToy = Toy.TestCase
TestToy.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


# --- the table: reading and writing -----------------------------------------------------------------------------------


def test_a_view_keeps_the_state_that_it_was_taken_of(table):
    put(table, {"a": (b"1", 1, 0)})
    view = table.view()
    put(table, {"a": (b"2", 2, 0), "b": (b"", 2, 0)}, 2)
    assert view.get("a") == (b"1", 1, 0)
    assert view.chunk("", None, 10) == [("a", b"1", 1, 0)]
    assert (view.revision(), view.log_floor(), len(view.log(0, 10))) == ((1, 1), 0, 1)
    assert table.latest.get("a") == (b"2", 2, 0)
    view.close()
    table.latest.close()


def test_the_token_differs_after_a_commit_and_not_after_a_read(table):
    before = table.token()
    table.latest.get("a")
    table.write(lambda writer: writer.get("a"), sync=True)
    assert table.token() == before
    put(table, {"a": (b"1", 1, 0)})
    assert table.token() != before


def test_a_deadline_that_changes_is_due_once(table):
    for revision, deadline in enumerate([5, 5, 9, 0, 7], 1):
        put(table, {"a": (b"v", revision, deadline)}, revision)
        due = table.write(lambda writer: writer.due(100, 10), sync=False)
        assert due == (["a"] if deadline else [])
    put(table, {"a": None, "b": None}, 9)
    assert table.write(lambda writer: writer.due(100, 10), sync=False) == []


def test_keys_of_every_legal_length_can_have_a_deadline_and_longer_ones_are_refused(table):
    put(table, {"k" * MAX_KEY_BYTES: (b"v", 1, 5)})
    assert table.write(lambda writer: writer.due(5, 10), sync=False) == ["k" * MAX_KEY_BYTES]
    with pytest.raises(LimitExceededError) as caught:
        table.write(lambda writer: writer.load([("k" * (MAX_KEY_BYTES + 1), b"v", 1, 0)]), sync=False)
    assert (caught.value.limit, caught.value.actual) == (MAX_KEY_BYTES, MAX_KEY_BYTES + 1)
    with pytest.raises(LimitExceededError):
        put(table, {"k" * 512: (b"v", 1, 0)})
    assert table.latest.get("k" * 512) is None
    assert len(everything(table)[2]) == 1


def test_large_values_come_back_whole(table):
    value = os.urandom(3_000_000)
    put(table, {"a": (value, 1, 0)}, sync=True)
    assert table.latest.get("a") == (value, 1, 0)
    assert table.write(lambda writer: (writer.get("a"), writer.stamp("a")), sync=False) == ((value, 1, 0), (1, 0))
    assert table.size() > 3_000_000
    assert table.memory() == 0


def test_trimming_a_long_log_leaves_the_rest(table):
    def work(writer):
        for revision in range(1, 5001):
            writer.append_log((revision, revision // 10, b"x" * 30))
        writer.advance(5000, 500)

    table.write(work, sync=False)
    table.write(lambda writer: writer.trim_log(400), sync=False)
    assert table.latest.log_floor() == 3999
    assert [row[0] for row in table.latest.log(0, 10_000)] == list(range(4000, 5001))
    assert table.latest.revision() == (5000, 500)


def test_files_are_for_their_owner_only(place):
    old = os.umask(0)
    try:
        LmdbTable(place).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in place.iterdir()} == {0o600}


def test_what_is_no_path_or_no_map_size_is_refused(place):
    for wrong in ["", "a\0b"]:
        with pytest.raises(SettingsError, match="no path"):
            LmdbTable(wrong)
    for size in [0, 1000, 1 << 60, 1e9, True]:
        with pytest.raises(SettingsError, match="map_size"):
            LmdbTable(place, map_size=size)
    assert not place.exists()


def test_size_is_zero_once_the_files_are_gone(place):
    table = LmdbTable(place)
    shutil.rmtree(place)
    assert table.size() == 0
    table.close()


# --- the store --------------------------------------------------------------------------------------------------------


async def test_a_store_keeps_what_was_put_over_a_restart(place):
    async with LmdbStore.open(place) as store:
        assert store.engine == "lmdb"
        assert store.url == f"lmdb:{place}"
        assert store.capabilities == frozenset(Capability)
        assert store.limits.max_key_bytes == MAX_KEY_BYTES
        entry = await store.put("a", b"1")
    async with LmdbStore.open(str(place)) as store:
        assert await store.get("a") == entry
        assert await store.increment("n", 5) == 5
        assert await store.size_on_disk() > 0
    assert not lmdb_sharing._open


async def test_only_a_store_that_syncs_every_commit_promises_fencing(tmp_path):
    for durability in ("interval", "never"):
        async with LmdbStore.open(tmp_path / durability, options=StoreOptions(durability=durability)) as store:
            assert not store.supports(Capability.FENCING)
            assert store.supports(Capability.DURABLE, Capability.SHARED)
            await store.put("a", b"1")
            await store.flush()


async def test_a_url_opens_it_and_its_options_arrive(place):
    async with open_store(f"lmdb:{place}?map_size=2097152&durability=interval") as store:
        assert isinstance(store, LmdbStore)
        await store.put("a", b"1")
        assert store._table.env._map_size == 2 << 20


async def test_stores_of_one_process_see_each_others_commits(place):
    async with LmdbStore.open(place, options=NEVER) as first, LmdbStore.open(place) as second:
        watch = second.watch("a")
        await first.put("a", b"1")
        event = await watch.__anext__()
        assert (event.key, event.kind) == ("a", EventKind.PUT)
        assert (await second.get("a")).value == b"1"
        await watch.aclose()


async def test_stores_of_two_event_loops_share_one_environment(place):
    def other():
        async def main():
            async with LmdbStore.open(place, options=NEVER) as store:
                for _ in range(50):
                    await store.increment("n")

        asyncio.run(main())

    async with LmdbStore.open(place, options=NEVER) as store:
        thread = threading.Thread(target=other)
        thread.start()
        for _ in range(50):
            await store.increment("n")
        await asyncio.to_thread(thread.join)
        assert (await store.get("n")).value == b"100"


async def test_a_map_that_is_full_grows_under_commits_and_scans(place):
    async with LmdbStore.open(place, options=NEVER, map_size=1 << 20) as store:
        await asyncio.gather(*(store.put(f"{i:03}", bytes(20_000)) for i in range(400)))
        assert len([entry async for entry in store.scan()]) == 400


async def test_deleted_files_are_an_error_at_the_next_commit(place):
    store = await LmdbStore.open(place)
    await store.put("a", b"1")
    shutil.rmtree(place)
    with pytest.raises(StorageFailedError):
        await store.put("b", b"2")
    await store.aclose()


async def test_a_read_only_store_refuses_to_write(place):
    async with LmdbStore.open(place) as store:
        await store.put("a", b"1")
    async with LmdbStore.open(place, options=StoreOptions(read_only=True)) as store:
        assert (await store.get("a")).value == b"1"
        with pytest.raises(ReadOnlyError):
            await store.put("a", b"2")
        await store.flush()


async def test_without_the_package_the_error_names_the_extra(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "reactstate.kv.lmdb_table", None)
    with pytest.raises(UnsupportedError) as caught:
        await LmdbStore.open(place)
    assert (caught.value.extra, caught.value.engine) == ("lmdb", "lmdb")


def wait_until(condition):
    while not condition():
        time.sleep(0.001)


async def test_an_opening_that_is_cancelled_leaves_nothing_open(place):
    other = LmdbTable(place)
    other.env._opening.acquire()
    task = asyncio.ensure_future(LmdbStore.open(place).__aenter__())
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other.env._opening.release()
    await asyncio.to_thread(wait_until, lambda: other.env.users == 1)
    other.close()
    assert not lmdb_sharing._open


async def test_an_opening_that_is_cancelled_and_fails_is_forgotten(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    task = asyncio.ensure_future(LmdbStore.open(tmp_path / "file").__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: not lmdb_sharing._open)
    await asyncio.sleep(0.005)


async def test_entries_expire_by_the_clock_that_is_given(place):
    clock = ManualClock()
    async with LmdbStore.open(place, options=NEVER, clock=clock) as store:
        await store.put("a", b"1", ttl=1)
        clock.advance(1)
        assert await store.get("a") is None
        assert await store.cleanup_expired() == 1
