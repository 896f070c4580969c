"""How an embedded store writes, closes, and where it may be used."""

from __future__ import annotations

import asyncio
import gc
import logging
from datetime import timedelta

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import (
    ClosedError,
    ConflictError,
    InvalidKeyError,
    LimitExceededError,
    NotACounterError,
    ReadOnlyError,
    StorageError,
    UnknownOutcomeError,
    WrongContextError,
)
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, Add, Capability, Delete, Put, RangeExpect, Step

# --- groups ---------------------------------------------------------------------------------------------------------


async def test_what_waits_is_one_transaction_and_each_commit_has_a_revision_of_its_own(toys, table, store):
    first = await toys.hold(table, store)
    rest = [asyncio.ensure_future(store.put(f"key{place}", b"")) for place in range(50)]
    await asyncio.sleep(0)
    table.gate.set()
    done = await asyncio.gather(first, *rest)
    assert [entry.revision for entry in done] == list(range(1, 52))
    assert table.calls == ["write synced"] * 2


async def test_a_refused_commit_does_not_disturb_its_neighbours(toys, table, store):
    first = await toys.hold(table, store)
    jobs = [
        store.commit([Step("a", Put(b"1")), Step("b", Put(b"1"), ABSENT)]),
        store.commit([Step("c", Put(b"2")), Step("b", Put(b"2"), ABSENT)]),
        store.commit([Step("b", Put(b"3"), 2), Step("n", Add(4))]),
        store.commit([Step("d", Put(b"4")), Step("a", Add(1)), Step("b", Add(9))]),
        store.commit([Step("b", Delete()), Step("n", Add(3))]),
        store.commit([Step("b", Delete()), Step("b2", None, ABSENT)]),
    ]
    tasks = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.sleep(0)
    table.gate.set()
    await first
    one, two, three, four, five, six = await asyncio.gather(*tasks, return_exceptions=True)
    assert one.revision == 2
    assert isinstance(two, ConflictError)
    assert two.keys == ("b",)
    assert two.entries["b"].revision == 2
    assert three.revision == 3
    assert four.revision == 4  # both are counters by their text
    assert five.revision == 5
    assert five.entries["n"].value == b"7"
    assert six.revision == 5
    assert [entry.key async for entry in store.scan()] == ["a", "d", "first", "n"]
    assert store.stats().conflict_count == 1


async def test_expectations_are_judged_before_sums_and_all_that_fail_are_named(store):
    await store.put("a", b"text")
    await store.put("r", b"")
    with pytest.raises(ConflictError) as caught:
        await store.commit(
            [Step("a", Add(1)), Step("b", Put(b""), 7), Step("a2", None, ABSENT)], ranges=[RangeExpect("q", "s", 1)]
        )
    assert caught.value.keys == ("b", "r")
    assert set(caught.value.entries) == {"r"}
    with pytest.raises(NotACounterError):
        await store.commit([Step("new", Put(b"")), Step("a", Add(1))])
    assert await store.get("new") is None
    assert (await store.cursor()).endswith(":2")


@pytest.mark.parametrize("kind", [StorageError, UnknownOutcomeError])
async def test_when_the_transaction_fails_every_commit_of_the_group_does_and_later_ones_go_on(toys, table, store, kind):
    first = await toys.hold(table, store)
    rest = [asyncio.ensure_future(store.put(f"key{place}", b"")) for place in range(3)]
    await asyncio.sleep(0)
    cause = OSError(5, "disk")
    failure = kind("the disk is gone")
    failure.__cause__ = cause
    table.failures = [failure, kind("again")]
    table.gate.set()
    failed = await asyncio.gather(first, *rest, return_exceptions=True)
    assert {type(error) for error in failed} == {kind}
    assert len({id(error) for error in failed}) == 4
    assert failed[0].__cause__ is cause
    assert await store.get("first") is None
    assert (await store.put("later", b"")).revision == 1


async def test_an_unforeseen_error_comes_as_a_storage_error_with_its_cause(table, store):
    table.failures = [MemoryError("no room")]
    with pytest.raises(StorageError, match="nothing was written") as caught:
        await store.put("a", b"")
    assert isinstance(caught.value.__cause__, MemoryError)


async def test_work_that_runs_twice_commits_once(toys):
    async with toys.make(toys.Table(repeats=True)) as store:
        assert await store.increment("n", 2) == 2
        assert await store.increment("n", 2) == 4
        assert (await store.cursor()).endswith(":2")
        assert store.stats().put_count == 2


