"""The engine on LMDB: a memory-mapped file, read without a copy of pages, written by one process at a time.

Contract
    A commit is atomic, and visible to every process as soon as it was made. With ``durability="always"`` it is on disk
    before it is visible. With ``"interval"`` its pages are, and only the page that makes them current is left to the
    next flush: a power cut loses at most the last group of commits, and the file is whole. Each group still waits for
    the disk once, as LMDB has no journal. With ``"never"`` nothing waits: a killed process loses nothing, but a power
    cut may damage the file, unless the file system keeps the order of writes; use it for what can be made anew, and
    not beside a process that uses the same file with another durability.

Sharing
    Any number of processes may open one directory; in one process it is opened once and shared. Writers take turns,
    without a timeout: a process that is stopped in the middle of a commit holds all others up (one that is killed does
    not). The directory must be on a local disk. After a fork the child opens the store anew.

Size
    The file never shrinks, but what was deleted is used again. It is mapped with 1 TiB of addresses (less where the
    process may not have so many), which takes neither memory nor disk. When it is full the map is doubled, which needs
    a moment without snapshots in this process: a commit waits 30 seconds for that, and then raises UnavailableError.
    An open snapshot keeps what was deleted meanwhile from being used again, so the file grows.

Damage
    A file that is cut off, or whose first two pages are damaged, is found when it is opened. LMDB keeps no checksums:
    damage inside its other pages can go unnoticed, or end the process, as can another program that cuts the file off
    while it is open. ``lmdb.verify`` looks through a file that nobody writes.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from reactstate.clock import SystemClock
from reactstate.errors import UnsupportedError
from reactstate.kv.embedded import EmbeddedStore
from reactstate.kv.opening import Opening
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Limits

if TYPE_CHECKING:
    from os import PathLike
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.kv.lmdb_table import LmdbTable

__all__ = ["DEFAULT_MAP_SIZE", "LmdbStore"]

DEFAULT_MAP_SIZE: Final = 1 << 40
"""The addresses that a file is mapped with: 1 TiB."""

_MAX_VALUE_BYTES: Final = 256 << 20
_MAX_STEPS: Final = 100_000
_MAX_COMMIT_BYTES: Final = 512 << 20


class LmdbStore(EmbeddedStore):
    """A store in a directory, on LMDB; open it with ``LmdbStore.open``.

    Example:
        >>> async with LmdbStore.open("app.lmdb") as store:  # doctest: +SKIP
        ...     await store.put("greeting", b"hello")
    """

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        options: StoreOptions | None = None,
        clock: Clock | None = None,
        map_size: int = DEFAULT_MAP_SIZE,
    ) -> Opening[Self]:
        """Open the store in the directory *path*, which is made if it is not there.

        Args:
            path: The directory.
            options: How it is opened; ``cache_capacity`` has no effect, as the operating system caches the file.
            clock: Decides that an entry has expired; None: the system's.
            map_size: How large the file can become before it is mapped anew, in bytes.

        Raises:
            UnsupportedError: The package ``lmdb`` is not installed.
            SettingsError: *path* is empty, or *map_size* cannot be used.
            StorageError: The directory cannot be used, or holds another application's data, or a newer format.
            CorruptionError: The file is damaged.
            UnavailableError: This process has had snapshots of the directory open for too long.
        """
        chosen = options if options is not None else StoreOptions()

        async def make() -> Self:
            try:
                from reactstate.kv.lmdb_environment import MAX_KEY_BYTES
                from reactstate.kv.lmdb_table import LmdbTable
            except ModuleNotFoundError as exc:
                raise UnsupportedError(
                    "the engine lmdb needs the package lmdb; install reactstate[lmdb]", engine="lmdb", extra="lmdb"
                ) from exc
            place = os.fsdecode(path)
            opening = asyncio.ensure_future(
                asyncio.to_thread(
                    LmdbTable,
                    place,
                    map_size=map_size,
                    read_only=chosen.read_only,
                    durability=chosen.durability or "always",
                )
            )
            try:
                table = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close_unused)
                raise
            return cls(
                table,
                url=f"lmdb:{place}",
                engine="lmdb",
                options=chosen,
                clock=clock if clock is not None else SystemClock(),
                limits=Limits(MAX_KEY_BYTES, _MAX_VALUE_BYTES, _MAX_STEPS, _MAX_COMMIT_BYTES),
            )

        return Opening(make)


def _close_unused(opening: asyncio.Future[LmdbTable]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
