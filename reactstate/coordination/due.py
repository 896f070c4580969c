"""Indexes of what becomes due: timeouts, and chains whose next step becomes ready.

Contract
    An item is in an index at one place, that of its time to the millisecond, so what is due is one range. Moving,
    claiming, completing and removing an item is one commit each.

    A claim moves its item to the end of the lease, and so out of the range of what is due: the item is handed out
    once a lease, whoever polls, and comes back by itself. Its token is the revision of that commit; what is done by
    token is refused once the item was claimed by another, moved or removed, even if the holder has not noticed.

Polling
    A poller that meets no other takes the oldest first. One whose commit is refused because others were faster goes
    on at a random place of the due range, the wider the more often that happens, and does not try the same item again.
    Tasks of one coordination store never try for the same item at a time.

Caveats
    Whether something is due, and when a lease ends, is judged by the caller's clock; the token holds whatever clocks
    say.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from reactstate.coordination.results import Claim
from reactstate.coordination.writing import Patience
from reactstate.errors import ConflictError, DecodeError, LeaseLostError, ReactStateError
from reactstate.kv.keys import StateKey
from reactstate.kv.protocol import ABSENT, Delete, Put, Step
from reactstate.kv.retry import until_available
from reactstate.locks.guard import is_same_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.coordination.results import DueKind
    from reactstate.coordination.writing import Writer
    from reactstate.kv.protocol import Entry, Expectation

__all__ = ["DueIndex"]

_MOST_AT_ONCE: Final = 64
"""The most items that are claimed in one commit."""
_STEPS_EACH: Final = 3
_MOST_CROWDED: Final = 6
_WIDEST_PAGE: Final = 2048
_SMALLEST_PAGE: Final = 16
_AFTER: Final = "\0"


class _Item:
    """What is kept of an item: the same under its place and its pointer."""

    __slots__ = ("due_ms", "place_ms", "step")

    def __init__(self, place_ms: int, due_ms: int, step: str | None) -> None:
        self.place_ms: int = place_ms
        self.due_ms: int = due_ms
        self.step: str | None = step

    def encode(self) -> bytes:
        return f"{self.place_ms}/{self.due_ms}{'' if self.step is None else '/' + self.step}".encode()

    @classmethod
    def decode(cls, entry: Entry) -> _Item:
        try:
            place, due, *step = entry.value.decode().split("/", 2)
            return cls(int(place), int(due), step[0] if step else None)
        except ValueError as exc:
            raise DecodeError(f"what is stored under {entry.key!r} is no indexed item; it was left as it is") from exc


class DueIndex:
    """One index of one coordination store.

    Args:
        writer: Reads and commits.
        kind: Which one.
    """

    __slots__ = ("_at_once", "_claiming", "_crowded", "_kind", "_layout", "_looking", "_next", "_prefix", "_writer")

    def __init__(self, writer: Writer, kind: DueKind) -> None:
        self._writer = writer
        self._layout = writer.layout
        self._kind: DueKind = kind
        self._prefix = writer.layout.due(kind)
        self._at_once = max(1, min(_MOST_AT_ONCE, (writer.store.limits.max_steps - 1) // _STEPS_EACH))
        # The places that tasks of this store are claiming just now, and where the next of them goes on looking.
        self._claiming: set[str] = set()
        self._next = self._prefix
        self._looking = asyncio.Lock()
        # How often others were faster of late; 0: nobody was.
        self._crowded = 0

    # --- one item -------------------------------------------------------------------------------------------------

    def pointer(self, text: str) -> str:
        """Return where it is kept at which place an item is."""
        return self._layout.pointer(self._kind, text)

    async def index(self, text: str, due_ms: int, step: str | None) -> None:
        """Put the item at *due_ms*, in place of where it was; a claim of it ends.

        Raises:
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was indexed.
        """
        await self._move(text, _Item(due_ms, due_ms, step))

    async def remove(self, text: str) -> bool:
        """Take the item out of the index; say whether it was there. It raises as ``index`` does."""
        return await self._move(text, None)

    async def _move(self, text: str, item: _Item | None) -> bool:
        pointer = self.pointer(text)
        entry = await self._writer.read(pointer)
        patience = Patience(self._writer)
        while True:
            if entry is None and item is None:
                return False
            try:
                await self._writer.commit(self._moving(text, pointer, entry, item))
            except ConflictError as exc:
                await patience.pause(exc)
                entry = exc.entries.get(pointer)
            else:
                return entry is not None

    def _moving(self, text: str, pointer: str, entry: Entry | None, item: _Item | None) -> list[Step]:
        """Return the steps that bring the item from where *entry* says to where *item* says."""
        expect: Expectation = ABSENT if entry is None else entry.revision
        steps: list[Step] = []
        place = None if item is None else self._layout.place(self._kind, item.place_ms, text)
        if entry is not None:
            before = self._layout.place(self._kind, _Item.decode(entry).place_ms, text)
            if before != place:
                steps.append(Step(before, Delete()))
        if item is None or place is None:
            steps.append(Step(pointer, Delete(), expect))
        else:
            value = Put(item.encode())
            steps += (Step(pointer, value, expect), Step(place, value))
        return steps

    # --- what is due ----------------------------------------------------------------------------------------------

    async def due(self, now_ms: int, limit: int | None) -> list[StateKey]:
        """Return what is due and not claimed, in the order of time."""
        end, clock, deadline = self._end(now_ms), self._writer.clock, self._writer.deadline
        found = await until_available(lambda: self._read(self._prefix, end, limit), clock=clock, deadline=deadline)
        return [StateKey.parse(self._layout.item(self._kind, entry.key)) for entry in found]

    def _end(self, now_ms: int) -> str:
        """Return the first place that is not due."""
        return self._layout.place(self._kind, now_ms + 1, "")

    async def _read(self, start: str, end: str, limit: int | None) -> list[Entry]:
        return [entry async for entry in self._writer.store.scan(self._prefix, start=start, end=end, limit=limit)]

    # --- claims ---------------------------------------------------------------------------------------------------

    async def claim(self, limit: int, lease_ms: int, now_ms: int) -> list[Claim]:
        """Claim up to *limit* due items until *lease_ms* after *now_ms*; see the module.

        Raises:
            UnavailableError: The store stayed out of reach until the deadline, and nothing was claimed.
            UnknownOutcomeError: It is not known whether some were claimed; these come back when the lease has ended.
        """
        claims: list[Claim] = []
        lost: set[str] = set()
        wanted = 0

        async def reserve() -> list[Entry]:
            async with self._looking:
                found = await self._candidates(now_ms, wanted, lost)
                if found:
                    self._claiming.update(entry.key for entry in found)
                    self._next = found[-1].key + _AFTER
                return found

        while len(claims) < limit:
            wanted = min(limit - len(claims), self._at_once)
            found = await until_available(reserve, clock=self._writer.clock, deadline=self._writer.deadline)
            if not found:
                break
            try:
                taken = await self._take(found, now_ms + lease_ms, lost)
            except ReactStateError:
                if claims:
                    return claims  # the caller must learn of these; the next call meets the trouble again
                raise
            finally:
                self._claiming.difference_update(entry.key for entry in found)
            if len(taken) < len(found):
                self._crowded = min(_MOST_CROWDED, self._crowded + 2)
            elif self._crowded:
                self._crowded -= 1
            claims += taken
        claims.sort(key=_by_time)
        return claims

    async def _candidates(self, now_ms: int, wanted: int, lost: set[str]) -> list[Entry]:
        """Return up to *wanted* due items that nobody here is claiming: the oldest, or, in a crowd, random ones."""
        end = self._end(now_ms)
        if not self._crowded:
            start = self._next if self._claiming else self._prefix
            return await self._around(start, end, wanted, lost)
        oldest = await self._read(self._prefix, end, 1)
        if not oldest:
            return []
        # A time at random, and then, as many may have one time, a run at random of what is there.
        first_ms = self._layout.time_of(self._kind, oldest[0].key)
        start = self._layout.place(self._kind, random.randint(first_ms, now_ms), "")  # noqa: S311 - not for secrets
        width = min(_WIDEST_PAGE, wanted << self._crowded)
        found = await self._around(start, end, width, lost)
        if len(found) <= wanted:
            return found
        offset = random.randrange(len(found))  # noqa: S311 - as above
        return (found[offset:] + found[:offset])[:wanted]

    async def _around(self, start: str, end: str, wanted: int, lost: set[str]) -> list[Entry]:
        """Return up to *wanted* items that nobody here is claiming, from *start* on, and then from the oldest on."""
        found = await self._free(start, end, wanted, lost)
        if len(found) < wanted and start > self._prefix:
            found += await self._free(self._prefix, min(start, end), wanted - len(found), lost)
        return found

    async def _free(self, start: str, end: str, wanted: int, lost: set[str]) -> list[Entry]:
        free: list[Entry] = []
        while len(free) < wanted:
            asked = max(wanted - len(free), _SMALLEST_PAGE)
            found = await self._read(start, end, asked)
            free += [entry for entry in found if entry.key not in self._claiming and entry.key not in lost]
            if len(found) < asked:
                break
            start = found[-1].key + _AFTER
        return free[:wanted]

    async def _take(self, entries: Sequence[Entry], until_ms: int, lost: set[str]) -> list[Claim]:
        """Claim those of *entries* that are still as they were; the others are *lost*."""
        left = list(entries)
        while left:
            steps: list[Step] = []
            items: list[tuple[str, _Item, str]] = []
            for entry in left:
                text = self._layout.item(self._kind, entry.key)
                before = _Item.decode(entry)
                place = self._layout.place(self._kind, until_ms, text)
                value = Put(_Item(until_ms, before.due_ms, before.step).encode())
                steps += (
                    Step(entry.key, Delete(), entry.revision),
                    Step(place, value),
                    Step(self.pointer(text), value),
                )
                items.append((text, before, place))
            try:
                token = await self._writer.commit(steps)
            except ConflictError as exc:
                moved = {entry.key for entry in left}
                failed = moved.intersection(exc.keys) or moved
                lost |= failed
                left = [entry for entry in left if entry.key not in failed]
                continue
            return [
                Claim(
                    self._writer.store,
                    self._kind,
                    StateKey.parse(text),
                    item.step,
                    token,
                    item.due_ms,
                    until_ms,
                    place,
                )
                for text, item, place in items
            ]
        return []

    def made(self, claim: Claim) -> bool:
        """Say whether *claim* is of this index, as far as store and namespace go."""
        return is_same_store(claim.store, self._writer.store) and claim.place.startswith(self._prefix)

    async def settle(self, claim: Claim, item: _Item | None) -> int:
        """Bring a claimed item to where *item* says, or out of the index; return the revision.

        Raises:
            LeaseLostError: The item was claimed by another, moved or removed since.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether it was done.
        """
        text = self._layout.text(claim.key)
        pointer = self.pointer(text)
        steps: list[Step]
        if item is None:
            steps = [Step(claim.place, Delete(), claim.token), Step(pointer, Delete())]
        else:
            value = Put(item.encode())
            place = self._layout.place(self._kind, item.place_ms, text)
            steps = [Step(pointer, value)]
            if place == claim.place:
                steps.append(Step(place, value, claim.token))
            else:
                steps += (Step(claim.place, Delete(), claim.token), Step(place, value))
        try:
            return await self._writer.commit(steps)
        except ConflictError as exc:
            raise LeaseLostError(
                f"the {self._kind} {claim.key} was claimed by another, moved or removed since, so nothing was changed; "
                "leave it to who has it now"
            ) from exc

    async def complete(self, claim: Claim, next_ms: int | None, step: str | None) -> None:
        """Take a claimed item out of the index, or bring it to its next time; it raises as ``settle`` does."""
        await self.settle(claim, None if next_ms is None else _Item(next_ms, next_ms, step))

    async def release(self, claim: Claim) -> None:
        """Give a claimed item back, so that it is due at once; it raises as ``settle`` does."""
        await self.settle(claim, _Item(claim.due_ms, claim.due_ms, claim.step))

    async def extend(self, claim: Claim, until_ms: int) -> Claim:
        """Make the lease end at *until_ms*; return the new claim. It raises as ``settle`` does."""
        token = await self.settle(claim, _Item(until_ms, claim.due_ms, claim.step))
        place = self._layout.place(self._kind, until_ms, self._layout.text(claim.key))
        return Claim(claim.store, claim.kind, claim.key, claim.step, token, claim.due_ms, until_ms, place)


def _by_time(claim: Claim) -> int:
    return claim.due_ms
