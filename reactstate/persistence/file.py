"""A container's changes in a directory: an append-only journal, full snapshots and blobs.

Durability
    With ``"always"`` (the default) an append is done when it is on disk; with ``"interval"`` when it is written, and
    it is on disk at most ``flush_interval`` seconds later; with ``"never"`` when it is written, and the operating
    system decides. What is written survives the death of the process; what is on disk survives a power cut. Snapshots
    and blobs are on disk when their call returns, whatever ``durability`` says.

Recovery
    ``load`` returns every change that was acknowledged as durable, or raises a typed error and leaves every byte as it
    is. The torn tail of a crash is cut off and reported. One exception cannot be helped: a bit flipped in the very
    last frame looks like a torn tail and may cost that frame.

Concurrency
    One writer a directory, kept out by a lock of the operating system; any number of readers with ``read_only=True``,
    which take no lock, write nothing, and see what the writer has published as durable (with ``"never"``: as written).
    A persistence belongs to the event loop and the process that called ``load``; after a fork the child is refused.
    The event loop is held for at most 0.3 ms by an append; see ``reactstate.persistence.flusher``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.clock import SystemClock
from reactstate.errors import (
    AlreadyOpenError,
    ClosedError,
    LimitExceededError,
    ReactStateError,
    ReadOnlyError,
    SchemaVersionError,
    SettingsError,
    StorageError,
    StorageFailedError,
    WrongContextError,
)
from reactstate.persistence.blobs import BlobFolder
from reactstate.persistence.compaction import next_horizon, store, tidy
from reactstate.persistence.filesystem import LocalFileSystem
from reactstate.persistence.finishing import finish
from reactstate.persistence.flusher import Batch, Flusher, done
from reactstate.persistence.following import follow, read_changes, read_published
from reactstate.persistence.frames import MAX_PAYLOAD_BYTES
from reactstate.persistence.journal import Journal, Turn
from reactstate.persistence.names import LOCK_FILE, snapshot_file
from reactstate.persistence.protocol import StatePersistence
from reactstate.persistence.recovery import Archive
from reactstate.persistence.salvage import recover, refuse_unless_empty, verify
from reactstate.persistence.sealing import Sealing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from reactstate.clock import Clock
    from reactstate.codec import Encryption
    from reactstate.persistence.chain import Limit, Recovered, Scan
    from reactstate.persistence.filesystem import FileSystem, HeldLock
    from reactstate.persistence.protocol import BlobInfo, Loaded, Record, SchemaTag, Snapshot
    from reactstate.persistence.salvage import RecoverReport, VerifyReport

__all__ = ["FilePersistence"]

S = TypeVar("S")

_DURABILITIES = ("always", "interval", "never")
_SMALL_JOURNAL_BYTES = 1 << 16
_LOGGER = logging.getLogger("reactstate.persistence")


class FilePersistence(StatePersistence[S], Generic[S]):
    """Keeps a container's changes in the directory *path*, which is made when it is missing.

    Args:
        path: The directory; it belongs to this persistence alone.
        format: ``"json"``, ``"msgpack"`` or ``"cbor"``, for what is written from now on. Everything is read back,
            whatever format and compression wrote it.
        compression: ``"none"``, ``"gzip"``, ``"zstd"`` or ``"lz4"``.
        durability: ``"always"``, ``"interval"`` or ``"never"``; see the module.
        flush_interval: Seconds between two syncs with ``"interval"``.
        read_only: Only read, while another process may write.
        encryption: The keys, such as ``AesGcmEncryption``; without it the files are in the clear. Names of files and
            blobs, sizes, versions and times of blobs are always in the clear. A directory that was written in the
            clear does not open with keys, since somebody may have put it there: copy it with ``recover(to=...)``.
        filesystem: The file system, for tests; the local one by default.
        clock: Where time comes from, for tests.

    Raises:
        SettingsError: An option has a value that cannot be used.
        UnsupportedError: The library for format, compression or encryption is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str = "json",  # noqa: A002 - the public name
        compression: str = "none",
        durability: str = "always",
        flush_interval: float = 1.0,
        read_only: bool = False,
        encryption: Encryption | None = None,
        filesystem: FileSystem | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or not self._path or "\0" in self._path:  # pyright: ignore[reportUnnecessaryIsInstance] - bytes paths come from callers
            raise SettingsError(f"path is {self._path!r}; it must be the text path of a directory")
        if durability not in _DURABILITIES:
            raise SettingsError(f"durability is {durability!r}; it must be one of {', '.join(_DURABILITIES)}")
        if not 0 < flush_interval < math.inf:
            raise SettingsError(f"flush_interval is {flush_interval!r}; it must be a number of seconds above 0")
        self.read_only: bool = bool(read_only)
        self._durability = durability
        self._flush_interval = flush_interval
        self._sealing = Sealing(format, compression, encryption)
        self._files: FileSystem = filesystem if filesystem is not None else LocalFileSystem()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._archive = Archive(self._files, self._path, self._sealing)
        self._blobs = BlobFolder(self._files, self._path, self._sealing, self._clock)
        self._saving = asyncio.Lock()
        self._journal: Journal | None = None
        self._flusher: Flusher | None = None
        self._preparing: asyncio.Future[Journal] | None = None
        self._finalizer: weakref.finalize[[], FilePersistence[S]] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._schema: SchemaTag | None = None
        self._switching = False
        self._unreported = False
        self._loading = False
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._snapshots: list[int] = []
        self._snapshot_bytes = 0
        self._counted_bytes = 0
        self._process: int | None = None
        self._thread = 0

    def __repr__(self) -> str:
        return f"FilePersistence({self._path!r}, durability={self._durability!r}, read_only={self.read_only})"

    # --- opening ------------------------------------------------------------------------------------------------

    async def load(self, *, history: int = 1000) -> Loaded | None:
        """Open for use, recover, and return what is stored, or None when nothing is.

        Raises:
            AlreadyOpenError: This persistence or another writer has the directory open.
            CorruptionError: Durable bytes are damaged; nothing was changed.
            CodecError: The bytes are of a newer format, or need a key that is not there; nothing was changed.
            StorageError: The directory cannot be made, read or written.
        """
        self._check_context()
        if self.read_only:
            recovered = await read_published(self._archive, self._limit, history)
            return recovered.loaded if recovered is not None else None
        if self._loading or self._journal is not None:
            raise AlreadyOpenError("this persistence is open already; close it and make a new one to read it again")
        self._loading = True
        try:
            if self._preparing is not None:
                # A load that was cancelled is about to let the directory go.
                await asyncio.wait([self._preparing])
            lock = self._claim()
            try:
                found = self._archive.scan()
                self._archive.check_complete(found)
                recovered = await self._archive.load(found, history)
            except BaseException:
                lock.release()
                raise
            # Everything is known to be readable now, so that changing files cannot take away what an error needs.
            self._journal = await self._prepared(found, recovered, lock)
        finally:
            self._loading = False
        loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        # The thread that writes releases the lock, so that nobody else writes while it still might.
        self._flusher = Flusher(self._journal, self._durability, loop, lock.release)
        self._flusher.start()
        self._finalizer = weakref.finalize(self, self._flusher.abandon)
        self._finalizer.atexit = False
        if self._durability == "interval":
            self._ticking = loop.create_task(_sync_regularly(weakref.ref(self), self._clock, self._flush_interval))
        return recovered.loaded if recovered is not None else None

    def _claim(self) -> HeldLock:
        try:
            self._files.make_directory(self._path)
            self._files.make_directory(self._blobs.directory)
            return self._files.lock(self._archive.path(LOCK_FILE))
        except OSError as exc:
            raise StorageError(
                f"{self._path!r} cannot be opened for writing: {exc}; check that it is a directory of yours, or use "
                "read_only=True",
                path=self._path,
            ) from exc

    async def _prepared(self, found: Scan, recovered: Recovered | None, lock: HeldLock) -> Journal:
        """Return the journal ready to be written, or release *lock*, which a thread needs until it is done."""
        loop = asyncio.get_running_loop()
        # Not a task: nothing but the thread's end ends it.
        preparing = self._preparing = loop.run_in_executor(None, self._prepare, found, recovered)
        try:
            return await asyncio.shield(preparing)
        except BaseException:
            if preparing.done():
                _give_up(preparing, lock)
            else:
                preparing.add_done_callback(functools.partial(_give_up, lock=lock))
            raise

    def _prepare(self, found: Scan, recovered: Recovered | None) -> Journal:
        """Cut off what was torn, remove what was left over, and return the journal ready to be written."""
        journal = Journal(self._files, self._path, self._sealing, durability=self._durability)
        try:
            for path in [found.torn, *found.temporary]:
                if path is not None:
                    self._files.remove(path)
            self._blobs.clean()
            self._files.sync_directory(self._path)
            self._snapshots = list(found.snapshots)
            journal.starts = {segment.base for segment in found.segments if not segment.continues}
            if recovered is not None:
                self._resume(journal, found, recovered)
        except OSError as exc:
            journal.abandon()
            raise StorageError(f"{self._path!r} cannot be recovered: {exc}", path=self._path) from exc
        except BaseException:
            journal.abandon()
            raise
        return journal

    def _resume(self, journal: Journal, found: Scan, recovered: Recovered) -> None:
        head = recovered.loaded.head
        segment = recovered.segment
        if recovered.loaded.dropped_bytes:
            _LOGGER.warning(
                "cut off %d bytes of a torn tail in %r: a flush that was never acknowledged",
                recovered.loaded.dropped_bytes,
                self._path,
            )
        self._schema = head.schema
        journal.frame_bytes = recovered.frame_bytes
        journal.last_version = recovered.last_version
        journal.segments = [(known.serial, known.base) for known in found.segments]
        if segment is not None:
            journal.base = segment.base
            journal.horizon = segment.horizon
            journal.resume(segment.serial, recovered.end)
        if self._snapshots:
            self._snapshot_bytes = self._archive.snapshot_bytes(self._snapshots[-1])
        other_schema = recovered.schema != head.schema
        other_format = segment is None or segment.format_id != self._sealing.format_id
        if other_schema or other_format or head.version > recovered.last_version:
            # A crash between a snapshot and its segment, or another format than before: the next records need a
            # segment of their own.
            anew = other_schema or head.version > recovered.last_version
            journal.turn(Turn(head.schema, head.version, journal.horizon, anew=anew, forced=True))
        journal.publish()

    # --- guards -------------------------------------------------------------------------------------------------

    def _check_context(self) -> None:
        if self._process is not None and os.getpid() != self._process:
            raise WrongContextError("this persistence was opened before the process forked; open one in the child")
        if self._closed:
            raise ClosedError("this persistence was closed; make a new one")

    def _writer(self) -> tuple[Journal, Flusher]:
        """Return what writes, or say why this cannot be written."""
        self._check_context()
        if self.read_only:
            raise ReadOnlyError(f"{self._path!r} was opened with read_only=True")
        if self._journal is None or self._flusher is None:
            raise WrongContextError("this persistence is not open yet; await load() first")
        if threading.get_ident() != self._thread:
            raise WrongContextError("a persistence belongs to the thread of the event loop that called load()")
        if self._journal.failure is not None:
            self._unreported = False
            self._journal.check()
        return self._journal, self._flusher

    # --- writing ------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record], schema: SchemaTag) -> Awaitable[None]:
        """Write *records* in one flush; see ``StatePersistence.append``.

        Raises:
            CodecError: A record cannot be encoded; nothing was written.
            SchemaVersionError: *schema* is not that of the newest snapshot.
            ValueError: The versions of *records* do not follow one another.
            LimitExceededError: The records have more than 1 GiB.
            StorageFailedError: An earlier write has an unknown outcome.
            ReadOnlyError: This persistence only reads.
        """
        _, flusher = self._writer()
        if self._switching:
            raise WrongContextError("a save that changes the schema is under way; await it before the next append")
        if not records:
            return done()
        if self._schema is not None and schema != self._schema:
            raise SchemaVersionError(
                f"the journal is written with the schema {self._schema}, not {schema}; save a snapshot first"
            )
        first = expected = records[0].version
        encode = self._sealing.encode_record
        parts: list[bytes] = []
        for record in records:
            if record.version != expected:
                raise ValueError(f"record {record.version} stands where {expected} should: versions have no gaps")
            expected += 1
            parts.append(encode(record))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) > MAX_PAYLOAD_BYTES:
            raise LimitExceededError(
                "the records of one append are too large; append fewer", limit=MAX_PAYLOAD_BYTES, actual=len(data)
            )
        if self._schema is None:
            self._schema = dict(schema)
        return flusher.submit(Batch(first, len(parts), data, self._schema))

    async def flush(self) -> None:
        """Make everything appended so far durable, whatever ``durability`` says.

        Raises:
            UnknownOutcomeError: The sync failed; nothing is written from now on.
            StorageFailedError: An earlier one did.
        """
        _, flusher = self._writer()
        await flusher.sync()

    async def save(self, snapshot: Snapshot, *, keep_since: int) -> None:
        """Store *snapshot* as the newest full state and compact: records up to *keep_since* may be dropped.

        A snapshot above the newest record starts the journal anew: records before it are dropped. One of the same
        schema at or below the newest record must hold the document that the records lead to.

        Raises:
            ValueError: The snapshot is older than the newest one, or changes the schema below the newest record.
            CodecError: It cannot be encoded; nothing was written.
            StorageError: It could not be written; the journal goes on as before.
            UnknownOutcomeError: A sync failed, or the schema could not be changed; open the directory anew.
            StorageFailedError: An earlier write has an unknown outcome.
        """
        self._writer()
        # Half of it would leave a snapshot that the journal does not go with.
        await finish(self._save(snapshot, keep_since))

    async def _save(self, snapshot: Snapshot, keep_since: int) -> None:
        async with self._saving:
            journal, flusher = self._writer()
            switch = self._schema is not None and snapshot.schema != self._schema
            if snapshot.version < max(self._snapshots, default=0):
                raise ValueError(f"a snapshot newer than version {snapshot.version} is there already")
            data = self._sealing.pack_snapshot(snapshot)
            self._switching = switch
            try:
                await flusher.sync()
                if switch and snapshot.version < journal.last_version:
                    raise ValueError(
                        f"a snapshot that changes the schema must be of the newest version {journal.last_version}"
                    )
                counted = journal.frame_bytes
                anew = switch or snapshot.version > journal.last_version
                await store(self._files, self._archive.path(snapshot_file(snapshot.version)), data, journal, anew=anew)
                snapshots = sorted({*self._snapshots, snapshot.version})
                horizon = next_horizon(journal.horizon, snapshots, keep_since)
                await flusher.turn(Turn(dict(snapshot.schema), snapshot.version, horizon, anew=switch))
            except asyncio.CancelledError as exc:
                # The event loop ends, and nobody will see what became of the steps that are under way.
                journal.fail(exc)
                raise
            finally:
                self._switching = False
            self._schema = dict(snapshot.schema)
            self._snapshot_bytes = len(data)
            self._counted_bytes = counted
            self._snapshots = await asyncio.to_thread(tidy, self._files, self._path, journal, snapshots, keep_since)

    @property
    def compaction_due(self) -> bool:
        """Whether the journal since the newest snapshot has more than 64 KiB and 4 times the snapshot's size."""
        if self._journal is None:
            return False
        grown = self._journal.frame_bytes - self._counted_bytes
        return grown > max(_SMALL_JOURNAL_BYTES, 4 * self._snapshot_bytes)

    # --- reading ------------------------------------------------------------------------------------------------

    def _limit(self) -> Limit | None:
        """Return how far the journal may be read now; None is to its end."""
        journal = self._journal
        if journal is not None:
            while True:
                serial, offset = journal.serial, journal.offset
                if serial == journal.serial:
                    return serial, offset
        return self._archive.published_limit() if self.read_only else None

    async def changes(self, since: int = 0) -> AsyncIterator[Record]:
        """Iterate over the kept records with a version above *since*, with their inverses, oldest first, then stop.

        Raises:
            CompactedError: Records above *since* are no longer kept; ``resume`` is the oldest version to ask from.
            CorruptionError: Durable bytes are damaged.
        """
        self._check_context()
        async for record in read_changes(self._archive, self._limit, since):
            yield record

    async def follow(self, since: int = 0, *, poll_interval: float = 0.02) -> AsyncIterator[Record]:
        """Iterate over the records above *since* as they become durable, whoever writes them; never stops by itself.

        Works across segments and compaction. Records are whole and in the order of their versions; ``inverse`` is only
        filled in for those that were there when the iteration (re)started.

        Args:
            since: The version that the caller has.
            poll_interval: Seconds between two looks at the published offset.

        Raises:
            CompactedError: Records above *since* are no longer kept; load anew and follow from there.
            CorruptionError: Durable bytes are damaged, or records that were published are gone.
        """
        async for record in follow(self._archive, since, self._pausing(poll_interval)):
            yield record

    def _pausing(self, seconds: float) -> Callable[[], Awaitable[None]]:
        async def pause() -> None:
            self._check_context()
            await self._clock.sleep(seconds)

        return pause

    # --- blobs --------------------------------------------------------------------------------------------------

    async def put_blob(self, name: str, data: bytes) -> None:
        """Store *data* under *name*, atomically and durably, in place of what was there.

        Raises:
            InvalidKeyError: *name* cannot name a blob.
            StorageError: It could not be written; what was there is still there.
            StorageFailedError: An earlier write has an unknown outcome.
        """
        self._writer()
        await self._blobs.put(name, data)

    async def get_blob(self, name: str) -> bytes | None:
        """Return the bytes stored under *name*, or None.

        Raises:
            InvalidKeyError: *name* cannot name a blob.
            CorruptionError: The blob is damaged.
            CodecError: It needs a key, library or version that is not there.
        """
        self._check_context()
        return await self._blobs.get(name)

    async def list_blobs(self, prefix: str = "") -> list[BlobInfo]:
        """Return the blobs whose name starts with *prefix*, by name; sizes are those of the bytes given."""
        self._check_context()
        return self._blobs.infos(prefix)

    async def delete_blob(self, name: str) -> bool:
        """Remove a blob, durably; say whether it was there.

        Raises:
            InvalidKeyError: *name* cannot name a blob.
            StorageError: It could not be removed.
        """
        self._writer()
        return await self._blobs.delete(name)

    # --- care ---------------------------------------------------------------------------------------------------

    async def verify(self) -> VerifyReport:
        """Read everything, change nothing, and report what is damaged; works before ``load`` too.

        Raises:
            CodecError: Bytes need a key, library or version that is not there.
            StorageError: The directory cannot be read.
        """
        self._check_context()
        return await verify(self._archive, self._blobs, self._limit())

    async def recover(self, *, to: str | os.PathLike[str] | FilePersistence[Any]) -> RecoverReport:
        """Write everything that is whole into a new directory, which then opens; change nothing here.

        It is also the way to other settings for all that is stored: with ``to=FilePersistence(path, encryption=...)`` a
        directory in the clear becomes an encrypted one, with its history, snapshots and blobs.

        Args:
            to: The new directory, written with the settings of this persistence; or a persistence, not open yet, with
                settings of its own. It is closed at the end.

        Raises:
            StorageError: *to* is not empty, or cannot be written, or there is nothing to recover.
            ReadOnlyError: *to* is a persistence that only reads.
            CodecError: Bytes need a key, library or version that is not there.
        """
        self._check_context()
        codec = self._sealing.codec
        target: FilePersistence[Any] = (
            to
            if isinstance(to, FilePersistence)
            else FilePersistence(
                to,
                codec.format,
                codec.compression,
                encryption=codec.encryption,
                filesystem=self._files,
                clock=self._clock,
            )
        )
        if target.read_only:
            raise ReadOnlyError(
                f"{target._path!r} was opened with read_only=True; recover into one that can be written"
            )
        refuse_unless_empty(target._files, target._path)
        try:
            return await recover(self._archive, self._blobs, self._limit(), target)
        finally:
            await target.aclose()

    # --- closing ------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Write and sync what was appended, and release the directory; a second call does nothing.

        Raises:
            UnknownOutcomeError: The last sync failed.
            StorageFailedError: A sync in the background had failed, and no call has said so yet.
        """
        if self._closing is None:
            self._check_context()
            self._closed = True
            self._closing = asyncio.get_running_loop().create_task(self._close())
        # Once begun, closing goes on, whether or not its caller stays to see it.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        # What is under way comes to its end; what waits behind it sees that this is closed.
        async with self._saving, self._blobs.writing:
            self._blobs.closed = True
            if self._finalizer is not None:
                self._finalizer.detach()
            if self._flusher is not None:
                await self._flusher.close()
        if self._unreported:
            raise StorageFailedError(
                f"a sync of {self._path!r} failed in the background, so the newest changes may not be durable; open "
                "the directory anew to read back what is there",
                path=self._path,
            )

    async def _tick(self) -> bool:
        """Sync what is not durable yet; say whether to go on."""
        journal, flusher = self._journal, self._flusher
        if journal is None or flusher is None or self._closed or journal.failure is not None:
            return False
        if journal.durable == journal.offset:
            return True
        try:
            await flusher.sync()
        except ReactStateError as exc:
            self._unreported = True
            _LOGGER.error("the changes of the last %s s may not be durable: %s", self._flush_interval, exc)  # noqa: TRY400 - the error names the cause
            return False
        return True


def _give_up(preparing: asyncio.Future[Journal], lock: HeldLock) -> None:
    """Close what a load that failed or was cancelled has opened."""
    if preparing.exception() is None:
        preparing.result().abandon()
    lock.release()


async def _sync_regularly(owner: weakref.ref[FilePersistence[S]], clock: Clock, seconds: float) -> None:
    """Sync a persistence with ``durability="interval"`` for as long as somebody holds it."""
    going = True
    while going:
        await clock.sleep(seconds)
        persistence = owner()
        going = persistence is not None and await persistence._tick()
        del persistence
