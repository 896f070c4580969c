"""Subscriptions to the keys of a coordination store.

Contract
    A subscription tells of every write and removal of the keys that it is about, whoever made it, exactly once and, for
    each key, in the order of versions. It tells of no values: ``get`` reads what is there by then. Each change has a
    cursor; who subscribes with ``since=`` that cursor is told of everything after it.

    The store keeps its change log for ``change_log_retention``; who comes later gets CompactedError, whose ``resume``
    is where to go on after reading what is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.coordination.results import KeyChange
from reactstate.errors import CompactedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from reactstate.coordination.layout import Layout
    from reactstate.kv.keys import StateKey
    from reactstate.kv.protocol import Cursor, Watch

__all__ = ["KeySubscription"]


class KeySubscription:
    """An iterator over what is done to keys, made by ``CoordinationStore.subscribe``; see the module.

    It is an async iterator and an async context manager. A call that is cancelled takes nothing.

    Args:
        watch: Tells of the entries.
        layout: Says which keys these are.
        wanted: Says which keys it is about.
        since: Where it begins.
    """

    def __init__(self, watch: Watch, layout: Layout, wanted: Callable[[StateKey], bool], since: Cursor | None) -> None:
        self._watch = watch
        self._layout = layout
        self._wanted = wanted
        self._cursor = since
        self._closed = False

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

    async def __anext__(self) -> KeyChange:
        """Return the next change, waiting for it if there is none.

        Raises:
            CompactedError: What came after the cursor is no longer kept; the subscription has ended.
            StopAsyncIteration: The subscription, the coordination store or the store was closed.
        """
        while not self._closed:
            try:
                event = await anext(self._watch)
            except (StopAsyncIteration, CompactedError):
                self._closed = True
                raise
            if self._closed:
                break
            self._cursor = event.cursor
            key = self._layout.parse(event.key)
            if self._wanted(key):
                return KeyChange(key, event.kind, event.revision, event.cursor)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it: who waits on it gets the end; a second call does nothing."""
        self._closed = True
        await self._watch.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
