"""process(delivery="exactly_once"): effects in the store happen once, whatever comes in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reactstate import State, StateContainer, UnknownOutcomeError, UnsupportedError
from reactstate.kv.memory import MemoryStore


class Tally(State):
    n: int = 0


def add(draft: Tally) -> None:
    draft.n += 1


def share(store: Any, what: Any = Tally, **arguments: Any) -> Any:
    return StateContainer.open(what, store=store, key="tally", **arguments)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


async def count(change: Any, tx: Any) -> None:
    tx.increment("effects")
    tx.put(f"seen/{change.version:05d}", b"1")


def effects(store: MemoryStore, expected: int) -> Any:
    async def reached() -> bool:
        found = await store.get("effects")
        return found is not None and int(found.value) >= expected

    return reached


async def test_effects_and_cursor_are_committed_together_and_go_on_after_a_restart():
    store = MemoryStore()
    async with share(store, Tally()) as tally:
        running = asyncio.ensure_future(tally.process("billing", count, delivery="exactly_once"))
        for _ in range(4):
            await tally.update(add)
        await until(effects(store, 5))
    await running
    async with share(store) as tally:
        running = asyncio.ensure_future(tally.process("billing", count, delivery="exactly_once"))
        await tally.update(add)
        await until(effects(store, 6))
    await running
    assert (await store.get("effects")).value == b"6"
    assert len(await store.list_keys("seen/")) == 6
    await store.aclose()


async def test_a_handler_that_raises_leaves_no_effect_and_sees_the_change_again():
    store = MemoryStore()
    failing = True

    async def once(change: Any, tx: Any) -> None:
        await count(change, tx)
        if change.version == 3 and failing:
            raise ZeroDivisionError

    async with share(store, Tally()) as tally:
        for _ in range(3):
            await tally.update(add)
        with pytest.raises(ZeroDivisionError):
            await tally.process("billing", once, delivery="exactly_once")
        assert (await store.get("effects")).value == b"2"
        failing = False
        running = asyncio.ensure_future(tally.process("billing", once, delivery="exactly_once"))
        await until(effects(store, 4))
    await running
    assert (await store.get("effects")).value == b"4"
    await store.aclose()


async def test_two_consumers_of_one_name_in_two_containers_share_the_work_and_nothing_happens_twice():
    store = MemoryStore()
    async with share(store, Tally()) as a, share(store) as b:
        running = [asyncio.ensure_future(one.process("billing", count, delivery="exactly_once")) for one in (a, b)]
        await asyncio.gather(*(one.update(add) for _ in range(30) for one in (a, b)))
        await until(effects(store, 61))
    await asyncio.gather(*running)
    assert (await store.get("effects")).value == b"61"
    assert len(await store.list_keys("seen/")) == 61
    await store.aclose()


async def test_what_the_handler_read_and_another_changed_makes_it_run_again():
    store = MemoryStore()
    await store.put("price", b"1")
    runs: list[bytes] = []

    async def handler(change: Any, tx: Any) -> None:
        price = await tx.get("price")
        runs.append(price)
        if len(runs) == 1:
            await store.put("price", b"2")
        tx.put(f"billed/{change.version}", price)

    async with share(store, Tally()) as tally:
        running = asyncio.ensure_future(tally.process("billing", handler, delivery="exactly_once"))

        async def billed() -> bool:
            return await store.get("billed/1") is not None

        await until(billed)
    await running
    assert runs[:2] == [b"1", b"2"]
    assert (await store.get("billed/1")).value == b"2"
    await store.aclose()


class Forgetful(MemoryStore):
    lost = 0

    async def commit(self, steps: Any, *, ranges: Any = ()) -> Any:
        done = await super().commit(steps, ranges=ranges)
        if self.lost and any(step.key == "effects" for step in steps):
            self.lost -= 1
            raise UnknownOutcomeError("the reply was lost")
        return done


async def test_a_lost_reply_to_the_commit_of_the_effects_does_not_repeat_them():
    store = Forgetful()
    async with share(store, Tally()) as tally:
        await tally.update(add)
        store.lost = 1
        running = asyncio.ensure_future(tally.process("billing", count, delivery="exactly_once"))
        await until(effects(store, 2))
        await tally.update(add)
        await until(effects(store, 3))
    await running
    assert (await store.get("effects")).value == b"3"
    assert len(await store.list_keys("seen/")) == 3
    await store.aclose()


async def test_without_a_store_it_is_refused():
    async with StateContainer(Tally()) as tally:
        with pytest.raises(UnsupportedError):
            await tally.process("billing", count, delivery="exactly_once")
