"""How checkpoints are made, what is known of each, and what a coordinator counts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reactstate.errors import SettingsError

__all__ = ["CheckpointInfo", "CheckpointOptions", "CheckpointStats"]


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """How checkpoints are made and kept.

    Attributes:
        checkpoint_dir: Where they are kept, one file each (0600); made (0700) when it is missing. One store a
            directory.
        max_checkpoints: How many are kept; after each new one the oldest beyond are removed, named or not.
        compress: Whether they are compressed (zstd).
        min_interval: An automatic one is skipped while the newest is younger than that; those that are asked for
            (``create_checkpoint``, ``shutdown``) are always made.
    """

    checkpoint_dir: str | os.PathLike[str]
    max_checkpoints: int = 24
    compress: bool = True
    min_interval: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: One of them cannot be used.
        """
        # these values come from callers, whatever their annotations say
        place: Any = self.checkpoint_dir
        path: Any = os.fspath(self.checkpoint_dir) if isinstance(place, (str, os.PathLike)) else None
        if not isinstance(path, str) or not path or "\0" in path or not _is_encodable(path):
            raise SettingsError(f"checkpoint_dir={place!r}: give the path of a directory")
        if type(self.max_checkpoints) is not int or self.max_checkpoints < 1:
            raise SettingsError(f"max_checkpoints={self.max_checkpoints!r}: give a whole number of 1 or more")
        if type(self.compress) is not bool:
            raise SettingsError(f"compress={self.compress!r}: give True or False")
        least: Any = self.min_interval
        if not isinstance(least, timedelta) or least < timedelta(0):
            raise SettingsError(f"min_interval={least!r}: give a timedelta of 0 or more")


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What is known of a checkpoint.

    Attributes:
        id: Its id; ids sort by when they were made.
        name: The name that it was given, or the empty text.
        created_at: When it was made (aware UTC), by the clock of its store.
        size_bytes: The length of its file.
        entries: The number of entries in it.
        revision: The newest revision of its store at that moment.
        engine: The engine that it was made of.
    """

    id: str
    name: str
    created_at: datetime
    size_bytes: int
    entries: int
    revision: int
    engine: str


@dataclass(slots=True)
class CheckpointStats:
    """What one coordinator counted since it was made.

    Attributes:
        checkpoints_created: Checkpoints that were made.
        checkpoint_failures: Attempts that failed.
        last_checkpoint_duration_ms: How long the newest took, by the coordinator's clock.
        last_checkpoint_bytes: The length of its file.
        last_restore_duration_ms: How long the last restore took, by the coordinator's clock.
    """

    checkpoints_created: int = 0
    checkpoint_failures: int = 0
    last_checkpoint_duration_ms: float = 0.0
    last_checkpoint_bytes: int = 0
    last_restore_duration_ms: float = 0.0
