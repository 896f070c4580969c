from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, precondition, rule

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    CorruptionError,
    LimitExceededError,
    ReadOnlyError,
    SettingsError,
    StorageError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
    UnsupportedError,
)
from reactstate.kv import lmdb_environment
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.lmdb_check import check_file
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
ROWS = st.tuples(st.binary(max_size=20), st.integers(1, (1 << 63) - 1), st.sampled_from([0, 0, 5, 7, 9, 253_402_300_799_999]))


class Toy(RuleBasedStateMachine):
    views = Bundle("views")

    @initialize(ordered=st.booleans())
    def begin(self, ordered):
        self.place = Path(os.path.realpath("/tmp")) / f"toy-{os.getpid()}-{next(COUNT)}"
        self.ordered = ordered
        self.table = LmdbTable(self.place, ordered=ordered)
        self.id = self.table.id
        self.rows = {}
        self.log = []
        self.floor = 0
        self.revision = 0
        self.time = 0

    def teardown(self):
        if hasattr(self, "table"):
            self.table.close()
            shutil.rmtree(self.place)

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
        self.table = LmdbTable(self.place, ordered=self.ordered)
        assert self.table.id == self.id
        assert self.table.latest.revision() == (self.revision, self.time)


def parts(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


COUNT = itertools.count()
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


# --- growth -----------------------------------------------------------------------------------------------------------


def test_a_full_map_grows_and_the_work_runs_again(place):
    table = LmdbTable(place, map_size=1 << 20)
    runs = []

    def work(writer):
        runs.append(1)
        writer.load([(f"{i:06}", b"v" * 1000, 1, 0) for i in range(10_000)])
        writer.advance(1, 1)
        return len(runs)

    assert table.write(work, sync=True) == len(runs) > 3
    assert len(table.latest.chunk("", None, 20_000)) == 10_000
    assert table.latest.revision() == (1, 1)
    table.close()
    table = LmdbTable(place, map_size=1 << 20)  # smaller than the file: LMDB maps all of it
    put(table, {"x": (b"v" * 5_000_000, 2, 0)}, 2)
    assert table.latest.get("999999") is None
    assert table.latest.get("009999") == (b"v" * 1000, 1, 0)
    table.close()


def test_a_commit_that_finds_the_map_full_grows_it(place):
    table = LmdbTable(place, map_size=1 << 20)
    for revision in range(1, 3000):  # small steps, so that the map is full in the commit itself too
        put(table, {f"{revision % 1500:04}": (os.urandom(900), revision, 0)}, revision)
    assert len(table.latest.chunk("", None, 5000)) == 1500
    table.close()


def test_an_open_view_holds_growth_up_and_nothing_is_changed(place, monkeypatch):
    table = LmdbTable(place, map_size=1 << 20)
    put(table, {"a": (b"1", 1, 0)})
    view = table.view()
    monkeypatch.setattr(lmdb_environment, "_GROW_S", 0.01)
    with pytest.raises(UnavailableError, match="snapshots"):
        put(table, {"b": (b"v" * 3_000_000, 2, 0)}, 2)
    assert view.get("a") == (b"1", 1, 0)
    assert table.latest.get("b") is None
    view.close()
    put(table, {"b": (b"v" * 3_000_000, 2, 0)}, 2)
    assert table.latest.revision() == (2, 1)
    table.close()


def test_growth_waits_for_a_view_that_is_let_go(place):
    table = LmdbTable(place, map_size=1 << 20)
    view = table.view()
    thread = threading.Thread(target=put, args=(table, {"b": (b"v" * 3_000_000, 2, 0)}))
    thread.start()
    while table.env._map_size == 1 << 20 and thread.is_alive():
        if table.env.writing.locked():
            view.close()
    thread.join()
    assert table.latest.get("b") is not None
    table.close()


def test_growth_that_the_process_has_no_addresses_for_is_refused_and_the_store_goes_on(place):
    out = run(
        """
import resource, sys
from reactstate.errors import StorageError
from reactstate.kv.lmdb_table import LmdbTable
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
table = LmdbTable(sys.argv[1])                       # 1 TiB is not to be had: less will do
put = lambda key, size: table.write(lambda writer: writer.apply({key: (bytes(size), 1, 0)}), sync=False)
put("a", 10)
first = table.env._map_size
try:
    for i in range(60):
        put(f"b{i}", 8 << 20)
except StorageError as exc:
    print(type(exc).__name__, "addresses" in str(exc))
print(first < 400 << 20, table.latest.get("a") == (bytes(10), 1, 0))
table.close()
""",
        place,
    )
    assert out.split() == ["StorageError", "True", "True", "True"]


def test_readers_and_writers_follow_a_file_that_another_process_has_made_larger(place):
    table = LmdbTable(place, map_size=1 << 20)
    other = """
import sys
from reactstate.kv.lmdb_table import LmdbTable
table = LmdbTable(sys.argv[1])
table.write(lambda writer: writer.apply({sys.argv[2]: (bytes(int(sys.argv[3])), 1, 0)}), sync=False)
table.close()
"""
    run(other, place, "a", 3_000_000)
    assert table.latest.get("a") == (bytes(3_000_000), 1, 0)
    run(other, place, "b", 9_000_000)
    assert len(table.latest.chunk("", None, 5)) == 2
    run(other, place, "c", 30_000_000)
    view = table.view()
    assert len(view.get("c")[0]) == 30_000_000
    view.close()
    run(other, place, "d", 90_000_000)
    put(table, {"e": (b"", 1, 0)})
    assert [row[0] for row in table.latest.chunk("", None, 9)] == ["a", "b", "c", "d", "e"]
    table.close()


def test_a_read_that_cannot_follow_at_once_says_so(place, monkeypatch):
    table = LmdbTable(place, map_size=1 << 20)
    view = table.view()
    run(
        "import sys\nfrom reactstate.kv.lmdb_table import LmdbTable\n"
        "LmdbTable(sys.argv[1]).write(lambda writer: writer.apply({'a': (bytes(3000000), 1, 0)}), sync=False)",
        place,
    )
    monkeypatch.setattr(lmdb_environment, "_FOLLOW_S", 0.01)
    with pytest.raises(UnavailableError, match="snapshots"):
        table.latest.get("a")
    view.close()
    with table.env.writing, pytest.raises(UnavailableError, match="busy"):
        table.latest.get("a")
    assert len(table.latest.get("a")[0]) == 3_000_000
    table.close()


def test_readers_that_are_all_taken_are_an_error_that_passes(table):
    put(table, {"a": (b"1", 1, 0)})
    views = [table.view() for _ in range(1024)]
    with pytest.raises(UnavailableError, match="1024"):
        table.view()
    with pytest.raises(UnavailableError):
        table.latest.get("a")
    put(table, {"a": (b"2", 2, 0)}, 2)
    for view in views:
        view.close()
    assert table.latest.get("a") == (b"2", 2, 0)


HOLDER = """
import os, sys
from reactstate.kv.lmdb_table import LmdbTable
table = LmdbTable(sys.argv[1])
views = [table.view() for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


@contextlib.contextmanager
def holding(place, views):
    """Have another process hold so many views open; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place), str(views)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        yield


