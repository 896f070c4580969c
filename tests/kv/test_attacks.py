"""What attacks on the stores broke, each by the guarantee that it broke."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import pytest

from reactstate.errors import CompactedError, StorageError, StorageFailedError, UnavailableError
from reactstate.kv.changelog import PUT, encode_changes
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Commit, Cursor, Delete, Put, Step
from reactstate.kv.sqlite import SqliteStore
from reactstate.kv.urls import open_store
from reactstate.testing.history import NotSerialisableError, Recording

# --- events ---------------------------------------------------------------------------------------------------------


async def test_a_watch_learns_that_the_log_was_trimmed_between_two_of_its_readings(table, store):
    watch = store.watch()
    for _ in range(20):
        await store.put("k", b"")
    log = table.latest.log

    def trimmed(after, limit):
        rows = log(after, limit)
        if after == 0:  # another process writes on, and trims all but its own commit, before the next reading
            newest, time_ms = table.state.newest
            table.state.log = [(newest + 1, time_ms, encode_changes(newest + 1, [1], bytes([PUT]), ["late"]))]
            table.state.floor = newest
            table.state.newest = (newest + 1, time_ms)
        return rows

    table.latest.log = trimmed
    seen = []
    with pytest.raises(CompactedError) as caught:
        async for event in watch:
            seen.append(event.revision)
    assert seen == list(range(1, len(seen) + 1))
    assert caught.value.resume == await store.cursor()


async def test_a_watch_goes_on_after_a_moment_in_which_the_table_was_busy(toys, table, store):
    waiting = asyncio.ensure_future(anext(store.watch()))
    await asyncio.sleep(0)
    token, errors = table.token, [UnavailableError("busy")]

    def busy_once():
        if errors:
            raise errors.pop()
        return token()

    table.token = busy_once
    await toys.until(lambda: not errors)
    table.state.log.append((1, 0, encode_changes(1, [1], bytes([PUT]), ["k"])))  # as another process does
    table.state.newest = (1, 0)
    assert (await asyncio.wait_for(waiting, 30)).key == "k"


async def test_a_backlog_of_large_commits_is_read_one_at_a_time(table, store):
    watch = store.watch()
    for number in range(5):
        await store.commit([Step(f"{number}.{place}", Put(b"")) for place in range(1000)])
    assert len(store._feed.changes_after(0, 500)) == 1
    assert len([await anext(watch) for _ in range(5000)]) == 5000


@pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb"])
async def test_a_cursor_before_the_first_event_is_too_old(engine, tmp_path):
    async with open_store("memory:" if engine == "memory" else f"{engine}:{tmp_path}/store") as store:
        await store.put("k", b"")
        owner = (await store.cursor()).partition(":")[0]
        for place in ("0.0", "0.1"):
            with pytest.raises(CompactedError):
                await anext(store.watch(after=Cursor(f"{owner}:{place}")))


async def test_waiting_for_events_over_and_over_leaves_nothing_behind():
    async with MemoryStore() as store:
        watch = store.watch()
        for _ in range(1000):
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        assert len(store._waiters._futures) <= 64
        kept = [asyncio.ensure_future(anext(store.watch())) for _ in range(200)]
        await asyncio.sleep(0)
        await store.put("k", b"")
        assert {event.key for event in await asyncio.gather(*kept)} == {"k"}


async def test_ending_a_watch_ends_every_task_that_waits_for_it():
    async with MemoryStore() as store:
        watch = store.watch()

        async def ended():
            async for _ in watch:
                pass
            return True

        tasks = [asyncio.ensure_future(ended()) for _ in range(3)]
        await asyncio.sleep(0)
        await watch.aclose()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 30) == [True] * 3


# --- files ----------------------------------------------------------------------------------------------------------


async def test_a_file_into_which_the_log_was_brought_in_part_can_be_opened(tmp_path):
    path = tmp_path / "app.db"
    async with SqliteStore.open(path) as store:
        before = path.stat().st_size
        await store.commit([Step(f"k{number:03}", Put(b"v" * 500)) for number in range(300)])
        log = path.with_name("app.db-wal").read_bytes()
    whole = path.read_bytes()
    assert len(whole) > before
    for size in (before, before + 4096, len(whole) - 4096):
        # the first page speaks of all pages, and the others are in the log only
        cut = tmp_path / f"cut{size}.db"
        cut.write_bytes(whole[:size])
        cut.with_name(f"{cut.name}-wal").write_bytes(log)
        async with SqliteStore.open(cut) as store:
            assert len(await store.list_keys()) == 300


async def test_nothing_is_acknowledged_once_the_log_was_deleted_under_the_store(tmp_path):
    path = tmp_path / "app.db"
    async with SqliteStore.open(path) as store:
        await store.put("a", b"1")
        path.with_name("app.db-wal").unlink()
        for _ in range(2):
            with pytest.raises(StorageFailedError, match="deleted or replaced"):
                await store.put("b", b"2")


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
async def test_a_path_that_cannot_be_one_is_a_storage_error(path):
    async with MemoryStore() as store:
        for call in (store.checkpoint, store.restore):
            with pytest.raises(StorageError):
                await call(path)


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_a_cleanup_task_of_a_closed_store_ends(store, clock):
    await store.aclose()
    cleaner = store.start_cleanup_task(timedelta(seconds=1))
    await asyncio.sleep(0)
    clock.advance(timedelta(seconds=1))
    await asyncio.wait_for(cleaner, 30)


def test_a_store_is_closed_on_another_loop_than_the_one_that_watched_it():
    used, closing = asyncio.new_event_loop(), asyncio.new_event_loop()
    store = MemoryStore()

    async def follow():
        async for _ in store.watch():
            pass
        return True

    async def begin():
        following = asyncio.ensure_future(follow())
        await asyncio.sleep(0)
        return following

    following = used.run_until_complete(begin())
    closing.run_until_complete(asyncio.wait_for(store.aclose(), 30))
    assert used.run_until_complete(asyncio.wait_for(following, 30))
    used.close()
    closing.close()


# --- the checker of histories ---------------------------------------------------------------------------------------


class _Answering(MemoryStore):
    """A store whose next replies to commits were recorded elsewhere."""

    def __init__(self):
        super().__init__()
        self.answers = []

    async def commit(self, steps, *, ranges=()):
        done = await super().commit(steps, ranges=ranges)
        return self.answers.pop(0) if self.answers else done


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_of_two_deletes_that_tell_one_revision_the_right_one_is_taken_for_the_first(order):
    async with _Answering() as store:
        recording = Recording(store)
        await recording.commit([Step("a", Put(b"")), Step("b", Put(b""))])
        # both began before the other ended, and what took revision 2 deleted both entries
        deletes = [[Step("a", Delete()), Step("b", Delete())], [Step("b", Delete()), Step("c", Delete())]]
        store.answers = [Commit(2, {}), Commit(2, {})]
        for which in order:
            await recording.commit(deletes[which])
        for write in recording._writes[1:]:
            write.ended = 100
        assert await recording.get("a") is None
        recording._others[-1].began, recording._others[-1].ended = 101, 102
        recording.check()


async def test_two_deletes_of_different_keys_cannot_share_a_revision():
    async with _Answering() as store:
        recording = Recording(store)
        await recording.commit([Step("a", Put(b"")), Step("b", Put(b""))])
        store.answers = [Commit(2, {}), Commit(2, {})]
        for key in ("a", "b"):
            await recording.commit([Step(key, Delete())])
        with pytest.raises(NotSerialisableError):
            recording.check()
