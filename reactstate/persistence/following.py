"""Reading a journal while it is written, here or by another process, and following it.

Contract
    Nothing behind the limit is read: what this process has written, or what another has published as durable. Segments may end and be compacted away at any moment; a
    follower that fell behind what is kept gets ``CompactedError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.errors import CorruptionError, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from reactstate.persistence.chain import Limit, Recovered
    from reactstate.persistence.protocol import Record
    from reactstate.persistence.recovery import Archive

__all__ = ["follow", "read_changes", "read_published"]

_ATTEMPTS = 8


async def read_published(archive: Archive, limit_now: Callable[[], Limit | None], history: int) -> Recovered | None:
    """Return the newest published state with its history; see ``FilePersistence.load``."""
    for attempt in range(_ATTEMPTS):
        limit = limit_now()
        found = archive.scan(limit)
        try:
            if limit is not None:
                archive.check_complete(found)
            return await archive.load(found, history, limit)
        except StorageError:
            # A writer may have compacted since the directory was listed; only what stays wrong is wrong.
            if attempt == _ATTEMPTS - 1 or not archive.moved(found, limit):
                raise
    return None


async def read_changes(archive: Archive, limit_now: Callable[[], Limit | None], since: int) -> AsyncIterator[Record]:
    """Yield the kept records above *since*, then stop; see ``FilePersistence.changes``."""
    limit = limit_now()
    found = archive.scan(limit)
    while True:
        try:
            async for record in archive.changes(found, since, limit):
                since = record.version
                yield record
        except StorageError:
            if not archive.moved(found, limit):
                raise
            limit = limit_now()
            found = archive.scan(limit)
        else:
            return


async def follow(archive: Archive, since: int, pause: Callable[[], Awaitable[None]]) -> AsyncIterator[Record]:
    """Yield the records above *since* as they are published; see ``FilePersistence.follow``."""
    position = since
    seen: Limit | None = None
    while True:
        published = archive.published()
        if published is None or (published.serial, published.offset) == seen:
            await pause()
            continue
        limit = (published.serial, published.offset)
        if published.version < position and position != since:
            path = archive.path("")
            raise CorruptionError(f"version {position} was published in {path!r} and is gone; load anew", path=path)
        found = None
        try:
            if seen is not None and seen[0] == limit[0] and seen[1] <= limit[1]:
                for record in archive.between(seen, limit[1]):
                    if record.version > position:
                        position = record.version
                        yield record
            elif published.version > position:
                found = archive.scan(limit)
                async for record in archive.changes(found, position, limit):
                    position = record.version
                    yield record
            seen = limit
        except StorageError:
            # A writer may have compacted or turned the journal over meanwhile; only what stays wrong is wrong.
            if archive.published() == published and (found is None or not archive.moved(found, limit)):
                raise
            seen = None
