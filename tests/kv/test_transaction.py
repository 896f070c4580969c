"""StoreTransaction: what it reads is still so when it commits, and what it writes is written whole or not at all."""

from __future__ import annotations

import pytest

from reactstate.errors import (
    NotACounterError,
    TransactionConflict,
    TransactionNotActive,
    UnsupportedError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Put, Step
from reactstate.kv.transaction import StoreTransaction


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


async def test_it_sees_its_own_writes_and_nobody_else_does_before_the_commit(store):
    await store.put("there", b"1")
    tx = StoreTransaction(store)
    tx.put("new", b"x")
    tx.delete("there")
    tx.increment("count", 2)
    assert (await tx.get("new"), await tx.get("there"), await tx.get("count")) == (b"x", None, b"2")
    assert await store.list_keys() == ["there"]
    done = await tx.commit()
    assert {key: entry.value for key, entry in done.entries.items()} == {"new": b"x", "count": b"2"}
    assert await store.list_keys() == ["count", "new"]


async def test_a_key_that_it_read_and_another_changed_is_a_conflict_and_nothing_is_written(store):
    await store.put("read", b"1")
    for change in (store.put("read", b"2"), store.delete("read"), store.put("absent", b"x")):
        tx = StoreTransaction(store)
        await tx.get("read")
        await tx.get("absent")
        tx.put("written", b"x")
        await change
        with pytest.raises(TransactionConflict) as caught:
            await tx.commit()
        assert set(caught.value.keys) <= {"read", "absent"}
        assert caught.value.keys
        assert await store.get("written") is None


async def test_what_it_wrote_without_reading_conflicts_with_nobody(store):
    tx, other = StoreTransaction(store), StoreTransaction(store)
    tx.put("key", b"tx")
    other.put("key", b"other")
    tx.increment("count")
    other.increment("count")
    await other.commit()
    await tx.commit()
    assert (await store.get("key")).value == b"tx"
    assert (await store.get("count")).value == b"2"


async def test_increments_join_what_was_written_before(store):
    await store.put("there", b"40")
    tx = StoreTransaction(store)
    tx.increment("there", 1)
    tx.increment("there", 1)
    tx.put("fresh", b"7")
    tx.increment("fresh", -2)
    tx.delete("gone")
    tx.increment("gone", 3, ttl=60)
    tx.put("text", b"seven")
    with pytest.raises(NotACounterError):
        tx.increment("text")
    assert await tx.get("there") == b"42"
    await tx.commit()
    found = await store.get_many(["there", "fresh", "gone", "text"])
    assert [found[key].value for key in ("there", "fresh", "gone", "text")] == [b"42", b"5", b"3", b"seven"]
    assert found["gone"].expires_at is not None


async def test_a_range_that_it_scanned_must_be_unchanged_however_far_it_went(store):
    await store.put("a/1", b"x")
    await store.put("a/2", b"x")
    for change, conflicts in (
        (store.put("a/3", b"x"), True),
        (store.delete("a/2"), True),
        (store.put("b", b"x"), False),
    ):
        async with store.snapshot() as view:
            tx = StoreTransaction(store, view)
            async for entry in tx.scan("a/"):
                assert entry.key == "a/1"
                break
            tx.put("sum", b"1")
            await change
            if conflicts:
                with pytest.raises(TransactionConflict):
                    await tx.commit()
            else:
                await tx.commit()
    assert (await store.get("sum")).value == b"1"


async def test_it_reads_the_view_that_it_was_given_and_scans_only_with_one(store):
    await store.put("key", b"old")
    async with store.snapshot() as view:
        tx = StoreTransaction(store, view)
        await store.put("key", b"new")
        assert await tx.get("key") == b"old"
        with pytest.raises(TransactionConflict):
            await tx.commit()
    with pytest.raises(UnsupportedError):
        await anext(aiter(StoreTransaction(store).scan()))


async def test_after_its_end_it_cannot_be_used(store):
    tx = StoreTransaction(store)
    await tx.commit([Step("extra", Put(b"x"))])
    assert (await store.get("extra")).value == b"x"
    with pytest.raises(TransactionNotActive):
        await tx.get("key")
    for use in (lambda: tx.put("key", b""), lambda: tx.delete("key"), lambda: tx.increment("key")):
        with pytest.raises(TransactionNotActive):
            use()
    with pytest.raises(TransactionNotActive):
        await tx.commit()
