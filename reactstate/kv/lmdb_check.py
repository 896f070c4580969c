"""Looking at an LMDB file before LMDB maps it, so that a damaged one is an error and not the end of the process.

LMDB keeps no checksums. It begins a file with two pages of which each transaction writes the other one; they name the
newest state, and the last page that is in use. A file that is cut off, or whose two pages do not fit each other, is
found here; other damage only where LMDB comes across a page that cannot be right, if it does.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from reactstate.errors import CorruptionError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["check_file"]

# After the header of the page (number, unused, flags): magic, version, address, size of the map, a record of the free
# pages and one of the main database, the last page in use, and the transaction. A record: size (of a page, or unused),
# flags, depth, four counts, and the page of its root. All in the order of bytes of the machine.
_HEADER: Final = struct.Struct("=QHH4x")
_META: Final = struct.Struct("=IIQQ" + 2 * "IHH5Q" + "QQ")
_IS_META: Final = 8
_FREE_FLAGS: Final = 8
_MAX_DEPTH: Final = 32
_NO_PAGE: Final = (1 << 64) - 1
_LOCK: Final = struct.Struct("=IIQ")  # magic, format, transaction
_MAGIC: Final = 0xBEEFC0DE
_MAGIC_BYTES: Final = struct.pack("=I", _MAGIC)
_VERSION: Final = 1
_PAGE_SIZES: Final = tuple(1 << bits for bits in range(9, 16))
_PAUSE_S: Final = 0.002


def check_file(file: Path) -> None:
    """Look at *file*, which need not be there; it may be in use by other processes.

    Raises:
        CorruptionError: It is cut off, no LMDB file, or damaged.
        StorageError: It cannot be read.
    """
    try:
        heads = _read_heads(file)
        if heads is None or (heads.fitting() and heads.whole()):
            return
        time.sleep(_PAUSE_S)
        if _read_heads(file) != heads:
            return  # somebody is writing, and read between two writes they need not fit
        # A file whose last pages were never needed can be short, and yet be whole: look at every page.
        found = _verify(file) if heads.fitting() else "its first two pages do not fit each other"
        if found is not None and _read_heads(file) == heads:
            raise CorruptionError(f"{file} is damaged ({found}); restore it", path=str(file))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StorageError(f"{file} could not be read: {exc.strerror}", path=str(file)) from exc


class _Head(NamedTuple):
    """What one of the first two pages says.

    Attributes:
        page_bytes: The size of a page.
        last: The last page in use.
        transaction: Of which it is.
        sound: Whether everything else in it can be so.
    """

    page_bytes: int
    last: int
    transaction: int
    sound: bool


class _Heads(NamedTuple):
    """What the first two pages say, and the size of the file."""

    even: _Head
    odd: _Head
    file_bytes: int

    def fitting(self) -> bool:
        """Say whether they can be of two transactions in a row."""
        even, odd = self.even.transaction, self.odd.transaction
        in_a_row = even == odd == 0 or (even % 2 == 0 and abs(even - odd) == 1)
        return in_a_row and self.even.sound and self.odd.sound and self.even.page_bytes == self.odd.page_bytes

    def whole(self) -> bool:
        """Say whether the file holds every page that the newer one speaks of."""
        newer = self.even if self.even.transaction > self.odd.transaction else self.odd
        return (newer.last + 1) * newer.page_bytes <= self.file_bytes


def _read_heads(file: Path) -> _Heads | None:
    """Return what the first two pages say; None: the file is new, or of a version of LMDB not known here."""
    with file.open("rb", buffering=0) as source:
        start = source.read(2 * _PAGE_SIZES[-1])
        size = os.fstat(source.fileno()).st_size
    if not start:
        _check_empty(file)
        return None
    even = _read_head(file, start, 0)
    if even is None:
        return None
    odd = _read_head(file, start, even.page_bytes)
    if odd is None:
        raise CorruptionError(f"the second page of {file} is damaged", path=str(file), offset=even.page_bytes)
    return _Heads(even, odd, size)


def _check_empty(file: Path) -> None:
    """Refuse an empty file that has had transactions, as LMDB's other file tells."""
    with suppress(FileNotFoundError), file.with_name("lock.mdb").open("rb", buffering=0) as source:
        start = source.read(_LOCK.size)
        if len(start) == _LOCK.size:
            magic, _, transaction = _LOCK.unpack(start)
            if magic == _MAGIC and transaction:
                raise CorruptionError(
                    f"{file} was emptied; restore it, or delete its directory", path=str(file), offset=0
                )


def _read_head(file: Path, start: bytes, offset: int) -> _Head | None:
    """Return what the page at *offset* says; None: the version is not known here."""
    if len(start) < offset + _HEADER.size + _META.size:
        raise CorruptionError(f"{file} is cut off", path=str(file), offset=len(start))
    number, _, flags = _HEADER.unpack_from(start, offset)
    magic, version, _, _, page_bytes, *records, last, transaction = _META.unpack_from(start, offset + _HEADER.size)
    if magic != _MAGIC:
        if offset == 0 and _MAGIC_BYTES in start[:64]:  # LMDB 1.0 has a longer header; LMDB itself judges it
            return None
        raise CorruptionError(f"{file} is no LMDB file, or its start is damaged", path=str(file), offset=offset)
    if version != _VERSION:
        return None
    if page_bytes not in _PAGE_SIZES:
        raise CorruptionError(
            f"{file} is damaged: its pages cannot have {page_bytes} bytes", path=str(file), offset=offset
        )
    free, main = records[:7], records[8:]
    sound = (
        number == (offset > 0)
        and flags == _IS_META
        and free[0] == _FREE_FLAGS
        and main[0] == 0
        and all(_is_sound(record, last) for record in (free, main))
    )
    return _Head(page_bytes, last, transaction, sound)


def _is_sound(record: list[int], last: int) -> bool:
    _, depth, branches, leaves, overflows, entries, root = record
    if root == _NO_PAGE:
        return depth == branches == leaves == overflows == entries == 0
    return 1 < root <= last and 0 < depth <= _MAX_DEPTH and 0 < branches + leaves + overflows < last and entries > 0


def _verify(file: Path) -> str | None:
    """Look at every page; return what is wrong, or None."""
    from lmdb import verify as module

    verify: Callable[[str], list[str]] = getattr(module, "verify")  # noqa: B009 - it has no types
    try:
        found = verify(str(file))
    except (module.VerifyError, MemoryError, OverflowError, ValueError, IndexError) as exc:
        return str(exc)
    return found[0] if found else None
