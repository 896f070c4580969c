from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import pytest

from reactstate.errors import (
    UnavailableError,
)
from reactstate.kv import lmdb_environment
from reactstate.kv.lmdb_table import LmdbTable


def put(table, rows, revision=1, time_ms=1, *, sync=False):
    def work(writer):
        writer.apply(rows)
        writer.append_log((revision, time_ms, b"events of %d" % revision))
        writer.advance(revision, time_ms)

    table.write(work, sync=sync)


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
