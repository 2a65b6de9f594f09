"""The layouts of compressed-tensors: streams of bits along the inputs, or elements of whole bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import BitStream, Fields, unpacked
from lm_bounds.weights.layouts.protocol import Misfit, Tensors, find, member, modules_with, require, split, whole
from lm_bounds.weights.layouts.values import floats, integers, scale_classes, sizes, spread
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Expected, Tensor

_WORD_BITS = 32


@dataclass(frozen=True)
class CompressedTensors:
    """Layers of the formats pack-quantized, int-quantized, float-quantized and naive-quantized; m outputs, n inputs.

        weight_packed       I32 (m, n b / 32): codes ``q + 2^(b - 1)`` of an output, one after another from the lowest
                            bit; in files of older versions ``32 // b`` codes a word, with bits left over;
                            plain where both take as many words
        weight_shape        I64 (2,): m and n
        weight_scale        (m, G) for groups of consecutive inputs, (m, 1) for outputs, (1,) for the matrix
        weight_zero_point   I32 (m b / 32, G) in the same way along the outputs; I8 in the shape of the scales where it
                            is not packed; none where quantisation is symmetric
        weight_g_idx        the group of each input, where inputs were reordered

        weight              I8 or F8 (m, n): elements are whole bytes and need no packing

    ``W[j, i] = scale (q[j, i] - zero-point)``. Packed codes have the zero-point and a class of the scale of their group
    as labels.

    Args:
        widths: b of each group of layers in the configuration.
        group_sizes: inputs of a quantisation group in each of these.
        blocks: height and width of blocks, where the configuration gives them.

    Reference: compressed-tensors 0.20, ``compressors/pack_quantized`` and ``compressors/naive_quantized``.
    """

    widths: tuple[int, ...]
    group_sizes: tuple[int, ...]
    blocks: tuple[int | None, int | None]
    name: str = "compressed-tensors"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> CompressedTensors:
        """The layout that a ``quantization_config`` describes."""
        groups = settings.get("config_groups")
        schemes = list(groups.values()) if isinstance(groups, Mapping) else []
        weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, Mapping)]
        described = [entry for entry in weights if isinstance(entry, Mapping)]
        widths = {whole(entry, "num_bits") for entry in described}
        group_sizes = {whole(entry, "group_size") for entry in described}
        structures = [entry.get("block_structure") for entry in described]
        blocks = next((entry for entry in structures if isinstance(entry, list) and len(entry) == 2), [None, None])
        height, width = (size if type(size) is int and size > 0 else None for size in blocks)
        return cls(
            tuple(sorted(size for size in widths if size is not None and 1 <= size <= 8)),
            tuple(sorted(size for size in group_sizes if size is not None and size > 0)),
            (height, width),
        )

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with scales, and packed codes or elements."""
        packed = modules_with(tensors, "weight_packed", "weight_scale")
        return tuple(sorted({*packed, *modules_with(tensors, "weight_scale", "weight")}))

    def coded(self, module: str) -> tuple[str, ...]:
        """Packed codes; their zero-points are packed only where the configuration says so."""
        return (member(module, "weight_packed"),)

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes, shape (outputs, inputs), and of packed zero-points, shape (outputs, groups)."""
        module, part = split(name)
        if part not in ("weight_packed", "weight_zero_point") or member(module, "weight_packed") not in tensors:
            return None
        if part == "weight_zero_point":
            return self._zeros_packing(tensors, module) if tensors[name].dtype == "I32" else None
        codes = self._codes(tensors, module)
        scale = find(tensors, module, "weight_scale")
        zero, order = (tensors.get(member(module, part)) for part in ("weight_zero_point", "weight_g_idx"))
        sides = {Side.SCALE: lambda: self._of_codes(tensors, module, scale_classes(scale), codes.shape)}
        if zero is not None:
            sides[Side.ZERO_POINT] = lambda: self._of_codes(
                tensors, module, (self._zeros(tensors, module) + 128).astype(np.uint8), codes.shape
            )
        others = [tensor.name for tensor in (scale, zero, order) if tensor is not None]
        sources = find(tensors, module, "weight_shape").name, *others
        return dataclasses.replace(codes, sources=sources, sides=sides)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """``scale (q - zero-point)``, shape (outputs, inputs)."""
        scale = floats(find(tensors, module, "weight_scale"))
        if member(module, "weight_packed") in tensors:
            codes = self._codes(tensors, module)
            values = unpacked(codes, find(tensors, module, "weight_packed")).astype(np.float32) - np.float32(
                1 << codes.n_bits - 1
            )
            zeros = self._zeros(tensors, module)
        else:
            weight = find(tensors, module, "weight")
            require(len(weight.shape) == 2, weight, "is no matrix")
            values = floats(weight) if weight.dtype.startswith("F") else integers(weight).astype(np.float32)
            zero = tensors.get(member(module, "weight_zero_point"))
            zeros = np.zeros(1, np.int32) if zero is None else integers(zero).astype(np.int32)
        shape = values.shape[0], values.shape[1]
        offsets = self._of_codes(tensors, module, zeros, shape).astype(np.float32)
        result: NDArray[np.float32] = (values - offsets) * self._of_codes(tensors, module, scale, shape)
        return result

    def _codes(self, tensors: Tensors, module: str) -> BitStream | Fields:
        """How the codes are packed: the width of which the words are as many as there are."""
        words, shape_tensor = find(tensors, module, "weight_packed"), find(tensors, module, "weight_shape")
        require(words.dtype == "I32" and len(words.shape) == 2 and words.n_elements > 0, words, "packs no codes")
        shape = sizes(shape_tensor)
        require(words.shape[0] == shape[0], words, f"does not hold {shape[0]} outputs")
        return self._packed(words, shape, 1)

    def _packed(self, words: Tensor, shape: tuple[int, int], axis: int) -> BitStream | Fields:
        """How codes of a shape lie in words along an axis: the only way that takes as many words."""
        n_codes, n_words = shape[axis], words.shape[axis]
        found: list[BitStream | Fields] = []
        for n_bits in self.widths:
            per_word = _WORD_BITS // n_bits
            if -(-n_codes * n_bits // _WORD_BITS) == n_words:
                found.append(BitStream(n_bits, shape, (words.shape[0], words.shape[1]), axis))
            if _WORD_BITS % n_bits and -(-n_codes // per_word) == n_words:
                shifts = tuple(range(0, per_word * n_bits, n_bits))
                full = (shape[0], n_words * per_word) if axis == 1 else (n_words * per_word, shape[1])
                found.append(Fields(n_bits, shape, "<u4", 1 if axis == 1 else shape[1], shifts, full))
        if len(found) != 1:
            ways = "in more than one way" if found else f"of {self.widths} bits"
            raise Misfit(f"tensor {words.name!r}: {n_words} words hold no {n_codes} codes {ways}")
        return found[0]

    def _zeros_packing(self, tensors: Tensors, module: str) -> BitStream | Fields:
        zeros, scale = find(tensors, module, "weight_zero_point"), find(tensors, module, "weight_scale")
        pair = len(zeros.shape) == 2 and len(scale.shape) == 2 and zeros.shape[1] == scale.shape[1]
        require(pair and zeros.n_elements > 0, zeros, "is no matrix of zero-points for the scales")
        return self._packed(zeros, (scale.shape[0], scale.shape[1]), 0)

    def _zeros(self, tensors: Tensors, module: str) -> NDArray[np.integer]:
        """Zero-points as they are subtracted from ``q``; 0 where there are none."""
        zeros: Tensor | None = tensors.get(member(module, "weight_zero_point"))
        if zeros is None:
            return np.zeros(1, np.int32)
        if zeros.dtype != "I32":
            return integers(zeros).astype(np.int32)
        packing = self._zeros_packing(tensors, module)
        return unpacked(packing, zeros).astype(np.int32) - (1 << packing.n_bits - 1)

    def _of_codes(self, tensors: Tensors, module: str, table: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """What belongs to the group of each code."""
        order: Tensor | None = tensors.get(member(module, "weight_g_idx"))
        if order is not None and table.ndim == 2 and table.shape[1] > 1:
            groups = integers(order).ravel()
            if groups.size == shape[1] and not (groups == -1).all():  # -1: inputs are in order
                within = 0 <= int(groups.min()) <= int(groups.max()) < table.shape[1]
                require(within, order, f"names a group that is none of the {table.shape[1]}")
                return spread(table[:, groups], shape)
        height, width = self.blocks
        if width is None and table.ndim == 2 and table.shape[1] > 1:
            width = next((size for size in self.group_sizes if -(-shape[1] // size) == table.shape[1]), None)
        return spread(table, shape, (height, width))
