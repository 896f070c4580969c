from __future__ import annotations

import pytest

from reactstate.clock import ManualClock
from reactstate.errors import ConflictError
from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import ABSENT, ANY, Add, Commit, Delete, Entry, Put, RangeExpect, Step
from reactstate.kv.terms import conflict
from reactstate.testing.history import NotSerialisableError, Recording
from reactstate.testing.stores import FaultyStore


class Scripted(FaultyStore):
    """A store that answers what the test says, or else the truth."""

    def __init__(self):
        super().__init__(MemoryStore(clock=ManualClock()))
        self.answers = []

    async def get(self, key):
        found = await self.store.get(key)
        return self.answers.pop(0) if self.answers else found

    async def commit(self, steps, *, ranges=()):
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, ConflictError):
                raise answer
            return answer
        return await self.store.commit(steps, ranges=ranges)


@pytest.fixture
def store():
    return Scripted()


@pytest.fixture
def recording(store):
    return Recording(store)


async def put(recording, key, value=b"", expect=ANY):
    return (await recording.commit([Step(key, Put(value), expect)])).entries[key]


async def refused(recording, steps, **options):
    with pytest.raises(ConflictError):
        await recording.commit(steps, **options)


async def test_what_one_task_does_after_the_other_is_serialisable(recording):
    recording.check()
    assert await recording.get("k") is None
    one = await put(recording, "k", b"1", ABSENT)
    assert await recording.get("k") == one
    await refused(recording, [Step("k", Put(b"2"), ABSENT)])
    await recording.commit([Step("n", Add(3))])
    await recording.commit([Step("gone", Delete())])
    await recording.commit([Step("k", Delete()), Step("gone", Delete())])
    await recording.commit([Step("k", Delete())])
    await recording.commit([Step("k", None, ABSENT)], ranges=[RangeExpect("o", None, 0)])
    await refused(recording, [], ranges=[RangeExpect("a", "z", one.revision)])
    await recording.get_many(["k", "n"])
    await recording.scan("n")
    recording.check()


async def test_a_stale_read_is_found(store, recording):
    one = await put(recording, "k", b"1")
    await put(recording, "k", b"2")
    store.answers = [one]
    await recording.get("k")
    with pytest.raises(NotSerialisableError, match="get 'k'"):
        recording.check()


async def test_reads_that_go_back_in_time_are_found(store, recording):
    """Each read alone could be explained while a commit is under way; the second after the first cannot."""
    one = await put(recording, "k", b"1")
    two = await put(recording, "k", b"2")
    write = recording._writes[-1]
    for found in (two, one):
        store.answers = [found]
        await recording.get("k")
    write.ended = 100
    with pytest.raises(NotSerialisableError):
        recording.check()
    recording._others.reverse()
    for read, (began, ended) in zip(recording._others, [(5, 6), (7, 8)], strict=True):
        read.began, read.ended = began, ended
    recording.check()


async def test_a_commit_whose_expectation_had_failed_is_found(store, recording):
    await put(recording, "k", b"1")
    store.answers = [Commit(2, {"k": Entry("k", b"2", 2)})]
    await recording.commit([Step("k", Put(b"2"), ABSENT)])
    with pytest.raises(NotSerialisableError, match="expectations failed"):
        recording.check()


async def test_a_commit_whose_range_had_changed_is_found(store, recording):
    await put(recording, "k", b"1")
    store.answers = [Commit(2, {"k": Entry("k", b"2", 2)})]
    await recording.commit([Step("k", Put(b"2"))], ranges=[RangeExpect("k", None, 0)])
    with pytest.raises(NotSerialisableError, match="a range"):
        recording.check()


async def test_a_revision_that_is_used_twice_is_found(store, recording):
    await put(recording, "k", b"1")
    store.answers = [Commit(1, {"o": Entry("o", b"2", 1)})]
    await recording.commit([Step("o", Put(b"2"))])
    with pytest.raises(NotSerialisableError, match="two commits"):
        recording.check()


async def test_a_result_that_the_steps_do_not_make_is_found(store, recording):
    store.answers = [Commit(1, {"n": Entry("n", b"2", 1)})]
    await recording.commit([Step("n", Add(1))])
    with pytest.raises(NotSerialisableError, match="do not say"):
        recording.check()


async def test_revisions_that_run_against_time_are_found(store, recording):
    store.answers = [Commit(2, {"k": Entry("k", b"", 2)}), Commit(1, {"o": Entry("o", b"", 1)})]
    await recording.commit([Step("k", Put(b""))])
    await recording.commit([Step("o", Put(b""))])
    with pytest.raises(NotSerialisableError, match="ended before"):
        recording.check()


@pytest.mark.parametrize(
    "error",
    [
        conflict({}, ["k"]),
        conflict({"k": Entry("k", b"other", 1)}, ["k"]),
        conflict({}, []),
        conflict({"k": Entry("k", b"1", 1)}, ["k", "more"]),
    ],
)
async def test_a_conflict_that_tells_what_is_not_there_is_found(store, recording, error):
    await put(recording, "k", b"1")
    store.answers = [error]
    await refused(recording, [Step("k", Put(b"2"), ABSENT), Step("more", None, ABSENT)])
    with pytest.raises(NotSerialisableError, match="conflict"):
        recording.check()


async def test_a_conflict_without_a_cause_is_found(store, recording):
    one = await put(recording, "k", b"1")
    store.answers = [conflict({"k": one}, ["k"])]
    await refused(recording, [Step("k", Put(b"2"), one.revision)])
    with pytest.raises(NotSerialisableError, match="conflict"):
        recording.check()


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        ([Step("k", Delete())], Commit(1, {})),  # it deleted what was there, and took no revision
        ([Step("k", None, ABSENT)], Commit(1, {})),
        ([Step("o", None, ABSENT)], Commit(9, {})),
        ([Step("o")], Commit(0, {})),
    ],
)
async def test_a_commit_that_changed_nothing_and_should_have_is_found(store, recording, steps, done):
    await put(recording, "k", b"1")
    await put(recording, "o", b"1")
    store.answers = [done]
    await recording.commit(steps)
    with pytest.raises(NotSerialisableError):
        recording.check()


async def test_an_older_snapshot_is_found(recording):
    await put(recording, "k", b"1")
    await recording.scan()
    await put(recording, "k", b"2")
    recording._others[0].began = recording._others[0].ended = 100
    with pytest.raises(NotSerialisableError, match="snapshot 1"):
        recording.check()
