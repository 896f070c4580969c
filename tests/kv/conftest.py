"""What the tests of stores share: a toy table, over which an embedded store can be watched at work."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sortedcontainers import SortedDict

from reactstate.clock import ManualClock
from reactstate.errors import StorageError
from reactstate.kv.embedded import EmbeddedStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.protocol import Batch, Limits
from reactstate.kv.table import Reader, Table, Writer

LIMITS = Limits(max_key_bytes=100, max_value_bytes=10_000, max_steps=100_000, max_commit_bytes=1 << 24)
ALWAYS = StoreOptions()


class State:
    """What a toy table holds; copied for each transaction."""

    def __init__(self):
        self.rows = SortedDict()
        self.log = []
        self.floor = 0
        self.newest = (0, 0)

    def copy(self):
        other = State()
        other.rows, other.log = self.rows.copy(), list(self.log)
        other.floor, other.newest = self.floor, self.newest
        return other


class ToyReader(Reader):
    def __init__(self, source):
        self.source = source
        self.closed = False

    @property
    def state(self):
        return self.source()

    def get(self, key):
        return self.state.rows.get(key)

    def chunk(self, start, end, limit, *, reverse=False):
        keys = list(self.state.rows.irange(start, end, (True, False), reverse=reverse))[:limit]
        return [(key, *self.state.rows[key]) for key in keys]

    def revision(self):
        return self.state.newest

    def log(self, after, limit):
        return [row for row in self.state.log if row[0] > after][:limit]

    def log_floor(self):
        return self.state.floor

    def close(self):
        self.closed = True


class ToyWriter(ToyReader, Writer):
    def apply(self, rows):
        for key, row in rows.items():
            if row is None:
                self.state.rows.pop(key, None)
            else:
                self.state.rows[key] = row

    def due(self, now_ms, limit):
        return [key for key, row in self.state.rows.items() if 0 < row[2] <= now_ms][:limit]

    def advance(self, revision, time_ms):
        self.state.newest = (revision, time_ms)

    def append_log(self, row):
        self.state.log.append(row)

    def trim_log(self, before_ms):
        while self.state.log and self.state.log[0][1] < before_ms:
            self.state.floor = self.state.log.pop(0)[0]

    def clear(self):
        self.state.rows.clear()

    def load(self, rows):
        for key, *row in rows:
            assert key not in self.state.rows
            self.state.rows[key] = tuple(row)


class ToyTable(Table):
    id = "toy"

    def __init__(self, *, repeats=False):
        self.repeats = repeats
        self.state = State()
        self.latest = ToyReader(lambda: self.state)
        self.failures = []
        self.unreadable = False
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.calls = []
        self.views = []

    def view(self):
        state = self.state
        self.views.append(ToyReader(lambda: state))
        return self.views[-1]

    def write(self, work, *, sync):
        self.waiting.set()
        self.gate.wait()
        self.calls.append("write synced" if sync else "write")
        for _ in range(2 if self.repeats else 1):
            state = self.state.copy()
            result = work(ToyWriter(lambda state=state: state))
        if self.failures:
            raise self.failures.pop(0)
        self.state = state
        return result

    def token(self):
        if self.unreadable:
            raise StorageError("cannot be read")
        return self.state.newest[0]

    def flush(self):
        self.calls.append("flush")
        if self.failures:
            raise self.failures.pop(0)

    def size(self):
        return 1234

    def close(self):
        self.calls.append("close")


class Toys:
    """Makes toy tables and stores over them, and waits for them."""

    Table = ToyTable

    def make(self, table=None, *, options=ALWAYS, clock=None):
        return EmbeddedStore(
            ToyTable() if table is None else table,
            url="toy:",
            engine="toy",
            options=options,
            clock=ManualClock() if clock is None else clock,
            limits=LIMITS,
        )

    async def hold(self, table, store):
        """Let the writer stand in a transaction, so that what follows becomes one group."""
        table.gate.clear()
        first = asyncio.ensure_future(store.put("first", b""))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(table.waiting.wait, 5)
        return first

    async def until(self, condition):
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.002)
        raise AssertionError("it never came")

    async def batches(self, *columns):
        for keys in columns:
            yield Batch(list(keys), [key.encode() for key in keys], [1] * len(keys), [0] * len(keys))


@pytest.fixture
def toys():
    return Toys()


@pytest.fixture
def table():
    return ToyTable()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def store(toys, table, clock):
    async with toys.make(table, clock=clock) as opened:
        yield opened
