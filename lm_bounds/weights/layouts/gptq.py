"""GPTQ's layout, which AutoRound writes too: streams of bits along the inputs, scales and zero-points of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import BitStream, unpacked
from lm_bounds.weights.layouts.protocol import Misfit, Tensors, find, member, modules_with, require, split, whole
from lm_bounds.weights.layouts.values import floats, integers, scale_classes
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Expected, Tensor

_WORD_BITS = 32
_WIDTHS = (4, 2, 3, 8)


class ZeroPoints(Enum):
    """What the file holds in place of the zero-point ``z`` of a group, and how a zero-point is found from it."""

    EXACT = "z"
    LESS_ONE = "z - 1 modulo 2^b; words of 2, 4 and 8 bits are raised by one in every field at once, with their carries"
    LESS_ONE_WIDE = "z - 1; one is added to every field, which may give 2^b"


@dataclass(frozen=True)
class _Sizes:
    """What names and shapes of a layer's tensors tell."""

    n_bits: int
    n_inputs: int
    n_outputs: int
    n_groups: int
    group_size: int


@dataclass(frozen=True)
class Gptq:
    """Layers of ``qweight``, ``qzeros``, ``scales`` and, where inputs were reordered or always, ``g_idx``.

    With b bits a code, n inputs, m outputs and G groups:

        qweight   I32 (n b / 32, m)    the codes of an output, one after another from the lowest bit: 32 in b words
        qzeros    I32 (G, m b / 32)    the zero-points of a group in the same way; see ``ZeroPoints``
        scales    float (G, m)
        g_idx     I32 (n,)             the group of each input; ``i // group size`` where it is not there

    ``W[j, i] = scales[g(i), j] (q[i, j] - z[g(i), j])``. The width b of a layer follows from its shapes, so that layers
    of other widths need no word of the configuration. Codes have the zero-point and a class of the scale of their group
    as labels. Expected are ``g_idx`` in order, and, for symmetric quantisation, ``z = 2^(b - 1)``.

    Args:
        name: what the layout is called.
        zero_points: how zero-points are written.
        n_bits: b of the configuration, preferred where shapes allow more than one.
        group_size: inputs of a group; None, or a number below 1, is all inputs of a layer.
        symmetric: whether all zero-points are ``2^(b - 1)``.

    Reference: gptqmodel 7.6, ``nn_modules/qlinear`` for the words and ``utils/model.py`` for the zero-points.
    """

    name: str
    zero_points: ZeroPoints
    n_bits: int | None
    group_size: int | None
    symmetric: bool

    @classmethod
    def from_settings(cls, name: str, settings: Mapping[str, Any], zero_points: ZeroPoints) -> Gptq:
        """The layout that a ``quantization_config`` describes."""
        n_bits, group_size = whole(settings, "bits"), whole(settings, "group_size")
        return cls(name, zero_points, n_bits, group_size, settings.get("sym") is True)

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with codes, zero-points and scales."""
        return modules_with(tensors, "qweight", "qzeros", "scales")

    def coded(self, module: str) -> tuple[str, ...]:
        """Codes and zero-points."""
        return member(module, "qweight"), member(module, "qzeros")

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes, shape (inputs, outputs) with room for whole words, and of zero-points, shape (groups, outputs)."""
        module, part = split(name)
        if part not in ("qweight", "qzeros") or member(module, "qweight") not in tensors:
            return None
        sizes = self._sizes(tensors, module)
        if part == "qzeros":
            return self._zeros_packing(tensors, module, sizes)
        words, scales = find(tensors, module, "qweight"), find(tensors, module, "scales")
        shape = words.shape[0] * _WORD_BITS // sizes.n_bits, sizes.n_outputs
        zeros = find(tensors, module, "qzeros")
        order = [tensors[member(module, "g_idx")]] if member(module, "g_idx") in tensors else []

        def of_inputs(table: NDArray[np.uint8]) -> NDArray[np.uint8]:
            groups = _groups(tensors, module, sizes)
            return table[np.pad(groups, (0, shape[0] - groups.size))]

        sides = {
            Side.ZERO_POINT: lambda: of_inputs(self._stored_zeros(tensors, module, sizes)),
            Side.SCALE: lambda: of_inputs(scale_classes(scales)),
        }
        sources = tuple(tensor.name for tensor in (zeros, scales, *order))
        return BitStream(sizes.n_bits, shape, (words.shape[0], words.shape[1]), 0, sources=sources, sides=sides)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """``g_idx`` in order; ``qzeros`` of symmetric quantisation."""
        module, part = split(name)
        if part not in ("g_idx", "qzeros") or member(module, "qweight") not in tensors:
            return None
        try:
            sizes = self._sizes(tensors, module)
        except Misfit:
            return None
        if part == "g_idx":
            return lambda: (np.arange(sizes.n_inputs) // sizes.group_size).astype("<i4").view(np.uint8)
        if not self.symmetric:
            return None
        packing = self._zeros_packing(tensors, module, sizes)
        stored = (1 << sizes.n_bits - 1) - (self.zero_points is not ZeroPoints.EXACT)
        return lambda: packing.pack(np.full(packing.shape, stored, np.uint8))

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """``scale (q - zero-point)``, shape (outputs, inputs)."""
        sizes = self._sizes(tensors, module)
        words = find(tensors, module, "qweight")
        packing = self.packing(tensors, member(module, "qweight"))
        assert packing is not None
        groups = _groups(tensors, module, sizes)
        codes = unpacked(packing, words)[: sizes.n_inputs].astype(np.float32)
        zeros = self._zeros(tensors, module, sizes).astype(np.float32)
        weight: NDArray[np.float32] = floats(find(tensors, module, "scales"))[groups] * (codes - zeros[groups])
        return np.ascontiguousarray(weight.T)

    def _sizes(self, tensors: Tensors, module: str) -> _Sizes:
        words, zeros, scales = (find(tensors, module, part) for part in ("qweight", "qzeros", "scales"))
        for tensor in (words, zeros):
            packed = tensor.dtype == "I32" and len(tensor.shape) == 2 and tensor.n_elements > 0
            require(packed, tensor, "packs no codes")
        require(len(scales.shape) == 2 and scales.n_elements > 0, scales, "holds no scale for each group")
        n_groups, n_outputs = scales.shape
        require(words.shape[1] == n_outputs, words, f"does not fit {n_outputs} outputs")
        require(zeros.shape[0] == n_groups, zeros, f"does not fit {n_groups} groups")
        order = tensors.get(member(module, "g_idx"))
        if order is not None:
            require(order.dtype == "I32" and len(order.shape) == 1, order, "gives no group for each input")
        given = self.n_bits if self.n_bits in _WIDTHS else None
        for n_bits in sorted(_WIDTHS, key=lambda width: width != given):
            n_inputs = words.shape[0] * _WORD_BITS // n_bits if order is None else order.shape[0]
            if _n_words(n_outputs, n_bits) == zeros.shape[1] and _n_words(n_inputs, n_bits) == words.shape[0]:
                group_size = self._group_size(n_inputs, n_groups)
                if group_size is not None:
                    return _Sizes(n_bits, n_inputs, n_outputs, n_groups, group_size)
        shapes = f"{words.shape}, {zeros.shape} and {scales.shape}"
        raise Misfit(f"module {module!r}: tensors of shape {shapes} hold no codes of 2, 3, 4 or 8 bits")

    def _group_size(self, n_inputs: int, n_groups: int) -> int | None:
        """The one of the configuration where it gives as many groups, else equal groups."""
        for size in (self.group_size, -(-n_inputs // n_groups)):
            if size is not None and size > 0 and -(-n_inputs // size) == n_groups:
                return min(size, n_inputs)
        return None

    def _zeros_packing(self, tensors: Tensors, module: str, sizes: _Sizes) -> BitStream:
        zeros = find(tensors, module, "qzeros")
        shape = sizes.n_groups, zeros.shape[1] * _WORD_BITS // sizes.n_bits
        return BitStream(sizes.n_bits, shape, (zeros.shape[0], zeros.shape[1]), 1)

    def _stored_zeros(self, tensors: Tensors, module: str, sizes: _Sizes) -> NDArray[np.uint8]:
        """The fields of ``qzeros`` as they are, shape (groups, outputs)."""
        fields = unpacked(self._zeros_packing(tensors, module, sizes), find(tensors, module, "qzeros"))
        return fields[:, : sizes.n_outputs].astype(np.uint8)

    def _zeros(self, tensors: Tensors, module: str, sizes: _Sizes) -> NDArray[np.integer]:
        """The zero-points, shape (groups, outputs)."""
        if self.zero_points is not ZeroPoints.LESS_ONE:
            stored = self._stored_zeros(tensors, module, sizes)
            return stored.astype(np.int32) + (self.zero_points is ZeroPoints.LESS_ONE_WIDE)
        if sizes.n_bits == 3:
            return self._stored_zeros(tensors, module, sizes) + 1 & 7
        ones = sum(1 << shift for shift in range(0, _WORD_BITS, sizes.n_bits))
        words = find(tensors, module, "qzeros")
        raised = (words.data().view("<u4") + np.uint32(ones)).view(np.uint8)
        return unpacked(self._zeros_packing(tensors, module, sizes), words, raised)[:, : sizes.n_outputs]


def _groups(tensors: Tensors, module: str, sizes: _Sizes) -> NDArray[np.integer]:
    """The group of each input."""
    order: Tensor | None = tensors.get(member(module, "g_idx"))
    if order is None:
        return np.arange(sizes.n_inputs) // sizes.group_size
    groups = integers(order)
    within = groups.size > 0 and 0 <= int(groups.min()) <= int(groups.max()) < sizes.n_groups
    require(within, order, f"names a group that is none of the {sizes.n_groups}")
    return groups


def _n_words(n_codes: int, n_bits: int) -> int:
    return -(-n_codes * n_bits // _WORD_BITS)
