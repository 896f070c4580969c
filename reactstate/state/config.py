"""StateConfig: how a container of one state behaves."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any, Final, Literal

from reactstate.errors import SettingsError, UnsupportedError

__all__ = ["StateConfig"]

_MAX_COUNT: Final = sys.maxsize
_MAX_INTERVAL: Final = timedelta(days=365_000)
"""A later point in time than now and this has no datetime."""


class StateConfig:
    """How much a container keeps, and what it does when somebody is slow.

    Args:
        history_size: The most changes that are kept in the history.
        history_retention: How long they are kept; None for as long as there is room. The newest always stays.
        buffer_size: How many unread changes are kept for a subscriber.
        snapshot_interval: Take a snapshot by itself after so many versions (int) or so much time (timedelta,
            at most 1000 years).
        max_snapshots: How many of the snapshots taken by itself are kept; named ones are never removed.
        concurrency: How writers in several processes share a store: ``"optimistic"``, who loses a race runs its recipe
            again; ``"pessimistic"``, one after another, by a lock in the store.
        on_lag: What a subscriber that falls behind gets: ``"raise"`` or ``"resync"``.

    Raises:
        SettingsError: A value is out of range.
    """

    __slots__ = (
        "buffer_size",
        "concurrency",
        "history_retention",
        "history_size",
        "max_snapshots",
        "on_lag",
        "snapshot_interval",
    )

    def __init__(
        self,
        history_size: int = 1000,
        history_retention: timedelta | None = None,
        buffer_size: int = 1000,
        snapshot_interval: int | timedelta | None = None,
        max_snapshots: int = 10,
        concurrency: Literal["optimistic", "pessimistic"] = "optimistic",
        on_lag: Literal["raise", "resync"] = "raise",
    ) -> None:
        _check_count("history_size", history_size)
        _check_count("buffer_size", buffer_size)
        _check_count("max_snapshots", max_snapshots)
        if history_retention is not None:
            _check_time("history_retention", history_retention)
        if isinstance(snapshot_interval, timedelta):
            _check_time("snapshot_interval", snapshot_interval)
            if snapshot_interval > _MAX_INTERVAL:
                raise SettingsError("snapshot_interval must be at most 1000 years; None takes no snapshots by itself")
        elif snapshot_interval is not None:
            _check_count("snapshot_interval", snapshot_interval)
        if concurrency not in ("optimistic", "pessimistic"):
            raise SettingsError(f'concurrency must be "optimistic" or "pessimistic", not {_given(concurrency)}')
        if on_lag not in ("raise", "resync"):
            raise SettingsError(f'on_lag must be "raise" or "resync", not {_given(on_lag)}')
        self.history_size: int = history_size
        self.history_retention: timedelta | None = history_retention
        self.buffer_size: int = buffer_size
        self.snapshot_interval: timedelta | int | None = snapshot_interval
        self.max_snapshots: int = max_snapshots
        self.concurrency: str = concurrency
        self.on_lag: Literal["raise", "resync"] = on_lag

    def check_alone(self) -> None:
        """Refuse what a state needs a store for that is in none.

        Raises:
            UnsupportedError: ``concurrency="pessimistic"``.
        """
        if self.concurrency == "pessimistic":
            raise UnsupportedError(
                'concurrency="pessimistic" needs a lock in the store of the state, and this one is in no store; '
                'use "optimistic", or a url such as sqlite:app.db',
                layer="container",
                capability="LOCKS",
            )

    def __repr__(self) -> str:
        return f"StateConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
        raise SettingsError(f"{name} must be a whole number from 1 to {_MAX_COUNT}, not {_given(value)}")


def _check_time(name: str, value: Any) -> None:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise SettingsError(f"{name} must be a positive timedelta, not {_given(value)}")


def _given(value: Any) -> str:
    """Return how an error text names *value*: as it is written, if that is short and sure to work."""
    if isinstance(value, int) and abs(value) > _MAX_COUNT:
        return f"an int of {value.bit_length()} bits"
    return f"{value!r:.80}" if isinstance(value, int | float | str | timedelta) else f"a {type(value).__name__}"
