"""Opening a container: where it is kept, what is stored there, and what comes of it."""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import TYPE_CHECKING, Any, TypeVar

from reactstate.container.commit import Committer
from reactstate.container.follower import follow
from reactstate.container.stored import fill
from reactstate.errors import InvalidKeyError, SettingsError, StateValidationError, UnsupportedError
from reactstate.persistence.memory import MemoryPersistence
from reactstate.persistence.protocol import StatePersistence
from reactstate.state.config import StateConfig
from reactstate.state.produce import check_state_value
from reactstate.state.state import State, state_key
from reactstate.state.timeline import Timeline

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.container.container import StateContainer
    from reactstate.container.stored import Bridge
    from reactstate.kv.store import KeyValueStore
    from reactstate.locks.manager import Locks
    from reactstate.persistence.protocol import Loaded

__all__ = ["begin", "check_config", "load"]

S = TypeVar("S", bound=State)

_MAX_FOLDER = 200


def begin(initial: S, config: StateConfig, clock: Clock) -> Timeline[S]:
    """Return an empty timeline for the type of *initial*.

    Raises:
        StateValidationError: *initial* is no State.
    """
    if not isinstance(initial, State):  # pyright: ignore[reportUnnecessaryIsInstance] - states come from callers
        raise StateValidationError(f"a container holds a State, not a {type(initial).__name__}")
    check_state_value(type(initial), initial)
    config.check_alone()
    return Timeline(type(initial), clock, config.history_size, config.history_retention)


def check_config(config: StateConfig | None) -> StateConfig:
    """Return *config*, or the default one.

    Raises:
        SettingsError: It is something else.
    """
    if config is None:
        return StateConfig()
    if not isinstance(config, StateConfig):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
        raise SettingsError(f"config={config!r}: give a StateConfig(...)")
    return config


async def load(
    container: StateContainer[S],
    initial_or_type: S | type[S],
    url: str | None,
    *,
    key: str | None,
    store: KeyValueStore | None,
    persistence: StatePersistence[S] | None,
    config: StateConfig,
    clock: Clock,
    deadline: float,
) -> None:
    """Fill in *container*, which was made without ``__init__``, from what is stored."""
    cls, initial = _type_and_state(initial_or_type)
    if persistence is not None and not isinstance(persistence, StatePersistence):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
        raise SettingsError(f"persistence={persistence!r}: give a StatePersistence, such as FilePersistence('cart')")
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0:  # pyright: ignore[reportUnnecessaryIsInstance] - as above
        raise SettingsError(f"deadline={deadline!r}: give the seconds to wait, more than 0")
    if persistence is not None and (url is not None or key is not None or store is not None):
        raise SettingsError("give a url or a store (with its key), or a persistence, not both")
    if store is not None and url is not None:
        raise SettingsError("give a url or a store, not both")
    if persistence is not None:
        kept = persistence
    elif store is not None or _names_store(url):
        kept = await _kept_in_store(url, store, _key_of(cls, initial, key), clock, deadline)
    else:
        kept = _kept_at(url, cls, initial, key, clock)
    timeline = Timeline(cls, clock, config.history_size, config.history_retention)
    loaded = await kept.load(history=config.history_size)
    try:
        rebase, bridge = (False, None) if loaded is None else await asyncio.to_thread(fill, timeline, loaded)
        container._setup(timeline, kept, config, clock, deadline)
        container._check_loop()
        if not kept.shared:
            config.check_alone()
        if kept.read_only:
            container._following = container._spawn(follow(container, loaded))
            return
        if kept.shared:
            await _share(container, loaded, config, clock, deadline, rebase=rebase, bridge=bridge)
        elif not isinstance(kept, MemoryPersistence):
            container._committer = Committer(timeline, kept, container._shown, rebase=rebase, bridge=bridge)
        if initial is not None and timeline.version == 0:
            first = initial
            await container._commit(
                lambda timeline: timeline.plan_create(first) if timeline.tip_version == 0 else None, None, None, None
            )
            await kept.flush()  # version 1 is on disk, whatever ``durability`` says of those that follow
    except BaseException:
        await kept.aclose()
        raise


async def _share(
    container: StateContainer[S],
    loaded: Loaded | None,
    config: StateConfig,
    clock: Clock,
    deadline: float,
    *,
    rebase: bool,
    bridge: Bridge | None,
) -> None:
    from reactstate.container.sharing import SharedCommitter, follow_store

    arguments: Any = (container, container._persistence, clock, deadline, loaded)
    committer: SharedCommitter[S]
    if config.concurrency == "pessimistic":
        from reactstate.container.exclusive import ExclusiveCommitter

        committer = ExclusiveCommitter(*_lock_of(container, clock, deadline), *arguments, rebase=rebase, bridge=bridge)
    else:
        committer = SharedCommitter(*arguments, rebase=rebase, bridge=bridge)
    container._committer = container._sharing = committer
    container._following = container._spawn(follow_store(container, committer))
    await committer.confirm()


