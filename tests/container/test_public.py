from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import reactstate


def test_all_is_exact_alphabetical_and_importable():
    names = reactstate.__all__
    assert names == sorted(names)
    assert len(names) == len(set(names))
    for name in names:
        found = getattr(reactstate, name)
        home = importlib.import_module(getattr(found, "__module__", "reactstate"))
        assert getattr(home, name, found) is found
    assert set(names) <= set(dir(reactstate))
    homes = {name for group in reactstate._HOMES.values() for name in group}
    errors = set(importlib.import_module("reactstate.errors").__all__)
    assert set(names) == homes | errors


def test_every_error_has_a_sentence_that_says_when_it_occurs():
    for name in importlib.import_module("reactstate.errors").__all__:
        assert (getattr(reactstate, name).__doc__ or "").strip().endswith(".") or "Attributes:" in getattr(
            reactstate, name
        ).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NothingOfThatName"):
        reactstate.NothingOfThatName  # noqa: B018 - looking it up is the point


def test_importing_the_package_loads_nothing_heavy_until_it_is_used():
    script = (
        "import sys, reactstate\n"
        "heavy = {'pydantic', 'orjson', 'zstandard', 'lz4', 'ormsgpack', 'cbor2', 'cryptography', 'blinker', "
        "'hypothesis', 'pytest', 'asyncio', 'filelock', 'aiofiles'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from reactstate import StateContainer, FilePersistence, AtomicState\n"
        "extras = {'lz4', 'ormsgpack', 'cbor2', 'cryptography', 'hypothesis', 'pytest'}\n"
        "print(sorted(extras & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ended.stdout.split("\n")[:2] == ["[]", "[]"]
