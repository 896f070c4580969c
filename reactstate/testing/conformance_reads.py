# ruff: noqa: D102, S101 - a test's name says what it proves, and assertions are what it is made of
"""The reads of a store: get, get_many, scan, list_keys."""

from __future__ import annotations

import asyncio

import pytest

from reactstate.errors import InvalidKeyError
from reactstate.kv.keys import StateKey
from reactstate.kv.protocol import Capability, Entry, Put, Step
from reactstate.testing.suite import StoreLab, StoreSuite, collect, promise

__all__ = ["AWKWARD_KEYS", "ReadPromises"]

AWKWARD_KEYS = (
    "\0",
    "\0\0",
    " ",
    "%",
    "%%",
    "%25",
    "*",
    "/",
    "//",
    "/a",
    ":",
    "?",
    "A",
    "[",
    "[a]",
    "\\",
    "\\%",
    "\\_",
    "]",
    "^",
    "_",
    "__",
    "a",
    "a\0b",
    "a b",
    "a%",
    "a%b",
    "a*b",
    "a/",
    "a/b",
    "a/b/c",
    "a:b",
    "a?b",
    "a[b]c",
    "a_b",
    "aXb",
    "ab",
    "a\n",
    "a'b",
    'a"b',
    "a;b",
    "{a}",
    "~",
    "\x7f",
    "é",
    "e\u0301",
    "ÿ",
    "日本",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "🙂",
    "\U0010fffd",
    "\U0010ffff",
    "\U0010ffff\U0010ffff",
)
"""Keys that engines get wrong: signs of patterns, separators, NUL, and both sides of each border in UTF-8 order."""

_PREFIXES = (*AWKWARD_KEYS, "", "a", "a%", "a_", "a[", "x", "\ud7ff", "\U0010ffff", "~~")


async def _fill(lab: StoreLab) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for key in sorted(AWKWARD_KEYS, reverse=True):
        entries[key] = await lab.store.put(key, key.encode() * 2)
    return dict(sorted(entries.items(), key=lambda item: item[0].encode()))