async def test_a_commit_whose_caller_is_cancelled_may_still_be_made(toys, table, store):
    first = await toys.hold(table, store)
    task = asyncio.ensure_future(store.commit([Step("a", Put(b""))]))
    failing = asyncio.ensure_future(store.commit([Step("a", None, 99)]))
    await asyncio.sleep(0)
    task.cancel()
    failing.cancel()
    table.gate.set()
    await first
    await asyncio.wait([task, failing])
    assert task.cancelled()
    assert (await store.get("a")).revision == 2


async def test_a_commit_of_nothing_and_one_that_only_checks_take_no_revision(table, store):
    await store.put("a", b"")
    assert (await store.commit([])).revision == 1
    assert (
        await store.commit([Step("a", None, 1), Step("b", Delete())], ranges=[RangeExpect("", None, 1)])
    ).revision == 1
    assert len(table.state.log) == 1


async def test_arguments_are_checked_before_anything_is_sent(table, store):
    with pytest.raises(InvalidKeyError):
        await store.put("", b"")
    with pytest.raises(TypeError):
        await store.put("a", "text")
    with pytest.raises(ValueError, match="more than 0"):
        await store.put("a", b"", ttl=0)
    with pytest.raises(LimitExceededError):
        await store.put("a", bytes(10_001))
    with pytest.raises(LimitExceededError, match="10000"):
        await store.put("a", b"", ttl=timedelta(days=365 * 7998))
    with pytest.raises(LimitExceededError, match="10000"):
        await store.commit([Step("a", Put(b"", timedelta(days=365 * 7998)))])
    with pytest.raises(ValueError, match="limit"):
        store.scan(limit=-1)
    assert table.state.newest == (0, 0)


# --- durability -----------------------------------------------------------------------------------------------------


async def test_nobody_is_answered_and_no_watcher_is_woken_before_the_transaction_is_durable(toys, table, store):
    watch = store.watch()
    event = asyncio.ensure_future(anext(watch))
    first = await toys.hold(table, store)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not first.done()
    assert not event.done()
    table.gate.set()
    await first
    assert (await event).key == "first"
    assert table.calls == ["write synced"]


async def test_interval_flushes_after_a_time_and_after_a_number_of_commits(toys, table):
    async with toys.make(table, options=StoreOptions(durability="interval", flush_interval=0.001)) as store:
        await store.put("a", b"")
        await toys.until(lambda: "flush" in table.calls)
        assert table.calls[:2] == ["write", "flush"]
        assert Capability.FENCING not in store.capabilities
    other = toys.Table()
    async with toys.make(other, options=StoreOptions(flush_every=2, flush_interval=1000)) as store:
        for key in "abcd":
            await store.put(key, b"")
        await store.flush()
        assert other.calls == ["write", "write", "flush"] * 2 + ["flush"]


async def test_interval_flushes_while_commits_keep_coming(toys, table):
    async with toys.make(table, options=StoreOptions(durability="interval", flush_interval=1e-9)) as store:
        await asyncio.gather(*(store.put(str(place), b"") for place in range(10)))
        await store.put("a", b"")
        await store.put("b", b"")
        await toys.until(lambda: table.calls.count("flush") >= 2)


async def test_never_flushes_only_at_the_end(toys, table):
    async with toys.make(table, options=StoreOptions(durability="never")) as store:
        await store.put("a", b"")
        await store.cleanup_expired()
    assert table.calls == ["write", "write", "flush", "close"]


async def test_a_flush_that_fails_behind_everybodys_back_is_logged(toys, table, caplog):
    async with toys.make(
        table, options=StoreOptions(durability="interval", flush_interval=1000, flush_every=1)
    ) as store:

        def fail():
            raise UnknownOutcomeError("no disk")

        flush, table.flush = table.flush, fail
        with caplog.at_level(logging.ERROR, "reactstate.kv"):
            await store.put("a", b"")
            await toys.until(lambda: "power cut" in caplog.text)
        table.flush = flush


async def test_flush_tells_its_failure(table, store):
    table.failures = [UnknownOutcomeError("no disk")]
    with pytest.raises(UnknownOutcomeError):
        await store.flush()


# --- closing --------------------------------------------------------------------------------------------------------


