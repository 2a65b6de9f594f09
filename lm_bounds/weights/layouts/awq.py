"""AWQ's layout for GEMM kernels: eight codes a word along the outputs, in the order that the kernel reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Fields
from lm_bounds.weights.layouts.protocol import Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats, scale_classes
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Expected, Tensor

_N_BITS = 4
_CODES_PER_WORD = 8
# Output k of a word lies at these bits: the word holds the outputs 0 2 4 6 1 3 5 7 from its lowest bits up.
_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


@dataclass(frozen=True)
class Awq:
    """Layers of ``qweight``, ``qzeros`` and ``scales``; n inputs, m outputs, G groups of consecutive inputs.

        qweight   I32 (n, m / 8)
        qzeros    I32 (G, m / 8)
        scales    F16 (G, m)

    ``W[j, i] = scales[g(i), j] (q[i, j] - z[g(i), j])`` with ``g(i) = i // (n / G)``. Codes have the zero-point and a
    class of the scale of their group as labels.

    Reference: AutoAWQ 0.2.9, ``modules/linear/gemm.py`` and ``utils/packing_utils.py``.
    """

    name: str = "awq"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Awq | None:
        """The layout that a ``quantization_config`` describes; None for kernels that want another order."""
        version = settings.get("version", settings.get("format", "gemm"))
        return cls() if isinstance(version, str) and version.lower() == "gemm" else None

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with codes, zero-points and scales."""
        return modules_with(tensors, "qweight", "qzeros", "scales")

    def coded(self, module: str) -> tuple[str, ...]:
        """Codes and zero-points."""
        return member(module, "qweight"), member(module, "qzeros")

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes, shape (inputs, outputs), and of zero-points, shape (groups, outputs)."""
        module, part = split(name)
        if part not in ("qweight", "qzeros") or member(module, "qweight") not in tensors:
            return None
        words, zeros, scales = self._parts(tensors, module)
        if part == "qzeros":
            return _fields(zeros)
        group_size = words.shape[0] // zeros.shape[0]
        packed_zeros = _fields(zeros)
        sides = {
            Side.ZERO_POINT: lambda: np.repeat(packed_zeros.unpack(zeros.data()), group_size, axis=0).astype(np.uint8),
            Side.SCALE: lambda: np.repeat(scale_classes(scales), group_size, axis=0),
        }
        whole = _fields(words)
        return Fields(
            _N_BITS, whole.shape, "<u4", 1, _SHIFTS, whole.capacity, sources=(zeros.name, scales.name), sides=sides
        )

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """``scale (q - zero-point)``, shape (outputs, inputs)."""
        words, zeros, scales = self._parts(tensors, module)
        group_size = words.shape[0] // zeros.shape[0]
        codes = _fields(words).unpack(words.data()).astype(np.float32)
        offsets = np.repeat(_fields(zeros).unpack(zeros.data()).astype(np.float32), group_size, axis=0)
        weight: NDArray[np.float32] = np.repeat(floats(scales), group_size, axis=0) * (codes - offsets)
        return np.ascontiguousarray(weight.T)

    def _parts(self, tensors: Tensors, module: str) -> tuple[Tensor, Tensor, Tensor]:
        words, zeros, scales = (find(tensors, module, part) for part in ("qweight", "qzeros", "scales"))
        for tensor in (words, zeros):
            packed = tensor.dtype == "I32" and len(tensor.shape) == 2 and tensor.n_elements > 0
            require(packed, tensor, "packs no codes")
        require(zeros.shape[1] == words.shape[1], zeros, "does not have the outputs of the codes")
        require(words.shape[0] % zeros.shape[0] == 0, zeros, f"does not divide {words.shape[0]} inputs into groups")
        shape = zeros.shape[0], zeros.shape[1] * _CODES_PER_WORD
        require(scales.shape == shape, scales, "is no scale for each zero-point")
        return words, zeros, scales


def _fields(words: Tensor) -> Fields:
    shape = words.shape[0], words.shape[1] * _CODES_PER_WORD
    return Fields(_N_BITS, shape, "<u4", 1, _SHIFTS, shape)
