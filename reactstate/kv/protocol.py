"""The key-value store protocol: reads, one atomic write operation, and a watch over what was written.

Contract
    ``commit`` is the one write operation: at most one step a key, all or nothing, strictly serialisable among the
    commits of one store. Every expectation is checked before anything is written. What it acknowledges is as durable
    as the store's ``durability`` says, and visible to every read that begins afterwards.

    A revision comes from one counter a store. Each commit that changes something takes one; it is never issued
    twice, and it grows with each write of a key, deletes and expiry included.

    An expired entry is invisible to every read and expectation at once, whoever removes it later.

Keys and values
    Keys are text, ordered by their UTF-8 bytes, which is Python's own order of ``str``. A prefix is data: no sign in
    it has a meaning of its own. Values are bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NewType, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime, timedelta
    from typing import Self

__all__ = [
    "ABSENT",
    "ANY",
    "Add",
    "Batch",
    "Capability",
    "Commit",
    "Cursor",
    "Delete",
    "Entry",
    "Event",
    "EventKind",
    "Expectation",
    "Expected",
    "Limits",
    "Operation",
    "Put",
    "RangeExpect",
    "ReadView",
    "Step",
    "Ttl",
    "Watch",
]


class Capability(StrEnum):
    """What an engine promises; layers ask for what they need when they are opened."""

    CAS = "CAS"
    """A step's expectation is checked atomically with its write."""
    TRANSACTIONS = "TRANSACTIONS"
    """A commit of several keys is all or nothing."""
    RANGE_EXPECT = "RANGE_EXPECT"
    """A commit can expect that nothing in a range of keys was written or removed."""
    SNAPSHOT_READS = "SNAPSHOT_READS"
    """``snapshot`` gives a view of one revision that later commits do not touch."""
    WATCH = "WATCH"
    """``watch`` tells of every commit, and resumes after a cursor."""
    TOTAL_ORDER = "TOTAL_ORDER"
    """Events come in one order over all keys."""
    TTL = "TTL"
    """Entries expire by themselves."""
    LOCKS = "LOCKS"
    """Leases exclude each other."""
    FENCING = "FENCING"
    """A revision is never issued twice, not even after a failover, so that it can be a fencing token."""
    DURABLE = "DURABLE"
    """What is acknowledged survives the process."""
    SHARED = "SHARED"
    """Several processes may use one store at a time."""
    LINEARIZABLE_READS = "LINEARIZABLE_READS"
    """A read sees every commit that was acknowledged before it began."""


class Limits:
    """The largest sizes that an engine takes; more is refused before anything is sent.

    Attributes:
        max_key_bytes: Of a key, as UTF-8.
        max_value_bytes: Of a value.
        max_steps: Steps (and ranges) of one commit.
        max_commit_bytes: Keys and values of one commit together.
    """

    __slots__ = ("max_commit_bytes", "max_key_bytes", "max_steps", "max_value_bytes")

    def __init__(self, max_key_bytes: int, max_value_bytes: int, max_steps: int, max_commit_bytes: int) -> None:
        self.max_key_bytes: int = max_key_bytes
        self.max_value_bytes: int = max_value_bytes
        self.max_steps: int = max_steps
        self.max_commit_bytes: int = max_commit_bytes

    def __repr__(self) -> str:
        return (
            f"Limits(max_key_bytes={self.max_key_bytes}, max_value_bytes={self.max_value_bytes}, "
            f"max_steps={self.max_steps}, max_commit_bytes={self.max_commit_bytes})"
        )


class Expected(Enum):
    """The expectations that are no revision."""

    ANY = "ANY"
    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return self.name


ANY: Final[Literal[Expected.ANY]] = Expected.ANY
"""Expects nothing."""
ABSENT: Final[Literal[Expected.ABSENT]] = Expected.ABSENT
"""Expects that there is no entry (an expired one is none)."""

Expectation: TypeAlias = Expected | int
"""``ANY``, ``ABSENT``, or the revision that the entry must have."""

Ttl: TypeAlias = "timedelta | float"
"""How long an entry lives: a timedelta, or seconds; more than 0, exact to the millisecond (rounded up)."""

Cursor = NewType("Cursor", str)
"""A place in the events of one store, which it names; opaque."""


