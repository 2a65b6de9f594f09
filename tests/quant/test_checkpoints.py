"""Checkpoints of the real libraries: what is read of them, and whether the loaded model is what was read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.compressors import measure
from lm_bounds.errors import WeightsError
from lm_bounds.weights import Weights, check_loaded, check_unmeasured, fingerprint, read_checkpoint
from lm_bounds.weights.layouts import layout_of

LAYERS = 2 * 7
# kind: whether its codes are packed, several to an element or fewer bits than one
KINDS = {
    "aqlm": True,
    "auto_round:auto_round": True,
    "auto_round:auto_gptq": True,
    "auto_round:auto_awq": True,
    "bitnet": True,
    "bitsandbytes:nf4": True,
    "bitsandbytes:nf4-nested": True,
    "bitsandbytes:fp4": True,
    "bitsandbytes:int8": False,
    "compressed_tensors:pack4": True,
    "compressed_tensors:pack3": True,
    "compressed_tensors:pack8": True,
    "compressed_tensors:int8": False,
    "compressed_tensors:fp8": False,
    "gptq:4": True,
    "gptq:2-act-order": True,
    "gptq:3": True,
    "gptq:8": True,
    "gptq:asymmetric": True,
    "gptq:v2": True,
    "torchao:int8": False,
    "torchao:int4": False,
    "torchao:int2": False,
    "torchao:fp8": False,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def load(path: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, **options).eval()


def forward(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(12)[None]).logits


def by_name(weights: Weights) -> dict[str, Any]:
    tensors = {tensor.name: tensor for tensor in weights.tensors}
    return tensors | {name: tensors[kept] for name, kept in weights.aliases}


@every_kind
def test_every_quantised_layer_is_found_and_its_codes_are_unpacked(quantised: Callable[[str], Path], kind: str) -> None:
    weights = read_checkpoint(quantised(kind))
    layout, tensors = layout_of(json.loads(weights.config)), by_name(weights)
    assert layout is not None
    assert weights.layout == layout.name
    assert "unknown" not in weights.layout
    modules = layout.modules(tensors)
    assert len(modules) == LAYERS
    for module in modules:
        for name in set(layout.coded(module)) & set(tensors):
            packing = tensors[name].packing
            assert (packing is not None) == KINDS[kind], name
            if packing is not None:
                codes = packing.unpack(tensors[name].data())
                assert int(codes.max()) < 2**packing.n_bits
                assert np.array_equal(packing.pack(codes), tensors[name].data())


@every_kind
@pytest.mark.parametrize("compressor", ["arithmetic", "best"])
def test_the_measured_size_is_below_gzip(quantised: Callable[[str], Path], kind: str, compressor: str) -> None:
    folder = quantised(kind)
    files = [*folder.glob("*.safetensors"), folder / "config.json"]
    gzipped = sum(8 * len(gzip.compress(path.read_bytes(), 9)) for path in files)
    assert measure(read_checkpoint(folder), compressor).bits < gzipped


@every_kind
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_the_loaded_model_computes_what_the_files_say(quantised: Callable[[str], Path], kind: str, dtype: str) -> None:
    weights = read_checkpoint(quantised(kind))
    model = load(quantised(kind), dtype=dtype)
    checked = check_loaded(weights, model, lambda: forward(model))
    before = fingerprint(model)
    check_unmeasured(model, checked.layers)
    modules = layout_of(json.loads(weights.config)).modules(by_name(weights))
    assert set(modules) <= set(checked.layers)
    forward(model)
    assert fingerprint(model) == before
    model(100 + forward(model)[..., :200].argmax(-1))
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_of_a_gguf_file(quantised: Callable[[str], Path], kind: str) -> None:
    import torch

    folder = quantised(f"gguf:{kind}")
    weights = read_checkpoint(folder / "model.gguf")
    assert weights.layout == "gguf"
    assert measure(weights, "arithmetic").bits < 8 * len(gzip.compress((folder / "model.gguf").read_bytes(), 9))
    model = load(folder, gguf_file="model.gguf", dtype=torch.bfloat16)
    assert len(check_loaded(weights, model).cast) == len(model.state_dict())
    with torch.no_grad():
        query = model.model.layers[1].self_attn.q_proj.weight
        query.copy_(query[torch.randperm(len(query))])
    with pytest.raises(WeightsError, match=r"'model\.layers\.1\.self_attn\.q_proj\.weight' .* is not 'blk\.1\.attn_q"):
        check_loaded(weights, model)


def test_a_layer_with_the_weights_of_another_is_refused(quantised: Callable[[str], Path]) -> None:
    import torch

    weights, model = read_checkpoint(quantised("gptq:4")), load(quantised("gptq:4"))
    attention = model.model.layers[1].self_attn
    with torch.no_grad():
        attention.k_proj.scales.copy_(attention.q_proj.scales)
    with pytest.raises(WeightsError, match=r"layer 'model\.layers\.1\.self_attn\.k_proj' does not compute"):
        check_loaded(weights, model)
