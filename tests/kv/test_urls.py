from __future__ import annotations

import asyncio
import importlib.metadata
import pickle
import re
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reactstate.clock import ManualClock
from reactstate.errors import (
    ReactStateError,
    ReadOnlyError,
    SettingsError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)
from reactstate.kv.memory import MemoryStore
from reactstate.kv.options import StoreOptions
from reactstate.kv.urls import StoreUrl, open_store

# --- the built-in engines ---------------------------------------------------------------------------------------


async def test_memory_opens_by_await_and_by_async_with():
    store = await open_store("memory:")
    await store.put("a", b"1")
    await store.aclose()
    async with open_store("memory:") as store:
        assert store.engine == "memory"
        assert await store.get("a") is None


@pytest.mark.parametrize("engine", ["sqlite", "lmdb"])
async def test_a_path_is_relative_or_absolute_and_its_escapes_are_decoded_once(tmp_path, monkeypatch, engine):
    monkeypatch.chdir(tmp_path)
    for written, name in (
        (f"{engine}:plain.store", "plain.store"),
        (f"{engine}://{tmp_path}/absolute.store", "absolute.store"),
        (f"{engine}:{tmp_path}/one-slash.store", "one-slash.store"),
        (f"{engine}:a%20b%3Fc%2525.store", "a b?c%25.store"),
        (f"{engine}:me@home#1.store", "me@home#1.store"),
        (f"{engine}://{tmp_path}/me@work.store", "me@work.store"),
        (f"{engine}:caf%C3%A9.store", "café.store"),
    ):
        async with open_store(written) as store:
            assert store.engine == engine
            await store.put("a", b"1")
        assert (tmp_path / name).exists(), written
        async with open_store(written) as store:
            found = await store.get("a")
            assert found is not None
            assert found.value == b"1"


async def test_options_of_the_url_are_those_of_store_options():
    async with open_store("memory:?default_ttl=60&durability=interval&flush_every=5&change_log_retention=2") as store:
        assert store.options == StoreOptions(
            default_ttl=timedelta(seconds=60),
            durability="interval",
            flush_every=5,
            change_log_retention=timedelta(seconds=2),
        )


async def test_options_in_code_win_over_the_url_even_where_that_is_wrong():
    ttl = timedelta(hours=1)
    async with open_store("memory:?default_ttl=soon&compression=zstd", default_ttl=ttl) as store:
        assert (store.options.default_ttl, store.options.compression) == (ttl, "zstd")


async def test_the_clock_decides_about_times_to_live():
    clock = ManualClock()
    async with open_store("memory:?default_ttl=10", clock=clock) as store:
        await store.put("a", b"1")
        clock.advance(10)
        assert await store.get("a") is None


async def test_read_only_reaches_the_engine(tmp_path):
    async with open_store(f"sqlite:{tmp_path}/a.db") as store:
        await store.put("a", b"1")
    async with open_store(f"sqlite:{tmp_path}/a.db?read_only=true") as store:
        with pytest.raises(ReadOnlyError):
            await store.put("a", b"2")


@pytest.mark.parametrize("options", ["?map_size=20000000", ""])
async def test_lmdb_takes_the_size_of_its_map(tmp_path, options):
    code = {} if options else {"map_size": 20_000_000}
    async with open_store(f"lmdb:{tmp_path}/a.lmdb{options}", **code) as store:
        await store.put("a", b"1")


