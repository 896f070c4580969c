"""What ``CoordinationStore.open`` is given."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from reactstate.errors import InvalidKeyError, SettingsError
from reactstate.kv.store import KeyValueStore

__all__ = ["Dedup", "check_open"]

Dedup: TypeAlias = Literal["strict", "eventual"]
"""``"strict"``: of any number of callers exactly one is the first. ``"eventual"``: an engine that cannot
compare-and-swap is taken too, and callers at the same moment may each be told that they are the first."""

_DEDUPS: Final = ("strict", "eventual")


def check_open(url: Any, namespace: Any, store: Any, deadline: Any, dedup: Any) -> None:
    """Refuse arguments that cannot be used.

    Raises:
        InvalidKeyError: *namespace* is no name.
        SettingsError: Another one cannot be used.
    """
    if not isinstance(namespace, str) or not namespace:
        raise InvalidKeyError("a namespace is text that is not empty")
    if url is not None and not isinstance(url, str):
        raise SettingsError(f"a url is text, such as 'sqlite:shop.db', not a {type(url).__name__}")
    if url is not None and store is not None:
        raise SettingsError("give a url or a store, not both")
    if store is not None and not isinstance(store, KeyValueStore):
        raise SettingsError(f"store={store!r}: give an open store, as open_store(url) returns it")
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not deadline > 0:
        raise SettingsError(f"deadline={deadline!r}: give the seconds to wait, more than 0")
    if dedup not in _DEDUPS:
        raise SettingsError(f"dedup={dedup!r}: choose 'strict' or 'eventual'")
