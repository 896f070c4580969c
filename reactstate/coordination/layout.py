"""Where a coordination store keeps what, and how text becomes bytes.

Layout
    Everything is under ``~coord/<namespace>/``: entries under ``key/``, members of groups under ``member/``, due items
    under ``due/<kind>/<time as 20 digits>/`` with one entry each under ``at/<kind>/`` that tells where, marks under
    ``mark/``.

    A value is the text in UTF-8, so that a counter is plain digits. One that was written only if nothing was there
    begins with a label: a byte 1 and the writer's operation, by which the writer knows its own entry again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from reactstate.errors import CodecError, DecodeError, InvalidKeyError
from reactstate.kv.keys import StateKey

if TYPE_CHECKING:
    from reactstate.coordination.results import DueKind
    from reactstate.kv.protocol import Entry

__all__ = ["LABEL_BYTES", "Layout", "bears_label", "check_text", "encode", "encode_labelled", "is_number", "text_of"]

_MARK: Final = b"\x01"
LABEL_BYTES: Final = 13
"""The bytes of a label: the byte 1, eight of the writer, four of its operation."""

_UNKNOWN: Final = _MARK + bytes(LABEL_BYTES - 1)
_TIME_DIGITS: Final = 20


class Layout:
    """The keys of one namespace.

    Args:
        namespace: Stores of different namespaces have nothing in common.

    Attributes:
        keys: What the keys of all entries begin with.
    """

    __slots__ = ("_root", "keys")

    def __init__(self, namespace: str) -> None:
        self._root = StateKey.prefix("~coord", namespace)
        self.keys: str = self._root + "key/"

    def key(self, key: StateKey) -> str:
        """Return where the entry of *key* is.

        Raises:
            InvalidKeyError: It is no StateKey.
        """
        return self.keys + self.text(key)

    @staticmethod
    def text(key: StateKey) -> str:
        """Return the text of *key*.

        Raises:
            InvalidKeyError: It is no StateKey.
        """
        if not isinstance(key, StateKey):  # pyright: ignore[reportUnnecessaryIsInstance] - keys come from callers
            raise InvalidKeyError(f"a key is a StateKey(namespace, tenant, kind, id), not a {type(key).__name__}")
        return key._text

    def parse(self, name: str) -> StateKey:
        """Return the key whose entry is at *name*."""
        return StateKey.parse(name[len(self.keys) :])

    def mark(self, writer: str, number: int) -> str:
        """Return where a writer's mark is."""
        return f"{self._root}mark/{writer}/{number}"

    def members(self, group: StateKey) -> str:
        """Return what the keys of all members of *group* begin with."""
        return f"{self._root}member/{self.text(group)}/"

    def due(self, kind: DueKind) -> str:
        """Return what the places of all items of an index begin with."""
        return f"{self._root}due/{kind}/"

    def place(self, kind: DueKind, time_ms: int, text: str) -> str:
        """Return the place of an item in an index."""
        return f"{self._root}due/{kind}/{time_ms:0{_TIME_DIGITS}d}/{text}"

    def item(self, kind: DueKind, place: str) -> str:
        """Return the text of the key of the item at *place*."""
        return place[len(self.due(kind)) + _TIME_DIGITS + 1 :]

    def time_of(self, kind: DueKind, place: str) -> int:
        """Return the time of *place*, in milliseconds."""
        begin = len(self.due(kind))
        return int(place[begin : begin + _TIME_DIGITS])

    def pointer(self, kind: DueKind, text: str) -> str:
        """Return where it is kept at which place an item is."""
        return f"{self._root}at/{kind}/{text}"


def check_text(value: Any, what: str) -> None:
    """Refuse what is no text.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is text, not a {type(value).__name__}; a time to live goes by name: ttl=...")


def encode(text: str) -> bytes:
    """Return the bytes of *text*.

    Raises:
        TypeError: It is no text.
        CodecError: It holds a lone surrogate.
    """
    check_text(text, "a value")
    try:
        data = text.encode()
    except UnicodeEncodeError as exc:
        raise CodecError(f"the value {text[:40]!r} holds a lone surrogate, which cannot be stored") from exc
    return _UNKNOWN + data if data[:1] == _MARK else data


def encode_labelled(text: str, label: bytes) -> bytes:
    """Return the bytes of *text* with a label, or bare if it could be a counter; it raises as ``encode`` does."""
    if not text:
        return label
    data = encode(text)
    if is_number(data):
        return data
    return label + (data if data[:1] != _MARK else data[LABEL_BYTES:])


def bears_label(entry: Entry) -> bool:
    """Say whether *entry* tells which operation wrote it."""
    return entry.value[:1] == _MARK and entry.value[:LABEL_BYTES] != _UNKNOWN


def is_number(data: bytes) -> bool:
    """Say whether *data* could be a counter, which bears no label."""
    return data.removeprefix(b"-").isdigit()


def text_of(entry: Entry) -> str:
    """Return the text that *entry* keeps.

    Raises:
        DecodeError: It keeps none.
    """
    value = entry.value
    try:
        return value[LABEL_BYTES:].decode() if value[:1] == _MARK else value.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError(f"what is stored under {entry.key!r} is no text; it was left as it is") from exc
