from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.coordination.store import CoordinationStore
from reactstate.errors import ClosedError, InvalidKeyError
from reactstate.kv.keys import StateKey
from reactstate.kv.memory import MemoryStore


async def found(keys) -> list[StateKey]:
    return [key async for key in keys]


async def test_keys_of_a_kind_come_in_order_and_by_prefix(here, there):
    for id_ in ("b", "a/1", "a%", "a", "a_", "%", ""):
        await here.set(StateKey("shop", "acme", "order", id_), "x")
    for other in (("shop", "acme", "orders"), ("shop", "acme2", "order"), ("shop2", "acme", "order")):
        await here.set(StateKey(*other, "a"), "x")
    keys = await found(there.scan_keys("shop", "acme", "order"))
    assert [key.id for key in keys] == ["", "%", "a", "a%", "a/1", "a_", "b"]
    assert [key.id for key in await found(there.scan_keys("shop", "acme", "order", "a/"))] == ["a/1"]
    assert [key.id for key in await found(there.scan_keys("shop", "acme", "order", "a%"))] == ["a%"]
    assert await found(there.scan_keys("shop", "acme", "nothing")) == []


async def test_dedup_keys_and_counters_are_keys_and_what_is_indexed_or_a_member_is_not(here, key):
    await here.check_and_set(key("1"))
    await here.increment(key("2"))
    await here.index_timeout(key("3"), 5)
    await here.index_chain_ready(key("4"), 5)
    await here.add_to_group(key("5"), "ada")
    assert [one.id for one in await found(here.scan_keys("shop", "acme", "order"))] == ["1", "2"]


async def test_what_expired_is_no_key(here, key, clock):
    await here.check_and_set(key(), ttl=5)
    clock.advance(5)
    assert await found(here.scan_keys("shop", "acme", "order")) == []


part = st.sampled_from(["", "a", "b", "ab", "/", "%", "order", "a/b", "~", "\U0010ffff", "ä"])


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.tuples(part, part, part, part), max_size=25), kind=part)
def test_a_kind_is_found_in_all_namespaces_and_tenants(keys, kind):
    import asyncio

    async def run() -> None:
        async with CoordinationStore.open() as store:
            for parts in keys:
                await store.set(StateKey(*parts), "x")
            expected = sorted(str(StateKey(*parts)) for parts in set(keys) if parts[2] == kind)
            assert [str(key) for key in await found(store.scan_keys_by_kind(kind))] == expected

    asyncio.run(run())


async def test_a_kind_costs_a_look_for_each_tenant_and_not_for_each_key(clock):
    class CountingStore(MemoryStore):
        seen = 0

        async def scan(self, *arguments, **options):
            async for entry in super().scan(*arguments, **options):
                self.seen += 1
                yield entry

    async with CountingStore() as store, CoordinationStore.open(store=store) as coordination:
        for tenant in range(5):
            for kind in ("a", "m", "z"):
                for number in range(100):
                    await coordination.check_and_set(StateKey("shop", f"{tenant}", kind, f"{number}"))
        assert len(await found(coordination.scan_keys_by_kind("m"))) == 500
        assert store.seen <= 500 + 5 * 3
        store.seen = 0
        assert await found(coordination.scan_keys_by_kind("n")) == []
        assert store.seen <= 5 * 3


async def test_wrong_arguments_are_refused_at_the_call(here):
    for call in (
        lambda: here.scan_keys("shop", "acme", None),
        lambda: here.scan_keys("shop", "acme", "order", 5),
        lambda: here.scan_keys_by_kind(5),
    ):
        with pytest.raises(InvalidKeyError):
            call()


async def test_a_scan_ends_with_its_store(here, key):
    for number in range(5):
        await here.set(key(number), "x")
    keys = here.scan_keys("shop", "acme", "order")
    await anext(keys)
    await here.aclose()
    with pytest.raises(ClosedError):
        await anext(keys)
    with pytest.raises(ClosedError):
        here.scan_keys_by_kind("order")


async def test_namespaces_have_nothing_in_common(shared, clock, key):
    async with (
        CoordinationStore.open(store=shared, clock=clock) as one,
        CoordinationStore.open(store=shared, clock=clock, namespace="default/key") as other,
    ):
        await one.set(key(), "a")
        await one.index_timeout(key(), 5)
        await one.add_to_group(key(), "ada")
        assert await one.try_acquire("lock", 60)
        assert await other.get(key()) is None
        assert await other.check_and_set(key())
        assert await other.get_expired_timeouts(10) == []
        assert await found(other.group_members(key())) == []
        assert await other.try_acquire("lock", 60)
        assert (await one.get(key())).value == "a"
