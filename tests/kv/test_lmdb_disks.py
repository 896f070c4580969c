from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import lmdb
import pytest

from reactstate.errors import (
    CorruptionError,
    StorageError,
    StorageFailedError,
    UnknownOutcomeError,
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
    table = LmdbTable(place, durability="interval")
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


# --- maps that change at the worst moment -----------------------------------------------------------------------------


def test_a_commit_that_meets_a_map_that_is_too_small_is_made_again(table, unwrapped):
    inner = table.env.env
    faults = [lmdb.MapResizedError, None, lmdb.MapFullError]
    runs = []

    def begin(*args, **kwargs):
        fault = faults.pop(0) if faults else None
        if fault is lmdb.MapResizedError:
            error(0, fault)()
        txn = inner.begin(*args, **kwargs)
        fail = faults.pop(0) if faults else None
        return Failing(txn, commit=lambda: (txn.abort(), error(0, fail)()) if fail else txn.commit())

    table.env.env = Failing(inner, begin=begin)

    def work(writer):
        runs.append(writer.get("a"))
        writer.apply({"a": (b"1", 1, 0)})

    table.write(work, sync=True)
    table.env.env = inner
    assert runs == [None, None]  # what the first run wrote is not there for the second
    assert table.latest.get("a") == (b"1", 1, 0)


def test_a_process_with_few_addresses_gets_a_smaller_map(place, monkeypatch):
    real, asked = lmdb.Environment, []

    def limited(path, *, map_size, **kwargs):
        asked.append(map_size)
        return (
            error(errno.ENOMEM, lmdb.MemoryError)() if map_size > 1 << 30 else real(path, map_size=map_size, **kwargs)
        )

    monkeypatch.setattr(lmdb, "Environment", limited)
    table = LmdbTable(place)
    assert asked == [1 << bits for bits in range(40, 29, -1)]
    put(table, {"a": (b"1", 1, 0)})
    table.close()


def test_a_directory_that_lmdb_cannot_open_is_a_storage_error(place, monkeypatch):
    monkeypatch.setattr(lmdb, "Environment", error(errno.EACCES))
    with pytest.raises(StorageError, match="may not write"):
        LmdbTable(place)
    monkeypatch.setattr(lmdb, "Environment", error(0, OSError))
    with pytest.raises(StorageError):
        LmdbTable(place)


def test_files_that_are_deleted_while_they_are_opened_are_a_storage_error(place, monkeypatch):
    real = lmdb_environment.Environment._prepare

    def prepare(self, env):
        real(self, env)
        shutil.rmtree(place)

    monkeypatch.setattr(lmdb_environment.Environment, "_prepare", prepare)
    with pytest.raises(StorageError, match="cannot be read"):
        LmdbTable(place)
