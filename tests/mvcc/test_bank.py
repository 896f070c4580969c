"""A bank: whatever is transferred by whomever, the sum stays, and whoever looks sees it."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest

from reactstate.mvcc.container import MVCCContainer

NAMES = "abcdef"
TOTAL = 600


async def prepare(bank, account):
    async with bank.transaction() as tx:
        for name in NAMES:
            tx.write(account(id=name, balance=100))


async def transfer(tx, dice):
    source, target = dice.sample(NAMES, 2)
    amount = dice.randint(1, 50)
    if (await tx.read(source)).balance >= amount:
        await tx.update(source, lambda draft: setattr(draft, "balance", draft.balance - amount))
        await asyncio.sleep(0)
        await tx.update(target, lambda draft: setattr(draft, "balance", draft.balance + amount))


async def audit(tx):
    return sum([state.balance async for state in tx.scan()])


@pytest.mark.parametrize("engine", ["memory", "sqlite", "lmdb", "plain"], indirect=True)
@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
async def test_eight_tasks_keep_the_sum(store, account, isolation):
    async with MVCCContainer.open(account, store=store) as bank:
        await prepare(bank, account)

        async def work(number):
            dice = random.Random(number)
            for _ in range(15):
                await bank.run(lambda tx: transfer(tx, dice), attempts=500, isolation=isolation)
                assert await bank.run(audit, attempts=500, isolation=isolation) == TOTAL

        await asyncio.gather(*map(work, range(8)))
        states = [state async for state in bank.scan()]
        assert sum(state.balance for state in states) == TOTAL
        assert min(state.balance for state in states) >= 0
        assert bank.stats().active == 0


PROGRAM = """
import asyncio, random, sys
from reactstate.mvcc.container import MVCCContainer
from reactstate.state.state import State

class Account(State):
    id: str
    balance: int = 0

async def main(path, seed):
    dice = random.Random(seed)
    async with MVCCContainer.open(Account, "sqlite:" + path) as bank:
        print("ready", flush=True)
        sys.stdin.readline()

        async def transfer(tx):
            source, target = dice.sample("abcdef", 2)
            amount = dice.randint(1, 50)
            if (await tx.read(source)).balance >= amount:
                await tx.update(source, lambda draft: setattr(draft, "balance", draft.balance - amount))
                await tx.update(target, lambda draft: setattr(draft, "balance", draft.balance + amount))
                await tx.update("count", lambda draft: setattr(draft, "balance", draft.balance + 1))
            return amount

        async def audit(tx):
            return sum([state.balance async for state in tx.scan() if state.id != "count"])

        before = bank.stats().commits
        for _ in range(60):
            await bank.run(transfer, attempts=1000)
            total = await bank.run(audit, attempts=1000)
            assert total == 600, total

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_three_processes_keep_the_sum_on_sqlite(tmp_path, account):
    path = tmp_path / "shared.db"
    async with MVCCContainer.open(account, f"sqlite:{path}") as bank:
        await prepare(bank, account)
        await bank.put(account(id="count"))
        workers = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PROGRAM,
                str(path),
                str(seed),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            for seed in range(3)
        ]
        for worker in workers:
            assert await worker.stdout.readline() == b"ready\n"
        ends = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
        assert [error.decode() for _, error in ends] == [""] * 3
        states = {state.id: state.balance async for state in bank.scan()}
        count = states.pop("count")
        assert sum(states.values()) == TOTAL
        assert (await bank.current("count")).version == count + 1
        assert count > 100
