"""What becomes of a call whose reply is lost, or that the store refuses for a while."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.coordination.results import CasResult
from reactstate.coordination.store import CoordinationStore
from reactstate.errors import LeaseLostError, UnavailableError, UnknownOutcomeError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability

TROUBLES = ["lost", "unsent", "down"]
DUE = 1_000_000


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("value", ["", "text", "7"])
async def test_a_lost_reply_is_told_from_a_duplicate(mine, others, troubled, key, trouble, value):
    troubled.plan.append(trouble)
    assert await mine.check_and_set(key(), value) is True
    assert await mine.check_and_set(key(), value) is False
    troubled.plan.append("unsent")
    troubled.after = lambda: others.check_and_set(key("2"), value)
    assert await mine.check_and_set(key("2"), value) is False


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_no_increment_is_lost_or_doubled(mine, troubled, key, trouble):
    for expected in range(1, 6):
        troubled.plan.extend([trouble] * (expected % 3))
        assert await mine.increment(key(), ttl=100) == expected


async def test_an_increment_that_others_followed_gets_its_own_sum(mine, others, troubled, key):
    await mine.increment(key(), 10)

    async def follow():
        for _ in range(3):
            await others.increment(key())

    troubled.plan.append("lost")
    troubled.after = follow
    assert await mine.increment(key(), 100) == 110
    assert (await mine.get(key())).value == "113"


async def test_an_increment_that_was_beaten_is_made_once(mine, others, troubled, key):
    troubled.plan.append("unsent")
    troubled.after = lambda: others.increment(key())
    assert await mine.increment(key()) == 2
    troubled.plan.append("late")
    troubled.plan.append(troubled.arrive)
    assert await mine.increment(key()) == 3
    assert (await mine.get(key())).value == "3"


async def test_an_increment_after_which_the_counter_was_deleted_is_not_made_again(mine, others, troubled, key):
    troubled.plan.append("lost")
    troubled.after = lambda: others.delete(key())
    assert await mine.increment(key(), 7) == 7
    assert await mine.get(key()) is None


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_writes_end_as_if_the_reply_had_come(mine, troubled, key, trouble):
    def fail():
        troubled.plan.append(trouble)

    fail()
    first = await mine.set(key(), "a")
    assert (await mine.get(key())).version == first
    fail()
    second = await mine.compare_and_swap(key(), "a", "b")
    assert second == CasResult(True, (await mine.get(key())).version, "b")
    fail()
    assert await mine.transition(key(), "b", "c")
    fail()
    assert await mine.delete(key())
    assert not await mine.delete(key())
    fail()
    assert await mine.add_to_group(key(), "ada")
    assert not await mine.add_to_group(key(), "ada")
    fail()
    assert await mine.remove_from_group(key(), "ada")
    assert not await mine.remove_from_group(key(), "ada")


async def test_a_write_that_others_followed_is_known_to_be_made(mine, others, troubled, key):
    await mine.set(key(), "a")
    troubled.plan.append("lost")
    troubled.after = lambda: others.set(key(), "x")
    made = await mine.compare_and_swap(key(), "a", "b")
    assert made.swapped
    assert made.version < (await mine.get(key())).version
    troubled.plan.append("lost")
    troubled.after = lambda: others.set(key(), "y")
    assert await mine.delete(key())
    assert (await mine.get(key())).value == "y"


async def test_a_write_that_was_beaten_is_known_not_to_be_made(mine, others, troubled, key):
    await mine.set(key(), "a")
    troubled.plan.append("unsent")
    troubled.after = lambda: others.set(key(), "x")
    refused = await mine.compare_and_swap(key(), "a", "b")
    assert (refused.swapped, refused.value) == (False, "x")
    troubled.plan.append("unsent")
    troubled.after = lambda: others.set(key(), "y")
    await mine.set(key(), "z")
    assert (await mine.get(key())).value == "z"


async def test_a_new_key_that_others_wrote_over_has_an_unknown_outcome(mine, others, troubled, key):
    for trouble in ("lost", "unsent"):
        troubled.plan.append(trouble)
        troubled.after = lambda trouble=trouble: others.set(key(trouble), "over")
        with pytest.raises(UnknownOutcomeError, match="anew"):
            await mine.check_and_set(key(trouble))


async def test_an_outage_ends_at_the_deadline_and_says_what_is_known(mine, troubled, quick, key):
    await mine.set(key(), "5")
    for call in (
        lambda: mine.check_and_set(key("2")),
        lambda: mine.increment(key()),
        lambda: mine.compare_and_swap(key(), "5", "6"),
        lambda: mine.delete(key()),
        lambda: mine.index_timeout(key(), DUE),
    ):
        began = quick.now
        troubled.always = "down"
        with pytest.raises(UnavailableError):
            await call()
        assert 25 < quick.now - began <= 31
        troubled.always = "unsent"
        with pytest.raises(UnknownOutcomeError):
            await call()
    troubled.always = None
    assert (await mine.get(key())).value == "5"
    assert await mine.get(key("2")) is None


async def test_after_an_unknown_outcome_a_late_arrival_spoils_no_other_call(mine, troubled, key):
    """The mark of the commit that arrives late is not that of a later one."""
    troubled.plan.append("late")
    troubled.always = "unsent"
    with pytest.raises(UnknownOutcomeError):
        await mine.increment(key())
    troubled.always = None
    troubled.plan.append("lost")
    troubled.after = troubled.arrive
    assert await mine.increment(key("2")) == 1
    assert (await mine.get(key("2"))).value == "1"
    assert (await mine.get(key())).value == "1"


async def test_reads_wait_for_a_store_that_is_away(mine, troubled, key):
    await mine.check_and_set(key(), "a")
    await mine.index_timeout(key(), DUE)
    for call in (
        lambda: mine.get(key()),
        lambda: mine.check_and_set(key()),
        lambda: mine.add_to_group(key(), "ada"),
        lambda: mine.index_timeout(key(), DUE),
    ):
        troubled.reads_down = 2
        await call()
        assert not troubled.reads_down


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_indexing_moves_claims_and_completes_once(mine, troubled, key, trouble):
    def fail():
        troubled.plan.append(trouble)

    fail()
    await mine.index_timeout(key(), DUE)
    fail()
    await mine.index_timeout(key(), DUE + 1)
    assert await mine.get_expired_timeouts(DUE) == []
    fail()
    (claim,) = await mine.claim_expired_timeouts(5, 10, DUE + 1)
    fail()
    claim = await mine.extend(claim, 20, DUE + 1)
    fail()
    await mine.release(claim)
    fail()
    (claim,) = await mine.claim_expired_timeouts(5, 10, DUE + 1)
    fail()
    await mine.complete(claim, next_at=DUE + 2)
    fail()
    (claim,) = await mine.claim_expired_timeouts(5, 10, DUE + 2)
    fail()
    await mine.complete(claim)
    assert await mine.get_expired_timeouts(DUE * 2) == []
    fail()
    assert not await mine.remove_timeout_index(key())


async def test_a_lost_completion_is_made_though_others_indexed_the_item_anew(mine, others, troubled, key):
    await mine.index_timeout(key(), DUE)
    (claim,) = await mine.claim_expired_timeouts(1, 10, DUE)
    troubled.plan.append("lost")
    troubled.after = lambda: others.index_timeout(key(), DUE + 5)
    await mine.complete(claim)
    assert await mine.get_expired_timeouts(DUE + 5) == [key()]
    (claim,) = await mine.claim_expired_timeouts(1, 10, DUE + 5)
    troubled.plan.append("unsent")
    troubled.after = lambda: others.index_timeout(key(), DUE + 7)
    with pytest.raises(LeaseLostError):
        await mine.complete(claim)


async def test_claims_that_were_made_before_the_trouble_are_handed_out(mine, troubled, quick, key):
    for number in range(100):
        await mine.index_timeout(key(number), DUE)
    troubled.plan.append(None)
    troubled.always = "down"
    claims = await mine.claim_expired_timeouts(100, 10, DUE)
    assert 0 < len(claims) < 100
    with pytest.raises(UnavailableError):
        await mine.claim_expired_timeouts(100, 10, DUE)
    troubled.always = None
    rest = await mine.claim_expired_timeouts(100, 10, DUE)
    assert len({str(one.key) for one in claims + rest}) == 100


async def test_pollers_wait_for_a_store_that_is_away_and_not_for_each_other(mine, troubled, quick, key, monkeypatch):
    await mine.index_timeout(key(), DUE)
    down = True

    def scan(*arguments, **options):
        if down:
            raise UnavailableError("refused")
        return MemoryStore.scan(troubled, *arguments, **options)

    monkeypatch.setattr(troubled, "scan", scan)
    told = await asyncio.gather(
        *(mine.claim_expired_timeouts(1, 10, DUE) for _ in range(20)),
        mine.get_expired_timeouts(DUE),
        return_exceptions=True,
    )
    assert {type(one) for one in told} == {UnavailableError}
    assert quick.now < 200
    down = False
    assert len(await mine.claim_expired_timeouts(1, 10, DUE)) == 1


async def test_a_store_whose_reads_may_be_old_leaves_what_it_cannot_prove_unknown(quick, key, troubled):
    troubled.capabilities = troubled.capabilities - {Capability.LINEARIZABLE_READS}
    async with CoordinationStore.open(store=troubled, clock=quick) as mine:
        troubled.plan.append("lost")
        assert await mine.increment(key()) == 1
        troubled.plan.append("unsent")
        with pytest.raises(UnknownOutcomeError, match="may be old"):
            await mine.increment(key())
        troubled.plan.append("down")
        assert await mine.increment(key()) == 2


async def test_a_cancelled_call_is_made_or_not_and_leaves_nothing_behind(mine, troubled, key):
    for turns in range(6):
        troubled.plan.extend([lambda: asyncio.sleep(0)] * 3)
        name = key(turns)
        task = asyncio.ensure_future(mine.set(name, "a"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        troubled.plan.clear()
        assert not mine._turns
        assert await mine.set(name, "b")


async def test_marks_are_few_and_lapse(clock, troubled, quick, key):
    async with CoordinationStore.open(store=troubled, clock=quick) as mine:
        troubled.plan.extend([lambda: asyncio.sleep(0)] * 200)
        await asyncio.gather(*(mine.set(key(number % 50), "a") for number in range(200)))
        marks = await troubled.list_keys("~coord/default/mark/")
        assert 0 < len(marks) <= 50
    clock.advance(3600)
    assert await troubled.list_keys("~coord/default/mark/") == []
