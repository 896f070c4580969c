"""What a transaction is: its reads and writes, its end, its limits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from reactstate.errors import (
    ClosedError,
    CodecError,
    InvalidKeyError,
    LeaseLostError,
    LimitExceededError,
    SettingsError,
    StateNotFoundError,
    StateValidationError,
    TooManyTransactions,
    TransactionConflict,
    TransactionNotActive,
    TransactionTimeout,
    TransitionError,
    UnsupportedError,
    WrongContextError,
)
from reactstate.keyed.container import KeyedContainer
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability, Put, Step
from reactstate.mvcc.container import MVCCContainer
from reactstate.mvcc.transaction import TransactionState
from reactstate.state.change import ChangeType
from reactstate.state.state import State

every_engine = pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb", "plain"], indirect=True)


class Numbered(State):
    id: int | UUID
    text: str = ""


# --- what it reads and writes -----------------------------------------------------------------------------------------


@every_engine
async def test_a_transaction_writes_everything_in_one_commit(bank, account):
    async with bank.transaction(actor="ada", action="open", tags={"branch": 7}) as tx:
        tx.write(account(id="x", balance=1))
        tx.write(account(id="y", balance=2))
        assert await bank.get("x") is None
    assert tx.state is TransactionState.COMMITTED
    current = {name: await bank.current(name) for name in "xy"}
    assert tx.written == current
    for one in current.values():
        assert (one.version, one.transaction_id) == (1, tx.id)
    assert UUID(tx.id).version == 7
    assert current["x"].metadata.tags == {"branch": 7}
    entries = [entry async for entry in bank._store.scan(bank._records.root)]
    assert len({entry.revision for entry in entries}) == 1


async def test_versions_go_on_as_those_of_the_container_do(bank, account):
    await bank.put(account(id="x"))
    async with bank.transaction() as tx:
        await tx.update("x", {"balance": 1})
    assert (await bank.current("x")).version == 2
    assert (await bank.update("x", {"balance": 2})).transaction_id is None
    async with bank.transaction() as tx:
        tx.delete("x")
    assert tx.written == {}
    assert await bank.get("x") is None
    async with bank.transaction() as tx:
        tx.write(account(id="x"))
        tx.write(account(id="new"))
    assert {id_: made.version for id_, made in tx.written.items()} == {"x": 5, "new": 5}
    async with bank.transaction() as tx:
        tx.delete("x")
        tx.write(account(id="z"))
    async with bank.transaction() as tx:
        tx.delete("z")
        tx.delete("new")
    assert (await bank.put(account(id="x"))).version == 7


async def test_what_was_deleted_and_written_anew_is_one_update(bank, account):
    await bank.put(account(id="x"))
    async with bank.transaction() as tx:
        tx.delete("x")
        assert await tx.read("x") is None
        tx.write(account(id="x", balance=3))
        tx.write(account(id="y"))
        tx.delete("y")
        tx.delete("never")
    assert {id_: made.version for id_, made in tx.written.items()} == {"x": 2}
    assert await bank.get("y") is None


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
async def test_a_state_that_is_equal_makes_no_version_and_is_still_checked(bank, account, isolation):
    await bank.put(account(id="x", balance=5))
    before = (await bank._store.commit(())).revision
    async with bank.transaction(isolation) as tx:
        tx.write(account(id="x", balance=5))
    assert (tx.written, (await bank._store.commit(())).revision) == ({}, before)
    tx = await bank.begin_transaction(isolation)
    tx.write(account(id="x", balance=5))
    tx.write(account(id="y"))
    await bank.update("x", {"balance": 6})
    with pytest.raises(TransactionConflict) as caught:
        await tx.commit()
    assert caught.value.keys == ("x",)


@every_engine
async def test_a_transaction_reads_its_own_writes_also_in_a_scan(bank, account):
    for name in ["b", "d", "f", "other/1"]:
        await bank.put(account(id=name))
    async with bank.transaction() as tx:
        tx.write(account(id="a", balance=1))
        tx.write(account(id="d", balance=2))
        tx.write(account(id="e", balance=3))
        tx.write(account(id="g", balance=4))
        tx.write(account(id="gone"))
        tx.delete("gone")
        tx.delete("b")
        tx.delete("c")
        assert (await tx.read("a")).balance == 1
        assert await tx.read("b") is None
        assert (await tx.read("d")).balance == 2
        found = [(state.id, state.balance) async for state in tx.scan()]
        assert found == [("a", 1), ("d", 2), ("e", 3), ("f", 0), ("g", 4), ("other/1", 0)]
        assert [state.id async for state in tx.scan("other/")] == ["other/1"]
    assert [state.id async for state in bank.scan()] == ["a", "d", "e", "f", "g", "other/1"]


async def test_a_delete_during_a_scan_is_seen(bank, account):
    for name in "abc":
        await bank.put(account(id=name))
    async with bank.transaction() as tx:
        tx.write(account(id="b", balance=1))
        tx.write(account(id="bb", balance=1))
        found = []
        async for state in tx.scan():
            found.append(state.id)
            tx.delete("b")
            tx.delete("bb")
        assert found == ["a", "c"]
    async with bank.transaction() as tx:
        tx.write(account(id="x"))
        scan = tx.scan("x")
        tx.delete("x")
        assert [state async for state in scan] == []
    tx = await bank.begin_transaction()
    scan = tx.scan()
    assert (await anext(scan)).id == "a"
    await scan.aclose()
    await tx.abort()


async def test_read_set_and_write_set_are_ids(store):
    async with MVCCContainer.open(Numbered, store=store) as numbers:
        await numbers.put(Numbered(id=7))
        tx = await numbers.begin_transaction()
        await tx.read(7)
        await tx.read(8)
        tx.write(Numbered(id=UUID(int=1)))
        assert tx.read_set == {7, 8}
        assert tx.write_set == {UUID(int=1)}
        assert repr(tx) == "Transaction('serializable', ACTIVE, snapshot_version=1, 2 read, 1 written)"
        await numbers.put(Numbered(id=8))
        with pytest.raises(TransactionConflict) as caught:
            await tx.commit()
        assert caught.value.keys == ("8",)
        assert caught.value.__cause__ is not None


async def test_update_reads_changes_and_writes(bank, account):
    await bank.put(account(id="x", balance=1))
    async with bank.transaction() as tx:
        assert (await tx.update("x", lambda draft, by: setattr(draft, "balance", draft.balance + by), 4)).balance == 5
        assert (await tx.update("x", {"balance": 6})).balance == 6
        with pytest.raises(StateNotFoundError):
            await tx.update("nobody", {"balance": 6})
        with pytest.raises(StateValidationError):
            await tx.update("x", {"id": "y"})
    assert (await bank.get("x")).balance == 6


async def test_bad_arguments_are_refused_and_leave_the_transaction_active(bank, account):
    async with bank.transaction() as tx:
        with pytest.raises(StateValidationError):
            tx.write(Numbered(id=1))
        with pytest.raises(StateValidationError):
            tx.write(account(id=""))
        with pytest.raises(InvalidKeyError):
            tx.delete(7)
        with pytest.raises(InvalidKeyError):
            await tx.read(7)
        with pytest.raises(InvalidKeyError):
            tx.scan(7)
        tx.write(account(id="x"))
    assert await bank.get("x") is not None
    with pytest.raises(ValueError, match="isolation"):
        bank.transaction("read committed")
    with pytest.raises(StateValidationError):
        bank.transaction(actor=7)
    with pytest.raises(ValueError, match="attempts"):
        await bank.run(lambda tx: tx.abort(), attempts=0)


async def test_a_transition_that_is_refused_changes_nothing(bank, account):
    await bank.put(account(id="x", balance=1))
    tx = await bank.begin_transaction()
    tx.write(account(id="y"))
    tx.write(account(id="x", balance=-13))
    with pytest.raises(TransitionError):
        await tx.commit()
    assert tx.state == "aborted"
    assert await bank.get("y") is None


async def test_a_commit_that_is_too_large_changes_nothing(account):
    class SmallStore(MemoryStore):
        limits = type(MemoryStore.limits)(8192, 1 << 20, 3, 1 << 20)

    async with SmallStore() as store, MVCCContainer.open(account, store=store) as bank:
        tx = await bank.begin_transaction()
        for name in "abcd":
            tx.write(account(id=name))
        with pytest.raises(LimitExceededError):
            await tx.commit()
        assert tx.state == "aborted"
        assert await bank.count() == 0


async def test_what_cannot_be_read_is_an_error_for_who_reads_it_only(bank, account, store):
    await bank.put(account(id="x"))
    await store.put(bank._records.key("bad"), b"nonsense")
    async with bank.transaction() as tx:
        with pytest.raises(CodecError):
            await tx.read("bad")
        with pytest.raises(CodecError):
            [state async for state in tx.scan()]
        await tx.update("x", {"balance": 4})
    tx = await bank.begin_transaction("snapshot")
    tx.write(account(id="bad"))
    with pytest.raises(CodecError):
        await tx.commit()
    assert tx.state == "aborted"


async def test_the_verbs_of_a_keyed_container_work_beside(bank, account, store):
    async with KeyedContainer.open(account, store=store) as plain:
        await plain.put(account(id="x"))
        async with bank.transaction() as tx:
            await tx.update("x", {"balance": 1})
        found = await plain.current("x")
        assert (found.version, found.transaction_id, found.state.balance) == (2, tx.id, 1)
        assert await bank.compare_and_swap("x", 2, {"balance": 2})
        assert await bank.delete("x")


async def test_an_update_that_loses_against_a_transaction_runs_again(bank, account):
    await bank.put(account(id="x"))
    runs = []

    def add(draft):
        runs.append(draft.balance)
        draft.balance += 1

    async def transact(tx):
        await tx.update("x", add)

    await asyncio.gather(*(bank.run(transact) if turn % 2 else bank.update("x", add) for turn in range(40)))
    assert (await bank.get("x")).balance == 40


# --- its end ----------------------------------------------------------------------------------------------------------


async def test_a_body_that_raises_aborts(bank, account):
    with pytest.raises(ZeroDivisionError):
        async with bank.transaction() as tx:
            tx.write(account(id="x"))
            raise ZeroDivisionError
    assert tx.state == "aborted"
    assert await bank.get("x") is None
    assert bank.stats().active == 0


async def test_a_cancelled_task_aborts_and_lets_go_of_its_snapshot(bank, account):
    await bank.put(account(id="x"))
    begun = asyncio.Event()
    seen = []

    async def body():
        async with bank.transaction() as tx:
            seen.append(tx)
            tx.write(account(id="y"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await begun.wait()
    await bank.update("x", {"balance": 1})
    assert (bank.stats().active, bank.stats().versions_held) == (1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[0].state == "aborted"
    assert (bank.stats().active, bank.stats().versions_held) == (0, 0)
    assert await bank.get("y") is None


async def test_a_transaction_has_one_end(bank, account):
    tx = await bank.begin_transaction()
    tx.write(account(id="x"))
    await tx.commit()
    for use in (tx.commit, tx.abort, lambda: tx.read("x"), lambda: tx.update("x", {"balance": 1})):
        with pytest.raises(TransactionNotActive, match="committed"):
            await use()
    for call in (lambda: tx.write(account(id="x")), lambda: tx.delete("x"), tx.scan):
        with pytest.raises(TransactionNotActive):
            call()
    tx = await bank.begin_transaction()
    scan = tx.scan()
    await tx.abort()
    await tx.abort()
    with pytest.raises(TransactionNotActive):
        await anext(scan)
    with pytest.raises(TransactionNotActive, match="aborted"):
        await tx.commit()


async def test_a_block_may_be_ended_inside_and_is_entered_once(bank, account):
    block = bank.transaction()
    async with block as tx:
        tx.write(account(id="x"))
        await tx.commit()
    assert tx.state == "committed"
    async with bank.transaction() as tx:
        tx.write(account(id="y"))
        await tx.abort()
    assert await bank.get("y") is None
    with pytest.raises(TransactionNotActive, match="once"):
        async with block:
            pass
    with pytest.raises(ZeroDivisionError):
        async with bank.transaction() as tx:
            await tx.commit()
            raise ZeroDivisionError
    assert tx.state == "committed"


async def test_transactions_inside_one_another_are_their_own(bank, account):
    await bank.put(account(id="x"))
    with pytest.raises(TransactionConflict):
        async with bank.transaction() as outer:
            await outer.update("x", {"balance": 1})
            async with bank.transaction() as inner:
                assert (await inner.read("x")).balance == 0
                await inner.update("x", {"balance": 2})
    assert (inner.state, outer.state) == ("committed", "aborted")
    assert (await bank.get("x")).balance == 2


async def test_a_transaction_that_is_being_committed_takes_nothing_more(bank, account, store):
    tx = await bank.begin_transaction()
    tx.write(account(id="x"))

    async def meanwhile():
        for use in (tx.commit, tx.abort, lambda: tx.read("x")):
            with pytest.raises(TransactionNotActive, match="being committed"):
                await use()
        await tx._expire(ZeroDivisionError)
        await tx._drop()

    store.plan.append(meanwhile)
    await tx.commit()
    assert tx.state == "committed"


async def test_a_cancelled_commit_is_whole_or_not_at_all_and_says_that_nobody_knows(bank, account, store):
    for applied in (True, False):
        stuck = asyncio.Event()

        async def hang(applied=applied, stuck=stuck):
            if applied:
                store.plan.append(None)
                await store.commit([Step(bank._records.key("probe"), Put(b"x"))])
            stuck.set()
            await asyncio.Event().wait()

        tx = await bank.begin_transaction()
        tx.write(account(id="x"))
        store.plan.append(hang)
        task = asyncio.create_task(tx.commit())
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tx.state is TransactionState.UNKNOWN
        for end in (tx.commit, tx.abort):
            with pytest.raises(TransactionNotActive, match="unknown"):
                await end()
    assert bank.stats().active == 0
    assert not bank._turns


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_transaction_that_is_left_open_is_aborted_after_its_timeout(store, manual, account, settle):
    timeout = timedelta(seconds=5)
    async with MVCCContainer.open(account, store=store, clock=manual, transaction_timeout=timeout) as bank:

        async def forgetful():
            tx = await bank.begin_transaction()
            tx.write(account(id="x"))
            return tx

        tx = await asyncio.create_task(forgetful())
        await settle()
        manual.advance(3)
        younger = await bank.begin_transaction()
        await settle()
        manual.advance(2)
        await settle()
        assert (tx.state, younger.state) == ("aborted", "active")
        assert bank.stats().active == 1
        for use in (tx.commit, lambda: tx.read("x")):
            with pytest.raises(TransactionTimeout):
                await use()
        with pytest.raises(TransactionTimeout):
            tx.write(account(id="x"))
        await tx.abort()
        with pytest.raises(TransactionNotActive):
            await tx.commit()
        manual.advance(3)  # the younger one is found to be too late by its own use
        with pytest.raises(TransactionTimeout):
            await younger.read("x")
        await settle()
        assert (bank.stats().active, bank.stats().aborts) == (0, 2)
        await settle()
        manual.advance(5)
        await settle()
        assert bank._active._reaper is None
        assert await bank.get("x") is None


async def test_a_block_that_took_too_long_says_so_at_its_end(store, manual, account, settle):
    async with MVCCContainer.open(account, store=store, clock=manual) as bank:
        with pytest.raises(TransactionTimeout, match="30 s"):
            async with bank.transaction() as tx:
                tx.write(account(id="x"))
                await settle()
                manual.advance(31)
                await settle()
                assert tx.state == "aborted"
        with pytest.raises(TransactionTimeout):
            async with bank.transaction() as tx:
                scan = tx.scan()
                manual.advance(31)
                await anext(scan)


async def test_no_more_transactions_than_allowed_are_active(store, account):
    async with MVCCContainer.open(account, store=store, max_transactions=2) as bank:
        first, second = [await bank.begin_transaction() for _ in range(2)]
        with pytest.raises(TooManyTransactions, match="2 transactions"):
            await bank.begin_transaction()
        await first.abort()
        third = await bank.begin_transaction()
        await second.commit()
        await third.commit()


async def test_ten_thousand_open_transactions_hold_what_they_see_and_no_longer(store, account):
    async with MVCCContainer.open(account, store=store, max_transactions=10_000) as bank:
        await bank.put(account(id="x"))
        opened = []
        for number in range(10_000):
            opened.append(await bank.begin_transaction())
            await bank.put(account(id="x", balance=number + 1000))
        assert bank.stats().versions_held == 10_000
        assert bank.stats().oldest_snapshot_version == 1
        assert (await opened[5000].read("x")).balance == 4999 + 1000
        for tx in opened[:5000]:
            await tx.abort()
        assert bank.stats().versions_held == 5000
        assert bank.stats().oldest_snapshot_version == 5001
        for tx in opened[5000:]:
            await tx.commit()
        assert bank.stats().versions_held == 0
        assert bank.stats().oldest_snapshot_version is None
        assert "active=0" in repr(bank.stats())
        assert (bank.stats().commits, bank.stats().aborts) == (5000, 5000)


async def test_settings_that_cannot_be_used_are_refused(store, account):
    for settings in ({"max_transactions": 0}, {"max_transactions": True}, {"transaction_timeout": 3}):
        with pytest.raises(SettingsError):
            await MVCCContainer.open(account, store=store, **settings)
    with pytest.raises(SettingsError):
        await MVCCContainer.open(account, store=store, transaction_timeout=timedelta(0))


async def test_an_engine_without_transactions_is_refused(account):
    class LooseStore(MemoryStore):
        capabilities = MemoryStore.capabilities - {Capability.TRANSACTIONS}

    async with LooseStore() as loose:
        with pytest.raises(UnsupportedError):
            await MVCCContainer.open(account, store=loose)


async def test_closing_aborts_what_is_open(account, store):
    bank = await MVCCContainer.open(account, store=store)
    tx = await bank.begin_transaction()
    tx.write(account(id="x"))
    await bank.aclose()
    assert (tx.state, bank.stats().versions_held) == ("aborted", 0)
    with pytest.raises(ClosedError):
        await tx.commit()
    with pytest.raises(ClosedError):
        await bank.begin_transaction()


async def test_closing_waits_for_a_commit_that_was_sent(account, store, settle):
    bank = await MVCCContainer.open(account, store=store)
    tx = await bank.begin_transaction()
    tx.write(account(id="x"))
    closing = []

    async def close():
        closing.append(asyncio.create_task(bank.aclose()))
        await settle()
        assert not closing[0].done()

    store.plan.append(close)
    await tx.commit()
    await closing[0]
    async with MVCCContainer.open(account, store=store) as again:
        assert await again.get("x") is not None


async def test_a_read_that_its_end_overtakes_says_what_happened(bank, account, store, settle):
    await bank.put(account(id="x"))
    tx = await bank.begin_transaction()
    view = tx._view

    class Slow:
        async def get(self, key):
            await tx.abort()
            return await view.get(key)

        async def scan(self, prefix):
            await tx.abort()
            async for entry in view.scan(prefix):
                yield entry

    tx._view = Slow()
    with pytest.raises(TransactionNotActive):
        await tx.read("x")
    tx = await bank.begin_transaction()
    view, tx._view = tx._view, Slow()
    with pytest.raises(TransactionNotActive):
        [state async for state in tx.scan()]

    class Late:
        async def get(self, key):
            entry = await view.get(key)
            await tx.abort()
            return entry

    tx = await bank.begin_transaction()
    view, tx._view = tx._view, Late()
    with pytest.raises(TransactionNotActive):
        await tx.read("x")


async def test_a_transaction_stays_on_its_loop_and_out_of_recipes(bank, account):
    tx = await bank.begin_transaction()

    async def elsewhere():
        await tx.read("x")

    with pytest.raises(WrongContextError):
        await asyncio.to_thread(asyncio.run, elsewhere())
    with pytest.raises(WrongContextError):
        await asyncio.to_thread(tx.write, account(id="x"))
    await bank.put(account(id="x"))
    with pytest.raises(WrongContextError):
        await bank.update("x", lambda draft: tx.write(account(id="y")))
    with pytest.raises(WrongContextError):
        await bank.update("x", lambda draft: bank.transaction())
    await tx.commit()


async def test_a_beginning_that_takes_too_long_keeps_nothing_open(account, manual, settle):
    class Slow(MemoryStore):
        waiting = None

        def snapshot(self):
            inner = super().snapshot()

            class Block:
                async def __aenter__(self):
                    if store.waiting is not None:
                        await store.waiting.wait()
                    return await inner.__aenter__()

                async def __aexit__(self, *arguments):
                    await inner.__aexit__(*arguments)

            return Block()

    async with Slow() as store, MVCCContainer.open(account, store=store, clock=manual) as bank:
        store.waiting = asyncio.Event()
        beginning = asyncio.create_task(bank.begin_transaction())
        await settle()
        manual.advance(31)
        await settle()
        store.waiting.set()
        tx = await beginning
        with pytest.raises(TransactionTimeout):
            await tx.read("x")
        assert (tx.state, tx._block) == ("aborted", None)
        store.waiting = asyncio.Event()
        block = bank.transaction()
        entering = asyncio.create_task(block.__aenter__())
        await settle()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await block.__aexit__(None, None, None)
        assert bank.stats().active == 0


async def test_a_key_that_is_no_id_is_named_as_it_is(store):
    async with MVCCContainer.open(Numbered, store=store) as numbers:
        await numbers.put(Numbered(id=1))
        tx = await numbers.begin_transaction()
        assert len([state async for state in tx.scan()]) == 1
        tx.write(Numbered(id=2))
        stray = f"{numbers._records.root}\x01inone"
        await store.put(stray, b"of another class")
        with pytest.raises(TransactionConflict) as caught:
            await tx.commit()
        assert caught.value.keys == (stray,)


# --- guards and retries -----------------------------------------------------------------------------------------------


class Held:
    def __init__(self, key, revision):
        self.steps = [Step(key, None, revision)]

    def expectations(self):
        return self.steps


async def test_a_guard_that_has_moved_on_lets_nothing_through(bank, account, store):
    lock = await store.put("lock", b"me")
    guard = Held("lock", lock.revision)
    async with bank.transaction(guard=guard) as tx:
        tx.write(account(id="x"))
    async with bank.transaction(guard=guard) as tx:
        await tx.read("x")
    await store.put("lock", b"you")
    with pytest.raises(LeaseLostError):
        async with bank.transaction(guard=guard) as tx:
            tx.write(account(id="y"))
    assert tx.state == "aborted"
    with pytest.raises(LeaseLostError):
        async with bank.transaction(guard=guard) as tx:
            await tx.read("x")
    tx = await bank.begin_transaction()
    tx.delete("x")
    with pytest.raises(LeaseLostError):
        await tx.commit(guard=guard)
    assert await bank.get("x") is not None
    assert await bank.get("y") is None


async def test_run_tries_again_and_returns_what_the_function_returned(bank, account, clock):
    await bank.put(account(id="x"))
    runs = []

    async def work(tx):
        runs.append(tx.id)
        found = await tx.read("x")
        if len(runs) < 6:
            await bank.update("x", {"balance": len(runs)})
        tx.write(account(id="x", balance=found.balance + 100))
        return found.balance

    assert await bank.run(work, isolation="snapshot", actor="ada") == 5
    assert len(set(runs)) == 6
    assert (await bank.get("x")).balance == 105
    assert len(clock.slept) == 4
    assert bank.stats().conflicts == 5


async def test_run_gives_up_with_the_last_conflict(bank, account):
    await bank.put(account(id="x"))
    runs = []

    async def loser(tx):
        runs.append(1)
        await tx.read("x")
        await bank.update("x", {"balance": len(runs)})
        tx.delete("x")

    with pytest.raises(TransactionConflict) as caught:
        await bank.run(loser, attempts=3)
    assert (len(runs), caught.value.keys) == (3, ("x",))

    async def broken(tx):
        runs.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await bank.run(broken)
    assert len(runs) == 4

    async def done(tx):
        tx.write(account(id="z"))
        await tx.commit()
        return tx.state

    assert await bank.run(done) == "committed"


async def test_callbacks_hear_of_each_change_once_with_its_transaction(bank, account, settle):
    told = []
    bank.on_change(told.append)
    await settle()
    async with bank.transaction() as tx:
        tx.write(account(id="x"))
        tx.write(account(id="y"))
    assert [(change.id, change.change_type, change.transaction_id) for change in told] == [
        ("x", ChangeType.CREATE, tx.id),
        ("y", ChangeType.CREATE, tx.id),
    ]
    async with bank.transaction():
        pass
    async with bank.transaction() as tx:
        await tx.update("x", {"balance": 1})
        tx.delete("y")
    await settle()
    assert [(change.id, change.change_type, change.version) for change in told[2:]] == [
        ("x", ChangeType.UPDATE, 2),
        ("y", ChangeType.DELETE, 2),
    ]
    assert told[3].transaction_id is None
