"""The entries that the rows about stores work on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reactstate.kv.protocol import Batch

__all__ = ["VALUE", "batches", "key", "shuffled_keys", "value"]

VALUE = b'{"owner":"user-00000001","balance":7919,"currency":"EUR"}'.ljust(64)
_BATCH = 10_000


def key(number: int) -> str:
    """Return the key of entry *number*."""
    return f"account/{number:08d}"


def value(number: int) -> bytes:
    """Return the value of entry *number*: 64 bytes that differ from entry to entry."""
    return (b'{"owner":"user-%08d","balance":%d}' % (number, number * 7919 % 100_003)).ljust(64)


def shuffled_keys(size: int) -> Iterator[str]:
    """Return the keys of *size* entries, over and over, in an order that is the same in every run."""
    keys = [key(number) for number in range(size)]
    random.Random(1).shuffle(keys)
    return cycle(keys)


async def batches(size: int) -> AsyncIterator[Batch]:
    """Yield *size* entries as a restore hands them to a store."""
    from reactstate.kv.protocol import Batch

    for start in range(0, size, _BATCH):
        numbers = range(start, min(size, start + _BATCH))
        count = len(numbers)
        yield Batch([key(n) for n in numbers], [value(n) for n in numbers], [1] * count, [0] * count)