@pytest.mark.parametrize("size", ["0", "-1", "1e9", "many", "", "9" * 30, "٣"])
async def test_a_map_size_that_is_no_number_of_bytes_is_refused(tmp_path, size):
    with pytest.raises(SettingsError, match="map_size"):
        await open_store(f"lmdb:{tmp_path}/a.lmdb?map_size={size}")
    with pytest.raises(SettingsError, match="map_size"):
        await open_store(f"lmdb:{tmp_path}/a.lmdb", map_size=1.5)
    assert list(tmp_path.iterdir()) == []


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory", "sqlite:app.db"),
        ("", "sqlite:app.db"),
        ("app.db", "sqlite:app.db"),
        (":memory:", "sqlite:app.db"),
        ("Memory:", "sqlite:app.db"),
        ("/var/lib/app.db", "sqlite:app.db"),
        ("memory:name", "nothing but options"),
        ("memory://host", "nothing but options"),
        ("sqlite:", "needs a path"),
        ("sqlite:?read_only=true", "needs a path"),
        ("sqlite://", "needs a path"),
        ("lmdb:///", "needs a path"),
        ("sqlite::memory:", "use memory:"),
        ("sqlite://app.db", "files are on this machine"),
        ("sqlite://host:1/app.db", "files are on this machine"),
        ("lmdb://@/app", "files are on this machine"),
        ("sqlite:a%2.db", "%25"),
        ("sqlite:a%zz.db", "%25"),
        ("sqlite:100%", "%25"),
        ("sqlite:a%ff.db", "UTF-8"),
        ("sqlite:a%00.db", "escapes"),
        ("sqlite:\ud800.db", "UTF-8"),
        ("sqlite:a.db?colour=red", "'colour'; known are cache_capacity, change_log_retention"),
        ("lmdb:a?colour=red", "map_size"),
        ("sqlite:a.db?map_size=5", "'map_size'; known are"),
        ("memory:?default_ttl=1&default_ttl=2", "'default_ttl' is given twice"),
        ("memory:?default_ttl", "name=value"),
        ("memory:?=5", "name=value"),
        ("memory:?default_ttl=1&&read_only=1", "name=value"),
        ("memory:?default_ttl=%zz", "'default_ttl'"),
        ("memory:?default_ttl=soon", "not a number"),
        ("memory:?read_only=maybe", "true or false"),
        ("memory:?durability=sometimes", "always, interval, never"),
        ("file:board", "use sqlite: or lmdb:"),
        ("file:///var/lib/board?format=json", "use sqlite: or lmdb:"),
        ("mongodb://host/db", "no engine is known for mongodb:; known are .*lmdb, memory.*, sqlite"),
    ],
)
async def test_a_url_that_cannot_be_used_says_what_to_write(url, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=words):
        await open_store(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", [None, 5, b"memory:", Path("app.db")])
async def test_a_url_that_is_no_text_is_refused(url):
    with pytest.raises(SettingsError, match="a url is text"):
        await open_store(url)


async def test_an_option_or_clock_in_code_that_does_not_exist_is_refused():
    with pytest.raises(SettingsError, match="'colour'; known are"):
        await open_store("memory:", colour="red")
    with pytest.raises(SettingsError, match="default_ttl"):
        await open_store("memory:", default_ttl=60)
    with pytest.raises(SettingsError, match="clock"):
        await open_store("memory:", clock=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "libsql:a.db",
        "libsql://host",
        "redis://localhost",
        "redis+sentinel://a:1,b:2/primary",
        "postgresql://ada:pw@host/db",
        "etcd://a:1,b:2",
        "dynamodb://",
        "clickhouse://host:9000",
    ],
)
async def test_engines_of_later_versions_are_named_as_such(url):
    with pytest.raises(UnsupportedError, match="not part of this version") as caught:
        await open_store(url)
    assert (caught.value.engine, caught.value.capability) == (re.split(r"\W", url)[0], "store")


async def test_an_engine_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("lmdb", "reactstate.kv.lmdb"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UnsupportedError, match=r"reactstate\[lmdb\]"):
        await open_store(f"lmdb:{tmp_path}/a")


# --- the parts of a URL -----------------------------------------------------------------------------------------


def test_a_url_is_taken_apart_and_each_escape_is_decoded_once():
    url = StoreUrl.parse("redis+tls://ada:p%40ss%2525@one:1,[::1]:2,three/a%20b/c?db=3&colour=r%26d")
    assert url.scheme == "redis+tls"
    assert (url.user, url.password) == ("ada", "p@ss%25")
    assert url.hosts == (("one", 1), ("::1", 2), ("three", None))
    assert url.path == "/a b/c"
    assert dict(url.query) == {"db": "3", "colour": "r&d"}
    assert url.masked == "redis+tls://***@one:1,[::1]:2,three/a%20b/c?db=3&colour=r%26d"
    assert repr(url) == f"StoreUrl({url.masked!r})"


