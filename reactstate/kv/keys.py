"""StateKey: a key of four parts, none of which can escape into its neighbour.

Encoding
    The parts are joined by ``/``. In a part, ``%`` is written ``%25`` and ``/`` is written ``%2F``; everything else
    stays as it is, so that plain names read well. An empty part is legal. The encoding keeps parts apart, and a
    prefix of parts is a prefix of the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.errors import InvalidKeyError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["StateKey"]

_PARTS = 4


class StateKey:
    """A key of a namespace, a tenant, a kind and an id.

    Args:
        namespace: Whose keys these are; layers of reactstate use those that begin with ``~``.
        tenant: For whom.
        kind: Of what.
        id: Which one.

    Example:
        >>> str(StateKey("shop", "acme", "order", "2026/17"))
        'shop/acme/order/2026%2F17'
        >>> StateKey.parse("shop/acme/order/2026%2F17").id
        '2026/17'
    """

    __slots__ = ("_text", "id", "kind", "namespace", "tenant")

    def __init__(self, namespace: str, tenant: str, kind: str, id: str) -> None:  # noqa: A002 - the public name
        if not (type(namespace) is type(tenant) is type(kind) is type(id) is str):
            for name, part in (("namespace", namespace), ("tenant", tenant), ("kind", kind), ("id", id)):
                if not isinstance(part, str):  # pyright: ignore[reportUnnecessaryIsInstance] - parts come from callers
                    raise InvalidKeyError(f"the {name} of a key is text, not a {type(part).__name__}")
        self.namespace: str = namespace
        self.tenant: str = tenant
        self.kind: str = kind
        self.id: str = id
        # Layers that look keys up all day read the text; it is put together once.
        text = f"{namespace}/{tenant}/{kind}/{id}"
        if "%" in text or text.count("/") != _PARTS - 1:
            text = "/".join(map(_escape, (namespace, tenant, kind, id)))
        self._text: str = text

    def __str__(self) -> str:
        return self._text

    @staticmethod
    def prefix(*parts: str) -> str:
        """Return what all keys with these first parts start with; without any part, the empty text.

        Raises:
            InvalidKeyError: A part is no text, or there are more than three.

        Example:
            >>> StateKey.prefix("shop", "acme")
            'shop/acme/'
        """
        if len(parts) >= _PARTS:
            raise InvalidKeyError("a prefix is made of up to three parts: namespace, tenant, kind")
        for part in parts:
            if not isinstance(part, str):  # pyright: ignore[reportUnnecessaryIsInstance] - parts come from callers
                raise InvalidKeyError(f"a part of a key is text, not a {type(part).__name__}")
        return "".join(f"{_escape(part)}/" for part in parts)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that *text* is the encoding of.

        Raises:
            InvalidKeyError: It is none.
        """
        parts = text.split("/")
        if len(parts) != _PARTS:
            raise InvalidKeyError(f"{text[:60]!r} is not a key of namespace, tenant, kind and id")
        found = cls(*(part.replace("%2F", "/").replace("%25", "%") for part in parts))
        if str(found) != text:
            raise InvalidKeyError(f"{text[:60]!r} is not the encoding of a key")
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateKey) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"StateKey({self.namespace!r}, {self.tenant!r}, {self.kind!r}, {self.id!r})"


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F") if "%" in part or "/" in part else part
