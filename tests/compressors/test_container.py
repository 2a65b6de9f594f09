"""Packed files: what was packed comes back bit for bit, in the size that was measured, and nothing else is believed."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import elias_delta_bits
from lm_bounds.compressors import Arithmetic, Best, measure
from lm_bounds.compressors.container import pack, read_model, read_packed, unpack
from lm_bounds.compressors.container.bits import pack_bits, packed_bytes, unpack_bits
from lm_bounds.compressors.container.coders import CODERS, read_tensor, write_tensor
from lm_bounds.compressors.container.header import MAGIC, read_header
from lm_bounds.compressors.container.lanes import SLOT_BITS, LaneDecoder, LaneEncoder
from lm_bounds.compressors.container.levels import to_frequencies, to_levels
from lm_bounds.compressors.container.scalars import ScalarDecoder, ScalarEncoder
from lm_bounds.compressors.container.sink import Sink, varint
from lm_bounds.compressors.container.source import FileBytes, Source
from lm_bounds.compressors.counts import FLOAT_LAYOUTS, Counted
from lm_bounds.compressors.tensorwise import TensorCompressor
from lm_bounds.errors import UsageError, WeightsError
from lm_bounds.models import built_in_model
from lm_bounds.weights import Tensor, Weights, read_checkpoint
from lm_bounds.weights.protocol import DTYPE_BYTES

CONTAINER = "lm_bounds.compressors.container"
compressors = pytest.mark.parametrize("compressor", [Arithmetic(), Best()], ids=lambda each: each.name)


# Numbers, bits and symbols


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.just("integer"), st.integers(0, 2**40 - 1), st.just(40))
        | st.tuples(st.just("below"), st.integers(0, 10**6), st.just(10**6 + 1))
        | st.tuples(st.just("delta"), st.integers(1, 2**64), st.just(0))
        | st.tuples(st.just("counted"), st.integers(0, 2), st.just(3)),
        max_size=60,
    )
)
def test_numbers_come_back_and_cost_what_they_should(values: list[tuple[str, int, int]]) -> None:
    encoder, frequencies, bits = ScalarEncoder(), [1] * 3, 0.0
    for kind, value, size in values:
        if kind == "counted":
            bits -= math.log2(frequencies[value] / sum(frequencies))
            encoder.counted(value, frequencies)
        elif kind == "delta":
            bits += elias_delta_bits(value)
            encoder.delta(value)
        else:
            bits += size if kind == "integer" else math.log2(size)
            getattr(encoder, kind)(value, size)
    content = encoder.finish()
    assert 8 * len(content) <= bits * 1.002 + 10
    decoder, frequencies = ScalarDecoder(content), [1] * 3
    for kind, value, size in values:
        arguments = {"counted": [frequencies], "delta": []}.get(kind, [size])
        assert getattr(decoder, kind)(*arguments) == value
    decoder.finish()


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.integers(0, 31))
def test_bits_come_back(values: list[int], width: int) -> None:
    numbers = np.array(values, np.uint32) & np.uint32((1 << width) - 1)
    packed = pack_bits(numbers, width)
    assert len(packed) == packed_bytes(len(values), width) <= len(values) * width // 8 + 5
    assert unpack_bits(packed, len(values), width).tolist() == numbers.tolist()


def slow_words(table: list[list[int]], sequence: list[tuple[int, int]], n_lanes: int) -> list[int]:
    """The interleaved coder on Python's integers: one symbol, one lane, one word at a time."""
    states, words = [1 << 32] * n_lanes, []
    for row in reversed(range(0, len(sequence), n_lanes)):
        moved: list[list[int]] = [[], []]
        for lane, (context, symbol) in enumerate(sequence[row : row + n_lanes]):
            size, start = table[context][symbol], sum(table[context][:symbol])
            out = []
            while states[lane] >= size << (48 - SLOT_BITS):
                out.append(states[lane] & 0xFFFF)
                states[lane] >>= 16
            for first_read, word in enumerate(reversed(out)):
                moved[first_read].append(word)
            states[lane] = (states[lane] // size << SLOT_BITS) + start + states[lane] % size
        words = moved[0] + moved[1] + words
    return [state >> shift & 0xFFFF for shift in (32, 16, 0) for state in states] + words


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(
        st.lists(st.integers(0, 10**9) | st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=4
    ),
    picks=st.lists(st.integers(0, 11), max_size=70),
    n_lanes=st.sampled_from([1, 2, 8, 64]),
)
def test_symbols_are_coded_as_by_a_slow_coder(counts: list[list[int]], picks: list[int], n_lanes: int) -> None:
    frequencies = to_frequencies(to_levels(np.array(counts, np.int64)))
    table = frequencies.sizes.reshape(len(counts), 3)
    assert {int(total) for total in table.sum(axis=1)} <= {0, 1 << SLOT_BITS}
    assert ((table > 0) == (np.array(counts) > 0)).all()
    present = [(int(row), int(column)) for row, column in np.argwhere(table)]
    sequence = [present[pick % len(present)] for pick in picks] if present else []
    places = np.array([3 * context + symbol for context, symbol in sequence], np.int64)
    half = n_lanes * (len(picks) // 2 // n_lanes)  # two parts, cut between two rows, are one sequence
    encoder = LaneEncoder(n_lanes)
    for part in (places[half:], places[:half]):
        encoder.encode(frequencies, part)
    content = encoder.finish()
    assert np.frombuffer(content, "<u2").tolist() == slow_words(table.tolist(), sequence, n_lanes)
    decoder = LaneDecoder(n_lanes, content)
    for part in (places[:half], places[half:]):
        if part.size:
            assert decoder.decode(frequencies, part.size, part // 3).tolist() == part.tolist()
    decoder.finish()


# Modes


def round_trip(tensor: Tensor, write: Callable[[Sink], None], read: Callable[[Source], Iterator[np.ndarray]]) -> int:
    """Writes, reads, compares; how many bytes it took."""
    out = io.BytesIO()
    sink = Sink(out.write)
    write(sink)
    sink.close()
    content = out.getvalue()
    source = Source(FileBytes(io.BytesIO(content), len(content)))
    assert b"".join(piece.tobytes() for piece in read(source)) == tensor.data().tobytes()
    source.close()
    return len(content)


def described(tensor: Tensor) -> Tensor:
    """What a decoder knows of a tensor."""
    return Tensor(tensor.name, tensor.dtype, tensor.shape, lambda start, stop: pytest.fail("the decoder reads it"))


def check_every_mode(tensor: Tensor) -> int:
    counted = Counted(tensor)
    able = [mode for mode in Best.modes if mode.bits(counted) < math.inf]
    for mode in able:
        coder = CODERS[type(mode)]
        n_bytes = round_trip(
            tensor,
            lambda sink, mode=mode, coder=coder: coder.write(mode, counted, sink),
            lambda source, mode=mode, coder=coder: coder.read(mode, described(tensor), source),
        )
        assert n_bytes <= 1.001 * mode.bits(counted) / 8 + 1000, mode
    return len(able)


def test_every_mode_has_a_coder() -> None:
    assert {type(mode) for mode in (*Arithmetic.modes, *Best.modes)} <= set(CODERS)


@pytest.mark.parametrize("few", [1024, 0])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "I8", "U8", "F8_E4M3", "BOOL", "I16", "I32", "I64", "F64"])
def test_every_mode_comes_back(dtype: str, few: int, tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coded one by one and under frequencies; in pieces, and in blocks, that end at odd places."""
    monkeypatch.setattr(f"{CONTAINER}.sink.FEW_SYMBOLS", few)
    rng = np.random.default_rng(11)
    scale = 0.02 if dtype in FLOAT_LAYOUTS else 20.0
    values = np.exp(rng.normal(0, 1, (11, 1))) * rng.normal(0, scale, (11, 9))
    casts = {"BOOL": values > 0, "U8": abs(values) % 256, "F8_E4M3": abs(values) % 256}
    example = tensor("w", casts.get(dtype, values), dtype)
    assert check_every_mode(example) > 3
    monkeypatch.setattr(f"{CONTAINER}.places.PIECE", 37)
    for module in ("sink", "source"):
        monkeypatch.setattr(f"{CONTAINER}.{module}.BLOCK_SIZE", 50)
    counted = Counted(example)
    for mode in (mode for mode in Best.modes if mode.bits(counted) < math.inf):
        coder = CODERS[type(mode)]
        round_trip(
            example,
            lambda sink, mode=mode, coder=coder: coder.write(mode, counted, sink),
            lambda source, mode=mode, coder=coder: coder.read(mode, described(example), source),
        )


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    dtype=st.sampled_from(["F32", "F16", "BF16", "I8", "I16", "I32", "I64"]),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    few=st.sampled_from([0, 1024]),
)
def test_any_bit_patterns_come_back(data: st.DataObject, dtype: str, shape: tuple[int, ...], few: int) -> None:
    """Infinities, NaNs with payloads, signed zeros, subnormals, few values and many."""
    n = math.prod(shape) * DTYPE_BYTES[dtype]
    raw = data.draw(st.binary(min_size=n, max_size=n) | st.just(bytes(n)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{CONTAINER}.sink.FEW_SYMBOLS", few)
        assert check_every_mode(Tensor.of_bytes("w", dtype, shape, np.frombuffer(raw, np.uint8))) >= 2


def families() -> dict[str, list[tuple[np.ndarray, str]]]:
    """Tensors of kinds that are hard to keep to a size: short, skewed, constant, sorted, of several parts."""
    rng = np.random.default_rng(5)
    codes = np.clip(np.round(rng.normal(0, 2.5, (256, 256))), -8, 7) * 0.013
    half = np.concatenate([rng.normal(0, 1, 90_000), np.zeros(10_000)])
    return {
        "many short ones": [(rng.normal(0, 0.02, 5), "F32") for _ in range(60)],
        "medium ones": [(rng.normal(0, 0.02, (64, 64)), "F32") for _ in range(8)],
        "bytes": [(rng.integers(-128, 128, (64, 64)), "I8") for _ in range(8)],
        "rows of different scale": [(rng.normal(0, 1, (256, 256)) * np.exp(rng.normal(0, 2, (256, 1))), "BF16")],
        "dequantised codes": [(codes, "F32"), (codes.T, "F16")],
        "constant": [(np.ones(300_000), "F32")],
        "nearly constant": [(np.where(np.arange(300_000) % 99_991 == 7, 1.5, 1.0), "F32")],
        "ordered": [(np.sort(rng.normal(0, 1, 30_000)), "F32"), (np.arange(30_000), "I64")],
        "of two parts": [(half, "BF16")],
        "sparse": [(np.where(rng.random(300_000) < 0.001, rng.integers(0, 300, 300_000), 0), "I32")],
    }


@compressors
@pytest.mark.parametrize("family", families())
def test_files_have_the_size_that_is_reported(compressor: TensorCompressor, family: str, tensor) -> None:
    examples = [tensor(f"w{number}", *each) for number, each in enumerate(families()[family])]
    out = io.BytesIO()
    sink = Sink(out.write)
    for each in examples:
        write_tensor(each, compressor.modes, compressor.mode_bits, sink)
    sink.close()
    reported = sum(math.ceil(compressor.tensor_bits(each)) for each in examples) / 8
    content = out.getvalue()
    assert 0.85 * reported - 100 <= len(content) <= 1.001 * reported + 1000
    source = Source(FileBytes(io.BytesIO(content), len(content)))
    for each in examples:
        pieces = read_tensor(described(each), compressor.modes, compressor.mode_bits, source)
        assert b"".join(piece.tobytes() for piece in pieces) == each.data().tobytes()
    source.close()


# Files


@compressors
@pytest.mark.parametrize("name", ["structured", "random"])
def test_the_built_in_models(name: str, compressor: TensorCompressor, tmp_path: Path) -> None:
    weights = read_checkpoint(built_in_model(name).path)
    reported = measure(weights, compressor.name)
    n_bytes = pack(weights, compressor.name, tmp_path / "model.lmb")
    assert n_bytes == (tmp_path / "model.lmb").stat().st_size
    assert reported.bits / 8 <= n_bytes <= 1.001 * reported.bits / 8 + 1000
    unpack(tmp_path / "model.lmb", tmp_path / "restored")
    restored = read_checkpoint(tmp_path / "restored")
    assert [each.digest for each in restored.tensors] == [each.digest for each in weights.tensors]
    assert (restored.sha256(), restored.config) == (weights.sha256(), weights.config)


@compressors
def test_every_kind_of_tensor_comes_back(mixed: Weights, compressor: TensorCompressor, tmp_path: Path) -> None:
    pack(mixed, compressor.name, tmp_path / "model.lmb")
    unpack(tmp_path / "model.lmb", tmp_path / "restored")
    restored = read_checkpoint(tmp_path / "restored" / "model.safetensors")
    assert (restored.tensors, restored.aliases) == (mixed.tensors, mixed.aliases)
    assert [each.data().tobytes() for each in restored.tensors] == [each.data().tobytes() for each in mixed.tensors]
    assert (tmp_path / "restored" / "config.json").read_bytes() == mixed.config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.lmb", "restored"]
    read = read_model(tmp_path / "model.lmb")
    assert measure(read, "best").ledger == measure(mixed, "best").ledger
    assert measure(read, "gzip").sha256 == mixed.sha256()


def test_a_repeated_tensor_is_a_full_one_of_its_own(mixed: Weights, tmp_path: Path) -> None:
    from safetensors import safe_open

    pack(mixed, "arithmetic", tmp_path / "model.lmb")
    unpack(tmp_path / "model.lmb", tmp_path / "restored")
    with safe_open(tmp_path / "restored" / "model.safetensors", "np") as opened:
        assert set(opened.keys()) == {each.name for each in mixed.tensors} | {"norm_again"}
        for name in ("norm", "norm_again"):
            assert opened.get_tensor(name).tolist() == [1.0] * 16


def test_large_models_come_in_shards(mixed: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CONTAINER}.folder.SHARD_BYTES", 700)
    pack(mixed, "best", tmp_path / "model.lmb")
    unpack(tmp_path / "model.lmb", tmp_path / "restored")
    index = json.loads((tmp_path / "restored" / "model.safetensors.index.json").read_text())
    shards = {path.name for path in (tmp_path / "restored").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == shards
    assert len(shards) > 2
    (tmp_path / "restored" / "config.json").unlink()
    assert read_checkpoint(tmp_path / "restored").sha256() == replace(mixed, config=b"{}").sha256()


def test_equal_weights_give_equal_files(mixed: Weights, tmp_path: Path) -> None:
    contents = [packed(mixed, tmp_path) for _ in range(2)]
    assert contents[0] == contents[1]


def test_only_some_compressors_pack(mixed: Weights, tmp_path: Path) -> None:
    for name in ("gzip", "none"):
        with pytest.raises(UsageError, match=f"packed with one of arithmetic, best, not with '{name}'"):
            pack(mixed, name, tmp_path / "model.lmb")
    assert not any(tmp_path.iterdir())


def test_what_was_decoded_is_deleted(mixed: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    packed(mixed, tmp_path)
    tensors = read_packed(tmp_path / "model.lmb").tensors
    assert tensors[0].data().tobytes() == mixed.tensors[0].data().tobytes()
    assert any((tmp_path / "scratch").iterdir())
    del tensors
    assert not any((tmp_path / "scratch").iterdir())
    (tmp_path / "model.lmb").write_bytes((tmp_path / "model.lmb").read_bytes()[:-9])
    with pytest.raises(WeightsError, match="damaged"):
        read_packed(tmp_path / "model.lmb")
    assert not any((tmp_path / "scratch").iterdir())


# Hostile files


def packed(weights: Weights, folder: Path, compressor: str = "best") -> bytes:
    pack(weights, compressor, folder / "model.lmb")
    return (folder / "model.lmb").read_bytes()


def refused(content: bytes, folder: Path) -> str:
    """The one line with which a file is refused; nothing is left behind."""
    file = folder / "hostile.lmb"
    file.write_bytes(content)
    before = sorted(folder.rglob("*"))
    with pytest.raises(WeightsError) as caught:
        unpack(file, folder / "out")
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def small(tensor, weights) -> Weights:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 0.02, (20, 40))
    return weights(tensor("a", values), tensor("b", np.round(values * 100), "I8"), tensor("c", values[0]))


def test_truncated_files(small: Weights, tmp_path: Path) -> None:
    content = packed(small, tmp_path)
    for n_bytes in (*range(60), *range(60, len(content), 61), len(content) - 1):
        assert "packed" in refused(content[:n_bytes], tmp_path)
    assert "more behind its end" in refused(content + b"\0", tmp_path)


def test_flipped_bits(small: Weights, tmp_path: Path) -> None:
    content = packed(small, tmp_path)
    for place in (*range(60), *range(60, len(content), 97), len(content) - 1):
        for bit in (0, 7):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            assert "packed" in refused(bytes(changed), tmp_path)


def blocks(content: bytes) -> tuple[bytes, list[tuple[int, list[bytes]]]]:
    """The header, and lanes and parts of every block."""
    file = FileBytes(io.BytesIO(content), len(content))
    read_header(file)
    header, found = content[: len(content) - file.left], []
    while file.left:
        [lanes] = file.read(1)
        sizes = [file.varint() for _ in range(3)]
        found.append((lanes, [file.read(size) for size in sizes]))
        file.read(4)
    return header, found


def joined(header: bytes, found: list[tuple[int, list[bytes]]]) -> bytes:
    """The inverse, with checksums that are right."""
    for lanes, parts in found:
        block = bytes([lanes]) + b"".join(varint(len(part)) for part in parts) + b"".join(parts)
        header += block + zlib.crc32(block).to_bytes(4, "little")
    return header


def test_forged_blocks(small: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes a file can change its checksums too."""
    monkeypatch.setattr(f"{CONTAINER}.sink.FEW_SYMBOLS", 100)
    header, [(lanes, parts)] = blocks(packed(small, tmp_path))
    assert joined(header, [(lanes, parts)]) == (tmp_path / "model.lmb").read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0

    def refuse(lanes: int, parts: list[bytes]) -> int:
        """Refused, or, where only what fills up a byte has changed, restored as before."""
        try:
            refused(joined(header, [(lanes, parts)]), tmp_path)
        except pytest.fail.Exception:
            assert read_checkpoint(tmp_path / "out").sha256() == small.sha256()
            shutil.rmtree(tmp_path / "out")
            return 0
        return 1

    for part, content in enumerate(parts):
        for place in rng.choice(len(content), min(25, len(content)), replace=False):
            changed = bytearray(content)
            changed[place] ^= int(rng.integers(1, 256))
            n_refused += refuse(lanes, [*parts[:part], bytes(changed), *parts[part + 1 :]])
        for other in (b"", content[:-1], content[:-2], content + b"\1", content + b"\1\0"):
            if other != content:
                refuse(lanes, [*parts[:part], other, *parts[part + 1 :]])
    assert n_refused > 0.97 * 3 * 25
    for other in (lanes + 1, 11, 12, 255):
        refused(joined(header, [(other, parts)]), tmp_path)
    refused(header, tmp_path)


@pytest.mark.parametrize("part", ["config", "schema", "many tensors"])
def test_headers_that_swell_are_refused_before_they_do(part: str, tmp_path: Path) -> None:
    empty = b'{"tensors":[],"aliases":[]}'
    if part == "config":
        content = forged_header(empty, b'{"a":[' + b"[]," * 3_000_000 + b"[]]}")
    elif part == "schema":
        content = forged_header(empty[:-1] + b" " * 9_000_000 + b"}")
    else:
        content = forged_header({"tensors": [[f"{k:06}", "U8", [0]] for k in range(300_000)], "aliases": []})
    tracemalloc.start()
    assert "damaged" in refused(content, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 40 * len(content) + (1 << 27)
    tracemalloc.stop()


def forged_header(schema: object, config: bytes = b"{}", name: bytes = b"best") -> bytes:
    table = zlib.compress(schema if isinstance(schema, bytes) else json.dumps(schema).encode())
    deflated = zlib.compress(config)
    content = MAGIC + bytes([1]) + varint(len(name)) + name + bytes(32)
    content += varint(len(deflated)) + deflated + varint(len(table)) + table
    return content + zlib.crc32(content).to_bytes(4, "little")


@pytest.mark.parametrize(
    "header",
    [
        forged_header({"tensors": [["w", "F32", [2]]]}),
        forged_header({"tensors": [["w", "F32", [-2]]], "aliases": []}),
        forged_header({"tensors": [["w", "F32", [True]]], "aliases": []}),
        forged_header({"tensors": [["w", "F32", [1] * 65]], "aliases": []}),
        forged_header({"tensors": [["w", "Q7", [2]]], "aliases": []}),
        forged_header({"tensors": [["w", "F32"]], "aliases": []}),
        forged_header({"tensors": [["\ud800", "F32", [2]]], "aliases": []}),
        forged_header({"tensors": [["__metadata__", "F32", [2]]], "aliases": []}),
        forged_header({"tensors": [["w", "F32", [2]], ["w", "F32", [2]]], "aliases": []}),
        forged_header({"tensors": [["b", "F32", [2]], ["a", "F32", [2]]], "aliases": []}),
        forged_header({"tensors": [["w", "F32", [2]]], "aliases": [["v", "nowhere"]]}),
        forged_header({"tensors": [["w", "F32", [2]]], "aliases": [["w", "w"]]}),
        forged_header({"tensors": 3, "aliases": []}),
        forged_header([1]),
        forged_header(b"[" * 100_000),
        forged_header(b"\xff"),
        forged_header({"tensors": [], "aliases": []}, config=b"[]"),
        forged_header({"tensors": [], "aliases": []}, config=b"no JSON"),
        forged_header({"tensors": [], "aliases": []}, name=b"gzip"),
        forged_header({"tensors": [], "aliases": []}, name=b"\xff"),
        forged_header({"tensors": [], "aliases": []}),
        forged_header(b" " * 200_000_000),
        b"",
        MAGIC,
        MAGIC + b"\2",
        MAGIC + b"\1" + b"\xff" * 20,
        MAGIC + b"\1" + b"\xff" * 8 + b"\x7f",
    ],
    ids=lambda header: f"{zlib.crc32(header):08x}",
)
def test_forged_headers(header: bytes, tmp_path: Path) -> None:
    assert "packed" in refused(header, tmp_path)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 62, 1 << 62], [1 << 28, 2]])
