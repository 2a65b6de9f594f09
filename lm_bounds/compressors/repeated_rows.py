"""Rows that occur more than once in a tensor are coded once."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lm_bounds.codelength.adaptive import adaptive_bits
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.modes import Mode, shortest
from lm_bounds.weights.protocol import CHUNK_BYTES, Tensor

# A shorter row costs about as much as to say which one it repeats.
_ROW_BYTES = 16
# Rows so far apart are read one by one.
_CLOSE_ROWS = 16


@dataclass(frozen=True)
class RepeatedRows:
    """For every row whether it is new, and which of the new ones before it repeats otherwise; then the new rows.

    Padded vocabularies, whose last rows are all alike, and zeroed rows are of this kind.

    Args:
        modes: for the tensor of the new rows.
        mode_bits: width of the number of its mode.
    """

    modes: tuple[Mode, ...]
    mode_bits: int

    def bits(self, counted: Counted) -> float:
        """``KT(is new) + sum over repeated rows log2(new rows before it) + mode_bits + L(new rows)``."""
        origins = row_origins(counted.tensor)
        if origins is None:
            return math.inf
        is_new = origins == np.arange(len(origins))
        n_before = np.cumsum(is_new)[~is_new]
        _, length = shortest(new_rows(counted.tensor, origins), self.modes)
        pointers = math.fsum(np.log2(n_before)) * (1 + 1e-12)  # rounded against ourselves
        return adaptive_bits(np.bincount(is_new, minlength=2)) + pointers + self.mode_bits + length


def row_origins(tensor: Tensor) -> NDArray[np.int64] | None:
    """For each row the first row that is equal to it; None where all are new, or rows are too short to repeat."""
    if len(tensor.shape) < 2 or not tensor.n_elements:
        return None
    n_rows, row_bytes = tensor.shape[0], tensor.n_bytes // tensor.shape[0]
    if row_bytes < _ROW_BYTES:
        return None
    first: dict[bytes, int] = {}
    origins = np.empty(n_rows, np.int64)
    height = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, n_rows, height):
        stop = min(start + height, n_rows)
        rows = tensor.read(start * row_bytes, stop * row_bytes).reshape(-1, row_bytes)
        for row, content in enumerate(rows, start):
            origins[row] = first.setdefault(hashlib.sha256(content.data).digest(), row)
    return None if len(first) == n_rows else origins


def new_rows(tensor: Tensor, origins: NDArray[np.int64]) -> Tensor:
    """The tensor of the rows that repeat none before them."""
    rows = np.flatnonzero(origins == np.arange(len(origins)))
    row_bytes = tensor.n_bytes // tensor.shape[0]
    return Tensor(
        tensor.name, tensor.dtype, (len(rows), *tensor.shape[1:]), partial(_gathered, tensor, rows, row_bytes)
    )


def _gathered(tensor: Tensor, rows: NDArray[np.int64], row_bytes: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Bytes of the chosen rows, put one after another; rows that lie close together are read at once."""
    if start >= stop:
        return np.empty(0, np.uint8)
    first, last = start // row_bytes, (stop - 1) // row_bytes
    asked = rows[first : last + 1]
    pieces = []
    for run in np.split(asked, np.flatnonzero(np.diff(asked) > _CLOSE_ROWS) + 1):
        span = tensor.read(int(run[0]) * row_bytes, int(run[-1] + 1) * row_bytes).reshape(-1, row_bytes)
        pieces.append(span[run - run[0]].reshape(-1))
    joined: NDArray[np.uint8] = np.concatenate(pieces)[start - first * row_bytes : stop - first * row_bytes]
    return joined
