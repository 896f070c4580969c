# ruff: noqa: S101 - assertions are what a failing suite shows
"""What must hold of a store at any time, whatever a test has done with it."""

from __future__ import annotations

import itertools
from contextlib import aclosing
from typing import TYPE_CHECKING

from reactstate.kv.protocol import Capability, EventKind, Put, Step

if TYPE_CHECKING:
    from reactstate.kv.protocol import Cursor, Entry, Event
    from reactstate.kv.store import KeyValueStore

__all__ = ["Baseline", "check_integrity"]

_MARKER = "~integrity"
_GOT_ONE_BY_ONE = 100


class Baseline:
    """A store as it was when the events that are to be checked began.

    Attributes:
        cursor: Where they begin; None when the store cannot be watched.
        revisions: The revisions of the entries that were there.
    """

    __slots__ = ("cursor", "revisions")

    def __init__(self, cursor: Cursor | None, revisions: dict[str, int]) -> None:
        self.cursor: Cursor | None = cursor
        self.revisions: dict[str, int] = revisions

    @classmethod
    async def of(cls, store: KeyValueStore) -> Baseline:
        """Return the baseline of *store* as it is now; nobody may write meanwhile."""
        cursor = await store.cursor() if store.supports(Capability.WATCH) else None
        return cls(cursor, {entry.key: entry.revision async for entry in store.scan()})


async def check_integrity(store: KeyValueStore, baseline: Baseline) -> None:
    """Check that all ways to read *store* agree, and that its events since *baseline* lead to what it holds.

    Nobody may write meanwhile. It writes one entry of its own, and sweeps what has expired.

    Raises:
        AssertionError: They do not.
    """
    if store.supports(Capability.TTL):
        await store.cleanup_expired()
    entries = [entry async for entry in store.scan() if _stays(store, entry)]
    keys = [entry.key for entry in entries]
    assert keys == sorted(set(keys), key=str.encode), "a scan gives each key once, in the order of its UTF-8 bytes"
    by_key = {entry.key: entry for entry in entries}
    assert [entry async for entry in store.scan(reverse=True) if _stays(store, entry)] == entries[::-1]
    assert await store.get_many(keys) == by_key, "get_many agrees with scan"
    for entry in entries[:_GOT_ONE_BY_ONE]:
        assert await store.get(entry.key) == entry, "get agrees with scan"
    if store.supports(Capability.SNAPSHOT_READS):
        async with store.snapshot() as view:
            assert [entry async for entry in view.scan() if _stays(store, entry)] == entries, "a snapshot agrees"
            assert await view.get_many(keys) == by_key
            assert view.revision >= max((entry.revision for entry in entries), default=0)
    if baseline.cursor is not None:
        await _check_events(store, baseline.cursor, baseline.revisions, by_key)


def _stays(store: KeyValueStore, entry: Entry) -> bool:
    """Say whether *entry* cannot vanish between two reads."""
    return entry.expires_at is None or store.ttl_clock == "host"


async def _check_events(
    store: KeyValueStore, cursor: Cursor, revisions: dict[str, int], entries: dict[str, Entry]
) -> None:
    last = (await store.commit((Step(_MARKER, Put(b"")),))).revision
    assert last > max((entry.revision for entry in entries.values()), default=0), "a new revision is the newest"
    events: list[Event] = []
    async with aclosing(store.watch(after=cursor)) as watch:
        async for event in watch:
            if event.key == _MARKER and event.revision == last:
                break
            events.append(event)
    assert len({event.cursor for event in events}) == len(events), "each event has a cursor of its own"
    groups = [list(group) for _, group in itertools.groupby(events, lambda event: event.revision)]
    assert len({group[0].revision for group in groups}) == len(groups), "the events of one commit come together"
    newest: dict[str, Event] = {}
    for event in events:
        before = newest.get(event.key)
        floor = revisions.get(event.key, 0) if before is None else before.revision
        assert event.revision > floor, "the events of one key come in revision order, one a commit"
        newest[event.key] = event
    if not store.supports(Capability.TOTAL_ORDER):
        return
    order = [event.revision for event in events]
    assert order == sorted(order), "all events come in revision order"
    for key, event in newest.items():
        if event.kind is EventKind.PUT:
            # On a server's clock it may have expired meanwhile.
            assert key in entries or store.ttl_clock != "host", (
                f"the newest event of {key!r} wrote it, and it is not there"
            )
            assert key not in entries or entries[key].revision == event.revision
        else:
            assert key not in entries, f"the newest event of {key!r} removed it, and it is there"
    for key, entry in entries.items():
        assert key in newest or revisions.get(key) == entry.revision, f"{key!r} was written without an event"
