"""Locks: leases over a store, with fencing tokens and guards that make the store refuse a stale holder."""

from __future__ import annotations

from reactstate.locks.guard import LockGuard, check_guard
from reactstate.locks.manager import Locks

__all__ = ["LockGuard", "Locks", "check_guard"]
