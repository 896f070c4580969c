"""Documents to bytes and back: format, compression, encryption, and the envelope that names and guards them.

Contract
    ``decode(encode(document, schema))`` gives an equal document, types included, or raises. ``decode`` needs no hint:
    format, compression and encryption are found in the bytes. A change of any bit, a cut at any place and trailing
    bytes are CodecErrors, never another document (a CRC-32 over everything finds every burst of up to 32 bits;
    against changes made on purpose only encryption helps). Reading is bounded in memory (``max_bytes``) and in depth.
    Nothing stored can name what to import or call. A codec holds no state that changes: share it between threads.

Layout (big-endian)
    magic 4, envelope version 1, format 1, schema length 4, sealed length 8, CRC-32 4 (over all but itself), schema
    (JSON object of type names and versions, the root first, in the clear), sealed.

    sealed: one byte (bits 0 to 3 the compression, bit 7 whether encrypted), then the payload, compressed, then
    encrypted. With encryption this byte and the associated data (in an envelope: magic, version, format, schema) are
    authenticated. Without, sealed bytes have no checksum of their own.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, cast

import orjson

from reactstate.codec.compression import load_compression, load_compression_number
from reactstate.codec.documents import check_document
from reactstate.codec.formats import load_format, load_format_number
from reactstate.errors import (
    CodecError,
    DecodeError,
    DecompressionLimitError,
    DecryptionError,
    SchemaVersionError,
    SettingsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.codec.encryption import Encryption
    from reactstate.codec.formats import Buffer

__all__ = ["Codec", "Decoded"]

_MAGIC = b"\x89RST"
_VERSION = 1
_HEADER = struct.Struct(">4sBBIQI")
_CHECKSUM_AT = _HEADER.size - 4
_IDENTITY_BYTES = 6
"""Magic, version and format: what encryption binds the payload to, beside the schema."""

_COMPRESSION_BITS = 0x0F
_ENCRYPTED = 0x80
_PLAIN = b"\x00"
_MIN_COMPRESSED_BYTES = 200


class Decoded:
    """What an envelope held.

    Attributes:
        document: The document.
        schema: The schema versions by type name, the root's first.
        type_name: The name of the root type.
        format: The format that it was written in.
        compression: The compression that was used; ``"none"`` where it would not have helped.
        encrypted: Whether it was encrypted.
    """

    __slots__ = ("compression", "document", "encrypted", "format", "schema", "type_name")

    def __init__(
        self,
        document: Any,
        schema: dict[str, int],
        format: str,  # noqa: A002 - the public name
        compression: str,
        *,
        encrypted: bool,
    ) -> None:
        self.document: Any = document
        self.schema: dict[str, int] = schema
        self.type_name: str = next(iter(schema))
        self.format: str = format
        self.compression: str = compression
        self.encrypted: bool = encrypted


class Codec:
    """Writes documents in one way, and reads those of every way.

    Args:
        format: One of FORMATS; ``encode_document`` and ``decode_document`` speak this one only.
        compression: One of COMPRESSIONS, used for payloads of 200 bytes or more where it makes them smaller.
        encryption: The encryption to write with, and the keys to read with. With it, bytes that are not encrypted are
            refused: else whoever can write to the storage could pass off bytes of their own.
        max_bytes: The most bytes that a compressed payload may have when decompressed; larger ones are not written.
        allow_plaintext: With encryption, accept bytes that are not encrypted, to move stored data to encryption.

    Raises:
        SettingsError: An option has a value that cannot be used.
        UnsupportedError: The library for format or compression is not installed.
    """

    __slots__ = ("_compression", "_format", "allow_plaintext", "encryption", "max_bytes")

    def __init__(
        self,
        format: str = "json",  # noqa: A002 - the public name
        compression: str = "none",
        encryption: Encryption | None = None,
        max_bytes: int = 1 << 30,
        *,
        allow_plaintext: bool = False,
    ) -> None:
        if max_bytes < 1:
            raise SettingsError(f"max_bytes is {max_bytes}; it must be at least 1")
        self._format = load_format(format)
        self._compression = load_compression(compression)
        self.encryption: Encryption | None = encryption
        self.max_bytes: int = max_bytes
        self.allow_plaintext: bool = allow_plaintext

    def __repr__(self) -> str:
        return (
            f"Codec(format={self.format!r}, compression={self.compression!r}, encryption={self.encryption!r}, "
            f"max_bytes={self.max_bytes})"
        )

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._format.name

    @property
    def compression(self) -> str:
        """The name of the compression."""
        return self._compression.name

    def encode(self, document: Any, schema: dict[str, int]) -> bytes:
        """Return *document* in an envelope that also holds *schema*.

        Args:
            document: Checked value by value, so that nothing passes as something else.
            schema: The schema version of the root type and of every type nested in it, by name, the root's first.

        Raises:
            CodecError: *document* is not a canonical document, or *schema* is empty or not made of names and ints.
        """
        if not self._format.checks_types:
            check_document(document)
        return self.writer(schema)(document)

    def writer(self, schema: dict[str, int]) -> Callable[[Any], bytes]:
        """Return a function that writes one document after the other under *schema*, as ``encode`` does but faster.

        For documents that the library made: as with ``encode_document``, their values are not looked at one by one.

        Raises:
            CodecError: *schema* is empty or not made of names and ints; the function raises it for a document that the
                format cannot hold.
        """
        if not _is_schema(schema):
            raise CodecError("a schema has at least the root type, and maps type names to whole numbers from 0")
        try:
            names = orjson.dumps(schema)
        except TypeError as exc:
            raise CodecError(f"the schema cannot be written: {exc}") from exc
        identity = _MAGIC + bytes((_VERSION, self._format.number))
        head = identity + len(names).to_bytes(4, "big")
        head_crc = zlib.crc32(head)
        to_bytes = self._format.encode
        plain = not self._compression.number and self.encryption is None
        associated = identity + names

        def write(document: Any) -> bytes:
            payload = to_bytes(document)
            sealed = _PLAIN + payload if plain else self.seal(payload, associated)
            length = len(sealed).to_bytes(8, "big")
            crc = zlib.crc32(sealed, zlib.crc32(names, zlib.crc32(length, head_crc)))
            return b"".join((head, length, crc.to_bytes(4, "big"), names, sealed))

        return write

    def decode(self, data: Buffer) -> Decoded:
        """Return what the envelope *data* holds, whichever way it was written.

        Raises:
            DecodeError: *data* is not an envelope, or was changed or cut.
            SchemaVersionError: The envelope is of a newer version than this one.
            DecryptionError: A key is missing or does not fit.
            DecompressionLimitError: The payload is larger than ``max_bytes``.
            UnsupportedError: The library for its format or compression is not installed.
        """
        view = memoryview(data)
        if bytes(view[:4]) != _MAGIC:
            raise DecodeError("these bytes are not an envelope of reactstate")
        if len(view) < _HEADER.size:
            raise DecodeError("the envelope was cut inside its header")
        _, version, number, schema_length, sealed_length, crc = _HEADER.unpack_from(view)
        if version > _VERSION:
            raise SchemaVersionError(
                f"the envelope has version {version}, this is version {_VERSION}; read it with a newer reactstate",
                stored=version,
                current=_VERSION,
            )
        sealed_at = _HEADER.size + schema_length
        if len(view) != sealed_at + sealed_length:
            raise DecodeError(f"the envelope has {len(view)} bytes, but says {sealed_at + sealed_length}")
        if zlib.crc32(view[_HEADER.size :], zlib.crc32(view[:_CHECKSUM_AT])) != crc:
            raise DecodeError("the checksum of the envelope does not fit: its bytes were changed")
        names = bytes(view[_HEADER.size : sealed_at])
        schema = _read_schema(names)
        found = load_format_number(number)
        sealed = view[sealed_at:]
        payload = self.open(sealed, bytes(view[:_IDENTITY_BYTES]) + names)
        compression = load_compression_number(sealed[0] & _COMPRESSION_BITS)
        return Decoded(
            found.decode(payload), schema, found.name, compression.name, encrypted=bool(sealed[0] & _ENCRYPTED)
        )

    def encode_document(self, document: Any) -> bytes:
        """Return *document* in the format alone: no compression, encryption or checksum.

        For documents that the library made: in JSON, tuples, enums and UUIDs pass as their nearest document
        (``check_document`` refuses them); all else that is not a document is refused.

        Raises:
            CodecError: The format cannot hold *document*.
        """
        return self._format.encode(document)

    def decode_document(self, data: Buffer) -> Any:
        """Return the document that ``encode_document`` of a codec with the same format was given.

        Raises:
            DecodeError: These are not the bytes of a document.
        """
        return self._format.decode(data)

    def seal(self, payload: Buffer, associated: bytes = b"") -> bytes:
        """Return *payload* compressed, then encrypted, as the codec says, with one byte in front that tells.

        Args:
            payload: Any bytes.
            associated: What the payload belongs to (a place, a header); ``open`` must be given the same. Only
                encryption binds the two.

        Raises:
            CodecError: The payload is too large to be compressed (``max_bytes``) or encrypted.
        """
        flags = 0
        body = payload
        if self._compression.number and len(payload) >= _MIN_COMPRESSED_BYTES:
            if len(payload) > self.max_bytes:
                raise DecompressionLimitError(
                    f"the payload has {len(payload)} bytes, more than max_bytes={self.max_bytes}, and could not be "
                    "read back; raise max_bytes",
                    limit_bytes=self.max_bytes,
                )
            compressed = self._compression.compress(payload)
            if len(compressed) < len(payload):
                flags = self._compression.number
                body = compressed
        if self.encryption is not None:
            lead = bytes((flags | _ENCRYPTED,))
            return lead + self.encryption.encrypt(body, lead + associated)
        return (bytes((flags,)) if flags else _PLAIN) + body

    def open(self, sealed: Buffer, associated: bytes = b"") -> bytes:
        """Return the payload that ``seal`` was given, whichever way it was sealed.

        Without encryption only the compression's own checks apply: frame sealed bytes with a checksum.

        Raises:
            DecodeError: These are not sealed bytes.
            DecryptionError: A key is missing or does not fit, the bytes or *associated* were changed, or the bytes are
                not encrypted though this codec has encryption.
            DecompressionLimitError: The payload is larger than ``max_bytes``.
            UnsupportedError: The library for the compression is not installed.
        """
        view = memoryview(sealed)
        if not view:
            raise DecodeError("there is nothing to open: the sealed bytes are empty")
        flags = view[0]
        if flags & ~(_COMPRESSION_BITS | _ENCRYPTED):
            raise DecodeError(f"the sealed bytes have unknown flags ({flags:#04x}); use a newer version of reactstate")
        compression = load_compression_number(flags & _COMPRESSION_BITS)
        body: Buffer = view[1:]
        if flags & _ENCRYPTED:
            if self.encryption is None:
                raise DecryptionError("the bytes are encrypted; give the codec their keys (encryption=...)")
            body = self.encryption.decrypt(body, bytes(view[:1]) + associated)
        elif self.encryption is not None and not self.allow_plaintext:
            raise DecryptionError(
                "the bytes are not encrypted, but encryption was asked for; they may have been replaced. If they are "
                "older than the encryption, read them with allow_plaintext=True and write them anew"
            )
        if not compression.number:
            return bytes(body)
        return compression.decompress(body, self.max_bytes)


def _is_schema(schema: object) -> bool:
    if not isinstance(schema, dict) or not schema:
        return False
    items = cast("dict[object, object]", schema).items()
    return all(type(name) is str and type(version) is int and version >= 0 for name, version in items)


def _read_schema(names: bytes) -> dict[str, int]:
    try:
        schema = orjson.loads(names)
    except ValueError as exc:
        raise DecodeError(f"the schema in the envelope is not JSON: {exc}") from exc
    if not _is_schema(schema):
        raise DecodeError("the schema in the envelope does not map type names to versions")
    return cast("dict[str, int]", schema)
