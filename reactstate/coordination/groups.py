"""Groups: sets of members, each an entry of its own, so that groups of any size cost the same to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reactstate.errors import InvalidKeyError
from reactstate.kv.keys import StateKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reactstate.kv.protocol import Entry

__all__ = ["as_part", "member_part", "members_of"]


def as_part(text: str) -> str:
    """Return *text* as it is written in a key, so that a prefix of it stays one.

    Raises:
        InvalidKeyError: It is no text.
    """
    return StateKey.prefix(text)[:-1]


def member_part(member: Any) -> str:
    """Return *member* as the last part of a key.

    Raises:
        InvalidKeyError: It is no text, or empty.
    """
    if not isinstance(member, str) or not member:
        raise InvalidKeyError(f"a member of a group is text that is not empty, not {member!r}")
    return as_part(member)


async def members_of(entries: AsyncIterator[Entry], prefix: str) -> AsyncIterator[str]:
    """Iterate over the members whose entries these are, under *prefix*."""
    async for entry in entries:
        yield entry.key[len(prefix) :].replace("%2F", "/").replace("%25", "%")
