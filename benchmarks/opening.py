"""Row ``open``: opening a state whose journal holds 100,000 changes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

from harness import Bench, Case, Role, Row, Sample, at_most, contender
from models import PROFILE, Profile

__all__ = ["OPEN"]

_JOURNAL = Case("open, 100,000 changes in the journal", size=100_000, goals=[at_most("2 s", 2.0)])
OPEN = Row("open", _JOURNAL)
_BATCH = 1_000


def _patch(value: int) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": "/count", "value": value}]


def _line(value: int) -> bytes:
    import orjson

    return orjson.dumps({"version": value + 1, "timestamp_ns": time_ns(), "kind": "update", "patch": _patch(value)})


def _replayed(records: Any) -> Profile:
    import orjson

    document = dict(PROFILE)
    for record in records:
        for step in orjson.loads(record)["patch"]:
            document[step["path"][1:]] = step["value"]
    return Profile.model_validate(document)


def _once(load: Callable[[], int], size: int) -> Sample:
    async def sample() -> float:
        start = perf_counter()
        last = load()
        seconds = perf_counter() - start
        assert last == size
        return seconds

    return sample


@contender("read lines and apply them", Role.FLOOR, _JOURNAL)
async def _by_hand(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "journal"
    path.write_bytes(b"\n".join(_line(n) for n in range(1, bench.size + 1)))
    yield _once(lambda: _replayed(path.read_bytes().splitlines()).count, bench.size)


@contender("sqlite3", Role.PEER, _JOURNAL)
async def _sqlite3(bench: Bench) -> AsyncIterator[Sample]:
    path = bench.path() / "journal.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE journal (version INTEGER PRIMARY KEY, record BLOB NOT NULL)")
        connection.executemany("INSERT INTO journal VALUES (?, ?)", ((n, _line(n)) for n in range(1, bench.size + 1)))

    def load() -> int:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT record FROM journal ORDER BY version")
            return _replayed(record for (record,) in rows).count

    yield _once(load, bench.size)


@contender("eventsourcing", Role.PEER, _JOURNAL)
async def _eventsourcing(bench: Bench) -> AsyncIterator[Sample]:
    from eventsourcing.application import Application
    from sourced import Profile as Sourced

    settings = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(bench.path() / "events.db")}
    writer: Any = Application(settings)
    profile = Sourced(dict(PROFILE))
    for value in range(1, bench.size + 1):
        profile.set_count(value)
    writer.save(profile)
    writer.close()

    def load() -> int:
        reader: Any = Application(settings)
        count: int = reader.repository.get(profile.id).count
        reader.close()
        return count

    yield _once(load, bench.size)


async def _write_journal(path: Path, size: int) -> None:
    from uuid_utils import uuid7

    from reactstate import FilePersistence
    from reactstate.persistence.protocol import Record, Snapshot

    persistence = FilePersistence(path, durability="never")
    await persistence.load()
    schema = {"Profile": 1}
    first = Snapshot(1, dict(PROFILE), schema, uuid7().hex, time_ns(), time_ns())
    await persistence.save(first, keep_since=0)
    for start in range(1, size, _BATCH):
        records = [
            Record(n + 1, uuid7().hex, time_ns(), "update", "ada", "set_count", None, None, _patch(n))
            for n in range(start, min(start + _BATCH, size + 1))
        ]
        await persistence.append(records, schema)
    await persistence.aclose()


@contender("StateContainer.open", Role.OURS, _JOURNAL)
async def _ours(bench: Bench) -> AsyncIterator[Sample]:
    from states import Profile as State

    from reactstate import FilePersistence, StateContainer

    written = bench.path() / "written"
    await _write_journal(written, bench.size)

    async def sample() -> float:
        # An open may compact what it found: each one gets the journal as it was written.
        copied = bench.path() / "copied"
        shutil.copytree(written, copied)
        persistence = FilePersistence(copied)
        start = perf_counter()
        container = await StateContainer.open(State, persistence=persistence)
        seconds = perf_counter() - start
        assert container.version == bench.size + 1
        assert container.state.count == bench.size
        await container.aclose()
        shutil.rmtree(copied.parent)
        return seconds

    yield sample
