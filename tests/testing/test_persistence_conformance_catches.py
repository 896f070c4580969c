"""Each persistence here returns plausible wrong data in one way; the conformance suite must fail on it."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import CompactedError, ReactStateError
from reactstate.persistence.file import FilePersistence
from reactstate.persistence.names import check_blob_name
from reactstate.persistence.protocol import Record
from reactstate.testing.persistence_conformance import PersistenceConformance
from reactstate.testing.persistence_lab import PersistenceLab


class ForgetsTheNewest(FilePersistence):
    """Acknowledges the last record of a group, and does not keep it."""

    def append(self, records, schema):
        return super().append(list(records)[:-1] if len(records) > 2 else records, schema)


class ForgetsTags(FilePersistence):
    def append(self, records, schema):
        for record in records:
            record.tags = None
        return super().append(records, schema)


class NoWayBack(FilePersistence):
    async def load(self, *, history=1000):
        loaded = await super().load(history=history)
        for era in loaded.history if loaded else ():
            for record in era.records:
                record.inverse = list(record.patch)
        return loaded


class TooLittleHistory(FilePersistence):
    async def load(self, *, history=1000):
        return await super().load(history=history - history // 10)


class OneEra(FilePersistence):
    """Tells the schema of the newest documents for all of them."""

    async def load(self, *, history=1000):
        loaded = await super().load(history=history)
        for era in loaded.history if loaded else ():
            era.schema = loaded.head.schema
        return loaded


class EraEndsWithTheHead(FilePersistence):
    async def load(self, *, history=1000):
        loaded = await super().load(history=history)
        for era in loaded.history if loaded else ():
            era.document = loaded.head.document
        return loaded


class ChangesFromOneTooLate(FilePersistence):
    async def changes(self, since=0):
        async for record in super().changes(since):
            if record.version != since + 1:
                yield record


class SilentlyCompacted(FilePersistence):
    """Gives what is left of the changes, as if it were all."""

    async def changes(self, since=0):
        try:
            async for record in super().changes(since):
                yield record
        except CompactedError as exc:
            async for record in super().changes(exc.resume):
                yield record


class DropsTooMuch(FilePersistence):
    async def save(self, snapshot, *, keep_since):
        await super().save(snapshot, keep_since=snapshot.version if keep_since else 0)


class AppendsAgain(FilePersistence):
    """Numbers records anew where they do not follow on."""

    def append(self, records, schema):
        newest = getattr(self, "newest", 0)
        fitting = []
        for record in records:
            newest += 1
            values = {name: getattr(record, name) for name in Record.__slots__}
            fitting.append(Record(**(values | {"version": newest})))
        result = super().append(fitting, schema)
        self.newest = newest
        return result


class NeverDue(FilePersistence):
    compaction_due = False


class FoldsCase(FilePersistence):
    """Keeps blobs where the case of their names does not count."""

    async def put_blob(self, name, data):
        await super().put_blob(name.lower(), data)

    async def get_blob(self, name):
        return await super().get_blob(name.lower())


class AppendsToBlobs(FilePersistence):
    async def put_blob(self, name, data):
        await super().put_blob(name, (await self.get_blob(name) or b"") + data)


class EmptyBlobIsNone(FilePersistence):
    async def get_blob(self, name):
        return await super().get_blob(name) or None


class ListsOtherBlobs(FilePersistence):
    """Takes a prefix for a directory."""

    async def list_blobs(self, prefix=""):
        return await super().list_blobs(prefix.rpartition("/")[0])


class CleansNames(FilePersistence):
    """Makes names fit instead of refusing them."""

    async def put_blob(self, name, data):
        fitting = "".join(sign for sign in name if sign.isalnum())[:100] or "blob"
        await super().put_blob(check_blob_name(fitting), data)


CAUGHT = [
    (ForgetsTheNewest, "test_what_was_acknowledged_is_loaded_whole_and_in_order"),
    (ForgetsTags, "test_what_was_acknowledged_is_loaded_whole_and_in_order"),
    (NoWayBack, "test_what_was_acknowledged_is_loaded_whole_and_in_order"),
    (TooLittleHistory, "test_as_much_history_is_loaded_as_was_asked_for"),
    (OneEra, "test_a_new_schema_begins_an_era_and_the_old_one_stays_readable"),
    (EraEndsWithTheHead, "test_a_new_schema_begins_an_era_and_the_old_one_stays_readable"),
    (ChangesFromOneTooLate, "test_changes_are_those_above_a_version_oldest_first"),
    (SilentlyCompacted, "test_saving_drops_records_only_up_to_where_it_may"),
    (DropsTooMuch, "test_saving_drops_records_only_up_to_where_it_may"),
    (AppendsAgain, "test_records_that_do_not_fit_are_refused_and_change_nothing"),
    (NeverDue, "test_a_journal_that_grew_is_due_for_compaction_until_it_is_saved"),
    (FoldsCase, "test_blobs_are_kept_replaced_listed_and_removed"),
    (AppendsToBlobs, "test_blobs_are_kept_replaced_listed_and_removed"),
    (EmptyBlobIsNone, "test_blobs_are_kept_replaced_listed_and_removed"),
    (ListsOtherBlobs, "test_blobs_are_kept_replaced_listed_and_removed"),
    (CleansNames, "test_names_that_no_blob_can_have_are_refused"),
]


@pytest.mark.parametrize(("fault", "test"), CAUGHT)
def test_a_planted_fault_is_caught(tmp_path, fault, test):
    class Suite(PersistenceConformance):
        async def open_persistence(self, place):
            return fault(place, durability="never")

    suite = Suite()
    arguments = {"name": "a/../b"} if fault is CleansNames else {}
    with asyncio.Runner() as runner, pytest.raises((AssertionError, pytest.fail.Exception, ReactStateError)):
        getattr(suite, test)(PersistenceLab(suite, tmp_path, runner), **arguments)
