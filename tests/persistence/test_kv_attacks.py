"""A persistence over a store under attack."""

from __future__ import annotations

import logging

import pytest

from reactstate.errors import ConflictError, UnavailableError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Delete
from reactstate.persistence.kv import KeyValuePersistence


class Hooked(MemoryStore):
    """Calls what the test gives before each commit."""

    before = None

    async def commit(self, steps, *, ranges=()):
        if self.before is not None:
            await self.before(steps)
        return await super().commit(steps, ranges=ranges)


async def test_who_comes_too_late_with_a_new_schema_hears_of_the_conflict_even_if_nothing_can_be_cleared_away(
    story, caplog
):
    store = Hooked()
    a, b = KeyValuePersistence(store, "cart"), KeyValuePersistence(store, "cart")
    await a.load()
    await a.append(story.records(1, 3), story.schema)
    await b.load()

    async def others_come_first(steps):
        if any(step.key.endswith("/head/") for step in steps):
            store.before = out_of_reach
            await b.append(story.records(4, 4), story.schema)

    async def out_of_reach(steps):
        if any(isinstance(step.op, Delete) for step in steps):
            raise UnavailableError("out of reach")

    store.before = others_come_first
    with caplog.at_level(logging.WARNING), pytest.raises(ConflictError):
        await a.save(story.snapshot(3, {"cart": 2}), keep_since=0)
    assert "came too late" in caplog.text
    store.before = None
    assert [record.version for record in (await a.fetch(3)).records] == [4]
    await a.aclose()
    await b.aclose()
    await store.aclose()
