"""Layouts of eight-bit floats: elements of whole bytes, with scales for blocks or rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.protocol import Tensors, find, modules_with, require
from lm_bounds.weights.layouts.values import floats, spread
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected


@dataclass(frozen=True)
class Fp8:
    """Layers of ``weight`` and one tensor of scales; m outputs, n inputs.

        weight             F8_E4M3 (m, n): elements are whole bytes and need no packing, they are coded by their dtype
        weight_scale_inv   (m / 128, n / 128), or as the block size says (method ``fp8``)
        weight_scale       (m, 1) (method ``fbgemm_fp8``)

    ``W = weight x scale`` of the block or row.

    Args:
        name: the method.
        scale: the name of the tensor of scales.
        blocks: height and width of a block; None divides the matrix equally.

    Reference: transformers 5.23, ``integrations/finegrained_fp8.py`` and ``integrations/fbgemm_fp8.py``.
    """

    name: str
    scale: str
    blocks: tuple[int | None, int | None] = (None, None)

    @classmethod
    def from_settings(cls, name: str, settings: Mapping[str, Any]) -> Fp8:
        """The layout that a ``quantization_config`` describes."""
        if name == "fbgemm_fp8":
            return cls(name, "weight_scale")
        size = settings.get("weight_block_size")
        known = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
        return cls(name, "weight_scale_inv", (size[0], size[1]) if known and isinstance(size, list) else (None, None))

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with scales."""
        return modules_with(tensors, self.scale, "weight")

    def coded(self, module: str) -> tuple[str, ...]:
        """None: elements are whole bytes."""
        return ()

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """None."""
        return None

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """The weight, shape (outputs, inputs)."""
        weight = find(tensors, module, "weight")
        require(len(weight.shape) == 2, weight, "is no matrix")
        shape = weight.shape[0], weight.shape[1]
        scales = floats(find(tensors, module, self.scale))
        result: NDArray[np.float32] = floats(weight) * spread(scales, shape, self.blocks)
        return result
