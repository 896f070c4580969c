"""StoreOptions and StoreStats: how a store is opened, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from reactstate.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["StoreOptions", "StoreStats"]

_DURABILITIES: Final = ("always", "interval", "never")
_COMPRESSIONS: Final = ("none", "zstd")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How a store is opened; the same names are options of its URL, as in ``sqlite:app.db?durability=interval``.

    Attributes:
        default_ttl: How long entries live that ``put``, ``put_if_absent`` and ``increment`` write without a TTL of
            their own; None: until they are deleted. ``commit`` never applies it. In a URL: seconds.
        cache_capacity: The bytes that the engine may use to cache pages (SQLite); engines without a cache of their
            own take it without effect.
        compression: ``"none"``, or ``"zstd"``: values that become smaller are stored compressed.
        flush_every: With ``durability="interval"``: flush after this many commits too; None: by time alone. Given
            alone it makes ``durability`` ``"interval"``.
        durability: ``"always"``: an acknowledged commit survives a power cut. ``"interval"``: it survives the process
            at once, and a power cut once it was flushed (every ``flush_interval`` seconds). ``"never"``: flushing is
            left to the operating system. An engine that keeps nothing on disk takes it without effect.
        flush_interval: The seconds between two flushes with ``durability="interval"``.
        change_log_retention: How long the events are kept that ``watch`` resumes from. In a URL: seconds.
        read_only: Open without writing anything; every write raises ReadOnlyError.
    """

    default_ttl: timedelta | None = None
    cache_capacity: int = 64 * 1024 * 1024
    compression: Literal["none", "zstd"] = "none"
    flush_every: int | None = None
    durability: Literal["always", "interval", "never"] | None = None
    flush_interval: float = 1.0
    change_log_retention: timedelta = timedelta(hours=1)
    read_only: bool = False

    def __post_init__(self) -> None:
        """Check the values, and settle ``durability``.

        Raises:
            SettingsError: One of them cannot be used.
        """
        for name in ("default_ttl", "change_log_retention"):
            value = getattr(self, name)
            if name == "default_ttl" and value is None:
                continue
            if not isinstance(value, timedelta) or value <= timedelta(0):
                raise SettingsError(f"{name}={value!r}: give a timedelta of more than 0")
        for name in ("cache_capacity", "flush_every"):
            value = getattr(self, name)
            if name == "flush_every" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise SettingsError(f"{name}={value!r}: give a whole number of 1 or more")
        if not isinstance(self.flush_interval, (int, float)) or not 0 < self.flush_interval < 1e6:  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise SettingsError(f"flush_interval={self.flush_interval!r}: give seconds, more than 0")
        if self.compression not in _COMPRESSIONS:
            raise SettingsError(f"compression={self.compression!r}: choose one of {', '.join(_COMPRESSIONS)}")
        if self.durability is None:
            object.__setattr__(self, "durability", "always" if self.flush_every is None else "interval")
        elif self.durability not in _DURABILITIES:
            raise SettingsError(f"durability={self.durability!r}: choose one of {', '.join(_DURABILITIES)}")
        elif self.flush_every is not None and self.durability != "interval":
            raise SettingsError(f"flush_every needs durability='interval', not {self.durability!r}")
        if type(self.read_only) is not bool:
            raise SettingsError(f"read_only={self.read_only!r}: give True or False")

    @classmethod
    def from_text(cls, options: Mapping[str, str], **overrides: Any) -> Self:
        """Make options of a URL's texts; *overrides* (from code) win.

        Raises:
            SettingsError: A name is unknown, or a text is not a value of its kind.
        """
        values: dict[str, Any] = {}
        known = {field.name for field in fields(cls)}
        for name, text in options.items():
            if name not in known:
                raise SettingsError(f"a store has no option {name!r}; known are {', '.join(sorted(known))}")
            values[name] = _parse(name, text)
        for name in overrides:
            if name not in known:
                raise SettingsError(f"a store has no option {name!r}; known are {', '.join(sorted(known))}")
        return cls(**(values | overrides))


def _parse(name: str, text: str) -> Any:
    try:
        if name in {"default_ttl", "change_log_retention"}:
            return timedelta(seconds=float(text))
        if name in {"cache_capacity", "flush_every"}:
            return int(text)
        if name == "flush_interval":
            return float(text)
    except (ValueError, OverflowError) as exc:
        raise SettingsError(f"{name}={text} is not a number") from exc
    if name == "read_only":
        if text.lower() not in {"true", "false", "1", "0"}:
            raise SettingsError(f"{name}={text}: say true or false")
        return text.lower() in {"true", "1"}
    return text


@dataclass(slots=True)
class StoreStats:
    """What one store object counted since it was opened.

    Attributes:
        get_count: Keys that were read by ``get`` and ``get_many``.
        hit_count: Those that were there.
        miss_count: Those that were not.
        put_count: Entries that were written, counters included.
        delete_count: Entries that were deleted.
        expired_count: Expired entries that were swept by this object.
        conflict_count: Commits that were refused because an expectation failed.
        bytes: The bytes of keys and values held, or of the files; 0 where only the server knows.
    """

    get_count: int = 0
    hit_count: int = 0
    miss_count: int = 0
    put_count: int = 0
    delete_count: int = 0
    expired_count: int = 0
    conflict_count: int = 0
    bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """The part of the keys read that were there, between 0 and 1; 0.0 before the first."""
        return self.hit_count / self.get_count if self.get_count else 0.0
