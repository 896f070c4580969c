"""Named blobs in a store: small ones inside their entry, larger ones as chunks that the entry names.

Contract
    A blob is replaced by one commit: readers find the old bytes or the new ones, whole. Of several writers the last
    one wins. A write or removal that has begun is carried out even if its caller is cancelled. Damage to one blob is
    met by who reads it; listing passes it over with a warning.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from reactstate.errors import (
    CodecError,
    ConflictError,
    CorruptionError,
    ReactStateError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv.protocol import ABSENT, Delete, Entry, Put, Step
from reactstate.kv.retry import resolve, until_available
from reactstate.persistence.finishing import finish
from reactstate.persistence.kv_chunks import new_id, read_chunks
from reactstate.persistence.kv_layout import BlobHeader, damaged_entry
from reactstate.persistence.protocol import BlobInfo

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.kv.store import KeyValueStore
    from reactstate.persistence.kv_chunks import Chunks
    from reactstate.persistence.kv_layout import Layout

__all__ = ["Blobs"]

_INLINE_BYTES: Final = 1 << 14
_HEADER_BYTES: Final = 64
_LOGGER = logging.getLogger("reactstate.persistence")


class Blobs:
    """The blobs of one persistence."""

    __slots__ = ("_chunks", "_clock", "_deadline", "_layout", "_store", "_turn")

    def __init__(self, store: KeyValueStore, layout: Layout, chunks: Chunks, clock: Clock, deadline: float) -> None:
        self._store = store
        self._layout = layout
        self._chunks = chunks
        self._clock = clock
        self._deadline = deadline
        self._turn = asyncio.Lock()

    async def settle(self) -> None:
        """Return when the writes that were begun have ended."""
        async with self._turn:
            pass

    # --- writing ------------------------------------------------------------------------------------------------

    async def put(self, name: str, data: bytes) -> None:
        """Store *data* under *name*."""
        key = self._layout.blob_key(name)
        sealed = self._layout.pack_blob(name, data)
        limits = self._store.limits
        room = min(_INLINE_BYTES, limits.max_value_bytes, limits.max_commit_bytes - len(key)) - _HEADER_BYTES
        await finish(self._put(name, key, len(data), sealed, inline=len(sealed) <= room))

    async def _put(self, name: str, key: str, size: int, sealed: bytes, *, inline: bool) -> None:
        async with self._turn:
            made = new_id(self._clock)
            guards: tuple[Step, ...] = ()
            chunks = 0
            if not inline:
                chunks, guard = await self._chunks.write(self._layout.piece_stem(name, made), sealed)
                guards = (guard,)
            header = BlobHeader(size, self._clock.time_ns(), made, chunks)
            value = self._layout.blob_value(key, header, sealed if inline else b"")
            old = await until_available(lambda: self._store.get(key), clock=self._clock, deadline=self._deadline)

            async def attempt() -> bool:
                nonlocal old
                while True:
                    try:
                        await self._store.commit(
                            [Step(key, Put(value), ABSENT if old is None else old.revision), *guards]
                        )
                    except ConflictError as exc:
                        if key not in exc.keys:
                            raise UnavailableError(
                                f"writing the blob {name!r} took so long that its chunks were cleared away; nothing was "
                                "changed, try again"
                            ) from exc
                        old = exc.entries.get(key)
                    else:
                        return True

            async def applied() -> bool | None:
                found = await self._store.get(key)
                return True if found is not None and self._layout.blob_header(found).id == made else None

            await resolve(attempt, applied, clock=self._clock, deadline=self._deadline)
            await self._clear(name, old)

    async def _clear(self, name: str, old: Entry | None) -> None:
        """Remove the chunks of a blob that was replaced or removed; what stays is left to the next sweep."""
        if old is None:
            return
        try:
            header = self._layout.blob_header(old)
            if header.chunks:
                await self._chunks.remove(await self._chunks.keys(self._layout.piece_stem(name, header.id)))
        except ReactStateError as exc:
            _LOGGER.warning("the old bytes of the blob %r could not be removed: %s", name, exc)

    async def delete(self, name: str) -> bool:
        """Remove the blob; say whether it was there."""
        return await finish(self._delete(name, self._layout.blob_key(name)))

    async def _delete(self, name: str, key: str) -> bool:
        async with self._turn:
            old: Entry | None = None
            sent = False

            async def attempt() -> bool:
                nonlocal old, sent
                while (found := await self._store.get(key)) is not None:
                    old = found
                    try:
                        await self._store.commit([Step(key, Delete(), found.revision)])
                    except ConflictError:
                        continue
                    except UnknownOutcomeError:
                        sent = True
                        raise
                    return True
                return sent

            async def applied() -> bool | None:
                found = await self._store.get(key)
                return True if old is not None and (found is None or found.revision != old.revision) else None

            removed = await resolve(attempt, applied, clock=self._clock, deadline=self._deadline)
            if removed:
                await self._clear(name, old)
            return removed

    # --- reading ------------------------------------------------------------------------------------------------

    async def get(self, name: str) -> bytes | None:
        """Return the bytes under *name*, or None."""
        key = self._layout.blob_key(name)
        return await until_available(lambda: self._get(name, key), clock=self._clock, deadline=self._deadline)

    async def _get(self, name: str, key: str) -> bytes | None:
        entry = await self._store.get(key)
        while entry is not None:
            header = self._layout.blob_header(entry)
            sealed: bytes | None = self._layout.inline(entry)
            if header.chunks:
                sealed = await read_chunks(self._store, self._layout.piece_stem(name, header.id), header.chunks)
            if sealed is not None:
                data = self._layout.unpack_blob(name, sealed)
                if len(data) != header.size:
                    raise damaged_entry(key)
                return data
            newest = await self._store.get(key)
            if newest is not None and newest.revision == entry.revision:
                raise damaged_entry(key)
            entry = newest
        return None

    async def infos(self, prefix: str) -> list[BlobInfo]:
        """Return the blobs whose name starts with *prefix*, by name."""
        return await until_available(lambda: self._infos(prefix), clock=self._clock, deadline=self._deadline)

    async def _infos(self, prefix: str) -> list[BlobInfo]:
        infos: list[BlobInfo] = []
        async for entry in self._store.scan(self._layout.blob_prefix(prefix)):
            try:
                header = self._layout.blob_header(entry)
            except (CorruptionError, CodecError) as exc:
                _LOGGER.warning("passing over a damaged blob: %s", exc)
                continue
            infos.append(BlobInfo(self._layout.blob_name(entry.key), header.size, header.modified_ns))
        return sorted(infos, key=lambda info: info.name)
