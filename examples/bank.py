"""A bank: transfers that happen whole or not at all, however many go on, and a rule over two accounts that holds."""

from __future__ import annotations

import asyncio
import random
import tempfile
from typing import TYPE_CHECKING

from reactstate import MVCCContainer, State, TransactionConflict

if TYPE_CHECKING:
    from typing import Literal

    from reactstate import Transaction

PEOPLE = ("ada", "bob", "cleo", "dora")


class Account(State):
    id: str
    cents: int = 0


class RefusedError(Exception):
    """The bank does not do this."""


def pay_in(draft: Account, cents: int) -> None:
    draft.cents += cents


def pay_out(draft: Account, cents: int) -> None:
    draft.cents -= cents


class Bank(MVCCContainer[Account]):
    """Who has several accounts may overdraw one, as long as all of them together hold enough."""

    async def transfer(self, source: str, target: str, cents: int) -> None:
        async def move(tx: Transaction[Account]) -> None:
            # This may run more than once, so it touches nothing but its transaction.
            await self.withdraw(tx, source, cents)
            await tx.update(target, pay_in, cents)

        await self.run(move, action=f"{source} pays {target}", attempts=1000)

    async def withdraw(self, tx: Transaction[Account], account: str, cents: int) -> None:
        owner = account.split("/", maxsplit=1)[0] + "/"
        if sum([one.cents async for one in tx.scan(owner)]) < cents:
            raise RefusedError(f"{account} cannot pay {cents}")
        await tx.update(account, pay_out, cents)


async def total(bank: Bank, owner: str = "") -> int:
    async with bank.transaction() as tx:  # one moment, however long the scan takes
        return sum([account.cents async for account in tx.scan(owner)])


async def draw_from_both(bank: Bank, isolation: Literal["serializable", "snapshot"]) -> str:
    """Two people with one purse, at two counters at once: each sees enough."""
    first = await bank.begin_transaction(isolation)
    second = await bank.begin_transaction(isolation)
    await bank.withdraw(first, "eve/current", 1000)
    await bank.withdraw(second, "eve/savings", 1000)
    await first.commit()
    try:
        await second.commit()
    except TransactionConflict as conflict:
        return f"refused, because of {', '.join(conflict.keys)}"
    return "both paid out"


async def main(directory: str) -> None:
    async with Bank.open(Account, f"sqlite://{directory}/bank.db") as bank:
        for name in PEOPLE:
            await bank.put(Account(id=f"{name}/current", cents=1000))

        chance = random.Random(7)
        orders = [(chance.sample(PEOPLE, 2), chance.randint(1, 900)) for _ in range(200)]
        done = await asyncio.gather(
            *(bank.transfer(f"{source}/current", f"{target}/current", cents) for (source, target), cents in orders),
            return_exceptions=True,
        )
        refused = sum(isinstance(one, RefusedError) for one in done)
        made = done.count(None)
        print("orders:", len(orders), "made or refused:", made + refused)
        print("no money was made, and none was lost:", await total(bank) == 1000 * len(PEOPLE))
        lowest = min([account.cents async for account in bank.scan()])
        print("nobody is overdrawn:", lowest >= 0)
        print("a transaction for each of them:", bank.stats().commits >= made)

        for isolation in ("snapshot", "serializable"):
            await bank.put(Account(id="eve/current", cents=500))
            await bank.put(Account(id="eve/savings", cents=500))
            print(f"{isolation}: {await draw_from_both(bank, isolation)}; eve has {await total(bank, 'eve/')}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
