"""GGUF files: the parts of blocks against the reference implementation, the keys that count, and hostile files."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.errors import WeightsError
from lm_bounds.weights import Weights, layout_of, read_checkpoint
from lm_bounds.weights import gguf_file as reader
from lm_bounds.weights.layouts import Misfit
from lm_bounds.weights.layouts.gguf import BLOCKS
from lm_bounds.weights.packing import Side

gguf = pytest.importorskip("gguf")

PLAIN_TYPES = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
TEXT = 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def file_bytes(
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]], keys: list[tuple[str, int, bytes]], version: int = 3
) -> bytes:
    """A file by the steps of its specification: magic, counts, keys, tensors with offsets, data at multiples of 32."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, value in keys:
        head += text(name) + struct.pack("<I", kind) + value
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", gguf.GGMLQuantizationType[kind].value, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


def blocks(kind: str, shape: tuple[int, ...], seed: int = 0) -> bytes:
    """Random blocks; their floats are finite."""
    n_weights, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (int(np.prod(shape)) // n_weights, n_bytes)).astype(np.uint8)
    begin = 0
    for part in BLOCKS[kind][1] if kind in BLOCKS else ():
        if part.dtype == "F16":
            values = rng.normal(size=len(raw)).astype("<f2")
            raw[:, begin : begin + 2] = values.view(np.uint8).reshape(-1, 2)
        begin += part.n_bytes
    return raw.tobytes()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(tensors: dict[str, Any], keys: Any = (), **options: Any) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(file_bytes(tensors, list(keys), **options))
        return path

    return written


def dequantised(weights: Weights, name: str) -> np.ndarray:
    return layout_of(json.loads(weights.config)).dequantise(weights.by_name(), name)


@pytest.mark.parametrize("kind", sorted(BLOCKS))
@pytest.mark.parametrize("shape", [(3, 512), (2, 3, 256)])
def test_parts_give_the_weights_of_the_reference(write: Callable[..., Path], kind: str, shape: tuple[int, ...]) -> None:
    raw = blocks(kind, shape)
    weights = read_checkpoint(write({"w": (kind, shape, raw)}))
    expected = gguf.quants.dequantize(
        np.frombuffer(raw, np.uint8).reshape(*shape[:-1], -1), gguf.GGMLQuantizationType[kind]
    )
    assert weights.layout == "gguf"
    weight = dequantised(weights, "w")
    assert weight.shape == shape
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_parts_hold_every_byte_once(write: Callable[..., Path], kind: str) -> None:
    raw = blocks(kind, (4, 256))
    weights = read_checkpoint(write({"w": (kind, (4, 256), raw)}))
    names = [f"w#{kind.lower()}.{part.name}" for part in BLOCKS[kind][1]]
    assert sorted(names) == [tensor.name for tensor in weights.tensors]
    n_blocks = 4 * 256 // BLOCKS[kind][0]
    parts = [weights.by_name()[name].data().reshape(n_blocks, -1) for name in names]
    assert np.concatenate(parts, axis=1).tobytes() == raw


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_codes_of_parts_come_back_and_have_labels(write: Callable[..., Path], kind: str) -> None:
    weights = read_checkpoint(write({"w": (kind, (4, 512), blocks(kind, (4, 512)))}))
    packed = {tensor.name: tensor for tensor in weights.tensors if tensor.packing is not None}
    assert set(packed) == {f"w#{kind.lower()}.{part.name}" for part in BLOCKS[kind][1] if part.n_bits}
    for tensor in packed.values():
        codes = tensor.packing.unpack(tensor.data())
        assert codes.shape == tensor.packing.shape == (4, 512)
        assert tensor.packing.pack(codes).tobytes() == tensor.data().tobytes()
        labels = tensor.packing.labels(Side.SCALE)
        assert (labels is None) == (kind == "MXFP4")
        if labels is not None:
            assert labels.shape == (4, 512)
            assert (labels.reshape(-1, BLOCKS[kind][0]) == labels.reshape(-1, BLOCKS[kind][0])[:, :1]).all()


@pytest.mark.parametrize("kind", PLAIN_TYPES)
def test_plain_types_stay_as_they_are(write: Callable[..., Path], kind: str) -> None:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    raw = np.random.default_rng(0).integers(0, 256, 15 * size).astype(np.uint8).tobytes()
    [tensor] = read_checkpoint(write({"w": (kind, (3, 5), raw)})).tensors
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.data().tobytes()) == ("w", kind, (3, 5), raw)


