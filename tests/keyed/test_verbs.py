from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest

from reactstate.errors import (
    ClosedError,
    ConflictError,
    DecodeError,
    InvalidKeyError,
    SchemaVersionError,
    StateNotFoundError,
    StateValidationError,
    TransitionError,
    UnavailableError,
    WrongContextError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.lifecycle import Turns
from reactstate.kv.keys import StateKey
from reactstate.kv.memory import MemoryStore
from reactstate.state.state import State, migration


class Cart(State):
    id: str
    items: dict[str, int] = {}
    open: bool = True

    def check_transition(self, previous: Cart) -> None:
        if not previous.open:
            raise TransitionError("a closed cart stays as it is")


class Seat(State):
    row: int
    number: int

    @property
    def id(self) -> str:
        return f"{self.row}-{self.number}"


class Numbered(State):
    id: int
    text: str = ""


class Named(State):
    id: UUID


class Either(State):
    name: int | str
    is_uuid: bool = False
    text: str = ""

    @property
    def id(self) -> int | str | UUID:
        return UUID(int=self.name) if self.is_uuid else self.name


def add(draft: Cart, name: str, count: int) -> None:
    draft.items[name] = draft.items.get(name, 0) + count


@pytest.fixture
async def carts(store, clock):
    async with KeyedContainer.open(Cart, store=store, clock=clock) as container:
        yield container


async def test_what_was_put_is_what_is_got(carts):
    made = await carts.put(Cart(id="ada", items={"apple": 1}), actor="ada", tags={"why": "demo"})
    assert made.version == 1
    assert made.state == Cart(id="ada", items={"apple": 1})
    assert made.metadata.tags == {"why": "demo"}
    assert made.timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    assert await carts.get("ada") == made.state
    assert await carts.current("ada") == made
    assert await carts.get("bob") is None
    assert await carts.current("bob") is None


async def test_a_state_that_has_not_changed_is_read_as_the_same_object(carts, store, clock):
    made = await carts.put(Cart(id="ada"))
    assert await carts.get("ada") is made.state
    async with KeyedContainer.open(Cart, store=store, clock=clock) as other:
        found = await other.get("ada")
        assert found is not made.state
        assert await other.get("ada") is found
        await carts.update("ada", add, "apple", 1)
        assert await other.get("ada") == Cart(id="ada", items={"apple": 1})


async def test_each_state_has_versions_of_its_own(carts):
    for count in range(1, 4):
        assert (await carts.put(Cart(id="ada", items={"apple": count}))).version == count
    assert (await carts.put(Cart(id="bob"))).version == 1


async def test_an_equal_state_makes_no_version(carts, store):
    first = await carts.put(Cart(id="ada"))
    commits = store.commits
    assert (await carts.put(Cart(id="ada"))).version == 1
    assert (await carts.update("ada", lambda draft: None)) == first
    assert store.commits == commits


async def test_created_at_stays_and_updated_at_moves(carts, clock):
    await carts.put(Cart(id="ada"))
    clock.now += 60
    made = await carts.update("ada", add, "apple", 1)
    assert (made.metadata.updated_at - made.metadata.created_at).total_seconds() == 60
    assert (await carts.current("ada")).metadata.created_at == made.metadata.created_at


async def test_update_takes_functions_arguments_mappings_and_whole_states(carts):
    await carts.put(Cart(id="ada"))
    await carts.update("ada", add, "apple", 2)
    await carts.update("ada", lambda draft: draft.items.pop("apple"))
    await carts.update("ada", {"items": {"pear": 1}})
    made = await carts.update("ada", lambda draft: Cart(id="ada", items={"plum": 1}))
    assert made.version == 5
    assert made.state.items == {"plum": 1}


async def test_untouched_parts_are_shared(carts):
    first = await carts.put(Cart(id="ada", items={"apple": 1}))
    made = await carts.update("ada", {"open": False})
    assert made.state.items is first.state.items


async def test_update_of_what_is_absent_is_refused(carts):
    with pytest.raises(StateNotFoundError, match="put one first"):
        await carts.update("ada", add, "apple", 1)


async def test_a_recipe_cannot_change_the_id(carts):
    await carts.put(Cart(id="ada"))
    with pytest.raises(StateValidationError, match="cannot change the id"):
        await carts.update("ada", {"id": "bob"})
    with pytest.raises(StateValidationError):
        await carts.update("ada", lambda draft: Cart(id="bob"))
    assert (await carts.current("ada")).version == 1
    assert await carts.count() == 1


async def test_refused_changes_change_nothing(carts):
    first = await carts.put(Cart(id="ada", open=False))
    with pytest.raises(TransitionError):
        await carts.update("ada", {"open": True})
    with pytest.raises(TransitionError):
        await carts.put(Cart(id="ada", open=True))
    with pytest.raises(StateValidationError):
        await carts.update("ada", {"items": 3})
    with pytest.raises(StateValidationError):
        await carts.put(Seat(row=1, number=2))
    with pytest.raises(StateValidationError):
        await carts.put(Cart(id="bob"), actor=3)
    with pytest.raises(StateValidationError):
        await carts.put(Cart(id="bob"), tags={"x": object()})
    assert await carts.current("ada") == first
    assert await carts.count() == 1


async def test_expected_version_is_kept_to(carts):
    with pytest.raises(ConflictError) as caught:
        await carts.put(Cart(id="ada"), expected_version=1)
    assert not caught.value.current.exists
    assert caught.value.current.version == 0
    await carts.put(Cart(id="ada"), expected_version=0)
    with pytest.raises(ConflictError) as caught:
        await carts.put(Cart(id="ada", open=False), expected_version=0)
    assert caught.value.current.version == 1
    await carts.update("ada", add, "apple", 1, expected_version=1)
    with pytest.raises(ConflictError) as caught:
        await carts.update("ada", add, "apple", 1, expected_version=1)
    assert caught.value.current.state.items == {"apple": 1}
    with pytest.raises(ConflictError):
        await carts.delete("ada", expected_version=1)
    assert await carts.delete("ada", expected_version=2)
    with pytest.raises(ConflictError):
        await carts.delete("ada", expected_version=2)
    assert not await carts.delete("ada", expected_version=0)
    for bad in (-1, True, "1"):
        with pytest.raises(ValueError, match="expected_version"):
            await carts.put(Cart(id="ada"), expected_version=bad)


async def test_expected_version_is_kept_to_when_another_writer_comes_between(carts, store, clock):
    await carts.put(Cart(id="ada"))
    async with KeyedContainer.open(Cart, store=store, clock=clock) as other:
        store.plan.append(lambda: other.update("ada", add, "pear", 1))
        with pytest.raises(ConflictError) as caught:
            await carts.update("ada", add, "apple", 1, expected_version=1)
    assert caught.value.current.state.items == {"pear": 1}


async def test_compare_and_swap_says_whether_it_was_as_expected(carts):
    assert not await carts.compare_and_swap("ada", 0, add, "apple", 1)
    first = await carts.put(Cart(id="ada"))
    assert await carts.compare_and_swap("ada", 1, add, "apple", 1)
    assert not await carts.compare_and_swap("ada", 1, add, "apple", 1)
    assert not await carts.compare_and_swap("ada", first.state, add, "apple", 1)
    assert await carts.compare_and_swap("ada", Cart(id="ada", items={"apple": 1}), {"open": False})
    assert (await carts.current("ada")).version == 3
    for bad in ("1", None, True):
        with pytest.raises(TypeError):
            carts.compare_and_swap("ada", bad, add, "apple", 1)


async def test_compare_and_swap_holds_when_another_writer_comes_between(carts, store, clock):
    await carts.put(Cart(id="ada"))
    async with KeyedContainer.open(Cart, store=store, clock=clock) as other:
        store.plan.append(lambda: other.update("ada", add, "pear", 1))
        assert not await carts.compare_and_swap("ada", 1, add, "apple", 1)
        assert (await carts.get("ada")).items == {"pear": 1}


async def test_a_conflict_that_a_recipe_raises_is_the_recipes_own(carts):
    def refuse(draft):
        raise ConflictError("mine")

    await carts.put(Cart(id="ada"))
    with pytest.raises(ConflictError, match="mine"):
        await carts.compare_and_swap("ada", 1, refuse)


async def test_delete_says_whether_there_was_one(carts):
    await carts.put(Cart(id="ada"))
    assert await carts.delete("ada")
    assert not await carts.delete("ada")
    assert await carts.get("ada") is None


async def test_get_many_gives_what_there_is_in_the_order_asked_for(carts):
    for name in "abc":
        await carts.put(Cart(id=name))
    found = await carts.get_many(["c", "x", "a", "c"])
    assert list(found) == ["c", "a"]
    assert found["a"] == Cart(id="a")
    assert await carts.get_many([]) == {}


async def test_the_default_action_is_what_was_done(carts):
    async with carts.subscribe() as changes:
        await carts.put(Cart(id="a"))
        first = await anext(changes)
        await carts.update("a", add, "apple", 1, actor="ada")
        second = await anext(changes)
        await carts.update("a", {"open": False}, action="close")
        third = await anext(changes)
    assert [change.action for change in (first, second, third)] == ["put", "add", "close"]
    assert second.actor == "ada"
    assert third.tags == {}


# --- scanning -----------------------------------------------------------------------------------------------------

AWKWARD = ["a", "a%", "a%2F", "a*", "a/", "a/b", "a[", "a_", "aé", "b", "\x01i5", "~", "a\U0001f600"]


async def test_a_prefix_is_data_and_finds_exactly_the_ids_that_begin_with_it(carts):
    for name in AWKWARD:
        await carts.put(Cart(id=name))
    for prefix in ["", "a", "a%", "a/", "a_", "a*", "é", "aé", "a%2", "\x01", *AWKWARD]:
        expected = [name for name in AWKWARD if name.startswith(prefix)]
        assert sorted([state.id async for state in carts.scan(prefix)]) == sorted(expected)
        assert sorted([name async for name in carts.ids(prefix)]) == sorted(expected)
        assert await carts.count(prefix) == len(expected)


async def test_scan_is_ordered_bounded_and_reversible(carts):
    for number in range(30):
        await carts.put(Cart(id=f"{number:02}"))
    everything = [state.id async for state in carts.scan()]
    assert everything == [f"{number:02}" for number in range(30)]
    assert [state.id async for state in carts.scan(reverse=True)] == everything[::-1]
    assert [state.id async for state in carts.scan("1", limit=3)] == ["10", "11", "12"]
    assert [name async for name in carts.ids("1", limit=2, reverse=True)] == ["19", "18"]
    assert [state async for state in carts.scan(limit=0)] == []
    with pytest.raises(ValueError, match="limit"):
        carts.scan(limit=-1)
    with pytest.raises(InvalidKeyError):
        carts.scan(3)


async def test_scan_may_be_left_half_way(carts):
    for number in range(10):
        await carts.put(Cart(id=str(number)))
    states = carts.scan()
    assert (await anext(states)).id == "0"
    await states.aclose()
    names = carts.ids()
    assert await anext(names) == "0"
    await names.aclose()


async def test_scan_ends_with_a_clear_error_when_the_container_is_closed(store, clock):
    container = await KeyedContainer.open(Cart, store=store, clock=clock)
    for number in range(3):
        await container.put(Cart(id=str(number)))
    states = container.scan()
    await anext(states)
    late = container.scan()
    await container.aclose()
    with pytest.raises(ClosedError):
        await anext(states)
    with pytest.raises(ClosedError):
        await anext(late)


# --- ids ----------------------------------------------------------------------------------------------------------


async def test_a_property_may_be_the_id(store):
    async with KeyedContainer.open(Seat, store=store) as seats:
        await seats.put(Seat(row=1, number=2))
        assert await seats.get("1-2") == Seat(row=1, number=2)
        with pytest.raises(StateValidationError):
            await seats.update("1-2", {"number": 3})


async def test_ids_may_be_integers_in_the_order_of_their_text(store):
    async with KeyedContainer.open(Numbered, store=store) as numbered:
        for number in (9, 10, -1, 0):
            await numbered.put(Numbered(id=number))
        assert [state.id async for state in numbered.scan()] == [-1, 0, 10, 9]
        assert [found async for found in numbered.ids("1")] == [10]
        assert await numbered.get(10) == Numbered(id=10)
        for bad in ("10", True, 1.0, None):
            with pytest.raises(InvalidKeyError):
                await numbered.get(bad)


async def test_ids_may_be_uuids(store):
    name = UUID(int=5)
    async with KeyedContainer.open(Named, store=store) as named:
        await named.put(Named(id=name))
        assert [found async for found in named.ids()] == [name]
        assert await named.get(name) == Named(id=name)
        with pytest.raises(InvalidKeyError):
            await named.get(str(name))


async def test_ids_of_several_types_never_meet(store):
    several = [1, "1", UUID(int=1), str(UUID(int=1)), "\x01i1", "\x01s\x01i1", -1, "-1"]
    async with KeyedContainer.open(Either, store=store) as container:
        for place, one in enumerate(several):
            name = one.int if isinstance(one, UUID) else one
            await container.put(Either(name=name, is_uuid=isinstance(one, UUID), text=str(place)))
        assert await container.count() == len(several)
        for place, one in enumerate(several):
            assert (await container.get(one)).text == str(place)
        assert {(type(one), one) async for one in container.ids()} == {(type(one), one) for one in several}
        assert {one async for one in container.ids("1")} == {"1"}
        assert {one async for one in container.ids("\x01i")} == {"\x01i1"}


async def test_ids_that_cannot_be_kept_are_refused(carts):
    for bad in ("", 3, None, b"a", "\ud800"):
        with pytest.raises(InvalidKeyError):
            await carts.get(bad)
        with pytest.raises(InvalidKeyError):
            await carts.update(bad, add, "apple", 1)
        with pytest.raises(InvalidKeyError):
            await carts.delete(bad)
    with pytest.raises(StateValidationError):
        await carts.put(Cart(id=""))


async def test_collections_of_one_store_are_apart(store):
    names = ["a", "a/state", "a/", "a%2F", "b"]
    opened = [await KeyedContainer.open(Cart, store=store, key=name) for name in names]
    for place, container in enumerate(opened):
        await container.put(Cart(id="x", items={"place": place}))
        await container.put(Cart(id="state/x", items={"place": place}))
    for place, container in enumerate(opened):
        assert [state.items["place"] async for state in container.scan()] == [place, place]
        await container.aclose()


# --- what is stored -----------------------------------------------------------------------------------------------


async def test_an_unreadable_state_is_an_error_for_its_id_only(carts, store):
    await carts.put(Cart(id="good"))
    for value, error in [
        (b"nonsense", DecodeError),
        (carts._records._codec.encode([1, 2, 3], {"Cart": 1}), DecodeError),
        (carts._records._codec.encode({"layout": 1}, {"Cart": 1}), DecodeError),
        (carts._records._codec.encode([2], {"Cart": 1}), SchemaVersionError),
    ]:
        await store.put(str(StateKey("~keyed", "Cart", "state", "bad")), value)
        with pytest.raises(error) as caught:
            await carts.get("bad")
        assert "bad" in caught.value.__notes__[0]
        with pytest.raises(error):
            await carts.put(Cart(id="bad"))
        with pytest.raises(error):
            await carts.delete("bad")
        assert (await store.get(str(StateKey("~keyed", "Cart", "state", "bad")))).value == value
        assert await carts.get("good") == Cart(id="good")
        assert [found async for found in carts.ids()] == ["bad", "good"]
        with pytest.raises(error):
            _ = [state async for state in carts.scan()]


async def test_a_state_under_another_id_is_not_taken_for_it(carts, store):
    await carts.put(Cart(id="ada"))
    entry = await store.get(carts._records.key("ada"))
    await store.put(carts._records.key("bob"), entry.value)
    with pytest.raises(DecodeError, match="ada"):
        await carts.get("bob")


async def test_a_floor_that_is_none_is_an_error(carts, store):
    await store.put(carts._records.floor_key, b"high")
    with pytest.raises(DecodeError):
        await carts.put(Cart(id="ada"))


async def test_a_key_that_is_no_id_is_an_error(store):
    async with KeyedContainer.open(Numbered, store=store) as numbered:
        for text in ("x", "007"):
            await store.put(numbered._records.root + text, b"")
            with pytest.raises(DecodeError):
                _ = [found async for found in numbered.ids()]
            await store.delete(numbered._records.root + text)
    async with KeyedContainer.open(Either, store=store) as either:
        for text in ("\x01x5", "\x01u5", ""):
            await store.put(either._records.root + text, b"")
            with pytest.raises(DecodeError):
                _ = [found async for found in either.ids()]
            await store.delete(either._records.root + text)


async def test_an_old_state_is_migrated_when_it_is_read(store):
    class OldBasket(State, type_name="basket"):
        id: str
        fruit: list[str] = []

    class Basket(State, type_name="basket", schema_version=2):
        id: str
        fruit: dict[str, int] = {}

        @migration(from_version=1)
        def counted(document):  # noqa: N805 - a migration takes a document
            return {**document, "fruit": dict.fromkeys(document["fruit"], 1)}

    async with KeyedContainer.open(OldBasket, store=store) as old:
        await old.put(OldBasket(id="ada", fruit=["apple"]))
        async with KeyedContainer.open(Basket, store=store) as new:
            assert await new.get("ada") == Basket(id="ada", fruit={"apple": 1})
            made = await new.update("ada", lambda draft: draft.fruit.update(pear=2))
            assert made.version == 2
            with pytest.raises(SchemaVersionError):
                await old.get("ada")


async def test_few_decoded_states_are_kept_when_few_are_asked_for(store):
    class Small(KeyedContainer[Cart]):
        cache_size = 2

    async with Small.open(Cart, store=store) as container:
        made = [await container.put(Cart(id=name)) for name in "abc"]
        assert await container.get("c") is made[2].state
        assert await container.get("a") is not made[0].state
        assert await container.get("a") == made[0].state
        assert len(container._records._cache) == 2


# --- where it may be called ---------------------------------------------------------------------------------------


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
