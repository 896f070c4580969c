# ruff: noqa: D102, S101, S311 - a test's name says what it proves, assertions are what it is made of, dice are seeded
"""Many tasks at a time: nothing lost, nothing half done, one order that explains what everybody saw."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from reactstate.errors import ConflictError, NotACounterError
from reactstate.kv.protocol import ABSENT, ANY, Add, Capability, Commit, Delete, EventKind, Put, RangeExpect, Step
from reactstate.testing.conformance_commits import newest_revision
from reactstate.testing.history import Recording
from reactstate.testing.model import StoreModel
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise, together

if TYPE_CHECKING:
    from reactstate.kv.protocol import Entry, Operation
    from reactstate.kv.store import KeyValueStore

__all__ = ["ConcurrencyPromises"]

_CAS, _TRANSACTIONS, _SNAPSHOTS = Capability.CAS, Capability.TRANSACTIONS, Capability.SNAPSHOT_READS
_ACCOUNTS, _MONEY = 12, 100


async def _increment_by_swaps(store: KeyValueStore, key: str, times: int) -> None:
    for _ in range(times):
        while True:
            found = await store.get(key)
            value = b"1" if found is None else b"%d" % (int(found.value) + 1)
            await asyncio.sleep(0)  # so that others write in between
            if await store.compare_and_swap(key, ABSENT if found is None else found.revision, value):
                break


class ConcurrencyPromises(StoreSuite):
    """What may be relied on when many tasks use a store."""

    @promise(_CAS)
    async def test_no_update_is_lost_among_swaps(self, lab: StoreLab) -> None:
        store = lab.store
        await together(*(_increment_by_swaps(store, "n", 15) for _ in range(8)))
        found = await store.get("n")
        assert found is not None
        assert int(found.value) == 8 * 15

    @promise()
    async def test_no_increment_is_lost_and_each_sum_is_told_once(self, lab: StoreLab) -> None:
        sums = await together(*(lab.store.increment("n") for _ in range(200)))
        assert sorted(sums) == list(range(1, 201))

    @promise(_CAS, Capability.SHARED)
    async def test_no_update_is_lost_between_two_objects_of_one_store(self, lab: StoreLab) -> None:
        store, other = lab.store, await lab.open()
        await together(*(_increment_by_swaps(one, "n", 10) for one in (store, other, store, other)))
        for one in (store, other):
            found = await one.get("n")
            assert found is not None
            assert int(found.value) == 40
        await lab.rebase(store)
        await lab.rebase(other)

    @promise(_CAS)
    async def test_one_of_many_who_write_what_is_absent_wins(self, lab: StoreLab) -> None:
        for number in range(10):
            key = f"k{number}"
            won = await together(*(lab.store.put_if_absent(key, b"%d" % task) for task in range(10)))
            assert won.count(True) == 1
            found = await lab.store.get(key)
            assert found is not None
            assert found.value == b"%d" % won.index(True)

    @promise(Capability.LOCKS, _CAS, Capability.TTL)
    async def test_a_lease_has_one_holder_also_when_it_is_taken_over(self, lab: StoreLab) -> None:
        store = lab.store
        tokens: list[int] = []
        for _ in range(5):
            won = await together(*(store.put_if_absent("lock", b"%d" % task, ttl=lab.ttl(1)) for task in range(10)))
            assert won.count(True) == 1
            held = await store.get("lock")
            assert held is not None
            assert held.value == b"%d" % won.index(True)
            tokens.append(held.revision)
            await lab.pass_time(1)
            with pytest.raises(ConflictError):  # whose lease ran out is no longer the holder
                await store.commit((Step("lock", Put(b"mine", lab.ttl(1)), held.revision),))
        assert tokens == sorted(set(tokens))

    @promise(_CAS, _TRANSACTIONS, _SNAPSHOTS)
    async def test_a_snapshot_among_transfers_holds_the_right_total(self, lab: StoreLab) -> None:
        store = lab.store
        names = [f"account/{number}" for number in range(_ACCOUNTS)]
        await store.commit([Step(name, Put(b"%d" % _MONEY)) for name in names])
        over = asyncio.Event()

        async def transfer(seed: int) -> None:
            dice = random.Random(seed)
            done = 0
            while done < 15:
                source, target = dice.sample(names, 2)
                found = await store.get_many([source, target])
                amount = min(dice.randrange(1, 20), int(found[source].value))
                await asyncio.sleep(0)
                try:
                    await store.commit(
                        [
                            Step(name, Put(b"%d" % (int(found[name].value) + change)), found[name].revision)
                            for name, change in ((source, -amount), (target, amount))
                        ]
                    )
                except ConflictError:
                    continue
                done += 1

        async def audit() -> int:
            audits = 0
            while not over.is_set() or not audits:
                async with store.snapshot() as view:
                    await asyncio.sleep(0)
                    money = [int(entry.value) async for entry in view.scan("account/")]
                    assert len(money) == _ACCOUNTS
                    assert sum(money) == _ACCOUNTS * _MONEY
                audits += 1
                await asyncio.sleep(0)
            return audits

        auditing = asyncio.create_task(audit())
        await together(*(transfer(seed) for seed in range(6)))
        over.set()
        assert await auditing > 0

    @promise(_TRANSACTIONS)
    async def test_concurrent_commits_have_revisions_of_their_own(self, lab: StoreLab) -> None:
        done = await together(
            *(lab.store.commit([Step("shared", Put(b"%d" % task)), Step(f"k{task}", Put(b""))]) for task in range(40))
        )
        revisions = [one.revision for one in done]
        assert len(set(revisions)) == len(revisions)
        found = await lab.store.get("shared")
        assert found is not None
        assert found.revision == max(revisions)
        assert found.value == b"%d" % revisions.index(max(revisions))

    @promise(_CAS, _TRANSACTIONS, Capability.LINEARIZABLE_READS)
    @pytest.mark.parametrize("seed", range(4))
    async def test_concurrent_operations_are_strictly_serialisable(self, lab: StoreLab, seed: int) -> None:
        recording = Recording(lab.store)
        await _operate(lab.store, recording, seed)
        recording.check()

    @promise(_CAS, _TRANSACTIONS, Capability.LINEARIZABLE_READS, Capability.SHARED)
    @pytest.mark.parametrize("seed", range(2))
    async def test_operations_of_two_objects_are_strictly_serialisable(self, lab: StoreLab, seed: int) -> None:
        other = await lab.open()
        recording = Recording(lab.store, other)
        await _operate(lab.store, recording, seed)
        recording.check()
        await lab.rebase(lab.store)
        await lab.rebase(other)

    @promise(_CAS, _TRANSACTIONS, Capability.RANGE_EXPECT, _SNAPSHOTS)
    async def test_no_phantom_slips_into_a_checked_range(self, lab: StoreLab) -> None:
        """Each task adds an entry only if it saw fewer than three: more would be a phantom."""
        store = lab.store

        async def book(task: int) -> None:
            for number in range(6):
                async with store.snapshot() as view:
                    revision, seen = view.revision, await collect(view.scan("room/"))
                await asyncio.sleep(0)
                free = len(seen) < 3
                step = Step(f"room/{task}-{number}", Put(b"")) if free else Step(seen[0].key, Delete())
                try:
                    await store.commit((step,), ranges=[RangeExpect("room/", "room0", revision)])
                except ConflictError:
                    continue
                assert len(await store.list_keys("room/")) <= 3

        await together(*(book(task) for task in range(6)))

    @promise(Capability.WATCH, _TRANSACTIONS)
    async def test_a_watch_among_writers_tells_each_commit_once_and_whole(self, lab: StoreLab) -> None:
        store = lab.store
        watch = store.watch()

        async def write(task: int) -> list[int]:
            return [
                (await store.commit([Step(f"k{task}", Put(b"")), Step("shared", Add(1))])).revision for _ in range(20)
            ]

        issued = [
            revision for revisions in await together(*(write(task) for task in range(6))) for revision in revisions
        ]
        async with aclosing(watch):
            events = await lab.take(watch, 2 * len(issued))
        assert {event.revision for event in events} == set(issued)
        for first, second in zip(events[::2], events[1::2], strict=True):
            assert first.revision == second.revision
            assert {first.key, second.key} > {"shared"}
        shared = [event.revision for event in events if event.key == "shared"]
        assert shared == sorted(shared)

    @promise(_CAS)
    async def test_a_cancelled_commit_is_done_whole_or_not_at_all(self, lab: StoreLab) -> None:
        store = lab.store
        several = store.supports(_TRANSACTIONS)
        for number in range(30):
            steps = [Step(f"a{number}", Put(b"")), Step(f"b{number}", Put(b""))][: 2 if several else 1]
            task = asyncio.ensure_future(store.commit(steps))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.put("last", b"")
        keys = set(await store.list_keys())
        for number in range(30):
            assert not several or (f"a{number}" in keys) == (f"b{number}" in keys)

    @promise(_CAS, _TRANSACTIONS)
    @pytest.mark.parametrize("seed", range(4))
    async def test_any_sequence_of_operations_agrees_with_a_plain_dictionary(self, lab: StoreLab, seed: int) -> None:
        await _compare_with_model(lab, random.Random(seed))


async def _operate(store: KeyValueStore, recording: Recording, seed: int) -> None:
    """Let tasks do a mix of everything on few keys."""
    keys = [f"k{number}" for number in range(5)]
    ranges, snapshots = store.supports(Capability.RANGE_EXPECT), store.supports(_SNAPSHOTS)

    async def work(task: int) -> None:
        dice = random.Random(seed * 100 + task)
        seen: dict[str, Entry | None] = {}
        revision = 0
        for number in range(25):
            kind = dice.random()
            if kind < 0.2:
                key = dice.choice(keys)
                seen[key] = await recording.get(key)
            elif kind < 0.3:
                chosen = dice.sample(keys, 3)
                found = await recording.get_many(chosen)
                seen |= {key: found.get(key) for key in chosen}
            elif kind < 0.4 and snapshots:
                revision, entries = await recording.scan("k")
                seen = dict.fromkeys(keys) | {entry.key: entry for entry in entries}
            else:
                steps = [
                    _step(dice, key, seen, b"%d-%d" % (task, number)) for key in dice.sample(keys, dice.randint(0, 3))
                ]
                expected = [RangeExpect("k1", "k4", revision)] if ranges and revision and dice.random() < 0.3 else []
                try:
                    done = await recording.commit(steps, ranges=expected)
                    seen |= done.entries
                except ConflictError as exc:
                    seen |= {key: exc.entries.get(key) for key in exc.keys}
            if dice.random() < 0.2:
                await asyncio.sleep(0)

    await together(*(work(task) for task in range(6)))


def _step(dice: random.Random, key: str, seen: dict[str, Entry | None], value: bytes) -> Step:
    op: Operation | None = dice.choice([None, Delete(), Put(value), Put(value), Put(value)])
    if key not in seen or dice.random() < 0.3:
        return Step(key, op, ANY)
    found = seen[key]
    return Step(key, op, ABSENT if found is None else found.revision)


async def _compare_with_model(lab: StoreLab, dice: random.Random) -> None:
    store, model = lab.store, StoreModel()
    expiring = store.supports(Capability.TTL) and lab.exact
    watch = store.watch() if store.supports(Capability.WATCH) else None
    newest = 0
    for _ in range(150):
        now_ms = lab.clock.time_ns() // 1_000_000
        model.expire(now_ms, newest)
        kind = dice.random()
        if kind < 0.12 and expiring:
            lab.clock.advance(dice.choice([0.001, 0.5, 1]))
            if dice.random() < 0.5:
                await store.cleanup_expired()
        elif kind < 0.3:
            assert await collect(store.scan()) == model.sorted()
        else:
            steps = _steps(dice, model, newest, [0.001, 0.5, 1.0] if expiring else [])
            ranges: list[RangeExpect] = []
            if store.supports(Capability.RANGE_EXPECT) and dice.random() < 0.3:
                start, end = sorted(dice.sample(_KEYS, 2), key=str.encode)
                ranges.append(RangeExpect(start, end, max(0, newest - dice.randrange(3))))
            newest = await _compare_commit(store, model, steps, ranges, newest, now_ms)
    assert await collect(store.scan()) == model.sorted()
    assert await newest_revision(store) >= newest
    if watch is not None:
        last = (await store.put("end", b"")).revision
        events = [event for event in await lab.until(watch, last, "end") if event.kind is not EventKind.EXPIRE]
        told = [(event.revision, event.key, event.kind) for event in events[:-1]]
        assert sorted(told) == sorted(model.changes)
        await watch.aclose()


_KEYS = [*"abcd", "a%", "é", "\U0001f642"]


def _steps(dice: random.Random, model: StoreModel, newest: int, ttls: list[float]) -> list[Step]:
    steps: list[Step] = []
    for key in dice.sample(_KEYS, dice.randint(0, 4)):
        ttl = dice.choice([None, *ttls])
        number = Put(b"%d" % dice.randrange(9), ttl)
        op = dice.choice([None, Delete(), number, Put(b"x", ttl), Add(dice.randint(-3, 3), ttl)])
        known = model.entries.get(key)
        right = ABSENT if known is None else known.revision
        steps.append(Step(key, op, dice.choice([ANY, ANY, right, right, ABSENT, max(1, newest - 1)])))
    return steps


async def _compare_commit(
    store: KeyValueStore, model: StoreModel, steps: list[Step], ranges: list[RangeExpect], newest: int, now_ms: int
) -> int:
    """Commit to both, compare what comes of it, and return the newest revision."""
    failing, moved = model.failing(steps), model.moved(ranges)
    current = {key: entry for key, entry in model.entries.items() if key in failing}
    refused: ConflictError | NotACounterError | None = None
    done = Commit(newest, {})
    try:
        done = await store.commit(steps, ranges=ranges)
    except (ConflictError, NotACounterError) as exc:
        refused = exc
    if isinstance(refused, ConflictError):
        assert failing or moved is not False, "nothing that was expected had changed"
        assert failing <= set(refused.keys), "a conflict names every key whose expectation failed"
        assert {key: entry for key, entry in refused.entries.items() if key in failing} == current
        return newest
    if refused is not None:
        assert not failing, "expectations come before sums"
        with pytest.raises(NotACounterError):
            model.apply(steps, newest + 1, now_ms)
        return newest
    assert not failing, "an expectation failed, and it was committed"
    assert not moved, "a range had changed, and it was committed"
    if not model.changing(steps):
        assert done.revision >= newest
        assert done.entries == {}
        return max(newest, done.revision)
    assert done.revision > newest
    assert done.entries == model.apply(steps, done.revision, now_ms)
    return done.revision
