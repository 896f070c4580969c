"""Two containers on one store against a toy dict, and subscriptions against what was committed."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reactstate.errors import ConflictError, StateNotFoundError
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.kv.sqlite import SqliteStore
from reactstate.state.change import ChangeType
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


def set_count(draft: Cart, count: int) -> None:
    draft.count = count


class PlainStore(MemoryStore):
    capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS, Capability.TOTAL_ORDER}


names = st.sampled_from(["a", "a/b", "a%", "b", "é"])
counts = st.integers(0, 3)
containers = st.integers(0, 1)


class KeyedMachine(RuleBasedStateMachine):
    """One operation after another; versions and states are those of a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore()
        self.opened = [self.run(self.open()) for _ in range(2)]
        self.states: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.highest: dict[str, int] = {}

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def open(self) -> KeyedContainer[Cart]:
        return await KeyedContainer.open(Cart, store=self.store)

    def note(self, name: str, count: int, made: Any) -> None:
        if self.states.get(name) == count:
            assert made.version == self.versions[name]
        elif name in self.states:
            assert made.version == self.versions[name] + 1
        else:
            assert made.version > self.highest.get(name, 0)
        assert made.state == Cart(id=name, count=count)
        self.states[name] = count
        self.versions[name] = self.highest[name] = made.version

    @rule(which=containers, name=names, count=counts)
    def put(self, which, name, count):
        self.note(name, count, self.run(self.opened[which].put(Cart(id=name, count=count))))

    @rule(which=containers, name=names, count=counts)
    def update(self, which, name, count):
        work = self.opened[which].update(name, set_count, count)
        if name in self.states:
            self.note(name, count, self.run(work))
        else:
            with pytest.raises(StateNotFoundError):
                self.run(work)

    @rule(which=containers, name=names, count=counts, off=st.sampled_from([0, 0, 1, -1]))
    def update_expected(self, which, name, count, off):
        expected = max(self.versions.get(name, 0) + off, 0)
        work = self.opened[which].put(Cart(id=name, count=count), expected_version=expected)
        if expected == self.versions.get(name, 0):
            self.note(name, count, self.run(work))
        else:
            with pytest.raises(ConflictError) as caught:
                self.run(work)
            assert caught.value.current.version == self.versions.get(name, 0)

    @rule(which=containers, name=names, expected=counts, count=counts)
    def compare_and_swap(self, which, name, expected, count):
        done = self.run(self.opened[which].compare_and_swap(name, Cart(id=name, count=expected), set_count, count))
        assert done == (self.states.get(name) == expected)
        if done:
            self.note(name, count, self.run(self.opened[which].current(name)))

    @rule(which=containers, name=names)
    def delete(self, which, name):
        assert self.run(self.opened[which].delete(name)) == (name in self.states)
        self.states.pop(name, None)
        self.versions.pop(name, None)

    @rule(which=containers)
    def open_again(self, which):
        self.run(self.opened[which].aclose())
        self.opened[which] = self.run(self.open())

    @rule(which=containers, prefix=st.sampled_from(["", "a", "a/", "x"]))
    def scan(self, which, prefix):
        container = self.opened[which]

        async def work():
            return [state async for state in container.scan(prefix)], await container.count(prefix)

        found, number = self.run(work())
        assert {state.id: state.count for state in found} == {
            name: count for name, count in self.states.items() if name.startswith(prefix)
        }
        assert number == len(found)

    @invariant()
    def both_see_the_same(self):
        for container in self.opened:
            found = self.run(container.get_many(["a", "a/b", "a%", "b", "é"]))
            assert {name: state.count for name, state in found.items()} == self.states

    def teardown(self):
        for container in self.opened:
            self.run(container.aclose())
        self.run(self.store.aclose())
        self.loop.close()


TestKeyed = KeyedMachine.TestCase
TestKeyed.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# --- subscriptions under random interleavings ---------------------------------------------------------------------


LAST = "z"


class Recorder:
    """Writes at random, and notes every version that was made."""

    def __init__(self) -> None:
        self.history: dict[str, dict[int, int]] = {}

    async def work(self, container: KeyedContainer[Cart], source: random.Random, verbs: int) -> None:
        for _ in range(verbs):
            name = source.choice("abc")
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0)
            if source.random() < 0.25:
                await container.delete(name)
            else:
                made = await container.put(Cart(id=name, count=source.randrange(10**9)))
                self.history.setdefault(name, {})[made.version] = made.state.count


