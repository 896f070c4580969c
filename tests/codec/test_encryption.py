from __future__ import annotations

import mmap
import sys
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.codec import AesGcmEncryption, Encryption
from reactstate.errors import CodecError, DecryptionError, SettingsError, UnsupportedError

OLD, NEW = b"old key 16 bytes", b"a new key that has 32 bytes.....!"[:32]


@settings(deadline=None)
@given(data=st.binary(max_size=300), associated=st.binary(max_size=30), size=st.sampled_from([16, 24, 32]))
def test_bytes_come_back(data, associated, size):
    encryption: Encryption = AesGcmEncryption({"k": b"x" * size}, "k")
    encrypted = encryption.encrypt(data, associated)
    assert encryption.decrypt(encrypted, associated) == data
    assert encryption.decrypt(memoryview(encrypted), associated) == data


def test_every_encryption_takes_another_nonce():
    encryption = AesGcmEncryption({"k": NEW}, "k")
    assert len({encryption.encrypt(b"same") for _ in range(1000)}) == 1000


def test_a_rotated_key_still_decrypts_what_it_encrypted():
    before = AesGcmEncryption({"2025": OLD}, "2025")
    after = AesGcmEncryption({"2025": OLD, "2026": NEW}, "2026")
    encrypted = before.encrypt(b"data", b"place")
    assert after.decrypt(encrypted, b"place") == b"data"
    assert b"2026" in after.encrypt(b"data")[:5]
    with pytest.raises(DecryptionError, match="no key has the id '2026'") as caught:
        before.decrypt(after.encrypt(b"data"))
    assert caught.value.key_id == "2026"


def test_a_wrong_key_under_the_same_id_is_a_decryption_error():
    encrypted = AesGcmEncryption({"k": OLD}, "k").encrypt(b"data")
    with pytest.raises(DecryptionError) as caught:
        AesGcmEncryption({"k": NEW}, "k").decrypt(encrypted)
    assert caught.value.key_id == "k"


def test_every_changed_bit_and_every_cut_is_a_decryption_error():
    encryption = AesGcmEncryption({"k": OLD, "j": OLD}, "k")
    encrypted = encryption.encrypt(b"data", b"place")
    for bit in range(len(encrypted) * 8):
        changed = bytearray(encrypted)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            encryption.decrypt(changed, b"place")
    for end in range(len(encrypted)):
        with pytest.raises(DecryptionError):
            encryption.decrypt(encrypted[:end], b"place")


def test_the_key_id_is_authenticated_even_when_two_ids_share_a_key():
    encryption = AesGcmEncryption({"k": OLD, "j": OLD}, "k")
    encrypted = encryption.encrypt(b"data")
    with pytest.raises(DecryptionError) as caught:
        encryption.decrypt(encrypted.replace(b"k", b"j", 1))
    assert caught.value.key_id == "j"


def test_associated_data_is_authenticated():
    encryption = AesGcmEncryption({"k": NEW}, "k")
    for other in (b"", b"plac", b"place2"):
        with pytest.raises(DecryptionError):
            encryption.decrypt(encryption.encrypt(b"data", b"place"), other)


def test_keys_are_in_no_repr_and_no_error():
    secret = b"SECRETSECRETSECRETSECRETSECRET!!"
    encryption = AesGcmEncryption({"a": secret, "b": OLD}, "a")
    assert repr(encryption) == "AesGcmEncryption(keys=['a', 'b'], current='a')"
    shown = repr(encryption) + str(encryption)
    for call in (
        lambda: encryption.decrypt(b"\x01zjunk" * 10),
        lambda: encryption.decrypt(b"\x01ajunk" * 10),
        lambda: AesGcmEncryption({"a": secret + b"!"}, "a"),
        lambda: AesGcmEncryption({"a": secret}, "b"),
    ):
        with pytest.raises((DecryptionError, SettingsError)) as caught:
            call()
        shown += "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__dict__)
    assert "SECRET" not in shown
    assert secret.hex() not in shown


@pytest.mark.parametrize(
    ("keys", "current"),
    [
        ({}, "a"),
        ({"a": OLD}, "b"),
        ({"a": b"short"}, "a"),
        ({"": OLD}, ""),
        ({"x" * 256: OLD}, "x" * 256),
        ({"\ud800": OLD, "?": OLD}, "?"),
    ],
)
def test_keys_that_cannot_be_used_are_settings_errors(keys, current):
    with pytest.raises(SettingsError):
        AesGcmEncryption(keys, current)


def test_more_than_one_call_of_aes_gcm_takes_is_a_codec_error():
    encryption = AesGcmEncryption({"k": NEW}, "k")
    with mmap.mmap(-1, 1 << 31) as huge, pytest.raises(CodecError, match="2 GiB"):
        # an untouched map takes no memory, and the length is checked before it is read
        encryption.encrypt(huge)  # type: ignore[arg-type]


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'reactstate\[crypto\]'") as caught:
        AesGcmEncryption({"k": NEW}, "k")
    assert caught.value.extra == "crypto"
