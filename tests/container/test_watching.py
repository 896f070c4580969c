from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from reactstate import (
    ChangeType,
    ClosedError,
    CompactedError,
    LaggedError,
    NoHistoricalState,
    State,
    StateConfig,
    StateContainer,
    WrongContextError,
    derive,
)


class Tally(State):
    n: int = 0
    name: str = ""


def add(draft: Tally, one: int = 1) -> None:
    draft.n += one


async def read(subscription: Any, pause: int) -> list[Any]:
    seen: list[Any] = []
    while True:
        try:
            change = await anext(subscription)
        except LaggedError as exc:
            seen.append(-exc.missed)
            continue
        except StopAsyncIteration:
            return seen
        seen.append(change.version)
        for _ in range(pause):
            await asyncio.sleep(0)


async def test_subscribers_at_any_speed_see_each_version_once_in_order_or_are_told_of_the_gap(place):
    tally = await place.open(Tally(), config=StateConfig(buffer_size=8))
    readers = [asyncio.ensure_future(read(tally.subscribe(), pause)) for pause in (0, 1, 7, 40)]
    for _ in range(60):
        await tally.update(add)
        await asyncio.sleep(0)
    await tally.aclose()
    for seen in await asyncio.gather(*readers):
        version = 1
        for one in seen:
            version = version - one if one < 0 else version + 1
            assert one < 0 or one == version
        assert version == 61


async def test_since_begins_with_what_is_kept_and_goes_on_live_without_a_gap(place):
    async with place.open(Tally()) as tally:
        for _ in range(5):
            await tally.update(add)
        subscription = tally.subscribe(since=2)
        live = tally.subscribe(since=6)
        await tally.update(add)
        assert [(await anext(subscription)).version for _ in range(5)] == [3, 4, 5, 6, 7]
        assert (await anext(live)).version == 7
        assert [(await anext(s)).version for s in [tally.subscribe(since=0)]] == [1]
        with pytest.raises(NoHistoricalState) as caught:
            tally.subscribe(since=8)
        assert caught.value.newest == 7
        with pytest.raises(ValueError, match="0 or more"):
            tally.subscribe(since=-1)
        for wrong in ({"buffer": 0}, {"on_lag": "drop"}):
            with pytest.raises(ValueError, match="must be"):
                tally.subscribe(**wrong)


async def test_since_goes_across_a_restart(disk):
    async with disk.open(Tally()) as tally:
        for _ in range(5):
            await tally.update(add)
    async with disk.open(Tally) as tally:
        subscription = tally.subscribe(since=3)
        await tally.update(add)
        changes = [await anext(subscription) for _ in range(4)]
        assert [(change.version, change.new_state.n) for change in changes] == [(4, 3), (5, 4), (6, 5), (7, 6)]
        assert [change.old_state.n for change in changes] == [2, 3, 4, 5]


async def test_since_a_version_that_is_no_longer_kept_says_where_to_resume(place):
    async with place.open(Tally(), config=StateConfig(history_size=3)) as tally:
        for _ in range(9):
            await tally.update(add)
        with pytest.raises(CompactedError) as caught:
            tally.subscribe(since=6)
        assert caught.value.resume == 7
        subscription = tally.subscribe(since=7)
        assert [(await anext(subscription)).version for _ in range(3)] == [8, 9, 10]
        assert (await tally.at(7)).n == 6


async def test_a_slow_subscriber_with_resync_gets_one_change_to_the_current_state(place):
    async with place.open(Tally(), config=StateConfig(buffer_size=4, on_lag="resync")) as tally:
        subscription = tally.subscribe()
        for _ in range(20):
            await tally.update(add)
        change = await anext(subscription)
        assert (change.version, change.new_state, change.action) == (21, tally.state, "resync")
        assert change.change_type is ChangeType.UPDATE
        await tally.update(add)
        assert (await anext(subscription)).version == 22
        for _ in range(20):
            await tally.update(add)
        await tally.delete()
        change = await anext(subscription)
        assert (change.version, change.new_state, change.change_type) == (43, None, ChangeType.DELETE)


async def test_on_change_sees_every_change_in_order_also_those_made_because_of_it(place):
    async with place.open(Tally()) as tally:
        heard: list[tuple[str, int]] = []
        follow_ups: list[Any] = []

        def first(change: Any) -> None:
            heard.append(("first", change.version))
            if change.new_state.n < 5:
                follow_ups.append(asyncio.ensure_future(tally.update(add)))

        undo = tally.on_change(first)
        tally.on_change(lambda change: heard.append(("second", change.version)))
        await tally.update(add)
        while tally.state.n < 5:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)
        assert heard == [(who, version) for version in range(2, 7) for who in ("first", "second")]
        undo()
        undo()
        await tally.update(add)
        assert heard[-1] == ("second", 7)
        await asyncio.gather(*follow_ups)


