from __future__ import annotations

import contextlib
from typing import Any

import pytest

from reactstate import (
    CodecError,
    DecodeError,
    NoHistoricalState,
    ReactStateError,
    SchemaVersionError,
    State,
    StateConfig,
    UnknownTypeError,
    migration,
    to_document,
)


class Line1(State, type_name="line"):
    name: str
    price: int = 0


class Shop1(State, type_name="shop"):
    lines: dict[str, Line1] = {}
    note: str = ""


class Line2(State, type_name="line", schema_version=2):
    name: str
    cents: int = 0

    @migration(from_version=1)
    def price_becomes_cents(document: Any) -> Any:  # noqa: N805 - a migration takes the document
        return {"name": document["name"], "cents": document["price"] * 100}


class Shop2(State, type_name="shop"):
    """Only the nested class has moved on."""

    lines: dict[str, Line2] = {}
    note: str = ""


class Shop3(State, type_name="shop", schema_version=2):
    lines: dict[str, Line2] = {}
    memo: str = ""

    @migration(from_version=1)
    def note_becomes_memo(document: Any) -> Any:  # noqa: N805 - a migration takes the document
        document["memo"] = document.pop("note").upper()
        return document


class Shop4(State, type_name="shop", schema_version=3):
    """There is no way from version 2."""

    lines: dict[str, Line2] = {}
    memo: str = ""

    @migration(from_version=1)
    def skipped(document: Any) -> Any:  # noqa: N805 - a migration takes the document
        return document


class Wider1(State, type_name="shop"):
    """A field with a default is new, and nobody raised the version."""

    lines: dict[str, Line1] = {}
    note: str = ""
    open: bool = True
    extra: dict[str, int] = {}


class Narrow1(State, type_name="shop"):
    lines: dict[str, Line1] = {}


class Other(State, type_name="library"):
    lines: dict[str, Line1] = {}
    note: str = ""


async def stock(place: Any) -> None:
    async with place.open(Shop1()) as shop:
        await shop.update(lambda d: d.lines.update(a=Line1(name="a", price=1)))
        await shop.update({"note": "hi"})
        await shop.update(lambda d: setattr(d.lines["a"], "price", 2))
        await shop.snapshot("old")
        await shop.update(lambda d: d.lines.update(b=Line1(name="b", price=3)))


def bytes_of(place: Any) -> dict[str, bytes]:
    return {path: place.files.contents(path) for path in place.files.paths() if not path.endswith("lock")}


def cents(shop: Any) -> dict[str, int]:
    return {name: line.cents for name, line in shop.lines.items()}


async def test_an_old_journal_is_read_by_newer_classes_head_history_and_snapshots(disk):
    await stock(disk)
    async with disk.open(Shop3) as shop:
        assert shop.version == 5
        assert (cents(shop.state), shop.state.memo) == ({"a": 200, "b": 300}, "HI")
        assert [cents(await shop.at(version)) for version in range(1, 6)] == [
            {},
            {"a": 100},
            {"a": 100},
            {"a": 200},
            {"a": 200, "b": 300},
        ]
        assert [change.new_state.memo for change in shop.history] == ["", "", "HI", "HI", "HI"]
        assert cents(shop.history[3].old_state) == {"a": 100}
        assert shop.history[3].patch == [{"op": "replace", "path": "/lines/a/price", "value": 2}]
        (info,) = await shop.list_snapshots()
        await shop.restore(info.id)
        assert cents(shop.state) == {"a": 200}
        await shop.undo()
        assert cents(shop.state) == {"a": 200, "b": 300}


