"""What symbols are coded with: counts that adapt with every symbol, or frequencies that are written first."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.lanes import Frequencies

#: So few symbols are coded one by one.
FEW_SYMBOLS = 1024
#: And of so large an alphabet at most.
LARGEST_ADAPTIVE = 4096
#: So many too, where each entry of a table would serve so few of them and the alphabet is small.
MOST_ADAPTIVE = 1 << 14
SYMBOLS_PER_FREQUENCY = 64
SMALL_ALPHABET = 256


@dataclass
class Adaptive:
    """Krichevsky-Trofimov counts of each context, as frequencies ``2 n_k + 1``.

    Args:
        alphabet: number of symbols.
    """

    alphabet: int
    frequencies: dict[int, list[int]] = field(default_factory=dict)

    def of(self, context: int) -> list[int]:
        """The frequencies of a context."""
        return self.frequencies.setdefault(context, [1] * self.alphabet)


class Plain:
    """Symbols that are as frequent as each other, ``2^width`` in every context that occurs: their rank is written.

    Args:
        levels: shape (contexts, alphabet).
        width: bits of a rank.
    """

    def __init__(self, levels: NDArray[np.int64], width: int) -> None:
        self.width, self.alphabet = width, levels.shape[1]
        present = levels > 0
        self.absent: NDArray[np.bool_] = np.logical_not(present.any(axis=1))
        self._ranks = (np.cumsum(present, axis=1) - 1).astype(np.uint32)
        self._symbols = np.zeros((len(levels), 1 << width), np.int64)
        rows, columns = np.nonzero(present)
        self._symbols[rows, self._ranks[rows, columns]] = columns

    def ranks(self, symbols: NDArray[np.integer], contexts: NDArray[np.integer] | None) -> NDArray[np.uint32]:
        """What is written for symbols."""
        return np.asarray(self._ranks[0 if contexts is None else contexts, symbols])

    def symbols(self, ranks: NDArray[np.integer], contexts: NDArray[np.integer] | None) -> NDArray[np.int64]:
        """The symbols for what was written."""
        return np.asarray(self._symbols[0 if contexts is None else contexts, ranks])


Model = Adaptive | Plain | Frequencies


def plain_width(levels: NDArray[np.int64]) -> int | None:
    """Bits of a rank, where every context that occurs has equally many symbols, a power of two, all of one level.

    >>> plain_width(np.array([[3, 3, 0], [0, 5, 5]])), plain_width(np.array([[3, 4]]))
    (1, None)
    """
    rows = levels[levels.any(axis=1)]
    numbers = (rows > 0).sum(axis=1)
    number = int(numbers[0])
    is_alike = ((rows == rows.max(axis=1, keepdims=True)) | (rows == 0)).all()
    if (numbers != number).any() or number & (number - 1) or not is_alike:
        return None
    return number.bit_length() - 1
