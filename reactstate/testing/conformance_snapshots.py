# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""Snapshots: one moment of the store, however much is written meanwhile."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from reactstate.errors import ClosedError
from reactstate.kv.protocol import Capability, EventKind, Put, Step
from reactstate.testing.conformance_commits import newest_revision
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reactstate.kv.protocol import Entry, ReadView

__all__ = ["SnapshotPromises"]

_SNAPSHOTS = Capability.SNAPSHOT_READS


async def _check(view: ReadView, entries: list[Entry]) -> None:
    """Check that every read of *view* gives *entries*."""
    keys = [entry.key for entry in entries]
    assert await collect(view.scan()) == entries
    assert await collect(view.scan(reverse=True)) == entries[::-1]
    assert await view.get_many([*keys, "nobody"]) == {entry.key: entry for entry in entries}
    for entry in entries:
        assert await view.get(entry.key) == entry
    assert await view.get("nobody") is None
    for prefix in ("k", "k1", "x"):
        inside = [entry for entry in entries if entry.key.startswith(prefix)]
        assert await collect(view.scan(prefix)) == inside
        assert await collect(view.scan(prefix, limit=2, reverse=True)) == inside[::-1][:2]
        assert await collect(view.scan(prefix, start="k2", end="k5")) == [
            entry for entry in inside if "k2" <= entry.key < "k5"
        ]
    batches = [batch async for batch in view.batches(3)]
    assert [key for batch in batches for key in batch.keys] == keys
    assert [value for batch in batches for value in batch.values] == [entry.value for entry in entries]
    assert [number for batch in batches for number in batch.revisions] == [entry.revision for entry in entries]
    assert [bool(ms) for batch in batches for ms in batch.deadlines] == [bool(entry.expires_at) for entry in entries]
    assert all(batch.keys for batch in batches)


class SnapshotPromises(StoreSuite):
    """What a snapshot may be relied on for."""

    @promise(_SNAPSHOTS)
    async def test_a_snapshot_does_not_move_whatever_is_written(self, lab: StoreLab) -> None:
        store = lab.store
        async with store.snapshot() as view:
            await _check(view, [])
            await store.put("k1", b"")
            await _check(view, [])
        for number in range(8):
            await store.put(f"k{number}", b"%d" % number)
        entries = await collect(store.scan())
        async with store.snapshot() as view:
            assert view.revision == await newest_revision(store)
            await store.put("k1", b"replaced")
            await store.delete("k2")
            await store.put("k25", b"new")
            await store.increment("k3", 10)
            await store.delete("k7")
            await store.put("k7", b"again")
            await _check(view, entries)
            for number in range(8):
                await store.delete(f"k{number}")
            await _check(view, entries)
            assert view.revision == entries[-1].revision
        assert await store.list_keys() == ["k25"]

    @promise(_SNAPSHOTS, Capability.TRANSACTIONS)
    async def test_a_snapshot_holds_whole_commits(self, lab: StoreLab) -> None:
        store = lab.store
        for number in range(10):
            await store.commit([Step(key, Put(b"%d" % number)) for key in ("a", "b", "c")])
            async with store.snapshot() as view:
                await store.commit([Step(key, Put(b"later")) for key in ("a", "b", "c")])
                entries = await collect(view.scan())
            assert {entry.value for entry in entries} == {b"%d" % number}
            assert {entry.revision for entry in entries} == {view.revision}

    @promise(_SNAPSHOTS)
    async def test_each_snapshot_shows_the_moment_when_it_was_taken(self, lab: StoreLab) -> None:
        store = lab.store
        async with store.snapshot() as first:
            one = await store.put("k", b"1")
            async with store.snapshot() as second:
                two = await store.put("k", b"2")
                async with store.snapshot() as third:
                    await store.delete("k")
                    async with store.snapshot() as fourth:
                        await store.put("k", b"3")
                        assert await first.get("k") is None
                        assert await second.get("k") == one
                        assert await third.get("k") == two
                        assert await fourth.get("k") is None
                    assert await third.get("k") == two
                assert await second.get("k") == one
            assert first.revision < second.revision < third.revision < fourth.revision
            assert await first.get("k") is None

    @promise(_SNAPSHOTS, Capability.TTL)
    async def test_what_was_alive_stays_visible_in_a_snapshot(self, lab: StoreLab) -> None:
        store = lab.store
        if store.ttl_clock != "host":
            return
        await store.commit((Step("k1", Put(b"dead", lab.ttl(1))),))
        await lab.pass_time(1)
        await store.commit((Step("k2", Put(b"alive", lab.ttl(5))),))
        await store.put("k3", b"ever")
        entries = await collect(store.scan())
        assert [entry.key for entry in entries] == ["k2", "k3"]
        async with store.snapshot() as view:
            await lab.pass_time(5)
            await _check(view, entries)
            await store.cleanup_expired()
            await _check(view, entries)
            await store.put("k2", b"anew")
            await _check(view, entries)
            assert await store.get("k2") != entries[0]

    @promise(_SNAPSHOTS, Capability.WATCH)
    async def test_a_watch_from_a_snapshots_cursor_joins_without_a_gap(self, lab: StoreLab) -> None:
        store = lab.store
        for number in range(5):
            await store.put("before", b"%d" % number)
        async with store.snapshot() as view:
            first = await store.put("k", b"1")
            await store.delete("before")
            cursor, revision = view.cursor, view.revision
            second = await store.put("k", b"2")
            async with aclosing(store.watch(after=cursor)) as watch:
                third = await store.put("k", b"3")
                events = await lab.take(watch, 4)
        assert [event.kind for event in events] == [EventKind.PUT, EventKind.DELETE, EventKind.PUT, EventKind.PUT]
        assert [event.revision for event in events if event.key == "k"] == [
            entry.revision for entry in (first, second, third)
        ]
        assert events[0].revision > revision

    @promise(_SNAPSHOTS)
    async def test_a_scan_of_a_snapshot_streams_beside_writers(self, lab: StoreLab) -> None:
        store = lab.store
        entries = [await store.put(f"k{number:04d}", b"") for number in range(1200)]
        async with store.snapshot() as view:
            seen: list[Entry] = []
            async for entry in view.scan():
                seen.append(entry)
                if len(seen) % 50 == 0:
                    await store.delete(f"k{len(seen):04d}")
                    await store.put(f"k{len(seen):04d}+", b"")
            assert seen == entries

    @promise(_SNAPSHOTS)
    async def test_a_snapshot_ends_with_its_block(self, lab: StoreLab) -> None:
        await lab.store.put("k", b"")
        async with lab.store.snapshot() as view:
            assert await view.get("k") is not None
        reads: list[Callable[[], Awaitable[object]]] = [
            lambda: view.get("k"),
            lambda: view.get_many(["k"]),
            lambda: collect(view.scan()),
            lambda: collect(view.batches()),
        ]
        for read in reads:
            with pytest.raises(ClosedError):
                await read()

    @promise(_SNAPSHOTS)
    async def test_an_error_inside_the_block_ends_it_as_well(self, lab: StoreLab) -> None:
        with pytest.raises(KeyError, match="mine"):
            async with lab.store.snapshot():
                raise KeyError("mine")
        await lab.store.put("k", b"")
        async with lab.store.snapshot() as view:
            assert await view.get("k") is not None