@pytest.mark.parametrize("newer", [Shop2, Shop3])
async def test_what_is_written_after_an_upgrade_is_read_with_what_was_written_before(disk, newer):
    await stock(disk)
    async with disk.open(newer) as shop:
        await shop.update(lambda d: setattr(d.lines["a"], "cents", 250))
        await shop.undo()
        await shop.undo()  # across the boundary
        await shop.redo()
        states = [to_document(await shop.at(version)) for version in range(1, shop.version + 1)]
        version = shop.version
    for _ in range(2):
        async with disk.open(newer) as shop:
            assert shop.version == version
            assert [to_document(await shop.at(one)) for one in range(1, version + 1)] == states
            for one in range(2, version + 1):
                assert to_document(shop.history[one - 1].old_state) == states[one - 2]
            assert cents(shop.state) == {"a": 200, "b": 300}
            await shop.update(lambda d: setattr(d.lines["b"], "cents", 17))
            await shop.rollback_to(2)
            await shop.undo()
            await shop.undo()
            version += 4
            states.extend([to_document(await shop.at(one)) for one in range(version - 3, version + 1)])


async def test_two_upgrades_one_after_the_other_leave_three_eras_that_all_can_be_read(disk):
    await stock(disk)
    async with disk.open(Shop2) as shop:
        await shop.update(lambda d: setattr(d.lines["a"], "cents", 1))
    async with disk.open(Shop3) as shop:
        await shop.update({"memo": "new"})
        await shop.update(lambda d: d.lines.pop("b"))
    disk.crash("lost")
    async with disk.open(Shop3) as shop:
        assert [cents(change.new_state) for change in shop.history] == [
            {},
            {"a": 100},
            {"a": 100},
            {"a": 200},
            {"a": 200, "b": 300},
            {"a": 1, "b": 300},
            {"a": 1, "b": 300},
            {"a": 1},
        ]
        assert [change.new_state.memo for change in shop.history][-3:] == ["HI", "new", "new"]
        for _ in range(7):
            await shop.undo()
        assert shop.state == Shop3()
        with pytest.raises(NoHistoricalState):
            await shop.undo()


async def test_an_upgrade_that_only_reads_writes_nothing_into_the_journal(disk):
    await stock(disk)
    async with disk.open(Shop3):
        pass
    async with disk.open(Shop1) as shop:
        assert shop.state.note == "hi"
        await shop.update({"note": "still version 1"})


async def test_a_crash_during_the_first_write_after_an_upgrade_loses_nothing(disk):
    for at in range(1, 40):
        place = type(disk)()
        await stock(place)
        shop = await place.open(Shop3)
        place.files.crash(at=at)
        done = False
        with contextlib.suppress(ReactStateError):
            await shop.update({"memo": "after"})
            done = True
        after = place.files.after_crash("torn")
        with contextlib.suppress(ReactStateError):
            await shop.aclose()
        place.files = after
        async with place.open(Shop3) as again:
            assert again.state.memo == "after" if done else again.state.memo in {"HI", "after"}
            assert cents(again.state) == {"a": 200, "b": 300}
            assert len(again.history) == again.version
            await again.update({"memo": "later"})
        async with place.open(Shop3) as again:
            assert again.state.memo == "later"
            assert cents(await again.at(2)) == {"a": 100}


async def test_a_new_field_with_a_default_needs_no_migration_and_no_version(disk):
    await stock(disk)
    async with disk.open(Wider1) as shop:
        assert shop.state.open is True
        await shop.update({"open": False})
        await shop.update(lambda d: d.extra.update(x=1))
        assert shop.history[5].old_state.open is True
    for _ in range(2):
        async with disk.open(Wider1) as shop:
            assert (shop.state.open, shop.state.extra) == (False, {"x": 1})
            assert [change.new_state.open for change in shop.history][:7] == [True] * 5 + [False] * 2
            assert shop.history[4].new_state.lines["b"].price == 3
            await shop.undo()
            assert shop.state.extra == {}
            await shop.redo()
    disk.crash("lost")
    async with disk.open(Wider1) as shop:
        assert shop.state.extra == {"x": 1}


