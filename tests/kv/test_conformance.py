from __future__ import annotations

from dataclasses import replace

from reactstate.kv.lmdb import LmdbStore
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.kv.sqlite import SqliteStore
from reactstate.testing.conformance import KeyValueStoreConformance

ALL = frozenset(Capability)


class TestMemory(KeyValueStoreConformance):
    capabilities = ALL - {Capability.DURABLE, Capability.SHARED}

    async def open_store(self, place, clock, options):
        return MemoryStore(options=options, clock=clock)


class TestSqlite(KeyValueStoreConformance):
    capabilities = ALL

    async def open_store(self, place, clock, options):
        return await SqliteStore.open(place, options=options, clock=clock)


class TestSqliteCompressedAndFlushedLater(KeyValueStoreConformance):
    capabilities = ALL - {Capability.FENCING}

    async def open_store(self, place, clock, options):
        options = replace(options, durability="interval", compression="zstd")
        return await SqliteStore.open(place, options=options, clock=clock)


class TestLmdb(KeyValueStoreConformance):
    capabilities = ALL

    async def open_store(self, place, clock, options):
        return await LmdbStore.open(place, options=options, clock=clock)


class TestLmdbCompressedAndNeverFlushed(KeyValueStoreConformance):
    capabilities = ALL - {Capability.FENCING}

    async def open_store(self, place, clock, options):
        options = replace(options, durability="never", compression="zstd")
        return await LmdbStore.open(place, options=options, clock=clock)
