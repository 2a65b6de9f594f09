"""QuIP#'s layout: code words of a lattice for eight inputs each, between two random orthogonal transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.e8p import VECTOR, Bytes, e8_vectors, e8p_vectors
from lm_bounds.weights.layouts.protocol import Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats
from lm_bounds.weights.packing import Packing
from lm_bounds.weights.protocol import Expected

_WORD_BYTES = {"I16": 2, "I32": 4, "I64": 8}
# By how much the second code word is finer than the first: with three bits a weight, and with four.
_FINER = {3: 2.04, 4: 3.45}


@dataclass(frozen=True)
class Quip:
    """Layers of ``Qidxs``, ``SU``, ``SV`` and ``Wscale``; m outputs, n inputs.

        Qidxs    two bits a weight: I16 (m, n / 8), a code word each; or I64 (m, n / 32), four of them in the order of
                 the kernel. Three bits: I64 with n / 32 words of these, then n / 64 words of eight codes of one byte.
                 Four bits: I64 with twice n / 32 words, or I32 (m, n / 8) with the first code word in the upper half.
        SU, SV   float (n,), (m,): signs, and scales where they are finetuned
        Wscale   one number

    ``W = Wscale diag(SV) H_m D H_n diag(SU)``, ``D`` the vectors of the code words, ``H_k`` the Hadamard matrix of
    Sylvester divided by ``sqrt(k)``; columns are divided by ``scaleWH`` where it is there. The codebooks are fixed in
    advance and cost nothing. The width follows from the shapes.

    Args:
        finer: by how much the second code word is finer, where the configuration says it.

    Reference: A. Tseng et al., "QuIP#", ICML 2024; its repository, ``lib/codebook`` and ``lib/linear``.
    """

    finer: float | None = None
    name: str = "quip#"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Quip:
        """The layout that ``quip_params`` describes."""
        finer = settings.get("resid_scale_override")
        return cls(float(finer) if isinstance(finer, (int, float)) and 0 < finer < 1e6 else None)

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with code words and signs."""
        return modules_with(tensors, "Qidxs", "SU", "SV")

    def coded(self, module: str) -> tuple[str, ...]:
        """The code words."""
        return (member(module, "Qidxs"),)

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of the bytes of code words, shape (outputs x bytes of a code word, inputs / 8)."""
        module, part = split(name)
        if part != "Qidxs" or member(module, "SU") not in tensors:
            return None
        return self._bytes(tensors, module)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """The weight, shape (outputs, inputs), for widths that are powers of two."""
        packing = self._bytes(tensors, module)
        words = find(tensors, module, "Qidxs")
        planes = packing.unpack(words.data()).reshape(packing.n_planes, -1, packing.shape[1])
        vectors = e8p_vectors(planes[0], planes[1])
        if packing.n_planes > 2:
            second = e8_vectors()[planes[2]] if packing.n_planes == 3 else e8p_vectors(planes[2], planes[3])
            vectors = vectors + second / np.float32(self.finer or _FINER[packing.n_planes])
        matrix = vectors.reshape(planes.shape[1], -1)
        for size in matrix.shape:
            require(size & size - 1 == 0, words, f"is transformed in {size} dimensions, which is no power of two")
        turned = _hadamard(_hadamard(matrix).T).T
        scale = find(tensors, module, "Wscale")
        require(scale.n_elements == 1, scale, "is not one scale")
        weight = floats(scale).reshape(1, 1) * turned
        weight = weight * floats(find(tensors, module, "SV"))[:, None] * floats(find(tensors, module, "SU"))
        columns = tensors.get(member(module, "scaleWH"))
        return weight if columns is None else weight / floats(columns)

    def _bytes(self, tensors: Tensors, module: str) -> Bytes:
        words, inputs, outputs = (find(tensors, module, part) for part in ("Qidxs", "SU", "SV"))
        for signs in (inputs, outputs):
            require(len(signs.shape) == 1 and signs.n_elements > 0, signs, "gives no sign for each input or output")
        n_outputs, n_codes = outputs.n_elements, inputs.n_elements // VECTOR
        fits = words.dtype in _WORD_BYTES and len(words.shape) == 2 and words.shape[0] == n_outputs and n_codes > 0
        require(fits and inputs.n_elements % VECTOR == 0, words, f"holds no code words of {n_outputs} outputs")
        word_bytes = _WORD_BYTES[words.dtype]
        n_planes, rest = divmod(words.n_bytes, n_outputs * n_codes)
        known = (n_planes == word_bytes if word_bytes < 8 else n_planes in (2, 3, 4)) and rest == 0
        require(known, words, f"does not hold 2, 3 or 4 bytes for each of {n_outputs} times {n_codes} code words")
        return Bytes(8, (n_planes * n_outputs, n_codes), word_bytes, n_planes)


def _hadamard(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every row times the Hadamard matrix of Sylvester, divided by the root of its size."""
    size = matrix.shape[1]
    result = matrix
    step = 1
    while step < size:
        pairs = result.reshape(len(matrix), -1, 2, step)
        result = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        step *= 2
    scaled: NDArray[np.float32] = result.reshape(matrix.shape) / np.sqrt(np.float32(size))
    return scaled
