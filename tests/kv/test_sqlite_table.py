"""SqliteTable on its own: it moves rows as a dictionary would, and its files outlive it."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactstate.errors import CorruptionError, ReadOnlyError, StorageError, UnavailableError
from reactstate.kv.options import StoreOptions
from reactstate.kv.sqlite import SqliteTable
from reactstate.kv.sqlite_file import patiently

keys = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=4) | st.sampled_from(
    ["a", "a\0", "a\0b", "\0", "é", "\uffff", "\U0001f600", "%", "_"]
)
values = st.binary(max_size=20) | st.sampled_from([0, 1, 9000]).map(bytes)
rows = st.tuples(values, st.integers(1, (1 << 63) - 1), st.integers(0, 1 << 48))
changes = st.dictionaries(keys, st.none() | rows, max_size=6)


class Stop(Exception):  # noqa: N818 - it ends a transaction
    pass


class Model(RuleBasedStateMachine):
    """A table beside a dictionary."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rows = {}
        self.log = []
        self.floor = 0
        self.revision = 0
        self.time = 0
        self.views = []
        self.open()

    def open(self):
        self.table = SqliteTable(str(Path(self.folder.name) / "a.db"), StoreOptions(durability="never"))

    @rule(change=changes, late=st.integers(0, 5))
    def commit(self, change, late):
        self.revision += 1
        self.time += late
        row = (self.revision, self.time, b"%d" % self.revision)

        def work(writer):
            assert writer.revision() == (self.revision - 1, self.time - late)
            for key in change:
                found = self.rows.get(key)
                assert writer.get(key) == found
                assert writer.stamp(key) == (None if found is None else found[1:])
            writer.apply(change)
            writer.append_log(row)
            writer.advance(self.revision, self.time)
            return len(change)

        assert self.table.write(work, sync=False) == len(change)
        self.log.append(row)
        for key, value in change.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    @rule(change=changes)
    def roll_back(self, change):
        def work(writer):
            writer.apply(change)
            writer.append_log((self.revision + 1, self.time, b""))
            raise Stop

        with pytest.raises(Stop):
            self.table.write(work, sync=True)

    @rule(back=st.integers(-2, 20))
    def trim(self, back):
        before = self.time - back
        self.table.write(lambda writer: writer.trim_log(before), sync=False)
        gone = [row for row in self.log if row[1] < before]
        if gone:
            self.floor = gone[-1][0]
            self.log = [row for row in self.log if row[1] >= before]

    @rule(content=st.dictionaries(keys, rows, max_size=5))
    def load(self, content):
        def work(writer):
            writer.clear()
            writer.load([(key, *content[key]) for key in sorted(content)])

        self.table.write(work, sync=True)
        self.rows = dict(content)

    @rule(now=st.integers(0, 1 << 48), limit=st.integers(1, 5))
    def due(self, now, limit):
        found = self.table.write(lambda writer: writer.due(now, limit), sync=False)
        due = {key for key, row in self.rows.items() if 0 < row[2] <= now}
        assert set(found) <= due
        assert len(set(found)) == min(len(due), limit)

    @rule()
    def take_view(self):
        self.views.append((self.table.view(), dict(self.rows), (self.revision, self.time)))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def end_view(self, data):
        view, content, newest = self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))
        assert view.chunk("", None, 1000) == [(key, *content[key]) for key in sorted(content)]
        assert view.revision() == newest
        view.close()

    @precondition(lambda self: not self.views)
    @rule(sync=st.booleans())
    def open_anew(self, sync):
        identity = self.table.id
        if sync:
            self.table.flush()
        self.table.close()
        self.open()
        assert self.table.id == identity

    @rule(start=st.just("") | keys, end=st.none() | keys, limit=st.integers(1, 8), reverse=st.booleans())
    def chunk(self, start, end, limit, reverse):
        found = sorted(key for key in self.rows if key >= start and (end is None or key < end))
        if reverse:
            found.reverse()
        expected = [(key, *self.rows[key]) for key in found[:limit]]
        assert self.table.latest.chunk(start, end, limit, reverse=reverse) == expected

    @rule(after=st.integers(0, 30), limit=st.integers(1, 5))
    def read_log(self, after, limit):
        # what was trimmed may still be there, which the floor says
        found = self.table.latest.log(max(after, self.floor), 100)
        assert found == [row for row in self.log if row[0] > after]
        assert self.table.latest.log(self.floor, limit) == self.log[:limit]

    @invariant()
    def agree(self):
        latest = self.table.latest
        assert latest.revision() == (self.revision, self.time)
        assert latest.log_floor() == self.floor
        assert {key: latest.get(key) for key in self.rows} == self.rows

    def teardown(self):
        for view, _, _ in self.views:
            view.close()
        self.table.close()
        self.folder.cleanup()


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestTable = Model.TestCase


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.db")


