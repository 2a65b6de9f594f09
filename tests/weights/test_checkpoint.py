"""Checkpoints on disk: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.errors import WeightsError
from lm_bounds.weights import read_checkpoint, serialise

CONFIG = {"model_type": "invented", "hidden_size": 4, "torch_dtype": "float32", "transformers_version": "4.1"}


def entry(begin: int, stop: int, shape: list[int], dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, stop]}


def file_bytes(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(path: Path, header: dict | bytes, data: bytes = b"") -> Path:
    path.write_bytes(file_bytes(header, data))
    return path


def save(directory: Path, tensors: dict[str, np.ndarray], name: str = "model.safetensors") -> None:
    from safetensors.numpy import save_file

    save_file(tensors, directory / name)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save(tmp_path, {"b": np.arange(6, dtype=np.float32)}, "model-00001-of-00002.safetensors")
    save(tmp_path, {"a": np.arange(4, dtype=np.float16)}, "model-00002-of-00002.safetensors")
    save(tmp_path, {"stray": np.ones(9, np.float32)}, "other.safetensors")
    weight_map = {"b": "model-00001-of-00002.safetensors", "a": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_file_of_the_reference_writer_is_read_bit_for_bit(tmp_path: Path) -> None:
    values = {
        "z": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "a": np.array([True, False]),
        "half": np.arange(5, dtype=np.float16),
        "scalar": np.array(7, np.int64),
        "none": np.zeros((0, 3), np.float32),
    }
    save(tmp_path, values)
    weights = read_checkpoint(tmp_path)
    assert [tensor.name for tensor in weights.tensors] == ["a", "half", "none", "scalar", "z"]
    for tensor in weights.tensors:
        assert tensor.shape == values[tensor.name].shape
        assert tensor.data().tobytes() == values[tensor.name].tobytes()
    assert weights.config == b"{}"
    assert read_checkpoint(tmp_path / "model.safetensors").sha256() == weights.sha256()


def test_shards_of_the_index_and_no_others_are_read(sharded: Path) -> None:
    weights = read_checkpoint(str(sharded))
    assert [(tensor.name, tensor.dtype) for tensor in weights.tensors] == [("a", "F16"), ("b", "F32")]
    assert weights.config == b'{"hidden_size":4,"model_type":"invented"}'


def test_sharding_does_not_change_the_hash(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = tmp_path_factory.mktemp("whole")
    save(whole, {"a": np.arange(4, dtype=np.float16), "b": np.arange(6, dtype=np.float32)})
    (whole / "config.json").write_bytes((sharded / "config.json").read_bytes())
    assert read_checkpoint(whole).sha256() == read_checkpoint(sharded).sha256()


def test_repeated_tensors_count_once(tmp_path: Path) -> None:
    embedding = np.arange(8, dtype=np.float32)
    save(tmp_path, {"lm_head": embedding, "wte": embedding.copy(), "bias": np.zeros(2, np.float32)})
    weights = read_checkpoint(tmp_path)
    assert weights.aliases == (("wte", "lm_head"),)
    assert weights.n_parameters == 10


def test_canonical_file_reads_back_with_the_same_hash(sharded: Path, tmp_path: Path) -> None:
    weights = read_checkpoint(sharded)
    (tmp_path / "model.safetensors").write_bytes(b"".join(serialise(weights)))
    (tmp_path / "config.json").write_bytes((sharded / "config.json").read_bytes())
    assert read_checkpoint(tmp_path).sha256() == weights.sha256()


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no checkpoint at .*nowhere"):
        read_checkpoint(tmp_path / "nowhere")


def test_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no weights: it needs model\.safetensors"):
        read_checkpoint(tmp_path)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"weights\.npz is not a checkpoint"):
        read_checkpoint(tmp_path / "weights.npz")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_legacy_checkpoint_tells_how_to_convert(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match="convert it to safetensors"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, "quantization_config": {"quant_method": "newest", "bits": 4}},
        {"text_config": {"quantization_config": {"quant_method": "newest"}}},
    ],
)
def test_a_quantised_checkpoint_of_unknown_layout_is_plain_bytes_and_says_so(sharded: Path, config: dict) -> None:
    dense = read_checkpoint(sharded)
    (sharded / "config.json").write_text(json.dumps(config))
    weights = read_checkpoint(sharded)
    assert dense.layout == "dense"
    assert weights.layout == "unknown: newest, measured as plain bytes"
    assert weights.tensors == dense.tensors
    assert all(tensor.packing is None for tensor in weights.tensors)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000])
def test_broken_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        read_checkpoint(sharded)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "", 7, ".."])
def test_index_cannot_point_outside_the_directory(sharded: Path, shard: object) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match=r"no \.safetensors file name"):
        read_checkpoint(sharded)


def test_index_must_be_right_about_every_tensor(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": {"b": first, "a": second, "gone": second}}))
    with pytest.raises(WeightsError, match="'gone' is not in model-00002"):
        read_checkpoint(sharded)
    index.write_text(json.dumps({"weight_map": {"b": second, "a": first}}))
    with pytest.raises(WeightsError, match="is not in"):
        read_checkpoint(sharded)
    index.write_text(json.dumps({"weight_map": {"b": first, "a": "model-00003-of-00003.safetensors"}}))
    with pytest.raises(WeightsError, match=r"cannot read .*model-00003"):
        read_checkpoint(sharded)
    save(sharded, {"b": np.ones(1, np.float32)}, second)
    index.write_text(json.dumps({"weight_map": {"b": first, "a": second}}))
    with pytest.raises(WeightsError, match=r"'b' is in model-00001.* and in model-00002"):
        read_checkpoint(sharded)


HOSTILE = {
    "empty file": b"",
    "short length": b"\x01\x02",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "absurd header length": struct.pack("<Q", 2**63) + b"{}",
    "header of no bytes": struct.pack("<Q", 0),
    "no JSON": file_bytes(b"{]"),
    "no UTF-8": file_bytes(b'{"\xff": 1}'),
    "no object": file_bytes(b"[1]"),
    "deep nesting": file_bytes(b"[" * 200_000),
    "endless number": file_bytes(b'{"a": ' + b"9" * 10_000 + b"}"),
    "duplicate name": file_bytes(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "unpaired surrogate": file_bytes(b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"x"),
    "entry of no object": file_bytes({"a": 1}),
    "missing key": file_bytes({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
    "foreign key": file_bytes({"a": {**entry(0, 1, [1]), "extra": 1}}, b"x"),
    "end beyond the file": file_bytes({"a": entry(0, 9, [9])}, b"x"),
    "end before begin": file_bytes({"a": entry(1, 0, [1])}, b"x"),
    "negative offset": file_bytes({"a": entry(-1, 0, [1])}, b"x"),
    "fractional offset": file_bytes({"a": entry(0, 1.0, [1])}, b"x"),
    "boolean offset": file_bytes({"a": entry(False, True, [1])}, b"x"),
    "three offsets": file_bytes({"a": {**entry(0, 1, [1]), "data_offsets": [0, 1, 1]}}, b"x"),
    "overlap": file_bytes({"a": entry(0, 2, [2]), "b": entry(1, 3, [2])}, b"xyz"),
    "gap": file_bytes({"a": entry(0, 1, [1]), "b": entry(2, 3, [1])}, b"xyz"),
    "gap at the start": file_bytes({"a": entry(1, 2, [1])}, b"xy"),
    "bytes left over": file_bytes({"a": entry(0, 1, [1])}, b"xy"),
    "size against dtype": file_bytes({"a": entry(0, 2, [2], "F32")}, b"xy"),
    "size against shape": file_bytes({"a": entry(0, 2, [3])}, b"xy"),
    "overflowing shape": file_bytes({"a": entry(0, 0, [2**62, 2**62, 4])}),
    "many dimensions": file_bytes({"a": entry(0, 1, [1] * 1000)}, b"x"),
    "negative size": file_bytes({"a": entry(0, 1, [-1, -1])}, b"x"),
    "shape of no list": file_bytes({"a": {**entry(0, 1, [1]), "shape": 1}}, b"x"),
    "dtype of no text": file_bytes({"a": {**entry(0, 1, [1]), "dtype": ["U8"]}}, b"x"),
    "dtype below a byte": file_bytes({"a": entry(0, 1, [2], "F4")}, b"x"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(file_bytes({"a": entry(0, 2, [2]), "b": entry(2, 6, [1], "F32")}, b"abcdef"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        weights = read_checkpoint(path)
    except WeightsError:
        return
    assert len(weights.sha256()) == 64


def test_broken_configuration_is_refused(sharded: Path) -> None:
    (sharded / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        read_checkpoint(sharded)
