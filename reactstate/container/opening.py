"""Opening a container: where it is kept, what is stored there, and what comes of it."""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.container.commit import Committer
from reactstate.container.follower import follow
from reactstate.errors import (
    DecodeError,
    InvalidKeyError,
    SettingsError,
    StateValidationError,
    UnsupportedError,
)
from reactstate.persistence.memory import MemoryPersistence
from reactstate.state.change import DROPPED, ChangeType, Origin, StateChange
from reactstate.state.document import from_document, schema_of, to_document
from reactstate.state.patch import documents_equal
from reactstate.state.produce import check_state_value
from reactstate.state.state import State, state_key
from reactstate.state.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from reactstate.clock import Clock
    from reactstate.container.container import StateContainer
    from reactstate.persistence.protocol import Loaded, Record, Snapshot, StatePersistence
    from reactstate.state.config import StateConfig

__all__ = ["Opening", "begin", "load", "stored_change"]

S = TypeVar("S", bound=State)
C = TypeVar("C")

_LATER = ("sqlite", "lmdb", "libsql", "redis", "postgresql", "etcd", "dynamodb", "clickhouse")


class Opening(Generic[C]):
    """What ``open`` returns: await it for the container, or use it with ``async with``."""

    def __init__(self, make: Callable[[], Awaitable[C]]) -> None:
        self._make = make
        self._opened: C | None = None

    def __await__(self) -> Generator[Any, Any, C]:
        return self._make().__await__()

    async def __aenter__(self) -> C:
        self._opened = await self._make()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened: Any = self._opened
        await opened.aclose()


def begin(initial: S, config: StateConfig, clock: Clock) -> Timeline[S]:
    """Return an empty timeline for the type of *initial*.

    Raises:
        StateValidationError: *initial* is no State.
    """
    if not isinstance(initial, State):
        raise StateValidationError(f"a container holds a State, not a {type(initial).__name__}")
    check_state_value(type(initial), initial)
    return Timeline(type(initial), clock, config.history_size, config.history_retention)


async def load(
    container: StateContainer[S],
    initial_or_type: S | type[S],
    url: str | None,
    *,
    key: str | None,
    store: Any,
    persistence: StatePersistence[S] | None,
    config: StateConfig,
    clock: Clock,
    deadline: float,
) -> None:
    """Fill in *container*, which was made without ``__init__``, from what is stored."""
    cls, initial = _type_and_state(initial_or_type)
    if store is not None:
        raise UnsupportedError(
            "containers over a key-value store are not part of this version; use url='file:...' or persistence=",
            layer="container",
            capability="store",
        )
    if persistence is None:
        persistence = _persistence_of(url, cls, initial, key, clock)
    elif url is not None or key is not None:
        raise SettingsError("give a url (with its key) or a persistence, not both")
    timeline = Timeline(cls, clock, config.history_size, config.history_retention)
    loaded = await persistence.load(history=config.history_size)
    try:
        rebase = False if loaded is None else await asyncio.to_thread(_fill, timeline, loaded)
        container._setup(timeline, persistence, config, clock, deadline)
        container._check_loop()
        if persistence.read_only:
            container._spawn(follow(container, persistence, loaded))
            return
        if not isinstance(persistence, MemoryPersistence):
            container._committer = Committer(timeline, persistence, container._shown, rebase=rebase)
        if initial is not None and timeline.version == 0:
            first = initial
            await container._commit(lambda timeline: timeline.plan_create(first), None, None, None)
    except BaseException:
        await persistence.aclose()
        raise


def _type_and_state(initial_or_type: Any) -> tuple[type[Any], Any]:
    if isinstance(initial_or_type, type) and issubclass(initial_or_type, State) and initial_or_type is not State:
        return initial_or_type, None
    if isinstance(initial_or_type, State):
        return type(initial_or_type), check_state_value(type(initial_or_type), initial_or_type)
    raise StateValidationError(f"open a State class or one of its states, not {initial_or_type!r}")


def _persistence_of(url: str | None, cls: type[Any], initial: Any, key: str | None, clock: Clock) -> Any:
    if url is None:
        return MemoryPersistence(clock)
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise SettingsError(f"{url!r} is not a URL; write file:{url} to keep the state in a directory")
    if scheme == "memory":
        return MemoryPersistence(clock)
    if scheme == "file":
        return _file_persistence(rest, _key_of(cls, initial, key), clock)
    engine = scheme.split("+")[0]
    if engine in _LATER:
        raise UnsupportedError(
            f"{engine}: stores are not part of this version; use file: or memory:",
            layer="container",
            engine=engine,
            capability="store",
        )
    raise SettingsError(f"no engine is known for {scheme}:; use file: or memory:")


