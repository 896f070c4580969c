"""The head entry of a persistence over a store: what is known of it, and the one way to move it.

Contract
    Whatever changes what a load would return goes through ``HeadEntry.swap``: one commit that writes the head on
    condition that it is the one from which the new head was made. The swaps of one object come one after another.
    A lost reply is resolved before ``swap`` returns; see ``reactstate.kv.retry``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reactstate.errors import ConflictError, StorageError, UnknownOutcomeError
from reactstate.kv.protocol import ABSENT, Put, Step
from reactstate.kv.retry import resolve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from reactstate.clock import Clock
    from reactstate.kv.protocol import Entry, ReadView
    from reactstate.kv.store import KeyValueStore
    from reactstate.persistence.kv_layout import Head, Layout

__all__ = ["HeadEntry", "Move"]


class Move:
    """Where a swap leads from one head.

    Attributes:
        head: The next head.
        value: Its bytes.
        steps: What else the commit does.
    """

    __slots__ = ("head", "steps", "value")

    def __init__(self, head: Head, value: bytes, steps: Sequence[Step] = ()) -> None:
        self.head: Head = head
        self.value: bytes = value
        self.steps: Sequence[Step] = steps


class HeadEntry:
    """The head entry, as this process knows it.

    Attributes:
        known: The head that was read or written last; None: there is none, or nothing was read yet.
    """

    __slots__ = ("_clock", "_deadline", "_fresh", "_layout", "_store", "_turn", "known")

    def __init__(self, store: KeyValueStore, layout: Layout, clock: Clock, deadline: float) -> None:
        self._store = store
        self._layout = layout
        self._clock = clock
        self._deadline = deadline
        self._turn = asyncio.Lock()
        self._fresh = False
        self.known: Head | None = None

    def _learn(self, entry: Entry | None) -> Head | None:
        known = self.known
        if entry is None:
            self.known = None
        elif known is None or entry.revision != known.revision:
            self.known = self._layout.decode_head(entry)
        self._fresh = True
        return self.known

    async def read(self, source: ReadView | None = None) -> Head | None:
        """Return the head as it is now, or as *source* has it; None: there is none.

        Raises:
            CorruptionError: It is damaged.
            CodecError: It cannot be read by this version, or with these keys.
        """
        if source is None:
            return self._learn(await self._store.get(self._layout.head))
        entry = await source.get(self._layout.head)
        if entry is None:
            return None
        if self.known is None or entry.revision >= self.known.revision:
            return self._learn(entry)
        return self._layout.decode_head(entry)

    async def swap(self, plan: Callable[[Head | None], Move], applied: Callable[[Head], Awaitable[bool]]) -> Head:
        """Move the head where *plan* says, and return the head that it leads to, or one that came after it.

        Args:
            plan: Returns where to go from a head, and raises when that head is not one to go from.
            applied: Says, of a head that was read after a lost reply, whether the move is in it; it may raise what
                ends the swap.

        Raises:
            ConflictError: Something else that the move expects does not hold; ``keys`` does not name the head.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: The store did not answer until the deadline.
        """
        async with self._turn:
            return await resolve(
                lambda: self._try(plan), lambda: self._find(applied), clock=self._clock, deadline=self._deadline
            )

    async def _try(self, plan: Callable[[Head | None], Move]) -> Head:
        key = self._layout.head
        if not self._fresh:
            await self.read()
        while True:
            head = self.known
            move = plan(head)
            steps = [Step(key, Put(move.value), ABSENT if head is None else head.revision), *move.steps]
            self._fresh = False
            try:
                done = await self._store.commit(steps)
            except ConflictError as exc:
                if key not in exc.keys:
                    raise
                self._learn(exc.entries.get(key))
                continue
            move.head.revision = done.revision
            self.known = move.head
            self._fresh = True
            return move.head

    async def _find(self, applied: Callable[[Head], Awaitable[bool]]) -> Head | None:
        head = await self.read()
        if head is None or not await applied(head):
            return None
        try:
            await self._store.flush()  # it can be seen, which is not to say that it is on disk
        except StorageError as exc:
            raise UnknownOutcomeError(
                "the commit is in the store, which cannot say that it is durable; open the store anew to see"
            ) from exc
        return head
