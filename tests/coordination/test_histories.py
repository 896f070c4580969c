"""What concurrent tasks see through faults has one order that explains it all."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from reactstate.clock import ManualClock
from reactstate.coordination.store import CoordinationStore
from reactstate.errors import ConflictError
from reactstate.kv.keys import StateKey
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import ABSENT, ANY, Commit, Entry, Put, Step
from reactstate.kv.urls import open_store
from reactstate.testing.history import Recording
from reactstate.testing.stores import FaultyStore

TASKS = 6
CALLS = 25


class BusyClock:
    """A clock on which each pause lets others run for a while, as on a network."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.dice = random.Random(seed)

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000 + round(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds / TASKS
        for _ in range(self.dice.randint(0, 4)):
            await asyncio.sleep(0)


@pytest.fixture(params=list(itertools.product(["memory", "sqlite", "lmdb"], range(4))), ids=str)
async def stores(request, tmp_path):
    """Coordination stores of one store that fails, drops replies and takes its time."""
    engine, seed = request.param
    if engine == "memory":
        opened = MemoryStore(clock=ManualClock())
    else:
        opened = await open_store(f"{engine}:{tmp_path}/store?durability=never")
    clock = BusyClock(seed)
    faulty = FaultyStore(opened, seed=seed, clock=clock)
    faulty.latency = 0.001
    faulty.fail(probability=0.1)
    faulty.drop_reply(1, probability=0.2)
    async with faulty:
        yield [await CoordinationStore.open(store=faulty, clock=clock, deadline=300.0) for _ in range(3)]
        assert faulty.dropped


class Register:
    """Coordination stores as what ``Recording`` writes down: reads, and commits of one step."""

    def __init__(self, stores: list[CoordinationStore]) -> None:
        self._stores = itertools.cycle(stores)

    @staticmethod
    def key(name: str) -> StateKey:
        return StateKey("shop", "acme", "register", name)

    async def get(self, name):
        found = await next(self._stores).get(self.key(name))
        return None if found is None else Entry(name, found.value.encode(), found.version)

    async def commit(self, steps, *, ranges=()):
        (step,) = steps
        value = step.op.value.decode()
        store = next(self._stores)
        if step.expect is ANY:
            version = await store.set(self.key(step.key), value)
        else:
            expected = 0 if step.expect is ABSENT else step.expect
            done = await store.compare_and_swap(self.key(step.key), expected, value)
            version = done.version
            if not done.swapped:
                there = {} if done.value is None else {step.key: Entry(step.key, done.value.encode(), version)}
                raise ConflictError("another value", entries=there, keys=[step.key])
        return Commit(version, {step.key: Entry(step.key, value.encode(), version)})


async def test_registers_are_linearizable(stores):
    recording = Recording(Register(stores))

    async def use(number):
        dice = random.Random(number)
        known = {}
        for call in range(CALLS):
            name = dice.choice("ab")
            what = dice.random()
            if what < 0.3:
                known[name] = await recording.get(name)
                continue
            before = known.get(name)
            expect = ANY if what < 0.5 else ABSENT if before is None else before.revision
            try:
                done = await recording.commit([Step(name, Put(f"{number}.{call}".encode()), expect)])
                known[name] = done.entries[name]
            except ConflictError as exc:
                known[name] = exc.entries.get(name)

    await asyncio.gather(*map(use, range(TASKS)))
    recording.check()


async def test_counters_are_linearizable(stores):
    """Each sum is given once, none is left out, and a later increment gets a greater one."""
    key = StateKey("shop", "acme", "counter", "1")
    moments = itertools.count()
    seen = []

    async def use(number):
        for call in range(CALLS):
            began = next(moments)
            total = await stores[(number + call) % 3].increment(key, ttl=1000)
            seen.append((total, began, next(moments)))

    await asyncio.gather(*map(use, range(TASKS)))
    seen.sort()
    assert [total for total, _, _ in seen] == list(range(1, TASKS * CALLS + 1))
    newest_began = 0
    for _, began, ended in seen:
        assert ended > newest_began
        newest_began = max(newest_began, began)
    assert (await stores[0].get(key)).value == f"{TASKS * CALLS}"


async def test_set_if_absent_is_linearizable(stores):
    """One is the first, and nobody is told of a duplicate before the first could have been there."""
    moments = itertools.count()

    async def use(store, key):
        began = next(moments)
        return await store.check_and_set(key, f"{began}"), began, next(moments)

    for number in range(15):
        key = StateKey("shop", "acme", "message", f"{number}")
        told = await asyncio.gather(*(use(store, key) for store in stores for _ in range(3)))
        ((_, first, _),) = [one for one in told if one[0]]
        assert all(ended > first for _, _, ended in told)
        assert (await stores[0].get(key)).value == f"{first}"


async def test_each_due_item_is_handed_out_once_and_completed_once(stores):
    keys = [StateKey("shop", "acme", "order", f"{number}") for number in range(60)]
    await asyncio.gather(*(stores[number % 3].index_timeout(key, 1000 + number) for number, key in enumerate(keys)))
    claimed = []

    async def poll(store):
        while claims := await store.claim_expired_timeouts(4, 3600, 5000):
            for claim in claims:
                claimed.append(claim.key)
                await store.complete(claim)

    await asyncio.gather(*(poll(store) for store in stores for _ in range(2)))
    assert sorted(map(str, claimed)) == sorted(map(str, keys))
    assert await stores[0].get_expired_timeouts(10**10) == []


async def test_a_state_machine_goes_each_way_once(stores):
    key = StateKey("shop", "acme", "event", "1")
    states = [f"{number}" for number in range(12)]
    await stores[0].transition(key, None, states[0])
    made = []

    async def drive(store):
        for before, after in itertools.pairwise(states):
            if await store.transition(key, before, after):
                made.append((before, after))

    await asyncio.gather(*(drive(store) for store in stores for _ in range(2)))
    assert sorted(made, key=lambda one: int(one[0])) == list(itertools.pairwise(states))


async def test_memberships_begin_and_end_once(stores):
    group = StateKey("shop", "acme", "group", "1")
    names = [f"{number:02d}" for number in range(10)]
    added = await asyncio.gather(*(store.add_to_group(group, name) for store in stores for name in names))
    assert sum(added) == len(names)
    removed = await asyncio.gather(*(store.remove_from_group(group, name) for store in stores for name in names[:5]))
    assert sum(removed) == 5
    faulty = stores[0]._store
    faulty.heal()
    assert [member async for member in stores[0].group_members(group)] == names[5:]
