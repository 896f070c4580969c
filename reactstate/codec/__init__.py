"""Documents to bytes and back: formats, compression, encryption, and the envelope around them."""

from __future__ import annotations

from reactstate.codec.compression import COMPRESSIONS
from reactstate.codec.documents import MAX_DEPTH, MAX_DIGITS, check_document, checksum
from reactstate.codec.encryption import AesGcmEncryption, Encryption
from reactstate.codec.envelope import Codec, Decoded
from reactstate.codec.formats import FORMATS

__all__ = [
    "COMPRESSIONS",
    "FORMATS",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "AesGcmEncryption",
    "Codec",
    "Decoded",
    "Encryption",
    "check_document",
    "checksum",
]
