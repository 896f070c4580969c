"""SnapshotInfo: what is known of a named snapshot without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.errors import SnapshotNotFoundError, StateValidationError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SnapshotInfo", "check_snapshot_name", "no_snapshot"]

_MAX_NAME = 200


class SnapshotInfo:
    """What is known of a snapshot without reading it (read-only).

    Attributes:
        id: What ``restore`` takes.
        name: The name it was given; empty when it was taken without one.
        version: The version that it holds.
        created_at: When it was taken (aware, UTC).
        automatic: Whether the container took it by itself.
    """

    __slots__ = ("automatic", "created_at", "id", "name", "version")

    def __init__(self, id: str, name: str, version: int, created_at: datetime, *, automatic: bool) -> None:  # noqa: A002 - the public name
        self.id: str = id
        self.name: str = name
        self.version: int = version
        self.created_at: datetime = created_at
        self.automatic: bool = automatic

    def __repr__(self) -> str:
        return f"SnapshotInfo(id={self.id!r}, name={self.name!r}, version={self.version})"


def check_snapshot_name(name: object) -> str:
    """Return *name* if a snapshot may have it.

    Raises:
        StateValidationError: It is not printable text of at most 200 characters.
    """
    if not isinstance(name, str) or len(name) > _MAX_NAME or not name.isprintable():
        raise StateValidationError(f"a snapshot's name is printable text of at most {_MAX_NAME} characters")
    return name


def no_snapshot(id: object) -> SnapshotNotFoundError:  # noqa: A002 - the public name
    """Return the error for an id that no snapshot has."""
    return SnapshotNotFoundError(f"no snapshot has the id {id!r}; list_snapshots() tells which there are")
