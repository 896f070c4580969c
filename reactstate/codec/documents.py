"""What a canonical document is, and the check that a value is one.

A document is None, a bool, an int of at most MAX_DIGITS digits, a finite float, a str that UTF-8 can hold, a list of
documents, or a dict from str to documents, with at most MAX_DEPTH lists and dicts inside one another. Subclasses of
list and dict count as what they extend (published states are made of them); subclasses of the scalars do not.

MAX_DEPTH is the depth at which orjson's writer stops, so that every format takes exactly the same documents. States
nest to less than half of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from reactstate.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "check_document", "checksum", "write_json"]

MAX_DEPTH = 254
MAX_DIGITS = 4300
"""The most digits of an int: CPython's own default limit, beyond which other programs could not read the JSON."""

_TOO_LARGE = 10**MAX_DIGITS
_SMALL = 1 << 64

_Place = tuple[Any, int, "_Place | None", Any]
"""A list or dict to look into, its depth, the place that it was found in, and its key or index there."""


def check_document(document: Any) -> None:
    """Raise CodecError, saying where, unless *document* is a canonical document.

    It visits every value, without recursion, at about 60 ns each: for the edges, not for every update.

    Raises:
        CodecError: A value of another type, a non-finite float, an int of more than MAX_DIGITS digits, a string with a
            lone surrogate, a key that is not a str, or nesting beyond MAX_DEPTH (which a cycle always reaches).
    """
    root: _Place = ([document], 0, None, None)
    stack: list[_Place] = [root]
    while stack:
        place = stack.pop()
        node, depth = place[0], place[1]
        if depth > MAX_DEPTH:
            raise CodecError(
                f"the document nests more than {MAX_DEPTH} levels deep, or contains itself; store a flatter structure"
            )
        items: Iterable[tuple[Any, Any]]
        if issubclass(type(node), dict):
            mapping: dict[Any, Any] = node
            for key in mapping:
                if type(key) is not str:
                    why = f"a key of it is of type {type(key).__name__}; turn it into a str"
                    raise _refusal(place[2] or place, place[3], why)
                if not key.isascii() and _has_surrogate(key):
                    raise _refusal(place, key, "the key has a lone surrogate; remove it")
            items = mapping.items()
        else:
            elements: list[Any] = node
            items = enumerate(elements)
        for key, value in items:
            kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
            if kind is str:
                if not value.isascii() and _has_surrogate(value):
                    raise _refusal(place, key, "the string has a lone surrogate; remove it")
            elif kind is int:
                if not -_SMALL < value < _SMALL and not -_TOO_LARGE < value < _TOO_LARGE:
                    raise _refusal(place, key, f"the int has more than {MAX_DIGITS} digits; store it as bytes or text")
            elif value is None or kind is bool:
                continue
            elif kind is float:
                # inf - inf and nan - nan are nan, which differs from 0; cheaper than a call of math.isfinite
                if value - value != 0.0:
                    raise _refusal(place, key, f"{value} is not finite; store None or a string in its place")
            elif issubclass(kind, (dict, list)):
                stack.append((value, depth + 1, place, key))
            else:
                raise _refusal(
                    place, key, f"{kind.__name__} is not a document type (None, bool, int, float, str, list, dict)"
                )


def write_json(document: Any, *, sort_keys: bool = False) -> bytes:
    """Return the JSON of *document*, which must be a canonical document, with every int exact.

    Raises:
        CodecError: The interpreter's own limits (digits of an int, recursion) are set lower than the document needs.
    """
    encoder = json.JSONEncoder(
        ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys
    )
    try:
        return encoder.encode(document).encode()
    except (ValueError, RecursionError) as exc:
        raise CodecError(
            f"the interpreter refused to write the document ({exc}); "
            "raise sys.set_int_max_str_digits or call this from fewer nested calls"
        ) from exc


def checksum(document: Any) -> str:
    """Return the SHA-256 of *document* as 64 hexadecimal digits.

    It is taken over the JSON with sorted keys, no spaces, UTF-8 and floats as Python's ``repr`` writes them: the same
    for every format, order of insertion, process and version of the libraries. ``1``, ``1.0`` and ``True`` differ.

    Raises:
        CodecError: *document* is not a canonical document.
    """
    check_document(document)
    return hashlib.sha256(write_json(document, sort_keys=True)).hexdigest()


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _refusal(place: _Place, key: str | int | None, why: str) -> CodecError:
    """Return the error for the value under *key* of *place*, with the JSON pointer to it."""
    keys = [key]
    at: _Place | None = place
    while at is not None:
        keys.append(at[3])
        at = at[2]
    # the last two are the root's own index in the list around it, and that list's missing key
    parts = [
        ascii(part)[1:-1].replace("~", "~0").replace("/", "~1") if isinstance(part, str) else str(part)
        for part in reversed(keys[:-2])
    ]
    pointer = "".join(f"/{part}" for part in parts)
    return CodecError(f"not a document at {pointer or 'its root'}: {why}")
