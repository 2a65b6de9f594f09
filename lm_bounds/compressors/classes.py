"""Adaptive codes of one symbol per element whose counts are kept apart by classes of rows and columns.

The classes are labels: one of eight for each row, and one of eight for each column. The encoder may choose them in any
way, since it writes them down; here rows (columns) of a class are alike in how often each symbol occurs in them, and
fewer than eight are used where that is shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.compressors.histogram import histogram
from lm_bounds.weights.protocol import Tensor

N_CLASSES = 8

# How many classes are tried.
_USED_CLASSES = (2, 4, N_CLASSES)
# Symbols of the largest alphabet that is divided into classes: with more, each class would see too few of each.
_ALPHABET = 256
# Entries of the largest table of counts by row (or column) and symbol: 8 bytes each.
_TABLE_ENTRIES = 1 << 24
_ROUNDS = 4
# Costs are compared in units of 2^-8 bits, as integers, so that every machine makes the same classes.
_COST_UNITS = 256
# Elements counted at a time, where rows are not longer; up to eight times as many where columns make a large table.
_BLOCK = 1 << 18


class Context(Enum):
    """By what the counts of a symbol are kept apart."""

    NONE = "one class"
    ROWS = "row classes"
    ROWS_AND_COLUMNS = "row and column classes"


#: The first row of each block of so many rows, and the block's symbols, shape (rows, columns).
Blocks = Callable[[int], Iterator[tuple[int, NDArray[np.integer]]]]


class SymbolSequence:
    """A matrix of symbols in row-major order, which is read block by block as often as it is needed.

    Args:
        shape: rows and columns, one or more of each.
        counts: of each symbol of the alphabet, shape (alphabet,).
        blocks: gives the symbols.
    """

    def __init__(self, shape: tuple[int, int], counts: NDArray[np.int64], blocks: Blocks) -> None:
        self.counts, self.shape = counts, shape
        self._n_rows, self._n_columns = shape
        self._blocks_of = blocks

    @classmethod
    def of_matrix(cls, symbols: NDArray[np.integer], alphabet: int) -> SymbolSequence:
        """Symbols that are in memory, shape (rows, columns)."""

        def blocks(height: int) -> Iterator[tuple[int, NDArray[np.integer]]]:
            for start in range(0, len(symbols), height):
                yield start, symbols[start : start + height]

        return cls(symbols.shape, _count(symbols, alphabet), blocks)

    @classmethod
    def of_elements(
        cls,
        tensor: Tensor,
        counts: NDArray[np.int64],
        word: str,
        symbols: Callable[[NDArray[np.unsignedinteger]], NDArray[np.integer]],
    ) -> SymbolSequence:
        """One symbol for each element of a tensor; its first size is the number of rows.

        Args:
            tensor: with one element or more.
            counts: as above.
            word: numpy's code of an element as an unsigned integer.
            symbols: maps elements, of any shape, to symbols.
        """
        n_rows = tensor.shape[0] if tensor.shape else 1
        n_columns, row_bytes = tensor.n_elements // n_rows, tensor.n_bytes // n_rows

        def blocks(height: int) -> Iterator[tuple[int, NDArray[np.integer]]]:
            for start in range(0, n_rows, height):
                raw = tensor.read(start * row_bytes, min(start + height, n_rows) * row_bytes)
                yield start, symbols(raw.view(word).reshape(-1, n_columns))

        return cls((n_rows, n_columns), counts, blocks)

    def beside(self, labels: NDArray[np.uint8]) -> float:
        """Length where the counts are kept apart by labels that the decoder has, ``sum_l KT(symbols with label l)``.

        Args:
            labels: of every symbol, in ``shape``.
        """
        alphabet = self.counts.size
        counts = np.zeros((int(labels.max()) + 1) * alphabet, np.int64)
        for start, symbols in self._blocks():
            keys = labels[start : start + len(symbols)].astype(np.int64) * alphabet
            keys += symbols
            counts += histogram(keys, counts.size)
        return adaptive_bits(counts.reshape(-1, alphabet))

    def bits(self, context: Context) -> float:
        """Length of the symbols, and of the labels of the classes, in bits.

        ``KT(row labels) + KT(column labels) + sum_c KT(symbols in class c)``, without the labels that the context does
        not have: labels over an alphabet of 8, symbols over the alphabet.

        Returns:
            Infinity for classes of what is no table of two rows and two columns or more, has one symbol or more than
            256, or too large a table of counts.
        """
        if context is Context.NONE:
            return adaptive_bits(self.counts)
        if self._tables is None:
            return math.inf
        return self._in_classes[context][0]

    def labels(self, context: Context) -> tuple[NDArray[np.int64], ...]:
        """The class of each row, and of each column, as far as the context has them and its length is finite."""
        return () if context is Context.NONE else self._in_classes[context][1]

    @cached_property
    def _tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Counts of the symbols in each row, shape (rows, alphabet), and in each column."""
        alphabet = self.counts.size
        shorter, longer = sorted((self._n_rows, self._n_columns))
        if shorter < 2 or not 2 <= alphabet <= _ALPHABET or longer * alphabet > _TABLE_ENTRIES:
            return None
        by_row = np.empty((self._n_rows, alphabet), np.int64)
        by_column = np.zeros(self._n_columns * alphabet, np.int64)
        of_column = np.arange(self._n_columns) * alphabet
        for start, symbols in self._blocks():
            of_row = np.arange(len(symbols))[:, None] * alphabet
            table = histogram(of_row + symbols, len(symbols) * alphabet)
            by_row[start : start + len(symbols)] = table.reshape(-1, alphabet)
            by_column += histogram(of_column + symbols, by_column.size)
        return by_row, by_column.reshape(-1, alphabet)

    @cached_property
    def _in_classes(self) -> dict[Context, tuple[float, tuple[NDArray[np.int64], ...]]]:
        """The shortest length in each context, and the labels that give it."""
        assert self._tables is not None
        by_row, by_column = self._tables
        in_rows, in_both = [], []
        pairs = [(_labels(by_row, used), _labels(by_column, used)) for used in _USED_CLASSES]
        for (rows, columns), counts in zip(pairs, self._counts_in_classes(pairs), strict=True):
            in_rows.append((_label_bits(rows) + adaptive_bits(_sums(by_row, rows)), (rows,)))
            in_both.append((_label_bits(rows) + _label_bits(columns) + adaptive_bits(counts), (rows, columns)))
        return {
            Context.ROWS: min(in_rows, key=itemgetter(0)),
            Context.ROWS_AND_COLUMNS: min(in_both, key=itemgetter(0)),
        }

    def _counts_in_classes(self, pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> NDArray[np.int64]:
        """For each pair of labels the counts of the symbols, shape (pairs, row and column classes, alphabet)."""
        alphabet = self.counts.size
        counts = np.zeros((len(pairs), N_CLASSES * N_CLASSES * alphabet), np.int64)
        for start, symbols in self._blocks():
            for number, (rows, columns) in enumerate(pairs):
                of_row = rows[start : start + len(symbols), None] * (N_CLASSES * alphabet)
                keys = of_row + columns * alphabet + symbols
                counts[number] += histogram(keys, counts.shape[1])
        return counts.reshape(len(pairs), -1, alphabet)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.integer]]]:
        height = max(1, _BLOCK // self._n_columns, min(self.counts.size, 8 * _BLOCK // self._n_columns))
        return self._blocks_of(height)


def _count(symbols: NDArray[np.integer], alphabet: int) -> NDArray[np.int64]:
    """How often each symbol occurs; symbols are widened while they are counted, so that they come a block at a time."""
    counts = np.zeros(alphabet, np.int64)
    flat = symbols.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        counts += histogram(flat[start : start + _BLOCK], alphabet)
    return counts


def _labels(table: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """A class for each row of counts, by a few rounds of assigning each to the class whose code is shortest.

    The first classes are equal parts of the rows in order of their cost per symbol under the counts of all.
    """
    cost = table @ _costs(table.sum(axis=0)[None])[0]
    order = np.argsort(cost // np.maximum(table.sum(axis=1), 1), kind="stable")
    labels = np.empty(len(table), np.int64)
    labels[order] = np.arange(len(table)) * n_classes // len(table)
    for _ in range(_ROUNDS):
        labels = np.argmin(table @ _costs(_sums(table, labels)[:n_classes]).T, axis=1)
    return labels


def _costs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``-log2 (n_k + 1/2)/(n + A/2)`` in units of 2^-8 bits, for each row of counts over A symbols."""
    alphabet = counts.shape[1]
    return np.array(
        [
            [round(_COST_UNITS * math.log2((2 * total + alphabet) / (2 * count + 1))) for count in row]
            for row, total in zip(counts.tolist(), counts.sum(axis=1).tolist(), strict=True)
        ],
        np.int64,
    )


def _sums(table: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of the rows of each class, shape (classes, alphabet)."""
    return np.stack([table[labels == label].sum(axis=0) for label in range(N_CLASSES)])


def _label_bits(labels: NDArray[np.int64]) -> float:
    return adaptive_bits(np.bincount(labels, minlength=N_CLASSES))
