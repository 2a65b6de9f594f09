"""A model that transformers loaded from a GGUF file, compared with the blocks of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.integrity.layer_function import compare_values
from lm_bounds.weights.layouts.gguf import PART_MARK, Gguf
from lm_bounds.weights.layouts.protocol import Misfit
from lm_bounds.weights.layouts.values import floats
from lm_bounds.weights.module import module_state
from lm_bounds.weights.protocol import Tensor, Weights

if TYPE_CHECKING:
    import torch

_OTHER_FORMAT = "evaluate a safetensors checkpoint of the model"


def compare_gguf(weights: Weights, model: torch.nn.Module) -> list[str]:
    """Refuses a model that does not hold the values of the tensors of a GGUF file, all of them, and nothing else.

    transformers unpacks the blocks while loading, renames the tensors and permutes the rows of some. The same maps are
    applied to the values that are computed here from the blocks; they may differ by rounding, as in ``compare_layer``.

    Args:
        weights: of the file.
        model: loaded from it.

    Returns:
        Names of the tensors in the file.

    Raises:
        WeightsError: naming what differs, or saying that transformers has no such map for the architecture.
    """
    state = module_state(model)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found: dict[str, str] = {}
    for name, loaded, values in _as_loaded(weights, model):
        if loaded not in state:
            raise WeightsError(f"the loaded model does not use {name!r} of {weights.source}: {_OTHER_FORMAT}")
        held = state[loaded].detach().float().cpu().numpy()
        if held.shape != values.shape or not compare_values(held, values).is_rounding:
            raise WeightsError(
                f"{loaded!r} of the loaded model is not {name!r} of {weights.source}: load it again, and only that file"
            )
        found[loaded] = name
    for loaded in state:
        source = tied.get(loaded)
        if loaded not in found and not (source in found and bool((state[loaded] == state[source]).all())):
            raise WeightsError(f"{loaded!r} of the loaded model is not in {weights.source}: {_OTHER_FORMAT}")
    return sorted(found.values())


def _as_loaded(weights: Weights, model: Any) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    """Name in the file, name in the model, and values of each tensor."""
    from transformers import modeling_gguf_pytorch_utils as maps

    architecture = json.loads(weights.config)["gguf"].get("general.architecture")
    make: Any = maps.TENSOR_PROCESSORS.get(architecture, maps.TensorProcessor)
    processor = make(config=model.config.to_dict())
    try:
        names: dict[str, str] = maps.get_gguf_hf_weights_map(model, processor)
    except NotImplementedError as error:
        raise WeightsError(f"transformers has no names for the {architecture} of {weights.source}: {error}") from error
    tensors, layout = weights.by_name(), Gguf()
    for name in sorted({tensor.partition(PART_MARK)[0] for tensor in tensors}):
        if name == "rope_freqs.weight":  # computed from the configuration
            continue
        try:
            values = _values(tensors[name]) if name in tensors else layout.dequantise(tensors, name)
        except Misfit as error:
            raise WeightsError(f"{name!r} of {weights.source} cannot be unpacked: {error}") from error
        made = processor.process(weights=values, name=name, tensor_key_mapping=names, parsed_parameters={"tensors": {}})
        if made.name not in names or made.weights is None:
            raise WeightsError(f"the loaded model does not use {name!r} of {weights.source} as it is: {_OTHER_FORMAT}")
        yield name, names[made.name], np.asarray(made.weights, np.float32)


def _values(tensor: Tensor) -> NDArray[np.float32]:
    return floats(tensor)
