"""Layouts of quantised checkpoints: codes, labels, predictions and weights against slow twins, and hostile files."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.errors import WeightsError
from lm_bounds.weights import Tensor, Weights, distinct, layout_of, packing_of, packings, read_checkpoint
from lm_bounds.weights.layouts import LAYOUTS, Layout, Misfit, with_layout
from lm_bounds.weights.layouts.codes import BitStream, Fields, SignedPlanes
from lm_bounds.weights.layouts.e8p import Bytes, e8_vectors, e8p_vectors
from lm_bounds.weights.layouts.values import floats, scale_classes, spread
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.watched import watched


def read(checkpoint: Callable[..., Path], stored: Any) -> Weights:
    config = dict(stored.config)
    return read_checkpoint(checkpoint(stored.tensors, config, config.pop("safetensors_metadata", None)))


def in_memory(tensors: dict[str, Any], config: dict[str, Any]) -> Weights:
    """Tensors of numpy arrays, or of (dtype, array), with their layout."""
    names = {"u1": "U8", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "f2": "F16", "f4": "F32"}
    made = []
    for name, value in tensors.items():
        dtype, array = value if isinstance(value, tuple) else (names[value.dtype.str[1:]], value)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        made.append(Tensor.of_bytes(name, dtype, np.shape(array), flat))
    kept, aliases = distinct(made)
    return with_layout(Weights("test", kept, aliases, json.dumps(config).encode()))


# What every layout keeps


def test_codes_are_those_that_were_packed(checkpoint: Callable[..., Path], stored: Any) -> None:
    weights = read(checkpoint, stored)
    assert weights.layout == stored.layout
    found = {tensor.name: tensor.packing for tensor in weights.tensors if tensor.packing is not None}
    assert set(found) == set(stored.codes)
    named = weights.by_name()
    for name, codes in stored.codes.items():
        raw = named[name].data()
        unpacked = found[name].unpack(raw)
        assert unpacked.dtype in (np.uint8, np.uint16)
        assert unpacked.shape == found[name].shape
        assert unpacked.max() < 1 << found[name].n_bits
        np.testing.assert_array_equal(unpacked[: codes.shape[0], : codes.shape[1]], codes)
        assert not unpacked[codes.shape[0] :].any()
        assert found[name].pack(unpacked).tobytes() == raw.tobytes()


def test_weights_are_those_of_the_formula(checkpoint: Callable[..., Path], stored: Any) -> None:
    weights = read(checkpoint, stored)
    layout = layout_of(json.loads(weights.config))
    named = weights.by_name()
    assert layout.modules(named) == (stored.module,)
    weight = layout.dequantise(named, stored.module)
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, stored.weight)
    with pytest.raises(Misfit, match="has no tensor"):
        layout.dequantise(named, "model.absent")


def test_labels_have_the_shape_of_the_codes(checkpoint: Callable[..., Path], stored: Any) -> None:
    for tensor in read(checkpoint, stored).tensors:
        for side in Side if tensor.packing is not None else ():
            labels = tensor.packing.labels(side)
            assert labels is None or (labels.shape, labels.dtype) == (tensor.packing.shape, np.uint8)


def test_predictions_hold(checkpoint: Callable[..., Path], stored: Any) -> None:
    predicted = {}
    for tensor in read(checkpoint, stored).tensors:
        if tensor.expected is not None:
            guess = tensor.expected()
            assert (guess.dtype, guess.shape) == (np.uint8, (tensor.n_bytes,))
            predicted[tensor.name] = guess.tobytes() == tensor.data().tobytes()
    assert {name for name, right in predicted.items() if right} == set(stored.expected)


def test_a_decoder_finds_the_packing_from_its_sources_alone(checkpoint: Callable[..., Path], stored: Any) -> None:
    weights = read(checkpoint, stored)
    named, layout = weights.by_name(), layout_of(json.loads(weights.config))

    def unread(start: int, stop: int) -> np.ndarray:
        raise AssertionError("read before it was there")

    for name in stored.codes:
        packing = named[name].packing
        known = {
            other: tensor if other in packing.sources else dataclasses.replace(tensor, load=unread)
            for other, tensor in named.items()
        }
        again = packing_of(layout, known, name)
        assert (again.n_bits, again.shape, again.sources) == (packing.n_bits, packing.shape, packing.sources)
        np.testing.assert_array_equal(again.unpack(named[name].data()), packing.unpack(named[name].data()))
        for side in Side:
            np.testing.assert_array_equal(again.labels(side), packing.labels(side))
        for source in packing.sources:
            assert not (named[source].packing and named[source].packing.sources)
    for name, tensor in named.items():
        expected = layout.expected({k: dataclasses.replace(t, load=unread) for k, t in named.items()}, name)
        assert (expected is None) == (tensor.expected is None)
        assert expected is None or expected().tobytes() == tensor.expected().tobytes()


def test_the_layout_changes_neither_hash_nor_bytes(checkpoint: Callable[..., Path], stored: Any) -> None:
    weights = read(checkpoint, stored)
    plain = Weights("plain", tuple(t.described(None, None) for t in weights.tensors), weights.aliases, weights.config)
    assert plain.sha256() == weights.sha256()
    seen: list[int] = []
    for tensor, reading in zip(weights.tensors, watched(weights, seen.append).tensors, strict=True):
        assert (reading.packing, reading.expected) == (tensor.packing, tensor.expected)


# Details of single layouts


def test_labels_are_zero_points_and_classes_of_scales(
    recorded: dict[str, Any], checkpoint: Callable[..., Path]
) -> None:
    stored = recorded["gptq_v2 4 bits, reordered"]()
    packing = read(checkpoint, stored).by_name()["model.proj.qweight"].packing
    groups = stored.tensors["model.proj.g_idx"]
    zeros = stored.codes["model.proj.qzeros"]
    np.testing.assert_array_equal(packing.labels(Side.ZERO_POINT), zeros[groups])
    scales = stored.tensors["model.proj.scales"].astype(np.float64)
    ranks = (scales[..., None, None] > scales).sum(axis=(2, 3))
    np.testing.assert_array_equal(packing.labels(Side.SCALE), (ranks * 16 // scales.size)[groups])
    assert packing.sources == ("model.proj.qzeros", "model.proj.scales", "model.proj.g_idx")


@pytest.mark.parametrize("n_bits", [2, 3, 4, 8])
def test_zero_points_of_zero_wrap_as_their_library_lets_them(n_bits: int, make_streams: Callable[..., Any]) -> None:
    """z = 0 is stored as -1: of 2, 4 and 8 bits by subtracting from whole words, of 3 field by field."""
    rng = np.random.default_rng(n_bits)
    zero = rng.integers(0, 2, (1, 32))
    words = make_streams(zero, n_bits, 1).view(np.uint32)
    ones = np.uint32(sum(1 << k for k in range(0, 32, n_bits)))
    stored = make_streams((zero - 1) % 8, 3, 1) if n_bits == 3 else (words - ones).view(np.int32)
    q = rng.integers(0, 1 << n_bits, (32, 32))
    tensors = {"a.qweight": make_streams(q, n_bits, 0), "a.qzeros": stored, "a.scales": np.ones((1, 32), np.float16)}
    weights = in_memory(tensors, {"quantization_config": {"quant_method": "gptq", "bits": n_bits}})
    weight = layout_of(json.loads(weights.config)).dequantise(weights.by_name(), "a")
    np.testing.assert_array_equal(weight, (q - zero).T)


def test_wide_zero_points_do_not_wrap(make_streams: Callable[..., Any]) -> None:
    q, stored = np.zeros((32, 32), int), np.full((1, 32), 15)
    tensors = {"a.qweight": make_streams(q, 4, 0), "a.qzeros": make_streams(stored, 4, 1)}
    tensors["a.scales"] = np.ones((1, 32), np.float16)
    weights = in_memory(tensors, {"quantization_config": {"quant_method": "auto-round", "bits": 4}})
    assert (layout_of(json.loads(weights.config)).dequantise(weights.by_name(), "a") == -16).all()


def test_layers_of_other_widths_follow_from_their_shapes(recorded: dict[str, Any]) -> None:
    """A configuration of 4 bits with one layer of 8 and one of 3."""
    stored = recorded["gptq 4 bits"]()
    tensors = dict(stored.tensors)
    for name in ("gptq 8 bits", "gptq 3 bits"):
        other = recorded[name]()
        tensors |= {key.replace("proj", name[5]): value for key, value in other.tensors.items()}
    weights = in_memory(tensors, stored.config)
    assert {t.name: t.packing.n_bits for t in weights.tensors if t.name.endswith("qweight")} == {
        "model.proj.qweight": 4,
        "model.8.qweight": 8,
        "model.3.qweight": 3,
    }


def test_equal_tensors_of_two_layers_share_packing_and_sources(recorded: dict[str, Any]) -> None:
    stored = recorded["gptq 4 bits, symmetric"]()
    second = {name.replace("proj", "twin"): value for name, value in stored.tensors.items()}
    second["model.twin.scales"] = second["model.twin.scales"] * np.float16(2)
    weights = in_memory(stored.tensors | second, stored.config)
    assert [dropped for dropped, _ in weights.aliases] == [
        "model.twin.g_idx",
        "model.twin.qweight",
        "model.twin.qzeros",
    ]
    named = weights.by_name()
    assert set(named["model.proj.qweight"].packing.sources) <= {tensor.name for tensor in weights.tensors}
    layout = layout_of(stored.config)
    np.testing.assert_array_equal(layout.dequantise(named, "model.twin"), 2 * layout.dequantise(named, "model.proj"))


def test_a_source_that_needs_sources_itself_is_none(recorded: dict[str, Any]) -> None:
    """Codes that double as zero-points of another layer: what is given by something else gives nothing."""
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 2**31, (8, 8), dtype=np.int32)
    scales = rng.random((8, 64)).astype(np.float16)
    tensors = {"a.qweight": shared, "a.qzeros": np.zeros((2, 1), np.int32), "a.scales": scales[:2, :8]}
    tensors |= {"b.qweight": rng.integers(0, 2**31, (8, 64), dtype=np.int32), "b.qzeros": shared, "b.scales": scales}
    weights = in_memory(tensors, {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    named = weights.by_name()
    assert weights.aliases == (("b.qzeros", "a.qweight"),)
    assert named["a.qweight"].packing.sources == ("a.qzeros", "a.scales")
    assert named["b.qweight"].packing is None
    assert weights.layout == "gptq, 1 of 2 layers measured as plain bytes"


def test_hashes_are_kept_when_the_layout_is_found() -> None:
    reads = []
    raw = np.zeros(16, np.uint8)

    def load(start: int, stop: int) -> np.ndarray:
        reads.append((start, stop))
        return raw[start:stop]

    tensor = Tensor("a", "U8", (16,), load)
    digest = tensor.digest
    assert tensor.described(None, lambda: raw).digest == digest
    assert len(reads) == 1


def test_metadata_of_the_file_count_for_layouts_that_need_them(
    recorded: dict[str, Any], checkpoint: Callable[..., Path]
) -> None:
    stored = recorded["torchao"]()
    weights = read(checkpoint, stored)
    assert json.loads(weights.config) == stored.config  # with "dtype", which is dropped elsewhere
    digest = weights.sha256()
    other = read_checkpoint(checkpoint(stored.tensors, {"quantization_config": {"quant_method": "torchao"}}))
    assert other.sha256() != digest
    assert other.layout == "torchao, 1 of 1 layers measured as plain bytes"
    gptq = recorded["gptq 4 bits"]()
    with_metadata = read_checkpoint(checkpoint(gptq.tensors, gptq.config, {"format": "pt", "note": "x"}))
    assert b"note" not in with_metadata.config


def test_int4_halves_of_torchao(checkpoint: Callable[..., Path]) -> None:
    data = np.array([[0x21, 0x43], [0x65, 0x87]], np.uint8)
    tensors = {"a._weight_qdata": data, "a._weight_scale": np.ones((1, 2), np.float32)}
    metadata = {"a.weight": json.dumps({"_type": "Int4Tensor"})}
    weights = read_checkpoint(checkpoint(tensors, {"quantization_config": {"quant_method": "torchao"}}, metadata))
    packing = weights.by_name()["a._weight_qdata"].packing
    np.testing.assert_array_equal(packing.unpack(data.ravel()), [[1, 2, 3, 4], [5, 6, 7, 8]])
    with pytest.raises(Misfit, match="has no formula here"):
        layout_of(json.loads(weights.config)).dequantise(weights.by_name(), "a")


def test_words_that_may_be_read_in_two_ways_are_plain() -> None:
    """44 codes of 3 bits take 5 words in a stream, and 5 words of ten codes as older versions packed them."""
    tensors = {"a.weight_packed": np.zeros((2, 5), np.int32), "a.weight_shape": np.array([2, 44])}
    weights_of_group = {"num_bits": 3, "group_size": 11}
    config = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights_of_group}}}
    tensors["a.weight_scale"] = np.ones((2, 4), np.float32)
    weights = in_memory(tensors, {"quantization_config": config})
    assert weights.by_name()["a.weight_packed"].packing is None
    assert weights.layout == "compressed-tensors, 1 of 1 layers measured as plain bytes"
    with pytest.raises(Misfit, match="in more than one way"):
        layout_of({"quantization_config": config}).dequantise(weights.by_name(), "a")


# QuIP#


@functools.cache
def ball_of_halves() -> list[tuple[float, ...]]:
    ball = sorted(p for p in itertools.product((0.5, 1.5, 2.5), repeat=8) if sum(x * x for x in p) <= 10)
    assert len(ball) == 227
    return ball


def slow_vector(absolute: int, signs: int) -> list[float]:
    """A code word of E8P from its definition: distances from the origin, then the 29 that fill the table."""
    fill = "31113333 13113333 11313333 11133333 33313311 33313131 33311331 33313113 33311313 33311133 33133311 33133131"
    fill += (
        " 33131331 33133113 33131313 33131133 31333311 31333131 31331331 31333113 31331313 13331133 13333311 13333131"
    )
    fill += " 13331331 13333113 13331313 11331333 33113331"
    point = list((ball_of_halves() + [tuple(int(x) / 2 for x in entry) for entry in fill.split()])[absolute])
    if sum(point) % 2:
        point[7] = -point[7]
    odd = bin(signs).count("1") % 2
    signs ^= odd
    for bit, weight in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        if signs >> bit & 1:
            point[weight] = -point[weight]
    return [x - 0.25 if odd else x + 0.25 for x in point]


def slow_words(codes: np.ndarray) -> np.ndarray:
    """Code words of 16 bits, shape (m, n / 8), in the 64-bit words of the kernel, by the steps of its packer."""
    m, n = codes.shape
    table = codes.reshape(m // 2, 2, n // 2, 2)
    words = np.zeros((m // 2, n // 2), object)
    for row, column in np.ndindex(m // 2, n // 2):
        absolute = signs = 0
        for i in range(4):
            code = int(table[row, i % 2, column, i // 2])
            absolute += (code >> 8) << 8 * i
            signs += sum((code >> j & 1) << 4 * j + i for j in range(8))
        words[row, column] = (signs << 32) + absolute
    ordered = words.reshape(m // 16, 8, n // 8, 4).transpose(0, 2, 1, 3).reshape(m, n // 4)
    return ordered.astype(np.uint64).view(np.int64)


def hadamard(size: int) -> np.ndarray:
    return np.array([[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)]) / np.sqrt(size)


def quip(n_bits: int, wide: bool) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_bits)
    m, n = 16, 64
    first, second = rng.integers(0, 1 << 16, (2, m, n // 8))
    second = second & 255 if n_bits == 3 else second
    vectors = np.array([[slow_vector(code >> 8, code & 255) for code in row] for row in first]).reshape(m, n)
    planes = [first >> 8, first & 255]
    if n_bits == 2:
        words = slow_words(first) if wide else first.astype(np.uint16).view(np.int16)
    elif n_bits == 3:
        words = np.concatenate([slow_words(first), second.astype(np.uint8).view(np.int64)], axis=1)
        vectors = vectors + e8_vectors()[second].reshape(m, n) / 2.04
        planes.append(second)
    else:
        both = np.concatenate([slow_words(first), slow_words(second)], axis=1)
        words = both if wide else ((first << 16) + second).astype(np.uint32).view(np.int32)
        rest = np.array([[slow_vector(code >> 8, code & 255) for code in row] for row in second]).reshape(m, n)
        vectors = vectors + rest / 3.45
        planes += [second >> 8, second & 255]
    su, sv = rng.choice([-1, 1], n).astype(np.float16), rng.random(m).astype(np.float16)
    weight = 0.5 * (sv[:, None] * (hadamard(m) @ vectors @ hadamard(n)) * su)
    tensors = {"a.Qidxs": words, "a.SU": su, "a.SV": sv, "a.Wscale": np.array(0.5, np.float32)}
    return tensors, weight, np.concatenate(planes)


@pytest.mark.parametrize(("n_bits", "wide"), [(2, False), (2, True), (3, True), (4, False), (4, True)])
def test_quip(n_bits: int, wide: bool) -> None:
    tensors, weight, codes = quip(n_bits, wide)
    weights = in_memory(tensors, {"quip_params": {"codebook": "E8P12"}})
    named = weights.by_name()
    packing = named["a.Qidxs"].packing
    assert weights.layout == "quip#"
    np.testing.assert_array_equal(packing.unpack(named["a.Qidxs"].data()), codes)
    assert packing.pack(codes.astype(np.uint8)).tobytes() == named["a.Qidxs"].data().tobytes()
    found = layout_of(json.loads(weights.config)).dequantise(named, "a")
    np.testing.assert_allclose(found, weight, rtol=0, atol=2e-6)


def test_quip_refuses_transforms_of_other_widths() -> None:
    tensors = {"a.Qidxs": np.zeros((3, 1), np.int16), "a.SU": np.ones(8, np.float16), "a.SV": np.ones(3, np.float16)}
    weights = in_memory(tensors | {"a.Wscale": np.array(1, np.float32)}, {"quip_params": {}})
    assert weights.by_name()["a.Qidxs"].packing.shape == (6, 1)
    with pytest.raises(Misfit, match="transformed in 3 dimensions"):
        layout_of({"quip_params": {}}).dequantise(weights.by_name(), "a")


def test_codebooks_of_quip() -> None:
    absolute, signs = np.divmod(np.arange(1 << 16), 256)
    vectors = e8p_vectors(absolute, signs)
    assert len(np.unique(vectors, axis=0)) == 1 << 16
    for code in (0, 1, 255, 40_000, 58_367, 58_368, 65_535):
        np.testing.assert_array_equal(vectors[code], slow_vector(code >> 8, code & 255))
    second = e8_vectors()
    assert len(np.unique(second, axis=0)) == 256
    assert sorted(np.unique((second**2).sum(axis=1), return_counts=True)[1].tolist()) == [1, 15, 240]


# Packings


def slow_bits(raw: np.ndarray) -> int:
    return int.from_bytes(raw.tobytes(), "little")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_streams_of_every_width(data: st.DataObject) -> None:
    n_bits, axis = data.draw(st.integers(1, 16)), data.draw(st.integers(0, 1))
    n_codes, n_streams = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 3))
    n_words = -(-n_codes * n_bits // 32)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = rng.integers(0, 1 << n_bits, (n_streams, n_codes)).astype(np.uint8 if n_bits <= 8 else np.uint16)
    words = np.zeros((n_streams, n_words), "<u4")
    for line in range(n_streams):
        total = sum(int(code) << n_bits * place for place, code in enumerate(codes[line]))
        words[line] = np.frombuffer(total.to_bytes(4 * n_words, "little"), "<u4")
    codes, words = (codes, words) if axis else (codes.T, words.T)
    packing = BitStream(n_bits, codes.shape, words.shape, axis)
    raw = np.ascontiguousarray(words).reshape(-1).view(np.uint8)
    np.testing.assert_array_equal(packing.unpack(raw), codes)
    assert packing.pack(codes).tobytes() == raw.tobytes()
    if n_codes * n_bits % 32:
        spoiled = words.copy()
        spoiled[(-1, 0) if axis == 0 else (0, -1)] |= np.uint32(1 << 31)
        with pytest.raises(ValueError, match="no code"):
            packing.unpack(np.ascontiguousarray(spoiled).reshape(-1).view(np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fields_of_every_width_and_order(data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(["u1", "<u2", "<u4"]))
    word_bits = 8 * np.dtype(word).itemsize
    n_bits = data.draw(st.integers(1, min(16, word_bits)))
    shifts = data.draw(st.permutations(range(0, word_bits - n_bits + 1, n_bits)))
    width, n_chunks = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    capacity = (n_chunks, len(shifts) * width)
    rows, columns = data.draw(st.integers(1, capacity[0])), data.draw(st.integers(1, capacity[1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    full = np.zeros(capacity, np.uint16)
    full[:rows, :columns] = rng.integers(0, 1 << n_bits, (rows, columns))
    words = [
        sum(int(full[chunk, k * width + place]) << shift for k, shift in enumerate(shifts))
        for chunk in range(n_chunks)
        for place in range(width)
    ]
    raw = np.array(words, word).view(np.uint8)
    packing = Fields(n_bits, (rows, columns), word, width, tuple(shifts), capacity)
    np.testing.assert_array_equal(packing.unpack(raw), full[:rows, :columns])
    assert packing.pack(packing.unpack(raw)).tobytes() == raw.tobytes()
    bit = data.draw(st.integers(0, 8 * raw.size - 1))
    spoiled = raw.copy()
    spoiled[bit // 8] ^= 1 << bit % 8
    try:
        changed = packing.unpack(spoiled)
    except ValueError:
        return
    assert packing.pack(changed).tobytes() == spoiled.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 16), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
def test_signed_numbers_of_every_width(n_bits: int, rows: int, columns: int, planes: int, seed: int) -> None:
    half = 1 << n_bits - 1
    word = "i1" if n_bits <= 8 else "<i2"
    numbers = np.random.default_rng(seed).integers(-half, half, (rows, columns, planes)).astype(word)
    packing = SignedPlanes(n_bits, (planes * rows, columns), word, numbers.shape)
    raw = numbers.reshape(-1).view(np.uint8)
    codes = packing.unpack(raw)
    for row, column, plane in np.ndindex(numbers.shape):
        assert codes[plane * rows + row, column] == int(numbers[row, column, plane]) % (1 << n_bits)
    assert packing.pack(codes).tobytes() == raw.tobytes()
    if n_bits not in (8, 16):
        numbers[0, 0, 0] = half
        with pytest.raises(ValueError, match="outside the range"):
            packing.unpack(numbers.reshape(-1).view(np.uint8))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2**32))
def test_code_words_of_quip_come_back(n_planes: int, tall: int, wide: int, seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 256, 16 * tall * 8 * wide * n_planes).astype(np.uint8)
    packing = Bytes(8, (n_planes * 16 * tall, 8 * wide), 8, n_planes)
    assert packing.pack(packing.unpack(raw)).tobytes() == raw.tobytes()


def test_bits_of_no_code_are_found(recorded: dict[str, Any], checkpoint: Callable[..., Path]) -> None:
    """The two upper bits of HQQ's words of ten codes, and what follows the last code of a stream."""
    stored = recorded["hqq 3 bits, axis 1"]()
    stored.tensors["model.proj.W_q"].view(np.uint32)[0, 0] |= np.uint32(1 << 31)
    tensor = read(checkpoint, stored).by_name()["model.proj.W_q"]
    with pytest.raises(ValueError, match="belong to no code"):
        tensor.packing.unpack(tensor.data())
    stored = recorded["packed 3 bits"]()
    stored.tensors["model.proj.weight_packed"].view(np.uint32)[0, -1] |= np.uint32(1 << 31)
    tensor = read(checkpoint, stored).by_name()["model.proj.weight_packed"]
    with pytest.raises(ValueError, match="belong to no code"):
        tensor.packing.unpack(tensor.data())


