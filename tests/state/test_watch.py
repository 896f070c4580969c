from __future__ import annotations

import asyncio

import pytest

from reactstate import AtomicState, State, Watch


class Tally(State):
    n: int = 0


def add(draft: Tally) -> None:
    draft.n += 1


async def test_the_current_state_comes_first_and_then_the_newest_after_each_burst():
    tally = AtomicState(Tally(n=5))
    watching = tally.watch()
    assert isinstance(watching, Watch)
    assert aiter(watching) is watching
    assert (await anext(watching)).n == 5
    for burst in (1, 3, 1000):
        for _ in range(burst):
            tally.update(add)
        assert (await anext(watching)).n == tally.state.n


async def test_a_waiting_reader_is_woken_by_the_next_change_only():
    tally = AtomicState(Tally())
    async with tally.watch() as watching:
        await anext(watching)
        waiting = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0)
        tally.update(lambda draft: None)
        await asyncio.sleep(0)
        assert not waiting.done()
        tally.update(add)
        assert (await waiting).n == 1


async def test_a_deleted_state_is_not_reported():
    tally = AtomicState(Tally())
    tally.delete()
    watching = tally.watch()
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    assert not waiting.done()
    tally.set(Tally(n=2))
    assert (await waiting).n == 2


async def test_a_reader_that_gives_up_loses_nothing():
    tally = AtomicState(Tally())
    watching = tally.watch()
    await anext(watching)
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    tally.update(add)
    assert (await anext(watching)).n == 1


async def test_it_ends_when_it_or_its_source_is_closed():
    tally = AtomicState(Tally())
    closed, open_ = tally.watch(), tally.watch()
    await closed.aclose()
    assert [state async for state in closed] == []
    tally.update(add)
    tally.close()
    assert [state.n async for state in open_] == [1]
