from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import ReactStateError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Capability
from reactstate.testing.conformance import KeyValueStoreConformance
from reactstate.testing.suite import StoreLab

MEMORY = frozenset(Capability) - {Capability.DURABLE, Capability.SHARED}


@pytest.fixture
def run_suite(tmp_path_factory):
    """Run one test of the conformance suite on memory stores that *make* wraps; raises what the test raises."""

    def run(make, name, declared=MEMORY, **arguments):
        class Suite(KeyValueStoreConformance):
            capabilities = declared
            patience = 1.0

            async def open_store(self, place, clock, options):
                return make(MemoryStore(options=options, clock=clock), clock=clock)

        suite = Suite()
        with asyncio.Runner() as runner:
            lab = StoreLab(suite, tmp_path_factory.mktemp("suite"), runner)
            getattr(suite, name)(lab, **arguments)

    return run


@pytest.fixture
def fails(run_suite):
    """Say whether a test of the suite fails, and not by breaking."""

    def said(make, name):
        seeds = [{"seed": seed} for seed in range(4)] if "serialisable" in name or "dictionary" in name else [{}]
        for arguments in seeds:
            try:
                run_suite(make, name, **arguments)
            except (AssertionError, pytest.fail.Exception, TimeoutError, ReactStateError):
                return True
        return False

    return said
