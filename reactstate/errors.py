"""Everything that reactstate raises, in one tree.

    ReactStateError
    ├── StateValidationError, PatchError, TransitionError, FrozenStateError, MergeUnsupportedError,
    │   StateDefinitionError, WrongContextError
    ├── ConflictError
    ├── TransientError
    │   ├── TransactionConflict
    │   ├── ContentionError
    │   └── UnavailableError
    ├── UnknownOutcomeError
    ├── LaggedError, CompactedError, LeaseLostError, LockTimeoutError
    ├── NoHistoricalState, StateNotFoundError, SnapshotNotFoundError, CheckpointNotFoundError
    ├── TransactionNotActive, TransactionTimeout, TooManyTransactions
    ├── ClosedError, UnsupportedError, AlreadyOpenError, ReadOnlyError, LimitExceededError,
    │   InvalidKeyError, NotACounterError, SettingsError
    ├── CodecError
    │   └── DecodeError, UnknownTypeError, SchemaVersionError, DecompressionLimitError, DecryptionError
    ├── ReplicaConflictError, ClockDriftError
    └── StorageError
        └── StorageFailedError, CorruptionError

``except TransientError`` is all that a retry loop needs. Errors carry attributes, so that a program never has to
read their text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "AlreadyOpenError",
    "CheckpointNotFoundError",
    "ClockDriftError",
    "ClosedError",
    "CodecError",
    "CompactedError",
    "ConflictError",
    "ContentionError",
    "CorruptionError",
    "DecodeError",
    "DecompressionLimitError",
    "DecryptionError",
    "FrozenStateError",
    "InvalidKeyError",
    "LaggedError",
    "LeaseLostError",
    "LimitExceededError",
    "LockTimeoutError",
    "MergeUnsupportedError",
    "NoHistoricalState",
    "NotACounterError",
    "PatchError",
    "ReactStateError",
    "ReadOnlyError",
    "ReplicaConflictError",
    "SchemaVersionError",
    "SettingsError",
    "SnapshotNotFoundError",
    "StateDefinitionError",
    "StateNotFoundError",
    "StateValidationError",
    "StorageError",
    "StorageFailedError",
    "TooManyTransactions",
    "TransactionConflict",
    "TransactionNotActive",
    "TransactionTimeout",
    "TransientError",
    "TransitionError",
    "UnavailableError",
    "UnknownOutcomeError",
    "UnknownTypeError",
    "UnsupportedError",
    "WrongContextError",
]


class ReactStateError(Exception):
    """The root of every error that reactstate raises on purpose."""


# --- the state itself -------------------------------------------------------------------------------------------


class StateValidationError(ReactStateError):
    """A value does not fit its field, or a validator of the model refused it.

    Attributes:
        cause: pydantic's ``ValidationError`` (or the error of the validator), also chained as ``__cause__``.
    """

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        """Chain *cause*, so that a traceback shows pydantic's list of errors."""
        super().__init__(message)
        self.cause = cause
        self.__cause__ = cause


class PatchError(ReactStateError):
    """A JSON Patch is malformed or does not fit the document that it is applied to."""


class TransitionError(ReactStateError):
    """``check_transition`` refused the change from the previous state to the new one."""


class FrozenStateError(ReactStateError):
    """A published state, a list, dict or set inside one, or a draft after its recipe, was about to be changed."""


class MergeUnsupportedError(ReactStateError):
    """``merge`` was called on a state whose class does not define how two states become one."""


class StateDefinitionError(ReactStateError):
    """A State class uses a field, a type or a hook that could not be stored and read back unchanged."""


class WrongContextError(ReactStateError, RuntimeError):
    """A container was used where it must not be: in its own recipe, or on a loop, thread or process not its own."""


# --- concurrency ------------------------------------------------------------------------------------------------


