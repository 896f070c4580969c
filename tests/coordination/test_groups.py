from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import ClosedError, InvalidKeyError


async def members(store, group, prefix=""):
    return [member async for member in store.group_members(group, prefix)]


async def test_members_are_added_once_and_come_in_order(here, there, key):
    for member in ("bob", "ada", "a/b", "a%", "ä"):
        assert await here.add_to_group(key(), member) is True
        assert await there.add_to_group(key(), member) is False
    assert await members(there, key()) == ["a%", "a/b", "ada", "bob", "ä"]
    assert await members(there, key(), "a") == ["a%", "a/b", "ada"]
    assert await members(there, key(), "a/") == ["a/b"]
    assert await there.remove_from_group(key(), "a/b") is True
    assert await here.remove_from_group(key(), "a/b") is False
    assert await here.add_to_group(key(), "a/b") is True


async def test_groups_are_apart_also_from_keys(here, key):
    await here.add_to_group(key("1"), "ada")
    await here.set(key("1"), "text")
    assert await members(here, key("11")) == []
    assert await members(here, key("1", "orders")) == []
    assert (await here.get(key("1"))).value == "text"
    assert await here.delete(key("1"))
    assert await members(here, key("1")) == ["ada"]


async def test_a_membership_may_lapse(here, key, clock):
    await here.add_to_group(key(), "ada", 5)
    clock.advance(4)
    assert not await here.add_to_group(key(), "ada", 100)
    clock.advance(1)
    assert await members(here, key()) == []
    assert await here.add_to_group(key(), "ada")


async def test_of_many_at_once_one_adds_and_one_removes(here, there, key):
    both = (here, there)
    assert sum(await asyncio.gather(*(one.add_to_group(key(), "ada") for one in both for _ in range(5)))) == 1
    assert sum(await asyncio.gather(*(one.remove_from_group(key(), "ada") for one in both for _ in range(5)))) == 1


async def test_wrong_arguments_are_refused(here, key):
    for call, error in (
        (lambda: here.add_to_group(key(), ""), InvalidKeyError),
        (lambda: here.add_to_group(key(), 5), InvalidKeyError),
        (lambda: here.add_to_group("group", "ada"), InvalidKeyError),
        (lambda: here.add_to_group(key(), "ada", 0), ValueError),
        (lambda: here.remove_from_group(key(), ""), InvalidKeyError),
    ):
        with pytest.raises(error):
            await call()
    with pytest.raises(InvalidKeyError):
        here.group_members("group")
    with pytest.raises(InvalidKeyError):
        here.group_members(key(), 5)
    assert await members(here, key()) == []
    await here.aclose()
    with pytest.raises(ClosedError):
        here.group_members(key())
