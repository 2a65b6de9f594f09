"""Weights that say how much of them has been read, for a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_bounds.weights.protocol import Tensor, Weights


@dataclass(frozen=True)
class _Watched(Tensor):
    """A tensor that reports its chunks as they have been used, up to the number of its bytes."""

    original: Tensor = field(kw_only=True, repr=False, compare=False)
    on_bytes: Callable[[int], None] = field(kw_only=True, repr=False, compare=False)
    reported: list[int] = field(kw_only=True, default_factory=lambda: [0], repr=False, compare=False)

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        done = 0
        for chunk in super().chunks():
            yield chunk
            done += chunk.size
            fresh = done - self.reported[0]
            if fresh > 0:
                self.on_bytes(fresh)
                self.reported[0] = done

    @cached_property
    def digest(self) -> bytes:
        """Of the original, where it is known already."""
        if "digest" not in vars(self.original):
            vars(self.original)["digest"] = super().digest
        return self.original.digest


def watched(weights: Weights, on_bytes: Callable[[int], None]) -> Weights:
    """The same weights, whose ``chunks`` call ``on_bytes`` with the number of bytes that have been used up.

    Each tensor reports every byte once, at the first time that it is read, however often it is.

    >>> seen: list[int] = []
    >>> two = Weights("example", (Tensor.of_bytes("w", "U8", (2,), np.zeros(2, np.uint8)),))
    >>> reading = watched(two, seen.append)
    >>> _ = reading.sha256(), reading.sha256()
    >>> seen
    [2]
    """
    tensors = tuple(
        _Watched(
            tensor.name,
            tensor.dtype,
            tensor.shape,
            tensor.load,
            tensor.packing,
            tensor.expected,
            original=tensor,
            on_bytes=on_bytes,
        )
        for tensor in weights.tensors
    )
    return replace(weights, tensors=tensors)
