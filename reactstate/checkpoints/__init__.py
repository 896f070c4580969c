"""Checkpoints of a store at intervals: made beside its writers, kept in a directory, checked, restored."""

from __future__ import annotations

from reactstate.checkpoints.coordinator import CheckpointCoordinator
from reactstate.checkpoints.options import CheckpointInfo, CheckpointOptions, CheckpointStats

__all__ = ["CheckpointCoordinator", "CheckpointInfo", "CheckpointOptions", "CheckpointStats"]
