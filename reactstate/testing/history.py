"""Checks that what concurrent tasks saw of a store is strictly serialisable.

Contract
    ``Recording`` wraps a store and writes down every commit and read with its beginning and end. ``check`` then looks
    for one order of all operations, that of the commits' revisions, in which

    - each commit found its expectations true and made what the steps say, and each refused one found them false;
    - each read and each snapshot returned what was there at one place in that order;
    - an operation that ended before another began comes before it.

    Revisions give the order of the commits, so nothing is searched for: each read is put at the earliest place where
    it fits, which is right because the order in time is an interval order. Keys without times to live only.

    See Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects" (1990).
"""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING, TypeAlias

from reactstate.errors import ConflictError
from reactstate.testing.model import StoreModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.kv.protocol import Commit, Entry, RangeExpect, Step
    from reactstate.kv.store import KeyValueStore

__all__ = ["NotSerialisableError", "Recording"]


class NotSerialisableError(AssertionError):
    """What tasks saw of a store has no order in which one after the other would have seen it."""


class _Operation:
    """One operation: when it began and ended, and what it saw."""

    __slots__ = ("began", "ended", "name")

    def __init__(self, name: str, began: int, ended: int) -> None:
        self.name = name
        self.began = began
        self.ended = ended

    def __repr__(self) -> str:
        return f"{self.name} (from {self.began} to {self.ended})"


class _Write(_Operation):
    __slots__ = ("done", "ranges", "steps")

    def __init__(
        self, began: int, ended: int, steps: Sequence[Step], ranges: Sequence[RangeExpect], done: Commit
    ) -> None:
        super().__init__(f"commit {done.revision}", began, ended)
        self.steps = steps
        self.ranges = ranges
        self.done = done


class _Refused(_Operation):
    __slots__ = ("error", "ranges", "steps")

    def __init__(
        self, began: int, ended: int, steps: Sequence[Step], ranges: Sequence[RangeExpect], error: ConflictError
    ) -> None:
        super().__init__(f"conflict at {', '.join(error.keys)}", began, ended)
        self.steps = steps
        self.ranges = ranges
        self.error = error


class _Read(_Operation):
    __slots__ = ("found", "key")

    def __init__(self, began: int, ended: int, key: str, found: Entry | None) -> None:
        super().__init__(f"get {key!r} -> {found!r}", began, ended)
        self.key = key
        self.found = found


class _View(_Operation):
    __slots__ = ("entries", "prefix", "revision")

    def __init__(self, began: int, ended: int, revision: int, prefix: str, entries: list[Entry]) -> None:
        super().__init__(f"snapshot {revision} of {prefix!r}", began, ended)
        self.revision = revision
        self.prefix = prefix
        self.entries = entries


_Placed: TypeAlias = _Read | _View | _Refused | _Write


