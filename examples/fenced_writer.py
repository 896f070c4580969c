"""A holder that sleeps through its lease and writes when it wakes: what a guard does about it, and what happens without.

A second process takes the lock, decides what to write, and is stopped (SIGSTOP) right before it does. Its lease runs
out, this process takes the lock and writes; then the other one goes on, knowing nothing.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile

from reactstate import ConflictError, Locks, Put, Step, open_store

TTL = 0.3


async def sleeper(url: str, kind: str) -> None:
    """What the other process does."""
    async with open_store(url) as store:
        guard = await Locks(store).acquire("price", TTL)
        # It has looked, and it holds the lock: from here on it means to write.
        conditions = guard.expectations() if kind == "guarded" else ()
        steps = [Step("price", Put(b"9.99, by the sleeper")), *conditions]
        print(guard.token, flush=True)

        sys.stdin.readline()  # it is stopped in here

        try:
            await store.commit(steps)
        except ConflictError:
            print("refused")
        else:
            print("written")


async def main(directory: str, kind: str) -> None:
    url = f"sqlite://{directory}/{kind}.db"
    command = (sys.executable, __file__, url, kind)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    if other.stdin is None or other.stdout is None:
        raise RuntimeError("it was started with pipes")
    its_token = int(await other.stdout.readline())
    other.send_signal(signal.SIGSTOP)

    async with open_store(url) as store:
        # It waits, as the other one holds the lock; then the lease runs out.
        async with Locks(store).lock("price", ttl=30) as guard:
            await store.commit([Step("price", Put(b"4.50, by the next holder")), *guard.expectations()])
            newer = guard.token > its_token

            other.send_signal(signal.SIGCONT)
            answer, _ = await other.communicate(b"go on\n")

        price = await store.get("price")
        print(f"{kind}: the next holder has the greater token: {newer}")
        print(f"{kind}: the sleeper's write was {answer.decode().strip()}")
        print(f"{kind}: the price is", None if price is None else price.value.decode())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(sleeper(*sys.argv[1:]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            for each in ("unguarded", "guarded"):
                asyncio.run(main(scratch, each))
