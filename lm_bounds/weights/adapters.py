"""Adapters of peft as their files hold them, and a base together with its adapter."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.checkpoint import read_json
from lm_bounds.weights.config import canonical_config
from lm_bounds.weights.protocol import Tensor, Weights, distinct
from lm_bounds.weights.safetensors_file import read_safetensors

#: What peft puts before the names of a base's modules.
WRAPPED = "base_model.model."

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
# Of a base and an adapter together, the adapter's tensors are called this and their name in the adapter's file.
_PREFIX = "adapter:"
_REMEDY = "merge the adapter into its base and save that"
_KINDS = ("IA3", "LOHA", "LOKR", "LORA")
# Settings that change tensors of the base or the network in ways that the adapter's tensors do not show.
_UNSUPPORTED = (
    "arrow_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
)
_UNCHANGED_BASE = (None, True, False, "gaussian", "orthogonal")
# Where the adapter was trained and how it is to be opened, besides what every configuration leaves out.
_PATTERNS = ("rank_pattern", "alpha_pattern")
_VOLATILE = ("auto_mapping", "revision", "runtime_config")


@dataclass(frozen=True)
class Adapter:
    """An adapter of peft.

    Args:
        source: where it was read, for messages.
        tensors: under the names of its file.
        config: what ``canonical_adapter`` makes of its configuration.
        saved_modules: names of modules that it brings as a whole, instead of those of the base.
    """

    source: str
    tensors: tuple[Tensor, ...]
    config: Mapping[str, Any]
    saved_modules: tuple[str, ...] = ()


def read_adapter(directory: Path) -> Adapter:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors``.

    Tensors of 16 bits are described in F32, exactly: peft computes with adapters in F32.

    Raises:
        WeightsError: a file is missing or broken, or the adapter is of a kind that is not supported.
    """
    if not (directory / _CONFIG).is_file():
        raise WeightsError(f"{directory} holds no {_CONFIG}: give the directory of an adapter that peft saved")
    if not (directory / _WEIGHTS).is_file():
        raise WeightsError(f"{directory} holds no {_WEIGHTS}: load the adapter with peft and call save_pretrained")
    read_json(directory / _CONFIG)
    try:
        from peft import PeftConfig

        config = PeftConfig.from_pretrained(str(directory))
    # peft passes on whatever its classes of configurations raise.
    except Exception as error:
        raise WeightsError(f"{directory / _CONFIG} is no configuration that peft knows: {error!r}") from error
    tensors = tuple(read_safetensors(directory / _WEIGHTS))
    saved = tuple(getattr(config, "modules_to_save", None) or ())
    return Adapter(str(directory), tensors, canonical_adapter(config, str(directory)), saved)


def canonical_adapter(config: Any, source: str) -> dict[str, Any]:
    """What of a configuration of peft defines the adapter, defaults filled in; the adapter's name does not.

    Args:
        config: a ``PeftConfig``.
        source: for messages.

    Raises:
        WeightsError: naming a kind or a setting that is not supported.
    """
    settings = config.to_dict()
    kind = getattr(settings.get("peft_type"), "value", settings.get("peft_type"))
    if kind not in _KINDS:
        raise WeightsError(f"{source}: adapters of the kind {kind} are not supported; {', '.join(_KINDS)} are")
    for name in _UNSUPPORTED:
        if settings.get(name):
            raise WeightsError(f"{source}: adapters with {name} are not supported: {_REMEDY}")
    if settings.get("bias") not in (None, "none"):
        raise WeightsError(f"{source}: the adapter changes biases of its base: {_REMEDY}")
    start = settings.get("init_lora_weights")
    if start not in _UNCHANGED_BASE:
        raise WeightsError(
            f"{source}: init_lora_weights={start!r} changes the base's weights when it is loaded: {_REMEDY}"
        )
    # peft takes the first pattern that fits a layer, so that their order is part of the description.
    in_order = {name: [list(pair) for pair in settings[name].items()] for name in _PATTERNS if settings.get(name)}
    defining: dict[str, Any] = json.loads(canonical_config(settings | in_order))
    return {name: value for name, value in defining.items() if name not in _VOLATILE}


