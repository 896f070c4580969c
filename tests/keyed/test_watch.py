from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from reactstate.errors import (
    ClosedError,
    CodecError,
    CompactedError,
    InvalidKeyError,
    UnavailableError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.protocol import Capability
from reactstate.state.state import State


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


class Told:
    """A watch that tells what it is told to."""

    def __init__(self, *events: Any) -> None:
        self.events = list(events)
        self.closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.events:
            await asyncio.get_running_loop().create_future()
        event = self.events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    async def aclose(self):
        self.closed += 1


async def test_watch_gives_what_is_there_first_and_then_the_newest(carts, settle):
    async with carts.watch("ada") as values:
        assert await anext(values) is None
        await carts.put(Cart(id="ada"))
        await carts.put(Cart(id="ada/2"))
        assert await anext(values) == Cart(id="ada")
        for _ in range(5):
            await carts.update("ada", count_up)
        assert (await anext(values)).count == 5
        await carts.delete("ada")
        assert await anext(values) is None
        waiting = asyncio.ensure_future(anext(values))
        await carts.put(Cart(id="ada/2", count=7))
        await settle()
        assert not waiting.done()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await carts.put(Cart(id="ada"))
        assert await anext(values) == Cart(id="ada")
    with pytest.raises(InvalidKeyError):
        carts.watch("")


async def test_watch_goes_on_after_a_state_that_cannot_be_read(carts, kept):
    async with carts.watch("ada") as values:
        await kept.put(carts._records.key("ada"), b"nonsense")
        with pytest.raises(CodecError):
            await anext(values)
        waiting = asyncio.ensure_future(anext(values))
        await kept.delete(carts._records.key("ada"))
        assert await waiting is None


async def test_watch_goes_on_after_a_gap(carts, kept, settle, monkeypatch):
    watches = [Told(CompactedError("gap", resume="there")), Told()]
    asked: list[Any] = []

    def watch(self, prefix="", *, after=None):
        asked.append(after)
        return watches[len(asked) - 1]

    monkeypatch.setattr(type(kept), "watch", watch)
    values = carts.watch("ada")
    assert await anext(values) is None
    waiting = asyncio.ensure_future(anext(values))
    await carts.put(Cart(id="ada"))
    await settle()
    assert asked == [None, "there"]
    assert await waiting == Cart(id="ada")
    await values.aclose()
    assert all(one.closed for one in watches)


async def test_watch_reads_again_after_it_failed_or_was_cancelled(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as carts, carts.watch("ada") as values:
        store.down = True
        with pytest.raises(UnavailableError):
            await anext(values)
        store.down = False
        await carts.put(Cart(id="ada"))
        assert await anext(values) == Cart(id="ada")


async def test_watch_ends_when_its_own_store_is_closed_under_a_reading(clock):
    container = await KeyedContainer.open(Cart, clock=clock)
    values, changes = container.watch("ada"), container.subscribe()
    await container.put(Cart(id="ada"))
    await container._store.aclose()
    with pytest.raises(ClosedError):
        await anext(values)
    await container.aclose()
    assert [value async for value in values] == []
    assert [change async for change in changes] == []


def test_the_capabilities_of_the_plain_store_are_what_the_tests_need(plain_store):
    assert Capability.WATCH in plain_store.capabilities
    assert Capability.SNAPSHOT_READS not in plain_store.capabilities
