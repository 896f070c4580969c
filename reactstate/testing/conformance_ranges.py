# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""Ranges that a commit expects to be unchanged: what keeps phantoms out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reactstate.errors import ConflictError
from reactstate.kv.protocol import ABSENT, Add, Capability, Delete, Put, RangeExpect, Step
from reactstate.testing.conformance_commits import newest_revision, unchanged
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

if TYPE_CHECKING:
    from reactstate.kv.protocol import Operation

__all__ = ["RangePromises"]

_RANGES, _TTL = Capability.RANGE_EXPECT, Capability.TTL


async def _holds(lab: StoreLab, *ranges: RangeExpect) -> bool:
    """Say whether a commit that expects *ranges* goes through; if not, it must have changed nothing."""
    before = await collect(lab.store.scan())
    try:
        await lab.store.commit((Step("\0probe", Add(1)),), ranges=ranges)
    except ConflictError:
        assert await collect(lab.store.scan()) == before
        return False
    return True


class RangePromises(StoreSuite):
    """What the expectation of a range may be relied on for."""

    @promise(_RANGES)
    async def test_a_write_inside_the_range_is_a_conflict(self, lab: StoreLab) -> None:
        store = lab.store
        for key in ("b", "c", "d"):
            await store.put(key, b"1")
        writes: list[tuple[str, Operation]] = [
            ("b", Put(b"2")),
            ("b1", Put(b"new")),
            ("c", Put(b"1")),
            ("c", Delete()),
            ("n", Add(1)),
            ("n", Add(0)),
        ]
        for key, op in writes:
            revision = await newest_revision(store)
            assert await _holds(lab, RangeExpect("b", "o", revision))
            await store.commit((Step(key, op),))
            assert not await _holds(lab, RangeExpect("b", "o", revision)), f"after {op!r}"
            assert await _holds(lab, RangeExpect("b", "o", await newest_revision(store)))

    @promise(_RANGES)
    async def test_a_range_is_half_open(self, lab: StoreLab) -> None:
        store = lab.store
        for key in ("a", "b", "bb", "c", "d"):
            revision = await newest_revision(store)
            await store.put(key, b"")
            assert await _holds(lab, RangeExpect("b", "c", revision)) == (key not in {"b", "bb"}), f"put {key!r}"
            assert await _holds(lab, RangeExpect("c", None, revision)) == (key < "c"), f"put {key!r}, no end"
            assert await _holds(lab, RangeExpect("b", "b", revision)), "an empty range"
            assert await _holds(lab, RangeExpect("c", "b", revision)), "a range that ends before it begins"
            assert await _holds(lab, RangeExpect("", "", revision))

    @promise(_RANGES)
    async def test_a_range_without_an_end_reaches_to_the_last_key(self, lab: StoreLab) -> None:
        revision = await newest_revision(lab.store)
        await lab.store.put("\U0010ffff\U0010ffff", b"")
        assert not await _holds(lab, RangeExpect("", None, revision))
        assert not await _holds(lab, RangeExpect("\U0010ffff", None, revision))

    @promise(_RANGES)
    async def test_the_order_of_a_range_is_that_of_utf8_bytes(self, lab: StoreLab) -> None:
        store = lab.store
        revision = await newest_revision(store)
        await store.put("\U00010000", b"")  # in UTF-16 it would come before U+FFFF
        assert await _holds(lab, RangeExpect("\ue000", "\uffff", revision))
        assert not await _holds(lab, RangeExpect("\uffff", "\U00010001", revision))
        await store.put("a%b", b"")
        assert await _holds(lab, RangeExpect("a_", "a`", revision))

    @promise(_RANGES)
    async def test_a_phantom_is_found_although_it_is_gone_again(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k", b"1")
        revision = await newest_revision(store)
        await store.put("k2", b"")
        await store.delete("k2")
        assert not await _holds(lab, RangeExpect("k", "l", revision))
        revision = await newest_revision(store)
        await store.delete("k")
        await store.put("k", b"1")
        assert not await _holds(lab, RangeExpect("k", "l", revision))

    @promise(_RANGES)
    async def test_what_changed_nothing_is_no_change_of_the_range(self, lab: StoreLab) -> None:
        store = lab.store
        put = await store.put("k", b"1")
        await store.commit((Step("k2", Delete()),))
        await store.commit((Step("k", None, put.revision),))
        with pytest.raises(ConflictError):
            await store.commit((Step("k", Put(b"2"), ABSENT),))
        assert await _holds(lab, RangeExpect("k", "l", put.revision))

    @promise(_RANGES)
    async def test_the_commits_own_steps_do_not_disturb_its_ranges(self, lab: StoreLab) -> None:
        store = lab.store
        await store.put("k1", b"1")
        revision = await newest_revision(store)
        own: list[tuple[str, Operation]] = [("k1", Put(b"2")), ("k2", Put(b"2")), ("k3", Add(1)), ("k1", Delete())]
        for key, op in own:
            done = await store.commit((Step(key, op),), ranges=[RangeExpect("k", "l", revision)])
            assert done.revision > revision
            revision = done.revision
        assert await store.list_keys("k") == ["k2", "k3"]

    @promise(_RANGES)
    async def test_several_ranges_and_steps_are_all_checked(self, lab: StoreLab) -> None:
        store = lab.store
        a, b = await store.put("a1", b""), await store.put("b1", b"")
        async with unchanged(store):
            with pytest.raises(ConflictError):  # the second range fails
                await store.commit(
                    (Step("x", Put(b"")),),
                    ranges=[RangeExpect("b", "c", b.revision), RangeExpect("a", "b", a.revision - 1)],
                )
            with pytest.raises(ConflictError) as caught:  # the step fails, the range holds
                await store.commit((Step("a1", Put(b""), ABSENT),), ranges=[RangeExpect("b", "c", b.revision)])
            assert caught.value.keys == ("a1",)
            assert caught.value.entries == {"a1": a}
        done = await store.commit(
            (Step("a1", Put(b"2"), a.revision),),
            ranges=[RangeExpect("b", "c", b.revision), RangeExpect("a", "b", a.revision)],
        )
        assert set(done.entries) == {"a1"}

    @promise(_RANGES)
    async def test_a_conflict_of_step_and_range_names_the_step(self, lab: StoreLab) -> None:
        store = lab.store
        a, b = await store.put("a1", b""), await store.put("b1", b"")
        async with unchanged(store):
            with pytest.raises(ConflictError) as caught:
                await store.commit((Step("a1", Put(b"!"), ABSENT),), ranges=[RangeExpect("b", "c", b.revision - 1)])
        assert set(caught.value.keys) <= {"a1", "b1"}
        assert caught.value.entries["a1"] == a

    @promise(_RANGES)
    async def test_ranges_can_be_checked_without_writing(self, lab: StoreLab) -> None:
        store = lab.store
        put = await store.put("k", b"")
        assert (await store.commit((), ranges=[RangeExpect("k", "l", put.revision)])).revision == put.revision
        with pytest.raises(ConflictError):
            await store.commit((), ranges=[RangeExpect("k", "l", put.revision - 1)])
        assert await newest_revision(store) == put.revision

    @promise(_RANGES, _TTL)
    async def test_an_expiry_inside_the_range_is_a_conflict_swept_or_not(self, lab: StoreLab) -> None:
        store = lab.store
        for swept in (False, True):
            await store.commit((Step("k", Put(b"", lab.ttl(1))),))
            revision = await newest_revision(store)
            assert await _holds(lab, RangeExpect("k", "l", revision))
            await lab.pass_time(1)
            if swept:
                await store.cleanup_expired()
            assert not await _holds(lab, RangeExpect("k", "l", revision))
            assert await _holds(lab, RangeExpect("l", "~", revision))

    @promise(_RANGES)
    async def test_many_unrelated_writes_do_not_make_a_range_fail(self, lab: StoreLab) -> None:
        store = lab.store
        put = await store.put("k", b"")
        for number in range(300):
            await store.put(f"other{number % 7}", b"")
        assert await _holds(lab, RangeExpect("k", "l", put.revision))
        await store.put("k", b"")
        assert not await _holds(lab, RangeExpect("k", "l", put.revision))
