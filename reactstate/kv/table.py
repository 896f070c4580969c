"""What an embedded engine is made of: a table of entries in key order, with one writer and consistent reads.

``reactstate.kv.embedded.EmbeddedStore`` makes a whole store of a Table: group commit, expectations, counters, times
to live, the change log, watches, snapshots, statistics. A table only moves rows; it is synchronous, and knows neither
event loops nor clocks nor expectations.

Threads
    ``Table.latest`` and what ``Table.view`` returns are used by one thread (that of the event loop). ``write`` is
    called by one other thread, the writer's, and ``flush`` by either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["LogRow", "Reader", "Row", "ScanRow", "Table", "Writer"]

T = TypeVar("T")

Row: TypeAlias = tuple[bytes, int, int]
"""Value, revision, and deadline in milliseconds since 1970 (0: never).

To a table they are bytes and whole numbers of up to 63 bits: the store above marks compressed values with a high bit of
the revision.
"""

ScanRow: TypeAlias = tuple[str, bytes, int, int]
"""Key, value, revision, deadline."""

LogRow: TypeAlias = tuple[int, int, bytes]
"""The newest revision in it, when it was written (milliseconds since 1970), and the encoded events."""


class Reader(ABC):
    """Reads rows of one state of the table, expired ones included."""

    @abstractmethod
    def get(self, key: str) -> Row | None:
        """Return the row under *key*, or None."""

    @abstractmethod
    def chunk(self, start: str, end: str | None, limit: int, *, reverse: bool = False) -> list[ScanRow]:
        """Return up to *limit* rows with keys in ``[start, end)``, from the first on, or with *reverse* from the last."""

    @abstractmethod
    def revision(self) -> tuple[int, int]:
        """Return the newest revision that was issued, and the newest time (ms) at which a commit was made; 0 at first."""

    @abstractmethod
    def log(self, after: int, limit: int) -> list[LogRow]:
        """Return up to *limit* rows of the change log whose newest revision is above *after*, oldest first."""

    @abstractmethod
    def log_floor(self) -> int:
        """Return the newest revision that was removed from the change log; 0 when nothing was."""

    @abstractmethod
    def close(self) -> None:
        """Let the state go."""


class Writer(Reader):
    """Reads and changes rows inside one transaction."""

    def stamp(self, key: str) -> tuple[int, int] | None:
        """Return revision and deadline of the row under *key*, or None; where it can, without reading the value."""
        row = self.get(key)
        return None if row is None else (row[1], row[2])

    @abstractmethod
    def apply(self, rows: Mapping[str, Row | None]) -> None:
        """Write each key's row in place of what is there, if anything; None removes it, if it is there."""

    @abstractmethod
    def due(self, now_ms: int, limit: int) -> list[str]:
        """Return up to *limit* keys of rows with a deadline at or before *now_ms*."""

    @abstractmethod
    def advance(self, revision: int, time_ms: int) -> None:
        """Store the newest revision and time."""

    @abstractmethod
    def append_log(self, row: LogRow) -> None:
        """Append to the change log."""

    @abstractmethod
    def trim_log(self, before_ms: int) -> None:
        """Remove the rows of the change log that were written before *before_ms*, and raise the floor."""

    @abstractmethod
    def clear(self) -> None:
        """Remove every entry (not the change log, the revision or the identity)."""

    @abstractmethod
    def load(self, rows: Sequence[ScanRow]) -> None:
        """Write rows with ascending keys, none of which is there yet, as fast as can be."""


class Table(ABC):
    """A table in files.

    Attributes:
        id: A random text, made when the files were, by which cursors name their store.
        latest: Reads what was committed last, call by call.
        repeats: Whether ``write`` may run its work more than once.
    """

    id: str
    latest: Reader
    repeats: bool = True

    @abstractmethod
    def view(self) -> Reader:
        """Return a reader of the state as it is now; it must be closed."""

    @abstractmethod
    def write(self, work: Callable[[Writer], T], *, sync: bool) -> T:
        """Run *work* in one transaction and return its result; what it raises rolls everything back.

        Args:
            work: Reads and writes; with ``repeats`` it may run again (when the files had to grow).
            sync: Whether it is on disk when this returns; else it has at least been handed to the operating system.

        Raises:
            StorageError: It could not be written; nothing was changed.
            UnavailableError: Others held the table for too long; nothing was changed.
            StorageFailedError: An earlier flush failed: the table must be opened anew.
            UnknownOutcomeError: The flush failed, so it is not known what is on disk.
            CorruptionError: The files are damaged.
        """

    @abstractmethod
    def token(self) -> int:
        """Return a number that differs after another process has committed (and may after this one has); cheap."""

    @abstractmethod
    def flush(self) -> None:
        """Bring every commit so far to disk.

        Raises:
            UnknownOutcomeError: That failed; later writes raise StorageFailedError.
        """

    @abstractmethod
    def size(self) -> int:
        """Return the bytes that the files take."""

    def memory(self) -> int:
        """Return about how many bytes the table takes in this process."""
        return 0

    @abstractmethod
    def close(self) -> None:
        """Close the files; called when nothing else runs."""
