"""A keyed container under attack."""

from __future__ import annotations

import pytest

from reactstate import ConflictError, KeyedContainer, State


class Item(State):
    id: str
    n: int = 0


async def test_a_version_of_any_size_is_compared_and_not_printed():
    async with KeyedContainer.open(Item) as items:
        await items.put(Item(id="x"))
        with pytest.raises(ConflictError, match="bits"):
            await items.update("x", {"n": 1}, expected_version=10**5000)
        assert not await items.compare_and_swap("x", 10**5000, {"n": 1})
