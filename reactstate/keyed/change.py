"""KeyedChange: what a keyed container tells those who watch it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from reactstate.clock import to_datetime
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reactstate.keyed.ids import Id
    from reactstate.keyed.records import Record
    from reactstate.kv.protocol import Cursor
    from reactstate.state.change import ChangeType

__all__ = ["KeyedChange"]

S = TypeVar("S", bound=State)

_NO_TAGS: Final = MappingProxyType[str, Any]({})


class KeyedChange(Generic[S]):
    """What became of one state; changes that came close together may be folded into one (read-only).

    Attributes:
        id: The state's id.
        change_type: ``CREATE``: the state is new to this subscriber, or was deleted and created again since it was
            last told of it. ``UPDATE``: it is a later version. ``DELETE``: it is gone.
        state: The newest state; None when it is gone.
        version: Its version. For a DELETE a version after every one that the id had before, and before every one that
            it will have.
        revision: The store's revision of the commit.
        cursor: Where ``subscribe(since=...)`` goes on after this change, also in another process. None in a callback
            for a change of this very container, which is told before the store's watch tells of it.
        resync: Whether it tells not of a change but of what is there, because the changes are no longer kept. Ids
            that no change of one resync names do not exist any more.
    """

    __slots__ = ("_record", "change_type", "cursor", "id", "resync", "revision", "state", "version")

    def __init__(
        self,
        id: Id,  # noqa: A002 - the public name
        change_type: ChangeType,
        record: Record[S] | None,
        version: int,
        revision: int,
        cursor: Cursor | None,
        *,
        resync: bool = False,
    ) -> None:
        self.id: Id = id
        self.change_type: ChangeType = change_type
        self._record = record
        self.state: S | None = None if record is None else record.state
        self.version: int = version
        self.revision: int = revision
        self.cursor: Cursor | None = cursor
        self.resync: bool = resync

    @property
    def timestamp(self) -> datetime | None:
        """When the version was made (aware, UTC); None for a DELETE."""
        return None if self._record is None else to_datetime(self._record.timestamp_ns)

    @property
    def transaction_id(self) -> str | None:
        """The transaction that made the version together with others; None for a DELETE, or where there was none."""
        return None if self._record is None else self._record.transaction_id

    @property
    def actor(self) -> str | None:
        """Who made the version, or None."""
        return None if self._record is None else self._record.labels.actor

    @property
    def action(self) -> str | None:
        """What was done: the name given, else the recipe's own name unless it is a lambda."""
        return None if self._record is None else self._record.labels.action

    @property
    def tags(self) -> Mapping[str, Any]:
        """The tags of the version; empty when none were given."""
        tags = None if self._record is None else self._record.labels.tags
        return _NO_TAGS if tags is None else MappingProxyType(dict(tags))

    def __repr__(self) -> str:
        resync = ", resync=True" if self.resync else ""
        return f"KeyedChange({self.id!r}, {self.change_type.name}, version={self.version}{resync})"
