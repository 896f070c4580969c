from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import sqlite3
import stat
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    CorruptionError,
    ReadOnlyError,
    SettingsError,
    StorageError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv import sqlite, sqlite_file
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, Capability, Put, Step
from reactstate.kv.sqlite import SqliteStore

ALWAYS, INTERVAL = StoreOptions(), StoreOptions(durability="interval", flush_interval=1000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.db"


def names(folder):
    return sorted(found.name for found in folder.iterdir())


async def keys(store):
    return [entry.key async for entry in store.scan()]


# --- opening ----------------------------------------------------------------------------------------------------


async def test_what_is_written_is_there_when_the_store_is_opened_again(path):
    store = await SqliteStore.open(path)
    assert store.engine == "sqlite"
    assert store.url == f"sqlite://{path}"
    assert store.capabilities == frozenset(Capability)
    entry = await store.put("a\0b", b"\0value")
    cursor = await store.cursor()
    await store.aclose()
    assert names(path.parent) == ["a.db"]
    async with SqliteStore.open(str(path), options=INTERVAL) as again:
        assert await again.get("a\0b") == entry
        assert await again.cursor() == cursor
        assert Capability.FENCING not in again.capabilities


async def test_the_files_belong_to_their_owner_alone(path):
    async with SqliteStore.open(path) as store:
        await store.put("a", b"")
        assert {stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()} == {0o600}


async def test_the_settings_that_durability_needs_are_in_force(path):
    for options, level in ((ALWAYS, 2), (INTERVAL, 1)):
        async with SqliteStore.open(path, options=options) as store:
            connection = store._table._writer._connection
            for setting, value in (("synchronous", level), ("journal_mode", "wal"), ("fullfsync", 1)):
                assert connection.execute(f"PRAGMA {setting}").fetchone() == (value,)


async def test_a_setting_that_sqlite_does_not_take_is_told(path, monkeypatch):
    monkeypatch.setattr(sqlite_file, "_DURABLE_CHECKPOINT_PAGES", 1 << 40)
    with pytest.raises(StorageError, match="does not take wal_autocheckpoint"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("name", ["", ":memory:", "a\0b"])
def test_what_is_no_path_of_a_file_is_refused_at_the_call(name):
    with pytest.raises(SettingsError, match="memory:"):
        SqliteStore.open(name)


async def test_a_link_and_its_target_are_one_store(path, tmp_path):
    link = tmp_path / "link.db"
    async with SqliteStore.open(path) as store:
        link.symlink_to(path)
        async with SqliteStore.open(link) as other:
            assert other.url == store.url
            await other.put("a", b"")
            assert await store.get("a") is not None


async def test_the_working_directory_may_change(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with SqliteStore.open("a.db") as store:
        monkeypatch.chdir("/")
        await store.put("a", b"")
        async with store.snapshot() as view:
            assert await view.get("a") is not None


async def test_an_empty_file_becomes_a_store(path):
    path.touch()
    async with SqliteStore.open(path) as store:
        await store.put("a", b"")


async def test_a_store_whose_making_was_cut_off_is_made(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as half:
        half.execute("PRAGMA cache_size = 1")
        half.execute("BEGIN")
        half.execute("CREATE TABLE entries (key)")
        for _ in range(200):  # so that pages reach the file before the commit
            half.execute("INSERT INTO entries VALUES (?)", (bytes(4000),))
        for name in ("a.db", "a.db-journal"):
            shutil.copy(path.parent / name, path.parent / f"copy{name}")
        half.execute("ROLLBACK")
    path.unlink()
    for name in ("a.db", "a.db-journal"):
        (path.parent / f"copy{name}").rename(path.parent / name)
    assert path.stat().st_size > 0
    with pytest.raises(StorageError):
        await SqliteStore.open(path, options=StoreOptions(read_only=True))
    async with SqliteStore.open(path) as store:
        await store.put("a", b"")
        assert await keys(store) == ["a"]


async def test_a_store_that_was_made_but_keeps_no_write_ahead_log_yet_is_completed(path):
    await (await SqliteStore.open(path)).aclose()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    async with SqliteStore.open(path) as store:
        await store.put("a", b"")


async def test_many_openings_at_once_make_one_store(path):
    stores = await asyncio.gather(*(SqliteStore.open(path) for _ in range(8)))
    assert len({store._table.id for store in stores}) == 1
    await asyncio.gather(*(store.increment("n") for store in stores for _ in range(20)))
    assert (await stores[0].get("n")).value == b"160"
    for store in stores:
        await store.aclose()


async def test_an_opening_that_is_cancelled_leaves_nothing_open(path):
    task = asyncio.ensure_future(SqliteStore.open(path).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    for _ in range(2000):
        if not sqlite_file._open and names(path.parent) == ["a.db"]:
            break
        await asyncio.sleep(0.002)
    assert not sqlite_file._open
    task = asyncio.ensure_future(SqliteStore.open(path.parent).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_store_that_nobody_holds_lets_its_files_go(path):
    store = await SqliteStore.open(path, options=INTERVAL)
    await store.put("a", b"")
    thread = store._writes._thread
    del store
    gc.collect()
    await asyncio.to_thread(thread.join, 5)
    assert names(path.parent) == ["a.db"]


# --- what is no store -------------------------------------------------------------------------------------------


def script(path, text):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(text)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda path: path.write_bytes(b"no database at all\n" * 500), CorruptionError, "no SQLite database"),
        (
            lambda path: script(path, "CREATE TABLE t (x); INSERT INTO t VALUES (1)"),
            StorageError,
            "another application",
        ),
        (lambda path: script(path, "PRAGMA application_id = 7"), StorageError, "another application"),
        (
            lambda path: script(path, "PRAGMA journal_mode = WAL; CREATE TABLE t (x)"),
            StorageError,
            "another application",
        ),
        (lambda path: path.mkdir(), StorageError, "is no file"),
        (lambda path: os.mkfifo(path), StorageError, "is no file"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
async def test_what_is_no_store_is_refused_and_left_as_it_is(path, make, kind, text, read_only):
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind, match=text) as caught:
        await SqliteStore.open(path, options=StoreOptions(read_only=read_only))
    assert caught.value.path == str(path)
    assert names(path.parent) == ["a.db"]
    if before is not None:
        assert path.read_bytes() == before


async def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(path):
    await (await SqliteStore.open(path)).aclose()
    script(path, "PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="newer version"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_a_directory_that_is_missing_or_a_file_is_told(path):
    with pytest.raises(StorageError, match="make its directory first"):
        await SqliteStore.open(path / "b.db")
    path.touch()
    with pytest.raises(StorageError, match="directory"):
        await SqliteStore.open(path / "b.db")
    (path.parent / "loop").symlink_to("loop")
    with pytest.raises(StorageError):
        await SqliteStore.open(path.parent / "loop")


@contextmanager
def without_rights():
    """Be a user without rights, for whom the rights of files count."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def folder():
    """A directory that every user reaches, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        Path(name).chmod(0o755)


async def test_a_directory_or_file_that_may_not_be_written_is_told(folder):
    path = folder / "a.db"
    folder.chmod(0o555)
    with without_rights(), pytest.raises(StorageError, match="cannot be opened"):
        await SqliteStore.open(path)
    folder.chmod(0o755)
    await (await SqliteStore.open(path)).aclose()
    path.chmod(0o444)
    folder.chmod(0o555)
    with without_rights(), pytest.raises(StorageError) as caught:
        await SqliteStore.open(path)
    assert caught.value.path == str(path)


async def test_read_only_opens_what_is_there_and_makes_nothing(path):
    reading = StoreOptions(read_only=True)
    with pytest.raises(StorageError, match="nothing can be read"):
        await SqliteStore.open(path, options=reading)
    path.touch()
    with pytest.raises(StorageError, match="empty"):
        await SqliteStore.open(path, options=reading)
    path.unlink()
    async with SqliteStore.open(path) as store:
        await store.put("a", b"1")
        async with SqliteStore.open(path, options=reading) as reader:
            assert (await reader.get("a")).value == b"1"
            with pytest.raises(ReadOnlyError):
                await reader.put("a", b"2")
            await reader.flush()
            await store.put("a", b"3")
            assert (await reader.get("a")).value == b"3"
            async with reader.snapshot() as view:
                await store.put("a", b"4")
                assert (await view.get("a")).value == b"3"
    async with SqliteStore.open(path, options=reading) as reader:
        assert (await reader.get("a")).value == b"4"


# --- failures ---------------------------------------------------------------------------------------------------


async def test_a_full_disk_changes_nothing_and_the_store_goes_on(path):
    async with SqliteStore.open(path) as store:
        await store.put("a", b"1")
        execute = store._table._writer._connection.execute
        (pages,) = execute("PRAGMA page_count").fetchone()
        execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(StorageError, match="disk is full") as caught:
            await store.commit([Step("a", Put(b"2")), *(Step(f"b{place}", Put(bytes(5000))) for place in range(9))])
        assert caught.value.path == str(path)
        assert await keys(store) == ["a"]
        assert (await store.put("a", b"3")).revision == 2
        execute("PRAGMA max_page_count = 1000000")
        assert (await store.put("b", bytes(50_000))).revision == 3


async def test_a_write_that_the_system_refuses_changes_nothing_and_the_store_goes_on(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with SqliteStore.open(path) as store:
        await store.put("a", b"1")
        size = store._table.size()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(StorageError, match="nothing was written") as caught:
                await store.commit([Step("a", Put(b"2")), Step("b", Put(bytes(100_000)))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not isinstance(caught.value, StorageFailedError)
        assert (await store.get("a")).value == b"1"
        assert (await store.put("c", b"")).revision == 2
    async with SqliteStore.open(path) as store:
        assert await keys(store) == ["a", "c"]


async def test_a_store_that_cannot_be_made_for_want_of_room_is_made_later(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            await SqliteStore.open(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.path == str(path)
    async with SqliteStore.open(path) as store:
        await store.put("a", b"")


async def test_a_file_system_without_shared_memory_is_refused(path, monkeypatch):
    def answer(connection, question, *rest, plain=sqlite_file._ask):
        return ("delete",) if "journal_mode" in question else plain(connection, question, *rest)

    monkeypatch.setattr(sqlite_file, "_ask", answer)
    with pytest.raises(StorageError, match="local file system"):
        await SqliteStore.open(path)


@contextmanager
def unsyncable(path):
    """Let the log's file take writes, but no sync: as a device does that has none."""
    files = [int(name.name) for name in Path("/proc/self/fd").iterdir() if os.path.realpath(name) == f"{path}-wal"]
    kept = [(file, os.dup(file)) for file in files]
    device = os.open("/dev/null", os.O_RDWR)
    for file in files:
        os.dup2(device, file)
    assert kept
    try:
        yield
    finally:
        for file, copy in kept:
            os.dup2(copy, file)
            os.close(copy)
        os.close(device)


async def test_after_a_sync_that_failed_the_outcome_is_unknown_and_nothing_more_is_written(path):
    store = await SqliteStore.open(path)
    await store.put("a", b"1")
    with unsyncable(path):
        with pytest.raises(UnknownOutcomeError, match="open the store anew"):
            await store.put("b", b"")
        with pytest.raises(StorageFailedError, match="before"):
            await store.put("c", b"")
    with pytest.raises(StorageFailedError):
        await store.put("d", b"")
    with pytest.raises(StorageFailedError):
        await store.flush()
    assert (await store.get("a")).value == b"1"
    await store.aclose()
    async with SqliteStore.open(path) as store:
        assert (await keys(store))[0] == "a"
        await store.put("d", b"")


async def test_after_a_flush_that_failed_nothing_more_is_written(path):
    store = await SqliteStore.open(path, options=INTERVAL)
    await store.put("a", b"1")
    await store.flush()
    await store.put("a", b"2")
    with unsyncable(path), pytest.raises(UnknownOutcomeError, match="power cut"):
        await store.flush()
    with pytest.raises(StorageFailedError):
        await store.put("b", b"")
    with pytest.raises(StorageFailedError):
        await store.aclose()
    async with SqliteStore.open(path) as store:
        assert (await store.get("a")).value == b"2"


async def test_a_flush_of_a_store_that_was_never_written_does_nothing(path):
    async with SqliteStore.open(path, options=INTERVAL) as store:
        await store.flush()
        await store.put("a", b"")
        await store.flush()
        await store.flush()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_deleted_or_replaced_while_it_is_open_is_noticed(path, replaced):
    store = await SqliteStore.open(path)
    await store.put("a", b"1")
    path.rename(path.parent / "moved.db")
    if replaced:
        async with SqliteStore.open(path.parent / "b.db") as other:
            await other.put("b", b"")
        (path.parent / "b.db").rename(path)
    with pytest.raises(StorageFailedError, match="deleted or replaced"):
        await store.put("a", b"2")
    with pytest.raises(StorageFailedError, match="deleted or replaced"):
        await store.flush()
    assert (await store.get("a")).value == b"1"
    with pytest.raises(StorageError):  # the view would be of another file
        await store.snapshot().__aenter__()
    await store.aclose()
    if not replaced:
        async with SqliteStore.open(path) as store:
            assert await keys(store) == []


async def test_a_damaged_file_is_told_and_never_read_wrongly(path):
    async with SqliteStore.open(path) as store:
        await store.commit([Step(f"{place:05}", Put(bytes(100))) for place in range(5000)])
    whole = path.read_bytes()
    for junk in (b"\xff", b"\0"):
        path.write_bytes(whole[:4096] + junk * (len(whole) - 4096))
        with pytest.raises(StorageError) as caught:
            async with SqliteStore.open(path) as store:
                await keys(store)
        assert isinstance(caught.value, CorruptionError)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptionError):
        async with SqliteStore.open(path) as store:
            await store.get("04999")
            await keys(store)
    path.write_bytes(b"\0" * 100 + whole[100:])
    with pytest.raises(CorruptionError):
        await SqliteStore.open(path)


async def test_damage_that_a_write_meets_is_told_and_nothing_is_written(path):
    async with SqliteStore.open(path) as store:
        await store.commit([Step(f"{place:05}", Put(bytes(100))) for place in range(5000)])
        cursor = await store.cursor()
    whole = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()
    whole[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(whole)
    async with SqliteStore.open(path) as store:
        with pytest.raises(CorruptionError):
            await store.put("a", b"")
        assert await store.cursor() == cursor


async def test_a_database_that_others_hold_is_unavailable_and_nothing_is_written(path, monkeypatch):
    monkeypatch.setattr(sqlite, "_PATIENCE_S", 0.02)
    monkeypatch.setattr(sqlite.SqliteTable.__init__, "__kwdefaults__", {"patience_s": 0.02})
    async with SqliteStore.open(path) as store:
        await store.put("a", b"")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            failed = await asyncio.gather(*(store.put(key, b"") for key in "bcd"), return_exceptions=True)
            assert {type(error) for error in failed} == {UnavailableError}
            assert await keys(store) == ["a"]
            other.execute("ROLLBACK")
        assert (await store.put("b", b"")).revision == 2
    script(path, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError):
            await SqliteStore.open(path)


# --- several stores and processes -------------------------------------------------------------------------------


async def test_two_stores_of_one_process_on_one_file_see_and_wake_each_other(path):
    clock = ManualClock()
    async with SqliteStore.open(path, clock=clock) as one, SqliteStore.open(path, clock=clock) as two:
        watch = one.watch()
        event = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        entry = await two.put("a", b"1", ttl=1)
        assert await one.get("a") == entry
        assert (await asyncio.wait_for(event, 10)).revision == 1
        assert not await one.compare_and_swap("a", ABSENT, b"2")
        clock.advance(1)
        assert await one.compare_and_swap("a", ABSENT, b"2")
        assert (await asyncio.wait_for(anext(watch), 10)).revision == 2
        await asyncio.gather(*(store.increment("n") for store in (one, two) for _ in range(100)))
        assert (await two.get("n")).value == b"200"


# --- speed that is a promise ------------------------------------------------------------------------------------


async def test_many_tasks_share_few_transactions(path):
    async with SqliteStore.open(path, options=INTERVAL) as store:
        await asyncio.gather(*(store.put(f"{place}", b"") for place in range(500)))
        (rows,) = store._table.latest._execute("SELECT count(*) FROM change_log").fetchone()
        assert rows <= 5


async def test_a_scan_does_not_hold_the_loop(path):
    async with SqliteStore.open(path, options=INTERVAL) as store:
        await store.commit([Step(f"{place:05}", Put(b"")) for place in range(5000)])
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        assert len(await keys(store)) == 5000
        assert turns >= 4
        counting.cancel()


async def test_what_is_closed_is_refused(path):
    store = await SqliteStore.open(path)
    await store.aclose()
    with pytest.raises(ClosedError):
        await store.get("a")
