"""What tests of programs that use reactstate need, and what tests of its engines are made of."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from reactstate.clock import ManualClock
    from reactstate.testing.check import check_state
    from reactstate.testing.conformance import KeyValueStoreConformance
    from reactstate.testing.faults import FaultyFileSystem
    from reactstate.testing.history import NotSerialisableError, Recording
    from reactstate.testing.persistence_conformance import PersistenceConformance
    from reactstate.testing.stores import FaultyStore

__all__ = [
    "FaultyFileSystem",
    "FaultyStore",
    "KeyValueStoreConformance",
    "ManualClock",
    "NotSerialisableError",
    "PersistenceConformance",
    "Recording",
    "check_state",
]

# Imported when asked for: the suites need pytest, and pytest's own start-up imports this package for the plugin.
_HOME_OF: Final = {
    "FaultyFileSystem": "reactstate.testing.faults",
    "FaultyStore": "reactstate.testing.stores",
    "KeyValueStoreConformance": "reactstate.testing.conformance",
    "ManualClock": "reactstate.clock",
    "NotSerialisableError": "reactstate.testing.history",
    "PersistenceConformance": "reactstate.testing.persistence_conformance",
    "Recording": "reactstate.testing.history",
    "check_state": "reactstate.testing.check",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
