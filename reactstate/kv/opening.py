"""What ``open`` returns: await it for what is opened, or use it with ``async with``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

__all__ = ["Opening"]

C = TypeVar("C")


class Opening(Generic[C]):
    """A container or store that is about to be opened: await it, or use it with ``async with``."""

    def __init__(self, make: Callable[[], Awaitable[C]]) -> None:
        self._make = make
        self._opened: C | None = None

    def __await__(self) -> Generator[Any, Any, C]:
        return self._make().__await__()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"{name!r}: it is not open yet; await open(...), or use it with async with")

    async def __aenter__(self) -> C:
        self._opened = await self._make()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened: Any = self._opened
        await opened.aclose()
