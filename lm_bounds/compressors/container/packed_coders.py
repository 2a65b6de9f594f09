"""How the codes of quantised layouts, and tensors that follow from others, are written and read back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lm_bounds.compressors.container.matrices import Contexts, read_matrix, write_matrix
from lm_bounds.compressors.container.places import Places
from lm_bounds.compressors.container.scalars import broken
from lm_bounds.compressors.container.sink import Sink
from lm_bounds.compressors.container.source import Source
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.packed import Codes, CodesBeside, Rebuilt
from lm_bounds.weights.packing import Packing, Side
from lm_bounds.weights.protocol import Tensor

Bytes = NDArray[np.uint8]

_LABELS = 256


def write_codes(mode: Codes, counted: Counted, sink: Sink) -> None:
    """Labels of classes, and the codes."""
    packing, packed = _packing(counted.tensor), counted.packed
    assert packed is not None
    places = Places.write(sink, packed.labels(mode.context), packing.shape)
    codes = packing.unpack(counted.tensor.data())
    write_matrix(sink, codes, 1 << packing.n_bits, places.contexts, places.n_contexts)


def read_codes(mode: Codes, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes."""
    packing = _packing(tensor)
    places = Places.read(source, mode.context, packing.shape)
    yield _packed(packing, source, places.contexts, places.n_contexts)


def write_codes_beside(mode: CodesBeside, counted: Counted, sink: Sink) -> None:
    """The codes, given the labels of their groups."""
    packing = _packing(counted.tensor)
    contexts, n_contexts = _beside(packing, mode.side)
    write_matrix(sink, packing.unpack(counted.tensor.data()), 1 << packing.n_bits, contexts, n_contexts)


def read_codes_beside(mode: CodesBeside, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes."""
    packing = _packing(tensor)
    yield _packed(packing, source, *_beside(packing, mode.side))


def write_rebuilt(mode: Rebuilt, counted: Counted, sink: Sink) -> None:
    """Nothing."""


def read_rebuilt(mode: Rebuilt, tensor: Tensor, source: Source) -> Iterator[Bytes]:
    """The bytes that the layout's rule gives."""
    if tensor.expected is None:
        raise broken(f"tensor {tensor.name!r} follows from no rule")
    yield tensor.expected()


def _packing(tensor: Tensor) -> Packing:
    if tensor.packing is None:
        raise broken(f"tensor {tensor.name!r} holds no codes")
    return tensor.packing


def _packed(packing: Packing, source: Source, contexts: Contexts, n_contexts: int) -> Bytes:
    """The bytes of a tensor whose codes come next."""
    rows, columns = packing.shape
    codes = read_matrix(source, rows * columns, 1 << packing.n_bits, contexts, n_contexts)
    narrow: NDArray[np.unsignedinteger] = codes.astype(np.uint8 if packing.n_bits <= 8 else np.uint16)
    return packing.pack(narrow.reshape(rows, columns))


def _beside(packing: Packing, side: Side) -> tuple[Contexts, int]:
    """The contexts that another tensor gives, and their number."""
    labels = packing.labels(side)
    if labels is None:
        return (lambda start, stop: None), 1
    flat = labels.reshape(-1)
    return (lambda start, stop: flat[start:stop]), _LABELS