def test_bombs(shape: list[int], tmp_path: Path) -> None:
    """A file that says that it has a terabyte of zeros: nothing of that size is made, in memory or on the disk."""
    sink_out = io.BytesIO()
    sink = Sink(sink_out.write)
    sink.integer(10, 6)
    sink.close()
    content = forged_header({"tensors": [["w", "U32", shape]], "aliases": []}) + sink_out.getvalue()
    tracemalloc.start()
    started = time.perf_counter()
    assert "which no model does" in refused(content, tmp_path)
    assert time.perf_counter() - started < 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    with pytest.raises(WeightsError, match=r"but the disk|which no model does"):
        read_packed(tmp_path / "hostile.lmb")
    if shape[0] > 1 << 30:
        with pytest.raises(WeightsError, match="but the disk"):
            unpack(tmp_path / "hostile.lmb", tmp_path / "out", max_bytes=1 << 130)


def test_aliases_are_part_of_the_size(tmp_path: Path) -> None:
    aliases = [[f"x{number:05}", "w"] for number in range(20_000)]
    content = forged_header({"tensors": [["w", "U8", [1 << 20]]], "aliases": aliases})
    assert "which no model does" in refused(content, tmp_path)


def test_a_limit_can_be_set(small: Weights, tmp_path: Path) -> None:
    packed(small, tmp_path)
    with pytest.raises(WeightsError, match=f"unpacks to {small.stored_bytes} bytes, more than the 100"):
        unpack(tmp_path / "model.lmb", tmp_path / "out", max_bytes=100)
    unpack(tmp_path / "model.lmb", tmp_path / "out", max_bytes=small.stored_bytes)


