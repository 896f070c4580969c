from __future__ import annotations

import struct
import zlib
from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reactstate.codec
from reactstate.codec import COMPRESSIONS, FORMATS, AesGcmEncryption, Codec
from reactstate.errors import (
    CodecError,
    DecodeError,
    DecompressionLimitError,
    DecryptionError,
    SchemaVersionError,
    SettingsError,
)

SCHEMA = {"shop.cart": 2, "Item": 1}
DOCUMENT = {"items": {f"item {n % 3}{n}": n * 1.5 for n in range(20)}, "big": 2**70, "none": None, "text": "é" * 60}
KEYS = AesGcmEncryption({"k": bytes(32)}, "k")
every_way = pytest.mark.parametrize(
    ("format_name", "compression", "encryption"), list(product(FORMATS, COMPRESSIONS, (None, KEYS)))
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=60,
)


def envelope(
    sealed: bytes, names: bytes = b'{"T":1}', *, version: int = 1, number: int = 1, magic: bytes = b"\x89RST"
) -> bytes:
    """Make an envelope with a right checksum, whatever is in it."""
    head = struct.pack(">4sBBIQ", magic, version, number, len(names), len(sealed))
    return head + struct.pack(">I", zlib.crc32(head + names + sealed)) + names + sealed


def test_all_is_exactly_the_public_names():
    exported = {name for name in vars(reactstate.codec) if not name.startswith("_") and name != "annotations"}
    modules = {name for name in exported if type(getattr(reactstate.codec, name)).__name__ == "module"}
    assert exported - modules == set(reactstate.codec.__all__)


@every_way
@settings(deadline=None, max_examples=25)
@given(document=documents)
def test_documents_come_back_whichever_way_they_were_written(format_name, compression, encryption, document):
    data = Codec(format_name, compression, encryption).encode(document, SCHEMA)
    # the reader knows nothing of the writer but its keys
    decoded = Codec("json", "none", encryption).decode(memoryview(data))
    assert repr(decoded.document) == repr(document)
    assert list(decoded.schema.items()) == list(SCHEMA.items())
    assert decoded.type_name == "shop.cart"
    assert decoded.format == format_name
    assert decoded.compression in {"none", compression}
    assert decoded.encrypted is (encryption is not None)


@every_way
def test_every_flipped_bit_is_a_codec_error(format_name, compression, encryption):
    codec = Codec(format_name, compression, encryption)
    data = codec.encode(DOCUMENT, SCHEMA)
    assert codec.decode(data).compression == compression
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            codec.decode(changed)


@every_way
def test_every_cut_and_all_trailing_bytes_are_decode_errors(format_name, compression, encryption):
    codec = Codec(format_name, compression, encryption)
    data = codec.encode(DOCUMENT, SCHEMA)
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            codec.decode(data[:end])
    for tail in (b"\x00", b"x" * 100, data):
        with pytest.raises(DecodeError):
            codec.decode(data + tail)


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_junk_is_a_decode_error(data):
    for junk in (data, b"\x89RST\x01" + data, b"\x89RST" + bytes(18) + data):
        with pytest.raises(CodecError):
            Codec().decode(junk)


@settings(deadline=None)
@given(sealed=st.binary(max_size=60), names=st.binary(max_size=20) | st.just(b'{"T":1}'), number=st.integers(0, 5))
def test_junk_under_a_right_checksum_is_a_document_or_a_codec_error(sealed, names, number):
    for codec in (Codec(), Codec(encryption=KEYS)):
        try:
            decoded = codec.decode(envelope(sealed, names, number=number))
        except CodecError:
            continue
        again = Codec(decoded.format)
        assert repr(again.decode_document(again.encode_document(decoded.document))) == repr(decoded.document)


def test_an_envelope_of_a_newer_version_says_so():
    with pytest.raises(SchemaVersionError, match="newer reactstate") as caught:
        Codec().decode(envelope(b"\x00null", version=2))
    assert (caught.value.stored, caught.value.current) == (2, 1)


@pytest.mark.parametrize("flags", [0x10, 0x20, 0x40, 0x04, 0x0F])
def test_flags_and_compressions_of_newer_versions_are_refused(flags):
    with pytest.raises(DecodeError, match="newer version"):
        Codec().decode(envelope(bytes((flags,)) + b"null"))


def test_the_layout_does_not_change():
    assert Codec().encode({"a": [1, None]}, {"T": 1}) == envelope(b'\x00{"a":[1,null]}')
    assert Codec().decode(envelope(b"\x00\x81\xa1a\x92\x01\xc0", number=2)).document == {"a": [1, None]}
    assert Codec().decode(envelope(b"\x00\xa1\x61a\x82\x01\xf6", number=3)).document == {"a": [1, None]}
    assert Codec(compression="gzip").seal(bytes(1000))[:3] == b"\x01\x1f\x8b"
    assert Codec(compression="zstd").seal(bytes(1000))[:5] == b"\x02\x28\xb5\x2f\xfd"
    assert Codec(compression="lz4").seal(bytes(1000))[:5] == b"\x03\x04\x22\x4d\x18"
    assert Codec(encryption=KEYS).seal(b"x")[:3] == b"\x80\x01k"


