"""What a forward pass could read besides the weights that are measured: it has to follow from the configuration."""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from lm_bounds.errors import WeightsError
from lm_bounds.weights.integrity.structure import check_structure

if TYPE_CHECKING:
    import torch

_RELATIVE_TOLERANCE = 1e-5  # other devices round sines and powers otherwise
_ABSOLUTE_TOLERANCE = 1e-8
# accelerate changes how all modules are built meanwhile: two threads at once would leave it changed.
_BUILDING = threading.Lock()
_MOVING = "compressed_tensors.offload.module"


def check_unmeasured(model: torch.nn.Module, compared: Collection[str] = ()) -> None:
    """Refuses numbers and code that take part in a forward pass without being part of the measured weights.

    These are hooks and forward methods put on single modules (accelerate's, which only move tensors, are let through),
    and buffers that are not saved, tensors that are plain attributes, and classes and settings of modules, unless a
    network built afresh from the class and the configuration has the same. What the code of the class itself reads
    cannot be seen here.

    Args:
        model: a loaded module, before its first use.
        compared: names of layers whose function was compared with their measured tensors, whatever they are made of.

    Raises:
        WeightsError: naming what was found.
    """
    for name, module in model.named_modules():
        if name not in compared:
            _refuse_patched(name or type(model).__name__, module)
    get_base: Any = getattr(model, "get_base_model", None)
    base: Any = model if get_base is None else get_base()
    found = dict(_unsaved(base, compared))
    fresh = fresh_network(base)
    if any(True for _ in fresh.children()):
        check_structure(base, fresh, compared)
    expected = dict(_unsaved(fresh))
    for name, value in found.items():
        if name not in expected or not _alike(value, expected[name]):
            raise WeightsError(
                f"{name!r} takes part in the forward pass, is not saved with the weights and does not follow from the "
                "configuration: register it as a persistent buffer, so that it is measured"
            )


def _refuse_patched(name: str, module: torch.nn.Module) -> None:
    hooks: Any = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    patched = has_own_forward(module) and not hasattr(module, "_hf_hook")  # accelerate's own patch has that mark
    if hooks or patched:
        what = "forward hooks" if hooks else "a forward method of its own"
        raise WeightsError(f"module {name!r} has {what}, whose numbers are not measured: evaluate the model without")


def has_own_forward(module: torch.nn.Module) -> bool:
    """Whether a module has another forward method than its class, one that does more than to move tensors.

    compressed-tensors puts a wrapper on every module that moves its arguments to the device of its parameters.
    """
    own = getattr(vars(module).get("forward"), "__func__", vars(module).get("forward"))
    defined_in = getattr(own, "__globals__", {}).get("__name__")
    if defined_in == _MOVING:
        own = getattr(module, "_original_forward_func", None)
    return own is not None and own is not type(module).forward


def _unsaved(model: torch.nn.Module, compared: Collection[str] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that are not saved, and tensors that are plain attributes, by name."""
    import torch

    for prefix, module in model.named_modules():
        if prefix in compared:
            continue
        path = f"{prefix}." if prefix else ""
        for name in module._non_persistent_buffers_set:
            value = module._buffers.get(name)
            if value is not None:
                yield path + name, value
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield path + name, value


def fresh_network(model: Any) -> torch.nn.Module:
    """A network of the same class and configuration; its parameters take no memory, its buffers are computed.

    Args:
        model: of transformers; of anything else there is only an empty module.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return torch.nn.Module()
    with _BUILDING, init_empty_weights(include_buffers=False):
        fresh: torch.nn.Module = type(model)(copy.deepcopy(model.config))
    return fresh


def _alike(value: torch.Tensor, expected: torch.Tensor) -> bool:
    import torch

    if value.shape != expected.shape or expected.is_meta:
        return False
    one, other = value.detach().cpu().double(), expected.detach().to(value.dtype).cpu().double()
    return torch.allclose(one, other, rtol=_RELATIVE_TOLERANCE, atol=_ABSOLUTE_TOLERANCE, equal_nan=True)
