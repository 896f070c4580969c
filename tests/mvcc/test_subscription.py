"""Subscriptions to whole transactions: never half of one, none lost, none twice."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import CodecError, CompactedError, UnsupportedError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.mvcc.container import MVCCContainer
from reactstate.mvcc.subscription import TransactionSubscription
from reactstate.state.change import ChangeType
from reactstate.testing.stores import FaultyStore

every_engine = pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb"], indirect=True)


async def write(bank, account, **balances):
    async with bank.transaction() as tx:
        for name, balance in balances.items():
            if balance is None:
                tx.delete(name)
            else:
                tx.write(account(id=name, balance=balance))
    return tx.id


def told(change):
    return [(one.id, one.change_type, None if one.state is None else one.state.balance) for one in change.changes]


@every_engine
async def test_the_changes_of_a_transaction_come_together(bank, account):
    async with bank.transactions() as changes:
        first = await write(bank, account, x=1, y=2)
        change = await anext(changes)
        assert told(change) == [("x", ChangeType.CREATE, 1), ("y", ChangeType.CREATE, 2)]
        assert change.transaction_id == first
        assert first in repr(change)
        assert {one.transaction_id for one in change.changes} == {first}
        second = await write(bank, account, x=None, y=3, z=4)
        change = await anext(changes)
        assert sorted(told(change)) == [
            ("x", ChangeType.DELETE, None),
            ("y", ChangeType.UPDATE, 3),
            ("z", ChangeType.CREATE, 4),
        ]
        assert (change.transaction_id, changes.cursor) == (second, change.cursor)
        await bank.update("y", {"balance": 9})
        change = await anext(changes)
        assert (change.transaction_id, told(change)) == (None, [("y", ChangeType.UPDATE, 9)])
        await write(bank, account, y=None, z=None)
        change = await anext(changes)
        assert change.transaction_id is None
        assert sorted(one.id for one in change.changes) == ["y", "z"]
        assert {one.version for one in change.changes} == {4}


async def test_transactions_that_do_not_touch_each_other_stay_apart_for_a_late_reader(bank, account):
    changes = bank.transactions()
    ids = [await write(bank, account, **{f"a{number}": 1, f"b{number}": 2}) for number in range(5)]
    found = [await anext(changes) for _ in ids]
    assert [change.transaction_id for change in found] == ids
    assert [len(change.changes) for change in found] == [2] * 5
    await changes.aclose()


async def test_a_late_reader_gets_transactions_that_overlap_as_one(bank, account):
    changes = bank.transactions()
    await write(bank, account, before=1)
    await write(bank, account, x=1, y=1)
    await write(bank, account, between=1)
    newest = await write(bank, account, y=2, z=2)
    after = await write(bank, account, after=1)
    assert told(await anext(changes)) == [("before", ChangeType.CREATE, 1)]
    folded = await anext(changes)
    assert {one.id: one.state.balance for one in folded.changes} == {"x": 1, "y": 2, "between": 1, "z": 2}
    assert folded.transaction_id == newest
    assert (await anext(changes)).transaction_id == after
    await changes.aclose()


async def test_a_cursor_resumes_after_its_transaction(bank, account, store, clock):
    async with bank.transactions() as changes:
        await write(bank, account, x=1, y=1)
        cursor = (await anext(changes)).cursor
    second = await write(bank, account, x=2, y=2)
    async with (
        MVCCContainer.open(account, store=store, clock=clock) as other,
        other.transactions(since=cursor) as changes,
    ):
        assert changes.cursor == cursor
        change = await anext(changes)
        assert (change.transaction_id, [kind for _, kind, _ in told(change)]) == (second, [ChangeType.UPDATE] * 2)


async def test_a_cursor_in_the_middle_of_a_transaction_tells_the_rest_of_it(bank, account):
    async with bank.subscribe() as each:
        await write(bank, account, x=1, y=1, z=1)
        cursor = (await anext(each)).cursor
    async with bank.transactions(since=cursor) as changes:
        assert [id_ for id_, _, _ in told(await anext(changes))] == ["y", "z"]
        await write(bank, account, x=2, y=2)
        assert len((await anext(changes)).changes) == 2


async def test_a_prefix_leaves_out_other_ids(bank, account):
    async with bank.transactions("a/") as changes:
        await write(bank, account, other=1)
        ours = await write(bank, account, **{"b": 1, "a/1": 2})
        change = await anext(changes)
        assert (change.transaction_id, told(change)) == (ours, [("a/1", ChangeType.CREATE, 2)])
        assert not changes._ready


async def follow(subscription, writers, seed, *, turns=3):
    """Apply what comes to a copy, of which the sum must always be 0; return the copy."""
    copy: dict[str, int] = {}
    dice = random.Random(seed)

    async def read():
        async for change in subscription:
            for one in change.changes:
                if one.state is None:
                    copy.pop(one.id, None)
                else:
                    assert one.version > 0
                    copy[one.id] = one.state.balance
            assert sum(copy.values()) == 0, change
            for _ in range(dice.randint(0, turns)):
                await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    await asyncio.gather(*writers)
    for _ in range(20_000):
        if copy.get("end") == 0:
            break
        if reading.done():
            reading.result()
        await asyncio.sleep(0)
    await subscription.aclose()
    await reading
    return copy


async def shuffle(bank, account, number, count):
    """Write transactions that keep the sum of all balances at 0, creating and deleting on the way."""
    dice = random.Random(number)

    async def move(tx):
        source, target = dice.sample("abcdef", 2)
        amount = dice.randint(1, 9)
        for name, by in ((source, -amount), (target, amount)):
            state = await tx.read(name)
            balance = (0 if state is None else state.balance) + by
            if balance:
                tx.write(account(id=name, balance=balance - 1 if balance == -13 else balance))
                if balance == -13:  # which no account may have
                    other = await tx.read("rest")
                    rest = 1 + (0 if other is None else other.balance)
                    tx.write(account(id="rest", balance=rest + 5))
                    fifth = await tx.read("less")
                    tx.write(account(id="less", balance=-5 + (0 if fifth is None else fifth.balance)))
            else:
                tx.delete(name)

    for _ in range(count):
        await bank.run(move, attempts=500)
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(4))
@every_engine
async def test_a_copy_never_has_half_of_a_transaction(store, account, seed):
    class Free(account):
        def check_transition(self, previous):
            pass

    async with MVCCContainer.open(Free, store=store) as bank:

        async def writer(number):
            await shuffle(bank, Free, number, 30)

        async def write_all():
            await asyncio.gather(*(writer(seed * 10 + number) for number in range(3)))
            await bank.put(Free(id="end"))

        copy = await follow(bank.transactions(), [write_all()], seed)
        assert copy == {state.id: state.balance async for state in bank.scan()}


@pytest.mark.parametrize("seed", range(4))
async def test_a_copy_is_whole_also_when_events_come_late_and_one_by_one(account, seed):
    class Free(account):
        def check_transition(self, previous):
            pass

    async with FaultyStore(MemoryStore(), seed=seed) as store, MVCCContainer.open(Free, store=store) as bank:
        store.delay_wakeups(5)

        async def write_all():
            await asyncio.gather(*(shuffle(bank, Free, seed * 10 + number, 30) for number in range(3)))
            await bank.put(Free(id="end"))

        copy = await follow(bank.transactions(), [write_all()], seed)
        assert copy == {state.id: state.balance async for state in bank.scan()}


async def test_a_backlog_larger_than_what_waits_is_read_whole(bank, account, monkeypatch):
    monkeypatch.setattr("reactstate.mvcc.subscription._CAPACITY", 3)
    changes = bank.transactions()
    ids = [await write(bank, account, **{f"a{number}": 1, f"b{number}": 2}) for number in range(20)]
    assert [(await anext(changes)).transaction_id for _ in ids] == ids
    await changes.aclose()


async def test_a_cancelled_reader_takes_nothing(bank, account, store, settle):
    changes = bank.transactions()
    waiting = asyncio.create_task(anext(changes))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first = await write(bank, account, x=1, y=1)
    real = MemoryStore.snapshot
    stuck = asyncio.Event()

    class Slow:
        def __init__(self):
            self.inner = real(store)

        async def __aenter__(self):
            view = await self.inner.__aenter__()

            class View:
                revision = view.revision

                async def get_many(self, keys):
                    stuck.set()
                    await asyncio.Event().wait()

            return View()

        async def __aexit__(self, *arguments):
            await self.inner.__aexit__(*arguments)

    store.snapshot = Slow
    waiting = asyncio.create_task(anext(changes))
    await stuck.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del store.snapshot
    assert (await anext(changes)).transaction_id == first
    await changes.aclose()


async def test_a_snapshot_that_is_older_than_the_events_is_taken_anew(bank, account, store, clock):
    """As when a replica answers that has not heard of the commit."""
    changes = bank.transactions()
    old = store.snapshot()
    await old.__aenter__()
    first = await write(bank, account, x=1)
    real, answers = store.snapshot, [old]

    class Again:
        async def __aenter__(self):
            return old

        async def __aexit__(self, *arguments):
            answers.clear()
            await old.__aexit__(*arguments)

    store.snapshot = lambda: Again() if answers else real()
    assert (await anext(changes)).transaction_id == first
    assert clock.slept == [0.01]
    await changes.aclose()


async def test_closing_ends_it(bank, account, store, settle):
    async with bank.transactions() as changes:
        waiting = asyncio.create_task(anext(changes))
        await settle()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert changes.closed
    await changes.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(changes)
    open_ = bank.transactions()
    waiting = asyncio.create_task(anext(open_))
    await settle()
    await bank.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert not bank._following


async def test_it_ends_with_its_store(account, settle):
    store = MemoryStore()
    bank = await MVCCContainer.open(account, store=store)
    changes = bank.transactions()
    waiting = asyncio.create_task(anext(changes))
    await settle()
    await store.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    await bank.aclose()


async def test_a_reader_that_comes_too_late_is_told_so(account):
    clock = ManualClock()
    options = StoreOptions(change_log_retention=timedelta(seconds=10))
    async with MemoryStore(options=options, clock=clock) as store, MVCCContainer.open(account, store=store) as bank:
        cursor = await store.cursor()
        for _ in range(3):
            clock.advance(60)
            await write(bank, account, x=random.randrange(1 << 30))
        changes = bank.transactions(since=cursor)
        with pytest.raises(CompactedError) as caught:
            await anext(changes)
        await changes.aclose()
        async with bank.transactions(since=caught.value.resume) as changes:
            await write(bank, account, y=1)
            assert "y" in [one.id for one in (await anext(changes)).changes]


async def test_what_cannot_be_read_is_an_error_once(bank, account, store):
    async with bank.transactions() as changes:
        await store.put(bank._records.key("bad"), b"nonsense")
        ours = await write(bank, account, x=1)
        with pytest.raises(CodecError):
            await anext(changes)
        assert (await anext(changes)).transaction_id == ours


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_an_engine_without_snapshots_cannot_tell(bank):
    with pytest.raises(UnsupportedError):
        bank.transactions()


async def test_it_is_an_iterator(bank):
    changes = bank.transactions()
    assert isinstance(changes, TransactionSubscription)
    assert aiter(changes) is changes
    await changes.aclose()