def test_a_killed_reader_gives_its_place_back_and_the_space_that_it_held(place):
    table = LmdbTable(place, map_size=1 << 20)
    put(table, {"a": (b"1", 1, 0)})
    with holding(place, 1024), pytest.raises(UnavailableError):
        table.latest.get("a")
    assert table.latest.get("a") == (b"1", 1, 0)
    with holding(place, 1):
        pass
    for revision in range(2, 80):  # nothing that the killed one saw could be used again
        put(table, {"a": (bytes(100_000), revision, 0)}, revision)
    assert table.size() < 1 << 20
    with holding(place, 1):
        pass
    table.env._groups = lmdb_environment._CHECK_EVERY - 1
    put(table, {"a": (b"2", 99, 0)}, 99)
    assert table.env.clear_readers() is False
    table.close()


def test_opening_clears_the_places_of_killed_readers(place, caplog):
    with holding(place, 0):
        with holding(place, 3):
            pass
        with caplog.at_level("INFO", "reactstate.kv"):
            LmdbTable(place).close()
    assert "killed readers" in caplog.text


# --- sharing inside a process -----------------------------------------------------------------------------------------


def test_tables_of_one_process_share_the_files_until_the_last_is_closed(place, tmp_path):
    first, second = LmdbTable(place), LmdbTable(place)
    (tmp_path / "link").symlink_to(place)
    third = LmdbTable(tmp_path / "link")
    assert first.env is second.env is third.env
    put(first, {"a": (b"1", 1, 0)})
    first.close()
    first.close()
    with pytest.raises(ClosedError):
        first.latest.get("a")
    with pytest.raises(ClosedError):
        put(first, {})
    assert second.latest.get("a") == third.latest.get("a") == (b"1", 1, 0)
    env = third.env
    second.close()
    third.close()
    with pytest.raises(ClosedError):
        env.check()
    assert isinstance(env.error(of_lmdb()), ClosedError)
    again = LmdbTable(place)
    assert again.env is not env
    assert again.latest.get("a") == (b"1", 1, 0)
    again.close()


