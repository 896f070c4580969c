"""Reading a keyed container: one state, some, or all whose ids begin alike.

Contract
    A read shows what was committed before it began, as far as the engine promises LINEARIZABLE_READS, and goes to the
    store; a state whose entry has not changed since it was last read is the same object as before. A state that
    cannot be read by today's class is an error for those who ask for it, and is left as it is.
"""

from __future__ import annotations

from asyncio import get_running_loop
from typing import TYPE_CHECKING, Generic, TypeVar

from reactstate.errors import UnavailableError
from reactstate.keyed.lifecycle import Lifecycle
from reactstate.kv.retry import until_available
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from reactstate.clock import Clock
    from reactstate.keyed.ids import Id
    from reactstate.keyed.records import Records
    from reactstate.keyed.writing import Writer
    from reactstate.kv.protocol import Entry
    from reactstate.state.change import VersionedState

__all__ = ["Reads"]

S = TypeVar("S", bound=State)


class Reads(Lifecycle, Generic[S]):
    """The part of a container that reads."""

    _records: Records[S]
    _writer: Writer[S]
    _clock: Clock

    async def get(self, id: Id) -> S | None:  # noqa: A002 - the public name
        """Return the state *id*, or None when there is none.

        Raises:
            CodecError: What is stored cannot be read by today's class; it was left as it is.
            InvalidKeyError: *id* is no id of such a state.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        # The path of ``Writer.read``, written out: nothing is called more often.
        if get_running_loop() is not self._loop or self._closed or self._refusal is not None:
            self._check_loop()
        key = self._records.key(id)
        try:
            entry = await self._store.get(key)
        except UnavailableError:
            record = await self._writer.read(key)
            return None if record is None else record.state
        if entry is None:
            return None
        kept = self._records.kept.get(key)
        if kept is not None and kept.revision == entry.revision:
            return kept.state
        return self._records.read(entry).state

    async def current(self, id: Id) -> VersionedState[S] | None:  # noqa: A002 - the public name
        """Return the state *id* with its version and metadata, or None when there is none; it raises as ``get`` does."""
        self._check_loop()
        record = await self._writer.read(self._records.key(id))
        return None if record is None else record.versioned()

    async def get_many(self, ids: Iterable[Id]) -> dict[Id, S]:
        """Return the states that there are, by id, in the order asked for; it raises as ``get`` does."""
        self._check_loop()
        keys = {self._records.key(id): id for id in ids}  # noqa: A001 - the public name
        wanted = list(keys)
        entries = await until_available(
            lambda: self._store.get_many(wanted), clock=self._clock, deadline=self._deadline
        )
        return {keys[key]: self._records.read(entries[key]).state for key in wanted if key in entries}

    def scan(self, prefix: str = "", *, limit: int | None = None, reverse: bool = False) -> AsyncIterator[S]:
        """Iterate over the states whose ids begin with *prefix*, without holding them all in memory.

        They come in the order of their keys: that of the ids as text, in which ``10`` is before ``9``, and ``/`` and
        ``%`` count as ``%``. What is written meanwhile may or may not be seen.

        Args:
            prefix: Only ids whose text begins with it; no sign in it has a meaning of its own. In a class whose ids
                are of several types, a prefix finds those that are text.
            limit: At most so many.
            reverse: From the last to the first.

        Raises:
            CodecError: (while iterating) A state cannot be read by today's class; ``ids`` names them all.
            InvalidKeyError: *prefix* is no text.
            ValueError: *limit* is negative.
        """
        return self._states(self._entries(prefix, limit, reverse=reverse))

    def ids(self, prefix: str = "", *, limit: int | None = None, reverse: bool = False) -> AsyncIterator[Id]:
        """Iterate over the ids that begin with *prefix*, in the order of ``scan``, without decoding the states."""
        return self._found_ids(self._entries(prefix, limit, reverse=reverse))

    async def count(self, prefix: str = "") -> int:
        """Return how many states there are whose ids begin with *prefix*; it reads them all."""
        found = 0
        async for _ in self._entries(prefix, None):
            found += 1
        return found

    def _entries(self, prefix: str, limit: int | None, *, reverse: bool = False) -> AsyncIterator[Entry]:
        self._check_call()
        if limit is not None and limit < 0:
            raise ValueError(f"limit is how many states at most, not {limit}")
        return self._read_entries(self._records.prefix(prefix), limit, reverse)

    async def _read_entries(self, prefix: str, limit: int | None, reverse: bool) -> AsyncIterator[Entry]:
        self._check_loop()
        if limit == 0:
            return
        entries = self._store.scan(prefix, limit=limit, reverse=reverse)
        try:
            async for entry in entries:
                yield entry
                self._check_loop()
        finally:
            await _let_go(entries)

    async def _states(self, entries: AsyncIterator[Entry]) -> AsyncIterator[S]:
        try:
            async for entry in entries:
                yield self._records.read(entry, keep=False).state
        finally:
            await _let_go(entries)

    async def _found_ids(self, entries: AsyncIterator[Entry]) -> AsyncIterator[Id]:
        try:
            async for entry in entries:
                yield self._records.id_at(entry.key)
        finally:
            await _let_go(entries)


async def _let_go(entries: AsyncIterator[Entry]) -> None:
    """Close an iterator that may not have been read to its end."""
    aclose = getattr(entries, "aclose", None)
    if aclose is not None:
        await aclose()
