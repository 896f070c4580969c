"""What the floors and the peers share: the same state as plain data and as pydantic models, and a commit by hand."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle
from time import time_ns
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import SchemaValidator

__all__ = [
    "PROFILE",
    "Commits",
    "Item",
    "Order",
    "Profile",
    "Tally",
    "all_keys",
    "assigned",
    "few_keys",
    "field_validator",
    "items",
    "replaced",
]

M = TypeVar("M", bound=BaseModel)

PROFILE: dict[str, Any] = {
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "country": "GB",
    "age": 36,
    "count": 0,
    "score": 0.5,
    "active": True,
    "note": None,
    "tags": ["first", "second"],
    "limits": {"day": 10, "week": 50},
}
"""The state of ten fields; ``count`` is the one that updates change."""


class Profile(BaseModel):
    """PROFILE as a pydantic model."""

    name: str
    email: str
    country: str
    age: int
    count: int
    score: float
    active: bool
    note: str | None
    tags: list[str]
    limits: dict[str, int]


class Item(BaseModel):
    """One of the items of an order."""

    name: str
    quantity: int
    price: float


class Order(BaseModel):
    """A state of many items."""

    owner: str
    items: dict[str, Item]


def items(size: int) -> dict[str, dict[str, Any]]:
    """Return *size* items as plain data, by key."""
    return {f"item-{n}": {"name": f"name {n}", "quantity": 0, "price": n / 2} for n in range(size)}


def few_keys(size: int) -> Iterator[str]:
    """Return an endless iterator over the same ten keys of ``items(size)``, spread over all of them.

    They stay in the processor's cache at every size, so that sizes differ in work only.
    """
    return cycle([f"item-{n * size // 10}" for n in range(10)])


def all_keys(size: int) -> Iterator[str]:
    """Return an endless iterator over all keys of ``items(size)``, in a shuffled order that is the same each time."""
    order = [f"item-{n}" for n in range(size)]
    random.Random(size).shuffle(order)
    return cycle(order)


def field_validator(cls: type[BaseModel]) -> SchemaValidator:
    """Return a validator of single fields of *cls*."""
    schema: Any = cls.__pydantic_core_schema__
    return SchemaValidator(schema["schema"])


def _with_fields(model: M, fields: dict[str, Any]) -> M:
    new = object.__new__(type(model))
    object.__setattr__(new, "__dict__", fields)
    object.__setattr__(new, "__pydantic_fields_set__", model.__pydantic_fields_set__)
    object.__setattr__(new, "__pydantic_extra__", None)
    object.__setattr__(new, "__pydantic_private__", None)
    return new


def assigned(model: M, validator: SchemaValidator, name: str, value: object) -> M:
    """Return a copy of *model* with the validated *value* in its field *name*: the least that an honest update does."""
    fields: dict[str, Any] = validator.validate_assignment(model.__dict__, name, value)[0]  # type: ignore[index]
    return _with_fields(model, fields)


def replaced(model: M, name: str, value: object) -> M:
    """Return a copy of *model* with *value*, which is known to be valid, in its field *name*."""
    return _with_fields(model, {**model.__dict__, name: value})


class Change(Generic[M]):
    """One record of a history."""

    __slots__ = ("new", "old", "timestamp_ns", "version")

    def __init__(self, version: int, old: M, new: M, timestamp_ns: int) -> None:
        self.version = version
        self.old = old
        self.new = new
        self.timestamp_ns = timestamp_ns


class Commits(Generic[M]):
    """A current state, its version, a history of the newest *keep* changes, and a tuple of subscribers."""

    __slots__ = ("history", "state", "subscribers", "version")

    def __init__(self, state: M, *subscribers: Callable[[Change[M]], object], keep: int = 1000) -> None:
        self.state = state
        self.version = 1
        self.history: deque[Change[M]] = deque(maxlen=keep)
        self.subscribers = subscribers

    def commit(self, new: M) -> None:
        """Make *new* the current state."""
        self.version += 1
        change = Change(self.version, self.state, new, time_ns())
        self.state = new
        self.history.append(change)
        for subscriber in self.subscribers:
            subscriber(change)


class Tally:
    """A subscriber that counts; ``hear`` is a plain function, which every library calls the fastest way it knows."""

    def __init__(self) -> None:
        self.count = 0

        def hear(*_: object) -> None:
            self.count += 1

        self.hear = hear
