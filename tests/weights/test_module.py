"""Loaded models: the same as their checkpoints, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lm_bounds.errors import WeightsError  # noqa: E402
from lm_bounds.weights import Weights, read_checkpoint, read_module  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
CONFIGS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 32},
    "llama": SMALL,
    "gpt_neox": SMALL,
    "mixtral": {**SMALL, "num_local_experts": 3},
}


def random_model(family: str, tied: bool = True, dtype: torch.dtype = torch.float32):
    settings = dict(CONFIGS[family])
    if family == "gpt_neox":
        del settings["num_key_value_heads"]
    config = transformers.AutoConfig.for_model(family, tie_word_embeddings=tied, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    return model.eval()


def assert_same(one: Weights, other: Weights) -> None:
    assert one.tensors == other.tensors
    assert one.aliases == other.aliases
    assert one.config == other.config
    assert one.sha256() == other.sha256()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_checkpoint_and_loaded_model_agree(tmp_path: Path, family: str, tied: bool, dtype) -> None:
    model = random_model(family, tied, dtype)
    model.save_pretrained(tmp_path)
    on_disk = read_checkpoint(tmp_path)
    assert_same(on_disk, read_module(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)))
    assert_same(on_disk, read_module(model))
    assert {tensor.dtype for tensor in on_disk.tensors} == {"F32" if dtype == torch.float32 else "BF16"}


def test_experts_that_are_fused_on_loading_agree_with_the_file(tmp_path: Path) -> None:
    random_model("mixtral").save_pretrained(tmp_path)
    assert_same(read_checkpoint(tmp_path), read_module(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)))


def test_sharded_checkpoint_agrees(tmp_path: Path) -> None:
    model = random_model("llama", tied=False)
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same(read_checkpoint(tmp_path), read_module(model))


def test_tied_embedding_counts_once() -> None:
    tied, untied = read_module(random_model("llama", True)), read_module(random_model("llama", False))
    assert untied.n_parameters - tied.n_parameters == 50 * 16
    assert "lm_head.weight" not in [tensor.name for tensor in tied.tensors]


def test_declared_ties_that_do_not_hold_count_twice() -> None:
    model = random_model("llama", True)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    assert read_module(model).n_parameters == read_module(random_model("llama", False)).n_parameters


def test_values_are_those_of_the_module() -> None:
    model = random_model("gpt2")
    weights = read_module(model)
    state = model.state_dict()
    for tensor in weights.tensors:
        assert tensor.data().tobytes() == state[tensor.name].numpy().tobytes()


def test_one_changed_bit_of_a_parameter_changes_the_hash() -> None:
    model = random_model("gpt2")
    before = read_module(model).sha256()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.view(torch.int32)[0, 0] ^= 1
    assert read_module(model).sha256() != before


def test_layouts_in_memory_do_not_matter() -> None:
    one, other = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    with torch.no_grad():
        other.weight = torch.nn.Parameter(one.weight.detach().t().contiguous().t())
        other.bias.copy_(one.bias)
    assert not other.weight.is_contiguous()
    assert read_module(one).sha256() == read_module(other).sha256()


class Numbers(torch.nn.Module):
    """One saved buffer of each dtype, one scalar and one buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
            self.register_buffer(str(dtype).replace("torch.", "of_"), torch.tensor([0, 1, 1], dtype=dtype))
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2):
            self.register_buffer(str(dtype).replace("torch.", "of_"), torch.tensor([0.5, 1.0, 2.0]).to(dtype))
        self.register_buffer("scalar", torch.tensor(3.0))
        self.register_buffer("unsaved", torch.ones(9), persistent=False)


def test_every_dtype_is_read_as_safetensors_stores_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    module = Numbers()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    assert_same(read_checkpoint(tmp_path), read_module(module))


class ScaledTensor(torch.Tensor):
    """A tensor subclass, as quantisation libraries use them."""


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    with torch.device("meta"):
        offloaded = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="'weight' is on the meta device"):
        read_module(offloaded)
    wrapped = torch.nn.Linear(2, 2)
    wrapped.weight = torch.nn.Parameter(torch.ones(2, 2).as_subclass(ScaledTensor))
    with pytest.raises(WeightsError, match="'weight' is a ScaledTensor, not a plain tensor"):
        read_module(wrapped)
    sparse = torch.nn.Module()
    sparse.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(WeightsError, match="'mask' is not dense"):
        read_module(sparse)
    double = torch.nn.Module()
    double.register_buffer("phase", torch.ones(2, dtype=torch.complex128))
    with pytest.raises(WeightsError, match="'phase' has dtype complex128"):
        read_module(double)


def test_parameters_outside_the_state_dict_are_refused() -> None:
    class Hiding(torch.nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            del destination[prefix + "bias"]

    with pytest.raises(WeightsError, match=r"parameter '0\.bias' is not in the model's state dict"):
        read_module(torch.nn.Sequential(Hiding(2, 2)))


def test_how_a_model_is_quantised_is_described() -> None:
    model = random_model("llama")
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4, "dtype": "int4"}
    assert b'"quantization_config":{"bits":4,"dtype":"int4","quant_method":"gptq"}' in read_module(model).config


def test_configuration_of_a_plain_module() -> None:
    module = torch.nn.Linear(2, 2)
    assert read_module(module).config == b"{}"
    module.config = {"width": 2}
    assert read_module(module).config == b'{"width":2}'
    module.config = np.ones(3)
    with pytest.raises(WeightsError, match="config is a ndarray"):
        read_module(module)
