from __future__ import annotations

from typing import Any

import pytest

from reactstate.container.container import StateContainer
from reactstate.kv.memory import MemoryStore
from reactstate.persistence.file import FilePersistence
from reactstate.testing.faults import FaultyFileSystem


class Place:
    """A place that containers are opened at again and again.

    Memory, which keeps nothing; files in memory that fail on demand; or a store that several containers share.
    """

    def __init__(self, *, durable: bool = True, store: MemoryStore | None = None, **options: Any) -> None:
        self.durable = durable
        self.store = store
        self.files = FaultyFileSystem()
        self.options = options

    def persistence(self, **options: Any) -> FilePersistence[Any]:
        return FilePersistence("/state", filesystem=self.files, **{**self.options, **options})

    def open(self, what: Any, *, cls: Any = StateContainer, read_only: bool = False, **arguments: Any) -> Any:
        if self.store is not None:
            arguments.setdefault("key", "place")
            arguments["store"] = self.store
        elif self.durable:
            arguments["persistence"] = self.persistence(read_only=read_only)
        return cls.open(what, **arguments)

    def crash(self, unsynced: Any = "torn") -> None:
        """Lose power: what is opened next finds what the disk has kept."""
        self.files = self.files.after_crash(unsynced)


@pytest.fixture(params=["memory", "files", "store"])
def place(request) -> Place:
    return Place(durable=request.param != "memory", store=MemoryStore() if request.param == "store" else None)


@pytest.fixture
def disk() -> Place:
    return Place()


@pytest.fixture
def new_place():
    return Place
