"""The bounded losses: bits per dimension after smoothing, and top-k error.

Grids are written down here, before any corpus is seen; choosing one of their points costs log2 of their size in bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_bounds.bounds.statistics import FloatArray, TokenStatistics
from lm_bounds.errors import UsageError, nearest

# a = 2^-(k+1)/8 for k = 0..255: from 0.917 down to 2^-32.
SMOOTHING_GRID: tuple[float, ...] = tuple(2.0 ** (-(k + 1) / 8) for k in range(256))
# The grid of Lotfi et al. 2024.
PAPER_SMOOTHING_GRID: tuple[float, ...] = (1e-4, 1e-3, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)

METRICS: tuple[str, ...] = ("bpd", "top1", "top10", "top100")


@dataclass(frozen=True)
class BitsPerDimension:
    """l = -log2( (1 - a) p + a/V ): the code length of the next token in bits, smoothed with the uniform distribution.

    Args:
        vocab_size: V, the number of logits, >= 2.
        smoothing: a in (0, 1).

    Raises:
        UsageError: outside these ranges.

    >>> round(BitsPerDimension(32000, 0.1).loss_range, 4)
    18.1357
    """

    vocab_size: int
    smoothing: float

    def __post_init__(self) -> None:
        if self.vocab_size < 2 or not 0.0 < self.smoothing < 1.0:
            raise UsageError(
                f"bits per dimension need a vocabulary of at least 2 and smoothing in (0, 1); "
                f"{self.vocab_size} and {self.smoothing} were given"
            )

    @property
    def loss_max(self) -> float:
        """l_max = log2(V/a) in bits."""
        return math.log2(self.vocab_size / self.smoothing)

    @property
    def loss_min(self) -> float:
        """l_min = -log2(1 - a + a/V) in bits."""
        return -math.log2(1 - self.smoothing + self.smoothing / self.vocab_size)

    @property
    def loss_range(self) -> float:
        """Delta = log2(1 + (1 - a) V/a) in bits."""
        return math.log2(1 + (1 - self.smoothing) * self.vocab_size / self.smoothing)

    def of(self, statistics: TokenStatistics) -> FloatArray:
        """Loss of every token in bits, never above ``loss_max``; shape (tokens,)."""
        probability = np.exp2(statistics.log2_prob)  # 0 where the model failed
        mixed = (1 - self.smoothing) * probability + self.smoothing / self.vocab_size
        return np.clip(-np.log2(mixed), self.loss_min, self.loss_max)

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for a certificate."""
        return {"metric": "bpd", "vocab_size": self.vocab_size, "smoothing": self.smoothing}


@dataclass(frozen=True)
class TopKError:
    """l = 1 when the next token is not among the k largest logits (ties count against the model), else 0.

    Args:
        vocab_size: V, the number of logits.
        k: 1 <= k < V.

    Raises:
        UsageError: outside these ranges.
    """

    vocab_size: int
    k: int

    def __post_init__(self) -> None:
        if not 1 <= self.k < self.vocab_size:
            raise UsageError(
                f"top-k error needs 1 <= k < V; k={self.k} and V={self.vocab_size} were given: use a smaller k"
            )

    loss_max = 1.0
    loss_min = 0.0
    loss_range = 1.0

    def of(self, statistics: TokenStatistics) -> FloatArray:
        """Loss of every token, 0 or 1; shape (tokens,)."""
        return (statistics.rank > self.k).astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for a certificate."""
        return {"metric": f"top{self.k}", "vocab_size": self.vocab_size}


Loss = BitsPerDimension | TopKError


def make_loss(metric: str, vocab_size: int, smoothing: float | None = None) -> Loss:
    """The loss of a metric's name: ``bpd`` (with smoothing) or ``topK``.

    >>> make_loss("top10", 512).k
    10
    """
    if metric == "bpd":
        if smoothing is None:
            raise UsageError("bits per dimension need a smoothing probability in (0, 1)")
        return BitsPerDimension(vocab_size, smoothing)
    return TopKError(vocab_size, top_k(metric))


def top_k(metric: str) -> int:
    """The k of a metric named ``topK``.

    Raises:
        UsageError: for another name.
    """
    if metric.startswith("top") and metric[3:].isdecimal():
        return int(metric[3:])
    raise UsageError(f"unknown metric {metric!r}{nearest(metric, METRICS)}")
