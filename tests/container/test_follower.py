from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from reactstate import (
    BoundedStaleness,
    ClosedError,
    CompactedError,
    DecodeError,
    FilePersistence,
    ManualClock,
    PatchError,
    ReadOnlyError,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    Strong,
    migration,
)
from reactstate.container.stored import stored_change
from reactstate.persistence.protocol import Record
from reactstate.state.change import Origin


class Tally(State):
    n: int = 0
    log: list[int] = []


class Tally2(State, type_name="Tally", schema_version=2):
    count: int = 0
    log: list[int] = []

    @migration(from_version=1)
    def renamed(document: Any) -> Any:  # noqa: N805 - a migration takes the document
        document["count"] = document.pop("n") * 100
        return document


def add(draft: Tally) -> None:
    draft.n += 1


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.001)


async def test_a_reader_sees_every_change_of_a_live_writer_in_order_and_once(disk):
    async with disk.open(Tally()) as writer:
        await writer.update(add)
        async with disk.open(Tally, read_only=True) as reader:
            assert (reader.version, reader.state.n, len(reader.history)) == (2, 1, 2)
            heard: list[tuple[int, int, int]] = []
            reader.on_change(lambda c: heard.append((c.version, c.old_state.n, c.new_state.n)))
            subscription = reader.subscribe()
            watching = reader.watch()
            view = reader.select(lambda state: state.n * 2)
            for _ in range(20):
                await asyncio.gather(*(writer.update(add, actor="ada", tags={"t": 1}) for _ in range(3)))
            await until(lambda: reader.version == writer.version)
            assert heard == [(version, version - 2, version - 1) for version in range(3, 63)]
            assert [(await anext(subscription)).version for _ in range(60)] == list(range(3, 63))
            assert (await anext(watching)).n == view.value // 2 == 61
            ours, theirs = list(reader.history), list(writer.history)
            assert [
                (
                    c.version,
                    c.change_id,
                    c.timestamp,
                    c.actor,
                    c.action,
                    c.tags,
                    c.patch,
                    c.inverse,
                    c.new_state,
                    c.old_state,
                )
                for c in ours
            ] == [
                (
                    c.version,
                    c.change_id,
                    c.timestamp,
                    c.actor,
                    c.action,
                    c.tags,
                    c.patch,
                    c.inverse,
                    c.new_state,
                    c.old_state,
                )
                for c in theirs
            ]
            assert (await reader.at(30)).n == 29
            assert reader.current.metadata.created_at == writer.current.metadata.created_at


async def test_a_reader_may_be_there_before_its_writer(disk):
    async with disk.open(Tally()):
        pass
    fresh = type(disk)()
    fresh.files._directories.add("/state")
    async with fresh.open(Tally(n=5), read_only=True) as reader:
        assert reader.version == 0
        with pytest.raises(StateNotFoundError):
            reader.state  # noqa: B018 - the property raises
        async with fresh.open(Tally()) as writer:
            await writer.update(add)
            await writer.delete()
            await writer.set(Tally(n=7))
            await until(lambda: reader.version == 4)
            assert [change.change_type.value for change in reader.history] == ["create", "update", "delete", "create"]
            assert reader.state.n == 7


async def test_a_reader_survives_compaction_and_segment_changes(disk):
    config = StateConfig(history_size=5)
    async with disk.open(Tally(), config=config) as writer, disk.open(Tally, read_only=True, config=config) as reader:
        seen: list[int] = []
        reader.on_change(lambda change: seen.append(change.version))
        for number in range(40):
            await writer.update({"log": [number] * 20})
            if number % 10 == 0:
                await writer._committer._save()
            if number % 7 == 0:
                await until(lambda: reader.version == writer.version)
        await until(lambda: reader.version == writer.version)
        assert reader.state == writer.state
        assert seen == sorted(set(seen))
        assert seen[-1] == writer.version
        assert reader.history[0].old_state is not None


async def test_a_reader_that_was_left_behind_goes_on_from_the_newest_state(disk):
    config = StateConfig(history_size=2)

    class Deaf(FilePersistence[Any]):
        """Hears nothing until it is told to."""

        hear = asyncio.Event()

        async def follow(self, since: int = 0, **arguments: Any) -> Any:
            await self.hear.wait()
            async for record in super().follow(since, **arguments):
                yield record

    async with disk.open(Tally(), config=config) as writer:
        deaf = Deaf("/state", filesystem=disk.files, read_only=True)
        async with StateContainer.open(Tally, persistence=deaf, config=config) as reader:
            subscription = reader.subscribe()
            for number in range(20):
                await writer.update({"log": [number] * 20})
                await writer._committer._save()
            deaf.hear.set()
            await until(lambda: reader.version == writer.version)
            assert reader.state == writer.state
            change = await anext(subscription)
            assert (change.version, change.action, change.new_state) == (writer.version, "resync", writer.state)
            await writer.update(add)
            await until(lambda: reader.version == writer.version)
            assert (await anext(subscription)).version == writer.version
            assert reader.history[-1].new_state == writer.state


