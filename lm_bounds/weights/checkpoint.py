"""Weights of a checkpoint on disk, safetensors or GGUF, as the files hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_bounds.errors import WeightsError
from lm_bounds.weights.config import canonical_config
from lm_bounds.weights.gguf_file import read_gguf
from lm_bounds.weights.layouts.registry import METADATA, needs_metadata, with_layout
from lm_bounds.weights.protocol import Tensor, Weights, distinct
from lm_bounds.weights.safetensors_file import read_metadata, read_safetensors

#: The files of a checkpoint.
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

_ADAPTER = "adapter_config.json"
_LEGACY = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_checkpoint(path: str | Path) -> Weights:
    """Read a checkpoint without loading it: headers now, bytes when they are measured.

    Args:
        path: a directory with ``model.safetensors``, or with ``model.safetensors.index.json`` and the shards
            that it names (other files are not read), or a single ``.safetensors`` or ``.gguf`` file. A directory's
            ``config.json`` is part of the description; it is read through transformers where transformers
            knows its model type, so that a checkpoint and the model loaded from it are described alike, and
            as it stands elsewhere. The metadata of the files are part of it where they may tell how tensors are
            quantised.

    Returns:
        Every tensor of the files, each distinct one once; those of a quantised checkpoint know how they pack codes, as
        far as ``layout`` says.

    Raises:
        WeightsError: nothing is there, no weights of these formats are there, a file is broken or incomplete, or a
            library that reads it is not installed.
    """
    place = Path(path)
    if not place.exists():
        raise WeightsError(f"no checkpoint at {place}: give a directory, a .safetensors or a .gguf file that exists")
    if place.is_dir():
        tensors = _directory_tensors(place)
        config = _directory_config(place)
    elif place.suffix == ".safetensors":
        config = b"{}"
        tensors = read_safetensors(place)
    elif place.suffix == ".gguf":
        config, tensors = read_gguf(place)
    else:
        raise WeightsError(f"{place} is not a checkpoint: give a directory, a .safetensors or a .gguf file")
    kept, aliases = distinct(tensors)
    return with_layout(Weights(str(place), kept, aliases, config))


def tensor_names(directory: Path) -> frozenset[str]:
    """The names of the tensors of a directory's safetensors files; only headers are read.

    Raises:
        WeightsError: as ``read_checkpoint``.
    """
    return frozenset(tensor.name for tensor in _directory_tensors(directory))


def _directory_tensors(directory: Path) -> list[Tensor]:
    if (directory / SINGLE).exists():
        return read_safetensors(directory / SINGLE)
    if (directory / INDEX).exists():
        return _sharded_tensors(directory)
    if any((directory / name).exists() for name in _LEGACY):
        raise WeightsError(
            f"{directory} holds pytorch_model.bin, which can run code when it is read; convert it to"
            " safetensors: load it with transformers and call save_pretrained"
        )
    if (directory / _ADAPTER).exists():
        raise WeightsError(f"{directory} is an adapter: give its base too, as BASE,peft={directory}")
    raise WeightsError(f"{directory} holds no weights: it needs {SINGLE}, or {INDEX} and its shards")


def _sharded_tensors(directory: Path) -> list[Tensor]:
    """All tensors of the shards that the index names, after checking that they are where it says."""
    weight_map = _weight_map(directory / INDEX)
    found: dict[str, str] = {}
    tensors: list[Tensor] = []
    for shard in sorted(set(weight_map.values())):
        for tensor in read_safetensors(directory / shard):
            if tensor.name in found:
                raise WeightsError(f"{directory}: tensor {tensor.name!r} is in {found[tensor.name]} and in {shard}")
            found[tensor.name] = shard
            tensors.append(tensor)
    for name, shard in weight_map.items():
        if found.get(name) != shard:
            raise WeightsError(f"{directory}: tensor {name!r} is not in {shard}; download the checkpoint again")
    return tensors


def shard_names(index: Path) -> list[str]:
    """The shards that an index names, sorted.

    Raises:
        WeightsError: it cannot be read, or a name is not that of a ``.safetensors`` file beside it.
    """
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor, by the tensor's name."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map; download the checkpoint again")
    for shard in weight_map.values():
        # A name with a folder in it would read outside the checkpoint.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise WeightsError(f"{index} names the shard {shard!r}, which is no .safetensors file name")
    return weight_map


def _directory_config(directory: Path) -> bytes:
    file = directory / CONFIG
    if not file.exists():
        return b"{}"
    config = read_json(file)
    config = _normalised(directory) or config
    if needs_metadata(config):
        config = config | {METADATA: _metadata(directory)}
    return canonical_config(config)


def _metadata(directory: Path) -> dict[str, str]:
    """The metadata of all files with weights; where two files differ, of the last one."""
    shards = [SINGLE] if (directory / SINGLE).exists() else shard_names(directory / INDEX)
    return {name: text for shard in shards for name, text in read_metadata(directory / shard).items()}


def _normalised(directory: Path) -> dict[str, Any] | None:
    """The configuration as transformers sees it, defaults filled in; None where it does not know it."""
    try:
        from transformers import AutoConfig

        path = str(directory)
        loaded = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        normal: dict[str, Any] = json.loads(loaded.to_json_string(use_diff=True))
    # Whatever keeps transformers from reading it (absent, custom code, an odd value), the file remains.
    except Exception:
        return None
    return normal


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        WeightsError: there is none that can be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} is not a JSON object")
    return content
