from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.coordination.store import CoordinationStore
from reactstate.errors import CodecError, DecodeError, InvalidKeyError
from reactstate.kv.keys import StateKey

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT_MS = 1_767_268_800_000


async def test_a_timeout_has_come_at_its_millisecond_and_not_before(here, there, key):
    await here.index_timeout(key(), AT)
    assert await there.get_expired_timeouts(AT - timedelta(milliseconds=1)) == []
    assert await there.get_expired_timeouts(AT_MS - 1) == []
    assert await there.get_expired_timeouts(AT) == [key()]
    assert await there.get_expired_timeouts(AT_MS) == [key()]


async def test_a_part_of_a_millisecond_is_never_early(here, key):
    await here.index_timeout(key(), AT + timedelta(microseconds=1))
    assert await here.get_expired_timeouts(AT + timedelta(microseconds=999)) == []
    assert await here.get_expired_timeouts(AT + timedelta(milliseconds=1)) == [key()]


async def test_times_are_given_in_many_ways_and_are_one(here, key, clock):
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))
    await here.index_timeout(key("1"), elsewhere)
    await here.index_timeout(key("2"), AT_MS)
    now = datetime.fromtimestamp(clock.time_ns() / 1e9, UTC)
    await here.index_timeout(key("3"), AT - now)
    assert await here.get_expired_timeouts(AT_MS - 1) == []
    assert await here.get_expired_timeouts(elsewhere) == [key("1"), key("2"), key("3")]
    clock.advance(AT - now - timedelta(milliseconds=1))
    assert await here.get_expired_timeouts() == []
    clock.advance(0.001)
    assert len(await here.get_expired_timeouts()) == 3


async def test_a_time_from_now_may_be_past(here, key):
    await here.index_timeout(key(), timedelta(seconds=-5))
    assert await here.get_expired_timeouts() == [key()]


async def test_they_come_in_the_order_of_time(here, key):
    for number, at in enumerate([50, 9, 1000, 10, 9, 0]):
        await here.index_timeout(key(number), at)
    assert [one.id for one in await here.get_expired_timeouts(500)] == ["5", "1", "4", "3", "0"]
    assert [one.id for one in await here.get_expired_timeouts(500, 2)] == ["5", "1"]
    assert await here.get_expired_timeouts(500, limit=0) == []


async def test_indexing_again_moves(here, there, shared, key):
    await here.index_timeout(key(), 10)
    await there.index_timeout(key(), 5)
    assert await here.get_expired_timeouts(5) == [key()]
    await here.index_timeout(key(), 20)
    assert await here.get_expired_timeouts(19) == []
    await here.index_timeout(key(), 20)
    assert await there.get_expired_timeouts(20) == [key()]
    assert len(await shared.list_keys("~coord/default/due/")) == 1


async def test_a_removed_timeout_does_not_come(here, there, shared, key):
    await here.index_timeout(key(), 10)
    assert await there.remove_timeout_index(key()) is True
    assert await there.remove_timeout_index(key()) is False
    assert await here.get_expired_timeouts(10) == []
    assert await shared.list_keys("~coord/default/due/") == []
    assert await shared.list_keys("~coord/default/at/") == []


async def test_of_many_that_move_one_key_one_is_last(here, there, shared, key):
    await asyncio.gather(
        *(one.index_timeout(key(), number) for one in (here, there) for number in range(10)),
        here.remove_timeout_index(key()),
    )
    places = await shared.list_keys("~coord/default/due/")
    pointers = await shared.list_keys("~coord/default/at/")
    assert len(places) == len(pointers) <= 1
    assert len(await here.get_expired_timeouts(100)) == len(places)


async def test_chains_and_timeouts_are_apart(here, key):
    await here.index_timeout(key("1"), 10)
    await here.index_chain_ready(key("2"), 10, "pay")
    assert await here.get_expired_timeouts(10) == [key("1")]
    assert await here.get_ready_chains(10) == [key("2")]
    assert not await here.remove_timeout_index(key("2"))
    assert await here.remove_chain_ready_index(key("2"))
    assert await here.get_ready_chains(10) == []


