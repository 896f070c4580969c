from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Capability
from reactstate.testing.conformance import KeyValueStoreConformance
from reactstate.testing.persistence_conformance import PersistenceConformance
from reactstate.testing.suite import StoreLab, StoreSuite, promise

ALL = frozenset(Capability)


def collected(cls):
    return {name for name in dir(cls) if name.startswith("test_") and getattr(cls, name) is not None}


def declaring(declared, **members):
    return type("Suite", (KeyValueStoreConformance,), {"capabilities": declared, **members})


def test_only_the_tests_for_what_is_declared_are_collected():
    everything, nothing = collected(declaring(ALL)), collected(declaring(frozenset()))
    assert "test_a_watch_begins_when_it_is_called" in everything - nothing
    assert "test_without_watch_watches_and_cursors_are_refused" in nothing - everything
    assert everything | nothing == collected(KeyValueStoreConformance)
    watching = collected(declaring(frozenset({Capability.WATCH})))
    assert "test_a_watch_begins_when_it_is_called" in watching
    assert "test_the_events_of_one_commit_come_together_once_each" not in watching


def test_a_subclass_of_a_subclass_can_declare_more():
    nothing = declaring(frozenset())
    more = type("More", (nothing,), {"capabilities": ALL})
    assert collected(more) == collected(declaring(ALL))


def test_an_override_of_a_test_is_left_alone():
    def test_a_watch_begins_when_it_is_called(self):
        pass

    cls = declaring(frozenset(), test_a_watch_begins_when_it_is_called=test_a_watch_begins_when_it_is_called)
    assert cls.test_a_watch_begins_when_it_is_called is test_a_watch_begins_when_it_is_called


def test_tests_with_options_are_left_out_when_open_store_takes_none():
    async def open_store(self, place, clock):
        return MemoryStore(clock=clock)

    left_out = collected(declaring(ALL)) - collected(declaring(ALL, open_store=open_store))
    assert "test_the_default_ttl_is_for_put_put_if_absent_and_increment_only" in left_out
    assert len(left_out) == 3


@pytest.fixture
def lab_of(tmp_path):
    with asyncio.Runner() as runner:
        yield lambda suite: StoreLab(suite, tmp_path, runner)


class Suite(StoreSuite):
    async def open_store(self, place, clock):
        return MemoryStore(clock=clock)

    @promise(Capability.DURABLE)
    async def test_durable(self, lab):
        raise AssertionError

    @promise(lacks=Capability.CAS)
    async def test_poor(self, lab):
        raise AssertionError

    @promise(options=True)
    async def test_options(self, lab):
        await lab.open("other", StoreOptions(flush_interval=2))

    @promise()
    async def test_hangs(self, lab):
        await asyncio.Event().wait()

    @promise()
    async def test_leaves_a_wrong_store(self, lab):
        await lab.store.put("k", b"")
        lab._baselines[id(lab.store)].cursor = await lab.store.cursor()

    patience = 0.05


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_durable", "the engine 'memory' does not declare DURABLE"),
        ("test_poor", "the engine 'memory' declares CAS"),
        ("test_options", "open_store takes no options"),
    ],
)
def test_what_does_not_apply_is_skipped_with_its_reason(lab_of, name, reason):
    suite = Suite()
    with pytest.raises(pytest.skip.Exception, match=reason):
        getattr(suite, name)(lab_of(suite))


def test_a_test_that_hangs_fails(lab_of):
    with pytest.raises(TimeoutError):
        Suite().test_hangs(lab_of(Suite()))


def test_a_store_whose_events_do_not_lead_to_what_it_holds_fails(lab_of):
    class Patient(Suite):
        patience = 60.0

    with pytest.raises(AssertionError, match="without an event"):
        Patient().test_leaves_a_wrong_store(lab_of(Patient()))


@pytest.mark.parametrize("suite", [StoreSuite, PersistenceConformance])
async def test_a_suite_says_what_to_override(suite, tmp_path):
    opens = suite().open_store if suite is StoreSuite else suite().open_persistence
    with pytest.raises(NotImplementedError, match="override open_"):
        await (opens(tmp_path, None, None) if suite is StoreSuite else opens(tmp_path))


async def test_a_servers_time_is_waited_for():
    await StoreSuite().pass_server_time(timedelta(milliseconds=1))


def test_a_unit_of_time_can_be_chosen(lab_of):
    class Hourly(Suite):
        unit = timedelta(hours=1)

        @promise()
        async def test_time(self, lab):
            before = lab.clock.time_ns()
            await lab.pass_time(2)
            assert lab.clock.time_ns() - before == 2 * 3600 * 10**9

        patience = 60.0

    Hourly().test_time(lab_of(Hourly()))
