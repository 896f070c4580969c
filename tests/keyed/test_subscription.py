from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reactstate.errors import (
    CodecError,
    InvalidKeyError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.subscription import KeyedSubscription
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


async def test_every_change_is_told_to_a_reader_who_keeps_up(carts):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="ada"), actor="ada", action="open", tags={"n": 1})
        change = await anext(changes)
        assert (change.id, change.change_type, change.version, change.state) == ("ada", CREATE, 1, Cart(id="ada"))
        assert (change.actor, change.action, change.tags) == ("ada", "open", {"n": 1})
        assert change.timestamp == (await carts.current("ada")).timestamp
        assert change.cursor == changes.cursor
        assert not change.resync
        await carts.update("ada", count_up)
        change = await anext(changes)
        assert (change.change_type, change.version, change.state.count) == (UPDATE, 2, 1)
        await carts.delete("ada")
        change = await anext(changes)
        assert (change.id, change.change_type, change.version, change.state) == ("ada", DELETE, 3, None)
        assert (change.timestamp, change.actor, change.action, change.tags) == (None, None, None, {})
        assert repr(change) == "KeyedChange('ada', DELETE, version=3)"


async def test_it_is_live_from_the_call(carts, settle):
    changes = carts.subscribe()
    await carts.put(Cart(id="ada"))
    assert told(await take(changes, settle)) == [("ada", CREATE, 1)]
    await changes.aclose()


async def test_versions_in_between_are_folded_into_the_newest(carts, settle):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="ada"))
        await carts.put(Cart(id="bob"))
        for _ in range(5):
            await carts.update("ada", count_up)
        found = await take(changes, settle)
        assert told(found) == [("bob", CREATE, 1), ("ada", CREATE, 6)]
        assert found[1].state.count == 5


async def test_deleted_and_created_anew_is_one_create(carts, settle):
    await carts.put(Cart(id="ada"))
    async with carts.subscribe() as changes:
        await carts.delete("ada")
        await carts.put(Cart(id="ada"))
        assert told(await take(changes, settle)) == [("ada", CREATE, 3)]


async def test_created_and_deleted_between_two_readings_is_a_delete(carts, settle):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="ada"))
        await carts.delete("ada")
        assert told(await take(changes, settle)) == [("ada", DELETE, 2)]


async def test_only_the_prefix_that_was_asked_for_is_told(carts, settle):
    async with carts.subscribe("a%") as changes, carts.subscribe("") as everything:
        for name in ("a%", "a%/b", "ab", "b", "a"):
            await carts.put(Cart(id=name))
        assert [change.id for change in await take(changes, settle)] == ["a%", "a%/b"]
        assert len(await take(everything, settle)) == 5
    with pytest.raises(InvalidKeyError):
        carts.subscribe(3)


async def test_changes_of_other_containers_are_told_and_those_of_other_collections_are_not(carts, kept, settle):
    async with (
        KeyedContainer.open(Cart, store=kept) as other,
        KeyedContainer.open(Cart, store=kept, key="other") as elsewhere,
        carts.subscribe() as changes,
    ):
        await elsewhere.put(Cart(id="eve"))
        await other.put(Cart(id="ada"))
        assert told(await take(changes, settle)) == [("ada", CREATE, 1)]


async def test_a_cursor_resumes_without_loss_or_repetition(carts, settle):
    cursors = []
    async with carts.subscribe() as changes:
        for number in range(6):
            await carts.put(Cart(id=f"{number}"))
            cursors.append((await anext(changes)).cursor)
    for place, cursor in enumerate(cursors):
        async with carts.subscribe(since=cursor) as changes:
            assert changes.cursor == cursor
            expected = [(str(number), CREATE, 1) for number in range(place + 1, 6)]
            assert told(await take(changes, settle)) == expected


async def test_a_cursor_in_the_middle_of_what_was_folded_loses_nothing(carts, settle):
    start = await carts._store.cursor()
    for name in "abcab":
        await carts.put(Cart(id=name, count=(await carts.count()) + 10))
        await carts.update(name, count_up)
    async with carts.subscribe(since=start) as changes:
        first = await anext(changes)
        cursor = changes.cursor
        rest = told(await take(changes, settle))
    assert first.id == "c"
    async with carts.subscribe(since=cursor) as changes:
        resumed = await take(changes, settle)
    assert [(change.id, change.version) for change in resumed] == [(name, version) for name, _, version in rest]


async def test_what_is_no_cursor_is_refused(carts):
    with pytest.raises(InvalidKeyError):
        carts.subscribe(since="nonsense")
    with pytest.raises(ValueError, match="buffer"):
        carts.subscribe(buffer=0)
    with pytest.raises(ValueError, match="on_lag"):
        carts.subscribe(on_lag="perhaps")


async def test_a_cancelled_call_takes_nothing(carts, settle):
    async with carts.subscribe() as changes:
        for turns in range(12):
            name = str(turns)
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            await carts.put(Cart(id=name))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                found = await take(changes, settle)
            else:
                found = [waiting.result(), *await take(changes, settle)]
            assert [change.id for change in found] == [name]