# Numbers


@pytest.mark.parametrize(
    ("dtype", "torch_name"),
    [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E8M0", "float8_e8m0fnu"), ("BF16", "bfloat16")],
)
def test_small_floats_have_the_values_of_torch(dtype: str, torch_name: str) -> None:
    import torch

    raw = np.arange(256 if dtype != "BF16" else 65_536, dtype="<u2").astype("u1" if dtype != "BF16" else "<u2")
    flat = raw.view(np.uint8)
    values = floats(Tensor.of_bytes("x", dtype, raw.shape, flat))
    np.testing.assert_array_equal(
        values, torch.from_numpy(flat.copy()).view(getattr(torch, torch_name)).float().numpy()
    )


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["F16", "F32", "BF16", "I8", "U8"]), st.integers(1, 60), st.integers(0, 2**32))
def test_classes_of_scales_are_equal_parts_in_order(dtype: str, size: int, seed: int) -> None:
    width = {"F16": 2, "BF16": 2, "F32": 4}.get(dtype, 1)
    raw = np.random.default_rng(seed).integers(0, 256, size * width).astype(np.uint8)
    tensor = Tensor.of_bytes("x", dtype, (size,), raw)
    classes = scale_classes(tensor)
    values = floats(tensor) if width > 1 else raw.view({"I8": "i1", "U8": "u1"}[dtype]).astype(np.float32)
    assert classes.max(initial=0) < 16
    order = np.argsort(classes, kind="stable")
    numbers = values[order][~np.isnan(values[order])]
    assert (np.diff(numbers) >= 0).all() or len(set(classes.tolist())) < size  # in order from class to class
    for low, high in itertools.pairwise(sorted(set(classes.tolist()))):
        below, above = values[classes == low], values[classes == high]
        assert np.isnan(below).any() or np.isnan(above).any() or below.max() <= above.min()


