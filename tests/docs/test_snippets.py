"""Every Python block of the README and of docs/ runs as printed, page by page, and prints what the page says."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# A block may be preceded by a comment: <!-- raises: FrozenStateError -->, or <!-- file: show.py --> for a block that is
# (a part of) a file.
BLOCK = re.compile(
    r"(?:^<!-- (?:raises: (?P<error>\w+)|file: (?P<file>\w+\.py)) -->\n+)?^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
OUTPUT = re.compile(r"^\s*# -> ?(.*)$", re.MULTILINE)


@dataclass
class Block:
    """One fenced block: its source (with the page's line numbers), what it raises, where it goes, what it prints."""

    source: str
    error: str | None
    file: str | None
    output: list[str]


def blocks_of(text: str) -> list[Block]:
    return [
        Block(
            source="\n" * text.count("\n", 0, match.start("code")) + match["code"],
            error=match["error"],
            file=match["file"],
            output=OUTPUT.findall(match["code"]),
        )
        for match in BLOCK.finditer(text)
    ]


def execute(block: Block, page: str, module: types.ModuleType, runner: asyncio.Runner) -> None:
    """Run *block* in *module*; a block that awaits at top level runs on the page's loop, others outside any loop."""
    code = compile(block.source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, module.__dict__))
    else:
        exec(code, module.__dict__)


def run_page(text: str, page: str, module: types.ModuleType) -> int:
    """Run the blocks of a page in order, in one namespace; return how many there were."""
    blocks = blocks_of(text)
    with asyncio.Runner() as runner:
        for block in blocks:
            if block.file is not None:
                with Path(block.file).open("a", encoding="utf-8") as file:
                    file.write(f"{block.source.strip(chr(10))}\n\n\n")
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                if block.error is None:
                    execute(block, page, module, runner)
                else:
                    with pytest.raises(Exception) as raised:
                        execute(block, page, module, runner)
                    assert raised.type.__name__ == block.error
            if block.output:
                assert printed.getvalue().splitlines() == block.output
    return len(blocks)


@pytest.fixture
def module(monkeypatch, tmp_path):
    """An empty module in an empty directory: pydantic resolves annotations through ``sys.modules``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # for the files of the page
    page_module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page_module)
    before = set(sys.modules)
    yield page_module
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_block_runs_and_prints_what_the_page_says(path, module):
    text = path.read_text("utf-8")
    assert run_page(text, str(path), module) == len(re.findall(r"^\s*```python", text, re.MULTILINE))


def test_a_page_with_a_wrong_output_is_found(module):
    with pytest.raises(AssertionError):
        run_page("```python\nprint(1)\n# -> 2\n```\n", "page.md", module)


def test_a_block_that_does_not_raise_what_it_says_is_found(module):
    with pytest.raises(AssertionError):
        run_page("<!-- raises: KeyError -->\n```python\n[][0]\n```\n", "page.md", module)
    with pytest.raises(pytest.fail.Exception):
        run_page("<!-- raises: KeyError -->\n```python\n{}.get(1)\n```\n", "page.md", module)


def test_blocks_share_a_namespace_and_may_await(module):
    text = "```python\nimport asyncio\n```\n\n```python\nawait asyncio.sleep(0)\nprint(2)\n# -> 2\n```\n"
    assert run_page(text, "page.md", module) == 2


def test_relative_links_of_the_root_pages_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples/data/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
