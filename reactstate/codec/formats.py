"""The formats by name and by the number that envelopes hold; each one's library is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reactstate.codec.extras import missing_extra
from reactstate.errors import DecodeError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORMATS", "Buffer", "Format", "load_format", "load_format_number"]

Buffer = bytes | bytearray | memoryview

FORMATS = ("json", "msgpack", "cbor")
"""The names of all formats; each needs the extra of its name, but json, which is always there."""

_NUMBERS = {"json": 1, "msgpack": 2, "cbor": 3}
_loaded: dict[str, Format] = {}


class Format:
    """One way to write documents.

    Attributes:
        name: Its name in FORMATS.
        number: Its number in envelopes; never given to another format.
        encode: Document to bytes; raises CodecError.
        decode: Bytes to document; raises DecodeError.
        checks_types: Whether ``encode`` refuses every value that is not of a document type, rather than writing a few
            of them as their nearest document.
    """

    __slots__ = ("checks_types", "decode", "encode", "name", "number")

    def __init__(
        self,
        name: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[Buffer], Any],
        *,
        checks_types: bool,
    ) -> None:
        self.name: str = name
        self.number: int = _NUMBERS[name]
        self.encode: Callable[[Any], bytes] = encode
        self.decode: Callable[[Buffer], Any] = decode
        self.checks_types: bool = checks_types


def load_format(name: str) -> Format:
    """Return the format called *name*.

    Raises:
        SettingsError: There is none of that name.
        UnsupportedError: Its library is not installed.
    """
    try:
        return _loaded[name]
    except KeyError:
        pass
    if name not in FORMATS:
        raise SettingsError(f"unknown format {name!r}; choose one of {', '.join(FORMATS)}")
    try:
        module = import_module(f"reactstate.codec.{name}_format")
    except ImportError as exc:
        raise missing_extra(name, name) from exc
    found: Format = module.FORMAT
    _loaded[name] = found
    return found


def load_format_number(number: int) -> Format:
    """Return the format whose number in envelopes is *number*.

    Raises:
        DecodeError: There is none of that number.
        UnsupportedError: Its library is not installed.
    """
    for name, known in _NUMBERS.items():
        if known == number:
            return load_format(name)
    raise DecodeError(f"unknown format number {number}; read this with a newer version of reactstate")
