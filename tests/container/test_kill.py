"""A real child process is killed at random points; what it acknowledged is there."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from typing import Any

from reactstate import State, StateContainer

ROUNDS = 50

CHILD = """
import asyncio, os, sys
from reactstate import State, StateContainer

class Log(State):
    entries: list[int] = []
    last: int = -1

def note(draft, number):
    draft.entries.append(number)
    draft.last = number
    del draft.entries[:-20]

async def main():
    async with StateContainer.open(Log(), "file:" + sys.argv[1]) as log:
        os.write(1, b"up\\n")
        number = log.state.last
        while True:
            batch = range(number + 1, number + 4)
            made = await asyncio.gather(*(log.update(note, one) for one in batch))
            os.write(1, b"".join(b"%d %d\\n" % (one.version, one.state.last) for one in made))
            number += 3

asyncio.run(main())
"""


class Log(State):
    entries: list[int] = []
    last: int = -1


async def found(path: str) -> list[tuple[int, Any]]:
    async with StateContainer.open(Log, f"file:{path}") as log:
        assert log.state == log.history[-1].new_state
        return [(change.version, change.new_state) for change in log.history]


def test_what_a_killed_process_acknowledged_is_there_in_order_and_nothing_is_there_by_half(tmp_path):
    chance = random.Random(20260501)
    path = str(tmp_path)
    acknowledged = 0
    # One interpreter forks all children, so that each is there at once.
    script = tmp_path.parent / f"{tmp_path.name}-child.py"
    script.write_text(CHILD)
    for round_ in range(ROUNDS):
        with subprocess.Popen([sys.executable, "-S", "-c", _PRELUDE, str(script), path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            assert first == b"up\n"
            time.sleep(chance.random() * 0.004)
            child.kill()
            lines = child.stdout.read().split(b"\n")
        complete = lines[:-1]  # the last one may be torn
        claims = [tuple(map(int, line.split())) for line in complete]
        acknowledged += len(claims)
        if round_ % 5 and not claims:
            continue
        versions = dict(asyncio.run(found(path)))
        assert list(versions) == list(range(min(versions), max(versions) + 1))
        for version, state in versions.items():
            assert state.last == version - 2
            assert state.entries == list(range(max(0, version - 21), version - 1))
        if claims:
            assert max(versions) >= claims[-1][0]
            assert max(versions) <= claims[-1][0] + 3
        for version, last in claims:
            assert version not in versions or versions[version].last == last
    assert acknowledged > ROUNDS
    assert os.path.isdir(path)


_PRELUDE = "import sys; sys.path[:] = {!r}; exec(open(sys.argv.pop(1)).read())".format(sys.path)
