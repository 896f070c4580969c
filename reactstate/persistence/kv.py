"""A container's changes in a key-value store, shared by as many processes as use the store and the key.

Durability
    What is acknowledged is as durable as the store's own ``durability`` says. A lost reply is resolved by the change's
    id before ``append`` returns: only when the store stays silent until the deadline is the outcome unknown.

Concurrency
    Every append is one commit on condition that the head is the one that the container knows, so that of two writers
    one wins and the other gets ``ConflictError``, with nothing written; ``fetch`` then returns what it missed. A
    compaction by somebody else moves the head too, but not the state: appends pass over it by themselves. Readers
    never wait for writers, and see one moment.

Layout
    A small head entry; one entry a record; an *era* is a base document and the records after it, all of one schema
    tag. A compaction replaces the oldest base by a later one, a change of schema begins a new era. See
    ``reactstate.persistence.kv_layout``.

Limits
    One append fits into one commit of the store (``LimitExceededError``: append fewer records). The retention of
    history is shared: each process compacts by its own settings, so give all of them the same.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.clock import SystemClock
from reactstate.errors import (
    ClosedError,
    ConflictError,
    InvalidKeyError,
    SchemaVersionError,
    SettingsError,
    StorageError,
    WrongContextError,
)
from reactstate.kv.protocol import Capability
from reactstate.kv.retry import until_available
from reactstate.kv.store import KeyValueStore
from reactstate.persistence.finishing import finish
from reactstate.persistence.kv_append import Appender
from reactstate.persistence.kv_blobs import Blobs
from reactstate.persistence.kv_chunks import Chunks
from reactstate.persistence.kv_compaction import Compactor
from reactstate.persistence.kv_head import HeadEntry
from reactstate.persistence.kv_layout import Head, Layout
from reactstate.persistence.kv_reading import Reader, compacted
from reactstate.persistence.kv_watching import wakeups
from reactstate.persistence.protocol import Fetched, Loaded, Snapshot, StatePersistence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from reactstate.clock import Clock
    from reactstate.codec import Codec
    from reactstate.kv.protocol import ReadView
    from reactstate.kv.transaction import Guard
    from reactstate.persistence.kv_append import Batch
    from reactstate.persistence.kv_reading import Raw
    from reactstate.persistence.protocol import BlobInfo, Record, SchemaTag

__all__ = ["KeyValuePersistence"]

S = TypeVar("S")

_SPARE = 64


class KeyValuePersistence(StatePersistence[S], Generic[S]):
    """Keeps a container's changes under *key* in *store*.

    Args:
        store: Any store with CAS and TRANSACTIONS.
        key: The container's key; no key reaches into the entries of another.
        codec: What the entries are written with: format, compression, encryption; by default JSON, and zstd for
            snapshots, blobs and large records. Everything is read back, whatever format and compression wrote it. With encryption, keys,
            sizes, and the sizes and times of blobs stay in the clear.
        clock: Where time comes from, for tests.
        deadline: For how many seconds an operation is tried while the store is out of reach or silent.
        owns_store: Whether ``aclose`` closes the store.

    Raises:
        UnsupportedError: The engine cannot do what is needed.
        InvalidKeyError: *key* is empty or no text.
        LimitExceededError: *key* is too long for the store.
        SettingsError: *deadline* is not more than 0.
    """

    shared: bool = True

    def __init__(
        self,
        store: KeyValueStore,
        key: str,
        *,
        codec: Codec | None = None,
        clock: Clock | None = None,
        deadline: float = 30.0,
        owns_store: bool = False,
    ) -> None:
        if not isinstance(store, KeyValueStore):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise SettingsError(f"store={store!r}: give a KeyValueStore, such as open_store() returns")
        store.require("persistence", Capability.CAS, Capability.TRANSACTIONS)
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
            raise InvalidKeyError(f"the key of a container is text, not a {type(key).__name__}")
        if not 0 < deadline < math.inf:
            raise SettingsError(f"deadline={deadline!r}: give the seconds to wait, more than 0")
        self.store: KeyValueStore | None = store
        self._store = store
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._deadline = deadline
        self._owns_store = owns_store
        self._layout = Layout(key, codec, store.limits)
        self._head = HeadEntry(store, self._layout, self._clock, deadline)
        self._reader = Reader(store, self._layout, self._head)
        self._appender = Appender(store, self._layout, self._head, self._clock)
        chunks = Chunks(store, self._clock, deadline)
        self._compactor = Compactor(store, self._layout, self._head, self._reader, chunks, self._clock)
        self._blobs = Blobs(store, self._layout, chunks, self._clock, deadline)
        self._saving = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._seen: Head | None = None
        self._schema: SchemaTag | None = None
        self._history = 0
        self._loaded = False
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"KeyValuePersistence({self._store!r}, {self._layout.key!r})"

    def _check(self, *, loaded: bool = False) -> None:
        if self._closed:
            raise ClosedError("this persistence was closed; make a new one")
        if loaded and not self._loaded:
            raise WrongContextError("this persistence is not open yet; await load() first")

    # --- reading ------------------------------------------------------------------------------------------------

    async def load(self, *, history: int = 1000) -> Loaded | None:
        """Return what is stored, or None when nothing is; may be called again, to go on from what is there then.

        Raises:
            CorruptionError: An entry is damaged or missing; nothing was changed.
            CodecError: The entries are of a newer layout, or need a key or library that is not there.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        self._check()
        found = await self._persistently(lambda: self._reader.load(history))
        self._loaded = True
        self._history = history
        if found is None:
            self._seen = self._schema = None
            return None
        head, eras = found
        self._seen = head
        self._schema = head.schema
        newest = Snapshot(
            head.version,
            eras[-1].document,
            head.schema,
            head.change_id,
            head.created_ns,
            head.updated_ns,
            head.tags,
        )
        return Loaded(newest, eras)

    async def _persistently(self, read: Callable[[], Awaitable[Any]]) -> Any:
        return await until_available(read, clock=self._clock, deadline=self._deadline)

    async def changes(self, since: int = 0) -> AsyncIterator[Record]:
        """Iterate over the kept records with a version above *since*, with their inverses, oldest first, then stop.

        Raises:
            CompactedError: Records above *since* are no longer kept; ``resume`` is the oldest version to ask from.
            CorruptionError: An entry is damaged or missing.
        """
        self._check()
        records: list[Record] = await self._persistently(lambda: self._reader.changes(since))
        for record in records:
            yield record

    async def fetch(self, since: int) -> Fetched:
        """Return the newest version, and the records above *since*; one read when there are none.

        Raises:
            CompactedError: Records above *since* are no longer kept, the documents went over to another schema, or the
                store holds less than *since*; ``resume`` is the oldest version from which records lead to the head.
            StorageError: The store holds another version *since* than was seen here: it was restored or replaced.
            CorruptionError: An entry is damaged or missing.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        self._check()
        found: tuple[Head, Raw] | None = await self._persistently(lambda: self._fetch(since))
        if found is None:
            if since:
                raise compacted(since, 0)
            return Fetched(0, [])
        head, raw = found
        records = [self._layout.decode_record(entry) for entry in raw.entries]
        own = records.pop(0) if records and records[0].version == since else head
        seen = self._seen
        if seen is not None and seen.version == since == own.version and seen.change_id != own.change_id:
            raise StorageError(
                f"the store holds another version {since} than the one that was seen here: it was restored or replaced; "
                "open the container again",
                url=self._store.url,
            )
        self._see(head)
        if self._schema is None:
            self._schema = head.schema
        return Fetched(head.version, records)

    async def _fetch(self, since: int) -> tuple[Head, Raw] | None:
        async def read(source: KeyValueStore | ReadView, head: Head) -> Raw:
            if since > head.version or (self._schema is not None and head.schema != self._schema):
                raise compacted(since, head.version)
            start = head.bases[-1].version
            if since < start:
                raise compacted(since, start)
            # The record of *since* comes along, to see that it is still the one that the caller has.
            return await self._reader.records(source, head, since - 1 if start < since < head.version else since)

        return await self._reader.settled(read, in_view=False)

    def _see(self, head: Head) -> None:
        """Note that the container is about to know what *head* says."""
        if self._seen is None or head.revision > self._seen.revision:
            self._seen = head

    def cursor_place(self, name: str) -> tuple[KeyValueStore, str]:
        """Return the store, and the key at which the cursor of the consumer *name* is committed with its effects."""
        return self._store, self._layout.cursor_key(name)

    def watch_head(self) -> AsyncIterator[None]:
        """Iterate over wake-ups: one at the start, and one or more after each move of the head by others.

        What this object wrote or fetched itself wakes nobody. The iteration goes on after errors of the store, with a
        wake-up, so that nothing is missed; it ends when the store or this persistence is closed.
        """
        self._check()
        return wakeups(
            self._store,
            self._layout.head,
            self._clock,
            known=lambda: 0 if self._seen is None else self._seen.revision,
            ended=lambda: self._closed,
        )

    # --- writing ------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record], schema: SchemaTag) -> Awaitable[None]:
        """Write *records* in one commit; see ``StatePersistence.append``.

        Raises:
            CodecError: A record cannot be encoded; nothing was written.
            LimitExceededError: The records do not fit into one commit of the store; nothing was written.
            SchemaVersionError: *schema* is not that of the newest snapshot.
            ValueError: The versions of *records* do not follow one another.
            ConflictError: (awaited) Others wrote since; nothing was written, ``fetch`` it.
            UnavailableError: (awaited) The store stayed out of reach until the deadline; nothing was written.
            UnknownOutcomeError: (awaited) The store did not answer until the deadline; ``fetch`` tells once it does.
        """
        return self._submit(records, schema, None)

    def append_guarded(self, records: Sequence[Record], schema: SchemaTag, guard: Guard) -> Awaitable[None]:
        """Write *records* in one commit, on condition that *guard* holds its lock; see ``append``.

        Raises:
            LeaseLostError: (awaited) The lock is held no longer; nothing was written.
        """
        return self._submit(records, schema, guard)

    def _submit(self, records: Sequence[Record], schema: SchemaTag, guard: Guard | None) -> Awaitable[None]:
        self._check(loaded=True)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not records:
            done.set_result(None)
            return done
        if self._schema is not None and schema != self._schema:
            raise SchemaVersionError(
                f"the records are of the schema {schema}, what is stored of {self._schema}; save a snapshot first"
            )
        batch = self._appender.batch(records, schema)
        if self._schema is None:
            self._schema = dict(schema)
        # A future apart from the task: a caller that is cancelled does not take the commit with it.
        task = loop.create_task(self._append(batch, done, guard))
        self._writing.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._writing.discard(task)
            if not done.done():  # the event loop ends, and took the task with it
                done.cancel()

        task.add_done_callback(ended)
        return done

    async def _append(self, batch: Batch, done: asyncio.Future[None], guard: Guard | None) -> None:
        try:
            head = await self._appender.append(batch, self._moved, guard)
        except Exception as exc:
            if not done.done():
                done.set_exception(exc)
            return
        # What others have put upon it is not known to the container, and must still wake it.
        self._seen = head if head.version == batch.last.version else batch.move.head
        if not done.done():
            done.set_result(None)

    def _moved(self, head: Head | None) -> bool:
        """Say whether *head* tells of another state than the container knows."""
        seen = self._seen
        return seen is not head if seen is None or head is None else not head.same_state(seen)

    async def flush(self) -> None:
        """Make everything appended so far durable, whatever the store's ``durability`` says."""
        self._check(loaded=True)
        if self._writing:
            await asyncio.wait(self._writing)
        await self._store.flush()

    async def save(self, snapshot: Snapshot, *, keep_since: int) -> None:
        """Compact, or begin a new era with *snapshot* when it is of another schema or above the newest version.

        A compaction moves the oldest base up to *keep_since*, so that every record above it can still be replayed;
        the snapshot's own document is not needed for that. Other writers and readers go on meanwhile.

        Args:
            snapshot: The newest state.
            keep_since: Records up to this version may be dropped.

        Raises:
            ConflictError: Others wrote since, and the new era would pass over it; nothing was changed.
            ValueError: The snapshot changes the schema below the newest version.
            CorruptionError: What is stored is damaged; nothing was changed.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: The store did not answer until the deadline.
        """
        self._check(loaded=True)
        await finish(self._save(snapshot, keep_since))

    async def _save(self, snapshot: Snapshot, keep_since: int) -> None:
        async with self._saving:
            self._check(loaded=True)
            if self._writing:
                await asyncio.wait(self._writing)
            head: Head | None = await self._persistently(self._head.read)
            if head is not None and snapshot.version <= head.version and snapshot.schema == head.schema == self._schema:
                await self._persistently(lambda: self._compactor.compact(keep_since))
                return
            self._seen = await self._compactor.begin(
                snapshot, keep_since, lambda now: self._check_begins(now, snapshot)
            )
            self._schema = dict(snapshot.schema)

    def _check_begins(self, head: Head | None, snapshot: Snapshot) -> None:
        """Refuse an era that would begin upon anything but what its container knows."""
        if self._moved(head):
            raise ConflictError(
                "others wrote in the meantime; nothing was changed, fetch what is new and save a snapshot of it"
            )
        if head is not None and snapshot.version < head.version:
            raise ValueError(f"a snapshot that changes the schema must be of the newest version {head.version}")

    @property
    def compaction_due(self) -> bool:
        """Whether records and bytes above the oldest base are many times what history and base need."""
        head = self._head.known
        if head is None:
            return False
        records = head.version - head.floor
        if records <= self._history + max(_SPARE, self._history):
            return False
        return head.grown >= 4 * sum([base.size for base in head.bases]) or records > 16 * (self._history + _SPARE)

    # --- blobs --------------------------------------------------------------------------------------------------

    async def put_blob(self, name: str, data: bytes) -> None:
        """Store *data* under *name*, atomically, in place of what was there.

        Raises:
            InvalidKeyError: *name* cannot name a blob.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: The store did not answer until the deadline.
        """
        self._check(loaded=True)
        await self._blobs.put(name, data)

    async def get_blob(self, name: str) -> bytes | None:
        """Return the bytes stored under *name*, or None.

        Raises:
            InvalidKeyError: *name* cannot name a blob.
            CorruptionError: The blob is damaged.
            CodecError: It needs a key, library or version that is not there.
        """
        self._check()
        return await self._blobs.get(name)

    async def list_blobs(self, prefix: str = "") -> list[BlobInfo]:
        """Return the blobs whose name starts with *prefix*, by name; sizes are those of the bytes given."""
        self._check()
        return await self._blobs.infos(prefix)

    async def delete_blob(self, name: str) -> bool:
        """Remove a blob; say whether it was there.

        Raises:
            InvalidKeyError: *name* cannot name a blob.
        """
        self._check(loaded=True)
        return await self._blobs.delete(name)

    # --- closing ------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Wait for what is being written, and close the store if it is owned; a second call does nothing."""
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.get_running_loop().create_task(self._close())
        # Once begun, closing goes on, whether or not its caller stays to see it.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._writing:
            await asyncio.wait(self._writing)
        async with self._saving:
            await self._blobs.settle()
            if self._owns_store:
                await self._store.aclose()
