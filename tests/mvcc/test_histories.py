"""Histories of concurrent list-append transactions, searched for the anomalies that their isolation level forbids.

Each element is appended once, so a list tells the order of its writers: from what was read follow the dependencies
between transactions (write-write, write-read and the anti-dependency read-write), and a cycle of them is an anomaly.
See Adya, "Weak Consistency" (1999), and Kingsbury and Alvaro, "Elle" (2020).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict

import pytest

from reactstate.errors import TransactionConflict
from reactstate.mvcc.container import MVCCContainer
from reactstate.state.state import State
from reactstate.testing.stores import FaultyStore


class Log(State):
    id: str
    items: list[int] = []


class History:
    """What each committed transaction read and appended."""

    def __init__(self):
        self.reads = {}
        self.appends = {}
        self.final = {}

    def check(self, isolation):
        """Raise AssertionError for what *isolation* forbids."""
        writer = {}
        for name, appended in self.appends.items():
            for key, items in appended.items():
                for item in items:
                    writer[key, item] = name
        for key, items in self.final.items():
            assert len(set(items)) == len(items), f"{key} was appended to twice"
            assert all((key, item) in writer for item in items), f"{key} holds what nobody committed"
        assert len(writer) == sum(map(len, self.final.values())), "an append was lost"
        certain, anti = defaultdict(set), defaultdict(set)
        for key, items in self.final.items():
            for before, after in itertools.pairwise(items):
                certain[writer[key, before]].add(writer[key, after])
        for name, read in self.reads.items():
            for key, seen in read.items():
                items = self.final[key]
                assert items[: len(seen)] == seen, f"{name} read {seen} of {items}, which were never there"
                if seen:
                    certain[writer[key, seen[-1]]].add(name)
                if len(seen) < len(items):
                    anti[name].add(writer[key, items[len(seen)]])
        for edges in (certain, anti):
            for name, others in edges.items():
                others.discard(name)
        self.refuse_cycle(certain, "write and read dependencies (G0, G1c)")
        if isolation == "serializable":
            both = {name: certain[name] | anti[name] for name in {*certain, *anti}}
            self.refuse_cycle(both, "dependencies (G2)")
        else:
            for name, others in list(anti.items()):
                for other in others:
                    assert name not in reached(certain, other), f"a cycle of one anti-dependency (G-single) at {name}"

    @staticmethod
    def refuse_cycle(edges, what):
        for name in list(edges):
            for other in edges[name]:
                assert name not in reached(edges, other), f"a cycle of {what} at {name}"


def reached(edges, start):
    found, waiting = {start}, [start]
    while waiting:
        for other in edges.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


# --- the checker itself -----------------------------------------------------------------------------------------------


def made(final, **transactions):
    history = History()
    history.final = final
    for name, (reads, appends) in transactions.items():
        history.reads[name], history.appends[name] = reads, appends
    return history


SKEW = made({"x": [1], "y": [2]}, a=({"y": []}, {"x": [1]}), b=({"x": []}, {"y": [2]}))
READ_SKEW = made({"x": [1], "y": [2]}, w=({}, {"x": [1], "y": [2]}), r=({"x": [], "y": [2]}, {}))
LOST = made({"x": [1, 2]}, a=({"x": []}, {"x": [1]}), b=({"x": []}, {"x": [2]}))
CIRCULAR = made({"x": [1], "y": [2]}, a=({"y": [2]}, {"x": [1]}), b=({"x": [1]}, {"y": [2]}))
DIRTY = made({"x": [1]}, a=({"x": [1, 5]}, {"x": [1]}))
GONE = made({"x": []}, a=({}, {"x": [1]}))
FINE = made({"x": [1], "y": [2]}, a=({"x": [], "y": []}, {"x": [1]}), b=({"x": [1], "y": []}, {"y": [2]}))


@pytest.mark.parametrize("history", [READ_SKEW, LOST, CIRCULAR, DIRTY, GONE])
@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_the_checker_finds_what_both_levels_forbid(history, isolation):
    with pytest.raises(AssertionError):
        history.check(isolation)


def test_the_checker_allows_write_skew_at_one_level_only():
    SKEW.check("snapshot")
    with pytest.raises(AssertionError):
        SKEW.check("serializable")
    FINE.check("serializable")
    FINE.check("snapshot")


# --- transactions -----------------------------------------------------------------------------------------------------

KEYS = "abcde"


async def record(banks, isolation, seed, each, history):
    """Let one task a bank run transactions, and note what those saw that committed."""
    numbers = iter(range(10**9))

    async def work(bank, dice):
        for _ in range(each):
            name = next(numbers)
            kept = {}

            async def body(tx, kept=kept):
                reads, appends = {}, defaultdict(list)
                if dice.random() < 0.1 and bank._store.supports("RANGE_EXPECT"):
                    found = {state.id: list(state.items) async for state in tx.scan()}
                    reads = {key: found.get(key, []) for key in KEYS}
                for key in dice.choices(KEYS, k=dice.randint(1, 4)):
                    state = await tx.read(key)
                    if key not in appends:
                        reads.setdefault(key, [] if state is None else list(state.items))
                    if dice.random() < 0.5:
                        item = next(numbers)
                        before = [] if state is None else state.items
                        tx.write(Log(id=key, items=[*before, item]))
                        appends[key].append(item)
                    await asyncio.sleep(0)
                kept["reads"], kept["appends"] = reads, appends

            try:
                await bank.run(body, attempts=50, isolation=isolation)
            except TransactionConflict:
                continue
            history.reads[name], history.appends[name] = kept["reads"], kept["appends"]

    await asyncio.gather(*(work(bank, random.Random(seed * 100 + place)) for place, bank in enumerate(banks)))
    for key in KEYS:
        state = await banks[0].get(key)
        history.final[key] = [] if state is None else list(state.items)


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb", "plain", "plainer"])
@pytest.mark.parametrize("tasks", [3, 8])
async def test_histories_show_no_anomaly_that_their_level_forbids(open_store, engine, isolation, tasks):
    async with await open_store(engine) as store, MVCCContainer.open(Log, store=store) as bank:
        history = History()
        await record([bank] * tasks, isolation, tasks, 25, history)
        assert len(history.appends) > tasks * 15
        history.check("serializable" if engine.startswith("plain") else isolation)


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("engine", ["memory", "plain"])
@pytest.mark.parametrize("seed", range(3))
async def test_histories_stay_right_when_the_store_fails(open_store, engine, isolation, seed, clock):
    store = FaultyStore(await open_store(engine), seed=seed, clock=clock)
    async with store, MVCCContainer.open(Log, store=store, clock=clock) as bank:
        for operation in ("get", "get_many", "commit", "snapshot"):  # a scan of a store that fails is not repeated
            store.fail(probability=0.05, on=operation)
        store.drop_reply(probability=0.2)
        history = History()
        await record_healed(store, [bank] * 4, isolation, seed, history)
        assert store.dropped
        history.check(isolation)


async def record_healed(store, banks, isolation, seed, history):
    await record(banks, isolation, seed, 25, history)
    store.heal()
    for key in KEYS:
        state = await banks[0].get(key)
        history.final[key] = [] if state is None else list(state.items)


async def test_write_skew_does_show_in_histories_under_snapshot_isolation(open_store):
    """So that the search is known to find it where it is allowed."""
    found = []
    for seed in range(20):
        async with await open_store("memory") as store, MVCCContainer.open(Log, store=store) as bank:
            history = History()
            await record([bank] * 8, "snapshot", seed, 25, history)
            history.check("snapshot")
            try:
                history.check("serializable")
            except AssertionError as exc:
                found.append(str(exc))
                break
    assert "G2" in found[0]
