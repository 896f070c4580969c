"""Documents as MessagePack, with ints beyond 64 bits as extension type 1 (two's complement, big-endian, shortest).

Documents and bytes correspond one to one: what this module would not write byte for byte, it does not read. That
refuses trailing bytes, equal keys, foreign extension types and longer forms in one comparison. Byte strings, which
both directions of ormsgpack let through, are found by orjson, which refuses them and is faster than any loop.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
import ormsgpack

from reactstate.codec.documents import MAX_DIGITS, check_document
from reactstate.codec.formats import Format
from reactstate.errors import CodecError, DecodeError

if TYPE_CHECKING:
    from reactstate.codec.formats import Buffer

__all__ = ["FORMAT", "decode", "encode"]

_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_JSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_BIG_INT = 1
_TOO_LARGE = 10**MAX_DIGITS

# A float64 (0xcb) of which sign and exponent are those of NaN or infinity. UTF-8 text can hold no such bytes and
# numbers rarely do, so a match is looked into and no match is proof.
_find_non_finite = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search


def encode(document: Any) -> bytes:
    """Return the MessagePack of *document*, keys in the order that they have.

    Raises:
        CodecError: *document* is not a canonical document.
    """
    try:
        data = ormsgpack.packb(document, _to_extension, _OPTIONS)
    except TypeError as exc:
        check_document(document)
        raise CodecError(f"MessagePack cannot hold this document: {exc}") from exc
    _check_types(document, data)
    return data


def decode(data: Buffer) -> Any:
    """Return the document whose MessagePack *data* is.

    Raises:
        DecodeError: ``encode`` would not have written these bytes.
    """
    if type(data) is not bytes:
        data = bytes(data)
    try:
        document = ormsgpack.unpackb(data, ext_hook=_from_extension)
        again = ormsgpack.packb(document, _to_extension, _OPTIONS)
        _check_types(document, again)
    except (ValueError, TypeError, CodecError) as exc:
        raise DecodeError(f"these bytes are not the MessagePack of a document: {exc}") from exc
    if again != data:
        raise DecodeError(
            "these bytes have trailing bytes, equal keys or longer forms than the MessagePack written here"
        )
    return document


def _check_types(document: Any, data: bytes) -> None:
    """Refuse what ormsgpack takes, though it is not a document: byte strings, extensions, fragments, NaN."""
    if _find_non_finite(data) is not None:
        check_document(document)
    try:
        orjson.dumps(document, None, _JSON_OPTIONS)
    except TypeError:
        check_document(document)


def _to_extension(value: Any) -> ormsgpack.Ext:
    if type(value) is not int or not -_TOO_LARGE < value < _TOO_LARGE:
        raise TypeError
    return ormsgpack.Ext(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _from_extension(tag: int, data: bytes) -> int:
    if tag != _BIG_INT:
        raise ValueError
    return int.from_bytes(data, "big", signed=True)


FORMAT = Format("msgpack", encode, decode, checks_types=True)
