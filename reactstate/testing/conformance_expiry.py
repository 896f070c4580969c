# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""Times to live: when an entry expires, who sees it until then, and what sweeps it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reactstate.clock import to_datetime
from reactstate.errors import ConflictError, LimitExceededError, NotACounterError
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, Add, Capability, Delete, EventKind, Put, Step
from reactstate.testing.conformance_commits import newest_revision, unchanged
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

if TYPE_CHECKING:
    from typing import Any

    from reactstate.kv.protocol import Entry
    from reactstate.kv.store import KeyValueStore

__all__ = ["ExpiryPromises"]

_TTL, _WATCH = Capability.TTL, Capability.WATCH
_MILLISECOND = timedelta(milliseconds=1)


async def _gone(store: KeyValueStore, key: str) -> bool:
    """Say whether *key* is gone; every way to look must agree."""
    found = await store.get(key)
    here: set[bool] = {
        found is not None,
        key in await store.get_many([key]),
        key in {entry.key for entry in await collect(store.scan(key))},
        key in {entry.key for entry in await collect(store.scan(reverse=True))},
        key in {entry.key for entry in await collect(store.scan(key, limit=1))},
        key in await store.list_keys(),
    }
    if store.supports(Capability.SNAPSHOT_READS):
        async with store.snapshot() as view:
            here |= {await view.get(key) is not None, key in {entry.key for entry in await collect(view.scan())}}
            here.add(key in await view.get_many([key]))
    assert len(here) == 1, f"the reads of {key!r} differ"
    return found is None


async def _written(store: KeyValueStore, key: str, ttl: timedelta) -> Entry:
    return (await store.commit((Step(key, Put(b"v", ttl)),))).entries[key]