class ConflictError(ReactStateError):
    """An expectation of the caller failed: the state or the entries are no longer what it said.

    Attributes:
        current: The current ``VersionedState`` (containers), or None.
        entries: The current entries by key (stores), so that a retry needs no read; a key that is not there is absent.
        keys: The keys whose expectations failed (stores).
    """

    def __init__(
        self,
        message: str,
        *,
        current: Any = None,
        entries: Mapping[str, Any] | None = None,
        keys: Sequence[str] = (),
    ) -> None:
        """Keep what is current beside the message."""
        super().__init__(message)
        self.current = current
        self.keys: tuple[str, ...] = tuple(keys)
        self.entries: dict[str, Any] = dict(entries) if entries is not None else {}


class TransientError(ReactStateError):
    """Nothing was changed, and the same call may succeed when it is made again."""


class TransactionConflict(TransientError):  # noqa: N818 - the public name
    """Another transaction committed first to what this one read or wrote.

    Attributes:
        keys: The keys that moved.
    """

    def __init__(self, message: str, keys: Sequence[str] = ()) -> None:
        """Keep the keys beside the message."""
        super().__init__(message)
        self.keys: tuple[str, ...] = tuple(keys)


class ContentionError(TransientError):
    """An optimistic update kept losing to other writers until its deadline."""


class UnavailableError(TransientError):
    """The store could not be reached, and the operation is known not to have been applied."""


class UnknownOutcomeError(ReactStateError):
    """The operation may or may not have been applied; read the state anew before deciding what to do."""


class LaggedError(ReactStateError):
    """A subscriber fell behind; it stays subscribed and goes on with the oldest change that is still kept.

    Attributes:
        missed: How many changes were skipped.
    """

    def __init__(self, missed: int) -> None:
        """Say how many changes were skipped."""
        super().__init__(f"{missed} changes were skipped because this subscriber fell behind; it is still subscribed")
        self.missed = missed


class CompactedError(ReactStateError):
    """The changes asked for are older than those that are kept.

    Attributes:
        resume: The version (containers) or cursor (stores) from which all changes are still kept.
    """

    def __init__(self, message: str, resume: Any = None) -> None:
        """Keep where to resume beside the message."""
        super().__init__(message)
        self.resume = resume


class LeaseLostError(ReactStateError):
    """The lock's lease ran out or was taken by another owner; the work that it protected must stop."""


class LockTimeoutError(ReactStateError):
    """The lock was not acquired within the timeout."""


# --- what is not there ------------------------------------------------------------------------------------------


class NoHistoricalState(ReactStateError):  # noqa: N818 - the public name
    """The version, time or step asked for is not in the kept history.

    Attributes:
        oldest: The oldest version that is kept, or None when nothing is.
        newest: The newest version, or None when nothing is stored.
    """

    def __init__(self, message: str, *, oldest: int | None = None, newest: int | None = None) -> None:
        """Keep the range that exists beside the message."""
        super().__init__(message)
        self.oldest = oldest
        self.newest = newest


class StateNotFoundError(ReactStateError):
    """There is no state: nothing was stored yet, or it was deleted."""


class SnapshotNotFoundError(ReactStateError):
    """No snapshot has that id."""


class CheckpointNotFoundError(ReactStateError):
    """No checkpoint has that id."""


# --- transactions -----------------------------------------------------------------------------------------------


class TransactionNotActive(ReactStateError):  # noqa: N818 - the public name
    """The transaction was already committed or aborted."""


class TransactionTimeout(ReactStateError):  # noqa: N818 - the public name
    """The transaction was open for longer than ``transaction_timeout`` and was aborted."""


class TooManyTransactions(ReactStateError):  # noqa: N818 - the public name
    """``max_transactions`` transactions are active already."""


# --- use --------------------------------------------------------------------------------------------------------


class ClosedError(ReactStateError):
    """The container, subscription, store or persistence was closed."""


