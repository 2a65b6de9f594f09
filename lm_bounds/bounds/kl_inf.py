"""``kl_inf``: the mean ceiling minus e^-rho times the geometric mean of the headroom.

    mu <= mean c_i - exp( mean ln(c_i - l_i) - rho ),      c_i = b + c1 H_i > l_max

Linearised at a real t so that windows can be sampled (e^A >= e^t (1 + A - t)):

    Z_i = c_i - b e^t ( 1 - t - rho + ln((c_i - l_i)/b) )
        = c1 H_i - b [ e^t - 1 + e^t ( ln((c_i - l_i)/b) - t - rho ) ]

The second form is computed: b may be a million times the loss, and no digits of the loss may cancel against it.

Z increases with the loss. At l = l_max,i, which is linear in H between its kinks, Z is the sum of a linear function of
H and -ln of another one, hence convex between the kinks: z_max is the largest of its values at them.

Proof. E[(c_i - l_i)/(c_i - u_i) | x_<i] = 1 with u_i = E[l_i | x_<i]; the running product of these ratios is a
non-negative martingale of mean 1; Ville's inequality at level P(h) delta_1, a union over h, and AM-GM on c_i - u_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from lm_bounds.bounds.base import SampledMethod
from lm_bounds.bounds.choice import Axis, PilotSearch
from lm_bounds.bounds.protocol import Columns, Problem
from lm_bounds.bounds.search import Point
from lm_bounds.bounds.statistics import FloatArray, Pilot, TokenStatistics
from lm_bounds.bounds.upper import log_ratio
from lm_bounds.errors import UsageError

N_MARGINS = 1 << 16  # b = least + l_max 2^(-12 + 36 k/65535): 16 bits
N_SLOPES = 1 << 8  # c1 = 2 k/255: 8 bits
_LARGEST_EXPONENT = 700.0


def ceiling_offset(least: float, scale: float, margin_index: int) -> float:
    """b of the ceiling b + c1 H, above the least that keeps it over every l_max,i, on a log grid of 2^16 points.

    Args:
        least: max over H of l_max(H) - c1 H.
        scale: l_max.
        margin_index: k.
    """
    return least + scale * math.pow(2.0, -12.0 + 36.0 * margin_index / (N_MARGINS - 1))


def nearest_margin(least: float, scale: float, offset: float) -> int:
    """The index of the grid's b nearest to an offset.

    >>> nearest_margin(4.0, 4.0, ceiling_offset(4.0, 4.0, 12_345)), nearest_margin(4.0, 4.0, 1.0)
    (12345, 0)
    """
    margin = max((offset - least) / scale, 2.0**-12)
    return min(round((math.log2(margin) + 12.0) * (N_MARGINS - 1) / 36.0), N_MARGINS - 1)


def ceiling_slope(slope_index: int) -> float:
    """c1 of the ceiling b + c1 H, on a grid of 2^8 points in [0, 2]."""
    return 2.0 * slope_index / (N_SLOPES - 1)


def linearised_headroom(log_headroom: FloatArray, tilt: float, rate: float) -> FloatArray:
    """e^t - 1 + e^t ( ln((c - l)/b) - t - rho ): Z is c1 H - b times this.

    Args:
        log_headroom: ln((c - l)/b), or its window means.
        tilt: t.
        rate: rho, nats per token.
    """
    return np.asarray(math.expm1(tilt) + math.exp(tilt) * (log_headroom - tilt - rate), dtype=np.float64)


@dataclass(frozen=True)
class KlInf(SampledMethod):
    """The method with its parameters fixed.

    Args:
        margin_index: of b, 0 <= k < 2^16.
        slope_index: of c1, 0 <= k < 2^8.
        linearisation: t, any real for which e^t is finite.

    Raises:
        UsageError: for another t.
    """

    name: ClassVar[str] = "kl_inf"

    margin_index: int
    slope_index: int
    linearisation: float = 0.0

    def __post_init__(self) -> None:
        if not -math.inf < self.linearisation <= _LARGEST_EXPONENT:
            raise UsageError(
                f"the linearisation t must be finite and at most {_LARGEST_EXPONENT:g}, {self.linearisation} was given"
            )

    @classmethod
    def own_axes(cls) -> tuple[Axis, ...]:
        """The ceiling's two coefficients."""
        return (
            Axis("margin_index", N_MARGINS, range(4096, N_MARGINS, 8192)),
            Axis("slope_index", N_SLOPES, range(0, N_SLOPES, 64)),
        )

    @classmethod
    def search_starts(cls, problem: Problem, pilot: Pilot, axes: Sequence[Axis]) -> list[Point]:
        """The best point with b held as the smoothing changes: l_max is only one of the things that b has to fit."""
        fixed_offset = _FixedOffsetSearch(cls, problem, pilot, axes)
        return [fixed_offset.own_point(fixed_offset.lowest())]

    def tuned(self, means: Columns, rate: float) -> KlInf:
        """With t = mean ln((c - l)/b) - rho, the best one."""
        return replace(self, linearisation=float(np.mean(means["log_headroom"])) - rate)

    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """The ceiling's two coefficients."""
        return (("ceiling b", self.margin_index, N_MARGINS), ("ceiling c1", self.slope_index, N_SLOPES))

    def columns_of(self, statistics: TokenStatistics, losses: FloatArray) -> dict[str, FloatArray]:
        """``loss``, ``ceiling_rise`` c1 H_i and ``log_headroom`` ln((c_i - l_i)/b) of every token."""
        rises = self.ceiling_rises(statistics.entropy_bits)
        return {"loss": losses, "ceiling_rise": rises, "log_headroom": self.log_headroom(rises, losses)}

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z = c1 H - b (e^t - 1 + e^t (ln((c - l)/b) - t - rho)), each term a window mean."""
        slack = self.ceiling_offset * linearised_headroom(means["log_headroom"], self.linearisation, rate)
        return np.asarray(means["ceiling_rise"] - slack, dtype=np.float64)

    def statistic_max(self, rate: float) -> float:
        """The largest of Z at l = l_max,i with H at 0, at log2 V, and where l_max,i bends between them."""
        at = self.loss.kinks()
        rises = self.ceiling_rises(at)
        headroom = self.log_headroom(rises, self.loss.largest(at))
        return float(np.max(self.statistic({"ceiling_rise": rises, "log_headroom": headroom}, rate)))

    def statistic_min(self, rate: float) -> float:
        """l_min + e^t rho: the least of Z over all ceilings is l + e^t rho, at c - l = e^t."""
        return self.loss.loss_min + self.ceiling_offset * math.exp(self.linearisation) * rate

    def values(self) -> dict[str, Any]:
        """b and c1."""
        return {"ceiling_offset": self.ceiling_offset, "ceiling_slope": ceiling_slope(self.slope_index)}

    @cached_property
    def least_offset(self) -> float:
        """The b at which the ceiling would touch the largest l_max,i; never below 0."""
        at = self.loss.kinks()
        return max(float(np.max(self.loss.largest(at) - self.ceiling_rises(at))), 0.0)

    @cached_property
    def ceiling_offset(self) -> float:
        """b."""
        return ceiling_offset(self.least_offset, self.loss.loss_max, self.margin_index)

    def ceiling_rises(self, entropy_bits: FloatArray) -> FloatArray:
        """c_i - b = c1 H_i, with H_i clamped to [0, log2 V]; shape (tokens,)."""
        return ceiling_slope(self.slope_index) * np.clip(entropy_bits, 0.0, math.log2(self.vocab_size))

    def log_headroom(self, rises: FloatArray, losses: FloatArray) -> FloatArray:
        """ln((c_i - l_i)/b) for c_i = b + rises; shape (tokens,)."""
        offset = self.ceiling_offset
        return log_ratio((offset - losses) + rises, (rises - losses) / offset, offset)


class _FixedOffsetSearch(PilotSearch[KlInf]):
    """A search whose first index stands for one b, that of the middle smoothing, whatever the smoothing is."""

    def at(self, point: Point) -> KlInf:
        """The method at a point."""
        return super().at(self.own_point(point))

    def own_point(self, point: Point) -> Point:
        """The point with the index that this b has at its own smoothing."""
        own = super().at(point)
        if own.smoothing_index is None:
            return point
        middle = replace(own, smoothing_index=len(own.smoothing_grid) // 2, smoothing_slope_index=None)
        return (nearest_margin(own.least_offset, own.loss.loss_max, middle.ceiling_offset), *point[1:])
