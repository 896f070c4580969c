"""check_transition refuses with TransitionError; whatever else it raises passes on, and nothing changes either way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from reactstate import AtomicState, FilePersistence, State, StateContainer, TransitionError, produce, to_document


class Door(State):
    raises: ClassVar[type[Exception] | None] = None
    calls: ClassVar[list[tuple[int, int]]] = []

    width: int = 0
    marks: list[int] = []

    def check_transition(self, previous: Door) -> None:
        Door.calls.append((previous.width, self.width))
        if Door.raises is not None:
            raise Door.raises("the door is stuck")

    def merge(self, other: Door) -> Self:
        return type(self)(width=self.width + other.width)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Door, "raises", None)
    monkeypatch.setattr(Door, "calls", [])


def widen(draft: Door) -> None:
    draft.width += 1
    draft.marks.append(draft.width)


async def edited(container: Any) -> None:
    block = container.edit()
    if hasattr(block, "__aenter__"):
        async with block as draft:
            widen(draft)
    else:
        with block as draft:
            widen(draft)


async def restored(container: Any) -> None:
    first = await settled(container.list_snapshots())
    await settled(container.restore(first[0].id))


async def settled(made: Any) -> Any:
    return await made if inspect.isawaitable(made) else made


VERBS: dict[str, Callable[[Any], Any]] = {
    "update": lambda door: door.update(widen),
    "update by a mapping": lambda door: door.update({"width": 9}),
    "a whole new state": lambda door: door.update(lambda _: Door(width=9)),
    "compare_and_swap": lambda door: door.compare_and_swap(3, widen),
    "set": lambda door: door.set(Door(width=9)),
    "merge": lambda door: door.merge(Door(width=9)),
    "edit": edited,
    "rollback": lambda door: door.rollback(),
    "rollback_to": lambda door: door.rollback_to(1),
    "undo": lambda door: door.undo(),
    "restore": restored,
}


def files(directory: Path) -> dict[str, bytes]:
    # "durable" says how far the rest was synced, and is written when there is time
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "durable"}


@pytest.mark.parametrize("mishap", [TransitionError, ValueError, TypeError, AssertionError, KeyError])
@pytest.mark.parametrize("where", ["AtomicState", "memory", "files"])
async def test_a_transition_that_is_refused_or_fails_changes_nothing(
    where: str, mishap: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    door: Any
    if where == "files":
        door = await StateContainer.open(Door(), persistence=FilePersistence(tmp_path))
    else:
        door = AtomicState(Door()) if where == "AtomicState" else StateContainer(Door())
    await settled(door.snapshot("first"))
    await settled(door.update(widen))
    await settled(door.update(widen))
    heard: list[Any] = []
    door.on_change(heard.append)
    subscription = door.subscribe()
    state, document, history = door.state, to_document(door.state), list(door.history)
    on_disk = files(tmp_path)
    monkeypatch.setattr(Door, "raises", mishap)
    for verb in VERBS.values():
        Door.calls.clear()
        with pytest.raises(mishap, match="the door is stuck") as caught:
            await settled(verb(door))
        assert type(caught.value) is mishap
        assert len(Door.calls) == 1
    assert door.state is state
    assert to_document(state) == document
    assert (door.version, list(door.history), heard, subscription.get_nowait()) == (3, history, [], None)
    assert files(tmp_path) == on_disk
    monkeypatch.setattr(Door, "raises", None)
    assert (await settled(door.update(widen))).version == 4
    assert (heard[0].version, subscription.get_nowait().version) == (4, 4)
    if where != "AtomicState":
        await door.aclose()


def test_it_sees_both_states_and_is_not_asked_for_a_first_or_a_last_one():
    door = AtomicState(Door())
    door.delete()
    door.set(Door(width=1))
    assert Door.calls == []
    door.update(widen)
    door.undo()
    assert Door.calls == [(1, 2), (2, 1)]
    base = Door(width=3)
    produce(base, lambda draft: None)
    assert produce(base, widen).state.width == 4
    assert Door.calls[2:] == [(3, 4)]
