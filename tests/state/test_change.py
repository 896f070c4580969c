from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

import pytest

from reactstate import AtomicState, ChangeType, ManualClock, State, StateNotFoundError, apply_patch, to_document
from reactstate.codec import checksum
from reactstate.state.change import Origin, StateChange, VersionedState


class Tally(State):
    n: int = 0
    tags: set[str] = set()


class Other(State):
    n: int = 0
    tags: set[str] = set()


def toggle(draft: Tally, n: int) -> None:
    draft.n = n
    draft.tags.symmetric_difference_update({f"t{n % 3}"})


def test_a_change_tells_what_was_done_by_whom_and_when():
    clock = ManualClock(datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC))
    tally = AtomicState(Tally(), clock=clock)
    tally.update({"n": 1}, actor="ada", action="count", tags={"t": 1})
    change = tally.history[-1]
    assert change.timestamp == datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert isinstance(change.change_id, UUID)
    assert change.change_id.version == 7
    assert change.change_id == tally.history[-1].change_id
    assert change.change_id.int >> 80 == int(change.timestamp.timestamp() * 1000)
    assert len({one.change_id for one in tally.history}) == 2
    assert repr(change) == "StateChange(version=2, UPDATE, actor='ada', action='count')"
    assert repr(tally.history[0]) == "StateChange(version=1, CREATE)"


def test_patch_and_inverse_lead_there_and_back_whatever_is_held():
    tally = AtomicState(Tally())
    for n in range(30):
        tally.update(toggle, n)
    for change in tally.history[1:]:
        old, new = to_document(change.old_state), to_document(change.new_state)
        assert apply_patch(old, change.patch) == new
        assert apply_patch(new, change.inverse) == old


def test_create_delete_and_return_are_patches_of_the_whole_document():
    tally = AtomicState(Tally())
    tally.delete()
    tally.undo()
    created, deleted, returned = tally.history
    document = {"n": 0, "tags": []}
    assert created.patch == [{"op": "add", "path": "", "value": document}]
    assert created.inverse == [{"op": "replace", "path": "", "value": None}]
    assert deleted.patch == [{"op": "replace", "path": "", "value": None}]
    assert deleted.inverse == [{"op": "add", "path": "", "value": document}]
    assert (deleted.change_type, returned.change_type) == (ChangeType.DELETE, ChangeType.ROLLBACK)
    assert (returned.old_state, returned.new_state) == (None, Tally())


def test_a_versioned_state_equals_one_of_the_same_version_and_document():
    tally = AtomicState(Tally())
    first = tally.current
    tally.update({"n": 1})
    second = tally.current
    assert first == AtomicState(Tally()).current
    assert first != second
    assert first != AtomicState(Tally(n=2)).current
    assert first != AtomicState(Other()).current
    assert (first == "x") is False
    tally.delete()
    gone = tally.current
    assert gone == tally.current
    assert gone != second
    with pytest.raises(TypeError):
        hash(first)
    assert "version=1" in repr(first)


def test_metadata_tells_times_tags_and_the_checksum_of_the_document():
    clock = ManualClock()
    tally = AtomicState(Tally(), clock=clock)
    clock.advance(5)
    tally.update({"n": 1}, tags={"t": 1})
    metadata = tally.current.metadata
    assert (metadata.version, metadata.tags) == (2, {"t": 1})
    assert (metadata.updated_at - metadata.created_at).total_seconds() == 5
    assert metadata.checksum == checksum({"n": 1, "tags": []}) == metadata.checksum
    assert "version=2" in repr(metadata)
    current = tally.current
    assert current.metadata is current.metadata
    assert current.transaction_id is None
    tally.delete()
    assert tally.current.metadata.checksum == checksum(None)
    with pytest.raises(StateNotFoundError, match="version 3"):
        tally.current.state  # noqa: B018 - the property raises


def test_a_change_that_is_connected_to_nothing_says_so():
    from reactstate.state.change import DROPPED

    change: StateChange[Tally] = StateChange(3, ChangeType.UPDATE, DROPPED, [], 0, None, None, None)
    with pytest.raises(StateNotFoundError, match="not connected"):
        change.new_state  # noqa: B018 - the property raises
    nothing: VersionedState[Tally] = VersionedState(
        None, StateChange(0, ChangeType.DELETE, None, [], 0, None, None, None), 0
    )
    with pytest.raises(StateNotFoundError, match="nothing is stored"):
        nothing.state  # noqa: B018 - the property raises


def test_an_origin_rebuilds_documents_from_the_end_of_its_run():
    origin = Origin(Tally, {"Tally": 1}, raw=True)
    changes = [
        StateChange.stored(
            version,
            ChangeType.UPDATE,
            0,
            None,
            None,
            None,
            None,
            f"{version:032x}",
            [{"op": "replace", "path": "/n", "value": version}],
            [{"op": "replace", "path": "/n", "value": version - 1}],
            origin,
        )
        for version in (2, 3, 4)
    ]
    for one, following in pairwise(changes):
        one._next = following
    origin.end(changes[-1], {"n": 4, "tags": []})
    assert [change.new_state.n for change in changes] == [2, 3, 4]
    assert [change.old_state.n for change in changes] == [1, 2, 3]
    assert origin.document == {"n": 4, "tags": []}
    assert origin.last is changes[-1]