def test_values_of_blocks() -> None:
    table = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(spread(table, (4, 6)), np.kron(table, np.ones((2, 2), int)))
    assert spread(table, (3, 5), (2, 2)).shape == (3, 5)
    assert spread(np.array([7]), (4, 6)).item() == 7
    for shape, blocks in (((4, 2), (None, None)), ((4, 6), (1, 2)), ((1, 6), (None, None))):
        with pytest.raises(Misfit):
            spread(table, shape, blocks)


# Files that are not what they say


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        ({}, "dense"),
        ({"quantization_config": None}, "dense"),
        ({"quantization_config": 4}, "unknown: without a method, measured as plain bytes"),
        ({"quantization_config": {}}, "unknown: without a method, measured as plain bytes"),
        ({"quantization_config": {"quant_method": ["gptq"]}}, "unknown: ['gptq'], measured as plain bytes"),
        ({"quantization_config": {"quant_method": "vptq"}}, "unknown: vptq, measured as plain bytes"),
        ({"a": {"quantization_config": {"quant_method": "vptq"}}}, "unknown: vptq, measured as plain bytes"),
        (
            {"quantization_config": {"quant_method": "gptq", "checkpoint_format": "marlin"}},
            "unknown: gptq (marlin), measured as plain bytes",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "checkpoint_format": [1]}},
            "unknown: gptq, measured as plain bytes",
        ),
        (
            {"quantization_config": {"quant_method": "auto-round", "packing_format": {}}},
            "unknown: auto-round, measured as plain bytes",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "version": "gemv"}},
            "unknown: awq (gemv), measured as plain bytes",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "unknown: awq without its tensors, measured as plain bytes"),
        (
            {"quantization_config": {"quant_method": "x\n" * 99}},
            "unknown: " + ("x " * 40)[:80] + ", measured as plain bytes",
        ),
        ({"gguf": {}}, "unknown: gguf without its tensors, measured as plain bytes"),
        ({"quip_params": 3}, "dense"),
    ],
)
def test_what_is_not_known_says_so(checkpoint: Callable[..., Path], config: dict[str, Any], layout: str) -> None:
    weights = read_checkpoint(checkpoint({"a.weight": np.ones((2, 2), np.float32)}, config))
    assert weights.layout == layout
    assert weights.tensors[0].packing is None


