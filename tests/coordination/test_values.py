from __future__ import annotations

import asyncio

import pytest

from reactstate.coordination.results import CasResult, Stored
from reactstate.errors import (
    CodecError,
    ContentionError,
    DecodeError,
    InvalidKeyError,
    LeaseLostError,
    UnsupportedError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Step


async def test_versions_grow_with_each_write_and_removal(here, there, key):
    first = await here.set(key(), "a")
    assert await there.get(key()) == Stored("a", first)
    second = await there.set(key(), "b")
    assert second > first
    assert await here.delete(key()) is True
    assert await here.delete(key()) is False
    assert await here.get(key()) is None
    assert await here.set(key(), "a") > second


async def test_a_set_without_ttl_clears_the_ttl(here, key, clock):
    await here.set(key(), "a", 5)
    assert (await here.get(key())).expires_at is not None
    await here.set(key(), "b")
    clock.advance(10)
    assert (await here.get(key())).value == "b"
    await here.set(key(), "c", ttl=5)
    clock.advance(5)
    assert await here.get(key()) is None
    assert await here.delete(key()) is False


async def test_compare_and_swap_by_value(here, there, key):
    first = await here.compare_and_swap(key(), None, "a")
    assert first == CasResult(True, first.version, "a")
    assert await there.compare_and_swap(key(), None, "b") == CasResult(False, first.version, "a")
    second = await there.compare_and_swap(key(), "a", "b")
    assert second.swapped
    assert second.version > first.version
    refused = await here.compare_and_swap(key(), "a", "c")
    assert not refused
    assert (refused.swapped, refused.version, refused.value) == (False, second.version, "b")
    assert await here.get(key()) == Stored("b", second.version)


async def test_compare_and_swap_by_version(here, there, key):
    assert await here.compare_and_swap(key(), 5, "a") == CasResult(False, 0, None)
    first = await here.compare_and_swap(key(), 0, "a")
    assert first
    assert not await here.compare_and_swap(key(), 0, "b")
    second = await there.compare_and_swap(key(), first.version, "b")
    assert second
    assert await here.compare_and_swap(key(), first.version, "c") == CasResult(False, second.version, "b")


async def test_results_read_well(here, key, clock):
    version = await here.set(key(), "a", 5)
    assert repr(await here.get(key())).startswith(f"Stored('a', version={version}, expires_at=2026-")
    assert (
        repr(await here.compare_and_swap(key(), "b", "c")) == f"CasResult(swapped=False, version={version}, value='a')"
    )
    assert hash(await here.get(key())) == hash(await here.get(key()))


async def test_a_value_of_digits_is_no_version(here, key):
    await here.set(key(), "7")
    assert not await here.compare_and_swap(key(), 7, "8")
    assert await here.compare_and_swap(key(), "7", "8")


async def test_an_expired_value_is_none(here, key, clock):
    assert await here.compare_and_swap(key(), None, "a", 5)
    clock.advance(5)
    assert await here.compare_and_swap(key(), "a", "b") == CasResult(False, 0, None)
    assert await here.compare_and_swap(key(), None, "b")


async def test_of_many_swaps_from_one_value_one_is_made(here, there, key):
    await here.set(key(), "open")
    told = await asyncio.gather(
        *(one.compare_and_swap(key(), "open", f"{number}") for one in (here, there) for number in range(10))
    )
    (made,) = [one for one in told if one.swapped]
    assert {(one.version, one.value) for one in told} == {(made.version, made.value)}


async def test_an_event_moves_from_state_to_state_once(here, there, key):
    assert await here.transition(key(), None, "pending")
    told = await asyncio.gather(*(one.transition(key(), "pending", "done") for one in (here, there, here, there)))
    assert sum(one.swapped for one in told) == 1
    refused = await here.transition(key(), "pending", "failed")
    assert not refused
    assert refused.value == "done"
    with pytest.raises(TypeError):
        await here.transition(key(), 3, "failed")


async def test_a_state_may_lapse(here, key, clock):
    await here.transition(key(), None, "held", ttl=5)
    clock.advance(5)
    assert not await here.transition(key(), "held", "done")
    assert await here.transition(key(), None, "held")


async def test_wrong_arguments_are_refused_before_anything_is_written(here, key):
    for call, error in (
        (lambda: here.set(key(), 5), TypeError),
        (lambda: here.set(key(), "\ud800"), CodecError),
        (lambda: here.set(key(), "a", 0), ValueError),
        (lambda: here.set("key", "a"), InvalidKeyError),
        (lambda: here.get("key"), InvalidKeyError),
        (lambda: here.delete(None), InvalidKeyError),
        (lambda: here.compare_and_swap(key(), True, "a"), TypeError),
        (lambda: here.compare_and_swap(key(), 1.5, "a"), TypeError),
        (lambda: here.compare_and_swap(key(), None, b"a"), TypeError),
        (lambda: here.compare_and_swap(key(), None, "a", -1), ValueError),
    ):
        with pytest.raises(error):
            await call()
    assert await here.get(key()) is None


async def test_what_is_no_text_is_told_and_left(here, shared, key):
    name = here._layout.key(key())
    await shared.put(name, b"\xff\xfe")
    with pytest.raises(DecodeError, match="no text"):
        await here.get(key())
    with pytest.raises(DecodeError):
        await here.compare_and_swap(key(), "a", "b")
    assert not await here.check_and_set(key())
    assert (await shared.get(name)).value == b"\xff\xfe"
    assert await here.set(key(), "mended")


class Lock:
    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def expectations(self):
        return self.steps


async def test_the_store_refuses_a_write_under_a_lock_that_moved_on(here, there, key):
    await here.set(key(), "a")
    guard = await here.try_acquire("stock", 30)
    assert await here.set(key(), "b", guard=guard)
    assert await here.compare_and_swap(key(), "b", "c", guard=guard)
    assert await here.transition(key(), "c", "d", guard=guard)
    await guard.release()
    stale = Lock(Step(guard._keys.leases[0], None, guard.token))
    for call in (
        lambda: here.set(key(), "x", guard=stale),
        lambda: here.compare_and_swap(key(), "d", "x", guard=stale),
        lambda: here.transition(key(), "d", "x", guard=stale),
        lambda: here.delete(key(), guard=stale),
    ):
        with pytest.raises(LeaseLostError):
            await call()
    assert (await there.get(key())).value == "d"


async def test_a_lock_of_another_store_is_refused(here, key):
    async with MemoryStore(name="elsewhere") as other:
        from reactstate.locks.manager import Locks

        guard = await Locks(other).try_acquire("stock", 30)
        with pytest.raises(UnsupportedError):
            await here.set(key(), "a", guard=guard)


async def test_who_always_loses_gets_contention_at_the_deadline(mine, others, troubled, quick, key):
    async def interfere():
        before, troubled.always = troubled.always, None
        await others.set(key(), "b")
        troubled.always = before

    troubled.always = interfere
    with pytest.raises(ContentionError):
        await mine.set(key(), "a")
    troubled.always = None
    assert 25 < quick.now <= 31
    assert (await mine.get(key())).value == "b"