class ExpiryPromises(StoreSuite):
    """What a time to live may be relied on for."""

    @promise(_TTL)
    async def test_an_entry_expires_when_its_time_is_up(self, lab: StoreLab) -> None:
        put = await _written(lab.store, "k", lab.ttl(2))
        assert put.expires_at is not None
        assert put.expires_at.utcoffset() == timedelta(0)
        assert await lab.store.get("k") == put
        await lab.pass_time(1)
        assert not await _gone(lab.store, "k") or lab.store.ttl_clock == "server"
        await lab.pass_time(1)
        assert await _gone(lab.store, "k")

    @promise(_TTL)
    async def test_a_host_clock_is_followed_to_the_millisecond(self, lab: StoreLab) -> None:
        if not lab.exact:
            return
        for ttl, ms in ((_MILLISECOND, 1), (0.25, 250), (timedelta(microseconds=1500), 2), (1e-9, 1), (3, 3000)):
            now = to_datetime(lab.clock.time_ns())
            put = await lab.store.put("k", b"v", ttl=ttl)
            assert put.expires_at == now + ms * _MILLISECOND
            lab.clock.advance((ms - 1) * _MILLISECOND)
            assert not await _gone(lab.store, "k")
            lab.clock.advance(_MILLISECOND)
            assert await _gone(lab.store, "k")

    @promise(_TTL)
    async def test_an_expired_entry_is_absent_for_every_expectation_before_it_is_swept(self, lab: StoreLab) -> None:
        store = lab.store
        for op in (Put(b"new"), Add(5), Delete(), None):
            put = await _written(store, "k", lab.ttl(1))
            await lab.pass_time(1)
            with pytest.raises(ConflictError) as caught:
                await store.commit((Step("k", op, put.revision),))
            assert caught.value.entries == {}
            assert caught.value.keys == ("k",)
            done = await store.commit((Step("k", op, ABSENT),))
            if isinstance(op, Add):
                assert done.entries["k"].value == b"5"
            if done.entries:
                assert done.entries["k"].expires_at is None
                assert done.revision > put.revision
                assert await store.delete("k")
            assert await _gone(store, "k")

    @promise(_TTL)
    async def test_the_conveniences_do_not_see_an_expired_entry(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"v", ttl=lab.ttl(1))
        assert not await store.put_if_absent("k", b"w")
        await lab.pass_time(1)
        assert not await store.delete("k")
        assert await store.put_if_absent("k", b"w", ttl=lab.ttl(1))
        await lab.pass_time(1)
        assert await store.compare_and_swap("k", ABSENT, b"x", ttl=lab.ttl(1))
        await lab.pass_time(1)
        assert await store.increment("k", ttl=lab.ttl(1)) == 1
        await lab.pass_time(1)
        assert await _gone(store, "k")

    @promise(_TTL)
    async def test_a_put_without_a_ttl_clears_the_one_before_and_one_with_it_begins_anew(self, lab: StoreLab) -> None:
        store = lab.store
        await _written(store, "cleared", lab.ttl(2))
        await _written(store, "renewed", lab.ttl(2))
        await lab.pass_time(1)
        await store.commit((Step("cleared", Put(b"v")),))
        await _written(store, "renewed", lab.ttl(2))
        await lab.pass_time(1)
        assert not await _gone(store, "renewed") or store.ttl_clock == "server"
        await lab.pass_time(1)
        assert await _gone(store, "renewed")
        await lab.pass_time(5)
        assert not await _gone(store, "cleared")
        await store.cleanup_expired()
        found = await store.get("cleared")
        assert found is not None
        assert found.expires_at is None

    @promise(_TTL)
    async def test_a_swap_sets_the_ttl_that_it_says(self, lab: StoreLab) -> None:
        store = lab.store
        put = await _written(store, "k", lab.ttl(1))
        assert await store.compare_and_swap("k", put.revision, b"w")
        await lab.pass_time(2)
        assert not await _gone(store, "k")

    @promise(_TTL)
    async def test_a_counter_gets_its_ttl_only_when_it_is_created(self, lab: StoreLab) -> None:
        store = lab.store
        created = (await store.commit((Step("n", Add(1, lab.ttl(3))),))).entries["n"]
        assert created.expires_at is not None
        for ttl in (None, lab.ttl(100)):
            added = (await store.commit((Step("n", Add(1, ttl)),))).entries["n"]
            assert added.expires_at == created.expires_at
            assert await store.get("n") == added
        await lab.pass_time(3)
        assert await _gone(store, "n")
        assert await store.increment("n") == 1
        assert await store.increment("n", ttl=lab.ttl(1)) == 2
        await lab.pass_time(2)
        assert not await _gone(store, "n")

    @promise(_TTL)
    async def test_a_deleted_entry_takes_its_ttl_with_it(self, lab: StoreLab) -> None:
        store = lab.store
        await _written(store, "k", lab.ttl(1))
        await store.delete("k")
        put = await store.put("k", b"w")
        await lab.pass_time(2)
        await store.cleanup_expired()
        assert await store.get("k") == put

    @promise(_TTL)
    async def test_a_clock_that_jumps_back_brings_nothing_back(self, lab: StoreLab) -> None:
        if not lab.exact:
            return
        store = lab.store
        await _written(store, "k", timedelta(seconds=10))
        lab.clock.advance(10)
        assert await _gone(store, "k")
        await _written(store, "later", timedelta(seconds=10))
        lab.clock.jump(timedelta(hours=-1))
        assert await _gone(store, "k"), "the time of a store never goes back"
        assert not await _gone(store, "later")
        late = await _written(store, "l", timedelta(seconds=5))
        assert late.expires_at is not None
        assert late.expires_at >= to_datetime(lab.clock.time_ns()) + timedelta(seconds=5)
        lab.clock.jump(timedelta(hours=1, seconds=10))
        assert await _gone(store, "later")
        assert await _gone(store, "l")

    @promise(_TTL, Capability.DURABLE)
    async def test_a_ttl_goes_on_while_the_store_is_closed(self, lab: StoreLab) -> None:
        store = lab.store
        put, _ = await _written(store, "long", lab.ttl(10)), await _written(store, "short", lab.ttl(1))
        await store.aclose()
        lab.abandon(store)
        await lab.pass_time(1)
        again = await lab.open()
        assert await _gone(again, "short")
        assert await again.get("long") == put

    @promise(_TTL)
    async def test_cleanup_removes_what_has_expired_and_nothing_else(self, lab: StoreLab) -> None:
        store = lab.store
        if store.ttl_clock != "host":
            assert await store.cleanup_expired() >= 0
            return
        for number in range(6):
            await _written(store, f"k{number}", timedelta(seconds=1 + number % 2))
        kept = await store.put("kept", b"")
        assert await store.cleanup_expired() == 0
        lab.clock.advance(1)
        before = await newest_revision(store)
        assert await store.cleanup_expired() == 3
        assert await newest_revision(store) > before, "an expiry takes a revision"
        assert await store.cleanup_expired() == 0
        assert await store.list_keys() == ["k1", "k3", "k5", "kept"]
        lab.clock.advance(1)
        assert await store.cleanup_expired() == 3
        assert await collect(store.scan()) == [kept]

    @promise(_TTL, _WATCH)
    async def test_a_sweep_is_told_as_an_expiry_with_a_revision_of_its_own(self, lab: StoreLab) -> None:
        store = lab.store
        if store.ttl_clock != "host":
            return
        async with aclosing(store.watch("k")) as watch:
            put = await _written(store, "k", timedelta(seconds=1))
            lab.clock.advance(1)
            await store.cleanup_expired()
            first, second = await lab.take(watch, 2)
            assert (first.kind, first.revision) == (EventKind.PUT, put.revision)
            assert (second.kind, second.key) == (EventKind.EXPIRE, "k")
            assert second.revision > put.revision
            again = await _written(store, "k", timedelta(seconds=1))
            assert again.revision > second.revision
            await store.delete("k")
            lab.clock.advance(1)
            assert await store.cleanup_expired() == 0
            third, fourth = await lab.take(watch, 2)
            assert [third.kind, fourth.kind] == [EventKind.PUT, EventKind.DELETE]

    @promise(_TTL, _WATCH)
    async def test_an_expiry_is_told_to_who_watches_without_a_call_to_sweep(self, lab: StoreLab) -> None:
        store = lab.store
        async with aclosing(store.watch("k")) as watch:
            put = await _written(store, "k", lab.ttl(1))
            assert (await anext(watch)).revision == put.revision
            waiting = asyncio.ensure_future(anext(watch))
            for _ in range(10_000):
                await lab.pass_time(1)
                await asyncio.sleep(0.001)
                if waiting.done():
                    break
            event = await waiting
            assert (event.kind, event.key) == (EventKind.EXPIRE, "k")
            assert event.revision > put.revision

    @promise(_TTL)
    async def test_a_cleanup_task_sweeps_at_its_interval_until_the_store_closes(self, lab: StoreLab) -> None:
        store = lab.store
        with pytest.raises(ValueError, match="interval"):
            store.start_cleanup_task(timedelta(0))
        if store.ttl_clock != "host":
            return
        first = store.start_cleanup_task(timedelta(seconds=60))
        task = store.start_cleanup_task(timedelta(seconds=60))
        await asyncio.sleep(0)
        assert first.cancelled() or first.cancelling()
        await _written(store, "k", timedelta(seconds=1))
        lab.clock.advance(60)
        await lab.eventually(lambda: store.stats().expired_count == 1)
        await store.aclose()
        lab.abandon(store)
        await lab.eventually(task.done)

    @promise(_TTL, options=True)
    async def test_the_default_ttl_is_for_put_put_if_absent_and_increment_only(self, lab: StoreLab) -> None:
        store = await lab.open("default", StoreOptions(default_ttl=lab.ttl(1)))
        await store.put("put", b"")
        await store.put_if_absent("absent", b"")
        await store.increment("n")
        put = await store.put("own", b"", ttl=lab.ttl(100))
        await store.commit((Step("commit", Put(b"")),))
        await store.compare_and_swap("swap", ABSENT, b"")
        for key in ("put", "absent", "n"):
            found = await store.get(key)
            assert found is not None
            assert found.expires_at is not None
        await lab.pass_time(1)
        assert await store.list_keys() == ["commit", "own", "swap"]
        assert await store.get("own") == put

    @promise(_TTL)
    async def test_what_is_no_time_to_live_is_refused(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"v")
        nothing = timedelta(0)
        wrong: list[tuple[Any, type[Exception]]] = [
            (0, ValueError),
            (0.0, ValueError),
            (-1, ValueError),
            (nothing, ValueError),
            (-_MILLISECOND, ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            (True, TypeError),
            ("1", TypeError),
            (10**12, LimitExceededError),
            (10**400, LimitExceededError),
            (1e306, LimitExceededError),
            (timedelta.max, LimitExceededError),
            (timedelta.min, ValueError),
        ]
        for ttl, error in wrong:
            async with unchanged(store):
                for op in (Put(b"w", ttl), Add(1, ttl)):
                    for key in ("k", "new"):
                        with pytest.raises((error, NotACounterError)):
                            await store.commit((Step(key, op),))
                with pytest.raises(error):
                    await store.put("k", b"w", ttl=ttl)
                with pytest.raises(error):
                    await store.put("new", b"w", ttl=ttl)

    @promise(_TTL)
    async def test_a_very_long_time_to_live_is_kept(self, lab: StoreLab) -> None:
        put = await lab.store.put("k", b"v", ttl=timedelta(days=365 * 1000))
        assert put.expires_at is not None
        assert put.expires_at.year >= 3000
        assert await lab.store.get("k") == put
