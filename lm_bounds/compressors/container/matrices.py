"""Matrices of symbols that fit into memory: the codes of quantised layouts, and levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.sink import PIECE, Sink
from lm_bounds.compressors.container.source import Source
from lm_bounds.compressors.histogram import histogram

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
    parts = ((start, flat[start : start + PIECE]) for start in range(0, flat.size, PIECE))
    model = sink.model(count_in_contexts(parts, alphabet, contexts, n_contexts))
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        sink.symbols(model, piece, contexts(start, start + piece.size))


def count_in_contexts(
    parts: Iterable[tuple[int, NDArray[np.integer]]], alphabet: int, contexts: Contexts, n_contexts: int
) -> NDArray[np.int64]:
    """How often each symbol occurs in each context, shape (n_contexts, alphabet).

    Args:
        parts: the place of the first symbol, and some symbols from there on.
        alphabet: number of symbols.
        contexts: of the symbols.
        n_contexts: contexts are below this number.
    """
    counts = np.zeros(n_contexts * alphabet, np.int64)
    for start, symbols in parts:
        keys = symbols.astype(np.int64)
        beside = contexts(start, start + keys.size)
        if beside is not None:
            keys += beside.astype(np.int64) * alphabet
        counts += histogram(keys, counts.size)
    return counts.reshape(n_contexts, alphabet)


def read_matrix(source: Source, n: int, alphabet: int, contexts: Contexts, n_contexts: int) -> NDArray[np.int64]:
    """The ``n`` symbols that ``write_matrix`` wrote, shape (n,)."""
    model = source.model(n, alphabet, n_contexts)
    pieces = []
    for start in range(0, n, PIECE):
        stop = min(start + PIECE, n)
        pieces.append(source.symbols(model, stop - start, contexts(start, stop)))
    return np.concatenate(pieces)
