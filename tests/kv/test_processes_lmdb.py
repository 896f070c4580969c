from __future__ import annotations

import asyncio
import subprocess
import sys

from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.options import StoreOptions

PROCESSES = 8
UPDATES = 2000

READ_MODIFY_WRITE = """
import asyncio, random, sys
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.options import StoreOptions

async def add(store, key):
    while True:
        entry = await store.get(key)
        if await store.compare_and_swap(key, entry.revision, b"%d" % (int(entry.value) + 1)):
            return

async def main(path, seed, updates):
    keys = random.Random(seed)
    async with LmdbStore.open(path, options=StoreOptions(durability="interval")) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        left = iter(range(updates))
        async def work():
            for _ in left:
                await add(store, f"n{keys.randrange(16)}")
        await asyncio.gather(*(work() for _ in range(8)))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def start(script, *args):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_together(children):
    for child in children:
        assert child.stdout.readline() == "ready\n", child.communicate()[1]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate()
        assert (child.returncode, errors) == (0, "")


async def test_eight_processes_add_up_exactly(tmp_path):
    place = tmp_path / "store"
    async with LmdbStore.open(place) as store:
        await asyncio.gather(*(store.put(f"n{number}", b"0") for number in range(16)))
    await asyncio.to_thread(run_together, [start(READ_MODIFY_WRITE, place, seed, UPDATES) for seed in range(PROCESSES)])
    async with LmdbStore.open(place) as store:
        entries = [entry async for entry in store.scan()]
        assert sum(int(entry.value) for entry in entries) == PROCESSES * UPDATES
        assert max(entry.revision for entry in entries) == 16 + PROCESSES * UPDATES


GROW = """
import asyncio, sys
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.options import StoreOptions

async def main(path, name):
    options = StoreOptions(durability="never")
    async with LmdbStore.open(path, options=options, map_size=1 << 20) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        async def work(part):
            for number in range(25):
                await store.put(f"{name}/{part}/{number:03}", bytes(10_000))
                assert await store.get(f"{name}/{part}/{number:03}") is not None
        await asyncio.gather(*(work(part) for part in range(8)))
        async with store.snapshot() as view:
            assert len([entry async for entry in view.scan(f"{name}/")]) == 200

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_map_grows_under_the_load_of_two_processes(tmp_path):
    place = tmp_path / "store"
    await asyncio.to_thread(run_together, [start(GROW, place, name) for name in "ab"])
    async with LmdbStore.open(place, options=StoreOptions(read_only=True)) as store:
        assert len(await store.list_keys()) == 400
        assert await store.size_on_disk() > 4_000_000


FORK = """
import asyncio, os, sys
from reactstate.errors import WrongContextError
from reactstate.kv.lmdb import LmdbStore

async def child(path, store):
    try:
        await store.get("a")
    except WrongContextError:
        pass
    else:
        os._exit(2)
    async with LmdbStore.open(path) as own:
        await own.put("child", (await own.get("a")).value)

async def main(path):
    async with LmdbStore.open(path) as store:
        await store.put("a", b"1")
        async with store.snapshot() as view:
            await store.put("a", b"2")
            pid = os.fork()
            if not pid:
                asyncio._set_running_loop(None)
                try:
                    asyncio.new_event_loop().run_until_complete(child(path, store))
                    os._exit(0)
                finally:
                    os._exit(1)
            while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
                await asyncio.sleep(0.001)
            assert os.waitstatus_to_exitcode(done[1]) == 0, done
            assert (await view.get("a")).value == b"1"
        assert (await store.get("child")).value == b"2"
        await store.put("a", b"3")

asyncio.run(main(sys.argv[1]))
print("ready")
"""


def test_a_forked_process_is_refused_the_store_and_opens_it_anew(tmp_path):
    child = start(FORK, tmp_path / "store")
    out, errors = child.communicate()
    assert (child.returncode, out, errors) == (0, "ready\n", "")


WAIT = """
import asyncio, sys
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.options import StoreOptions

async def main(path):
    async with LmdbStore.open(path, options=StoreOptions(durability="never")) as store:
        watch = store.watch("in/")
        print("ready", flush=True)
        async for event in watch:
            number = int(event.key[3:])
            await store.put(f"out/{number}", (await store.get(event.key)).value)
            if number == 99:
                return

asyncio.run(main(sys.argv[1]))
"""


async def test_a_watch_sees_what_another_process_commits_once_and_in_order(tmp_path):
    place = tmp_path / "store"
    async with LmdbStore.open(place, options=StoreOptions(durability="never")) as store:
        with start(WAIT, place) as child:
            assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
            watch = store.watch("out/")
            for number in range(100):
                await store.put(f"in/{number}", b"%d" % number)
            events = [await watch.__anext__() for _ in range(100)]
            await asyncio.to_thread(child.wait)
            assert child.returncode == 0
        assert [event.key for event in events] == [f"out/{number}" for number in range(100)]
