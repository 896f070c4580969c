"""MemoryStore against a toy model: a dict, a list of events, and copies of the dict for snapshots."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reactstate.clock import ManualClock
from reactstate.errors import ConflictError, NotACounterError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, ANY, Add, Batch, Delete, Entry, Put, RangeExpect, Step
from reactstate.kv.terms import to_moment

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "b/1", "c", "é"])
VALUES = st.sampled_from([b"", b"1", b"41", b"text"])
TTLS = st.none() | st.sampled_from([0.001, 0.5, 1, 2.5, 4000])
OPS = st.builds(Put, VALUES, TTLS) | st.just(Delete()) | st.builds(Add, st.integers(-2, 2), TTLS) | st.none()
EXPECTS = st.just(ANY) | st.just(ANY) | st.just(ABSENT) | st.integers(-3, 0)


class Model(RuleBasedStateMachine):
    """Entries are (value, revision, deadline in ms), expired ones stay until they are swept."""

    @initialize()
    def begin(self):
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock, options=StoreOptions(change_log_retention=timedelta(days=999)))
        self.run = self.runner.run
        self.entries = {}
        self.revision = 0
        self.events = []
        self.views = []
        self.floor = 0

    async def watching(self, after=None):
        return self.store.watch(after=after)

    def teardown(self):
        if hasattr(self, "runner"):
            try:
                self.run(self.close())
            finally:
                self.run(self.store.aclose())
                self.runner.close()

    async def close(self):
        for block, *_ in self.views:
            await block.__aexit__(None, None, None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert self.store.held_versions == 0
        assert list(self.store._table._order) == sorted(self.entries)

    @property
    def now(self):
        return self.clock.time_ns() // 1_000_000

    def live(self):
        return {k: e for k, e in self.entries.items() if not 0 < e[2] <= self.now}

    def deadline(self, ttl):
        return 0 if ttl is None else self.now + round(ttl * 1000)

    def entry(self, key):
        value, revision, deadline = self.entries[key]
        return Entry(key, value, revision, to_moment(deadline))

    def wrote(self, changes):
        self.revision += 1
        for kind, key, entry in changes:
            if entry is None:
                del self.entries[key]
            else:
                self.entries[key] = (entry[0], self.revision, entry[1])
            self.events.append((kind, key, self.revision))

    def sweep(self):
        due = sorted(set(self.entries) - set(self.live()))
        if due:
            self.wrote([("EXPIRE", key, None) for key in due])
        return len(due)

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def put(self, key, value, ttl):
        entry = self.run(self.store.put(key, value, ttl=ttl))
        self.wrote([("PUT", key, (value, self.deadline(ttl)))])
        assert entry == self.entry(key)

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def put_if_absent(self, key, value, ttl):
        absent = key not in self.live()
        assert self.run(self.store.put_if_absent(key, value, ttl=ttl)) == absent
        if absent:
            self.wrote([("PUT", key, (value, self.deadline(ttl)))])

    @rule(key=KEYS)
    def delete(self, key):
        there = key in self.live()
        assert self.run(self.store.delete(key)) == there
        if there:
            self.wrote([("DELETE", key, None)])

    @rule(
        steps=st.lists(st.tuples(KEYS, OPS, EXPECTS), max_size=5, unique_by=lambda step: step[0]),
        ranged=st.none() | st.tuples(KEYS, st.none() | KEYS, st.integers(0, 6)),
    )
    def commit(self, steps, ranged):
        # negative expectations are revisions relative to the entry's own: 0 is right, the others are not
        made = []
        for key, op, expect in steps:
            own = self.entries[key][1] if key in self.entries else 1
            made.append(Step(key, op, own + expect if isinstance(expect, int) else expect))
        ranges, moved = [], set()
        if ranged is not None:
            first, last, back = ranged
            self.sweep()
            since = max(0, self.revision - back)
            ranges.append(RangeExpect(first, last, since))
            moved = {
                key
                for _, key, revision in self.events
                if revision > since and key >= first and (last is None or key < last)
            }
        live = self.live()
        failed = {
            step.key
            for step in made
            if not (
                step.expect is ANY
                or (step.expect is ABSENT and step.key not in live)
                or (step.key in live and live[step.key][1] == step.expect)
            )
        } | moved
        stale = bool(ranges) and ranges[0].revision < self.floor
        changes, counters = [], True
        for step in made:
            op, there = step.op, live.get(step.key)
            if isinstance(op, Put):
                changes.append(("PUT", step.key, (op.value, self.deadline(op.ttl))))
            elif isinstance(op, Delete) and there:
                changes.append(("DELETE", step.key, None))
            elif isinstance(op, Add):
                value, _, deadline = there or (b"0", 0, self.deadline(op.ttl))
                if value in {b"", b"text"}:
                    counters = False
                else:
                    changes.append(("PUT", step.key, (b"%d" % (int(value) + op.delta), deadline)))
        commit = self.store.commit(made, ranges=ranges)
        if failed or stale:
            with pytest.raises(ConflictError) as caught:
                self.run(commit)
            assert set(caught.value.keys) == failed or stale
            assert caught.value.entries == {key: self.entry(key) for key in caught.value.keys if key in live}
        elif not counters:
            with pytest.raises(NotACounterError):
                self.run(commit)
        else:
            done = self.run(commit)
            if changes:
                self.wrote(changes)
            assert done.revision == self.revision
            assert done.entries == {key: self.entry(key) for _, key, entry in changes if entry is not None}

    @rule(by=st.sampled_from([0.001, 0.5, 1, 3, 4000]))
    def advance(self, by):
        self.clock.advance(by)

    @rule()
    def cleanup(self):
        assert self.run(self.store.cleanup_expired()) == self.sweep()

    @precondition(lambda self: len(self.views) < 4)
    @rule()
    def snapshot(self):
        block = self.store.snapshot()
        view = self.run(block.__aenter__())
        self.views.append((block, view, {key: self.entry(key) for key in sorted(self.live())}, self.revision))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def leave(self, data):
        block, *_ = self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))
        self.run(block.__aexit__(None, None, None))

    @rule(keys=st.sets(KEYS), revision=st.integers(0, 50))
    def load(self, keys, revision):
        columns = sorted(keys)

        async def batches():
            for key in columns:
                yield Batch([key], [b"7"], [1], [self.now + 1500 if key > "b" else 0])

        self.run(self.store._load(batches(), revision=revision, replace=True))
        self.revision = self.floor = max(self.revision, revision) + 1
        self.entries = {key: (b"7", self.revision, self.now + 1500 if key > "b" else 0) for key in columns}
        self.events = []

    @precondition(lambda self: self.events)
    @rule()
    def read_events(self):
        self.sweep()  # as the store does when a watch begins to wait
        self.watch = self.run(self.watching(after=f"{self.store.id}:{self.floor}"))

        async def read():
            return [await anext(self.watch) for _ in self.events]

        found = [(str(event.kind), event.key, event.revision) for event in self.run(read())]
        assert [revision for _, _, revision in found] == [revision for _, _, revision in self.events]
        assert sorted(found) == sorted(self.events)

    @invariant()
    def reads_agree(self):
        if hasattr(self, "runner"):
            self.run(self.check())

    async def check(self):
        live = {key: self.entry(key) for key in sorted(self.live())}
        store = self.store
        assert {entry.key: entry async for entry in store.scan()} == live
        assert [entry.key async for entry in store.scan("a", reverse=True)] == [
            k for k in reversed(live) if k[0] == "a"
        ]
        assert await store.list_keys() == list(live)
        assert await store.get_many(["a", "b/1", "é"]) == {k: e for k, e in live.items() if k in {"a", "b/1", "é"}}
        assert await store.get("c") == live.get("c")
        assert store.stats().bytes == sum(len(k.encode()) + len(e[0]) for k, e in self.entries.items())
        for _, view, entries, revision in self.views:
            assert view.revision == revision
            assert {entry.key: entry async for entry in view.scan()} == entries
            for key in ("a", "b", "é"):
                assert await view.get(key) == entries.get(key)
            rows = [row async for b in view.batches(2) for row in zip(b.keys, b.values, b.revisions, strict=True)]
            assert rows == [(e.key, e.value, e.revision) for e in entries.values()]


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