async def test_a_new_field_survives_a_delete_and_a_refused_flush(disk):
    await stock(disk)
    async with disk.open(Wider1) as shop:
        for nth in (1, 2, 3):
            disk.files.fail("pwrite", nth=nth)
        with pytest.raises(Exception, match="could not be written"):
            await shop.update({"open": False})
        disk.files._faults.clear()
        await shop.delete()
        await shop.undo()
        await shop.update(lambda d: d.extra.update(x=1))
    async with disk.open(Wider1) as shop:
        assert shop.state.extra == {"x": 1}
        assert [change.version for change in shop.history] == list(range(1, 9))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(Shop4, SchemaVersionError), (Other, UnknownTypeError), (Narrow1, DecodeError)],
)
async def test_what_cannot_be_read_is_a_typed_error_that_keeps_every_byte(disk, wrong, error):
    await stock(disk)
    async with disk.open(Shop3) as shop:
        await shop.update({"memo": "two"})
    if wrong is Narrow1:
        disk = type(disk)()
        await stock(disk)
    before = bytes_of(disk)
    with pytest.raises(error) as caught:
        await disk.open(wrong)
    assert isinstance(caught.value, CodecError)
    assert bytes_of(disk) == before
    with pytest.raises(error):
        await disk.open(wrong, read_only=True)
    assert bytes_of(disk) == before


async def test_an_older_program_is_told_that_the_stored_version_is_newer(disk):
    await stock(disk)
    async with disk.open(Shop3) as shop:
        await shop.update({"memo": "two"})
    before = bytes_of(disk)
    with pytest.raises(SchemaVersionError) as caught:
        await disk.open(Shop1)
    assert (caught.value.type_name, caught.value.stored, caught.value.current) == ("shop", 2, 1)
    assert bytes_of(disk) == before
    async with disk.open(Shop3) as shop:
        assert shop.state.memo == "two"


async def test_an_unreadable_old_version_does_not_stand_in_the_way_of_the_others(disk):
    class Strict(State, type_name="shop", schema_version=2):
        lines: dict[str, Line1] = {}
        memo: str = ""

        @migration(from_version=1)
        def only_with_lines(document: Any) -> Any:  # noqa: N805 - a migration takes the document
            if not document["lines"]:
                raise ValueError("no lines")
            document["memo"] = document.pop("note")
            return document

    await stock(disk)
    async with disk.open(Strict) as shop:
        assert shop.state.memo == "hi"
        with pytest.raises(DecodeError, match="no lines"):
            await shop.at(1)
        assert (await shop.at(3)).memo == "hi"
        await shop.update({"memo": "x"})


async def test_eras_and_bounded_history_go_together(disk):
    config = StateConfig(history_size=3)
    await stock(disk)
    async with disk.open(Shop3, config=config) as shop:
        assert [change.version for change in shop.history] == [3, 4, 5]
        await shop.update({"memo": "x"})
        assert [change.version for change in shop.history] == [4, 5, 6]
        assert cents(await shop.at(3)) == {"a": 100}
        await shop._committer._save()
    async with disk.open(Shop3, config=config) as shop:
        assert [change.version for change in shop.history] == [4, 5, 6]
        assert [change.new_state.memo for change in shop.history] == ["HI", "HI", "x"]
        await shop.update({"memo": "y"})
        await shop.update({"memo": "z"})
        await shop.update({"memo": "0"})
        await shop._committer._save()
    async with disk.open(Shop3, config=config) as shop:
        assert [change.new_state.memo for change in shop.history] == ["y", "z", "0"]
        assert shop.history[0].old_state.memo == "x"


async def test_a_container_that_was_opened_by_type_may_change_its_schema_before_the_first_state(disk):
    async with disk.open(Shop1) as shop:
        assert shop.version == 0
    async with disk.open(Shop3) as shop:
        await shop.set(Shop3(memo="first"))
        assert shop.version == 1
    async with disk.open(Shop3()) as shop:
        assert shop.state.memo == "first"


async def test_migrated_states_are_those_of_today(disk):
    await stock(disk)
    async with disk.open(Shop3) as shop:
        assert type(shop.history[0].new_state) is Shop3
