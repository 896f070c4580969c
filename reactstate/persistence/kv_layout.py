"""What a persistence over a store writes: the keys of its entries, and the bytes in them.

Keys
    ``~state/<key>/<kind>/<id>``, each part escaped as ``StateKey`` does it, so that no key reaches into another's:
    ``head/`` (one entry), ``record/<version>``, ``base/<snapshot id>-<n>``, ``blob/<name>``,
    ``piece/<blob name>:<id>-<n>`` and ``cursor/<consumer>``, which belongs to the consumer.

Bytes
    Every entry begins with the layout's version, the format of its document, and a checksum over format, key and the
    rest, which is sealed with the key as associated data: an entry that was changed, or moved to another key, is
    ``CorruptionError`` or, encrypted, does not open. Entries of a newer layout are a ``CodecError`` and stay as they
    are. A snapshot is sealed as a whole and then cut into chunks.

    In the clear are the keys, the sizes, and a blob's size and time, whatever the encryption.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, cast
from zlib import crc32

from reactstate.codec import Codec
from reactstate.codec.formats import load_format, load_format_number
from reactstate.errors import CodecError, CorruptionError, DecodeError, InvalidKeyError
from reactstate.kv.keys import StateKey
from reactstate.kv.terms import check_key
from reactstate.persistence.names import MAX_BLOB_NAME, check_blob_name
from reactstate.persistence.protocol import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reactstate.kv.protocol import Entry, Limits
    from reactstate.persistence.protocol import SchemaTag

__all__ = ["Base", "BlobHeader", "Head", "Layout", "damaged_entry"]

_NAMESPACE: Final = "~state"
_LAYOUT: Final = 1
_FRAME = struct.Struct("<BBI")
_BLOB = struct.Struct("<BBIQQ16sI")
_DIGITS: Final = 20
_LARGE_BYTES: Final = 4096
"""From so many bytes on a record is compressed as a snapshot is."""

_ID_DIGITS: Final = 32


class Base:
    """A stored document from which the records of one era are replayed.

    Attributes:
        id: The id of its chunks: a UUIDv7 as 32 hexadecimal digits, made for this base.
        version: The version of the document; the era's records begin above it.
        chunks: The number of its chunks; 0: there is no document.
        size: The bytes of its chunks.
        schema: The schema tag of the era.
    """

    __slots__ = ("chunks", "id", "schema", "size", "version")

    def __init__(self, id: str, version: int, chunks: int, size: int, schema: SchemaTag) -> None:  # noqa: A002 - a member's name
        self.id: str = id
        self.version: int = version
        self.chunks: int = chunks
        self.size: int = size
        self.schema: SchemaTag = schema


class Head:
    """What the head entry says.

    Attributes:
        version: The newest version.
        change_id: The id of the change that made it.
        created_ns: When the state was created (its newest CREATE).
        updated_ns: When its newest change was made.
        tags: The tags of the newest change, or None.
        grown: The bytes of the records above the oldest base, about.
        bases: Those of the kept eras, oldest first; never empty.
        revision: The revision of the entry.
    """

    __slots__ = ("bases", "change_id", "created_ns", "grown", "revision", "tags", "updated_ns", "version")

    def __init__(
        self,
        version: int,
        change_id: str,
        created_ns: int,
        updated_ns: int,
        tags: Mapping[str, Any] | None,
        grown: int,
        bases: Sequence[Base],
        revision: int = 0,
    ) -> None:
        self.version: int = version
        self.change_id: str = change_id
        self.created_ns: int = created_ns
        self.updated_ns: int = updated_ns
        self.tags: Mapping[str, Any] | None = tags
        self.grown: int = grown
        self.bases: Sequence[Base] = bases
        self.revision: int = revision

    @property
    def schema(self) -> SchemaTag:
        """The schema tag of the newest era."""
        return self.bases[-1].schema

    @property
    def floor(self) -> int:
        """The version from which records are kept."""
        return self.bases[0].version

    def with_bases(self, bases: Sequence[Base], grown: int) -> Head:
        """Return the same head over other bases."""
        return Head(self.version, self.change_id, self.created_ns, self.updated_ns, self.tags, grown, bases)

    def same_state(self, other: Head) -> bool:
        """Say whether both tell of one state: at most a compaction is between them."""
        return self.version == other.version and self.change_id == other.change_id and self.schema == other.schema


class BlobHeader:
    """The start of a blob's entry; *chunks* is 0 when its bytes follow."""

    __slots__ = ("chunks", "id", "modified_ns", "size")

    def __init__(self, size: int, modified_ns: int, id: str, chunks: int) -> None:  # noqa: A002 - a member's name
        self.size: int = size
        self.modified_ns: int = modified_ns
        self.id: str = id
        self.chunks: int = chunks


