from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from reactstate.coordination.store import CoordinationStore
from reactstate.errors import LeaseLostError, UnsupportedError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Put, Step
from reactstate.kv.urls import open_store

DUE = 1_000_000


async def test_a_claim_says_what_it_is_about(here, key):
    await here.index_chain_ready(key(), DUE, "pay")
    (claim,) = await here.claim_ready_chains(5, timedelta(seconds=10), DUE + 500)
    assert (claim.key, claim.step, claim.kind) == (key(), "pay", "chain")
    assert claim.due_at == datetime.fromtimestamp(DUE / 1000, UTC)
    assert claim.leased_until == datetime.fromtimestamp(DUE / 1000 + 10.5, UTC)
    assert claim.token > 0
    assert "pay" in repr(claim)
    await here.index_timeout(key(), DUE)
    (claim,) = await here.claim_expired_timeouts(5, 10, DUE)
    assert claim.step is None
    assert "step" not in repr(claim)


async def test_a_claimed_item_is_nobody_elses_until_the_lease_ends(here, there, key):
    await here.index_timeout(key(), DUE)
    (first,) = await here.claim_expired_timeouts(5, 10, DUE)
    assert await there.claim_expired_timeouts(5, 10, DUE + 9_999) == []
    assert await there.get_expired_timeouts(DUE + 9_999) == []
    assert await there.get_expired_timeouts(DUE + 10_000) == [key()]
    (second,) = await there.claim_expired_timeouts(5, 10, DUE + 10_000)
    assert second.token > first.token
    assert second.due_at == first.due_at


async def test_the_oldest_come_first(here, key):
    for number in range(20):
        await here.index_timeout(key(number), DUE - number)
    ids = [one.key.id for one in await here.claim_expired_timeouts(5, 10, DUE)]
    assert ids == ["19", "18", "17", "16", "15"]
    rest = await here.claim_expired_timeouts(100, 10, DUE)
    assert [one.key.id for one in rest] == [str(number) for number in range(14, -1, -1)]


async def test_a_completed_item_does_not_come_again(here, there, shared, key):
    await here.index_timeout(key(), DUE)
    (claim,) = await here.claim_expired_timeouts(1, 10, DUE)
    await there.complete(claim)
    assert await there.get_expired_timeouts(DUE * 2) == []
    assert await shared.list_keys("~coord/default/at/") == []
    with pytest.raises(LeaseLostError):
        await here.complete(claim)


async def test_a_lease_that_ran_out_is_no_hindrance_until_another_has_the_item(here, there, key):
    await here.index_timeout(key(), DUE)
    (first,) = await here.claim_expired_timeouts(1, 10, DUE)
    (second,) = await there.claim_expired_timeouts(1, 10, DUE + 20_000)
    for late in (here.complete, here.release, lambda claim: here.extend(claim, 10)):
        with pytest.raises(LeaseLostError, match="claimed by another"):
            await late(first)
    await there.complete(second)
    await here.index_timeout(key(), DUE)
    (third,) = await here.claim_expired_timeouts(1, 10, DUE)
    await here.complete(third)


async def test_a_moved_or_removed_item_is_not_completed(here, there, key):
    await here.index_timeout(key(), DUE)
    (claim,) = await here.claim_expired_timeouts(1, 10, DUE)
    await there.index_timeout(key(), DUE + 5)
    with pytest.raises(LeaseLostError):
        await here.complete(claim)
    assert await here.get_expired_timeouts(DUE + 5) == [key()]
    (claim,) = await here.claim_expired_timeouts(1, 10, DUE + 5)
    assert await there.remove_timeout_index(key())
    with pytest.raises(LeaseLostError):
        await here.complete(claim)


async def test_a_released_item_is_due_at_once_at_its_old_time(here, there, key):
    await here.index_timeout(key(), DUE)
    (claim,) = await here.claim_expired_timeouts(1, 10, DUE + 5)
    await here.release(claim)
    (again,) = await there.claim_expired_timeouts(1, 10, DUE)
    assert again.due_at == claim.due_at
    with pytest.raises(LeaseLostError):
        await here.complete(claim)


