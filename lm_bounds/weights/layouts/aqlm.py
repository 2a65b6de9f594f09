"""AQLM's layout: each short row of a layer is the sum of one vector from each codebook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import SignedPlanes, unpacked
from lm_bounds.weights.layouts.protocol import Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected, Tensor

_WORDS = {"I8": "i1", "I16": "<i2"}


@dataclass(frozen=True)
class Aqlm:
    """Layers of ``codes``, ``codebooks`` and ``scales``; P groups of outputs, Q groups of inputs, K codebooks.

        codes       I8 or I16 (P, Q, K): numbers of b bits in two's complement
        codebooks   (K, 2^b, outputs of a group, inputs of a group)
        scales      (P, 1, 1, 1)

    The block of outputs p and inputs q is ``scales[p] sum_k codebooks[k, codes[p, q, k]]``. The matrix of codes has the
    rows of the first codebook, then those of the next: (K P, Q).

    Reference: aqlm 1.1.7, ``inference.py`` and ``utils.py``.
    """

    name: str = "aqlm"

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with codes, codebooks and scales."""
        return modules_with(tensors, "codes", "codebooks", "scales")

    def coded(self, module: str) -> tuple[str, ...]:
        """The codes."""
        return (member(module, "codes"),)

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes, shape (codebooks x groups of outputs, groups of inputs)."""
        module, part = split(name)
        if part != "codes" or member(module, "codebooks") not in tensors:
            return None
        codes, books = self._parts(tensors, module)
        rows, columns, planes = codes.shape
        n_bits = books.shape[1].bit_length() - 1
        return SignedPlanes(n_bits, (planes * rows, columns), _WORDS[codes.dtype], (rows, columns, planes))

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """The sums of vectors, shape (outputs, inputs)."""
        codes, books = self._parts(tensors, module)
        packing = self.packing(tensors, member(module, "codes"))
        assert packing is not None
        rows, columns, planes = codes.shape
        numbers = unpacked(packing, codes).reshape(planes, rows, columns)
        vectors = floats(books)
        blocks = sum((vectors[plane][numbers[plane]] for plane in range(planes)), np.float32(0))
        scales = find(tensors, module, "scales")
        require(scales.n_elements == rows, scales, f"is no scale for each of {rows} groups of outputs")
        scaled = blocks * floats(scales).reshape(rows, 1, 1, 1)  # shape: (P, Q, outputs, inputs of a group)
        height, width = books.shape[2:]
        return np.ascontiguousarray(scaled.swapaxes(1, 2).reshape(rows * height, columns * width), np.float32)

    def _parts(self, tensors: Tensors, module: str) -> tuple[Tensor, Tensor]:
        codes, books = find(tensors, module, "codes"), find(tensors, module, "codebooks")
        fits = codes.dtype in _WORDS and len(codes.shape) == 3 and codes.n_elements > 0
        require(fits, codes, "holds no codes")
        require(len(books.shape) == 4 and books.n_elements > 0, books, "holds no codebooks")
        require(books.shape[0] == codes.shape[2], books, f"is none for each of {codes.shape[2]} codes")
        size = books.shape[1]
        power = size >= 2 and size & size - 1 == 0 and size.bit_length() - 1 <= int(codes.dtype[1:])
        require(power, books, f"has {size} vectors, which is no power of two that fits {codes.dtype}")
        return codes, books
