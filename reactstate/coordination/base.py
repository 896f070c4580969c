"""What all parts of a coordination store share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reactstate.coordination.layout import Layout
from reactstate.coordination.writing import Writer
from reactstate.keyed.lifecycle import Lifecycle
from reactstate.kv.protocol import Capability

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.kv.store import KeyValueStore

__all__ = ["NEEDED", "Coordinating"]

NEEDED: Final = (Capability.CAS, Capability.TRANSACTIONS, Capability.TTL)
"""What an engine must offer for all calls but those that read, and eventual dedup."""


class Coordinating(Lifecycle):
    """A part of a coordination store."""

    _clock: Clock
    _layout: Layout
    _writer: Writer
    _complete: bool

    def _coordinate(self, store: KeyValueStore, namespace: str, clock: Clock, deadline: float) -> None:
        """Be ready to read and write."""
        self._clock = clock
        self._layout = Layout(namespace)
        self._writer = Writer(store, self._layout, clock, deadline)
        self._complete = store.supports(*NEEDED)

    def _give_turn(self, key: str) -> None:
        """Let the next task write to *key*."""
        self._turns.give(key)
        self._rest()

    def _check_write(self) -> None:
        """Refuse a call on another event loop, and one that the engine cannot do."""
        self._check_loop()
        if not self._complete:
            self._store.require("coordination", *NEEDED)
