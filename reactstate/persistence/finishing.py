"""Work that goes on to its end when its caller is cancelled.

Contract
    A write of several steps is never left half done: once begun it ends, well or not, whoever still waits. Its locks
    are held until then, so that what comes after it comes after all of it. A caller that is cancelled gets its
    ``CancelledError`` at once; what the work then ends with is logged if it is an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["finish"]

T = TypeVar("T")

_LOGGER = logging.getLogger("reactstate.persistence")
# An event loop holds its tasks weakly; these may have nobody else.
_under_way: set[asyncio.Task[Any]] = set()


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns; carry it out to its end even if the caller is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.add_done_callback(_log_failure)
        raise


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOGGER.error("what a cancelled caller had begun failed: %s", error)
