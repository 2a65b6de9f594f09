"""Matrices of symbols that fit into memory: the codes of quantised layouts, and levels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.sink import PIECE, Sink
from lm_bounds.compressors.container.source import Source

#: The contexts of the symbols from one place to another, in row-major order; None where there is one context.
Contexts = Callable[[int, int], "NDArray[np.integer] | None"]


def write_matrix(sink: Sink, symbols: NDArray[np.integer], alphabet: int, contexts: Contexts, n_contexts: int) -> None:
    """Writes the symbols in row-major order.

    Args:
        sink: where to.
        symbols: below ``alphabet``, one or more, of any shape.
        alphabet: number of symbols.
        contexts: of the symbols.
        n_contexts: contexts are below this number.
    """
    flat = symbols.reshape(-1)
    counts = np.zeros(n_contexts * alphabet, np.int64)
    for start in range(0, flat.size, PIECE):
        keys = flat[start : start + PIECE].astype(np.int64)
        beside = contexts(start, start + keys.size)
        if beside is not None:
            keys += beside.astype(np.int64) * alphabet
        counts += np.bincount(keys, minlength=counts.size)
    model = sink.model(counts.reshape(n_contexts, alphabet))
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        sink.symbols(model, piece, contexts(start, start + piece.size))


def read_matrix(source: Source, n: int, alphabet: int, contexts: Contexts, n_contexts: int) -> NDArray[np.int64]:
    """The ``n`` symbols that ``write_matrix`` wrote, shape (n,)."""
    model = source.model(n, alphabet, n_contexts)
    pieces = []
    for start in range(0, n, PIECE):
        stop = min(start + PIECE, n)
        pieces.append(source.symbols(model, stop - start, contexts(start, stop)))
    return np.concatenate(pieces)
