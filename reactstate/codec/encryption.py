"""Encryption of what is stored: the protocol, and AES-GCM with named keys.

Contract
    Bytes that were changed, were made with another key, or belong to other associated data are DecryptionError, never
    wrong bytes. The length of the bytes and the id of the key are not hidden, nor is, where compression comes first,
    how well the content compresses. Replacing the newest bytes by older ones made with a known key is not detected
    here. Safe to call from several threads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from reactstate.codec.extras import missing_extra
from reactstate.errors import CodecError, DecryptionError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from reactstate.codec.formats import Buffer

__all__ = ["AesGcmEncryption", "Encryption"]

_NONCE_BYTES = 12
_TAG_BYTES = 16
_MAX_KEY_ID_BYTES = 255


class Encryption(Protocol):
    """How bytes are kept secret and unchanged; a program may bring its own, such as one over a key service."""

    def encrypt(self, data: Buffer, associated: bytes) -> bytes:
        """Return *data* encrypted, and bound to *associated*, which stays in the clear elsewhere."""
        ...

    def decrypt(self, data: Buffer, associated: bytes) -> bytes:
        """Return what ``encrypt`` was given.

        Raises:
            DecryptionError: *data* or *associated* is not as it was, or the key is not known.
        """
        ...


class AesGcmEncryption:
    """AES-GCM (NIST SP 800-38D) with a random 96-bit nonce, under one of several named keys.

    The id of the key is stored with the bytes and authenticated together with the associated data. To rotate, add a
    key and name it in *current*: what the older keys encrypted stays readable as long as they are in *keys*.

    Random nonces allow 2**32 (about 4 billion) encryptions with one key, counted over all processes that use it,
    before the chance of a repeated nonce, which would break the secrecy and authenticity of that key, exceeds 2**-32.
    Rotate well before that: at 1,000 durable writes a second it takes seven weeks.

    Args:
        keys: The keys (16, 24 or 32 random bytes; 32 for AES-256) by id. Ids are stored in the clear.
        current: The id of the key to encrypt with.

    Raises:
        SettingsError: A key or an id cannot be used, or *current* is not in *keys*.
        UnsupportedError: The library for it is not installed.
    """

    __slots__ = ("_ciphers", "_current", "_header")

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as exc:
            raise missing_extra("crypto", "crypto") from exc
        ciphers: dict[bytes, AESGCM] = {}
        for key_id, key in keys.items():
            encoded = key_id.encode(errors="replace")
            if not 1 <= len(encoded) <= _MAX_KEY_ID_BYTES or encoded in ciphers:
                raise SettingsError(f"a key id has 1 to {_MAX_KEY_ID_BYTES} bytes of UTF-8 and is unique")
            if len(key) not in {16, 24, 32}:
                raise SettingsError(f"key {key_id!r} has {len(key)} bytes; AES takes 16, 24 or 32")
            ciphers[encoded] = AESGCM(key)
        if current not in keys:
            raise SettingsError(f"the current key {current!r} is not among the keys")
        encoded = current.encode(errors="replace")
        self._ciphers = ciphers
        self._current = current
        self._header = bytes((len(encoded),)) + encoded

    def __repr__(self) -> str:
        ids = [encoded.decode() for encoded in self._ciphers]
        return f"{type(self).__name__}(keys={ids!r}, current={self._current!r})"

    def encrypt(self, data: Buffer, associated: bytes = b"") -> bytes:
        """Return *data* encrypted with the current key: key id, nonce, ciphertext, tag.

        Raises:
            CodecError: *data* or *associated* has 2 GiB or more, which is more than AES-GCM takes at once.
        """
        # the nonce is not an argument: one that repeats breaks the key
        nonce = os.urandom(_NONCE_BYTES)
        header = self._header
        try:
            return header + nonce + self._ciphers[header[1:]].encrypt(nonce, data, header + associated)
        except OverflowError as exc:
            raise CodecError("AES-GCM takes less than 2 GiB at once; split the state or compress it") from exc

    def decrypt(self, data: Buffer, associated: bytes = b"") -> bytes:
        """Return what ``encrypt`` was given.

        Raises:
            DecryptionError: The key is unknown or wrong, or *data* or *associated* is not as it was.
        """
        from cryptography.exceptions import InvalidTag

        view = memoryview(data)
        start = 1 + view[0] if view else 0
        if len(view) < start + _NONCE_BYTES + _TAG_BYTES:
            raise DecryptionError("the encrypted bytes were cut, or were never encrypted")
        header = bytes(view[:start])
        key_id = header[1:].decode(errors="replace")
        cipher = self._ciphers.get(header[1:])
        if cipher is None:
            raise DecryptionError(f"no key has the id {key_id!r}; add the key that these bytes name", key_id=key_id)
        nonce, body = view[start : start + _NONCE_BYTES], view[start + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, body, header + associated)
        except (InvalidTag, OverflowError) as exc:
            raise DecryptionError(
                f"key {key_id!r} does not fit, or the encrypted bytes or what they belong to were changed",
                key_id=key_id,
            ) from exc
