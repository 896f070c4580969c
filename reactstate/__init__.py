"""Typed, versioned, reactive, durable state containers.

Everything public can be imported from here; each name is loaded when it is first used, so that importing the package
costs little and needs none of its extras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reactstate.checkpoints.coordinator import CheckpointCoordinator
    from reactstate.checkpoints.options import CheckpointInfo, CheckpointOptions, CheckpointStats
    from reactstate.clock import Clock, ManualClock, SystemClock
    from reactstate.codec import AesGcmEncryption, Codec, Decoded, Encryption
    from reactstate.container.container import StateContainer
    from reactstate.container.reads import BoundedStaleness, Consistency, Eventual, Strong
    from reactstate.container.snapshots import SnapshotInfo
    from reactstate.coordination.results import CasResult, Claim, KeyChange, Stored
    from reactstate.coordination.store import CoordinationStore
    from reactstate.errors import (
        AlreadyOpenError,
        CheckpointNotFoundError,
        ClockDriftError,
        ClosedError,
        CodecError,
        CompactedError,
        ConflictError,
        ContentionError,
        CorruptionError,
        DecodeError,
        DecompressionLimitError,
        DecryptionError,
        FrozenStateError,
        InvalidKeyError,
        LaggedError,
        LeaseLostError,
        LimitExceededError,
        LockTimeoutError,
        MergeUnsupportedError,
        NoHistoricalState,
        NotACounterError,
        PatchError,
        ReactStateError,
        ReadOnlyError,
        ReplicaConflictError,
        SchemaVersionError,
        SettingsError,
        SnapshotNotFoundError,
        StateDefinitionError,
        StateNotFoundError,
        StateValidationError,
        StorageError,
        StorageFailedError,
        TooManyTransactions,
        TransactionConflict,
        TransactionNotActive,
        TransactionTimeout,
        TransientError,
        TransitionError,
        UnavailableError,
        UnknownOutcomeError,
        UnknownTypeError,
        UnsupportedError,
        WrongContextError,
    )
    from reactstate.keyed.change import KeyedChange
    from reactstate.keyed.container import KeyedContainer
    from reactstate.kv.keys import StateKey
    from reactstate.kv.lmdb import LmdbStore
    from reactstate.kv.memory import MemoryStore
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
        Limits,
        Put,
        RangeExpect,
        ReadView,
        Step,
    )
    from reactstate.kv.sqlite import SqliteStore
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard, StoreTransaction
    from reactstate.kv.urls import StoreUrl, open_store
    from reactstate.locks.guard import LockGuard
    from reactstate.locks.manager import Locks
    from reactstate.mvcc.active import TransactionStats
    from reactstate.mvcc.container import MVCCContainer
    from reactstate.mvcc.subscription import TransactionChange
    from reactstate.mvcc.transaction import Transaction, TransactionState
    from reactstate.persistence.file import FilePersistence
    from reactstate.persistence.kv import KeyValuePersistence
    from reactstate.persistence.memory import MemoryPersistence
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.atomic import AtomicState
    from reactstate.state.broadcast import Broadcast
    from reactstate.state.change import ChangeType, StateChange, StateMetadata, VersionedState
    from reactstate.state.config import StateConfig
    from reactstate.state.derive import View, ViewChange, derive, select
    from reactstate.state.document import from_document, states_equal, to_document
    from reactstate.state.fieldtypes import register_scalar
    from reactstate.state.history import History
    from reactstate.state.maps import Map
    from reactstate.state.patch import apply_patch, diff, invert
    from reactstate.state.produce import Produced, produce
    from reactstate.state.state import State, migration, state_key
    from reactstate.state.subscription import Subscription
    from reactstate.state.watch import Watch
    from reactstate.testing.check import check_state

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "checkpoints.coordinator": ("CheckpointCoordinator",),
    "checkpoints.options": ("CheckpointInfo", "CheckpointOptions", "CheckpointStats"),
    "clock": ("Clock", "ManualClock", "SystemClock"),
    "codec": ("AesGcmEncryption", "Codec", "Decoded", "Encryption"),
    "container.container": ("StateContainer",),
    "container.reads": ("BoundedStaleness", "Consistency", "Eventual", "Strong"),
    "container.snapshots": ("SnapshotInfo",),
    "coordination.results": ("CasResult", "Claim", "KeyChange", "Stored"),
    "coordination.store": ("CoordinationStore",),
    "keyed.change": ("KeyedChange",),
    "keyed.container": ("KeyedContainer",),
    "kv.keys": ("StateKey",),
    "kv.lmdb": ("LmdbStore",),
    "kv.memory": ("MemoryStore",),
    "kv.options": ("StoreOptions", "StoreStats"),
    "kv.protocol": (
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
        "Limits",
        "Put",
        "RangeExpect",
        "ReadView",
        "Step",
    ),
    "kv.sqlite": ("SqliteStore",),
    "kv.store": ("KeyValueStore",),
    "kv.transaction": ("Guard", "StoreTransaction"),
    "kv.urls": ("StoreUrl", "open_store"),
    "locks.guard": ("LockGuard",),
    "locks.manager": ("Locks",),
    "mvcc.active": ("TransactionStats",),
    "mvcc.container": ("MVCCContainer",),
    "mvcc.subscription": ("TransactionChange",),
    "mvcc.transaction": ("Transaction", "TransactionState"),
    "persistence.file": ("FilePersistence",),
    "persistence.kv": ("KeyValuePersistence",),
    "persistence.memory": ("MemoryPersistence",),
    "persistence.protocol": ("StatePersistence",),
    "state.atomic": ("AtomicState",),
    "state.broadcast": ("Broadcast",),
    "state.change": ("ChangeType", "StateChange", "StateMetadata", "VersionedState"),
    "state.config": ("StateConfig",),
    "state.derive": ("View", "ViewChange", "derive", "select"),
    "state.document": ("from_document", "states_equal", "to_document"),
    "state.fieldtypes": ("register_scalar",),
    "state.history": ("History",),
    "state.maps": ("Map",),
    "state.patch": ("apply_patch", "diff", "invert"),
    "state.produce": ("Produced", "produce"),
    "state.state": ("State", "migration", "state_key"),
    "state.subscription": ("Subscription",),
    "state.watch": ("Watch",),
    "testing.check": ("check_state",),
}

__all__ = [
    "ABSENT",
    "ANY",
    "Add",
    "AesGcmEncryption",
    "AlreadyOpenError",
    "AtomicState",
    "Batch",
    "BoundedStaleness",
    "Broadcast",
    "Capability",
    "CasResult",
    "ChangeType",
    "CheckpointCoordinator",
    "CheckpointInfo",
    "CheckpointNotFoundError",
    "CheckpointOptions",
    "CheckpointStats",
    "Claim",
    "Clock",
    "ClockDriftError",
    "ClosedError",
    "Codec",
    "CodecError",
    "Commit",
    "CompactedError",
    "ConflictError",
    "Consistency",
    "ContentionError",
    "CoordinationStore",
    "CorruptionError",
    "Cursor",
    "DecodeError",
    "Decoded",
    "DecompressionLimitError",
    "DecryptionError",
    "Delete",
    "Encryption",
    "Entry",
    "Event",
    "EventKind",
    "Eventual",
    "FilePersistence",
    "FrozenStateError",
    "Guard",
    "History",
    "InvalidKeyError",
    "KeyChange",
    "KeyValuePersistence",
    "KeyValueStore",
    "KeyedChange",
    "KeyedContainer",
    "LaggedError",
    "LeaseLostError",
    "LimitExceededError",
    "Limits",
    "LmdbStore",
    "LockGuard",
    "LockTimeoutError",
    "Locks",
    "MVCCContainer",
    "ManualClock",
    "Map",
    "MemoryPersistence",
    "MemoryStore",
    "MergeUnsupportedError",
    "NoHistoricalState",
    "NotACounterError",
    "PatchError",
    "Produced",
    "Put",
    "RangeExpect",
    "ReactStateError",
    "ReadOnlyError",
    "ReadView",
    "ReplicaConflictError",
    "SchemaVersionError",
    "SettingsError",
    "SnapshotInfo",
    "SnapshotNotFoundError",
    "SqliteStore",
    "State",
    "StateChange",
    "StateConfig",
    "StateContainer",
    "StateDefinitionError",
    "StateKey",
    "StateMetadata",
    "StateNotFoundError",
    "StatePersistence",
    "StateValidationError",
    "Step",
    "StorageError",
    "StorageFailedError",
    "StoreOptions",
    "StoreStats",
    "StoreTransaction",
    "StoreUrl",
    "Stored",
    "Strong",
    "Subscription",
    "SystemClock",
    "TooManyTransactions",
    "Transaction",
    "TransactionChange",
    "TransactionConflict",
    "TransactionNotActive",
    "TransactionState",
    "TransactionStats",
    "TransactionTimeout",
    "TransientError",
    "TransitionError",
    "UnavailableError",
    "UnknownOutcomeError",
    "UnknownTypeError",
    "UnsupportedError",
    "VersionedState",
    "View",
    "ViewChange",
    "Watch",
    "WrongContextError",
    "apply_patch",
    "check_state",
    "derive",
    "diff",
    "from_document",
    "invert",
    "migration",
    "open_store",
    "produce",
    "register_scalar",
    "select",
    "state_key",
    "states_equal",
    "to_document",
]

_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME_OF.get(name, f"{__name__}.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
