"""Speed and size of every compressor against zlib level 9, zstd level 3, xz, ZipNN and OpenZL, on the same weights.

    python benchmarks/compress.py [--quick] [--json]
    python benchmarks/compress.py --large GIGABYTES [--json]

The weights are drawn: bf16 tensors, each normal with a scale of its own and a few rows of outliers, and the codes that
4, 3 and 2 bits leave of them, one byte each. All compressors of a row set see the same file in the same run, one thread
each. ZipNN and OpenZL are measured where they can be imported; zlib is measured on the safetensors file in one call, as
`gzip -9` would compress it.

With --large a bf16 checkpoint of so many gigabytes is written to the temporary folder, an embedding of a quarter of it
among its tensors, and `lm-bounds compress` measures it from there in a process of its own, whose time and peak of
memory are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from lm_bounds.compressors import compressor_names, get_compressor
from lm_bounds.errors import UsageError
from lm_bounds.weights import Tensor, Weights, serialise

OUTLIERS = 8.0
_MEASURED_COMMAND = """
import json, re, sys, time
from pathlib import Path
from lm_bounds.cli.compress import compress
started = time.perf_counter()
compress([sys.argv[1], "--compressor", sys.argv[2]], standalone_mode=False)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # of Linux
print(json.dumps({"seconds": round(time.perf_counter() - started, 2), "peak_mb": round(peak)}))
"""
CODE_STEPS = {4: 0.4, 3: 0.8, 2: 1.4}  # width of a step in standard deviations of the tensor


def drawn(n_tensors: int, side: int) -> list[NDArray[np.float32]]:
    """Tensors of ``side`` x ``side`` weights; rows differ in scale by a fifth, and one in 256 is 8 times larger."""
    rng = np.random.default_rng(0)
    tensors = []
    for scale in np.exp(rng.normal(np.log(0.02), 0.5, n_tensors)):
        rows = np.exp(rng.normal(0, 0.2, (side, 1)))
        rows[rng.choice(side, side // 256, replace=False)] *= OUTLIERS
        tensors.append((scale * rows * rng.normal(size=(side, side))).astype(np.float32))
    return tensors


def as_weights(arrays: list[NDArray[np.generic]], dtype: str) -> Weights:
    """A model of these arrays."""
    tensors = []
    for number, array in enumerate(arrays):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        tensors.append(Tensor.of_bytes(f"layers.{number:03}.weight", dtype, array.shape, flat))
    return Weights(dtype, tuple(tensors))


def examples(n_tensors: int, side: int) -> dict[str, Weights]:
    """The weights in bf16, and their codes."""
    floats = drawn(n_tensors, side)
    found = {"bf16": as_weights([(each.view("<u4") >> 16).astype("<u2") for each in floats], "BF16")}
    for width, step in CODE_STEPS.items():
        lowest, highest = -(1 << width - 1), (1 << width - 1) - 1
        codes = [np.clip(np.round(each / (step * each.std())), lowest, highest).astype(np.int8) for each in floats]
        found[f"{width}-bit codes"] = as_weights(codes, "I8")
    return found


def others(weights: Weights) -> dict[str, Callable[[bytes], int]]:
    """What is compared with: bytes of the file to bytes of the result."""
    found: dict[str, Callable[[bytes], int]] = {
        "zlib level 9": lambda file: len(zlib.compress(file, 9)),
        "zstd level 3": lambda file: len(zstandard.ZstdCompressor(level=3).compress(file)),
    }
    if importlib.util.find_spec("zipnn") and weights.source == "BF16":
        import zipnn

        found["zipnn"] = lambda file: len(zipnn.ZipNN(bytearray_dtype="bfloat16", threads=1).compress(file))
    if importlib.util.find_spec("openzl"):
        found["openzl"] = lambda file: openzl_bytes(weights)
    return found


def openzl_bytes(weights: Weights) -> int:
    """OpenZL tensor by tensor: bf16 taken apart, and everything coded by its finite-state entropy coder."""
    import openzl.ext as openzl

    compressor = openzl.Compressor()
    entropy = openzl.graphs.Fse()(compressor)
    if weights.source == "BF16":
        entropy = openzl.nodes.BFloat16Deconstruct()(compressor, entropy, openzl.graphs.Fse()(compressor))
    compressor.select_starting_graph(entropy)
    context = openzl.CCtx()
    word = "<u2" if weights.source == "BF16" else "u1"
    n_bytes = 0
    for tensor in weights.tensors:
        # A frame takes the parameters of the context away with it.
        context.set_parameter(openzl.CParam.FormatVersion, openzl.MAX_FORMAT_VERSION)
        context.ref_compressor(compressor)
        n_bytes += len(context.compress([openzl.Input(openzl.Type.Numeric, tensor.data().view(word))]))
    return n_bytes


def measured(weights: Weights) -> dict[str, dict[str, float]]:
    """Seconds, MB/s and bits per weight of every compressor, under its name."""
    file = b"".join(serialise(weights))
    rows = {}

    def note(name: str, started: float, bits: float) -> None:
        seconds = time.perf_counter() - started
        speed = len(file) / 1e6 / seconds
        rows[name] = {"seconds": seconds, "mb_per_s": speed, "bits_per_weight": bits / weights.n_parameters}

    for name, compressed_bytes in others(weights).items():
        started = time.perf_counter()
        note(name, started, 8 * compressed_bytes(file))
    for name in compressor_names():
        try:
            compressor = get_compressor(name)
        except UsageError:
            continue
        started = time.perf_counter()
        note(f"lm-bounds {name}", started, sum(item.bits for item in compressor.ledger(weights)))
    return rows


def large(gigabytes: float) -> dict[str, dict[str, float]]:
    """Seconds and peak memory in MB of the commands, for a checkpoint on disk, under the compressors' names."""
    columns = 4096
    n_rows = int(gigabytes * 1e9 / 2 / columns)
    shapes = {"embed": n_rows // 4, **{f"layers.{k:03}": 8192 for k in range(n_rows * 3 // 4 // 8192)}}
    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.02, (512, columns)).astype(np.float32)
    tensors = []
    for number, (name, rows) in enumerate(shapes.items()):
        scaled = (block * (1 + number / 100)).view("<u4") >> 16
        flat = np.resize(scaled.astype("<u2"), rows * columns).view(np.uint8)
        tensors.append(Tensor.of_bytes(name, "BF16", (rows, columns), flat))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "model.safetensors").open("wb") as file:
            file.writelines(serialise(Weights("large", tuple(tensors))))
        del tensors
        for name in ("arithmetic", "best"):
            command = [sys.executable, "-c", _MEASURED_COMMAND, folder, name]
            row = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            found[name] = row
    return found


def main() -> None:
    """Prints one row for each compressor and kind of weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the weights")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--large", type=float, metavar="GIGABYTES", help="time and memory for a checkpoint on disk")
    options = parser.parse_args()
    if options.large:
        rows = large(options.large)
        print(json.dumps(rows, indent=2) if options.json else "\n".join(f"{name}: {row}" for name, row in rows.items()))
        return
    report: dict[str, dict[str, dict[str, float]]] = {}
    for kind, weights in examples(8, 512 if options.quick else 2048).items():
        rows = report[kind] = measured(weights)
        if options.json:
            continue
        print(f"{kind}: {weights.n_parameters:,} weights, {weights.stored_bytes / 1e6:.1f} MB")
        baseline = rows["zlib level 9"]["mb_per_s"]
        for name, row in rows.items():
            numbers = f"{row['seconds']:8.3f} s {row['mb_per_s']:8.1f} MB/s {row['mb_per_s'] / baseline:7.1f} x"
            print(f"  {name:22} {numbers} {row['bits_per_weight']:8.4f} bits per weight")
    if options.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
