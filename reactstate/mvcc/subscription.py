"""Subscriptions to whole transactions.

Contract
    Each TransactionChange leads from the states after one commit to the states after a later one: whoever applies all
    of its changes at once to a copy never has half of a transaction. They come in the order of the commits. Nearly
    always one is one commit; where a state was written again before the reader came by, all the commits from the first
    write to the last are folded into one. Verbs outside of transactions are commits of one change each.

    Whoever subscribes with ``since=`` a TransactionChange's cursor is told of everything that came after it. With a
    prefix, what a transaction did to other ids is left out.

Caveats
    A record tells how many changes its transaction made, so that none is missing even where a store's watch hands out
    the events of a commit one by one. Of a transaction that only deletes no record is left: its changes are together
    where the watch hands them out at once, as those of memory, sqlite and lmdb do. What a late reader has missed is
    held in memory, one state for each id.

Lagging
    Who comes later than the store's ``change_log_retention`` gets CompactedError, and the subscription ends: ``resume``
    is a cursor to subscribe from before reading what is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from reactstate.errors import CodecError
from reactstate.keyed.change import KeyedChange
from reactstate.kv.protocol import EventKind
from reactstate.kv.retry import until_available
from reactstate.state.change import ChangeType
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.keyed.records import Record, Records
    from reactstate.kv.protocol import Cursor, Entry, Event, ReadView
    from reactstate.kv.store import KeyValueStore

__all__ = ["TransactionChange", "TransactionSubscription"]

S = TypeVar("S", bound=State)

_CAPACITY: Final = 10_000
_STALE_S: Final = 0.01


class TransactionChange(Generic[S]):
    """What a transaction changed, all of it; see the module (read-only).

    Attributes:
        transaction_id: Its id; of several that were folded, that of the newest. None: the newest commit was no
            transaction, or nothing is left of it, because it only deleted.
        changes: What became of each id, once each.
        revision: The store's revision of the (newest) commit.
        cursor: Where ``transactions(since=...)`` goes on after it, also in another process.
    """

    __slots__ = ("changes", "cursor", "revision", "transaction_id")

    def __init__(
        self, transaction_id: str | None, changes: tuple[KeyedChange[S], ...], revision: int, cursor: Cursor
    ) -> None:
        self.transaction_id: str | None = transaction_id
        self.changes: tuple[KeyedChange[S], ...] = changes
        self.revision: int = revision
        self.cursor: Cursor = cursor

    def __repr__(self) -> str:
        return f"TransactionChange({self.transaction_id!r}, {list(self.changes)!r})"


class _Round(Generic[S]):
    """Events up to the revision of one snapshot, and what that shows of their keys."""

    __slots__ = ("counts", "entries", "events", "expected", "failures", "newest", "records")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.newest: dict[str, Event] = {}
        self.entries: dict[str, Entry | None] = {}
        self.records: dict[str, Record[S]] = {}
        self.failures: dict[str, CodecError] = {}
        self.counts: dict[int, int] = {}
        self.expected: dict[int, int] = {}

    def add(self, event: Event) -> None:
        """Add the next event."""
        self.events.append(event)
        self.newest[event.key] = event
        self.counts[event.revision] = self.counts.get(event.revision, 0) + 1

    def look(self, key: str, entry: Entry | None, records: Records[S]) -> None:
        """Note what the snapshot shows of a key."""
        self.entries[key] = entry
        if entry is None:
            return
        try:
            record = self.records[key] = records.read(entry)
        except CodecError as exc:
            self.failures[key] = exc
            return
        self.expected[entry.revision] = record.transaction_size

    def complete(self, partial: int) -> bool:
        """Say whether every event has come that belongs to these; of revision *partial* some may never come."""
        for key, event in self.newest.items():
            entry = self.entries[key]
            if event.kind is EventKind.PUT if entry is None else event.revision != entry.revision:
                return False
        counts = self.counts
        return all(counts.get(one, 0) >= size for one, size in self.expected.items() if one != partial)


class TransactionSubscription(Generic[S]):
    """An iterator over whole transactions, made by ``MVCCContainer.transactions``; see the module.

    It is an async iterator and an async context manager: end it with ``aclose`` or by leaving its block. A call that is
    cancelled takes nothing.
    """

    def __init__(
        self,
        records: Records[S],
        store: KeyValueStore,
        clock: Clock,
        prefix: str,
        since: Cursor | None,
        deadline: float,
        ended: Callable[[TransactionSubscription[S]], None],
    ) -> None:
        self._records = records
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._cursor = since
        self._deadline = deadline
        self._ended = ended
        # Everything, whatever the prefix: only so a transaction's events can be counted.
        self._watch = store.watch(records.root, after=since)
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._error: Exception | None = None
        self._over = False
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._turn = asyncio.Lock()
        self._ready: deque[tuple[TransactionChange[S] | CodecError | None, Cursor]] = deque()
        # A cursor may be inside a commit, the rest of which comes first.
        self._partial = -1 if since is not None else 0

    @property
    def cursor(self) -> Cursor | None:
        """Where the next subscription goes on: after the newest change that was told; at first what ``since`` was."""
        return self._cursor

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TransactionChange[S]:
        """Return the next change, waiting for it if there is none.

        Raises:
            CompactedError: What came after the cursor is no longer kept; the subscription has ended.
            CodecError: A state cannot be read by today's class; the next call goes on after its transaction.
            StopAsyncIteration: The subscription or its container was closed.
        """
        while not self._closed:
            if self._ready:
                item, self._cursor = self._ready.popleft()
                if isinstance(item, CodecError):
                    raise item
                if item is not None:
                    return item
                continue
            async with self._turn:
                if not self._ready and not self._closed:
                    try:
                        await self._fill()
                    except Exception:
                        if not self._closed:  # else the store was closed meanwhile, and that is the end
                            raise
        raise StopAsyncIteration

    # --- the watch ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read the watch into the events that wait."""
        try:
            async for event in self._watch:
                self._events.append(event)
                self._arrived.set()
                while len(self._events) >= _CAPACITY:
                    self._room.clear()
                    await self._room.wait()
        except Exception as exc:  # it is for the reader, who may not be there yet
            self._error = exc
        finally:
            self._over = True
            self._arrived.set()

    async def _wait(self, known: int) -> bool:
        """Return when more than *known* events wait; False: none will come."""
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._read())
        while len(self._events) <= known:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._over or self._closed:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        return True

    # --- one round ------------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        """Make the next changes ready, or close."""
        if not await self._wait(0):
            await self.aclose()
            return
        block, view = await until_available(self._snapshot, clock=self._clock, deadline=self._deadline)
        try:
            found = await self._gather(view)
        finally:
            await block.__aexit__(None, None, None)
        if found is None:
            await self._clock.sleep(_STALE_S)

    async def _snapshot(self) -> tuple[AbstractAsyncContextManager[ReadView], ReadView]:
        block = self._store.snapshot()
        return block, await block.__aenter__()

    async def _gather(self, view: ReadView) -> _Round[S] | None:
        """Gather the events up to *view*, and make ready what they tell; None: it is older than all of them."""
        events = self._events
        if events[0].revision > view.revision:
            return None
        found = _Round[S]()
        if self._partial < 0:
            self._partial = events[0].revision
        try:
            while True:
                known = len(found.events)
                while events and events[0].revision <= view.revision:
                    found.add(events.popleft())
                self._room.set()
                keys = [
                    key for key in dict.fromkeys(one.key for one in found.events[known:]) if key not in found.entries
                ]
                if keys:
                    entries = await view.get_many(keys)
                    for key in keys:
                        found.look(key, entries.get(key), self._records)
                if found.complete(self._partial):
                    break
                if not await self._wait(0):
                    await self.aclose()
                    return found
            floor = self._records.floor(await view.get(self._records.floor_key)).version
        except BaseException:
            events.extendleft(reversed(found.events))
            raise
        self._make_ready(found, floor)
        return found

    def _make_ready(self, found: _Round[S], floor: int) -> None:
        """Cut the events where no state was written both before and after, and tell of each piece."""
        first: dict[str, int] = {}
        reach = 0
        last: Event | None = None
        for event in found.events:
            if last is not None and event.revision > reach:
                self._tell(found, first, floor, reach, last.cursor)
                first = {}
            first.setdefault(event.key, event.revision)
            reach = max(reach, found.newest[event.key].revision)
            last = event
        if last is not None:
            self._tell(found, first, floor, reach, last.cursor)

    def _tell(self, found: _Round[S], first: dict[str, int], floor: int, reach: int, cursor: Cursor) -> None:
        """Make one TransactionChange ready, of the keys in *first* up to the revision *reach*."""
        changes: list[KeyedChange[S]] = []
        transaction_id: str | None = None
        try:
            for key, began in first.items():
                record = found.records.get(key)
                if record is not None and record.revision == reach:
                    transaction_id = record.transaction_id
                if not key.startswith(self._prefix):
                    continue
                if key in found.failures:
                    raise found.failures[key]
                id_, revision = self._records.id_at(key), found.newest[key].revision
                if record is None:
                    changes.append(KeyedChange(id_, ChangeType.DELETE, None, floor, revision, cursor))
                else:
                    kind = ChangeType.CREATE if record.born_revision >= began else ChangeType.UPDATE
                    changes.append(KeyedChange(id_, kind, record, record.version, revision, cursor))
        except CodecError as exc:
            self._ready.append((exc, cursor))
            return
        told = TransactionChange(transaction_id, tuple(changes), reach, cursor) if changes else None
        self._ready.append((told, cursor))

    # --- ending ---------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End it: who waits on it gets the end; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        self._arrived.set()
        self._ended(self)
        pump = self._pump
        if pump is not None:
            pump.cancel()
            await asyncio.wait([pump])
        await self._watch.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