def test_closing_a_table_closes_its_views_and_no_others(place):
    first, second = LmdbTable(place), LmdbTable(place)
    mine, other = first.view(), second.view()
    first.close()
    with pytest.raises(ClosedError):
        mine.get("a")
    assert other.get("a") is None
    second.close()


def test_writers_of_two_threads_take_turns(place):
    tables = [LmdbTable(place), LmdbTable(place)]

    def count(table):
        for _ in range(200):
            table.write(
                lambda writer: writer.apply({"n": (b"%d" % (int((writer.get("n") or (b"0",))[0]) + 1), 1, 0)}),
                sync=False,
            )

    threads = [threading.Thread(target=count, args=(table,)) for table in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tables[0].latest.get("n")[0] == b"400"
    for table in tables:
        table.close()


def test_the_strongest_user_decides_how_the_files_are_opened(place):
    careless = LmdbTable(place, ordered=False)
    put(careless, {"a": (b"1", 1, 0)})
    assert not careless.env.env.flags()["sync"]
    careful = LmdbTable(place)
    assert careful.env is careless.env
    assert careless.env.env.flags()["sync"]
    put(careful, {"b": (b"2", 2, 0)}, 2, sync=True)
    assert careless.latest.get("b") == (b"2", 2, 0)
    third = LmdbTable(place, ordered=False)
    assert third.env.env.flags()["sync"]
    for table in (careless, careful, third):
        table.close()


def test_a_view_holds_up_who_needs_the_files_opened_anew(place, monkeypatch):
    careless = LmdbTable(place, ordered=False)
    view = careless.view()
    monkeypatch.setattr(lmdb_environment, "_GROW_S", 0.01)
    with pytest.raises(UnavailableError):
        LmdbTable(place)
    assert view.get("a") is None
    view.close()
    LmdbTable(place).close()
    careless.close()


def test_two_threads_may_open_at_once(place):
    tables = []
    threads = [threading.Thread(target=lambda: tables.append(LmdbTable(place))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(table.env) for table in tables}) == 1
    assert tables[0].env.users == 8
    for table in tables:
        table.close()
    assert not lmdb_environment._open


# --- read-only --------------------------------------------------------------------------------------------------------


def test_a_read_only_table_reads_and_refuses_to_write(place):
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    table.close()
    reader = LmdbTable(place, read_only=True)
    assert everything(reader)[2] == [("a", b"1", 1, 0)]
    with pytest.raises(ReadOnlyError):
        put(reader, {})
    reader.flush()
    writer = LmdbTable(place)  # in the same process: the files are opened anew, for writing
    put(writer, {"a": (b"2", 2, 0)}, 2)
    assert reader.latest.get("a") == (b"2", 2, 0)
    with pytest.raises(ReadOnlyError):
        put(reader, {})
    writer.close()
    reader.close()


def test_opening_read_only_makes_nothing(place, tmp_path):
    with pytest.raises(StorageError, match="there is no store"):
        LmdbTable(place, read_only=True)
    assert not place.exists()
    lmdb.open(str(place)).close()
    with pytest.raises(StorageError, match="there is no store"):
        LmdbTable(place, read_only=True)


def test_a_directory_that_may_not_be_written_to_is_a_storage_error(tmp_path):
    place = tmp_path / "store"
    LmdbTable(place).close()
    out = run(
        """
import os, sys
from reactstate.errors import StorageError
from reactstate.kv.lmdb_table import LmdbTable
place = sys.argv[1]
for file in os.listdir(place):
    os.chmod(os.path.join(place, file), 0o400)
os.chmod(place, 0o500)
os.chdir(place)                                      # reachable from here even if its parents are not
if os.geteuid() == 0:
    import lmdb.verify, resource
    for name in [place, *(os.path.join(place, file) for file in os.listdir(place))]:
        os.chown(name, 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)
for path, read_only in ((".", False), (".", True), ("new", False)):
    try:
        LmdbTable(path, read_only=read_only)
    except StorageError as exc:
        print(type(exc).__name__, exc.path is not None)
""",
        place,
        cwd=tmp_path,
    )
    place.chmod(0o700)
    assert out.split() == ["StorageError", "True"] * 3


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_path_that_is_a_file_or_has_no_parent_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(StorageError, match="is a file"):
        LmdbTable(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"text"
    with pytest.raises(StorageError) as caught:
        LmdbTable(tmp_path / "no" / "store")
    assert caught.value.path is not None
    with pytest.raises(StorageError):
        LmdbTable(tmp_path / "file" / "store", read_only=True)
    (tmp_path / "odd" / "data.mdb").mkdir(parents=True)
    with pytest.raises(StorageError):
        LmdbTable(tmp_path / "odd")
    assert not lmdb_environment._open


def test_another_applications_data_is_refused_and_left_as_it_is(place):
    with lmdb.open(str(place), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"value")
    before = (place / "data.mdb").read_bytes()
    with pytest.raises(StorageError, match="another application"):
        LmdbTable(place)
    assert (place / "data.mdb").read_bytes() == before


def test_a_newer_format_is_refused_and_left_as_it_is(place):
    LmdbTable(place).close()
    with lmdb.open(str(place), max_dbs=5) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"2", db=env.open_db(b"reactstate", txn))
    before = (place / "data.mdb").read_bytes()
    for read_only in (False, True):
        with pytest.raises(StorageError, match="update reactstate"):
            LmdbTable(place, read_only=read_only)
    assert (place / "data.mdb").read_bytes() == before


def test_a_description_that_is_lost_is_corruption(place):
    LmdbTable(place).close()
    with lmdb.open(str(place), max_dbs=5) as env, env.begin(write=True) as txn:
        txn.put(b"state", b"short", db=env.open_db(b"reactstate", txn))
    with pytest.raises(CorruptionError):
        LmdbTable(place)


def test_rows_that_are_none_are_corruption(table):
    put(table, {"a": (b"1", 1, 5)})
    env = table.env
    with env.env.begin(write=True) as txn:
        txn.put(b"short", b"x", db=env.entries)
        txn.put(b"\xff\xfe", bytes(20), db=env.entries)
    view = table.view()
    for reader in (table.latest, view):
        with pytest.raises(CorruptionError):
            reader.get("short")
        with pytest.raises(CorruptionError):
            reader.chunk("short", None, 1)
        with pytest.raises(CorruptionError):
            reader.chunk("t", None, 1)
    with pytest.raises(CorruptionError):
        table.write(lambda writer: writer.stamp("short"), sync=False)
    view.close()
    with env.env.begin(write=True) as txn:
        txn.delete(b"state", db=env.meta)
    with pytest.raises(CorruptionError):
        table.latest.revision()


DAMAGE = """
import collections, os, shutil, sys
from reactstate.errors import CorruptionError, StorageError
from reactstate.kv.lmdb_table import LmdbTable
source, what = sys.argv[1:]
raw = open(source + "/data.mdb", "rb").read()
table = LmdbTable(source)
read = lambda table: (table.latest.revision(), table.latest.chunk("", None, 1000), table.latest.log(0, 100))
good = read(table)
table.close()
page = len(raw) and 4096 if raw[4096 + 16 : 4096 + 20] == raw[16:20] else 16384
if what == "cut":
    files = [raw[:size] for size in sorted({*range(1, len(raw), 4096), *range(1, 2 * page, 97), *range(page, len(raw), page)})]
else:
    files = []
    for start in (0, page):
        for at in range(start, start + 16 + 136):
            for mask in (1, 0xFF):
                bad = bytearray(raw)
                bad[at] ^= mask
                files.append(bytes(bad))
seen = collections.Counter()
for bad in files:
    place = source + "-damaged"
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place)
    with open(place + "/data.mdb", "wb") as file:
        file.write(bad)
    try:
        table = LmdbTable(place)
        try:
            assert read(table) == good, "another state"
            table.write(lambda writer: writer.apply({"new": (b"1", 100, 0), "k0001": None}), sync=False)
        finally:
            table.close()
        seen["whole"] += 1
    except (CorruptionError, StorageError) as exc:
        seen[type(exc).__name__] += 1
    if what == "cut":
        with open(place + "/data.mdb", "rb") as file:
            assert file.read() == bad, "changed"
print(dict(seen))
"""


@pytest.fixture
def sample(place):
    table = LmdbTable(place)
    for revision in range(1, 5):
        put(
            table,
            {f"k{i:04}": (b"%d" % i * 40, revision, i) for i in range(revision * 20, revision * 20 + 60)},
            revision,
        )
    table.close()
    return place


def test_a_file_that_is_cut_off_anywhere_is_corruption(sample):
    seen = eval(run(DAMAGE, sample, "cut"))
    assert set(seen) == {"CorruptionError"}


def test_a_flipped_bit_in_the_first_two_pages_is_an_error_or_without_effect(sample):
    seen = eval(run(DAMAGE, sample, "flip"))
    assert set(seen) <= {"CorruptionError", "StorageError", "whole"}
    assert seen["CorruptionError"] > 300


def test_a_file_that_was_emptied_is_corruption_and_a_new_empty_one_is_not(sample, tmp_path):
    (sample / "data.mdb").write_bytes(b"")
    with pytest.raises(CorruptionError, match="emptied"):
        LmdbTable(sample)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "data.mdb").write_bytes(b"")
    LmdbTable(tmp_path / "new").close()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "data.mdb").write_bytes(b"")
    (tmp_path / "torn" / "lock.mdb").write_bytes(b"short")
    LmdbTable(tmp_path / "torn").close()


