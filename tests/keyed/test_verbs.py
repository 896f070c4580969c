from __future__ import annotations

from datetime import UTC, datetime

import pytest

from reactstate.errors import (
    ClosedError,
    ConflictError,
    InvalidKeyError,
    StateNotFoundError,
    StateValidationError,
    TransitionError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.state.state import State


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
