from __future__ import annotations

import contextlib
import gzip
import sys
import threading
import tracemalloc

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from reactstate.codec import COMPRESSIONS, Codec
from reactstate.codec import compression as compression_module
from reactstate.codec.compression import load_compression, load_compression_number
from reactstate.errors import DecodeError, DecompressionLimitError, SettingsError, UnsupportedError

every_compression = pytest.mark.parametrize("name", COMPRESSIONS)
real_compression = pytest.mark.parametrize("name", COMPRESSIONS[1:])
TEXT = b"the same words again and again, " * 100


@every_compression
@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=2000))
def test_bytes_come_back(name, data):
    found = load_compression(name)
    compressed = found.compress(data)
    assert found.decompress(compressed, len(data)) == data
    assert found.decompress(memoryview(compressed), 1 << 30) == data
    assert found.compress(memoryview(data)) == compressed


@real_compression
def test_large_bytes_come_back(name):
    data = TEXT * 10_000
    found = load_compression(name)
    assert found.decompress(found.compress(data), len(data)) == data


@every_compression
def test_the_limit_is_exact(name):
    found = load_compression(name)
    compressed = found.compress(TEXT)
    assert found.decompress(compressed, len(TEXT)) == TEXT
    for limit in (1, 100, len(TEXT) - 1):
        with pytest.raises(DecompressionLimitError) as caught:
            found.decompress(compressed, limit)
        assert caught.value.limit_bytes == limit


@real_compression
def test_a_bomb_allocates_no_more_than_the_limit_and_a_chunk(name):
    limit = 1 << 20
    found = load_compression(name)
    bomb = found.compress(bytes(100 << 20))
    assert len(bomb) < limit
    tracemalloc.start()
    try:
        with pytest.raises(DecompressionLimitError):
            found.decompress(bomb, limit)
        assert tracemalloc.get_traced_memory()[1] < 3 * limit
    finally:
        tracemalloc.stop()


@real_compression
def test_junk_cut_and_trailing_bytes_are_decode_errors(name):
    found = load_compression(name)
    compressed = found.compress(TEXT)
    for data in (b"", b"x", b"junk" * 100, bytes(50)):
        with pytest.raises(DecodeError):
            found.decompress(data, 1 << 20)
    for end in range(len(compressed)):
        with pytest.raises(DecodeError):
            found.decompress(compressed[:end], 1 << 20)
    for tail in (b"\x00", b"x", b"junk" * 10, compressed):
        with pytest.raises(DecodeError):
            found.decompress(compressed + tail, 1 << 20)


@real_compression
def test_a_flipped_bit_is_another_result_or_a_typed_error(name):
    found = load_compression(name)
    compressed = bytearray(found.compress(TEXT))
    for bit in range(len(compressed) * 8):
        compressed[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(DecodeError, DecompressionLimitError):
            found.decompress(bytes(compressed), 1 << 16)
        compressed[bit // 8] ^= 1 << bit % 8


def test_zstd_frames_without_a_size_or_with_a_false_one_are_decode_errors():
    found = load_compression("zstd")
    for data in (
        zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
        zstandard.ZstdCompressor().compress(b""),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",
    ):
        with pytest.raises(DecodeError):
            found.decompress(data, 1 << 20)


def test_gzip_is_deterministic_and_read_by_others():
    compressed = load_compression("gzip").compress(TEXT)
    assert compressed == load_compression("gzip").compress(TEXT)
    assert compressed[4:8] == bytes(4)
    assert gzip.decompress(compressed) == TEXT
    assert zstandard.ZstdDecompressor().decompress(load_compression("zstd").compress(TEXT)) == TEXT
    assert lz4.frame.decompress(load_compression("lz4").compress(TEXT)) == TEXT


@real_compression
def test_threads_can_share_a_codec(name):
    codec = Codec(compression=name)
    failures: list[object] = []

    def work(seed: int) -> None:
        for n in range(100):
            payload = TEXT + bytes((seed, n)) * 50
            if codec.open(codec.seal(payload)) != payload:
                failures.append((seed, n))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_compressions_are_found_by_name_and_by_number():
    for number, name in enumerate(COMPRESSIONS):
        found = load_compression(name)
        assert found is load_compression_number(number)
        assert (found.name, found.number) == (name, number)
    with pytest.raises(SettingsError, match="choose one of none, gzip, zstd, lz4"):
        load_compression("brotli")
    with pytest.raises(DecodeError, match="newer version"):
        load_compression_number(len(COMPRESSIONS))


def test_a_missing_lz4_says_what_to_install(monkeypatch):
    monkeypatch.delitem(compression_module._loaded, "lz4", raising=False)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'reactstate\[lz4\]'") as caught:
        Codec(compression="lz4")
    assert (caught.value.layer, caught.value.capability, caught.value.extra) == ("codec", "lz4", "lz4")
