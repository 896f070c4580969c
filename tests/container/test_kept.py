"""What is kept of the past: how much, how long, what it costs, and that it is right."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reactstate import CompactedError, ManualClock, Map, NoHistoricalState, State, StateConfig, StateContainer


class Shelf(State):
    items: dict[str, int] = {}
    tags: set[str] = set()
    order: list[int] = []


class Wide(State):
    items: Map[str, int] = Map()


def put(draft: Any, name: str, n: int) -> None:
    draft.items[name] = n


def shuffle(draft: Shelf, n: int) -> None:
    draft.order.insert(0, n)
    draft.order.sort(reverse=n % 2 == 0)


async def test_history_is_bounded_by_count_and_the_oldest_state_can_still_be_reached(place):
    config = StateConfig(history_size=4)
    async with place.open(Shelf(), config=config) as shelf:
        for n in range(20):
            await shelf.update(put, "a", n)
        assert [change.version for change in shelf.history] == [18, 19, 20, 21]
        assert (await shelf.at(17)).items == {"a": 15}
        with pytest.raises(NoHistoricalState) as caught:
            await shelf.at(16)
        assert (caught.value.oldest, caught.value.newest) == (18, 21)
        assert shelf.history.get_previous(3).version == 18
        with pytest.raises(NoHistoricalState):
            shelf.history.get_previous(4)


@pytest.mark.parametrize("compact", [False, True])
async def test_history_is_bounded_by_age_across_restarts_and_compaction(disk, compact):
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    config = StateConfig(history_retention=timedelta(minutes=10))
    async with disk.open(Shelf(), config=config, clock=clock) as shelf:
        for n in range(30):
            clock.advance(60)
            await shelf.update(put, "a", n)
            if compact and n % 10 == 9:
                await shelf._committer._save()
        kept = [change.version for change in shelf.history]
        assert kept == list(range(21, 32))
        states = [change.new_state for change in shelf.history]
    async with disk.open(Shelf, config=config, clock=clock) as shelf:
        assert [change.version for change in shelf.history] == kept
        assert [change.new_state for change in shelf.history] == states
        assert shelf.history[0].old_state.items == {"a": 18}
        clock.advance(5 * 60)
        assert [change.version for change in shelf.history] == kept[5:]
        clock.advance(10**6)
        assert [change.version for change in shelf.history] == [31]
        with pytest.raises(CompactedError):
            shelf.subscribe(since=29)
        await shelf.undo()
        assert shelf.state.items == {"a": 28}
    async with disk.open(Shelf, config=config, clock=clock) as shelf:
        assert shelf.version == 32
        assert shelf.history[-1].action == "undo"


async def test_states_far_back_are_rebuilt_right_in_every_era_of_a_container(disk):
    expected: list[Any] = [None]
    for era in range(4):
        async with disk.open(Shelf()) as shelf:
            if era == 0:
                expected.append(shelf.state)
            for n in range(30):
                if n % 3 == 0:
                    await shelf.update(put, f"k{n % 7}", era * 100 + n)
                elif n % 3 == 1:
                    await shelf.update(lambda d, n=n: d.tags.symmetric_difference_update({f"t{n % 4}"}))
                else:
                    await shelf.update(shuffle, n)
                if shelf.version == len(expected):
                    expected.append(shelf.state)
            if era == 2:
                await shelf._committer._save()
            for version in range(1, shelf.version + 1):
                change = shelf.history[version - 1]
                assert change.new_state == expected[version]
                assert change.old_state == expected[version - 1]
                assert await shelf.at(version) == expected[version]


async def test_a_kept_version_of_a_thousand_items_costs_little(place):
    kept = 300
    async with place.open(
        Shelf(items={f"k{n}": n for n in range(1000)}), config=StateConfig(history_size=kept)
    ) as shelf:
        for n in range(20):
            await shelf.update(put, f"k{n}", -n)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(kept - 30):
                await shelf.update(put, f"k{n}", n + 7)
            gc.collect()
            cost = (tracemalloc.get_traced_memory()[0] - before) / (kept - 30)
        finally:
            tracemalloc.stop()
        assert cost < 6 * 1024
        assert (await shelf.at(100)).items["k90"] == 90
        assert (await shelf.at(1)).items == {f"k{n}": n for n in range(1000)}


async def test_memory_stays_flat_once_the_history_is_full():
    shelf = StateContainer(Wide(), config=StateConfig(history_size=10))
    async with shelf:
        for n in range(200):
            await shelf.update(put, "a", n)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(3000):
                await shelf.update(put, "a", n)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 100_000


async def test_a_follower_keeps_a_version_as_cheaply(disk):
    async with (
        disk.open(Shelf(items={f"k{n}": n for n in range(1000)})) as writer,
        disk.open(Shelf, read_only=True) as reader,
    ):
        for n in range(100):
            await writer.update(put, f"k{n}", -n)
        while reader.version < writer.version:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)
        held = [change for change in reader.history if type(change._state) is Shelf]
        assert len(held) <= 10
        assert reader.history[50].new_state == writer.history[50].new_state