@pytest.mark.parametrize(
    "schema", [{}, {"T": -1}, {"T": True}, {"T": 1.0}, {1: 1}, {"\ud800": 1}, {"T": 2**64}, [], None]
)
def test_a_schema_that_names_no_types_is_refused(schema: Any):
    with pytest.raises(CodecError):
        Codec().encode(1, schema)


@pytest.mark.parametrize("names", [b"", b"{}", b"[]", b'{"T":"1"}', b'{"T":-1}', b"{", b'{"T":true}'])
def test_a_stored_schema_that_names_no_types_is_a_decode_error(names):
    with pytest.raises(DecodeError, match="schema"):
        Codec().decode(envelope(b"\x00null", names))


def test_encode_checks_every_type_in_every_format():
    for name in FORMATS:
        with pytest.raises(CodecError):
            Codec(name).encode({"a": (1, 2)}, SCHEMA)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@settings(deadline=None)
@given(payload=st.binary(max_size=600), associated=st.binary(max_size=10))
def test_sealed_payloads_come_back(compression, payload, associated):
    for encryption in (None, KEYS):
        codec = Codec(compression=compression, encryption=encryption)
        sealed = codec.seal(payload, associated)
        assert codec.open(sealed, associated) == payload
        assert codec.open(memoryview(codec.seal(bytearray(payload), associated)), associated) == payload


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_small_and_incompressible_payloads_are_stored_as_they_are(compression):
    codec = Codec(compression=compression)
    assert codec.seal(bytes(199)) == b"\x00" + bytes(199)
    assert len(codec.seal(bytes(200))) < 200
    noise = b"".join(zlib.crc32(bytes((n, 7))).to_bytes(4, "big") for n in range(100))
    assert codec.seal(noise) == b"\x00" + noise


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_what_could_not_be_read_back_is_not_written(compression):
    codec = Codec(compression=compression, max_bytes=1000)
    assert codec.open(codec.seal(bytes(1000))) == bytes(1000)
    with pytest.raises(DecompressionLimitError) as caught:
        codec.seal(bytes(1001))
    assert caught.value.limit_bytes == 1000
    with pytest.raises(DecompressionLimitError):
        codec.open(Codec(compression=compression).seal(bytes(1001)))
    # nothing is decompressed here, so that there is nothing to bound
    assert Codec(max_bytes=1000).open(Codec().seal(bytes(1001))) == bytes(1001)


def test_encryption_binds_payload_flags_associated_data_and_schema():
    codec = Codec("json", "zstd", KEYS)
    sealed = codec.seal(bytes(500), b"record 7")
    for changed, associated in ((sealed, b"record 8"), (b"\x80" + sealed[1:], b"record 7"), (sealed, b"")):
        with pytest.raises(DecryptionError):
            codec.open(changed, associated)
    stored = codec.encode(DOCUMENT, {"Cart": 1})
    names = orjson.dumps({"Cart": 1})
    payload = stored[22 + len(names) :]
    assert codec.decode(envelope(payload, names)).document == DOCUMENT
    with pytest.raises(DecryptionError):
        codec.decode(envelope(payload, orjson.dumps({"Cart": 2})))
    with pytest.raises(DecryptionError):
        codec.decode(envelope(payload, names, number=2))


def test_nothing_of_the_document_is_readable_in_encrypted_bytes():
    for name in FORMATS:
        data = Codec(name, encryption=KEYS).encode({"secret field": "secret value"}, SCHEMA)
        assert b"secret" not in data
        assert b"shop.cart" in data


def test_encrypted_bytes_need_their_key():
    data = Codec(encryption=KEYS).encode(DOCUMENT, SCHEMA)
    with pytest.raises(DecryptionError, match="encryption="):
        Codec().decode(data)
    with pytest.raises(DecryptionError) as caught:
        Codec(encryption=AesGcmEncryption({"other": bytes(16)}, "other")).decode(data)
    assert caught.value.key_id == "k"


def test_plain_bytes_are_refused_under_encryption_unless_allowed():
    data = Codec().encode(DOCUMENT, SCHEMA)
    with pytest.raises(DecryptionError, match="allow_plaintext=True"):
        Codec(encryption=KEYS).decode(data)
    decoded = Codec(encryption=KEYS, allow_plaintext=True).decode(data)
    assert decoded.document == DOCUMENT
    assert not decoded.encrypted


def test_empty_sealed_bytes_are_a_decode_error():
    with pytest.raises(DecodeError, match="empty"):
        Codec().open(b"")
    with pytest.raises(DecodeError, match="empty"):
        Codec().decode(envelope(b""))


def test_options_that_cannot_be_used_are_settings_errors():
    for make in (lambda: Codec("xml"), lambda: Codec(compression="rar"), lambda: Codec(max_bytes=0)):
        with pytest.raises(SettingsError):
            make()


def test_the_repr_shows_the_options_and_no_key():
    codec = Codec("msgpack", "zstd", KEYS, max_bytes=5)
    assert repr(codec) == f"Codec(format='msgpack', compression='zstd', encryption={KEYS!r}, max_bytes=5)"
