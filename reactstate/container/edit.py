"""edit: a draft that lives as long as a block, committed at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

from reactstate.errors import WrongContextError
from reactstate.state.change import ChangeType
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
        self, container: StateContainer[S], actor: str | None, action: str | None, tags: Mapping[str, object] | None
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
        current = container.current
        self._version = current.version
        self._draft = OpenDraft(current.state)
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
        container, version = self._container, self._version

        def finish(_: Timeline[S]) -> Plan[S] | None:
            state, edits = opened.finish()
            return Plan(ChangeType.UPDATE, state, edits) if edits else None

        def check(timeline: Timeline[S]) -> None:
            timeline.expect_version(version)

        container._check_call()
        plan = container._plan(finish)  # once, for the draft is closed then, and as guarded as a recipe
        await container._commit(lambda _: plan, self._actor, self._action, self._tags, check)
