"""Acquisition: how a lock is acquired whose first commit failed or was not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactstate.errors import UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.errors import ReactStateError
    from reactstate.kv.protocol import Step
    from reactstate.locks.owner import Owner, Span

__all__ = ["Acquisition"]


class Acquisition:
    """The rest of an acquisition.

    Args:
        locks: Acquires.
        steps: The commit.
        value: What it writes as the lease, which names the owner.
        ms: How long the lease is.
        span: The lease as it began with the first commit.
        error: What that one raised.

    Attributes:
        span: The lease as it began with the commit that was applied, or the first that may have been.
    """

    __slots__ = ("_error", "_locks", "_ms", "_steps", "_unsure", "_value", "span")

    def __init__(
        self, locks: Owner, steps: Sequence[Step], value: bytes, ms: int, span: Span, error: ReactStateError
    ) -> None:
        self._locks = locks
        self._steps = steps
        self._value = value
        self._ms = ms
        self._error: ReactStateError | None = error
        self._unsure = isinstance(error, UnknownOutcomeError)
        self.span: Span = span

    async def attempt(self) -> int:
        """Commit; at first, say what became of the first one."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if not self._unsure:  # of several that may have been applied, the first counts
            self.span = self._locks._begin(self._ms)
        try:
            return (await self._locks.store.commit(self._steps)).revision
        except UnknownOutcomeError:
            self._unsure = True
            raise

    async def applied(self) -> int | None:
        """Return the revision of the commit if it was applied."""
        found = await self._locks.store.get(self._steps[0].key)
        return found.revision if found is not None and found.value == self._value else None
