"""Is a network built as its class and its configuration build it? What it computes depends on more than its tensors."""

from __future__ import annotations

import enum
import hashlib
import importlib
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_bounds.errors import WeightsError

if TYPE_CHECKING:
    import torch

# Libraries whose layers stand in for others: they quantise, adapt or move what the configuration names.
_STAND_INS = (
    "accelerate",
    "aqlm",
    "auto_round",
    "auto_round_extension",
    "bitsandbytes",
    "compressed_tensors",
    "gptqmodel",
    "hqq",
    "torchao",
)
_ADAPTERS = "peft"
_KNOWN = ("torch", "transformers", _ADAPTERS, *_STAND_INS)
# What transformers notes on a module, and what differs with the number format of the weights.
_NOTES = frozenset({"training", "warnings_issued", "name_or_path", "generation_config", "config"})
_OWN_STATE = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})
# Methods that a module may have of its own: how it is printed, and the one that is looked at elsewhere.
_HARMLESS = frozenset({"forward", "extra_repr"})
_DEPTH = 4


def check_structure(model: Any, fresh: torch.nn.Module, compared: Collection[str]) -> None:
    """Refuses a network whose modules are not those of a fresh one: other classes, or other settings.

    Args:
        model: of transformers, perhaps with adapters of peft or layers of a library that quantises.
        fresh: built from the class and the configuration of ``model``.
        compared: names of layers whose function was compared with their measured tensors, whatever they are made of.

    Raises:
        WeightsError: naming the module and what differs.
    """
    _refuse_global_hooks()
    _refuse_attention(model)
    expected = dict(fresh.named_modules())
    seen = set()
    for path, module in _own_modules(model, compared):
        name = path or type(model).__name__
        if path not in expected:
            raise _other(name, "is not part of the network that its configuration describes")
        seen.add(path)
        own, wanted = type(module), type(expected[path])
        if own is not wanted:
            if _library(own) in _STAND_INS or _is_integration(own):
                continue
            raise _other(name, f"is a {own.__qualname__}, which its configuration does not make of it")
        _compare_settings(name, module, expected[path], is_root=not path)
    for path in sorted(expected.keys() - seen):
        if not _is_excused(path, model, compared):
            raise _other(path, "is not there, although its configuration has it")


def code_of(model: Any) -> str:
    """Whose code the network is: ``transformers``, or ``custom`` with its modules and a hash of their sources.

    Args:
        model: a loaded module.
    """
    modules = {type(module).__module__ for module in model.modules()}
    strange = sorted(name for name in modules if name.partition(".")[0] not in _KNOWN)
    if not strange:
        return "transformers"
    digest = hashlib.sha256()
    for name in strange:
        file = getattr(importlib.import_module(name), "__file__", None)
        digest.update(Path(file).read_bytes() if file and Path(file).is_file() else name.encode())
    return f"custom: {', '.join(strange)} (sha256 {digest.hexdigest()})"


def _own_modules(model: Any, compared: Collection[str]) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules by the names that they have without an adapter, but for what is inside of other libraries' layers."""
    hidden: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(outer) for outer in hidden):
            continue
        library = _library(type(module))
        if library == _ADAPTERS and path:
            base = getattr(module, "base_layer", None)
            hidden += [f"{path}.{child}." for child, _ in module.named_children()]
            hidden += [f"{path}.{child}" for child, _ in module.named_children()]
            if base is not None:
                yield path, base
            continue
        if path in compared or library in _STAND_INS or _is_integration(type(module)):
            hidden.append(f"{path}.")
        yield path, module


def _is_excused(path: str, model: Any, compared: Collection[str]) -> bool:
    """Whether a module may be missing because another library's layer stands for it or for what it was in."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        outer = ".".join(parts[:end])
        if outer in compared:
            return True
        try:
            library = _library(type(model.get_submodule(outer)))
        except AttributeError:
            continue
        if library in _STAND_INS or library == _ADAPTERS:
            return True
    return False


def _compare_settings(name: str, module: torch.nn.Module, expected: torch.nn.Module, is_root: bool) -> None:
    found, wanted = _settings(module), _settings(expected)
    for key, value in wanted.items():
        if found.get(key, value) != value or (key not in found and not is_root):
            raise _other(name, f"has another {key} than its configuration gives it")
    for key in found.keys() - wanted.keys():
        # Python takes what a module has of its own before what its class has.
        if key not in _HARMLESS and callable(getattr(type(module), key, None)):
            raise _other(name, f"has a {key} of its own")


def _settings(module: torch.nn.Module) -> dict[str, Any]:
    """What a module keeps besides its tensors and modules, in a form that can be compared."""
    import torch

    skipped = (torch.Tensor, torch.dtype, torch.device)
    return {
        key: _plain(value)
        for key, value in vars(module).items()
        if key not in _OWN_STATE | _NOTES and "hook" not in key and not isinstance(value, skipped)
        if not key.startswith("_is_") and key != "_old_forward"
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as numbers and texts: code by its name, other objects by their class."""
    if value is None or isinstance(value, (bool, int, float, str, bytes, enum.Enum)):
        return type(value).__name__, repr(value)
    if depth < _DEPTH and isinstance(value, (list, tuple)):
        return type(value).__name__, [_plain(each, depth + 1) for each in value]
    if depth < _DEPTH and isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(repr(_plain(each, depth + 1)) for each in value)
    if depth < _DEPTH and isinstance(value, dict):
        return {str(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)):
        return "code", getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    return "object", type(value).__module__, type(value).__qualname__


def _refuse_global_hooks() -> None:
    import torch

    room = torch.nn.modules.module
    if room._global_forward_hooks or room._global_forward_pre_hooks:
        raise WeightsError(
            "torch has hooks on every forward pass, whose numbers are not measured: remove the global hooks"
        )


def _refuse_attention(model: Any) -> None:
    """Refuses an attention function that somebody has registered with transformers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kind = getattr(getattr(model, "config", None), "_attn_implementation", None)
    function = ALL_ATTENTION_FUNCTIONS.get(kind) if isinstance(kind, str) else None
    if function is not None and _library(function) != "transformers":
        raise WeightsError(
            f"the attention {kind!r} is not one of transformers, and its numbers are not measured: load the model with"
            " attn_implementation=sdpa or eager"
        )


def _library(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _is_integration(kind: type) -> bool:
    """Layers of transformers that stand in for others, those of its quantisers."""
    return kind.__module__.startswith("transformers.integrations.")


def _other(name: str, what: str) -> WeightsError:
    return WeightsError(f"module {name!r} {what}: evaluate the network as it was built")
