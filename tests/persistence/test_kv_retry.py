from __future__ import annotations

import asyncio

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import ConflictError, StorageFailedError, UnavailableError, UnknownOutcomeError
from reactstate.kv.retry import resolve, until_available


class HastyClock(ManualClock):
    """Time passes by itself when somebody sleeps."""

    def __init__(self):
        super().__init__()
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.advance(max(seconds, 0.001))
        await asyncio.sleep(0)


class Script:
    """Raises or returns what it is told, one after another; the last one again and again."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


GONE = UnavailableError("gone")
LOST = UnknownOutcomeError("lost")
TAKEN = ConflictError("taken")


async def run(attempt, applied=None, clock=None, deadline=10.0):
    return await resolve(attempt, applied or Script(None), clock=clock or HastyClock(), deadline=deadline)


async def test_what_goes_well_waits_for_nothing():
    clock = HastyClock()
    assert await run(Script("done"), clock=clock) == "done"
    assert await until_available(Script(7), clock=clock, deadline=1) == 7
    assert clock.slept == []


async def test_an_unreachable_store_is_tried_again_with_growing_random_waits():
    clock = HastyClock()
    attempt = Script(*[GONE] * 12, "done")
    assert await run(attempt, clock=clock, deadline=60) == "done"
    assert attempt.calls == 13
    assert len(set(clock.slept)) == len(clock.slept)
    assert max(clock.slept) <= 1.0
    assert all(wait <= 0.01 * 2**place for place, wait in enumerate(clock.slept))


async def test_at_the_deadline_what_was_never_sent_is_unavailable():
    clock = HastyClock()
    with pytest.raises(UnavailableError):
        await run(Script(GONE), clock=clock, deadline=5)
    assert clock.monotonic() < 5
    with pytest.raises(UnavailableError):
        await until_available(Script(GONE), clock=clock, deadline=5)


@pytest.mark.parametrize("then", [GONE, LOST, StorageFailedError("open it anew")])
async def test_at_the_deadline_what_was_sent_once_is_of_unknown_outcome(then):
    with pytest.raises(UnknownOutcomeError, match="read what is there"):
        await run(Script(LOST, then), deadline=2)


async def test_a_lost_reply_is_asked_for_before_anything_else():
    attempt, applied = Script(LOST, "again"), Script("found")
    assert await run(attempt, applied) == "found"
    assert (attempt.calls, applied.calls) == (1, 1)
    attempt, applied = Script(LOST, "again"), Script(GONE, GONE, None)
    assert await run(attempt, applied) == "again"
    assert (attempt.calls, applied.calls) == (2, 3)


async def test_a_refused_repetition_is_asked_about_because_the_first_may_have_come_late():
    assert await run(Script(LOST, TAKEN), Script(None, "late")) == "late"
    with pytest.raises(ConflictError):
        await run(Script(LOST, TAKEN), Script(None))
    with pytest.raises(ConflictError):
        await run(Script(TAKEN), Script("never asked"))
    with pytest.raises(ConflictError):
        await run(Script(GONE, TAKEN), Script("never asked"))


async def test_what_the_store_cannot_tell_any_more_ends_it():
    attempt, applied = Script(LOST), Script(UnknownOutcomeError("compacted"))
    with pytest.raises(UnknownOutcomeError, match="compacted"):
        await run(attempt, applied)
    assert (attempt.calls, applied.calls) == (1, 1)


async def test_other_errors_end_it_at_once():
    for error in (StorageFailedError("broken"), ValueError("wrong")):
        attempt = Script(GONE, error)
        with pytest.raises(type(error)):
            await run(attempt)
        assert attempt.calls == 2


async def test_what_took_until_the_deadline_by_itself_is_not_begun_again():
    clock = HastyClock()
    calls = 0

    async def slow():
        nonlocal calls
        calls += 1
        clock.advance(6)
        raise GONE

    with pytest.raises(UnavailableError):
        await until_available(slow, clock=clock, deadline=5)
    assert calls == 1
    with pytest.raises(UnavailableError):
        await run(slow, clock=clock, deadline=20)
    assert calls < 6
