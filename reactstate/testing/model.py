"""StoreModel: what a key-value store must hold, as plainly as it can be written, to compare an engine with.

It has no concurrency, no storage and no revisions of its own: those come from the engine that it is compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.kv.protocol import Add, Entry, EventKind, Put
from reactstate.kv.terms import add, expects, to_deadline, to_moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.kv.protocol import RangeExpect, Step

__all__ = ["StoreModel"]


class StoreModel:
    """A dictionary of entries, and the list of all that changed them.

    Attributes:
        entries: What is there, by key; expired entries are removed by ``expire``.
        changes: Revision, key and kind of every change, oldest first.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.changes: list[tuple[int, str, EventKind]] = []
        self._deadlines: dict[str, int] = {}
        self._expired: list[tuple[str, int]] = []

    def sorted(self) -> list[Entry]:
        """Return the entries in key order."""
        return [self.entries[key] for key in sorted(self.entries, key=str.encode)]

    def expire(self, now_ms: int, newest: int) -> None:
        """Remove what has expired at *now_ms*, when *newest* is the newest revision that is known."""
        for key in [key for key, deadline in self._deadlines.items() if deadline <= now_ms]:
            del self.entries[key], self._deadlines[key]
            self._expired.append((key, newest))

    def failing(self, steps: Sequence[Step]) -> set[str]:
        """Return the keys whose expectations fail."""
        return {step.key for step in steps if not expects(step, self._revision(step.key))}

    def moved(self, ranges: Sequence[RangeExpect]) -> bool | None:
        """Say whether the expectation of a range fails; None: that depends on when the engine swept."""
        maybe = False
        for one in ranges:
            if any(revision > one.revision and _inside(one, key) for revision, key, _ in self.changes):
                return True
            for key, newest in self._expired:
                if _inside(one, key):
                    if one.revision <= newest:
                        return True
                    maybe = True
        return None if maybe else False

    def _revision(self, key: str) -> int:
        found = self.entries.get(key)
        return 0 if found is None else found.revision

    def changing(self, steps: Sequence[Step]) -> bool:
        """Say whether *steps* change anything, so that they take a revision."""
        return any(
            isinstance(step.op, (Put, Add)) or (step.op is not None and step.key in self.entries) for step in steps
        )

    def apply(self, steps: Sequence[Step], revision: int, now_ms: int = 0) -> dict[str, Entry]:
        """Perform *steps* at *revision*; return the entries that they write.

        Raises:
            NotACounterError: As the store does; nothing is changed.
        """
        written: dict[str, tuple[Entry, int]] = {}
        for step in steps:
            op, found = step.op, self.entries.get(step.key)
            if isinstance(op, Put):
                value, deadline = op.value, 0 if op.ttl is None else to_deadline(now_ms, op.ttl)
            elif isinstance(op, Add):
                value = add(step.key, None if found is None else found.value, op.delta)
                if found is not None:
                    deadline = self._deadlines.get(step.key, 0)
                else:
                    deadline = 0 if op.ttl is None else to_deadline(now_ms, op.ttl)
            else:
                continue
            written[step.key] = (Entry(step.key, value, revision, to_moment(deadline)), deadline)
        for step in steps:
            if step.key in written:
                self.entries[step.key], deadline = written[step.key]
                self._deadlines.pop(step.key, None)
                if deadline:
                    self._deadlines[step.key] = deadline
                self.changes.append((revision, step.key, EventKind.PUT))
            elif step.op is not None and self.entries.pop(step.key, None) is not None:
                self._deadlines.pop(step.key, None)
                self.changes.append((revision, step.key, EventKind.DELETE))
        return {key: entry for key, (entry, _) in written.items()}


def _inside(one: RangeExpect, key: str) -> bool:
    return one.start <= key and (one.end is None or key < one.end)
