from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import (
    ConflictError,
    ContentionError,
    LeaseLostError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.protocol import ABSENT, Step
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


def count_up(draft: Cart) -> None:
    draft.count += 1


@pytest.fixture
async def carts(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as container:
        yield container


@pytest.fixture
async def others(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as container:
        yield container


@pytest.mark.parametrize("trouble", ["lost", "unsent", "down"])
async def test_a_lost_reply_or_a_refusal_makes_a_change_neither_lost_nor_doubled(carts, store, trouble):
    store.plan.append(trouble)
    assert (await carts.put(Cart(id="ada"))).version == 1
    store.plan.extend([trouble, trouble])
    made = await carts.update("ada", count_up)
    assert (made.version, made.state.count) == (2, 1)
    assert (await carts.current("ada")) == made
    store.plan.append(trouble)
    assert await carts.delete("ada")
    assert await carts.get("ada") is None
    store.plan.append(trouble)
    assert (await carts.put(Cart(id="ada"))).version == 4


async def test_a_commit_that_arrives_late_is_found_to_be_ones_own(carts, store):
    await carts.put(Cart(id="ada"))
    store.plan.extend(["late", store.arrive])
    made = await carts.update("ada", count_up)
    assert (made.version, made.state.count) == (2, 1)


async def test_a_look_at_an_old_state_decides_nothing(carts, store):
    """As when a replica answers that has not heard of the change."""
    await carts.put(Cart(id="ada"))
    old = await store.get(carts._records.key("ada"))
    await carts.update("ada", count_up)
    current = await store.get(carts._records.key("ada"))
    store.plan.append("lost")
    store.stale.extend([current, old])
    made = await carts.update("ada", count_up)
    assert (made.version, made.state.count) == (3, 2)


async def test_a_change_that_others_followed_is_found_by_its_id(carts, others, store):
    await carts.put(Cart(id="ada"))

    async def follow():
        for _ in range(3):
            await others.update("ada", count_up)

    store.plan.append("lost")
    store.after = follow
    made = await carts.update("ada", count_up)
    assert (made.version, made.state.count) == (2, 1)
    assert (await carts.get("ada")).count == 4
    assert (await carts.current("ada")).version == 5


async def test_a_change_that_was_beaten_runs_again(carts, others, store):
    await carts.put(Cart(id="ada"))
    store.plan.append("unsent")
    store.after = lambda: others.update("ada", count_up)
    made = await carts.update("ada", count_up)
    assert (made.version, made.state.count) == (3, 2)


async def test_a_creation_that_was_beaten_replaces(carts, others, store):
    store.plan.append("unsent")
    store.after = lambda: others.put(Cart(id="ada", count=7))
    made = await carts.put(Cart(id="ada", count=1))
    assert (made.version, made.state.count) == (2, 1)
    store.plan.append("unsent")
    store.after = lambda: others.put(Cart(id="bob"))
    with pytest.raises(ConflictError):
        await carts.put(Cart(id="bob", count=1), expected_version=0)


async def test_a_change_that_too_many_others_followed_has_an_unknown_outcome(carts, others, store):
    await carts.put(Cart(id="ada"))

    async def follow():
        for _ in range(20):
            await others.update("ada", count_up)

    store.plan.append("lost")
    store.after = follow
    with pytest.raises(UnknownOutcomeError, match="too often"):
        await carts.update("ada", count_up)


async def test_a_change_that_was_deleted_since_has_an_unknown_outcome(carts, others, store):
    await carts.put(Cart(id="ada"))
    for trouble in ("lost", "unsent"):
        store.plan.append(trouble)
        store.after = lambda: others.delete("ada")
        with pytest.raises(UnknownOutcomeError, match="deleted"):
            await carts.update("ada", count_up)
        await carts.put(Cart(id="ada"))


async def test_a_creation_that_was_deleted_since_has_an_unknown_outcome(carts, others, store):
    store.plan.append("lost")
    store.after = lambda: others.delete("ada")
    with pytest.raises(UnknownOutcomeError, match="deleted"):
        await carts.put(Cart(id="ada"))


async def test_a_creation_is_known_not_to_be_made_when_nothing_was_deleted_that_high(carts, others, store):
    await carts.put(Cart(id="old"))
    await carts.delete("old")
    store.plan.append("unsent")
    made = await carts.put(Cart(id="ada"))
    assert made.version == 3
    assert (await carts.current("ada")) == made


async def test_an_unreadable_state_in_place_of_ones_own_has_an_unknown_outcome(carts, store):
    await carts.put(Cart(id="ada"))

    async def spoil():
        await store.put(carts._records.key("ada"), b"nonsense")

    store.plan.append("lost")
    store.after = spoil
    with pytest.raises(UnknownOutcomeError, match="cannot be read"):
        await carts.update("ada", count_up)


async def test_a_delete_that_was_beaten_by_a_change_is_made_again(carts, others, store):
    await carts.put(Cart(id="ada"))
    store.plan.append("unsent")
    store.after = lambda: others.update("ada", count_up)
    assert await carts.delete("ada")
    assert await carts.get("ada") is None


async def test_a_delete_before_a_creation_anew_is_not_made_twice(carts, others, store):
    await carts.put(Cart(id="ada"))
    store.plan.append("lost")
    store.after = lambda: others.put(Cart(id="ada", count=5))
    assert await carts.delete("ada")
    assert (await carts.get("ada")).count == 5


async def test_a_store_that_stays_out_of_reach_ends_at_the_deadline(carts, store, clock):
    first = await carts.put(Cart(id="ada"))
    store.always = "down"
    with pytest.raises(UnavailableError):
        await carts.update("ada", count_up)
    assert 25 < clock.now <= 30
    store.always = "unsent"
    with pytest.raises(UnknownOutcomeError):
        await carts.update("ada", count_up)
    store.always = None
    assert await carts.current("ada") == first


async def test_who_always_loses_gets_contention_at_the_deadline(carts, others, store, clock):
    await carts.put(Cart(id="ada"))

    async def interfere():
        before, store.always = store.always, None
        await others.update("ada", count_up)
        store.always = before

    store.always = interfere
    with pytest.raises(ContentionError) as caught:
        await carts.update("ada", count_up)
    assert isinstance(caught.value.__cause__, ConflictError)
    store.always = None
    assert 25 < clock.now <= 31
    assert max(clock.slept) <= 0.2
    state = await carts.get("ada")
    assert (await carts.current("ada")).version == state.count + 1


async def test_two_containers_lose_no_update_to_each_other(carts, others, store):
    await carts.put(Cart(id="ada"))
    for _ in range(100):
        store.plan.append(lambda: asyncio.sleep(0))
    await asyncio.gather(*(one.update("ada", count_up) for one in (carts, others) for _ in range(30)))
    assert (await carts.get("ada")).count == 60
    assert (await others.current("ada")).version == 61


async def test_lost_replies_among_many_writers_lose_and_double_nothing(carts, others, store):
    await carts.put(Cart(id="ada"))
    for number in range(60):
        store.plan.append(["lost", "unsent", "down", None, None][number % 5])
    await asyncio.gather(*(one.update("ada", count_up) for one in (carts, others) for _ in range(20)))
    assert (await carts.get("ada")).count == 40


class Lock:
    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def expectations(self):
        return self.steps


async def test_a_write_under_a_lock_that_moved_on_is_refused(carts, store):
    held = await store.put("lock", b"me")
    lock = Lock(Step("lock", None, held.revision))
    await carts.put(Cart(id="ada"), guard=lock)
    await carts.update("ada", count_up, guard=lock)
    assert await carts.compare_and_swap("ada", 2, count_up, guard=lock)
    await store.put("lock", b"another")
    for call in (
        lambda: carts.put(Cart(id="bob"), guard=lock),
        lambda: carts.update("ada", count_up, guard=lock),
        lambda: carts.compare_and_swap("ada", 3, count_up, guard=lock),
        lambda: carts.delete("ada", guard=lock),
    ):
        with pytest.raises(LeaseLostError):
            await call()
    assert (await carts.current("ada")).version == 3
    assert await carts.get("bob") is None
    await carts.delete("ada", guard=Lock(Step("nobody", None, ABSENT)))


async def test_a_write_that_arrived_before_its_lock_moved_on_was_made(carts, store):
    held = await store.put("lock", b"me")
    lock = Lock(Step("lock", None, held.revision))
    await carts.put(Cart(id="ada"))
    store.plan.append("lost")
    store.after = lambda: store.put("lock", b"another")
    assert (await carts.update("ada", count_up, guard=lock)).version == 2
    store.plan.append("unsent")
    store.after = lambda: store.put("lock", b"a third")
    with pytest.raises(LeaseLostError):
        await carts.update("ada", count_up, guard=lock)
    assert (await carts.get("ada")).count == 1


async def test_a_cancelled_write_is_whole_or_not_there(carts, store):
    await carts.put(Cart(id="ada"))
    for turns in range(6):
        store.plan.extend([lambda: asyncio.sleep(0), lambda: asyncio.sleep(0)])
        task = asyncio.ensure_future(carts.update("ada", count_up))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.plan.clear()
        current = await carts.current("ada")
        assert current.version == current.state.count + 1
        assert not carts._turns