class Recording:
    """A store whose operations are written down.

    Args:
        store: The store; it must be empty, or hold nothing under the keys that are used.
        other: Further objects of the same store, among which the operations are spread.
    """

    def __init__(self, store: KeyValueStore, *other: KeyValueStore) -> None:
        self._stores = itertools.cycle([store, *other])
        self._now = itertools.count(1)
        self._writes: list[_Write] = []
        self._others: list[_Placed] = []

    async def commit(self, steps: Sequence[Step], *, ranges: Sequence[RangeExpect] = ()) -> Commit:
        """Commit, and write down what came of it."""
        began = next(self._now)
        try:
            done = await next(self._stores).commit(steps, ranges=ranges)
        except ConflictError as exc:
            self._others.append(_Refused(began, next(self._now), steps, ranges, exc))
            raise
        self._writes.append(_Write(began, next(self._now), steps, ranges, done))
        return done

    async def get(self, key: str) -> Entry | None:
        """Read one key, and write down what was there."""
        began = next(self._now)
        found = await next(self._stores).get(key)
        self._others.append(_Read(began, next(self._now), key, found))
        return found

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Read several keys, each of which counts as a read of its own."""
        began = next(self._now)
        found = await next(self._stores).get_many(keys)
        ended = next(self._now)
        self._others.extend(_Read(began, ended, key, found.get(key)) for key in keys)
        return found

    async def scan(self, prefix: str = "") -> tuple[int, list[Entry]]:
        """Take a snapshot; return its revision and entries, and write down when it was taken."""
        began = next(self._now)
        async with next(self._stores).snapshot() as view:
            ended = next(self._now)
            entries = [entry async for entry in view.scan(prefix)]
            self._others.append(_View(began, ended, view.revision, prefix, entries))
            return view.revision, entries

    def check(self) -> None:
        """Look for the order that explains it all.

        Raises:
            NotSerialisableError: There is none; the text names an operation that does not fit.
        """
        _Check(self._writes, self._others).run()


class _Check:
    def __init__(self, writes: list[_Write], others: list[_Placed]) -> None:
        self._writes = sorted(writes, key=lambda write: (write.done.revision, write.began))
        self._commits: list[_Write] = []
        self._others = list(others)
        self._models: list[StoreModel] = []

    def run(self) -> None:
        self._replay()
        self._order_of_commits()
        self._place_the_others()

    def _replay(self) -> None:
        """Perform the commits in the order of their revisions, and keep the store after each.

        One that changed nothing tells the newest revision, and is placed like a read.
        """
        model = StoreModel()
        self._models.append(_copy(model))
        for revision, group in itertools.groupby(self._writes, lambda write: write.done.revision):
            writes = list(group)
            changing = [write for write in writes if write.done.entries]
            changing = changing or _deleting(writes, model)
            if len(changing) > 1:
                raise NotSerialisableError(f"two commits have the revision {revision}")
            self._others.extend(write for write in writes if write not in changing)
            for write in changing:
                self._judge(write, model)
                if model.apply(write.steps, revision) != write.done.entries:
                    raise NotSerialisableError(f"{write!r} made of what was there what its steps do not say")
                self._commits.append(write)
                self._models.append(_copy(model))

    @staticmethod
    def _judge(write: _Write, model: StoreModel) -> None:
        keys = model.failing(write.steps)
        if keys or model.moved(write.ranges):
            raise NotSerialisableError(
                f"{write!r} went through although its expectations failed: {sorted(keys) or 'a range'}"
            )

    def _order_of_commits(self) -> None:
        """Check that a commit which ended before another began has the smaller revision."""
        newest_began = 0
        for write in self._commits:
            if write.ended < newest_began:
                raise NotSerialisableError(f"{write!r} ended before one of a smaller revision had begun")
            newest_began = max(newest_began, write.began)

    def _place_the_others(self) -> None:
        """Put each read at the earliest place that is right: after so many commits."""
        ended = sorted((write.ended, place) for place, write in enumerate(self._commits, 1))
        began = sorted((write.began, place) for place, write in enumerate(self._commits, 1))
        # The last place among those that ended by a time, and the first among those that began after it.
        lasts = list(itertools.accumulate((place for _, place in ended), max))
        firsts = list(itertools.accumulate((place for _, place in reversed(began)), min))[::-1]
        placed: list[tuple[int, int]] = []  # (end, place) of the reads so far
        for operation in sorted(self._others, key=lambda one: one.began):
            before = bisect.bisect_left(ended, (operation.began, 0))
            first = lasts[before - 1] if before else 0
            after = bisect.bisect_left(began, (operation.ended, 0))
            last = firsts[after] - 1 if after < len(firsts) else len(self._commits)
            first = max([first, *(place for end, place in placed if end < operation.began)])
            for place in range(first, last + 1):
                if self._fits(operation, place):
                    placed.append((operation.ended, place))
                    break
            else:
                raise NotSerialisableError(
                    f"{operation!r} fits nowhere between the commits that ended before it and those that began after it"
                )

    def _fits(self, operation: _Placed, place: int) -> bool:
        model = self._models[place]
        if isinstance(operation, _Read):
            return model.entries.get(operation.key) == operation.found
        if isinstance(operation, _View):
            inside = [entry for entry in model.sorted() if entry.key.startswith(operation.prefix)]
            return self._is_newest(operation.revision, place) and inside == operation.entries
        if isinstance(operation, _Refused):
            return _explains(operation, model)
        return (
            self._is_newest(operation.done.revision, place)
            and not model.changing(operation.steps)
            and not model.failing(operation.steps)
            and not model.moved(operation.ranges)
        )

    def _is_newest(self, revision: int, place: int) -> bool:
        """Say whether *revision* may be the newest after so many commits."""
        low = self._commits[place - 1].done.revision if place else 0
        return low <= revision and (place == len(self._commits) or revision < self._commits[place].done.revision)


def _deleting(writes: list[_Write], model: StoreModel) -> list[_Write]:
    """Return the one of *writes*, which wrote no entry and tell one revision, that took it by deleting; if any did.

    The others then found nothing left to delete.
    """
    candidates = [write for write in writes if model.changing(write.steps)]
    for write in candidates if len(candidates) > 1 else ():
        after = _copy(model)
        after.apply(write.steps, write.done.revision)
        if not (
            model.failing(write.steps)
            or model.moved(write.ranges)
            or any(
                after.changing(other.steps) or after.failing(other.steps) or after.moved(other.ranges)
                for other in writes
                if other is not write
            )
        ):
            return [write]
    return candidates[:1]


def _explains(refused: _Refused, model: StoreModel) -> bool:
    keys, moved = model.failing(refused.steps), model.moved(refused.ranges)
    told = set(refused.error.keys)
    if not keys and not moved:
        return False
    if not keys <= told or (told - keys and not moved):
        return False
    return all(model.entries.get(key) == refused.error.entries.get(key) for key in told)


def _copy(model: StoreModel) -> StoreModel:
    twin = StoreModel()
    twin.entries = dict(model.entries)
    twin.changes = list(model.changes)
    return twin
