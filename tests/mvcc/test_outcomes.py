"""Stores that fail, drop replies or are written to meanwhile: no effect is lost and none is doubled."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import (
    ContentionError,
    TransactionConflict,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Put, Step
from reactstate.mvcc.container import MVCCContainer
from reactstate.testing.stores import FaultyStore

plain_too = pytest.mark.parametrize("engine", ["memory", "plain"], indirect=True)


@pytest.fixture
async def others(store, clock, account):
    async with MVCCContainer.open(account, store=store, clock=clock) as opened:
        yield opened


@plain_too
@pytest.mark.parametrize("trouble", ["lost", "unsent", "down"])
async def test_a_lost_reply_or_a_refusal_makes_a_transaction_neither_lost_nor_doubled(bank, account, store, trouble):
    store.plan.append(trouble)
    async with bank.transaction() as tx:
        tx.write(account(id="x", balance=1))
        tx.write(account(id="y", balance=1))
    assert [made.version for made in tx.written.values()] == [1, 1]
    tx = await bank.begin_transaction()
    await tx.update("x", {"balance": 2})
    tx.delete("y")
    store.plan.extend([trouble, trouble])
    await tx.commit()
    assert (await bank.current("x")).version == 2
    assert await bank.get("y") is None
    tx = await bank.begin_transaction()
    tx.delete("x")
    store.plan.append(trouble)
    await tx.commit()
    assert (tx.state, await bank.get("x")) == ("committed", None)
    assert bank.stats().commits == 3


async def test_a_transaction_that_others_followed_is_found_by_its_id(bank, account, store, others):
    for follow in (1, 3):
        for name in "xy":
            await bank.put(account(id=name))

        async def overtake(follow=follow):
            for turn in range(follow):
                await others.update("x", {"balance": turn + 100})

        store.after = overtake
        tx = await bank.begin_transaction()
        await tx.update("x", {"balance": 1})
        store.plan.append("lost")
        await tx.commit()
        assert tx.state == "committed"
        assert tx.written["x"].version == (await bank.current("x")).version - follow
        for name in "xy":
            await bank.delete(name)


async def test_a_transaction_that_was_beaten_is_a_conflict(bank, account, store, others):
    for name in "xy":
        await bank.put(account(id=name))

    async def overtake():
        await others.update("x", {"balance": 9})

    for write in (lambda tx: tx.write(account(id="x", balance=1)), lambda tx: tx.delete("x")):
        tx = await bank.begin_transaction()
        write(tx)
        store.plan.append("unsent")
        store.after = overtake
        with pytest.raises(TransactionConflict) as caught:
            await tx.commit()
        assert (tx.state, caught.value.keys) == ("aborted", ("x",))
        await bank.update("x", {"balance": 8})


async def test_where_another_state_tells_nothing_the_next_one_does(bank, account, store, others):
    """One was created and is gone, the other still names the transaction."""

    async def remove():
        await others.delete("new")

    tx = await bank.begin_transaction()
    tx.write(account(id="new"))
    tx.write(account(id="other"))
    store.plan.append("lost")
    store.after = remove
    await tx.commit()
    assert tx.state == "committed"
    assert await bank.get("new") is None


async def test_a_creation_that_did_not_arrive_is_sent_again(bank, account, store):
    tx = await bank.begin_transaction()
    tx.write(account(id="x"))
    tx.write(account(id="y"))
    store.plan.append("unsent")
    await tx.commit()
    assert (await bank.current("x")).transaction_id == tx.id


async def test_what_can_no_longer_be_told_is_said_so(bank, account, store, others):
    async def remove():
        await others.delete("x")

    async def bury():
        for turn in range(12):
            await others.update("x", {"balance": turn + 50})

    async def spoil():
        await store.put(bank._records.key("x"), b"nonsense")

    for after, before in ((remove, False), (bury, True), (spoil, True)):
        if before:
            await bank.put(account(id="x"))
        tx = await bank.begin_transaction()
        tx.write(account(id="x", balance=1))
        store.plan.append("lost")
        store.after = after
        with pytest.raises(UnknownOutcomeError):
            await tx.commit()
        assert tx.state == "unknown"
        assert bank.stats().active == 0


async def test_deletions_whose_reply_is_lost_count_when_everything_read_still_holds(bank, account, store, others):
    for name in "xyz":
        await bank.put(account(id=name))

    async def move():
        await others.update("z", {"balance": 5})

    tx = await bank.begin_transaction()
    await tx.read("z")
    tx.delete("x")
    store.plan.append("lost")
    await tx.commit()
    tx = await bank.begin_transaction()
    await tx.read("z")
    tx.delete("y")
    store.plan.append("lost")
    store.after = move
    with pytest.raises(UnknownOutcomeError):
        await tx.commit()
    assert tx.state == "unknown"


async def test_an_old_look_decides_nothing(bank, account, store):
    """As when a replica answers that has not heard of the change."""
    await bank.put(account(id="x"))
    key = bank._records.key("x")
    oldest = await store.get(key)
    await bank.update("x", {"balance": 1})
    tx = await bank.begin_transaction()
    tx.write(account(id="x", balance=2))
    real, answers = store.get_many, [{key: oldest}]

    async def get_many(keys):
        if answers and tx._committing and store.commits_lost:
            return answers.pop()
        return await real(keys)

    store.commits_lost = False

    async def lose():
        store.commits_lost = True

    store.after = lose
    store.get_many = get_many
    store.plan.append("lost")
    await tx.commit()
    assert not answers
    assert (await bank.current("x")).version == 3


async def test_another_deletion_alone_is_no_conflict(bank, account, others, clock):
    for number in range(5):
        await others.put(account(id=f"old {number}"))
    tx = await bank.begin_transaction()
    tx.write(account(id="warm"))
    await tx.commit()  # so that the floor is known
    tx = await bank.begin_transaction()
    tx.write(account(id="new"))
    await others.delete("old 0")
    await tx.commit()
    assert tx.written["new"].version == 3
    assert bank.stats().conflicts == 0


async def test_deletions_that_never_end_are_a_conflict_at_the_deadline(bank, account, others, store, clock):
    tx = await bank.begin_transaction()
    tx.write(account(id="new"))

    async def delete_another():
        version = (await others.put(account(id="other"))).version
        clock.now += 20
        await others.delete("other", expected_version=version)

    async def at_last():
        clock.now += 20
        await delete_another()

    store.plan.extend([delete_another, None, None, at_last, None, None])
    with pytest.raises(TransactionConflict):
        await tx.commit()


async def test_a_store_out_of_reach_is_tried_until_the_deadline(bank, account, store, clock):
    await bank.put(account(id="x"))
    store.down = 3
    tx = await bank.begin_transaction()
    tx.write(account(id="x", balance=1))
    store.plan.extend(["down"] * 500)
    with pytest.raises(UnavailableError):
        await tx.commit()
    assert tx.state == "aborted"
    assert sum(clock.slept) < 61
    store.plan.clear()
    store.down = 500
    with pytest.raises(UnavailableError):
        await bank.begin_transaction()
    assert bank.stats().active == 0


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_without_snapshots_reads_and_their_check_are_tried_again(account, store, clock):
    # Who gives up early has time left for the transaction.
    async with MVCCContainer.open(account, store=store, clock=clock, deadline=5) as bank:
        await bank.put(account(id="x"))
        await bank.put(account(id="y"))
        tx = await bank.begin_transaction()
        store.down = 2
        await tx.read("x")
        store.plan.extend(["down", "lost", "unsent"])
        assert (await tx.read("y")).id == "y"
        store.plan.extend(["unsent"] * 500)
        with pytest.raises(UnavailableError):
            await tx.read("z")
        store.plan.clear()
        store.plan.append("lost")
        await tx.commit()  # which writes nothing, and so can be sent again
        assert tx.state == "committed"


@pytest.mark.parametrize("engine", ["memory", "plain"])
@pytest.mark.parametrize("seed", range(6))
async def test_no_transfer_is_lost_or_doubled_whatever_the_store_drops(engine, seed, open_store, clock, account):
    store = FaultyStore(await open_store(engine), seed=seed, clock=clock)
    async with store, MVCCContainer.open(account, store=store, clock=clock, deadline=600) as bank:
        async with bank.transaction() as tx:
            for name in "abc":
                tx.write(account(id=name, balance=0))
        store.fail(probability=0.1)
        store.drop_reply(probability=0.3)
        done = dict.fromkeys("abc", 0)

        async def work(number):
            for turn in range(15):
                source, target = "abc"[(number + turn) % 3], "abc"[(number + turn + 1) % 3]

                async def move(tx, source=source, target=target, turn=turn):
                    await tx.update(source, lambda draft: setattr(draft, "balance", draft.balance - 1))
                    await tx.update(target, lambda draft: setattr(draft, "balance", draft.balance + 1))
                    tx.write(account(id=f"log {number} {turn}"))

                await bank.run(move, attempts=200)
                done[source] -= 1
                done[target] += 1

        await asyncio.gather(*map(work, range(3)))
        store.heal()
        assert {name: (await bank.get(name)).balance for name in "abc"} == done
        assert await bank.count("log ") == 45
        assert store.dropped > 0
        assert bank.stats().active == 0


async def test_errors_of_one_transaction_do_not_reach_the_next(bank, account, store, clock):
    store.plan.append("unsent")
    store.plan.extend(["unsent"] * 500)
    tx = await bank.begin_transaction()
    tx.write(account(id="x"))
    with pytest.raises(UnknownOutcomeError):
        await tx.commit()
    store.plan.clear()
    async with bank.transaction() as tx:
        tx.write(account(id="x"))
    assert (await bank.current("x")).version == 1


async def test_a_snapshot_that_cannot_be_closed_keeps_nothing_open(account, manual, settle, caplog):
    class Stubborn(MemoryStore):
        def snapshot(self):
            inner = super().snapshot()

            class Block:
                async def __aenter__(self):
                    return await inner.__aenter__()

                async def __aexit__(self, *arguments):
                    await inner.__aexit__(*arguments)
                    raise ContentionError("not now")

            return Block()

    async with Stubborn() as store, MVCCContainer.open(account, store=store, clock=manual) as bank:
        tx = await bank.begin_transaction()
        await settle()
        manual.advance(31)
        await settle()
        assert tx.state == "aborted"
        assert bank.stats().active == 0
        assert "could not be closed" in caplog.text
        await store.commit([Step("still", Put(b"works"))])
