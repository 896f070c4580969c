"""The directory of checkpoints: ids and files, which of them there are, and what is removed.

Contract
    An id is a time and, when it was given one, a name; it cannot lead out of the directory. Ids of one directory are
    distinct and sort by when they were taken, whatever the clock does, as they are given out under a lock of the
    operating system, which a killed process does not leave behind. Whoever holds it is the only one who writes, so
    temporary files that are found then belong to nobody and are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import urllib.parse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import filelock

from reactstate.checkpoints.options import CheckpointInfo
from reactstate.errors import CheckpointNotFoundError, SettingsError, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from reactstate.kv.checkpoint_file import CheckpointSummary

__all__ = ["CheckpointDirectory"]

_LOGGER = logging.getLogger("reactstate.checkpoints")
_SUFFIX: Final = ".checkpoint"
_LOCK: Final = ".lock"
_ID: Final = r"\d{8}T\d{6}\.\d{6}Z(?:-[A-Za-z0-9_.~%-]{1,150})?"
_IS_ID: Final = re.compile(_ID, re.ASCII)
_IS_LEFTOVER: Final = re.compile(rf"{_ID}\.checkpoint\.[0-9a-f]+\.tmp", re.ASCII)
_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"
_STAMP_LENGTH: Final = len("20260101T000000.000000Z")
_MAX_NAME: Final = 150
_LAST_YEAR: Final = 9999
_POLL_SECONDS: Final = 0.02


class CheckpointDirectory:
    """The checkpoints in the directory *path*."""

    def __init__(self, path: str) -> None:
        self.path: str = os.path.abspath(path)  # noqa: PTH100 - paths are strings in this module

    def file(self, id: str) -> str:  # noqa: A002 - the public name
        """Return the path of the checkpoint *id*.

        Raises:
            CheckpointNotFoundError: It cannot be an id.
        """
        if not isinstance(id, str) or _moment(id) is None:  # pyright: ignore[reportUnnecessaryIsInstance] - from callers
            raise self.missing(id)
        return os.path.join(self.path, id + _SUFFIX)  # noqa: PTH118 - as above

    def missing(self, id: object) -> CheckpointNotFoundError:  # noqa: A002 - the public name
        """Return the error for an id that no checkpoint has."""
        return CheckpointNotFoundError(
            f"no checkpoint in {self.path} has the id {id!r}; list_checkpoints() has the ids"
        )

    def ids(self) -> list[str]:
        """Return the ids of all checkpoints, oldest first; none when there is no directory."""
        return sorted(
            stem
            for name in self._names()
            if name.endswith(_SUFFIX) and _moment(stem := name.removesuffix(_SUFFIX)) is not None
        )

    def age(self, now: datetime) -> timedelta | None:
        """Return how long before *now* the newest was made; None when there is none, or it is of a later time."""
        moments = [_moment(id_) for id_ in self.ids()[-1:]]
        if not moments or moments[0] is None or moments[0] > now:
            return None
        return now - moments[0]

    def new_id(self, now: datetime, name: str) -> str:
        """Return an id that sorts after all others; to be called by whoever holds the lock."""
        newest = max((moment for id_ in self.ids() if (moment := _moment(id_)) is not None), default=None)
        if newest is not None and newest >= now:
            now = newest + timedelta(microseconds=1)
        return now.strftime(_STAMP) + (f"-{_quoted(name)}" if name else "")

    def make(self) -> None:
        """Make the directory unless it is there."""
        with self._failing("made"):
            os.makedirs(self.path, mode=0o700, exist_ok=True)  # noqa: PTH103 - as above

    def remove(self, id: str) -> None:  # noqa: A002 - the public name
        """Remove a checkpoint; a failure is logged."""
        try:
            os.unlink(self.file(id))  # noqa: PTH108 - as above
        except OSError as exc:
            _LOGGER.warning("the checkpoint %s could not be removed: %s", id, exc)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of processes that were killed; to be called by whoever holds the lock."""
        for name in self._names():
            if _IS_LEFTOVER.fullmatch(name):
                try:
                    os.unlink(os.path.join(self.path, name))  # noqa: PTH108, PTH118 - as above
                except OSError as exc:
                    _LOGGER.warning("the temporary file %s could not be removed: %s", name, exc)

    def try_lock(self) -> filelock.BaseFileLock | None:
        """Take the lock; None when another has it."""
        lock = filelock.FileLock(
            os.path.join(self.path, _LOCK),  # noqa: PTH118 - as above
            mode=0o600,
            thread_local=False,
        )
        with self._failing("locked"):
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                return None
        return lock

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Hold the lock, after waiting for whoever has it."""
        while (lock := self.try_lock()) is None:  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def _names(self) -> list[str]:
        with self._failing("read"):
            try:
                return os.listdir(self.path)  # noqa: PTH208 - as above
            except FileNotFoundError:
                return []

    @contextlib.contextmanager
    def _failing(self, verb: str) -> Generator[None]:
        try:
            yield
        except (OSError, NotImplementedError) as exc:
            raise StorageError(
                f"the checkpoint directory {self.path} could not be {verb}: {exc}", path=self.path
            ) from exc


def info_of(id: str, summary: CheckpointSummary) -> CheckpointInfo:  # noqa: A002 - the public name
    """Return what is known of the checkpoint *id*, whose file says *summary*."""
    return CheckpointInfo(
        id,
        urllib.parse.unquote(id[_STAMP_LENGTH + 1 :]),
        summary.created_at,
        summary.size_bytes,
        summary.entries,
        summary.revision,
        summary.engine,
    )


def _moment(id: str) -> datetime | None:  # noqa: A002 - the public name
    """Return the time in *id*; None when it is no id."""
    if not _IS_ID.fullmatch(id):
        return None
    try:
        moment = datetime.strptime(id[:_STAMP_LENGTH], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment if moment.year < _LAST_YEAR else None


def _quoted(name: str) -> str:
    try:
        quoted = urllib.parse.quote(name, safe="")
    except UnicodeEncodeError as exc:
        raise SettingsError(f"name={name!r} holds a lone surrogate, which no file name can keep") from exc
    if len(quoted) > _MAX_NAME:
        raise SettingsError(f"name={name[:40] + '...'!r} is too long for a file; choose a shorter one")
    return quoted
