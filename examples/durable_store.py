"""A store for what must not be lost: every commit is on disk, and every hour a checkpoint is written beside it.

The newest 24 checkpoints are kept. When somebody makes a mistake, the store goes back to one of them, and a checkpoint
can be looked at in a store of another engine.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta

from reactstate import (
    CheckpointCoordinator,
    CheckpointOptions,
    KeyValueStore,
    ManualClock,
    StoreTransaction,
    TransactionConflict,
    open_store,
)

ACCOUNTS = ("ada", "bob", "cleo")


async def transfer(bank: KeyValueStore, source: str, target: str, cents: int) -> None:
    """Both accounts change, or none; whoever comes in between makes it run again."""
    while True:
        async with bank.snapshot() as view:
            tx = StoreTransaction(bank, view)
            if int(await tx.get(f"account/{source}") or b"0") < cents:
                return
            tx.increment(f"account/{source}", -cents)
            tx.increment(f"account/{target}", cents)
            try:
                await tx.commit()
            except TransactionConflict:
                continue
            return


async def total(bank: KeyValueStore) -> int:
    return sum([int(entry.value) async for entry in bank.scan("account/")])


async def main(directory: str) -> None:
    clock = ManualClock()  # so that thirty hours take no time
    options = CheckpointOptions(f"{directory}/checkpoints", max_checkpoints=24, min_interval=timedelta(minutes=5))
    async with (
        open_store(f"sqlite://{directory}/bank.db", clock=clock) as bank,
        CheckpointCoordinator(bank, timedelta(hours=1), options) as checkpoints,
    ):
        for name in ACCOUNTS:
            await bank.increment(f"account/{name}", 1000)

        for hour in range(30):
            # many at once: each commit expects what it has read, so no money is made and none is lost
            pairs = [(ACCOUNTS[(hour + n) % 3], ACCOUNTS[(hour + n + 1 + n % 2) % 3]) for n in range(10)]
            await asyncio.gather(*(transfer(bank, source, target, 7) for source, target in pairs))
            clock.advance(timedelta(hours=1))
            while checkpoints.stats().checkpoints_created <= hour:  # noqa: ASYNC110 - it tells nobody that it is done
                await asyncio.sleep(0.001)
        kept = await checkpoints.list_checkpoints()
        print(f"checkpoints made: {checkpoints.stats().checkpoints_created}, kept: {len(kept)}")
        print("the total is", await total(bank))

        for key in await bank.list_keys("account/b"):
            await bank.delete(key)
        print("bob was deleted by mistake; the total is", await total(bank))
        await checkpoints.restore_latest(replace=True)
        print("restored; the total is", await total(bank))

        await checkpoints.create_checkpoint("end of the month")

    # A checkpoint belongs to no engine: look at it in memory.
    async with open_store("memory:", clock=clock) as copy:
        shelf = CheckpointCoordinator(copy, timedelta(hours=1), options)
        newest = (await shelf.list_checkpoints())[-1]
        await shelf.restore(newest.id)
        print(f"{newest.name!r}, made of {newest.engine}: {await total(copy)} in {copy.engine}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
