"""Guard and StoreTransaction: what layers add to a commit.

A StoreTransaction is a read set and a buffer of steps over one view of a store. Its commit expects that every key it
read is still what it read, and writes all or nothing: serialisable for the keys read (and for the ranges scanned, on
an engine with RANGE_EXPECT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from reactstate.errors import ConflictError, TransactionConflict, TransactionNotActive, UnsupportedError
from reactstate.kv.protocol import ABSENT, ANY, Add, Capability, Delete, Put, RangeExpect, Step
from reactstate.kv.terms import add, span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from reactstate.kv.protocol import Commit, Entry, Expectation, Operation, ReadView, Ttl
    from reactstate.kv.store import KeyValueStore

__all__ = ["Guard", "StoreTransaction"]


class Guard(Protocol):
    """What a commit can be made to depend on, such as a held lock."""

    def expectations(self) -> Sequence[Step]:
        """Return steps that expect and write nothing; the commit fails when one of them does."""
        ...


class StoreTransaction:
    """Reads with a memory, and writes that wait for the commit.

    Args:
        store: Where it commits.
        view: Where it reads; None: the store as it is, key by key (a mix is then found at the commit).
    """

    __slots__ = ("_active", "_ranges", "_reads", "_steps", "_store", "_view")

    def __init__(self, store: KeyValueStore, view: ReadView | None = None) -> None:
        self._store = store
        self._view = view
        self._reads: dict[str, Entry | None] = {}
        self._ranges: list[RangeExpect] = []
        self._steps: dict[str, Operation] = {}
        self._active = True

    def _check(self) -> None:
        if not self._active:
            raise TransactionNotActive("this transaction has ended; begin another")

    async def get(self, key: str) -> bytes | None:
        """Return the value under *key* as this transaction sees it, its own writes included, or None."""
        self._check()
        op = self._steps.get(key)
        if isinstance(op, Put):
            return op.value
        if isinstance(op, Delete):
            return None
        found = await self._read(key)
        value = None if found is None else found.value
        if op is not None:
            return add(key, value, op.delta)
        return value

    async def _read(self, key: str) -> Entry | None:
        if key not in self._reads:
            source = self._view if self._view is not None else self._store
            self._reads[key] = await source.get(key)
        return self._reads[key]

    def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        """Write *value* under *key* at the commit."""
        self._check()
        self._steps[key] = Put(value, ttl)

    def delete(self, key: str) -> None:
        """Remove the entry under *key* at the commit."""
        self._check()
        self._steps[key] = Delete()

    def increment(self, key: str, delta: int = 1, *, ttl: Ttl | None = None) -> None:
        """Add *delta* to the counter under *key* at the commit, without reading it.

        Raises:
            NotACounterError: This transaction wrote there what is no counter.
        """
        self._check()
        op = self._steps.get(key)
        if isinstance(op, Add):
            self._steps[key] = Add(op.delta + delta, op.ttl)
        elif isinstance(op, Put):
            self._steps[key] = Put(add(key, op.value, delta), op.ttl)
        elif isinstance(op, Delete):
            self._steps[key] = Put(b"%d" % delta, ttl)
        else:
            self._steps[key] = Add(delta, ttl)

    async def scan(self, prefix: str = "", *, start: str | None = None, end: str | None = None) -> AsyncIterator[Entry]:
        """Iterate over the entries of the view in key order, without this transaction's own writes.

        The whole range is expected to be unchanged at the commit, however far the iteration went.

        Raises:
            UnsupportedError: The engine has no RANGE_EXPECT, or this transaction has no view.
        """
        self._check()
        self._store.require("transaction", Capability.RANGE_EXPECT)
        if self._view is None:
            raise UnsupportedError(
                "a transaction scans the view that it was given; this one has none",
                layer="transaction",
                engine=self._store.engine,
                capability="SNAPSHOT_READS",
            )
        first, last = span(prefix, start, end)
        self._ranges.append(RangeExpect(first, last, self._view.revision))
        async for entry in self._view.scan(prefix, start=start, end=end):
            yield entry

    async def commit(self, extra: Sequence[Step] = ()) -> Commit:
        """Commit what was written, on condition that what was read still holds.

        Args:
            extra: Further steps of the layer above, for other keys.

        Raises:
            TransactionConflict: Another commit changed what this one read; nothing was written.
        """
        self._check()
        self._active = False
        steps = [Step(key, self._steps.get(key), _as_read(found)) for key, found in self._reads.items()]
        steps.extend(Step(key, op, ANY) for key, op in self._steps.items() if key not in self._reads)
        steps.extend(extra)
        try:
            return await self._store.commit(steps, ranges=self._ranges)
        except ConflictError as exc:
            raise TransactionConflict(
                "another commit changed what this transaction read; run it again", exc.keys
            ) from exc


def _as_read(found: Entry | None) -> Expectation:
    return ABSENT if found is None else found.revision
