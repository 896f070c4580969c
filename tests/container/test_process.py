from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reactstate import (
    AlreadyOpenError,
    ClosedError,
    CompactedError,
    DecodeError,
    InvalidKeyError,
    ReadOnlyError,
    State,
    StateConfig,
    UnsupportedError,
)


class Tally(State):
    n: int = 0


def add(draft: Tally) -> None:
    draft.n += 1


class Handler:
    """Remembers what it was given, and fails when it is told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.fail_at = fail_at

    async def __call__(self, change: Any) -> None:
        if change.version == self.fail_at:
            raise ZeroDivisionError
        self.seen.append(change.version)
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.001)


async def test_at_least_once_starts_at_the_oldest_change_and_goes_on_where_it_was(disk):
    handler = Handler()
    async with disk.open(Tally()) as tally:
        await tally.update(add)
        running = asyncio.ensure_future(tally.process("billing", handler))
        await tally.update(add)
        await until(lambda: len(handler.seen) == 3)
    await running
    assert handler.seen == [1, 2, 3]
    async with disk.open(Tally) as tally:
        await tally.update(add)
        running = asyncio.ensure_future(tally.process("billing", handler, delivery="at_least_once"))
        other = Handler()
        both = asyncio.ensure_future(tally.process("other", other))
        await tally.update(add)
        await until(lambda: len(handler.seen) == 5 and len(other.seen) == 5)
    await asyncio.gather(running, both)
    assert handler.seen == other.seen == [1, 2, 3, 4, 5]


async def test_an_exception_of_the_handler_ends_process_without_advancing(disk):
    async with disk.open(Tally()) as tally:
        for _ in range(3):
            await tally.update(add)
        first = Handler(fail_at=3)
        with pytest.raises(ZeroDivisionError):
            await tally.process("billing", first)
        assert first.seen == [1, 2]
        again = Handler()
        running = asyncio.ensure_future(tally.process("billing", again))
        await until(lambda: len(again.seen) == 2)
        assert again.seen == [3, 4]
    await running


@pytest.mark.parametrize("durability", ["always", "never", "interval"])
async def test_a_crash_repeats_at_most_what_was_being_handled_and_skips_nothing(new_place, durability):
    for at in range(1, 60, 3):
        place = new_place(durability=durability)
        tally = await place.open(Tally())
        handler = Handler()
        running = asyncio.ensure_future(tally.process("billing", handler))
        for _ in range(3):
            await tally.update(add)
        place.files.crash(at=at)
        await asyncio.gather(*(tally.update(add) for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(0.002)
        after = place.files.after_crash("torn")
        await asyncio.gather(tally.aclose(), running, return_exceptions=True)
        place.files = after
        async with place.open(Tally) as tally:
            # Versions may be used anew after a power cut: none of them may be passed over.
            kept = tally.version
            await tally.update(add)
            again = Handler()
            running = asyncio.ensure_future(tally.process("billing", again))
            await until(lambda last=kept + 1, again=again: again.seen and again.seen[-1] == last)
        await running
        assert again.seen == list(range(again.seen[0], kept + 2))
        assert again.seen[0] <= kept + 1
        assert set(range(1, kept + 1)) <= {*handler.seen, *again.seen}


async def test_at_most_once_hears_only_what_is_made_while_it_listens(place):
    async with place.open(Tally(), config=StateConfig(buffer_size=2)) as tally:
        await tally.update(add)
        handler = Handler()
        running = asyncio.ensure_future(tally.process("live", handler, delivery="at_most_once"))
        await asyncio.sleep(0)
        await tally.update(add)
        await until(lambda: handler.seen == [3])
        for _ in range(10):
            await tally.update(add)
        await until(lambda: handler.seen[-1] == 13)
        assert handler.seen == sorted(set(handler.seen))
    await running


async def test_a_consumer_that_lags_gets_what_the_history_still_has(place):
    async with place.open(Tally(), config=StateConfig(buffer_size=2)) as tally:
        handler = Handler()
        running = asyncio.ensure_future(tally.process("slow", handler))
        await asyncio.sleep(0)
        for _ in range(30):
            await tally.update(add)
        await until(lambda: len(handler.seen) == 31)
        assert handler.seen == list(range(1, 32))
    await running


async def test_who_comes_too_late_is_told_where_to_resume(place):
    async with place.open(Tally(), config=StateConfig(history_size=3)) as tally:
        with pytest.raises(ZeroDivisionError):
            await tally.process("late", Handler(fail_at=1))
        first = Handler()
        running = asyncio.ensure_future(tally.process("late", first))
        await until(lambda: first.seen == [1])
        await asyncio.sleep(0.002)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for _ in range(9):
            await tally.update(add)
        with pytest.raises(CompactedError) as caught:
            await tally.process("late", Handler())
        assert caught.value.resume == 7


async def test_one_consumer_a_name_may_be_active(place):
    async with place.open(Tally()) as tally:
        running = asyncio.ensure_future(tally.process("billing", Handler()))
        await asyncio.sleep(0)
        with pytest.raises(AlreadyOpenError):
            await tally.process("billing", Handler())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(ZeroDivisionError):
            await tally.process("billing", Handler(fail_at=1))


async def test_closing_lets_the_handler_finish_and_stores_its_cursor(disk):
    tally = await disk.open(Tally())
    gate = asyncio.Event()
    seen: list[int] = []

    async def slow(change: Any) -> None:
        await gate.wait()
        seen.append(change.version)

    running = asyncio.ensure_future(tally.process("billing", slow))
    await tally.update(add)
    await asyncio.sleep(0.002)
    closing = asyncio.ensure_future(tally.aclose())
    await asyncio.sleep(0.002)
    assert not closing.done()
    gate.set()
    await asyncio.gather(closing, running)
    assert seen == [1]
    async with disk.open(Tally) as tally:
        again = Handler()
        running = asyncio.ensure_future(tally.process("billing", again))
        await until(lambda: again.seen == [2])
    await running


async def test_a_handler_may_close_its_container(place):
    tally = await place.open(Tally(), deadline=2.0)

    async def last(change: Any) -> None:
        await tally.aclose()

    with pytest.raises(ClosedError, match="handled again"):
        await tally.process("billing", last)
    with pytest.raises(ClosedError, match="open it again"):
        await tally.process("billing", last)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", ".", "..", "a..b", "x" * 101, "con", 5, None])
async def test_names_that_could_lead_elsewhere_are_refused(disk, name):
    async with disk.open(Tally()) as tally:
        handler = Handler()
        with pytest.raises(InvalidKeyError):
            await tally.process(name, handler)
        assert handler.seen == []


async def test_what_a_delivery_needs_is_said(place):
    async with place.open(Tally()) as tally:
        if place.store is None:
            with pytest.raises(UnsupportedError) as caught:
                await tally.process("billing", Handler(), delivery="exactly_once")
            assert caught.value.capability == "TRANSACTIONS"
        with pytest.raises(ValueError, match="at_most_once"):
            await tally.process("billing", Handler(), delivery="twice")


async def test_a_read_only_container_stores_no_cursor(disk):
    async with disk.open(Tally()), disk.open(Tally, read_only=True) as reader:
        handler = Handler()
        with pytest.raises(ReadOnlyError):
            await reader.process("billing", handler)
        assert handler.seen == []


async def test_a_damaged_cursor_is_a_typed_error(disk):
    async with disk.open(Tally()) as tally:
        await tally._persistence.put_blob("cursors/billing", b"{}")
        with pytest.raises(DecodeError):
            await tally.process("billing", Handler())