def test_tensors_that_look_quantised_without_a_configuration_say_so(recorded: dict[str, Any]) -> None:
    said = "unknown: model.proj.qweight and no configuration that tells how it is quantised, measured as plain bytes"
    weights = in_memory(recorded["gptq 4 bits"]().tensors, {})
    assert weights.layout == said
    assert all(tensor.packing is None for tensor in weights.tensors)


def test_layouts_without_their_tensors_pack_nothing() -> None:
    for method in LAYOUTS:
        assert packings({}, {"quantization_config": {"quant_method": method}}) == {}


@pytest.mark.parametrize("dropped", [0, 1, 2, 3])
def test_layers_that_lack_a_tensor_are_plain(recorded: dict[str, Any], dropped: int) -> None:
    for name, make in recorded.items():
        stored = make()
        tensors = dict(stored.tensors)
        if dropped >= len(tensors):
            continue
        tensors.pop(list(tensors)[dropped])
        weights = in_memory(tensors, stored.config)
        layout = layout_of(stored.config)
        for tensor in weights.tensors:
            if tensor.packing is not None:
                assert tensor.packing.pack(tensor.packing.unpack(tensor.data())).tobytes() == tensor.data().tobytes()
        assert dequantised_shape(layout, weights, stored.module) in (None, stored.weight.shape), name


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


