"""``azuma``: mu <= mean l + Delta sqrt(rho/2), one global smoothing a (Lotfi et al. 2024, Theorem 1).

The published form averages token-dependent ranges Delta_i and is valid only where they are all the same constant, as
here. Z = l + Delta sqrt(rho/2); z_max = l_max + Delta sqrt(rho/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lm_bounds.bounds.base import SampledMethod, SmoothedMethod
from lm_bounds.bounds.choice import Axis
from lm_bounds.bounds.protocol import Columns
from lm_bounds.bounds.statistics import FloatArray, TokenStatistics
from lm_bounds.errors import UsageError

# lambda in nats per unit of the loss: 6 bits, from 8 down to 2^-12.75.
LAMBDA_GRID: tuple[float, ...] = tuple(2.0 ** (3 - k / 4) for k in range(64))


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
    """A method whose statistic is the loss plus a constant: Z = l + Delta sqrt(rho/2), one smoothing everywhere."""

    def columns_of(self, statistics: TokenStatistics, losses: FloatArray) -> dict[str, FloatArray]:
        """``loss`` of every token."""
        return {"loss": losses}

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z = l + Delta sqrt(rho/2)."""
        return np.asarray(means["loss"] + azuma_bound(0.0, self.loss.loss_range, rate), dtype=np.float64)

    def statistic_max(self, rate: float) -> float:
        """Z at l = l_max."""
        return azuma_bound(self.loss.loss_max, self.loss.loss_range, rate)

    def statistic_min(self, rate: float) -> float:
        """Z at l = l_min."""
        return azuma_bound(self.loss.loss_min, self.loss.loss_range, rate)


@dataclass(frozen=True)
class Azuma(ConstantRangeMethod, SampledMethod):
    """The method with its parameters fixed."""

    name: ClassVar[str] = "azuma"
    smoothings: ClassVar[tuple[str, ...]] = ("global",)


@dataclass(frozen=True)
class AzumaLambda(SampledMethod):
    """``azuma`` where the ranges Delta_i depend on the context, with lambda on a grid that is paid for.

        mu <= mean l + (K + ln 1/delta_1)/(lambda m) + (lambda/8) mean Delta_i^2

    Z = l + (lambda/8) Delta^2 + rho/lambda; z_max is its value at the largest l_max.

    Args:
        lambda_index: of ``LAMBDA_GRID``.
    """

    name: ClassVar[str] = "azuma_lambda"

    lambda_index: int

    @classmethod
    def own_axes(cls) -> tuple[Axis, ...]:
        """lambda."""
        return (Axis("lambda_index", len(LAMBDA_GRID), range(0, len(LAMBDA_GRID), 8)),)

    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """lambda."""
        return (("lambda", self.lambda_index, len(LAMBDA_GRID)),)

    def values(self) -> dict[str, float]:
        """lambda."""
        return {"lambda": LAMBDA_GRID[self.lambda_index]}

    def columns_of(self, statistics: TokenStatistics, losses: FloatArray) -> dict[str, FloatArray]:
        """``loss`` and ``squared_range`` Delta_i^2 of every token."""
        return {"loss": losses, "squared_range": self.loss.ranges(statistics.entropy_bits) ** 2}

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z = l + (lambda/8) Delta^2 + rho/lambda, each term a window mean."""
        tilt = LAMBDA_GRID[self.lambda_index]
        return np.asarray(means["loss"] + tilt / 8 * means["squared_range"] + rate / tilt, dtype=np.float64)

    def statistic_max(self, rate: float) -> float:
        """Z at the largest l_max, which has the longest range."""
        longest = np.array([float(self.loss.ranges(self.loss.kinks()).max())])
        at = {"loss": np.array([self.loss.loss_max]), "squared_range": longest**2}
        return float(self.statistic(at, rate)[0])

    def statistic_min(self, rate: float) -> float:
        """l_min + rho/lambda."""
        return self.loss.loss_min + rate / LAMBDA_GRID[self.lambda_index]
