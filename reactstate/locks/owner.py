"""Owner: what the guards of one ``Locks`` share, and how a holder measures its lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from reactstate.clock import Clock
    from reactstate.kv.store import KeyValueStore
    from reactstate.locks.guard import LockGuard

__all__ = ["TICK_S", "Owner", "Span"]

TICK_S: Final = 1e-6
"""A lease ends so much earlier here, so that whoever sleeps for so much longer finds that it has ended."""

Span: TypeAlias = tuple[float, int]
"""When a lease ends, as its holder measures it: in seconds of ``monotonic``, and in nanoseconds of the time of day."""


class Owner:
    """What guards share with the ``Locks`` that handed them out.

    Attributes:
        store: Where the locks are.
        clock: Measures leases and deadlines.
        deadline: For how many seconds a store that cannot be reached is tried again.
    """

    __slots__ = ("_held", "_host", "clock", "deadline", "store")

    def __init__(self, store: KeyValueStore, clock: Clock, deadline: float) -> None:
        self.store: KeyValueStore = store
        self.clock: Clock = clock
        self.deadline: float = deadline
        # Those that are held, by the name of their lock.
        self._held: dict[str, LockGuard] = {}
        # Whether the store goes by this host's time of day.
        self._host: bool = store.ttl_clock == "host"

    def _begin(self, ms: int) -> Span:
        """Return the ends of a lease of *ms* milliseconds that begins now."""
        clock = self.clock
        now_ns = clock.time_ns()
        whole = now_ns // 1_000_000
        # The store counts whole milliseconds, so its lease may end by a part of one sooner.
        lag = (now_ns - whole * 1_000_000) / 1e9 if self._host else 0.001
        return clock.monotonic() + ms / 1000 - lag - TICK_S, (whole + ms) * 1_000_000
