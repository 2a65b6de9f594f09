"""A loaded model that carries an adapter of peft: which of its tensors are the base's and which the adapter's."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_bounds.errors import WeightsError
from lm_bounds.weights.adapters import WRAPPED, canonical_adapter
from lm_bounds.weights.integrity.unmeasured import fresh_network

if TYPE_CHECKING:
    import torch

_REMEDY = "load the model with one adapter, unmerged and in use, or merge it and unload it"


@dataclass(frozen=True)
class Parts:
    """A model taken apart.

    Args:
        base: the network that the adapter was put into.
        base_state: its tensors, under the names that they have without an adapter.
        adapter_state: the adapter's tensors, under the names of its file.
        config: the adapter's, as ``canonical_adapter`` gives it.
    """

    base: torch.nn.Module
    base_state: dict[str, torch.Tensor]
    adapter_state: dict[str, torch.Tensor]
    config: Mapping[str, Any]


def is_wrapped(model: torch.nn.Module) -> bool:
    """Whether the model carries an adapter of peft, as its ``PeftModel`` or in layers of its own."""
    if "peft" not in sys.modules:  # whoever has an adapter has loaded the library
        return False
    from peft import PeftModel

    return isinstance(model, PeftModel) or next(_adapted(model), None) is not None


def take_apart(model: Any, state: Mapping[str, torch.Tensor]) -> Parts:
    """The parts of a model with an adapter.

    Args:
        model: a ``PeftModel``, or a network into which peft or transformers has put an adapter.
        state: its state dict.

    Raises:
        WeightsError: there is more than one adapter, it is merged or not in use, its kind is not supported, it acts
            with another strength than its configuration says, or a tensor belongs to neither part.
    """
    from peft import PeftModel

    name, config = _the_adapter(model)
    described = canonical_adapter(config, "the model's adapter")
    for path, layer in _adapted(model):
        _refuse_out_of_use(path, layer, name)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    adapter_state, owned = _adapter_state(model, name, state)
    prefix = WRAPPED if isinstance(model, PeftModel) else ""
    base_state = {
        _name_in_base(base, key.removeprefix(prefix)): value for key, value in state.items() if key not in owned
    }
    _compare_with_fresh(base, base_state, name, config)
    return Parts(base, base_state, adapter_state, described)


def _adapted(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules that peft has put into a network, by path."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for path, module in model.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            yield path, module


def _the_adapter(model: Any) -> tuple[str, Any]:
    configs: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    if len(configs) != 1:
        raise WeightsError(f"the model has {len(configs)} adapters ({', '.join(configs)}): {_REMEDY}")
    [(name, config)] = configs.items()
    return name, config


def _refuse_out_of_use(path: str, layer: Any, name: str) -> None:
    if layer.merged_adapters:
        raise WeightsError(f"the adapter is merged into the weights of {path!r}: {_REMEDY}")
    if layer.disable_adapters or list(layer.active_adapters) != [name]:
        raise WeightsError(f"adapter {name!r} is not in use in {path!r}: {_REMEDY}")


def _adapter_state(
    model: Any, name: str, state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], frozenset[str]]:
    """What peft would write into the adapter's file, and the keys of the state dict that it is from."""
    from peft import get_peft_model_state_dict

    keys = {id(value): key for key, value in state.items()}
    saved: dict[str, Any] = get_peft_model_state_dict(
        model, state_dict=dict(state), adapter_name=name, save_embedding_layers=False
    )
    foreign = [key for key, value in saved.items() if id(value) not in keys]
    if foreign:
        raise WeightsError(f"adapter tensor {foreign[0]!r} is not in the model's state dict: {_REMEDY}")
    as_in_file = {key if key.startswith(WRAPPED) else WRAPPED + key: value for key, value in saved.items()}
    return as_in_file, frozenset(keys[id(value)] for value in saved.values())


def _name_in_base(base: torch.nn.Module, key: str) -> str:
    """The name of a tensor without the modules that peft has put around the one that holds it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    parts = []
    module: Any = base
    for part in key.split("."):
        around = (isinstance(module, BaseTunerLayer) and part == "base_layer") or (
            isinstance(module, AuxiliaryTrainingWrapper) and part in ("original_module", "token_adapter")
        )
        if not around:
            parts.append(part)
        module = module._modules.get(part) if module is not None else None
    return ".".join(parts)


def _compare_with_fresh(base: Any, base_state: Mapping[str, Any], name: str, config: Any) -> None:
    """Refuses what differs from a new network of the base's class with a new adapter of this configuration."""
    import torch
    from accelerate import init_empty_weights
    from peft import inject_adapter_in_model
    from transformers import PreTrainedModel

    if not isinstance(base, PreTrainedModel):
        raise WeightsError(
            f"the base of the adapter is a {type(base).__name__}, none of transformers: merge the adapter and unload it"
        )
    fresh: Any = fresh_network(base)
    differing = sorted(set(fresh.state_dict()) ^ set(base_state))
    if differing:
        raise WeightsError(f"tensor {differing[0]!r} is either in the model or in a new base of its class, not in both")
    plain = copy.deepcopy(config)
    if hasattr(plain, "init_lora_weights"):
        plain.init_lora_weights = False  # the others compute with the base's weights, which the new one lacks
    with init_empty_weights(include_buffers=False), torch.no_grad():
        inject_adapter_in_model(plain, fresh, name)
    expected = {path: getattr(layer, "scaling", None) for path, layer in _adapted(fresh)}
    for path, layer in _adapted(base):
        if path not in expected or getattr(layer, "scaling", None) != expected[path]:
            raise WeightsError(f"the adapter acts on {path!r} otherwise than its configuration says: load it again")
