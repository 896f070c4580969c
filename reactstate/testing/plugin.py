"""The pytest plugin: ``manual_clock``, ``faults`` and ``state_store`` for tests of programs that keep state.

Usage
    Installed with reactstate; pytest finds it by itself. In a test::

        async def test_an_order_survives_an_unreachable_store(state_store, faults, manual_clock):
            orders = await KeyedContainer.open(Order, store=state_store)
            faults.fail(2, on="commit")
            await orders.put(Order(id=1))
            manual_clock.advance(timedelta(hours=1))

Everything is imported when a fixture is used, so that test runs which use none pay nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reactstate.clock import ManualClock
    from reactstate.kv.store import KeyValueStore
    from reactstate.testing.stores import FaultyStore

__all__ = ["faults", "manual_clock", "state_store"]

_REWRITTEN = (
    "reactstate.testing.integrity",
    "reactstate.testing.persistence_conformance",
    "reactstate.testing.persistence_lab",
    "reactstate.testing.conformance_commits",
    "reactstate.testing.conformance_concurrency",
    "reactstate.testing.conformance_expiry",
    "reactstate.testing.conformance_life",
    "reactstate.testing.conformance_ranges",
    "reactstate.testing.conformance_reads",
    "reactstate.testing.conformance_snapshots",
    "reactstate.testing.conformance_watch",
)
"""The modules whose assertions tell both sides when they fail."""

pytest.register_assert_rewrite(*(name for name in _REWRITTEN if name not in sys.modules))


@pytest.fixture
def manual_clock() -> ManualClock:
    """Return a clock that stands still until the test advances it; it begins at 2026-01-01 UTC."""
    from reactstate.clock import ManualClock

    return ManualClock()


@pytest.fixture
def faults(manual_clock: ManualClock) -> Iterator[FaultyStore]:
    """Return the store that ``state_store`` is, by its faults: ``fail``, ``drop_reply``, ``delay``, ``heal``."""
    import asyncio

    from reactstate.kv.memory import MemoryStore
    from reactstate.testing.stores import FaultyStore

    store = FaultyStore(MemoryStore(clock=manual_clock), clock=manual_clock)
    yield store
    asyncio.run(store.aclose())


@pytest.fixture
def state_store(faults: FaultyStore) -> KeyValueStore:
    """Return an empty store in memory that follows ``manual_clock`` and fails as ``faults`` says; closed at the end."""
    return faults
