"""The file of a checkpoint: its bytes, written and read by one thread at a time.

Layout
    ======= =============================================================================================
    header  mark, layout version, length and checksum of a JSON body: when it was made, engine, revision
    frames  mark, number of entries, plain size, stored size, checksum, and a chunk of entries by columns:
            keys (JSON), lengths of values, deadlines if there are any, values; zstd when that is smaller
    footer  mark, number of entries and of frames, longest key and value, checksum of all before, own checksum
    ======= =============================================================================================

    Each frame's checksum (CRC-32) starts from that of the part before, so that a frame is good only in its place.
    Integers are little-endian. Nothing in a file can name what to import or call.

Contract
    What is written appears under its name whole and durable, or not at all: a temporary file in the same directory
    (0600), fsync, rename, fsync of the directory. What is read is checked before it is given out; a file that is cut
    off or changed anywhere is CorruptionError with the offset at which that was found.
"""

from __future__ import annotations

import contextlib
import operator
import os
import secrets
import struct
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Final
from zlib import crc32

import orjson

from reactstate.clock import to_datetime
from reactstate.codec.compression import load_compression
from reactstate.errors import CodecError, CorruptionError, SchemaVersionError, StorageError
from reactstate.kv.protocol import Batch
from reactstate.kv.terms import MAX_DEADLINE_MS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from datetime import datetime
    from typing import BinaryIO

__all__ = ["CheckpointReader", "CheckpointSummary", "CheckpointWriter", "Chunk"]

_LAYOUT: Final = 1
_HEADER: Final = struct.Struct("<4sHII")
_FRAME: Final = struct.Struct("<4sIQQ")
_FOOTER: Final = struct.Struct("<4sQQQQI")
_COLUMNS: Final = struct.Struct("<QB")
_CHECKSUM: Final = struct.Struct("<I")
_HEADER_MARK: Final = b"RSk\x1a"
_FRAME_MARK: Final = b"RSc\x1a"
_FOOTER_MARK: Final = b"RSe\x1a"
_FOOTER_BYTES: Final = _FOOTER.size + _CHECKSUM.size
_MAX_HEADER_BYTES: Final = 1 << 16
_MAX_NS: Final = MAX_DEADLINE_MS * 1_000_000


class CheckpointSummary:
    """What the header and the footer of a checkpoint say.

    Attributes:
        created_at: When it was made (aware UTC), by the clock of the store.
        engine: The engine that it was made of.
        revision: The newest revision of the store at that moment.
        entries: The number of entries in it.
        size_bytes: The length of the file.
        max_key_bytes: The length of the longest key, as UTF-8.
        max_value_bytes: The length of the longest value.
    """

    __slots__ = ("created_at", "engine", "entries", "max_key_bytes", "max_value_bytes", "revision", "size_bytes")

    def __init__(
        self,
        created_at: datetime,
        engine: str,
        revision: int,
        entries: int,
        size_bytes: int,
        max_key_bytes: int,
        max_value_bytes: int,
    ) -> None:
        self.created_at: datetime = created_at
        self.engine: str = engine
        self.revision: int = revision
        self.entries: int = entries
        self.size_bytes: int = size_bytes
        self.max_key_bytes: int = max_key_bytes
        self.max_value_bytes: int = max_value_bytes

    def __repr__(self) -> str:
        return (
            f"CheckpointSummary(engine={self.engine!r}, revision={self.revision}, entries={self.entries}, "
            f"size_bytes={self.size_bytes}, created_at={self.created_at.isoformat()})"
        )


# --- writing ----------------------------------------------------------------------------------------------------


