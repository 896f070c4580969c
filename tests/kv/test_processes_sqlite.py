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


FORK = """
import asyncio, gc, os, sys, warnings
from reactstate.errors import WrongContextError
from reactstate.kv.sqlite import SqliteStore

warnings.simplefilter("ignore", DeprecationWarning)

async def child(store, view, watch, path):
    for operation in (
        store.get("a"), store.put("a", b"2"), store.commit([]), store.cursor(), store.flush(), store.aclose(),
        store.cleanup_expired(), view.get("a"), anext(watch), SqliteStore.open(path).__aenter__(),
        store.size_on_disk(),
    ):
        try:
            await operation
        except WrongContextError:
            continue
        return 1
    for call in (store.scan, store.watch, view.scan):
        try:
            call()
        except WrongContextError:
            continue
        return 2
    assert store.stats().put_count == 1
    other = await SqliteStore.open(path + ".other")
    await other.put("a", b"")
    await other.aclose()
    return 0

async def main(path):
    store = await SqliteStore.open(path)
    await store.put("a", b"1")
    watch = store.watch()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    async with store.snapshot() as view:
        pid = os.fork()
        if pid == 0:
            asyncio.events._set_running_loop(None)
            asyncio.set_event_loop(None)
            code = 9
            try:
                code = asyncio.run(child(store, view, watch, path))
                del store, view
                gc.collect()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert (await view.get("a")).value == b"1"
    assert (await store.put("b", b"2")).revision == 2
    assert (await waiting).key == "b"
    await store.aclose()
    async with SqliteStore.open(path) as again:
        assert [entry.key async for entry in again.scan()] == ["a", "b"]

asyncio.run(main(sys.argv[1]))
"""


async def test_a_forked_child_is_refused_and_the_parent_goes_on_unharmed(tmp_path):
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FORK, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
