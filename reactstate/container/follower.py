"""A read-only container: it follows what another process writes.

Contract
    Every change that the writer publishes becomes visible here, once and in order. Where the changes on the way are
    gone, or the writer went over to other documents, the container goes on from the newest state: subscribers get one
    change with the action ``"resync"`` that carries them there, and the history begins anew.

    What can no longer be read (damage, a newer schema than this program knows) ends the following: it is logged, the
    newest state that could be read stays, and the subscriptions end.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from reactstate.container.stored import settled_change, stored_change
from reactstate.errors import CompactedError, LaggedError, PatchError, StorageError
from reactstate.state.change import Origin
from reactstate.state.document import from_document, schema_of
from reactstate.state.patch import apply_patch, invert
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.container.lifecycle import Lifecycle
    from reactstate.persistence.protocol import Loaded

__all__ = ["confirm", "follow"]

S = TypeVar("S", bound=State)

_ATTEMPTS = 3
_LOGGER = logging.getLogger("reactstate.container")


async def follow(container: Lifecycle[S], loaded: Loaded | None) -> None:
    """Make every change that the writer publishes visible here, in order, until the container is closed."""
    stuck = 0
    try:
        while True:
            version = container.version
            cause: Exception | None = None
            try:
                await _follow_on(container, loaded)
            except (CompactedError, PatchError) as exc:
                cause = exc
            loaded = await container._persistence.load(history=1)
            _jump(container, loaded)
            stuck = 0 if container.version > version else stuck + 1
            if stuck == _ATTEMPTS:
                raise StorageError("what the writer published leads no further than what is here") from cause  # noqa: TRY301 - the way out of the loop
    except Exception:
        _LOGGER.exception("following the writer ended; open the container again to see newer changes")
        container._end_watching()


async def confirm(container: Lifecycle[S]) -> None:
    """Return when everything that was published before this call is visible here.

    Raises:
        StorageError: It cannot be read.
        CodecError: It cannot be read by today's class.
    """
    following = container._following
    if following is None or following.done():
        _jump(container, await container._persistence.load(history=1))
        return
    async with container.subscribe() as changes:
        loaded = await container._persistence.load(history=1)
        while loaded is not None and container.version < loaded.head.version:
            try:
                await changes.__anext__()
            except LaggedError:
                continue
            except StopAsyncIteration:
                _jump(container, loaded)


async def _follow_on(container: Lifecycle[S], loaded: Loaded | None) -> None:
    """Follow until the container must go on from a newer state."""
    checked = 0
    timeline = container._timeline
    cls = timeline.cls
    schema = schema_of(cls) if loaded is None else loaded.head.schema
    origin = Origin(cls, schema, None if loaded is None else loaded.head.document, raw=True)
    async for record in container._persistence.follow(timeline.version):
        if record.inverse is not None and record.version > checked:
            # It comes from another segment than the one before, whose documents may be of another schema.
            newest = await container._persistence.load(history=1)
            if newest is None or newest.head.schema != schema:
                return
            checked = newest.head.version
        before = origin.document
        document = apply_patch(before, record.patch)
        if record.inverse is None:
            record.inverse = invert(before, record.patch)
        state: Any = None if document is None else from_document(cls, document, schema)
        change = stored_change(record, origin)
        timeline.adopt(change, state)
        origin.end(change, document)
        container._shown(change)


def _jump(container: Lifecycle[S], loaded: Loaded | None) -> None:
    """Go on from the newest state, when the changes on the way to it are not known."""
    timeline = container._timeline
    if loaded is None or loaded.head.version <= timeline.version:
        return
    head = loaded.head
    state = None if head.document is None else from_document(timeline.cls, head.document, head.schema)
    timeline.restart(settled_change(head, state), state, head.created_at_ns)
    change = container._resync()
    if change is not None:
        container._shown(change)
