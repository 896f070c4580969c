from __future__ import annotations

from uuid import UUID

import pytest

from reactstate.errors import (
    DecodeError,
    InvalidKeyError,
    SchemaVersionError,
    StateValidationError,
    TransitionError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.keys import StateKey
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
        assert len(container._records.kept) == 2
