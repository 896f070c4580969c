"""What was found by attacking guarded updates and pessimistic containers."""

from __future__ import annotations

import asyncio

from reactstate import ManualClock, State, StateConfig, StateContainer
from reactstate.kv.memory import MemoryStore
from reactstate.locks.manager import Locks


class Tally(State):
    n: int = 0
    names: list[str] = []


def add(draft: Tally, name: str) -> None:
    draft.n += 1
    draft.names.append(name)


class Held(MemoryStore):
    """A store that holds the next commit to a state back until it is let go."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()

    async def commit(self, steps, *, ranges=()):
        gate = self.gate
        if gate is not None and not all(step.key.startswith("~locks/") for step in steps):
            self.gate = None
            self.reached.set()
            await gate.wait()
        return await super().commit(steps, ranges=ranges)


async def test_who_gave_no_guard_never_hears_of_a_lost_lock_also_when_others_gave_one():
    clock = ManualClock()
    async with Held(clock) as store:
        config = StateConfig(concurrency="pessimistic")
        async with StateContainer.open(Tally(), store=store, key="tally", clock=clock, config=config) as tally:
            guard = await Locks(store, clock=clock).acquire("mine", 3600)
            store.gate = gate = asyncio.Event()
            plain = asyncio.ensure_future(tally.update(add, "plain"))
            await store.reached.wait()
            guarded = asyncio.ensure_future(tally.update(add, "guarded", guard=guard))
            for _ in range(10):
                await asyncio.sleep(0)
            clock.advance(20)  # the container's own lock has run out, and its commit arrives now
            gate.set()
            async with asyncio.timeout(60):
                while not (plain.done() and guarded.done()):
                    clock.advance(0.003)
                    await asyncio.sleep(0)
            assert [(await plain).version, (await guarded).version] == [2, 3]
            assert tally.state.names == ["plain", "guarded"]
