"""check_state finds the validators that cannot be lived with."""

from __future__ import annotations

import builtins
import sys
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    HttpUrl,
    JsonValue,
    PlainValidator,
    field_validator,
    model_validator,
)

from reactstate.errors import StateDefinitionError, StateValidationError
from reactstate.state.fieldtypes import register_scalar
from reactstate.state.maps import Map
from reactstate.state.state import State
from reactstate.testing.check import check_state


class Colour(Enum):
    RED = 1


class Inner(BaseModel):
    words: list[str] = []
    again: Inner | None = None


class Fine(State):
    number: int
    text: str = ""
    colour: Colour = Colour.RED
    choice: Literal["a", 1] = "a"
    inner: Inner = Inner()
    table: dict[str, list[float]] = {}
    entries: Map[int, str] = Map()
    tags: set[str] = set()
    fixed: frozenset[int] = frozenset()
    pair: tuple[int, str] = (0, "")
    row: tuple[int, ...] = ()
    anything: JsonValue = None
    perhaps: int | None = None
    positive: int = Field(default=1, gt=0)
    sorted_: Annotated[list[int], AfterValidator(sorted)] = []
    nested: list[Fine] = []

    @field_validator("text")
    @classmethod
    def strip(cls, value: str) -> str:
        return value.strip()


def test_a_class_that_keeps_the_rules_passes() -> None:
    check_state(Fine)
    check_state(Fine, Fine(number=1), Fine(number=2, text=" a "))


def test_a_validator_that_is_not_idempotent_is_found_and_named() -> None:
    class Tenfold(State):
        name: str = ""
        amount: int = 1

        @field_validator("amount")
        @classmethod
        def tenfold(cls, value: int) -> int:
            return value * 10

    with pytest.raises(StateDefinitionError, match=r"Tenfold\.amount is not idempotent: 10 became 100"):
        check_state(Tenfold)

    class Growing(State):
        items: list[int] = []
        count: int = 0

        @model_validator(mode="after")
        def grow(self) -> Self:
            self.count = self.count + len(self.items)
            return self

    check_state(Growing, Growing())
    with pytest.raises(StateDefinitionError, match=r"Growing\.count is not idempotent"):
        check_state(Growing)


def test_a_validator_that_refuses_its_own_result_is_found_and_named() -> None:
    class Parsed(State):
        name: str = ""
        at: Annotated[int, BeforeValidator(lambda text: int(text.removeprefix("#")))] = Field(default="#5")  # type: ignore[assignment]

    with pytest.raises((StateDefinitionError, AttributeError)):
        check_state(Parsed)

    class Short(State):
        name: str = "abc"

        @field_validator("name")
        @classmethod
        def double(cls, value: str) -> str:
            if len(value) > 4:
                raise ValueError("too long")
            return value * 2

    with pytest.raises(
        StateDefinitionError, match=r"Short\.name cannot be read back from its document: Value error, too long; "
    ):
        check_state(Short)

    class Lying(State):
        at: Annotated[datetime, PlainValidator(lambda value: value)] = datetime(2020, 1, 1)
        text: Annotated[Path, PlainValidator(lambda value: Path("x") if isinstance(value, Path) else value)] = Path("y")

    check_state(Lying, Lying())


def test_a_scalar_that_its_reader_refuses_is_found_and_named() -> None:
    class Ticket:
        pass

    tickets = [Ticket()]
    reads: list[str] = []

    def read(text: str) -> Ticket:
        reads.append(text)
        if len(reads) > 1:
            raise LookupError("used")
        return tickets[0]

    register_scalar(Ticket, encode=lambda ticket: "ticket", decode=read)

    class Show(State):
        name: str = ""
        ticket: Ticket

    with pytest.raises(
        StateDefinitionError, match=r"Show\.ticket cannot be read back from its document: 'ticket' is not"
    ):
        check_state(Show, Show(ticket=tickets[0]))


def test_without_hypothesis_the_defaults_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "hypothesis":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "reactstate.testing.strategies", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)

    class Needed(State):
        name: str

    class Tenfold(State):
        amount: Annotated[int, AfterValidator(lambda value: value * 10)] = 1

    with pytest.raises(StateValidationError, match=r"check_state\(Needed, state\)"):
        check_state(Needed)
    check_state(Needed, Needed(name="a"))
    with pytest.raises(StateDefinitionError, match=r"Tenfold\.amount"):
        check_state(Tenfold)


def test_a_type_that_hypothesis_does_not_know_needs_an_example() -> None:
    class Link(State):
        url: HttpUrl

    with pytest.raises(StateValidationError, match="no example of Link could be made"):
        check_state(Link)
    check_state(Link, Link(url=HttpUrl("http://a.b")))
