"""The change log of an embedded store: the events of a group of commits as one row of bytes, and back.

Format
    One byte of version; four bytes of CRC-32 (big-endian) over what follows, begun with the row's newest revision, so
    that a row under the wrong number is found out too; then a JSON array ``[counts, kinds, keys]``. ``keys`` are those
    of all events in order. ``counts`` are the events of each commit, or 0 when every commit has one. ``kinds`` is a
    text with one digit an event, or empty when all of them are puts. The commits' revisions are consecutive and end
    with the row's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import orjson

from reactstate.errors import CorruptionError
from reactstate.kv.protocol import EventKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.kv.watching import Changes

__all__ = ["DELETED", "EXPIRED", "PUT", "decode_changes", "encode_changes"]

PUT: Final = 0
DELETED: Final = 1
EXPIRED: Final = 2

_KINDS: Final = (EventKind.PUT, EventKind.DELETE, EventKind.EXPIRE)
_VERSION: Final = b"\x01"
_HEAD_BYTES: Final = 5
_DIGITS: Final = bytes.maketrans(bytes((PUT, DELETED, EXPIRED)), b"012")


def encode_changes(last: int, counts: Sequence[int], kinds: bytes | bytearray, keys: Sequence[str]) -> bytes:
    """Return the row for commits whose newest revision is *last*.

    Args:
        last: The revision of the last of them.
        counts: How many events each of them has, oldest first; none has 0.
        kinds: ``PUT``, ``DELETED`` or ``EXPIRED`` for each event.
        keys: The key of each event.
    """
    body = orjson.dumps(
        (
            0 if len(counts) == len(keys) else counts,
            kinds.translate(_DIGITS).decode() if any(kinds) else "",
            keys,
        )
    )
    return b"%b%b%b" % (_VERSION, crc32(body, last & 0xFFFFFFFF).to_bytes(4, "big"), body)


def decode_changes(last: int, row: bytes) -> list[Changes]:
    """Return the commits of a row, oldest first.

    Raises:
        CorruptionError: The row is damaged, or is not the one of *last*.
    """
    body = row[_HEAD_BYTES:]
    if row[:1] != _VERSION or crc32(body, last & 0xFFFFFFFF) != int.from_bytes(row[1:_HEAD_BYTES], "big"):
        raise _damaged(last)
    try:
        counts, kinds, keys = orjson.loads(body)
        return _commits(last, counts, kinds, keys)
    except (TypeError, ValueError, LookupError) as exc:
        raise _damaged(last) from exc


def _commits(last: int, counts: Any, kinds: Any, keys: Any) -> list[Changes]:
    if not set(map(type, keys)) <= {str}:
        raise TypeError(keys)
    events = (
        list(zip([_KINDS[int(kind)] for kind in kinds], keys, strict=True))
        if kinds
        else [(EventKind.PUT, key) for key in keys]
    )
    if counts == 0:
        first = last - len(events) + 1
        return [(revision, (event,)) for revision, event in enumerate(events, first)]
    if min(counts, default=1) < 1 or sum(counts) != len(events):
        raise ValueError(counts)
    commits: list[Changes] = []
    place = 0
    for revision, count in enumerate(counts, last - len(counts) + 1):
        commits.append((revision, events[place : place + count]))
        place += count
    return commits


def _damaged(last: int) -> CorruptionError:
    return CorruptionError(
        f"the change log's row of revision {last} is damaged; restore the store from a checkpoint, or copy its "
        "entries into a new one"
    )