async def test_an_exception_in_a_callback_is_logged_and_goes_no_further(place, caplog):
    async with place.open(Tally()) as tally:
        heard: list[int] = []
        tally.on_change(lambda change: 1 // 0)
        tally.on_change(lambda change: heard.append(change.version))
        await tally.update(add)
        await tally.update(add)
        assert heard == [2, 3]
        assert caplog.text.count("ZeroDivisionError") == 2


async def test_changed_is_a_signal(place):
    async with place.open(Tally()) as tally:
        heard: list[tuple[Any, int]] = []

        def receiver(sender: Any, change: Any) -> None:
            heard.append((sender, change.version))

        tally.changed.connect(receiver)
        await tally.update(add)
        assert heard == [(tally, 2)]


async def test_watch_gives_the_newest_state_and_none_twice(place):
    tally = await place.open(Tally())
    watching = tally.watch()
    assert (await anext(watching)).n == 0
    for _ in range(5):
        await tally.update(add)
    assert (await anext(watching)).n == 5
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    assert not waiting.done()
    await tally.delete()
    await asyncio.sleep(0)
    await tally.set(Tally(n=9))
    assert (await waiting).n == 9
    late = tally.watch()
    await tally.update(add)
    await tally.aclose()
    assert [state.n async for state in watching] == [10]
    assert [state.n async for state in late] == [10]


async def test_watch_ends_when_it_is_closed(place):
    async with place.open(Tally()) as tally:
        async with tally.watch() as watching:
            async for state in watching:
                assert state.n == 0
                break
        await tally.update(add)
        assert [state async for state in watching] == []


async def test_closing_ends_every_iteration_after_what_was_made(place):
    tally = await place.open(Tally())
    subscription = tally.subscribe()
    view = tally.select(lambda state: state.n * 2)
    doubled = view.subscribe()
    await tally.update(add)
    await tally.update(add)
    await tally.aclose()
    assert [change.version async for change in subscription] == [2, 3]
    assert [change.new_state async for change in doubled] == [2, 4]
    assert (tally.state.n, tally.version, view.value) == (2, 3, 4)
    with pytest.raises(ClosedError):
        view.subscribe()


async def test_a_view_of_a_container_announces_what_differs(place):
    async with place.open(Tally()) as tally:
        view = tally.select(lambda state: state.n // 2)
        heard: list[tuple[int, int]] = []
        view.on_change(lambda change: heard.append((change.old_state, change.new_state)))
        for _ in range(5):
            await tally.update(add)
        assert heard == [(0, 1), (1, 2)]
        async with StateContainer(Tally(n=10)) as other:
            both = derive(tally, other, lambda a, b: a.n + b.n)
            sums = both.subscribe()
            await other.update(add)
            await tally.update(add)
            assert [(await anext(sums)).new_state for _ in range(2)] == [16, 17]


async def test_reading_from_another_thread_never_waits_and_never_mixes(place):
    async with place.open(Tally()) as tally:
        going = True
        wrong: list[Any] = []

        def reader() -> None:
            while going:
                current = tally.current
                if current.state.n != current.version - 1:
                    wrong.append(current)
                history = list(tally.history)
                if [change.version for change in history] != list(
                    range(history[0].version, history[0].version + len(history))
                ):
                    wrong.append(history)
                if history[0].new_state.n != history[0].version - 1:
                    wrong.append(history[0])

        threads = [threading.Thread(target=reader) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(40 if place.durable else 1000):
            await tally.update(add)
        going = False
        for thread in threads:
            thread.join()
        assert wrong == []


async def test_calls_from_another_loop_or_thread_get_a_clear_error(place):
    async with place.open(Tally()) as tally:
        caught: list[BaseException] = []

        def elsewhere() -> None:
            for call in (
                lambda: asyncio.run(tally.update(add)),
                lambda: asyncio.run(tally.set(Tally(n=1))),
                lambda: asyncio.run(tally.get()),
                lambda: asyncio.run(tally.aclose()),
                lambda: asyncio.run(tally.snapshot()),
                tally.subscribe,
                tally.watch,
            ):
                try:
                    call()
                except WrongContextError as exc:
                    caught.append(exc)

        await asyncio.to_thread(elsewhere)
        assert len(caught) == 7
        assert tally.state.n == 0
        await tally.update(add)
