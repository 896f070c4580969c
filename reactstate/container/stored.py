"""From what is stored to what a container shows: the timeline after a restart.

Documents stay as they were stored. Today's states are made of them when they are asked for, by migration where the
schema has moved on, so that a class which can no longer read an old version loses nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from reactstate.errors import DecodeError
from reactstate.state.change import DROPPED, ChangeType, Origin, StateChange
from reactstate.state.document import from_document, schema_of, to_document
from reactstate.state.patch import diff, documents_equal
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.persistence.protocol import Loaded, Record, Snapshot
    from reactstate.state.patch import Patch
    from reactstate.state.timeline import Timeline

__all__ = ["Bridge", "bridge_from", "fill", "settled_change", "stored_change"]

S = TypeVar("S", bound=State)

Bridge: TypeAlias = Callable[[StateChange[Any]], "Patch"]
"""Makes the patch of a change from the stored document, which differs from that of its old state."""


def stored_change(record: Record, origin: Origin) -> StateChange[Any]:
    """Return the change that *record* tells of.

    Raises:
        DecodeError: Its kind is not known, or the way back is missing.
    """
    try:
        kind = ChangeType(record.kind)
    except ValueError as exc:
        raise DecodeError(f"version {record.version} is of an unknown kind {record.kind!r}") from exc
    if record.inverse is None:
        raise DecodeError(f"version {record.version} was loaded without the patch that leads back")
    return StateChange[Any].stored(
        record.version,
        kind,
        record.timestamp_ns,
        record.actor,
        record.action,
        record.tags,
        record.target,
        record.change_id,
        record.patch,
        record.inverse,
        origin,
    )


def settled_change(head: Snapshot, state: Any) -> StateChange[Any]:
    """Return what stands for the change that made *head*, which is not in the history."""
    change: StateChange[Any] = StateChange(
        head.version, ChangeType.UPDATE, state, [(None, None, state)], head.updated_at_ns, None, None, head.tags
    )
    change._id = head.change_id
    return change


def fill(timeline: Timeline[S], loaded: Loaded) -> tuple[bool, Bridge | None]:
    """Take over what is stored.

    Returns:
        Whether today's documents are of another schema, so that a full snapshot must come before the next change; and,
        where they are of the same schema and differ all the same (a field with a default is new), the bridge.

    Raises:
        CodecError: The newest state cannot be read by today's class.
    """
    head, cls = loaded.head, timeline.cls
    rebase = head.schema != schema_of(cls)
    if head.version == 0:
        return rebase, None
    state = None if head.document is None else from_document(cls, head.document, head.schema)
    differs = rebase or (state is not None and not documents_equal(to_document(state), head.document))
    changes: list[StateChange[Any]] = []
    for place, era in enumerate(loaded.history):
        raw = differs or place < len(loaded.history) - 1
        origin = Origin(cls, era.schema, raw=raw)
        changes.extend(stored_change(record, origin) for record in era.records)
        if era.records:
            origin.end(changes[-1], era.document if raw else None)
    if changes:
        timeline.adopt_run(changes, state if changes[-1].version == head.version else DROPPED)
    newest = changes[-1] if changes and changes[-1].version == head.version else settled_change(head, state)
    timeline.begin(newest, state, head.created_at_ns)
    return rebase, bridge_from(head.document) if differs and not rebase else None


def bridge_from(document: Any) -> Bridge:
    """Return what makes the patch of a change from *document*, the stored one before it."""

    def patch(change: StateChange[Any]) -> Patch:
        state = change.new_state
        return change.patch if state is None else diff(document, to_document(state))

    return patch