async def test_keys_of_all_texts_are_indexed(here):
    keys = [StateKey(*parts) for parts in (("", "", "", ""), ("a/b", "%", "//", "ä\U0010ffff"), ("~", "", "0", "/"))]
    for key in keys:
        await here.index_timeout(key, 5)
        await here.index_chain_ready(key, 5, "a/b %\n")
    assert set(await here.get_expired_timeouts(5)) == set(keys)
    claims = await here.claim_ready_chains(10, 5, 5)
    assert {claim.key for claim in claims} == set(keys)
    assert {claim.step for claim in claims} == {"a/b %\n"}


async def test_wrong_arguments_are_refused(here, key):
    for call, error in (
        (lambda: here.index_timeout(key(), datetime(2026, 1, 1)), ValueError),
        (lambda: here.index_timeout(key(), 5.0), TypeError),
        (lambda: here.index_timeout(key(), True), TypeError),
        (lambda: here.index_timeout(key(), None), TypeError),
        (lambda: here.index_timeout(key(), -1), ValueError),
        (lambda: here.index_timeout(key(), 10**18), ValueError),
        (lambda: here.index_timeout("key", 5), InvalidKeyError),
        (lambda: here.index_chain_ready(key(), 5, 5), TypeError),
        (lambda: here.index_chain_ready(key(), 5, "\ud800"), CodecError),
        (lambda: here.remove_timeout_index("key"), InvalidKeyError),
        (lambda: here.get_expired_timeouts("now"), TypeError),
        (lambda: here.get_expired_timeouts(5, -1), ValueError),
        (lambda: here.claim_expired_timeouts(0, 5), ValueError),
        (lambda: here.claim_expired_timeouts(1, 0), ValueError),
    ):
        with pytest.raises(error):
            await call()
    assert await here.get_expired_timeouts(10**14) == []


async def test_what_is_no_item_is_told_and_left(here, shared, key):
    pointer = here._layout.pointer("timeout", str(key()))
    await shared.put(pointer, b"nonsense")
    with pytest.raises(DecodeError, match="no indexed item"):
        await here.index_timeout(key(), 5)
    assert (await shared.get(pointer)).value == b"nonsense"


steps = st.lists(
    st.tuples(
        st.sampled_from(["index", "remove", "claim", "complete", "release", "due"]),
        st.integers(0, 4),
        st.integers(0, 9),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(steps=steps)
def test_an_index_agrees_with_a_dictionary(steps):
    async def run() -> None:
        async with CoordinationStore.open() as store:
            model: dict[str, int] = {}  # when each is due, or its lease ends
            due: dict[str, int] = {}
            claims: dict[str, object] = {}
            now = 100
            for what, number, amount in steps:
                key = StateKey("shop", "acme", "order", f"{number}")
                name = str(key)
                now += amount
                if what == "index":
                    model[name] = due[name] = now + amount - 5
                    claims.pop(name, None)
                    await store.index_timeout(key, now + amount - 5)
                elif what == "remove":
                    assert await store.remove_timeout_index(key) is (model.pop(name, None) is not None)
                    claims.pop(name, None)
                elif what == "claim":
                    expected = sorted((at, one) for one, at in model.items() if at <= now)[: number + 1]
                    made = await store.claim_expired_timeouts(number + 1, 0.007, now)
                    assert sorted(str(claim.key) for claim in made) == sorted(one for _, one in expected)
                    for claim in made:
                        one = str(claim.key)
                        assert claim.due_ms == due[one]
                        model[one] = now + 7
                        claims[one] = claim
                elif what == "complete" and name in claims:
                    await store.complete(claims.pop(name))
                    del model[name]
                elif what == "release" and name in claims:
                    await store.release(claims.pop(name))
                    model[name] = due[name]
                expected = [one for _, one in sorted((at, one) for one, at in model.items() if at <= now)]
                assert [str(one) for one in await store.get_expired_timeouts(now)] == expected

    asyncio.run(run())
