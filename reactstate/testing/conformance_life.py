# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""A store's life: closing and opening, revisions that never come back, checkpoints, statistics, what is not declared."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from reactstate.errors import ClosedError, CompactedError, ConflictError, CorruptionError, UnsupportedError
from reactstate.kv.protocol import ABSENT, Add, Capability, Delete, Put, RangeExpect, Step
from reactstate.testing.conformance_commits import newest_revision, unchanged
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reactstate.kv.store import KeyValueStore

__all__ = ["LifePromises"]

_DURABLE, _SNAPSHOTS, _TTL, _WATCH = (
    Capability.DURABLE,
    Capability.SNAPSHOT_READS,
    Capability.TTL,
    Capability.WATCH,
)


async def _enter(store: KeyValueStore) -> None:
    async with store.snapshot():
        pass


class LifePromises(StoreSuite):
    """What may be relied on from opening to closing, and beyond."""

    # --- what the store says of itself ----------------------------------------------------------------------------

    @promise()
    async def test_a_store_declares_what_it_is(self, lab: StoreLab) -> None:
        store = lab.store
        declared = type(self).capabilities
        assert declared is None or store.capabilities == declared, "the suite was set up for other capabilities"
        assert isinstance(store.capabilities, frozenset)
        assert all(isinstance(capability, Capability) for capability in store.capabilities)
        assert store.engine
        assert store.url
        assert store.engine in repr(store) or store.url in repr(store)
        assert store.ttl_clock in {"host", "server"}
        assert store.ttl_resolution.total_seconds() > 0
        limits = store.limits
        assert min(limits.max_key_bytes, limits.max_value_bytes, limits.max_steps, limits.max_commit_bytes) > 0
        assert store.supports(*store.capabilities)

    @promise()
    async def test_a_layer_is_told_what_the_engine_does_not_declare(self, lab: StoreLab) -> None:
        store = lab.store
        store.require("tests", *store.capabilities)
        for capability in set(Capability) - store.capabilities:
            assert not store.supports(capability)
            with pytest.raises(UnsupportedError) as caught:
                store.require("tests", *store.capabilities, capability)
            assert (caught.value.layer, caught.value.engine) == ("tests", store.engine)
            assert caught.value.capability == capability

    @promise(lacks=Capability.CAS)
    async def test_without_cas_an_expectation_is_refused(self, lab: StoreLab) -> None:
        await lab.store.put("k", b"")
        await _unsupported(lab.store, Capability.CAS, lambda: lab.store.commit((Step("k", Put(b"!"), ABSENT),)))
        await _unsupported(lab.store, Capability.CAS, lambda: lab.store.commit((Step("k", None, 1),)))

    @promise(lacks=Capability.TRANSACTIONS)
    async def test_without_transactions_a_commit_of_two_keys_is_refused(self, lab: StoreLab) -> None:
        steps = (Step("a", Put(b"!")), Step("b", Put(b"!")))
        await _unsupported(lab.store, Capability.TRANSACTIONS, lambda: lab.store.commit(steps))

    @promise(lacks=Capability.RANGE_EXPECT)
    async def test_without_range_expect_a_range_is_refused(self, lab: StoreLab) -> None:
        ranges = [RangeExpect("a", "b", 1 << 60)]
        await _unsupported(
            lab.store, Capability.RANGE_EXPECT, lambda: lab.store.commit((Step("k", Put(b"!")),), ranges=ranges)
        )

    @promise(lacks=_SNAPSHOTS)
    async def test_without_snapshot_reads_snapshots_and_checkpoints_are_refused(self, lab: StoreLab) -> None:
        await _unsupported(lab.store, _SNAPSHOTS, lambda: _enter(lab.store))
        await _unsupported(lab.store, _SNAPSHOTS, lambda: lab.store.checkpoint(lab.path("checkpoint")))
        assert not lab.path("checkpoint").exists()

    @promise(lacks=_WATCH)
    async def test_without_watch_watches_and_cursors_are_refused(self, lab: StoreLab) -> None:
        async def watch() -> None:
            await anext(lab.store.watch())

        await _unsupported(lab.store, _WATCH, watch)
        await _unsupported(lab.store, _WATCH, lab.store.cursor)

    @promise(lacks=_TTL)
    async def test_without_ttl_a_time_to_live_is_refused(self, lab: StoreLab) -> None:
        await _unsupported(lab.store, _TTL, lambda: lab.store.commit((Step("k", Put(b"!", 1)),)))
        await _unsupported(lab.store, _TTL, lambda: lab.store.commit((Step("n", Add(1, 1)),)))
        await _unsupported(lab.store, _TTL, lambda: lab.store.put("k", b"!", ttl=1))

    # --- revisions ------------------------------------------------------------------------------------------------

    @promise()
    async def test_a_revision_is_never_issued_again_after_deletes(self, lab: StoreLab) -> None:
        issued: list[int] = []
        for _ in range(4):
            issued.append((await lab.store.put("k", b"")).revision)
            issued.append((await lab.store.commit((Step("k", Delete()),))).revision)
        assert issued == sorted(set(issued))

    @promise(_TTL)
    async def test_a_revision_is_never_issued_again_after_expiry(self, lab: StoreLab) -> None:
        issued: list[int] = []
        for swept in (True, False, True):
            issued.append((await lab.store.put("k", b"", ttl=lab.ttl(1))).revision)
            await lab.pass_time(1)
            if swept:
                await lab.store.cleanup_expired()
        issued.append((await lab.store.put("other", b"")).revision)
        assert issued == sorted(set(issued))

    @promise(_DURABLE, Capability.FENCING)
    async def test_a_revision_is_never_issued_again_after_opening_anew(self, lab: StoreLab) -> None:
        store, issued = lab.store, [0]
        for _ in range(3):
            put = await store.put("k", b"")
            await store.delete("k")  # the newest revision is that of a key which is gone
            issued += [put.revision, await newest_revision(store)]
            assert issued == sorted(set(issued))
            store = await lab.reopen(store)
            assert await newest_revision(store) >= issued[-1]

    # --- durability -----------------------------------------------------------------------------------------------

    @promise(_DURABLE)
    async def test_what_was_acknowledged_is_there_after_opening_anew(self, lab: StoreLab) -> None:
        store = lab.store
        for number in range(60):
            await store.put(f"k{number % 40}", b"%d" % number)
        await store.delete("k7")
        await store.increment("n", 5)
        entries = await collect(store.scan())
        again = await lab.reopen(store)
        assert await collect(again.scan()) == entries
        assert await again.increment("n", 1) == 6
        await again.flush()
        assert await again.size_on_disk() >= 0
        third = await lab.reopen(again)
        assert len(await third.list_keys()) == len(entries)

    @promise(_DURABLE)
    async def test_what_is_acknowledged_while_the_store_closes_is_there_afterwards(self, lab: StoreLab) -> None:
        store = lab.store
        acknowledged: set[str] = set()

        async def write(task: int) -> None:
            for number in range(1000):
                try:
                    await store.put(f"{task}-{number}", b"")
                except ClosedError:
                    return
                acknowledged.add(f"{task}-{number}")

        writers = [asyncio.create_task(write(task)) for task in range(5)]
        await lab.eventually(lambda: len(acknowledged) >= 10)
        again = await lab.reopen(store)
        await asyncio.gather(*writers)
        assert set(await again.list_keys()) >= acknowledged

    @promise(Capability.SHARED)
    async def test_another_object_of_the_store_sees_what_was_acknowledged(self, lab: StoreLab) -> None:
        store, other = lab.store, await lab.open()
        for number in range(20):
            writer, reader = (store, other) if number % 2 else (other, store)
            put = await writer.put("k", b"%d" % number)
            if store.supports(Capability.LINEARIZABLE_READS):
                assert await reader.get("k") == put
            with pytest.raises(ConflictError) as caught:
                await reader.commit((Step("k", Put(b"!"), ABSENT),))
            assert caught.value.entries == {"k": put}
        await lab.rebase(store)
        await lab.rebase(other)

    # --- closing --------------------------------------------------------------------------------------------------

    @promise()
    async def test_a_closed_store_refuses_everything_and_closes_again(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"")
        await store.aclose()
        await store.aclose()
        lab.abandon(store)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.get("k"),
            lambda: store.get_many(["k"]),
            lambda: collect(store.scan()),
            store.list_keys,
            lambda: store.put("k", b""),
            lambda: store.delete("k"),
            lambda: store.increment("n"),
            lambda: store.commit((Step("k", Put(b"")),)),
            lambda: store.commit(()),
        ]
        if store.supports(Capability.CAS):
            calls.append(lambda: store.put_if_absent("k", b""))
        if store.supports(_SNAPSHOTS):
            calls.append(lambda: _enter(store))
        if store.supports(_WATCH):
            calls.append(store.cursor)
        for call in calls:
            with pytest.raises(ClosedError):
                await call()

    @promise()
    async def test_a_store_is_closed_by_its_block(self, lab: StoreLab) -> None:
        async with await lab.open("block") as store:
            await store.put("k", b"")
        lab.abandon(store)
        with pytest.raises(ClosedError):
            await store.get("k")

    @promise()
    async def test_closing_during_commits_does_each_whole_or_refuses_it(self, lab: StoreLab) -> None:
        store = lab.store
        several = store.supports(Capability.TRANSACTIONS)
        commits = [
            asyncio.ensure_future(
                store.commit([Step(f"a{number}", Put(b"")), Step(f"b{number}", Put(b""))][: 2 if several else 1])
            )
            for number in range(50)
        ]
        await asyncio.sleep(0)
        await store.aclose()
        lab.abandon(store)
        outcomes = await asyncio.gather(*commits, return_exceptions=True)
        assert all(isinstance(outcome, ClosedError) or not isinstance(outcome, BaseException) for outcome in outcomes)
        if store.supports(_DURABLE):
            keys = await (await lab.open()).list_keys()
            done = [not isinstance(outcome, BaseException) for outcome in outcomes]
            assert sorted(keys) == sorted(
                f"{side}{number}" for number in range(50) if done[number] for side in ("ab" if several else "a")
            )

    @promise()
    async def test_closing_during_a_scan_does_not_pass_for_its_end(self, lab: StoreLab) -> None:
        store = lab.store
        for number in range(1200):
            await store.put(f"k{number:04d}", b"")
        scan = store.scan()
        seen = [await anext(scan)]
        await store.aclose()
        lab.abandon(store)
        try:
            seen += await collect(scan)
        except ClosedError:
            return
        assert len(seen) == 1200

    @promise(_SNAPSHOTS)
    async def test_closing_during_a_snapshot_is_told_at_its_next_read(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"")
        async with store.snapshot() as view:
            await store.aclose()
            lab.abandon(store)
            with pytest.raises(ClosedError):
                await view.get("k")
            with pytest.raises(ClosedError):
                await collect(view.scan())

    # --- checkpoints ----------------------------------------------------------------------------------------------

    @promise(_SNAPSHOTS)
    async def test_a_checkpoint_is_restored_into_another_store_above_its_revisions(self, lab: StoreLab) -> None:
        store, path = lab.store, lab.path("checkpoint")
        for number in range(300):
            await store.put(f"k{number:03d}", b"%d" % number)
        await store.put("\0é\U0001f642", bytes(range(256)))
        await store.delete("k007")
        before, newest = await collect(store.scan()), await newest_revision(store)
        counts: list[int] = []
        size = await store.checkpoint(path, progress=counts.append)
        assert size == path.stat().st_size
        assert counts == sorted(counts)
        assert counts[-1] == len(before)
        await store.put("k000", b"later")
        assert [entry.value for entry in before[:1]] == [before[0].value]
        other = await lab.open("other")
        assert await other.restore(path) == len(before)
        await lab.rebase(other)
        after = await collect(other.scan())
        assert [(entry.key, entry.value) for entry in after] == [(entry.key, entry.value) for entry in before]
        assert min(entry.revision for entry in after) > newest
        assert (await other.put("new", b"")).revision > max(entry.revision for entry in after)

    @promise(_SNAPSHOTS)
    async def test_a_store_that_is_not_empty_is_restored_only_when_asked_to(self, lab: StoreLab) -> None:
        store, path = lab.store, lab.path("checkpoint")
        await store.put("a", b"1")
        await store.checkpoint(path, compress=False)
        await store.put("a", b"2")
        put = await store.put("b", b"2")
        async with unchanged(store):
            with pytest.raises(ConflictError):
                await store.restore(path)
        assert await store.restore(path, replace=True) == 1
        await lab.rebase(store)
        (found,) = await collect(store.scan())
        assert (found.key, found.value) == ("a", b"1")
        assert found.revision > put.revision
        if store.supports(Capability.CAS):
            with pytest.raises(ConflictError):
                await store.commit((Step("b", None, put.revision),))
            await store.commit((Step("a", Put(b"3"), found.revision), Step("b", Put(b""), ABSENT)))

    @promise(_SNAPSHOTS)
    async def test_an_empty_store_is_a_checkpoint_too(self, lab: StoreLab) -> None:
        path = lab.path("checkpoint")
        await lab.store.checkpoint(path)
        await lab.store.put("k", b"")
        assert await lab.store.restore(path, replace=True) == 0
        await lab.rebase(lab.store)
        assert await lab.store.list_keys() == []

    @promise(_SNAPSHOTS, _TTL)
    async def test_a_restored_entry_keeps_its_time_to_live(self, lab: StoreLab) -> None:
        store, path = lab.store, lab.path("checkpoint")
        if store.ttl_clock != "host":
            return
        put = await store.put("k", b"", ttl=lab.ttl(10))
        await store.put("short", b"", ttl=lab.ttl(1))
        await store.checkpoint(path)
        await lab.pass_time(1)
        other = await lab.open("other")
        await other.restore(path)
        await lab.rebase(other)
        (found,) = await collect(other.scan())
        assert (found.key, found.expires_at) == ("k", put.expires_at)
        await lab.pass_time(9)
        assert await other.list_keys() == []

    @promise(_SNAPSHOTS, _WATCH)
    async def test_a_cursor_from_before_a_restore_is_too_old(self, lab: StoreLab) -> None:
        store, path = lab.store, lab.path("checkpoint")
        await store.put("k", b"")
        await store.checkpoint(path)
        cursor = await store.cursor()
        await store.put("k", b"later")
        await store.restore(path, replace=True)
        await lab.rebase(store)
        with pytest.raises(CompactedError) as caught:
            await anext(store.watch(after=cursor))
        put = await store.put("k", b"")
        async with aclosing(store.watch(after=caught.value.resume)) as watch:
            events = await lab.until(watch, put.revision)
        assert events[-1].revision == put.revision

    @promise(_SNAPSHOTS)
    async def test_a_checkpoint_that_is_damaged_changes_nothing(self, lab: StoreLab) -> None:
        store, path = lab.store, lab.path("checkpoint")
        for number in range(50):
            await store.put(f"k{number}", b"value" * 20)
        await store.checkpoint(path)
        whole = path.read_bytes()
        cuts = [whole[:size] for size in (0, 1, len(whole) // 2, len(whole) - 1)]
        flips = [
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1)
        ]
        for damaged in [*cuts, *flips]:
            path.write_bytes(damaged)
            async with unchanged(store):
                with pytest.raises(CorruptionError):
                    await store.restore(path, replace=True)

    # --- statistics -----------------------------------------------------------------------------------------------

    @promise()
    async def test_a_store_counts_what_it_does(self, lab: StoreLab) -> None:
        store = await lab.open("counted")
        before = store.stats()
        assert before.hit_rate == 0.0
        gets, hits, misses = before.get_count, before.hit_count, before.miss_count
        puts, deletes, conflicts = before.put_count, before.delete_count, before.conflict_count
        await store.put("a", b"1")
        await store.commit((Step("n", Add(1)),))
        await store.get("a")
        await store.get("nobody")
        await store.get_many(["a", "n", "nobody"])
        await store.commit((Step("n", Delete()),))
        await store.commit((Step("n", Delete()),))
        if store.supports(Capability.CAS):
            with pytest.raises(ConflictError):
                await store.commit((Step("a", Put(b"2"), ABSENT),))
            conflicts += 1
        stats = store.stats()
        assert (stats.put_count - puts, stats.delete_count - deletes) == (2, 1)
        assert (stats.get_count - gets, stats.hit_count - hits, stats.miss_count - misses) == (5, 3, 2)
        assert stats.conflict_count == conflicts
        assert stats.expired_count == 0
        assert stats.hit_rate == 3 / 5
        assert stats.bytes >= 0
        assert await store.memory_usage() >= 0
        assert await store.size_on_disk() >= 0

    @promise(_TTL)
    async def test_a_store_counts_what_it_sweeps(self, lab: StoreLab) -> None:
        store = lab.store
        if store.ttl_clock != "host":
            return
        for number in range(3):
            await store.put(f"k{number}", b"", ttl=lab.ttl(1))
        await lab.pass_time(1)
        assert await store.cleanup_expired() == 3
        assert store.stats().expired_count == 3
        assert store.stats().delete_count == 0


async def _unsupported(store: KeyValueStore, capability: Capability, call: Callable[[], Awaitable[object]]) -> None:
    """Check that *call* raises what names engine and capability, and changes nothing."""
    async with unchanged(store):
        with pytest.raises(UnsupportedError) as caught:
            await call()
        assert (caught.value.engine, caught.value.capability) == (store.engine, capability)
