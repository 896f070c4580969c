"""The persistence that keeps nothing: for containers that live in memory only.

Contract
    ``append`` is done at once and keeps nothing, ``load`` finds nothing, and blobs (named snapshots, cursors) live as
    long as the object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.clock import SystemClock
from reactstate.errors import ClosedError
from reactstate.persistence.names import check_blob_name
from reactstate.persistence.protocol import BlobInfo, StatePersistence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Generator, Sequence

    from reactstate.clock import Clock
    from reactstate.persistence.protocol import Loaded, Record, SchemaTag, Snapshot

__all__ = ["MemoryPersistence"]

S = TypeVar("S")


class _Done:
    """An awaitable that is done."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


_DONE = _Done()


class MemoryPersistence(StatePersistence[S], Generic[S]):
    """Keeps blobs in a dictionary, and nothing else.

    Args:
        clock: Where the blobs' times come from.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._blobs: dict[str, tuple[bytes, int]] = {}
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("this persistence was closed; make a new one")

    async def load(self, *, history: int = 1000) -> Loaded | None:  # noqa: ARG002 - there is none
        """Return None: nothing is stored."""
        self._check()
        return None

    def append(self, records: Sequence[Record], schema: SchemaTag) -> Awaitable[None]:  # noqa: ARG002 - dropped
        """Keep nothing, and be done."""
        self._check()
        return _DONE

    async def changes(self, since: int = 0) -> AsyncIterator[Record]:  # noqa: ARG002 - there are none
        """Iterate over nothing."""
        self._check()
        nothing: tuple[Record, ...] = ()
        for record in nothing:
            yield record

    async def save(self, snapshot: Snapshot, *, keep_since: int) -> None:  # noqa: ARG002 - dropped
        """Keep nothing."""
        self._check()

    @property
    def compaction_due(self) -> bool:
        """Whether ``save`` should be called: never."""
        return False

    async def put_blob(self, name: str, data: bytes) -> None:
        """Keep *data* under *name* (InvalidKeyError when it cannot be a blob's name)."""
        self._check()
        self._blobs[check_blob_name(name)] = (bytes(data), self._clock.time_ns())

    async def get_blob(self, name: str) -> bytes | None:
        """Return what is kept under *name*, or None."""
        self._check()
        found = self._blobs.get(check_blob_name(name))
        return found[0] if found is not None else None

    async def list_blobs(self, prefix: str = "") -> list[BlobInfo]:
        """Return the blobs whose name starts with *prefix*, by name."""
        self._check()
        return [
            BlobInfo(name, len(data), modified_ns)
            for name, (data, modified_ns) in sorted(self._blobs.items())
            if name.startswith(prefix)
        ]

    async def delete_blob(self, name: str) -> bool:
        """Remove a blob; say whether it was there."""
        self._check()
        return self._blobs.pop(check_blob_name(name), None) is not None

    async def aclose(self) -> None:
        """Drop everything; a second call does nothing."""
        self._closed = True
        self._blobs.clear()