@pytest.mark.parametrize("kind", ["IQ2_XXS", "TQ1_0", "Q8_1", "NVFP4"])
def test_other_blocks_are_bytes(write: Callable[..., Path], kind: str) -> None:
    raw = blocks(kind, (2, 512))
    weights = read_checkpoint(write({"w": (kind, (2, 512), raw), "v": ("F32", (1,), bytes(4))}))
    tensor = weights.by_name()[f"w#{kind.lower()}.blocks"]
    assert (tensor.dtype, tensor.data().tobytes(), tensor.packing) == ("U8", raw, None)
    with pytest.raises(Misfit, match="no blocks of a type that is known"):
        dequantised(weights, "w")


def test_a_file_of_the_reference_writer(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a name")
    writer.add_description("a description")
    writer.add_block_count(2)
    writer.add_rope_freq_base(10_000.0)
    writer.add_array("llama.per_layer", [1, 2, 3])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "c"])
    values = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("norm", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = read_checkpoint(path)
    assert json.loads(weights.config) == {
        "gguf": {
            "general.architecture": "llama",
            "general.name": "a name",
            "llama.block_count": 2,
            "llama.per_layer": [1, 2, 3],
            "llama.rope.freq_base": 10_000.0,
        }
    }
    np.testing.assert_array_equal(
        dequantised(weights, "blk.0.weight"), gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_0)
    )
    assert weights.by_name()["norm"].data().tobytes() == np.ones(4, "<f4").tobytes()


