"""A shopping cart that remembers: a typed state, durable updates, undo, and a look back."""

from __future__ import annotations

import asyncio
import tempfile

from reactstate import FilePersistence, State, StateContainer


class Cart(State):
    owner: str
    items: dict[str, int] = {}


def add(draft: Cart, item: str, count: int = 1) -> None:
    """Edit the draft as if it were the cart; the cart itself never changes."""
    draft.items[item] = draft.items.get(item, 0) + count


async def main(directory: str) -> None:
    async with StateContainer.open(Cart(owner="ada"), persistence=FilePersistence(directory)) as cart:
        await cart.update(add, "apple", 2, actor="ada")
        await cart.update(add, "pear", actor="bob")
        print("version", cart.version, dict(cart.state.items))
        await cart.undo(actor="ada")
        print("undone: version", cart.version, dict(cart.state.items))

    # What is stored wins over the initial value, so a type is enough to open it again.
    async with StateContainer.open(Cart, persistence=FilePersistence(directory)) as cart:
        print("opened again: version", cart.version, dict(cart.state.items))
        print("before the undo:", dict((await cart.at(3)).items))
        for change in cart.history:
            print(" ", change.version, change.change_type.name, change.action, "by", change.actor)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
