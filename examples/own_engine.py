"""An engine of your own: a store in one JSON file that people can read, safe against crashes.

Each commit writes the whole file anew, so it is for settings and other small things. The page "Writing an engine" of the
documentation goes through it step by step, and proves it with KeyValueStoreConformance.
"""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock
import orjson

from reactstate import (
    Add,
    AlreadyOpenError,
    Capability,
    Clock,
    ClosedError,
    Commit,
    CorruptionError,
    Cursor,
    Delete,
    Entry,
    KeyValueStore,
    Limits,
    Put,
    RangeExpect,
    ReadOnlyError,
    ReadView,
    SettingsError,
    State,
    StateContainer,
    Step,
    StorageError,
    StorageFailedError,
    StoreOptions,
    StoreStats,
    StoreUrl,
    SystemClock,
    UnknownOutcomeError,
    UnsupportedError,
)
from reactstate.kv.protocol import Watch
from reactstate.kv.terms import add, check_commit, check_key, conflict, expects, span, to_deadline, to_moment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence


class Row(NamedTuple):
    value: bytes
    revision: int
    deadline_ms: int  # since 1970; 0: it never expires

    def expired(self, now_ms: int) -> bool:
        return 0 < self.deadline_ms <= now_ms


class JsonFileStore(KeyValueStore):
    engine = "jsonfile"
    capabilities = frozenset(
        {
            Capability.CAS,
            Capability.TRANSACTIONS,
            Capability.SNAPSHOT_READS,
            Capability.TTL,
            Capability.LOCKS,
            Capability.DURABLE,
            Capability.FENCING,
            Capability.LINEARIZABLE_READS,
        }
    )
    limits = Limits(max_key_bytes=1024, max_value_bytes=1 << 20, max_steps=10_000, max_commit_bytes=1 << 24)

    def __init__(self, path: str, *, options: StoreOptions | None = None, clock: Clock | None = None) -> None:
        self.url = f"jsonfile:{path}"
        self.options = options or StoreOptions()
        self._clock = clock or SystemClock()
        self._path = Path(path)
        self._rows: Mapping[str, Row] = {}
        self._revision = 0
        self._seen_ms = 0
        self._stats = StoreStats()
        self._closed = self._failed = False
        self._turn = asyncio.Lock()  # one writer after the other
        self._lock = filelock.FileLock(f"{path}.lock", thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout as exc:
            raise AlreadyOpenError(f"{path} is open already; a JSON file has one user at a time") from exc
        try:
            self._read_file()
        except BaseException:
            self._lock.release()
            raise

    # --- the file -----------------------------------------------------------------------------------------------------

    def _read_file(self) -> None:
        try:
            document = orjson.loads(self._path.read_bytes())
            self._revision, self._seen_ms = int(document["revision"]), int(document["time_ms"])
            self._rows = {key: _row_of(row) for key, row in document["entries"].items()}
        except FileNotFoundError:
            return  # a new store
        except OSError as exc:
            raise StorageError(f"{self._path} cannot be read: {exc}", url=self.url) from exc
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise CorruptionError(f"{self._path} holds no store; repair or remove it", path=str(self._path)) from exc

    def _write_file(self, rows: Mapping[str, Row], revision: int, time_ms: int) -> None:
        """Put a new file in place of the old one: a crash leaves one of them, never a mix."""
        entries = {key: _document_of(row) for key, row in rows.items()}
        document = {"revision": revision, "time_ms": time_ms, "entries": entries}
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as exc:
            raise StorageError(f"{self._path} cannot be written; nothing was changed: {exc}", url=self.url) from exc
        try:
            _sync_directory(self._path.parent)
        except OSError as exc:
            self._failed = True
            raise UnknownOutcomeError(f"{self._path} may or may not be on disk; open it anew and look") from exc

    # --- reading ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.url} was closed; open it anew")
        if self._failed:
            raise StorageFailedError(f"{self.url} could not be written before; open it anew", url=self.url)

    def _now_ms(self) -> int:
        """Return the time; when the clock is set back, the store's time stands still."""
        self._seen_ms = max(self._seen_ms, self._clock.time_ns() // 1_000_000)
        return self._seen_ms

    async def get(self, key: str) -> Entry | None:
        self._check_open()
        check_key(key, self.limits)
        row = _alive(self._rows, key, self._now_ms())
        self._stats.get_count += 1
        if row is None:
            self._stats.miss_count += 1
            return None
        self._stats.hit_count += 1
        return _entry(key, row)

    async def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        self._check_open()
        async for entry in _select(self._rows, self._now_ms(), prefix, start, end, limit, reverse=reverse):
            yield entry
            self._check_open()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def commit(self, steps: Sequence[Step], *, ranges: Sequence[RangeExpect] = ()) -> Commit:
        self._check_open()
        if self.options.read_only:
            raise ReadOnlyError(f"{self.url} was opened with read_only=True; open it without to write")
        if ranges:
            self.require("commit with ranges", Capability.RANGE_EXPECT)  # raises UnsupportedError
        steps = tuple(steps)
        check_commit(steps, ranges, self.limits)
        # a task of its own: a caller who is cancelled leaves no half commit behind
        return await asyncio.shield(asyncio.create_task(self._commit(steps)))

    async def _commit(self, steps: Sequence[Step]) -> Commit:
        async with self._turn:
            self._check_open()
            now_ms, revision = self._now_ms(), self._revision + 1

            # 1. every expectation, before anything is done
            found = {step.key: _alive(self._rows, step.key, now_ms) for step in steps}
            failed = [step.key for step in steps if not expects(step, _revision_of(found[step.key]))]
            if failed:
                self._stats.conflict_count += 1
                raise conflict({key: _entry(key, row) for key in failed if (row := found[key])}, failed)

            # 2. every step, on a copy
            rows = dict(self._rows)
            entries: dict[str, Entry] = {}
            deleted = 0
            for step in steps:
                before = found[step.key]
                if isinstance(step.op, Delete):
                    if before is not None:
                        del rows[step.key]
                        deleted += 1
                elif step.op is not None:
                    rows[step.key] = row = _written(step.key, step.op, before, revision, now_ms)
                    entries[step.key] = _entry(step.key, row)
            if not entries and not deleted:
                return Commit(self._revision, {})

            # 3. first durable, then visible
            await self._make_current(rows, revision, now_ms)
            self._stats.put_count += len(entries)
            self._stats.delete_count += deleted
            return Commit(revision, entries)

    async def _make_current(self, rows: Mapping[str, Row], revision: int, now_ms: int) -> None:
        await asyncio.to_thread(self._write_file, rows, revision, now_ms)
        self._rows, self._revision = rows, revision

    async def cleanup_expired(self) -> int:
        self._check_open()
        return await asyncio.shield(asyncio.create_task(self._sweep()))

    async def _sweep(self) -> int:
        async with self._turn:
            self._check_open()
            now_ms = self._now_ms()
            rows = {key: row for key, row in self._rows.items() if not row.expired(now_ms)}
            expired = len(self._rows) - len(rows)
            if expired:
                await self._make_current(rows, self._revision + 1, now_ms)
                self._stats.expired_count += expired
            return expired

    # --- snapshots ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[ReadView]:
        self._check_open()
        view = _View(self, self._rows, self._revision)
        try:
            yield view
        finally:
            view.ended = True

    async def _raise_revision(self, revision: int) -> None:
        self._revision = max(self._revision, revision)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def watch(self, prefix: str = "", *, after: Cursor | None = None) -> Watch:  # noqa: ARG002 - it watches nothing
        raise self._cannot_watch()

    async def cursor(self) -> Cursor:
        raise self._cannot_watch()

    def _cannot_watch(self) -> UnsupportedError:
        return UnsupportedError(
            "a jsonfile: store cannot be watched; take sqlite:", engine=self.engine, capability=Capability.WATCH
        )

    def stats(self) -> StoreStats:
        return replace(self._stats, bytes=self._path.stat().st_size if self._path.exists() else 0)

    async def aclose(self) -> None:
        if self._cleaner is not None:
            self._cleaner.cancel()
        async with self._turn:  # after the commits that have begun
            self._closed = True
        self._lock.release()


class _View(ReadView):
    cursor = Cursor("")  # without WATCH there is nothing to resume

    def __init__(self, store: JsonFileStore, rows: Mapping[str, Row], revision: int) -> None:
        self.revision = revision
        self.ended = False
        self._store, self._rows, self._now_ms = store, rows, store._now_ms()

    def _check(self) -> None:
        self._store._check_open()
        if self.ended:
            raise ClosedError("this snapshot ended with its block; take another one")

    async def get(self, key: str) -> Entry | None:
        self._check()
        check_key(key, self._store.limits)
        row = _alive(self._rows, key, self._now_ms)
        return None if row is None else _entry(key, row)

    async def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        self._check()
        async for entry in _select(self._rows, self._now_ms, prefix, start, end, limit, reverse=reverse):
            yield entry
            self._check()


def _alive(rows: Mapping[str, Row], key: str, now_ms: int) -> Row | None:
    row = rows.get(key)
    return None if row is None or row.expired(now_ms) else row


def _revision_of(row: Row | None) -> int:
    return 0 if row is None else row.revision


def _entry(key: str, row: Row) -> Entry:
    return Entry(key, row.value, row.revision, to_moment(row.deadline_ms))


def _written(key: str, op: Put | Add, before: Row | None, revision: int, now_ms: int) -> Row:
    deadline_ms = 0 if op.ttl is None else to_deadline(now_ms, op.ttl)
    if isinstance(op, Put):
        return Row(op.value, revision, deadline_ms)
    if before is None:
        return Row(add(key, None, op.delta), revision, deadline_ms)
    return Row(add(key, before.value, op.delta), revision, before.deadline_ms)


async def _select(
    rows: Mapping[str, Row],
    now_ms: int,
    prefix: str,
    start: str | None,
    end: str | None,
    limit: int | None,
    *,
    reverse: bool,
) -> AsyncIterator[Entry]:
    first, last = span(prefix, start, end)
    keys = sorted((key for key in rows if first <= key and (last is None or key < last)), reverse=reverse)
    living = [key for key in keys if not rows[key].expired(now_ms)]
    for place, key in enumerate(living[:limit], 1):
        yield _entry(key, rows[key])
        if place % 100 == 0:
            await asyncio.sleep(0)  # let others run


def _row_of(document: dict[str, Any]) -> Row:
    value = document["text"].encode() if "text" in document else base64.b64decode(document["base64"])
    return Row(value, int(document["revision"]), int(document.get("deadline_ms", 0)))


def _document_of(row: Row) -> dict[str, Any]:
    try:
        document: dict[str, Any] = {"text": row.value.decode()}
    except UnicodeDecodeError:
        document = {"base64": base64.b64encode(row.value).decode()}
    document["revision"] = row.revision
    return document | ({"deadline_ms": row.deadline_ms} if row.deadline_ms else {})


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def open_json_file(url: StoreUrl, options: StoreOptions, clock: Clock) -> KeyValueStore:
    own = set(url.query) - {field.name for field in fields(StoreOptions)}
    if own or url.hosts or not url.path:
        raise SettingsError("write a path and options of StoreOptions, as in jsonfile:app.json?default_ttl=60")
    return JsonFileStore(url.path, options=options, clock=clock)


# --- trying it --------------------------------------------------------------------------------------------------------


class Settings(State):
    theme: str = "light"
    volume: int = 5


async def main(directory: str) -> None:
    path = Path(directory) / "app.json"
    async with JsonFileStore(str(path)) as store:
        await store.put("greeting", b"hello")
        await store.increment("starts")
        print(path.read_text("utf-8"))

        # A container needs an engine that can expect (CAS) and commit several keys (TRANSACTIONS).
        async with StateContainer.open(Settings(), store=store) as settings:
            await settings.update({"theme": "dark"}, action="go dark")
            await settings.update({"volume": 11}, action="louder")
            await settings.undo()

    async with JsonFileStore(str(path)) as store, StateContainer.open(Settings, store=store) as settings:
        print("opened again:", await store.increment("starts"), settings.version, settings.state)
        print("what was done:", [change.action for change in settings.history])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
