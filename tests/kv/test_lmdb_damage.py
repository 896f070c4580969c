from __future__ import annotations

import os
import shutil
import subprocess
import sys

import lmdb
import pytest

from reactstate.errors import (
    CorruptionError,
    ReadOnlyError,
    StorageError,
    StorageFailedError,
)
from reactstate.kv import lmdb_sharing
from reactstate.kv.lmdb_check import check_file
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


# --- read-only --------------------------------------------------------------------------------------------------------


def test_a_read_only_table_reads_and_refuses_to_write(place):
    table = LmdbTable(place)
    put(table, {"a": (b"1", 1, 0)})
    table.close()
    reader = LmdbTable(place, read_only=True)
    assert reader.latest.chunk("", None, 9) == [("a", b"1", 1, 0)]
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
    assert not lmdb_sharing._open


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


def test_a_database_that_is_missing_is_corruption(place):
    LmdbTable(place).close()
    with lmdb.open(str(place), max_dbs=5) as env, env.begin(write=True) as txn:
        txn.drop(env.open_db(b"due", txn))
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


def test_damage_is_named_with_its_place_and_the_file_is_kept(sample):
    file = sample / "data.mdb"
    raw = file.read_bytes()
    page = 4096 if raw[4096 + 16 : 4096 + 20] == raw[16:20] else 16384
    size = raw.index(page.to_bytes(4, sys.byteorder), 16)
    for bad, offset in [
        (raw[:100], 100),
        (raw[: page + 20], page + 20),
        (raw[: len(raw) // 2], None),
        (raw[:size] + b"\7\0\0\0" + raw[size + 4 :], 0),
        (raw[:page] + bytes(page) + raw[2 * page :], page),
        (bytes([raw[0] ^ 1]) + raw[1:], None),
        (raw[:page] + raw[:page] + raw[2 * page :], None),
    ]:
        file.write_bytes(bad)
        with pytest.raises(CorruptionError) as caught:
            LmdbTable(sample)
        assert (caught.value.path, caught.value.offset) == (str(file), offset)
        assert file.read_bytes() == bad
    file.write_bytes(raw)
    LmdbTable(sample).close()


def test_a_file_that_cannot_be_looked_through_counts_as_damaged(sample, monkeypatch):
    def fail(_):
        raise OverflowError("on purpose")

    monkeypatch.setattr("lmdb.verify.verify", fail)
    os.truncate(sample / "data.mdb", (sample / "data.mdb").stat().st_size // 2)
    with pytest.raises(CorruptionError, match="on purpose"):
        LmdbTable(sample)
