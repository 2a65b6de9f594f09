"""gzip against the library's own one-shot call on the whole file."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest

from lm_bounds.compressors import Gzip
from lm_bounds.weights import Weights, protocol, serialise


@pytest.mark.parametrize("chunk_bytes", [1 << 26, 64])
def test_streamed_size_is_that_of_the_whole_file(
    mixed: Weights, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CHUNK_BYTES", chunk_bytes)
    config, file = Gzip().ledger(mixed)
    whole = b"".join(serialise(mixed))
    assert file.bits == 8 * len(gzip.compress(whole, 9, mtime=0))
    assert config.bits == 8 * len(zlib.compress(mixed.config, 9))


def test_version_names_what_the_size_depends_on() -> None:
    assert Gzip().version() == f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level 9"


def test_file_loads_with_the_reference_reader(mixed: Weights, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors import safe_open
    from safetensors.torch import load

    path = tmp_path / "model.safetensors"
    path.write_bytes(b"".join(serialise(mixed)))
    loaded = load(path.read_bytes())
    assert sorted(loaded) == [tensor.name for tensor in mixed.tensors]
    for tensor in mixed.tensors:
        values = loaded[tensor.name]
        assert tuple(values.shape) == tensor.shape
        assert values.reshape(-1).view(torch.uint8).numpy().tobytes() == tensor.data().tobytes()
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["aliases"]) == {"norm_again": "norm"}


def test_data_start_on_a_multiple_of_eight_bytes(tensor, weights) -> None:
    for length in range(1, 9):
        header = next(serialise(weights(tensor("n" * length, np.ones(3)))))
        assert len(header) % 8 == 0