@pytest.fixture
def table(path):
    opened = SqliteTable(path, StoreOptions(), patience_s=0.05)
    yield opened
    opened.close()


@given(st.lists(keys, min_size=1, max_size=30, unique=True))
@settings(max_examples=30, deadline=None)
def test_keys_are_ordered_by_their_utf8_bytes(names):
    with tempfile.TemporaryDirectory() as folder:
        table = SqliteTable(f"{folder}/a.db", StoreOptions(durability="never"))
        table.write(lambda writer: writer.apply(dict.fromkeys(names, (b"", 1, 0))), sync=False)
        assert [row[0] for row in table.latest.chunk("", None, 100)] == sorted(names, key=str.encode)
        table.close()


def put(key, value=b"", revision=1):
    def work(writer):
        writer.apply({key: (value, revision, 0)})
        writer.append_log((revision, 0, b""))

    return work


def test_a_reader_never_waits_and_sees_what_was_committed_last(table):
    table.write(put("a", b"1", 1), sync=True)

    def work(writer):
        put("a", b"2", 2)(writer)
        assert table.latest.get("a") == (b"1", 1, 0)
        assert writer.get("a") == (b"2", 2, 0)

    table.write(work, sync=True)
    assert table.latest.get("a") == (b"2", 2, 0)


def test_a_writer_waits_for_another_and_gives_up_in_the_end(table, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="nothing was written"):
            table.write(put("a"), sync=True)
        assert table.latest.get("a") is None
        other.execute("ROLLBACK")
        table.write(put("a"), sync=True)
        assert table.latest.get("a") is not None


def test_a_writer_that_waits_goes_on_when_the_other_is_done(path):
    table = SqliteTable(path, StoreOptions(), patience_s=30)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.005, other.execute, ["ROLLBACK"])
    timer.start()
    table.write(put("a"), sync=True)
    timer.join()
    other.close()
    table.close()


def test_the_token_differs_after_another_connection_has_committed(table, path):
    before = table.token()
    assert table.token() == before
    other = SqliteTable(path, StoreOptions())
    other.write(put("a"), sync=True)
    other.close()
    assert table.token() != before


def test_views_beyond_the_pool_are_closed_and_the_pool_is_used_again(table):
    table.write(put("a", b"1", 1), sync=True)
    views = [table.view() for _ in range(7)]
    for view in views:
        view.close()
    assert len(table._idle) == 4
    table.write(put("a", b"2", 2), sync=True)
    view = table.view()
    assert len(table._idle) == 3
    assert view.get("a") == (b"2", 2, 0)
    view.close()


def test_a_view_whose_connection_is_gone_can_be_closed(table):
    view = table.view()
    view._connection.close()
    view.close()
    assert table._idle == []


def test_the_log_file_is_brought_in_at_the_close(table, path):
    table.write(put("a", bytes(100_000)), sync=True)
    size = table.size()
    assert size > 100_000
    assert 0 < table.memory() <= size
    other = SqliteTable(path, StoreOptions())
    view = other.view()
    table.write(put("b", bytes(100_000), 2), sync=True)
    view.close()
    other.close()
    table.write(put("c", b"", 3), sync=True)


