"""One LMDB environment for each directory and process, which LMDB demands, shared by every table on it.

Forks
    LMDB must not be used after a fork. A fork waits for a moment in which nobody reads or writes here, so that the
    child can let go of what it inherited without touching what is its parent's, and open the directory anew. Where
    that takes longer than a second, the child cannot open this directory.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from reactstate.kv.lmdb_environment import Environment

if TYPE_CHECKING:
    from reactstate.kv.lmdb_environment import Durability

__all__ = ["acquire", "release"]

_FORK_S: Final = 1.0

_lock = threading.Lock()
_open: dict[str, Environment] = {}
_held: list[threading.Lock] = []
_busy: list[Environment] = []


def acquire(path: str, *, map_size: int, read_only: bool, durability: Durability) -> Environment:
    """Return the environment of the directory *path*, which this process may have open already.

    Raises:
        StorageError: It cannot be opened.
        CorruptionError: It is damaged.
        StorageFailedError: A write failed, and another store of this process still has it open.
        UnavailableError: It must be opened anew, and this process has had snapshots open for too long.
        UnknownOutcomeError: Earlier commits of this process could not be brought to disk.
    """
    path = os.path.realpath(path)
    while True:
        with _lock:
            env = _open.get(path)
            if env is None:
                env = _open[path] = Environment(path, map_size=map_size, read_only=read_only, durability=durability)
            env.users += 1
        try:
            if env.open(read_only=read_only, durability=durability):
                return env
            with _lock:
                if _open.get(path) is env:
                    del _open[path]
        except BaseException:
            release(env)
            raise
        release(env)


def release(env: Environment) -> None:
    """Take back one ``acquire``; the last one closes the environment."""
    if env.process != os.getpid():
        return
    with _lock:
        env.users -= 1
        if not env.users:
            if _open.get(env.path) is env:
                del _open[env.path]
            env.close()


def _before_fork() -> None:
    deadline = time.monotonic() + _FORK_S
    _take(_lock, deadline)
    _busy.extend(env for env in _open.values() if not (_take(env.writing, deadline) and _take(env.gate, deadline)))


def _take(lock: threading.Lock, deadline: float) -> bool:
    taken = lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    if taken:
        _held.append(lock)
    return taken


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _in_parent() -> None:
    _busy.clear()
    _after_fork()


def _in_child() -> None:
    global _lock  # noqa: PLW0603 - who holds it may not be in the child
    _after_fork()
    _lock = threading.Lock()
    inherited = list(_open.values())
    _open.clear()
    for env in inherited:
        if env not in _busy:  # one that was busy is kept for ever, as LMDB would wait for threads that are not here
            env.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