def test_names_are_names_of_tensors_and_of_no_files(tensor, weights, tmp_path: Path) -> None:
    names = ("../outside", "/tmp/absolute", "a/b", "..", "C:\\x", "", "\0")
    hostile = weights(*(tensor(name, np.full(3, number)) for number, name in enumerate(names)))
    (tmp_path / "inside").mkdir()
    packed(hostile, tmp_path / "inside")
    unpack(tmp_path / "inside" / "model.lmb", tmp_path / "inside" / "out")
    files = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))]
    assert files == ["inside", *(f"inside/{name}" for name in ("model.lmb", "out"))] + [
        f"inside/out/{name}" for name in ("config.json", "model.safetensors")
    ]
    assert {each.name for each in read_checkpoint(tmp_path / "inside/out/model.safetensors").tensors} == set(names)


def test_weights_of_another_hash(small: Weights, tensor, weights, tmp_path: Path) -> None:
    """A file whose every checksum is right, but for the tensors of another one."""
    other = weights(*(replace(each, load=each.load) for each in small.tensors[:-1]), tensor("c", np.arange(40)))
    header, _ = blocks(packed(small, tmp_path))
    _, found = blocks(packed(other, tmp_path))
    assert "not those of its SHA-256" in refused(joined(header, found), tmp_path)


