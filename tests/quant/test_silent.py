"""Checkpoints that transformers loads as layers of random numbers without an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.errors import WeightsError
from lm_bounds.weights import weights_of


def refused(folder: Path) -> str:
    """What is said of an HFLM of the directory."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(folder), device="cpu", batch_size=1)
    with pytest.raises(WeightsError) as caught:
        weights_of(lm, lambda: None)
    return str(caught.value)


@pytest.mark.parametrize("n_bits", [3, 4])
def test_hqq(quantised: Callable[[str], Path], n_bits: int) -> None:
    message = refused(quantised(f"hqq:{n_bits}"))
    assert "'model.layers.0.mlp.down_proj.weight'" in message
    assert "at random" in message
    assert "'model.layers.0.mlp.down_proj.W_q'" in message


def test_aqlm_without_its_configuration(quantised: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(quantised("aqlm"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "'model.layers.0.mlp.down_proj.weight'" in refused(folder)


def test_a_gguf_file_in_the_working_directory_is_loaded_instead(
    quantised: Callable[[str], Path], byte_tokenizer: Any, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    shutil.copy(quantised("gguf:Q8_0") / "model.gguf", tmp_path / "model.gguf")
    folder = quantised("gguf:Q4_0")
    lm = HFLM(pretrained=str(folder), gguf_file="model.gguf", tokenizer=byte_tokenizer, device="cpu", batch_size=1)
    with pytest.raises(WeightsError, match=r"'blk\.0\.attn_k\.weight' of .*load it again, and only that file"):
        weights_of(lm, lambda: None)