class Chunk:
    """Entries as bytes, column after column.

    Attributes:
        count: The number of entries, at least one.
        plain: The columns.
        max_key_bytes: The length of the longest key.
        max_value_bytes: The length of the longest value.
    """

    __slots__ = ("count", "max_key_bytes", "max_value_bytes", "plain")

    def __init__(self, batch: Batch) -> None:
        self.count: int = len(batch.keys)
        keys = orjson.dumps(batch.keys)
        lengths = list(map(len, batch.values))
        timed = any(batch.deadlines)
        parts = [_COLUMNS.pack(len(keys), timed), keys, struct.pack(f"<{self.count}Q", *lengths)]
        if timed:
            parts.append(struct.pack(f"<{self.count}Q", *batch.deadlines))
        parts += batch.values
        self.plain: bytes = b"".join(parts)
        self.max_key_bytes: int = max(map(len, batch.keys if keys.isascii() else map(str.encode, batch.keys)))
        self.max_value_bytes: int = max(lengths)

    def pack(self, *, compress: bool) -> tuple[bytes, bytes]:
        """Return the start of its frame, up to the checksum, and what is stored of it; may be called on any thread."""
        plain = self.plain
        stored = load_compression("zstd").compress(plain) if compress else plain
        if len(stored) >= len(plain):
            stored = plain
        return _FRAME.pack(_FRAME_MARK, self.count, len(plain), len(stored)), stored


class CheckpointWriter:
    """A checkpoint that is being written to *path*; ``note`` may be called beside the other methods.

    Attributes:
        entries: How many were noted so far.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # nothing that a killed process leaves behind can have the name
        self._temporary = f"{path}.{secrets.token_hex(6)}.tmp"
        self._file: BinaryIO | None = None
        self._checksum = 0
        self._frames = 0
        self._max_key_bytes = 0
        self._max_value_bytes = 0
        self.entries: int = 0

    def note(self, chunk: Chunk) -> None:
        """Count what *chunk* holds, for the footer."""
        self.entries += chunk.count
        self._max_key_bytes = max(self._max_key_bytes, chunk.max_key_bytes)
        self._max_value_bytes = max(self._max_value_bytes, chunk.max_value_bytes)

    def begin(self, created_ns: int, engine: str, revision: int) -> None:
        """Make the temporary file, and write the header.

        Raises:
            StorageError: It could not be written; so do the methods below.
        """
        body = orjson.dumps({"created_ns": created_ns, "engine": engine, "revision": revision})
        start = _HEADER.pack(_HEADER_MARK, _LAYOUT, len(body), 0)[: -_CHECKSUM.size]
        self._checksum = crc32(body, crc32(start))
        with _failing("written", self._path):
            self._file = open(self._temporary, "xb", opener=_private)  # noqa: SIM115 - ``discard`` closes it
            self._file.write(start + _CHECKSUM.pack(self._checksum) + body)

    def write(self, start: bytes, stored: bytes) -> None:
        """Append a frame, made by ``Chunk.pack``."""
        self._checksum = crc32(stored, crc32(start, self._checksum))
        self._frames += 1
        with _failing("written", self._path):
            file = self._opened()
            file.write(start + _CHECKSUM.pack(self._checksum))
            file.write(stored)

    def finish(self) -> int:
        """Append the footer, and make the file durable under its name; return its length."""
        footer = _FOOTER.pack(
            _FOOTER_MARK, self.entries, self._frames, self._max_key_bytes, self._max_value_bytes, self._checksum
        )
        with _failing("written", self._path):
            file = self._opened()
            file.write(footer + _CHECKSUM.pack(crc32(footer)))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
            file.close()
            os.replace(self._temporary, self._path)  # noqa: PTH105 - paths are strings in this module
            self._file = None
            _sync_directory(os.path.dirname(self._path) or os.curdir)  # noqa: PTH120 - as above
        return size

    def discard(self) -> None:
        """Remove the temporary file, unless it was finished."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.close()  # flushes, which fails again on a full disk
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)  # noqa: PTH108 - as above
        self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise OSError(9, "it is not open")
        return self._file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(path: str) -> None:
    if os.name == "nt":  # pragma: no cover - Windows cannot
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _failing(verb: str, path: str) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:  # a path with what no path can hold is a ValueError
        reason = getattr(exc, "strerror", None) or exc
        raise StorageError(f"the checkpoint {path} could not be {verb}: {reason}", path=path) from exc


