"""Interleaved transactions against a toy model: a dict, and for each transaction a copy of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from reactstate.errors import TransactionConflict
from reactstate.kv.memory import MemoryStore
from reactstate.mvcc.container import MVCCContainer
from reactstate.state.state import State


class Cart(State):
    id: str
    count: int = 0


names = st.sampled_from(["a", "a/b", "a%", "b", "é"])
counts = st.integers(0, 3)


class Model:
    """What a transaction must see, and on what it depends."""

    def __init__(self, isolation: str, world: dict[str, tuple[int, int]]) -> None:
        self.isolation = isolation
        self.seen = dict(world)
        self.own: dict[str, int | None] = {}
        self.read: set[str] = set()
        self.prefixes: set[str] = set()

    def visible(self) -> dict[str, int]:
        found = {name: count for name, (count, _) in self.seen.items()}
        for name, count in self.own.items():
            if count is None:
                found.pop(name, None)
            else:
                found[name] = count
        return found


class TransactionMachine(RuleBasedStateMachine):
    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore()
        self.carts = self.run(self.open())
        self.stamp = 0
        self.world: dict[str, tuple[int, int]] = {}
        """Count and the stamp of the write, by name."""
        self.touched: dict[str, int] = {}
        """The stamp of the newest write or delete, by name."""
        self.versions: dict[str, int] = {}
        self.active = 0

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def open(self) -> MVCCContainer[Cart]:
        return await MVCCContainer.open(Cart, store=self.store)

    @initialize(count=counts)
    def first(self, count):
        self.set("a", count)
        self.run(self.carts.put(Cart(id="a", count=count)))

    def set(self, name: str, count: int | None) -> bool:
        """Change the world; say whether that changed anything."""
        before = self.world.get(name)
        if (None if before is None else before[0]) == count:
            return False
        self.stamp += 1
        self.touched[name] = self.stamp
        if count is None:
            del self.world[name]
        else:
            self.world[name] = (count, self.stamp)
        return True

    @rule(target=transactions, isolation=st.sampled_from(["serializable", "snapshot"]))
    def begin(self, isolation):
        self.active += 1
        return self.run(self.carts.begin_transaction(isolation)), Model(isolation, self.world), self.stamp

    @rule(one=transactions, name=names)
    def read(self, one, name):
        transaction, model, _ = one
        found = self.run(transaction.read(name))
        if name not in model.own:
            model.read.add(name)
        assert (None if found is None else found.count) == model.visible().get(name)

    @rule(one=transactions, prefix=st.sampled_from(["", "a", "a/", "b"]))
    def scan(self, one, prefix):
        transaction, model, _ = one
        model.prefixes.add(prefix)

        async def all_of_it():
            return {state.id: state.count async for state in transaction.scan(prefix)}

        found = self.run(all_of_it())
        assert found == {name: count for name, count in model.visible().items() if name.startswith(prefix)}

    @rule(one=transactions, name=names, count=counts)
    def write(self, one, name, count):
        async def write():
            one[0].write(Cart(id=name, count=count))

        self.run(write())
        one[1].own[name] = count

    @rule(one=transactions, name=names)
    def delete(self, one, name):
        async def delete():
            one[0].delete(name)

        self.run(delete())
        one[1].own[name] = None

    @rule(one=consumes(transactions))
    def abort(self, one):
        self.active -= 1
        self.run(one[0].abort())

    @rule(one=consumes(transactions))
    def commit(self, one):
        transaction, model, began = one
        self.active -= 1
        moved = {name for name, stamp in self.touched.items() if stamp > began}
        before = {name: count for name, (count, _) in model.seen.items()}
        writes = any(before.get(name) != count for name, count in model.own.items())
        depends = set(model.own)
        if model.isolation == "serializable":
            depends |= model.read
            depends |= {name for name in moved if any(name.startswith(prefix) for prefix in model.prefixes)}
        if writes and depends & moved:
            with pytest.raises(TransactionConflict) as caught:
                self.run(transaction.commit())
            assert set(caught.value.keys) == depends & moved
            assert transaction.state == "aborted"
            return
        self.run(transaction.commit())
        made = transaction.written
        for name, count in model.own.items():
            if not writes or not self.set(name, count):
                assert name not in made
            elif count is not None:
                assert made[name].version > self.versions.get(name, 0)
                assert made[name].transaction_id == transaction.id
                self.versions[name] = made[name].version

    @rule(name=names, count=counts)
    def put(self, name, count):
        self.set(name, count)
        made = self.run(self.carts.put(Cart(id=name, count=count)))
        assert made.version >= self.versions.get(name, 0)
        self.versions[name] = made.version

    @rule(name=names)
    def remove(self, name):
        assert self.run(self.carts.delete(name)) == self.set(name, None)

    @invariant()
    def agrees(self):
        async def look():
            return {state.id: state.count async for state in self.carts.scan()}

        assert self.run(look()) == {name: count for name, (count, _) in self.world.items()}
        assert self.carts.stats().active == self.active

    def teardown(self):
        self.run(self.carts.aclose())
        assert self.store._table.held == 0
        self.run(self.store.aclose())
        self.loop.close()


TransactionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_transactions_do_what_a_model_does = TransactionMachine.TestCase
