"""What the modes need to know of a tensor, counted in one pass over its elements, or two, and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.classes import Context, SymbolSequence
from lm_bounds.compressors.dequantised import Quantised, find_quantised
from lm_bounds.compressors.histogram import histogram
from lm_bounds.compressors.words import FLOAT_LAYOUTS, WORDS
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

#: A codebook has at most so many values.
CODEBOOK_VALUES = 4096

_BYTE_BITS = 8
# The upper bits of an element that are counted together: a table of 65,536 counts still fits the processor's cache.
_UPPER_BITS = 16
# Elements counted at a time: they are widened while they are counted, and every piece has a table of its own.
_PIECE = 1 << 19


@dataclass(frozen=True)
class Codebook:
    """The distinct elements of a tensor and how often each occurs.

    Args:
        values: bit patterns, ascending, of the dtype in ``WORDS``.
        counts: of the same shape.
    """

    values: NDArray[np.unsignedinteger]
    counts: NDArray[np.int64]


class Counted:
    """Counts over the elements of one tensor; each is made when it is asked for first.

    Args:
        tensor: with one element or more.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.width = DTYPE_BYTES[tensor.dtype]
        self.layout = FLOAT_LAYOUTS.get(tensor.dtype)

    @cached_property
    def _upper_and_union(self) -> tuple[NDArray[np.int64], int]:
        """Counts of the upper bits of the elements, 16 or all, and the union of all bits."""
        width_bits = _BYTE_BITS * self.width
        upper_bits = min(_UPPER_BITS, width_bits)
        counts = np.zeros(1 << upper_bits, np.int64)
        union = 0
        for words in self._pieces():
            if upper_bits < width_bits:
                union |= int(np.bitwise_or.reduce(words))
                counts += histogram(words >> (width_bits - upper_bits), counts.size)
            else:
                counts += histogram(words, counts.size)
        if upper_bits == width_bits:
            union = int(np.bitwise_or.reduce(np.flatnonzero(counts)))
        return counts, union

    @property
    def upper(self) -> NDArray[np.int64]:
        """Counts of the upper 16 bits of the elements, of all bits where there are fewer."""
        return self._upper_and_union[0]

    @property
    def n_zero_bits(self) -> int:
        """How many low bits are zero in every element."""
        union = self._upper_and_union[1] | 1 << (_BYTE_BITS * self.width)
        return (union & -union).bit_length() - 1

    @cached_property
    def planes(self) -> NDArray[np.int64]:
        """Counts of the bytes at each position of the elements, the lowest first, shape (bytes, 256)."""
        if self.width == 1:
            return self.upper[None]
        if self.width == 2:
            joint = self.upper.reshape(256, 256)
            return np.stack([joint.sum(axis=0), joint.sum(axis=1)])
        counts = np.zeros((self.width, 256), np.int64)
        for words in self._pieces():
            chunk = words.view(np.uint8)
            for plane in range(self.width):
                counts[plane] += histogram(chunk[plane :: self.width], 256)
        return counts

    @cached_property
    def float_counts(self) -> tuple[int, NDArray[np.int64]]:
        """Of a dtype in ``FLOAT_LAYOUTS``: the smallest exponent, and counts of sign, exponent and mantissa.

        The counts have shape (2, exponents from the smallest to the largest, leading mantissa bits), with as many
        mantissa bits as fit into the upper 16 bits.
        """
        if self.layout is None:
            raise TypeError(f"dtype {self.tensor.dtype} has no exponent")
        counts = self.upper.reshape(2, 1 << self.layout.exponent_bits, -1)
        lowest, highest = support(counts.sum(axis=(0, 2)))
        return lowest, counts[:, lowest : highest + 1]

    @cached_property
    def exponents(self) -> SymbolSequence:
        """The exponents, of a dtype in ``FLOAT_LAYOUTS``, counted from the smallest one."""
        lowest, counts = self.float_counts
        assert self.layout is not None
        shift, mask = self.layout.mantissa_bits, (1 << self.layout.exponent_bits) - 1

        def symbols(words: NDArray[np.unsignedinteger]) -> NDArray[np.integer]:
            exponents = (words >> shift & mask).astype(np.int16)
            exponents -= lowest
            return exponents

        return SymbolSequence.of_elements(self.tensor, counts.sum(axis=(0, 2)), WORDS[self.width], symbols)

    @cached_property
    def codebook(self) -> Codebook | None:
        """The distinct elements; None where there are more than ``CODEBOOK_VALUES``."""
        if self.width > 2:
            return self._collected_codebook()
        values = np.flatnonzero(self.upper)
        if values.size > CODEBOOK_VALUES:
            return None
        return Codebook(values.astype(WORDS[self.width]), self.upper[values])

    @cached_property
    def codes(self) -> SymbolSequence | None:
        """The elements as their positions in the codebook, where there is one."""
        codebook = self.codebook
        if codebook is None:
            return None

        values = codebook.values
        table = np.zeros(1 << min(_UPPER_BITS, _BYTE_BITS * self.width), np.int16)

        def searched(words: NDArray[np.unsignedinteger]) -> NDArray[np.integer]:
            return np.asarray(np.searchsorted(values, words))

        def looked_up(words: NDArray[np.unsignedinteger]) -> NDArray[np.integer]:
            return np.asarray(table[words])

        if self.width <= 2:
            table[values] = np.arange(values.size, dtype=table.dtype)
        symbols = looked_up if self.width <= 2 else searched
        return SymbolSequence.of_elements(self.tensor, codebook.counts, WORDS[self.width], symbols)

    @cached_property
    def packed(self) -> SymbolSequence | None:
        """The codes that the elements hold, where the layout of the checkpoint says how."""
        packing = self.tensor.packing
        if packing is None:
            return None
        try:
            codes = packing.unpack(self.tensor.data())
        except ValueError:  # bits beside the codes are not zero: the codes alone would not give the tensor back
            return None
        return SymbolSequence.of_matrix(codes, 1 << packing.n_bits)

    @cached_property
    def quantised(self) -> Quantised | None:
        """Levels and scales from which the elements were made, where they were."""
        return find_quantised(self.tensor)

    @cached_property
    def levels(self) -> SymbolSequence:
        """The levels of ``quantised``, counted from the smallest one."""
        assert self.quantised is not None
        levels = self.quantised.levels
        return SymbolSequence.of_matrix(levels - levels.min(), int(levels.max()) - int(levels.min()) + 1)

    def codes_bits(self, context: Context) -> float:
        """Length of the positions in the codebook, infinite without one."""
        return math.inf if self.codes is None else self.codes.bits(context)

    def _collected_codebook(self) -> Codebook | None:
        """Elements wider than a table of counts: their distinct values are collected as they come."""
        values = np.empty(0, WORDS[self.width])
        counts = np.empty(0, np.int64)
        for words in self._pieces():
            position = np.searchsorted(values, words)
            known = position < values.size
            known[known] = values[position[known]] == words[known]
            if not known.all():
                fresh = np.unique(words[~known])
                if values.size + fresh.size > CODEBOOK_VALUES:
                    return None
                gaps = np.searchsorted(values, fresh)
                values, counts = np.insert(values, gaps, fresh), np.insert(counts, gaps, 0)
                position = np.searchsorted(values, words)
            counts += histogram(position, values.size)
        return Codebook(values, counts)

    def _pieces(self) -> Iterator[NDArray[np.unsignedinteger]]:
        for chunk in self.tensor.chunks():
            words = chunk.view(WORDS[self.width])
            for start in range(0, words.size, _PIECE):
                yield words[start : start + _PIECE]


def support(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Smallest and largest symbol that occurs."""
    present = np.flatnonzero(counts)
    return int(present[0]), int(present[-1])


def cyclic_support(counts: NDArray[np.int64]) -> tuple[int, int]:
    """The first symbol and the length of the shortest run, around the end if need be, with all symbols that occur.

    >>> cyclic_support(np.array([3, 0, 0, 0, 1, 2]))
    (4, 3)
    """
    present = np.flatnonzero(counts)
    gaps = np.diff(present, append=present[0] + counts.size)
    widest = int(gaps.argmax())
    return int(present[(widest + 1) % present.size]), counts.size - int(gaps[widest]) + 1