SETTINGS = (
    *("bits", "group_size", "sym", "checkpoint_format", "format", "packing_format", "version", "config_groups"),
    *("weight_block_size", "linear_class", "resid_scale_override", "quant_method"),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.dictionaries(st.sampled_from(SETTINGS), junk), junk)
def test_settings_of_any_kind_name_a_layout(method: str, table: dict[str, Any], metadata: Any) -> None:
    tensors = {"a._weight_qdata": Tensor.of_bytes("a._weight_qdata", "I8", (1, 1), np.zeros(1, np.uint8))}
    config = {"quantization_config": {"quant_method": method, **table}, "safetensors_metadata": metadata}
    assert isinstance(layout_of(config).name, str)
    assert layout_of({"quip_params": {**table}}).name == "quip#"
    for names in (config, {**config, "safetensors_metadata": {"a.weight": metadata}}):
        assert packings(tensors, names) == {}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_checkpoints_are_plain_or_one_line(recorded: dict[str, Any], data: st.DataObject) -> None:
    """Settings, shapes, dtypes and bytes at random: a packing is a bijection or none, and nothing else is raised."""
    stored = recorded[data.draw(st.sampled_from(sorted(recorded)))]()
    tensors = dict(stored.tensors)
    config = json.loads(json.dumps(stored.config))
    section = next(iter(config.values()))
    for key in data.draw(
        st.lists(st.sampled_from(["bits", "group_size", "sym", "config_groups", "weight_block_size"]))
    ):
        section[key] = data.draw(junk)
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2, unique=True)):
        value = tensors[name][1] if isinstance(tensors[name], tuple) else tensors[name]
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy()
        if raw.size and data.draw(st.booleans()):
            raw[data.draw(st.integers(0, raw.size - 1))] = data.draw(st.integers(0, 255))
        raw = raw[: data.draw(st.integers(0, raw.size))]
        dtype, width = data.draw(
            st.sampled_from([("U8", 1), ("I8", 1), ("F16", 2), ("I32", 4), ("I64", 8), ("F32", 4)])
        )
        raw = raw[: raw.size // width * width]
        rows = data.draw(st.sampled_from([size for size in (1, 2, 4, 8) if raw.size // width % size == 0]))
        shape = data.draw(st.sampled_from([(rows, -1), (-1,), (-1, rows), (1, rows, -1)])) if raw.size else (0, rows)
        tensors[name] = (dtype, raw.view(f"u{width}").reshape(shape))
    weights = in_memory(tensors, config)
    layout = layout_of(config)
    for tensor in weights.tensors:
        if tensor.packing is not None:
            assert_bijection(tensor, tensor.packing)
        if tensor.expected is not None:
            assert tensor.expected().dtype == np.uint8
    if layout is not None:
        dequantised_shape(layout, weights, stored.module)


def dequantised_shape(layout: Layout, weights: Weights, module: str) -> tuple[int, ...] | None:
    """None where the layer cannot be dequantised; whatever is no clear error stays one."""
    try:
        return layout.dequantise(weights.by_name(), module).shape
    except WeightsError:
        return None


def assert_bijection(tensor: Tensor, packing: Packing) -> None:
    raw = tensor.data()
    try:
        codes = packing.unpack(raw)
    except ValueError:
        return
    assert codes.shape == packing.shape
    assert packing.pack(codes).tobytes() == raw.tobytes()
    for side in Side:
        labels = packing.labels(side)
        assert labels is None or labels.shape == packing.shape
