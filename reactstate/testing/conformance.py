"""KeyValueStoreConformance: the tests that an engine must pass, to be subclassed by whoever writes one.

Usage
    ::

        class TestMyStore(KeyValueStoreConformance):
            capabilities = MyStore.capabilities

            async def open_store(self, place, clock, options):
                return await MyStore.open(place, options=options, clock=clock)

    Needs pytest alone: each test runs on an event loop of its own. With ``capabilities`` only the tests for what the
    engine declares are collected, together with those which check that what it does not declare raises
    UnsupportedError; without it the tests that do not apply are skipped, and say why.

What it proves
    Sections on reads, commits and counters, ranges, expiry, snapshots, watching, concurrency, and the life of a store
    (closing, opening anew, checkpoints, statistics). After every test it checks that scan, get, get_many and a
    snapshot agree, and that the events since the beginning lead to what is there.

What it does not
    Power cuts, full disks, killed processes and lost connections are an engine's own to provoke and to test.
"""

from __future__ import annotations

from reactstate.testing.conformance_commits import CommitPromises
from reactstate.testing.conformance_concurrency import ConcurrencyPromises
from reactstate.testing.conformance_expiry import ExpiryPromises
from reactstate.testing.conformance_life import LifePromises
from reactstate.testing.conformance_ranges import RangePromises
from reactstate.testing.conformance_reads import ReadPromises
from reactstate.testing.conformance_snapshots import SnapshotPromises
from reactstate.testing.conformance_watch import WatchPromises

__all__ = ["KeyValueStoreConformance"]


class KeyValueStoreConformance(
    ReadPromises,
    CommitPromises,
    RangePromises,
    ExpiryPromises,
    SnapshotPromises,
    WatchPromises,
    ConcurrencyPromises,
    LifePromises,
):
    """The tests of every promise of the store protocol; subclass it and override ``open_store``."""
