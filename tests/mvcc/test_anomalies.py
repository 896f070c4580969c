"""Each anomaly that transactions can have, provoked on purpose at both isolation levels."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import TransactionConflict, UnsupportedError
from reactstate.kv.protocol import Capability

EVERYWHERE = ["memory", "sqlite", "lmdb", "plain"]
WITH_SNAPSHOTS = ["memory", "sqlite", "lmdb"]
LEVELS = ["serializable", "snapshot"]

every_engine = pytest.mark.parametrize("engine", EVERYWHERE, indirect=True)
every_level = pytest.mark.parametrize("isolation", LEVELS)


@pytest.fixture
async def accounts(bank, account):
    await bank.put(account(id="x", balance=50))
    await bank.put(account(id="y", balance=50))
    return bank


@every_engine
@every_level
async def test_no_update_is_lost(accounts, isolation):
    first = await accounts.begin_transaction(isolation)
    second = await accounts.begin_transaction(isolation)
    await first.update("x", {"balance": (await first.read("x")).balance + 10})
    await second.update("x", {"balance": (await second.read("x")).balance + 20})
    await first.commit()
    with pytest.raises(TransactionConflict) as caught:
        await second.commit()
    assert caught.value.keys == ("x",)
    assert (await accounts.get("x")).balance == 60


@every_engine
@every_level
async def test_a_write_that_was_not_read_is_not_lost_either(accounts, account, isolation):
    first = await accounts.begin_transaction(isolation)
    await accounts.update("x", {"balance": 7})
    first.write(account(id="x", balance=8))
    if not accounts._store.supports(Capability.SNAPSHOT_READS):  # it reads when it commits
        await first.commit()
        assert (await accounts.get("x")).balance == 8
        return
    with pytest.raises(TransactionConflict):
        await first.commit()
    assert (await accounts.get("x")).balance == 7


@pytest.mark.parametrize("engine", WITH_SNAPSHOTS, indirect=True)
async def test_write_skew_shows_under_snapshot_isolation(accounts):
    first = await accounts.begin_transaction("snapshot")
    second = await accounts.begin_transaction("snapshot")
    for one, other in ((first, "x"), (second, "y")):
        both = (await one.read("x")).balance + (await one.read("y")).balance
        await one.update(other, {"balance": 50 - both})
    await first.commit()
    await second.commit()
    assert [(await accounts.get(id_)).balance for id_ in "xy"] == [-50, -50]


@every_engine
async def test_write_skew_never_happens_when_serializable(accounts):
    first = await accounts.begin_transaction()
    second = await accounts.begin_transaction()
    for one, other in ((first, "x"), (second, "y")):
        both = (await one.read("x")).balance + (await one.read("y")).balance
        await one.update(other, {"balance": 50 - both})
    await first.commit()
    with pytest.raises(TransactionConflict) as caught:
        await second.commit()
    assert caught.value.keys == ("x",)
    assert [(await accounts.get(id_)).balance for id_ in "xy"] == [-50, 50]


async def transfer(accounts):
    async with accounts.transaction() as other:
        await other.update("x", {"balance": 0})
        await other.update("y", {"balance": 100})


@pytest.mark.parametrize("engine", WITH_SNAPSHOTS, indirect=True)
@every_level
async def test_a_reader_sees_no_mix_of_two_commits(accounts, isolation):
    """Read skew: x is read before another commit, y after it."""
    async with accounts.transaction(isolation) as reader:
        before = await reader.read("x")
        await transfer(accounts)
        assert before.balance + (await reader.read("y")).balance == 100
    assert [(await accounts.get(id_)).balance for id_ in "xy"] == [0, 100]


@pytest.mark.parametrize("engine", ["plain", "plainer"], indirect=True)
@every_level
async def test_without_snapshots_a_read_that_no_longer_fits_is_a_conflict_at_once(accounts, isolation):
    reader = await accounts.begin_transaction(isolation)
    await reader.read("x")
    await transfer(accounts)
    with pytest.raises(TransactionConflict) as caught:
        await reader.read("y")
    assert caught.value.keys == ("x",)
    assert reader.state == "aborted"


@every_engine
@every_level
async def test_nothing_is_read_that_was_not_committed(accounts, isolation):
    writer = await accounts.begin_transaction(isolation)
    await writer.update("x", {"balance": 1000})
    assert (await accounts.get("x")).balance == 50
    async with accounts.transaction(isolation) as reader:
        assert (await reader.read("x")).balance == 50
    await writer.abort()
    assert (await accounts.get("x")).balance == 50


@every_engine
@every_level
async def test_a_state_that_is_read_twice_is_the_same(accounts, isolation):
    reader = await accounts.begin_transaction(isolation)
    before = await reader.read("x")
    await accounts.update("x", {"balance": 1})
    assert await reader.read("x") is before
    await reader.abort()


@pytest.mark.parametrize("engine", WITH_SNAPSHOTS, indirect=True)
@every_level
async def test_a_phantom_is_never_seen_and_refused_when_serializable(accounts, account, isolation):
    """Two count the accounts and open another one if there are but two."""
    first = await accounts.begin_transaction(isolation)
    second = await accounts.begin_transaction(isolation)
    for one, name in ((first, "new 1"), (second, "new 2")):
        if len([state async for state in one.scan()]) == 2:
            one.write(account(id=name))
    await first.commit()
    assert [state.id async for state in second.scan()] == ["new 2", "x", "y"]
    if isolation == "snapshot":
        await second.commit()
        assert await accounts.count() == 4
    else:
        with pytest.raises(TransactionConflict) as caught:
            await second.commit()
        assert caught.value.keys == ("new 1",)
        assert await accounts.count() == 3


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
@every_level
async def test_without_snapshots_a_phantom_is_refused_at_both_levels(accounts, account, isolation):
    first = await accounts.begin_transaction(isolation)
    assert [state.id async for state in first.scan()] == ["x", "y"]
    await accounts.put(account(id="new"))
    first.write(account(id="other"))
    with pytest.raises(TransactionConflict) as caught:
        await first.commit()
    assert caught.value.keys == ("new",)
    second = await accounts.begin_transaction(isolation)
    scan = second.scan()
    assert (await anext(scan)).id == "new"
    await accounts.update("x", {"balance": 2})
    with pytest.raises(TransactionConflict) as caught:
        await anext(scan)
    assert caught.value.keys == ("x",)


@every_engine
async def test_an_id_that_was_absent_is_checked_too(accounts, account):
    first = await accounts.begin_transaction()
    assert await first.read("z") is None
    await accounts.put(account(id="z"))
    with pytest.raises(TransactionConflict) as caught:
        await first.update("x", {"balance": 1})
        await first.commit()
    assert caught.value.keys == ("z",)


@pytest.mark.parametrize("engine", WITH_SNAPSHOTS, indirect=True)
async def test_a_reader_that_is_serializable_commits_without_a_check(accounts):
    async with accounts.transaction() as reader:
        await reader.read("x")
        assert len([state async for state in reader.scan()]) == 2
        await transfer(accounts)
    assert reader.state == "committed"


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_without_snapshots_a_reader_is_checked_at_its_commit(accounts):
    reader = await accounts.begin_transaction()
    await reader.read("x")
    await transfer(accounts)
    with pytest.raises(TransactionConflict):
        await reader.commit()


@pytest.mark.parametrize("engine", ["no ranges"], indirect=True)
async def test_without_range_checks_a_scan_is_refused_where_it_must_be_checked(accounts):
    async with accounts.transaction("snapshot") as reader:
        assert len([state async for state in reader.scan()]) == 2
    reader = await accounts.begin_transaction()
    with pytest.raises(UnsupportedError) as caught:
        reader.scan()
    assert (caught.value.layer, caught.value.capability) == ("scan in a transaction", "RANGE_EXPECT")
    await reader.abort()


@pytest.mark.parametrize("engine", ["plainer"], indirect=True)
@every_level
async def test_without_snapshots_and_range_checks_no_level_can_scan(accounts, isolation):
    reader = await accounts.begin_transaction(isolation)
    with pytest.raises(UnsupportedError):
        reader.scan()
    await reader.abort()


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_without_snapshots_reads_of_later_commits_fit_as_long_as_the_earlier_ones_hold(accounts, account):
    reader = await accounts.begin_transaction()
    assert reader.snapshot_version == 0
    await reader.read("x")
    await accounts.put(account(id="z"))
    assert (await reader.read("z")).id == "z"
    assert await reader.read("absent") is None
    assert reader.snapshot_version == (await accounts._store.commit(())).revision
    assert (await reader.read("y")).balance == 50
    await reader.commit()


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_reads_of_one_id_at_the_same_time_give_one_state(accounts, store):
    real, waiting = store.get, []

    async def get(key):
        entry = await real(key)
        if waiting:
            await waiting.pop().wait()
            entry = await real(key)
        return entry

    reader = await accounts.begin_transaction()
    waiting.append(late := asyncio.Event())
    store.get = get
    second = asyncio.create_task(reader.read("x"))
    await asyncio.sleep(0)
    first = await reader.read("x")
    await accounts.update("x", {"balance": 1})
    late.set()
    assert await second is first
    with pytest.raises(TransactionConflict):
        await reader.commit()


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_without_snapshots_more_than_a_hundred_reads_are_checked_at_the_commit_only(accounts, account):
    for number in range(110):
        await accounts.put(account(id=f"a{number}"))
    reader = await accounts.begin_transaction()
    for number in range(105):
        await reader.read(f"a{number}")
    await accounts.update("a0", {"balance": 1})
    await accounts.update("a109", {"balance": 1})
    await reader.read("a109")
    with pytest.raises(TransactionConflict):
        await reader.commit()
