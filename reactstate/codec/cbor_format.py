"""Documents as CBOR (RFC 8949), with ints beyond 64 bits as bignums (tags 2 and 3).

Every document is checked value by value in both directions: cbor2 writes and reads far more types than documents
have, and its writer overflows the stack on documents of great depth. All other tags are refused before their content
is interpreted, as some of them cost unbounded time or memory.
"""

from __future__ import annotations

import io
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reactstate.codec.documents import MAX_DEPTH, check_document
from reactstate.codec.formats import Format
from reactstate.errors import CodecError, DecodeError

if TYPE_CHECKING:
    from reactstate.codec.formats import Buffer

__all__ = ["FORMAT", "decode", "encode"]

# imported by name because its compiled part has no type information
_cbor2: Any = import_module("cbor2")

# fmt: off
_FOREIGN_TAGS = (
    0, 1, 4, 5, 21, 22, 23, 24, 25, 28, 29, 30, 32, 33, 34, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000,
    55799,
)
# fmt: on


def encode(document: Any) -> bytes:
    """Return the CBOR of *document*, keys in the order that they have.

    Raises:
        CodecError: *document* is not a canonical document.
    """
    check_document(document)
    data: bytes = _cbor2.dumps(document)
    return data


def decode(data: Buffer) -> Any:
    """Return the document whose CBOR *data* is.

    Raises:
        DecodeError: It is not CBOR, has trailing bytes, equal keys, values that are not of a document type, too large
            ints or too deep nesting.
    """
    decoder = _cbor2.CBORDecoder(
        io.BytesIO(data),
        tag_hook=_refuse_tag,
        semantic_decoders=_DECODERS,
        max_depth=MAX_DEPTH + 1,  # the tag of a bignum counts as a level
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
    try:
        document = decoder.decode()
        check_document(document)
    except (_cbor2.CBORError, CodecError, ValueError) as exc:
        raise DecodeError(f"these bytes are not the CBOR of a document: {exc}") from exc
    try:
        decoder.read(1)
    except _cbor2.CBORDecodeEOF:
        return document
    raise DecodeError("bytes follow the CBOR of the document")


def _refuse_tag(*_: Any) -> Any:
    raise DecodeError("it has a tag that documents do not use")


_DECODERS = dict.fromkeys(_FOREIGN_TAGS, _refuse_tag)

FORMAT = Format("cbor", encode, decode, checks_types=True)
