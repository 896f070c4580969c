from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import InvalidKeyError, NotACounterError, UnavailableError

MOST = 2**63 - 1


async def test_increments_add_up_from_nothing(here, there, key):
    assert await here.increment(key()) == 1
    assert await there.increment(key(), 5) == 6
    assert await here.increment(key(), -10) == -4
    assert await here.increment(key(), 0) == -4
    assert (await there.get(key())).value == "-4"


async def test_a_counter_keeps_the_ttl_that_it_was_created_with(here, there, key, clock):
    assert await here.increment(key(), ttl=10) == 1
    expires = (await here.get(key())).expires_at
    clock.advance(9.999)
    assert await there.increment(key(), ttl=100) == 2
    assert (await here.get(key())).expires_at == expires
    clock.advance(0.001)
    assert await here.get(key()) is None
    assert await there.increment(key(), 3) == 3
    assert (await here.get(key())).expires_at is None


@pytest.mark.parametrize("way", ["set", "check_and_set", "compare_and_swap"])
async def test_a_value_of_digits_can_be_counted_on_and_keeps_its_ttl(here, there, key, clock, way):
    if way == "set":
        await here.set(key(), "41", 10)
    elif way == "check_and_set":
        await here.check_and_set(key(), "41", 10)
    else:
        await here.compare_and_swap(key(), None, "41", 10)
    expires = (await there.get(key())).expires_at
    clock.advance(3)
    assert await there.increment(key()) == 42
    assert (await there.get(key())).expires_at == expires


async def test_each_of_many_increments_gets_a_sum_of_its_own(here, there, key):
    sums = await asyncio.gather(*(one.increment(key()) for one in (here, there) for _ in range(50)))
    assert sorted(sums) == list(range(1, 101))


async def test_increments_that_are_made_together_share_commits(mine, troubled, key):
    for _ in range(50):
        troubled.plan.append(lambda: asyncio.sleep(0))
    assert await asyncio.gather(*(mine.increment(key(), number) for number in range(20))) == [
        sum(range(number + 1)) for number in range(20)
    ]
    assert len(troubled.plan) == 48


async def test_one_overflow_among_many_spoils_no_other(here, key):
    await here.set(key(), str(MOST - 2))
    told = await asyncio.gather(*(here.increment(key()) for _ in range(5)), return_exceptions=True)
    assert sorted(one for one in told if isinstance(one, int)) == [MOST - 1, MOST]
    assert sum(isinstance(one, NotACounterError) for one in told) == 3
    assert await here.increment(key(), -1) == MOST - 1


async def test_together_or_alone_the_refused_are_told(mine, troubled, key):
    await mine.set(key(), "text")
    for _ in range(10):
        troubled.plan.append(lambda: asyncio.sleep(0))
    told = await asyncio.gather(*(mine.increment(key()) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(one, NotACounterError) for one in told)
    assert len({id(one) for one in told}) == 5
    assert (await mine.get(key())).value == "text"


@pytest.mark.parametrize("text", ["", "a", "1.5", "01", "-0", "+1", "9" * 20, str(MOST + 1), "٣"])
async def test_what_is_no_counter_is_refused_by_its_name(here, key, text):
    await here.set(key(), text)
    with pytest.raises(NotACounterError, match="'shop/acme/order/1'"):
        await here.increment(key())
    assert (await here.get(key())).value == text


async def test_sums_beyond_64_bits_are_refused(here, key):
    await here.set(key(), str(MOST))
    with pytest.raises(NotACounterError):
        await here.increment(key())
    with pytest.raises(NotACounterError):
        await here.increment(key("2"), 2**64)
    assert await here.get(key("2")) is None


async def test_wrong_arguments_are_refused(here, key):
    with pytest.raises(TypeError):
        await here.increment(key(), 1.5)
    with pytest.raises(TypeError):
        await here.increment(key(), True)
    with pytest.raises(ValueError, match="more than 0"):
        await here.increment(key(), 1, 0)
    with pytest.raises(InvalidKeyError):
        await here.increment("key")
    assert await here.get(key()) is None


async def test_an_outage_is_told_to_all_who_share_a_commit(mine, troubled, key):
    gate = asyncio.Event()
    troubled.plan.append(gate.wait)
    tasks = [asyncio.ensure_future(mine.increment(key())) for _ in range(4)]
    await asyncio.sleep(0)
    troubled.always = "down"
    gate.set()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert told[0] == 1
    assert [type(one) for one in told[1:]] == [UnavailableError] * 3
    troubled.always = None
    assert await mine.increment(key()) == 2


async def test_a_cancelled_increment_is_made_or_not_and_holds_up_nobody(mine, troubled, key):
    for turns in range(8):
        troubled.plan.extend([lambda: asyncio.sleep(0)] * 6)
        before = await mine.get(key())
        tasks = [asyncio.ensure_future(mine.increment(key())) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[turns % 4].cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        done = [one for one in told if isinstance(one, int)]
        assert len(set(done)) == len(done) >= 3
        after = int((await mine.get(key())).value) - (0 if before is None else int(before.value))
        assert len(done) <= after <= 4
        troubled.plan.clear()
    assert not mine._turns


async def test_closing_lets_increments_finish(mine, troubled, key):
    troubled.plan.extend([lambda: asyncio.sleep(0)] * 6)
    tasks = [asyncio.ensure_future(mine.increment(key())) for _ in range(4)]
    await asyncio.sleep(0)
    await mine.aclose()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4]
