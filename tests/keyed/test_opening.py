from __future__ import annotations

from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from pydantic import Field

from reactstate.errors import (
    InvalidKeyError,
    SettingsError,
    StateDefinitionError,
    StateValidationError,
    UnsupportedError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.keyed.ids import Ids
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.state.config import StateConfig
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


class NoId(State):
    name: str


class FloatId(State):
    id: float


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Weight(Enum):
    LIGHT = 1.5


UserId = NewType("UserId", str)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (str, "a", 1),
        (Annotated[str, Field(min_length=1)], "a", 1),
        (UserId, "a", 1),
        (Literal["a", "b"], "a", 1),
        (Colour, Colour.RED, 1),
        (int, 1, "1"),
        (Size, Size.SMALL, "1"),
        (UUID, UUID(int=1), "1"),
        (Annotated[int, Field(ge=0)] | str, 1, UUID(int=1)),
        (str | None, "a", None),
        (int | str, 1, UUID(int=1)),
        (Literal["a", 1], 1, UUID(int=1)),
    ],
)
def test_ids_are_what_the_class_declares(annotation, good, bad):
    cls = type("Kept", (State,), {"__annotations__": {"id": annotation}, "__module__": __name__})
    ids = Ids(cls)
    text = ids.text(good)
    assert ids.parse(text) == good
    assert ids.text(ids.parse(text)) == text
    with pytest.raises(InvalidKeyError):
        ids.text(bad)
    assert ids.of(cls(id=good)) == text


def test_the_text_of_an_enum_is_its_value():
    cls = type("Kept", (State,), {"__annotations__": {"id": Colour}, "__module__": __name__})
    assert Ids(cls).text(Colour.RED) == Ids(cls).text("red") == "red"


def test_a_property_may_say_nothing_of_its_type():
    class Bare(State):
        name: int

        @property
        def id(self):
            return self.name

    class Unknown(State):
        name: int

        @property
        def id(self) -> Nowhere:  # noqa: F821
            return self.name

    class Generic(State):
        name: int

        @property
        def id(self) -> Annotated[int, "a number"]:
            return self.name

    assert Ids(Bare).text("1") != Ids(Bare).of(Bare(name=1))
    assert Ids(Unknown).parse(Ids(Unknown).of(Unknown(name=1))) == 1
    assert Ids(Generic).of(Generic(name=1)) == "1"


@pytest.mark.parametrize("cls", [NoId, FloatId])
async def test_a_type_without_an_id_is_refused(cls):
    with pytest.raises(StateDefinitionError, match="id"):
        await KeyedContainer.open(cls)


@pytest.mark.parametrize("returned", [bool, Weight, list[str], "Any"])
def test_a_property_that_is_no_id_is_refused_or_looked_at_each_time(returned):
    def get(self):
        return self.name

    get.__annotations__["return"] = Any if returned == "Any" else returned
    cls = type("Kept", (State,), {"__annotations__": {"name": float}, "id": property(get), "__module__": __name__})
    if returned == "Any":
        with pytest.raises(StateValidationError):
            Ids(cls).of(cls(name=1.5))
    else:
        with pytest.raises(StateDefinitionError):
            Ids(cls)


def test_an_integer_of_too_many_digits_is_no_id():
    class Numbered(State):
        id: int

    with pytest.raises(InvalidKeyError, match="digits"):
        Ids(Numbered).text(10**5000)


@pytest.mark.parametrize("what", [State, str, Cart(id="a"), None, "Cart"])
async def test_only_a_class_of_states_can_be_opened(what):
    with pytest.raises(StateDefinitionError):
        await KeyedContainer.open(what)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"key": ""}, InvalidKeyError),
        ({"key": 3}, InvalidKeyError),
        ({"url": 3}, SettingsError),
        ({"url": "nonsense"}, SettingsError),
        ({"url": "file:there"}, SettingsError),
        ({"store": "memory:"}, SettingsError),
        ({"config": {}}, SettingsError),
        ({"deadline": 0}, SettingsError),
        ({"deadline": True}, SettingsError),
        ({"deadline": "1"}, SettingsError),
        ({"url": "redis://there"}, UnsupportedError),
    ],
)
async def test_arguments_that_cannot_be_used_are_refused(arguments, error):
    with pytest.raises(error):
        await KeyedContainer.open(Cart, **arguments)


async def test_a_url_and_a_store_are_one_too_many():
    async with MemoryStore() as store:
        with pytest.raises(SettingsError, match="not both"):
            await KeyedContainer.open(Cart, "memory:", store=store)


async def test_a_store_that_was_given_stays_open_and_ones_own_is_closed():
    async with MemoryStore() as store:
        async with KeyedContainer.open(Cart, store=store) as container:
            await container.put(Cart(id="a"))
        assert await store.list_keys() == ["~keyed/Cart/state/a"]
        async with KeyedContainer.open(Cart, store=store) as container:
            assert await container.get("a") == Cart(id="a")
    for url in (None, "memory:"):
        async with KeyedContainer.open(Cart, url) as container:
            await container.put(Cart(id="a"))
            own = container._store
        assert own._closed


async def test_the_engine_must_be_able_to_compare_and_to_commit_several():
    class Weak(MemoryStore):
        engine = "weak"
        capabilities = frozenset({Capability.CAS})

    async with Weak() as store:
        with pytest.raises(UnsupportedError) as caught:
            await KeyedContainer.open(Cart, store=store)
    assert (caught.value.layer, caught.value.engine, caught.value.capability) == (
        "keyed container",
        "weak",
        "TRANSACTIONS",
    )


async def test_ones_own_store_is_closed_when_opening_fails(monkeypatch):
    opened: list[MemoryStore] = []

    class Weak(MemoryStore):
        capabilities = frozenset()

        def __init__(self, **arguments):
            super().__init__(**arguments)
            opened.append(self)

    monkeypatch.setattr("reactstate.kv.memory.MemoryStore", Weak)
    with pytest.raises(UnsupportedError):
        await KeyedContainer.open(Cart)
    assert opened[0]._closed


async def test_watching_needs_an_engine_that_can():
    class Deaf(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.WATCH}

    class Shaky(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

    async with Deaf() as store, KeyedContainer.open(Cart, store=store) as container:
        await container.put(Cart(id="a"))
        for call in (container.subscribe, lambda: container.watch("a"), lambda: container.on_change(print)):
            with pytest.raises(UnsupportedError, match="WATCH"):
                call()
    async with Shaky() as store, KeyedContainer.open(Cart, store=store) as container:
        with pytest.raises(UnsupportedError, match="SNAPSHOT_READS"):
            container.subscribe(on_lag="resync")


async def test_subclasses_are_opened_as_what_they_are():
    class Carts(KeyedContainer[Cart]):
        async def count_up(self, name: str) -> int:
            return (await self.update(name, lambda draft: setattr(draft, "count", draft.count + 1))).state.count

    async with Carts.open(Cart, config=StateConfig(buffer_size=3), key="mine") as carts:
        await carts.put(Cart(id="a"))
        assert await carts.count_up("a") == 1
        assert await carts.count_up("a") == 2
        assert type(carts) is Carts


async def test_opened_containers_are_context_managers_too():
    container = await KeyedContainer.open(Cart)
    async with container as same:
        assert same is container
    assert container._closed
