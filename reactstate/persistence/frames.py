"""The bytes of a journal segment: one header, then one checksummed frame per flush.

Segment header (44 bytes and a payload)
    magic, layout version, document format, flags, serial, base version, horizon, payload length, payload checksum,
    header checksum. The payload is the sealed schema tag. The base is the version of the document that the first
    record changes. With the flag ``CONTINUES`` the documents of the segment before go on; without it they start anew
    from the snapshot at the base. The horizon is the version from which records are kept: older files are leftovers.

Frame (44 bytes and a payload)
    magic, payload length, own offset, the offset that was durable when the frame was written, first version, number of
    records, payload checksum, header checksum. Header checksums are seeded with the segment's serial, so that a frame
    is good only where it was written.

Torn or damaged
    After the last frame there is the end of the file or zeros. Anything else there is bad. It is *damage* when a later
    good header says that these bytes were durable already, and a *torn tail* otherwise: bytes of a flush that was
    never acknowledged. A bit flipped in the very last frame cannot be told from a torn tail.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from reactstate.errors import CodecError

__all__ = [
    "CONTINUES",
    "DURABLE_SIZE",
    "FRAME_SIZE",
    "MAX_PAYLOAD_BYTES",
    "SEGMENT_SIZE",
    "Durable",
    "Frame",
    "SegmentHeader",
    "Walk",
    "associated_data",
    "pack_durable",
    "pack_frame",
    "pack_segment",
    "unpack_durable",
    "unpack_segment",
    "walk",
]

LAYOUT = 1
CONTINUES = 1
MAX_PAYLOAD_BYTES = 1 << 30

_SEGMENT = struct.Struct("<4sHBBQQQIII")
_FRAME = struct.Struct("<4sIQQQIII")
_DURABLE = struct.Struct("<4sIQQQ")
_CHECKSUM = struct.Struct("<I")
_POSITION = struct.Struct("<QQ")
_SEGMENT_MAGIC = b"RSj\x1a"
_FRAME_MAGIC = b"RSf\x1a"
_DURABLE_MAGIC = b"RSd\x1a"
_MASK = 0xFFFFFFFF

SEGMENT_SIZE = _SEGMENT.size
FRAME_SIZE = _FRAME.size
DURABLE_SIZE = _DURABLE.size


class SegmentHeader(NamedTuple):
    """The start of a segment; *payload* is its sealed schema tag and *end* where the first frame begins."""

    format_id: int
    flags: int
    serial: int
    base: int
    horizon: int
    payload: bytes
    end: int


class Frame(NamedTuple):
    """A good frame: where it is, which records it holds, and where its payload is."""

    offset: int
    first: int
    records: int
    start: int
    end: int


class Walk(NamedTuple):
    """What lies behind a segment's header.

    Attributes:
        frames: The good frames, in order.
        end: Where the last good frame ends.
        bad: Where bytes begin that are no good frame, or None when the segment ends cleanly.
        proven: Whether a later good header proves that the bad bytes were durable.
        resume: Where the next good header after the bad bytes is, or None.
        durable: The largest offset that a good frame says was durable.
    """

    frames: list[Frame]
    end: int
    bad: int | None
    proven: bool
    resume: int | None
    durable: int


class Durable(NamedTuple):
    """How far followers may read: the segment, the offset in it and the newest version before that offset."""

    serial: int
    offset: int
    version: int


def associated_data(serial: int, offset: int) -> bytes:
    """Return what a sealed payload is bound to: its place."""
    return _POSITION.pack(serial, offset)


def pack_segment(format_id: int, flags: int, serial: int, base: int, horizon: int, payload: bytes) -> bytes:
    """Return the bytes that a segment starts with."""
    checked = _SEGMENT.pack(
        _SEGMENT_MAGIC, LAYOUT, format_id, flags, serial, base, horizon, len(payload), crc32(payload), 0
    )
    return checked[:-4] + _CHECKSUM.pack(crc32(checked[:-4], serial & _MASK)) + payload


def unpack_segment(data: bytes, serial: int) -> SegmentHeader | None:
    """Return the header at the start of *data*, or None when it is torn, damaged or of another segment.

    Raises:
        CodecError: It was written by a newer version of the library.
    """
    if len(data) < SEGMENT_SIZE:
        return None
    magic, layout, format_id, flags, own, base, horizon, length, payload_sum, header_sum = _SEGMENT.unpack_from(data)
    if magic != _SEGMENT_MAGIC or own != serial or crc32(data[: SEGMENT_SIZE - 4], serial & _MASK) != header_sum:
        return None
    if layout != LAYOUT:
        raise CodecError(
            f"the journal has layout {layout} and this version reads {LAYOUT}; open it with a newer reactstate"
        )
    end = SEGMENT_SIZE + length
    payload = data[SEGMENT_SIZE:end]
    if len(payload) != length or crc32(payload) != payload_sum:
        return None
    return SegmentHeader(format_id, flags, own, base, horizon, payload, end)


def pack_frame(serial: int, offset: int, durable: int, first: int, count: int, payload: bytes) -> bytes:
    """Return the bytes of a frame that is to be written at *offset*."""
    header = _FRAME.pack(_FRAME_MAGIC, len(payload), offset, durable, first, count, crc32(payload), 0)[:-4]
    return b"".join((header, _CHECKSUM.pack(crc32(header, serial & _MASK)), payload))


def walk(data: bytes, serial: int, start: int, shift: int = 0) -> Walk:
    """Check the frames of segment *serial* in *data* from index *start* on; see ``Walk``.

    *data* begins at offset *shift* of the segment; of the results only a frame's ``offset`` counts from its beginning.
    """
    frames: list[Frame] = []
    view = memoryview(data)
    length = len(data)
    seed = serial & _MASK
    unpack = _FRAME.unpack_from
    position = body = start
    durable = 0
    while position + FRAME_SIZE <= length:
        magic, size, own, known, first, count, payload_sum, header_sum = unpack(data, position)
        body = position
        if (
            magic != _FRAME_MAGIC
            or own != position + shift
            or crc32(view[position : position + FRAME_SIZE - 4], seed) != header_sum
        ):
            break
        # The header is good, so what its payload holds is the user's and cannot speak for the journal.
        body = position + FRAME_SIZE + size
        if body > length or crc32(view[position + FRAME_SIZE : body]) != payload_sum:
            break
        frames.append(Frame(own, first, count, position + FRAME_SIZE, body))
        durable = known
        position = body
    if data.count(0, position) == length - position:
        return Walk(frames, position, None, False, None, durable)
    proven, resume = _look_ahead(data, position, max(body, position + 1), seed)
    return Walk(frames, position, position, proven, resume, durable)


def _look_ahead(data: bytes, bad: int, position: int, seed: int) -> tuple[bool, int | None]:
    """Search for good headers behind the bad bytes: is one of them proof, and where is the first?"""
    resume: int | None = None
    while (position := data.find(_FRAME_MAGIC, position)) >= 0 and position + FRAME_SIZE <= len(data):
        _, _, own, durable, _, _, _, header_sum = _FRAME.unpack_from(data, position)
        if own == position and crc32(data[position : position + FRAME_SIZE - 4], seed) == header_sum:
            resume = position if resume is None else resume
            if durable > bad:
                return True, resume
        position += 1
    return False, resume


def pack_durable(serial: int, offset: int, version: int) -> bytes:
    """Return the bytes of the file that tells followers how far they may read."""
    place = _POSITION.pack(serial, offset) + version.to_bytes(8, "little")
    return _DURABLE_MAGIC + _CHECKSUM.pack(crc32(place)) + place


def unpack_durable(data: bytes) -> Durable | None:
    """Return what ``pack_durable`` was given, or None when the bytes are torn or damaged."""
    if len(data) < DURABLE_SIZE:
        return None
    magic, checksum, serial, offset, version = _DURABLE.unpack_from(data)
    if magic != _DURABLE_MAGIC or crc32(data[8:DURABLE_SIZE]) != checksum:
        return None
    return Durable(serial, offset, version)
