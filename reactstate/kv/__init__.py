"""The key-value stores: one protocol with one write operation, and the engines that offer it."""

from __future__ import annotations

from reactstate.kv.keys import StateKey
from reactstate.kv.options import StoreOptions, StoreStats
from reactstate.kv.protocol import (
    ABSENT,
    ANY,
    Add,
    Batch,
    Capability,
    Commit,
    Cursor,
    Delete,
    Entry,
    Event,
    EventKind,
    Expectation,
    Expected,
    Limits,
    Operation,
    Put,
    RangeExpect,
    ReadView,
    Step,
    Ttl,
    Watch,
)
from reactstate.kv.store import KeyValueStore
from reactstate.kv.transaction import Guard, StoreTransaction

__all__ = [
    "ABSENT",
    "ANY",
    "Add",
    "Batch",
    "Capability",
    "Commit",
    "Cursor",
    "Delete",
    "Entry",
    "Event",
    "EventKind",
    "Expectation",
    "Expected",
    "Guard",
    "KeyValueStore",
    "Limits",
    "Operation",
    "Put",
    "RangeExpect",
    "ReadView",
    "StateKey",
    "Step",
    "StoreOptions",
    "StoreStats",
    "StoreTransaction",
    "Ttl",
    "Watch",
]
