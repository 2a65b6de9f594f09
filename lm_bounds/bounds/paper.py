"""``paper``: the published method, exactly (Lotfi et al. 2024).

    mean l + Delta [ sqrt( (bits ln2 + ln 1/delta_1)/(2m) ) + sqrt( ln(1/delta_2)/(2n) ) ]

with the paper's smoothing grid of eight points, delta_1 = delta n/(n+m) and delta_2 = delta m/(n+m).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lm_bounds.bounds.azuma import ConstantRangeMethod, azuma_bound
from lm_bounds.bounds.base import check_smoothing
from lm_bounds.bounds.losses import PAPER_SMOOTHING_GRID
from lm_bounds.bounds.protocol import Bound, Problem, complexity_rate
from lm_bounds.bounds.statistics import FloatArray, IntArray, Pilot
from lm_bounds.bounds.upper import hoeffding_upper
from lm_bounds.errors import UsageError


def paper_bound(risk: float, loss_range: float, problem: Problem) -> Bound:
    """The published bound from an empirical risk on ``problem.n_windows`` samples.

    Args:
        risk: mean loss on the sample, in the metric's unit.
        loss_range: Delta, one constant for all tokens.
        problem: its ``description_bits`` are C + 2 log2 C for a compressed size of C bits.

    Source: Lotfi et al. 2024, Eq. (2) and (5), Appendix A.2.

    >>> import math
    >>> p = Problem("bpd", 50257, 9 * 10**9, 10**4, 1e8 + 2 * math.log2(1e8), 0.05)
    >>> bound = paper_bound(3.0, 1.0, p)
    >>> round(bound.complexity, 7), round(bound.sampling, 7)
    (0.062055, 0.0122387)
    """
    delta_1, delta_2 = paper_failure_probs(problem)
    rate = complexity_rate(problem, (), delta_1)
    complexity = azuma_bound(0.0, loss_range, rate)
    sampling = hoeffding_upper(0.0, loss_range, problem.n_windows, delta_2)
    return Bound(Paper.name, risk, complexity, sampling, rate)


def paper_failure_probs(problem: Problem) -> tuple[float, float]:
    """delta_1 = delta n/(n+m), delta_2 = delta m/(n+m), the latter shared by the models that use the draws."""
    n, m = problem.n_windows, problem.n_tokens
    return problem.failure_prob * n / (n + m), problem.failure_prob * m / (n + m) / problem.shared_draws


@dataclass(frozen=True)
class Paper(ConstantRangeMethod):
    """The method with its smoothing fixed."""

    name: ClassVar[str] = "paper"
    smoothing_grid: ClassVar[tuple[float, ...]] = PAPER_SMOOTHING_GRID
    has_temperature: ClassVar[bool] = False

    @classmethod
    def choose(cls, problem: Problem, pilot: Pilot, smoothing: str = "global") -> Paper:
        """The smoothing with the lowest whole bound predicted on the pilot.

        Raises:
            UsageError: for another smoothing than ``global``.
        """
        check_smoothing(cls.name, cls.smoothings, smoothing)
        statistics = pilot.at(None)

        def predicted(method: Paper) -> float:
            rate = complexity_rate(problem, method.selection(), paper_failure_probs(problem)[0])
            statistic = method.statistic({"loss": method.loss.of(statistics)}, rate)
            return method.upper(statistic, statistics.window_sizes, problem, rate)

        if problem.metric != "bpd":
            return cls(problem.metric, problem.vocab_size, None)
        choices = [cls("bpd", problem.vocab_size, k) for k in range(len(PAPER_SMOOTHING_GRID))]
        return min(choices, key=predicted)

    def failure_probs(self, problem: Problem) -> tuple[float, float]:
        """The paper's split."""
        return paper_failure_probs(problem)

    def upper(self, statistic: FloatArray, sizes: IntArray, problem: Problem, rate: float) -> float:
        """Hoeffding's bound for values in an interval of length Delta, from ``problem.n_windows`` of them.

        Raises:
            UsageError: for draws without replacement.
        """
        if not problem.replacement:
            raise UsageError("method paper is for draws with replacement")
        _, delta_2 = paper_failure_probs(problem)
        return hoeffding_upper(float(np.mean(statistic)), self.loss.loss_range, problem.n_windows, delta_2)
