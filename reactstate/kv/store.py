"""KeyValueStore: the protocol's operations, and what is written once above them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from reactstate.clock import SystemClock
from reactstate.errors import ClosedError, ConflictError, UnsupportedError
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import ABSENT, Add, Capability, Delete, Put, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from os import PathLike
    from types import TracebackType
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.kv.options import StoreStats
    from reactstate.kv.protocol import (
        Batch,
        Commit,
        Cursor,
        Entry,
        Expectation,
        Limits,
        RangeExpect,
        ReadView,
        Ttl,
        Watch,
    )

__all__ = ["KeyValueStore"]


class KeyValueStore(ABC):
    """An ordered map from text to bytes with one atomic write operation; see ``reactstate.kv.protocol``.

    A store belongs to the event loop that it was opened on. An engine implements the abstract methods, and raises
    UnsupportedError from those whose capability it does not declare.

    Attributes:
        engine: The engine's name, such as ``"sqlite"``.
        url: Where it is, without user and password.
        capabilities: What it promises.
        limits: The largest sizes that it takes.
        options: How it was opened.
        ttl_clock: Whose clock decides that an entry has expired.
        ttl_resolution: How late an expired entry may become invisible.
    """

    engine: str
    url: str
    capabilities: frozenset[Capability]
    limits: Limits
    options: StoreOptions = StoreOptions()
    ttl_clock: Literal["host", "server"] = "host"
    ttl_resolution: timedelta = timedelta(milliseconds=1)
    _clock: Clock = SystemClock()
    _cleaner: asyncio.Task[None] | None = None

    # --- what an engine implements --------------------------------------------------------------------------------

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None when there is none or it has expired.

        Raises:
            InvalidKeyError: *key* is empty or not encodable.
            ClosedError: The store was closed.
        """

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that there are, by key, in the order asked for."""
        found = {key: await self.get(key) for key in keys}
        return {key: entry for key, entry in found.items() if entry is not None}

    @abstractmethod
    def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        """Iterate over the entries in key order, without holding them all in memory.

        What is written meanwhile may or may not be seen; use ``snapshot`` for one moment. Each entry that was there
        all the time is seen once.

        Args:
            prefix: Only keys that start with it.
            start: Only keys from it on.
            end: Only keys before it.
            limit: At most so many.
            reverse: From the last key to the first.
        """

    @abstractmethod
    async def commit(self, steps: Sequence[Step], *, ranges: Sequence[RangeExpect] = ()) -> Commit:
        """Check every expectation and then perform every step, or nothing.

        Args:
            steps: At most one a key.
            ranges: Ranges in which nothing may have been written or removed. One whose revision is older than the
                change log cannot be proven, and counts as a conflict.

        Raises:
            ConflictError: An expectation failed; ``entries`` are the current ones of the keys that failed.
            NotACounterError: An ``Add`` met what is no counter, or would overflow.
            LimitExceededError: It is larger than ``limits``; nothing was sent.
            InvalidKeyError: A key is no key, or used twice.
            UnavailableError: The store could not be reached; nothing was changed.
            UnknownOutcomeError: It may or may not have been applied.
        """

    @abstractmethod
    def watch(self, prefix: str = "", *, after: Cursor | None = None) -> Watch:
        """Iterate over what is committed to keys that start with *prefix*, for ever.

        The events of one commit come together; those of one key in revision order, without a gap.

        Args:
            prefix: Only keys that start with it.
            after: Where to resume; None: what is committed after this call.

        Raises:
            CompactedError: (while iterating) *after* is older than the change log, or of another store.
            InvalidKeyError: *after* is no cursor.
        """

    @abstractmethod
    def snapshot(self) -> AbstractAsyncContextManager[ReadView]:
        """Return a block in which the store can be read as it was when the block was entered."""

    @abstractmethod
    async def cursor(self) -> Cursor:
        """Return the place in the events that is now: watching from it misses nothing that is committed later."""

    @abstractmethod
    async def aclose(self) -> None:
        """Flush and let go; scans and watches end, and a second call does nothing."""

    # --- what is written once -------------------------------------------------------------------------------------

    def supports(self, *capabilities: Capability) -> bool:
        """Say whether the engine declares all of *capabilities*."""
        return self.capabilities.issuperset(capabilities)

    def require(self, layer: str, *capabilities: Capability) -> None:
        """Refuse an engine that does not declare all of *capabilities*, which *layer* needs.

        Raises:
            UnsupportedError: One is missing; it names layer, engine and capability.
        """
        for capability in capabilities:
            if capability not in self.capabilities:
                weak = capability is Capability.FENCING and self.options.durability != "always"
                raise UnsupportedError(
                    f"{layer} needs {capability}, which the engine {self.engine!r} does not offer"
                    + (" so opened; open it with durability='always'" if weak else "; choose an engine that does"),
                    layer=layer,
                    engine=self.engine,
                    capability=str(capability),
                )

    def _ttl(self, ttl: Ttl | None) -> Ttl | None:
        return self.options.default_ttl if ttl is None else ttl

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> Entry:
        """Write *value* under *key*, whatever is there; return the entry."""
        return (await self.commit((Step(key, Put(value, self._ttl(ttl))),))).entries[key]

    async def put_if_absent(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> bool:
        """Write *value* under *key* if there is no entry; say whether there was none."""
        return await self._swap(key, Put(value, self._ttl(ttl)), ABSENT)

    async def compare_and_swap(self, key: str, expected: Expectation, value: bytes, *, ttl: Ttl | None = None) -> bool:
        """Write *value* under *key* if the entry is of the revision *expected* (or ABSENT); say whether it was."""
        return await self._swap(key, Put(value, ttl), expected)

    async def _swap(self, key: str, op: Put, expected: Expectation) -> bool:
        try:
            await self.commit((Step(key, op, expected),))
        except ConflictError:
            return False
        return True

    async def delete(self, key: str) -> bool:
        """Remove the entry under *key*; say whether there was one."""
        while True:
            found = await self.get(key)
            if found is None:
                return False
            try:
                await self.commit((Step(key, Delete(), found.revision),))
            except ConflictError:
                continue
            return True

    async def increment(self, key: str, delta: int = 1, *, ttl: Ttl | None = None) -> int:
        """Add *delta* to the counter under *key*; return the sum.

        Args:
            key: The counter; an absent one is created from 0.
            delta: What is added; may be negative.
            ttl: How long the counter lives if this creates it.

        Raises:
            NotACounterError: The value is no counter, or would leave the range of a signed 64-bit integer.
        """
        done = await self.commit((Step(key, Add(delta, self._ttl(ttl))),))
        return int(done.entries[key].value)

    async def list_keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        """Return the keys that start with *prefix*, in order."""
        return [entry.key async for entry in self.scan(prefix, limit=limit)]

    # --- housekeeping, with defaults ------------------------------------------------------------------------------

    @abstractmethod
    def stats(self) -> StoreStats:
        """Return what this object counted since it was opened."""

    async def cleanup_expired(self) -> int:
        """Remove what has expired; return how many entries that were (0 where the server does it)."""
        return 0

    def start_cleanup_task(self, interval: timedelta) -> asyncio.Task[None]:
        """Call ``cleanup_expired`` every *interval* until the store is closed; a second call replaces the first.

        Raises:
            ValueError: *interval* is not more than 0.
        """
        if interval <= timedelta(0):
            raise ValueError(f"interval must be more than 0, not {interval}")
        if self._cleaner is not None:
            self._cleaner.cancel()
        self._cleaner = asyncio.get_running_loop().create_task(self._clean(interval.total_seconds()))
        return self._cleaner

    async def _clean(self, seconds: float) -> None:
        import logging

        while True:
            await self._clock.sleep(seconds)
            try:
                await self.cleanup_expired()
            except ClosedError:
                return
            except Exception as exc:  # the next one may succeed
                logging.getLogger("reactstate.kv").warning("expired entries could not be removed: %s", exc)

    async def flush(self) -> None:  # noqa: B027 - an engine that keeps nothing on disk has nothing to do
        """Make every commit so far durable, whatever ``durability`` says."""

    async def size_on_disk(self) -> int:
        """Return the bytes that the store takes on this machine's disk; 0 where there are none."""
        return 0

    async def memory_usage(self) -> int:
        """Return about how many bytes the store takes in this process."""
        return 0

    async def checkpoint(
        self, path: str | PathLike[str], *, progress: Callable[[int], None] | None = None, compress: bool = True
    ) -> int:
        """Write a consistent snapshot of everything to the file *path*, while writers go on; return its bytes.

        Args:
            path: The file; it appears whole or not at all.
            progress: Called with the number of entries written so far.
            compress: Whether the entries are compressed (zstd).

        Raises:
            UnsupportedError: The engine has no SNAPSHOT_READS.
            StorageError: The file could not be written.
        """
        from reactstate.kv.checkpoint import write_checkpoint

        return await write_checkpoint(self, path, progress=progress, compress=compress)

    async def restore(
        self, path: str | PathLike[str], *, replace: bool = False, progress: Callable[[int], None] | None = None
    ) -> int:
        """Put everything from a checkpoint into this store, of whatever engine; return the number of entries.

        Revisions that this store issues from now on are above those of the checkpoint.

        Args:
            path: The file.
            replace: Remove what the store holds; else a store that is not empty is refused.
            progress: Called with the number of entries restored so far.

        Raises:
            ConflictError: The store is not empty, and *replace* is False.
            CorruptionError: The file is damaged or cut off; nothing was changed.
        """
        from reactstate.kv.checkpoint import read_checkpoint

        return await read_checkpoint(self, path, replace=replace, progress=progress)

    async def _load(self, batches: AsyncIterator[Batch], *, revision: int, replace: bool) -> int:
        """Put *batches* (ascending keys, nothing expired) into this store; return the number of entries.

        All entries get one revision, above *revision* and above every one that this store has issued; cursors from
        before become too old. The default commits them in pieces, for engines that can do no better.

        Raises:
            ConflictError: The store is not empty, and *replace* is False.
        """
        from reactstate.kv.checkpoint import load_by_commits

        return await load_by_commits(self, batches, revision=revision, replace=replace)

    async def _raise_revision(self, revision: int) -> None:
        """Make every revision that this store issues from now on greater than *revision*; called before a restore.

        The default commits until that is so, up to 100,000 times, for engines that cannot set their counter. An
        engine that overrides ``_load`` need not offer it.

        Raises:
            UnsupportedError: The counter cannot be raised so far.
        """
        from reactstate.kv.checkpoint import raise_by_commits

        await raise_by_commits(self, revision)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
