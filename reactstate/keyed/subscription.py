"""Subscriptions to many states, and the newest value of one.

Contract
    A subscription tells of every state that was changed since it was made, by whatever process, with the state that
    was the newest when it was read. The versions of an id come in strictly ascending order; versions in between, and
    a state that was created and deleted between two readings, may be folded. A deleted state that was created again
    before the reader came by is told as one CREATE. What was committed last to an id is always told in the end.

    Each change has a cursor. Whoever subscribes with ``since=`` that cursor is told of everything that came after the
    change, and of no version a second time; a DELETE may come again, and a CREATE that was not told before the break
    may come as an UPDATE: a reader who keeps a copy treats both as "this is the state now".

Lagging
    The store keeps its change log for ``change_log_retention``. A subscriber that comes later than that gets
    CompactedError, and its subscription ends: ``resume`` is a cursor to subscribe from before reading what is there.
    With ``on_lag="resync"`` it gets every current state instead, as changes with ``resync=True``, and goes on.

Closing
    A subscription ends at once when it or its container is closed; what it had not told can be had from its cursor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from reactstate.errors import CodecError, CompactedError
from reactstate.keyed.change import KeyedChange
from reactstate.keyed.inbox import Inbox
from reactstate.kv.protocol import Capability, EventKind
from reactstate.kv.retry import until_available
from reactstate.state.change import ChangeType
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.keyed.inbox import Changed
    from reactstate.keyed.records import Record, Records
    from reactstate.kv.protocol import Cursor, Entry, Event, ReadView
    from reactstate.kv.store import KeyValueStore

__all__ = ["KeyedSubscription", "KeyedWatch"]

S = TypeVar("S", bound=State)

_PAGE: Final = 256
_STALE_S: Final = 0.01


class _Held:
    """A state that was read before the event of its commit came; it is told when that event comes."""

    __slots__ = ("entry", "first")

    def __init__(self, entry: Entry, first: int) -> None:
        self.entry = entry
        self.first = first


class _Seen:
    """What was read of some keys at one moment.

    Attributes:
        entries: The entries that there were.
        floor: The floor of the collection then; only right when a key was absent.
        revision: The store's revision then; None when the engine could not say.
    """

    __slots__ = ("entries", "floor", "revision")

    def __init__(self, entries: dict[str, Entry], floor: int, revision: int | None) -> None:
        self.entries = entries
        self.floor = floor
        self.revision = revision


class KeyedSubscription(Generic[S]):
    """An iterator over the changes of many states, made by ``KeyedContainer.subscribe``; see the module.

    It is an async iterator and an async context manager. ``async for`` may be left and taken up again, also after an
    error about one unreadable state. A call that is cancelled takes nothing.
    """

    def __init__(
        self,
        records: Records[S],
        store: KeyValueStore,
        clock: Clock,
        prefix: str,
        *,
        since: Cursor | None,
        buffer: int,
        resync: bool,
        deadline: float,
    ) -> None:
        self._records = records
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._buffer = buffer
        self._resyncs = resync
        self._deadline = deadline
        self._cursor = since
        self._inbox = Inbox(store.watch(prefix, after=since), buffer)
        self._closed = False
        self._turn = asyncio.Lock()
        self._ready: deque[tuple[KeyedChange[S] | CodecError, Cursor | None]] = deque()
        self._taken: list[Changed] = []
        self._held: dict[str, _Held] = {}
        # The versions of deletions that were told, as long as an event may come that the reading was ahead of; on an
        # engine without SNAPSHOT_READS and TOTAL_ORDER nothing says how long that is, and they stay.
        self._gone: dict[str, int] = {}
        self._gone_until = 0
        self._snapshots = store.supports(Capability.SNAPSHOT_READS)
        self._ordered = store.supports(Capability.SNAPSHOT_READS, Capability.TOTAL_ORDER)
        self._gap: Cursor | None = None
        self._rereading: AsyncExitStack | None = None
        self._view: ReadView | None = None
        self._last_key = prefix

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

    async def __anext__(self) -> KeyedChange[S]:
        """Return the next change, waiting for it if there is none.

        Raises:
            CompactedError: What came after the cursor is no longer kept; the subscription has ended.
            CodecError: The newest state of an id cannot be read by today's class; the next call goes on after it.
            StopAsyncIteration: The subscription or its container was closed.
        """
        while not self._closed:
            if self._ready:
                item, self._cursor = self._ready.popleft()
                if isinstance(item, CodecError):
                    raise item
                return item
            async with self._turn:
                if not self._ready and not self._closed:
                    try:
                        await self._fill()
                    except Exception:
                        if not self._closed:  # else the store was closed meanwhile, and that is the end
                            raise
        raise StopAsyncIteration

    async def _fill(self) -> None:
        """Make the next changes ready, or close; what was taken stays until it is told, so a cancelled call loses none."""
        if self._gap is not None:
            await self._reread()
            return
        if not self._taken:
            try:
                if not await self._inbox.wait():
                    self.close()
                    return
            except CompactedError as exc:
                if not self._resyncs:
                    raise
                self._gap = exc.resume
                return
            self._taken = self._inbox.take(_PAGE)
        seen = await self._look([changed.key for changed in self._taken])
        if self._is_stale(seen):
            await self._clock.sleep(_STALE_S)
            return
        taken, self._taken = self._taken, []
        if self._ordered and seen.revision is not None:
            if taken[0].event.revision > self._gone_until:
                self._gone.clear()  # every event that those deletions could have been ahead of has come
            self._gone_until = seen.revision
        for changed in taken:
            self._tell(changed, seen)

    async def _look(self, keys: list[str]) -> _Seen:
        """Read *keys*, and the floor as it was when one of them was absent."""
        return await until_available(lambda: self._read(keys), clock=self._clock, deadline=self._deadline)

    async def _read(self, keys: list[str]) -> _Seen:
        floor_key, records, store = self._records.floor_key, self._records, self._store
        if self._snapshots:
            async with store.snapshot() as view:
                entries = await view.get_many([floor_key, *keys])
                floor = records.floor(entries.pop(floor_key, None))
                return _Seen(entries, floor.version, view.revision)
        while True:
            before = records.floor(await store.get(floor_key))
            entries = await store.get_many(keys)
            if len(entries) == len(keys):
                return _Seen(entries, before.version, None)
            # A deletion raises the floor if it must, so one that did not move covers every absent key.
            if records.floor(await store.get(floor_key)).version == before.version:
                return _Seen(entries, before.version, None)

    def _is_stale(self, seen: _Seen) -> bool:
        """Say whether the store has told of what it does not show yet."""
        if seen.revision is not None:
            return any(changed.event.revision > seen.revision for changed in self._taken)
        found = seen.entries
        return any(
            changed.key in found and found[changed.key].revision < changed.event.revision for changed in self._taken
        )

    def _tell(self, changed: Changed, seen: _Seen) -> None:
        """Make ready what there is to tell of one key."""
        key, event, first = changed.key, changed.event, changed.first
        held = self._held.pop(key, None)
        entry = seen.entries.get(key)
        if entry is None:
            # Where the newest event is no removal, that event is on its way.
            if event.kind is not EventKind.PUT and seen.floor > self._gone.get(key, -1):
                self._gone[key] = seen.floor
                self._tell_deletion(key, seen.floor, event)
            return
        if held is not None:
            if event.revision < held.entry.revision:
                self._held[key] = held
                return
            if entry.revision > event.revision:
                # A key that is written without pause is always ahead of its events: what was held is told meanwhile.
                self._tell_entry(held.entry, held.first, event.cursor)
                self._held[key] = _Held(entry, event.revision + 1)
                return
            first = held.first
        if entry.revision > event.revision:
            self._held[key] = _Held(entry, first)
            return
        self._tell_entry(entry, first, event.cursor)

    def _tell_deletion(self, key: str, version: int, event: Event) -> None:
        try:
            found = self._records.id_at(key)
        except CodecError as exc:
            self._ready.append((exc, event.cursor))
            return
        change: KeyedChange[S] = KeyedChange(found, ChangeType.DELETE, None, version, event.revision, event.cursor)
        self._ready.append((change, event.cursor))

    def _tell_entry(self, entry: Entry, first: int, cursor: Cursor | None, *, resync: bool = False) -> None:
        self._gone.pop(entry.key, None)
        try:
            record = self._records.read(entry, keep=not resync)
            found = self._records.id_at(entry.key)
        except CodecError as exc:
            self._ready.append((exc, cursor))
            return
        kind = ChangeType.CREATE if not resync and record.born_revision >= first else ChangeType.UPDATE
        change = KeyedChange(found, kind, record, record.version, entry.revision, cursor, resync=resync)
        self._ready.append((change, cursor))

    # --- beginning anew -------------------------------------------------------------------------------------------

    async def _reread(self) -> None:
        """Make the next page of what is there ready, all of it as it was at one moment; the watch goes on from that."""
        view = self._view if self._view is not None else await self._begin_rereading()
        page = [entry async for entry in view.scan(self._prefix, start=self._last_key, limit=_PAGE + 1)]
        rest = page[_PAGE:]
        for entry in page[:_PAGE]:
            # Whoever resumes in the middle of this must do it all again, so the old cursor stays until the last one.
            cursor = view.cursor if not rest and entry is page[-1] else self._cursor
            self._tell_entry(entry, 0, cursor, resync=True)
        if rest:
            self._last_key = rest[0].key
            return
        if not page and not self._ready:
            self._cursor = view.cursor
        self._gap = None
        await self._end_rereading()

    async def _begin_rereading(self) -> ReadView:
        rereading = AsyncExitStack()
        view = await rereading.enter_async_context(self._store.snapshot())
        self._rereading, self._view, self._last_key = rereading, view, self._prefix
        before = self._inbox
        self._inbox = Inbox(self._store.watch(self._prefix, after=view.cursor), self._buffer)
        self._taken.clear()
        self._held.clear()
        self._gone.clear()
        await before.aclose()
        if self._closed:  # while the snapshot was taken, so that nobody else would let go of it
            await self._end_rereading()
        return view

    async def _end_rereading(self) -> None:
        rereading, self._rereading, self._view = self._rereading, None, None
        if rereading is not None:
            await rereading.aclose()

    # --- ending ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End it: who waits on it gets the end; a second call does nothing."""
        self._closed = True
        self._ready.clear()
        self._inbox.end()

    async def aclose(self) -> None:
        """End it, and let go of what it reads from."""
        self.close()
        await self._inbox.aclose()
        await self._end_rereading()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class KeyedWatch(Generic[S]):
    """An iterator over the newest state of one id, made by ``KeyedContainer.watch``.

    What is there comes first, None where nothing is; then, after each burst of changes, the newest. While the reader
    is busy states are skipped, never queued, and no version comes twice. It ends when its container is closed.
    """

    def __init__(self, store: KeyValueStore, key: str, read: Callable[[], Awaitable[Record[S] | None]]) -> None:
        self._store = store
        self._key = key
        self._read = read
        self._inbox = self._begin(None)
        self._closed = False
        self._fresh = False
        self._version = -1

    def _begin(self, after: Cursor | None) -> Inbox:
        key = self._key
        return Inbox(self._store.watch(key, after=after), 2, lambda found: found == key)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> S | None:
        """Return the newest state when it is another than before.

        Raises:
            CodecError: The newest state cannot be read by today's class; the next call waits for another.
            StopAsyncIteration: It or its container was closed.
        """
        while not self._closed:
            if not self._fresh:
                try:
                    record = await self._read()
                except CodecError:
                    self._fresh = True
                    raise
                except Exception:
                    if self._closed:  # and its store with it
                        break
                    raise
                self._fresh = True
                version = 0 if record is None else record.version
                if version != self._version:
                    self._version = version
                    return None if record is None else record.state
            try:
                if not await self._inbox.wait():
                    break
            except CompactedError as exc:
                before, self._inbox, self._fresh = self._inbox, self._begin(exc.resume), False
                await before.aclose()
                continue
            self._inbox.take(1)
            self._fresh = False
        self.close()
        raise StopAsyncIteration

    def close(self) -> None:
        """End it: who waits on it gets the end; a second call does nothing."""
        self._closed = True
        self._inbox.end()

    async def aclose(self) -> None:
        """End it, and let go of the watch."""
        self.close()
        await self._inbox.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
