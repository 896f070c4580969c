"""Watch: the newest state, for those who do not need every change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.errors import LaggedError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Watch"]

T = TypeVar("T")


class Watch(Generic[T]):
    """An async iterator over the newest value of something that can be subscribed to.

    The current value comes first, if there is one. While the reader is busy, values are skipped, never queued: what
    it gets is always the newest.
    """

    def __init__(self, source: Any) -> None:
        self._subscription = source.subscribe(buffer=1, on_lag="raise")
        self._source = source
        self._first = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            if self._first:
                self._first = False
                if self._source.current.exists:
                    state: T = self._source.current.state
                    return state
            try:
                change = await self._subscription.__anext__()
            except LaggedError:
                continue
            if change.new_state is not None:
                newest: T = change.new_state
                return newest

    async def aclose(self) -> None:
        """End the iteration."""
        await self._subscription.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
