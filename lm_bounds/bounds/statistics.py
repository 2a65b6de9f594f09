"""What the bounds need to know of every scored token, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lm_bounds.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# T = 2^((k-6)/8) for k = 0..15: from 0.595 to 2.181, T = 1 among them; p^(1/T) is made a distribution again.
TEMPERATURE_GRID: tuple[float, ...] = tuple(2.0 ** ((k - 6) / 8) for k in range(16))
UNIT_TEMPERATURE = 6


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the scored tokens of a sample of windows, window after window.

    Args:
        log2_prob: log2 of the unsmoothed probability of the token, <= 0; -inf where the model failed.
        rank: 1 + number of other tokens whose logit is at least as large (ties count against the model).
        entropy_bits: entropy of the unsmoothed predictive distribution, in [0, log2 V].
        max_prob: the largest probability of that distribution.
        window_sizes: scored tokens of each window, each >= 1; they sum to the length of the other arrays.
    """

    log2_prob: FloatArray  # shape: (tokens,)
    rank: IntArray  # shape: (tokens,)
    entropy_bits: FloatArray  # shape: (tokens,)
    max_prob: FloatArray  # shape: (tokens,)
    window_sizes: IntArray  # shape: (windows,)

    def __post_init__(self) -> None:
        n_tokens = int(self.window_sizes.sum())
        lengths = {len(self.log2_prob), len(self.rank), len(self.entropy_bits), len(self.max_prob)}
        if lengths != {n_tokens} or n_tokens == 0 or int(self.window_sizes.min()) < 1:
            raise UsageError(
                f"token statistics need arrays of equal length that the window sizes add up to; "
                f"lengths {sorted(lengths)}, sum of window sizes {n_tokens}"
            )

    @property
    def n_tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.log2_prob)

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.window_sizes)

    def last_tokens(self) -> TokenStatistics:
        """The last token of every window alone."""
        last = np.cumsum(self.window_sizes) - 1
        ones = np.ones_like(self.window_sizes)
        return TokenStatistics(
            self.log2_prob[last], self.rank[last], self.entropy_bits[last], self.max_prob[last], ones
        )

    def thinned(self, n_tokens: int) -> TokenStatistics:
        """Every k-th token of each window, k the smallest step that leaves about ``n_tokens`` tokens in all.

        Where there are more windows than ``n_tokens``, every j-th of them is kept, j the smallest step likewise.
        """
        stride = -(-self.n_windows // n_tokens)
        sizes = self.window_sizes[::stride]
        step = -(-int(sizes.sum()) // n_tokens)
        if stride == step == 1:
            return self
        window = np.repeat(np.arange(self.n_windows), self.window_sizes)
        position = np.arange(self.n_tokens) - (np.cumsum(self.window_sizes) - self.window_sizes)[window]
        keep = (window % stride == 0) & (position % step == 0)
        return TokenStatistics(
            self.log2_prob[keep],
            self.rank[keep],
            self.entropy_bits[keep],
            self.max_prob[keep],
            -(-sizes // step),
        )


def window_means(values: npt.ArrayLike, window_sizes: IntArray) -> FloatArray:
    """Mean of per-token ``values`` in each window, in float64.

    >>> window_means([1.0, 3.0, 5.0], np.array([2, 1]))
    array([2., 5.])
    """
    return np.asarray(window_sums(values, window_sizes) / window_sizes, dtype=np.float64)


def window_sums(values: npt.ArrayLike, window_sizes: IntArray) -> FloatArray:
    """Sum of per-token ``values`` over each window, in float64.

    >>> window_sums([1.0, 3.0, 5.0], np.array([2, 1]))
    array([4., 5.])
    """
    starts = np.cumsum(window_sizes) - window_sizes
    return np.asarray(np.add.reduceat(np.asarray(values, dtype=np.float64), starts), dtype=np.float64)


@dataclass(frozen=True)
class Pilot:
    """Statistics of the same tokens at each temperature that a method may choose.

    Args:
        by_temperature: statistics by index of ``TEMPERATURE_GRID``, that of T = 1 among them; with that alone, the
            temperature is not chosen.
    """

    by_temperature: Mapping[int, TokenStatistics]

    def at(self, temperature_index: int | None) -> TokenStatistics:
        """The statistics at a temperature; None for T = 1."""
        return self.by_temperature[UNIT_TEMPERATURE if temperature_index is None else temperature_index]

    def thinned(self, n_tokens: int) -> Pilot:
        """The same tokens fewer, see ``TokenStatistics.thinned``."""
        return Pilot({index: statistics.thinned(n_tokens) for index, statistics in self.by_temperature.items()})

    @property
    def offers_temperatures(self) -> bool:
        """Whether there is more than T = 1."""
        return len(self.by_temperature) > 1