async def test_closing_completes_what_was_begun_and_refuses_what_comes_later(toys, table):
    store = toys.make(table)
    first = await toys.hold(table, store)
    waiting = asyncio.ensure_future(store.put("second", b""))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.aclose())
    again = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await store.put("third", b"")
    table.gate.set()
    assert (await first).revision == 1
    assert (await waiting).revision == 2
    await asyncio.gather(closing, again)
    await store.aclose()
    assert table.calls == ["write synced", "write synced", "close"]
    for operation in (
        store.get("a"),
        store.get_many(["a"]),
        store.commit([]),
        store.cursor(),
        store.flush(),
        store.cleanup_expired(),
        store.size_on_disk(),
        store.memory_usage(),
        store._load(toys.batches(), revision=0, replace=True),
        store.snapshot().__aenter__(),
    ):
        with pytest.raises(ClosedError):
            await operation
    for call in (store.scan, store.watch):
        with pytest.raises(ClosedError):
            call()
    assert store.stats().bytes == 0


async def test_closing_ends_scans_views_watches_and_the_cleanup_task(toys, table, clock):
    store = toys.make(table, clock=clock)
    await store.commit([Step(f"{place:03}", Put(b"")) for place in range(100)])
    task = store.start_cleanup_task(timedelta(seconds=1))
    scan = store.scan()
    await anext(scan)
    watch = store.watch()
    event = asyncio.ensure_future(anext(watch, None))
    async with store.snapshot() as view:
        view_scan = view.scan()
        await anext(view_scan)
        await asyncio.sleep(0)
        await store.aclose()
        for operation in (view.get("000"), anext(view.batches())):
            with pytest.raises(ClosedError):
                await operation
        with pytest.raises(ClosedError):
            view.scan()
        with pytest.raises(ClosedError):
            _ = [entry async for entry in view_scan]
    with pytest.raises(ClosedError):
        _ = [entry async for entry in scan]
    assert await event is None
    assert table.views[0].closed
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_view_ends_with_its_block(table, store):
    await store.put("a", b"1")
    async with store.snapshot() as view:
        await store.put("a", b"2")
        assert (await view.get("a")).value == b"1"
        assert view.revision == 1
    with pytest.raises(ClosedError, match="block"):
        await view.get("a")


async def test_a_close_that_cannot_flush_says_so_and_closes_all_the_same(toys, table):
    store = toys.make(table, options=StoreOptions(durability="never"))
    table.failures = [UnknownOutcomeError("no disk")]
    with pytest.raises(UnknownOutcomeError):
        await store.aclose()
    assert table.calls == ["flush", "close"]
    await store.aclose()


async def test_a_store_that_nobody_holds_is_closed(toys, table):
    store = toys.make(table)
    await store.put("a", b"")
    thread = store._writes._thread
    del store
    gc.collect()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    assert table.calls[-1] == "close"


def test_a_store_whose_loop_has_ended_is_closed_when_nobody_holds_it(toys):
    table = toys.Table()

    async def main():
        store = toys.make(table)
        first = await toys.hold(table, store)
        first.cancel()
        return store

    store = asyncio.run(main())
    thread = store._writes._thread
    table.gate.set()
    del store
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert table.state.rows.keys() == {"first"}


# --- where it may be used -------------------------------------------------------------------------------------------


async def test_another_loop_and_another_thread_are_refused(store):
    async def elsewhere():
        for operation in (store.get("a"), store.put("a", b""), store.commit([]), store.aclose()):
            with pytest.raises(WrongContextError):
                await operation

    def without_loop():
        for call in (store.watch, store.scan):
            with pytest.raises(WrongContextError):
                call()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.to_thread(without_loop)
    assert await store.get("a") is None


async def test_another_loop_cannot_wait_for_a_close(toys, table):
    store = toys.make(table)
    first = await toys.hold(table, store)
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await asyncio.to_thread(asyncio.run, store.aclose())
    table.gate.set()
    await first
    await closing


async def test_read_only_refuses_every_write_and_reads(toys):
    table = toys.Table()
    async with toys.make(table) as store:
        await store.put("a", b"1", ttl=5)
    clock = ManualClock()
    async with toys.make(table, options=StoreOptions(read_only=True), clock=clock) as store:
        for operation in (
            store.put("a", b""),
            store.commit([]),
            store.cleanup_expired(),
            store.increment("n"),
            store._load(toys.batches(), revision=0, replace=True),
        ):
            with pytest.raises(ReadOnlyError):
                await operation
        assert (await store.get("a")).value == b"1"
        event = asyncio.ensure_future(anext(store.watch(), None))
        clock.advance(10)
        for _ in range(5):
            await asyncio.sleep(0.005)
        assert not event.done()
    assert await event is None
    assert table.calls.count("write synced") == 1