# --- reading ----------------------------------------------------------------------------------------------------


class CheckpointReader:
    """The checkpoint at *path*; every method raises StorageError when the file cannot be read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._size = 0
        self._offset = 0
        self._first_frame = 0
        self._created_ns = 0
        self._engine = ""
        self._revision = 0
        self._seed = 0
        self._layout = struct.Struct("")
        self._rewind()

    def _rewind(self) -> None:
        self._checksum = self._seed
        self._entries = 0
        self._frames = 0
        self._last_key = ""
        self._summary: CheckpointSummary | None = None

    def check(self, *, decode: bool = False) -> CheckpointSummary:
        """Walk through the whole file, checksum by checksum; ``next`` then begins at the start.

        Args:
            decode: Whether the frames are decoded too, which finds files that were made wrongly.

        Raises:
            CorruptionError: It is damaged or cut off.
            SchemaVersionError: It was written by a newer version.
        """
        self._open()
        while (summary := self._summary) is None:
            self._frame(decode=decode, load=False)
        self._rewind()
        self._seek(self._first_frame)
        return summary

    def summarize(self) -> CheckpointSummary:
        """Read the header and the footer only; the errors are those of ``check``."""
        self._open()
        at = max(self._first_frame, self._size - _FOOTER_BYTES)
        self._seek(at)
        return self._footer(at, self._take(_FRAME.size))

    def next(self, now_ms: int) -> Batch | None:
        """Return the next chunk, without what has expired at *now_ms* (so it may be empty); None at the end."""
        batch = None if self._summary is not None else self._frame(decode=True, load=True)
        if batch is None or not any(batch.deadlines):
            return batch
        kept = [place for place, deadline in enumerate(batch.deadlines) if not 0 < deadline <= now_ms]
        columns = batch.keys, batch.values, batch.revisions, batch.deadlines
        keys, values, revisions, deadlines = ([column[place] for place in kept] for column in columns)
        return Batch(keys, values, revisions, deadlines)  # type: ignore[arg-type]

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        with _failing("read", self._path):
            self._file = open(self._path, "rb")  # noqa: PTH123, SIM115 - ``close`` closes it
            self._size = os.fstat(self._file.fileno()).st_size
        start = self._take(_HEADER.size)
        mark, layout, length, checksum = _HEADER.unpack(start)
        if mark != _HEADER_MARK or length > _MAX_HEADER_BYTES:
            raise self._damaged("this is not the header of a checkpoint", 0)
        body = self._take(length)
        if crc32(body, crc32(start[: -_CHECKSUM.size])) != checksum:
            raise self._damaged("the checksum of the header differs", 0)
        if layout != _LAYOUT:
            raise SchemaVersionError(
                f"the checkpoint {self._path} was written in layout {layout}, and this version of reactstate knows "
                f"{_LAYOUT}; read it with a newer one",
                type_name="checkpoint",
                stored=layout,
                current=_LAYOUT,
            )
        try:
            header = orjson.loads(body)
            self._created_ns, self._engine, self._revision = (
                header[name] for name in ("created_ns", "engine", "revision")
            )
        except (ValueError, TypeError, KeyError) as exc:
            raise self._damaged("the header cannot be read", 0) from exc
        if (type(self._created_ns), type(self._engine), type(self._revision)) != (int, str, int) or not (
            0 <= self._created_ns <= _MAX_NS and self._revision >= 0
        ):
            raise self._damaged("the header cannot be understood", 0)
        self._first_frame = self._offset
        self._seed = checksum
        self._rewind()

    def _seek(self, offset: int) -> None:
        self._offset = offset
        if self._file is not None:
            with _failing("read", self._path):
                self._file.seek(offset)

    def _frame(self, *, decode: bool, load: bool) -> Batch | None:
        """Read one frame, and return its entries with *load*; or at the end the footer, which sets the summary."""
        at = self._offset
        start = self._take(_FRAME.size)
        mark, count, plain_size, stored_size = _FRAME.unpack(start)
        if mark == _FOOTER_MARK:
            self._summary = self._footer(at, start, whole=True)
            return None
        if mark != _FRAME_MARK:
            raise self._damaged("no frame begins there", at)
        (checksum,) = _CHECKSUM.unpack(self._take(_CHECKSUM.size))
        stored = self._take(stored_size)
        if crc32(stored, crc32(start, self._checksum)) != checksum:
            raise self._damaged("the checksum of a frame differs", at)
        self._checksum = checksum
        self._frames += 1
        self._entries += count
        if not decode:
            return None
        try:
            plain = stored if stored_size == plain_size else load_compression("zstd").decompress(stored, plain_size)
            return self._decode(count, plain, load=load)
        except (CodecError, ValueError, TypeError, struct.error) as exc:
            raise self._damaged("a frame cannot be decoded", at) from exc

    def _decode(self, count: int, plain: bytes, *, load: bool) -> Batch | None:
        keys_size, timed = _COLUMNS.unpack_from(plain)
        at = _COLUMNS.size + keys_size
        keys: list[str] = orjson.loads(memoryview(plain)[_COLUMNS.size : at])
        column = struct.Struct(f"<{count}Q")
        lengths: tuple[int, ...] = column.unpack_from(plain, at)
        at += column.size
        deadlines: Sequence[int] = ()
        if timed:
            deadlines = column.unpack_from(plain, at)
            at += column.size
        if not (type(keys) is list and len(keys) == count > 0 and at + sum(lengths) == len(plain)):
            raise ValueError("the columns do not fit each other")
        if deadlines and max(deadlines) > MAX_DEADLINE_MS:
            raise ValueError("a deadline is no date")
        # comparing them with a text also shows that they are texts, and not empty
        if not all(map(operator.lt, chain((self._last_key,), keys), keys)):
            raise ValueError("the keys do not ascend")
        self._last_key = keys[-1]
        if not load:
            return None
        return Batch(keys, self._values(plain, at, lengths), [self._revision] * count, list(deadlines) or [0] * count)

    def _values(self, plain: bytes, at: int, lengths: tuple[int, ...]) -> list[bytes]:
        if min(lengths) == max(lengths):
            # several times faster than slicing, and so is using the same Struct again
            layout = f"{lengths[0]}s" * len(lengths)
            if self._layout.format != layout:
                self._layout = struct.Struct(layout)
            return list(self._layout.unpack_from(plain, at))
        return [plain[start:end] for start, end in pairwise(accumulate(lengths, initial=at))]

    def _footer(self, at: int, start: bytes, *, whole: bool = False) -> CheckpointSummary:
        footer = start + self._take(_FOOTER.size - len(start))
        (own,) = _CHECKSUM.unpack(self._take(_CHECKSUM.size))
        mark, entries, frames, max_key_bytes, max_value_bytes, checksum = _FOOTER.unpack(footer)
        if mark != _FOOTER_MARK or crc32(footer) != own:
            raise self._damaged("the checksum of the footer differs", at)
        if self._offset != self._size:
            raise self._damaged("something follows the footer", self._offset)
        if whole and (entries, frames, checksum) != (self._entries, self._frames, self._checksum):
            raise self._damaged("the footer does not fit what is before it", at)
        return CheckpointSummary(
            to_datetime(self._created_ns),
            self._engine,
            self._revision,
            entries,
            self._size,
            max_key_bytes,
            max_value_bytes,
        )

    def _take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        if self._file is None or size > self._size - self._offset:
            raise self._damaged("it is cut off", self._size)
        with _failing("read", self._path):
            data = self._file.read(size)
        if len(data) < size:
            raise self._damaged("it became shorter while it was read", self._offset + len(data))
        self._offset += size
        return data

    def _damaged(self, what: str, offset: int) -> CorruptionError:
        return CorruptionError(
            f"the checkpoint {self._path} is damaged at byte {offset}: {what}; use another checkpoint",
            path=self._path,
            offset=offset,
        )
