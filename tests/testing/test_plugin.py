from __future__ import annotations

import subprocess
import sys

import pytest

from reactstate.testing import conformance, persistence_conformance, stores  # here, and not in the runs inside

pytest_plugins = ["pytester"]

CONFIG = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


# By its name as an entry point it may be there already, and no plugin is registered twice.
OPTIONS = ("-p", "no:reactstate", "-p", "reactstate.testing.plugin", "-p", "no:cacheprovider")


def run(pytester, source, *options, inside=True):
    pytester.makeini(CONFIG)
    pytester.makepyfile(source)
    runs = pytester.runpytest_inprocess if inside else pytester.runpytest_subprocess
    return runs(*OPTIONS, *options)


def test_the_store_follows_the_clock_and_fails_as_it_is_told(pytester):
    result = run(
        pytester,
        """
        import pytest
        from reactstate.errors import ClosedError, UnavailableError

        stores = []

        async def test_a_store_that_fails(state_store, faults, manual_clock):
            stores.append(state_store)
            assert state_store is faults
            await state_store.put("k", b"", ttl=10)
            faults.fail(1)
            with pytest.raises(UnavailableError):
                await state_store.get("k")
            assert await state_store.get("k") is not None
            manual_clock.advance(10)
            assert await state_store.get("k") is None

        async def test_another_store_which_is_empty(state_store):
            assert await state_store.list_keys() == []
            with pytest.raises(ClosedError):
                await stores[0].get("k")

        def test_without_a_loop(state_store, manual_clock):
            assert state_store.engine == "memory"
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_store_is_closed_while_tasks_wait_in_it(pytester):
    result = run(
        pytester,
        """
        import asyncio

        async def test_that_leaves_things_open(state_store):
            watch = state_store.watch()
            asyncio.get_running_loop().keep = asyncio.ensure_future(anext(watch, None))
            await asyncio.sleep(0)
            await state_store.put("k", b"", ttl=1)

        async def test_after_it(state_store):
            assert await state_store.list_keys() == []
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_suite_can_be_subclassed_and_fails_with_its_reasons(pytester):
    result = run(
        pytester,
        """
        from reactstate.kv.memory import MemoryStore
        from reactstate.testing import FaultyStore, KeyValueStoreConformance

        class Forgetful(FaultyStore):
            async def scan(self, prefix="", **options):
                seen = 0
                async for entry in self.store.scan(prefix, **options):
                    if seen != 3:
                        yield entry
                    seen += 1

        class TestMine(KeyValueStoreConformance):
            async def open_store(self, place, clock):
                return Forgetful(MemoryStore(clock=clock), clock=clock)
        """,
        "-rs",
        "-k",
        "plain_dictionary or another_object or absent",
        inside=False,
    )
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"failed", "passed", "skipped", "deselected"}
    result.stdout.fnmatch_lines(["*AssertionError: assert *"])
    result.stdout.fnmatch_lines(["*SKIPPED*does not declare SHARED*"])


def test_starting_pytest_imports_nothing_heavy():
    code = (
        "import sys, reactstate.testing.plugin\n"
        "heavy = {'pydantic', 'reactstate.state', 'reactstate.kv', 'reactstate.errors', 'hypothesis', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules) - before))\n"
    )
    before = "import sys, pytest\nbefore = set(sys.modules)\n"
    found = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_suites_are_those_of_the_room():
    import reactstate.testing as room

    assert room.KeyValueStoreConformance is conformance.KeyValueStoreConformance
    assert room.PersistenceConformance is persistence_conformance.PersistenceConformance
    assert room.FaultyStore is stores.FaultyStore


def test_a_name_that_is_not_there_is_told():
    import reactstate.testing as room

    for name in room.__all__:
        assert getattr(room, name) is not None
    with pytest.raises(AttributeError):
        _ = room.nothing