def test_a_file_of_other_bytes_is_corruption(tmp_path):
    (tmp_path / "data.mdb").write_bytes(os.urandom(40_000))
    with pytest.raises(CorruptionError, match="no LMDB file"):
        LmdbTable(tmp_path)


def test_a_whole_file_that_is_shorter_than_its_last_page_is_looked_through_and_taken(place):
    # So it is when the last pages of a transaction were not needed in the end.
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    put(table, {"b": (bytes(50_000), 2, 0)}, 2)
    put(table, {"b": None}, 3)
    put(table, {"c": (b"3", 4, 0)}, 4)
    put(table, {"c": (b"4", 5, 0)}, 5)
    table.close()
    file = place / "data.mdb"
    raw = file.read_bytes()
    page = 4096 if raw[4096 + 16 : 4096 + 20] == raw[16:20] else 16384
    os.truncate(file, len(raw) - page)
    check_file(file)
    table = LmdbTable(place)
    assert [row[0] for row in table.latest.chunk("", None, 9)] == ["a", "c"]
    table.close()


def test_pages_that_are_being_written_while_they_are_looked_at_are_no_damage(sample, monkeypatch):
    raw = (sample / "data.mdb").read_bytes()
    (sample / "data.mdb").write_bytes(raw[: len(raw) // 2])
    monkeypatch.setattr("reactstate.kv.lmdb_check.time.sleep", lambda _: (sample / "data.mdb").write_bytes(raw))
    check_file(sample / "data.mdb")


def test_a_file_of_lmdb_1_is_left_to_lmdb(place):
    lmdb.open(str(place), lib_version=1).close()
    check_file(place / "data.mdb")
    LmdbTable(place).close()


def test_a_file_of_a_version_that_nobody_knows_is_an_error(sample):
    raw = bytearray((sample / "data.mdb").read_bytes())
    for start in (0, 4096, 16384):
        if raw[start + 16 : start + 20] == raw[16:20]:
            raw[start + 20] = 99
    (sample / "data.mdb").write_bytes(raw)
    with pytest.raises(StorageError):
        LmdbTable(sample)


def test_a_second_page_of_another_version_is_corruption(sample):
    raw = bytearray((sample / "data.mdb").read_bytes())
    second = 4096 if raw[4096 + 16 : 4096 + 20] == raw[16:20] else 16384
    raw[second + 20] = 99
    (sample / "data.mdb").write_bytes(raw)
    with pytest.raises(CorruptionError) as caught:
        LmdbTable(sample)
    assert caught.value.offset == second


# --- files that change under the process ------------------------------------------------------------------------------


def test_files_that_are_deleted_are_noticed_at_the_next_write_and_can_be_made_anew(place):
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    shutil.rmtree(place)
    with pytest.raises(StorageFailedError, match="deleted"):
        put(table, {"b": (b"2", 2, 0)}, 2)
    with pytest.raises(StorageFailedError, match="deleted"):
        table.flush()
    fresh = LmdbTable(place)
    assert fresh.latest.get("a") is None
    put(fresh, {"c": (b"3", 3, 0)}, 3)
    with pytest.raises(StorageFailedError):
        put(table, {"b": (b"2", 2, 0)}, 2)
    table.close()
    assert fresh.latest.get("c") == (b"3", 3, 0)
    fresh.close()


def test_files_that_are_replaced_are_noticed_at_the_next_write(place, tmp_path):
    table = LmdbTable(place)
    shutil.copytree(place, tmp_path / "copy")
    shutil.rmtree(place)
    (tmp_path / "copy").rename(place)
    with pytest.raises(StorageFailedError, match="replaced"):
        put(table, {"b": (b"2", 2, 0)}, 2)
    table.close()


def test_a_file_that_is_cut_off_is_noticed_before_the_next_write(table, place):
    put(table, {"a": (bytes(100_000), 1, 0)})
    put(table, {"b": (b"2", 2, 0)}, 2)
    os.truncate(place / "data.mdb", 20_000)
    with pytest.raises(CorruptionError, match="cut off"):
        put(table, {"c": (b"3", 3, 0)}, 3)
    with pytest.raises(StorageFailedError):
        put(table, {"c": (b"3", 3, 0)}, 3)


# --- disks that fail --------------------------------------------------------------------------------------------------


class Failing:
    """LMDB's environment or transaction, some methods of which fail."""

    def __init__(self, inner, **replaced):
        self.inner = inner
        self.replaced = replaced

    def __getattr__(self, name):
        return self.replaced[name] if name in self.replaced else getattr(self.inner, name)


def of_lmdb(cls=lmdb.Error, code=0):
    made = cls("on purpose")
    made.code = code
    made.reason = "reason"
    return made


def error(code, cls=lmdb.Error):
    def fail(*_, **__):
        raise of_lmdb(cls, code) if issubclass(cls, lmdb.Error) else cls("on purpose")

    return fail


def failing_commit(table, code, **more):
    inner = table.env.env

    def begin(*args, write=False, **kwargs):
        txn = inner.begin(*args, write=write, **kwargs)
        if not write:
            return txn

        def commit():
            txn.abort()
            error(code)()

        return Failing(txn, commit=commit)

    table.env.env = Failing(inner, begin=begin, **more)
    return inner


@pytest.fixture
def unwrapped(monkeypatch):
    # Cursors and databases are of the transaction inside; LMDB itself takes only that.
    from reactstate.kv import lmdb_table

    class Unwrapping(lmdb_table._TableWriter):
        def __init__(self, env, txn):
            super().__init__(env, getattr(txn, "inner", txn))

    monkeypatch.setattr(lmdb_table, "_TableWriter", Unwrapping)


def test_a_failed_flush_has_an_unknown_outcome_and_ends_all_writes(place):
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    env = table.env
    env.env = Failing(env.env, sync=error(errno.EIO))
    with pytest.raises(UnknownOutcomeError):
        put(table, {"a": (b"2", 2, 0)}, 2, sync=True)
    with pytest.raises(StorageFailedError):
        put(table, {"a": (b"3", 3, 0)}, 3)
    with pytest.raises(StorageFailedError):
        table.flush()
    with pytest.raises(StorageFailedError, match="close the other stores"):
        LmdbTable(place)
    assert table.latest.get("a") is not None
    table.close()
    table = LmdbTable(place)
    put(table, {"a": (b"4", 4, 0)}, 4, sync=True)
    table.close()


def test_a_failed_flush_of_commits_made_before_is_unknown_too(place):
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    table.env.env = Failing(table.env.env, sync=error(errno.EIO))
    with pytest.raises(UnknownOutcomeError):
        table.flush()
    with pytest.raises(StorageFailedError):
        put(table, {})
    table.close()


def test_a_commit_that_a_failing_disk_refused_changes_nothing_and_ends_all_writes(table, unwrapped):
    put(table, {"a": (b"1", 1, 0)})
    table.env.env = Failing(failing_commit(table, errno.EIO), begin=table.env.env.begin)
    with pytest.raises(StorageError, match="nothing was changed"):
        put(table, {"a": (b"2", 2, 0)}, 2)
    assert table.latest.get("a") == (b"1", 1, 0)
    with pytest.raises(StorageFailedError):
        put(table, {"a": (b"2", 2, 0)}, 2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_commit_without_room_changes_nothing_and_the_next_may_succeed(table, unwrapped, code):
    put(table, {"a": (b"1", 1, 0)})
    inner = failing_commit(table, code)
    with pytest.raises(StorageError, match="no room"):
        put(table, {"a": (b"2", 2, 0)}, 2)
    table.env.env = inner
    assert table.latest.get("a") == (b"1", 1, 0)
    put(table, {"a": (b"2", 2, 0)}, 2)


def test_a_commit_whose_last_page_failed_is_of_unknown_outcome(table, unwrapped):
    inner = table.env.env

    def begin(*args, write=False, **kwargs):
        if not write:
            error(0, lmdb.PanicError)()
        txn = inner.begin(*args, write=True, **kwargs)
        return Failing(txn, commit=lambda: (txn.abort(), error(errno.EIO)()))

    table.env.env = Failing(inner, begin=begin)
    with pytest.raises(UnknownOutcomeError):
        put(table, {"a": (b"2", 2, 0)}, 2)
    table.env.env = inner
    with pytest.raises(StorageFailedError):
        put(table, {"a": (b"2", 2, 0)}, 2)


def test_a_commit_that_fails_while_nothing_can_be_read_is_that_error(table, unwrapped):
    inner = table.env.env

    def begin(*args, write=False, **kwargs):
        if not write:
            error(0, lmdb.ReadersFullError)()
        txn = inner.begin(*args, write=True, **kwargs)
        return Failing(txn, commit=lambda: (txn.abort(), error(0, lmdb.TxnFullError)()))

    table.env.env = Failing(inner, begin=begin)
    with pytest.raises(StorageError, match="too much for one commit"):
        put(table, {"a": (b"2", 2, 0)}, 2)
    table.env.env = inner
    put(table, {"a": (b"2", 2, 0)}, 2)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (of_lmdb(lmdb.CorruptedError), CorruptionError),
        (of_lmdb(lmdb.PageNotFoundError), CorruptionError),
        (of_lmdb(lmdb.PanicError), StorageFailedError),
        (of_lmdb(lmdb.VersionMismatchError), StorageError),
        (of_lmdb(lmdb.TxnFullError), StorageError),
        (of_lmdb(lmdb.ReadonlyError, errno.EACCES), StorageError),
        (of_lmdb(lmdb.Error, errno.EIO), StorageError),
        (of_lmdb(lmdb.Error, 0), StorageError),
        (OSError(errno.EIO, "x"), StorageError),
    ],
)
def test_errors_of_lmdb_are_typed_wherever_they_come_from(table, raised, expected):
    def fail(*_, **__):
        raise raised

    inner = table.env.env
    table.env.env = Failing(inner, begin=fail, info=fail, reader_check=fail)
    if isinstance(raised, lmdb.Error):
        for use in (
            lambda: table.latest.get("a"),
            table.view,
            table.token,
            lambda: put(table, {}),
        ):
            with pytest.raises(expected) as caught:
                use()
            assert type(caught.value) is expected
        table.env._groups = lmdb_environment._CHECK_EVERY - 1
        with pytest.raises(expected):
            table.flush()
    table.env.env = inner
    assert type(table.env.error(raised)) is expected


def test_a_full_disk_changes_nothing_and_the_store_goes_on_when_there_is_room(place):
    out = run(
        """
import resource, sys
from reactstate.errors import StorageError
from reactstate.kv.lmdb_table import LmdbTable
table = LmdbTable(sys.argv[1])
put = lambda revision, size: table.write(
    lambda writer: (writer.apply({f"k{revision}": (bytes(size), revision, 0)}), writer.advance(revision, 1)),
    sync=True,
)
put(1, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
failed = 0
for revision in range(2, 12):
    try:
        put(revision, 300_000)
    except StorageError as exc:
        assert type(exc) is StorageError and "no room" in str(exc), exc
        failed += 1
        assert table.latest.get(f"k{revision}") is None
print(failed > 2, table.latest.get("k1") == (bytes(10), 1, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put(99, 3_000_000)
print(table.latest.revision())
table.close()
table = LmdbTable(sys.argv[1])
print(len(table.latest.chunk("", None, 100)) == 12 - failed)
""",
        place,
    )
    assert out == "True True\n(99, 1)\nTrue\n"


def test_how_much_room_there_is_does_not_matter_where_it_cannot_be_told(table, monkeypatch):
    monkeypatch.setattr(os, "statvfs", error(0, OSError))
    assert table.env._is_full() is False
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 100, 10, 10, 1, 1, 1, 0, 255)))
    assert table.env._is_full() is True