class Layout:
    """Names and encodes the entries of one persistence.

    Args:
        key: The container's key.
        codec: Writes everything; None: JSON, what is large with zstd.
        limits: The store's.

    Raises:
        InvalidKeyError: *key* is empty or no text.
        LimitExceededError: *key* is so long that the store would refuse entries under it.
    """

    __slots__ = ("_bulk", "_encode", "_format", "_small", "bases", "blobs", "head", "key", "pieces", "records")

    def __init__(self, key: str, codec: Codec | None, limits: Limits) -> None:
        if not key:
            raise InvalidKeyError("the key of a container is text that is not empty")
        self._small = codec if codec is not None else Codec("json")
        self._bulk = codec if codec is not None else Codec("json", "zstd")
        chosen = load_format(self._small.format)
        self._encode = chosen.encode
        self._format = chosen.number
        self.key: str = key
        self.head: str = str(StateKey(_NAMESPACE, key, "head", ""))
        self.records: str = StateKey.prefix(_NAMESPACE, key, "record")
        self.bases: str = StateKey.prefix(_NAMESPACE, key, "base")
        self.blobs: str = StateKey.prefix(_NAMESPACE, key, "blob")
        self.pieces: str = StateKey.prefix(_NAMESPACE, key, "piece")
        check_key(self.piece_stem("x" * MAX_BLOB_NAME, "0" * _ID_DIGITS) + "000000", limits)

    # --- keys ---------------------------------------------------------------------------------------------------

    def record_key(self, version: int) -> str:
        """Return the key of the record that made *version*."""
        return f"{self.records}{version:020d}"

    def cursor_key(self, name: str) -> str:
        """Return the key of the cursor of the consumer *name*."""
        return str(StateKey(_NAMESPACE, self.key, "cursor", name))

    def base_stem(self, id: str) -> str:  # noqa: A002 - a member's name
        """Return what the keys of a base's chunks begin with."""
        return f"{self.bases}{id}-"

    def blob_key(self, name: str) -> str:
        """Return the key of the blob *name*.

        Raises:
            InvalidKeyError: It cannot be the name of a blob.
        """
        return self.blobs + check_blob_name(name).replace("/", "%2F")

    def blob_prefix(self, prefix: str) -> str:
        """Return what the keys of the blobs begin with whose name begins with *prefix*."""
        return self.blobs + prefix.replace("%", "%25").replace("/", "%2F")

    def blob_name(self, key: str) -> str:
        """Return the name of the blob that is kept under *key*."""
        return key[len(self.blobs) :].replace("%2F", "/")

    def piece_stem(self, name: str, id: str) -> str:  # noqa: A002 - a member's name
        """Return what the keys of the chunks of a blob begin with; no name of a blob holds a colon."""
        return f"{self.pieces}{name.replace('/', '%2F')}:{id}-"

    def piece_owner(self, stem: str) -> str:
        """Return the key of the blob whose chunks' keys begin with *stem*."""
        return self.blobs + stem[len(self.pieces) :].rpartition(":")[0]

    # --- sealing ------------------------------------------------------------------------------------------------

    def _seal(self, key: str, payload: bytes, codec: Codec) -> bytes:
        bound = key.encode()
        sealed = codec.seal(payload, bound)
        return _FRAME.pack(_LAYOUT, self._format, crc32(sealed, crc32(bound, self._format))) + sealed

    def _open(self, key: str, value: bytes, codec: Codec) -> tuple[int, bytes]:
        if len(value) <= _FRAME.size:
            raise damaged_entry(key)
        layout, format_id, checksum = _FRAME.unpack_from(value)
        if layout != _LAYOUT:
            raise _newer(key, layout)
        bound = key.encode()
        sealed = memoryview(value)[_FRAME.size :]
        if crc32(sealed, crc32(bound, format_id)) != checksum:
            raise damaged_entry(key)
        try:
            return format_id, codec.open(sealed, bound)
        except DecodeError as exc:
            raise damaged_entry(key) from exc

    def _decode(self, key: str, value: bytes, codec: Codec) -> Any:
        format_id, payload = self._open(key, value, codec)
        try:
            return load_format_number(format_id).decode(payload)
        except DecodeError as exc:
            raise damaged_entry(key) from exc

    # --- the head -----------------------------------------------------------------------------------------------

    def encode_head(self, head: Head) -> bytes:
        """Return the value of the head entry."""
        document = {
            "version": head.version,
            "change_id": head.change_id,
            "created_ns": head.created_ns,
            "updated_ns": head.updated_ns,
            "tags": None if head.tags is None else dict(head.tags),
            "grown": head.grown,
            "bases": [
                [base.id, base.version, base.chunks, base.size, [[*pair] for pair in base.schema.items()]]
                for base in head.bases
            ],
        }
        return self._seal(self.head, self._encode(document), self._small)

    def decode_head(self, entry: Entry) -> Head:
        """Return what the head entry says.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It is of a newer layout, or needs a key or library that is not there.
        """
        found = self._decode(entry.key, entry.value, self._small)
        try:
            bases = [
                Base(id_, version, chunks, size, _schema(schema))
                for id_, version, chunks, size, schema in found["bases"]
            ]
            head = Head(
                found["version"],
                found["change_id"],
                found["created_ns"],
                found["updated_ns"],
                found["tags"],
                found["grown"],
                bases,
                entry.revision,
            )
            sizes = [head.version, head.created_ns, head.updated_ns, head.grown]
            for base in bases:
                sizes += [base.version, base.chunks, base.size]
        except (LookupError, TypeError, ValueError) as exc:
            raise damaged_entry(entry.key) from exc
        if not bases or any(type(size) is not int for size in sizes):
            raise damaged_entry(entry.key)
        return head

    # --- records ------------------------------------------------------------------------------------------------

    def encode_record(self, record: Record) -> tuple[str, bytes]:
        """Return the entry of *record*; the inverse is not stored."""
        key = self.record_key(record.version)
        tags = record.tags
        payload = self._encode(
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
        return key, self._seal(key, payload, self._small if len(payload) < _LARGE_BYTES else self._bulk)

    def decode_record(self, entry: Entry) -> Record:
        """Return the record in *entry*.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It is of a newer layout, or needs a key or library that is not there.
        """
        found = self._decode(entry.key, entry.value, self._small)
        try:
            record = Record(*found)
        except TypeError as exc:
            raise damaged_entry(entry.key) from exc
        if (
            record.version != int(entry.key[-_DIGITS:])
            or type(record.change_id) is not str
            or type(record.timestamp_ns) is not int
            or type(record.kind) is not str
        ):
            raise damaged_entry(entry.key)
        return record

    # --- bases and blobs ----------------------------------------------------------------------------------------

    def pack_base(self, id: str, document: Any) -> bytes:  # noqa: A002 - a member's name
        """Return *document* as the bytes that are cut into the chunks of base *id*."""
        return self._seal(self.base_stem(id), self._encode(document), self._bulk)

    def unpack_base(self, id: str, data: bytes) -> Any:  # noqa: A002 - a member's name
        """Return the document in the joined chunks of base *id*.

        Raises:
            CorruptionError: They are damaged.
            CodecError: They need a key or library that is not there.
        """
        return self._decode(self.base_stem(id), data, self._bulk)

    def pack_blob(self, name: str, data: bytes) -> bytes:
        """Return *data* sealed as the bytes of the blob *name*."""
        return self._seal(self.blob_key(name), data, self._bulk)

    def unpack_blob(self, name: str, sealed: bytes) -> bytes:
        """Return what ``pack_blob`` was given.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It needs a key or library that is not there.
        """
        return self._open(self.blob_key(name), sealed, self._bulk)[1]

    def blob_value(self, key: str, header: BlobHeader, inline: bytes = b"") -> bytes:
        """Return the value of a blob's entry."""
        parts = (header.size, header.modified_ns, bytes.fromhex(header.id), header.chunks)
        checksum = crc32(_BLOB.pack(_LAYOUT, 0, 0, *parts), crc32(key.encode()))
        return _BLOB.pack(_LAYOUT, 0, checksum, *parts) + inline

    def blob_header(self, entry: Entry) -> BlobHeader:
        """Return the start of a blob's entry.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It is of a newer layout.
        """
        if len(entry.value) < _BLOB.size:
            raise damaged_entry(entry.key)
        layout, flags, checksum, *parts = _BLOB.unpack_from(entry.value)
        if layout != _LAYOUT:
            raise _newer(entry.key, layout)
        if flags or crc32(_BLOB.pack(_LAYOUT, 0, 0, *parts), crc32(entry.key.encode())) != checksum:
            raise damaged_entry(entry.key)
        size, modified_ns, id_, chunks = parts
        return BlobHeader(size, modified_ns, id_.hex(), chunks)

    @staticmethod
    def inline(entry: Entry) -> bytes:
        """Return the sealed bytes that follow the start of a blob's entry."""
        return entry.value[_BLOB.size :]


def damaged_entry(key: str) -> CorruptionError:
    """Return the error for an entry that is damaged or missing."""
    return CorruptionError(
        f"the entry {key!r} is damaged or missing though it was committed; nothing was changed, restore the store "
        "from a checkpoint",
        path=key,
    )


def _newer(key: str, layout: int) -> CodecError:
    return CodecError(
        f"the entry {key!r} has layout {layout} and this version reads {_LAYOUT}; open it with a newer reactstate"
    )


def _schema(pairs: Any) -> SchemaTag:
    schema = dict(cast("list[tuple[str, int]]", pairs))
    if not all(type(name) is str and type(version) is int for name, version in schema.items()):
        raise ValueError("a schema tag is made of names and versions")
    return schema
