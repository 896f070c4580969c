"""A read-only container: it follows what another process writes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from reactstate.errors import CompactedError, ReactStateError
from reactstate.state.change import Origin
from reactstate.state.document import from_document, schema_of
from reactstate.state.patch import apply_patch, invert
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.container.container import StateContainer
    from reactstate.persistence.protocol import Loaded, StatePersistence

__all__ = ["follow"]

S = TypeVar("S", bound=State)

_LOGGER = logging.getLogger("reactstate.container")


async def follow(container: StateContainer[S], persistence: StatePersistence[S], loaded: Loaded | None) -> None:
    """Make every change that the writer publishes visible here, in order, until the container is closed."""
    while True:
        try:
            await _follow_on(container, persistence, loaded)
        except CompactedError:
            loaded = await persistence.load()
            if loaded is not None:
                _jump(container, loaded)
        except ReactStateError:
            _LOGGER.exception("following the writer ended; open the container again to see newer changes")
            return
        else:
            return


async def _follow_on(container: StateContainer[S], persistence: StatePersistence[S], loaded: Loaded | None) -> None:
    from reactstate.container.opening import stored_change

    timeline = container._timeline
    cls = timeline.cls
    schema = schema_of(cls) if loaded is None else loaded.head.schema
    document: Any = None if loaded is None else loaded.head.document
    async for record in persistence.follow(timeline.version):
        if record.inverse is None:
            record.inverse = invert(document, record.patch)
        document = apply_patch(document, record.patch)
        state = None if document is None else from_document(cls, document, schema)
        origin = Origin(cls, schema, document, raw=True)
        change = stored_change(record, origin)
        origin.last = change
        timeline.adopt(change, state)
        container._shown(change)


def _jump(container: StateContainer[S], loaded: Loaded) -> None:
    """Go on from a newer snapshot, when the records on the way to it are gone."""
    from reactstate.container.opening import snapshot_change

    timeline, head = container._timeline, loaded.head
    state = None if head.document is None else from_document(timeline.cls, head.document, head.schema)
    timeline.restart(snapshot_change(head, state), state, head.created_at_ns)
    change = container._resync()
    if change is not None:
        container._shown(change)


