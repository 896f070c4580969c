from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time

import pytest

from reactstate.kv.sqlite import SqliteStore

PROGRAM = """
import asyncio, sys
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Put, Step
from reactstate.kv.sqlite import SqliteStore

async def write(store, name, start):
    number = start
    while True:
        number += 1
        value = b"%d" % number
        await store.commit([Step(f"left {name}", Put(value)), Step(f"right {name}", Put(value))])
        print(name, number, flush=True)

async def main(path, durability, names, starts):
    async with SqliteStore.open(path, options=StoreOptions(durability=durability)) as store:
        print("ready", flush=True)
        await asyncio.gather(*(write(store, *pair) for pair in zip(names, starts)))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), [int(text) for text in sys.argv[4].split(",")]))
"""

NAMES = ["a", "b", "c", "d"]


def run_and_kill(path, durability, acknowledged, seconds):
    """Let a process write, kill it, and note what it had acknowledged."""
    starts = ",".join(str(acknowledged[name]) for name in NAMES)
    worker = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), durability, ",".join(NAMES), starts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    time.sleep(seconds)
    worker.send_signal(signal.SIGKILL)
    output, error = worker.communicate()
    assert error == ""
    for line in output.splitlines(keepends=True):
        if line.endswith("\n"):
            name, number = line.split()
            acknowledged[name] = int(number)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on Windows")
@pytest.mark.parametrize("durability", ["always", "interval"])
async def test_killed_ten_times_nothing_acknowledged_is_lost_and_nothing_is_half_applied(tmp_path, durability):
    path = tmp_path / "killed.db"
    acknowledged = dict.fromkeys(NAMES, 0)
    seed = random.Random(7)
    revision = 0
    for _ in range(10):
        await asyncio.to_thread(run_and_kill, path, durability, acknowledged, seed.uniform(0.001, 0.05))
        async with SqliteStore.open(path) as store:
            for name in NAMES:
                left, right = await store.get(f"left {name}"), await store.get(f"right {name}")
                if acknowledged[name]:
                    assert left.revision == right.revision
                    assert left.value == right.value
                    # the newest one may have been made without an answer
                    assert int(left.value) - acknowledged[name] in {0, 1}
                acknowledged[name] = 0 if left is None else int(left.value)
            newest = int((await store.cursor()).rpartition(":")[2])
            assert newest == sum(acknowledged.values()) >= revision
            revision = newest
            watch = store.watch(after=f"{store._table.id}:0")
            seen = [(await anext(watch)).revision for _ in range(2 * newest)]
            assert seen == sorted([*range(1, newest + 1)] * 2)
