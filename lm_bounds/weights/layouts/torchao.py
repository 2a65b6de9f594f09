"""torchao's layout: the inner tensors of a quantised weight, each under a name of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Fields
from lm_bounds.weights.layouts.protocol import Misfit, Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats, integers, spread
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected, Tensor

_DATA, _SCALE, _ZERO = "_weight_qdata", "_weight_scale", "_weight_zero_point"
_HALVES = "Int4Tensor"
_PLAIN = ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor")


@dataclass(frozen=True)
class TorchAo:
    """Layers of ``_weight_qdata``, ``_weight_scale`` and, with some, ``_weight_zero_point``; m outputs, n inputs.

        _weight_qdata         I8 or F8 (m, n): elements are whole bytes, also those of 1 to 7 bits, and need no packing
        _weight_scale         (m / a, n / b) for blocks of a outputs and b inputs
        _weight_zero_point    the same

    ``W[j, i] = scale (q[j, i] - zero-point)`` of the block. Weights of the class ``Int4Tensor`` pack two codes a byte,
    the first in the lower half: (m, n / 2). The class of a weight, its blocks and its activations are in the metadata
    of the file, which are part of the description and counted with the configuration.

    Args:
        metadata: of the files, by name of the weight, JSON as the library writes it.

    Reference: torchao 0.18, ``prototype/safetensors`` and ``quantization/quantize_/workflows``; transformers 5.23.
    """

    metadata: Mapping[str, Any]
    name: str = "torchao"

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with codes and scales."""
        return modules_with(tensors, _DATA, _SCALE)

    def coded(self, module: str) -> tuple[str, ...]:
        """The codes of a weight that packs two in a byte."""
        return (member(module, _DATA),) if self._class(module) not in _PLAIN else ()

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of two codes a byte, shape (outputs, inputs)."""
        module, part = split(name)
        if part != _DATA or self._class(module) in _PLAIN:
            return None
        words = tensors[name]
        require(self._class(module) == _HALVES, words, f"is of the class {self._class(module)!r}, which is not known")
        require(words.dtype in ("U8", "I8") and len(words.shape) == 2, words, "does not hold two codes a byte")
        shape = words.shape[0], 2 * words.shape[1]
        return Fields(4, shape, "u1", 1, (0, 4), shape)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """``scale (q - zero-point)``, shape (outputs, inputs), for elements of whole bytes."""
        data = find(tensors, module, _DATA)
        require(self._class(module) in _PLAIN, data, f"of the class {self._class(module)!r} has no formula here")
        require(len(data.shape) == 2, data, "is no matrix")
        shape = data.shape[0], data.shape[1]
        values = floats(data) if data.dtype.startswith("F") else integers(data).astype(np.float32)
        zero = tensors.get(member(module, _ZERO))
        if zero is not None:
            values = values - spread(_numbers(zero), shape)
        weight: NDArray[np.float32] = values * spread(floats(find(tensors, module, _SCALE)), shape)
        return weight

    def _class(self, module: str) -> str | None:
        """The class of a weight, None where the metadata do not tell."""
        entry = self.metadata.get(member(module, "weight"))
        try:
            described = json.loads(entry) if isinstance(entry, str) else entry
        except (ValueError, RecursionError):
            return None
        kind = described.get("_type") if isinstance(described, Mapping) else None
        return kind if isinstance(kind, str) else None


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    try:
        return integers(tensor).astype(np.float32)
    except Misfit:
        return floats(tensor)
