"""produce: the one way from a state to the next.

Thread safety
    States may be read by any number of threads, and each may run recipes over the same state: every call has a draft
    of its own. A draft itself is for the one thread in which its recipe runs. That another thread uses it meanwhile is
    not noticed, since to ask at every read and assignment would make all recipes slower: what is written there may be
    lost, or may reach the new state after it was published. Give other threads the state, or what they need of it.
    After its recipe a draft is refused in any thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeGuard, TypeVar

from typing_extensions import TypeVarTuple, Unpack

import reactstate.state.sequence  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the drafts
from reactstate.errors import StateValidationError
from reactstate.state.document import check_depth
from reactstate.state.draft import begin, is_draft
from reactstate.state.edits import Edit, invert_edits, render
from reactstate.state.fieldtypes import MODELS, kind_of
from reactstate.state.frozen import type_of
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.state.patch import Patch

__all__ = ["OpenDraft", "Produced", "Recipe", "check_state_value", "edit_between", "produce", "run_recipe"]

S = TypeVar("S", bound=State)
Ts = TypeVarTuple("Ts")

Recipe: TypeAlias = Callable[..., Any] | Mapping[str, Any]
"""A synchronous function of a draft, or a mapping of field names to values."""


class Produced(Generic[S]):
    """The result of ``produce``.

    Attributes:
        state: The new state; the old one itself when nothing changed.
        edits: What changed, as values.
    """

    __slots__ = ("_base", "_inverse", "_patch", "edits", "state")

    def __init__(self, base: S, state: S, edits: list[Edit]) -> None:
        self._base = base
        self.state: S = state
        self.edits: list[Edit] = edits
        self._patch: Patch | None = None
        self._inverse: Patch | None = None

    @property
    def patch(self) -> Patch:
        """The JSON Patch from the old document to the new one; made when it is asked for."""
        if self._patch is None:
            self._patch = render(self.edits, kind_of(type(self.state)), self._base)
        return self._patch

    @property
    def inverse(self) -> Patch:
        """The JSON Patch back."""
        if self._inverse is None:
            self._inverse = render(invert_edits(self.edits), kind_of(type(self.state)), self.state)
        return self._inverse

    def __iter__(self) -> Iterator[Any]:
        """Unpack as ``state, patch, inverse``."""
        return iter((self.state, self.patch, self.inverse))

    def __repr__(self) -> str:
        return f"Produced(state={self.state!r}, patch={self.patch!r})"


def produce(base: S, recipe: Callable[[S, Unpack[Ts]], object] | Mapping[str, Any], *args: *Ts) -> Produced[S]:
    """Return what *recipe* makes of *base*, which stays as it is.

    Args:
        base: The state to start from.
        recipe: A synchronous function that changes its draft and returns None, or leaves it alone and returns a whole
            new state; or a mapping of field names to values. Other return values are ignored.
        *args: Further arguments for the recipe.

    Returns:
        The new state, which shares all parts that were not touched, with the JSON Patch to it and back.

    Raises:
        StateValidationError: A value does not fit, or a validator refused it.
        TransitionError: ``check_transition`` refused the change.
        TypeError: The recipe is asynchronous, or a generator function.

    What the recipe or ``check_transition`` raises otherwise passes on as it is. The draft is for the thread that the
    recipe runs in; see the module.
    """
    state, edits = run_recipe(base, recipe, args)
    return Produced(base, state, edits)


def run_recipe(base: S, recipe: Recipe, args: tuple[Any, ...] = ()) -> tuple[S, list[Edit]]:
    """Run *recipe* over a draft of *base*; return the new state and its edits, or *base* and none."""
    cls = type(base)
    kind = MODELS[cls]
    node = begin(kind, base)
    edits: list[Edit] = []
    try:
        if callable(recipe):
            result = recipe(node.draft, *args) if args else recipe(node.draft)
            if result is not None and result is not node.draft and _is_whole(result, cls):
                if node.dirty:
                    raise StateValidationError("the recipe changed its draft and returned a new state: do one of both")
                return edit_between(base, result)
        else:
            _assign_fields(node.draft, recipe, args)
        state: S = node.finish(None, edits)
    finally:
        node.close()
    if edits and kind.guarded:
        state.check_transition(base)
    return state, edits


class OpenDraft(Generic[S]):
    """A draft that stays open across awaits.

    Attributes:
        draft: The draft, which reads and writes like the state.
    """

    __slots__ = ("_base", "_node", "draft")

    def __init__(self, base: S) -> None:
        self._base = base
        self._node = begin(kind_of(type(base)), base)
        self.draft: Any = self._node.draft

    def finish(self) -> tuple[S, list[Edit]]:
        """Close the draft; return the new state and its edits, or the base and none."""
        edits: list[Edit] = []
        try:
            state: S = self._node.finish(None, edits)
        finally:
            self._node.close()
        if edits and kind_of(type(state)).guarded:
            state.check_transition(self._base)
        return state, edits

    def discard(self) -> None:
        """Close the draft."""
        self._node.close()


def _is_whole(result: Any, cls: type[Any]) -> bool:
    """Say whether a recipe returned a whole new state.

    Raises:
        TypeError: It returned something to await or to iterate over, so that its body has not run.
        StateValidationError: It returned a state of a subclass, which the type does not declare.
    """
    if type_of(result) is cls:
        return True
    if inspect.isawaitable(result) or inspect.isasyncgen(result) or inspect.isgenerator(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("a recipe must be a plain function: await or collect first, then update with what came")
    if isinstance(result, cls) and not is_draft(result):
        raise StateValidationError(f"a {cls.__name__} is needed here, not a {type_of(result).__name__}")
    return False


def _is_mapping(fields: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(fields, Mapping)


def _assign_fields(draft: Any, fields: Any, args: tuple[Any, ...]) -> None:
    if not _is_mapping(fields):
        raise TypeError(f"a recipe is a function of a draft, or a mapping of fields, not a {type_of(fields).__name__}")
    if args:
        raise TypeError("further arguments need a recipe that takes them")
    for name, value in fields.items():
        if name not in type_of(draft).model_fields:
            raise StateValidationError(f"{type(draft).__name__} has no field {name!r}")
        setattr(draft, name, value)


def edit_between(base: S, state: S) -> tuple[S, list[Edit]]:
    """Return *state* and the edits from *base*, or *base* and none when both are equal.

    Raises:
        TransitionError: ``check_transition`` refused the change.
        StateValidationError: *state* is nested too deeply.
    """
    kind = kind_of(type(base))
    edits: list[Edit] = []
    check_depth(kind, state)
    kind.diff(base, state, None, edits)
    if not edits:
        return base, edits
    if kind.guarded:
        state.check_transition(base)
    return state, edits


def check_state_value(cls: type[S], state: Any) -> S:
    """Return *state* if it is a whole state of exactly the type *cls*.

    Raises:
        StateValidationError: It is not.
    """
    if type_of(state) is not cls:
        raise StateValidationError(f"a {cls.__name__} is needed here, not a {type_of(state).__name__}")
    whole: S = state
    check_depth(kind_of(cls), whole)
    return whole
