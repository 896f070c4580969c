from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reactstate import (
    AlreadyOpenError,
    ClosedError,
    FilePersistence,
    InvalidKeyError,
    MemoryPersistence,
    ReactStateError,
    ReadOnlyError,
    SettingsError,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    StateValidationError,
    StorageError,
    UnsupportedError,
    WrongContextError,
)
from reactstate.errors import CodecError
from reactstate.kv.memory import MemoryStore


class Cart(State):
    items: dict[str, int] = {}


class Named(State, type_name="shop.cart"):
    id: str
    n: int = 0


class Numbered(State):
    number: int

    @property
    def id(self) -> UUID:
        return UUID(int=self.number)


async def test_a_stored_state_wins_over_the_first_state(place):
    async with place.open(Cart()) as cart:
        await cart.update({"items": {"a": 1}})
    async with place.open(Cart(items={"b": 2})) as cart:
        if place.durable:
            assert (cart.version, cart.state.items) == (2, {"a": 1})
        else:
            assert (cart.version, cart.state.items) == (1, {"b": 2})


async def test_a_bare_type_with_nothing_stored_opens_at_version_0(place):
    async with place.open(Cart) as cart:
        assert (cart.version, len(cart.history), cart.current.exists) == (0, 0, False)
        for call in (lambda: cart.state, lambda: cart.current.state):
            with pytest.raises(StateNotFoundError, match="nothing is stored yet"):
                call()
        for verb in (cart.update({}), cart.delete(), cart.get()):
            with pytest.raises(StateNotFoundError):
                await verb
        for verb in (cart.undo(), cart.redo(), cart.rollback(), cart.at(0)):
            with pytest.raises(Exception, match="kept: none"):
                await verb
        watching = cart.watch()
        subscription = cart.subscribe(since=0)
        waiting = asyncio.ensure_future(anext(watching))
        made = await cart.set(Cart(items={"a": 1}))
        assert made.version == 1
        assert (await anext(subscription)).version == 1
        assert (await waiting).items == {"a": 1}


async def test_a_stored_deletion_wins_over_the_first_state(disk):
    async with disk.open(Cart()) as cart:
        await cart.delete()
    async with disk.open(Cart(items={"a": 1})) as cart:
        assert (cart.version, cart.current.exists) == (2, False)
        await cart.set(Cart())
        assert cart.version == 3


async def test_the_first_state_is_durable_before_open_returns(disk):
    cart = await disk.open(Cart(items={"a": 1}))
    before = disk.files
    disk.crash("lost")
    async with disk.open(Cart) as again:
        assert again.state.items == {"a": 1}
    disk.files = before
    await cart.aclose()


async def test_open_is_awaited_or_entered(tmp_path):
    cart = await StateContainer.open(Cart(), f"file:{tmp_path}/a")
    async with cart as same:
        assert same is cart
    async with StateContainer.open(Cart(), f"file:{tmp_path}/a") as cart:
        assert cart.version == 1
    with pytest.raises(ClosedError):
        async with cart:
            pass


@pytest.mark.parametrize(
    ("initial", "key", "folder"),
    [
        (Cart(), None, "Cart%2FCart"),
        (Cart, None, "Cart%2FCart"),
        (Named(id="ada/1"), None, "shop.cart%2Fada%2F1"),
        (Numbered(number=7), None, "Numbered%2F00000000-0000-0000-0000-000000000007"),
        (Named(id="ada"), "cart/../..", "cart%2F..%2F.."),
        (Named(id="ada"), "\N{SNOWMAN}", "%E2%98%83"),
    ],
)
async def test_each_key_has_a_directory_of_its_own_that_it_cannot_leave(tmp_path, initial, key, folder):
    async with StateContainer.open(initial, f"file:{tmp_path}/board%20x", key=key):
        assert [entry.name for entry in tmp_path.iterdir()] == ["board x"]
        assert [entry.name for entry in (tmp_path / "board x").iterdir()] == [folder]


@pytest.mark.parametrize("key", ["", ".", "..", "x" * 201, "\N{SNOWMAN}" * 30, "\ud800", 5])
async def test_a_key_that_cannot_name_a_directory_is_refused(tmp_path, key):
    with pytest.raises(InvalidKeyError):
        await StateContainer.open(Cart(), f"file:{tmp_path}", key=key)
    assert [entry.name for entry in tmp_path.iterdir()] == []


