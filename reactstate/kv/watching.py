"""Watching a change log: cursors, and the iterator over events that engines with a log of their own share.

Contract
    A watch begins where it is told to when ``watch`` is called, not when its first event is asked for. The events of
    one commit come one after another with no other between them. Each event's cursor is the place right after it, so
    that a reader which stops in the middle of a commit goes on with the rest of that commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from reactstate.errors import CompactedError, InvalidKeyError
from reactstate.kv.protocol import Cursor, Event, EventKind
from reactstate.kv.terms import check_bound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["Changes", "Feed", "LogWatch", "Waiters", "cursor_at", "place_of"]

Changes = tuple[int, "Sequence[tuple[EventKind, str]]"]
"""The revision of a commit, and what it did to which keys, in order."""

_CHUNK: Final = 500
_TIDY: Final = 64


class Feed(Protocol):
    """A change log that can be watched."""

    id: str

    def changes_after(self, revision: int, limit: int) -> Sequence[Changes]:
        """Return the oldest commits above *revision*, whole ones, about *limit* events of them.

        Raises:
            CompactedError: Commits above *revision* are no longer in the log.
        """
        ...

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be more; on a closed store it is done at once."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        ...


def cursor_at(store: str, revision: int, events: int | None = None) -> Cursor:
    """Return the place after *revision*, or after the first *events* events of it."""
    return Cursor(f"{store}:{revision}" if events is None else f"{store}:{revision}.{events}")


def place_of(store: str, cursor: Cursor, newest: Cursor) -> tuple[int, int]:
    """Return the revision after which *cursor* is, and how many events of the next commit come before it.

    Args:
        store: The id of the store that is to be watched.
        cursor: Where to resume.
        newest: A cursor to resume from if that one cannot be used.

    Raises:
        InvalidKeyError: It is no cursor.
        CompactedError: It is a cursor of another store.
    """
    owner, colon, place = cursor.rpartition(":") if isinstance(cursor, str) else ("", "", "")  # pyright: ignore[reportUnnecessaryIsInstance] - cursors come from callers
    revision, dot, events = place.partition(".")
    if not (colon and owner and _is_number(revision) and (not dot or _is_number(events))):
        raise InvalidKeyError(f"{cursor!r} is not a cursor; pass one that an event or cursor() gave")
    if owner != store:
        raise CompactedError(
            "the cursor is of another store, or of this one before it was made anew; read what is there, and go on "
            "from `resume`",
            resume=newest,
        )
    return (int(revision) - 1, int(events)) if dot else (int(revision), 0)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


class Waiters:
    """Those who wait for the next commit; waking costs nothing when there are none."""

    __slots__ = ("_closed", "_futures", "_tidy_at")

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []
        self._closed = False
        self._tidy_at = _TIDY

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done at the next ``wake``, or at once after ``close``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result(None)
            return future
        if len(self._futures) >= self._tidy_at:  # those who gave up waiting would pile up until the next ``wake``
            self._futures = [one for one in self._futures if not one.done()]
            self._tidy_at = 2 * len(self._futures) + _TIDY
        self._futures.append(future)
        return future

    def wake(self) -> None:
        """Wake all who wait; to be called on their loop."""
        if self._futures:
            futures, self._futures = self._futures, []
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """Wake all who wait, now and later."""
        self._closed = True
        self.wake()

    def __bool__(self) -> bool:
        """Say whether somebody waits."""
        return bool(self._futures)


class LogWatch:
    """The iterator that ``watch`` returns: an asynchronous iterator over events, with ``aclose``.

    Args:
        feed: The change log.
        prefix: Only keys that start with it.
        revision: Only events of later commits.
        skip: How many events of the next commit come before the place.
        error: Raised at the first event that is asked for.
    """

    def __init__(
        self, feed: Feed, prefix: str, revision: int, skip: int = 0, error: CompactedError | None = None
    ) -> None:
        check_bound(prefix)
        self._feed = feed
        self._prefix = prefix
        self._revision = revision
        self._skip = skip
        self._error = error
        self._ready: deque[tuple[EventKind, str, int, int | None]] = deque()
        self._ended = False
        self._waiting: set[asyncio.Future[None]] = set()  # more than one if several tasks share the watch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._ready and not self._ended:
                kind, key, revision, events = self._ready.popleft()
                return Event(key, kind, revision, cursor_at(self._feed.id, revision, events))
            if self._ended or self._feed.closed:
                self._ended = True
                raise StopAsyncIteration
            if self._error is not None:
                error, self._error = self._error, None
                self._ended = True
                raise error
            waiting = self._feed.wait()
            if self._take():
                waiting.cancel()
                continue
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)
                waiting.cancel()

    def _take(self) -> bool:
        """Read on; say whether anything was there, of whatever prefix."""
        try:
            commits = self._feed.changes_after(self._revision, _CHUNK)
        except CompactedError:
            self._ended = True
            raise
        prefix, ready = self._prefix, self._ready
        for revision, changes in commits:
            last = len(changes)
            for place, (kind, key) in enumerate(changes, 1):
                if place > self._skip and key.startswith(prefix):
                    ready.append((kind, key, revision, None if place == last else place))
            self._revision = revision
            self._skip = 0
        return bool(commits)

    async def aclose(self) -> None:
        """End the watch; a second call does nothing."""
        self._ended = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
