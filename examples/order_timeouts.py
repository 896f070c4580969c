"""Orders that must be paid within half an hour: a small state machine, whose timeouts many pollers share.

Each order moves from "placed" to "paid" or to "expired", and never to both: a payment may come at the very moment at
which the timeout is handled.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from datetime import timedelta

from reactstate import Claim, CoordinationStore, LeaseLostError, ManualClock, StateKey

HALF_AN_HOUR = timedelta(minutes=30)
LEASE = timedelta(minutes=1)
OPEN = StateKey("shop", "acme", "group", "open-orders")


def order(number: int) -> StateKey:
    return StateKey("shop", "acme", "order", f"{number:04}")


async def place(shop: CoordinationStore, key: StateKey) -> None:
    # The timeout comes first: should this process die in between, a timeout without an order does no harm.
    await shop.index_timeout(key, HALF_AN_HOUR)
    await shop.transition(key, None, "placed")
    await shop.add_to_group(OPEN, key.id)


async def pay(shop: CoordinationStore, key: StateKey) -> str:
    moved = await shop.transition(key, "placed", "paid")
    if not moved:
        return f"too late, it is {moved.value}"
    await close(shop, key)
    # remove_timeout_index would spare a poller the work; without it, the timeout finds the order paid.
    return "paid"


async def expire(shop: CoordinationStore, claim: Claim) -> str:
    # The guard is the claim: should another poller have the order by now, the store refuses the move.
    moved = await shop.transition(claim.key, "placed", "expired", guard=claim)
    await close(shop, claim.key)
    await shop.complete(claim)
    return "expired" if moved else f"left alone, it is {moved.value}"


async def close(shop: CoordinationStore, key: StateKey) -> None:
    await shop.remove_from_group(OPEN, key.id)


async def poll(shop: CoordinationStore) -> list[str]:
    """What each of many pollers does, in its own process or in this one."""
    outcomes: list[str] = []
    while claims := await shop.claim_expired_timeouts(limit=10, lease=LEASE):
        outcomes += [await expire(shop, claim) for claim in claims]
    return outcomes


async def main(directory: str) -> None:
    clock = ManualClock()  # time is an argument, so that the half hours take no time
    async with CoordinationStore.open(f"sqlite://{directory}/shop.db", clock=clock) as shop:
        await asyncio.gather(*(place(shop, order(number)) for number in range(100)))
        for number in range(30):
            await pay(shop, order(number))
        print("open orders:", len([member async for member in shop.group_members(OPEN)]))
        print("due at once:", len(await shop.get_expired_timeouts()))

        clock.advance(HALF_AN_HOUR)
        print("due after half an hour:", len(await shop.get_expired_timeouts()))

        # One poller takes five and dies. Twenty others do the rest, while a customer tries to pay.
        dead = await shop.claim_expired_timeouts(limit=5, lease=LEASE)
        rounds = await asyncio.gather(*(poll(shop) for _ in range(20)))
        print("handled:", sum(len(outcomes) for outcomes in rounds), "of 95")
        print("a late payment:", await pay(shop, order(99)))

        clock.advance(LEASE)
        rounds.append(await poll(shop))
        print("what the dead one had, after its lease:", len(rounds[-1]))
        print(dict(sorted(Counter(outcome for outcomes in rounds for outcome in outcomes).items())))
        print("open orders:", [member async for member in shop.group_members(OPEN)])

        # It was not dead, it slept. Now it wakes up, and means to go on.
        try:
            await shop.complete(dead[0])
        except LeaseLostError:
            print("the sleeper was refused")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
