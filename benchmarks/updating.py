"""Row ``update``: one field of a model of ten, with one subscriber, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import field, make_dataclass
from importlib import import_module
from itertools import count
from typing import Any, ClassVar

from harness import Bench, Case, Role, Row, Sample, ahead_of, at_most, contender
from models import PROFILE, Commits, Profile, Tally, assigned, field_validator

__all__ = ["UPDATE"]

_PSYGNAL = "psygnal evented model"
_GOALS = [at_most("3.2 us", 3.2e-6), ahead_of(_PSYGNAL)]
_AWAITED = Case("update, one subscriber, 10 fields", goals=_GOALS)
_ATOMIC = Case("the same on an AtomicState", goals=_GOALS, like=_AWAITED)
UPDATE = Row("update", _AWAITED, _ATOMIC)


@contender("copy, validated field, commit", Role.FLOOR, _AWAITED)
async def _floor(bench: Bench) -> AsyncIterator[Sample]:
    tally = Tally()
    commits = Commits(Profile(**PROFILE), tally.hear)
    validator = field_validator(Profile)

    def update(value: int) -> None:
        commits.commit(assigned(commits.state, validator, "count", value))

    yield bench.timed("update(next(numbers))", update=update, numbers=count(1))
    assert tally.count == commits.version - 1 == commits.state.count


@contender("clone and validate", Role.PEER, _AWAITED)
async def _clone(bench: Bench) -> AsyncIterator[Sample]:
    tally = Tally()
    commits = Commits(Profile(**PROFILE), tally.hear)

    def update(value: int) -> None:
        copied = commits.state.model_copy(deep=True)
        copied.count = value
        commits.commit(Profile.model_validate(copied.model_dump()))

    yield bench.timed("update(next(numbers))", update=update, numbers=count(1))
    assert tally.count == commits.version - 1 == commits.state.count


@contender(_PSYGNAL, Role.PEER, _AWAITED)
async def _psygnal_model(bench: Bench) -> AsyncIterator[Sample]:
    from psygnal import EventedModel

    class Evented(EventedModel):
        name: str
        email: str
        country: str
        age: int
        count: int
        score: float
        active: bool
        note: str | None
        tags: list[str]
        limits: dict[str, int]

    tally = Tally()
    model = Evented(**PROFILE)
    model.events.count.connect(tally.hear)
    yield bench.timed("model.count = next(numbers)", model=model, numbers=count(1))
    assert tally.count == model.count


@contender("psygnal evented dataclass", Role.PEER, _AWAITED)
async def _psygnal_dataclass(bench: Bench) -> AsyncIterator[Sample]:
    from psygnal import SignalGroupDescriptor

    fields: list[Any] = [(name, object, field(default=None)) for name in PROFILE]
    events = ("events", ClassVar[Any], SignalGroupDescriptor())
    evented = make_dataclass("Evented", [*fields, events])
    tally = Tally()
    model: Any = evented(**PROFILE)
    model.events.count.connect(tally.hear)
    yield bench.timed("model.count = next(numbers)", model=model, numbers=count(1))
    assert tally.count == model.count


@contender("observ", Role.PEER, _AWAITED)
async def _observ(bench: Bench) -> AsyncIterator[Sample]:
    observ = import_module("observ")
    tally = Tally()
    model = observ.reactive(dict(PROFILE))
    watcher = observ.watch(lambda: model["count"], tally.hear, sync=True)
    yield bench.timed("model['count'] = next(numbers)", model=model, numbers=count(1))
    assert tally.count == model["count"]
    del watcher


@contender("pycrdt", Role.PEER, _AWAITED)
async def _pycrdt(bench: Bench) -> AsyncIterator[Sample]:
    import pycrdt

    tally = Tally()
    document: Any = pycrdt.Doc()
    model = document.get("profile", type=pycrdt.Map)
    model.update(PROFILE)
    subscription = model.observe(tally.hear)
    yield bench.timed("model['count'] = next(numbers)", model=model, numbers=count(1))
    assert tally.count == model["count"]
    model.unobserve(subscription)


@contender("reaktiv", Role.PEER, _AWAITED)
async def _reaktiv(bench: Bench) -> AsyncIterator[Sample]:
    import reaktiv

    tally = Tally()
    model = {name: reaktiv.Signal(value) for name, value in PROFILE.items()}
    effect = reaktiv.Effect(lambda: tally.hear(model["count"]()))
    tally.count = 0
    yield bench.timed("model['count'].set(next(numbers))", model=model, numbers=count(1))
    assert tally.count == model["count"]()
    effect.dispose()


@contender("param", Role.PEER, _AWAITED)
async def _param(bench: Bench) -> AsyncIterator[Sample]:
    import param

    class Parameters(param.Parameterized):
        profile_name = param.String("")
        email = param.String("")
        country = param.String("")
        age = param.Integer(0)
        count = param.Integer(0)
        score = param.Number(0.0)
        active = param.Boolean(default=False)
        note = param.String(None, allow_None=True)
        tags = param.List([])
        limits = param.Dict({})

    tally = Tally()
    values = {("profile_name" if name == "name" else name): value for name, value in PROFILE.items()}
    make: Any = Parameters
    model = make(**values)
    model.param.watch(tally.hear, "count")
    yield bench.timed("model.count = next(numbers)", model=model, numbers=count(1))
    assert tally.count == model.count


@contender("StateContainer", Role.OURS, _AWAITED)
async def _state_container(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile, set_count

    from reactstate import StateContainer

    tally = Tally()
    async with StateContainer(profile()) as container:
        container.on_change(tally.hear)
        yield bench.timed(
            "await container.update(set_count, next(numbers))",
            container=container,
            set_count=set_count,
            numbers=count(1),
        )
        assert tally.count == container.version - 1 == container.state.count


@contender("AtomicState", Role.OURS, _ATOMIC)
async def _atomic_state(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile, set_count

    from reactstate import AtomicState

    tally = Tally()
    state = AtomicState(profile())
    state.on_change(tally.hear)
    yield bench.timed("state.update(set_count, next(numbers))", state=state, set_count=set_count, numbers=count(1))
    assert tally.count == state.version - 1 == state.state.count
