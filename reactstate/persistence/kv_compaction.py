"""Moving the base of a persistence over a store, beginning a new era, and removing what nothing names any more.

Contract
    Chunks are written first, one commit makes them current, and what they replace is removed after it. A crash at any
    step leaves the old state or the new one, and entries that nothing names; the sweep after a later compaction
    removes those: records at or below the oldest base at once, sets of chunks when they are older than ten minutes.
    A sweep removes nothing that a concurrent compaction could still name; see ``reactstate.persistence.kv_chunks``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from reactstate.errors import ConflictError, ReactStateError
from reactstate.kv.protocol import ABSENT, Step
from reactstate.persistence.kv_chunks import new_id, stems
from reactstate.persistence.kv_head import Move
from reactstate.persistence.kv_layout import Base, Head
from reactstate.persistence.kv_reading import Raw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.clock import Clock
    from reactstate.kv.protocol import ReadView
    from reactstate.kv.store import KeyValueStore
    from reactstate.persistence.kv_chunks import Chunks
    from reactstate.persistence.kv_head import HeadEntry
    from reactstate.persistence.kv_layout import Layout
    from reactstate.persistence.kv_reading import Reader
    from reactstate.persistence.protocol import SchemaTag, Snapshot

__all__ = ["Compactor"]

_BATCH = 500
_LOGGER = logging.getLogger("reactstate.persistence")


class _Superseded(Exception):  # noqa: N818 - it never leaves this module
    """Another compaction was faster."""


class Compactor:
    """Compacts one key."""

    __slots__ = ("_chunks", "_clock", "_head", "_layout", "_reader", "_store")

    def __init__(
        self, store: KeyValueStore, layout: Layout, head: HeadEntry, reader: Reader, chunks: Chunks, clock: Clock
    ) -> None:
        self._store = store
        self._layout = layout
        self._head = head
        self._reader = reader
        self._chunks = chunks
        self._clock = clock

    # --- moving the base ----------------------------------------------------------------------------------------

    async def compact(self, keep_since: int) -> None:
        """Move the oldest base up to version *keep_since*, or the head if that is older, and sweep.

        Raises:
            CorruptionError: What is stored is damaged; nothing was changed.
        """
        while True:
            try:
                dropped = await self._compact(keep_since)
            except _Superseded:
                continue
            if dropped:
                await self.sweep(dropped)
            return

    async def _compact(self, keep_since: int) -> list[str]:
        """Move the base; return the ids of the bases that are named no more."""
        reader = self._reader

        async def read(source: KeyValueStore | ReadView, head: Head) -> Raw:
            target = min(keep_since, head.version)
            kept = _kept(head.bases, target)
            if kept[0].version >= target:
                return Raw(target)
            return await reader.eras(source, head, len(head.bases) - len(kept), target)

        found = await reader.settled(read)
        if found is None:
            return []
        head, raw = found
        kept = _kept(head.bases, raw.last)
        if not raw.bases:
            if len(kept) == len(head.bases):
                return []
            await self._replace(head.bases[0].id, kept[0].id, None, None)
            return [base.id for base in head.bases[: -len(kept)]]
        document = (await reader.replayed(raw))[0].document
        base, guard = await self._write(raw.last, document, kept[0].schema)
        try:
            await self._replace(head.bases[0].id, kept[0].id, base, guard)
        except (ConflictError, _Superseded) as exc:
            await self._discard(base)
            raise _Superseded from exc
        return [base.id for base in head.bases[: len(head.bases) - len(kept) + 1]]

    async def _replace(self, oldest: str, from_: str, base: Base | None, guard: Step | None) -> None:
        """Drop the bases before *from_*, and put *base*, if given, in its place."""

        def plan(head: Head | None) -> Move:
            ids = [] if head is None else [known.id for known in head.bases]
            if head is None or from_ not in ids or ids[0] != oldest:
                raise _Superseded
            bases = list(head.bases[ids.index(from_) :])
            if base is not None:
                bases[0] = base
            return self._move(head.with_bases(bases, _share(head, bases[0].version)), guard)

        async def applied(head: Head) -> bool:
            return head.bases[0].id == (from_ if base is None else base.id)

        await self._head.swap(plan, applied)

    def _move(self, to: Head, guard: Step | None) -> Move:
        return Move(to, self._layout.encode_head(to), () if guard is None else (guard,))

    async def _write(self, version: int, document: Any, schema: SchemaTag) -> tuple[Base, Step | None]:
        """Write the chunks of a new base that nothing names yet."""
        made = new_id(self._clock)
        if document is None:
            return Base(made, version, 0, 0, schema), None
        data = await asyncio.to_thread(self._layout.pack_base, made, document)
        count, guard = await self._chunks.write(self._layout.base_stem(made), data)
        return Base(made, version, count, len(data), schema), guard

    async def _discard(self, base: Base) -> None:
        """Remove the chunks of a base that nothing came to name; what stays is left to a later sweep."""
        try:
            await self._chunks.remove(await self._chunks.keys(self._layout.base_stem(base.id)))
        except ReactStateError as exc:
            _LOGGER.warning("a base that came too late under %r could not be removed: %s", self._layout.key, exc)

    # --- a new era ----------------------------------------------------------------------------------------------

    async def begin(self, snapshot: Snapshot, keep_since: int, check: Callable[[Head | None], None]) -> Head:
        """Make *snapshot* the base of a new era, at or above the newest version.

        Args:
            snapshot: What the new era begins with.
            keep_since: Older eras whose records are all at or below it are dropped.
            check: Raises when a head is not one upon which the era may begin.
        """
        check(self._head.known)
        base, guard = await self._write(snapshot.version, snapshot.document, dict(snapshot.schema))
        dropped: list[str] = []

        def plan(head: Head | None) -> Move:
            check(head)
            bases: Sequence[Base] = [base]
            grown = 0
            if head is not None:
                if head.version == snapshot.version:
                    before = head.bases[:-1] if head.bases[-1].version == base.version else head.bases
                    bases = _kept([*before, base], keep_since)
                    grown = _share(head, bases[0].version)
                dropped[:] = [known.id for known in head.bases if known not in bases]
            to = Head(
                snapshot.version,
                snapshot.change_id,
                snapshot.created_at_ns,
                snapshot.updated_at_ns,
                snapshot.tags,
                grown,
                bases,
            )
            return self._move(to, guard)

        async def applied(head: Head) -> bool:
            return any(known.id == base.id for known in head.bases)

        try:
            made = await self._head.swap(plan, applied)
        except ConflictError:
            await self._discard(base)
            raise
        await self.sweep(dropped)
        return made

    # --- sweeping -----------------------------------------------------------------------------------------------

    async def sweep(self, dropped: Sequence[str]) -> None:
        """Remove records and chunks that nothing names; those of the bases *dropped* however young they are."""
        try:
            head = await self._head.read()
            if head is None:
                return
            await self._sweep_records(head.floor)
            await self._sweep_bases(dropped)
            await self._sweep_pieces()
        except ReactStateError as exc:
            _LOGGER.warning("what a compaction left over under %r could not be removed: %s", self._layout.key, exc)

    async def _sweep_records(self, floor: int) -> None:
        async def guard() -> Step | None:
            now = await self._head.read()
            # Only a restored checkpoint can take the floor back.
            return None if now is None or now.floor < floor else Step(self._layout.head, None, now.revision)

        end = self._layout.record_key(floor + 1)
        while True:
            old = self._store.scan(self._layout.records, end=end, limit=_BATCH)
            keys = [entry.key async for entry in old]
            if not keys or not await self._chunks.remove(keys, guard) or len(keys) < _BATCH:
                return

    async def _sweep_bases(self, dropped: Sequence[str]) -> None:
        chunks, layout = self._chunks, self._layout
        async for stem in stems(self._store, layout.bases):
            id_ = stem[len(layout.bases) : -1]

            async def guard(id_: str = id_) -> Step | None:
                now = await self._head.read()
                if now is None or any(base.id == id_ for base in now.bases):
                    return None
                return Step(layout.head, None, now.revision)

            if (id_ in dropped or chunks.is_left_over(stem)) and await guard() is not None:
                await chunks.remove(await chunks.keys(stem), guard)

    async def _sweep_pieces(self) -> None:
        chunks, layout, store = self._chunks, self._layout, self._store
        async for stem in stems(store, layout.pieces):

            async def guard(stem: str = stem) -> Step | None:
                owner = layout.piece_owner(stem)
                entry = await store.get(owner)
                if entry is None:
                    return Step(owner, None, ABSENT)
                named = layout.blob_header(entry).id == stem[-33:-1]
                return None if named else Step(owner, None, entry.revision)

            if chunks.is_left_over(stem) and await guard() is not None:
                await chunks.remove(await chunks.keys(stem), guard)


def _kept(bases: Sequence[Base], keep_since: int) -> Sequence[Base]:
    """Return the bases without those of the eras that have no record above *keep_since*; the last always stays."""
    first = 0
    while first < len(bases) - 1 and bases[first + 1].version <= keep_since:
        first += 1
    return bases[first:]


def _share(head: Head, floor: int) -> int:
    """Return about how many bytes the records above *floor* have."""
    records = head.version - head.floor
    return head.grown * (head.version - floor) // records if records else 0
