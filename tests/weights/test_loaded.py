"""Loaded models and the files that they were loaded from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_bounds.errors import WeightsError
from lm_bounds.weights import check_loaded, check_unmeasured, fingerprint, read_checkpoint, weights_of
from lm_bounds.weights.integrity.origin import checkpoint_directory, quantised_files

LAYER = "model.layers.1.self_attn.k_proj"
Change = Callable[[dict[str, torch.Tensor]], None]


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def forward(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(12)[None]).logits


def rewrite(folder: Path, change: Change, **config: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    if config:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**fields, **config}), encoding="utf-8")


def pack(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    from transformers.integrations.bitnet import pack_weights

    scale = 1 / weight.abs().mean()
    return {"weight": pack_weights((weight * scale).round().clamp(-1, 1)), "weight_scale": scale.reshape(1)}


def ternary(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        tensors |= {f"{layer}.{part}": value for part, value in pack(tensors.pop(name)).items()}


@pytest.fixture
def saved(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """``saved(family)``: a copy of a tiny checkpoint that may be changed."""
    return lambda family="llama": Path(shutil.copytree(tiny_checkpoint(family), tmp_path / family))


@pytest.fixture
def bitnet(saved: Callable[[str], Path]) -> Path:
    """A quantised checkpoint for which transformers needs no other library."""
    folder = saved("llama")
    quantization = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    rewrite(folder, ternary, quantization_config=quantization)
    return folder


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_a_dense_model_is_that_of_its_files(saved: Callable[[str], Path], family: str) -> None:
    weights = read_checkpoint(saved(family))
    checked = check_loaded(weights, load(Path(weights.source)))
    assert set(checked.identical) == set(weights.by_name())
    assert (checked.cast, checked.layers, checked.unread) == ((), (), ())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_model_may_be_loaded_in_another_format(saved: Callable[[str], Path], dtype: str) -> None:
    weights = read_checkpoint(saved("llama"))
    checked = check_loaded(weights, load(Path(weights.source), dtype=dtype))
    assert {*checked.identical, *checked.cast} == set(weights.by_name())
    assert "model.embed_tokens.weight" in checked.cast


def test_one_changed_number_is_found(saved: Callable[[str], Path]) -> None:
    weights = read_checkpoint(saved("gpt2"))
    model = load(Path(weights.source), dtype=torch.bfloat16)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.view(torch.int16)[3, 4] ^= 1
    with pytest.raises(WeightsError, match=r"has 'transformer\.h\.1\.mlp\.c_fc\.weight' at random or otherwise"):
        check_loaded(weights, model)


def test_tied_weights_may_be_in_the_files_once_or_twice(saved: Callable[[str], Path]) -> None:
    folder = saved("gpt2")
    weights = read_checkpoint(folder)
    assert "lm_head.weight" not in weights.by_name()
    check_loaded(weights, load(folder))
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].clone()}))
    check_loaded(read_checkpoint(folder), load(folder))


def test_names_without_the_prefix_of_the_base_model(saved: Callable[[str], Path]) -> None:
    folder = saved("gpt2")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    rewrite(folder, rename)
    weights = read_checkpoint(folder)
    assert "wte.weight" in check_loaded(weights, load(folder)).identical


def test_tensors_that_are_computed_now_may_be_left_unread(saved: Callable[[str], Path]) -> None:
    folder, name = saved("llama"), "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert check_loaded(read_checkpoint(folder), load(folder)).unread == (name,)


def test_tensors_without_use_are_named(saved: Callable[[str], Path]) -> None:
    folder = saved("llama")
    rewrite(folder, lambda tensors: tensors.update({"model.adapter": torch.arange(5.0)}))
    with pytest.raises(WeightsError, match=r"the loaded model does not use 'model\.adapter' of .*llama: load the"):
        check_loaded(read_checkpoint(folder), load(folder))


def test_other_settings_than_in_the_files_are_refused(saved: Callable[[str], Path]) -> None:
    folder = saved("llama")
    with pytest.raises(WeightsError, match=r"the configuration of the loaded model is not that of .*'rms_norm_eps'"):
        check_loaded(read_checkpoint(folder), load(folder, rms_norm_eps=0.5))


def as_hqq(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    packed = torch.zeros(weight.shape[0] // 2, weight.shape[1], dtype=torch.uint8)
    return {f"{layer}.W_q": packed, f"{layer}.scale": torch.ones(4, 1), f"{layer}.zero": torch.ones(4, 1)}


def as_quip(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = weight.shape
    return {
        f"{layer}.Qidxs": torch.zeros(rows, columns // 8, dtype=torch.int16),
        f"{layer}.SU": torch.ones(columns),
        f"{layer}.SV": torch.ones(rows),
        f"{layer}.Wscale": torch.ones(()),
    }


def as_aqlm(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = weight.shape
    return {
        f"{layer}.codes": torch.zeros(rows, columns // 8, 2, dtype=torch.int8),
        f"{layer}.codebooks": torch.ones(2, 256, 1, 8),
        f"{layer}.scales": torch.ones(rows, 1, 1, 1),
    }


@pytest.mark.parametrize(
    ("quantise", "config"),
    [
        (as_hqq, {}),
        (as_quip, {}),
        (as_aqlm, {}),
        (as_quip, {"quip_params": {"codebook": "E8P12", "codebook_version": 1, "rescale_WH": False}}),
    ],
)
def test_checkpoints_that_load_silently_wrong_are_refused(
    saved: Callable[[str], Path],
    tmp_path: Path,
    quantise: Callable[..., dict[str, torch.Tensor]],
    config: dict[str, Any],
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            tensors.update(quantise(name.removesuffix(".weight"), tensors.pop(name)))

    folder = saved("llama")
    rewrite(folder, change, **config)
    [first, *_] = sorted(quantise("model.layers.0.mlp.down_proj", torch.ones(8, 8)))
    model = load(folder)  # without an error
    assert float(model.model.layers[0].mlp.down_proj.weight.detach().std()) > 0
    for refused in (
        lambda: check_loaded(read_checkpoint(folder), model),
        lambda: weights_of(Lm(folder, model), forward),
    ):
        with pytest.raises(WeightsError) as caught:
            refused()
        assert "'model.layers.0.mlp.down_proj.weight'" in str(caught.value)
        assert repr(first) in str(caught.value)
        assert "at random" in str(caught.value)


class Lm:
    """What is asked of an HFLM."""

    def __init__(self, pretrained: Path, model: Any) -> None:
        self.pretrained, self.model, self.revision = str(pretrained), model, "main"


def test_a_quantised_checkpoint_is_measured_from_its_files(bitnet: Path) -> None:
    lm = Lm(bitnet, load(bitnet))
    origin = weights_of(lm, lambda: forward(lm.model))
    assert origin.weights.sha256() == read_checkpoint(bitnet).sha256()
    assert origin.weights.layout == "bitnet"
    assert len(origin.compared) == 14
    assert origin.state == fingerprint(lm.model)
    check_unmeasured(lm.model, origin.compared)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_quantised_layers_are_compared_as_functions(bitnet: Path, dtype: str) -> None:
    model = load(bitnet, dtype=dtype)
    checked = check_loaded(read_checkpoint(bitnet), model, lambda: forward(model))
    assert LAYER in checked.layers
    assert len(checked.layers) == 14


def test_a_quantised_layer_that_computes_something_else_is_refused(bitnet: Path) -> None:
    weights, model = read_checkpoint(bitnet), load(bitnet)
    layer = model.get_submodule(LAYER)
    for change in (
        lambda: layer.weight.view(-1)[:1].bitwise_xor_(1),  # one code
        lambda: layer.weight_scale.mul_(1.1),
        lambda: setattr(layer, "forward", lambda inputs: type(layer).forward(layer, inputs) + 1e-2),
    ):
        original = {name: value.clone() for name, value in layer.state_dict().items()}
        with torch.no_grad():
            change()
        with pytest.raises(WeightsError, match=rf"layer '{LAYER}' does not compute what its tensors in .* say"):
            check_loaded(weights, model)
        layer.load_state_dict(original)
        vars(layer).pop("forward", None)
    check_loaded(weights, model)


def test_a_layer_that_cannot_be_applied_is_named(bitnet: Path) -> None:
    model = load(bitnet)

    def fail(inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel")

    model.get_submodule(LAYER).forward = fail
    with pytest.raises(WeightsError, match=rf"layer '{LAYER}' of .* cannot be checked: .*no kernel"):
        check_loaded(read_checkpoint(bitnet), model)


def test_the_first_forward_pass_may_change_no_other_tensor(bitnet: Path) -> None:
    model = load(bitnet)

    def change() -> None:
        model.model.norm.weight.data += 1

    with pytest.raises(WeightsError, match="the first forward pass changes tensors"):
        check_loaded(read_checkpoint(bitnet), model, change)


def test_layers_that_repack_themselves_at_the_first_forward_pass(bitnet: Path) -> None:
    model = load(bitnet)
    before = fingerprint(model)

    def unpack() -> None:
        for name, layer in list(model.named_modules()):
            if type(layer).__name__ == "BitLinear":
                unit = torch.eye(layer.in_features)
                dense = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
                dense.weight.data = layer(unit).detach().T.contiguous()
                model.set_submodule(name, dense)

    checked = check_loaded(read_checkpoint(bitnet), model, unpack)
    assert len(checked.layers) == 14
    assert fingerprint(model) != before
    settled = fingerprint(model)
    forward(model)
    assert fingerprint(model) == settled


def test_an_adapter_on_a_quantised_checkpoint_is_refused(bitnet: Path) -> None:
    lm = Lm(bitnet, load(bitnet))
    lm.peft = "some/adapter"
    with pytest.raises(WeightsError, match="an adapter on the quantised checkpoint"):
        weights_of(lm, lambda: forward(lm.model))


def test_a_model_quantised_in_memory_must_stay_as_it_is(bitnet: Path) -> None:
    lm = Lm(bitnet, load(bitnet))
    lm.pretrained = lm.model
    origin = weights_of(lm, lambda: forward(lm.model))
    assert origin.weights.layout == "bitnet"
    assert origin.state == fingerprint(lm.model)
    with pytest.raises(WeightsError, match="changes the tensors of this quantised model: save it"):
        weights_of(lm, lambda: lm.model.get_submodule(LAYER).weight_scale.mul_(2))


def test_where_a_checkpoint_is_and_whether_it_is_quantised(tmp_path: Path, bitnet: Path) -> None:
    assert checkpoint_directory(str(bitnet), None) == bitnet
    assert checkpoint_directory("nobody/nothing", None) is None
    assert quantised_files(bitnet) == bitnet
    assert quantised_files(tmp_path) is None
    (tmp_path / "a.gguf").touch()
    assert quantised_files(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(WeightsError, match=r"holds 2 \.gguf files: put the one"):
        quantised_files(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert quantised_files(tmp_path) is None
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        quantised_files(tmp_path)


def test_what_is_put_into_a_dense_model_afterwards_is_measured_with_it(saved: Callable[[str], Path]) -> None:
    folder = saved("llama")
    lm = Lm(folder, load(folder))
    lm.model.register_buffer("steps", torch.ones(3))
    assert "steps" in weights_of(lm, lambda: None).weights.by_name()
