"""Eight processes contend for one lock while some of them are stopped past their lease, and write what it protects.

The token of a holder is a revision of the store, as is that of every write, so a stale write shows for certain: it came
after another acquisition. ``REACTSTATE_PAUSED_SECONDS`` says for how long they contend.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys

import pytest

from reactstate.kv.options import StoreOptions
from reactstate.kv.sqlite import SqliteStore

SECONDS = float(os.environ.get("REACTSTATE_PAUSED_SECONDS", "3"))
PROCESSES, TTL_S, PAUSE_S = 8, 0.2, 1.0

PROGRAM = """
import asyncio, sys
from reactstate.errors import ConflictError, LeaseLostError, LockTimeoutError
from reactstate.kv.protocol import Put, Step
from reactstate.kv.sqlite import SqliteStore
from reactstate.locks.manager import Locks

async def take(locks, waits):
    if not waits:
        return await locks.try_acquire("resource", TTL)
    try:
        return await locks.acquire("resource", TTL, 0.5)
    except LockTimeoutError:
        return None

async def main(path, me, guarded):
    async with SqliteStore.open(path) as store:
        locks = Locks(store)
        print("ready", flush=True)
        stopping = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        refused = number = 0
        while not stopping.done():
            guard = await take(locks, int(me) % 2)
            if guard is None:
                await asyncio.sleep(0.005)
                continue
            await store.put(f"turn/{guard.token:020d}", me.encode())
            try:
                for _ in range(30):
                    expected = guard.expectations() if guarded else ()
                    await asyncio.sleep(0.004)  # what a holder computes before it writes
                    number += 1
                    await store.commit([Step(f"write/{me}/{number}", Put(b"%d" % guard.token)), *expected])
                await guard.release()
            except ConflictError:  # it had not noticed
                refused += 1
            except LeaseLostError:
                continue
        print(refused, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] == "guarded"))
"""


def start(path, number, how):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("TTL", str(TTL_S)), str(path), str(number), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def contend(path, how, seconds):
    """Return the writes, each with its revision and token, the tokens of all turns, and how many writes were refused."""
    workers = [start(path, number, how) for number in range(PROCESSES)]
    dice = random.Random(7)
    try:
        for worker in workers:
            assert await asyncio.to_thread(worker.stdout.readline) == "ready\n"
        async with SqliteStore.open(path) as store:
            end = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < end:
                newest = [entry async for entry in store.scan("turn/", reverse=True, limit=1)]
                stopped = {dice.randrange(PROCESSES), int(newest[0].value) if newest else 0}
                for number in stopped:  # the newest holder among them
                    workers[number].send_signal(signal.SIGSTOP)
                await asyncio.sleep(PAUSE_S)
                for number in stopped:
                    workers[number].send_signal(signal.SIGCONT)
                await asyncio.sleep(dice.random() * 0.2)
        ends = [await asyncio.to_thread(worker.communicate, "stop\n") for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [error for _, error in ends] == [""] * PROCESSES
    async with SqliteStore.open(path, options=StoreOptions(read_only=True)) as store:
        writes = [(entry.revision, int(entry.value)) async for entry in store.scan("write/")]
        tokens = [int(key.partition("/")[2]) for key in await store.list_keys("turn/")]
    return sorted(writes), tokens, sum(int(answer) for answer, _ in ends)


def stale(writes, tokens):
    """Return the writes that were accepted after somebody else had acquired the lock."""
    found = []
    for revision, token in writes:
        if any(token < other < revision for other in tokens):
            found.append((revision, token))
    return found


@pytest.mark.parametrize("how", ["guarded", "unguarded"])
async def test_a_fenced_resource_accepts_no_stale_write_of_a_stopped_holder_and_an_unfenced_one_does(tmp_path, how):
    for attempt in range(3):  # until the harness has shown that it can tell
        writes, tokens, refused = await contend(tmp_path / f"{how}{attempt}.db", how, SECONDS)
        assert len(writes) > len(tokens) > PROCESSES
        if how == "guarded":
            assert stale(writes, tokens) == []
        if refused if how == "guarded" else stale(writes, tokens):
            return
    pytest.fail("no holder was stopped between its last look at the lease and its write")
