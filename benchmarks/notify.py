"""Row ``notify``: what a commit costs with 1 and with 1,000 that want to hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count

from harness import Bench, Case, Role, Row, Sample, contender, times_case
from models import PROFILE, Commits, Profile, Tally, assigned, field_validator

__all__ = ["NOTIFY"]

_MANY = 1_000
_ONE_LIVE = Case("commit, 1 live subscription")
_MANY_LIVE = Case("commit, 1,000 live subscriptions", size=_MANY, goals=[times_case(1.1, _ONE_LIVE)])
_ONE_CALLBACK = Case("commit, 1 callback", like=_ONE_LIVE)
_MANY_CALLBACKS = Case("commit, 1,000 callbacks", size=_MANY, like=_MANY_LIVE)
_ONE_PARKED = Case("commit, 1 parked task woken")
_MANY_PARKED = Case("commit, 1,000 parked tasks woken", size=_MANY)
_PARKED = (_ONE_PARKED, _MANY_PARKED)
NOTIFY = Row("notify", _ONE_LIVE, _MANY_LIVE, _ONE_CALLBACK, _MANY_CALLBACKS, _ONE_PARKED, _MANY_PARKED)


def _updates(commits: Commits[Profile]) -> Callable[[int], None]:
    validator = field_validator(Profile)

    def update(value: int) -> None:
        commits.commit(assigned(commits.state, validator, "count", value))

    return update


@contender("commit, tuple of callables", Role.FLOOR, _ONE_LIVE, _MANY_LIVE)
async def _callables(bench: Bench) -> AsyncIterator[Sample]:
    tallies = [Tally() for _ in range(bench.size)]
    commits = Commits(Profile(**PROFILE), *(tally.hear for tally in tallies))
    yield bench.timed("update(next(numbers))", update=_updates(commits), numbers=count(1))
    assert all(tally.count == commits.version - 1 for tally in tallies)


@contender("blinker", Role.PEER, _ONE_LIVE, _MANY_LIVE)
async def _blinker(bench: Bench) -> AsyncIterator[Sample]:
    from blinker import Signal

    tallies = [Tally() for _ in range(bench.size)]
    signal = Signal()
    for tally in tallies:
        signal.connect(tally.hear)
    commits = Commits(Profile(**PROFILE), signal.send)
    yield bench.timed("update(next(numbers))", update=_updates(commits), numbers=count(1))
    assert all(tally.count == commits.version - 1 for tally in tallies)


@contender("psygnal", Role.PEER, _ONE_LIVE, _MANY_LIVE)
async def _psygnal(bench: Bench) -> AsyncIterator[Sample]:
    from psygnal import SignalInstance

    tallies = [Tally() for _ in range(bench.size)]
    signal = SignalInstance((object,))
    for tally in tallies:
        signal.connect(tally.hear)
    commits = Commits(Profile(**PROFILE), signal.emit)
    yield bench.timed("update(next(numbers))", update=_updates(commits), numbers=count(1))
    assert all(tally.count == commits.version - 1 for tally in tallies)


@contender("StateContainer.subscribe", Role.OURS, _ONE_LIVE, _MANY_LIVE)
async def _subscriptions(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile, set_count

    from reactstate import StateContainer

    async with StateContainer(profile()) as container:
        subscriptions = [container.subscribe() for _ in range(bench.size)]
        yield bench.timed(
            "await container.update(set_count, next(numbers))",
            container=container,
            set_count=set_count,
            numbers=count(1),
        )
        # Held until here: a subscription that nobody holds might end, and would then cost nothing.
        del subscriptions


@contender("StateContainer.on_change", Role.OURS, _ONE_CALLBACK, _MANY_CALLBACKS)
async def _on_change(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile, set_count

    from reactstate import StateContainer

    tallies = [Tally() for _ in range(bench.size)]
    async with StateContainer(profile()) as container:
        for tally in tallies:
            container.on_change(tally.hear)
        yield bench.timed(
            "await container.update(set_count, next(numbers))",
            container=container,
            set_count=set_count,
            numbers=count(1),
        )
        assert all(tally.count == container.version - 1 for tally in tallies)


class _Arrivals:
    """How many tasks have heard of the newest commit."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._missing = 0
        self._complete: asyncio.Future[None] | None = None

    def expect(self) -> asyncio.Future[None]:
        """Return what is done when everyone has heard."""
        self._missing = self._expected
        self._complete = asyncio.get_running_loop().create_future()
        return self._complete

    def hear(self, *_: object) -> None:
        self._missing -= 1
        if not self._missing and self._complete is not None:
            self._complete.set_result(None)


def _delivered(bench: Bench, commit: Callable[[int], Awaitable[object]], arrivals: _Arrivals) -> Sample:
    """Return a sample of a commit and of everything until all tasks have heard of it."""
    numbers = count(1)

    async def deliver() -> None:
        complete = arrivals.expect()
        await commit(next(numbers))
        await complete

    return bench.timed("await deliver()", deliver=deliver)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contender("commit, futures by hand", Role.FLOOR, *_PARKED)
async def _futures(bench: Bench) -> AsyncIterator[Sample]:
    loop = asyncio.get_running_loop()
    parked: list[asyncio.Future[None]] = []
    arrivals = _Arrivals(bench.size)

    async def read() -> None:
        while True:
            waiter = loop.create_future()
            parked.append(waiter)
            await waiter
            arrivals.hear()

    def wake(_: object) -> None:
        waiters = parked.copy()
        parked.clear()
        for waiter in waiters:
            waiter.set_result(None)

    update = _updates(Commits(Profile(**PROFILE), wake))

    async def commit(value: int) -> None:
        update(value)

    tasks = [asyncio.create_task(read()) for _ in range(bench.size)]
    await asyncio.sleep(0)
    yield _delivered(bench, commit, arrivals)
    await _cancel(tasks)


@contender("asyncio.Queue each", Role.PEER, *_PARKED)
async def _queues(bench: Bench) -> AsyncIterator[Sample]:
    queues: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(bench.size)]
    arrivals = _Arrivals(bench.size)

    async def read(queue: asyncio.Queue[object]) -> None:
        while True:
            arrivals.hear(await queue.get())

    update = _updates(Commits(Profile(**PROFILE), *(queue.put_nowait for queue in queues)))

    async def commit(value: int) -> None:
        update(value)

    tasks = [asyncio.create_task(read(queue)) for queue in queues]
    await asyncio.sleep(0)
    yield _delivered(bench, commit, arrivals)
    await _cancel(tasks)


@contender("StateContainer.subscribe", Role.OURS, *_PARKED)
async def _woken(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile, set_count

    from reactstate import StateContainer

    arrivals = _Arrivals(bench.size)
    async with AsyncExitStack() as stack:
        container = await stack.enter_async_context(StateContainer(profile()))

        async def read() -> None:
            async for change in container.subscribe():
                arrivals.hear(change)

        async def commit(value: int) -> None:
            await container.update(set_count, value)

        tasks = [asyncio.create_task(read()) for _ in range(bench.size)]
        stack.push_async_callback(_cancel, tasks)
        await asyncio.sleep(0)
        yield _delivered(bench, commit, arrivals)
