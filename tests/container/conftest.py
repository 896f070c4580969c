from __future__ import annotations

from typing import Any

import pytest

from reactstate.container.container import StateContainer
from reactstate.persistence.file import FilePersistence
from reactstate.testing.faults import FaultyFileSystem


class Place:
    """A place that containers are opened at again and again: memory, or files in memory that fail on demand."""

    def __init__(self, *, durable: bool = True, **options: Any) -> None:
        self.durable = durable
        self.files = FaultyFileSystem()
        self.options = options

    def persistence(self, **options: Any) -> FilePersistence[Any]:
        return FilePersistence("/state", filesystem=self.files, **{**self.options, **options})

    def open(self, what: Any, *, cls: Any = StateContainer, read_only: bool = False, **arguments: Any) -> Any:
        if self.durable:
            arguments["persistence"] = self.persistence(read_only=read_only)
        return cls.open(what, **arguments)

    def crash(self, unsynced: Any = "torn") -> None:
        """Lose power: what is opened next finds what the disk has kept."""
        self.files = self.files.after_crash(unsynced)


@pytest.fixture(params=["memory", "files"])
def place(request) -> Place:
    return Place(durable=request.param == "files")


@pytest.fixture
def disk() -> Place:
    return Place()


@pytest.fixture
def new_place():
    return Place
