from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from reactstate import (
    AtomicState,
    ClosedError,
    CompactedError,
    LaggedError,
    NoHistoricalState,
    State,
    StateContainer,
    StateNotFoundError,
    derive,
    select,
)


class Pair(State):
    a: int = 0
    b: int = 0


def both_by_one(draft: Pair) -> None:
    draft.a += 1
    draft.b += 1


class Spy:
    """A function that remembers how often it was called."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.fn(*arguments)


@pytest.fixture
def pair() -> AtomicState[Pair]:
    return AtomicState(Pair())


def test_a_view_is_computed_when_it_is_read_and_its_source_has_moved(pair):
    double = Spy(lambda state: state.a * 2)
    view = select(pair, double)
    assert (view.value, view.state, view.version, double.calls) == (0, 0, 0, 1)
    pair.update({"a": 1})
    pair.update({"a": 2})
    assert double.calls == 1
    assert (view.value, view.value, view.version, double.calls) == (4, 4, 1, 2)
    assert "version=1" in repr(view)


def test_a_view_announces_only_what_differs(pair):
    view = pair.select(lambda state: state.a // 10)
    heard: list[Any] = []
    undo = view.on_change(heard.append)
    for a in range(25):
        pair.update({"a": a})
    assert [(change.version, change.old_state, change.new_state) for change in heard] == [(1, 0, 1), (2, 1, 2)]
    assert repr(heard[0]) == "ViewChange(version=1, 0 -> 1)"
    undo()
    pair.update({"a": 90})
    assert len(heard) == 2


def test_equality_is_of_value_and_type_or_as_it_is_given(pair):
    heard: list[Any] = []
    view = select(pair, lambda state: 1 if state.a % 2 else True)
    view.on_change(lambda change: heard.append(change.new_state))
    close = select(pair, lambda state: state.a, equal=lambda a, b: abs(a - b) < 3)
    near: list[int] = []
    close.on_change(lambda change: near.append(change.new_state))
    for a in range(1, 7):
        pair.update({"a": a})
    assert [type(one) for one in heard] == [int, bool] * 3
    assert near == [3, 6]

    class Array:
        def __eq__(self, other: object) -> Any:
            raise ValueError("ambiguous")

        __hash__ = None

    arrays = select(pair, lambda state: Array())
    seen: list[Any] = []
    arrays.on_change(seen.append)
    pair.update({"a": 100})
    assert len(seen) == 1


def test_a_diamond_is_computed_once_a_commit_and_never_sees_a_mixture(pair):
    left = Spy(lambda state: state.a)
    right = Spy(lambda state: state.a * 10)
    top = Spy(lambda x, y: (x, y))
    one, other = select(pair, left), select(pair, right)
    both = derive(one, other, top)
    deep = derive(both, pair, lambda pairs, state: (*pairs, state.a))
    seen: list[Any] = []
    wide: list[Any] = []
    deep.on_change(lambda change: wide.append(change.new_state))
    both.on_change(lambda change: seen.append(change.new_state))
    for a in range(1, 20):
        pair.update({"a": a})
    assert seen == [(a, a * 10) for a in range(1, 20)]
    assert wide == [(a, a * 10, a) for a in range(1, 20)]
    assert left.calls == right.calls == top.calls == 20
    pair.update({"b": 1})
    assert (left.calls, top.calls, len(seen)) == (21, 20, 19)


def test_two_containers_feed_one_view():
    first, second = AtomicState(Pair(a=1)), AtomicState(Pair(a=2))
    total = derive(first, second, lambda a, b: a.a + b.a)
    heard: list[int] = []
    total.on_change(lambda change: heard.append(change.new_state))
    first.update({"a": 10})
    second.update({"a": 20})
    second.update({"a": 20})
    assert (heard, total.value) == ([12, 30], 30)
    named = derive(first, second, fn=lambda a, b: a.a * b.a)
    assert named.value == 200


def test_an_exception_of_one_view_is_logged_and_stops_no_other(pair, caplog):
    view = select(pair, lambda state: 10 // (state.a - 5))
    above = select(view, lambda value: value + 1)
    other = select(pair, lambda state: state.a)
    heard: list[Any] = []
    for one in (view, above, other):
        one.on_change(lambda change: heard.append(change.new_state))
    pair.update({"a": 5})
    assert heard == [5]
    assert caplog.text.count("could not be computed") == 2
    with pytest.raises(ZeroDivisionError):
        view.value  # noqa: B018 - the property raises
    pair.update({"a": 6})
    assert heard == [5, 10, 6, 11]
    with pytest.raises(ZeroDivisionError):
        select(pair, lambda state: 1 // 0)


def test_while_there_is_no_state_there_is_no_value_and_nothing_is_announced(pair, caplog):
    view = select(pair, lambda state: state.a)
    heard: list[Any] = []
    view.on_change(lambda change: heard.append((change.old_state, change.new_state)))
    pair.delete()
    with pytest.raises(StateNotFoundError):
        view.value  # noqa: B018 - the property raises
    subscription = view.subscribe()
    pair.set(Pair(a=3))
    assert (heard, caplog.text) == ([(0, 3)], "")
    assert subscription.get_nowait().new_state == 3
    pair.delete()
    with pytest.raises(StateNotFoundError):
        select(pair, lambda state: state.a)


def test_a_late_listener_hears_nothing_of_what_was_before(pair):
    view = select(pair, lambda state: state.a)
    pair.update({"a": 7})
    heard: list[Any] = []
    view.on_change(lambda change: heard.append(change.new_state))
    pair.update({"b": 1})
    assert heard == []
    assert view.version == 1


def test_an_update_inside_a_callback_of_a_view_is_delivered_after_the_current_one(pair):
    view = select(pair, lambda state: state.a)
    heard: list[tuple[str, int]] = []

    def chase(change: Any) -> None:
        heard.append(("chase", change.new_state))
        if change.new_state < 3:
            pair.update({"a": change.new_state + 1})

    view.on_change(chase)
    view.on_change(lambda change: heard.append(("watch", change.new_state)))
    pair.update({"a": 1})
    assert heard == [(who, n) for n in (1, 2, 3) for who in ("chase", "watch")]


def test_a_view_is_subscribed_to_like_a_container(pair):
    view = select(pair, lambda state: state.a)
    subscription = view.subscribe()
    for a in (1, 2, 3):
        pair.update({"a": a})
    assert [subscription.get_nowait().new_state for _ in range(3)] == [1, 2, 3]
    assert view.subscribe(since=3).get_nowait() is None
    with pytest.raises(CompactedError) as caught:
        view.subscribe(since=1)
    assert caught.value.resume == 3
    with pytest.raises(NoHistoricalState):
        view.subscribe(since=9)
    slow = view.subscribe(buffer=1)
    resynced = view.subscribe(buffer=1, on_lag="resync")
    for a in (4, 5, 6):
        pair.update({"a": a})
    with pytest.raises(LaggedError):
        slow.get_nowait()
    assert slow.get_nowait().new_state == 6
    assert resynced.get_nowait().new_state == 6


def test_a_view_has_a_signal(pair):
    view = select(pair, lambda state: state.a)
    heard: list[Any] = []

    def receiver(sender: Any, change: Any) -> None:
        heard.append((sender, change.new_state))

    view.changed.connect(receiver)
    pair.update({"a": 1})
    assert heard == [(view, 1)]


async def test_watch_of_a_view_gives_the_newest_value():
    async with StateContainer(Pair()) as pair:
        view = pair.select(lambda state: state.a // 10)
        watching = view.watch()
        assert await anext(watching) == 0
        for a in range(35):
            await pair.update({"a": a})
        assert await anext(watching) == 3
        waiting = asyncio.ensure_future(anext(watching))
        await pair.update({"a": 36})
        await asyncio.sleep(0)
        assert not waiting.done()
        await pair.update({"a": 40})
        assert await waiting == 4
    assert [value async for value in watching] == []


def test_closing_a_view_ends_what_listens_to_it(pair):
    view = select(pair, lambda state: state.a)
    subscription = view.subscribe()
    heard: list[Any] = []
    view.on_change(heard.append)
    view.close()
    view.close()
    pair.update({"a": 1})
    assert (heard, view.value) == ([], 1)
    with pytest.raises(ClosedError):
        subscription.get_nowait()
    for call in (view.subscribe, lambda: view.on_change(heard.append), lambda: view.changed):
        with pytest.raises(ClosedError):
            call()


def test_a_view_ends_when_all_of_its_containers_are_closed():
    first, second = AtomicState(Pair()), AtomicState(Pair())
    view = derive(first, second, lambda a, b: a.a + b.a)
    subscription = view.subscribe()
    first.close()
    second.update({"a": 1})
    assert subscription.get_nowait().new_state == 1
    second.close()
    with pytest.raises(ClosedError):
        subscription.get_nowait()


def test_what_is_no_source_or_no_function_is_a_type_error(pair):
    for call in (
        lambda: derive(fn=lambda: 1),
        lambda: derive(pair),
        lambda: derive(),
        lambda: derive(1, fn=lambda a: a),
        lambda: select("x", lambda a: a),
    ):
        with pytest.raises(TypeError):
            call()

    async def nobody_awaits(change: Any) -> None:
        pass

    with pytest.raises(TypeError):
        select(pair, lambda state: state.a).on_change(nobody_awaits)


def test_threads_that_commit_and_read_see_no_glitch_and_lose_no_last_value(pair):
    one = select(pair, lambda state: state.a)
    both = derive(one, pair, lambda a, state: (a, state.a, state.b))
    wrong: list[Any] = []
    heard: list[Any] = []
    both.on_change(lambda change: heard.append(change.new_state))
    going = True

    def reader() -> None:
        while going:
            a, again, b = both.value
            if not a == again == b:
                wrong.append((a, again, b))

    def writer() -> None:
        for _ in range(200):
            pair.update(both_by_one)

    readers = [threading.Thread(target=reader) for _ in range(2)]
    writers = [threading.Thread(target=writer) for _ in range(2)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    going = False
    for thread in readers:
        thread.join()
    assert wrong == []
    assert both.value == (400, 400, 400)
    assert heard[-1] == (400, 400, 400)
    assert heard == sorted(heard)
