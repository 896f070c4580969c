from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Self

import pytest

from reactstate import (
    BoundedStaleness,
    ChangeType,
    ConflictError,
    Eventual,
    FrozenStateError,
    ManualClock,
    MergeUnsupportedError,
    NoHistoricalState,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    StateValidationError,
    Strong,
    TransitionError,
    UnsupportedError,
    WrongContextError,
    apply_patch,
    to_document,
)
from reactstate.codec import checksum


class Cart(State):
    owner: str = "ada"
    items: dict[str, int] = {}
    status: str = "open"

    def check_transition(self, previous: Cart) -> None:
        if self.status == "forbidden":
            raise TransitionError("no way")


class Tally(State):
    n: int = 0

    def merge(self, other: Self) -> Self:
        return type(self)(n=max(self.n, other.n))


def put(draft: Cart, name: str, n: int) -> None:
    draft.items[name] = n


class CartContainer(StateContainer[Cart]):
    def put(self, name: str, n: int) -> Any:
        return self.update(put, name, n, action="put")


async def test_a_new_container_is_at_version_1_with_its_first_state(place):
    async with place.open(Cart()) as cart:
        assert (cart.version, cart.state) == (1, Cart())
        assert [change.change_type for change in cart.history] == [ChangeType.CREATE]
        created = cart.history[0]
        assert (created.old_state, created.new_state, created.action) == (None, Cart(), None)
        assert "version=1" in repr(cart)


async def test_update_returns_what_is_current_and_keeps_who_what_and_why(place):
    async with place.open(Cart()) as cart:
        made = await cart.update(put, "pear", 3, actor="ada", tags={"why": "demo", "n": 1, "f": 0.5, "b": True})
        assert made == cart.current
        assert (made.version, made.state.items, made.exists) == (2, {"pear": 3}, True)
        change = cart.history[-1]
        assert (change.actor, change.action) == ("ada", "put")
        assert change.tags == {"why": "demo", "n": 1, "f": 0.5, "b": True}
        assert change.patch == [{"op": "add", "path": "/items/pear", "value": 3}]
        assert change.inverse == [{"op": "remove", "path": "/items/pear"}]
        assert made.timestamp == change.timestamp
        assert made.metadata.tags == change.tags
        assert made.metadata.checksum == checksum(to_document(made.state))
        assert made.metadata.created_at == cart.history[0].timestamp
        assert made.metadata.updated_at == change.timestamp


async def test_a_lambda_a_partial_and_a_mapping_have_no_name(place):
    async with place.open(Cart()) as cart:
        await cart.update(lambda d: d.items.update(a=1))
        await cart.update(partial(put, name="b", n=2))
        await cart.update({"status": "paid", "owner": "bob"})
        assert [change.action for change in cart.history] == [None] * 4
        await cart.update({"status": "open"}, action="reopen")
        assert cart.history[-1].action == "reopen"
        assert cart.state == Cart(owner="bob", items={"a": 1, "b": 2})


async def test_a_recipe_may_return_a_whole_new_state(place):
    async with place.open(Cart()) as cart:
        await cart.update(lambda d: Cart(owner="bob"))
        assert cart.state == Cart(owner="bob")
        await cart.update(lambda d: d.items.pop("x", None))
        assert cart.version == 2


async def test_a_change_that_changes_nothing_makes_no_version(place):
    async with place.open(Cart()) as cart:
        for change in (
            cart.update(lambda d: None),
            cart.update({"status": "open"}),
            cart.set(Cart()),
            cart.compare_and_swap(1, {"owner": "ada"}),
            cart.rollback_to(1),
        ):
            await change
        async with cart.edit() as draft:
            draft.items.update({})
        assert (cart.version, len(cart.history)) == (1, 1)


