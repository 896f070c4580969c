"""Documents as JSON: orjson for nearly all of them, the standard library for what orjson cannot do exactly.

Writing: ints beyond 64 bits, which orjson refuses, are written by the standard library. orjson writes a non-finite
float as ``null``, so a document is searched for one whenever its JSON has a ``null`` that is not accounted for. For
the sake of speed the types are not looked at: tuples, enums, UUIDs and ``orjson.Fragment`` pass as the JSON that orjson
makes of them (``check_document`` refuses them).

Reading: orjson turns ints beyond 64 bits into floats and drops all but the last of equal keys, without a word. So what
it read is written again: where that gives the same bytes, nothing was lost; where not, the standard library reads the
bytes and refuses equal keys. Bytes of other JSON writers are accepted as long as their meaning is certain.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from reactstate.codec.documents import check_document, write_json
from reactstate.codec.formats import Format
from reactstate.errors import CodecError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reactstate.codec.formats import Buffer

__all__ = ["FORMAT", "decode", "encode"]

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def encode(document: Any) -> bytes:
    """Return the JSON of *document*, keys in the order that they have.

    Raises:
        CodecError: JSON cannot hold it: a non-finite float, a type without a JSON form, a key that is not a str, an
            int of more than MAX_DIGITS digits, a lone surrogate, nesting beyond MAX_DEPTH.
    """
    try:
        data = orjson.dumps(document, None, _OPTIONS)
    except TypeError:
        check_document(document)
        return write_json(document)
    nulls = data.count(b"null")
    if nulls and nulls != _count_none(document) and not _is_finite(document):
        check_document(document)
    return data


def decode(data: Buffer) -> Any:
    """Return the document whose JSON *data* is.

    Raises:
        DecodeError: It is not JSON, has equal keys, non-finite floats, lone surrogates, too large ints or too deep
            nesting.
    """
    if type(data) is not bytes:
        data = bytes(data)
    try:
        document = orjson.loads(data)
        if orjson.dumps(document, None, _OPTIONS) == data:
            return document
    except (ValueError, TypeError):
        # out of orjson's range one way or the other; the careful reader has the last word
        pass
    return _decode_exactly(data)


def _count_none(document: Any) -> int:
    """Return how many of the outermost values of *document* are None.

    Each of them gives one ``null``, and so does each non-finite float: where the counts agree, there is none of those.
    That spares the walk for flat documents and for records with a few fields that are None.
    """
    kind: type[Any] = type(document)  # pyright: ignore[reportUnknownVariableType]
    if issubclass(kind, list):
        outermost: list[Any] = document
    elif issubclass(kind, dict):
        outermost = list(document.values())
    else:
        outermost = [document]
    return outermost.count(None)


def _is_finite(document: Any) -> bool:
    """Return whether no float in *document*, which orjson has written, is NaN or infinite."""
    # the list grows while it is walked; a scalar gets a list around it, to be looked at like any other
    nodes: list[Any] = [document if issubclass(type(document), (dict, list)) else [document]]
    for node in nodes:
        node_kind: type[Any] = type(node)  # pyright: ignore[reportUnknownVariableType]
        values: Iterable[Any]
        if node_kind is dict or issubclass(node_kind, dict):
            values = node.values()
        elif node_kind is list or issubclass(node_kind, (list, tuple)):
            values = node
        else:
            continue
        for value in values:
            kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
            if kind is str or kind is int or value is None:
                continue
            if kind is float:
                if value - value != 0.0:
                    return False
            elif kind is not bool:
                nodes.append(value)
    return True


def _decode_exactly(data: bytes) -> Any:
    try:
        document = _READER.decode(data.decode())
        check_document(document)
    except (ValueError, RecursionError, CodecError) as exc:
        raise DecodeError(f"these bytes are not the JSON of a document: {exc}") from exc
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DecodeError("an object has the same key twice, so that its meaning is not certain")
    return found


# NaN and the infinities become floats here and are refused, with their place, by check_document
_READER = json.JSONDecoder(object_pairs_hook=_unique)

FORMAT = Format("json", encode, decode, checks_types=False)
