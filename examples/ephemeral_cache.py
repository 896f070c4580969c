"""A store for what may be lost: answers and rate limits that end by themselves, and never pile up.

Entries live for an hour unless they say otherwise, and every ten minutes the expired ones are swept out of memory.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from reactstate import Clock, KeyValueStore, ManualClock, open_store


async def open_cache(clock: Clock | None = None) -> KeyValueStore:
    cache = await open_store("memory:", default_ttl=timedelta(hours=1), clock=clock)
    cache.start_cleanup_task(timedelta(minutes=10))
    return cache


async def look_up(cache: KeyValueStore, question: str) -> str:
    found = await cache.get(f"answer/{question}")
    if found is not None:
        return f"{found.value.decode()} (from the cache)"
    answer = question[::-1]  # stands for something that takes long
    await cache.put(f"answer/{question}", answer.encode())
    return answer


async def may_ask(cache: KeyValueStore, user: str) -> bool:
    # The counter is made with its time to live, and keeps it: a minute after the first question it is gone.
    return await cache.increment(f"asked/{user}", ttl=timedelta(minutes=1)) <= 3


async def main() -> None:
    clock = ManualClock()  # time is an argument, so that the hours of this program take no time
    async with await open_cache(clock) as cache:
        await asyncio.sleep(0)  # the cleanup task begins to wait
        print("first:", await look_up(cache, "stressed"))
        print("again:", await look_up(cache, "stressed"))

        print("four questions in a minute:", [await may_ask(cache, "ada") for _ in range(4)])
        clock.advance(timedelta(minutes=1))
        print("and a minute later:", await may_ask(cache, "ada"))

        await cache.put("session/ada", b"...", ttl=timedelta(hours=8))
        clock.advance(timedelta(hours=1))
        print("after an hour there is", await cache.list_keys())
        await asyncio.sleep(0)  # the cleanup task has its turn
        print("swept:", cache.stats().expired_count)

        print("the answer is made anew:", await look_up(cache, "stressed"))
        print("hits:", cache.stats().hit_count, "of", cache.stats().get_count)


if __name__ == "__main__":
    asyncio.run(main())
