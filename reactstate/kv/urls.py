"""open_store: a URL in, an open store out; engines are imported when they are asked for.

Forms
    ``memory:``, ``sqlite:relative.db``, ``sqlite:///absolute/path.db``, ``lmdb:`` likewise, each with options behind
    a ``?``; ``%`` escapes are decoded once, strictly. ``scheme://user:password@host:port,host:port/path?options`` for
    engines of other packages, which register under the entry-point group ``reactstate.stores``: the name is the
    scheme, the value an asynchronous function of a StoreUrl, StoreOptions and a Clock that returns a KeyValueStore.

Contract
    User and password reach no log, no repr, no error and no chain of errors, whatever is wrong with the URL: what
    could hold a part of them is not quoted, and an engine's error that does is replaced by one that does not.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from reactstate.clock import Clock, SystemClock
from reactstate.errors import SettingsError, StorageError, TransientError, UnavailableError, UnsupportedError
from reactstate.kv.opening import Opening
from reactstate.kv.options import StoreOptions
from reactstate.kv.store import KeyValueStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["StoreFactory", "StoreUrl", "open_store"]

_LOCAL: Final = ("file", "lmdb", "memory", "sqlite")
_GROUP: Final = "reactstate.stores"
_LATER: Final = ("libsql", "redis", "redis+sentinel", "postgresql", "etcd", "dynamodb", "clickhouse")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_SERVER: Final = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET: Final = re.compile(r"user|pass|pwd|secret|token|key|auth|cred|sign", re.IGNORECASE)
_MAX_PORT: Final = 65535


def open_store(url: str, *, clock: Clock | None = None, **options: Any) -> Opening[KeyValueStore]:
    """Open the store at *url*: await it, or use it with ``async with``, which closes it.

    Args:
        url: ``memory:``, ``sqlite:app.db``, ``sqlite:///var/lib/app.db``, ``lmdb:app.lmdb``, or of an engine that
            another package registers; with options as in ``sqlite:app.db?durability=interval&default_ttl=3600``.
        clock: Decides about times to live; None: the system's.
        options: The fields of StoreOptions, and of an engine's own (lmdb: ``map_size``); they win over the URL's.

    Raises:
        SettingsError: (when awaited) The URL or an option cannot be used.
        UnsupportedError: The engine is not part of this version, or its library is not installed.
        StorageError: The store could not be opened.
        CorruptionError: What is stored there is damaged.

    Example:
        >>> async with open_store("memory:?default_ttl=60") as store:  # doctest: +SKIP
        ...     await store.put("greeting", b"hello")
    """
    return Opening(lambda: _open(url, clock if clock is not None else SystemClock(), options))


class StoreUrl:
    """The URL of a store, in parts, with every escape decoded.

    Attributes:
        scheme: What stands before the first colon.
        user: The user, or None.
        password: The password, or None; it is in no text that this object makes.
        hosts: Host and port (None: the engine's usual one) of each server.
        path: The path, with its leading slash when there are hosts.
        query: The options by name, those of StoreOptions included.
        masked: The URL without user, password, and the values of options that sound like secrets.
    """

    __slots__ = ("hosts", "masked", "password", "path", "query", "scheme", "user")

    def __init__(
        self,
        scheme: str,
        user: str | None,
        password: str | None,
        hosts: tuple[tuple[str, int | None], ...],
        path: str,
        query: Mapping[str, str],
    ) -> None:
        self.scheme: str = scheme
        self.user: str | None = user
        self.password: str | None = password
        self.hosts: tuple[tuple[str, int | None], ...] = hosts
        self.path: str = path
        self.query: Mapping[str, str] = MappingProxyType(dict(query))
        self.masked: str = self._mask()

    def _mask(self) -> str:
        secret = "" if self.user is None and self.password is None else "***@"
        hosts = ",".join(
            (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}") for host, port in self.hosts
        )
        query = "&".join(
            f"{urllib.parse.quote(name)}={'***' if _SECRET.search(name) else urllib.parse.quote(value)}"
            for name, value in self.query.items()
        )
        authority = f"//{secret}{hosts}" if self.hosts or secret else ""
        return f"{self.scheme}:{authority}{urllib.parse.quote(self.path)}{'?' if query else ''}{query}"

    @classmethod
    def parse(cls, url: str) -> StoreUrl:
        """Take *url* apart.

        Raises:
            SettingsError: It cannot be taken apart; the text names no part of it that could be a secret.
        """
        if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance] - URLs come from callers
            raise SettingsError(f"a url is text, such as 'sqlite:app.db', not a {type(url).__name__}")
        scheme, colon, rest = url.partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise SettingsError(
                "this is not the URL of a store; write one such as memory:, sqlite:app.db or sqlite:///var/lib/app.db"
            )
        place, _, query = rest.partition("?")
        authority, slash, path = place[2:].partition("/") if place.startswith("//") else ("", "", place)
        # such an @ may end a user and password that were not escaped; only a name of a file may hold one
        if "@" in query or "#" in authority or ("@" in path and (authority or scheme not in _LOCAL)):
            raise SettingsError(
                "the URL cannot be taken apart: write @ as %40, and in user and password / as %2F, ? as %3F, # as %23"
            )
        userinfo, at, servers = authority.rpartition("@")
        if "@" in userinfo:
            raise SettingsError("the URL holds more than one @; in user and password write it as %40")
        user, colon, password = userinfo.partition(":")
        return cls(
            scheme,
            _decoded(user, "the user") if at else None,
            _decoded(password, "the password") if colon else None,
            _hosts(servers),
            _decoded(slash + path, "the path"),
            _options(query),
        )

    def __repr__(self) -> str:
        return f"StoreUrl({self.masked!r})"


class StoreFactory(Protocol):
    """What an entry point of the group ``reactstate.stores`` names: it opens the stores of one scheme."""

    async def __call__(self, url: StoreUrl, options: StoreOptions, clock: Clock) -> KeyValueStore:
        """Return the open store at *url*."""
        ...


def _decoded(text: str, what: str) -> str:
    """Decode the escapes of *text*; the error quotes nothing, and chains nothing that does."""
    if not _BAD_ESCAPE.search(text):
        try:
            decoded = urllib.parse.unquote(text, errors="strict")
            decoded.encode()
        except UnicodeError:
            pass
        else:
            if "\0" not in decoded:
                return decoded
    raise SettingsError(f"{what} in the URL holds escapes that are no UTF-8 text; write % as %25")


def _options(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise SettingsError("the options in the URL are written as ?name=value&name=value")
        name = _decoded(name, "the name of an option")
        if name in found:
            raise SettingsError(f"the option {name!r} is given twice in the URL")
        found[name] = _decoded(value, f"the option {name!r}")
    return found


def _hosts(servers: str) -> tuple[tuple[str, int | None], ...]:
    found: list[tuple[str, int | None]] = []
    for server in servers.split(",") if servers else ():
        parts = _SERVER.fullmatch(server)
        if parts is None or not 0 < int(parts["port"] or 1) <= _MAX_PORT:
            raise SettingsError(
                f"the servers in the URL are written as host:port,host:port; a port is a number from 1 to {_MAX_PORT}"
            )
        host = parts["address"] or _decoded(parts["host"], "the host")
        found.append((host, int(parts["port"]) if parts["port"] else None))
    return tuple(found)


# --- opening ----------------------------------------------------------------------------------------------------


async def _open(url: str, clock: Clock, options: dict[str, Any]) -> KeyValueStore:
    if not isinstance(clock, Clock):  # pyright: ignore[reportUnnecessaryIsInstance] - clocks come from callers
        raise SettingsError(f"clock={clock!r}: give a Clock, such as SystemClock()")
    parsed = StoreUrl.parse(url)
    scheme = parsed.scheme
    if scheme == "memory":
        from reactstate.kv.memory import MemoryStore

        if parsed.hosts or parsed.user is not None or parsed.path.strip("/"):
            raise SettingsError("memory: is in this process, and nothing but options follows it")
        return MemoryStore(options=_store_options(parsed, options), clock=clock)
    if scheme == "sqlite":
        from reactstate.kv.sqlite import SqliteStore

        path = _path(parsed, "app.db")
        return await SqliteStore.open(path, options=_store_options(parsed, options), clock=clock)
    if scheme == "lmdb":
        from reactstate.kv.lmdb import LmdbStore

        path = _path(parsed, "app.lmdb")
        own = _map_size(parsed, options)
        return await LmdbStore.open(path, options=_store_options(parsed, options, "map_size"), clock=clock, **own)
    if scheme == "file":
        raise SettingsError("file: keeps single containers and is no store; use sqlite: or lmdb: with a path")
    if scheme in _LATER:
        raise UnsupportedError(
            f"{scheme}: stores are not part of this version; use memory:, sqlite: or lmdb:",
            layer="open_store",
            engine=scheme.partition("+")[0],
            capability="store",
        )
    return await _open_registered(parsed, clock, options)


def _path(url: StoreUrl, example: str) -> str:
    if url.hosts or url.user is not None:
        raise SettingsError(
            f"{url.scheme}: files are on this machine; write {url.scheme}:{example} or "
            f"{url.scheme}:///var/lib/{example}"
        )
    if not url.path or url.path == "/":
        raise SettingsError(f"{url.scheme}: needs a path, as in {url.scheme}:{example}")
    if url.path == ":memory:":
        raise SettingsError(f"{url.scheme}: keeps its entries in files; for a store in memory use memory:")
    return url.path


def _store_options(url: StoreUrl, options: Mapping[str, Any], *own: str) -> StoreOptions:
    """Make the options of a built-in engine, whose *own* ones are looked at elsewhere."""
    known = sorted([field.name for field in fields(StoreOptions)] + list(own))
    for name in (*url.query, *options):
        if name not in known:
            raise SettingsError(f"{url.scheme}: has no option {name!r}; known are {', '.join(known)}")
    overridden = {name: value for name, value in options.items() if name not in own}
    texts = {name: text for name, text in url.query.items() if name not in own and name not in overridden}
    return StoreOptions.from_text(texts, **overridden)


def _map_size(url: StoreUrl, options: Mapping[str, Any]) -> dict[str, int]:
    value: Any = options.get("map_size", url.query.get("map_size"))
    if value is None:
        return {}
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or value < 1:
        raise SettingsError("map_size: give the bytes as a whole number of 1 or more")
    return {"map_size": value}


async def _open_registered(url: StoreUrl, clock: Clock, options: Mapping[str, Any]) -> KeyValueStore:
    from importlib.metadata import entry_points

    registered = entry_points(group=_GROUP)
    if url.scheme not in registered.names:
        engines = sorted({"lmdb", "memory", "sqlite"} | registered.names)
        raise SettingsError(f"no engine is known for {url.scheme}:; known are {', '.join(engines)}")
    known = {field.name for field in fields(StoreOptions)}
    for name in options:
        if name not in known:
            raise SettingsError(
                f"{url.scheme}: options in code are {', '.join(sorted(known))}; options of the engine go into the URL, "
                f"not {name!r}"
            )
    texts = {name: text for name, text in url.query.items() if name in known and name not in options}
    chosen = StoreOptions.from_text(texts, **options)
    try:
        factory: StoreFactory = registered[url.scheme].load()
    except Exception as exc:
        raise UnsupportedError(
            f"the engine that is registered for {url.scheme}: cannot be imported; repair or remove its package",
            layer="open_store",
            engine=url.scheme,
            capability="store",
        ) from exc
    try:
        store = await factory(url, chosen, clock)
    except Exception as exc:
        if not _tells(exc, url):
            raise
        failed, transient = type(exc).__name__, isinstance(exc, TransientError)
    else:
        if not isinstance(store, KeyValueStore):  # pyright: ignore[reportUnnecessaryIsInstance] - of another package
            raise SettingsError(f"what is registered for {url.scheme}: returned a {type(store).__name__} and no store")
        return store
    # outside of the except, so that the error that names the secret is not chained
    text = f"the engine of {url.masked} failed with {failed}; its text is left out, as it names user or password"
    raise UnavailableError(text) if transient else StorageError(text, url=url.masked)


def _tells(error: BaseException, url: StoreUrl) -> bool:
    """Say whether *error*, or one that it chains, names user or password."""
    texts = "\n".join(_texts(error, set()))
    if url.user and any(re.search(rf"(?<!\w){re.escape(form)}(?!\w)", texts) for form in _forms(url.user)):
        return True
    return url.password is not None and url.password != "" and any(form in texts for form in _forms(url.password))


def _forms(secret: str) -> set[str]:
    return {secret, urllib.parse.quote(secret), urllib.parse.quote(secret, safe=""), repr(secret)[1:-1]}


def _texts(error: BaseException, seen: set[int]) -> Iterator[str]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield f"{error}\n{error!r}\n{vars(error)!r}\n{getattr(error, '__notes__', '')!r}"
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    for other in (error.__cause__, error.__context__, *inner):
        if other is not None:
            yield from _texts(other, seen)
