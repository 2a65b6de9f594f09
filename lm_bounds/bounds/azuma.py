"""``azuma``: mu <= mean l + Delta sqrt(rho/2), one global smoothing a (Lotfi et al. 2024, Theorem 1).

The published form averages token-dependent ranges Delta_i and is valid only where they are all the same constant, as
here. Z = l + Delta sqrt(rho/2); z_max = l_max + Delta sqrt(rho/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lm_bounds.bounds.base import SampledMethod, SmoothedMethod
from lm_bounds.bounds.protocol import Columns, Problem, complexity_rate, constant_failure_probs
from lm_bounds.bounds.search import Point, level_rate, minimise_on_grid, sampling_upper
from lm_bounds.bounds.statistics import FloatArray, TokenStatistics, window_means
from lm_bounds.errors import UsageError


def azuma_bound(risk: float, loss_range: float, rate: float) -> float:
    """mean l + Delta sqrt(rho/2), with probability at least 1 - delta_1 for all hypotheses at once.

    Args:
        risk: mean loss over all m tokens of the corpus.
        loss_range: Delta, one constant for all tokens.
        rate: rho = (K + ln 1/delta_1)/m in nats per token, >= 0.

    Raises:
        UsageError: for a negative range or rate.

    >>> azuma_bound(2.0, 4.0, 0.02)
    2.4
    """
    if not loss_range >= 0.0 or not rate >= 0.0:
        raise UsageError(f"azuma needs loss_range >= 0 and rate >= 0; {loss_range} and {rate} were given")
    return risk + loss_range * math.sqrt(rate / 2)


@dataclass(frozen=True)
class ConstantRangeMethod(SmoothedMethod):
    """A method whose statistic is the loss plus a constant: Z = l + Delta sqrt(rho/2)."""

    def columns(self, statistics: TokenStatistics) -> dict[str, FloatArray]:
        """``loss`` of every token."""
        return {"loss": self.loss.of(statistics)}

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z = l + Delta sqrt(rho/2)."""
        return np.asarray(means["loss"] + azuma_bound(0.0, self.loss.loss_range, rate), dtype=np.float64)

    def statistic_max(self, rate: float) -> float:
        """Z at l = l_max."""
        return azuma_bound(self.loss.loss_max, self.loss.loss_range, rate)


@dataclass(frozen=True)
class Azuma(ConstantRangeMethod, SampledMethod):
    """The method with its parameters fixed."""

    name: ClassVar[str] = "azuma"

    @classmethod
    def choose(cls, problem: Problem, pilot: TokenStatistics) -> Azuma:
        """The smoothing with the lowest whole bound predicted on the pilot; then the sampling ceiling."""
        delta_1, delta_2 = constant_failure_probs(problem)
        sampling_rate = level_rate(delta_2, problem.n_windows)

        def fit(point: Point) -> tuple[Azuma, float]:
            method = cls(problem.metric, problem.vocab_size, point[0] if point else None, sampling_ceiling=math.inf)
            rate = complexity_rate(problem, method.selection(), delta_1)
            means = {"loss": window_means(method.loss.of(pilot), pilot.window_sizes)}
            ceiling, predicted = sampling_upper(
                method.statistic(means, rate), method.statistic_max(rate), sampling_rate
            )
            return replace(method, sampling_ceiling=ceiling), predicted

        smoothed = problem.metric == "bpd"
        sizes, start = ([len(cls.smoothing_grid)], (64,)) if smoothed else ([], ())
        point, _ = minimise_on_grid(lambda at: fit(at)[1], sizes, [start])
        return fit(point)[0]
