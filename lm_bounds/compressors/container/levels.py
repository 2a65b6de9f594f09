"""Frequencies of symbols in few bits: the square roots of their counts, rounded.

Under the adaptive (Krichevsky-Trofimov) code the square roots of the counts of ``n`` symbols are uniform on a sphere.
So counts that are rounded evenly in their square roots, to about their own uncertainty, lose half a nat each and need
as much less to be written down: together with the counts the code has the length of the adaptive one, up to about a bit
for each symbol of the alphabet, in whatever order the symbols come.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.lanes import SLOT_BITS, Frequencies
from lm_bounds.compressors.container.scalars import ScalarDecoder, ScalarEncoder, broken

# A level q stands for a count of 3 q^2: the rounding that is best for a Gaussian likelihood.
_STEP = 3
# Frequencies stay exact in 64 bits.
_LEVEL_DIGITS = 18
_LARGEST = (1 << _LEVEL_DIGITS) - 1


def to_levels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The level of every count, 0 for 0 alone; shape (contexts, alphabet).

    Two symbols that are about as frequent as each other, such as signs, get one level: they then need no coder.

    >>> to_levels(np.array([[0, 1, 12, 300]])).tolist()
    [[0, 1, 2, 10]]
    """
    levels = np.rint(np.sqrt(counts / _STEP)).astype(np.int64)
    levels = np.clip(levels, counts > 0, _LARGEST)
    if levels.shape[1] == 2:
        alike = (levels > 0).all(axis=1) & (np.abs(levels[:, 0] - levels[:, 1]) <= 1)
        levels[alike] = levels[alike].max(axis=1, keepdims=True)
    return levels


def to_frequencies(levels: NDArray[np.int64]) -> Frequencies:
    """Frequencies in proportion to the squares of the levels, at least 1 for a level above 0."""
    weights = levels * levels
    present = levels > 0
    totals = weights.sum(axis=1, keepdims=True)
    n_present = present.sum(axis=1, keepdims=True)
    sizes = present + weights * ((1 << SLOT_BITS) - n_present) // np.maximum(totals, 1)
    largest = sizes.argmax(axis=1)
    rows = np.flatnonzero(present.any(axis=1))
    sizes[rows, largest[rows]] += (1 << SLOT_BITS) - sizes[rows].sum(axis=1)
    return Frequencies(sizes)


class LevelCode:
    """How levels are written: the number of their digits under an adaptive code, then their digits.

    Levels are alike along the alphabet and from context to context: the counts of the adaptive code are kept apart by
    the mean number of digits of the levels to the left and above, and kept from one table to the next.
    """

    def __init__(self) -> None:
        self._counts = [[1] * (_LEVEL_DIGITS + 1) for _ in range(_LEVEL_DIGITS + 1)]

    def write(self, coder: ScalarEncoder, levels: NDArray[np.int64]) -> None:
        """Writes a table of levels, row by row."""
        above = [0] * levels.shape[1]
        for number, row in enumerate(levels.tolist()):
            left = above[0]
            for place, level in enumerate(row):
                beside = above[place] if number else left
                digits = level.bit_length()
                coder.counted(digits, self._counts[(left + beside + 1) // 2])
                coder.integer(level, digits - 1)
                above[place] = left = digits

    def read(self, coder: ScalarDecoder, n_contexts: int, alphabet: int) -> NDArray[np.int64]:
        """Reads a table of levels, shape (contexts, alphabet)."""
        above = [0] * alphabet
        levels = np.zeros((n_contexts, alphabet), np.int64)
        for number in range(n_contexts):
            left = above[0]
            row = []
            for place in range(alphabet):
                beside = above[place] if number else left
                digits = coder.counted(self._counts[(left + beside + 1) // 2])
                row.append(1 << digits - 1 | coder.integer(digits - 1) if digits else 0)
                above[place] = left = digits
            levels[number] = row
        if not levels.any():
            raise broken("no symbol has a frequency")
        return levels
