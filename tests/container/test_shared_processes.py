"""Several processes on one container: nothing is lost, seen twice, or seen out of order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from reactstate import State, StateConfig, StateContainer

UPDATES = 1000

COMMON = """
    import asyncio, sys
    from reactstate import State, StateConfig, StateContainer

    class Tally(State):
        n: int = 0

    def add(draft):
        draft.n += 1

    CONFIG = StateConfig(history_size=10_000, buffer_size=10_000)
    url = sys.argv[1]
"""

WRITER = (
    COMMON
    + """
    async def main():
        async with StateContainer.open(Tally(), url, key="tally", config=CONFIG) as tally:
            print("ready", flush=True)
            sys.stdin.readline()
            for turn in range(int(sys.argv[2])):
                await tally.update(add, actor=sys.argv[3])

    asyncio.run(main())
"""
)

READER = (
    COMMON
    + """
    async def main():
        seen, last = open(sys.argv[2], "a"), int(sys.argv[3])
        async with StateContainer.open(Tally(), url, key="tally", config=CONFIG) as tally:
            async with tally.subscribe(since=int(sys.argv[4])) as changes:
                print("ready", flush=True)
                if int(sys.argv[4]) >= last:
                    return
                async for change in changes:
                    seen.write(f"{change.version} {change.new_state.n} {change.change_id}\\n")
                    seen.flush()
                    if change.version == last:
                        return

    asyncio.run(main())
"""
)


class Tally(State):
    n: int = 0


async def start(script: str, *arguments: Any) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(script),
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("engine", ["sqlite", "lmdb"])
async def test_two_processes_make_2000_more_versions_which_a_restarted_third_sees_once_and_in_order(engine, tmp_path):
    url, seen = f"{engine}://{tmp_path}/store", tmp_path / "seen"
    last = 1 + 2 * UPDATES
    writers = [await start(WRITER, url, UPDATES, name) for name in ("ada", "bob")]
    reader = await start(READER, url, seen, last, 1)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        await writer.stdin.drain()
    async with asyncio.timeout(120):
        while len(lines(seen)) < UPDATES // 2:  # noqa: ASYNC110 - the other process tells nobody
            await asyncio.sleep(0.005)
        os.kill(reader.pid, signal.SIGKILL)
        await reader.wait()
        whole = [line for line in seen.read_text().split("\n")[:-1] if line.count(" ") == 2]
        seen.write_text("".join(f"{line}\n" for line in whole))
        reader = await start(READER, url, seen, last, int(whole[-1].split()[0]))
        assert [await writer.wait() for writer in writers] == [0, 0]
        assert await reader.wait() == 0
    found = [line.split() for line in lines(seen)]
    assert [(int(version), int(n)) for version, n, _ in found] == [(n + 1, n) for n in range(1, 2 * UPDATES + 1)]
    config = StateConfig(history_size=10_000)
    async with StateContainer.open(Tally, url, key="tally", config=config) as tally:
        assert (tally.version, tally.state.n) == (last, 2 * UPDATES)
        assert [str(change.change_id) for change in tally.history][1:] == [identity for _, _, identity in found]
        assert sum(change.actor == "ada" for change in tally.history) == UPDATES