async def test_set_puts_a_whole_state_in_place_and_shares_what_is_equal(place):
    async with place.open(Cart(items={"a": 1})) as cart:
        made = await cart.set(Cart(owner="bob", items={"a": 1}), actor="x")
        assert cart.history[-1].patch == [{"op": "replace", "path": "/owner", "value": "bob"}]
        assert (made.version, cart.history[-1].action) == (2, "set")
        with pytest.raises(ConflictError):
            await cart.set(Cart(), expected_version=1)
        await cart.set(Cart(), expected_version=2)


async def test_merge_uses_the_states_own_merge(place):
    async with place.open(Tally(n=3)) as tally:
        await tally.merge(Tally(n=9), actor="peer")
        assert tally.state.n == 9
        assert tally.history[-1].change_type is ChangeType.MERGE
        await tally.merge(Tally(n=1))
        assert tally.version == 2
        with pytest.raises(StateValidationError):
            await tally.merge(Cart())


async def test_merge_of_a_class_that_does_not_define_it_is_refused(place):
    async with place.open(Cart()) as cart:
        with pytest.raises(MergeUnsupportedError, match="merge"):
            await cart.merge(Cart(owner="bob"))
        assert cart.version == 1


async def test_after_delete_there_is_no_state_and_the_next_set_creates_it_with_the_next_version(place):
    async with place.open(Cart()) as cart:
        gone = await cart.delete(actor="ada")
        assert (gone.version, gone.exists, cart.version) == (2, False, 2)
        for call in (lambda: cart.state, lambda: cart.current.state):
            with pytest.raises(StateNotFoundError, match="version 2"):
                call()
        for verb in (cart.update({"owner": "x"}), cart.delete(), cart.merge(Cart()), cart.snapshot(), cart.get()):
            with pytest.raises(StateNotFoundError):
                await verb
        assert cart.history[-1].change_type is ChangeType.DELETE
        assert cart.history[-1].new_state is None
        assert cart.history[-1].old_state == Cart()
        made = await cart.set(Cart(owner="eve"))
        assert (made.version, cart.history[-1].change_type) == (3, ChangeType.CREATE)
        assert made.metadata.created_at == cart.history[-1].timestamp
        with pytest.raises(StateNotFoundError):
            await cart.at(2)


async def test_delete_can_be_undone_and_redone(place):
    async with place.open(Cart(owner="bob")) as cart:
        await cart.delete()
        await cart.undo()
        assert cart.state == Cart(owner="bob")
        await cart.redo()
        assert not cart.current.exists
        await cart.set(Cart(owner="eve"))
        await cart.undo()
        assert not cart.current.exists
        await cart.undo()
        assert cart.state == Cart(owner="bob")


async def test_delete_expects_a_version(place):
    async with place.open(Cart()) as cart:
        with pytest.raises(ConflictError) as caught:
            await cart.delete(expected_version=7)
        assert caught.value.current == cart.current
        await cart.delete(expected_version=1)


async def test_edit_commits_at_the_end_of_its_block(place):
    async with place.open(Cart()) as cart:
        async with cart.edit(actor="ada", action="fill", tags={"t": 1}) as draft:
            draft.items["pear"] = 1
            await asyncio.sleep(0)
            draft.owner = "bob"
            assert cart.state == Cart()
        assert cart.state == Cart(owner="bob", items={"pear": 1})
        change = cart.history[-1]
        assert (change.actor, change.action, change.tags) == ("ada", "fill", {"t": 1})
        with pytest.raises(FrozenStateError):
            draft.owner = "eve"


async def test_edit_conflicts_with_an_update_in_its_block_and_never_deadlocks(place):
    async with place.open(Cart()) as cart:
        with pytest.raises(ConflictError) as caught:
            async with cart.edit() as draft:
                draft.owner = "bob"
                await cart.update({"status": "paid"})
        assert caught.value.current.version == 2
        assert cart.state == Cart(status="paid")


