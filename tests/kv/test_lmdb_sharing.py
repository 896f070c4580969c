from __future__ import annotations

import os
import threading

import lmdb
import pytest

from reactstate.errors import (
    ClosedError,
    StorageError,
    UnavailableError,
)
from reactstate.kv import lmdb_environment, lmdb_sharing
from reactstate.kv.lmdb_table import LmdbTable


def put(table, rows, revision=1, time_ms=1, *, sync=False):
    def work(writer):
        writer.apply(rows)
        writer.append_log((revision, time_ms, b"events of %d" % revision))
        writer.advance(revision, time_ms)

    table.write(work, sync=sync)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def table(place):
    table = LmdbTable(place)
    yield table
    table.close()


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
    assert isinstance(env.error(lmdb.Error("of a closed one")), ClosedError)
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


def test_the_most_careful_user_decides_how_the_files_are_opened(place):
    def flags(table):
        found = table.env.env.flags()
        return found["sync"], found["metasync"]

    never = LmdbTable(place, durability="never")
    put(never, {"a": (b"1", 1, 0)})
    assert flags(never) == (False, False)
    interval = LmdbTable(place, durability="interval")
    assert interval.env is never.env
    assert flags(never) == (True, False)
    put(interval, {"b": (b"2", 2, 0)}, 2, sync=True)
    always = LmdbTable(place)
    assert flags(never) == (True, True)
    put(always, {"c": (b"3", 3, 0)}, 3, sync=True)
    fourth = LmdbTable(place, durability="never")
    assert flags(fourth) == (True, True)
    assert [row[0] for row in never.latest.chunk("", None, 9)] == ["a", "b", "c"]
    for table in (never, interval, always, fourth):
        table.flush()
        table.close()


def test_a_view_holds_up_who_needs_the_files_opened_anew(place, monkeypatch):
    careless = LmdbTable(place, durability="never")
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
    assert not lmdb_sharing._open


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
    monkeypatch.setattr(lmdb_sharing, "_FORK_S", 0.001)

    def work():
        with pytest.raises(StorageError, match="already open"):
            LmdbTable(place)
        LmdbTable(place.with_name("other")).close()

    with table.env.writing:
        assert in_child(work)
    with lmdb_sharing._lock:
        assert in_child(lambda: None)
    put(table, {"a": (b"1", 1, 0)})
    assert not lmdb_sharing._busy
    assert not lmdb_sharing._held
    table.close()
