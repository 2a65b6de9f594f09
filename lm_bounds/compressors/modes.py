"""Ways to code one tensor, each with the exact length of its code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.codelength.integers import elias_delta_bits
from lm_bounds.compressors.classes import Context
from lm_bounds.compressors.counts import CODEBOOK_VALUES, Counted, cyclic_support
from lm_bounds.weights.protocol import Tensor

_BYTE_BITS = 8


class Mode(Protocol):
    """A way to code one tensor of a known dtype and shape."""

    def bits(self, counted: Counted) -> float:
        """Length of the code in bits, before rounding up; infinite where the mode cannot code the tensor."""


@dataclass(frozen=True)
class Raw:
    """The bytes as they are, 8 bits each."""

    def bits(self, counted: Counted) -> float:
        """``8`` times the number of bytes."""
        return float(_BYTE_BITS * counted.tensor.n_bytes)


@dataclass(frozen=True)
class Split:
    """Sign, exponent and leading mantissa bits of a floating-point number, each under its own adaptive code.

    Args:
        n_leading: number of mantissa bits that are coded given the exponent, 0 to 7.
        context: of the exponents.
    """

    n_leading: int
    context: Context = Context.NONE

    def bits(self, counted: Counted) -> float:
        """Length in bits of a tensor of a dtype in ``FLOAT_LAYOUTS``.

        ``2 e + KT(signs) + L(exponents) + sum_x KT(leading mantissa bits | exponent x) + z + n (r - zeros)``:
        smallest and largest exponent are written in their width ``e`` and bound the exponents' alphabet; ``L`` is the
        length in the context; ``zeros`` is the number of low mantissa bits that are zero in every element, at most
        ``r``, the number of bits below the leading ones, and is written in ``z`` bits, the width of ``r``.
        """
        layout = counted.layout
        if layout is None:
            return math.inf
        _, counts = counted.float_counts
        n_rest = layout.mantissa_bits - self.n_leading
        n_exponents = counts.shape[1]
        leading = counts.sum(axis=0).reshape(n_exponents, 1 << self.n_leading, -1).sum(axis=2)
        return (
            2 * layout.exponent_bits
            + adaptive_bits(counts.sum(axis=(1, 2)))
            + counted.exponents.bits(self.context)
            + adaptive_bits(leading)
            + n_rest.bit_length()
            + counted.tensor.n_elements * (n_rest - min(n_rest, counted.n_zero_bits))
        )


@dataclass(frozen=True)
class Planes:
    """Each byte position of the elements under its own adaptive code, for dtypes that ``Split`` does not code."""

    def bits(self, counted: Counted) -> float:
        """``sum_k 16 + KT(k-th byte of the elements)``.

        The first and the last value of each plane are written in 8 bits each and bound its alphabet, which goes on from
        255 to 0 where that makes it smaller, as for small numbers of both signs.
        """
        if counted.layout is not None:
            return math.inf
        bits = 0.0
        for row in counted.planes:
            first, size = cyclic_support(row)
            bits += 2 * _BYTE_BITS + adaptive_bits(np.roll(row, -first)[:size])
        return bits


@dataclass(frozen=True)
class ByDtype:
    """``Split`` with three leading mantissa bits for the dtypes that it codes, ``Planes`` for every other one."""

    def bits(self, counted: Counted) -> float:
        """Length in bits of the one that codes the dtype."""
        return min(Split(3).bits(counted), Planes().bits(counted))


@dataclass(frozen=True)
class FewValues:
    """A codebook of the distinct bit patterns, and for each element its position there.

    Args:
        context: of the positions.
    """

    context: Context = Context.NONE

    def bits(self, counted: Counted) -> float:
        """``12 + sum_i delta(v_i - v_(i-1)) + L(positions)`` for at most 4096 values.

        Their number less one is written in 12 bits; the values, as unsigned integers in ascending order from
        ``v_0 = -1``, are written as the Elias delta codes of their distances; ``L`` is the length in the context.
        """
        codebook = counted.codebook
        if codebook is None:
            return math.inf
        distances = (high - low for low, high in itertools.pairwise([-1, *codebook.values.tolist()]))
        header = (CODEBOOK_VALUES - 1).bit_length() + sum(map(elias_delta_bits, distances))
        return header + counted.codes_bits(self.context)


def shortest(tensor: Tensor | Counted, modes: Iterable[Mode]) -> tuple[int, float]:
    """The number of the mode with the shortest code, the first of several, and that length in bits.

    Args:
        tensor: or what is counted of it; one without elements takes the first mode.
        modes: the first one codes every tensor.
    """
    first, *others = modes
    counted = tensor if isinstance(tensor, Counted) else Counted(tensor)
    lengths = [first.bits(counted)]
    if counted.tensor.n_elements:
        lengths += [mode.bits(counted) for mode in others]
    length = min(lengths)
    return lengths.index(length), length