def _lock_of(container: StateContainer[Any], clock: Clock, deadline: float) -> tuple[Locks, str]:
    """Return where the lock of a shared state is, and its name."""
    from reactstate.kv.protocol import Capability
    from reactstate.locks.manager import Locks

    store, place = container._persistence.store, container._persistence.cursor_place("writer")
    if store is None or place is None:
        raise UnsupportedError(
            "this persistence shares no store to keep a lock in", layer="container", capability="LOCKS"
        )
    store.require('concurrency="pessimistic"', Capability.LOCKS, Capability.FENCING, Capability.WATCH)
    return Locks(store, clock=clock, deadline=deadline, namespace="~state"), place[1]


def _type_and_state(initial_or_type: Any) -> tuple[type[Any], Any]:
    if isinstance(initial_or_type, type) and issubclass(initial_or_type, State) and initial_or_type is not State:
        return initial_or_type, None
    if isinstance(initial_or_type, State):
        return type(initial_or_type), check_state_value(type(initial_or_type), initial_or_type)
    raise StateValidationError(f"open a State class or one of its states, not {initial_or_type!r}")


def _names_store(url: Any) -> bool:
    return isinstance(url, str) and url.partition(":")[1] == ":" and url.partition(":")[0] not in {"memory", "file"}


async def _kept_in_store(
    url: str | None, store: KeyValueStore | None, key: str, clock: Clock, deadline: float
) -> StatePersistence[Any]:
    from reactstate.kv.store import KeyValueStore
    from reactstate.persistence.kv import KeyValuePersistence

    if store is not None:
        if not isinstance(store, KeyValueStore):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise SettingsError(f"store={store!r}: give an open store, such as await open_store('sqlite:app.db')")
        return KeyValuePersistence(store, key, clock=clock, deadline=deadline)
    from reactstate.kv.urls import open_store

    opened = await open_store(url or "", clock=clock)
    try:
        return KeyValuePersistence(opened, key, clock=clock, deadline=deadline, owns_store=True)
    except BaseException:
        await opened.aclose()
        raise


def _kept_at(url: str | None, cls: type[S], initial: Any, key: str | None, clock: Clock) -> StatePersistence[S]:
    if url is None:
        return MemoryPersistence(clock)
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance] - URLs come from callers
        raise SettingsError(f"a url is text, such as 'file:directory', not a {type(url).__name__}")
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise SettingsError(f"{url!r} is not a URL; write file:{url} to keep the state in a directory")
    if scheme == "memory":
        if rest.strip("/"):
            raise SettingsError(f"memory: has no options, and nothing follows it; {rest!r} does")
        return MemoryPersistence(clock)
    if scheme == "file":
        return _file_persistence(rest, _key_of(cls, initial, key), clock)
    raise SettingsError(f"no engine is known for {scheme}:; use file:, memory:, sqlite: or lmdb:")


def _key_of(cls: type[Any], initial: Any, key: str | None) -> str:
    if key is not None:
        if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance] - keys come from callers
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


def _file_persistence(rest: str, key: str, clock: Clock) -> StatePersistence[Any]:
    from reactstate.persistence.file import FilePersistence

    place, _, query = rest.partition("?")
    if place.startswith("//") and not place.startswith("///"):
        raise SettingsError(f"file:{place}: files are on this machine; write file:board or file:///var/lib/board")
    path = _unquoted(place.removeprefix("//"))
    if not path:
        raise SettingsError("file: needs a directory, as in file:board or file:///var/lib/board")
    options: dict[str, Any] = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        kind = _OPTIONS.get(name)
        if kind is None:
            raise SettingsError(f"file: has no option {name!r}; known are {', '.join(sorted(_OPTIONS))}")
        if name in options:
            raise SettingsError(f"file: the option {name!r} is given twice")
        options[name] = _option(name, value, kind)
    return FilePersistence(f"{path}/{_folder(key)}", clock=clock, **options)


def _folder(key: str) -> str:
    """Return the name of the directory for *key*, in which no part of the key can lead elsewhere."""
    try:
        folder = urllib.parse.quote(key, safe="")
    except UnicodeEncodeError as exc:
        raise InvalidKeyError(f"the key {key!r} is not text that could be stored") from exc
    if folder.strip(".") == "" or len(folder) > _MAX_FOLDER:
        raise InvalidKeyError(f"the key {key!r} cannot be the name of a directory; choose a shorter, plainer one")
    return folder


def _unquoted(text: str) -> str:
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        raise SettingsError(
            f"file:{text} holds percent escapes that are no UTF-8; two such names would be one"
        ) from exc


def _option(name: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value.lower() not in {"true", "false", "1", "0"}:
            raise SettingsError(f"{name}={value}: say true or false")
        return value.lower() in {"true", "1"}
    try:
        return kind(value)
    except ValueError as exc:
        raise SettingsError(f"{name}={value} is not a number") from exc
