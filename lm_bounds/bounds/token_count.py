"""How many tokens a corpus has at least, from slots that were drawn: a confidence bound in place of a count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_bounds.bounds.upper import bernoulli_kl
from lm_bounds.errors import UsageError

SHARE_GRID = 1 << 10
# Slots that are drawn: a byte of a document is one, the ids of a row are quick to look at and have two each.
_DRAWN, _DRAWN_OF_ROWS = 1 << 10, 1 << 12
# Stakes of the bets, each the part of the capital that a bet puts at risk; their mean pays ln 12 for the best of them.
_STAKES = 2.0 ** (-np.arange(12) / 2)
_BISECTIONS = 60


def mean_lower(values: npt.ArrayLike, counts: npt.ArrayLike, failure_prob: float) -> float:
    """Lower confidence bound of the mean of independent draws from one distribution on [0, 1].

    For every stake s in (0, 1] the product of 1 - s + s r_j/mu is a non-negative martingale with mean 1 if the mean is
    mu; so is the mean of the products over fixed stakes, and the bound is the largest mu with

        (1/12) sum_s prod_j ( 1 - s + s r_j/mu ) >= 1/failure_prob,    s = 2^(-k/2), k < 12.

    Args:
        values: different values r, each in [0, 1]. # shape: (n,)
        counts: how often each was drawn. # shape: (n,)
        failure_prob: in (0, 1).

    Raises:
        UsageError: a value is outside [0, 1], or there is none.

    Source: betting, Waudby-Smith & Ramdas 2024; with s = 1 alone, failure_prob^(1/n) times the geometric mean.

    >>> round(mean_lower([0.5], [1000], 0.001), 4), mean_lower([0.0], [9], 0.001)
    (0.4954, 0.0)
    """
    observed, weights = np.asarray(values, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if not weights.sum() >= 1 or not bool(np.all((observed >= 0) & (observed <= 1) & (weights >= 0))):
        raise UsageError("a lower confidence bound needs values in [0, 1] and how often each was drawn")
    threshold = math.log(len(_STAKES)) - math.log(failure_prob)

    def is_refuted(mean: float) -> bool:
        """Whether the bets against a mean of at most this have won enough."""
        with np.errstate(divide="ignore"):
            growth = np.log1p(_STAKES[:, None] * (observed / mean - 1.0)[None, :])
        terms = np.where(weights > 0, growth * np.maximum(weights, 1), 0.0).sum(axis=1)
        return bool(np.logaddexp.reduce(terms) >= threshold)

    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def proportion_upper(successes: int, trials: int, failure_prob: float) -> float:
    """Upper confidence bound of Clopper and Pearson: the p at which so few successes have probability failure_prob.

    Args:
        successes: k, of independent trials.
        trials: n >= 1.
        failure_prob: in (0, 1).

    Raises:
        UsageError: there are more successes than trials, or none.

    Source: Clopper & Pearson 1934.

    >>> round(proportion_upper(0, 1000, 0.05), 6)
    0.002991
    """
    if not 0 <= successes <= trials or trials < 1:
        raise UsageError(f"{successes} successes of {trials} trials are impossible")
    if successes == trials:
        return 1.0
    ways = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(successes + 1)]
    log_ways, numbers = np.array(ways), np.arange(successes + 1)

    def log_at_most(p: float) -> float:
        """ln P(at most so many successes)."""
        return float(np.logaddexp.reduce(log_ways + numbers * math.log(p) + (trials - numbers) * math.log1p(-p)))

    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if log_at_most(middle) <= math.log(failure_prob) else (middle, high)
    return high


def _chernoff(n: int, p: float, room: float, *, fewer: bool) -> float:
    """The smallest (``fewer``) or largest N with N kl(n/N, p) <= room."""

    def excess(total: float) -> float:
        return total * bernoulli_kl(min(1.0, n / total), p) - room

    p = min(max(p, 1e-12), 1.0 - 1e-12)
    expected = max(n, 1) / p
    inside, outside = expected, float(max(n, 1)) if fewer else 2.0 * expected
    while not fewer and excess(outside) <= 0.0:
        outside *= 2.0
    if fewer and excess(outside) <= 0.0:
        return outside
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if excess(middle) <= 0.0 else (inside, middle)
    return outside


def counted_slots(is_rows: bool) -> int:
    """How many slots are drawn to count the tokens of a corpus."""
    return _DRAWN_OF_ROWS if is_rows else _DRAWN


@dataclass(frozen=True)
class TokenCount:
    """What a fixed number of slots showed, drawn uniformly from a stream of their own.

    A slot's *share* is the share of slots that are tokens' in the row or document that it lies in, so that the mean
    share over all slots is per_token m / slots.

    Args:
        slots: how many there are.
        per_token: slots of each token.
        row_tokens: tokens of every row that is not malformed; 0 where they differ.
        drawn: slots that were drawn.
        shares: how often each share was found, rounded down to k/1024, by k.
        void: slots among them in malformed rows.
        rows: rows that were hit where every row is as likely as any other; 0 where there is no such thing.
        void_rows: malformed ones among them.
        declared: tokens that the corpus is said to have if no row is malformed; None where nothing is said.

    Raises:
        UsageError: the numbers contradict each other.
    """

    slots: int
    per_token: int
    row_tokens: int
    drawn: int
    shares: Mapping[str, int]
    void: int
    rows: int = 0
    void_rows: int = 0
    declared: int | None = None

    def __post_init__(self) -> None:
        numbers = [value for name, value in asdict(self).items() if name not in ("shares", "declared")]
        numbers += self.shares.values()
        if any(type(number) is not int or number < 0 for number in numbers) or not self.slots * self.per_token:
            raise UsageError("the number of tokens was estimated from numbers that are no counts")
        if sum(self.shares.values()) != self.drawn or any(not 0 <= int(k) <= SHARE_GRID for k in self.shares):
            raise UsageError("the shares that the number of tokens was estimated from do not add up")
        if not self.void_rows <= min(self.rows, self.void) or max(self.rows, self.void) > self.drawn:
            raise UsageError("more rows or malformed ones were found than places were drawn")
        if self.declared is not None and (type(self.declared) is not int or self.declared < 1 or self.rows < 1):
            raise UsageError("a declared number of tokens must be a whole number, and rows must have been looked at")

    def at_least(self, failure_prob: float) -> int:
        """Tokens that the corpus has at least, but for this probability.

        ``slots/per_token`` times ``mean_lower`` of the shares. Where a number is declared, not more than that number
        times one minus ``proportion_upper`` of malformed rows: that alone would not do, since a malformed line of few
        bytes is hit less often than a row. Rounded down, by more than double precision can have added.
        """
        values, counts = self._values()
        found = self.slots / self.per_token * mean_lower(values, counts, failure_prob)
        if self.declared is not None:
            found = min(found, self.declared * (1 - proportion_upper(self.void_rows, self.rows, failure_prob)))
        return math.floor(found * (1 - 1e-12))

    def attempts(self, n: int, failure_prob: float) -> tuple[float, float]:
        """How many slots have to be drawn for n tokens, at least and at most, but for three times this probability.

        With the share p of slots that are tokens' in [p_low, p_high] by ``mean_lower`` of the shares r, and of 1 - r, N
        slots hold binomially many; by Chernoff's bound n of them take no more than the largest N, and no fewer than the
        smallest one, with N kl(n/N, p) <= ln(1/failure_prob).
        """
        values, counts = self._values()
        low = mean_lower(values, counts, failure_prob)
        high = 1.0 - mean_lower(np.maximum(0.0, 1.0 - values - 1 / SHARE_GRID), counts, failure_prob)
        room = -math.log(failure_prob)
        return _chernoff(n, high, room, fewer=True), math.inf if low <= 0.0 else _chernoff(n, low, room, fewer=False)

    @property
    def mean_share(self) -> float:
        """Which share of the slots are tokens', as found."""
        values, counts = self._values()
        return float(values @ counts / self.drawn)

    def _values(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        found = sorted((int(k), count) for k, count in self.shares.items())
        return np.array([k for k, _ in found]) / SHARE_GRID, np.array([count for _, count in found], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Every number, JSON types only."""
        return {**asdict(self), "shares": dict(sorted(self.shares.items(), key=lambda share: int(share[0])))}
