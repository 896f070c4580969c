"""Checkpoints: everything that a store holds at one moment, in one file that any engine can restore.

Contract
    A checkpoint is consistent: it holds the store as it was at one revision, while writers go on. Its file appears
    whole and durable or not at all, also when the call fails or is cancelled. Encoding takes turns with the event
    loop, about a millisecond a chunk; compressing and writing happen on threads. The memory that it needs does not
    grow with the number of entries.

    A restore reads the whole file once and checks every byte against its checksum before it touches the store, and a
    second time, checking again, to load it. What has expired meanwhile, by the store's clock, is left out. An engine that loads in
    one transaction shows all of it or nothing; ``load_by_commits``, for the others, says what it promises.

A cancelled call ends once its threads have ended, so that nothing is written or held open after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reactstate.errors import ConflictError, LimitExceededError, UnsupportedError
from reactstate.kv.checkpoint_file import CheckpointReader, CheckpointWriter, Chunk
from reactstate.kv.protocol import ABSENT, ANY, Batch, Capability, Delete, Put, Step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

    from reactstate.kv.checkpoint_file import CheckpointSummary
    from reactstate.kv.store import KeyValueStore

__all__ = [
    "load_by_commits",
    "raise_by_commits",
    "read_checkpoint",
    "summarize_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]

T = TypeVar("T")

_CHUNK_ENTRIES: Final = 10_000
_CHUNK_BYTES: Final = 4 << 20
_WRITE_AHEAD: Final = 3
_READ_AHEAD: Final = 2

_MAX_STEPS: Final = 1_000
_RAISING_KEY: Final = "~restore"
_MAX_RAISING: Final = 100_000


async def write_checkpoint(
    store: KeyValueStore,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int], None] | None = None,
    compress: bool = True,
) -> int:
    """Write a consistent snapshot of *store* to the file *path*, in place of what is there; return its bytes.

    Args:
        store: The store, of any engine with SNAPSHOT_READS.
        path: The file (0600).
        progress: Called on the event loop with the number of entries taken so far; what it raises ends the call.
        compress: Whether the entries are compressed (zstd).

    Raises:
        UnsupportedError: The engine has no SNAPSHOT_READS.
        StorageError: The file could not be written; nothing is left of it.
    """
    store.require("checkpoint", Capability.SNAPSHOT_READS)
    file = CheckpointWriter(os.fspath(path))
    threads = _Threads(2)
    try:
        async with store.snapshot() as view:
            await threads.run(file.begin, store._clock.time_ns(), store.engine, view.revision)
            async for batch in view.batches(_CHUNK_ENTRIES, revisions=False):
                for part in _parts(batch):
                    chunk = Chunk(part)
                    file.note(chunk)
                    threads.submit(_pack, chunk, compress)
                    if len(threads) >= _WRITE_AHEAD:
                        await threads.run(file.write, *(await threads.oldest()))
                    # awaiting what is done already would not let others run
                    await asyncio.sleep(0)
                if progress is not None:
                    progress(file.entries)
        while len(threads):
            await threads.run(file.write, *(await threads.oldest()))
        return await threads.run(file.finish)
    finally:
        await threads.end(file.discard)


def _pack(chunk: Chunk, compress: bool) -> tuple[bytes, bytes]:
    return chunk.pack(compress=compress)


def _parts(batch: Batch) -> Iterator[Batch]:
    """Cut *batch* where its values would take too much memory at once."""
    if sum(map(len, batch.values)) <= _CHUNK_BYTES:
        if batch.keys:
            yield batch
        return
    start = size = 0
    for place, value in enumerate(batch.values):
        if size and size + len(value) > _CHUNK_BYTES:
            yield _part(batch, start, place)
            start, size = place, 0
        size += len(value)
    yield _part(batch, start, len(batch.values))


def _part(batch: Batch, start: int, end: int) -> Batch:
    return Batch(batch.keys[start:end], batch.values[start:end], batch.revisions[start:end], batch.deadlines[start:end])


async def read_checkpoint(
    store: KeyValueStore,
    path: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Put everything from the checkpoint *path* into *store*; return the number of entries.

    Args:
        store: The store, of any engine.
        path: The file.
        replace: Remove what the store holds; else a store that is not empty is refused.
        progress: Called on the event loop with the number of entries restored so far; what it raises ends the call.

    Raises:
        ConflictError: The store is not empty, and *replace* is False.
        CorruptionError: The file is damaged or cut off; nothing was changed.
        LimitExceededError: A key or value is larger than the store takes; nothing was changed.
        SchemaVersionError: The file was written by a newer version; nothing was changed.
        StorageError: The file could not be read.
    """
    reader = CheckpointReader(os.fspath(path))
    threads = _Threads(1)
    try:
        summary = await threads.run(reader.check)
        _check_limits(store, summary)
        async with contextlib.aclosing(_batches(store, reader, threads, progress)) as batches:
            return await store._load(batches, revision=summary.revision, replace=replace)
    finally:
        await threads.end(reader.close)


async def verify_checkpoint(path: str | os.PathLike[str]) -> CheckpointSummary:
    """Read the whole checkpoint *path*, check it as a restore does, and return what it says of itself.

    Raises:
        CorruptionError: It is damaged or cut off.
        SchemaVersionError: It was written by a newer version.
        StorageError: It could not be read.
    """
    reader = CheckpointReader(os.fspath(path))
    threads = _Threads(1)
    try:
        return await threads.run(partial(reader.check, decode=True))
    finally:
        await threads.end(reader.close)


