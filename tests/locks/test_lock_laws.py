"""Locks agree with a toy: an owner and the time at which its lease ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from reactstate.clock import ManualClock
from reactstate.errors import ConflictError, LeaseLostError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Put, Step
from reactstate.locks.manager import Locks

TTLS = st.integers(1, 9)


class Toy:
    """What is known of one acquisition."""

    def __init__(self, guard, end):
        self.guard = guard
        self.end = end
        self.released = False


class LocksAgree(RuleBasedStateMachine):
    guards = Bundle("guards")
    flights = Bundle("flights")

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.store = self.run(self.make())
        self.locks = [Locks(self.store, clock=self.clock) for _ in range(3)]
        self.holder = None
        self.tokens = [0]

    def run(self, coroutine):
        return self.runner.run(coroutine)

    async def make(self):
        return MemoryStore(clock=self.clock)

    def held(self, toy):
        return toy is self.holder and not toy.released and self.clock.monotonic() < toy.end

    @property
    def is_free(self):
        return self.holder is None or not self.held(self.holder)

    @rule(target=guards, number=st.integers(0, 2), ttl=TTLS, how=st.sampled_from(["try", "acquire"]))
    def acquire(self, number, ttl, how):
        async def wait():
            return await asyncio.create_task(self.locks[number].acquire("stock", ttl, 0))

        if how == "acquire" and self.is_free:
            guard = self.run(wait())
        else:
            guard = self.run(self.locks[number].try_acquire("stock", ttl))
        assert (guard is not None) == self.is_free
        if guard is None:
            return multiple()
        assert guard.token > max(self.tokens)
        self.tokens.append(guard.token)
        self.holder = Toy(guard, self.clock.monotonic() + ttl)
        return self.holder

    @rule(toy=guards, ttl=TTLS)
    def extend(self, toy, ttl):
        if self.held(toy):
            self.run(toy.guard.extend(ttl))
            toy.end = max(toy.end, self.clock.monotonic() + ttl)
        else:
            with pytest.raises(LeaseLostError):
                self.run(toy.guard.extend(ttl))

    @rule(toy=guards)
    def release(self, toy):
        if self.held(toy):
            self.run(toy.guard.release())
            toy.released = True
            assert self.run(self.store.list_keys("~locks/")) == []
        else:
            with pytest.raises(LeaseLostError):
                self.run(toy.guard.release())

    @rule(seconds=st.integers(1, 5))
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @rule(toy=guards)
    def look(self, toy):
        assert self.run(toy.guard.is_held()) == self.held(toy)
        assert toy.guard.lost.is_set() == (not toy.released and not self.held(toy))

    @rule(target=flights, toy=guards)
    def take_expectations(self, toy):
        if not self.held(toy):
            with pytest.raises(LeaseLostError):
                toy.guard.expectations()
            return multiple()
        return toy, toy.guard.expectations(), toy.end

    @rule(flight=consumes(flights))
    def commit(self, flight):
        """A stale one never passes; a live one does for as long as its lease was to run when it was made."""
        toy, expected, _ = flight
        steps = [Step("fenced", Put(b"")), *expected]
        if not self.held(toy):
            with pytest.raises(ConflictError):
                self.run(self.store.commit(steps))
        elif toy.guard.expectations() == expected:
            self.run(self.store.commit(steps))

    def teardown(self):
        self.run(self.store.aclose())
        self.runner.close()


LocksAgree.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_sequence_of_calls_agrees_with_the_toy = LocksAgree.TestCase