def test_the_log_file_does_not_stay_large_behind_a_reader_that_is_gone(path):
    table = SqliteTable(path, StoreOptions(durability="never"))
    table._writer._connection.execute("PRAGMA wal_autocheckpoint = 50")
    table._writer._connection.execute("PRAGMA journal_size_limit = 100000")
    view = table.view()
    for revision in range(1, 100):
        table.write(put(str(revision), bytes(8000), revision), sync=False)
    wal = Path(f"{path}-wal")
    assert wal.stat().st_size > 800_000
    view.close()
    for revision in range(100, 110):
        table.write(put(str(revision), bytes(8000), revision), sync=False)
    assert wal.stat().st_size < 400_000
    table.close()


def test_rows_of_other_types_are_damage_and_never_an_answer(table, path):
    table.write(put("a"), sync=True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("UPDATE entries SET value = 'text'")
    for read in (lambda: table.latest.get("a"), lambda: table.latest.chunk("", None, 5)):
        with pytest.raises(CorruptionError):
            read()
    other.execute("UPDATE entries SET value = x'', key = CAST(x'ff' AS TEXT)")
    with pytest.raises(CorruptionError):
        table.latest.chunk("", None, 5)
    other.execute("UPDATE change_log SET events = 5")
    with pytest.raises(CorruptionError):
        table.latest.log(0, 5)
    other.execute("UPDATE meta SET log_floor = 'x'")
    with pytest.raises(CorruptionError):
        table.latest.log_floor()
    other.execute("DELETE FROM change_log")
    with pytest.raises(CorruptionError):
        table.latest.revision()
    with pytest.raises(CorruptionError):
        table.write(lambda writer: writer.revision(), sync=True)
    other.execute("DROP TABLE change_log")
    with pytest.raises(StorageError, match="change_log"):
        table.view()
    with pytest.raises(StorageError, match="change_log"):
        table.write(lambda writer: writer.revision(), sync=True)
    with pytest.raises(StorageError, match="change_log"):
        table.latest.revision()
    with pytest.raises(StorageError, match="change_log"):
        table.latest.log(0, 5)
    other.execute("DROP TABLE entries")
    for read in (lambda: table.latest.get("a"), lambda: table.latest.chunk("", None, 5)):
        with pytest.raises(StorageError, match="entries"):
            read()
    with pytest.raises(StorageError, match="entries"):
        table.write(put("a"), sync=True)
    other.execute("UPDATE meta SET id = x''")
    other.close()
    with pytest.raises(CorruptionError, match="identity"):
        SqliteTable(path, StoreOptions())


def test_a_table_that_was_closed_says_so_in_a_typed_error(path):
    table = SqliteTable(path, StoreOptions())
    table.close()
    for use in (lambda: table.write(put("a"), sync=True), lambda: table.latest.get("a"), table.token):
        with pytest.raises(StorageError, match="closed"):
            use()


def test_only_others_in_the_way_are_waited_for():
    def fail():
        raise sqlite3.OperationalError("no such thing")

    with pytest.raises(sqlite3.OperationalError):
        patiently(fail, "a.db", 30)


def test_read_only_writes_nothing(table, path):
    table.write(put("a"), sync=True)
    reader = SqliteTable(path, StoreOptions(read_only=True))
    with pytest.raises(ReadOnlyError):
        reader.write(put("b"), sync=True)
    view = reader.view()
    assert view.get("a") is not None
    view.close()
    reader.flush()
    reader.close()


@pytest.mark.parametrize("name", ["with space", "a?b#c%41", "ünï", "name\udcff"])
def test_any_name_of_a_file_is_taken_literally(tmp_path, name):
    table = SqliteTable(str(tmp_path / name), StoreOptions())
    table.write(put("a"), sync=True)
    table.flush()
    table.close()
    assert [found.name for found in tmp_path.iterdir()] == [name]
