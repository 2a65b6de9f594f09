"""A quantised checkpoint from load to certificate: what is measured are its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.errors import WeightsError
from lm_bounds.tasks.deep import verify_deep
from lm_bounds.weights import read_checkpoint

TASK = "local_bpd_bound"


@pytest.fixture
def ternary(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A BitNet checkpoint, for which transformers needs no other library."""
    from transformers.integrations.bitnet import pack_weights

    folder = Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "ternary"))
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scale = 1 / tensors[name].abs().mean()
        tensors[name + "_scale"] = scale.reshape(1)
        tensors[name] = pack_weights((tensors[name] * scale).round().clamp(-1, 1)).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def load(folder: Path, **options: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", **{"batch_size": 8, **options})


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"batch_size": "auto"}], ids=["", "bfloat16", "auto"])
def test_its_certificate_states_the_size_of_the_files(
    ternary: Path, evaluate: Callable[..., Any], certificates: Callable[[], list[Path]], options: dict[str, Any]
) -> None:
    evaluate(TASK, load(ternary, **options))
    [path] = certificates()
    assert lm_bounds.verify(path).ok
    weights = read_checkpoint(ternary)
    complexity = read_certificate(path)["complexity"]
    assert complexity["sha256"] == weights.sha256()
    assert complexity["stored_bytes"] == weights.stored_bytes
    [measured] = verify_deep([path])
    assert measured.ok, measured


def test_weights_that_change_during_the_evaluation_are_noticed(
    ternary: Path, evaluate: Callable[..., Any], certificates: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_bounds import pipeline

    lm, score = load(ternary), pipeline.score_certifying

    def change(*arguments: Any) -> Any:
        with torch.no_grad():
            lm.model.model.layers[0].self_attn.q_proj.weight_scale.mul_(1.0001)
        return score(*arguments)

    monkeypatch.setattr(pipeline, "score_certifying", change)
    with pytest.raises(WeightsError, match="the model's weights changed while it was evaluated"):
        evaluate(TASK, lm)
    assert certificates() == []


def test_another_model_than_the_files_is_refused(ternary: Path, evaluate: Callable[..., Any]) -> None:
    lm = load(ternary)
    with torch.no_grad():
        lm.model.model.norm.weight[3] += 1
    with pytest.raises(WeightsError, match=r"the loaded model has 'model\.norm\.weight' at random or otherwise"):
        evaluate(TASK, lm)
