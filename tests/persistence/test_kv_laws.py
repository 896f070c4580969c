from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import CompactedError, ConflictError
from reactstate.kv.memory import MemoryStore
from reactstate.persistence.kv import KeyValuePersistence
from reactstate.persistence.protocol import Record, Snapshot
from reactstate.state.patch import apply_patch
from reactstate.testing.stores import FaultyStore


class HastyClock(ManualClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds):
        self.advance(max(seconds, 0.001))
        await asyncio.sleep(0)


class Toy:
    """What two writers should have made together: every document, and who may see how much of them."""

    def __init__(self):
        self.documents = [None]
        self.ids = [""]
        self.schema = {"cart": 1}
        self.floor = 0

    @property
    def version(self):
        return len(self.documents) - 1


class Writer:
    """Knows what a container would know."""

    def __init__(self, store, name, clock):
        self.persistence = KeyValuePersistence(store, "cart", clock=clock)
        self.name = name
        self.document = None
        self.version = 0
        self.schema = {"cart": 1}
        self.made = 0

    async def load(self):
        loaded = await self.persistence.load(history=5)
        if loaded is not None:
            self.document, self.version, self.schema = loaded.head.document, loaded.head.version, loaded.head.schema

    async def fetch(self):
        try:
            fetched = await self.persistence.fetch(self.version)
        except CompactedError:
            await self.load()
            return
        for record in fetched.records:
            assert record.version == self.version + 1
            self.document = apply_patch(self.document, record.patch)
            self.version = record.version
        assert self.version == fetched.version

    def records(self, count):
        records = []
        document = self.document
        for version in range(self.version + 1, self.version + 1 + count):
            self.made += 1
            if document is None:
                patch = [{"op": "replace", "path": "", "value": {"log": [self.name]}}]
            elif self.made % 7 == 6:
                patch = [{"op": "replace", "path": "", "value": None}]
            else:
                patch = [{"op": "add", "path": "/log/0", "value": f"{self.name}{self.made}"}]
            kind = "create" if document is None else "update"
            document = apply_patch(document, patch)
            change_id = f"{ord(self.name):02x}{self.made:030x}"
            records.append((Record(version, change_id, version, kind, None, None, None, None, patch), document))
        return records


OPERATIONS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["append", "append", "append", "fetch", "load", "compact", "rebase"]),
    st.integers(1, 6),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=40), st.integers(0, 1000), st.booleans())
def test_any_interleaving_of_two_writers_is_one_list_of_changes(operations, seed, faulty):
    asyncio.run(_run(operations, seed, faulty))


async def _run(operations, seed, faulty):
    clock = HastyClock()
    inner = MemoryStore(clock=clock)
    store = FaultyStore(inner, seed=seed, clock=clock)
    toy = Toy()
    writers = [Writer(store, name, clock) for name in "ab"]
    for writer in writers:
        await writer.load()
    if faulty:
        store.fail(probability=0.1)
        store.drop_reply(probability=0.2)
    for who, what, number in operations:
        writer = writers[who]
        if what == "append":
            await _append(writer, number, toy)
        elif what == "fetch":
            await writer.fetch()
        elif what == "load":
            await writer.load()
        else:
            await _save(writer, what, number, toy)
        await _check(inner, toy)
    for writer in writers:
        await writer.fetch()
        assert (writer.version, writer.document) == (toy.version, toy.documents[-1])


async def _append(writer, number, toy):
    made = writer.records(number)
    fits = writer.version == toy.version and writer.schema == toy.schema
    try:
        await writer.persistence.append([record for record, _ in made], writer.schema)
    except ConflictError:
        assert not fits
        await writer.fetch()
        return
    assert fits
    for record, document in made:
        toy.documents.append(document)
        toy.ids.append(record.change_id)
    writer.version, writer.document = toy.version, toy.documents[-1]


async def _save(writer, what, number, toy):
    if toy.version == 0:
        return
    keep_since = max(writer.version - number, 0)
    schema = writer.schema if what == "compact" else {"cart": writer.schema["cart"] + 1}
    id_ = toy.ids[writer.version]
    snapshot = Snapshot(writer.version, writer.document, schema, id_, 1, writer.version)
    try:
        await writer.persistence.save(snapshot, keep_since=keep_since)
    except ConflictError:
        assert writer.schema != toy.schema or writer.version != toy.version
        await writer.fetch()
        return
    toy.floor = max(toy.floor, keep_since)
    if what == "rebase":
        assert writer.version == toy.version
        writer.schema = toy.schema = schema


async def _check(store, toy):
    loaded = await KeyValuePersistence(store, "cart").load(history=10_000)
    if loaded is None:
        assert toy.version == 0
        return
    assert (loaded.head.version, loaded.head.document) == (toy.version, toy.documents[-1])
    assert (loaded.head.change_id, loaded.head.schema) == (toy.ids[-1], toy.schema)
    records = [record for era in loaded.history for record in era.records]
    assert [record.change_id for record in records] == toy.ids[toy.version + 1 - len(records) :]
    assert len(records) >= toy.version - toy.floor
    for era in loaded.history:
        document = era.document
        for record in reversed(era.records):
            assert document == toy.documents[record.version]
            document = apply_patch(document, record.inverse)
            assert document == toy.documents[record.version - 1]