async def test_an_exception_in_an_edit_block_discards_the_draft(place):
    async with place.open(Cart()) as cart:
        with pytest.raises(ZeroDivisionError):
            async with cart.edit() as draft:
                draft.owner = "bob"
                raise ZeroDivisionError
        assert cart.version == 1
        block = cart.edit()
        async with block as draft:
            draft.owner = "eve"
        with pytest.raises(WrongContextError):
            async with block:
                pass
        with pytest.raises(TransitionError):
            async with cart.edit() as draft:
                draft.status = "forbidden"


async def test_compare_and_swap_takes_a_state_or_a_version(place):
    async with place.open(Cart()) as cart:
        assert await cart.compare_and_swap(1, {"owner": "bob"})
        assert not await cart.compare_and_swap(1, {"owner": "eve"})
        assert await cart.compare_and_swap(Cart(owner="bob"), put, "a", 1, actor="x", action="y")
        assert not await cart.compare_and_swap(Cart(owner="bob"), put, "a", 2)
        assert (cart.version, cart.history[-1].action) == (3, "y")
        await cart.delete()
        assert not await cart.compare_and_swap(Cart(), {"owner": "x"})
        with pytest.raises(TypeError):
            cart.compare_and_swap("1", {})


async def test_a_conflict_that_the_recipe_itself_raises_is_not_taken_for_a_lost_swap(place):
    def recipe(draft: Cart) -> None:
        raise ConflictError("mine")

    async with place.open(Cart()) as cart:
        with pytest.raises(ConflictError, match="mine"):
            await cart.compare_and_swap(1, recipe)


async def test_an_unmet_expectation_hands_back_what_is_current(place):
    async with place.open(Cart()) as cart:
        await cart.update({"owner": "bob"})
        with pytest.raises(ConflictError) as caught:
            await cart.update({"owner": "eve"}, expected_version=1)
        assert caught.value.current == cart.current
        assert caught.value.current.metadata.created_at == cart.current.metadata.created_at
        await cart.update({"owner": "eve"}, expected_version=2)


async def test_rollback_goes_to_the_version_before_so_a_second_comes_back(place):
    async with place.open(Tally()) as tally:
        for n in (1, 2, 3):
            await tally.update({"n": n})
        await tally.rollback()
        assert (tally.version, tally.state.n) == (5, 2)
        await tally.rollback(steps=1, actor="ada", action="oops")
        assert (tally.state.n, tally.history[-1].action) == (3, "oops")
        assert tally.history[-1].change_type is ChangeType.ROLLBACK
        await tally.rollback_to(1)
        assert (tally.version, tally.state.n) == (7, 0)
        await tally.rollback(6)
        assert tally.version == 7


@pytest.mark.parametrize("steps", [10**9, 4, 5])
async def test_rollback_beyond_the_first_version_says_what_is_kept(place, steps):
    async with place.open(Tally()) as tally:
        for n in (1, 2, 3):
            await tally.update({"n": n})
        with pytest.raises(NoHistoricalState) as caught:
            await tally.rollback(steps)
        assert (caught.value.oldest, caught.value.newest) == (1, 4)
        assert tally.version == 4


@pytest.mark.parametrize("steps", [0, -1])
async def test_rollback_of_no_steps_is_refused_at_the_call(place, steps):
    async with place.open(Tally()) as tally:
        with pytest.raises(ValueError, match="1 or more"):
            tally.rollback(steps)


@pytest.mark.parametrize("version", [0, -1, 5, 10**12])
async def test_versions_that_were_never_made_are_not_there(place, version):
    async with place.open(Tally()) as tally:
        await tally.update({"n": 1})
        for call in (tally.at(version), tally.rollback_to(version), tally.diff(1, version)):
            with pytest.raises(NoHistoricalState):
                await call
        with pytest.raises(TypeError):
            await tally.at("1")


