"""Rows ``transaction``, ``dedup``, ``locks`` and ``due``: what programs that share a store do with it all day.

The first three are in memory by one task. ``durable dedup`` and ``durable locks`` are 50 tasks on SQLite, each commit on
disk before it is acknowledged; ``due`` finds the 100 due ones among many indexed timeouts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from time import perf_counter
from typing import Any

from harness import Bench, Case, Role, Row, Sample, ahead_of, ahead_of_peers, at_most, contender

__all__ = ["DEDUP", "DUE", "LOCKS", "TRANSACTION"]

_TRANSFER = Case("transaction: read 2, write 2, commit", goals=[at_most("8 us", 8e-6), ahead_of_peers()])
_NEW = Case("check_and_set, new", goals=[at_most("3 us", 3e-6)])
_AGAIN = Case("check_and_set, duplicate", goals=[at_most("0.5 us", 0.5e-6)])
_NEW_DURABLE = Case("check_and_set, new, durable, 50 tasks", size=50, goals=[at_most("50 us", 50e-6, scaled=False)])
_LOCK = Case("lock: acquire + release", goals=[at_most("5 us", 5e-6), ahead_of("filelock")])
_LOCK_DURABLE = Case("lock pair, durable, 50 tasks", size=50, goals=[at_most("500 us", 500e-6, scaled=False)])
_DUE = Case("100 due among 100,000 timeouts", size=100_000, goals=[at_most("5 ms", 5e-3)])

TRANSACTION = Row("transaction", _TRANSFER)
DEDUP = Row("dedup", _NEW, _AGAIN, _NEW_DURABLE)
LOCKS = Row("locks", _LOCK, _LOCK_DURABLE)
DUE = Row("due", _DUE)

_ROUNDS = 10
_INDEXING = 500


@contender("two dicts by hand", Role.FLOOR, _TRANSFER)
async def _by_hand(bench: Bench) -> AsyncIterator[Sample]:
    values: dict[str, tuple[int, int]] = {"ada": (0, 100), "bob": (0, 100)}

    def transfer(amount: int) -> None:
        (ada_version, ada), (bob_version, bob) = values["ada"], values["bob"]
        if values["ada"][0] == ada_version and values["bob"][0] == bob_version:
            values["ada"] = (ada_version + 1, ada - amount)
            values["bob"] = (bob_version + 1, bob + amount)

    yield bench.timed("transfer(next(amounts) % 7)", transfer=transfer, amounts=count())


@contender("ZODB", Role.PEER, _TRANSFER)
async def _zodb(bench: Bench) -> AsyncIterator[Sample]:
    import transaction
    import ZODB
    from persistent.mapping import PersistentMapping

    database = ZODB.DB(None)
    connection = database.open()
    root = connection.root()
    root["ada"], root["bob"] = PersistentMapping(balance=100), PersistentMapping(balance=100)
    transaction.commit()

    def transfer(amount: int) -> None:
        root["ada"]["balance"] -= amount
        root["bob"]["balance"] += amount
        transaction.commit()

    yield bench.timed("transfer(next(amounts) % 7 + 1)", transfer=transfer, amounts=count())
    transaction.abort()
    connection.close()
    database.close()


@contender("MVCCContainer", Role.OURS, _TRANSFER)
async def _mvcc(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import MemoryStore, MVCCContainer, State

    class Account(State):
        id: str
        balance: int = 0

    async with MemoryStore() as store, MVCCContainer.open(Account, store=store) as bank:
        await bank.put(Account(id="ada", balance=100))
        await bank.put(Account(id="bob", balance=100))

        async def transfer(amount: int) -> None:
            async with bank.transaction() as tx:
                ada, bob = await tx.read("ada"), await tx.read("bob")
                assert ada is not None
                assert bob is not None
                tx.write(Account(id="ada", balance=ada.balance - amount))
                tx.write(Account(id="bob", balance=bob.balance + amount))

        yield bench.timed("await transfer(next(amounts) % 7 + 1)", transfer=transfer, amounts=count())


@contender("dict.setdefault", Role.FLOOR, _NEW)
async def _setdefault(bench: Bench) -> AsyncIterator[Sample]:
    seen: dict[str, str] = {}
    yield bench.timed("setdefault(str(next(numbers)), 'x')", setdefault=seen.setdefault, numbers=count())


@contender("cachetools.TTLCache", Role.PEER, _NEW)
async def _cachetools(bench: Bench) -> AsyncIterator[Sample]:
    from cachetools import TTLCache

    cache: Any = TTLCache(1 << 20, 3600)
    yield bench.timed("setdefault(next(numbers), 'x')", setdefault=cache.setdefault, numbers=count())


@contender("CoordinationStore", Role.OURS, _NEW)
async def _new(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import CoordinationStore, MemoryStore, StateKey

    async with MemoryStore() as store, CoordinationStore.open(store=store) as coordination:
        yield bench.timed(
            "await check_and_set(key('shop', 'acme', 'message', str(next(numbers))))",
            check_and_set=coordination.check_and_set,
            key=StateKey,
            numbers=count(),
        )


@contender("CoordinationStore", Role.OURS, _AGAIN)
async def _again(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import CoordinationStore, MemoryStore, StateKey

    async with MemoryStore() as store, CoordinationStore.open(store=store) as coordination:
        key = StateKey("shop", "acme", "message", "1")
        await coordination.check_and_set(key)
        yield bench.timed("await check_and_set(key)", check_and_set=coordination.check_and_set, key=key)


def _by_tasks(bench: Bench, work: Any) -> Sample:
    async def sample() -> float:
        async def task() -> None:
            for _ in range(_ROUNDS):
                await work()

        start = perf_counter()
        await asyncio.gather(*(task() for _ in range(bench.size)))
        return (perf_counter() - start) / (bench.size * _ROUNDS)

    return sample


@contender("CoordinationStore", Role.OURS, _NEW_DURABLE)
async def _new_durable(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import CoordinationStore, StateKey

    numbers = count()
    async with CoordinationStore.open(f"sqlite://{bench.path()}/app.db") as coordination:

        async def work() -> None:
            assert await coordination.check_and_set(StateKey("shop", "acme", "message", str(next(numbers))))

        yield _by_tasks(bench, work)


@contender("asyncio.Lock", Role.ALSO, _LOCK)
async def _asyncio_lock(bench: Bench) -> AsyncIterator[Sample]:
    lock = asyncio.Lock()
    yield bench.timed("await acquire(); release()", acquire=lock.acquire, release=lock.release)


@contender("filelock", Role.PEER, _LOCK)
async def _filelock(bench: Bench) -> AsyncIterator[Sample]:
    from filelock import FileLock

    lock = FileLock(bench.path() / "lock")
    yield bench.timed("acquire(); release()", acquire=lock.acquire, release=lock.release)


@contender("Locks", Role.OURS, _LOCK)
async def _locks(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import Locks, MemoryStore

    async with MemoryStore() as store:
        locks = Locks(store)
        yield bench.timed("await (await try_acquire('cart', 10)).release()", try_acquire=locks.try_acquire)


@contender("Locks", Role.OURS, _LOCK_DURABLE)
async def _locks_durable(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import Locks, open_store

    names = count()
    async with open_store(f"sqlite://{bench.path()}/app.db") as store:
        locks = Locks(store)

        async def work() -> None:
            guard = await locks.try_acquire(f"cart/{next(names)}", 10)
            assert guard is not None
            await guard.release()

        yield _by_tasks(bench, work)


@contender("CoordinationStore", Role.OURS, _DUE)
async def _due(bench: Bench) -> AsyncIterator[Sample]:
    from reactstate import CoordinationStore, MemoryStore, StateKey

    now_ms = 1_800_000_000_000
    async with MemoryStore() as store, CoordinationStore.open(store=store) as coordination:
        for start in range(0, bench.size, _INDEXING):
            await asyncio.gather(
                *(
                    coordination.index_timeout(
                        StateKey("shop", "acme", "order", str(number)),
                        now_ms - 100 + number if number < 100 else now_ms + number,
                    )
                    for number in range(start, start + _INDEXING)
                )
            )
        assert len(await coordination.get_expired_timeouts(now=now_ms, limit=1000)) == 100
        yield bench.timed("await get(now=now, limit=1000)", get=coordination.get_expired_timeouts, now=now_ms)
