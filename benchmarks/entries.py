"""The entries that the rows about stores work on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reactstate.kv.protocol import Batch

__all__ = ["VALUE", "batches", "key", "shuffled_keys", "value"]

_BATCH = 10_000


def key(number: int) -> str:
    """Return the key of entry *number*."""
    return f"account/{number:08d}"


def value(number: int) -> bytes:
    """Return the value of entry *number*: 64 bytes, a third of which no compression foresees."""
    token = number * 0x9E3779B97F4A7C15 % (1 << 64)
    return (b'{"owner":"%08d","token":"%016x","balance":%d}' % (number, token, token % 9973)).ljust(64)


VALUE = value(4_711)


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
