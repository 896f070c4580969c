"""What a coordination store answers with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from reactstate.clock import to_datetime
from reactstate.kv.protocol import Step, _Value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from reactstate.kv.keys import StateKey
    from reactstate.kv.protocol import Cursor, EventKind
    from reactstate.kv.store import KeyValueStore

__all__ = ["CasResult", "Claim", "DueKind", "KeyChange", "Stored"]

DueKind: TypeAlias = Literal["timeout", "chain"]
"""Which index an item is in."""

_NS_PER_MS: Final = 1_000_000


class Stored(_Value):
    """What is stored under a key.

    Attributes:
        value: The text.
        version: Its version, which grows with each write of the key and never repeats.
        expires_at: When it expires (aware UTC), or None.
    """

    __slots__ = ("expires_at", "value", "version")

    def __init__(self, value: str, version: int, expires_at: datetime | None = None) -> None:
        self.value: str = value
        self.version: int = version
        self.expires_at: datetime | None = expires_at

    def __repr__(self) -> str:
        until = "" if self.expires_at is None else f", expires_at={self.expires_at.isoformat()}"
        return f"Stored({self.value!r}, version={self.version}{until})"


class CasResult(_Value):
    """What became of a compare-and-swap; it is true when the swap was made.

    Attributes:
        swapped: Whether it was made.
        version: The version that is there now: the new one, or the one that stood in the way; 0: there is no entry.
        value: The text that is there now, or None.
    """

    __slots__ = ("swapped", "value", "version")

    def __init__(self, swapped: bool, version: int, value: str | None) -> None:
        self.swapped: bool = swapped
        self.version: int = version
        self.value: str | None = value

    def __bool__(self) -> bool:
        return self.swapped

    def __repr__(self) -> str:
        return f"CasResult(swapped={self.swapped}, version={self.version}, value={self.value!r})"


class Claim:
    """A due item that is the caller's for the time of a lease.

    It is a guard: a commit, update or transaction with ``guard=claim`` is refused once another has the item.

    Attributes:
        key: The item.
        due_at: When it became due (aware UTC).
        step: What was indexed with it; None: nothing was.
        token: A fencing token: it grows with each claim of the item, and never repeats.
        leased_until: When the item goes to the next (aware UTC), unless it was completed by then.
        kind: ``"timeout"`` or ``"chain"``.
        store: Where the item is.
    """

    __slots__ = ("due_ms", "key", "kind", "place", "step", "store", "token", "until_ms")

    def __init__(
        self,
        store: KeyValueStore,
        kind: DueKind,
        key: StateKey,
        step: str | None,
        token: int,
        due_ms: int,
        until_ms: int,
        place: str,
    ) -> None:
        self.store: KeyValueStore = store
        self.kind: DueKind = kind
        self.key: StateKey = key
        self.step: str | None = step
        self.token: int = token
        self.due_ms: int = due_ms
        self.until_ms: int = until_ms
        self.place: str = place

    @property
    def due_at(self) -> datetime:
        """When the item became due."""
        return to_datetime(self.due_ms * _NS_PER_MS)

    @property
    def leased_until(self) -> datetime:
        """When the item goes to the next."""
        return to_datetime(self.until_ms * _NS_PER_MS)

    def expectations(self) -> Sequence[Step]:
        """Return what a commit must expect so that it is refused once the item is another's."""
        return (Step(self.place, None, self.token),)

    def __repr__(self) -> str:
        step = "" if self.step is None else f", step={self.step!r}"
        return f"Claim({self.kind}, {self.key!r}{step}, due_at={self.due_at.isoformat()}, token={self.token})"


class KeyChange(_Value):
    """What was done to a key; ``get`` tells what is there now.

    Attributes:
        key: The key.
        kind: ``PUT``, ``DELETE`` or ``EXPIRE``.
        version: The version that a ``PUT`` made; for the others the revision of the removal.
        cursor: Where ``subscribe(since=...)`` goes on after this change, also in another process.
    """

    __slots__ = ("cursor", "key", "kind", "version")

    def __init__(self, key: StateKey, kind: EventKind, version: int, cursor: Cursor) -> None:
        self.key: StateKey = key
        self.kind: EventKind = kind
        self.version: int = version
        self.cursor: Cursor = cursor

    def __repr__(self) -> str:
        return f"KeyChange({self.kind}, {self.key!r}, version={self.version})"