class _Value:
    """A record that is equal to another of its class with the same members."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self.__slots__)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Put(_Value):
    """Write *value*, in place of what is there.

    Args:
        value: The bytes.
        ttl: How long the entry lives; None: until it is deleted, which also clears an earlier TTL.
    """

    __slots__ = ("ttl", "value")

    def __init__(self, value: bytes, ttl: Ttl | None = None) -> None:
        self.value: bytes = value
        self.ttl: Ttl | None = ttl

    def __repr__(self) -> str:
        return f"Put(<{len(self.value)} bytes>, ttl={self.ttl!r})"


class Delete(_Value):
    """Remove the entry; removing what is absent changes nothing and takes no revision."""

    __slots__ = ()


class Add(_Value):
    """Add *delta* to a counter, the decimal text of a signed 64-bit integer; an absent one is created from 0.

    Args:
        delta: What is added; may be negative.
        ttl: How long the entry lives if this creates it; an existing one keeps the TTL that it has.
    """

    __slots__ = ("delta", "ttl")

    def __init__(self, delta: int, ttl: Ttl | None = None) -> None:
        self.delta: int = delta
        self.ttl: Ttl | None = ttl


Operation: TypeAlias = Put | Delete | Add


class Step(_Value):
    """What a commit does with one key, and what it expects there.

    Args:
        key: The key.
        op: ``Put``, ``Delete``, ``Add``, or None to check the expectation only.
        expect: ``ANY``, ``ABSENT``, or a revision.
    """

    __slots__ = ("expect", "key", "op")

    def __init__(self, key: str, op: Operation | None = None, expect: Expectation = ANY) -> None:
        self.key: str = key
        self.op: Operation | None = op
        self.expect: Expectation = expect


class RangeExpect(_Value):
    """Expects that no key in ``[start, end)`` was written or removed after *revision*.

    Args:
        start: The first key of the range.
        end: The first key after it; None: the range has no end.
        revision: The revision at which the range was read.
    """

    __slots__ = ("end", "revision", "start")

    def __init__(self, start: str, end: str | None, revision: int) -> None:
        self.start: str = start
        self.end: str | None = end
        self.revision: int = revision


class Entry(_Value):
    """What is stored under one key.

    Attributes:
        key: The key.
        value: The bytes.
        revision: The revision of the commit that wrote it.
        expires_at: When it expires (aware UTC), or None.
    """

    __slots__ = ("expires_at", "key", "revision", "value")

    def __init__(self, key: str, value: bytes, revision: int, expires_at: datetime | None = None) -> None:
        self.key: str = key
        self.value: bytes = value
        self.revision: int = revision
        self.expires_at: datetime | None = expires_at

    def __repr__(self) -> str:
        until = "" if self.expires_at is None else f", expires_at={self.expires_at.isoformat()}"
        return f"Entry({self.key!r}, <{len(self.value)} bytes>, revision={self.revision}{until})"


class Commit(_Value):
    """What a commit made.

    Attributes:
        revision: Its revision; of one that changed nothing, the store's newest.
        entries: The entries that it wrote (``Put`` and ``Add``), by key.
    """

    __slots__ = ("entries", "revision")

    def __init__(self, revision: int, entries: dict[str, Entry]) -> None:
        self.revision: int = revision
        self.entries: dict[str, Entry] = entries

    __hash__: ClassVar[None] = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] - it holds a dict


class EventKind(StrEnum):
    """What happened to a key."""

    PUT = "PUT"
    DELETE = "DELETE"
    EXPIRE = "EXPIRE"


class Event(_Value):
    """One key of one commit; events carry no values.

    Attributes:
        key: The key.
        kind: ``PUT``, ``DELETE`` or ``EXPIRE``.
        revision: The revision of the commit.
        cursor: The place right after this event, to resume from.
    """

    __slots__ = ("cursor", "key", "kind", "revision")

    def __init__(self, key: str, kind: EventKind, revision: int, cursor: Cursor) -> None:
        self.key: str = key
        self.kind: EventKind = kind
        self.revision: int = revision
        self.cursor: Cursor = cursor


class Watch(Protocol):
    """An iterator over events; an asynchronous generator is one.

    ``aclose`` ends it; closing the store ends it with ``StopAsyncIteration`` too.
    """

    def __aiter__(self) -> Self:
        """Return itself."""
        ...

    async def __anext__(self) -> Event:
        """Return the next event, as soon as there is one.

        Raises:
            CompactedError: The place that it is at is older than the change log; ``resume`` is a cursor that is not.
        """
        ...

    async def aclose(self) -> None:
        """End it; a second call does nothing."""
        ...


class Batch:
    """A run of entries in key order, by columns: what checkpoints are made of.

    Attributes:
        keys: The keys.
        values: Their values.
        revisions: Their revisions; none if they were not asked for.
        deadlines: When they expire, in milliseconds since 1970 (UTC); 0: never.
    """

    __slots__ = ("deadlines", "keys", "revisions", "values")

    def __init__(self, keys: list[str], values: list[bytes], revisions: list[int], deadlines: list[int]) -> None:
        self.keys: list[str] = keys
        self.values: list[bytes] = values
        self.revisions: list[int] = revisions
        self.deadlines: list[int] = deadlines


class ReadView(ABC):
    """The store as it was at one revision; later commits do not touch it.

    Attributes:
        revision: That revision. An entry that had not expired when the view was taken stays visible in it.
        cursor: The place in the events right after that revision: watching from it misses nothing.
    """

    revision: int
    cursor: Cursor

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None."""

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that there are, by key."""
        found = {key: await self.get(key) for key in keys}
        return {key: entry for key, entry in found.items() if entry is not None}

    @abstractmethod
    def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        """Iterate over the entries in key order; see ``KeyValueStore.scan``."""

    async def batches(self, size: int = 10_000, *, revisions: bool = True) -> AsyncIterator[Batch]:
        """Iterate over everything in key order, by columns of up to *size* entries.

        Args:
            size: How many entries at most.
            revisions: Whether their revisions are wanted too; else that column is empty.
        """
        from reactstate.kv.terms import deadline_of

        batch = Batch([], [], [], [])
        async for entry in self.scan():
            batch.keys.append(entry.key)
            batch.values.append(entry.value)
            if revisions:
                batch.revisions.append(entry.revision)
            batch.deadlines.append(deadline_of(entry))
            if len(batch.keys) == size:
                yield batch
                batch = Batch([], [], [], [])
        if batch.keys:
            yield batch