async def test_two_readers_of_one_subscription_share_its_changes(carts, settle):
    async with carts.subscribe() as changes:
        one, two = asyncio.ensure_future(anext(changes)), asyncio.ensure_future(anext(changes))
        await settle()
        await carts.put(Cart(id="ada"))
        await carts.put(Cart(id="bob"))
        assert {(await one).id, (await two).id} == {"ada", "bob"}


async def test_a_key_that_is_always_ahead_of_its_events_is_told_all_the_same(kept, clock, settle):
    """Another change is committed each time between the event and the reading."""

    class Ahead(type(kept)):
        ahead: Any = None

        async def get_many(self, keys):
            await self._run()
            return await super().get_many(keys)

        def snapshot(self):
            inner = super().snapshot()
            outer = self

            class Block:
                async def __aenter__(self):
                    await outer._run()
                    return await inner.__aenter__()

                async def __aexit__(self, *arguments):
                    return await inner.__aexit__(*arguments)

            return Block()

        async def _run(self):
            if self.ahead is not None:
                await self.ahead()

    async with Ahead() as store, KeyedContainer.open(Cart, store=store, clock=clock) as container:
        steps = iter(range(8))

        async def go_on():
            if next(steps, None) is not None:
                await container.update("ada", count_up)

        await container.put(Cart(id="ada"))
        async with container.subscribe() as changes:
            store.ahead = go_on
            await container.update("ada", count_up)
            await container.put(Cart(id="bob"))
            found = await take(changes, settle)
            versions = [change.version for change in found if change.id == "ada"]
            assert len(versions) > 3
            assert versions == sorted(set(versions))
            assert versions[-1] == 10
            store.ahead = None
            for change in found:
                async with container.subscribe(since=change.cursor) as again:
                    later = [one.version for one in await take(again, settle) if one.id == "ada"]
                    seen = [one.version for one in found[: found.index(change) + 1] if one.id == "ada"]
                    assert later[-1:] == ([10] if not seen or seen[-1] != 10 else [])
                    assert not set(seen) & set(later)


@pytest.mark.parametrize("place", range(4))
async def test_deleted_and_created_anew_while_it_is_read_stays_in_order(kept, clock, settle, place):
    class Busy(type(kept)):
        between: Any = None

        async def get(self, key):
            await self._run()
            return await super().get(key)

        async def get_many(self, keys):
            await self._run()
            return await super().get_many(keys)

        def snapshot(self):
            inner = super().snapshot()
            outer = self

            class Block:
                async def __aenter__(self):
                    await outer._run()
                    return await inner.__aenter__()

                async def __aexit__(self, *arguments):
                    return await inner.__aexit__(*arguments)

            return Block()

        async def _run(self):
            if self.between:
                work = self.between.pop(0)
                if work is not None:
                    kept, self.between = self.between, None
                    await work()
                    self.between = kept

    async with Busy() as store, KeyedContainer.open(Cart, store=store, clock=clock) as container:

        async def churn():
            await container.put(Cart(id="ada"))
            await container.delete("ada")
            await container.put(Cart(id="other"))
            await container.delete("other")

        await container.put(Cart(id="ada"))
        async with container.subscribe() as changes:
            await container.delete("ada")
            store.between = [None] * place + [churn, None, churn]
            found = await take(changes, settle)
            store.between = None
            await container.put(Cart(id="ada"))
            found += await take(changes, settle)
        versions = [change.version for change in found if change.id == "ada"]
        assert versions == sorted(set(versions))
        assert found[-1].state == Cart(id="ada")


async def test_an_unreadable_state_is_told_as_an_error_and_the_rest_goes_on(carts, kept, settle):
    async with carts.subscribe() as changes:
        await kept.put(carts._records.key("bad"), b"nonsense")
        await carts.put(Cart(id="good"))
        with pytest.raises(CodecError):
            await anext(changes)
        assert changes.cursor is not None
        assert (await anext(changes)).id == "good"


async def test_a_key_that_is_no_id_is_told_as_an_error(kept):
    class Numbered(State):
        id: int

    async with KeyedContainer.open(Numbered, store=kept) as numbered, numbered.subscribe() as changes:
        await kept.put(numbered._records.root + "x", b"")
        await kept.delete(numbered._records.root + "x")
        await numbered.put(Numbered(id=1))
        with pytest.raises(CodecError):
            await anext(changes)
        assert (await anext(changes)).id == 1


async def test_many_changed_ids_pass_a_small_buffer(carts, settle):
    async with carts.subscribe(buffer=3) as changes:
        for number in range(700):
            await carts.put(Cart(id=str(number)))
        found = [await anext(changes) for _ in range(700)]
        assert {change.id for change in found} == {str(number) for number in range(700)}
        assert await take(changes, settle) == []


async def test_a_backlog_of_many_ids_is_read_in_pages(carts):
    start = await carts._store.cursor()
    for number in range(700):
        await carts.put(Cart(id=str(number)))
    async with carts.subscribe(since=start) as changes:
        assert [(await anext(changes)).id for _ in range(700)] == [str(number) for number in range(700)]