async def test_a_type_with_an_id_needs_a_key(tmp_path):
    for cls in (Named, Numbered):
        with pytest.raises(InvalidKeyError, match="kept under its id"):
            await StateContainer.open(cls, f"file:{tmp_path}")
    async with StateContainer.open(Named, f"file:{tmp_path}", key="shop.cart/ada") as cart:
        await cart.set(Named(id="ada"))
    async with StateContainer.open(Named(id="ada"), f"file:{tmp_path}") as cart:
        assert cart.version == 1


async def test_url_options_reach_the_persistence(tmp_path):
    url = f"file://{tmp_path}?format=json&compression=zstd&durability=interval&flush_interval=0.5"
    async with StateContainer.open(Cart(), url) as cart:
        assert "interval" in repr(cart._persistence)
        await cart.update({"items": {"a": 1}})
    async with StateContainer.open(Cart, f"file:{tmp_path}?read_only=true") as cart:
        assert cart.state.items == {"a": 1}
        with pytest.raises(ReadOnlyError):
            cart.update({})


@pytest.mark.parametrize(
    "url",
    [
        "file:x?format=xml",
        "file:x?format",
        "file:x?compression=rar",
        "file:x?durability=maybe",
        "file:x?flush_interval=soon",
        "file:x?flush_interval=-1",
        "file:x?flush_interval=nan",
        "file:x?flush_interval=1&flush_interval=2",
        "file:x?read_only=perhaps",
        "file:x?password=secret",
        "file:",
        "file:?format=json",
        "file://host/x",
        "file:%00",
        "board",
        "",
        "ftp:x",
        "memory:x",
        "memory:?durability=always",
        5,
    ],
)
async def test_a_url_that_is_wrong_is_a_settings_error(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError):
        await StateContainer.open(Cart(), url)
    assert [entry.name for entry in tmp_path.iterdir()] == []


@pytest.mark.parametrize("url", ["libsql:x.db", "redis://localhost", "etcd://a:1", "redis+sentinel://a"])
async def test_engines_of_later_versions_are_unsupported(url):
    with pytest.raises(UnsupportedError) as caught:
        await StateContainer.open(Cart(), url)
    assert caught.value.engine == url.split(":")[0].split("+")[0]


async def test_arguments_that_contradict_each_other_are_refused(tmp_path):
    for arguments in (
        {"url": "memory:", "persistence": MemoryPersistence()},
        {"key": "x", "persistence": MemoryPersistence()},
        {"url": "memory:", "store": MemoryStore()},
        {"store": object()},
        {"deadline": 0},
        {"deadline": float("nan")},
    ):
        with pytest.raises(SettingsError):
            await StateContainer.open(Cart(), **arguments)
    for wrong in (State, int, "cart", None, {"a": 1}):
        with pytest.raises(StateValidationError):
            await StateContainer.open(wrong, f"file:{tmp_path}")


@pytest.mark.parametrize("url", [None, "memory:", "memory://"])
async def test_memory_needs_no_place(url):
    async with StateContainer.open(Cart(), url, key="any/key") as cart:
        await cart.update({"items": {"a": 1}})
        assert cart.version == 2


async def test_a_second_writer_is_refused_and_harms_nobody(disk):
    async with disk.open(Cart()) as cart:
        with pytest.raises(AlreadyOpenError):
            await disk.open(Cart())
        await cart.update({"items": {"a": 1}})
    async with disk.open(Cart) as cart:
        assert cart.state.items == {"a": 1}


async def test_a_directory_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "Cart%2FCart").write_text("mine")
    with pytest.raises(StorageError):
        await StateContainer.open(Cart(), f"file:{tmp_path}")
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(StorageError):
        await StateContainer.open(Cart(), f"file:{tmp_path}/taken")
    assert (tmp_path / "Cart%2FCart").read_text() == "mine"


