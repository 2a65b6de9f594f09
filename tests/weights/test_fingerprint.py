"""The fingerprint sees every tensor of a model, wherever it hangs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from lm_bounds.weights import fingerprint, read_module


class State:
    """What a library hangs on a parameter."""

    def __init__(self) -> None:
        self.absmax = torch.ones(3)
        self.inner = {"codes": torch.arange(4)}
        self.owner = torch.nn.Identity()


class Layer(torch.nn.Module):
    """A layer that keeps tensors in every place that libraries keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 2))
        self.weight.quant_state = State()
        self.pair = torch.nn.Parameter(TwoTensor(torch.ones(2), torch.zeros(2)))
        self.register_buffer("saved", torch.ones(2))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.meta = {"scale": torch.ones(2), "axis": 1}


CHANGES: dict[str, Callable[[Layer], Any]] = {
    "parameter": lambda layer: layer.weight.data.add_(1),
    "part of a subclass": lambda layer: layer.pair.b.add_(1),
    "saved buffer": lambda layer: layer.saved.add_(1),
    "unsaved buffer": lambda layer: layer.unsaved.add_(1),
    "state of a parameter": lambda layer: layer.weight.quant_state.absmax.add_(1),
    "table in that state": lambda layer: layer.weight.quant_state.inner["codes"].add_(1),
    "table of a layer": lambda layer: layer.meta["scale"].add_(1),
    "shape": lambda layer: setattr(layer.weight, "data", layer.weight.data.reshape(1, 4)),
    "dtype": lambda layer: setattr(layer, "saved", layer.saved.view(torch.int32)),
    "name": lambda layer: layer.register_buffer("other", layer._buffers.pop("saved")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_seen(change: Callable[[Layer], Any]) -> None:
    model = torch.nn.Sequential(Layer(), Layer())
    before = fingerprint(model)
    assert fingerprint(torch.nn.Sequential(Layer(), Layer())) == before
    change(model[1])
    assert fingerprint(model) != before
    assert fingerprint(model, ["1"]) == fingerprint(torch.nn.Sequential(Layer(), Layer()), ["1"])


def test_the_state_dict_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "state_dict", lambda *_, **__: pytest.fail("it may change the model"))
    layer = torch.nn.Linear(2, 2)
    before = fingerprint(layer)
    layer.weight.data += 1
    assert fingerprint(layer) != before


def test_a_forward_pass_changes_nothing(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    before = fingerprint(model)
    with torch.no_grad():
        model(torch.arange(8)[None])
    assert fingerprint(model) == before


def test_tensor_subclasses_are_measured_in_their_parts() -> None:
    layer = torch.nn.Linear(2, 3, bias=False)
    layer.weight = torch.nn.Parameter(TwoTensor(torch.full((3, 2), 1.0), torch.full((3, 2), 2.0)))
    weights = read_module(torch.nn.Sequential(layer))
    assert [tensor.name for tensor in weights.tensors] == ["0._weight_a", "0._weight_b"]
    assert weights.n_parameters == 12
    assert b'"0.weight":{"_type":"TwoTensor"' in weights.config
    layer.weight.b.add_(1)
    assert read_module(torch.nn.Sequential(layer)).sha256() != weights.sha256()