def summarize_checkpoint(path: str | os.PathLike[str]) -> CheckpointSummary:
    """Return what the header and the footer of the checkpoint *path* say, without reading what is between them.

    Raises:
        CorruptionError: One of them is damaged, or the file is cut off.
        SchemaVersionError: It was written by a newer version.
        StorageError: It could not be read.
    """
    reader = CheckpointReader(os.fspath(path))
    try:
        return reader.summarize()
    finally:
        reader.close()


def _check_limits(store: KeyValueStore, summary: CheckpointSummary) -> None:
    for what, actual, limit in (
        ("key", summary.max_key_bytes, store.limits.max_key_bytes),
        ("value", summary.max_value_bytes, store.limits.max_value_bytes),
    ):
        if actual > limit:
            raise LimitExceededError(
                f"the checkpoint holds a {what} of {actual} bytes, and the engine {store.engine!r} takes up to "
                f"{limit}; nothing was changed: restore it into another engine",
                limit=limit,
                actual=actual,
            )


async def _batches(
    store: KeyValueStore, reader: CheckpointReader, threads: _Threads, progress: Callable[[int], None] | None
) -> AsyncGenerator[Batch]:
    now_ms = store._clock.time_ns() // 1_000_000
    restored = 0
    for _ in range(_READ_AHEAD):
        threads.submit(reader.next, now_ms)
    while (batch := await threads.oldest()) is not None:
        threads.submit(reader.next, now_ms)
        if batch.keys:
            yield batch
            restored += len(batch.keys)
            if progress is not None:
                progress(restored)


class _Threads:
    """A few threads, and the results that are under way on them, in order."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="reactstate-checkpoint")
        self._under_way: deque[asyncio.Future[Any]] = deque()

    def __len__(self) -> int:
        return len(self._under_way)

    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        """Begin *work*; ``oldest`` gives its result."""
        self._under_way.append(self._loop.run_in_executor(self._pool, work, *args))

    async def oldest(self) -> Any:
        """Return the result that was begun first."""
        return await self._under_way.popleft()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Return the result of *work*."""
        return await self._loop.run_in_executor(self._pool, work, *args)

    async def end(self, last: Callable[[], None]) -> None:
        """Wait until nothing runs, and then call *last*; a caller that is cancelled waits too."""
        while self._under_way:
            self._under_way.popleft().cancel()
        ending = self._loop.run_in_executor(None, self._end, last)
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled
        ending.result()

    def _end(self, last: Callable[[], None]) -> None:
        self._pool.shutdown(cancel_futures=True)
        last()


# --- engines without a bulk path --------------------------------------------------------------------------------


async def load_by_commits(store: KeyValueStore, batches: AsyncIterator[Batch], *, revision: int, replace: bool) -> int:
    """Commit *batches* in pieces; return the number of entries: what ``KeyValueStore._load`` does by default.

    Each piece gets a revision of its own, above *revision*. It is not atomic: readers see it grow, a failure leaves a
    part, and others should not write meanwhile. Without *replace* no entry is ever overwritten.

    Raises:
        ConflictError: The store is not empty, and *replace* is False.
        LimitExceededError: An entry is larger than the store takes.
        UnsupportedError: The engine cannot raise its revisions far enough.
    """
    if not replace:
        async for entry in store.scan(limit=1):
            raise ConflictError(
                "the store is not empty; restore with replace=True to remove what it holds",
                entries={entry.key: entry},
                keys=(entry.key,),
            )
    await store._raise_revision(revision)
    limits = store.limits
    most_steps, most_bytes = min(limits.max_steps, _MAX_STEPS), limits.max_commit_bytes
    if replace:
        await _clear(store, most_steps, most_bytes)
    loaded = 0
    async for batch in batches:
        piece: list[Step] = []
        size = 0
        now_ms = store._clock.time_ns() // 1_000_000
        for key, value, deadline in zip(batch.keys, batch.values, batch.deadlines, strict=True):
            left = deadline - now_ms if deadline else None
            if left is not None and left <= 0:
                continue
            more = len(key.encode()) + len(value)
            if piece and (len(piece) >= most_steps or size + more > most_bytes):
                await store.commit(piece)
                loaded += len(piece)
                piece, size = [], 0
            ttl = None if left is None else timedelta(milliseconds=left)
            piece.append(Step(key, Put(value, ttl), ANY if replace else ABSENT))
            size += more
        if piece:
            await store.commit(piece)
            loaded += len(piece)
    return loaded


async def _clear(store: KeyValueStore, most_steps: int, most_bytes: int) -> None:
    piece: list[Step] = []
    size = 0
    async for entry in store.scan():
        more = len(entry.key.encode())
        if piece and (len(piece) >= most_steps or size + more > most_bytes):
            await store.commit(piece)
            piece, size = [], 0
        piece.append(Step(entry.key, Delete()))
        size += more
    if piece:
        await store.commit(piece)


async def raise_by_commits(store: KeyValueStore, revision: int) -> None:
    """Commit to *store* until every later revision is above *revision*: ``KeyValueStore._raise_revision`` by default.

    Raises:
        UnsupportedError: That would take more than 100,000 commits; nothing was changed.
    """
    # deleting what is absent takes no revision, and tells the newest
    newest = (await store.commit((Step(_RAISING_KEY, Delete()),))).revision
    if revision - newest > _MAX_RAISING:
        raise UnsupportedError(
            f"the checkpoint is of revision {revision}, the store at {newest}, and the engine {store.engine!r} cannot "
            "raise its revisions so far; restore into another engine",
            layer="restore",
            engine=store.engine,
            capability="_raise_revision",
        )
    while newest < revision:
        newest = (await store.commit((Step(_RAISING_KEY, Put(b"")),))).revision
    await store.commit((Step(_RAISING_KEY, Delete()),))