@pytest.mark.parametrize("operation", ["make_directory", "lock", "pwrite", "open", "fdatasync", "sync_directory"])
async def test_a_directory_that_cannot_be_written_is_a_typed_error_and_is_let_go(disk, operation):
    for nth in (1, 2, 3):
        place = type(disk)()
        place.files.fail(operation, nth=nth, error=errno.EROFS)
        with contextlib.suppress(ReactStateError):
            cart = await place.open(Cart())
            await cart.aclose()
        place.crash("kept")
        async with place.open(Cart()) as cart:
            await cart.update({"items": {"a": 1}})


async def test_a_disk_that_is_full_at_the_first_state_leaves_nothing_open(disk):
    disk.files.fail("pwrite", error=errno.ENOSPC)
    with pytest.raises(StorageError):
        await disk.open(Cart())
    async with disk.open(Cart()) as cart:
        assert cart.version == 1


@pytest.mark.parametrize("turns", range(12))
async def test_an_open_that_is_cancelled_lets_go_of_the_directory(disk, turns):
    opening = asyncio.ensure_future(disk.open(Cart()).__aenter__())
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    outcome = await asyncio.gather(opening, return_exceptions=True)
    if not isinstance(outcome[0], asyncio.CancelledError):
        await outcome[0].aclose()
    async with disk.open(Cart()) as cart:
        assert cart.version == 1


async def test_damage_and_newer_formats_are_typed_errors_that_keep_every_byte(disk):
    async with disk.open(Cart()) as cart:
        for number in range(5):
            await cart.update({"items": {"a": number}})
    (journal,) = (path for path in disk.files.paths() if path.endswith(".rsj"))
    good = disk.files.contents(journal)
    for place in range(4, len(good) - 60, 7):
        broken = bytearray(good)
        broken[place] ^= 0xFF
        disk.files.put(journal, bytes(broken))
        try:
            cart = await disk.open(Cart)
        except (StorageError, CodecError):
            kept = disk.files.contents(journal)
        else:
            assert cart.state.items in ({}, *({"a": number} for number in range(5)))
            await cart.aclose()
            continue
        assert kept == bytes(broken)


def test_after_a_fork_the_child_is_refused_and_the_parent_goes_on(tmp_path):
    async def story() -> int:
        async with StateContainer.open(Cart(), f"file:{tmp_path}") as cart, StateContainer(Cart()) as other:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                child = os.fork()
            if child == 0:
                code = 0
                for call in (lambda: cart.update({}), lambda: other.update({}), cart.undo, cart.edit):
                    try:
                        call()
                    except WrongContextError:
                        continue
                    code = 1
                try:
                    cart.state  # noqa: B018 - reading is allowed
                except BaseException:
                    code = 2
                os._exit(code)
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - the child is done in a moment
            await cart.update({"items": {"a": 1}})
            return os.waitstatus_to_exitcode(status)

    assert asyncio.run(story()) == 0
    assert asyncio.run(_stored(tmp_path)) == {"a": 1}


async def _stored(path: Path) -> Any:
    async with StateContainer.open(Cart, f"file:{path}") as cart:
        return cart.state.items


async def test_a_container_in_memory_belongs_to_the_first_loop_that_uses_it():
    cart = StateContainer(Cart())

    async def use() -> None:
        await cart.update({"items": {"a": 1}})

    await asyncio.to_thread(asyncio.run, use())
    with pytest.raises(WrongContextError):
        await cart.update({"items": {"a": 2}})
    assert cart.state.items == {"a": 1}


async def test_an_own_persistence_is_closed_with_its_container(tmp_path):
    persistence: FilePersistence[Cart] = FilePersistence(tmp_path)
    async with StateContainer.open(Cart(), persistence=persistence, config=StateConfig()) as cart:
        await cart.update({"items": {"a": 1}})
    with pytest.raises(ClosedError):
        await persistence.load()


def test_a_program_that_never_closes_loses_nothing_that_was_acknowledged(tmp_path):
    script = (
        "import asyncio, sys\n"
        "from reactstate import State, StateContainer\n"
        "class Cart(State):\n    items: dict[str, int] = {}\n"
        "async def main():\n"
        "    cart = await StateContainer.open(Cart(), 'file:' + sys.argv[1])\n"
        "    await cart.update({'items': {'a': 1}})\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert ended.stderr == ""
    assert asyncio.run(_stored(tmp_path)) == {"a": 1}