def test_folders_that_are_there(small: Weights, tmp_path: Path) -> None:
    packed(small, tmp_path)
    (tmp_path / "empty").mkdir()
    unpack(tmp_path / "model.lmb", tmp_path / "empty")
    for taken in ("empty", "model.lmb"):
        with pytest.raises(WeightsError, match="not an empty folder"):
            unpack(tmp_path / "model.lmb", tmp_path / taken)
    with pytest.raises(WeightsError, match="make it first"):
        unpack(tmp_path / "model.lmb", tmp_path / "no" / "where")
    with pytest.raises(WeightsError, match=r"cannot read .*nowhere\.lmb"):
        unpack(tmp_path / "nowhere.lmb", tmp_path / "out")
    with pytest.raises(WeightsError, match=r"cannot write .*nowhere/model\.lmb"):
        pack(small, "best", tmp_path / "nowhere" / "model.lmb")


def test_a_model_that_becomes_unreadable_leaves_no_file(small: Weights, tmp_path: Path) -> None:
    def gone(start: int, stop: int) -> np.ndarray:
        raise WeightsError("the checkpoint is gone")

    sha256 = small.sha256()
    broken = Weights("test", (*small.tensors[:-1], replace(small.tensors[-1], load=gone)))
    vars(broken.tensors[-1])["digest"] = small.tensors[-1].digest
    (tmp_path / "model.lmb").write_bytes(b"before")
    with pytest.raises(WeightsError, match="is gone"):
        pack(broken, "best", tmp_path / "model.lmb")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.lmb", b"before")]
    assert small.sha256() == sha256