def test_parts_are_read_in_pieces(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Any bytes of a part, without holding more of the file than a region at a time."""
    raw = blocks("Q6_K", (16, 512))
    weights = read_checkpoint(write({"w": ("Q6_K", (16, 512), raw)}))
    regions = []
    read_bytes = reader.read_bytes
    monkeypatch.setattr(reader, "_REGION_BYTES", 700)
    monkeypatch.setattr(reader, "read_bytes", lambda *a: regions.append(a[3] - a[2]) or read_bytes(*a))
    for part, begin in (("low", 0), ("high", 128), ("scales", 192), ("d", 208)):
        tensor = weights.by_name()[f"w#q6_k.{part}"]
        width = tensor.n_bytes // 32
        whole = np.frombuffer(raw, np.uint8).reshape(32, 210)[:, begin : begin + width].ravel()
        for start, stop in ((0, whole.size), (1, whole.size - 1), (width - 1, width + 1), (3, 4), (5, 5)):
            assert tensor.read(start, stop).tobytes() == whole[start:stop].tobytes()
    assert max(regions) <= 700


def scalar(kind: int, code: str, value: Any) -> tuple[int, bytes]:
    return kind, struct.pack("<" + code, value)


def test_only_keys_of_the_network_count(write: Callable[..., Path]) -> None:
    tensor = {"w": ("F32", (1,), bytes(4))}
    array = struct.pack("<IQ", TEXT, 2) + text("x") + text("y")
    keys = [
        ("general.architecture", TEXT, text("llama")),
        ("general.name", TEXT, text("who")),
        ("general.license", TEXT, text("mine")),
        ("tokenizer.ggml.tokens", 9, array),
        ("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
        ("quantize.imatrix.file", TEXT, text("calibration")),
        ("llama.names", 9, array),
        ("llama.flag", *scalar(7, "?", True)),
        ("llama.small", *scalar(0, "B", 200)),
        ("llama.signed", *scalar(1, "b", -3)),
        ("llama.wide", *scalar(10, "Q", 2**63)),
        ("llama.real", *scalar(12, "d", 0.1)),
    ]
    config = json.loads(read_checkpoint(write(tensor, keys)).config)["gguf"]
    assert config == {
        "general.architecture": "llama",
        "general.name": "who",
        "llama.names": ["x", "y"],
        "llama.flag": True,
        "llama.small": 200,
        "llama.signed": -3,
        "llama.wide": 2**63,
        "llama.real": 0.1,
    }


def test_alignment_of_the_file(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 2, 1, 1) + text("general.alignment") + struct.pack("<II", 4, 256)
    head += text("w") + struct.pack("<IQIQ", 1, 2, 0, 0)
    (tmp_path / "model.gguf").write_bytes(head + bytes(-len(head) % 256) + b"12345678")
    assert read_checkpoint(tmp_path / "model.gguf").tensors[0].data().tobytes() == b"12345678"


def test_a_missing_library_is_one_line(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write({"w": ("F32", (1,), bytes(4))})
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    with pytest.raises(WeightsError, match=r"needs a library: pip install 'lm-bounds\[gguf\]'"):
        read_checkpoint(path)


ONE = {"w": ("F32", (2,), b"abcdefgh")}
KEY = text("llama.key")

HOSTILE = {
    "empty": (b"", "does not begin with GGUF"),
    "other magic": (b"GGML" + bytes(40), "does not begin with GGUF"),
    "magic alone": (b"GGUF", "end after"),
    "version 1": (file_bytes(ONE, [], version=1), "version 1 is none of"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "endless keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1), "end after"),
    "endless tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "end after"),
    "endless text": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + KEY + struct.pack("<IQ", TEXT, 2**63), "end after"),
    "endless name": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**40), "a name has"),
    "endless array": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + KEY + struct.pack("<IIQ", 9, 0, 2**60), "does not fit"),
    "endless tokens": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("tokenizer.x") + struct.pack("<IIQ", 9, 6, 2**62),
        "does not fit",
    ),
    "deep arrays": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50 + bytes(99),
        "nested",
    ),
    "unknown value": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + KEY + struct.pack("<I", 13), "has the type 13"),
    "no UTF-8": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"\xff", "not UTF-8"),
    "key twice": (file_bytes(ONE, [("k", *scalar(0, "B", 1))] * 2), "'k' occurs twice"),
    "five dimensions": (file_bytes({"w": ("F32", (1,) * 5, bytes(4))}, []), "5 dimensions"),
    "beyond the file": (file_bytes(ONE, [])[:-32] + b"abc", "ends after the file"),
    "gigantic shape": (file_bytes({"w": ("F32", (2**62, 2**62), b"")}, []), "ends after the file"),
    "half a block": (file_bytes({"w": ("Q4_0", (2, 40), bytes(64))}, []), "no multiple of 32"),
    "alignment": (file_bytes(ONE, [("general.alignment", *scalar(4, "I", 0))]), "general.alignment is 0"),
    "alignment of text": (file_bytes(ONE, [("general.alignment", TEXT, text("x"))]), "general.alignment is 'x'"),
    "one of several": (file_bytes(ONE, [("split.count", *scalar(2, "H", 3))]), "llama-gguf-split --merge"),
    "a name with a mark": (file_bytes({"w#q4_0.d": ("F32", (1,), bytes(4))}, []), "tensor 'w#q4_0.d'"),
    "unknown type": (
        file_bytes(ONE, []).replace(struct.pack("<QIQ", 2, 0, 0), struct.pack("<QIQ", 2, 999, 0)),
        "does not know; upgrade it",
    ),
}


@pytest.mark.parametrize(("content", "why"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    content = file_bytes({"v": ("F32", (2,), b"abcdefgh"), "w": ("F32", (2,), b"abcdefgh")}, [])
    (tmp_path / "model.gguf").write_bytes(content.replace(text("v"), text("w")))
    with pytest.raises(WeightsError, match="two tensors are called 'w'"):
        read_checkpoint(tmp_path / "model.gguf")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    keys = [("llama.k", *scalar(4, "I", 7)), ("llama.a", 9, struct.pack("<IQ", TEXT, 1) + text("x"))]
    content = bytearray(file_bytes({"v": ("Q4_0", (2, 32), blocks("Q4_0", (2, 32))), **ONE}, keys))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        weights = read_checkpoint(path)
    except WeightsError:
        return
    assert len(weights.sha256()) == 64
