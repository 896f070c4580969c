"""What users see of states, drafts and produce, through mypy (with pydantic's plugin) and pyright, both strict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar, assert_type

from pydantic import BaseModel, Field, JsonValue

from reactstate import Map, Produced, State, from_document, migration, produce, states_equal, to_document
from reactstate.errors import TransitionError

T = TypeVar("T")


class Address(BaseModel):
    street: str = ""
    lines: list[str] = []


class Line(State):
    product: str = ""
    pieces: int = 1

    @property
    def label(self) -> str:
        return f"{self.pieces} x {self.product}"


class Cart(State, type_name="shop.cart", schema_version=2):
    owner: str
    status: Literal["open", "paid"] = "open"
    items: dict[str, int] = {}
    lines: list[Line] = []
    tags: set[str] = set()
    stock: Map[str, Line] = Map()
    address: Address = Address()
    gift: Line | None = None
    free: JsonValue = None
    limited: Annotated[int, Field(gt=0)] = 1

    @migration(from_version=1)
    @staticmethod
    def user_becomes_owner(document: dict[str, Any]) -> dict[str, Any]:
        document["owner"] = document.pop("user")
        return document

    def check_transition(self, previous: Cart) -> None:
        if previous.status == "paid":
            raise TransitionError("what was paid stays paid")

    def merge(self, other: Cart) -> Cart:
        return produce(self, lambda draft: draft.items.update(other.items)).state

    def add(self, name: str, n: int = 1) -> None:
        self.items[name] = self.items.get(name, 0) + n


class Box(State, Generic[T]):
    content: T
    others: list[T] = []


class Special(Cart, type_name="shop.special"):
    price: float = 0.0


def recipe(draft: Cart) -> None:
    draft.owner = "ada"
    draft.status = "paid"
    draft.items["apple"] = 2
    draft.items.update(pear=1)
    draft.items.setdefault("plum", 0)
    draft.items["apple"] += 1
    del draft.items["pear"]
    draft.lines.append(Line(product="apple"))
    draft.lines[0].pieces = 3
    draft.lines += [Line()]
    draft.lines.sort(key=lambda line: line.pieces)
    draft.tags.add("new")
    draft.tags |= {"more"}
    draft.stock["a"] = Line(product="a")
    draft.stock["a"].pieces += 1
    draft.stock.update(b=Line())
    draft.stock.pop("b")
    draft.address.street = "Main Street"
    draft.address.lines.append("second floor")
    draft.address = Address()
    draft.gift = Line()
    draft.gift.product = "book"
    draft.free = {"any": ["thing", 1, None]}
    draft.add("fig")
    assert_type(draft.lines[0], Line)
    assert_type(draft.stock["a"], Line)
    assert_type(draft.stock.get("a"), Line | None)
    assert_type(draft.lines[0].label, str)


def add_item(draft: Cart, name: str, n: int) -> None:
    draft.items[name] = n


def whole(draft: Cart) -> Cart:
    return Cart(owner=draft.owner)


def check_produce(cart: Cart) -> None:
    produced = produce(cart, recipe)
    assert_type(produced, Produced[Cart])
    assert_type(produced.state, Cart)
    assert_type(produced.state.lines, list[Line])
    assert_type(produced.patch, list[dict[str, Any]])
    assert_type(produced.inverse, list[dict[str, Any]])
    assert_type(produce(cart, add_item, "pear", 3).state, Cart)
    assert_type(produce(cart, whole).state, Cart)
    assert_type(produce(cart, {"owner": "bob"}).state, Cart)
    assert_type(produce(cart, lambda draft: draft.items.pop("pear")).state, Cart)
    assert_type(produce(cart, lambda draft: draft.lines[0].product.upper()).state, Cart)
    assert_type(produce(cart, Cart.add, "pear", 1).state, Cart)
    assert_type(produce(Box[int](content=1), lambda draft: draft.others.append(draft.content)).state, Box[int])
    assert_type(produce(Special(owner="ada"), lambda draft: draft.items.clear()).state, Special)
    state, patch, inverse = produced
    del state, patch, inverse
    produce(cart, add_item, 3, "pear")  # type: ignore[arg-type]  # the arguments are the recipe's
    produce(cart, lambda draft: draft.nothing)  # type: ignore[attr-defined]  # a draft has the model's fields
    produce(5, recipe)  # type: ignore[type-var, arg-type]  # only states have drafts


def check_documents(cart: Cart) -> None:
    assert_type(to_document(cart), dict[str, Any])
    assert_type(from_document(Cart, {"owner": "ada"}), Cart)
    assert_type(states_equal(cart, Cart(owner="ada")), bool)


def check_map() -> None:
    lines = Map({"a": Line()})
    assert_type(lines, Map[str, Line])
    assert_type(lines["a"], Line)
    assert_type(lines.get("b"), Line | None)
    assert_type(lines.set("b", Line()), Map[str, Line])
    assert_type(lines.delete("a"), Map[str, Line])
    assert_type(lines.merged({"c": Line()}), Map[str, Line])
    keys: Iterator[str] = iter(lines)
    del keys
    lines.set(5, Line())  # type: ignore[arg-type]  # the key is a str


def check_construction() -> None:
    Cart(owner="ada", items={"apple": 1}, stock=Map({"a": Line()}))
    Cart()  # type: ignore[call-arg]  # owner is required
    Cart(owner=5)  # pyright: ignore[reportArgumentType] - a str is declared, which pydantic would refuse at run time
    cart = Cart(owner="ada")
    cart.model_copy(update={"owner": "bob"})
    cart.missing  # type: ignore[attr-defined]  # noqa: B018 - such a field does not exist