async def test_undo_walks_on_and_redo_returns_and_an_update_ends_redo(place):
    async with place.open(Tally()) as tally:
        for n in (1, 2, 3):
            await tally.update({"n": n})
        await tally.undo(actor="ada", tags={"t": 1})
        await tally.undo()
        assert tally.state.n == 1
        await tally.redo(actor="bob")
        assert tally.state.n == 2
        assert [(c.action, c.actor) for c in tally.history][-3:] == [("undo", "ada"), ("undo", None), ("redo", "bob")]
        await tally.update({"n": 9})
        with pytest.raises(NoHistoricalState, match="nothing to redo"):
            await tally.redo()
        for expected in (2, 1, 0):
            await tally.undo()
            assert tally.state.n == expected
        with pytest.raises(NoHistoricalState, match="nothing left to undo"):
            await tally.undo()


async def test_a_rollback_is_a_change_that_can_be_undone(place):
    async with place.open(Tally()) as tally:
        await tally.update({"n": 1})
        await tally.rollback()
        await tally.undo()
        assert tally.state.n == 1
        await tally.undo()
        assert tally.state.n == 0


async def test_at_finds_versions_and_moments(place):
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    async with place.open(Tally(), clock=clock) as tally:
        for n in (1, 2):
            clock.advance(60)
            await tally.update({"n": n})
        assert [(await tally.at(version)).n for version in (1, 2, 3)] == [0, 1, 2]
        start = datetime(2026, 5, 1, tzinfo=UTC)
        assert [(await tally.at(start + timedelta(seconds=s))).n for s in (0, 59, 60, 119, 120, 10**6)] == [
            0,
            0,
            1,
            1,
            2,
            2,
        ]
        with pytest.raises(NoHistoricalState):
            await tally.at(start - timedelta(microseconds=1))
        with pytest.raises(ValueError, match="time zone"):
            await tally.at(datetime(2026, 5, 1))


async def test_diff_is_the_patch_between_two_versions(place):
    async with place.open(Cart()) as cart:
        await cart.update(put, "a", 1)
        await cart.update(put, "b", 2)
        await cart.update(lambda d: d.items.clear())
        for old in range(1, 5):
            for new in range(1, 5):
                patch = await cart.diff(old, new)
                assert apply_patch(to_document(await cart.at(old)), patch) == to_document(await cart.at(new))


async def test_a_refused_change_leaves_everything_as_it_was(place):
    def broken(draft: Cart) -> None:
        draft.owner = "x"
        raise ZeroDivisionError

    async with place.open(Cart()) as cart:
        heard: list[Any] = []
        cart.on_change(heard.append)
        with pytest.raises(ZeroDivisionError):
            await cart.update(broken)
        with pytest.raises(StateValidationError):
            await cart.update({"owner": 5})
        with pytest.raises(StateValidationError):
            await cart.update({"nothing": 5})
        with pytest.raises(TransitionError):
            await cart.update({"status": "forbidden"})
        with pytest.raises(TransitionError):
            await cart.set(Cart(status="forbidden"))
        with pytest.raises(TypeError):
            await cart.update(5)
        with pytest.raises(TypeError):
            await cart.update({"owner": "x"}, "too", "many")
        assert (cart.version, len(cart.history), heard) == (1, 1, [])


async def test_a_coroutine_function_is_no_recipe(place):
    async def recipe(draft: Cart) -> None:
        draft.owner = "x"

    async with place.open(Cart()) as cart:
        with pytest.raises(TypeError, match="await"):
            await cart.update(recipe)
        with pytest.raises(TypeError, match="coroutine"):
            cart.on_change(recipe)
        assert cart.state == Cart()


async def test_an_update_inside_a_recipe_raises_at_once(place):
    async with place.open(Cart()) as cart:
        tried: list[type[BaseException]] = []

        def recipe(draft: Cart) -> None:
            for verb in (
                lambda: cart.update({"owner": "x"}),
                lambda: cart.set(Cart()),
                cart.delete,
                cart.undo,
                cart.edit,
                cart.snapshot,
                lambda: cart.restore("x"),
            ):
                try:
                    verb()
                except WrongContextError as exc:
                    tried.append(type(exc))
            draft.owner = "bob"

        await cart.update(recipe)
        assert (len(tried), cart.state.owner) == (7, "bob")
        await cart.compare_and_swap(2, recipe)
        assert len(tried) == 14
        await cart.update({"owner": "still works"})


