"""HQQ's layout: the halves, quarters or eighths of the rows of a matrix of groups share words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Fields, Reshaped, unpacked
from lm_bounds.weights.layouts.protocol import Misfit, Tensors, find, member, modules_with, require, split
from lm_bounds.weights.layouts.values import floats, scale_classes, sizes, text
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Expected, Tensor

# Name of a packing: width of a code, word, and the lowest bit of each part of the rows, the first part first.
_PACKINGS = {
    "8bit_u8": (8, "u1", (0,)),
    "4bit_u8": (4, "u1", (4, 0)),
    "3bit_32": (3, "<u4", tuple(range(27, -1, -3))),
    "2bit_u8": (2, "u1", (6, 4, 2, 0)),
    "1bit_u8": (1, "u1", tuple(range(7, -1, -1))),
}


@dataclass(frozen=True)
class Hqq:
    """Layers of ``W_q``, ``scale``, ``zero`` and the settings of the layer, each a tensor.

        W_q       U8 or I32: a matrix of R rows, of which the parts lie in one row of words; with 3 bits ten parts, the
                  last filled up with zeros; any dtype where its bytes are viewed as floats
        scale     (R, 1) where the groups are rows (axis 1), (1, columns) where they are columns (axis 0)
        zero      the same
        shape     I64 (2,): outputs and inputs
        packing   U8: a name such as ``4bit_u8``

    ``W = ((q - zero) scale)`` in the shape (outputs, inputs), of which the matrix of R rows is another view. Codes have
    classes of the zero-point and of the scale of their group as labels. Nothing is expected.

    Reference: hqq 0.2.8, ``core/bitpack.py`` and ``core/quantize.py``.
    """

    name: str = "hqq"

    def modules(self, tensors: Tensors) -> tuple[str, ...]:
        """Layers with codes, scales and zero-points."""
        return modules_with(tensors, "W_q", "scale", "zero")

    def coded(self, module: str) -> tuple[str, ...]:
        """The codes."""
        return (member(module, "W_q"),)

    def packing(self, tensors: Tensors, name: str) -> Packing | None:
        """Of codes, shape (outputs, inputs)."""
        module, part = split(name)
        if part != "W_q":
            return None
        words, shape, kind = (find(tensors, module, part) for part in ("W_q", "shape", "packing"))
        rows, columns = sizes(shape)
        known = _PACKINGS.get(text(kind))
        if known is None or len(words.shape) != 2:
            raise Misfit(f"module {module!r} packs its codes in a way that is not known")
        n_bits, word, shifts = known
        width = words.n_bytes // words.shape[0] // int(np.dtype(word).itemsize) if words.n_elements else 0
        require(width > 0 and rows * columns % width == 0, words, f"holds no matrix of {rows} times {columns} codes")
        n_rows = rows * columns // width  # of the matrix of groups
        require(-(-n_rows // len(shifts)) == words.shape[0], words, f"does not hold {n_rows} rows of codes")
        scale, zero = find(tensors, module, "scale"), find(tensors, module, "zero")
        sides = {
            Side.ZERO_POINT: lambda: _of_groups(scale_classes(zero), zero, (n_rows, width), (rows, columns)),
            Side.SCALE: lambda: _of_groups(scale_classes(scale), scale, (n_rows, width), (rows, columns)),
        }
        capacity = words.shape[0] * len(shifts), width
        fields = Fields(n_bits, (n_rows, width), word, words.shape[0] * width, shifts, capacity)
        sources = tuple(tensor.name for tensor in (shape, kind, zero, scale))
        return Reshaped(n_bits, (rows, columns), fields, sources=sources, sides=sides)

    def expected(self, tensors: Tensors, name: str) -> Expected | None:
        """Nothing."""
        return None

    def dequantise(self, tensors: Tensors, module: str) -> NDArray[np.float32]:
        """``(q - zero) scale``, shape (outputs, inputs)."""
        words = find(tensors, module, "W_q")
        packing = self.packing(tensors, member(module, "W_q"))
        assert isinstance(packing, Reshaped)
        matrix = unpacked(packing.fields, words).astype(np.float32)
        zero, scale = floats(find(tensors, module, "zero")), floats(find(tensors, module, "scale"))
        for table in (zero, scale):
            if not _is_for_groups(table.shape, matrix.shape):
                raise Misfit(f"module {module!r}: scales of shape {table.shape} for groups of shape {matrix.shape}")
        weight: NDArray[np.float32] = ((matrix - zero) * scale).reshape(packing.shape)
        return weight


def _of_groups(
    classes: NDArray[np.uint8], tensor: Tensor, groups: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """The class of the group of each code, in the shape of the layer."""
    require(_is_for_groups(classes.shape, groups), tensor, f"is none for each group of {groups}")
    return np.broadcast_to(classes, groups).reshape(shape)


def _is_for_groups(shape: tuple[int, ...], groups: tuple[int, ...]) -> bool:
    return len(shape) == 2 and all(size in (1, full) for size, full in zip(shape, groups, strict=True))
