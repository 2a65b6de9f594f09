"""Quantised checkpoints in a packed file: a decoder makes out again how they pack their codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.codelength import total_bits
from lm_bounds.compressors import Arithmetic, Best, get_compressor
from lm_bounds.compressors.container import pack, read_packed, unpack
from lm_bounds.errors import WeightsError
from lm_bounds.weights import read_checkpoint

every_compressor = pytest.mark.parametrize("compressor", ["arithmetic", "best"])


@every_compressor
def test_every_layout_comes_back(checkpoint: Callable[..., Path], stored: Any, compressor: str, tmp_path: Path) -> None:
    config = dict(stored.config)
    folder = checkpoint(stored.tensors, config, config.pop("safetensors_metadata", None))
    weights = read_checkpoint(folder)
    n_bytes = pack(weights, compressor, tmp_path / "model.lmb")
    again = read_packed(tmp_path / "model.lmb")
    assert (again.sha256(), again.layout) == (weights.sha256(), weights.layout)
    packed = {tensor.name for tensor in weights.tensors if tensor.packing is not None}
    assert {tensor.name for tensor in again.tensors if tensor.packing is not None} == packed
    ledger = get_compressor(compressor).ledger(weights)
    assert get_compressor(compressor).ledger(again) == ledger
    assert n_bytes < 1.001 * total_bits(ledger) / 8 + 1024
    done = unpack(tmp_path / "model.lmb", tmp_path / "restored")
    assert done.sha256 == weights.sha256()


def test_codes_are_measured_as_codes(recorded: dict[str, Callable[[], Any]], checkpoint: Callable[..., Path]) -> None:
    """Uniform codes of four bits cost four bits, zero-points of one value and predicted indices nearly nothing."""
    found = recorded["gptq 4 bits, symmetric"]()
    weights = read_checkpoint(checkpoint(found.tensors, found.config))
    for compressor in (Arithmetic(), Best()):
        bits = {item.item: item.bits for item in compressor.ledger(weights)}
        n_codes = found.codes["model.proj.qweight"].size
        assert n_codes * 4 <= bits["model.proj.qweight"] < n_codes * 4.2 + 60
        assert bits["model.proj.g_idx"] == bits["model.proj.qzeros"] == compressor.mode_bits


def test_a_packed_file_that_promises_codes_of_another_layout_is_refused(
    recorded: dict[str, Callable[[], Any]], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    found = recorded["gptq 4 bits, symmetric"]()
    weights = read_checkpoint(checkpoint(found.tensors, found.config))
    dense = weights.__class__(weights.source, weights.tensors, weights.aliases, b"{}")
    pack(dense, "arithmetic", tmp_path / "model.lmb")
    with pytest.raises(WeightsError, match=r"tensor 'model\.proj\.\w+' (holds no codes|follows from no rule)"):
        unpack(tmp_path / "model.lmb", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()
