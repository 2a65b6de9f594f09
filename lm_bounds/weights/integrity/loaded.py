"""Is a loaded model what the files of its checkpoint say? Tensor by tensor, and layer by layer where kernels repack."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_bounds.errors import WeightsError
from lm_bounds.weights.config import canonical_config
from lm_bounds.weights.integrity.comparison import Comparison, with_prefix
from lm_bounds.weights.integrity.fingerprint import fingerprint
from lm_bounds.weights.integrity.gguf_loaded import compare_gguf
from lm_bounds.weights.integrity.unmeasured import fresh_network
from lm_bounds.weights.layouts.gguf import Gguf
from lm_bounds.weights.layouts.registry import METADATA, layout_of
from lm_bounds.weights.module import as_saved, module_state, tied_names
from lm_bounds.weights.protocol import Weights

if TYPE_CHECKING:
    import torch

# Keys of a configuration that are not compared: the class is that of the model, and how weights are quantised shows in
# what they compute.
_NOT_COMPARED = frozenset({"architectures", "quantization_config", METADATA})
_SHOWN = 3
_ABSENT = object()


@dataclass(frozen=True)
class LoadedCheck:
    """How each tensor of the files and each tensor of the model was found to belong to the other.

    Args:
        identical: names in the files of tensors that the model holds byte for byte.
        cast: names in the files of floating-point tensors that the model holds rounded to another format.
        layers: names in the model of the layers whose function was compared with the matrix that the files give.
        unread: names in the files of tensors that the class of the model declares it does not read.
    """

    identical: tuple[str, ...]
    cast: tuple[str, ...]
    layers: tuple[str, ...]
    unread: tuple[str, ...]


def check_loaded(weights: Weights, model: torch.nn.Module, warm_up: Callable[[], object] | None = None) -> LoadedCheck:
    """Refuses a model that holds anything but the tensors of some files, or not all of them.

    A tensor of the files belongs to that of the same name in the model (under the names that ``save_pretrained`` would
    write) where shape, dtype and bytes are the same, or where rounding it to the model's floating-point format gives
    the model's bytes. Of a quantised layer it is the function that has to be that of the files, whatever its kernel has
    made of the tensors: see ``compare_layer``. What is left over on either side is named and refused: tensors that are
    in no file were made up while loading.

    Args:
        weights: of the files.
        model: that was loaded from them, not used yet, in evaluation mode, on any device.
        warm_up: runs a forward pass, where layers may unpack or repack their codes; afterwards everything else has to
            be as it was, and the layers are compared. None to compare them as they are.

    Raises:
        WeightsError: naming the tensors that are missing, not used or different, the layers whose function differs,
            or the settings that are not those of the files.
    """
    if isinstance(layout_of(json.loads(weights.config)), Gguf):
        _check_gguf_config(weights.source, model)
        return LoadedCheck((), tuple(compare_gguf(weights, model)), (), ())
    _check_config(weights, model)
    comparison = Comparison.of(weights, model)
    comparison.match_tensors()
    comparison.match_layers()
    missing, unused, unread = comparison.leftovers()
    if missing or unused:
        raise not_of_the_files(weights.source, missing, unused)
    if warm_up is not None:
        before = fingerprint(model, comparison.layers)
        warm_up()
        if fingerprint(model, comparison.layers) != before:
            raise WeightsError(
                f"the first forward pass changes tensors of the model loaded from {weights.source} besides those of "
                "layers that can be compared with it: this format cannot be certified"
            )
    comparison.compare_layers()
    found = (comparison.identical, comparison.cast, comparison.layers, unread)
    return LoadedCheck(*(tuple(sorted(names)) for names in found))


def check_names(source: str, names: frozenset[str], model: torch.nn.Module) -> None:
    """Refuses a model whose class has tensors that no file holds under their names: loading made them up.

    It is for models whose loaded tensors are measured themselves: what the files hold besides costs nothing then, and
    what was put into the model afterwards is measured with it.

    Args:
        source: of the files, for the message.
        names: of the tensors in the files.
        model: that was loaded from them.

    Raises:
        WeightsError: naming the tensors.
    """
    state = module_state(model)
    held = as_saved(model, dict(state))
    own_names = {id(value): name for name, value in state.items()}
    tied = tied_names(model, state)
    found = {name: next((each for each in with_prefix(model, name) if each in names), None) for name in held}
    missing = [name for name, file in found.items() if file is None and own_names.get(id(held[name]), name) not in tied]
    if missing:
        built = fresh_network(model).state_dict()
        missing = [name for name in missing if own_names.get(id(held[name]), name) in built]
    if missing:
        raise not_of_the_files(source, missing, sorted(names - {*found.values()}))


def not_of_the_files(source: str, missing: list[str], unused: list[str]) -> WeightsError:
    """The error for tensors of a model and of files that do not belong to each other."""
    parts = []
    if missing:
        parts.append(f"the loaded model has {_listed(missing)} at random or otherwise than {source}")
    if unused:
        parts.append(
            f"it does not use {_listed(unused)}"
            if missing
            else f"the loaded model does not use {_listed(unused)} of {source}"
        )
    cure = "load the checkpoint with the library that wrote it, or convert it to a format that transformers reads"
    return WeightsError(f"{' and '.join(parts)}: {cure}")


def _check_config(weights: Weights, model: Any) -> None:
    """Refuses a model whose settings are not those beside the files, but for how its weights are quantised."""
    config: Any = getattr(model, "config", None)
    stored = json.loads(weights.config)
    if not hasattr(config, "to_json_string") or "model_type" not in stored:
        return
    _refuse_differing(weights.source, stored, _canonical(config))


def _refuse_differing(source: str, stored: dict[str, Any], loaded: dict[str, Any]) -> None:
    keys = {*stored, *loaded} - _NOT_COMPARED
    differing = [key for key in keys if stored.get(key, _ABSENT) != loaded.get(key, _ABSENT)]
    if differing:
        raise WeightsError(
            f"the configuration of the loaded model is not that of {source} ({_listed(differing)}): load it "
            "without changing its settings"
        )


def _check_gguf_config(source: str, model: Any) -> None:
    """Refuses a model whose settings are not those that its loader makes of the keys of its .gguf file."""
    from transformers import AutoConfig

    file = Path(source)
    own = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
    _refuse_differing(source, _canonical(own), _canonical(model.config))


def _canonical(config: Any) -> dict[str, Any]:
    """A configuration of transformers, as ``Weights.config`` has it."""
    found: dict[str, Any] = json.loads(canonical_config(json.loads(config.to_json_string(use_diff=True))))
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
