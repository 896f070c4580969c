"""The engine of docs/engines.md is that of the example, keeps every promise that it declares, and opens by its URL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from reactstate import AlreadyOpenError, CorruptionError, StorageError
from reactstate.testing import KeyValueStoreConformance

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^<!-- file: (\w+\.py) -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of_the_page():
    found = {}
    for name, code in FILE.findall((ROOT / "docs" / "engines.md").read_text("utf-8")):
        found[name] = found.get(name, "") + code + "\n\n"
    return found


FILES = files_of_the_page()
ENGINE = types.ModuleType("own_engine")
sys.modules["own_engine"] = ENGINE  # where a NamedTuple looks for the names in its annotations
exec(compile(FILES["own_engine.py"], "own_engine.py", "exec"), ENGINE.__dict__)
del sys.modules["own_engine"]


class TestEngineOfThePage(KeyValueStoreConformance):
    capabilities = ENGINE.JsonFileStore.capabilities

    async def open_store(self, place, clock, options):
        return ENGINE.JsonFileStore(str(place), options=options, clock=clock)


def test_the_blocks_of_the_page_are_the_engine_of_the_example():
    example = (ROOT / "examples" / "own_engine.py").read_text("utf-8")
    engine = example[example.index("from __future__") : example.index("# --- trying it")]
    of_the_demo = {"import tempfile", "    State,", "    StateContainer,"}
    shown = [line for line in engine.splitlines() if line not in of_the_demo and not line.startswith("    # ---")]
    assert [line for line in FILES["own_engine.py"].splitlines() if line] == [line for line in shown if line]


def run_in(folder, *arguments):
    """Write the files of the page into *folder*, install the engine there, and run Python in it."""
    for name, code in FILES.items():
        (folder / name).write_text(code, "utf-8")
    installed = folder / "own_engine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-engine\nVersion: 1.0\n", "utf-8")
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    entry = re.search(r'^\[project\.entry-points\."reactstate\.stores"\]\n(\w+) = "(.*)"$', page, re.MULTILINE)
    (installed / "entry_points.txt").write_text(f"[reactstate.stores]\n{entry[1]} = {entry[2]}\n", "utf-8")
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


OPEN = """
import asyncio
from reactstate import SettingsError, open_store

async def main():
    async with open_store("jsonfile:app.json?default_ttl=60") as store:
        entry = await store.put("k", b"v")
        print(store.engine, entry.revision, entry.expires_at is not None)
    for wrong in ("jsonfile:app.json?indent=4", "jsonfile:", "jsonfile://host/app.json"):
        try:
            await open_store(wrong)
        except SettingsError:
            print("refused")

asyncio.run(main())
"""


def test_an_installed_engine_opens_by_its_url(tmp_path):
    done = run_in(tmp_path, "-W", "error", "-c", OPEN)
    assert (done.stdout.splitlines(), done.stderr) == (["jsonfile 1 True", "refused", "refused", "refused"], "")


def test_the_tests_of_the_page_pass_as_they_stand_there(tmp_path):
    options = ("-q", "-p", "no:cacheprovider", "-k", "orders or refused")
    done = run_in(tmp_path, "-m", "pytest", *options, "test_own_engine.py", "test_orders.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10


async def test_a_json_file_has_one_user_and_refuses_what_is_no_store(tmp_path):
    path = tmp_path / "app.json"
    async with ENGINE.JsonFileStore(str(path)) as store:
        await store.put("k", b"\xff")
        with pytest.raises(AlreadyOpenError):
            ENGINE.JsonFileStore(str(path))
    for damaged in ("", "[]", '{"revision": 1}', '{"revision": 1, "time_ms": 1, "entries": {"k": {}}}'):
        path.write_text(damaged, "utf-8")
        with pytest.raises(CorruptionError):
            ENGINE.JsonFileStore(str(path))
    path.unlink()
    async with ENGINE.JsonFileStore(str(path)) as store:
        await store.put("k", b"\xff")


async def test_a_write_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "app.json"
    async with ENGINE.JsonFileStore(str(path)) as store:
        put = await store.put("k", b"\xff")
        (tmp_path / "app.json.tmp").mkdir()  # in the way of the next file
        with pytest.raises(StorageError):
            await store.put("k", b"w")
        assert await store.get("k") == put
        (tmp_path / "app.json.tmp").rmdir()
        assert (await store.put("k", b"w")).revision == put.revision + 1
    async with ENGINE.JsonFileStore(str(path)) as store:
        assert (await store.get("k")).value == b"w"
