"""What a bounding method is: parameters fixed on a pilot sample, a statistic Z of a token, its largest value.

For every method, with probability at least 1 - delta_1 over the corpus, mu(h) <= mean Z over all its m tokens; the
certifying windows then bound that mean with probability at least 1 - delta_2. Z is affine in per-token *columns* once
the parameters are fixed, so the sums of the columns over each window are all that a certificate has to keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from lm_bounds.bounds.losses import Loss
from lm_bounds.bounds.statistics import FloatArray, IntArray, Pilot, TokenStatistics
from lm_bounds.errors import UsageError, nearest

# Added to a bound, relative to one plus its size: some ten times what double precision can have taken away.
_ROUNDING = 1e-13

UPPER_BOUNDS = ("kl_inf", "hoeffding", "bernstein")

Columns = Mapping[str, FloatArray]
Selection = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Problem:
    """The numbers that a bound depends on besides the observations.

    Args:
        metric: ``bpd`` or ``topK``.
        vocab_size: V, the number of logits.
        n_tokens: m, the scored tokens of the corpus, >= 1.
        n_windows: certifying observations, >= 1.
        description_bits: length of a self-delimiting description of the hypothesis, without what the method chooses.
        failure_prob: delta, of this metric, in (0, 1).
        shared_draws: G >= 1, the number of models or choices that may be judged on the same certifying draws.
        replacement: whether the same window can be drawn again; else every window is drawn at most once, each time in
            proportion to its size among those that are left.
        upper: the upper confidence bound of the sample, one of ``UPPER_BOUNDS``.

    Raises:
        UsageError: outside these ranges.
    """

    metric: str
    vocab_size: int
    n_tokens: int
    n_windows: int
    description_bits: float
    failure_prob: float
    shared_draws: int = 1
    replacement: bool = True
    upper: str = "kl_inf"

    def __post_init__(self) -> None:
        if not 0.0 < self.failure_prob < 1.0:
            raise UsageError(f"failure_prob must be in (0, 1), {self.failure_prob} was given")
        for name in ("n_tokens", "n_windows", "shared_draws"):
            if not getattr(self, name) >= 1:
                raise UsageError(f"{name} must be at least 1, {getattr(self, name)} was given")
        if self.upper not in UPPER_BOUNDS:
            raise UsageError(f"unknown upper bound {self.upper!r}{nearest(self.upper, UPPER_BOUNDS)}")
        if self.upper != "kl_inf" and not self.replacement:
            raise UsageError(f"upper={self.upper} is for draws with replacement")
        if not 0.0 <= self.description_bits < math.inf:
            raise UsageError(f"description_bits must be >= 0 and finite, {self.description_bits} was given")


@dataclass(frozen=True)
class Bound:
    """A bound with its terms: ``value = risk + complexity + sampling`` exactly, in the metric's unit.

    Args:
        method: the method's name.
        risk: empirical risk, the mean loss on the certifying sample.
        complexity: what the step from the corpus to the data process adds, selection bits inside.
        sampling: what the step from the sample to the corpus adds.
        rate: the complexity rate rho = (ln2 bits + ln 1/delta_1)/m in nats per token.
    """

    method: str
    risk: float
    complexity: float
    sampling: float
    rate: float

    @property
    def value(self) -> float:
        """The bound."""
        return self.risk + self.complexity + self.sampling


class Method(Protocol):
    """A bounding method with its parameters fixed."""

    name: ClassVar[str]
    smoothings: ClassVar[tuple[str, ...]]  # that it is valid for
    has_temperature: ClassVar[bool]  # whether one is chosen, where the metric depends on it

    @property
    def loss(self) -> Loss:
        """The bounded loss."""
        ...

    @classmethod
    def choose(cls, problem: Problem, pilot: Pilot, smoothing: str = "global") -> Method:
        """The parameters on the method's grids for which the whole bound predicted on the pilot is lowest."""
        ...

    @property
    def temperature(self) -> float:
        """T: the statistics have to be those of p^(1/T)."""
        ...

    def selection(self) -> Selection:
        """Bits that the choices cost, by name."""
        ...

    def failure_probs(self, problem: Problem) -> tuple[float, float]:
        """(delta_1, delta_2), with delta_1 + delta_2 <= failure_prob."""
        ...

    def columns(self, statistics: TokenStatistics) -> dict[str, FloatArray]:
        """Per-token columns, the first named ``loss``; Z is affine in them."""
        ...

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z of every window from the columns' window means; shape (windows,)."""
        ...

    def statistic_max(self, rate: float) -> float:
        """z_max: no token's Z is above it."""
        ...

    def statistic_min(self, rate: float) -> float:
        """A number that no token's Z is below."""
        ...

    def upper(self, statistic: FloatArray, sizes: IntArray, problem: Problem, rate: float) -> float:
        """Upper confidence bound of the corpus mean of Z at level delta_2."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Every parameter, JSON types only."""
        ...

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Method:
        """The inverse of ``to_dict``; refuses parameters that are not on the method's grids."""
        ...


