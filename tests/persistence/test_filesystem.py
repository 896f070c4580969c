from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.errors import AlreadyOpenError, InvalidKeyError
from reactstate.persistence.filesystem import LocalFileSystem, pick_pread, pick_pwrite, pick_sync
from reactstate.persistence.names import blob_file, blob_name, check_blob_name, segment_serial, snapshot_version
from reactstate.testing.faults import FaultyFileSystem


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    if request.param == "local":
        return LocalFileSystem(), str(tmp_path)
    files = FaultyFileSystem()
    files.make_directory("/base")
    return files, "/base"


async def test_both_file_systems_do_the_same(place):
    files, base = place
    directory = f"{base}/a/b"
    files.make_directory(directory)
    files.make_directory(directory)
    assert files.list_directory(directory) == []
    assert files.list_directory(f"{base}/a") == ["b"]
    path = f"{directory}/file"
    with pytest.raises(FileNotFoundError):
        files.open(path)
    handle = files.open(path, write=True, create=True)
    with pytest.raises(FileExistsError):
        files.open(path, write=True, create=True)
    assert files.pwrite(handle, b"hello", 3) == 5
    assert files.pread(handle, 100, 0) == b"\0\0\0hello"
    files.truncate(handle, 5)
    files.sync(handle)
    assert files.size(handle) == 5
    files.close(handle)
    await files.replace_file(path, b"new")
    assert await files.read_file(path) == b"new"
    files.sync_directory(directory)
    files.remove(path)
    with pytest.raises(FileNotFoundError):
        files.remove(path)
    with pytest.raises(FileNotFoundError):
        await files.read_file(path)
    with pytest.raises(FileNotFoundError):
        files.list_directory(path)
    lock = files.lock(f"{base}/lock")
    with pytest.raises(AlreadyOpenError):
        files.lock(f"{base}/lock")
    lock.release()
    files.lock(f"{base}/lock").release()


async def test_a_replacement_that_fails_leaves_the_old_file_and_no_other(place):
    files, base = place
    await files.replace_file(f"{base}/file", b"old")
    with pytest.raises(OSError):
        await files.replace_file(f"{base}/missing/file", b"new")
    if isinstance(files, FaultyFileSystem):
        files.fail("fdatasync", error=errno.ENOSPC)
    else:
        files.sync = refuse
    with pytest.raises(OSError):
        await files.replace_file(f"{base}/file", b"new")
    assert await files.read_file(f"{base}/file") == b"old"
    assert files.list_directory(base) == ["file"]


def refuse(handle):
    raise OSError(errno.ENOSPC, "full")


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    files = LocalFileSystem()
    with pytest.raises(OSError):
        files.make_directory(str(tmp_path / "file"))
    with pytest.raises(OSError):
        files.make_directory(str(tmp_path / "file" / "below"))
    memory = FaultyFileSystem()
    memory.put("/file", b"")
    with pytest.raises(OSError):
        memory.make_directory("/file")
    with pytest.raises(OSError):
        memory.open("/none/file", create=True)


class Control:
    """What macOS offers."""

    F_FULLFSYNC = 51

    def __init__(self, *, refuses):
        self.refuses = refuses
        self.asked = []

    def fcntl(self, handle, request):
        self.asked.append((handle, request))
        if self.refuses:
            raise OSError(errno.ENOTSUP, "not here")


class System:
    """A system that has seek, read, write and fsync only."""

    def __init__(self):
        self.synced = []

    lseek = staticmethod(os.lseek)
    read = staticmethod(os.read)
    write = staticmethod(os.write)

    def fsync(self, handle):
        self.synced.append(handle)


@pytest.mark.parametrize("refuses", [True, False])
def test_macos_is_asked_for_a_full_sync_first(refuses):
    control, system = Control(refuses=refuses), System()
    pick_sync(control, system)(7)
    assert control.asked == [(7, 51)]
    assert system.synced == ([7] if refuses else [])


def test_systems_without_fdatasync_or_positions_get_the_same_with_what_they_have(tmp_path):
    system = System()
    pick_sync(None, system)(3)
    assert system.synced == [3]
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert pick_pwrite(system)(handle, b"abc", 2) == 3
    assert pick_pread(system)(handle, 2, 3) == b"bc"
    os.close(handle)


def test_a_crash_loses_or_tears_what_was_not_synced_and_nothing_else():
    outcomes = set()
    for seed in range(60):
        files = FaultyFileSystem(seed)
        files.make_directory("/d")
        handle = files.open("/d/f", write=True, create=True)
        files.pwrite(handle, b"safe", 0)
        files.sync(handle)
        files.sync_directory("/d")
        files.pwrite(handle, b"more", 4)
        files.truncate(handle, 6)
        after = files.after_crash()
        outcomes.add(after.contents("/d/f"))
        assert after.contents("/d/f").startswith(b"safe")
        assert files.after_crash("lost").contents("/d/f") == b"safe"
        assert files.after_crash("kept").contents("/d/f") == b"safemo"
    assert len(outcomes) > 3


def test_a_name_that_was_not_synced_may_be_lost():
    found = set()
    for seed in range(20):
        files = FaultyFileSystem(seed)
        files.make_directory("/d")
        files.open("/d/f", write=True, create=True)
        found.add(tuple(files.after_crash().paths()))
        assert files.after_crash("lost").paths() == []
    assert found == {(), ("/d/f",)}


def test_a_lost_sync_makes_nothing_durable():
    files = FaultyFileSystem()
    files.make_directory("/d")
    handle = files.open("/d/f", write=True, create=True)
    files.sync_directory("/d")
    files.pwrite(handle, b"data", 0)
    files.lose_sync()
    files.sync(handle)
    assert files.after_crash("lost").contents("/d/f") == b""
    files.sync(handle)
    assert files.after_crash("lost").contents("/d/f") == b"data"


def test_after_a_crash_every_call_raises():
    files = FaultyFileSystem()
    files.crash(at=1)
    with pytest.raises(OSError):
        files.make_directory("/d")
    assert files.crashed
    with pytest.raises(OSError):
        files.list_directory("/")
    assert files.counts["list_directory"] == 1


names = st.from_regex(r"[A-Za-z0-9._-]{1,12}(/[A-Za-z0-9._-]{1,12}){0,4}", fullmatch=True)


@settings(max_examples=200, deadline=None)
@given(names)
def test_every_allowed_name_comes_back_and_stays_in_its_directory(name):
    try:
        check_blob_name(name)
    except InvalidKeyError:
        return
    file = blob_file(name)
    assert blob_name(file) == name
    assert "/" not in file
    assert file.islower() or file.lower() == file


def test_foreign_files_are_no_blobs_segments_or_snapshots():
    assert blob_name("A.rsb") is None
    assert segment_serial("journal-1.rsj") is None
    assert snapshot_version("state-00000000000000000001.rss.1-1.tmp") is None
