"""Weights of a loaded torch module, as its checkpoint would hold them."""

from __future__ import annotations

import functools
import json
import unittest.mock
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.adapters import adapter_tensor, joined
from lm_bounds.weights.config import canonical_config
from lm_bounds.weights.integrity.unmeasured import fresh_network
from lm_bounds.weights.layouts.registry import METADATA, with_layout
from lm_bounds.weights.protocol import Tensor, Weights, distinct
from lm_bounds.weights.wrapped import Parts, is_wrapped, take_apart

if TYPE_CHECKING:
    import torch

_TORCH_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}


def read_module(model: torch.nn.Module) -> Weights:
    """Read the weights of a loaded model: its state dict, under the names that ``save_pretrained`` would use.

    Tensors that the model declares as tied and that are equal count once, under the name that a checkpoint
    stores; other repetitions become aliases, as in ``read_checkpoint``. So the model loaded from a checkpoint
    that ``save_pretrained`` wrote has the checkpoint's tensors, configuration and hash. Buffers that are not
    saved do not count.

    A model that was quantised in memory has the tensors that its library keeps: a tensor subclass ``NAME`` of a
    layer is taken apart into ``_NAME_PART``, and what else it says of itself (block sizes, number formats) becomes
    part of the configuration. Some libraries unpack their codes at the first forward pass: read the model before it.

    Args:
        model: a module on any device. One with an adapter of peft gives what the files of its base and of the adapter
            give, ``BASE,peft=ADAPTER``.

    Returns:
        Weights whose tensors refer to the module: each is copied to the CPU when its bytes are asked for, so
        they are those of that moment.

    Raises:
        WeightsError: the model is offloaded, has a parameter outside its state dict, a tensor that is not dense and
            cannot be taken apart, a configuration of an unknown kind, or adapters that are not one in use.
    """
    state = module_state(model)
    if is_wrapped(model):
        return _with_adapter(model, take_apart(model, state))
    kept, aliases = distinct(_tensors(model, state))
    return with_layout(Weights(type(model).__name__, kept, aliases, canonical_config(_config(model))))


def _with_adapter(model: torch.nn.Module, parts: Parts) -> Weights:
    """As the files of the base and of the adapter hold them."""
    config = _config(parts.base)
    adapter = [adapter_tensor(module_tensor(name, value)) for name, value in parts.adapter_state.items()]
    tensors = [*_tensors(parts.base, parts.base_state), *adapter]
    return joined(type(model).__name__, tensors, config, parts.config)