@pytest.mark.parametrize(
    "verb", ["update", "set", "delete", "merge", "undo", "redo", "rollback", "rollback_to", "edit"]
)
async def test_writing_is_refused_at_the_call(disk, verb):
    async with disk.open(Tally()), disk.open(Tally, read_only=True) as reader:
        arguments: dict[str, Any] = {"update": [add], "set": [Tally()], "merge": [Tally()], "rollback_to": [1]}
        with pytest.raises(ReadOnlyError):
            getattr(reader, verb)(*arguments.get(verb, []))
        with pytest.raises(ReadOnlyError):
            reader.compare_and_swap(1, add)
        with pytest.raises(ReadOnlyError):
            await reader.flush()


async def test_a_strong_read_sees_what_was_published_before_it(disk):
    clock = ManualClock()
    async with disk.open(Tally()) as writer, disk.open(Tally, read_only=True, clock=clock) as reader:
        for number in range(1, 10):
            await writer.update(add)
            assert (await reader.get(Strong())).n == number
        assert reader.replication_lag == timedelta(0)
        clock.advance(3)
        assert reader.replication_lag == timedelta(seconds=3)
        await writer.update(add)
        await reader.get(BoundedStaleness(timedelta(seconds=5)))
        assert reader.replication_lag == timedelta(seconds=3)
        assert (await reader.get(BoundedStaleness(timedelta(seconds=2)))).n == 10
        assert reader.replication_lag == timedelta(0)


async def test_a_reader_with_the_newer_class_follows_an_upgrade_of_its_writer(disk):
    async with disk.open(Tally(n=3)) as writer:
        await writer.update(add)
    async with disk.open(Tally2, read_only=True) as reader:
        assert reader.state.count == 400
        async with disk.open(Tally2) as writer:
            await writer.update({"log": [1]})
            await until(lambda: reader.version == writer.version)
            assert reader.state == writer.state
            await writer.update({"count": 7})
            await until(lambda: reader.version == writer.version)
            assert reader.state == writer.state
            assert reader.history[-1].old_state.count == 400


async def test_a_reader_with_the_older_class_stops_and_says_so(disk, caplog):
    async with disk.open(Tally(n=3)) as writer:
        await writer.update(add)
    async with disk.open(Tally, read_only=True) as reader:
        subscription = reader.subscribe()
        async with disk.open(Tally2) as writer:
            await writer.update({"log": [1]})
            assert [change async for change in subscription] == []
        assert "following the writer ended" in caplog.text
        assert (reader.version, reader.state.n) == (2, 4)
        with pytest.raises(Exception, match="newer"):
            await reader.get(Strong())


@pytest.mark.parametrize("error", [CompactedError("no"), PatchError("no"), None])
async def test_a_reader_that_can_go_no_further_stops_and_says_so(disk, caplog, error):
    class Refusing(FilePersistence[Any]):
        async def follow(self, since: int = 0, **arguments: Any) -> Any:
            await asyncio.sleep(0)
            if error is not None:
                raise error
            for record in ():
                yield record

    async with disk.open(Tally()) as writer:
        refusing = Refusing("/state", filesystem=disk.files, read_only=True)
        async with StateContainer.open(Tally, persistence=refusing) as reader:
            assert [change async for change in reader.subscribe()] == []
            assert "leads no further" in caplog.text
            await writer.update(add)
            assert (await reader.get(Strong())).n == 1  # who asks is still told


async def test_a_strong_read_of_a_reader_that_lags_or_is_closed_meanwhile_is_right_or_refused(disk):
    async with disk.open(Tally()) as writer:
        reader = await disk.open(Tally, read_only=True, config=StateConfig(buffer_size=1))
        for _ in range(20):
            await asyncio.gather(*(writer.update(add) for _ in range(5)))
            assert (await reader.get(Strong())).n == writer.state.n
        await writer.update(add)
        reading = asyncio.ensure_future(reader.get(Strong()))
        await asyncio.sleep(0)
        await reader.aclose()
        outcome = (await asyncio.gather(reading, return_exceptions=True))[0]
        assert isinstance(outcome, ClosedError) or outcome.n == writer.state.n


def test_what_cannot_be_understood_of_a_record_is_a_decode_error():
    origin = Origin(Tally, {"Tally": 1}, raw=True)
    for kind, inverse in (("explode", []), ("update", None)):
        record = Record(2, "0" * 32, 0, kind, None, None, None, None, [], inverse)
        with pytest.raises(DecodeError, match="version 2"):
            stored_change(record, origin)


async def test_a_reader_ends_quietly_when_it_is_closed(disk, caplog):
    async with disk.open(Tally()) as writer:
        reader = await disk.open(Tally, read_only=True)
        subscription = reader.subscribe()
        await reader.aclose()
        assert [change async for change in subscription] == []
        await writer.update(add)
    assert caplog.text == ""
