"""CheckpointCoordinator: makes checkpoints of a store at intervals, keeps the newest, and restores from them.

Contract
    A checkpoint is a consistent snapshot, taken while writers go on; its file appears whole and durable, or not at
    all. One coordinator makes or restores one checkpoint at a time. Several coordinators, also of several processes,
    may use one directory: they take turns at writing to it.

    Automatic checkpoints are skipped when nothing was committed since the last one of this coordinator, or while the
    newest in the directory is younger than ``min_interval``; one that fails is counted and logged, and the next is
    tried. Those that are asked for are always made, and raise.

    A restore checks the whole file before it touches the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import replace as copy_with
from datetime import timedelta
from typing import TYPE_CHECKING

from reactstate.checkpoints.directory import CheckpointDirectory, info_of
from reactstate.checkpoints.options import CheckpointOptions, CheckpointStats
from reactstate.clock import to_datetime
from reactstate.errors import (
    CheckpointNotFoundError,
    ClosedError,
    ReactStateError,
    SchemaVersionError,
    SettingsError,
    StorageError,
)
from reactstate.kv.checkpoint import summarize_checkpoint, verify_checkpoint
from reactstate.kv.protocol import Capability

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Self

    from reactstate.checkpoints.options import CheckpointInfo
    from reactstate.clock import Clock
    from reactstate.kv.store import KeyValueStore

__all__ = ["CheckpointCoordinator"]

_LOGGER = logging.getLogger("reactstate.checkpoints")


class CheckpointCoordinator:
    """Makes checkpoints of *store* every *interval*, from ``start`` to ``shutdown``; an async context manager too.

    Args:
        store: The store, of any engine with SNAPSHOT_READS; it is not closed by the coordinator.
        interval: The time between two automatic checkpoints, more than 0.
        options: Where they are kept, and how many.
        clock: When they are due; None: the store's.

    Raises:
        SettingsError: *interval* or *options* cannot be used.
        UnsupportedError: The engine has no SNAPSHOT_READS.

    Example:
        >>> options = CheckpointOptions("checkpoints", max_checkpoints=24)
        >>> async with CheckpointCoordinator(store, timedelta(hours=1), options) as checkpoints:  # doctest: +SKIP
        ...     await checkpoints.create_checkpoint("before-migration")
    """

    def __init__(
        self, store: KeyValueStore, interval: timedelta, options: CheckpointOptions, *, clock: Clock | None = None
    ) -> None:
        if not isinstance(interval, timedelta) or interval <= timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise SettingsError(f"interval={interval!r}: give a timedelta of more than 0")
        if not isinstance(options, CheckpointOptions):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
            raise SettingsError(f"options={options!r}: give CheckpointOptions(checkpoint_dir=...)")
        store.require("CheckpointCoordinator", Capability.SNAPSHOT_READS)
        self._store = store
        self._interval = interval.total_seconds()
        self._options = options
        self._clock: Clock = store._clock if clock is None else clock
        self._directory = CheckpointDirectory(os.fspath(options.checkpoint_dir))
        self._stats = CheckpointStats()
        self._busy = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._revision: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # --- at intervals ---------------------------------------------------------------------------------------------

    def start(self) -> asyncio.Future[None]:
        """Begin to make checkpoints in the background, and remove what a killed process left half written.

        A second call does nothing.

        Returns:
            Something that is done already, so that the call may be awaited or not.

        Raises:
            ClosedError: The coordinator was shut down.
            StorageError: The directory cannot be used.
        """
        self._check_open()
        if self._task is None:
            self._directory.make()
            lock = self._directory.try_lock()
            if lock is not None:  # else whoever has it removes them
                try:
                    self._directory.remove_leftovers()
                finally:
                    lock.release()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="reactstate-checkpoints")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._interval)
            try:
                async with self._busy:
                    with self._counted():
                        if await self._is_due():
                            await self._create("", None)
            except ClosedError:
                _LOGGER.warning("checkpoints end, as the store %r was closed before shutdown()", self._store)
                return
            except Exception as exc:
                _LOGGER.warning("a checkpoint of %r failed, and the next is tried in time: %s", self._store, exc)

    async def _is_due(self) -> bool:
        age = await asyncio.to_thread(self._directory.age, to_datetime(self._clock.time_ns()))
        if age is not None and age < self._options.min_interval:
            return False
        return await self._has_changed()

    async def _has_changed(self) -> bool:
        async with self._store.snapshot() as view:
            return view.revision != self._revision

    async def shutdown(self) -> None:
        """End the background work and make a final checkpoint, unless nothing was committed since the last.

        Call it before the store is closed. A second call only waits for the first.

        Raises:
            StorageError: The final checkpoint could not be made; the coordinator is shut down all the same.
        """
        if self._closed:
            async with self._ending:
                return
        self._closed = True
        async with self._ending:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
            await self._finish()

    async def _finish(self) -> None:
        async with self._busy:
            with self._counted():
                if await self._has_changed():
                    await self._create("", None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.shutdown()
        except ReactStateError as exc:
            if error is None:
                raise
            _LOGGER.warning("the final checkpoint of %r failed: %s", self._store, exc)

    # --- at once --------------------------------------------------------------------------------------------------

    async def create_checkpoint(
        self, name: str = "", *, progress: Callable[[int, int | None], None] | None = None
    ) -> str:
        """Make a checkpoint, whenever the last one was made; return its id.

        Args:
            name: What it is called, beside its id; any text of up to 150 plain characters.
            progress: Called on the event loop with the number of entries written so far, and None, as their total is
                not known; what it raises ends the call.

        Raises:
            StorageError: It could not be written; nothing is left of it.
            SettingsError: *name* cannot be part of a file's name.
            ClosedError: The coordinator or the store was closed.
        """
        self._check_open()
        async with self._busy:
            self._check_open()
            with self._counted():
                return await self._create(name, progress)

    @contextlib.contextmanager
    def _counted(self) -> Generator[None]:
        try:
            yield
        except Exception:
            self._stats.checkpoint_failures += 1
            raise

    async def _create(self, name: str, progress: Callable[[int, int | None], None] | None) -> str:
        directory, options = self._directory, self._options
        started = self._clock.monotonic()
        await asyncio.to_thread(directory.make)
        async with directory.locked():
            await asyncio.to_thread(directory.remove_leftovers)
            id_ = directory.new_id(to_datetime(self._clock.time_ns()), name)
            path = directory.file(id_)
            size = await self._store.checkpoint(
                path, progress=None if progress is None else _telling(progress, None), compress=options.compress
            )
            summary = await asyncio.to_thread(summarize_checkpoint, path)
            for old in directory.ids()[: -options.max_checkpoints]:
                directory.remove(old)
        self._revision = summary.revision
        self._stats.checkpoints_created += 1
        self._stats.last_checkpoint_bytes = size
        self._stats.last_checkpoint_duration_ms = (self._clock.monotonic() - started) * 1000
        return id_

    # --- what there is --------------------------------------------------------------------------------------------

    async def list_checkpoints(self) -> list[CheckpointInfo]:
        """Return the checkpoints of the directory, oldest first, without those whose header or footer is damaged.

        Raises:
            StorageError: The directory cannot be read.
        """
        return await asyncio.to_thread(self._list)

    def _list(self) -> list[CheckpointInfo]:
        found: list[CheckpointInfo] = []
        for id_ in self._directory.ids():
            try:
                found.append(info_of(id_, summarize_checkpoint(self._directory.file(id_))))
            except (StorageError, SchemaVersionError) as exc:
                if not _is_gone(exc):
                    _LOGGER.warning("the checkpoint %s is left out: %s", id_, exc)
        return found

    async def verify(self, id: str) -> CheckpointInfo:  # noqa: A002 - the public name
        """Read the whole checkpoint *id*, check it as a restore does, and return what is known of it.

        Raises:
            CheckpointNotFoundError: No checkpoint has that id.
            CorruptionError: It is damaged or cut off.
            SchemaVersionError: It was written by a newer version.
            StorageError: It could not be read.
        """
        try:
            return info_of(id, await verify_checkpoint(self._directory.file(id)))
        except StorageError as exc:
            if _is_gone(exc):
                raise self._directory.missing(id) from exc
            raise

    def stats(self) -> CheckpointStats:
        """Return what was counted so far."""
        return copy_with(self._stats)

    # --- back -----------------------------------------------------------------------------------------------------

    async def restore(
        self,
        id: str,  # noqa: A002 - the public name
        *,
        replace: bool = False,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> int:
        """Put everything from the checkpoint *id* into the store; return the number of entries.

        Args:
            id: The checkpoint.
            replace: Remove what the store holds; else a store that is not empty is refused.
            progress: Called on the event loop with the number of entries restored so far and the number in the
                checkpoint, expired ones included; what it raises ends the call.

        Raises:
            CheckpointNotFoundError: No checkpoint has that id.
            ConflictError: The store is not empty, and *replace* is False.
            CorruptionError: The checkpoint is damaged or cut off; nothing was changed.
            LimitExceededError: An entry is larger than the store takes; nothing was changed.
            ClosedError: The coordinator or the store was closed.
        """
        self._check_open()
        async with self._busy:
            self._check_open()
            return await self._restore(id, replace, progress)

    async def restore_latest(
        self, *, replace: bool = False, progress: Callable[[int, int | None], None] | None = None
    ) -> str | None:
        """Restore the newest checkpoint that is whole, and return its id; None when there is none.

        Damaged ones are passed over with a warning in the log. The arguments and the other errors are those of
        ``restore``.
        """
        self._check_open()
        async with self._busy:
            self._check_open()
            for id_ in reversed(await asyncio.to_thread(self._directory.ids)):
                try:
                    await self._restore(id_, replace, progress)
                except (CheckpointNotFoundError, StorageError, SchemaVersionError) as exc:
                    # it may have been removed since; the store's own files have other paths
                    if isinstance(exc, StorageError) and exc.path != self._directory.file(id_):
                        raise
                    _LOGGER.warning("the checkpoint %s is passed over: %s", id_, exc)
                else:
                    return id_
            return None

    async def _restore(
        self,
        id: str,  # noqa: A002 - the public name
        replace: bool,
        progress: Callable[[int, int | None], None] | None,
    ) -> int:
        path = self._directory.file(id)
        started = self._clock.monotonic()
        try:
            told = None
            if progress is not None:
                total = (await asyncio.to_thread(summarize_checkpoint, path)).entries
                told = _telling(progress, total)
            restored = await self._store.restore(path, replace=replace, progress=told)
        except StorageError as exc:
            if _is_gone(exc) and exc.path == path:
                raise self._directory.missing(id) from exc
            raise
        self._stats.last_restore_duration_ms = (self._clock.monotonic() - started) * 1000
        return restored

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this CheckpointCoordinator was shut down; make another one")

    def __repr__(self) -> str:
        return f"CheckpointCoordinator({self._store!r}, {self._directory.path!r})"


def _telling(progress: Callable[[int, int | None], None], total: int | None) -> Callable[[int], None]:
    return lambda done: progress(done, total)


def _is_gone(error: Exception) -> bool:
    return isinstance(error.__cause__, FileNotFoundError)
