"""The compressions by name and by the number that sealed bytes hold, each with a bounded way back.

Contract
    ``decompress(data, max_bytes)`` returns exactly what was compressed, or raises: DecompressionLimitError once more
    than *max_bytes* would come out (no more than that and a chunk is held in memory before), DecodeError for junk and
    for cut or trailing bytes. Safe to call from several threads.
"""

from __future__ import annotations

import threading
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

import zstandard

from reactstate.codec.extras import missing_extra
from reactstate.errors import DecodeError, DecompressionLimitError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.codec.formats import Buffer

__all__ = ["COMPRESSIONS", "Compression", "load_compression", "load_compression_number"]

COMPRESSIONS = ("none", "gzip", "zstd", "lz4")
"""The names of all compressions; a name's place is its number. lz4 needs the extra of its name."""

_GZIP = 31
"""zlib's window argument for the gzip form."""

_CHUNK_BYTES = 1 << 24


class Compression:
    """One way to make bytes smaller.

    Attributes:
        name: Its name in COMPRESSIONS.
        number: Its number in sealed bytes.
        compress: Bytes to smaller bytes.
        decompress: Back, with the most bytes that may come out.
    """

    __slots__ = ("compress", "decompress", "name", "number")

    def __init__(
        self, name: str, compress: Callable[[Buffer], bytes], decompress: Callable[[Buffer, int], bytes]
    ) -> None:
        self.name: str = name
        self.number: int = COMPRESSIONS.index(name)
        self.compress: Callable[[Buffer], bytes] = compress
        self.decompress: Callable[[Buffer, int], bytes] = decompress


def load_compression(name: str) -> Compression:
    """Return the compression called *name*.

    Raises:
        SettingsError: There is none of that name.
        UnsupportedError: Its library is not installed.
    """
    if name in _loaded:
        return _loaded[name]
    if name == "lz4":
        return _load_lz4()
    raise SettingsError(f"unknown compression {name!r}; choose one of {', '.join(COMPRESSIONS)}")


def load_compression_number(number: int) -> Compression:
    """Return the compression whose number in sealed bytes is *number*.

    Raises:
        DecodeError: There is none of that number.
        UnsupportedError: Its library is not installed.
    """
    if number >= len(COMPRESSIONS):
        raise DecodeError(f"unknown compression number {number}; read this with a newer version of reactstate")
    return load_compression(COMPRESSIONS[number])


class _ZstdContexts(threading.local):
    """One compressor and decompressor a thread: making them costs six times their use, and they are not shareable."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _ZstdContexts()


def _copy(data: Buffer) -> bytes:
    return bytes(data)


def _copy_back(data: Buffer, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise _over(max_bytes)
    return bytes(data)


def _gzip(data: Buffer) -> bytes:
    return zlib.compress(data, 6, _GZIP)


def _gunzip(data: Buffer, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_GZIP)
    chunks: list[bytes] = []
    room = max_bytes
    tail = data
    try:
        while not decompressor.eof:
            chunk = decompressor.decompress(tail, min(room + 1, _CHUNK_BYTES))
            room = _take(chunk, chunks, room, max_bytes)
            tail = decompressor.unconsumed_tail
    except zlib.error as exc:
        raise DecodeError(f"these bytes are not gzip: {exc}") from exc
    if decompressor.unused_data:
        raise _trailing()
    return b"".join(chunks)


def _zstd_compress(data: Buffer) -> bytes:
    return _zstd.compressor.compress(data)


def _zstd_decompress(data: Buffer, max_bytes: int) -> bytes:
    try:
        size = zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError as exc:
        raise DecodeError(f"these bytes are not zstd: {exc}") from exc
    if size in (0, zstandard.CONTENTSIZE_UNKNOWN):
        # neither is ever written here; the library would trust the one and not bound the other
        raise DecodeError("the zstd frame does not say how large its content is")
    if size > max_bytes:
        raise _over(max_bytes)
    try:
        return _zstd.decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as exc:
        raise DecodeError(f"these bytes are not zstd: {exc}") from exc


def _load_lz4() -> Compression:
    try:
        # imported by name because it has no type information
        frame: Any = import_module("lz4.frame")
    except ImportError as exc:
        raise missing_extra("lz4", "lz4") from exc

    def compress(data: Buffer) -> bytes:
        compressed: bytes = frame.compress(data)
        return compressed

    def decompress(data: Buffer, max_bytes: int) -> bytes:
        decompressor = frame.LZ4FrameDecompressor()
        chunks: list[bytes] = []
        room = max_bytes
        tail = data
        try:
            while not decompressor.eof:
                chunk = decompressor.decompress(tail, min(room + 1, _CHUNK_BYTES))
                room = _take(chunk, chunks, room, max_bytes)
                tail = b""
        except RuntimeError as exc:
            raise DecodeError(f"these bytes are not lz4: {exc}") from exc
        if decompressor.unused_data:
            raise _trailing()
        return b"".join(chunks)

    loaded = Compression("lz4", compress, decompress)
    _loaded["lz4"] = loaded
    return loaded


def _take(chunk: bytes, chunks: list[bytes], room: int, max_bytes: int) -> int:
    """Keep *chunk* and return the room that is left."""
    if not chunk:
        raise DecodeError("the compressed bytes end too early")
    if len(chunk) > room:
        raise _over(max_bytes)
    chunks.append(chunk)
    return room - len(chunk)


def _over(max_bytes: int) -> DecompressionLimitError:
    return DecompressionLimitError(
        f"the bytes hold more than max_bytes={max_bytes}; raise max_bytes if they are to be trusted",
        limit_bytes=max_bytes,
    )


def _trailing() -> DecodeError:
    return DecodeError("bytes follow the end of the compressed bytes")


_loaded = {
    "none": Compression("none", _copy, _copy_back),
    "gzip": Compression("gzip", _gzip, _gunzip),
    "zstd": Compression("zstd", _zstd_compress, _zstd_decompress),
}
