"""A handler of messages that come more than once, and some of whose attempts fail: each has its effect once.

Three ways, from the strongest to the weakest that still does the work, and a limit on how often a customer may call.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta

from reactstate import CoordinationStore, ManualClock, StateKey, StoreTransaction, TransactionConflict, open_store

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


class Mail:
    """Stands for a service elsewhere, which fails now and then."""

    def __init__(self, failures: int) -> None:
        self.sent: list[str] = []
        self.failures = failures

    async def send(self, message: str) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the mail server hung up")
        self.sent.append(message)


async def handle(coordination: CoordinationStore, mail: Mail, message: str) -> str:
    """Send a mail for *message* once; a second delivery, here or in another process, is told apart."""
    key = StateKey("shop", "acme", "message", message)
    # For a minute it is ours. Should this process die, the message may be handled again after that.
    if not await coordination.check_and_set(key, "begun", ttl=MINUTE):
        found = await coordination.get(key)
        return "duplicate" if found is not None and found.value == "done" else "in other hands"
    try:
        await mail.send(message)
    except ConnectionError:
        await coordination.delete(key)  # nothing was done, so the next delivery may try at once
        return "failed"
    await coordination.set(key, "done", ttl=DAY)
    return "sent"


async def may_call(coordination: CoordinationStore, customer: str) -> bool:
    """Three calls a minute: the counter is made with its time to live, and keeps it."""
    return await coordination.increment(StateKey("shop", "acme", "calls", customer), ttl=MINUTE) <= 3


async def main(directory: str) -> None:
    clock = ManualClock()  # time is an argument, so that the minutes of this program take no time
    async with open_store(f"sqlite://{directory}/shop.db", clock=clock) as store:
        async with CoordinationStore.open(store=store) as coordination:
            mail = Mail(failures=1)
            print("first:", await handle(coordination, mail, "m1"))
            print("delivered again:", await handle(coordination, mail, "m1"))
            print("delivered again:", await handle(coordination, mail, "m1"))

            outcomes = await asyncio.gather(*(handle(coordination, mail, "m2") for _ in range(50)))
            print("50 at once:", outcomes.count("sent"), "sent")
            print("mails:", mail.sent)

            # A process that died in the middle leaves its key, which expires.
            await coordination.check_and_set(StateKey("shop", "acme", "message", "m3"), "begun", ttl=MINUTE)
            print("while it may still be at work:", await handle(coordination, mail, "m3"))
            clock.advance(MINUTE)
            print("a minute later:", await handle(coordination, mail, "m3"))

            print("calls:", [await may_call(coordination, "ada") for _ in range(5)])
            clock.advance(MINUTE)
            print("a minute later:", await may_call(coordination, "ada"))

        # The effect is in the store, too: then key and effect go in one commit, and there is nothing in between.
        async def book(message: str, cents: int) -> None:
            while True:
                async with store.snapshot() as view:
                    tx = StoreTransaction(store, view)
                    if await tx.get(f"booked/{message}") is not None:
                        return
                    tx.put(f"booked/{message}", b"", ttl=DAY)
                    tx.increment("income", cents)
                    try:
                        await tx.commit()
                    except TransactionConflict:
                        continue
                    return

        await asyncio.gather(*(book("m4", 250) for _ in range(20)))
        income = await store.get("income")
        print("delivered 20 times, booked:", "nothing" if income is None else int(income.value))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
