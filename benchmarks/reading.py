"""Row ``read``: what it costs to look at the state that something holds."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

from harness import Bench, Case, Role, Row, Sample, contender, times_floor
from models import PROFILE, Profile

__all__ = ["READ"]

_HELD = Case("read the state", goals=[times_floor(1.2)])
_ATOMIC = Case("read the state of an AtomicState", goals=[times_floor(1.2)], like=_HELD)
READ = Row("read", _HELD, _ATOMIC)


class _Holder:
    __slots__ = ("_state", "attribute")

    def __init__(self, state: Profile) -> None:
        self._state = state
        self.attribute = state

    @property
    def state(self) -> Profile:
        return self._state

    async def get(self) -> Profile:
        return self._state


def _read(bench: Bench, source: str, **names: Any) -> Sample:
    return bench.timed(source, unroll=20, **names)


@contender("property", Role.FLOOR, _HELD)
async def _property(bench: Bench) -> AsyncIterator[Sample]:
    yield _read(bench, "holder.state", holder=_Holder(Profile(**PROFILE)))


@contender("attribute", Role.ALSO, _HELD)
async def _attribute(bench: Bench) -> AsyncIterator[Sample]:
    yield _read(bench, "holder.attribute", holder=_Holder(Profile(**PROFILE)))


@contender("awaited method", Role.ALSO, _HELD)
async def _awaited(bench: Bench) -> AsyncIterator[Sample]:
    yield _read(bench, "await holder.get()", holder=_Holder(Profile(**PROFILE)))


@contender("deep copy", Role.ALSO, _HELD)
async def _deep_copy(bench: Bench) -> AsyncIterator[Sample]:
    yield _read(bench, "deepcopy(state)", deepcopy=copy.deepcopy, state=Profile(**PROFILE))


@contender("psygnal", Role.PEER, _HELD)
async def _psygnal(bench: Bench) -> AsyncIterator[Sample]:
    from psygnal import EventedModel

    class Holder(EventedModel):
        state: Any

    yield _read(bench, "holder.state", holder=Holder(state=Profile(**PROFILE)))


@contender("traitlets", Role.PEER, _HELD)
async def _traitlets(bench: Bench) -> AsyncIterator[Sample]:
    import traitlets

    class Holder(traitlets.HasTraits):
        state = traitlets.Instance(Profile)

    yield _read(bench, "holder.state", holder=Holder(state=Profile(**PROFILE)))


@contender("param", Role.PEER, _HELD)
async def _param(bench: Bench) -> AsyncIterator[Sample]:
    import param

    class Holder(param.Parameterized):
        state = param.ClassSelector(class_=Profile)

    make: Any = Holder
    yield _read(bench, "holder.state", holder=make(state=Profile(**PROFILE)))


@contender("observ", Role.PEER, _HELD)
async def _observ(bench: Bench) -> AsyncIterator[Sample]:
    observ = import_module("observ")
    yield _read(bench, "holder['state']", holder=observ.reactive({"state": Profile(**PROFILE)}))


@contender("fynx", Role.PEER, _HELD)
async def _fynx(bench: Bench) -> AsyncIterator[Sample]:
    import fynx

    yield _read(bench, "holder.value", holder=fynx.observable(Profile(**PROFILE)))


@contender("reaktiv", Role.PEER, _HELD)
async def _reaktiv(bench: Bench) -> AsyncIterator[Sample]:
    import reaktiv

    yield _read(bench, "signal()", signal=reaktiv.Signal(Profile(**PROFILE)))


@contender("StateContainer", Role.OURS, _HELD)
async def _state_container(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile

    from reactstate import StateContainer

    async with StateContainer(profile()) as container:
        yield _read(bench, "container.state", container=container)


@contender("AtomicState", Role.OURS, _ATOMIC)
async def _atomic_state(bench: Bench) -> AsyncIterator[Sample]:
    from states import profile

    from reactstate import AtomicState

    yield _read(bench, "state.state", state=AtomicState(profile()))