@pytest.mark.parametrize(
    ("text", "user", "password", "hosts", "path", "masked"),
    [
        ("x:a/b", None, None, (), "a/b", "x:a/b"),
        ("x:///a", None, None, (), "/a", "x:/a"),
        ("x://h", None, None, (("h", None),), "", "x://h"),
        ("x://ada@h/", "ada", None, (("h", None),), "/", "x://***@h/"),
        ("x://:pw@h", "", "pw", (("h", None),), "", "x://***@h"),
        ("x://ada:@/db", "ada", "", (), "/db", "x://***@/db"),
        ("x://[::1]", None, None, (("::1", None),), "", "x://[::1]"),
        ("x://h?password=pw&a=1", None, None, (("h", None),), "", "x://h?password=***&a=1"),
    ],
)
def test_the_parts_that_are_not_there(text, user, password, hosts, path, masked):
    url = StoreUrl.parse(text)
    assert (url.user, url.password, url.hosts, url.path, url.masked) == (user, password, hosts, path, masked)


@pytest.mark.parametrize(
    "text",
    [
        "x://ada:p@w@h",
        "x://ada:p/w@h",
        "x://ada:p?w@h",
        "x://ada:p#w@h",
        "x:ada:pw@h",
        "x:///ada:pw@h",
        "x://h:port",
        "x://h:0",
        "x://h:65536",
        "x://h:1:2",
        "x://[::1",
        "x://[::1]5",
        "x://:5",
        "x://a,,b",
        "x://h:٣",
        "x://%ff@h",
        "x://ada:%@h",
        "x://%zz",
        "x://h/%zz",
        "x://h?%zz=1",
    ],
)
def test_what_cannot_be_taken_apart_is_refused(text):
    with pytest.raises(SettingsError) as caught:
        StoreUrl.parse(text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# --- engines of other packages ----------------------------------------------------------------------------------


async def open_memory(url, options, clock):
    store = MemoryStore(options=options, clock=clock)
    store.url = url.masked
    store.parts = url
    return store


async def open_failing(url, options, clock):
    how = url.query.get("how")
    text = f"no login for {url.user} with {url.password}"
    if how == "unavailable":
        raise UnavailableError(text)
    if how == "cause":
        raise StorageError("it failed") from OSError(text)
    if how == "context":
        try:
            int(text)
        except ValueError:
            raise StorageError("it failed") from None
    if how == "attribute":
        raise StorageError("it failed", url=f"failing://{url.user}:{url.password}@host")
    if how == "note":
        error = StorageError("it failed")
        error.add_note(text)
        raise error
    if how == "group":
        raise ExceptionGroup("several", [OSError("one"), OSError(text)])
    if how == "loop":
        error = StorageError("it failed")
        error.__cause__ = StorageError("again")
        error.__cause__.__cause__ = error
        raise error
    if how == "quiet":
        raise UnavailableError("the server is away")
    raise OSError(text)


async def open_nothing(url, options, clock):
    return "a store"


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A package that registers engines, found on the path as an installed one is."""
    info = tmp_path / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[reactstate.stores]\n"
        "other = others:open_memory\n"
        "failing = others:open_failing\n"
        "nothing = others:open_nothing\n"
        "broken = others:not_there\n"
        "memory = others:open_nothing\n"
        "redis = others:open_nothing\n"
    )
    module = type(sys)("others")
    module.open_memory, module.open_failing, module.open_nothing = open_memory, open_failing, open_nothing
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "others", module)
    assert "other" in importlib.metadata.entry_points(group="reactstate.stores").names


async def test_an_engine_of_another_package_gets_the_parts_the_options_and_the_clock(registered):
    clock = ManualClock()
    url = "other://ada:pw@host:1/db?default_ttl=5&pool=3&compression=zstd"
    async with open_store(url, clock=clock, compression="none") as store:
        assert store.options == StoreOptions(default_ttl=timedelta(seconds=5))
        assert (store.parts.user, store.parts.password, store.parts.path) == ("ada", "pw", "/db")
        assert store.parts.query["pool"] == "3"
        await store.put("a", b"1")
        clock.advance(5)
        assert await store.get("a") is None


async def test_a_built_in_scheme_cannot_be_taken_by_another_package(registered):
    async with open_store("memory:") as store:
        assert type(store) is MemoryStore
    with pytest.raises(UnsupportedError):
        await open_store("redis://host")


async def test_an_unknown_engine_names_those_that_are_registered(registered):
    with pytest.raises(SettingsError, match="broken, failing, lmdb, memory, nothing, other"):
        await open_store("mongodb://host")


async def test_a_registered_engine_that_cannot_be_used_is_a_typed_error(registered):
    with pytest.raises(UnsupportedError, match="cannot be imported") as caught:
        await open_store("broken://host")
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(SettingsError, match="returned a str"):
        await open_store("nothing://host")
    with pytest.raises(SettingsError, match="go into the URL, not 'pool'"):
        await open_store("other://host", pool=3)
    with pytest.raises(SettingsError, match="not a number"):
        await open_store("other://host?default_ttl=soon")


async def test_an_error_of_an_engine_that_names_nobody_is_passed_on(registered):
    with pytest.raises(UnavailableError, match="the server is away"):
        await open_store("failing://Uq8x:Zq7x@host?how=quiet")
    with pytest.raises(StorageError, match="it failed"):
        await open_store("failing://Uq8x:Zq7x@host?how=loop")
    with pytest.raises(OSError, match="no login for None"):
        await open_store("failing://host")


# --- secrets ----------------------------------------------------------------------------------------------------


def everything_told_by(error):
    """All texts of an error and of those that it chains, suppressed or not."""
    told, seen, waiting = [], set(), [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        told += [str(one), repr(one), repr(vars(one)), repr(one.args), repr(getattr(one, "__notes__", ""))]
        told += [repr(getattr(one, "object", ""))]
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    lines = traceback.format_exception(error)
    return "\n".join([*told, *(line for line in lines if not line.lstrip().startswith("File"))])


@pytest.mark.parametrize(
    "how", ["unavailable", "cause", "context", "attribute", "note", "group", "quiet", "loop", "plain"]
)
async def test_an_engines_error_never_names_user_or_password(registered, how, caplog):
    with pytest.raises(Exception) as caught:
        await open_store(f"failing://Uq8x:Zq7x@host/db?how={how}")
    told = everything_told_by(caught.value) + caplog.text
    assert "Uq8" not in told
    assert "Zq7" not in told
    assert isinstance(caught.value, ReactStateError)
    if how == "unavailable":
        assert isinstance(caught.value, UnavailableError)
    if how == "plain":
        assert caught.value.url == f"failing://***@host/db?how={how}"


tricky = st.text(st.sampled_from("@/?#:%&=+,;[]()'\"\\ \t\0{}$!*~^`|<>.-_0aé\ud800") | st.characters(), max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    scheme=st.sampled_from(
        [
            "memory",
            "sqlite",
            "lmdb",
            "file",
            "redis",
            "redis+sentinel",
            "postgresql",
            "etcd",
            "mongodb",
            "REDIS",
            "",
            "1",
        ]
    ),
    slashes=st.sampled_from(["//", "//", "//", "", "/", "///"]),
    user=tricky,
    password=tricky,
    tail=st.sampled_from(["host", "host:5432/db", "h?a=1", "h?durability=x", "", "h:port", "%zz", "h#x", "a,b:2/%ff"]),
)
@example(scheme="redis", slashes="//", user="", password="@", tail="host")
@example(scheme="redis", slashes="//", user="", password="%ff", tail="host")
@example(scheme="sqlite", slashes="//", user="", password="?", tail="host")
def test_no_failing_open_ever_names_user_or_password(scheme, slashes, user, password, tail):
    url = f"{scheme}:{slashes}Uq8{user}Uq8:Zq7{password}Zq7@{tail}"
    opening = open_store(url, colour="red")
    assert "Zq7" not in repr(opening)
    with pytest.raises(ReactStateError) as caught:
        asyncio.run(opening._make())
    told = everything_told_by(caught.value)
    assert "Zq7" not in told
    assert "Uq8" not in told


@given(user=tricky, password=tricky)
def test_no_text_of_a_url_ever_names_user_or_password(user, password):
    from urllib.parse import quote

    try:
        written = f"x://{quote('Uq8' + user, safe='')}:{quote('Zq7' + password, safe='')}@host"
    except UnicodeEncodeError:
        return
    if "\0" in user + password:
        return
    url = StoreUrl.parse(written)
    assert (url.user, url.password) == ("Uq8" + user, "Zq7" + password)
    for text in (repr(url), str(url), url.masked):
        assert "Uq8" not in text
        assert "Zq7" not in text


def test_a_url_with_its_password_is_not_pickled_by_accident():
    with pytest.raises(TypeError):
        pickle.dumps(StoreUrl.parse("x://ada:pw@host"))