class ReadPromises(StoreSuite):
    """What a read may be relied on for."""

    @promise()
    async def test_an_absent_key_reads_as_none(self, lab: StoreLab) -> None:
        assert await lab.store.get("nobody") is None
        assert await lab.store.get_many(["nobody", "nothing"]) == {}
        assert await lab.store.get_many([]) == {}
        assert await collect(lab.store.scan()) == []
        assert await lab.store.list_keys() == []

    @promise()
    async def test_what_was_put_is_read_back_to_the_byte(self, lab: StoreLab) -> None:
        for value in (b"", b"\0", bytes(range(256)), b"1", b"x" * 10_000, "text".encode("utf-16")):
            put = await lab.store.put("k", value)
            assert (put.key, put.value, put.expires_at) == ("k", value, None)
            assert await lab.store.get("k") == put
            assert await lab.store.get_many(["k"]) == {"k": put}
            assert await collect(lab.store.scan()) == [put]

    @promise()
    async def test_keys_of_every_kind_are_kept_apart(self, lab: StoreLab) -> None:
        entries = await _fill(lab)
        for key, entry in entries.items():
            assert await lab.store.get(key) == entry
            assert entry.value == key.encode() * 2
        assert await lab.store.get_many(list(entries)) == entries
        similar = {f"{key}{sign}" for key in entries for sign in ("\0", " ", "/", "%", "\u0301")}
        similar |= {key.upper() for key in entries} | {key.lower() for key in entries} | {f"\0{key}" for key in entries}
        absent = sorted(similar - entries.keys())
        assert await lab.store.get_many(absent) == {}
        for key in absent:
            assert await lab.store.get(key) is None, f"{key!r} is another key"

    @promise()
    async def test_get_many_gives_what_there_is_in_the_order_asked_for(self, lab: StoreLab) -> None:
        for key in ("b", "a", "c"):
            await lab.store.put(key, key.encode())
        found = await lab.store.get_many(["c", "x", "a", "c"])
        assert list(found) == ["c", "a"]
        assert found["a"].value == b"a"

    @promise()
    async def test_a_scan_is_in_the_order_of_utf8_bytes(self, lab: StoreLab) -> None:
        entries = await _fill(lab)
        assert await collect(lab.store.scan()) == list(entries.values())
        assert await collect(lab.store.scan(reverse=True)) == list(entries.values())[::-1]
        assert await lab.store.list_keys() == list(entries)

    @promise()
    async def test_a_prefix_matches_itself_and_nothing_else(self, lab: StoreLab) -> None:
        entries = await _fill(lab)
        for prefix in _PREFIXES:
            expected = [entry for key, entry in entries.items() if key.startswith(prefix)]
            assert await collect(lab.store.scan(prefix)) == expected, f"prefix {prefix!r}"
            assert await collect(lab.store.scan(prefix, reverse=True)) == expected[::-1], f"prefix {prefix!r}"
            assert await lab.store.list_keys(prefix) == [entry.key for entry in expected]

    @promise()
    async def test_start_and_end_are_a_half_open_range_also_within_a_prefix(self, lab: StoreLab) -> None:
        entries = await _fill(lab)
        bounds = (None, "", "a", "a/", "a/b", "a\0", "é", "\ue000", "\U00010000", "\U0010ffff", "zz", "\0")
        for prefix in ("", "a", "\U0010ffff"):
            for start in bounds:
                for end in bounds:
                    expected = [
                        entry
                        for key, entry in entries.items()
                        if key.startswith(prefix) and (start is None or key >= start) and (end is None or key < end)
                    ]
                    found = await collect(lab.store.scan(prefix, start=start, end=end))
                    assert found == expected, f"prefix {prefix!r}, start {start!r}, end {end!r}"
                    found = await collect(lab.store.scan(prefix, start=start, end=end, reverse=True))
                    assert found == expected[::-1], f"prefix {prefix!r}, start {start!r}, end {end!r}, reverse"

    @promise()
    async def test_a_limit_takes_the_first_of_the_order(self, lab: StoreLab) -> None:
        entries = list((await _fill(lab)).values())
        inside = [entry for entry in entries if entry.key.startswith("a")]
        for limit in (0, 1, 2, len(inside), len(entries), len(entries) + 1):
            assert await collect(lab.store.scan(limit=limit)) == entries[:limit]
            assert await collect(lab.store.scan(limit=limit, reverse=True)) == entries[::-1][:limit]
            assert await collect(lab.store.scan("a", limit=limit)) == inside[:limit]
            assert await collect(lab.store.scan("a", limit=limit, reverse=True)) == inside[::-1][:limit]
            assert await lab.store.list_keys("a", limit=limit) == [entry.key for entry in inside[:limit]]
        assert (
            await collect(lab.store.scan("a", start="a/", end="a:", limit=1, reverse=True))
            == [entry for entry in inside if entry.key < "a:"][-1:]
        )

    @promise()
    async def test_a_scan_gives_each_entry_that_was_there_all_the_time_once(self, lab: StoreLab) -> None:
        keys = [f"k{number:04d}" for number in range(1500)]
        await _put_all(lab, keys)
        seen: list[str] = []
        async for entry in lab.store.scan("k"):
            seen.append(entry.key)
            if len(seen) % 100 == 0:
                await lab.store.put(f"{entry.key}+", b"")  # behind the place, and in front of the rest
                await lab.store.put("a", b"")
                await lab.store.delete("k1499+")
                await lab.store.put("k1499+", b"")
        assert [key for key in seen if not key.endswith("+")] == keys
        assert len(set(seen)) == len(seen)

    @promise()
    async def test_a_scan_goes_on_when_what_it_stands_on_is_removed(self, lab: StoreLab) -> None:
        keys = [f"k{number:04d}" for number in range(1200)]
        await _put_all(lab, keys)
        for reverse in (False, True):
            order = keys[::-1] if reverse else keys
            seen: list[str] = []
            async for entry in lab.store.scan("k", reverse=reverse):
                seen.append(entry.key)
                await lab.store.delete(entry.key)
            assert seen == order
            assert await lab.store.list_keys("k") == []
            await _put_all(lab, keys)

    @promise()
    async def test_a_scan_can_be_left_at_any_time_and_run_beside_others(self, lab: StoreLab) -> None:
        keys = [f"k{number:04d}" for number in range(1100)]
        await _put_all(lab, keys)
        left = lab.store.scan()
        assert (await anext(left)).key == keys[0]
        forward, backward = lab.store.scan(), lab.store.scan(reverse=True)
        pairs = [(await anext(forward), await anext(backward)) for _ in keys]
        assert [(first.key, last.key) for first, last in pairs] == list(zip(keys, keys[::-1], strict=True))
        assert (await anext(left)).key == keys[1]
        for scan in (left, forward, backward):
            await scan.aclose()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - scans are generators

    @promise()
    async def test_a_scan_lets_other_tasks_run(self, lab: StoreLab) -> None:
        await _put_all(lab, [f"k{number:05d}" for number in range(5000)])
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        assert len(await collect(lab.store.scan())) == 5000
        counting.cancel()
        assert turns > 1

    @promise(Capability.LINEARIZABLE_READS)
    async def test_a_read_sees_what_was_acknowledged_before_it_began(self, lab: StoreLab) -> None:
        for number in range(30):
            key = f"k{number % 3}"
            put = await lab.store.put(key, b"%d" % number)
            assert await lab.store.get(key) == put
            assert (await lab.store.get_many([key]))[key] == put
            assert put in await collect(lab.store.scan())
            if number % 4 == 3:
                assert await lab.store.delete(key)
                assert await lab.store.get(key) is None
                assert key not in await lab.store.list_keys()

    @promise()
    async def test_parts_of_a_state_key_cannot_reach_into_their_neighbours(self, lab: StoreLab) -> None:
        parts = ("a", "", "a/b", "/", "%", "%2F", "b", "a%", "\0")
        keys = {str(StateKey(one, two, "kind", three)) for one in parts for two in parts for three in parts}
        assert len(keys) == len(parts) ** 3
        await _put_all(lab, sorted(keys))
        for one in parts:
            for two in parts:
                found = [StateKey.parse(key) for key in await lab.store.list_keys(StateKey.prefix(one, two))]
                assert {(key.namespace, key.tenant) for key in found} == {(one, two)}
                assert {key.id for key in found} == set(parts)

    @promise()
    async def test_what_is_no_key_or_bound_is_refused_by_every_read(self, lab: StoreLab) -> None:
        await lab.store.put("k", b"v")
        for wrong in ("", "\ud800", "a\udfff", None, 1, b"k"):
            key: str = wrong  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] - callers make such mistakes
            with pytest.raises(InvalidKeyError):
                await lab.store.get(key)
            with pytest.raises(InvalidKeyError):
                await lab.store.get_many(["k", key])
            if key in ("", None):
                continue
            with pytest.raises(InvalidKeyError):
                await collect(lab.store.scan(key))
            with pytest.raises(InvalidKeyError):
                await collect(lab.store.scan(start=key))
            with pytest.raises(InvalidKeyError):
                await collect(lab.store.scan(end=key))


async def _put_all(lab: StoreLab, keys: list[str]) -> None:
    size = min(lab.store.limits.max_steps, 500) if lab.store.supports(Capability.TRANSACTIONS) else 1
    for first in range(0, len(keys), size):
        await lab.store.commit([Step(key, Put(key.encode())) for key in keys[first : first + size]])