@pytest.mark.parametrize(
    "tags",
    [
        {"a": object()},
        {"a": [1]},
        {"a": b"x"},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 1 << 63},
        {"a": 10**5000},
        {"a": "\ud800"},
        {"\ud800": 1},
        {1: "a"},
        5,
    ],
)
async def test_tags_that_cannot_be_stored_are_refused(place, tags):
    async with place.open(Cart()) as cart:
        for verb in (cart.update, lambda recipe, tags: cart.set(Cart(owner="x"), tags=tags)):
            with pytest.raises(StateValidationError):
                await verb({"owner": "x"}, tags=tags)
        assert cart.version == 1


async def test_tags_are_copied_and_cannot_be_changed_through_a_change(place):
    async with place.open(Cart()) as cart:
        tags = {"a": 1}
        await cart.update({"owner": "x"}, tags=tags)
        tags["a"] = 2
        assert cart.history[-1].tags == {"a": 1}
        assert cart.history[0].tags == {}
        with pytest.raises(TypeError):
            cart.history[-1].tags["a"] = 3


async def test_set_of_another_type_is_refused(place):
    class Other(Cart):
        pass

    async with place.open(Cart()) as cart:
        for wrong in (Tally(), Other(), {"owner": "x"}, None, Cart):
            with pytest.raises(StateValidationError):
                await cart.set(wrong)


async def test_an_actor_that_is_no_text_is_refused(place):
    async with place.open(Cart()) as cart:
        for wrong in (5, b"ada", "\ud800"):
            with pytest.raises(StateValidationError):
                await cart.set(Cart(owner="x"), actor=wrong)
            with pytest.raises(StateValidationError):
                await cart.delete(action=wrong)
        assert cart.version == 1


async def test_reading_is_current_whatever_consistency_is_asked(place):
    async with place.open(Cart()) as cart:
        for consistency in (None, Strong(), BoundedStaleness(max_lag=timedelta(0)), Eventual()):
            assert await cart.get(consistency) is cart.state
        assert cart.replication_lag == timedelta(0) or place.store is not None
        assert [repr(one) for one in (Strong(), Eventual(), BoundedStaleness(timedelta(1)))] == [
            "Strong()",
            "Eventual()",
            "BoundedStaleness(max_lag=datetime.timedelta(days=1))",
        ]
        with pytest.raises(TypeError):
            await cart.get("strong")
        with pytest.raises(ValueError, match="zero"):
            BoundedStaleness(timedelta(seconds=-1))


async def test_what_needs_locks_or_a_store_says_so(place):
    async with place.open(Cart()) as cart:
        if place.store is not None:
            with pytest.raises(TypeError):
                cart.update({"owner": "x"}, guard=object())
            return
        with pytest.raises(UnsupportedError) as caught:
            cart.update({"owner": "x"}, guard=object())
        assert caught.value.capability == "FENCING"


async def test_a_subclass_keeps_its_verbs_when_it_is_opened(place):
    async with place.open(Cart(), cls=CartContainer) as cart:
        await cart.put("a", 1)
        assert (type(cart), cart.state.items, cart.history[-1].action) == (CartContainer, {"a": 1}, "put")


async def test_a_container_is_made_at_once_in_memory():
    cart = StateContainer(Cart(), config=StateConfig(history_size=2))
    assert cart.version == 1
    async with cart:
        for n in range(5):
            await cart.update(put, "a", n)
        assert [change.version for change in cart.history] == [5, 6]
    for wrong in (Cart, {"a": 1}, None):
        with pytest.raises(StateValidationError):
            StateContainer(wrong)
