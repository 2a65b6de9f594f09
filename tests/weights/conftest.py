"""A server on this machine that answers as the Hub does, and small quantised checkpoints.

The checkpoints are written by packers that know nothing of the package: one code after another.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAGGED = "89abcdef0123456789abcdef0123456789abcdef"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": TAGGED, TAGGED: TAGGED}
GATED = "org/gated"
_FILE = re.compile(r"/(?P<id>[^/]+(/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_INFO = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
DTYPES = {"u1": "U8", "i1": "I8", "i2": "I16", "i4": "I32", "u4": "I32", "i8": "I64", "f2": "F16", "f4": "F32"}


@dataclass
class Hub:
    """Repositories in the folders ``ORG/NAME/COMMIT`` of a root.

    Args:
        root: the folder.
        address: to set as HF_ENDPOINT.
        sent: names of the files whose content was sent, in order.
        broken: whether every request is answered with an error.
    """

    root: Path
    address: str = ""
    sent: list[str] = field(default_factory=list)
    broken: bool = False

    def publish(self, name: str, folder: Path, commit: str = COMMIT) -> None:
        """Puts the files of a folder into a repository."""
        shutil.copytree(folder, self.root / name / commit)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.hub.broken:
            return self._refuse(500, "", with_body)
        if wanted := _INFO.fullmatch(self.path):
            return self._info(wanted["id"], wanted["revision"] or "main", with_body)
        wanted = _FILE.fullmatch(self.path)
        if not wanted or not (self.hub.root / wanted["id"]).is_dir():
            return self._refuse(404, "RepoNotFound", with_body)
        if wanted["id"] == GATED:
            return self._refuse(403, "GatedRepo", with_body)
        commit = REVISIONS.get(wanted["revision"])
        if commit is None or not (self.hub.root / wanted["id"] / commit).is_dir():
            return self._refuse(404, "RevisionNotFound", with_body)
        file = self.hub.root / wanted["id"] / commit / wanted["file"]
        if not file.is_file():
            return self._refuse(404, "EntryNotFound", with_body, commit)
        content = file.read_bytes()
        if with_body:
            self.hub.sent.append(wanted["file"])
        return self._send(200, content, with_body, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, commit)

    def _info(self, repository: str, revision: str, with_body: bool) -> None:
        commit = REVISIONS.get(revision)
        folder = self.hub.root / repository / str(commit)
        if not folder.is_dir():
            return self._refuse(404, "RevisionNotFound", with_body)
        names = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        content = json.dumps({"id": repository, "sha": commit, "siblings": names}).encode()
        return self._send(200, content, with_body, {"Content-Type": "application/json"}, str(commit))

    def _refuse(self, status: int, code: str, with_body: bool, commit: str = "") -> None:
        self._send(status, b"", with_body, {"X-Error-Code": code, "X-Error-Message": code}, commit)

    def _send(self, status: int, content: bytes, with_body: bool, headers: dict[str, str], commit: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def running_hub(root: Path) -> Iterator[Hub]:
    """The server, until the block ends."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub on this machine in place of the real one, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with running_hub(tmp_path / "repositories") as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the attempts of the library
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@dataclass
class Stored:
    """A checkpoint with one quantised layer, and what it means.

    Args:
        tensors: by name; a pair of dtype and array where numpy has no such dtype.
        config: of the model.
        layout: its name.
        weight: of the layer, shape (outputs, inputs).
        codes: of the tensors that pack any, as matrices.
        module: the name of the layer.
        expected: tensors whose bytes are predicted, and rightly.
    """

    tensors: dict[str, Any]
    config: dict[str, Any]
    layout: str
    weight: np.ndarray
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    module: str = "model.proj"
    expected: tuple[str, ...] = ()


