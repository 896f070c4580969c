"""Appending to a persistence over a store: records as one commit, and what became of it when its reply is lost.

Contract
    All records of one append are in one commit with the head, or nothing is. Whether a commit whose reply was lost was
    applied is told by the id of its first change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reactstate.errors import ConflictError, LeaseLostError, LimitExceededError, UnknownOutcomeError
from reactstate.kv.protocol import ABSENT, Put, Step
from reactstate.persistence.kv_chunks import new_id
from reactstate.persistence.kv_head import Move
from reactstate.persistence.kv_layout import Base, Head, damaged_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.clock import Clock
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard
    from reactstate.persistence.kv_head import HeadEntry
    from reactstate.persistence.kv_layout import Layout
    from reactstate.persistence.protocol import Record, SchemaTag

__all__ = ["Appender", "Batch"]

_ROOM: Final = 64
"""Bytes by which a head may grow between the check of an append and its commit."""


class Batch:
    """The records of one append, encoded.

    Attributes:
        first: The version of the first record.
        change_id: The id of its change.
        last: The last record.
        created_ns: When the newest CREATE among them was, or None.
        schema: Their schema tag.
        steps: One for each.
        size: The bytes of keys and values.
        basis: The head that *move* leads on from.
        move: Where the commit leads, if that is still the head.
    """

    __slots__ = ("basis", "change_id", "created_ns", "first", "last", "move", "schema", "size", "steps")

    basis: Head | None
    move: Move

    def __init__(self, records: Sequence[Record], schema: SchemaTag, steps: list[Step], size: int) -> None:
        self.first: int = records[0].version
        self.change_id: str = records[0].change_id
        self.last: Record = records[-1]
        created = [record.timestamp_ns for record in records if record.kind == "create"]
        self.created_ns: int | None = created[-1] if created else None
        self.schema: SchemaTag = schema
        self.steps: list[Step] = steps
        self.size: int = size


class Appender:
    """Appends to one key."""

    __slots__ = ("_clock", "_head", "_layout", "_store")

    def __init__(self, store: KeyValueStore, layout: Layout, head: HeadEntry, clock: Clock) -> None:
        self._store = store
        self._layout = layout
        self._head = head
        self._clock = clock

    def batch(self, records: Sequence[Record], schema: SchemaTag) -> Batch:
        """Encode *records*, and see that they fit into one commit.

        Raises:
            CodecError: A record cannot be encoded.
            LimitExceededError: They do not fit.
            ValueError: Their versions do not follow one another.
        """
        limits = self._store.limits
        if len(records) >= limits.max_steps:
            raise LimitExceededError(
                f"{len(records)} records do not fit into one commit of this store; append fewer",
                limit=limits.max_steps - 1,
                actual=len(records),
            )
        expected = records[0].version
        encode = self._layout.encode_record
        steps: list[Step] = []
        size = 0
        for record in records:
            if record.version != expected:
                raise ValueError(f"record {record.version} stands where {expected} should: versions have no gaps")
            expected += 1
            key, value = encode(record)
            _check_size(len(value), limits.max_value_bytes, f"version {record.version}")
            size += len(key) + len(value)
            steps.append(Step(key, Put(value), ABSENT))
        batch = Batch(records, schema, steps, size)
        batch.basis = self._head.known
        batch.move = self._move(batch.basis, batch)
        head = len(batch.move.value) + _ROOM
        _check_size(head, limits.max_value_bytes, f"what is said of version {expected - 1}")
        _check_size(size + head + len(self._layout.head), limits.max_commit_bytes, f"a group of {len(records)} records")
        return batch

    def _move(self, head: Head | None, batch: Batch) -> Move:
        """Return the way from *head* to the one after *batch*."""
        last = batch.last
        created_ns = batch.created_ns
        if head is None:
            bases: Sequence[Base] = (Base(new_id(self._clock), 0, 0, 0, dict(batch.schema)),)
            grown = batch.size
            created_ns = last.timestamp_ns if created_ns is None else created_ns
        else:
            bases = head.bases
            grown = head.grown + batch.size
            created_ns = head.created_ns if created_ns is None else created_ns
        new = Head(last.version, last.change_id, created_ns, last.timestamp_ns, last.tags, grown, bases)
        return Move(new, self._layout.encode_head(new), batch.steps)

    async def append(self, batch: Batch, moved: Callable[[Head | None], bool], guard: Guard | None = None) -> Head:
        """Commit *batch*, and return the head that it made, or one that came after it.

        Args:
            batch: What to commit.
            moved: Says whether a head tells of another state than the batch was made upon.
            guard: What must hold its lock.

        Raises:
            ConflictError: The records do not follow the head; nothing was written.
            LeaseLostError: *guard* holds its lock no longer; nothing was written.
            UnavailableError: The store stayed out of reach until the deadline; nothing was written.
            UnknownOutcomeError: The store did not answer until the deadline.
        """
        guarded: set[str] = set()

        def plan(head: Head | None) -> Move:
            version = 0 if head is None else head.version
            if batch.first != version + 1 or moved(head):
                raise ConflictError(
                    f"what is stored is at version {version}, and not what the records from version {batch.first} on "
                    "were made upon; nothing was written, fetch what is new and make the change again upon it"
                )
            move = batch.move if head is batch.basis else self._move(head, batch)
            if guard is None:
                return move
            expected = guard.expectations()
            guarded.update(step.key for step in expected)
            return Move(move.head, move.value, (*move.steps, *expected))

        async def applied(head: Head) -> bool:
            return await self._is_in(head, batch)

        try:
            return await self._head.swap(plan, applied)
        except ConflictError as exc:
            if not guarded.isdisjoint(exc.keys):
                raise LeaseLostError(
                    "the lock that guards this change is held no longer, so the store refused it; nothing was written"
                ) from exc
            if any(step.key in exc.keys for step in batch.steps):
                raise damaged_entry(self._layout.head) from exc
            raise

    async def _is_in(self, head: Head, batch: Batch) -> bool:
        """Say whether *batch*, whose reply was lost, is part of *head*."""
        entry = await self._store.get(batch.steps[0].key)
        if entry is not None:
            if self._layout.decode_record(entry).change_id == batch.change_id:
                return True
            raise ConflictError(
                f"somebody else made version {batch.first}; nothing was written, fetch what is new and make the change "
                "again upon it"
            )
        if head.version < batch.first:
            return False
        if head.change_id == batch.last.change_id:
            return True
        raise UnknownOutcomeError(
            f"the store did not answer, and a compaction has removed version {batch.first} since, so it is not known "
            "who made it; load the state anew to see"
        )


def _check_size(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise LimitExceededError(
            f"{what} takes {size} bytes, and this store takes {limit} at a time", limit=limit, actual=size
        )
