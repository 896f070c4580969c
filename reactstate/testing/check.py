"""check_state: what a State class must keep to be stored, tried on examples.

Values are validated again whenever a document is read, so validators must be idempotent: what they made of a value
once, they must make of it again. And a document must be read back as the state that it was written from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from reactstate.errors import CodecError, StateDefinitionError, StateValidationError
from reactstate.state.document import from_document, to_document
from reactstate.state.fieldtypes import kind_of
from reactstate.state.patch import documents_equal
from reactstate.state.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_state"]

S = TypeVar("S", bound=State)

_GENERATED = 50


def check_state(cls: type[S], *examples: S) -> None:
    """Check that the validators of *cls* are idempotent and that its documents are read back as what they were.

    Args:
        cls: The State class.
        *examples: States to try it on. Without any, they are made by hypothesis, where it is installed and knows the
            types of the fields, and of the defaults.

    Raises:
        StateDefinitionError: A field changes when its document is validated again, or cannot be read back; the text
            names the field.
        StateValidationError: There are no examples, and none could be made: give some.
    """
    for state in examples or _made(cls):
        _check(cls, state)


def _check(cls: type[S], state: S) -> None:
    document = to_document(state)
    try:
        back = from_document(cls, document)
    except CodecError as exc:
        where, why = _failure(cls, state, exc)
        raise StateDefinitionError(
            f"{where} cannot be read back from its document: {why}; let its validators take what they return"
        ) from exc
    again = to_document(back)
    if not documents_equal(document, again):
        name = _first_difference(document, again)
        raise StateDefinitionError(
            f"{cls.__name__}.{name} is not idempotent: {document[name]!r:.80} became {again[name]!r:.80} when it was "
            "validated again; make its validators leave alone what they have made once"
        )


def _first_difference(document: dict[str, Any], again: dict[str, Any]) -> str:
    return next(name for name in document if not documents_equal(document[name], again[name]))


def _failure(cls: type[State], state: State, exc: CodecError) -> tuple[str, str]:
    """Name the field that cannot be read back, as far as that is known, and say why."""
    cause = exc.__cause__
    if isinstance(cause, ValidationError):
        first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
        return ".".join([cls.__name__, *map(str, first["loc"])]), first["msg"]
    for name, kind in kind_of(cls).fields.items():
        try:
            kind.decode(kind.encode(state.__dict__[name]))
        except CodecError as error:
            return f"{cls.__name__}.{name}", str(error)
    return cls.__name__, str(exc)


def _made(cls: type[S]) -> Sequence[S]:
    """Return examples of *cls*: from its defaults, and from hypothesis."""
    made: list[S] = []
    problem: Exception | None = None
    try:
        made.append(cls())
    except ValidationError as exc:
        problem = exc
    try:
        made.extend(_generated(cls))
    except ImportError as exc:
        problem = problem or exc
    if not made:
        raise StateValidationError(
            f"no example of {cls.__name__} could be made: give one, as in check_state({cls.__name__}, state)", problem
        )
    return made


def _generated(cls: type[S]) -> list[S]:
    """Return states whose fields hypothesis made up, as far as they are valid together."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import HypothesisException

    from reactstate.testing.strategies import document_values

    made: list[S] = []

    def build(values: dict[str, Any]) -> None:
        try:
            made.append(cls.model_validate(values, by_name=True))
        except ValidationError:
            return  # constraints and validators refuse much of what is made up; what remains is tried

    run = settings(
        max_examples=_GENERATED,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.nested_given],
    )(given(document_values(kind_of(cls)))(build))
    try:
        run()
    except HypothesisException:
        return made  # it does not know one of the types, or found too little
    return made
