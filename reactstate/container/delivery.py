"""process: handing every change to a handler, with a guarantee.

at_most_once
    A live subscription: changes made while nobody listens, or skipped because the handler was slow, are not made up.
at_least_once
    A named cursor is stored beside the state and advanced after the handler; after a crash the handler sees the
    change again. The cursor is never ahead of what is durable. A new name starts at the oldest change that is kept.
exactly_once
    The handler gets a transaction on the store that the state is in. What it writes there and the cursor are
    committed together, so that its effects in that store happen exactly once; when the commit meets a conflict, its
    writes are dropped and the handler runs again. What the handler does elsewhere may happen more than once.

An exception of the handler ends ``process`` without advancing. When the container is closed, the handler finishes the
change that it is at, its cursor is stored, and ``process`` returns. One consumer a name may be active.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import orjson

from reactstate.errors import (
    AlreadyOpenError,
    ClosedError,
    DecodeError,
    InvalidKeyError,
    LaggedError,
    ReadOnlyError,
    TransientError,
    UnknownOutcomeError,
    UnsupportedError,
)
from reactstate.kv.protocol import Capability
from reactstate.kv.transaction import StoreTransaction
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reactstate.container.lifecycle import Lifecycle
    from reactstate.kv.store import KeyValueStore
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import StateChange

__all__ = ["Consumer", "Delivery", "process_changes"]

S = TypeVar("S", bound=State)
T = TypeVar("T")

Delivery = Literal["at_most_once", "at_least_once", "exactly_once"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_MAX_NAME = 100
_CURSORS = "cursors/"


class Consumer:
    """An active consumer.

    Attributes:
        task: The task that handles its changes.
        ended: Done when it has ended.
    """

    __slots__ = ("ended", "task")

    def __init__(self, task: asyncio.Task[Any] | None, ended: asyncio.Future[None]) -> None:
        self.task: asyncio.Task[Any] | None = task
        self.ended: asyncio.Future[None] = ended


async def process_changes(
    container: Lifecycle[S], name: str, handler: Callable[..., Awaitable[Any]], delivery: Delivery
) -> None:
    """Hand the changes of *container* to *handler* until the container is closed or the handler raises."""
    if delivery not in {"at_most_once", "at_least_once", "exactly_once"}:
        raise ValueError(f"delivery must be at_most_once, at_least_once or exactly_once, not {delivery!r}")
    if not isinstance(name, str) or len(name) > _MAX_NAME or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance] - names come from callers
        raise InvalidKeyError(f"{name!r}: a consumer's name is made of up to 100 letters, digits, _, - and single dots")
    place = container._persistence.cursor_place(name) if delivery == "exactly_once" else None
    if delivery == "exactly_once" and place is None:
        raise UnsupportedError(
            "exactly_once needs a store with transactions behind the container; use at_least_once with a handler "
            "that can bear a repetition",
            layer="container",
            capability="TRANSACTIONS",
        )
    if delivery == "at_least_once" and container._persistence.read_only:
        raise ReadOnlyError("a container that was opened read-only can store no cursor; use at_most_once")
    active = container._consumers
    if name in active:
        raise AlreadyOpenError(f"{name!r} is being processed already; one consumer a name may be active")
    consumer = Consumer(asyncio.current_task(), asyncio.get_running_loop().create_future())
    active[name] = consumer
    try:
        if delivery == "at_most_once":
            await _at_most_once(container, handler)
        elif place is not None:
            await _exactly_once(container, name, handler, *place)
        else:
            await _at_least_once(container, name, handler)
    finally:
        del active[name]
        if not consumer.ended.done():  # else closing gave up waiting for it
            consumer.ended.set_result(None)


async def _at_most_once(container: Lifecycle[S], handler: Callable[[StateChange[S]], Awaitable[Any]]) -> None:
    async with container.subscribe(on_lag="raise") as changes:
        while True:
            try:
                change = await changes.__anext__()
            except LaggedError:
                continue
            except StopAsyncIteration:
                return
            if container._closed:
                return
            await handler(change)


async def _at_least_once(
    container: Lifecycle[S], name: str, handler: Callable[[StateChange[S]], Awaitable[Any]]
) -> None:
    persistence = container._persistence
    since = await _start(container, name)
    while not container._closed:
        await _reach(container, since)
        async with container.subscribe(since=since, on_lag="raise") as changes:
            try:
                async for change in changes:
                    if container._closed:
                        return
                    await handler(change)
                    since = change.version
                    await _advance(persistence, name, since)
            except LaggedError:
                continue  # what was skipped is still in the history, or subscribe says that it is not


async def _start(container: Lifecycle[Any], name: str) -> int:
    """Return the version after which the consumer *name* begins."""
    stored = await container._persistence.get_blob(_CURSORS + name)
    if stored is not None:
        return _cursor(stored)
    oldest = container.history.oldest_version
    return container.version if oldest is None else oldest - 1


async def _reach(container: Lifecycle[Any], since: int) -> None:
    """See to it that version *since* is visible here, where a consumer of another container may have been ahead."""
    if since > container.version and container._sharing is not None:
        await container._sharing.confirm()


async def _exactly_once(
    container: Lifecycle[S], name: str, handler: Callable[..., Awaitable[Any]], store: KeyValueStore, key: str
) -> None:
    stored = await _reached(container, lambda: store.get(key))
    since = await _start(container, name) if stored is None else _cursor(stored.value)
    while not container._closed:
        await _reach(container, since)
        async with container.subscribe(since=since, on_lag="raise") as changes:
            try:
                async for change in changes:
                    if container._closed:
                        return
                    reached = await _handle(container, handler, change, since, store, key)
                    since = reached
                    if reached != change.version:
                        break  # another consumer of that name went on: so do we, from where it is
            except LaggedError:
                continue  # what was skipped is still in the history, or subscribe says that it is not


async def _handle(
    container: Lifecycle[S],
    handler: Callable[..., Awaitable[Any]],
    change: StateChange[S],
    since: int,
    store: KeyValueStore,
    key: str,
) -> int:
    """Commit the effects of one change together with the cursor; return the version that the cursor is at."""
    began = container._clock.monotonic()
    attempts = 0
    while True:
        async with contextlib.AsyncExitStack() as stack:
            view = None
            if Capability.SNAPSHOT_READS in store.capabilities:
                view = await _reached(container, lambda: stack.enter_async_context(store.snapshot()))
            tx = StoreTransaction(store, view)
            stored = await _reached(container, partial(tx.get, key))
            if stored is not None and (there := _cursor(stored)) != since:
                return there
            await handler(change, tx)
            tx.put(key, orjson.dumps({"version": change.version}))
            try:
                await tx.commit()
            except (TransientError, UnknownOutcomeError):
                # A commit without an answer is safe to repeat: both expect the cursor where it was.
                if container._clock.monotonic() - began > container._deadline:
                    raise
            else:
                return change.version
        attempts += 1
        await container._clock.sleep(random.uniform(0, min(0.001 * 2 ** min(attempts, 10), 0.1)))  # noqa: S311 - only to differ


async def _reached(container: Lifecycle[Any], read: Callable[[], Awaitable[T]]) -> T:
    """Return what *read* returns, once the store can be reached."""
    from reactstate.kv.retry import until_available

    return await until_available(read, clock=container._clock, deadline=container._deadline)


async def _advance(persistence: StatePersistence[Any], name: str, version: int) -> None:
    try:
        # A power cut must not leave a cursor beyond the newest change, or later ones would be passed over.
        await persistence.flush()
        await persistence.put_blob(_CURSORS + name, orjson.dumps({"version": version}))
    except ClosedError as exc:
        raise ClosedError(
            f"the container was closed before the cursor of {name!r} was stored; version {version} will be handled again"
        ) from exc


def _cursor(stored: bytes) -> int:
    try:
        return int(orjson.loads(stored)["version"])
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("the stored cursor of a consumer is damaged") from exc
