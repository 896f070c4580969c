"""Two containers on one store: what each of them may believe."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from reactstate import (
    BoundedStaleness,
    ChangeType,
    ConflictError,
    ContentionError,
    Eventual,
    ManualClock,
    SchemaVersionError,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    StorageError,
    Strong,
    TransitionError,
    UnavailableError,
    UnknownOutcomeError,
    migration,
    to_document,
)
from reactstate.kv.memory import MemoryStore


class Tally(State):
    n: int = 0
    names: list[str] = []

    def check_transition(self, previous: Tally) -> None:
        if self.n < previous.n:
            raise TransitionError("a tally never goes down")


def add(draft: Tally, by: int = 1) -> None:
    draft.n += by


@pytest.fixture
async def store():
    store = MemoryStore()
    yield store
    await store.aclose()


def share(store: Any, what: Any = Tally, **arguments: Any) -> Any:
    return StateContainer.open(what, store=store, key="tally", **arguments)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


async def test_a_change_made_elsewhere_arrives_at_every_kind_of_subscriber(store):
    async with share(store, Tally()) as a, share(store) as b:
        called: list[int] = []
        signalled: list[int] = []
        b.on_change(lambda change: called.append(change.version))

        def receiver(_: Any, change: Any) -> None:
            signalled.append(change.version)

        b.changed.connect(receiver)
        doubled = b.select(lambda state: state.n * 2)
        async with b.subscribe() as changes:
            await a.update(add, actor="ada", tags={"why": "test"})
            change = await anext(changes)
        assert (change.version, change.actor, dict(change.tags)) == (2, "ada", {"why": "test"})
        assert change.change_type is ChangeType.UPDATE
        assert (change.old_state.n, change.new_state.n, b.state.n, b.version) == (0, 1, 1, 2)
        assert change.change_id == a.history[-1].change_id
        assert called == signalled == [2]
        assert doubled.value == 2


async def test_concurrent_updates_of_two_containers_are_all_applied_once_and_seen_once_in_order(store):
    async with share(store, Tally()) as a, share(store) as b, share(store) as c:
        seen: list[tuple[int, int]] = []

        async def look() -> None:
            async with c.subscribe(since=1, buffer=10_000) as changes:
                async for change in changes:
                    seen.append((change.version, change.new_state.n))
                    if change.version == 401:
                        return

        looking = asyncio.ensure_future(look())
        await asyncio.gather(*(one.update(add) for _ in range(200) for one in (a, b)))
        await asyncio.wait_for(looking, 20)
        assert seen == [(version, version - 1) for version in range(2, 402)]
        for one in (a, b, c):
            assert (await one.get(Strong())).n == 400
            assert [change.version for change in one.history] == list(range(1, 402))
        assert [x.change_id for x in a.history] == [x.change_id for x in b.history] == [x.change_id for x in c.history]


async def test_two_that_open_at_once_create_one_version(store):
    a, b = await asyncio.gather(share(store, Tally(n=1)), share(store, Tally(n=2)))
    assert a.version == b.version == 1
    assert a.state == b.state
    await a.aclose()
    await b.aclose()


async def test_an_expectation_is_judged_by_the_newest_version_of_the_store_not_by_the_one_seen_here(store):
    async with share(store, Tally()) as a, share(store) as b:
        await a.update(add)
        made = await b.update(add, expected_version=2)  # b had no turn to see version 2
        assert made.version == 3
        await b.update(add)
        with pytest.raises(ConflictError) as caught:
            await a.update(add, expected_version=3)
        assert caught.value.current.version == 4
        assert await a.compare_and_swap(4, add)
        assert await b.compare_and_swap(Tally(n=4), add)
        assert not await a.compare_and_swap(Tally(n=4), add)


async def test_what_changes_nothing_or_is_refused_is_judged_by_the_newest_state(store):
    async with share(store, Tally()) as a, share(store) as b:
        await a.update(add, 5)
        assert (await b.update({"n": 5})).version == 2
        await a.update(add, 5)
        with pytest.raises(TransitionError):
            await b.update({"n": 9})
        await a.update(add, 1)
        assert (await b.set(Tally(n=12))).version == 5
        assert (await a.set(Tally(n=12))).version == 5


async def test_recipes_run_again_on_the_head_that_won(store):
    ran: list[int] = []

    def record(draft: Tally) -> None:
        ran.append(draft.n)
        draft.n += 1

    async with share(store, Tally()) as a, share(store) as b:
        _, made = await asyncio.gather(a.update(add), b.update(record))
        assert made.state.n == 2
        assert ran == [0, 1]


async def test_deletes_and_returns_cross_over(store):
    async with share(store, Tally(n=3)) as a, share(store) as b:
        await a.delete()
        await until(lambda: b.version == 2)
        with pytest.raises(StateNotFoundError):
            _ = b.state
        with pytest.raises(StateNotFoundError):
            await b.update(add)
        created = await b.set(Tally(n=7))
        assert created.version == 3
        await until(lambda: a.version == 3)
        assert a.history[-1].change_type is ChangeType.CREATE
        assert a.current.metadata.created_at == b.current.metadata.created_at


async def test_undo_redo_and_rollback_go_over_changes_of_others(store):
    async with share(store, Tally()) as a, share(store) as b:
        await a.update({"names": ["x"]})
        await b.update({"names": ["x", "y"]})
        assert (await a.undo()).state.names == ["x"]
        assert (await b.undo()).state.names == []
        assert (await a.redo()).state.names == ["x"]
        assert (await b.redo()).state.names == ["x", "y"]
        assert (await a.rollback_to(1)).state.names == []
        assert (await b.at(3)).names == ["x", "y"]
        assert await a.diff(1, 3) == await b.diff(1, 3)


async def test_history_states_and_patches_are_the_same_everywhere_however_the_writers_interleave(store):
    async with share(store, Tally()) as a, share(store) as b:
        for turn in range(30):
            await (a if turn % 3 else b).update(lambda draft, turn=turn: draft.names.append(str(turn)))
            if turn % 4 == 0:
                await b.update(add)
        await a.get(Strong())
        await b.get(Strong())
        for one, other in zip(a.history, b.history, strict=True):
            assert one.patch == other.patch
            assert one.new_state == other.new_state
            assert one.old_state == other.old_state
    async with share(store) as c:
        assert [change.new_state for change in c.history] == [change.new_state for change in a.history]


async def test_since_goes_on_across_restarts_and_containers(store):
    async with share(store, Tally()) as a:
        for _ in range(5):
            await a.update(add)
    async with share(store) as b, b.subscribe(since=3) as changes:
        assert [(await anext(changes)).version for _ in range(3)] == [4, 5, 6]
        async with share(store) as a:
            await a.update(add)
            assert (await anext(changes)).version == 7


async def test_an_edit_conflicts_with_what_another_wrote(store):
    async with share(store, Tally()) as a, share(store) as b:
        with pytest.raises(ConflictError):
            async with b.edit() as draft:
                draft.n += 1
                await a.update(add)
        assert (await b.get(Strong())).n == 1


async def test_strong_reads_see_everything_that_was_acknowledged_before(store):
    async with share(store, Tally()) as a, share(store) as b:
        for n in range(1, 20):
            await a.update(add)
            assert (await b.get(Strong())).n == n


async def test_bounded_staleness_asks_the_store_only_when_its_last_look_is_too_old():
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    async with share(store, Tally(), clock=clock) as a:
        clock.advance(5)
        assert a.replication_lag == timedelta(seconds=5)
        before = store.stats().get_count
        await a.get(BoundedStaleness(timedelta(seconds=5)))
        await a.get(Eventual())
        await a.get()
        assert store.stats().get_count == before
        await a.get(BoundedStaleness(timedelta(seconds=4)))
        assert store.stats().get_count > before
        assert a.replication_lag == timedelta(0)
        clock.advance(1)
        await a.update(add)
        assert a.replication_lag == timedelta(0)
    await store.aclose()


class Contended(MemoryStore):
    """Somebody else always comes first."""

    rival: Any = None

    async def commit(self, steps: Any, *, ranges: Any = ()) -> Any:
        if self.rival is not None:
            rival, self.rival = self.rival, None
            await rival.update(add)
            self.rival = rival
        return await super().commit(steps, ranges=ranges)


async def test_who_loses_every_race_until_the_deadline_gets_contention_error():
    clock = ManualClock()
    store = Contended(clock=clock)
    async with (
        share(store, Tally(), clock=clock, deadline=2.0) as a,
        share(store, clock=clock, deadline=2.0) as rival,
    ):
        store.rival = rival
        running = asyncio.ensure_future(a.update(add))
        async with asyncio.timeout(20):
            while not running.done():
                clock.advance(0.01)
                await asyncio.sleep(0)
        with pytest.raises(ContentionError):
            await running
        store.rival = None
        await a.get(Strong())
        assert a.state == rival.state
        assert a.version == a.state.n + 1
        before = a.version
        assert (await a.update(add)).version == before + 1
    await store.aclose()


class Shaky(MemoryStore):
    """Loses replies, or requests, on demand."""

    lost_replies = 0
    lost_requests = 0
    commits = 0

    async def commit(self, steps: Any, *, ranges: Any = ()) -> Any:
        self.commits += 1
        if self.lost_requests:
            self.lost_requests -= 1
            raise UnavailableError("no request came through")
        if self.lost_replies:
            self.lost_replies -= 1
            await super().commit(steps, ranges=ranges)
            raise UnknownOutcomeError("the reply was lost")
        return await super().commit(steps, ranges=ranges)


async def test_a_lost_reply_is_resolved_and_the_recipe_takes_effect_once():
    store = Shaky()
    async with share(store, Tally()) as a, share(store) as b:
        store.lost_replies = 1
        assert (await a.update(add)).version == 2
        store.lost_requests = 1
        assert (await a.update(add)).state.n == 2
        store.lost_replies = 1
        await asyncio.gather(*(one.update(add) for _ in range(20) for one in (a, b)))
        assert (await a.get(Strong())).n == 42
        assert a.version == 43
    await store.aclose()


async def test_a_store_that_stays_out_of_reach_fails_the_update_and_leaves_everything_as_it_was():
    clock = ManualClock()
    store = Shaky(clock=clock)
    async with share(store, Tally(), clock=clock, deadline=1.0) as a:
        store.lost_requests = 10**6
        running = asyncio.ensure_future(a.update(add))
        async with asyncio.timeout(20):
            while not running.done():
                clock.advance(0.01)
                await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await running
        assert (a.version, a.state.n, len(a.history)) == (1, 0, 1)
        store.lost_requests = 0
        assert (await a.update(add)).version == 2
    await store.aclose()


async def test_automatic_snapshots_are_taken_by_who_made_the_change(store):
    config = StateConfig(snapshot_interval=2)
    async with share(store, Tally(), config=config) as a, share(store, config=config) as b:
        for _ in range(4):
            await a.update(add)
        await until(lambda: b.version == 5)
    async with share(store) as c:
        assert [info.version for info in await c.list_snapshots()] == [2, 4]


async def test_a_snapshot_is_restored_by_another_container(store):
    async with share(store, Tally(n=1)) as a, share(store) as b:
        info = await a.snapshot("before")
        await a.update({"names": ["x"]})
        assert (await b.restore(info.id)).state == Tally(n=1)


async def test_history_is_compacted_in_the_store_and_who_was_away_resyncs():
    store = MemoryStore()
    config = StateConfig(history_size=10)
    sleeper = await share(store, Tally(), config=config)
    sleeper._following.cancel()  # as if its process had been stopped
    await asyncio.sleep(0)
    changes = sleeper.subscribe()
    async with share(store, config=config) as a:
        for _ in range(600):
            await a.update(add)
        await until(lambda: a._committer._saving is None)
        entries = len(await store.list_keys())
        assert entries < 300
    assert (await sleeper.get(Strong())).n == 600
    change = await anext(changes)
    assert (change.version, change.action) == (601, "resync")
    await sleeper.aclose()
    async with share(store, config=config) as c:
        assert [change.version for change in c.history][-1] == 601
        assert len(c.history) == 10
        assert (await c.at(595)).n == 594
    await store.aclose()


class Tally2(State, type_name="Tally", schema_version=2):
    count: int = 0
    names: list[str] = []

    @migration(from_version=1)
    def n_is_count(document: Any) -> Any:  # noqa: N805 - a migration takes the document
        return {"count": document["n"], "names": document["names"]}


async def test_a_newer_class_takes_over_while_an_older_one_is_open(store, caplog):
    async with share(store, Tally()) as old, share(store, Tally2) as new:
        await old.update(add)
        await until(lambda: new.version == 2)
        assert new.state.count == 1
        await new.update(lambda draft: setattr(draft, "count", 10))
        assert (await new.at(2)).count == 1
        with pytest.raises(SchemaVersionError):
            await old.update(add)
        with pytest.raises(SchemaVersionError):
            await old.get(Strong())
        assert old.state.n == 1
        async with share(store, Tally2) as other:
            assert other.state.count == 10
            await other.update(lambda draft: setattr(draft, "count", 11))
            await until(lambda: new.version == 4)
            assert [to_document(change.new_state) for change in new.history] == [
                to_document(change.new_state) for change in other.history
            ]


class Wider(State, type_name="Tally"):
    n: int = 0
    names: list[str] = []
    note: str = "new"


async def test_a_field_with_a_default_may_be_added_while_the_older_class_still_writes(store):
    async with share(store, Tally()) as old, share(store, Wider) as wide:
        await old.update(add)
        await until(lambda: wide.version == 2)
        await old.update(add)
        await until(lambda: wide.version == 3)
        assert wide.state == Wider(n=2)
        await wide.update(lambda draft: setattr(draft, "n", 3))
        async with share(store, Wider) as other:
            assert other.state == Wider(n=3)
            assert [change.new_state.n for change in other.history] == [0, 1, 2, 3]


async def test_a_store_that_was_put_back_to_an_older_state_is_not_taken_for_progress(store, tmp_path):
    async with share(store, Tally()) as a:
        await store.checkpoint(tmp_path / "early")
        await a.update(add)
        await store.restore(tmp_path / "early", replace=True)
        with pytest.raises(StorageError, match="restored"):
            await a.get(Strong())
        with pytest.raises(StorageError, match="restored"):
            await a.update(add)
        assert a.state.n == 1
    async with share(store) as b:
        assert (b.version, b.state.n) == (1, 0)


async def test_keys_cannot_reach_into_each_other(store):
    keys = ["a", "a/head", "a/r", "a%", "b/../a", "a/r/00000000000000000001"]
    opened = [await StateContainer.open(Tally(n=place), store=store, key=key) for place, key in enumerate(keys)]
    for place, one in enumerate(opened):
        await one.update(add)
        assert one.state.n == place + 1
        assert one.version == 2
        await one.aclose()


async def test_close_ends_while_others_go_on(store):
    async with share(store, Tally()) as a:
        b = await share(store)
        running = [asyncio.ensure_future(b.update(add)) for _ in range(20)]
        await asyncio.sleep(0)
        await b.aclose()
        assert [(await one).version for one in running] == list(range(2, 22))
        await a.update(add)
        assert (await a.get(Strong())).n == 21
