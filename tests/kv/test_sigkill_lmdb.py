from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
import time

import lmdb.verify
import pytest

from reactstate.kv.lmdb import LmdbStore

WRITE = """
import asyncio, os, sys
from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Put, Step

async def main(path, durability, life):
    store = await LmdbStore.open(path, options=StoreOptions(durability=durability))

    async def work(name):
        number = 0
        while True:
            value = b"%d" % number * (1 + number % 300)
            done = await store.commit([Step(f"{life}/{name}/left", Put(value)), Step(f"{life}/{name}/right", Put(value))])
            os.write(1, f"{name} {number} {done.revision}\\n".encode())
            number += 1

    os.write(1, b"ready\\n")
    await asyncio.gather(*(work(name) for name in range(6)))

asyncio.run(main(*sys.argv[1:]))
"""


def kill_at(moment, *args):
    """Run the writer, kill it after *moment* seconds; return what it had acknowledged: name, number, revision."""
    with subprocess.Popen([sys.executable, "-c", WRITE, *map(str, args)], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + moment
        lines = [child.stdout.readline()]
        while time.monotonic() < deadline:
            lines.append(child.stdout.readline())
        child.kill()
        lines.extend(line for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n"))
    return [tuple(map(int, line.split())) for line in lines]


def number_of(value):
    return next(number for number in itertools.count() if b"%d" % number * (1 + number % 300) == value)


@pytest.mark.parametrize(("durability", "kills"), [("always", 20), ("interval", 5), ("never", 5)])
async def test_a_killed_process_loses_nothing_acknowledged_and_leaves_nothing_half_applied(tmp_path, durability, kills):
    place = tmp_path / "store"
    moments = random.Random(durability)
    newest = 0
    for life in range(kills):
        acknowledged = await asyncio.to_thread(kill_at, moments.uniform(0.001, 0.1), place, durability, life)
        told = {name: number for name, number, _ in acknowledged}
        newest = max(newest, *(revision for _, _, revision in acknowledged))
        assert lmdb.verify.verify(str(place)) == []
        async with LmdbStore.open(place) as store:
            for name in range(6):
                left = await store.get(f"{life}/{name}/left")
                right = await store.get(f"{life}/{name}/right")
                if left is None or right is None:
                    assert left is right
                    assert name not in told
                else:
                    assert (left.value, left.revision) == (right.value, right.revision)
                    assert number_of(left.value) >= told.get(name, 0)
            entry = await store.put("after", b"1")
            assert entry.revision > newest
            newest = entry.revision
