# ruff: noqa: S101 - assertions are what a failing suite shows
"""What PersistenceConformance works with: a story to store, and what must be loaded of it."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from reactstate.persistence.protocol import Record, Snapshot
from reactstate.state.patch import apply_patch
from reactstate.testing.suite import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from reactstate.persistence.protocol import Loaded, SchemaTag, StatePersistence

__all__ = ["Opens", "PersistenceLab", "Story", "same_records"]

_EPOCH_NS = 1_767_225_600_000_000_000


class Story:
    """A state that grows by a rule, so that the document of every version is known.

    Every 50th version deletes the state, and the one after it creates it anew.
    """

    first: ClassVar[SchemaTag] = {"conformance.story": 1}
    later: ClassVar[SchemaTag] = {"conformance.story": 2, "conformance.line": 1}

    def patch(self, version: int) -> list[dict[str, Any]]:
        """Return the patch that makes *version* of the version before."""
        if version == 1 or version % 50 == 1:
            return [{"op": "replace", "path": "", "value": {"n": version, "items": {}, "text": "é🙂\0/~"}}]
        if version % 50 == 0:
            return [{"op": "replace", "path": "", "value": None}]
        if version % 3:
            return [{"op": "replace", "path": "/n", "value": version * 10**18}]
        return [{"op": "add", "path": f"/items/k{version % 12}", "value": [version, None, True, 0.5, "~1/"]}]

    def kind(self, version: int) -> str:
        """Return the kind of change that *version* is."""
        if version == 1 or version % 50 == 1:
            return "create"
        return "update" if version % 50 else "delete"

    def record(self, version: int) -> Record:
        """Return the record of *version*, with everything that a record can hold at some versions."""
        full = version % 2 == 0
        return Record(
            version,
            f"{version:032x}",
            _EPOCH_NS + version,
            self.kind(version),
            f"actor {version}" if full else None,
            "änderung" if full else None,
            {"why": version, "deep": {"list": [1, None]}} if full else None,
            version - 1 if version % 5 == 0 else None,
            copy.deepcopy(self.patch(version)),
        )

    def records(self, first: int, last: int) -> list[Record]:
        """Return the records of the versions from *first* to *last*."""
        return [self.record(version) for version in range(first, last + 1)]

    def document(self, version: int) -> Any:
        """Return the document of *version*."""
        start = (version - 1) // 50 * 50 + 1
        document: Any = None
        for number in range(start, version + 1):
            document = apply_patch(document, copy.deepcopy(self.patch(number)))
        return copy.deepcopy(document)

    def created_at_ns(self, version: int) -> int:
        """Return when the state that *version* is of was created."""
        return _EPOCH_NS + (version - 1) // 50 * 50 + 1

    def snapshot(self, version: int, schema: SchemaTag | None = None) -> Snapshot:
        """Return the whole state at *version*."""
        record = self.record(version)
        return Snapshot(
            version,
            self.document(version),
            dict(self.first if schema is None else schema),
            record.change_id,
            self.created_at_ns(version),
            record.timestamp_ns,
            record.tags,
        )


class Opens(Protocol):
    """A suite that opens what is tested."""

    patience: ClassVar[float]

    async def open_persistence(self, place: Path) -> StatePersistence[Any]:
        """Return a persistence at *place*, not loaded yet."""
        ...


class PersistenceLab:
    """What one test works with.

    Args:
        suite: Whose ``open_persistence`` is called.
        folder: An empty directory.
        runner: The event loop.

    Attributes:
        story: What is stored.
    """

    def __init__(self, suite: Opens, folder: Path, runner: asyncio.Runner) -> None:
        self.story: Story = Story()
        self._suite = suite
        self._folder = folder
        self._runner = runner
        self._opened: list[StatePersistence[Any]] = []

    async def open(self, name: str = "state", *, history: int = 1000) -> tuple[StatePersistence[Any], Loaded | None]:
        """Open and load what is at the place *name*; it is closed when the test ends."""
        persistence = await self._suite.open_persistence(self._folder / name)
        self._opened.append(persistence)
        return persistence, await persistence.load(history=history)

    async def fresh(self, name: str = "state", *, history: int = 1000) -> StatePersistence[Any]:
        """Open a place where nothing is stored."""
        persistence, loaded = await self.open(name, history=history)
        assert loaded is None
        return persistence

    async def reopen(
        self, persistence: StatePersistence[Any], name: str = "state", *, history: int = 1000
    ) -> tuple[StatePersistence[Any], Loaded]:
        """Close *persistence*, and load what is at the place *name*."""
        await persistence.aclose()
        again, loaded = await self.open(name, history=history)
        assert loaded is not None
        return again, loaded

    def check(self, loaded: Loaded, version: int, *, schema: SchemaTag | None = None, since: int = 0) -> None:
        """Check that *loaded* is the story up to *version*, with the history above *since* at least."""
        story, head = self.story, loaded.head
        expected = story.snapshot(version, schema)
        for name in Snapshot.__slots__:
            assert getattr(head, name) == getattr(expected, name), f"the {name} of the head at version {version}"
        records = [record for era in loaded.history for record in era.records]
        versions = [record.version for record in records]
        assert versions == list(range(versions[0], version + 1)) if versions else since >= version
        assert not versions or versions[0] <= since + 1, "the history that was asked for is there"
        for era in loaded.history:
            if not era.records:
                continue
            assert era.document == story.document(era.records[-1].version), "an era ends with its document"
            document = copy.deepcopy(era.document)
            for record in reversed(era.records):
                assert record.inverse is not None
                document = apply_patch(document, copy.deepcopy(record.inverse))
                assert document == (story.document(record.version - 1) if record.version > 1 else None)
        if loaded.history:
            assert loaded.history[-1].schema == head.schema
        same_records(records, [story.record(number) for number in versions])

    async def kept(self, persistence: StatePersistence[Any], since: int = 0) -> list[int]:
        """Return the versions of the records above *since*."""
        return [record.version for record in await collect(persistence.changes(since))]

    def run(self, test: Callable[[], Coroutine[Any, Any, None]], needs: frozenset[Any], lacks: Any) -> None:  # noqa: ARG002 - a persistence declares nothing
        """Run *test*, and close everything."""
        try:
            self._runner.run(self._perform(test))
        finally:
            self._runner.run(self._end())

    async def _perform(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(self._suite.patience):
            await test()

    async def _end(self) -> None:
        for persistence in reversed(self._opened):
            await persistence.aclose()


def same_records(found: list[Record], expected: list[Record]) -> None:
    """Check that records are equal in everything but the way back, which is filled in when they are read."""
    names = [name for name in Record.__slots__ if name != "inverse"]
    for one, other in zip(found, expected, strict=True):
        for name in names:
            assert getattr(one, name) == getattr(other, name), f"the {name} of version {other.version}"
