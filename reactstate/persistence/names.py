"""The names of files in a persistence's directory, and why no blob name can lead out of it.

A blob's name becomes one file name in one directory: ``/`` turns into ``+`` and an upper-case letter into ``^`` and
the lower-case one, so that names which differ only in case stay apart where the file system does not tell case apart.
No other character than those of the alphabet is accepted, and both directions are one to one.
"""

from __future__ import annotations

import re

from reactstate.errors import InvalidKeyError

__all__ = [
    "BLOB_DIRECTORY",
    "DURABLE_FILE",
    "LOCK_FILE",
    "MAX_BLOB_NAME",
    "blob_file",
    "blob_name",
    "check_blob_name",
    "segment_file",
    "segment_serial",
    "snapshot_file",
    "snapshot_version",
]

BLOB_DIRECTORY = "blobs"
DURABLE_FILE = "durable"
LOCK_FILE = "lock"
MAX_BLOB_NAME = 120

_BLOB = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.ASCII | re.IGNORECASE)
_FILE = re.compile(r"((?:[a-z0-9._+-]|\^[a-z])+)\.rsb", re.ASCII)
_SEGMENT = re.compile(r"journal-([0-9]{20})\.rsj", re.ASCII)
_SNAPSHOT = re.compile(r"state-([0-9]{20})\.rss", re.ASCII)


def check_blob_name(name: str) -> str:
    """Return *name* if a blob may have it.

    Raises:
        InvalidKeyError: It is empty, longer than 120 characters, not made of ``A-Z a-z 0-9 . _ -`` parts joined by
            ``/``, or has a part that is ``.``, ``..`` or the name of a Windows device.
    """
    if not 0 < len(name) <= MAX_BLOB_NAME or _BLOB.fullmatch(name) is None:
        raise InvalidKeyError(
            f"{name[:MAX_BLOB_NAME]!r} cannot name a blob; use 1 to {MAX_BLOB_NAME} of A-Z a-z 0-9 . _ - in parts joined by /"
        )
    for part in name.split("/"):
        if part in {".", ".."} or _DEVICE.fullmatch(part) is not None:
            raise InvalidKeyError(f"{name!r} cannot name a blob: {part!r} has a meaning of its own on some systems")
    return name


def blob_file(name: str) -> str:
    """Return the file name for the blob *name*, which was checked before."""
    return re.sub("[A-Z]", lambda upper: f"^{upper[0].lower()}", name).replace("/", "+") + ".rsb"


def blob_name(file: str) -> str | None:
    """Return the name of the blob that is kept in *file*, or None when that is no blob's file."""
    match = _FILE.fullmatch(file)
    if match is None:
        return None
    return re.sub(r"\^([a-z])", lambda lower: lower[1].upper(), match[1]).replace("+", "/")


def segment_file(serial: int) -> str:
    """Return the file name of the journal segment *serial*."""
    return f"journal-{serial:020d}.rsj"


def segment_serial(file: str) -> int | None:
    """Return the serial of the journal segment kept in *file*, or None when that is no segment."""
    match = _SEGMENT.fullmatch(file)
    return int(match[1]) if match is not None else None


def snapshot_file(version: int) -> str:
    """Return the file name of the full snapshot at *version*."""
    return f"state-{version:020d}.rss"


def snapshot_version(file: str) -> int | None:
    """Return the version of the full snapshot kept in *file*, or None when that is no snapshot."""
    match = _SNAPSHOT.fullmatch(file)
    return int(match[1]) if match is not None else None