def write_checkpoint(folder: Path, tensors: dict[str, Any], config: dict[str, Any], metadata: Any = None) -> Path:
    """The folder with ``model.safetensors`` and ``config.json``."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, value in tensors.items():
        dtype, array = value if isinstance(value, tuple) else (DTYPES[np.asarray(value).dtype.str[1:]], value)
        raw = np.ascontiguousarray(array).tobytes()
        shape = list(np.shape(array))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def stream(codes: Iterable[int], n_bits: int, n_words: int) -> list[int]:
    """Words of 32 bits that hold the codes one after another from the lowest bit."""
    total = sum(int(code) << n_bits * k for k, code in enumerate(codes))
    assert total < 1 << 32 * n_words
    return [total >> 32 * k & 0xFFFFFFFF for k in range(n_words)]


def streams(codes: np.ndarray, n_bits: int, axis: int) -> np.ndarray:
    """A stream for each row (axis 1) or column (axis 0)."""
    lines = codes if axis == 1 else codes.T
    n_words = -(-lines.shape[1] * n_bits // 32)
    words = np.array([stream(line, n_bits, n_words) for line in lines], np.uint32)
    return np.ascontiguousarray(words if axis == 1 else words.T).view(np.int32)


def gptq(
    n_bits: int, form: str = "gptq", sym: bool = False, order: bool = False, n_in: int = 64, n_out: int = 32
) -> Stored:
    rng = np.random.default_rng(n_bits)
    top = 1 << n_bits
    group_size = 32
    n_groups = n_in // group_size
    q = rng.integers(0, top, (n_in, n_out))
    zero = np.full((n_groups, n_out), top // 2) if sym else rng.integers(1, top, (n_groups, n_out))
    scale = rng.random((n_groups, n_out)).astype(np.float16)
    groups = rng.permutation(n_in) // group_size if order else np.arange(n_in) // group_size
    less = 0 if form in ("gptq_v2", "auto_round") else 1
    weight = np.empty((n_out, n_in), np.float32)
    for i in range(n_in):
        for j in range(n_out):
            weight[j, i] = np.float32(scale[groups[i], j]) * np.float32(q[i, j] - zero[groups[i], j])
    tensors = {
        "model.proj.qweight": streams(q, n_bits, 0),
        "model.proj.qzeros": streams(zero - less, n_bits, 1),
        "model.proj.scales": scale,
        "model.proj.g_idx": groups.astype(np.int32),
    }
    auto = form.startswith("auto_round")
    settings = {"quant_method": "auto-round" if auto else "gptq", "bits": n_bits, "group_size": group_size, "sym": sym}
    settings["packing_format" if auto else "checkpoint_format"] = form
    expected = (*(() if order else ("model.proj.g_idx",)), *(("model.proj.qzeros",) if sym else ()))
    codes = {"model.proj.qweight": q, "model.proj.qzeros": zero - less}
    return Stored(
        tensors, {"quantization_config": settings}, settings["quant_method"], weight, codes, expected=expected
    )


def awq() -> Stored:
    rng = np.random.default_rng(1)
    q, zero = rng.integers(0, 16, (64, 16)), rng.integers(0, 16, (2, 16))
    scale = rng.random((2, 16)).astype(np.float16)

    def words(table: np.ndarray) -> np.ndarray:
        packed = np.zeros((len(table), table.shape[1] // 8), np.uint32)
        for row in range(len(table)):
            for column in range(table.shape[1] // 8):
                for place, output in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                    packed[row, column] |= np.uint32(int(table[row, 8 * column + output]) << 4 * place)
        return packed.view(np.int32)

    weight = np.array(
        [[np.float32(scale[i // 32, j]) * np.float32(q[i, j] - zero[i // 32, j]) for i in range(64)] for j in range(16)]
    )
    tensors = {"model.proj.qweight": words(q), "model.proj.qzeros": words(zero), "model.proj.scales": scale}
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}}
    return Stored(tensors, config, "awq", weight, {"model.proj.qweight": q, "model.proj.qzeros": zero})


def nf4(kind: str = "nf4", nested: bool = False) -> Stored:
    import torch

    rng = np.random.default_rng(2)
    q, block = rng.integers(0, 16, (6, 64)), 32
    values = {
        "nf4": [
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
            *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
            *(
                0.24611230194568634,
                0.33791524171829224,
                0.44070982933044434,
                0.5626170039176941,
                0.7229568362236023,
                1.0,
            ),
        ],
        "fp4": [0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3],
    }[kind]
    table = torch.tensor(values, dtype=torch.float32)
    table = (table / table.abs().max()).numpy()
    state = {"quant_type": kind, "blocksize": block, "dtype": "float32", "shape": list(q.shape)}
    prefix = "model.proj.weight"
    tensors: dict[str, Any] = {prefix: np.array([[16 * a + b] for a, b in q.reshape(-1, 2)], np.uint8)}
    tensors[f"{prefix}.quant_map"] = table
    expected = [f"{prefix}.quant_map"]
    if nested:
        middles = []
        for power in range(7):
            bounds = torch.linspace(0.1, 1, 2**power + 1)
            part = (10 ** (power - 6)) * ((bounds[:-1] + bounds[1:]) / 2)
            middles += [*part.tolist(), *(-part).tolist()]
        curve = torch.tensor(sorted([*middles, 0.0, 1.0]), dtype=torch.float32).numpy()
        absmax = rng.integers(0, 256, 12).astype(np.uint8)
        outer = rng.random(3).astype(np.float32)
        state |= {"nested_blocksize": 5, "nested_dtype": "float32", "nested_offset": 0.25}
        scale = [np.float32(curve[code] * outer[k // 5]) + np.float32(0.25) for k, code in enumerate(absmax)]
        tensors |= {f"{prefix}.nested_absmax": outer, f"{prefix}.nested_quant_map": curve}
        expected.append(f"{prefix}.nested_quant_map")
    else:
        absmax = rng.random(12).astype(np.float32)
        scale = list(absmax)
    tensors[f"{prefix}.absmax"] = absmax
    tensors[f"{prefix}.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    flat = [table[code] * scale[k // block] for k, code in enumerate(q.ravel())]
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    weight = np.array(flat, np.float32).reshape(q.shape)
    return Stored(tensors, config, "bitsandbytes", weight, {prefix: q}, expected=tuple(expected))


def int8() -> Stored:
    rng = np.random.default_rng(3)
    q, scale = rng.integers(-127, 128, (8, 16)).astype(np.int8), rng.random(8).astype(np.float32)
    tensors = {"model.proj.weight": q, "model.proj.SCB": scale, "model.proj.weight_format": np.zeros((), np.uint8)}
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    weight = q.astype(np.float32) * scale[:, None] * np.float32(7.874015718698502e-3)
    return Stored(tensors, config, "bitsandbytes", weight, expected=("model.proj.weight_format",))


def hqq(n_bits: int, axis: int) -> Stored:
    rng = np.random.default_rng(10 * n_bits + axis)
    n_out, n_in, size = 12, 16, 8
    q = rng.integers(0, 1 << n_bits, (n_out, n_in))
    table = q.reshape(-1, size) if axis == 1 else q.reshape(size, -1)
    shape = (len(table), 1) if axis == 1 else (1, table.shape[1])
    scale, zero = rng.random(shape).astype(np.float32), rng.random(shape).astype(np.float32) * 7
    n_parts = 10 if n_bits == 3 else 8 // n_bits
    step = -(-len(table) // n_parts)
    packed = np.zeros((step, table.shape[1]), np.uint32 if n_bits == 3 else np.uint8)
    for (row, column), code in np.ndenumerate(table):
        part, place = divmod(row, step)
        packed[place, column] |= packed.dtype.type(int(code) << n_bits * (n_parts - 1 - part))
    name = "3bit_32" if n_bits == 3 else f"{n_bits}bit_u8"
    tensors = {
        "model.proj.W_q": packed.view(np.int32) if n_bits == 3 else packed,
        "model.proj.scale": scale,
        "model.proj.zero": zero,
        "model.proj.shape": np.array([n_out, n_in], np.int64),
        "model.proj.packing": np.frombuffer(name.encode(), np.uint8),
        "model.proj.axis": np.array(axis, np.int32),
    }
    weight = ((table.astype(np.float32) - zero) * scale).reshape(n_out, n_in)
    config = {
        "quantization_config": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": n_bits}}}
    }
    return Stored(tensors, config, "hqq", weight, {"model.proj.W_q": q})


def packed(n_bits: int, sym: bool = True, old: bool = False, order: bool = False, n_in: int = 132) -> Stored:
    rng = np.random.default_rng(n_bits)
    n_out, size = 32, 11
    half = 1 << n_bits - 1
    groups = rng.permutation(n_in) // size if order else np.arange(n_in) // size
    q, zero = rng.integers(-half, half, (n_out, n_in)), rng.integers(-half, half, (n_out, n_in // size))
    zero = zero * 0 if sym else zero
    scale = rng.random((n_out, n_in // size)).astype(np.float32)
    weight = np.empty((n_out, n_in), np.float32)
    for (j, i), code in np.ndenumerate(q):
        weight[j, i] = np.float32(code - zero[j, groups[i]]) * scale[j, groups[i]]
    if old:
        per_word = 32 // n_bits
        words = np.zeros((n_out, -(-n_in // per_word)), np.uint32)
        for (j, i), code in np.ndenumerate(q + half):
            words[j, i // per_word] |= np.uint32(int(code) << n_bits * (i % per_word))
        weight_packed = words.view(np.int32)
    else:
        weight_packed = streams(q + half, n_bits, 1)
    tensors = {
        "model.proj.weight_packed": weight_packed,
        "model.proj.weight_scale": scale,
        "model.proj.weight_shape": np.array([n_out, n_in], np.int64),
    }
    codes = {"model.proj.weight_packed": q + half}
    if not sym:
        tensors["model.proj.weight_zero_point"] = streams(zero + half, n_bits, 0)
        codes["model.proj.weight_zero_point"] = zero + half
    if order:
        tensors["model.proj.weight_g_idx"] = groups.astype(np.int32)
    weights = {"num_bits": n_bits, "type": "int", "symmetric": sym, "strategy": "group", "group_size": size}
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    config = {"quantization_config": settings | {"config_groups": {"group_0": {"weights": weights}}}}
    return Stored(tensors, config, "compressed-tensors", weight, codes)


def aqlm(n_bits: int) -> Stored:
    rng = np.random.default_rng(n_bits)
    rows, columns, n_books, width = 5, 4, 2, 8
    q = rng.integers(0, 1 << n_bits, (rows, columns, n_books))
    books = rng.normal(size=(n_books, 1 << n_bits, 1, width)).astype(np.float16)
    scale = rng.random((rows, 1, 1, 1)).astype(np.float16)
    signed = np.where(q >= 1 << n_bits - 1, q - (1 << n_bits), q)
    weight = np.zeros((rows, columns * width), np.float32)
    for row in range(rows):
        for column in range(columns):
            total = np.zeros(width, np.float32)
            for book in range(n_books):
                total += books[book, q[row, column, book], 0].astype(np.float32)
            weight[row, column * width : (column + 1) * width] = total * np.float32(scale[row, 0, 0, 0])
    tensors = {
        "model.proj.codes": signed.astype(np.int8 if n_bits <= 8 else np.int16),
        "model.proj.codebooks": books,
        "model.proj.scales": scale,
    }
    codes = np.concatenate([q[:, :, book] for book in range(n_books)])
    config = {"quantization_config": {"quant_method": "aqlm", "nbits_per_codebook": n_bits, "num_codebooks": n_books}}
    return Stored(tensors, config, "aqlm", weight, {"model.proj.codes": codes})


def bitnet(auto: bool = False) -> Stored:
    rng = np.random.default_rng(4)
    ternary = rng.integers(-1, 2, (12, 7))
    words = np.zeros((3, 7), np.uint8)
    for (row, column), value in np.ndenumerate(ternary):
        words[row % 3, column] |= np.uint8(int(value + 1) << 2 * (row // 3))
    scale = np.array([1.75], np.float32)
    tensors = {"model.proj.weight": words, "model.proj.weight_scale": scale}
    settings = {"quant_method": "bitnet"} | ({"linear_class": "autobitlinear"} if auto else {})
    weight = ternary.astype(np.float32) * scale if auto else ternary.astype(np.float32) / scale
    return Stored(tensors, {"quantization_config": settings}, "bitnet", weight, {"model.proj.weight": ternary + 1})


def fp8(block: bool = True) -> Stored:
    import torch

    rng = np.random.default_rng(5)
    raw = torch.tensor(rng.normal(size=(5, 6)), dtype=torch.float8_e4m3fn)
    scale = rng.random((2, 3) if block else (5, 1)).astype(np.float32)
    weight = np.empty((5, 6), np.float32)
    for (j, i), value in np.ndenumerate(raw.float().numpy()):
        weight[j, i] = value * (scale[j // 4, i // 2] if block else scale[j, 0])
    settings = {"quant_method": "fp8", "weight_block_size": [4, 2]} if block else {"quant_method": "fbgemm_fp8"}
    tensors = {
        "model.proj.weight": ("F8_E4M3", raw.view(torch.uint8).numpy()),
        "model.proj.weight_scale_inv" if block else "model.proj.weight_scale": scale,
    }
    return Stored(tensors, {"quantization_config": settings}, settings["quant_method"], weight)


def torchao() -> Stored:
    rng = np.random.default_rng(6)
    q, zero = rng.integers(-8, 8, (4, 8)).astype(np.int8), rng.integers(-8, 8, (4, 2)).astype(np.int8)
    scale = rng.random((4, 2)).astype(np.float32)
    weight = np.empty((4, 8), np.float32)
    for (j, i), code in np.ndenumerate(q):
        weight[j, i] = np.float32(int(code) - int(zero[j, i // 4])) * scale[j, i // 4]
    tensors = {
        "model.proj._weight_qdata": q,
        "model.proj._weight_scale": scale,
        "model.proj._weight_zero_point": zero,
    }
    kind = {"_type": "IntxUnpackedToInt8Tensor", "_data": {"block_size": [1, 4], "dtype": {"_data": "float32"}}}
    metadata = {"model.proj.weight": json.dumps(kind)}
    config = {"quantization_config": {"quant_method": "torchao"}, "safetensors_metadata": metadata}
    return Stored(tensors, config, "torchao", weight)


def small_floats() -> Stored:
    """compressed-tensors with elements of whole bytes."""
    stored = fp8(block=False)
    weights = {"num_bits": 8, "type": "float", "strategy": "channel"}
    settings = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    return Stored(stored.tensors, {"quantization_config": settings}, "compressed-tensors", stored.weight)


RECORDED: dict[str, Callable[[], Stored]] = {
    **{f"gptq {b} bits": lambda b=b: gptq(b) for b in (2, 3, 4, 8)},
    **{f"gptq_v2 {b} bits, reordered": lambda b=b: gptq(b, "gptq_v2", order=True) for b in (2, 3, 4, 8)},
    **{f"gptq {b} bits, symmetric": lambda b=b: gptq(b, sym=True) for b in (2, 3, 4, 8)},
    "auto-round": lambda: gptq(2, "auto_round:auto_gptq"),
    "auto-round exact": lambda: gptq(4, "auto_round", sym=True),
    "awq": awq,
    "nf4": nf4,
    "nf4 nested": lambda: nf4(nested=True),
    "fp4": lambda: nf4("fp4"),
    "int8": int8,
    **{f"hqq {b} bits, axis {axis}": lambda b=b, axis=axis: hqq(b, axis) for b in (1, 2, 3, 4, 8) for axis in (0, 1)},
    **{f"packed {b} bits": lambda b=b: packed(b) for b in (2, 3, 4, 5, 8)},
    **{f"packed {b} bits, zero-points": lambda b=b: packed(b, sym=False, order=True) for b in (2, 3, 4, 8)},
    "packed 3 bits, ten a word": lambda: packed(3, old=True),
    "float-quantized": small_floats,
    **{f"aqlm {b} bits": lambda b=b: aqlm(b) for b in (8, 11)},
    "bitnet": bitnet,
    "autobitlinear": lambda: bitnet(auto=True),
    "fp8": fp8,
    "fbgemm_fp8": lambda: fp8(block=False),
    "torchao": torchao,
}


@pytest.fixture(params=RECORDED, ids=list(RECORDED))
def stored(request: pytest.FixtureRequest) -> Stored:
    return RECORDED[request.param]()


@pytest.fixture(scope="session")
def recorded() -> dict[str, Callable[[], Stored]]:
    return RECORDED


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    return lambda tensors, config, metadata=None: write_checkpoint(tmp_path / "model", tensors, config, metadata)


@pytest.fixture(scope="session")
def make_streams() -> Callable[..., np.ndarray]:
    return streams
