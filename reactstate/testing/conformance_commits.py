# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""The one write operation: expectations, all or nothing, revisions, conflicts, limits; and counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reactstate.errors import ConflictError, InvalidKeyError, LimitExceededError, NotACounterError
from reactstate.kv.protocol import ABSENT, ANY, Add, Capability, Delete, Put, RangeExpect, Step
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

if TYPE_CHECKING:
    from reactstate.kv.protocol import Entry, Expectation
    from reactstate.kv.store import KeyValueStore

__all__ = ["CommitPromises", "newest_revision", "unchanged"]

_CAS, _TRANSACTIONS = Capability.CAS, Capability.TRANSACTIONS
_HUGE = 1 << 30
_LARGE = 1 << 24


async def newest_revision(store: KeyValueStore) -> int:
    """Return the newest revision of *store*, which a commit that changes nothing tells."""
    return (await store.commit(())).revision


class unchanged:  # noqa: N801 - reads as a statement
    """A block after which the store must hold what it held, and have issued no revision."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._before: tuple[list[Entry], int] | None = None

    async def _state(self) -> tuple[list[Entry], int]:
        return await collect(self._store.scan()), await newest_revision(self._store)

    async def __aenter__(self) -> None:
        self._before = await self._state()

    async def __aexit__(self, *error: object) -> None:
        if error[0] is None:
            assert await self._state() == self._before, "what was refused has changed nothing"


class CommitPromises(StoreSuite):
    """What a commit may be relied on for."""

    @promise()
    async def test_each_write_takes_a_revision_above_all_before_it(self, lab: StoreLab) -> None:
        issued = [(await lab.store.put(key, b"")).revision for key in ("a", "b", "a", "a", "c", "b")]
        assert issued == sorted(set(issued))
        assert issued[0] > 0
        same = await lab.store.put("a", b"")
        assert same.revision > issued[-1], "writing the same bytes is a write"
        assert await newest_revision(lab.store) == same.revision

    @promise()
    async def test_a_put_replaces_and_a_delete_removes(self, lab: StoreLab) -> None:
        await lab.store.put("k", b"1")
        await lab.store.put("k", b"2")
        found = await lab.store.get("k")
        assert found is not None
        assert found.value == b"2"
        assert await lab.store.delete("k")
        assert await lab.store.get("k") is None
        assert not await lab.store.delete("k")

    @promise()
    async def test_deleting_what_is_absent_takes_no_revision(self, lab: StoreLab) -> None:
        put = await lab.store.put("k", b"")
        done = await lab.store.commit((Step("absent", Delete()),))
        assert (done.revision, done.entries) == (put.revision, {})
        gone = await lab.store.commit((Step("k", Delete()),))
        assert gone.revision > put.revision
        assert gone.entries == {}
        again = await lab.store.commit((Step("k", Delete()),))
        assert again.revision == gone.revision

    @promise()
    async def test_a_commit_that_changes_nothing_tells_the_newest_revision(self, lab: StoreLab) -> None:
        first = await lab.store.commit(())
        assert first.entries == {}
        put = await lab.store.put("k", b"")
        assert put.revision > first.revision
        assert (await lab.store.commit(())).revision == put.revision
        assert (await lab.store.commit((Step("k"),))).revision == put.revision
        assert (await lab.store.commit((Step("absent"),))).entries == {}
        assert await newest_revision(lab.store) == put.revision

    @promise(_TRANSACTIONS)
    async def test_the_steps_of_one_commit_share_its_one_revision(self, lab: StoreLab) -> None:
        await lab.store.put("old", b"")
        before = await newest_revision(lab.store)
        done = await lab.store.commit(
            [
                Step("a", Put(b"1")),
                Step("old", Delete()),
                Step("b", Put(b"2")),
                Step("n", Add(3)),
                Step("absent", Delete()),
            ]
        )
        assert set(done.entries) == {"a", "b", "n"}
        assert {entry.revision for entry in done.entries.values()} == {done.revision}
        assert done.revision > before
        assert await collect(lab.store.scan()) == [done.entries["a"], done.entries["b"], done.entries["n"]]
        assert await newest_revision(lab.store) == done.revision

    @promise(_CAS)
    async def test_an_expectation_holds_or_refuses(self, lab: StoreLab) -> None:
        put = await lab.store.put("k", b"1")
        older = put.revision
        put = await lab.store.put("k", b"2")
        outcomes: list[tuple[str, Expectation, bool]] = [
            ("k", ANY, True),
            ("k", put.revision, True),
            ("k", ABSENT, False),
            ("k", older, False),
            ("k", put.revision + 1, False),
            ("k", 0, False),
            ("k", -1, False),
            ("absent", ANY, True),
            ("absent", ABSENT, True),
            ("absent", put.revision, False),
            ("absent", 0, False),
        ]
        for op in (None, Put(b"3"), Delete(), Add(1)):
            for key, expect, holds in outcomes:
                if holds and op is not None:
                    continue
                async with unchanged(lab.store):
                    if holds:
                        await lab.store.commit((Step(key, op, expect),))
                        continue
                    with pytest.raises(ConflictError) as caught:
                        await lab.store.commit((Step(key, op, expect),))
                    assert caught.value.keys == (key,)
                    assert caught.value.entries == ({"k": put} if key == "k" else {})
        await lab.store.commit((Step("k", Put(b"3"), put.revision),))
        await lab.store.commit((Step("new", Put(b"3"), ABSENT),))
        assert [entry.value for entry in await collect(lab.store.scan())] == [b"3", b"3"]

    @promise(_CAS)
    async def test_a_deleted_or_replaced_entry_is_not_what_it_was(self, lab: StoreLab) -> None:
        first = await lab.store.put("k", b"same")
        await lab.store.delete("k")
        second = await lab.store.put("k", b"same")
        assert not await lab.store.compare_and_swap("k", first.revision, b"x")
        assert await lab.store.compare_and_swap("k", second.revision, b"x")

    @promise(_CAS, _TRANSACTIONS)
    async def test_a_commit_with_one_failing_expectation_changes_nothing(self, lab: StoreLab) -> None:
        store = lab.store
        a, b, c = [await store.put(key, key.encode()) for key in "abc"]
        for failing in (0, 1, 2):
            steps = [
                Step("a", Put(b"!"), a.revision),
                Step("b", Delete(), b.revision),
                Step("new", Put(b"!"), ABSENT),
                Step("n", Add(1)),
            ]
            steps.insert(2 * failing, Step("c", Put(b"!"), c.revision + 1))
            async with unchanged(store):
                with pytest.raises(ConflictError) as caught:
                    await store.commit(steps)
                assert caught.value.entries == {"c": c}
                assert caught.value.keys == ("c",)

    @promise(_CAS, _TRANSACTIONS)
    async def test_a_conflict_names_all_that_failed_with_their_current_entries(self, lab: StoreLab) -> None:
        store = lab.store
        a, b = await store.put("a", b"1"), await store.put("b", b"2")
        async with unchanged(store):
            with pytest.raises(ConflictError) as caught:
                await store.commit(
                    [
                        Step("a", Put(b"!"), ABSENT),
                        Step("b", None, b.revision),
                        Step("gone", Delete(), 7),
                        Step("b2", Put(b"!")),
                    ]
                )
        assert set(caught.value.keys) == {"a", "gone"}
        assert caught.value.entries == {"a": a}

    @promise(_CAS, _TRANSACTIONS)
    async def test_steps_that_only_expect_are_checked_with_the_others(self, lab: StoreLab) -> None:
        store = lab.store
        guard = await store.put("guard", b"me")
        done = await store.commit(
            [Step("guard", None, guard.revision), Step("none", None, ABSENT), Step("x", Put(b"1"))]
        )
        assert set(done.entries) == {"x"}
        assert await store.get("guard") == guard
        await store.put("guard", b"you")
        async with unchanged(store):
            with pytest.raises(ConflictError):
                await store.commit([Step("x", Put(b"2")), Step("guard", None, guard.revision)])

    @promise(_CAS)
    async def test_the_conveniences_say_whether_they_wrote(self, lab: StoreLab) -> None:
        store = lab.store
        assert await store.put_if_absent("k", b"1")
        assert not await store.put_if_absent("k", b"2")
        found = await store.get("k")
        assert found is not None
        assert found.value == b"1"
        assert not await store.compare_and_swap("k", ABSENT, b"3")
        assert await store.compare_and_swap("k", found.revision, b"3")
        assert not await store.compare_and_swap("k", found.revision, b"4")
        assert await store.compare_and_swap("other", ABSENT, b"5")
        assert [entry.value for entry in await collect(store.scan())] == [b"3", b"5"]

    # --- counters -------------------------------------------------------------------------------------------------

    @promise()
    async def test_a_counter_begins_at_zero_and_goes_both_ways(self, lab: StoreLab) -> None:
        store = lab.store
        sums = [await store.increment("n", delta) for delta in (1, 1, -5, 0, 10**15, -(10**15))]
        assert sums == [1, 2, -3, -3, 10**15 - 3, -3]
        done = await store.commit((Step("n", Add(3)),))
        assert done.entries["n"].value == b"0"
        assert await store.get("n") == done.entries["n"]
        assert await store.increment("zero", 0) == 0
        found = await store.get("zero")
        assert found is not None
        assert found.value == b"0"

    @promise()
    async def test_a_counter_is_exact_to_64_bits(self, lab: StoreLab) -> None:
        store = lab.store
        assert await store.increment("n", (1 << 53) + 1) == (1 << 53) + 1
        assert await store.increment("n", 1) == (1 << 53) + 2
        assert await store.increment("top", (1 << 63) - 1) == (1 << 63) - 1
        assert await store.increment("bottom", -(1 << 63)) == -(1 << 63)
        assert await store.increment("top", -1) == (1 << 63) - 2
        assert await store.increment("bottom", (1 << 63) - 1) == -1

    @promise()
    async def test_a_counter_that_would_overflow_is_refused_and_stays(self, lab: StoreLab) -> None:
        store = lab.store
        await store.increment("top", (1 << 63) - 1)
        await store.increment("bottom", -(1 << 63))
        for key, delta in (("top", 1), ("bottom", -1), ("top", 1 << 63), ("new", 1 << 63), ("new", 10**30)):
            async with unchanged(store):
                with pytest.raises(NotACounterError):
                    await store.increment(key, delta)

    @promise()
    async def test_what_is_no_counter_is_refused_and_stays(self, lab: StoreLab) -> None:
        store = lab.store
        for value in (
            b"",
            b"x",
            b"1.0",
            b" 1",
            b"1 ",
            b"+1",
            b"01",
            b"-0",
            b"-",
            b"1e3",
            b"1_0",
            b"9" * 19,
            b"\xd9\xa1",
            b"0x1",
        ):
            await store.put("k", value)
            async with unchanged(store):
                with pytest.raises(NotACounterError):
                    await store.increment("k")

    @promise(_TRANSACTIONS)
    async def test_a_refused_counter_takes_the_whole_commit_with_it(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("text", b"x")
        await store.put("old", b"")
        for place in range(4):
            steps = [Step("a", Put(b"!")), Step("old", Delete()), Step("n", Add(1))]
            steps.insert(place, Step("text", Add(1)))
            async with unchanged(store):
                with pytest.raises(NotACounterError):
                    await store.commit(steps)

    @promise(_CAS)
    async def test_an_expectation_of_a_counter_comes_before_its_sum(self, lab: StoreLab) -> None:
        store = lab.store
        put = await store.put("k", b"x")
        with pytest.raises(ConflictError):
            await store.commit((Step("k", Add(1), ABSENT),))
        with pytest.raises(NotACounterError):
            await store.commit((Step("k", Add(1), put.revision),))
        number = await store.put("k", b"41")
        assert (await store.commit((Step("k", Add(1), number.revision),))).entries["k"].value == b"42"

    @promise(_CAS, _TRANSACTIONS)
    async def test_all_expectations_of_a_commit_come_before_its_sums(self, lab: StoreLab) -> None:
        store = lab.store
        text = await store.put("text", b"x")
        for steps in (
            [Step("text", Add(1)), Step("k", Put(b""), 7)],
            [Step("k", None, 7), Step("text", Add(1), text.revision)],
        ):
            async with unchanged(store):
                with pytest.raises(ConflictError) as caught:
                    await store.commit(steps)
                assert caught.value.keys == ("k",)

    # --- what no store takes --------------------------------------------------------------------------------------

    @promise()
    async def test_what_is_no_key_is_refused_by_every_write(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"v")
        for wrong in ("", "\ud800", "a\udfff", None, 1, b"k"):
            key: Any = wrong
            async with unchanged(store):
                for op in (None, Put(b""), Delete(), Add(1)):
                    with pytest.raises(InvalidKeyError):
                        await store.commit((Step(key, op),))
                with pytest.raises(InvalidKeyError):
                    await store.put(key, b"")
                with pytest.raises(InvalidKeyError):
                    await store.increment(key)
                with pytest.raises(InvalidKeyError):
                    await store.delete(key)

    @promise()
    async def test_what_is_no_value_delta_expectation_or_step_is_refused(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"v")
        wrong: list[Any] = [
            Step("k", Put("text")),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - callers make such mistakes
            Step("k", Put(None)),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as above
            Step("k", Add(1.5)),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as above
            Step("k", Add(True)),
            Step("k", Put(b""), "1"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as above
            Step("k", Put(b""), None),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as above
            Step("k", Put(b""), True),
            Step("k", "delete"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as above
            ("k", Put(b"")),
        ]
        for step in wrong:
            async with unchanged(store):
                with pytest.raises(TypeError):
                    await store.commit([step])
        value: Any = "text"
        async with unchanged(store):
            with pytest.raises(TypeError):
                await store.put("k", value)

    @promise(_TRANSACTIONS)
    async def test_two_steps_for_one_key_are_refused(self, lab: StoreLab) -> None:
        for second in (Put(b"2"), Delete(), Add(1), None):
            async with unchanged(lab.store):
                with pytest.raises(InvalidKeyError):
                    await lab.store.commit([Step("k", Put(b"1")), Step("other", Put(b"")), Step("k", second)])

    @promise()
    async def test_a_key_may_be_as_long_as_the_limit_and_no_longer(self, lab: StoreLab) -> None:
        store, limit = lab.store, lab.store.limits.max_key_bytes
        longest = ("x" * limit, "é" * (limit // 2) + "x" * (limit % 2), "🙂" * (limit // 4) + "x" * (limit % 4))
        if limit <= _LARGE:
            for key in longest:
                assert len(key.encode()) == limit
                put = await store.put(key, b"long")
                assert await store.get(key) == put
            assert await store.list_keys() == sorted(longest, key=str.encode)
        for key in longest:
            async with unchanged(store):
                with pytest.raises(LimitExceededError) as caught:
                    await store.put(f"{key}x", b"")
                assert (caught.value.limit, caught.value.actual) == (limit, limit + 1)
                with pytest.raises(LimitExceededError):
                    await store.get(f"{key}x")

    @promise()
    async def test_a_value_may_be_as_large_as_the_limit_and_no_larger(self, lab: StoreLab) -> None:
        store, limit = lab.store, lab.store.limits.max_value_bytes
        if limit <= _LARGE:
            value = bytes(range(256)) * (limit // 256) + bytes(limit % 256)
            await store.put("k", value)
            found = await store.get("k")
            assert found is not None
            assert found.value == value
        if limit < _HUGE:
            async with unchanged(store):
                with pytest.raises(LimitExceededError) as caught:
                    await store.put("k", bytes(limit + 1))
                assert (caught.value.limit, caught.value.actual) == (limit, limit + 1)

    @promise(_TRANSACTIONS)
    async def test_a_commit_may_have_as_many_steps_as_the_limit_and_no_more(self, lab: StoreLab) -> None:
        store, limit = lab.store, lab.store.limits.max_steps
        if limit <= 10_000:
            done = await store.commit([Step(f"k{number}", Put(b"")) for number in range(limit)])
            assert len(done.entries) == limit
            assert len(await store.list_keys()) == limit
        async with unchanged(store):
            with pytest.raises(LimitExceededError) as caught:
                await store.commit([Step(f"k{number}", Put(b"!")) for number in range(limit + 1)])
            assert (caught.value.limit, caught.value.actual) == (limit, limit + 1)

    @promise(_TRANSACTIONS)
    async def test_a_commit_may_be_as_large_as_the_limit_and_no_larger(self, lab: StoreLab) -> None:
        store, limits = lab.store, lab.store.limits
        size = limits.max_commit_bytes
        if size <= _LARGE:
            steps = _steps_of(size, limits.max_value_bytes)
            if len(steps) <= limits.max_steps:
                await store.commit(steps)
                assert sum(len(entry.key) + len(entry.value) for entry in await collect(store.scan())) == size
        steps = _steps_of(size + 1, limits.max_value_bytes)
        if size < _HUGE and len(steps) <= limits.max_steps:
            async with unchanged(store):
                with pytest.raises(LimitExceededError) as caught:
                    await store.commit(steps)
                assert caught.value.limit == size

    @promise(_CAS, Capability.RANGE_EXPECT)
    async def test_what_is_no_range_is_refused(self, lab: StoreLab) -> None:
        store = lab.store
        wrong: list[tuple[Any, type[Exception]]] = [
            (RangeExpect("\ud800", None, 1), InvalidKeyError),
            (RangeExpect("", "\ud800", 1), InvalidKeyError),
            (RangeExpect(None, None, 1), InvalidKeyError),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - callers make such mistakes
            (RangeExpect("", None, "1"), TypeError),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - as above
            (("", None, 1), TypeError),
        ]
        for range_, error in wrong:
            async with unchanged(store):
                with pytest.raises(error):
                    await store.commit((Step("k", Put(b"")),), ranges=[range_])


def _steps_of(size: int, largest: int) -> list[Step]:
    """Return steps whose keys and values take *size* bytes together."""
    steps: list[Step] = []
    while size > 0:
        key = f"k{len(steps):07d}"
        value = min(max(size - len(key), 0), largest - len(key))
        if 0 < size - len(key) - value <= len(key):
            value -= len(key)  # the last step needs room for its key
        steps.append(Step(key, Put(bytes(value))))
        size -= len(key) + value
    return steps
