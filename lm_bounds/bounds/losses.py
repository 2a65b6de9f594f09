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
# The smoothing a_i = 2^-E_i of a token whose predictive distribution has the entropy H_i:
# E_i = clip(e0 + e1 H_i, 1/8, 32) with e0 = (k+1)/8 for k = 0..255 and e1 = -4, -3.875, ..., 3.875.
SMOOTHING_OFFSETS: tuple[float, ...] = tuple((k + 1) / 8 for k in range(256))
SMOOTHING_SLOPES: tuple[float, ...] = tuple((k - 32) / 8 for k in range(64))
_LEAST_EXPONENT, _LARGEST_EXPONENT = 0.125, 32.0
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

    def largest(self, entropy_bits: FloatArray) -> FloatArray:
        """The largest loss that a token can have, predictable: l_max everywhere."""
        return np.full(np.shape(entropy_bits), self.loss_max)

    def ranges(self, entropy_bits: FloatArray) -> FloatArray:
        """Delta_i, the largest loss of a token minus its smallest: Delta everywhere."""
        return np.full(np.shape(entropy_bits), self.loss_range)

    def kinks(self) -> FloatArray:
        """Entropies between which ``largest`` is linear, 0 and log2 V among them."""
        return np.array([0.0, math.log2(self.vocab_size)])

    def of(self, statistics: TokenStatistics) -> FloatArray:
        """Loss of every token in bits, between ``loss_min`` and ``loss_max``; shape (tokens,)."""
        losses = smoothed_loss(statistics.log2_prob, self.smoothing, self.vocab_size)
        return np.clip(losses, self.loss_min, self.loss_max)

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for a certificate."""
        return {"metric": "bpd", "vocab_size": self.vocab_size, "smoothing": self.smoothing}


def smoothed_loss(log2_prob: FloatArray, smoothing: FloatArray | float, vocab_size: int) -> FloatArray:
    """-log2( (1 - a) p + a/V ), up to rounding.

    Args:
        log2_prob: log2 p, -inf where the model failed. # shape: (tokens,)
        smoothing: a in (0, 1), one number or one for each token.
        vocab_size: V.
    """
    share = np.asarray(smoothing, dtype=np.float64)
    return np.asarray(-np.log2((1 - share) * np.exp2(log2_prob) + share / vocab_size), dtype=np.float64)


@dataclass(frozen=True)
class EntropySmoothedBits:
    """l_i = -log2( (1 - a_i) p + a_i/V ) with a_i = 2^-E_i, E_i = clip(e0 + e1 H_i, 1/8, 32).

    a_i depends on the context alone, through the entropy H_i of the predictive distribution, so that the largest loss
    l_max,i = log2 V + E_i is predictable.

    Args:
        vocab_size: V, the number of logits, >= 2.
        offset: e0 in [1/8, 32].
        slope: e1.
    """

    vocab_size: int
    offset: float
    slope: float

    def __post_init__(self) -> None:
        if self.vocab_size < 2 or not _LEAST_EXPONENT <= self.offset <= _LARGEST_EXPONENT:
            raise UsageError(
                f"smoothing by entropy needs a vocabulary of at least 2 and an offset in [1/8, 32]; "
                f"{self.vocab_size} and {self.offset} were given"
            )

    @property
    def loss_max(self) -> float:
        """The largest loss at any entropy, in bits."""
        return float(self.largest(self.kinks()).max())

    @property
    def loss_min(self) -> float:
        """The smallest loss at any entropy, in bits."""
        smoothing = float(self.smoothings(self.kinks()).min())
        return -math.log2(1 - smoothing + smoothing / self.vocab_size)

    @property
    def loss_range(self) -> float:
        """The largest loss minus the smallest, in bits: no token's own range is longer."""
        return self.loss_max - self.loss_min

    def exponents(self, entropy_bits: FloatArray) -> FloatArray:
        """E_i, H_i clamped to [0, log2 V]."""
        entropies = np.clip(entropy_bits, 0.0, math.log2(self.vocab_size))
        return np.clip(self.offset + self.slope * entropies, _LEAST_EXPONENT, _LARGEST_EXPONENT)

    def smoothings(self, entropy_bits: FloatArray) -> FloatArray:
        """a_i = 2^-E_i."""
        return np.asarray(np.exp2(-self.exponents(entropy_bits)), dtype=np.float64)

    def largest(self, entropy_bits: FloatArray) -> FloatArray:
        """The largest loss that a token can have, predictable: log2 V + E_i."""
        return np.asarray(math.log2(self.vocab_size) + self.exponents(entropy_bits), dtype=np.float64)

    def ranges(self, entropy_bits: FloatArray) -> FloatArray:
        """Delta_i = log2(1 + (1 - a_i) V/a_i), the largest loss of a token minus its smallest."""
        odds = np.exp2(self.exponents(entropy_bits)) - 1.0
        return np.asarray(np.log2(1.0 + odds * self.vocab_size), dtype=np.float64)

    def kinks(self) -> FloatArray:
        """Entropies between which ``largest`` is linear, 0 and log2 V among them."""
        ends = [0.0, math.log2(self.vocab_size)]
        if self.slope:
            turns = ((limit - self.offset) / self.slope for limit in (_LEAST_EXPONENT, _LARGEST_EXPONENT))
            ends += [turn for turn in turns if ends[0] < turn < ends[1]]
        return np.array(sorted(ends))

    def of(self, statistics: TokenStatistics) -> FloatArray:
        """Loss of every token in bits, between ``loss_min`` and its own ``largest``; shape (tokens,)."""
        losses = smoothed_loss(statistics.log2_prob, self.smoothings(statistics.entropy_bits), self.vocab_size)
        return np.clip(losses, self.loss_min, self.largest(statistics.entropy_bits))

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for a certificate."""
        given = {"smoothing_offset": self.offset, "smoothing_slope": self.slope}
        return {"metric": "bpd", "vocab_size": self.vocab_size, **given}


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

    def largest(self, entropy_bits: FloatArray) -> FloatArray:
        """The largest loss that a token can have: 1."""
        return np.ones(np.shape(entropy_bits))

    def ranges(self, entropy_bits: FloatArray) -> FloatArray:
        """The largest loss of a token minus its smallest: 1."""
        return np.ones(np.shape(entropy_bits))

    def kinks(self) -> FloatArray:
        """Entropies between which ``largest`` is linear, 0 and log2 V among them."""
        return np.array([0.0, math.log2(self.vocab_size)])

    def of(self, statistics: TokenStatistics) -> FloatArray:
        """Loss of every token, 0 or 1; shape (tokens,)."""
        return (statistics.rank > self.k).astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for a certificate."""
        return {"metric": f"top{self.k}", "vocab_size": self.vocab_size}


Loss = BitsPerDimension | EntropySmoothedBits | TopKError


def make_loss(metric: str, vocab_size: int, smoothing: float | None = None) -> Loss:
    """The loss of a metric's name: ``bpd`` (with one smoothing everywhere) or ``topK``.

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
