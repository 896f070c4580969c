"""Reading a container back from a store: the head, the bases, and the records between them, replayed.

Contract
    What is returned belongs together: it is read in one snapshot of the store where the engine has SNAPSHOT_READS.
    Elsewhere bases and records are looked for after the head that names them; when one of them is missing, or is newer
    than that head, the head is read again: if it has moved, a compaction (or a restored checkpoint) was faster, and
    all is read anew; if it has not, the missing entry is ``CorruptionError``.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from reactstate.errors import CompactedError, CorruptionError, PatchError
from reactstate.kv.protocol import Capability
from reactstate.persistence.kv_chunks import read_chunks, read_many
from reactstate.persistence.kv_layout import damaged_entry
from reactstate.persistence.protocol import Era
from reactstate.state.patch import replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reactstate.kv.protocol import Entry, ReadView
    from reactstate.kv.store import KeyValueStore
    from reactstate.persistence.kv_head import HeadEntry
    from reactstate.persistence.kv_layout import Base, Head, Layout
    from reactstate.persistence.protocol import Record

__all__ = ["Raw", "Reader", "compacted"]

_FEW: Final = 64
"""Up to so many records are asked for by name, and replayed on the event loop."""


class Raw:
    """Entries that a head leads to, as they are stored.

    Attributes:
        bases: The bases read, oldest first, with the bytes of each (None: no document).
        entries: The records, in order.
        last: The version of the newest of them that was asked for.
        missing: The key of an entry that is not there, or None.
        late: Whether an entry is newer than the head.
    """

    __slots__ = ("bases", "entries", "last", "late", "missing")

    def __init__(self, last: int) -> None:
        self.bases: list[tuple[Base, bytes | None]] = []
        self.entries: list[Entry] = []
        self.last: int = last
        self.missing: str | None = None
        self.late: bool = False


class Reader:
    """The reading side of a persistence over a store."""

    __slots__ = ("_head", "_layout", "_store")

    def __init__(self, store: KeyValueStore, layout: Layout, head: HeadEntry) -> None:
        self._store = store
        self._layout = layout
        self._head = head

    # --- consistency --------------------------------------------------------------------------------------------

    async def settled(
        self, read: Callable[[KeyValueStore | ReadView, Head], Awaitable[Raw]], *, in_view: bool = True
    ) -> tuple[Head, Raw] | None:
        """Return the head and what *read* finds from it, which belong together; None: there is no head.

        Raises:
            CorruptionError: What the head names is not there.
        """
        if in_view and self._store.supports(Capability.SNAPSHOT_READS):
            async with AsyncExitStack() as stack:
                view = await stack.enter_async_context(self._store.snapshot())
                head = await self._head.read(view)
                if head is None:
                    return None
                raw = await read(view, head)
            if raw.missing is not None:
                raise damaged_entry(raw.missing)
            return head, raw
        head = await self._head.read()
        while head is not None:
            raw = await read(self._store, head)
            if raw.missing is None and not raw.late:
                return head, raw
            newest = await self._head.read()
            if newest is not None and newest.revision == head.revision:
                if raw.missing is not None:
                    raise damaged_entry(raw.missing)
                return head, raw
            head = newest
        return None

    # --- entries ------------------------------------------------------------------------------------------------

    async def eras(self, source: KeyValueStore | ReadView, head: Head, first: int, last: int | None = None) -> Raw:
        """Read the bases of *head* from index *first* on, and the records above it up to version *last*."""
        raw = Raw(head.version if last is None else last)
        for base in head.bases[first:]:
            if base.version > raw.last:
                break
            data = None
            if base.chunks:
                data = await read_chunks(source, self._layout.base_stem(base.id), base.chunks)
                if data is None:
                    raw.missing = self._layout.base_stem(base.id)
                    return raw
            raw.bases.append((base, data))
        await self._records(source, head, raw, head.bases[first].version)
        return raw

    async def records(self, source: KeyValueStore | ReadView, head: Head, since: int) -> Raw:
        """Read the records above version *since*."""
        raw = Raw(head.version)
        await self._records(source, head, raw, since)
        return raw

    async def _records(self, source: KeyValueStore | ReadView, head: Head, raw: Raw, since: int) -> None:
        key, count = self._layout.record_key, raw.last - since
        if count <= _FEW:
            raw.entries = await read_many(source, [key(version) for version in range(since + 1, raw.last + 1)])
        else:
            between = source.scan(self._layout.records, start=key(since + 1), end=key(raw.last + 1))
            raw.entries = [entry async for entry in between]
        if len(raw.entries) != count:
            there = {entry.key for entry in raw.entries}
            raw.missing = next(
                name for version in range(since + 1, raw.last + 1) if (name := key(version)) not in there
            )
        raw.late = any(entry.revision > head.revision for entry in raw.entries)

    # --- replaying ----------------------------------------------------------------------------------------------

    async def replayed(self, raw: Raw) -> list[Era]:
        """Return the eras of *raw*, each with all its records and the document after them.

        Raises:
            CorruptionError: Something is damaged.
            CodecError: Something cannot be read by this version, or with these keys.
        """
        if len(raw.entries) <= _FEW and sum(base.size for base, _ in raw.bases) < 1 << 16:
            return self._replay(raw)
        return await asyncio.to_thread(self._replay, raw)

    def _replay(self, raw: Raw) -> list[Era]:
        eras: list[Era] = []
        position = 0
        for place, (base, data) in enumerate(raw.bases):
            document: Any = None if data is None else self._layout.unpack_base(base.id, data)
            end = raw.bases[place + 1][0].version if place + 1 < len(raw.bases) else raw.last
            records: list[Record] = []
            for entry in raw.entries[position : position + end - base.version]:
                record = self._layout.decode_record(entry)
                try:
                    document, record.inverse = replay(document, record.patch)
                except (PatchError, TypeError, ValueError) as exc:
                    raise CorruptionError(
                        f"the change to version {record.version} in {entry.key!r} does not fit the document before it",
                        path=entry.key,
                    ) from exc
                records.append(record)
            position += len(records)
            eras.append(Era(base.schema, records, document))
        return eras

    async def load(self, history: int) -> tuple[Head, list[Era]] | None:
        """Return the head, and eras with the newest *history* records at most; the last era is never left out."""

        async def read(source: KeyValueStore | ReadView, head: Head) -> Raw:
            first = len(head.bases) - 1
            while first and head.version - head.bases[first].version < history:
                first -= 1
            return await self.eras(source, head, first)

        found = await self.settled(read)
        if found is None:
            return None
        head, raw = found
        kept: list[Era] = []
        for era in reversed(await self.replayed(raw)):
            era.records = era.records[max(0, len(era.records) - history) :]
            history -= len(era.records)
            if era.records or not kept:
                kept.append(era)
        return head, kept[::-1]

    async def changes(self, since: int) -> list[Record]:
        """Return the kept records above version *since*, with their inverses.

        Raises:
            CompactedError: They are no longer kept from *since* on.
        """

        async def read(source: KeyValueStore | ReadView, head: Head) -> Raw:
            if since < head.floor:
                raise compacted(since, head.floor)
            first = max(place for place, base in enumerate(head.bases) if base.version <= since)
            return await self.eras(source, head, first)

        found = await self.settled(read)
        if found is None:
            return []
        return [record for era in await self.replayed(found[1]) for record in era.records if record.version > since]


def compacted(since: int, resume: int) -> CompactedError:
    """Return the error for records that do not lead from version *since* to the head."""
    return CompactedError(
        f"the changes after version {since} are no longer kept, or are of other documents; load the state anew, or ask "
        f"from version {resume} on",
        resume=resume,
    )
