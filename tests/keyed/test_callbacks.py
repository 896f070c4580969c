from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from reactstate.errors import CompactedError, StorageError
from reactstate.keyed.container import KeyedContainer
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
    return store if request.param == "whole" else plain_store


@pytest.fixture
async def carts(kept, clock):
    async with KeyedContainer.open(Cart, store=kept, clock=clock) as container:
        yield container


def told(changes):
    return [(change.id, change.change_type, change.version) for change in changes]


async def test_ones_own_changes_are_told_before_the_call_returns_and_once(carts, settle):
    seen = []
    undo = carts.on_change(seen.append)
    await carts.put(Cart(id="ada"))
    assert told(seen) == [("ada", CREATE, 1)]
    assert seen[0].cursor is None
    await carts.update("ada", count_up)
    await carts.compare_and_swap("ada", 2, count_up)
    await carts.put(Cart(id="ada", count=2))
    await carts.delete("ada")
    await carts.put(Cart(id="ada"))
    expected = [("ada", CREATE, 1), ("ada", UPDATE, 2), ("ada", UPDATE, 3), ("ada", DELETE, 4), ("ada", CREATE, 5)]
    assert told(seen) == expected
    await settle()
    assert told(seen) == expected
    undo()
    await carts.delete("ada")
    assert told(seen) == expected


async def test_changes_of_others_are_told_once_and_in_order(carts, kept, settle):
    seen = []
    carts.on_change(seen.append)
    async with KeyedContainer.open(Cart, store=kept) as other:
        for _ in range(1, 11):
            await other.put(Cart(id="ada", count=10 * _))
            await carts.put(Cart(id="bob", count=10 * _))
            await carts.update("ada", count_up)
            await settle()
            await other.update("bob", count_up)
            await settle()
        await other.delete("ada")
        await settle()
    for name, last in (("ada", 21), ("bob", 20)):
        versions = [change.version for change in seen if change.id == name]
        assert versions == sorted(set(versions))
        assert versions[-1] == last


async def test_a_change_that_the_watch_tells_first_is_not_told_again(kept, clock, settle):
    class Slow(type(kept)):
        async def commit(self, steps, *, ranges=()):
            done = await super().commit(steps, ranges=ranges)
            await settle()
            return done

    async with Slow() as store, KeyedContainer.open(Cart, store=store, clock=clock) as container:
        seen = []
        container.on_change(seen.append)
        await settle()
        for _ in range(3):
            await container.put(Cart(id="ada", count=_))
        await container.delete("ada")
        await settle()
        assert told(seen) == [("ada", CREATE, 1), ("ada", UPDATE, 2), ("ada", UPDATE, 3), ("ada", DELETE, 4)]


async def test_a_change_whose_reply_was_lost_and_that_others_followed_is_told_by_the_watch(store, clock, settle):
    async with (
        KeyedContainer.open(Cart, store=store, clock=clock) as carts,
        KeyedContainer.open(Cart, store=store, clock=clock) as others,
    ):
        seen = []
        carts.on_change(seen.append)
        await carts.put(Cart(id="ada"))
        store.plan.append("lost")
        store.after = lambda: others.update("ada", count_up)
        assert (await carts.update("ada", count_up)).version == 2
        await settle()
        versions = [change.version for change in seen]
        assert versions == sorted(set(versions))
        assert versions[-1] == 3


async def test_an_exception_in_a_callback_goes_no_further(carts, caplog):
    seen = []
    carts.on_change(lambda change: 1 / 0)
    carts.on_change(seen.append)
    await carts.put(Cart(id="ada"))
    assert told(seen) == [("ada", CREATE, 1)]
    assert "ZeroDivisionError" in caplog.text


async def test_the_signal_names_the_container_and_the_change(carts):
    seen = []

    def receive(sender, change):
        seen.append((sender, change.id))

    carts.changed.connect(receive)
    await carts.put(Cart(id="ada"))
    assert seen == [(carts, "ada")]


async def test_an_unreadable_state_is_logged_and_the_rest_is_told(carts, kept, settle, caplog):
    seen = []
    carts.on_change(seen.append)
    await kept.put(carts._records.key("bad"), b"nonsense")
    async with KeyedContainer.open(Cart, store=kept) as other:
        await other.put(Cart(id="good"))
        await settle()
    assert told(seen) == [("good", CREATE, 1)]
    assert "cannot be read" in caplog.text


async def test_a_gap_in_the_log_is_bridged_by_the_current_states(clock, store_clock, settle):
    options = StoreOptions(change_log_retention=timedelta(seconds=10))
    async with (
        MemoryStore(options=options, clock=store_clock) as store,
        KeyedContainer.open(Cart, store=store, clock=clock) as carts,
        KeyedContainer.open(Cart, store=store, clock=clock) as others,
    ):
        seen = []
        carts.on_change(seen.append)
        for _ in range(30):
            store_clock.advance(30)
            await others.put(Cart(id="ada", count=_))
        await settle()
        assert seen[-1].version == 30


class Broken:
    """A watch that fails, once."""

    def __init__(self, error):
        self.error = error

    def __aiter__(self):
        return self

    async def __anext__(self):
        raise self.error

    async def aclose(self):
        pass


@pytest.mark.parametrize("error", [StorageError("torn"), CompactedError("gap", resume=None)])
async def test_a_watch_that_fails_is_begun_again(plain_store, clock, settle, caplog, monkeypatch, error):
    real = plain_store.watch
    watches = [Broken(error)]
    monkeypatch.setattr(
        plain_store, "watch", lambda *arguments, **named: watches.pop() if watches else real(*arguments, **named)
    )
    async with (
        KeyedContainer.open(Cart, store=plain_store, clock=clock) as carts,
        KeyedContainer.open(Cart, store=plain_store) as other,
    ):
        seen = []
        carts.on_change(seen.append)
        await settle()
        await other.put(Cart(id="ada"))
        await settle()
        assert told(seen) == [("ada", CREATE, 1)]
        assert any(record.levelno >= logging.WARNING for record in caplog.records)


async def test_coroutine_functions_are_refused(carts):
    async def receive(change):
        pass

    with pytest.raises(TypeError, match="subscription"):
        carts.on_change(receive)


async def test_the_callbacks_end_with_the_container_or_its_store(clock, settle):
    store = MemoryStore()
    async with KeyedContainer.open(Cart, store=store, clock=clock) as container:
        container.on_change(print)
        await settle()
        await store.aclose()
        await settle()
    before = len(asyncio.all_tasks())
    async with KeyedContainer.open(Cart, clock=clock) as container:
        container.on_change(print)
        container.on_change(print)
        await settle()
    await settle()
    assert len(asyncio.all_tasks()) == before