def _key_of(cls: type[Any], initial: Any, key: str | None) -> str:
    if key is not None:
        if not isinstance(key, str) or not key:
            raise InvalidKeyError("a key is text that is not empty")
        return key
    if initial is not None:
        return f"{cls.__reactstate_type_name__}/{state_key(initial)}"
    if "id" in cls.model_fields or isinstance(getattr(cls, "id", None), property):
        raise InvalidKeyError(
            f"each {cls.__name__} is kept under its id: give key={cls.__reactstate_type_name__ + '/<id>'!r}, "
            "or open it with a first state"
        )
    return f"{cls.__reactstate_type_name__}/{cls.__reactstate_type_name__}"


_OPTIONS: dict[str, type] = {
    "format": str,
    "compression": str,
    "durability": str,
    "flush_interval": float,
    "read_only": bool,
}


def _file_persistence(rest: str, key: str, clock: Clock) -> Any:
    from reactstate.persistence.file import FilePersistence

    place, _, query = rest.partition("?")
    path = urllib.parse.unquote(place.removeprefix("//") if place.startswith("///") else place)
    if not path:
        raise SettingsError("file: needs a directory, as in file:board or file:///var/lib/board")
    options: dict[str, Any] = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        kind = _OPTIONS.get(name)
        if kind is None:
            raise SettingsError(f"file: has no option {name!r}; known are {', '.join(sorted(_OPTIONS))}")
        options[name] = _option(name, value, kind)
    folder = urllib.parse.quote(key, safe="")
    if folder.strip(".") == "" or len(folder) > 200:
        raise InvalidKeyError(f"the key {key!r} cannot be the name of a directory; choose a shorter, plainer one")
    return FilePersistence(f"{path}/{folder}", clock=clock, **options)


def _option(name: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value.lower() not in {"true", "false", "1", "0"}:
            raise SettingsError(f"{name}={value}: say true or false")
        return value.lower() in {"true", "1"}
    try:
        return kind(value)
    except ValueError as exc:
        raise SettingsError(f"{name}={value} is not a number") from exc


# --- what is stored -----------------------------------------------------------------------------------------------


def stored_change(record: Record, origin: Origin) -> StateChange[Any]:
    """Return the change that *record* tells of.

    Raises:
        DecodeError: Its kind is not known.
    """
    try:
        kind = ChangeType(record.kind)
    except ValueError as exc:
        raise DecodeError(f"version {record.version} is of an unknown kind {record.kind!r}") from exc
    return StateChange.stored(
        record.version,
        kind,
        record.timestamp_ns,
        record.actor,
        record.action,
        record.tags,
        record.target,
        record.change_id,
        record.patch,
        record.inverse if record.inverse is not None else [],
        origin,
    )


def _fill(timeline: Timeline[S], loaded: Loaded) -> bool:
    """Take over what is stored; say whether today's documents differ from it, so that a full snapshot must follow."""
    head, cls = loaded.head, timeline.cls
    state = None if head.document is None else from_document(cls, head.document, head.schema)
    rebase = head.schema != schema_of(cls)
    if state is not None and not rebase:
        rebase = not documents_equal(to_document(state), head.document)
    changes: list[StateChange[Any]] = []
    for place, era in enumerate(loaded.history):
        newest = place == len(loaded.history) - 1
        origin = Origin(cls, era.schema, None if newest and not rebase else era.document, raw=rebase or not newest)
        changes.extend(stored_change(record, origin) for record in era.records)
        if era.records:
            origin.last = changes[-1]
    for change in changes:
        timeline.adopt(change, state if change.version == head.version else DROPPED)
    newest = changes[-1] if changes and changes[-1].version == head.version else snapshot_change(head, state)
    timeline.begin(newest, state, head.created_at_ns)
    return rebase


def snapshot_change(head: Snapshot, state: Any) -> StateChange[Any]:
    """Return what stands for the change that made *head*, which is not in the history."""
    change: StateChange[Any] = StateChange(
        head.version, ChangeType.UPDATE, state, [(None, None, state)], head.updated_at_ns, None, None, head.tags
    )
    change._id = head.change_id
    return change


