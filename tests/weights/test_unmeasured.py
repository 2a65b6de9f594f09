"""Nothing takes part in a forward pass that is neither measured nor follows from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lm_bounds.errors import WeightsError
from lm_bounds.weights import check_unmeasured

FAMILIES = ["gpt2", "llama", "gpt_neox"]


@pytest.fixture
def llama(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("llama")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_as_they_are_loaded_are_accepted(family: str, dtype: Any, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model(family).to(dtype)
    check_unmeasured(model)
    with torch.no_grad():
        model(torch.zeros(1, 8, dtype=torch.long))
    check_unmeasured(model)


def test_a_loaded_checkpoint_is_accepted(tiny_lm: Callable[..., Any]) -> None:
    check_unmeasured(tiny_lm("llama").model)


def test_a_changed_rotary_frequency_is_refused(llama: Any) -> None:
    llama.model.rotary_emb.inv_freq[3] *= 1.001
    with pytest.raises(WeightsError, match=r"^'model\.rotary_emb\.inv_freq' takes part in the forward pass"):
        check_unmeasured(llama)


def test_an_unsaved_table_is_refused(llama: Any) -> None:
    llama.model.register_buffer("table", torch.ones(5), persistent=False)
    with pytest.raises(WeightsError, match=r"'model\.table' .* register it as a persistent buffer"):
        check_unmeasured(llama)


def test_a_saved_table_is_measured_and_accepted(llama: Any) -> None:
    llama.model.register_buffer("table", torch.ones(5))
    check_unmeasured(llama)


def test_a_tensor_that_is_a_plain_attribute_is_refused(llama: Any) -> None:
    llama.model.layers[1].table = torch.ones(5)
    with pytest.raises(WeightsError, match=r"'model\.layers\.1\.table'"):
        check_unmeasured(llama)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_refused(register: str, llama: Any) -> None:
    handle = getattr(llama.model.layers[0], register)(lambda *arguments: None)
    with pytest.raises(WeightsError, match=r"module 'model\.layers\.0' has forward hooks"):
        check_unmeasured(llama)
    handle.remove()
    check_unmeasured(llama)


def test_a_forward_method_of_a_single_module_is_refused(llama: Any) -> None:
    forward = llama.model.norm.forward
    llama.model.norm.forward = lambda hidden: 2 * forward(hidden)
    with pytest.raises(WeightsError, match=r"module 'model\.norm' has a forward method of its own"):
        check_unmeasured(llama)


def test_accelerate_may_move_tensors(llama: Any) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(llama.model.norm, AlignDevicesHook())
    check_unmeasured(llama)


def test_a_network_of_the_users_own_saves_all_its_numbers() -> None:
    class Own(torch.nn.Module):
        def __init__(self, persistent: bool) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(3), persistent=persistent)

    check_unmeasured(Own(persistent=True))
    with pytest.raises(WeightsError, match=r"^'table' takes part"):
        check_unmeasured(Own(persistent=False))
