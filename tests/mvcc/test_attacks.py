"""What was found by attacking transactions."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import TransactionNotActive
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.mvcc.container import MVCCContainer


class SlowReads(MemoryStore):
    """A store that cannot read at one moment; its reads are answered, and commits made, when their gates are open."""

    capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS}

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.commits = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.commits.set()

    async def get(self, key):
        found = await super().get(key)
        await self.reads.wait()
        return found

    async def commit(self, steps, *, ranges=()):
        await self.commits.wait()
        return await super().commit(steps, ranges=ranges)


async def test_what_a_commit_could_not_check_is_not_given_out_as_read(account, settle):
    async with SlowReads() as store, MVCCContainer.open(account, store=store) as bank:
        async with bank.transaction() as tx:
            tx.write(account(id="ada", balance=1))
            tx.write(account(id="bob", balance=1))
        tx = await bank.begin_transaction()
        await tx.update("bob", {"balance": 2})
        store.reads.clear()
        store.commits.clear()
        late = asyncio.ensure_future(tx.read("ada"))
        await settle()
        commit = asyncio.ensure_future(tx.commit())
        await settle()
        store.reads.set()
        with pytest.raises(TransactionNotActive):
            await late
        store.commits.set()
        await commit
        assert tx.read_set == {"bob"}
