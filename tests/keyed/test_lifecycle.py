from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import (
    ClosedError,
    TransitionError,
    UnavailableError,
    WrongContextError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.lifecycle import Turns
from reactstate.kv.memory import MemoryStore
from reactstate.state.state import State


class Cart(State):
    id: str
    items: dict[str, int] = {}
    open: bool = True

    def check_transition(self, previous: Cart) -> None:
        if not previous.open:
            raise TransitionError("a closed cart stays as it is")


def add(draft: Cart, name: str, count: int) -> None:
    draft.items[name] = draft.items.get(name, 0) + count


@pytest.fixture
async def carts(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as container:
        yield container


async def test_calls_inside_a_recipe_are_refused_where_they_are_made(carts):
    await carts.put(Cart(id="ada"))
    calls = [
        lambda: carts.put(Cart(id="b")),
        lambda: carts.update("ada", add, "apple", 1),
        lambda: carts.compare_and_swap("ada", 1, add, "apple", 1),
        lambda: carts.delete("ada"),
        lambda: carts.scan(),
        lambda: carts.ids(),
        lambda: carts.subscribe(),
        lambda: carts.watch("ada"),
        lambda: carts.on_change(print),
    ]
    for call in calls:
        with pytest.raises(WrongContextError, match="recipe"):
            await carts.update("ada", lambda draft, call=call: call() and None)
    await carts.put(Cart(id="b"))


async def test_a_closed_container_refuses_everything(store, clock):
    container = await KeyedContainer.open(Cart, store=store, clock=clock)
    await container.put(Cart(id="ada"))
    await container.aclose()
    await container.aclose()
    for call in (
        lambda: container.get("ada"),
        lambda: container.current("ada"),
        lambda: container.get_many(["ada"]),
        lambda: container.put(Cart(id="ada")),
        lambda: container.update("ada", add, "apple", 1),
        lambda: container.delete("ada"),
        lambda: container.count(),
        lambda: container.flush(),
        lambda: container.__aenter__(),
    ):
        with pytest.raises(ClosedError):
            await call()
    for call in (container.subscribe, container.scan, lambda: container.watch("ada"), lambda: container.changed):
        with pytest.raises(ClosedError):
            call()


async def test_another_event_loop_is_refused(carts):
    await carts.put(Cart(id="ada"))

    async def elsewhere():
        for call in (
            lambda: carts.get("ada"),
            lambda: carts.put(Cart(id="b")),
            lambda: carts.aclose(),
            lambda: anext(carts.scan()),
        ):
            with pytest.raises(WrongContextError):
                await call()
        with pytest.raises(WrongContextError):
            carts.subscribe()

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await carts.get("ada") == Cart(id="ada")


async def test_a_forked_child_is_refused(carts):
    from reactstate.keyed.lifecycle import _after_fork

    _after_fork()
    with pytest.raises(WrongContextError, match="forked"):
        await carts.get("ada")
    with pytest.raises(WrongContextError, match="forked"):
        carts.put(Cart(id="ada"))
    carts._refusal = None


async def test_reads_wait_for_a_store_that_is_out_of_reach(carts, store, clock):
    await carts.put(Cart(id="ada"))
    store.down = True
    reading = asyncio.ensure_future(carts.get("ada"))
    await asyncio.sleep(0)
    store.down = False
    assert await reading == Cart(id="ada")
    store.down = True
    with pytest.raises(UnavailableError):
        await carts.get("ada")
    store.down = False
    assert clock.now >= 29


async def test_a_container_that_is_closed_lets_its_writes_finish(store, clock):
    container = await KeyedContainer.open(Cart, store=store, clock=clock)
    gate = asyncio.Event()
    store.plan.append(gate.wait)
    writes = [asyncio.ensure_future(container.put(Cart(id="ada", items={"n": n}))) for n in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(container.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    with pytest.raises(ClosedError):
        container.put(Cart(id="bob"))
    gate.set()
    await closing
    assert [write.result().version for write in writes] == [1, 2, 3]


async def test_closing_gives_up_at_its_deadline(store, clock):
    container = await KeyedContainer.open(Cart, store=store, clock=clock, deadline=0.002)
    gate = asyncio.Event()
    store.plan.append(gate.wait)
    write = asyncio.ensure_future(container.put(Cart(id="ada")))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError, match="longer than"):
        await container.aclose()
    gate.set()
    await write


async def test_writes_of_one_container_to_one_id_take_turns_and_never_lose(carts, store):
    await carts.put(Cart(id="ada"))
    for _ in range(5):
        store.plan.append(lambda: asyncio.sleep(0))
    commits = store.commits
    await asyncio.gather(*(carts.update("ada", add, "apple", 1) for _ in range(20)))
    assert (await carts.get("ada")).items == {"apple": 20}
    assert store.commits == commits + 20


async def test_a_cancelled_writer_hands_its_turn_on(carts, store):
    gate = asyncio.Event()
    store.plan.append(gate.wait)
    tasks = [asyncio.ensure_future(carts.put(Cart(id="ada", items={"n": n}))) for n in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    gate.set()
    await tasks[0]
    tasks[2].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert (await carts.get("ada")).items == {"n": 3}
    assert not carts._turns


async def test_a_writer_that_is_cancelled_just_as_its_turn_comes_is_passed_over(carts, store):
    gate = asyncio.Event()
    store.plan.append(gate.wait)
    first = asyncio.ensure_future(carts.put(Cart(id="ada")))
    await asyncio.sleep(0)
    rest = [asyncio.ensure_future(carts.put(Cart(id="ada", items={"n": n}))) for n in range(3)]
    await asyncio.sleep(0)
    gate.set()
    while not first.done():
        rest[0].cancel()
        rest[2].cancel()
        await asyncio.sleep(0)
    done = await asyncio.gather(*rest, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert isinstance(done[2], asyncio.CancelledError)
    assert (await carts.get("ada")).items == {"n": 1}
    assert not carts._turns


async def test_a_turn_that_was_cancelled_before_it_was_handed_on_is_passed_over():
    turns = Turns()
    await turns.take("a")
    waiting = [asyncio.ensure_future(turns.take("a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    turns.give("a")  # before the cancelled task has run
    waiting[1].cancel()  # after it was given its turn
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in done] == [asyncio.CancelledError, asyncio.CancelledError, type(None)]
    assert "a" in turns
    turns.give("a")
    assert not turns


async def test_two_may_close_at_once(store, clock):
    container = await KeyedContainer.open(Cart, store=store, clock=clock)
    gate = asyncio.Event()
    store.plan.append(gate.wait)
    write = asyncio.ensure_future(container.put(Cart(id="ada")))
    await asyncio.sleep(0)
    closing = [asyncio.ensure_future(container.aclose()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in closing)
    gate.set()
    await asyncio.gather(*closing)
    assert write.done()


async def test_flush_reaches_the_store(carts):
    await carts.flush()


def test_a_container_is_opened_and_not_made():
    with pytest.raises(TypeError, match="open"):
        KeyedContainer()


async def test_repr_says_what_it_is(carts):
    assert repr(carts) == "KeyedContainer(Cart, key='Cart', store=TroubledStore('memory:'))"


async def test_large_states_are_refused_by_the_store():
    from reactstate.errors import LimitExceededError
    from reactstate.kv.protocol import Limits

    class TinyStore(MemoryStore):
        limits = Limits(100, 400, 10, 1000)

    async with TinyStore() as tiny, KeyedContainer.open(Cart, store=tiny) as container:
        await container.put(Cart(id="ada"))
        with pytest.raises(LimitExceededError):
            await container.update("ada", lambda draft: draft.items.update({str(n): n for n in range(100)}))
        with pytest.raises(LimitExceededError):
            await container.get("x" * 200)
        assert (await container.current("ada")).version == 1
