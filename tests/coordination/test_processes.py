"""Several processes on one store: counters, dedup and compare-and-swap are linearizable in the time of the machine."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap

import pytest

PROCESSES, TASKS, ROUNDS = 4, 3, 25

WORKER = """
    import asyncio, json, sys, time
    from reactstate import CoordinationStore, StateKey

    url, worker = sys.argv[1], int(sys.argv[2])
    key = lambda kind, id: StateKey("shop", "acme", kind, str(id))
    told = []

    async def timed(kind, work):
        began = time.monotonic_ns()
        result = await work
        told.append((kind, began, time.monotonic_ns(), result))

    async def swap(store):
        found = await store.get(key("register", 1))
        version = 0 if found is None else found.version
        done = await store.compare_and_swap(key("register", 1), version, f"{worker}")
        return [version, done.swapped, done.version]

    async def work(store):
        for turn in range(int(sys.argv[3])):
            await timed("count", store.increment(key("count", 1)))
            await timed(f"seen {turn}", store.check_and_set(key("message", turn)))
            await timed("swap", swap(store))

    async def main():
        async with CoordinationStore.open(url) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            await asyncio.gather(*(work(store) for _ in range(int(sys.argv[4]))))
        print(json.dumps(told))

    asyncio.run(main())
"""


async def play(url: str) -> list[tuple[str, int, int, object]]:
    """Return what every process was told, and when."""
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(WORKER),
            url,
            str(number),
            str(ROUNDS),
            str(TASKS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    ended = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    return [tuple(one) for out, _ in ended for one in json.loads(out)]


def in_order(operations: list[tuple[int, int, int]]) -> None:
    """Check that what ended before something else began has the smaller place; each is (began, ended, place)."""
    latest_begin = -1
    for began, ended, _ in sorted(operations, key=lambda one: one[2]):
        assert ended > latest_begin
        latest_begin = max(latest_begin, began)


@pytest.mark.parametrize("engine", ["sqlite", "lmdb"])
async def test_what_processes_are_told_has_one_order_that_agrees_with_the_time(engine, tmp_path):
    told = await play(f"{engine}://{tmp_path}/store")
    total = PROCESSES * TASKS * ROUNDS
    counts = [(began, ended, result) for kind, began, ended, result in told if kind == "count"]
    assert sorted(place for _, _, place in counts) == list(range(1, total + 1))
    in_order(counts)
    for turn in range(ROUNDS):
        seen = [(began, ended, result) for kind, began, ended, result in told if kind == f"seen {turn}"]
        first = [one for one in seen if one[2]]
        assert len(first) == 1
        assert all(ended > first[0][0] for _, ended, _ in seen)  # nobody was told of a duplicate before the first began
    swaps = [(began, ended, *result) for kind, began, ended, result in told if kind == "swap"]
    won = sorted((version, base) for _, _, base, swapped, version in swaps if swapped)
    assert [base for _, base in won] == [0, *(version for version, _ in won[:-1])]
    in_order([(began, ended, version) for began, ended, _, swapped, version in swaps if swapped])
