"""The general-purpose compressors against the libraries' own one-shot calls and decompressors on the whole file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm_bounds.compressors import COMPRESSORS, get_compressor
from lm_bounds.compressors.streams import FileCompressor
from lm_bounds.errors import UsageError
from lm_bounds.weights import Weights, protocol, serialise


def zstd_decompressed(data: bytes) -> tuple[bytes, bytes]:
    zstandard = pytest.importorskip("zstandard")
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    return decompressor.decompress(data), decompressor.unused_data


def brotli_decompressed(data: bytes) -> tuple[bytes, bytes]:
    decompressor = pytest.importorskip("brotli").Decompressor()
    # Byte by byte, since the library refuses bytes after the end.
    content = b""
    for position in range(len(data)):
        if decompressor.is_finished():
            return content, data[position:]
        content += decompressor.process(data[position : position + 1])
    raise AssertionError("the stream does not end")


def with_rest(decompressor: Any) -> Callable[[bytes], tuple[bytes, bytes]]:
    return lambda data: ((one := decompressor()).decompress(data), one.unused_data)


READERS = {
    "brotli": brotli_decompressed,
    "bz2": with_rest(bz2.BZ2Decompressor),
    "gzip": with_rest(lambda: zlib.decompressobj(31)),
    "xz": with_rest(lzma.LZMADecompressor),
    "zstd": zstd_decompressed,
}
ONE_SHOT = {
    "bz2": lambda data: bz2.compress(data, 9),
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=9),
    "brotli": lambda data: pytest.importorskip("brotli").compress(data, quality=10, lgwin=24),
    "zstd": lambda data: pytest.importorskip("zstandard").ZstdCompressor(level=22).compress(data),
}
every_codec = pytest.mark.parametrize("name", sorted(READERS))


@pytest.fixture
def codec(name: str) -> FileCompressor:
    if name in ("brotli", "zstd"):
        pytest.importorskip({"zstd": "zstandard"}.get(name, name))
    found = get_compressor(name)
    assert isinstance(found, FileCompressor)
    return found


def test_every_codec_is_tried() -> None:
    files = {name for name, made in COMPRESSORS.items() if isinstance(made, type) and issubclass(made, FileCompressor)}
    assert files == set(READERS) == set(ONE_SHOT)


@every_codec
@pytest.mark.parametrize("chunk_bytes", [1 << 22, 64])
def test_streams_are_those_of_the_whole_file(
    codec: FileCompressor, mixed: Weights, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = codec.ledger(mixed)
    monkeypatch.setattr(protocol, "CHUNK_BYTES", chunk_bytes)
    assert codec.ledger(mixed) == (config, file)
    whole = b"".join(serialise(mixed))
    assert file.bits == 8 * len(ONE_SHOT[codec.name](whole))


@every_codec
def test_pieces_of_many_blocks_do_not_matter(codec: FileCompressor, tensor, weights, monkeypatch) -> None:
    """What is fed at a time crosses the codecs' own blocks of 128 kB and more in another way."""
    values = np.random.default_rng(0).normal(size=150_000)
    example = weights(tensor("w", values), tensor("x", np.tile(values[::-2], 3), "BF16"))
    whole = codec.ledger(example)
    monkeypatch.setattr(protocol, "CHUNK_BYTES", 40_000)
    assert codec.ledger(example) == whole


@every_codec
def test_streams_decompress_and_mark_their_end(codec: FileCompressor, mixed: Weights) -> None:
    config, file = codec.ledger(mixed)
    whole = b"".join(serialise(mixed))
    stream = codec.open_stream(len(whole))
    packed = stream.compress(whole) + stream.flush()
    assert 8 * len(packed) == file.bits
    assert READERS[codec.name](packed + b"what follows") == (whole, b"what follows")
    stream = codec.open_config_stream(len(mixed.config))
    assert config.bits == 8 * len(stream.compress(mixed.config) + stream.flush())


@every_codec
def test_versions_name_library_and_strength(codec: FileCompressor) -> None:
    strengths = {"brotli": "quality 10", "zstd": "level 22", "xz": "preset 9", "bz2": "level 9", "gzip": "level 9"}
    assert strengths[codec.name] in codec.version()
    assert any(character.isdigit() for character in codec.version().split(",")[0])


def test_repeats_far_apart_are_found(tensor, weights) -> None:
    """xz, zstd and brotli have windows of 16 MB and more, gzip has 32 kB."""
    values = np.random.default_rng(0).normal(size=30_000)
    twice = weights(tensor("w", np.concatenate([values, values])))
    bits = {name: get_compressor(name).ledger(twice)[1].bits for name in ("gzip", "xz", "zstd")}
    assert max(bits["xz"], bits["zstd"]) < 0.6 * bits["gzip"]


def test_without_its_library_brotli_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    with pytest.raises(UsageError) as caught:
        get_compressor("brotli")
    assert str(caught.value) == "compressor 'brotli' needs a library: pip install 'lm-bounds[brotli]'"