def with_adapter(base: Weights, adapter: Adapter) -> Weights:
    """A base and its adapter as one set of weights.

    The base's tensors keep their names; those of the adapter are called ``adapter:`` and their name in its file. The
    configuration is ``{"adapter": ..., "base": ...}``. A tensor of the base that the adapter's file repeats, as peft
    does with embeddings, counts once.

    Raises:
        WeightsError: the adapter would replace a tensor of the base, or has one that peft loads in another dtype.
    """
    named = base.named()
    own = []
    for tensor in adapter.tensors:
        replaced = named.get(_name_in_base(tensor.name))
        if _is_saved(tensor.name, adapter.saved_modules):
            own.append(_of_dtype(tensor, replaced.dtype if replaced else tensor.dtype, adapter.source))
        elif replaced is None:
            own.append(_as_loaded(tensor, adapter.source))
        elif (tensor.dtype, tensor.shape) != (replaced.dtype, replaced.shape) or tensor.digest != replaced.digest:
            raise WeightsError(f"{adapter.source} replaces tensor {replaced.name!r} of the base: {_REMEDY}")
    tensors = [*named.values(), *(adapter_tensor(tensor) for tensor in own)]
    both = joined(f"{base.source},peft={adapter.source}", tensors, json.loads(base.config), adapter.config)
    return replace(both, layout=base.layout)


def joined(source: str, tensors: list[Tensor], base: Mapping[str, Any], adapter: Mapping[str, Any]) -> Weights:
    """Weights of the tensors of a base and its adapter, and of both configurations.

    Raises:
        WeightsError: a tensor of the base has the name of one of the adapter.
    """
    names = [tensor.name for tensor in tensors]
    for name in {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ():
        raise WeightsError(f"{source}: two tensors are called {name!r}")
    kept, aliases = distinct(tensors)
    return Weights(source, kept, aliases, canonical_config({"base": base, "adapter": adapter}))


def adapter_tensor(tensor: Tensor) -> Tensor:
    """A tensor of an adapter's file as one of a base with this adapter."""
    return Tensor(_PREFIX + tensor.name, tensor.dtype, tensor.shape, tensor.load)


def _name_in_base(name: str) -> str:
    return name.removeprefix(WRAPPED).replace(".base_layer.", ".")


def _is_saved(name: str, saved_modules: tuple[str, ...]) -> bool:
    return any(f".{module}." in f".{name.removeprefix(WRAPPED)}" for module in saved_modules)


def _of_dtype(tensor: Tensor, dtype: str, source: str) -> Tensor:
    """A module that is brought as a whole takes the dtype of the base's when it is loaded, rounded or not."""
    if tensor.dtype != dtype:
        raise WeightsError(
            f"{source} holds {tensor.name!r} in {tensor.dtype}, which its base has in {dtype}: peft would change it;"
            " save the adapter in the dtype of its base"
        )
    return tensor


def _as_loaded(tensor: Tensor, source: str) -> Tensor:
    if tensor.dtype == "F32":
        return tensor
    if tensor.dtype not in _WIDENED:
        raise WeightsError(f"{source} holds {tensor.name!r} in {tensor.dtype}: F32, F16 and BF16 are supported")
    load = functools.partial(_widened, tensor, _WIDENED[tensor.dtype])
    return Tensor(tensor.name, "F32", tensor.shape, load)


def _from_half(words: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return words.view("<f2").astype("<f4").view(np.uint8)


def _from_brain(words: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (words.view("<u2").astype("<u4") << 16).view(np.uint8)


_WIDENED: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {"F16": _from_half, "BF16": _from_brain}


def _widened(
    tensor: Tensor, widen: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], start: int, stop: int
) -> NDArray[np.uint8]:
    """Bytes from ``start`` to ``stop`` of the F32 elements that equal a tensor's 16-bit ones."""
    first = start // 4
    piece = widen(tensor.read(2 * first, 2 * -(-stop // 4)))
    return piece[start - 4 * first : stop - 4 * first]
