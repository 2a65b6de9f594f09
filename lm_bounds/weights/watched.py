"""Weights that say how much of them has been read, for a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.protocol import Tensor, Weights


@dataclass(frozen=True)
class _Watched(Tensor):
    """A tensor that reports its chunks as they have been used, up to the number of its bytes."""

    on_bytes: Callable[[int], None] = field(repr=False, compare=False)
    reported: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        done = 0
        for chunk in super().chunks():
            yield chunk
            done += chunk.size
            fresh = done - self.reported[0]
            if fresh > 0:
                self.on_bytes(fresh)
                self.reported[0] = done


def watched(weights: Weights, on_bytes: Callable[[int], None]) -> Weights:
    """The same weights, whose ``chunks`` call ``on_bytes`` with the number of bytes that have been used up.

    Each tensor reports every byte once, at the first time that it is read, however often it is.

    >>> seen: list[int] = []
    >>> two = Weights("example", (Tensor("w", "U8", (2,), lambda: np.zeros(2, np.uint8)),))
    >>> reading = watched(two, seen.append)
    >>> _ = reading.sha256(), reading.sha256()
    >>> seen
    [2]
    """
    tensors = tuple(
        _Watched(tensor.name, tensor.dtype, tensor.shape, tensor.load, on_bytes) for tensor in weights.tensors
    )
    return replace(weights, tensors=tensors)
