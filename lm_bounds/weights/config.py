"""The part of a configuration that belongs to the description of a model."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any

from lm_bounds.errors import WeightsError

# Keys that say how, where or by which version a model was stored or run. ``dtype`` is among them because the
# dtype of every tensor is described with the tensor.
_VOLATILE = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_experts_implementation",
        "_name_or_path",
        "attn_implementation",
        "base_model_name_or_path",
        "dtype",
        "experts_implementation",
        "inference_mode",
        "name_or_path",
        "peft_version",
        "torch_dtype",
        "transformers_version",
    }
)

# Below these keys everything may define the model, e.g. the ``dtype`` of the codes of a method.
_VERBATIM = frozenset({"compression_config", "gguf", "quantization_config", "quip_params", "safetensors_metadata"})


def canonical_config(config: Mapping[str, Any]) -> bytes:
    """A configuration as compact JSON with sorted keys, without what does not define the model.

    Dropped at every depth: library versions, paths, commit hashes, kernels, and ``dtype`` / ``torch_dtype``,
    which the schema of the tensors states. ``architectures`` stays: it names the class that has the weights. What
    describes a quantisation stays as it is.

    Args:
        config: keys to values that JSON can hold, or sets, tuples and enumerations of those.

    Returns:
        UTF-8 bytes; equal configurations give equal bytes, whatever the order of their keys.

    Raises:
        WeightsError: a value has no JSON form.

    >>> canonical_config({"b": 1, "a": {"dtype": "float32", "c": 2}, "transformers_version": "5.0.0"})
    b'{"a":{"c":2},"b":1}'
    """
    try:
        return json.dumps(_defining(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"the configuration cannot be written as JSON: {error}") from error


def quantisation_method(config: Mapping[str, Any]) -> str | None:
    """The method of the ``quantization_config`` of a configuration, at any depth; None where there is none.

    >>> quantisation_method({"text_config": {"quantization_config": {"quant_method": "gptq"}}})
    'gptq'
    """
    for key, value in config.items():
        if key == "quantization_config" and value is not None:
            method = value.get("quant_method", "unknown") if isinstance(value, Mapping) else "unknown"
            return str(_plain(method))
        if isinstance(value, Mapping) and (found := quantisation_method(value)) is not None:
            return found
    return None


def _defining(value: Any, dropped: frozenset[str] = _VOLATILE) -> Any:
    if isinstance(value, Mapping):
        return {
            str(_plain(key)): _defining(entry, frozenset() if _plain(key) in _VERBATIM else dropped)
            for key, entry in value.items()
            if _plain(key) not in dropped
        }
    if isinstance(value, (set, frozenset)):
        return sorted((_defining(entry, dropped) for entry in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_defining(entry, dropped) for entry in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value
