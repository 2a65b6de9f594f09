"""The classes of rows and columns of a tensor, written as labels and used as contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.classes import N_CLASSES, Context
from lm_bounds.compressors.container.matrices import count_in_contexts
from lm_bounds.compressors.container.sink import PIECE, Sink
from lm_bounds.compressors.container.source import Source
from lm_bounds.compressors.words import WORDS
from lm_bounds.weights.protocol import DTYPE_BYTES, Tensor

#: Start and stop of a piece, and its elements.
Piece = tuple[int, int, NDArray[np.unsignedinteger]]


class Places:
    """Contexts of elements in row-major order.

    Args:
        labels: the class of each row, and of each column, as far as there are any.
        n_columns: length of a row.
    """

    def __init__(self, labels: tuple[NDArray[np.integer], ...], n_columns: int) -> None:
        self._labels = [each.astype(np.uint8) for each in labels]
        self._n_columns = n_columns
        self.n_contexts = N_CLASSES ** len(labels)

    @classmethod
    def write(cls, sink: Sink, labels: tuple[NDArray[np.integer], ...], shape: tuple[int, int]) -> Places:
        """Writes the labels of a matrix with one element or more."""
        for each in labels:
            model = sink.model(np.bincount(each, minlength=N_CLASSES)[None])
            for start in range(0, each.size, PIECE):
                sink.symbols(model, each[start : start + PIECE])
        return cls(labels, shape[1])

    @classmethod
    def read(cls, source: Source, context: Context, shape: tuple[int, int]) -> Places:
        """Reads the labels that a matrix with one element or more has in a context."""
        n_labels = {Context.NONE: 0, Context.ROWS: 1, Context.ROWS_AND_COLUMNS: 2}[context]
        labels = []
        for n in shape[:n_labels]:
            model = source.model(n, N_CLASSES)
            pieces = [source.symbols(model, min(PIECE, n - start)).astype(np.uint8) for start in range(0, n, PIECE)]
            labels.append(np.concatenate(pieces))
        return cls(tuple(labels), shape[1])

    def contexts(self, start: int, stop: int) -> NDArray[np.uint8] | None:
        """The context of each element from ``start`` to ``stop``; None where there is one."""
        if not self._labels:
            return None
        first, last = start // self._n_columns, -(-stop // self._n_columns)
        skipped = start - first * self._n_columns
        contexts = self._labels[0][first:last, None].repeat(self._n_columns, axis=1)
        if len(self._labels) > 1:
            contexts *= np.uint8(N_CLASSES)
            contexts += self._labels[1]
        return contexts.reshape(-1)[skipped : skipped + stop - start]

    def count(
        self, tensor: Tensor, alphabet: int, symbols: Callable[[NDArray[np.unsignedinteger]], NDArray[np.integer]]
    ) -> NDArray[np.int64]:
        """How often each symbol occurs in each context, shape (contexts, alphabet).

        Args:
            tensor: is read once.
            alphabet: number of symbols.
            symbols: of elements.
        """
        parts = ((start, symbols(words)) for start, _, words in pieces(tensor))
        return count_in_contexts(parts, alphabet, self.contexts, self.n_contexts)


def pieces(tensor: Tensor) -> Iterator[Piece]:
    """Start, stop and elements as unsigned integers, ``PIECE`` elements at a time."""
    width = DTYPE_BYTES[tensor.dtype]
    for start, stop in spans(tensor):
        yield start, stop, tensor.read(start * width, stop * width).view(WORDS[width])


def spans(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Start and stop of each piece of the elements."""
    for start in range(0, tensor.n_elements, PIECE):
        yield start, min(start + PIECE, tensor.n_elements)


def shape_of(tensor: Tensor) -> tuple[int, int]:
    """Rows and columns of a tensor with one element or more."""
    n_rows = tensor.shape[0] if tensor.shape else 1
    return n_rows, tensor.n_elements // n_rows
