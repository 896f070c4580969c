"""Row ``import``: what ``import reactstate`` costs a program that imports pydantic anyway, and what it drags in.

Each sample is a new interpreter that imports pydantic first and times only what comes after.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec

from harness import MODULES, Bench, Case, Role, Row, Sample, at_most, contender

__all__ = ["IMPORT"]

_TIME = Case("import, beyond pydantic's own", goals=[at_most("150 ms", 0.150)])
_EXTRAS = Case("extras loaded by the import", goals=[at_most("none", 0, scaled=False)], unit=MODULES)
IMPORT = Row("import", _TIME, _EXTRAS)

_REQUIRED = "import asyncio, aiofiles, blinker, filelock, immutables, orjson, uuid_utils, zstandard"
# Both names are touched, so that an import which only puts the work off does not look cheap.
_OURS = "import reactstate; reactstate.State; reactstate.StateContainer"
_OPTIONAL = ("cbor2", "cryptography", "hypothesis", "lz4", "ormsgpack", "pytest")


def _printed(code: str) -> float:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(result.stdout)


def _seconds(statement: str) -> Sample:
    code = (
        "from time import perf_counter\nfrom pydantic import BaseModel\nstart = perf_counter()\n"
        f"{statement}\nprint(perf_counter() - start)"
    )

    async def sample() -> float:
        return _printed(code)

    return sample


def _present(module: str) -> None:
    if find_spec(module) is None:
        message = f"No module named {module!r}"
        raise ModuleNotFoundError(message, name=module)


@contender("what reactstate requires", Role.FLOOR, _TIME)
async def _requirements(_: Bench) -> AsyncIterator[Sample]:
    yield _seconds(_REQUIRED)


@contender("pydantic itself", Role.ALSO, _TIME)
async def _pydantic(_: Bench) -> AsyncIterator[Sample]:
    async def sample() -> float:
        return _printed(
            "from time import perf_counter\nstart = perf_counter()\nfrom pydantic import BaseModel\n"
            "print(perf_counter() - start)"
        )

    yield sample


@contender("psygnal", Role.PEER, _TIME)
async def _psygnal(_: Bench) -> AsyncIterator[Sample]:
    _present("psygnal")
    yield _seconds("import psygnal; psygnal.EventedModel")


@contender("param", Role.PEER, _TIME)
async def _param(_: Bench) -> AsyncIterator[Sample]:
    _present("param")
    yield _seconds("import param")


@contender("traitlets", Role.PEER, _TIME)
async def _traitlets(_: Bench) -> AsyncIterator[Sample]:
    _present("traitlets")
    yield _seconds("import traitlets")


@contender("ZODB", Role.PEER, _TIME)
async def _zodb(_: Bench) -> AsyncIterator[Sample]:
    _present("ZODB")
    yield _seconds("import ZODB, ZODB.FileStorage")


@contender("eventsourcing", Role.PEER, _TIME)
async def _eventsourcing(_: Bench) -> AsyncIterator[Sample]:
    _present("eventsourcing")
    yield _seconds("import eventsourcing.application, eventsourcing.sqlite")


@contender("reactstate", Role.OURS, _TIME)
async def _ours(_: Bench) -> AsyncIterator[Sample]:
    from reactstate import State, StateContainer

    del State, StateContainer
    yield _seconds(_OURS)


@contender("reactstate", Role.OURS, _EXTRAS)
async def _extras(_: Bench) -> AsyncIterator[Sample]:
    from reactstate import State, StateContainer

    del State, StateContainer

    async def sample() -> float:
        return _printed(f"import sys\n{_OURS}\nprint(sum(name in sys.modules for name in {_OPTIONAL!r}))")

    yield sample