def test_an_environment_that_cannot_be_opened_anew_says_so_from_then_on(place, monkeypatch):
    table = LmdbTable(place, map_size=1 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "Environment", error(0, lmdb.MemoryError))
        table.env.env = Failing(table.env.env, set_mapsize=error(errno.ENOMEM, lmdb.MemoryError))
        with pytest.raises(StorageError):
            put(table, {"a": (bytes(3_000_000), 1, 0)})
    with pytest.raises(StorageFailedError):
        put(table, {})
    with pytest.raises(StorageFailedError):
        table.latest.get("a")
    table.close()
    LmdbTable(place).close()


# --- forks ------------------------------------------------------------------------------------------------------------


def in_child(work):
    """Run *work* in a forked child; return whether it returned without an error."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_a_forked_child_opens_anew_and_harms_nothing_of_its_parent(place):
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    view = table.view()
    put(table, {"a": (b"2", 2, 0)}, 2)

    def work():
        with pytest.raises(ClosedError):
            view.get("a")
        with pytest.raises(ClosedError):
            table.latest.get("a")
        with pytest.raises(ClosedError):
            put(table, {})
        view.close()
        table.close()
        own = LmdbTable(place)
        assert own.latest.get("a") == (b"2", 2, 0)
        for revision in range(3, 40):
            put(own, {"a": (bytes(20_000), revision, 0)}, revision, sync=True)
        own.close()

    assert in_child(work)
    assert view.get("a") == (b"1", 1, 0)  # its pages were not used again: its place as a reader is still held
    view.close()
    assert table.latest.revision()[0] == 39
    put(table, {"a": (b"40", 40, 0)}, 40)
    assert in_child(lambda: LmdbTable(place).close())
    table.close()


def test_a_fork_in_the_middle_of_a_write_waits_for_it(place):
    table = LmdbTable(place)
    begun, go_on = threading.Event(), threading.Event()

    def work(writer):
        begun.set()
        go_on.wait()
        writer.apply({"a": (b"1", 1, 0)})

    thread = threading.Thread(target=table.write, args=(work,), kwargs={"sync": True})
    thread.start()
    begun.wait()
    threading.Timer(0.002, go_on.set).start()
    assert in_child(lambda: LmdbTable(place).close())
    thread.join()
    assert table.latest.get("a") == (b"1", 1, 0)
    table.close()


def test_a_child_forked_while_the_files_are_busy_for_long_cannot_open_them(place, monkeypatch):
    table = LmdbTable(place)
    monkeypatch.setattr(lmdb_environment, "_FORK_S", 0.001)

    def work():
        with pytest.raises(StorageError, match="already open"):
            LmdbTable(place)
        LmdbTable(place.with_name("other")).close()

    with table.env.writing:
        assert in_child(work)
    with lmdb_environment._lock:
        assert in_child(lambda: None)
    put(table, {"a": (b"1", 1, 0)})
    assert not lmdb_environment._busy
    assert not lmdb_environment._held
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
    assert not lmdb_environment._open


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


async def test_an_opening_that_is_cancelled_leaves_nothing_open(place):
    other = LmdbTable(place)
    other.env._opening.acquire()
    task = asyncio.ensure_future(LmdbStore.open(place).__aenter__())
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other.env._opening.release()
    while other.env.users > 1:
        await asyncio.sleep(0.001)
    other.close()
    assert not lmdb_environment._open


async def test_an_opening_that_is_cancelled_and_fails_is_forgotten(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    task = asyncio.ensure_future(LmdbStore.open(tmp_path / "file").__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while lmdb_environment._open:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)


async def test_entries_expire_by_the_clock_that_is_given(place):
    clock = ManualClock()
    async with LmdbStore.open(place, options=NEVER, clock=clock) as store:
        await store.put("a", b"1", ttl=1)
        clock.advance(1)
        assert await store.get("a") is None
        assert await store.cleanup_expired() == 1
