# ruff: noqa: D102, S101, S311 - a test's name says what it proves, assertions are what it is made of, dice are seeded
"""PersistenceConformance: the tests that every form of StatePersistence must pass, to be subclassed.

Usage
    ::

        class TestMyPersistence(PersistenceConformance):
            async def open_persistence(self, place):
                return MyPersistence(place)  # not loaded yet

    Needs pytest alone: each test runs on an event loop of its own.

What it proves
    What was acknowledged is loaded, whole and in order, with the way back; histories, eras of different schemas,
    compaction, blobs, refusals that change nothing, closing. Torn files, full disks, killed processes and lost replies
    are a form's own to provoke and to test.
"""

from __future__ import annotations

import asyncio
import copy
import random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from reactstate.errors import ClosedError, CompactedError, InvalidKeyError, ReactStateError
from reactstate.persistence.protocol import Snapshot
from reactstate.state.patch import apply_patch
from reactstate.testing.persistence_lab import PersistenceLab, same_records
from reactstate.testing.suite import collect, promise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reactstate.persistence.protocol import Record, SchemaTag, StatePersistence

__all__ = ["PersistenceConformance"]

_MANY_BYTES = 3_000_000


class PersistenceConformance:
    """The tests of every promise of StatePersistence; subclass it and override ``open_persistence``.

    Attributes:
        patience: The seconds after which a test that hangs fails.
    """

    patience: ClassVar[float] = 60.0

    async def open_persistence(self, place: Path) -> StatePersistence[Any]:
        """Return a persistence at *place*, not loaded yet: the same place gives what was stored there.

        Args:
            place: A path that is the test's own; a form that is no directory takes it as a name.
        """
        raise NotImplementedError("override open_persistence to return a persistence of yours")

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[PersistenceLab]:
        """Return what the test works with."""
        with asyncio.Runner() as runner:
            yield PersistenceLab(self, tmp_path, runner)

    # --- append and load ------------------------------------------------------------------------------------------

    @promise()
    async def test_where_nothing_is_stored_nothing_is_loaded(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        assert await lab.kept(persistence) == []
        assert await persistence.list_blobs() == []
        assert not persistence.compaction_due
        await persistence.append([], lab.story.first)
        await persistence.aclose()
        _, loaded = await lab.open()
        assert loaded is None

    @promise()
    async def test_what_was_acknowledged_is_loaded_whole_and_in_order(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        version = 0
        for size in (1, 1, 3, 10, 1, 40, 60):
            await persistence.append(lab.story.records(version + 1, version + size), lab.story.first)
            version += size
            persistence, loaded = await lab.reopen(persistence)
            lab.check(loaded, version)
            assert loaded.dropped_bytes == 0
            same_records(await collect(persistence.changes()), lab.story.records(1, version))

    @promise()
    async def test_appends_of_any_size_follow_each_other(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        for first in range(1, 50, 7):
            await persistence.append(lab.story.records(first, first + 2), lab.story.first)
            for version in range(first + 3, first + 7):
                await persistence.append([lab.story.record(version)], lab.story.first)
        _, loaded = await lab.reopen(persistence)
        lab.check(loaded, 49)

    @promise()
    async def test_the_loaded_document_is_the_callers_to_change(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        await persistence.append(lab.story.records(1, 5), lab.story.first)
        persistence, loaded = await lab.reopen(persistence)
        loaded.head.document["items"].clear()
        loaded.head.document["n"] = None
        await persistence.append([lab.story.record(6)], lab.story.first)
        _, loaded = await lab.reopen(persistence)
        lab.check(loaded, 6)

    @promise()
    async def test_as_much_history_is_loaded_as_was_asked_for(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        await persistence.append(lab.story.records(1, 120), lab.story.first)
        for history in (0, 1, 7, 119, 120, 1000):
            persistence, loaded = await lab.reopen(persistence, history=history)
            lab.check(loaded, 120, since=max(0, 120 - history))

    @promise()
    async def test_a_deletion_is_loaded_and_creation_begins_anew(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        await persistence.append(lab.story.records(1, 50), lab.story.first)
        persistence, loaded = await lab.reopen(persistence)
        assert loaded.head.document is None
        lab.check(loaded, 50)
        await persistence.append([lab.story.record(51)], lab.story.first)
        persistence, loaded = await lab.reopen(persistence)
        assert loaded.head.created_at_ns == lab.story.record(51).timestamp_ns
        lab.check(loaded, 51)

    @promise()
    async def test_a_large_document_is_loaded_whole(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        record = lab.story.record(1)
        record.patch[0]["value"] = {"text": "é" * _MANY_BYTES, "numbers": list(range(1000)), "big": 10**40}
        await persistence.append([record], lab.story.first)
        expected = copy.deepcopy(record.patch[0]["value"])
        persistence, loaded = await lab.reopen(persistence)
        assert loaded.head.document == expected
        snapshot = Snapshot(
            1, expected, dict(lab.story.first), record.change_id, record.timestamp_ns, record.timestamp_ns
        )
        await persistence.save(snapshot, keep_since=1)
        _, loaded = await lab.reopen(persistence)
        assert loaded.head.document == expected

    # --- changes --------------------------------------------------------------------------------------------------

    @promise()
    async def test_changes_are_those_above_a_version_oldest_first(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        await persistence.append(lab.story.records(1, 20), lab.story.first)
        for since in (0, 1, 10, 19, 20):
            assert await lab.kept(persistence, since) == list(range(since + 1, 21))
        document = None
        for record in await collect(persistence.changes()):
            before = copy.deepcopy(document)
            document = apply_patch(document, copy.deepcopy(record.patch))
            assert document == lab.story.document(record.version)
            if record.inverse is not None:
                assert apply_patch(copy.deepcopy(document), copy.deepcopy(record.inverse)) == before

    # --- save -----------------------------------------------------------------------------------------------------

    @promise()
    async def test_saving_drops_records_only_up_to_where_it_may(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        version = 0
        for kept in (0, 3, 3, 25, 40, 77):
            await persistence.append(lab.story.records(version + 1, version + 20), lab.story.first)
            version += 20
            await persistence.save(lab.story.snapshot(version), keep_since=kept)
            assert await lab.kept(persistence, kept) == list(range(kept + 1, version + 1))
            since = 0
            try:
                await lab.kept(persistence)
            except CompactedError as exc:
                since = exc.resume
            assert since <= kept
            assert await lab.kept(persistence, since) == list(range(since + 1, version + 1))
            persistence, loaded = await lab.reopen(persistence)
            lab.check(loaded, version, since=kept)

    @promise()
    async def test_everything_can_be_compacted_into_one_snapshot(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        await persistence.append(lab.story.records(1, 9), lab.story.first)
        await persistence.save(lab.story.snapshot(9), keep_since=9)
        persistence, loaded = await lab.reopen(persistence)
        lab.check(loaded, 9, since=9)
        assert await lab.kept(persistence, 9) == []
        await persistence.append(lab.story.records(10, 12), lab.story.first)
        persistence, loaded = await lab.reopen(persistence)
        lab.check(loaded, 12, since=9)
        assert await lab.kept(persistence, 9) == [10, 11, 12]

    @promise()
    async def test_appends_during_a_save_are_kept(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        await persistence.append(lab.story.records(1, 30), lab.story.first)
        saving = asyncio.ensure_future(persistence.save(lab.story.snapshot(30), keep_since=20))
        for version in range(31, 45):
            await persistence.append([lab.story.record(version)], lab.story.first)
            await asyncio.sleep(0)
        await saving
        persistence, loaded = await lab.reopen(persistence)
        lab.check(loaded, 44, since=20)

    @promise()
    async def test_a_journal_that_grew_is_due_for_compaction_until_it_is_saved(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh(history=10)
        version = 0
        while not persistence.compaction_due:
            await persistence.append(lab.story.records(version + 1, version + 49), lab.story.first)
            version += 49
            assert version < 49 * 200, "no journal is due for compaction"
        await persistence.save(lab.story.snapshot(version), keep_since=version)
        assert not persistence.compaction_due
        _, loaded = await lab.reopen(persistence, history=10)
        lab.check(loaded, version, since=version)

    # --- eras -----------------------------------------------------------------------------------------------------

    @promise()
    async def test_a_new_schema_begins_an_era_and_the_old_one_stays_readable(self, lab: PersistenceLab) -> None:
        story, persistence = lab.story, await lab.fresh()
        await persistence.append(story.records(1, 10), story.first)
        await persistence.save(story.snapshot(10, story.later), keep_since=0)
        persistence, loaded = await lab.reopen(persistence)
        assert loaded.head.schema == story.later
        lab.check(loaded, 10, schema=story.later)
        await persistence.append(story.records(11, 15), story.later)
        persistence, loaded = await lab.reopen(persistence)
        lab.check(loaded, 15, schema=story.later)
        eras = [era for era in loaded.history if era.records]
        assert [era.schema for era in eras] == [story.first, story.later]
        assert [len(era.records) for era in eras] == [10, 5]
        assert await lab.kept(persistence) == list(range(1, 16))
        persistence, loaded = await lab.reopen(persistence, history=3)
        lab.check(loaded, 15, schema=story.later, since=12)

    @promise()
    async def test_an_era_is_dropped_when_all_of_it_may_be(self, lab: PersistenceLab) -> None:
        story, persistence = lab.story, await lab.fresh()
        await persistence.append(story.records(1, 10), story.first)
        await persistence.save(story.snapshot(10, story.later), keep_since=0)
        await persistence.append(story.records(11, 20), story.later)
        await persistence.save(story.snapshot(20, story.later), keep_since=14)
        persistence, loaded = await lab.reopen(persistence)
        lab.check(loaded, 20, schema=story.later, since=14)
        assert await lab.kept(persistence, 14) == list(range(15, 21))

    # --- refusals -------------------------------------------------------------------------------------------------

    @promise()
    async def test_records_that_do_not_fit_are_refused_and_change_nothing(self, lab: PersistenceLab) -> None:
        story, persistence = lab.story, await lab.fresh()
        await persistence.append(story.records(1, 4), story.first)
        unencodable = story.record(5)
        unencodable.patch = [{"op": "replace", "path": "/n", "value": object()}]
        wrong: list[tuple[list[Record], SchemaTag]] = [
            ([unencodable], story.first),
            ([story.record(5), unencodable], story.first),
            ([story.record(5), story.record(7)], story.first),
            ([story.record(6)], story.first),
            ([story.record(4)], story.first),
            ([story.record(5)], story.later),
        ]
        for records, schema in wrong:
            with pytest.raises((ReactStateError, ValueError)):
                await persistence.append(records, schema)
        await persistence.append([story.record(5)], story.first)
        assert await lab.kept(persistence) == [1, 2, 3, 4, 5]
        _, loaded = await lab.reopen(persistence)
        lab.check(loaded, 5)

    @promise()
    async def test_a_record_that_cannot_be_encoded_is_refused_at_the_call(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        record = lab.story.record(1)
        record.patch[0]["value"] = {"n": object()}
        with pytest.raises(ReactStateError):
            persistence.append([record], lab.story.first)

    @promise()
    async def test_places_do_not_reach_into_each_other(self, lab: PersistenceLab) -> None:
        names = ("a", "ab", "a%2F", "a.b", "r", "head")
        for count, name in enumerate(names, 1):
            persistence = await lab.fresh(name)
            await persistence.append(lab.story.records(1, count), lab.story.first)
            await persistence.put_blob("b", name.encode())
        for count, (name, persistence) in enumerate(zip(names, list(lab._opened), strict=True), 1):
            again, loaded = await lab.reopen(persistence, name)
            lab.check(loaded, count)
            assert await again.get_blob("b") == name.encode()
            assert [info.name for info in await again.list_blobs()] == ["b"]

    # --- blobs ----------------------------------------------------------------------------------------------------

    @promise()
    async def test_blobs_are_kept_replaced_listed_and_removed(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        blobs = {"snap/A": b"1", "snap/a": b"", "snap/b.c": bytes(range(256)) * 40, "cursor-1": b"x", "z/y/x_w": b"!"}
        for name, data in blobs.items():
            assert await persistence.get_blob(name) is None
            await persistence.put_blob(name, b"before")
            await persistence.put_blob(name, data)
        for _ in range(2):
            for name, data in blobs.items():
                assert await persistence.get_blob(name) == data
            infos = await persistence.list_blobs()
            assert [(info.name, info.size_bytes) for info in infos] == [
                (name, len(blobs[name])) for name in sorted(blobs)
            ]
            assert all(info.modified_ns > 0 for info in infos)
            assert [info.name for info in await persistence.list_blobs("snap/")] == ["snap/A", "snap/a", "snap/b.c"]
            assert [info.name for info in await persistence.list_blobs("snap/b")] == ["snap/b.c"]
            assert await persistence.list_blobs("none") == []
            await persistence.aclose()
            persistence, loaded = await lab.open()
            assert loaded is None, "blobs are no state"
        assert await persistence.delete_blob("snap/A")
        assert not await persistence.delete_blob("snap/A")
        assert await persistence.get_blob("snap/A") is None
        assert await persistence.get_blob("snap/a") == b""

    @promise()
    async def test_a_large_blob_is_kept_whole_and_replaced_by_a_small_one(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        data = random.Random(1).randbytes(_MANY_BYTES)
        await persistence.put_blob("large", data)
        await persistence.put_blob("other", data[:10])
        assert await persistence.get_blob("large") == data
        assert [info.size_bytes for info in await persistence.list_blobs()] == [_MANY_BYTES, 10]
        await persistence.put_blob("large", b"small")
        await persistence.put_blob("other", data)
        assert await persistence.get_blob("large") == b"small"
        assert await persistence.get_blob("other") == data
        assert await persistence.delete_blob("other")
        assert [info.name for info in await persistence.list_blobs()] == ["large"]

    @promise()
    async def test_blobs_and_records_do_not_disturb_each_other(self, lab: PersistenceLab) -> None:
        persistence = await lab.fresh()
        for version in range(1, 11):
            await persistence.append([lab.story.record(version)], lab.story.first)
            await persistence.put_blob("head", b"%d" % version)
            if version % 4 == 0:
                await persistence.save(lab.story.snapshot(version), keep_since=version - 2)
        assert [info.name for info in await persistence.list_blobs()] == ["head"]
        persistence, loaded = await lab.reopen(persistence)
        lab.check(loaded, 10, since=6)
        assert await persistence.get_blob("head") == b"10"

    @promise()
    @pytest.mark.parametrize(
        "name", ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a\0b", "a b", "é", "x" * 121, "a\\b", "a\n", "a:b", "*"]
    )
    async def test_names_that_no_blob_can_have_are_refused(self, lab: PersistenceLab, name: str) -> None:
        persistence = await lab.fresh()
        with pytest.raises(InvalidKeyError):
            await persistence.put_blob(name, b"!")
        with pytest.raises(InvalidKeyError):
            await persistence.get_blob(name)
        with pytest.raises(InvalidKeyError):
            await persistence.delete_blob(name)
        assert await persistence.list_blobs() == []

    # --- closing --------------------------------------------------------------------------------------------------

    @promise()
    async def test_a_closed_persistence_refuses_everything_and_closes_again(self, lab: PersistenceLab) -> None:
        story, persistence = lab.story, await lab.fresh()
        await persistence.append([story.record(1)], story.first)
        await persistence.flush()
        await persistence.aclose()
        await persistence.aclose()
        with pytest.raises(ClosedError):
            await persistence.load()
        with pytest.raises(ClosedError):
            await persistence.append([story.record(2)], story.first)
        with pytest.raises(ClosedError):
            await collect(persistence.changes())
        with pytest.raises(ClosedError):
            await persistence.save(story.snapshot(1), keep_since=0)
        with pytest.raises(ClosedError):
            await persistence.put_blob("a", b"")
        with pytest.raises(ClosedError):
            await persistence.get_blob("a")
        with pytest.raises(ClosedError):
            await persistence.delete_blob("a")
        with pytest.raises(ClosedError):
            await persistence.list_blobs()
        _, loaded = await lab.open()
        assert loaded is not None
        lab.check(loaded, 1)

    @promise()
    async def test_what_was_appended_before_closing_is_there(self, lab: PersistenceLab) -> None:
        story, persistence = lab.story, await lab.fresh()
        appending = asyncio.ensure_future(_finish(persistence.append(story.records(1, 30), story.first)))
        await asyncio.sleep(0)
        await persistence.aclose()
        await appending
        _, loaded = await lab.open()
        assert loaded is not None
        lab.check(loaded, 30)

    # --- all together ---------------------------------------------------------------------------------------------

    @promise()
    @pytest.mark.parametrize("seed", range(4))
    async def test_any_sequence_of_operations_loads_what_a_list_would_hold(
        self, lab: PersistenceLab, seed: int
    ) -> None:
        dice, story = random.Random(seed), lab.story
        persistence = await lab.fresh()
        version, kept, schema = 0, 0, story.first
        for _ in range(40):
            kind = dice.random()
            if kind < 0.6 or not version:
                count = dice.randint(1, 9)
                await persistence.append(story.records(version + 1, version + count), schema)
                version += count
            elif kind < 0.75:
                kept = dice.randint(kept, version)
                await persistence.save(story.snapshot(version, schema), keep_since=kept)
            elif kind < 0.8 and schema is story.first:
                schema = story.later
                await persistence.save(story.snapshot(version, schema), keep_since=kept)
            else:
                persistence, loaded = await lab.reopen(persistence)
                lab.check(loaded, version, schema=schema, since=kept)
            assert await lab.kept(persistence, kept) == list(range(kept + 1, version + 1))


async def _finish(awaitable: Any) -> None:
    await awaitable
