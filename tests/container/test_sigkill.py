"""Writers that are killed with SIGKILL at any moment, again and again in the same directories.

One process imports the library and forks a writer for each directory that it is told; the writers say over a pipe, at
once, which versions they were told are durable.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reactstate import FilePersistence, State, StateConfig, StateContainer, apply_patch, to_document

KILLS = 50
TASKS = 6
HISTORY = 60
SLOTS = 8

WRITER = """
import asyncio, os, sys
from reactstate import FilePersistence, State, StateConfig, StateContainer

tasks, slots, history = map(int, sys.argv[1:])

class Register(State):
    n: int = 1
    slots: dict[str, str] = {"1": "1."}

def fill(draft):
    draft.n += 1
    draft.slots[str(draft.n % slots)] = f"{draft.n}." * (draft.n * 37 % 1200 + 1)

async def work(register):
    while True:
        made = await register.update(fill)
        os.write(1, b"told %d\\n" % made.version)

async def main(directory):
    kept = FilePersistence(directory, durability="always")
    async with StateContainer.open(Register(), persistence=kept, config=StateConfig(history_size=history)) as register:
        os.write(1, b"found %d\\n" % register.version)
        register.on_change(lambda change: os.write(1, b"seen %d\\n" % change.version))
        await asyncio.gather(*(work(register) for _ in range(tasks)))

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(main(line.strip()))
        finally:
            os._exit(1)
    os.write(1, b"started %d\\n" % child)
    status = os.waitpid(child, 0)[1]
    os.write(1, b"ended %d\\n" % status)
"""


class Register(State):
    n: int = 1
    slots: dict[str, str] = {"1": "1."}


def expected(version: int) -> dict[str, Any]:
    """Return the document of *version*, which is a function of it."""
    newest = {str(n % SLOTS): f"{n}." * (n * 37 % 1200 + 1) for n in range(max(2, version - SLOTS + 1), version + 1)}
    return {"n": version, "slots": {**({"1": "1."} if version <= SLOTS else {}), **newest}}


class Writers:
    """The process that forks the writers, and what they say."""

    def __init__(self, script: Path) -> None:
        script.write_text(WRITER)
        command = [sys.executable, str(script), str(TASKS), str(SLOTS), str(HISTORY)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def said(self) -> tuple[str, int]:
        assert self.process.stdout is not None
        word, number = self.process.stdout.readline().split()
        return word, int(number)

    def run(self, directory: Path, patience: int, delay: float) -> list[tuple[str, int]]:
        """Let a writer work until it has said *patience* things and *delay* is over, kill it, and return them."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{directory}\n")
        self.process.stdin.flush()
        heard: list[tuple[str, int]] = []
        child = 0
        while child == 0 or len(heard) < patience:
            word, number = self.said()
            assert word != "ended", "the writer died by itself"
            if word == "started":
                child = number
            else:
                heard.append((word, number))
        until = time.perf_counter() + delay
        while time.perf_counter() < until:
            pass
        os.kill(child, signal.SIGKILL)
        while (last := self.said())[0] != "ended":
            heard.append(last)
        assert os.WTERMSIG(last[1]) == signal.SIGKILL
        return heard

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.process.stdout.close()


@pytest.fixture
def writers(tmp_path):
    writers = Writers(tmp_path / "writer.py")
    yield writers
    writers.close()


async def check(directory: Path, known: int, heard: list[tuple[str, int]]) -> int:
    """Open what a killed writer left, and compare it with what it said; return the newest version."""
    told = [version for word, version in heard if word == "told"]
    seen = [version for word, version in heard if word == "seen"]
    found = [version for word, version in heard if word == "found"]
    # It found what the ones before it had written, and went on from there without a gap.
    assert found in ([], [known]) or known == 0
    assert told == seen[: len(told)]
    assert seen == [*range(seen[0], seen[0] + len(seen))] if seen else not told
    assert not seen or seen[0] == found[0] + 1
    kept: FilePersistence[Register] = FilePersistence(directory)
    async with StateContainer.open(Register, persistence=kept, config=StateConfig(history_size=HISTORY)) as register:
        version = register.version
        newest = max([known, *told, *seen, *found])
        # Beyond what was said, at most two flushes of what the tasks had under way.
        assert newest <= version <= newest + 2 * TASKS
        if version == 0:
            return 0
        history = list(register.history)
        assert [change.version for change in history] == list(range(version - len(history) + 1, version + 1))
        assert len(history) == min(version, HISTORY)
        before = history[0].old_state
        document = None if before is None else to_document(before)
        for change in history:
            document = apply_patch(document, change.patch)
            assert document == expected(change.version)
        assert to_document(register.state) == document
        assert to_document(await register.at(history[len(history) // 2].version)) == expected(
            history[len(history) // 2].version
        )
        return version


async def test_50_killed_writers_leave_every_version_that_they_acknowledged_and_no_half_of_another(writers, tmp_path):
    chance = random.Random(7)  # what varies between two runs is where the writer is when it is killed
    known = {tmp_path / f"state-{number}": 0 for number in range(3)}
    acknowledged = 0
    for kill in range(KILLS):
        directory = chance.choice(list(known))
        patience = chance.choice([0, 1, 2, chance.randrange(40), chance.randrange(600)])
        heard = writers.run(directory, patience, chance.choice([0, chance.uniform(0, 0.005)]))
        acknowledged += sum(word == "told" for word, _ in heard)
        # The next writer recovers what was left by this one, not what was tidied up by a look at it.
        copy = tmp_path / f"copy-{kill}"
        if directory.exists():
            shutil.copytree(directory, copy)
        known[directory] = await check(copy, known[directory], heard)
        shutil.rmtree(copy)
    assert acknowledged > 10 * KILLS
    # Compaction went on all the while: the records from the beginning are gone.
    for directory in known:
        assert not (directory / "journal-00000000000000000001.rsj").exists()
