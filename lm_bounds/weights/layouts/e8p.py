"""The code words of QuIP#: how they share 64-bit words, and the vectors of eight weights that they stand for."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.layouts.codes import Codes
from lm_bounds.weights.layouts.protocol import Misfit

#: Weights of a code word.
VECTOR = 8

# Words of the packed form: 16 rows by 8 code words of 16 bits lie in 8 by 4 words of 64 bits.
_TILE_ROWS, _TILE_CODES = 16, 8

# The vectors of five 3/2 and three 1/2 that fill up the table, by the positions of the 1/2, in the order of the table.
_FIVE_LARGE = (
    "123 023 013 012 367 357 347 356 346 345 267 257 247 256 246"
    " 245 167 157 147 156 146 045 067 057 047 056 046 014 237"
)


@dataclass(frozen=True)
class Bytes(Codes):
    """The bytes of code words: a matrix of eight-bit codes with k rows for each output and a column for eight inputs.

    First the m rows of the indices of absolute values, then the m rows of signs; with three bits a weight then the m
    rows of the second codebook, with four bits the absolute values and the signs of the second word.

    Args:
        word_bytes: of a stored word: 2, 4 or 8.
    """

    word_bytes: int

    def __post_init__(self) -> None:
        rows, columns = self.shape[0] // self.n_planes, self.shape[1]
        if self.word_bytes == 8:
            tail = columns % VECTOR if self.n_planes == 3 else 0
            if rows % _TILE_ROWS or columns % _TILE_CODES or tail:
                raise Misfit(f"{rows} rows of {columns} code words do not fill words of 64 bits")

    n_planes: int

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
        """The codes, in ``shape``."""
        rows, columns = self.shape[0] // self.n_planes, self.shape[1]
        planes = np.empty((self.n_planes, rows, columns), np.uint8)
        if self.word_bytes < 8:
            planes[:] = raw.reshape(rows, columns, self.word_bytes).transpose(2, 0, 1)[list(self._order)]
            return planes.reshape(self.shape)
        table = raw.reshape(rows, -1)
        first = 2 * columns
        planes[:2] = _from_tiles(table[:, :first], rows, columns)
        if self.n_planes == 3:
            planes[2] = table[:, first:]
        elif self.n_planes == 4:
            planes[2:] = _from_tiles(table[:, first:], rows, columns)
        return planes.reshape(self.shape)

    def pack(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
        """The bytes of the stored words."""
        rows, columns = self.shape[0] // self.n_planes, self.shape[1]
        planes = codes.astype(np.uint8).reshape(self.n_planes, rows, columns)
        if self.word_bytes < 8:
            stored = np.empty((rows, columns, self.word_bytes), np.uint8)
            stored[:, :, list(self._order)] = planes.transpose(1, 2, 0)
            return stored.reshape(-1)
        parts = [_to_tiles(planes[:2], rows, columns)]
        if self.n_planes == 3:
            parts.append(planes[2])
        elif self.n_planes == 4:
            parts.append(_to_tiles(planes[2:], rows, columns))
        return np.concatenate(parts, axis=1).reshape(-1)

    @property
    def _order(self) -> tuple[int, ...]:
        """Which byte of a word, from the lowest, is which plane: words of 32 bits have the first code word on top."""
        return (1, 0) if self.n_planes == 2 else (3, 2, 1, 0)


def _from_tiles(packed: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Absolute values and signs, shape (2, rows, columns), from bytes of shape (rows, 2 columns).

    A word of 64 bits has two rows by two code words, in the order (0, 0), (1, 0), (0, 1), (1, 1): the lower half their
    absolute values, a byte each; in the upper half bit ``4 j + i`` is bit ``j`` of the signs of the i-th.
    """
    tiles = np.ascontiguousarray(packed).reshape(rows // _TILE_ROWS, columns // _TILE_CODES, 8, 4, 8)
    words = tiles.transpose(0, 2, 1, 3, 4).reshape(rows // 2, columns // 2, 8)
    bits = np.unpackbits(words[..., 4:], axis=-1, bitorder="little").reshape(rows // 2, columns // 2, 8, 4)
    signs = np.packbits(bits.transpose(0, 1, 3, 2), axis=-1, bitorder="little")[..., 0]
    both = np.stack([words[..., :4], signs]).reshape(2, rows // 2, columns // 2, 2, 2)  # last: column, row
    return both.transpose(0, 1, 4, 2, 3).reshape(2, rows, columns)


def _to_tiles(planes: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The inverse of ``_from_tiles``."""
    both = planes.reshape(2, rows // 2, 2, columns // 2, 2).transpose(0, 1, 3, 4, 2)
    absolute, signs = both.reshape(2, rows // 2, columns // 2, 4)
    bits = np.unpackbits(signs[..., None], axis=-1, bitorder="little").transpose(0, 1, 3, 2)
    mixed = np.packbits(bits.reshape(rows // 2, columns // 2, 32), axis=-1, bitorder="little")
    words = np.concatenate([absolute, mixed], axis=-1)
    tiles = words.reshape(rows // _TILE_ROWS, 8, columns // _TILE_CODES, 4, 8).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles).reshape(rows, 2 * columns)


def e8p_vectors(absolute: NDArray[np.unsignedinteger], signs: NDArray[np.unsignedinteger]) -> NDArray[np.float32]:
    """The vectors of E8P code words.

    Args:
        absolute: index of the absolute values, below 256.
        signs: the lower byte of the code word: of odd parity it moves the vector by -1/4, else by +1/4; odd parity also
            turns its lowest bit; then its bits 0 to 7 are the signs of the weights 0 2 4 6 1 3 5 7.

    Returns:
        The shape of the indices, and 8 weights each.

    Reference: A. Tseng et al., "QuIP#", ICML 2024, section 4; its repository, ``lib/codebook``, for the order.
    """
    bits = np.arange(256, dtype=np.uint8)[:, None] >> np.arange(8, dtype=np.uint8) & 1
    odd = bits.sum(axis=1) % 2
    bits[:, 0] ^= odd.astype(np.uint8)
    flips = 1 - 2 * bits[:, [0, 4, 1, 5, 2, 6, 3, 7]].astype(np.float32)
    moves = np.float32(0.25) - np.float32(0.5) * odd.astype(np.float32)
    vectors: NDArray[np.float32] = _absolute_values()[absolute] * flips[signs] + moves[signs][..., None]
    return vectors


@functools.cache
def _absolute_values() -> NDArray[np.float32]:
    """The 256 vectors of absolute values; where their sum is odd, the last one is negative."""
    halves = (0.5, 1.5, 2.5)
    ball = [point for point in itertools.product(halves, repeat=8) if sum(value * value for value in point) <= 10]
    filled = [[0.5 if str(k) in small else 1.5 for k in range(8)] for small in _FIVE_LARGE.split()]
    table = np.array([*ball, *filled], np.float32)
    table[:, 7] *= 1 - 2 * (table.sum(axis=1) % 2)
    return table


@functools.cache
def e8_vectors() -> NDArray[np.float32]:
    """The 256 vectors of the one-bit codebook: E8 up to norm 2 in lexicographic order, integers first; 15 of norm 4.

    >>> e8_vectors().shape, float((e8_vectors() ** 2).sum(axis=1).max())
    ((256, 8), 4.0)
    """
    whole = itertools.product((-1.0, 0.0, 1.0), repeat=8)
    halves = itertools.product((-0.5, 0.5), repeat=8)
    inner = [p for p in itertools.chain(whole, halves) if sum(p) % 2 == 0 and sum(value * value for value in p) <= 2]
    outer = np.concatenate([2 * np.eye(8), -2 * np.eye(8)[:7]])
    return np.concatenate([np.array(inner), outer]).astype(np.float32)
