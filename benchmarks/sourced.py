"""PROFILE as an aggregate of the eventsourcing library."""

from __future__ import annotations

from typing import Any

from eventsourcing.domain import Aggregate, event

__all__ = ["Profile"]


class Profile(Aggregate):
    """An aggregate whose ``count`` changes by events."""

    @event("Created")
    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.count: int = fields["count"]

    @event("CountSet")
    def set_count(self, count: int) -> None:
        """Change the count."""
        self.count = count
