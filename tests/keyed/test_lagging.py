from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from reactstate.errors import (
    CompactedError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.subscription import KeyedSubscription
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.state.change import ChangeType
from reactstate.state.state import State

CREATE, UPDATE, DELETE = ChangeType.CREATE, ChangeType.UPDATE, ChangeType.DELETE


class Cart(State):
    id: str
    count: int = 0


def count_up(draft: Cart) -> None:
    draft.count += 1


@pytest.fixture(params=["whole", "plain"])
async def kept(request, store, plain_store):
    """A store that reads at one moment, and one that does not."""
    return store if request.param == "whole" else plain_store


@pytest.fixture
async def carts(kept, clock):
    async with KeyedContainer.open(Cart, store=kept, clock=clock) as container:
        yield container


async def take(changes: KeyedSubscription[Cart], settle: Any) -> list[Any]:
    """Return what is there to be told, without waiting for more."""
    found: list[Any] = []
    while True:
        waiting = asyncio.ensure_future(anext(changes))
        await settle()
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return found
        found.append(waiting.result())


def told(changes: list[Any]) -> list[tuple[Any, ...]]:
    return [(change.id, change.change_type, change.version) for change in changes]


@pytest.fixture
async def short(store_clock):
    options = StoreOptions(change_log_retention=timedelta(seconds=10))
    async with MemoryStore(options=options, clock=store_clock) as opened:
        yield opened


@pytest.fixture
async def lagging(short, store_clock, clock):
    """A container with five states, and a cursor that is too old."""
    async with KeyedContainer.open(Cart, store=short, clock=clock) as container:
        await container.put(Cart(id="first"))
        cursor = await short.cursor()
        for number in range(5):
            await container.put(Cart(id=str(number)))
        await container.delete("first")
        await container.put(Cart(id="last"))
        for _ in range(20):  # a log forgets by the piece
            store_clock.advance(30)
            await container.update("last", count_up)
        yield container, cursor


async def test_who_comes_too_late_is_told_where_to_resume(lagging, settle):
    container, cursor = lagging
    async with container.subscribe(since=cursor) as changes:
        with pytest.raises(CompactedError) as caught:
            await anext(changes)
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
        assert changes.closed
    async with container.subscribe(since=caught.value.resume) as changes:
        await container.put(Cart(id="new"))
        found = await take(changes, settle)
        assert told(found)[-1] == ("new", CREATE, 3)


async def test_a_resync_tells_every_current_state_and_goes_on(lagging, settle):
    container, cursor = lagging
    async with container.subscribe(since=cursor, on_lag="resync") as changes:
        found = await take(changes, settle)
        assert [change.id for change in found] == ["0", "1", "2", "3", "4", "last"]
        assert all(change.resync and change.change_type is UPDATE for change in found)
        assert "resync=True" in repr(found[0])
        assert {change.cursor for change in found[:-1]} == {cursor}
        assert found[-1].cursor != cursor
        await container.update("last", count_up)
        (change,) = await take(changes, settle)
        assert (change.id, change.change_type, change.resync) == ("last", UPDATE, False)
    async with container.subscribe(since=found[-1].cursor) as changes:
        assert told(await take(changes, settle)) == told([change])


async def test_a_resync_of_many_states_is_read_in_pages_and_survives_cancellation(lagging, settle):
    container, cursor = lagging
    for number in range(600):
        await container.put(Cart(id=f"x{number:03}"))
    async with container.subscribe("x", since=cursor, on_lag="resync") as changes:
        found: list[Any] = []
        for turns in range(40):
            waiting = asyncio.ensure_future(anext(changes))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            done = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if not isinstance(done, BaseException):
                found.append(done)
        found += await take(changes, settle)
    assert [change.id for change in found] == [f"x{number:03}" for number in range(600)]


async def test_a_resync_of_nothing_goes_on(lagging, settle):
    container, cursor = lagging
    async with container.subscribe("none", since=cursor, on_lag="resync") as changes:
        assert await take(changes, settle) == []
        assert changes.cursor != cursor
        await container.put(Cart(id="none/1"))
        assert told(await take(changes, settle)) == [("none/1", CREATE, 3)]


async def test_a_resync_can_be_left_half_way(lagging):
    container, cursor = lagging
    for number in range(600):
        await container.put(Cart(id=f"x{number:03}"))
    async with container.subscribe("x", since=cursor, on_lag="resync") as changes:
        await anext(changes)
        assert changes._view is not None
    assert changes._view is None


async def test_closing_the_container_lets_go_of_what_a_resync_reads_from(lagging):
    container, cursor = lagging
    for number in range(600):
        await container.put(Cart(id=f"x{number:03}"))
    changes = container.subscribe("x", since=cursor, on_lag="resync")
    await anext(changes)
    assert changes._view is not None
    await container.aclose()
    assert changes._view is None
    assert [change async for change in changes] == []


async def test_a_resync_that_is_closed_as_it_begins_lets_go(lagging, short, settle, monkeypatch):
    container, cursor = lagging
    changes = container.subscribe(since=cursor, on_lag="resync")
    gate, real = asyncio.Event(), short.snapshot

    class Slow:
        def __init__(self) -> None:
            self.inner = real()

        async def __aenter__(self):
            await gate.wait()
            return await self.inner.__aenter__()

        async def __aexit__(self, *arguments):
            return await self.inner.__aexit__(*arguments)

    monkeypatch.setattr(short, "snapshot", Slow)
    waiting = asyncio.ensure_future(anext(changes))
    await settle()
    await changes.aclose()
    gate.set()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert changes._view is None


async def test_a_cursor_of_another_store_is_too_late(carts):
    async with MemoryStore() as other:
        cursor = await other.cursor()
    async with carts.subscribe(since=cursor) as changes:
        with pytest.raises(CompactedError):
            await anext(changes)
