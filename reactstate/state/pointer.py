"""JSON Pointers (RFC 6901): the text form of the way from a document's root to one of its parts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from reactstate.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["escape", "join", "split"]

_BAD_ESCAPE: Final = re.compile("~(?![01])")


def escape(token: str) -> str:
    """Return *token* as it is written inside a pointer: ``~`` as ``~0`` and ``/`` as ``~1``."""
    if "~" in token:
        token = token.replace("~", "~0")
    return token.replace("/", "~1") if "/" in token else token


def join(tokens: Iterable[str | int]) -> str:
    """Return the pointer made of *tokens*, which are keys and list indexes as they are, not escaped."""
    return "".join(f"/{escape(str(token))}" for token in tokens)


def split(pointer: str) -> list[str]:
    """Return the tokens of *pointer*, unescaped; those of ``""``, the whole document, are ``[]``.

    Raises:
        PatchError: *pointer* is not a str, does not start with ``/``, or has a ``~`` without 0 or 1 after it.
    """
    if not isinstance(pointer, str):  # pyright: ignore[reportUnnecessaryIsInstance] - patches come from outside
        raise PatchError(f"a pointer must be a str, not {type(pointer).__name__}")
    if not pointer:
        return []
    if pointer[0] != "/":
        raise PatchError(f"the pointer {pointer!r} must be empty or start with '/'")
    if "~" not in pointer:
        return pointer[1:].split("/")
    if _BAD_ESCAPE.search(pointer):
        raise PatchError(f"the pointer {pointer!r} has a '~' that is not followed by 0 or 1; write '~' as '~0'")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]
