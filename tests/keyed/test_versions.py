from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.keyed.container import KeyedContainer
from reactstate.kv.memory import MemoryStore
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


def count_up(draft: Cart) -> None:
    draft.count += 1


async def test_versions_go_on_after_a_delete_and_a_creation_anew(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as carts:
        seen = [0]
        for _ in range(4):
            seen.append((await carts.put(Cart(id="ada"))).version)
            seen.append((await carts.update("ada", count_up)).version)
            assert await carts.delete("ada")
        assert seen[1:3] == [1, 2]
        assert seen == sorted(set(seen))


async def test_nothing_is_kept_of_an_id_that_was_deleted(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as carts:
        for number in range(20):
            await carts.put(Cart(id=str(number)))
            await carts.delete(str(number))
        assert await store.list_keys() == [carts._records.floor_key]


async def test_without_a_delete_there_is_no_floor_and_versions_start_at_1(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as carts:
        for number in range(5):
            assert (await carts.put(Cart(id=str(number)))).version == 1
        assert await store.get(carts._records.floor_key) is None


async def test_a_floor_that_another_container_raised_is_heeded(store, clock):
    async with (
        KeyedContainer.open(Cart, store=store, clock=clock) as one,
        KeyedContainer.open(Cart, store=store, clock=clock) as two,
    ):
        await one.put(Cart(id="x"))
        await two.put(Cart(id="ada"))
        for _ in range(5):
            await two.update("ada", count_up)
        await two.delete("ada")
        assert (await one.put(Cart(id="ada"))).version > 6


async def test_a_state_is_not_created_at_a_version_that_was_deleted_meanwhile(store, clock):
    """The other container creates, changes and deletes the id between this one's read and its commit."""
    async with (
        KeyedContainer.open(Cart, store=store, clock=clock) as one,
        KeyedContainer.open(Cart, store=store, clock=clock) as two,
    ):
        highest = 0

        async def interfere():
            nonlocal highest
            await two.put(Cart(id="ada"))
            highest = (await two.update("ada", count_up)).version
            await two.delete("ada")

        store.plan.append(interfere)
        assert (await one.put(Cart(id="ada"))).version > highest


async def test_two_deletes_at_once_leave_the_higher_floor(store, clock):
    async with (
        KeyedContainer.open(Cart, store=store, clock=clock) as one,
        KeyedContainer.open(Cart, store=store, clock=clock) as two,
    ):
        await one.put(Cart(id="low"))
        await one.put(Cart(id="high"))
        for _ in range(9):
            await one.update("high", count_up)
        await two.get("low")
        store.plan.append(lambda: two.delete("high"))
        assert await one.delete("low")
        assert (await one.put(Cart(id="high"))).version > 10
        assert (await one.put(Cart(id="low"))).version > 1


NAMES = ["a", "b", "c"]
verbs = st.tuples(st.integers(0, 1), st.sampled_from(["put", "update", "delete"]), st.sampled_from(NAMES))


class SlowStore(MemoryStore):
    """A store on which other tasks come between a read and the commit."""

    async def get(self, key):
        found = await super().get(key)
        await asyncio.sleep(0)
        return found

    async def commit(self, steps, *, ranges=()):
        await asyncio.sleep(0)
        return await super().commit(steps, ranges=ranges)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(verbs, min_size=1, max_size=8), min_size=2, max_size=4))
def test_versions_of_an_id_never_repeat_or_go_back_whatever_two_containers_do(programs):
    async def run() -> None:
        async with SlowStore() as store:
            opened = [await KeyedContainer.open(Cart, store=store) for _ in range(2)]
            told: dict[str, list[tuple[int, int]]] = {name: [] for name in NAMES}

            async def work(program) -> None:
                for place, (which, verb, name) in enumerate(program):
                    container = opened[which]
                    if verb == "delete":
                        await container.delete(name)
                    else:
                        made = await container.put(Cart(id=name, count=id(program) + place))
                        entry = container._records.kept.get(container._records.key(name))
                        if entry is not None and entry.version == made.version:
                            told[name].append((entry.revision, made.version))

            await asyncio.gather(*(work(program) for program in programs))
            for pairs in told.values():
                versions = [version for _, version in sorted(set(pairs))]
                assert versions == sorted(set(versions))
            for container in opened:
                await container.aclose()

    asyncio.run(run())
