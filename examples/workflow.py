"""A workflow of steps, run by workers that may die: each step becomes ready at a time, and is retried until it is done.

A chain is a sequence of steps. Which one is next, and when, stands in the store; whoever claims it does it, and brings
the chain to the step after it in the same commit that ends the claim.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta

from reactstate import Claim, CoordinationStore, LeaseLostError, ManualClock, StateKey

LEASE = timedelta(seconds=30)
# Each step, and how long after it the next one is ready.
STEPS = {"reserve": timedelta(0), "charge": timedelta(minutes=5), "ship": timedelta(days=7), "ask for a review": None}
NAMES = list(STEPS)


class Services:
    """Stand for warehouse, bank and post, which do each request once, however often they are told its id."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.seen: set[str] = set()
        self.refusals = 1

    async def ask(self, step: str, request: str) -> bool:
        await asyncio.sleep(0)
        if step == "charge" and self.refusals:
            self.refusals -= 1
            self.log.append(f"{request}: the card was refused")
            return False
        self.log.append(f"{request}: was done before" if request in self.seen else request)
        self.seen.add(request)
        return True


class Shop:
    """Has the steps done, in one of many workers."""

    def __init__(self, coordination: CoordinationStore, services: Services) -> None:
        self.coordination = coordination
        self.services = services

    async def begin(self, number: str) -> None:
        await self.coordination.index_chain_ready(StateKey("shop", "acme", "order", number), timedelta(0), NAMES[0])

    async def work(self) -> int:
        """Do what is ready, and say how much it was."""
        claims = await self.coordination.claim_ready_chains(limit=10, lease=LEASE)
        await asyncio.gather(*(self.advance(claim) for claim in claims))
        return len(claims)

    async def advance(self, claim: Claim) -> None:
        step = claim.step or NAMES[0]
        if not await self.do(claim.key, step):
            # Later again. Should this not be reached either, the lease brings it back.
            await self.coordination.complete(claim, next_at=timedelta(minutes=1), step=step)
            return
        pause = STEPS[step]
        if pause is None:
            await self.coordination.complete(claim)
        else:
            await self.coordination.complete(claim, next_at=pause, step=NAMES[NAMES.index(step) + 1])

    async def do(self, order: StateKey, step: str) -> bool:
        # A worker may die between doing a step and saying so. So a step may be asked for again, under the same id.
        return await self.services.ask(step, f"{order.id} {step}")


async def main(directory: str) -> None:
    clock = ManualClock()  # time is an argument, so that the week takes no time
    services = Services()
    async with CoordinationStore.open(f"sqlite://{directory}/shop.db", clock=clock) as coordination:
        shop = Shop(coordination, services)
        await shop.begin("17")
        while await shop.work():
            pass

        # A worker claims the next step, has it done, and dies before it can say so.
        clock.advance(timedelta(minutes=1))
        (lost,) = await coordination.claim_ready_chains(limit=1, lease=LEASE)
        await shop.do(lost.key, lost.step or "")
        print("in its hands:", lost.step)
        print("meanwhile another worker finds:", await shop.work())
        clock.advance(LEASE)
        print("after the lease:", await shop.work())
        try:
            await coordination.complete(lost)
        except LeaseLostError:
            print("the dead one comes back, and is refused")

    # All of it is in the store: another process goes on a week later.
    async with CoordinationStore.open(f"sqlite://{directory}/shop.db", clock=clock) as coordination:
        shop = Shop(coordination, services)
        clock.advance(timedelta(minutes=5))
        print("shipped:", await shop.work() == 1)
        print("ready before the week is over:", await coordination.get_ready_chains())
        clock.advance(timedelta(days=7))
        print("ready after it:", await coordination.get_ready_chains())
        await shop.work()

    for line in services.log:
        print(line)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
