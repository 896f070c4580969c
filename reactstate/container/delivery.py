"""process: handing every change to a handler, with a guarantee.

at_most_once
    A live subscription: changes made while nobody listens, or skipped because the handler was slow, are not made up.
at_least_once
    A named cursor is stored beside the state and advanced after the handler; after a crash the handler sees the
    change again. A new name starts at the oldest change that is kept.

An exception of the handler ends ``process`` without advancing. One consumer a name may be active.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import orjson

from reactstate.errors import AlreadyOpenError, DecodeError, InvalidKeyError, LaggedError, UnsupportedError
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import StateChange
    from reactstate.state.observable import Observable

__all__ = ["Delivery", "process_changes"]

S = TypeVar("S", bound=State)

Delivery = Literal["at_most_once", "at_least_once", "exactly_once"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


async def process_changes(
    container: Observable[S],
    persistence: StatePersistence[S],
    active: set[str],
    name: str,
    handler: Callable[[StateChange[S]], Awaitable[Any]],
    delivery: Delivery,
) -> None:
    """Hand the changes of *container* to *handler* until the container is closed or the handler raises."""
    if delivery not in {"at_most_once", "at_least_once", "exactly_once"}:
        raise ValueError(f"delivery must be at_most_once, at_least_once or exactly_once, not {delivery!r}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidKeyError(f"{name!r}: a consumer's name is made of up to 100 letters, digits, dots, _ and -")
    if delivery == "exactly_once":
        raise UnsupportedError(
            "exactly_once needs a store with transactions behind the container; use at_least_once with a handler "
            "that can bear a repetition",
            layer="container",
            capability="TRANSACTIONS",
        )
    if name in active:
        raise AlreadyOpenError(f"{name!r} is being processed already; one consumer a name may be active")
    active.add(name)
    try:
        if delivery == "at_most_once":
            await _at_most_once(container, handler)
        else:
            await _at_least_once(container, persistence, name, handler)
    finally:
        active.discard(name)


async def _at_most_once(container: Observable[S], handler: Callable[[StateChange[S]], Awaitable[Any]]) -> None:
    async with container.subscribe(on_lag="raise") as changes:
        while True:
            try:
                change = await changes.__anext__()
            except LaggedError:
                continue
            except StopAsyncIteration:
                return
            await handler(change)


async def _at_least_once(
    container: Observable[S],
    persistence: StatePersistence[S],
    name: str,
    handler: Callable[[StateChange[S]], Awaitable[Any]],
) -> None:
    blob = f"cursors/{name}"
    stored = await persistence.get_blob(blob)
    if stored is None:
        oldest = container.history.oldest_version
        since = container.version if oldest is None else oldest - 1
    else:
        since = _cursor(stored)
    while True:
        async with container.subscribe(since=since, on_lag="raise") as changes:
            try:
                async for change in changes:
                    await handler(change)
                    since = change.version
                    await persistence.put_blob(blob, orjson.dumps({"version": since}))
            except LaggedError:
                continue  # what was skipped is still in the history, or subscribe says that it is not
            return


def _cursor(stored: bytes) -> int:
    try:
        return int(orjson.loads(stored)["version"])
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("the stored cursor of a consumer is damaged") from exc
