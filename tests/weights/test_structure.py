"""A network is what its configuration builds: other settings, classes, hooks and functions are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from lm_bounds.errors import WeightsError
from lm_bounds.weights import check_unmeasured, code_of, read_module

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "gemma2": {"head_dim": 8},
    "qwen2": {},
    "mixtral": {"num_local_experts": 2},
    "mamba": {},
    "phi": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 4, "n_layer": 2},
}


def built(family: str = "llama", **settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], **settings})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


class Shifted(torch.nn.Module):
    """An activation with numbers of its own that are no tensor of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = [torch.randn(64)]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(values) + self.table[0][: values.shape[-1]]


class Doubled(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def zeroed(module: Any, state: Any, prefix: str, metadata: Any) -> None:
    for name in [name for name in state if "layers.0.mlp" in name]:
        state[name] = torch.zeros_like(state[name])


def buffered(module: Any, state: Any, prefix: str, metadata: Any) -> None:
    state["model.layers.0.mlp.offset"] = torch.zeros(1)


def with_buffer(model: Any) -> None:
    model.model.layers[0].mlp.register_buffer("offset", torch.ones(1))
    model.register_state_dict_post_hook(buffered)


def parametrised(model: Any) -> None:
    torch.nn.utils.parametrize.register_parametrization(model.model.layers[0].mlp.up_proj, "weight", Doubled())


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "scale of attention": (
        lambda model: setattr(model.model.layers[0].self_attn, "scaling", 3.0),
        r"'model\.layers\.0\.self_attn' has another scaling",
    ),
    "epsilon": (
        lambda model: setattr(model.model.norm, "variance_epsilon", 5.0),
        r"'model\.norm' has another variance_epsilon",
    ),
    "rotary scale": (
        lambda model: setattr(model.model.rotary_emb, "attention_scaling", 2.0),
        r"'model\.rotary_emb' has another attention_scaling",
    ),
    "module with a hidden table": (
        lambda model: setattr(model.model.layers[0].mlp, "act_fn", Shifted()),
        r"'model\.layers\.0\.mlp\.act_fn' is a Shifted",
    ),
    "another activation": (
        lambda model: setattr(model.model.layers[0].mlp, "act_fn", torch.nn.ReLU()),
        r"'model\.layers\.0\.mlp\.act_fn' is a ReLU",
    ),
    "one more module": (
        lambda model: model.model.layers[0].mlp.add_module("extra", torch.nn.Identity()),
        r"'model\.layers\.0\.mlp\.extra' is not part of the network",
    ),
    "one module less": (
        lambda model: delattr(model.model.layers[0].mlp, "act_fn"),
        r"'model\.layers\.0\.mlp\.act_fn' is not there",
    ),
    "configuration after building": (
        lambda model: setattr(model.config, "rms_norm_eps", 0.5),
        "has another variance_epsilon than its configuration gives it",
    ),
    "method of its own": (
        lambda model: setattr(model.model.layers[0].mlp.up_proj, "_call_impl", lambda values: values),
        r"'model\.layers\.0\.mlp\.up_proj' has a _call_impl of its own",
    ),
    "parametrised weight": (parametrised, r"'model\.layers\.0\.mlp\.up_proj' is a ParametrizedLinear"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_transformers_are_what_they_say(family: str, dtype: torch.dtype) -> None:
    model = built(family).to(dtype)
    check_unmeasured(model)
    with torch.no_grad():
        model(torch.arange(9)[None])
    check_unmeasured(model)
    assert code_of(model) == "transformers"


@pytest.mark.parametrize("change", CHANGES)
def test_another_network_is_refused(change: str) -> None:
    model = built()
    act, message = CHANGES[change]
    act(model)
    with pytest.raises(WeightsError, match=message):
        check_unmeasured(model)


@pytest.mark.parametrize("change", [lambda model: model.register_state_dict_post_hook(zeroed), with_buffer])
def test_a_state_dict_that_is_not_the_model_is_refused(change: Callable[[Any], object]) -> None:
    model = built()
    change(model)
    with pytest.raises(WeightsError, match=r"the state dict has other numbers for 'model\.layers\.0\.mlp\.\w+"):
        read_module(model)


def test_hooks_on_everything_are_refused() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        with pytest.raises(WeightsError, match="hooks on every forward pass"):
            check_unmeasured(built())
    finally:
        handle.remove()
    check_unmeasured(built())


def test_an_attention_of_somebody_else_is_refused() -> None:
    from transformers import AttentionInterface

    def odd(*arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    AttentionInterface.register("odd", odd)
    model = built()
    model.config._attn_implementation = "odd"
    with pytest.raises(WeightsError, match="the attention 'odd' is not one of transformers"):
        check_unmeasured(model)


def test_code_that_is_not_of_transformers_is_named() -> None:
    model = built()

    class LlamaForCausalLM(type(model)):  # type: ignore[misc]
        pass

    model.__class__ = LlamaForCausalLM
    found = code_of(model)
    assert found.startswith("custom: ")
    assert __name__ in found
    assert "sha256" in found
    assert code_of(SimpleNamespace(modules=lambda: iter([torch.nn.Linear(2, 2)]))) == "transformers"
