"""The tensors of some files beside those of a model that was loaded from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.errors import WeightsError
from lm_bounds.weights.integrity.layer_function import compare_layer
from lm_bounds.weights.integrity.unmeasured import has_own_forward
from lm_bounds.weights.layouts.protocol import Layout, Misfit, member
from lm_bounds.weights.layouts.registry import layout_of
from lm_bounds.weights.layouts.values import floats
from lm_bounds.weights.module import as_saved, module_state, module_tensor
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor, Weights

if TYPE_CHECKING:
    import torch

_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Saved in older checkpoints, computed since: transformers leaves these unread where the network has them as buffers.
_NOW_COMPUTED = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")


@dataclass
class Comparison:
    """What has been found of the tensors of some files and of those of a model.

    Args:
        weights: of the files.
        model: that was loaded.
        layout: of the quantised layers of the files; None where there is none.
        files: tensors of the files by name, repetitions included.
        held: tensors of the model by the names that they would be saved under.
        loaded_names: of these, in the model, where it holds them as they would be saved.
        identical: names in the files of tensors that the model holds byte for byte.
        cast: names in the files of tensors that the model holds rounded to another format.
        layers: names in the model, with those in the files, of the layers that are compared as functions.
    """

    weights: Weights
    model: Any
    layout: Layout | None
    files: dict[str, Tensor]
    held: dict[str, torch.Tensor]
    loaded_names: dict[str, str]
    identical: set[str] = field(default_factory=set)
    cast: set[str] = field(default_factory=set)
    layers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, weights: Weights, model: torch.nn.Module) -> Comparison:
        """Nothing is compared yet."""
        state = module_state(model)
        held = as_saved(model, dict(state))
        names = {id(value): name for name, value in state.items()}
        loaded_names = {name: names[id(value)] for name, value in held.items() if id(value) in names}
        layout = layout_of(json.loads(weights.config))
        found = cls(weights, model, layout, weights.by_name(), held, loaded_names)
        found._drop_tied(getattr(model, "all_tied_weights_keys", None) or {})
        return found

    def in_files(self, held: str) -> str | None:
        """The name in the files of a tensor of the model: its own, without or with the prefix of the base model."""
        return next((name for name in with_prefix(self.model, held) if name in self.files), None)

    def match_tensors(self) -> None:
        """Finds what is held byte for byte, or rounded."""
        for held, value in self.held.items():
            name = self.in_files(held)
            if name is None:
                continue
            stored, own = self.files[name], module_tensor(held, value)
            if stored.shape != own.shape:
                continue
            if stored.dtype == own.dtype and stored.digest == own.digest:
                self.identical.add(name)
            elif stored.dtype in _FLOATS and own.dtype in _FLOATS and rounded(stored, own.dtype).digest == own.digest:
                self.cast.add(name)

    def match_layers(self) -> None:
        """Finds the quantised layers that have a formula, and others whose forward method was replaced."""
        modules = dict(self.model.named_modules())
        for name in self.layout.modules(self.files) if self.layout is not None else ():
            module = self._module(modules, name)
            if module is not None and self._has_formula(name):
                self.layers[module] = name
        for module, layer in modules.items():
            if module not in self.layers and has_own_forward(layer) and not hasattr(layer, "_hf_hook"):
                weight = self.in_files(member(module, "weight"))
                if weight in self.identical | self.cast and len(self.files[weight].shape) == 2:
                    self.layers[module] = weight.rpartition(".")[0]

    def compare_layers(self) -> None:
        """Applies each of these layers.

        Raises:
            WeightsError: naming the first one that does not compute what the files say.
        """
        dtype = _format(self.model)
        modules = dict(self.model.named_modules())
        for module, name in self.layers.items():
            bias = self.files.get(member(name, "bias"))
            matrix = self._matrix(modules[module], name)
            try:
                offset = None if bias is None else floats(bias).reshape(-1)
                difference = compare_layer(modules[module], matrix, offset, dtype)
            except WeightsError as error:
                raise WeightsError(f"layer {module!r} of {self.weights.source} cannot be checked: {error}") from error
            if not difference.is_rounding:
                raise WeightsError(
                    f"layer {module!r} does not compute what its tensors in {self.weights.source} say (differences are "
                    f"{max(difference.largest, difference.mean):.3g} times as large as rounding explains): load the "
                    "checkpoint again, with the library that wrote it, or on another device"
                )

    def leftovers(self) -> tuple[list[str], list[str], list[str]]:
        """Tensors of the model that are in no file, of the files that the model does not use, and that it may leave."""
        found = self.identical | self.cast
        found |= {name for name in self.files if name.rpartition(".")[0] in self._inside(self.layers.values(), name)}
        groups = self._groups()
        missing = [held for held in self.held if self.in_files(held) not in found and not self._in_layer(held)]
        unused = [name for name in self.files if name not in found and not groups.get(name, set()) & found]
        unread = [name for name in unused if self._declared_unread(name)]
        return missing, [name for name in unused if name not in unread], unread

    def _drop_tied(self, declared: Mapping[str, str]) -> None:
        """Leaves one name of two that share a tensor: the one that the files have."""
        saved = {loaded: name for name, loaded in self.loaded_names.items()}
        for pair in declared.items():
            target, source = (saved.get(name, name) for name in pair)
            if target not in self.held or source not in self.held:
                continue
            same = module_tensor(target, self.held[target]).digest == module_tensor(source, self.held[source]).digest
            if same and self.in_files(target) is None:
                del self.held[target]
            elif same and self.in_files(source) is None:
                del self.held[source]

    def _module(self, modules: Mapping[str, Any], name: str) -> str | None:
        """The name in the model of a layer of the files."""
        renamed = [
            loaded.rpartition(".")[0]
            for saved, loaded in self.loaded_names.items()
            if saved.rpartition(".")[0] == name and saved.rpartition(".")[2] == loaded.rpartition(".")[2]
        ]
        return next((each for each in (*renamed[:1], *with_prefix(self.model, name)) if each in modules), None)

    def _has_formula(self, name: str) -> bool:
        """Whether the files give the matrix of a layer; otherwise the model has to hold their bytes."""
        assert self.layout is not None
        try:
            self.layout.dequantise(self.files, name)
        except Misfit:
            return False
        return True

    def _matrix(self, layer: Any, name: str) -> NDArray[np.float32]:
        if self.layout is not None and name in self.layout.modules(self.files):
            return self.layout.dequantise(self.files, name)
        stored = floats(self.files[member(name, "weight")])
        return np.ascontiguousarray(stored.T) if type(layer).__name__ == "Conv1D" else stored

    def _inside(self, layers: Iterable[str], name: str) -> set[str]:
        """The module of a tensor of the files, where it is in one of these layers."""
        return {name.rpartition(".")[0]} if any(name.startswith(f"{layer}.") for layer in layers) else set()

    def _in_layer(self, held: str) -> bool:
        loaded = self.loaded_names.get(held, held)
        return any(loaded.startswith(f"{layer}.") for layer in self.layers)

    def _groups(self) -> dict[str, set[str]]:
        """The names that share their bytes, for each name of the files that repeats another or is repeated."""
        groups: dict[str, set[str]] = {}
        for dropped, kept in self.weights.aliases:
            group = groups.setdefault(kept, {kept})
            group.add(dropped)
            groups[dropped] = group
        return groups

    def _declared_unread(self, name: str) -> bool:
        patterns: Iterable[str] = getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or ()
        return any(re.search(pattern, name) for pattern in patterns) or _NOW_COMPUTED.search(name) is not None


def with_prefix(model: Any, name: str) -> tuple[str, ...]:
    """The names that a file may have for a tensor or a layer: as it is, without and with the base model's prefix."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return name, name.removeprefix(prefix), prefix + name


def rounded(tensor: Tensor, dtype: str) -> Tensor:
    """A floating-point tensor in another of these formats, piece by piece; to nearest, ties to even."""
    import torch

    source, target = getattr(torch, _FLOATS[tensor.dtype]), getattr(torch, _FLOATS[dtype])
    wide, narrow = DTYPE_BYTES[tensor.dtype], DTYPE_BYTES[dtype]

    def load(start: int, stop: int) -> NDArray[np.uint8]:
        first, last = start // narrow, -(-stop // narrow)
        raw = torch.from_numpy(tensor.read(first * wide, last * wide))
        made: NDArray[np.uint8] = raw.view(source).to(target).view(torch.uint8).numpy()
        return made[start - first * narrow : stop - first * narrow]

    return Tensor(tensor.name, dtype, tensor.shape, load)


def _format(model: Any) -> torch.dtype:
    """The format that a model computes in."""
    import torch

    dtype = getattr(model, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32
