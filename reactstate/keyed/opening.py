"""What ``KeyedContainer.open`` is given, and where its states are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reactstate.errors import InvalidKeyError, SettingsError, StateDefinitionError
from reactstate.kv.store import KeyValueStore
from reactstate.state.config import StateConfig
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.clock import Clock

__all__ = ["check_open", "open_store_at"]


def check_open(state_type: Any, url: Any, key: Any, store: Any, config: Any, deadline: Any) -> None:
    """Refuse arguments that cannot be used.

    Raises:
        StateDefinitionError: *state_type* is no State class.
        InvalidKeyError: *key* is no name.
        SettingsError: Another one cannot be used.
    """
    if not (isinstance(state_type, type) and issubclass(state_type, State)) or state_type is State:
        raise StateDefinitionError(f"open a keyed container with a State class of your own, not {state_type!r}")
    if key is not None and (not isinstance(key, str) or not key):
        raise InvalidKeyError("a key is text that is not empty")
    if url is not None and not isinstance(url, str):
        raise SettingsError(f"a url is text, such as 'sqlite:shop.db', not a {type(url).__name__}")
    if url is not None and store is not None:
        raise SettingsError("give a url or a store, not both")
    if store is not None and not isinstance(store, KeyValueStore):
        raise SettingsError(f"store={store!r}: give an open store, as open_store(url) returns it")
    if config is not None and not isinstance(config, StateConfig):
        raise SettingsError(f"config={config!r}: give a StateConfig(...)")
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not deadline > 0:
        raise SettingsError(f"deadline={deadline!r}: give the seconds to wait, more than 0")


async def open_store_at(url: str | None, clock: Clock) -> KeyValueStore:
    """Return the store at *url*; without one, a store in memory."""
    if url is None:
        from reactstate.kv.memory import MemoryStore

        return MemoryStore(clock=clock)
    from reactstate.kv.urls import open_store

    return await open_store(url, clock=clock)
