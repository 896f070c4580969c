from __future__ import annotations

import pytest

from reactstate.kv.memory import MemoryStore
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.testing.persistence_conformance import PersistenceConformance


class TestFilePersistence(PersistenceConformance):
    async def open_persistence(self, place):
        return FilePersistence(place)


class TestFilePersistenceInOtherFormats(PersistenceConformance):
    async def open_persistence(self, place):
        return FilePersistence(place, format="msgpack", compression="zstd", durability="never")


class TestKeyValuePersistence(PersistenceConformance):
    @pytest.fixture(autouse=True)
    def store(self):
        self.memory = MemoryStore()

    async def open_persistence(self, place):
        return KeyValuePersistence(self.memory, str(place))
