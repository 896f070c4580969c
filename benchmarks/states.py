"""The states of models.py as reactstate has them."""

from __future__ import annotations

from models import PROFILE, items

from reactstate import Map, State

__all__ = [
    "DictOrder",
    "Item",
    "MapOrder",
    "Profile",
    "dict_order",
    "map_order",
    "profile",
    "set_count",
    "set_quantity",
]


class Profile(State):
    """PROFILE as a state."""

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


class Item(State):
    """One of the items of an order."""

    name: str
    quantity: int
    price: float


class DictOrder(State):
    """A state of many items in a plain dict."""

    owner: str
    items: dict[str, Item]


class MapOrder(State):
    """A state of many items in a persistent map."""

    owner: str
    items: Map[str, Item]


def profile() -> Profile:
    """Return PROFILE as a state."""
    return Profile.model_validate(PROFILE)


def dict_order(size: int) -> DictOrder:
    """Return a state with *size* items in a dict."""
    return DictOrder.model_validate({"owner": "ada", "items": items(size)})


def map_order(size: int) -> MapOrder:
    """Return a state with *size* items in a Map."""
    return MapOrder.model_validate({"owner": "ada", "items": items(size)})


def set_count(draft: Profile, count: int) -> None:
    """Change one field of a profile."""
    draft.count = count


def set_quantity(draft: DictOrder | MapOrder, key: str, quantity: int) -> None:
    """Change one leaf of an order."""
    draft.items[key].quantity = quantity
