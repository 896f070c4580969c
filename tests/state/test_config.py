from __future__ import annotations

import inspect
import sys
from datetime import timedelta
from typing import Any

import pytest

from reactstate import AtomicState, SettingsError, State, StateConfig, StateContainer, UnsupportedError


class Tally(State):
    n: int = 0


def test_the_defaults_are_those_that_are_documented():
    config = StateConfig()
    assert repr(config) == (
        "StateConfig(buffer_size=1000, concurrency='optimistic', history_retention=None, history_size=1000, "
        "max_snapshots=10, on_lag='raise', snapshot_interval=None)"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"history_size": 0},
        {"history_size": -1},
        {"history_size": 1.5},
        {"history_size": True},
        {"history_size": "10"},
        {"history_size": "1" * 1000},
        {"history_size": None},
        {"history_size": 10**30},
        {"history_size": 10**5000},
        {"history_size": -(10**5000)},
        {"history_size": sys.maxsize + 1},
        {"buffer_size": 10**30},
        {"buffer_size": [10**5000]},
        {"max_snapshots": 10**30},
        {"snapshot_interval": 10**30},
        {"snapshot_interval": timedelta.max},
        {"snapshot_interval": "daily"},
        {"history_retention": "a day"},
        {"history_retention": 10**5000},
        {"concurrency": []},
        {"concurrency": 10**5000},
        {"on_lag": []},
        {"buffer_size": 0},
        {"max_snapshots": 0},
        {"history_retention": timedelta(0)},
        {"history_retention": timedelta(seconds=-1)},
        {"history_retention": 60},
        {"snapshot_interval": 0},
        {"snapshot_interval": -5},
        {"snapshot_interval": True},
        {"snapshot_interval": 1.5},
        {"snapshot_interval": timedelta(0)},
        {"concurrency": "hopeful"},
        {"on_lag": "drop"},
    ],
)
def test_a_value_that_cannot_be_used_is_a_settings_error(wrong: dict[str, Any]):
    with pytest.raises(SettingsError, match=next(iter(wrong))) as caught:
        StateConfig(**wrong)
    assert len(str(caught.value)) < 200


def test_pessimistic_concurrency_needs_locks():
    with pytest.raises(UnsupportedError) as caught:
        AtomicState(Tally(), config=StateConfig(concurrency="pessimistic"))
    assert caught.value.capability == "LOCKS"


def test_every_value_that_can_be_used_is_taken():
    config = StateConfig(1, timedelta(days=1), 2, timedelta(hours=1), 3, "optimistic", "resync")
    assert (config.history_size, config.buffer_size, config.max_snapshots, config.on_lag) == (1, 2, 3, "resync")
    assert StateConfig(snapshot_interval=5).snapshot_interval == 5


async def test_the_largest_values_work():
    config = StateConfig(sys.maxsize, timedelta.max, sys.maxsize, timedelta(days=365_000), sys.maxsize, on_lag="resync")
    for container in (AtomicState(Tally(), config=config), StateContainer(Tally(), config=config)):
        subscription = container.subscribe()
        made = container.update({"n": 1})
        if inspect.isawaitable(made):
            await made
        assert (len(container.history), subscription.get_nowait().version) == (2, 2)
