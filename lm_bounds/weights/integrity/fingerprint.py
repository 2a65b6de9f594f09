"""A hash of everything a loaded model holds, to see whether it is still the same later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from lm_bounds.weights.module import module_tensor, parts_of

if TYPE_CHECKING:
    import torch

# How far into the attributes of a parameter its tensors are looked for: a state, and the state of its scales.
_DEPTH = 3


def fingerprint(model: torch.nn.Module, without: Collection[str] = ()) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of what a model holds.

    That is its parameters and its buffers, saved or not, and the tensors that hang on them: the parts of tensor
    subclasses, the attributes of parameters, and the tables of layers (where libraries keep scales). The state dict is
    not asked for, because making one changes some quantised layers.

    Some quantised models turn into others at their first forward pass (they unpack their codes, or lay them out for a
    kernel), without computing anything else: take the fingerprints that are compared after it.

    Args:
        model: a module on any device.
        without: names of modules that are left out.

    Raises:
        WeightsError: a tensor has a dtype that no checkpoint could hold.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> with torch.no_grad():
    ...     _ = layer.weight.add_(1)
    >>> fingerprint(layer) == before
    False
    """
    digest = hashlib.sha256()
    left_out = set(without)
    for prefix, module in model.named_modules(remove_duplicate=False):
        if prefix in left_out:
            continue
        for name, tensor in sorted(_held(module), key=lambda item: item[0]):
            header = json.dumps([prefix, name, str(tensor.dtype), list(tensor.shape)]).encode()
            digest.update(len(header).to_bytes(8, "little") + header + module_tensor(name, tensor).digest)
    return digest.hexdigest()


def _held(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a module itself, not those of the modules in it."""
    own: dict[str, Any] = {**module._parameters, **module._buffers}
    own |= {name: value for name, value in vars(module).items() if isinstance(value, dict) and name[:1] != "_"}
    for name, value in own.items():
        yield from _tensors(name, value, _DEPTH)


def _tensors(name: str, value: Any, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor in its parts with the tensors of its attributes, or those of a table or another object."""
    import torch

    if isinstance(value, torch.Tensor):
        yield from parts_of(name, value).items()
    if isinstance(value, torch.nn.Module) or depth == 0 or name.endswith(".grad"):
        return
    inner = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    for key, entry in inner.items():
        is_object = isinstance(entry, (torch.Tensor, dict)) or type(entry).__module__ != "builtins"
        if is_object and not callable(entry):
            yield from _tensors(f"{name}.{key}", entry, depth - 1)
