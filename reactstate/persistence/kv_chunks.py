"""Large values as chunks: entries of their own under a random id, made current by a later commit of their owner.

Contract
    A set of chunks is ``<stem>000000`` (the number of chunks) and ``<stem>000001`` and so on. It is written before
    anything names it. The commit that names it expects the first entry to be as it was written, and whoever removes a
    set removes that entry first, in a commit which expects that the owner does not name it: so a set is either named
    or removed, however slow the one and however early the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import uuid_utils

from reactstate.errors import ConflictError, LimitExceededError
from reactstate.kv.protocol import ABSENT, Delete, Put, Step
from reactstate.kv.retry import resolve
from reactstate.kv.terms import prefix_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from reactstate.clock import Clock
    from reactstate.kv.protocol import Entry, Limits, ReadView
    from reactstate.kv.store import KeyValueStore

__all__ = ["Chunks", "new_id", "read_chunks", "read_many", "stems"]

CHUNK_BYTES: Final = 1 << 18
_COMMIT_BYTES: Final = 1 << 20
_BATCH: Final = 500
_NUMBER_DIGITS: Final = 6
_MAX_CHUNKS: Final = 10**_NUMBER_DIGITS - 1
_FRESH_MS: Final = 600_000


def new_id(clock: Clock) -> str:
    """Return a new id: a UUIDv7 as 32 hexadecimal digits."""
    return uuid_utils.uuid7(nanoseconds=max(clock.time_ns(), 0)).hex


def _key(stem: str, number: int) -> str:
    return f"{stem}{number:06d}"


class Chunks:
    """Writes and removes sets of chunks.

    Args:
        store: Where.
        clock: Measures the deadline, and the age of what is left over.
        deadline: For how many seconds each commit is tried.
    """

    __slots__ = ("_clock", "_deadline", "_store")

    def __init__(self, store: KeyValueStore, clock: Clock, deadline: float) -> None:
        self._store = store
        self._clock = clock
        self._deadline = deadline

    async def write(self, stem: str, data: bytes) -> tuple[int, Step]:
        """Write *data* under *stem*, which nobody has used; return the number of chunks, and the naming's guard.

        Raises:
            LimitExceededError: The store takes too small values for so much.
            UnavailableError: The store stayed out of reach.
            UnknownOutcomeError: It did not answer.
        """
        limits = self._store.limits
        size = _chunk_size(limits, len(_key(stem, 0)))
        count = -(-len(data) // size)
        if count > _MAX_CHUNKS:
            raise LimitExceededError(
                f"{len(data)} bytes do not fit into {_MAX_CHUNKS} values of {size} bytes; use a store with larger ones",
                limit=_MAX_CHUNKS * size,
                actual=len(data),
            )
        pieces = [(_key(stem, 0), b"%d" % count)]
        pieces += [(_key(stem, number + 1), data[number * size : (number + 1) * size]) for number in range(count)]
        revisions = [await self._put(group) for group in _groups(pieces, limits)]
        return count, Step(pieces[0][0], None, revisions[0])

    async def _put(self, group: Sequence[tuple[str, bytes]]) -> int:
        steps = [Step(key, Put(value), ABSENT) for key, value in group]
        first = group[0][0]

        async def attempt() -> int:
            return (await self._store.commit(steps)).revision

        async def applied() -> int | None:
            found = await self._store.get(first)
            return None if found is None else found.revision

        return await resolve(attempt, applied, clock=self._clock, deadline=self._deadline)

    async def remove(self, keys: Sequence[str], guard: Callable[[], Awaitable[Step | None]] | None = None) -> bool:
        """Remove the entries under *keys*, in order; say whether all of them are gone.

        Args:
            keys: What to remove.
            guard: Returns what shows that they may be removed, as something for the commit to expect, and None when
                they may not; asked again when that has changed. Without it nothing can come to need them.
        """
        batch = max(1, min(_BATCH, self._store.limits.max_steps - 1))
        start = 0
        while start < len(keys):
            steps = [Step(key, Delete()) for key in keys[start : start + batch]]
            if guard is not None:
                expected = await guard()
                if expected is None:
                    return False
                steps.append(expected)
            try:
                await self._store.commit(steps)
            except ConflictError:
                continue
            start += batch
        return True

    async def keys(self, stem: str) -> list[str]:
        """Return the keys of the set under *stem*, its first entry first."""
        return [entry.key async for entry in self._store.scan(stem)]

    def is_left_over(self, stem: str) -> bool:
        """Say whether the set under *stem* is so old that its writer can hardly be about to name it."""
        made_ms = int(stem[-33:-21], 16)
        return self._clock.time_ns() // 1_000_000 - made_ms > _FRESH_MS


def _chunk_size(limits: Limits, key_bytes: int) -> int:
    return max(1, min(CHUNK_BYTES, limits.max_value_bytes, limits.max_commit_bytes - 2 * key_bytes - _NUMBER_DIGITS))


def _groups(pieces: Iterable[tuple[str, bytes]], limits: Limits) -> Iterable[list[tuple[str, bytes]]]:
    """Split *pieces* into what fits into one commit each."""
    most = min(_COMMIT_BYTES + CHUNK_BYTES, limits.max_commit_bytes)
    group: list[tuple[str, bytes]] = []
    size = 0
    for key, value in pieces:
        added = len(key.encode()) + len(value)
        if group and (size + added > most or len(group) == limits.max_steps):
            yield group
            group, size = [], 0
        group.append((key, value))
        size += added
    yield group


async def read_chunks(source: KeyValueStore | ReadView, stem: str, count: int) -> bytes | None:
    """Return the joined chunks under *stem*, or None when one of the *count* is missing."""
    entries = await read_many(source, [_key(stem, number) for number in range(1, count + 1)], batch=16)
    return None if len(entries) != count else b"".join([entry.value for entry in entries])


async def read_many(source: KeyValueStore | ReadView, keys: Sequence[str], *, batch: int = _BATCH) -> list[Entry]:
    """Return the entries under *keys* that there are, in order."""
    entries: list[Entry] = []
    for start in range(0, len(keys), batch):
        asked = keys[start : start + batch]
        found = await source.get_many(asked)
        entries += [found[key] for key in asked if key in found]
    return entries


async def stems(source: KeyValueStore, prefix: str) -> AsyncIterator[str]:
    """Yield the stems of the sets under *prefix*, reading one entry of each."""
    start: str | None = prefix
    while found := [entry.key async for entry in source.scan(prefix, start=start, limit=1)]:
        stem = found[0][:-_NUMBER_DIGITS]
        yield stem
        start = prefix_end(stem)