async def follow(container: KeyedContainer[Cart], source: random.Random, since: Any) -> list[Any]:
    """Read a subscription, now and then cancelled or resumed from its cursor, until the last state is told."""
    found: list[Any] = []
    changes = container.subscribe(since=since)
    while True:
        waiting = asyncio.ensure_future(anext(changes))
        if source.random() < 0.2:
            await asyncio.sleep(0)
            waiting.cancel()
            done = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if isinstance(done, asyncio.CancelledError):
                continue
        found.append(await waiting)
        if found[-1].id == LAST:
            await changes.aclose()
            return found
        for _ in range(source.randrange(3)):
            await asyncio.sleep(0)
        if source.random() < 0.1:
            since = changes.cursor
            await changes.aclose()
            found.append("resumed")
            changes = container.subscribe(since=since)


def check(found: list[Any], history: dict[str, dict[int, int]], final: dict[str, Cart]) -> None:
    newest: dict[str, Any] = {}
    resumed = False
    for change in found:
        if change == "resumed":
            resumed = True
            continue
        before = newest.get(change.id)
        if before is not None:
            repeated_delete = resumed and before.state is None and change.state is None
            assert change.version > before.version or (repeated_delete and change.version == before.version)
        if change.state is not None:
            assert history[change.id][change.version] == change.state.count
            if not resumed and (before is None or before.state is None):
                assert change.change_type is ChangeType.CREATE
        else:
            assert change.change_type is ChangeType.DELETE
        newest[change.id] = change
    told = {name: change.state for name, change in newest.items() if change.state is not None}
    assert told == final


async def interleave(store: Any, others: Any, seed: int) -> None:
    """Two containers write, a third one follows."""
    source = random.Random(seed)
    writers = [await KeyedContainer.open(Cart, store=one) for one in (store, others)]
    reader = await KeyedContainer.open(Cart, store=store)
    start = await store.cursor()
    recorder = Recorder()
    following = asyncio.ensure_future(follow(reader, source, start))
    await asyncio.gather(
        *(recorder.work(writer, random.Random(seed + place), 15) for place, writer in enumerate(writers * 2))
    )
    recorder.history[LAST] = {(await writers[1].put(Cart(id=LAST))).version: 0}
    found = await following
    final = {state.id: state async for state in reader.scan()}
    check(found, recorder.history, final)
    for container in (*writers, reader):
        await container.aclose()


class Stepping:
    """Lets other tasks in before and after everything that a store does."""

    async def get(self, key):
        await asyncio.sleep(0)
        found = await super().get(key)
        await asyncio.sleep(0)
        return found

    async def get_many(self, keys):
        found = {}
        for key in keys:
            entry = await self.get(key)
            if entry is not None:
                found[key] = entry
        return found

    async def commit(self, steps, *, ranges=()):
        await asyncio.sleep(0)
        done = await super().commit(steps, ranges=ranges)
        await asyncio.sleep(0)
        return done


class SteppingStore(Stepping, MemoryStore):
    pass


class SteppingPlainStore(Stepping, PlainStore):
    pass


@pytest.mark.parametrize("engine", [MemoryStore, PlainStore, SteppingStore, SteppingPlainStore])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_subscription_tells_ascending_versions_nothing_phantom_and_the_final_states(engine, seed):
    async def run() -> None:
        async with engine() as store:
            await interleave(store, store, seed)

    asyncio.run(run())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_a_subscription_on_sqlite_tells_the_same_whoever_writes(tmp_path, seed, shared):
    path = tmp_path / "app.db"
    async with await SqliteStore.open(path) as store:
        if shared:
            await interleave(store, store, seed)
        else:
            async with await SqliteStore.open(path) as other:
                await interleave(store, other, seed)


PROGRAM = """
import asyncio, sys
from reactstate.keyed.container import KeyedContainer
from reactstate.state.state import State

class Cart(State):
    id: str
    count: int = 0

async def main():
    async with KeyedContainer.open(Cart, "sqlite:" + sys.argv[1]) as carts:
        for number in range(40):
            name = "ab"[number % 2]
            await carts.update(name, lambda draft: setattr(draft, "count", draft.count + 1))

asyncio.run(main())
"""


async def test_processes_lose_no_update_and_each_is_seen_by_a_third(tmp_path):
    path = tmp_path / "app.db"
    async with KeyedContainer.open(Cart, f"sqlite:{path}") as carts:
        await carts.put(Cart(id="a"))
        await carts.put(Cart(id="b"))
        async with carts.subscribe() as changes:
            workers = [await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, str(path)) for _ in range(2)]
            newest = {"a": 1, "b": 1}
            async with asyncio.timeout(60):
                while newest != {"a": 41, "b": 41}:
                    change = await anext(changes)
                    assert newest[change.id] < change.version == change.state.count + 1
                    newest[change.id] = change.version
                assert [await worker.wait() for worker in workers] == [0, 0]
        assert {state.id: state.count async for state in carts.scan()} == {"a": 40, "b": 40}
