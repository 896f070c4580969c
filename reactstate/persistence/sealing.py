"""Records, schema tags and snapshots as bytes, whatever format, compression and key wrote them.

Every piece is encoded on its own and sealed with its place as associated data, so that a piece which was moved or
exchanged does not open. Bytes that open but do not hold what they should are ``CorruptionError``; a missing key, a
newer format and a bomb keep the codec's own errors, because the bytes are whole.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from zlib import crc32

from reactstate.codec import Codec
from reactstate.codec.envelope import _ENCRYPTED
from reactstate.codec.formats import load_format, load_format_number
from reactstate.errors import CodecError, CorruptionError, DecodeError, DecryptionError
from reactstate.persistence.frames import associated_data
from reactstate.persistence.protocol import Record, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reactstate.codec import Encryption
    from reactstate.persistence.frames import Frame
    from reactstate.persistence.protocol import SchemaTag

__all__ = ["FILE_HEADER_SIZE", "FileHeader", "Sealing", "pack_file", "unpack_file"]

_LENGTH = struct.Struct("<I")
_FILE = struct.Struct("<4sHBxQQII")
_LAYOUT = 1

FILE_HEADER_SIZE = _FILE.size


class FileHeader(NamedTuple):
    """The start of a snapshot's or blob's file: *number* is the version or the time, *size_bytes* the plain size."""

    format_id: int
    number: int
    size_bytes: int
    checksum: int


def pack_file(magic: bytes, format_id: int, number: int, size_bytes: int, payload: bytes) -> bytes:
    """Return the whole file of a snapshot or blob."""
    header = _FILE.pack(magic, _LAYOUT, format_id, number, size_bytes, crc32(payload), 0)[:-4]
    return b"".join((header, _LENGTH.pack(crc32(header)), payload))


def unpack_file(data: bytes, magic: bytes, path: str) -> FileHeader:
    """Return the header at the start of *data*; the payload is what follows and is checked by ``open_file``.

    Raises:
        CorruptionError: The header is damaged.
        CodecError: It was written by a newer version of the library.
    """
    if len(data) >= FILE_HEADER_SIZE:
        found, layout, format_id, number, size_bytes, checksum, header_sum = _FILE.unpack_from(data)
        if found == magic and crc32(data[: FILE_HEADER_SIZE - 4]) == header_sum:
            if layout != _LAYOUT:
                raise CodecError(
                    f"{path!r} has layout {layout} and this version reads {_LAYOUT}; open it with a newer reactstate"
                )
            return FileHeader(format_id, number, size_bytes, checksum)
    raise CorruptionError(f"the header of {path!r} is damaged; use verify() and recover()", path=path, offset=0)


class Sealing:
    """Encodes with the format, compression and key of a persistence, and decodes what any other wrote."""

    __slots__ = ("_encode", "codec", "format_id")

    def __init__(self, format: str, compression: str, encryption: Encryption | None) -> None:  # noqa: A002 - the public name
        self.codec: Codec = Codec(format=format, compression=compression, encryption=encryption)
        chosen = load_format(format)
        self.format_id: int = chosen.number
        self._encode = chosen.encode

    # --- records ------------------------------------------------------------------------------------------------

    def encode_record(self, record: Record) -> bytes:
        """Return *record* as a length and a compact array; the inverse is not stored."""
        tags = record.tags
        data = self._encode(
            [
                record.version,
                record.change_id,
                record.timestamp_ns,
                record.kind,
                record.actor,
                record.action,
                tags if tags is None else dict(tags),
                record.target,
                record.patch,
            ]
        )
        return _LENGTH.pack(len(data)) + data

    def seal(self, payload: bytes, associated: bytes) -> bytes:
        """Compress, encrypt and frame *payload* as configured."""
        return self.codec.seal(payload, associated)

    def decode_records(
        self, data: bytes, frames: Sequence[Frame], header: tuple[int, int], path: str
    ) -> Iterator[Record]:
        """Yield the records of *frames* (of *data*), in order; *header* is the segment's format and serial.

        Raises:
            CorruptionError: A payload does not hold the records that its frame names.
            CodecError: The payload needs a key, library or version that is not there.
        """
        format_id, serial = header
        decode = load_format_number(format_id).decode
        unseal = self._unseal
        for frame in frames:
            offset, version, count, start, end = frame
            try:
                payload = unseal(data[start:end], associated_data(serial, offset))
                position = 0
                stop = version + count
                while position < len(payload):
                    (size,) = _LENGTH.unpack_from(payload, position)
                    position += 4
                    record = Record(*decode(payload[position : position + size]))
                    position += size
                    if (
                        record.version != version
                        or type(record.timestamp_ns) is not int
                        or type(record.kind) is not str
                    ):
                        raise _misplaced(version, record.version)
                    version += 1
                    yield record
                if version != stop:
                    raise _misplaced(stop, version)
            except (DecodeError, TypeError, ValueError, struct.error) as exc:
                raise CorruptionError(
                    f"the records at offset {offset} of {path!r} are damaged; use verify() and recover()",
                    path=path,
                    offset=offset,
                ) from exc

    # --- schema tags --------------------------------------------------------------------------------------------

    def seal_schema(self, schema: SchemaTag, serial: int) -> bytes:
        """Return *schema*, its order kept, sealed for the header of segment *serial*."""
        pairs = [[name, version] for name, version in schema.items()]
        return self.codec.seal(self.codec.encode_document(pairs), associated_data(serial, 0))

    def open_schema(self, payload: bytes, format_id: int, serial: int, path: str) -> SchemaTag:
        """Return what ``seal_schema`` was given.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It needs a key, library or version that is not there.
        """
        decode = load_format_number(format_id).decode
        try:
            return _schema(decode(self._unseal(payload, associated_data(serial, 0))))
        except (DecodeError, TypeError, ValueError) as exc:
            raise CorruptionError(f"the header of {path!r} is damaged", path=path, offset=0) from exc

    # --- whole files --------------------------------------------------------------------------------------------

    def pack_snapshot(self, snapshot: Snapshot) -> bytes:
        """Return the file of *snapshot*."""
        payload = self.codec.encode_document(
            [
                [[name, version] for name, version in snapshot.schema.items()],
                snapshot.change_id,
                snapshot.created_at_ns,
                snapshot.updated_at_ns,
                snapshot.tags if snapshot.tags is None else dict(snapshot.tags),
                snapshot.document,
            ]
        )
        sealed = self.codec.seal(payload, _SNAPSHOT_MAGIC + snapshot.version.to_bytes(8, "little"))
        return pack_file(_SNAPSHOT_MAGIC, self.format_id, snapshot.version, len(payload), sealed)

    def unpack_snapshot(self, data: bytes, version: int, path: str) -> Snapshot:
        """Return the snapshot in the file *data*, which must be the one at *version*.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It needs a key, library or version that is not there.
        """
        header = unpack_file(data, _SNAPSHOT_MAGIC, path)
        decode = load_format_number(header.format_id).decode
        try:
            payload = self._open(header, data, _SNAPSHOT_MAGIC + version.to_bytes(8, "little"))
            schema, change_id, created_at_ns, updated_at_ns, tags, document = decode(payload)
            return Snapshot(version, document, _schema(schema), change_id, created_at_ns, updated_at_ns, tags)
        except (DecodeError, TypeError, ValueError) as exc:
            raise CorruptionError(f"the snapshot {path!r} is damaged", path=path, offset=0) from exc

    def pack_blob(self, name: str, data: bytes, modified_ns: int) -> bytes:
        """Return the file of the blob *name*."""
        sealed = self.codec.seal(data, _BLOB_MAGIC + name.encode())
        return pack_file(_BLOB_MAGIC, self.format_id, modified_ns, len(data), sealed)

    def unpack_blob(self, data: bytes, name: str, path: str) -> bytes:
        """Return the bytes of the blob *name* in the file *data*.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It needs a key, library or version that is not there.
        """
        header = unpack_file(data, _BLOB_MAGIC, path)
        try:
            return self._open(header, data, _BLOB_MAGIC + name.encode())
        except (DecodeError, ValueError) as exc:
            raise CorruptionError(f"the blob {path!r} is damaged", path=path, offset=0) from exc

    def blob_header(self, data: bytes, path: str) -> FileHeader:
        """Return the header of a blob's file."""
        return unpack_file(data, _BLOB_MAGIC, path)

    def _open(self, header: FileHeader, data: bytes, associated: bytes) -> bytes:
        payload = data[FILE_HEADER_SIZE:]
        if crc32(payload) != header.checksum:
            raise ValueError("the checksum does not fit")
        opened = self._unseal(payload, associated)
        if len(opened) != header.size_bytes:
            raise ValueError("the size does not fit")
        return opened

    def _unseal(self, payload: bytes, associated: bytes) -> bytes:
        """Open *payload*, saying what to do about a file in the clear under a persistence with keys."""
        try:
            return self.codec.open(payload, associated)
        except DecryptionError as exc:
            if self.codec.encryption is None or payload[0] & _ENCRYPTED:
                raise
            raise DecryptionError(
                "these files are not encrypted, but the persistence has keys; if you trust them, copy them once with "
                "FilePersistence(old_path).recover(to=FilePersistence(new_path, encryption=...))"
            ) from exc


_SNAPSHOT_MAGIC = b"RSs\x1a"
_BLOB_MAGIC = b"RSb\x1a"


def _schema(pairs: Any) -> SchemaTag:
    schema = dict(cast("list[tuple[str, int]]", pairs))
    if not all(type(name) is str and type(version) is int for name, version in schema.items()):
        raise ValueError("a schema tag is made of names and versions")
    return schema


def _misplaced(expected: int, found: object) -> ValueError:
    return ValueError(f"expected version {expected}, found {found!r}")
