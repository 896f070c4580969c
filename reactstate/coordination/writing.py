"""One write: read, plan, commit on condition, and what to do when that is refused or not answered.

Contract
    A commit expects the revisions that it was planned on, so it is applied once or not at all, however often it is
    sent. With it goes a mark: an entry that only this writer writes, and only for one commit at a time. After a lost
    reply the mark tells whether the commit was applied, whatever others did since; and when what it expects is no
    longer there, that it never will be. What is written only if nothing is there bears its mark in itself.

    A store in this process's memory always answers: nothing is marked there.

    Marks need LINEARIZABLE_READS to prove that a commit was not applied; without, UnknownOutcomeError is left.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TYPE_CHECKING, Final

from reactstate.coordination.layout import LABEL_BYTES, bears_label
from reactstate.errors import (
    ConflictError,
    ContentionError,
    LeaseLostError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.kv.protocol import ABSENT, ANY, Capability, Put, Step
from reactstate.kv.retry import resolve, until_available
from reactstate.kv.terms import conflict, expects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.clock import Clock
    from reactstate.coordination.layout import Layout
    from reactstate.kv.memory import MemoryStore
    from reactstate.kv.protocol import Entry, Operation
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard

__all__ = ["Attempt", "Patience", "Writer", "Written"]

_AT_ONCE: Final = 3
"""How often a refused commit is planned anew without a pause."""
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.2
_MARK_TTL_S: Final = 3600.0
_MAX_NUMBER: Final = 0xFFFFFFFF


class Written:
    """What became of a write.

    Attributes:
        entry: What was there before, or, when nothing was to be done, what is there.
        revision: The revision of the commit; 0: nothing was to be done.
    """

    __slots__ = ("entry", "revision")

    def __init__(self, entry: Entry | None, revision: int) -> None:
        self.entry: Entry | None = entry
        self.revision: int = revision


class Attempt:
    """A commit on condition, and the search for its outcome.

    Args:
        writer: Whose it is.
        steps: What it does.
        proof: The key of which one step writes a value that begins with *label*.
        label: By which that value is known.
    """

    __slots__ = ("_error", "_label", "_proof", "_steps", "_writer")

    def __init__(self, writer: Writer, steps: Sequence[Step], proof: str, label: bytes) -> None:
        self._writer = writer
        self._steps = steps
        self._proof = proof
        self._label = label
        self._error: UnavailableError | UnknownOutcomeError | None = None

    async def commit(self) -> int:
        """Commit, until it is known what came of it; return the revision.

        Raises:
            ConflictError: An expectation failed; nothing was changed.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was applied.
        """
        try:
            return (await self._writer.store.commit(self._steps)).revision
        except (UnavailableError, UnknownOutcomeError) as exc:
            return await self.settle(exc)

    async def settle(self, error: UnavailableError | UnknownOutcomeError) -> int:
        """Go on after the first commit ended with *error*; return the revision, and raise as ``commit`` does."""
        self._error = error
        return await resolve(self._again, self._applied, clock=self._writer.clock, deadline=self._writer.deadline)

    async def _again(self) -> int:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return (await self._writer.store.commit(self._steps)).revision

    async def _applied(self) -> int | None:
        store = self._writer.store
        conditions = [step for step in self._steps if step.expect is not ANY]
        # The conditions first: when one of them fails, the commit cannot be applied any more, and the proof is final.
        found = await store.get_many([step.key for step in conditions])
        proof = await store.get(self._proof)
        if proof is not None and proof.value[:LABEL_BYTES] == self._label:
            return proof.revision
        if not self._writer.sees_all:
            raise UnknownOutcomeError(
                "the reply to a commit was lost, and the reads of this engine may be old, so nothing tells whether it "
                "was applied; read the entry before deciding what to do"
            )
        other = found.get(self._proof)
        if other is not None and not bears_label(other):
            raise UnknownOutcomeError(
                "the reply to a commit was lost, and the entry was written anew since, so nothing tells whether it was "
                "applied; read it before deciding what to do"
            )
        failed = [
            step.key for step in conditions if not expects(step, found[step.key].revision if step.key in found else 0)
        ]
        if failed:
            raise conflict(found, failed)
        return None


class Writer:
    """Reads and writes the entries of one coordination store.

    Args:
        store: Where they are.
        layout: Where there.
        clock: Measures the deadline.
        deadline: Seconds after which a write gives up.

    Attributes:
        sees_all: Whether a read sees every commit that was acknowledged before it.
        memory: The store, if it is one in memory, which always answers.
    """

    __slots__ = (
        "_free",
        "_id",
        "_marks",
        "_marks_ttl_s",
        "_number",
        "clock",
        "deadline",
        "layout",
        "memory",
        "sees_all",
        "store",
    )

    def __init__(self, store: KeyValueStore, layout: Layout, clock: Clock, deadline: float) -> None:
        self.store: KeyValueStore = store
        self.layout: Layout = layout
        self.clock: Clock = clock
        self.deadline: float = deadline
        self.sees_all: bool = store.supports(Capability.LINEARIZABLE_READS)
        self.memory: MemoryStore | None = _plain_memory(store)
        self._id = secrets.token_bytes(8)
        self._number = 0
        self._marks = 0
        self._marks_ttl_s = max(_MARK_TTL_S, 2 * deadline)
        self._free: list[str] = []

    def label(self) -> bytes:
        """Return a label that no other operation of any writer has."""
        self._number = number = self._number + 1
        return b"\x01" + self._id + (number & _MAX_NUMBER).to_bytes(4, "big")

    async def read(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None.

        Raises:
            UnavailableError: The store stayed out of reach until the deadline.
        """
        try:
            return await self.store.get(key)
        except UnavailableError:
            return await until_available(lambda: self.store.get(key), clock=self.clock, deadline=self.deadline)

    async def commit(self, steps: list[Step]) -> int:
        """Commit *steps* with a mark; return the revision, and raise as ``Attempt.commit`` does."""
        if self.memory is not None:
            return (await self.memory.commit(steps)).revision
        mark = self._free.pop() if self._free else self._new_mark()
        label = self.label()
        attempt = Attempt(self, [*steps, Step(mark, Put(label, self._marks_ttl_s))], mark, label)
        try:
            revision = await attempt.commit()
        except ConflictError:
            self._free.append(mark)
            raise
        # After any other error the commit may still arrive; the mark of another one must not be overwritten by it.
        self._free.append(mark)
        return revision

    def _new_mark(self) -> str:
        self._marks += 1
        return self.layout.mark(self._id.hex(), self._marks)

    async def write(
        self, key: str, plan: Callable[[Entry | None], Operation | None], guard: Guard | None = None
    ) -> Written:
        """Do what *plan* says of the current entry, which is planned anew when others write first.

        Args:
            key: What is written.
            plan: Says what is to be done with the entry, or with its absence; None: nothing.
            guard: What the commit depends on.

        Raises:
            LeaseLostError: What *guard* expects is no longer so; nothing was changed.
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether the change was made.
        """
        entry = await self.read(key)
        patience: Patience | None = None
        while True:
            op = plan(entry)
            if op is None:
                return Written(entry, 0)
            expect = ABSENT if entry is None else entry.revision
            expected = () if guard is None else guard.expectations()
            try:
                return Written(entry, await self.commit([Step(key, op, expect), *expected]))
            except ConflictError as exc:
                if any(step.key in exc.keys for step in expected):
                    raise LeaseLostError(
                        "the lock of this write is held no longer, so nothing was written; stop the work that it "
                        "protected"
                    ) from exc
                if patience is None:
                    patience = Patience(self)
                await patience.pause(exc)
                entry = exc.entries.get(key)


def _plain_memory(store: KeyValueStore) -> MemoryStore | None:
    if store.engine == "memory":
        from reactstate.kv.memory import MemoryStore

        if type(store) is MemoryStore:
            return store
    return None


class Patience:
    """The pauses between attempts that were refused because others wrote first.

    Args:
        writer: Whose attempts these are.
    """

    __slots__ = ("_end", "_refused", "_writer")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._end = writer.clock.monotonic() + writer.deadline
        self._refused = 0

    async def pause(self, cause: ConflictError) -> None:
        """Return when the next attempt is to be made.

        Raises:
            ContentionError: The deadline has passed.
        """
        self._refused += 1
        pause = 0.0
        if self._refused > _AT_ONCE:
            most = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._refused - _AT_ONCE, 10))
            pause = random.random() * most  # noqa: S311 - not for secrets
        clock = self._writer.clock
        if clock.monotonic() + pause >= self._end:
            raise ContentionError(
                f"others kept writing to this entry for {self._writer.deadline:g} s; nothing was changed, try again"
            ) from cause
        await (clock.sleep(pause) if pause else asyncio.sleep(0))
