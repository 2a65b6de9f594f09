"""BitNet's layout: four ternary weights a byte, from four parts of the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Fields
from lm_bounds.weights.layouts.protocol import Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected

_SHIFTS = (0, 2, 4, 6)


@dataclass(frozen=True)
class BitNet:
    """Layers of ``weight`` and ``weight_scale``; m outputs, n inputs.

        weight         U8 (m / 4, n): ``t + 1`` of the weights t in {-1, 0, 1}, the first quarter of the outputs in the
                       lowest two bits
        weight_scale   one number s

    ``W = t / s``; with the class ``autobitlinear`` it is ``W = t s``.

    Args:
        times_scale: whether the weight is multiplied by the scale.

    Reference: transformers 5.23, ``integrations/bitnet.py``.
    """

    times_scale: bool = False
    name: str = "bitnet"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BitNet:
        """The layout that a ``quantization_config`` describes."""
        return cls(settings.get("linear_class") == "autobitlinear")

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with a scale."""
        return modules_with(tensors, "weight_scale", "weight")

    def coded(self, module: str) -> tuple[str, ...]:
        """The codes."""
        return (member(module, "weight"),)

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes, shape (outputs, inputs)."""
        module, part = split(name)
        if part != "weight" or member(module, "weight_scale") not in tensors:
            return None
        words = tensors[name]
        require(words.dtype == "U8" and len(words.shape) == 2 and words.n_elements > 0, words, "packs no codes")
        shape = len(_SHIFTS) * words.shape[0], words.shape[1]
        return Fields(2, shape, "u1", words.n_elements, _SHIFTS, shape)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """The weight, shape (outputs, inputs)."""
        words, scale = find(tensors, module, "weight"), find(tensors, module, "weight_scale")
        require(scale.n_elements == 1, scale, "is not one scale")
        packing = self.packing(tensors, member(module, "weight"))
        assert packing is not None
        ternary = packing.unpack(words.data()).astype(np.float32) - np.float32(1)
        step = floats(scale).reshape(1, 1)
        weight: NDArray[np.float32] = ternary * step if self.times_scale else ternary / step
        return weight
