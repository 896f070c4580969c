from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from reactstate.coordination.results import Stored
from reactstate.coordination.store import CoordinationStore
from reactstate.errors import ClosedError, CodecError, InvalidKeyError, LimitExceededError, UnsupportedError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Capability


async def test_the_first_is_new_and_the_others_are_duplicates(here, there, key):
    assert await here.check_and_set(key()) is True
    assert await here.check_and_set(key()) is False
    assert await there.check_and_set(key(), "other") is False
    assert (await there.get(key())).value == ""


async def test_value_and_ttl_are_those_of_the_first(here, there, key, clock):
    assert await here.check_and_set(key(), "first", 10)
    clock.advance(4)
    assert not await there.check_and_set(key(), "second", 100)
    found = await there.get(key())
    assert found.value == "first"
    assert (found.expires_at - timedelta(seconds=6)).timestamp() * 1000 == clock.time_ns() // 1_000_000
    clock.advance(5.999)
    assert not await there.check_and_set(key())
    clock.advance(0.001)
    assert await there.check_and_set(key(), "third")
    assert (await here.get(key())).value == "third"


@pytest.mark.parametrize("text", ["", "7", "-0", "text", "\x01", "\x01" + "a" * 30, "ä/%", "0" * 40])
async def test_any_text_comes_back_as_it_was(here, there, key, text):
    assert await here.check_and_set(key(), text, 5)
    assert not await there.check_and_set(key(), text)
    assert (await there.get(key())).value == text
    assert await here.compare_and_swap(key("2"), None, text)
    assert (await there.get(key("2"))).value == text
    assert await there.compare_and_swap(key("2"), text, "next")


async def test_a_key_that_was_deleted_is_new_again(here, key):
    await here.check_and_set(key())
    assert await here.delete(key())
    assert await here.check_and_set(key())


async def test_of_many_at_once_exactly_one_is_the_first(here, there, key):
    for number in range(20):
        told = await asyncio.gather(*(one.check_and_set(key(number)) for one in (here, there) for _ in range(5)))
        assert told.count(True) == 1


async def test_wrong_arguments_are_refused_also_for_a_duplicate(here, key):
    for _ in range(2):
        with pytest.raises(ValueError, match="more than 0"):
            await here.check_and_set(key(), ttl=0)
        with pytest.raises(ValueError, match="more than 0"):
            await here.check_and_set(key(), ttl=timedelta(0))
        with pytest.raises(TypeError, match="ttl="):
            await here.check_and_set(key(), 60)
        with pytest.raises(TypeError):
            await here.check_and_set(key(), ttl=True)
        with pytest.raises(InvalidKeyError, match="StateKey"):
            await here.check_and_set("shop/acme/order/1")
        await here.check_and_set(key())
    with pytest.raises(CodecError, match="surrogate"):
        await here.check_and_set(key("2"), "\ud800")
    with pytest.raises(LimitExceededError):
        await here.check_and_set(key("3"), ttl=1e15)
    assert await here.get(key("2")) is None


async def test_subclasses_of_a_key_and_of_text_are_taken(here, key):
    class Key(type(key())):
        pass

    class Text(str):
        __slots__ = ()

    assert await here.check_and_set(Key("shop", "acme", "order", "1"), Text("a"))
    assert not await here.check_and_set(key())
    found = await here.get(Key("shop", "acme", "order", "1"))
    assert found.value == "a"
    assert type(found.value) is str


async def test_a_default_ttl_of_the_store_is_not_for_dedup_keys(clock, key):
    store = MemoryStore(clock=clock, options=StoreOptions(default_ttl=timedelta(seconds=1)))
    async with store, CoordinationStore.open(store=store) as coordination:
        assert await coordination.check_and_set(key())
        clock.advance(5)
        assert not await coordination.check_and_set(key())
        assert await coordination.get(key()) == Stored("", 1)


class AppendStore(MemoryStore):
    """An engine that can neither compare nor swap, such as one that only appends."""

    capabilities = frozenset({Capability.TTL})


class PlainStore(MemoryStore):
    """An engine that can do even less."""

    capabilities = frozenset[Capability]()


async def test_strict_dedup_is_refused_at_once_where_nothing_can_be_compared(key):
    async with AppendStore() as store:
        with pytest.raises(UnsupportedError, match="CAS") as caught:
            await CoordinationStore.open(store=store)
        assert caught.value.layer == "coordination"
        assert caught.value.capability == "CAS"
        with pytest.raises(UnsupportedError):
            await CoordinationStore.open(store=store, dedup="strict")


async def test_tolerant_dedup_tells_duplicates_and_refuses_what_needs_more(clock, key):
    async with AppendStore(clock=clock) as store, CoordinationStore.open(store=store, dedup="eventual") as tolerant:
        assert await tolerant.check_and_set(key(), "a", 10)
        assert not await tolerant.check_and_set(key(), "b", 10)
        assert await tolerant.check_and_set(key("2"), "7")
        assert (await tolerant.get(key("2"))).value == "7"
        clock.advance(10)
        assert await tolerant.check_and_set(key())
        assert [found async for found in tolerant.scan_keys("shop", "acme", "order")] == [key(), key("2")]
        for call in (
            lambda: tolerant.set(key(), "a"),
            lambda: tolerant.increment(key()),
            lambda: tolerant.delete(key()),
            lambda: tolerant.index_timeout(key(), 5),
            lambda: tolerant.claim_expired_timeouts(1, 1),
            lambda: tolerant.add_to_group(key(), "ada"),
            lambda: tolerant.try_acquire("lock", 1),
        ):
            with pytest.raises(UnsupportedError):
                await call()


async def test_a_ttl_is_refused_where_nothing_expires(key):
    async with PlainStore() as store, CoordinationStore.open(store=store, dedup="eventual") as tolerant:
        assert await tolerant.check_and_set(key())
        with pytest.raises(UnsupportedError, match="TTL"):
            await tolerant.check_and_set(key("2"), ttl=1)


async def test_a_closed_one_refuses(here, key):
    await here.aclose()
    with pytest.raises(ClosedError):
        await here.check_and_set(key())
    with pytest.raises(ClosedError):
        await here.get(key())
