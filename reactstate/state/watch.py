"""Watch: the newest state, for those who do not need every change."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.errors import LaggedError, StateNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from reactstate.state.subscription import Subscription

__all__ = ["Watch"]

T = TypeVar("T")


class Watch(Generic[T]):
    """An async iterator over the newest value of something that can be subscribed to; made by its ``watch``.

    The current value comes first, if there is one. While the reader is busy, values are skipped, never queued: what
    it gets is always the newest, and no version comes twice. It ends when its source is closed.
    """

    def __init__(self, subscription: Subscription[Any], read: Callable[[], tuple[int, T]]) -> None:
        self._subscription = subscription
        self._read = read
        self._version = -1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._subscription.closed:
            with contextlib.suppress(StateNotFoundError):
                version, newest = self._read()
                if version > self._version:
                    self._version = version
                    return newest
            with contextlib.suppress(LaggedError):  # what was skipped is of no interest
                await self._subscription.__anext__()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the iteration."""
        await self._subscription.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