def constant_failure_probs(problem: Problem) -> tuple[float, float]:
    """delta_1 = delta/100, fixed in advance, and delta_2 = (delta - delta_1)/G.

    >>> p = Problem("bpd", 2, 1, 1, 0.0, 0.05)
    >>> constant_failure_probs(p)
    (0.0005, 0.0495)
    """
    delta_1 = problem.failure_prob / 100
    return delta_1, (problem.failure_prob - delta_1) / problem.shared_draws


def complexity_rate(problem: Problem, selection: Selection, delta_1: float) -> float:
    """rho = ( ln2 (description_bits + selection bits) + ln 1/delta_1 ) / m, in nats per token."""
    bits = problem.description_bits + sum(cost for _, cost in selection)
    return (math.log(2) * bits - math.log(delta_1)) / problem.n_tokens


def certify(method: Method, problem: Problem, means: Columns, sizes: IntArray) -> Bound:
    """The bound from the certifying windows' column means.

    Args:
        method: with parameters that were fixed without a look at these windows.
        problem: the numbers; ``n_windows`` is the number of windows in ``means``.
        means: each column's mean over each window's tokens; arrays of shape (windows,).
        sizes: tokens of each window, in the order of the draws. # shape: (windows,)

    Raises:
        UsageError: when the number of windows is not ``problem.n_windows``, a mean is not finite, or the method is for
            another metric or vocabulary than the problem.

    The value is the smaller of the method's bound, rounded up, and l_max, which no mean loss exceeds; ``risk +
    complexity`` is capped likewise.
    """
    n_windows = len(means["loss"])
    if n_windows != problem.n_windows:
        raise UsageError(f"{problem.n_windows} windows were announced, {n_windows} were given")
    if len(sizes) != n_windows:
        raise UsageError(f"{n_windows} windows need as many sizes, {len(sizes)} were given")
    if not all(bool(np.isfinite(values).all()) for values in means.values()):
        raise UsageError("every window mean must be finite")
    bounded, announced = method.loss.to_dict(), {"metric": problem.metric, "vocab_size": problem.vocab_size}
    if any(bounded[name] != value for name, value in announced.items()):
        raise UsageError(f"the method bounds {bounded}, the problem is {announced}")
    delta_1, _ = method.failure_probs(problem)
    rate = complexity_rate(problem, method.selection(), delta_1)
    statistic = method.statistic(means, rate)
    risk = sample_mean(means["loss"], sizes, problem)
    complexity = min(sample_mean(statistic, sizes, problem), method.loss.loss_max) - risk
    upper = method.upper(statistic, sizes, problem, rate)
    upper = min(upper + _ROUNDING * (1.0 + abs(upper)), method.loss.loss_max)
    return Bound(method.name, risk, complexity, upper - (risk + complexity), rate)


def sample_mean(values: FloatArray, sizes: IntArray, problem: Problem) -> float:
    """An unbiased estimate of the corpus mean from window means: their mean, or Des Raj's without replacement.

        mean_j [ S_{j-1} + (m - M_{j-1}) v_j ]/m,   S and M the sums of size times value and of size before the draw

    Once every window has been drawn it is the exact mean.

    Args:
        values: window means in the order of the draws. # shape: (windows,)
        sizes: tokens of each window. # shape: (windows,)
        problem: whether draws are replaced, and m.
    """
    if problem.replacement:
        return float(np.mean(values))
    drawn = np.cumsum(sizes * values)
    if int(np.sum(sizes)) == problem.n_tokens:
        return float(drawn[-1]) / problem.n_tokens
    left = problem.n_tokens - (np.cumsum(sizes) - sizes)
    return float(np.mean((drawn - sizes * values + left * values) / problem.n_tokens))