def _tensors(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> list[Tensor]:
    """The tensors of a state dict, each tied one once, under the names of a checkpoint."""
    untied = dict(state)
    for name in tied_names(model, state):
        del untied[name]
    return [module_tensor(name, value) for name, value in as_saved(model, untied).items()]


def module_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, subclasses taken apart, after refusing whatever is not a dense tensor of numbers.

    Raises:
        WeightsError: naming what cannot be read, or a parameter that is not in the state dict.
    """
    given: dict[str, Any] = dict(model.state_dict())
    state: dict[str, torch.Tensor] = {}
    for name, value in given.items():
        state.update(parts_of(name, value))
    for name, value in state.items():
        _refuse_unreadable(name, value)
    _refuse_hidden(model, given)
    return state


def _refuse_hidden(model: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """A state dict may leave out parameters, or give other numbers for them."""
    for name, value in model.named_parameters(remove_duplicate=False):
        if name not in state:
            raise WeightsError(f"parameter {name!r} is not in the model's state dict, so no checkpoint would hold it")
        stated = state[name]
        if _is_plain(value) and _is_plain(stated) and not _same(stated, value):
            raise WeightsError(f"the state dict has other numbers for {name!r} than the model: take away its hooks")
    for name, buffer in model.named_buffers(remove_duplicate=False):
        stated = state.get(name)
        if stated is not None and _is_plain(buffer) and _is_plain(stated) and not _same(stated, buffer):
            raise WeightsError(f"the state dict has other numbers for {name!r} than the model: take away its hooks")


def parts_of(name: str, value: Any) -> dict[str, Any]:
    """A tensor subclass as the tensors that it is made of, at any depth; anything else as it is.

    Args:
        name: in the state dict.
        value: a tensor.

    Returns:
        The parts by the names that safetensors files have for them: ``LAYER._NAME_PART``.
    """
    if not hasattr(value, "__tensor_flatten__") or _is_plain(value):
        return {name: value}
    layer, _, own = name.rpartition(".")
    parts: dict[str, Any] = {}
    for part in value.__tensor_flatten__()[0]:
        parts.update(parts_of(f"{layer}._{own}_{part}".lstrip("."), getattr(value, part)))
    return parts


def _is_plain(value: Any) -> bool:
    import torch

    return type(value) in (torch.Tensor, torch.nn.Parameter)


def _subclasses(model: torch.nn.Module) -> dict[str, dict[str, str]]:
    """What each tensor subclass of the state dict says of itself besides its tensors: a class and its settings."""
    return {
        name: {"_type": type(value).__name__, "settings": str(value.__tensor_flatten__()[1])}
        for name, value in model.state_dict().items()
        if not _is_plain(value) and hasattr(value, "__tensor_flatten__")
    }


def _refuse_unreadable(name: str, value: Any) -> None:
    import torch

    if not _is_plain(value):
        kind = type(value).__name__
        raise WeightsError(f"state dict entry {name!r} is a {kind}, not a plain tensor: its layout is not supported")
    if value.device.type == "meta":
        raise WeightsError(f"tensor {name!r} is on the meta device: load the model without offloading to disk")
    if value.layout != torch.strided or value.is_quantized:
        raise WeightsError(f"tensor {name!r} is not dense ({value.layout}, {value.dtype}): use a dense checkpoint")


def tied_names(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names to drop: declared as tied to another one that stays, and equal to it bit for bit."""
    declared: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    dropped: list[str] = []
    for target, source in declared.items():
        if target in state and source in state and source not in dropped and _same(state[target], state[source]):
            dropped.append(target)
    return dropped


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.device == other.device and one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return bool(np.array_equal(_piece(one), _piece(other)))  # as bytes: a NaN equals itself


def as_saved(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under the names and in the layout of the checkpoint format of its architecture.

    transformers renames tensors, and fuses those of experts, while loading; saving reverts that. A tensor that is only
    renamed stays the same object.
    """
    try:
        from transformers import PreTrainedModel
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # not installed, or a version whose models keep the names of their files
        return state
    if not isinstance(model, PreTrainedModel):
        return state
    conversions = getattr(model, "_weight_conversions", None)
    if getattr(model, "_hf_peft_config_loaded", False):
        # transformers keeps the renamings of what it loaded last, which was the adapter.
        model = fresh_network(model)
    elif getattr(model, "hf_quantizer", None) is not None and conversions:
        with unittest.mock.patch.object(model, "_weight_conversions", _reversible(conversions)):
            return dict(revert_weight_conversion(model, state))
    return dict(revert_weight_conversion(model, state))


def _reversible(conversions: Iterable[Any]) -> list[Any]:
    """Those of the architecture; what a quantiser makes of its tensors while loading cannot be reverted."""
    kept = []
    for conversion in conversions:
        try:
            conversion.reverse_transform()
        except (NotImplementedError, ValueError):
            continue
        kept.append(conversion)
    return kept


def module_tensor(name: str, value: torch.Tensor) -> Tensor:
    """A tensor of a module, whose bytes are copied when they are asked for.

    Raises:
        WeightsError: no checkpoint could hold its dtype.
    """
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _TORCH_DTYPES:
        raise WeightsError(f"tensor {name!r} has dtype {dtype}, which is not supported; cast the model first")
    return Tensor(name, _TORCH_DTYPES[dtype], tuple(value.shape), functools.partial(_piece, value))


def _piece(value: torch.Tensor, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
    """The bytes from ``start`` to ``stop``: no more than these is copied from another device."""
    import torch

    flat = value.detach().contiguous().reshape(-1).view(torch.uint8)[start:stop]
    raw: NDArray[np.uint8] = flat.cpu().numpy()
    return raw


def _config(model: torch.nn.Module) -> dict[str, Any]:
    """The configuration of a network without an adapter."""
    config = getattr(model, "config", None)
    if config is None:
        described: dict[str, Any] = {}
    elif hasattr(config, "to_json_string"):
        described = json.loads(config.to_json_string(use_diff=True))
        described["architectures"] = [type(model).__name__]
    elif isinstance(config, Mapping):
        described = dict(config)
    else:
        raise WeightsError(f"the model's config is a {type(config).__name__}; give it a mapping or a PretrainedConfig")
    if subclasses := _subclasses(model):
        described[METADATA] = subclasses
    return described
