from __future__ import annotations

from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability, Limits
from reactstate.kv.urls import open_store
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.testing.persistence_conformance import PersistenceConformance


class Kept(MemoryStore):
    """Outlives those who use it."""

    async def aclose(self):
        pass


class Plain(Kept):
    """Has no snapshots, and takes no more than it must at a time."""

    capabilities = MemoryStore.capabilities - {Capability.SNAPSHOT_READS, Capability.RANGE_EXPECT}

    def __init__(self):
        super().__init__()
        self.limits = Limits(480, 8_000_000, 300, 9_000_000)


class TestMemory(PersistenceConformance):
    engine = Kept

    async def open_persistence(self, place):
        if getattr(self, "folder", None) != place.parent:
            self.folder, self.store = place.parent, self.engine()
        return KeyValuePersistence(self.store, place.name)


class TestPlain(TestMemory):
    engine = Plain


class TestSqlite(PersistenceConformance):
    async def open_persistence(self, place):
        store = await open_store(f"sqlite://{place.parent / 'store.db'}")
        return KeyValuePersistence(store, place.name, owns_store=True)


class TestLmdb(PersistenceConformance):
    async def open_persistence(self, place):
        store = await open_store(f"lmdb://{place.parent / 'store.lmdb'}")
        return KeyValuePersistence(store, place.name, owns_store=True)
