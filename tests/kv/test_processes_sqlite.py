from __future__ import annotations

import asyncio
import subprocess
import sys

from reactstate.kv.sqlite import SqliteStore

PROCESSES, TASKS, EACH = 8, 10, 200

PROGRAM = """
import asyncio, sys
from reactstate.errors import ConflictError
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, Add, Put, Step
from reactstate.kv.sqlite import SqliteStore

async def count(store, key, times):
    for _ in range(times):
        while True:
            found = await store.get(key)
            value, expected = (0, ABSENT) if found is None else (int(found.value), found.revision)
            try:
                await store.commit([Step(key, Put(b"%d" % (value + 1)), expected), Step("total", Add(1))])
            except ConflictError:
                continue
            break

async def main(path, tasks, times):
    print("ready", flush=True)
    sys.stdin.readline()
    async with SqliteStore.open(path, options=StoreOptions(durability="interval")) as store:
        await asyncio.gather(*(count(store, f"counter {task}", times) for task in range(tasks)))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_eight_processes_read_modify_and_write_2000_times_each_and_lose_nothing(tmp_path):
    path = tmp_path / "shared.db"
    workers = [start(path, TASKS, EACH) for _ in range(PROCESSES)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:  # all of them make the file at once
        worker.stdin.write("go\n")
        worker.stdin.flush()
    ends = [await asyncio.to_thread(worker.communicate) for worker in workers]
    assert [error for _, error in ends] == [""] * PROCESSES
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    async with SqliteStore.open(path) as store:
        counters = [int(entry.value) async for entry in store.scan("counter ")]
        assert counters == [PROCESSES * EACH] * TASKS
        assert (await store.get("total")).value == b"%d" % (PROCESSES * TASKS * EACH)
        assert (await store.cursor()).endswith(f":{PROCESSES * TASKS * EACH}")


async def test_the_commits_of_another_process_reach_a_watch_in_order_and_once(tmp_path):
    path = tmp_path / "shared.db"
    async with SqliteStore.open(path) as store:
        watch = store.watch("counter")
        worker = start(path, 2, 50)
        worker.stdin.write("go\n")
        worker.stdin.flush()
        seen = [await asyncio.wait_for(anext(watch), 30) for _ in range(100)]
        _, error = await asyncio.to_thread(worker.communicate)
        assert error == ""
        assert [event.revision for event in seen] == list(range(1, 101))
