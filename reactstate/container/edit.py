"""edit: a draft that lives as long as a block, committed at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from reactstate.errors import WrongContextError
from reactstate.state.produce import OpenDraft
from reactstate.state.state import State
from reactstate.state.timeline import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from reactstate.container.container import StateContainer
    from reactstate.state.timeline import Timeline

__all__ = ["Edit"]

S = TypeVar("S", bound=State)


class Edit(Generic[S]):
    """``async with container.edit() as draft:`` - see ``StateContainer.edit``."""

    def __init__(
        self, container: StateContainer[S], actor: str | None, action: str | None, tags: Mapping[str, Any] | None
    ) -> None:
        self._container = container
        self._actor = actor
        self._action = action
        self._tags = tags
        self._draft: OpenDraft[S] | None = None
        self._version = 0

    async def __aenter__(self) -> S:
        if self._draft is not None:
            raise WrongContextError("an edit block is entered once; call edit() again")
        container = self._container
        container._check_loop()
        self._version = container.version
        self._draft = OpenDraft(container.state)
        return cast("S", self._draft.draft)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened = self._draft
        if opened is None:
            return
        if error is not None:
            opened.discard()
            return
        state, edits = opened.finish()
        version = self._version

        def plan(timeline: Timeline[S]) -> Plan[S] | None:
            return Plan.update(state, edits) if edits else None

        def check(timeline: Timeline[S]) -> None:
            timeline.expect_version(version)

        await self._container._commit(plan, self._actor, self._action, self._tags, check)