class UnsupportedError(ReactStateError):
    """What was asked for needs something that is not there.

    Attributes:
        layer: The layer that asks, such as ``"codec"`` or ``"locks"``.
        engine: The engine that does not offer it, or None.
        capability: What is missing.
        extra: The extra to install, as in ``pip install 'reactstate[extra]'``, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        layer: str | None = None,
        engine: str | None = None,
        capability: str | None = None,
        extra: str | None = None,
    ) -> None:
        """Keep who misses what beside the message."""
        super().__init__(message)
        self.layer = layer
        self.engine = engine
        self.capability = capability
        self.extra = extra


class AlreadyOpenError(ReactStateError):
    """Another container or process holds the directory open for writing."""


class ReadOnlyError(ReactStateError):
    """A write was asked of something that was opened with ``read_only=True``."""


class LimitExceededError(ReactStateError):
    """A key, value or commit is larger than the engine takes; nothing was sent.

    Attributes:
        limit: The largest size that is accepted.
        actual: The size that was given.
    """

    def __init__(self, message: str, *, limit: int, actual: int) -> None:
        """Keep both sizes beside the message."""
        super().__init__(message)
        self.limit = limit
        self.actual = actual


class InvalidKeyError(ReactStateError):
    """A key is empty, not encodable, or not a key of the form that is asked for."""


class NotACounterError(ReactStateError):
    """``increment`` met a value that is not the decimal text of a signed 64-bit integer."""


class SettingsError(ReactStateError):
    """A setting or URL option is unknown or has a value that cannot be used."""


# --- codec ------------------------------------------------------------------------------------------------------


class CodecError(ReactStateError):
    """Bytes could not be made from a document, or a document from bytes."""


class DecodeError(CodecError):
    """The bytes are not what their envelope says, or the document does not fit its type; nothing was dropped."""


class UnknownTypeError(CodecError):
    """The stored type is another one than the type that was asked for.

    Attributes:
        expected: The type name asked for.
        found: The type name stored.
    """

    def __init__(self, message: str, *, expected: str | None = None, found: str | None = None) -> None:
        """Keep both names beside the message."""
        super().__init__(message)
        self.expected = expected
        self.found = found


class SchemaVersionError(CodecError):
    """The stored schema version is newer than the class, or a migration on the way to the class is missing.

    Attributes:
        type_name: The type whose version does not fit.
        stored: The version stored.
        current: The version of the class.
    """

    def __init__(
        self, message: str, *, type_name: str | None = None, stored: int | None = None, current: int | None = None
    ) -> None:
        """Keep type and versions beside the message."""
        super().__init__(message)
        self.type_name = type_name
        self.stored = stored
        self.current = current


class DecompressionLimitError(CodecError):
    """The bytes would decompress to more than the limit.

    Attributes:
        limit_bytes: The most bytes that may come out.
    """

    def __init__(self, message: str, *, limit_bytes: int) -> None:
        """Keep the limit beside the message."""
        super().__init__(message)
        self.limit_bytes = limit_bytes


class DecryptionError(CodecError):
    """The key is unknown or wrong, or the encrypted bytes were changed.

    Attributes:
        key_id: The id of the key that the bytes name.
    """

    def __init__(self, message: str, *, key_id: str | None = None) -> None:
        """Keep the key's id beside the message."""
        super().__init__(message)
        self.key_id = key_id


# --- replicas ---------------------------------------------------------------------------------------------------


class ReplicaConflictError(ReactStateError):
    """Two live replicas use one replica id.

    Attributes:
        replica_id: The id that is used twice.
    """

    def __init__(self, message: str, *, replica_id: str) -> None:
        """Keep the id beside the message."""
        super().__init__(message)
        self.replica_id = replica_id


class ClockDriftError(ReactStateError):
    """A remote clock is further ahead than the drift that is allowed."""


# --- storage ----------------------------------------------------------------------------------------------------


class StorageError(ReactStateError):
    """Reading or writing the storage failed.

    Attributes:
        path: The file or directory, for file persistence.
        url: The store's URL without its password, for stores.
    """

    def __init__(self, message: str, *, path: str | None = None, url: str | None = None) -> None:
        """Keep the place beside the message."""
        super().__init__(message)
        self.path = path
        self.url = url


class StorageFailedError(StorageError):
    """An earlier fsync or truncate failed, so nothing more is written until the storage is opened anew."""


class CorruptionError(StorageError):
    """Bytes that were durable are damaged; they are left as they are.

    Attributes:
        offset: Where in the file the damage begins, in bytes.
    """

    def __init__(self, message: str, *, path: str | None = None, offset: int | None = None) -> None:
        """Keep file and offset beside the message."""
        super().__init__(message, path=path)
        self.offset = offset
