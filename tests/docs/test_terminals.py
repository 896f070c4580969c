"""The terminals of docs/sharing.md: what the page says is typed in runs, in processes of its own, and prints just that."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"
FILE = re.compile(r"^<!-- file: (\w+\.py) -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TERMINAL = re.compile(r"^<!-- terminal: (\d) -->\n+```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 60


class Terminal:
    """What is typed in here runs in the directory of the page, one program at a time."""

    def __init__(self, folder):
        self.folder = folder
        self.process = None

    async def type(self, command):
        """Run a command, once the program before it has ended."""
        await self.finish()
        python, *arguments = command.split()
        assert python == "python"
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            *arguments,
            cwd=self.folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def line(self):
        return (await self.process.stdout.readline()).decode().rstrip("\n")

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    async def finish(self):
        """Wait for the end of the program, which prints nothing more."""
        if self.process is not None:
            assert await self.process.stdout.read() == b""
            assert await self.process.wait() == 0


@asynccontextmanager
async def terminal(folder):
    opened = Terminal(folder)
    try:
        yield opened
        await opened.finish()
    finally:
        if opened.process is not None and opened.process.returncode is None:
            opened.process.kill()
            await opened.process.wait()


async def play(text, folder):
    """Write the files of *text* into *folder*, and do what its terminals show."""
    for name, code in FILE.findall(text):
        (folder / name).write_text(code, "utf-8")
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        terminals = {}
        for number, shown in TERMINAL.findall(text):
            if number not in terminals:
                terminals[number] = await stack.enter_async_context(terminal(folder))
            for line in shown.splitlines():
                if line.startswith("$ "):
                    await terminals[number].type(line[2:])
                elif line == "^C":
                    terminals[number].interrupt()
                else:
                    assert await terminals[number].line() == line


async def test_the_two_terminals_print_what_the_page_says(tmp_path):
    text = PAGE.read_text("utf-8")
    assert {number for number, _ in TERMINAL.findall(text)} == {"1", "2"}
    await play(text, tmp_path)


async def test_a_terminal_that_prints_something_else_is_found(tmp_path):
    shown = "<!-- file: say.py -->\n```python\nprint('one')\nprint('two')\n```\n"
    command = "<!-- terminal: 1 -->\n```console\n$ python say.py\none\n{}```\n"
    await play(shown + command.format("two\n"), tmp_path)
    for wrong in ("", "three\n"):
        with pytest.raises(AssertionError):
            await play(shown + command.format(wrong), tmp_path)