async def test_an_extended_claim_replaces_the_former(here, there, key):
    await here.index_chain_ready(key(), DUE, "pay")
    (claim,) = await here.claim_ready_chains(1, 10, DUE)
    longer = await here.extend(claim, 60, DUE)
    assert (longer.key, longer.step, longer.due_at) == (claim.key, claim.step, claim.due_at)
    assert longer.token > claim.token
    assert await there.get_ready_chains(DUE + 59_999) == []
    same = await here.extend(longer, 60, DUE)
    with pytest.raises(LeaseLostError):
        await here.complete(longer)
    await here.complete(same)


async def test_without_a_time_the_clock_counts(here, key, clock):
    await here.index_timeout(key(), timedelta(seconds=5))
    assert await here.claim_expired_timeouts(1, 10) == []
    clock.advance(5)
    (claim,) = await here.claim_expired_timeouts(1, 10)
    clock.advance(9)
    claim = await here.extend(claim, 10)
    clock.advance(9.999)
    assert await here.claim_expired_timeouts(1, 10) == []
    clock.advance(0.001)
    assert len(await here.claim_expired_timeouts(1, 10)) == 1


async def test_a_chain_goes_from_step_to_step(here, there, key):
    await here.index_chain_ready(key(), DUE, "reserve")
    for step, following in (("reserve", "pay"), ("pay", "ship")):
        (claim,) = await there.claim_ready_chains(1, 10, DUE)
        assert claim.step == step
        await there.complete(claim, next_at=DUE, step=following)
    (claim,) = await there.claim_ready_chains(1, 10, DUE)
    await here.complete(claim)
    assert await here.get_ready_chains(DUE * 2) == []
    with pytest.raises(LeaseLostError):
        await there.complete(claim, next_at=DUE, step="ship")


async def test_a_step_needs_a_time(here, key):
    await here.index_chain_ready(key(), DUE)
    (claim,) = await here.claim_ready_chains(1, 10, DUE)
    with pytest.raises(ValueError, match="next_at"):
        await here.complete(claim, step="pay")
    with pytest.raises(TypeError):
        await here.complete(claim, next_at=DUE, step=5)
    await here.complete(claim)


async def test_a_claim_guards_writes(here, there, shared, key):
    await here.index_timeout(key(), DUE)
    (first,) = await here.claim_expired_timeouts(1, 10, DUE)
    assert await here.set(key(), "mine", guard=first)
    (second,) = await there.claim_expired_timeouts(1, 10, DUE + 10_000)
    with pytest.raises(LeaseLostError):
        await here.set(key(), "stale", guard=first)
    await there.set(key(), "theirs", guard=second)
    await shared.commit([Step("other", Put(b"x")), *second.expectations()])
    assert (await here.get(key())).value == "theirs"


async def test_a_claim_is_completed_where_it_is_from(here, shared, clock, key):
    await here.index_timeout(key(), DUE)
    (claim,) = await here.claim_expired_timeouts(1, 10, DUE)
    async with CoordinationStore.open(store=shared, clock=clock, namespace="other") as other:
        with pytest.raises(UnsupportedError, match="namespace"):
            await other.complete(claim)
    async with CoordinationStore.open() as other:
        with pytest.raises(UnsupportedError):
            await other.release(claim)
    with pytest.raises(TypeError, match="a claim"):
        await here.complete("claim")
    await here.complete(claim)


async def test_another_object_of_the_same_store_completes_it_too(tmp_path, key):
    url = f"sqlite:{tmp_path}/store"
    async with CoordinationStore.open(url) as one, CoordinationStore.open(url) as other:
        await one.index_timeout(key(), DUE)
        (claim,) = await one.claim_expired_timeouts(1, 10, DUE)
        await other.complete(claim)
        assert await one.get_expired_timeouts(DUE * 2) == []


async def test_at_more_items_than_a_commit_takes_the_claims_are_split(key, clock):
    class NarrowStore(MemoryStore):
        from reactstate.kv.protocol import Limits

        limits = Limits(8192, 1 << 20, 10, 1 << 20)
        most = 0

        async def commit(self, steps, *, ranges=()):
            self.most = max(self.most, len(steps))
            return await super().commit(steps, ranges=ranges)

    async with NarrowStore() as store, CoordinationStore.open(store=store) as one:
        for number in range(20):
            await one.index_timeout(key(number), DUE)
        assert len(await one.claim_expired_timeouts(100, 10, DUE)) == 20
        assert store.most == 10


@pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb"])
async def test_a_hundred_pollers_get_ten_thousand_items_once_a_lease(tmp_path, engine, key):
    url = "memory:" if engine == "memory" else f"{engine}:{tmp_path}/store?durability=never"
    async with open_store(url) as store:
        stores = [await CoordinationStore.open(store=store) for _ in range(20)]
        numbers = iter(range(10_000))

        async def fill(one):
            for number in numbers:
                await one.index_timeout(key(number), DUE + number // 100)

        await asyncio.gather(*(fill(one) for one in stores for _ in range(5)))
        now = DUE + 500
        for lease in range(2 if engine == "memory" else 1):
            polled = [asyncio.ensure_future(poll(one, now + lease * 60_000)) for one in stores for _ in range(5)]
            claims = list(itertools.chain.from_iterable(await asyncio.gather(*polled)))
            assert len(claims) == 10_000
            assert len({str(claim.key) for claim in claims}) == 10_000
            assert len({(claim.token, str(claim.key)) for claim in claims}) == 10_000


async def poll(one, now):
    claims = []
    while taken := await one.claim_expired_timeouts(20, 60, now):
        claims += taken
    return claims


async def test_pollers_of_many_processes_spread_over_what_is_due(tmp_path, key):
    """Each has its own object, so that none knows of the others; all items have one time."""
    async with open_store(f"sqlite:{tmp_path}/store?durability=never") as store:
        stores = [await CoordinationStore.open(store=store) for _ in range(30)]
        numbers = iter(range(3000))

        async def fill(one):
            for number in numbers:
                await one.index_timeout(key(number), DUE)

        await asyncio.gather(*map(fill, stores))
        before = store.stats().conflict_count
        claims = list(itertools.chain.from_iterable(await asyncio.gather(*(poll(one, DUE) for one in stores))))
        assert len({str(claim.key) for claim in claims}) == len(claims) == 3000
        assert store.stats().conflict_count - before < 1500


async def test_who_is_faster_drives_the_others_apart_and_in_peace_they_come_back(mine, others, troubled, key):
    for number in range(200):
        await mine.index_timeout(key(number), DUE + number)
    troubled.plan.append(lambda: others.claim_expired_timeouts(10, 60, DUE + 200))
    first = await mine.claim_expired_timeouts(10, 60, DUE + 200)
    assert len({one.key for one in first}) == 10
    assert mine._timeouts._crowded
    while mine._timeouts._crowded:
        assert await mine.claim_expired_timeouts(1, 60, DUE + 200)
    (oldest,) = await mine.claim_expired_timeouts(1, 60, DUE + 200)
    assert oldest.key == (await mine.claim_expired_timeouts(200, 60, DUE + 200))[0].key or oldest.due_ms <= DUE + 40


async def test_a_crowd_that_takes_everything_leaves_nothing(mine, others, troubled, key):
    for number in range(10):
        await mine.index_timeout(key(number), DUE)
    troubled.plan.append(lambda: others.claim_expired_timeouts(100, 60, DUE))
    assert await mine.claim_expired_timeouts(10, 60, DUE) == []
    assert await mine.claim_expired_timeouts(10, 60, DUE) == []


async def test_a_part_that_others_took_does_not_cost_the_rest(mine, others, troubled, key):
    for number in range(10):
        await mine.index_timeout(key(number), DUE + number)
    troubled.plan.append(lambda: others.claim_expired_timeouts(4, 60, DUE + 10))
    taken = await mine.claim_expired_timeouts(10, 60, DUE + 10)
    assert [one.key.id for one in taken] == ["4", "5", "6", "7", "8", "9"]


async def test_a_cancelled_poller_holds_up_nobody_longer_than_the_lease(mine, troubled, key):
    for number in range(5):
        await mine.index_timeout(key(number), DUE)
    for turns in range(5):
        troubled.plan.extend([lambda: asyncio.sleep(0)] * 2)
        task = asyncio.ensure_future(mine.claim_expired_timeouts(5, 1, DUE + turns * 2000))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        troubled.plan.clear()
        assert not mine._timeouts._claiming
    assert len(await mine.claim_expired_timeouts(5, 1, DUE + 20_000)) == 5
