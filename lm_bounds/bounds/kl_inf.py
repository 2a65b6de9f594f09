"""``kl_inf``: the mean ceiling minus e^-rho times the geometric mean of the headroom.

    mu <= mean c_i - exp( mean ln(c_i - l_i) - rho ),      c_i = b + c1 H_i > l_max

Linearised at a real t so that windows can be sampled (e^A >= e^t (1 + A - t)):

    Z_i = c_i - b e^t ( 1 - t - rho + ln((c_i - l_i)/b) )
        = c1 H_i - b [ e^t - 1 + e^t ( ln((c_i - l_i)/b) - t - rho ) ]

The second form is computed: b may be a million times the loss, and no digits of the loss may cancel against it.

Z increases with the loss, and at l = l_max it is convex in the ceiling, so z_max is the larger of its values at the
smallest (H = 0) and the largest (H = log2 V) ceiling.

Proof. E[(c_i - l_i)/(c_i - u_i) | x_<i] = 1 with u_i = E[l_i | x_<i]; the running product of these ratios is a
non-negative martingale of mean 1; Ville's inequality at level P(h) delta_1, a union over h, and AM-GM on c_i - u_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np

from lm_bounds.bounds.base import SampledMethod
from lm_bounds.bounds.losses import make_loss
from lm_bounds.bounds.protocol import Columns, Problem, complexity_rate, constant_failure_probs
from lm_bounds.bounds.search import (
    PILOT_TOKENS,
    SMOOTHING_STARTS,
    Point,
    level_rate,
    minimise_on_grid,
    sampling_upper,
)
from lm_bounds.bounds.statistics import FloatArray, TokenStatistics, window_means
from lm_bounds.bounds.upper import log_ratio
from lm_bounds.errors import UsageError

N_MARGINS = 1 << 16  # b = l_max (1 + 2^(-12 + 36 k/65535)): 16 bits
N_SLOPES = 1 << 8  # c1 = 2 k/255: 8 bits
_LARGEST_EXPONENT = 700.0


def ceiling_offset(loss_max: float, margin_index: int) -> float:
    """b of the ceiling b + c1 H, above l_max by a factor on a log grid of 2^16 points."""
    return loss_max * (1.0 + math.pow(2.0, -12.0 + 36.0 * margin_index / (N_MARGINS - 1)))


def nearest_margin(loss_max: float, offset: float) -> int:
    """The index of the grid's b nearest to an offset.

    >>> nearest_margin(4.0, ceiling_offset(4.0, 12_345)), nearest_margin(4.0, 1.0)
    (12345, 0)
    """
    margin = max(offset / loss_max - 1.0, 2.0**-12)
    return min(round((math.log2(margin) + 12.0) * (N_MARGINS - 1) / 36.0), N_MARGINS - 1)


def ceiling_slope(slope_index: int) -> float:
    """c1 of the ceiling b + c1 H, on a grid of 2^8 points in [0, 2]."""
    return 2.0 * slope_index / (N_SLOPES - 1)


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
    linearisation: float

    def __post_init__(self) -> None:
        if not -math.inf < self.linearisation <= _LARGEST_EXPONENT:
            raise UsageError(
                f"the linearisation t must be finite and at most {_LARGEST_EXPONENT:g}, {self.linearisation} was given"
            )

    @classmethod
    def choose(cls, problem: Problem, pilot: TokenStatistics) -> KlInf:
        """The grid points with the lowest whole bound predicted on the pilot; then t and the sampling ceiling."""
        search = _PilotSearch(problem, pilot.thinned(PILOT_TOKENS))
        sizes = [N_MARGINS, N_SLOPES]
        axes: list[Sequence[int]] = [range(4096, N_MARGINS, 8192), range(0, N_SLOPES, 64)]
        if problem.metric == "bpd":
            sizes, axes = [*sizes, len(cls.smoothing_grid)], [*axes, SMOOTHING_STARTS]
        # First with b where it is as a changes, for l_max is only one of the things that b has to fit; then freely.
        start, _ = minimise_on_grid(lambda at: search.fit(_same_offset(at, problem))[1], sizes, list(product(*axes)))
        point, _ = minimise_on_grid(lambda at: search.fit(at)[1], sizes, [_same_offset(start, problem)])
        return _PilotSearch(problem, pilot).fit(point)[0]

    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """The ceiling's two coefficients."""
        return (("ceiling b", self.margin_index, N_MARGINS), ("ceiling c1", self.slope_index, N_SLOPES))

    def columns(self, statistics: TokenStatistics) -> dict[str, FloatArray]:
        """``loss``, ``ceiling_rise`` c1 H_i and ``log_headroom`` ln((c_i - l_i)/b) of every token."""
        losses = self.loss.of(statistics)
        rises = self.ceiling_rises(statistics.entropy_bits)
        return {"loss": losses, "ceiling_rise": rises, "log_headroom": self.log_headroom(rises, losses)}

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z = c1 H - b (e^t - 1 + e^t (ln((c - l)/b) - t - rho)), each term a window mean."""
        t = self.linearisation
        slack = math.expm1(t) + math.exp(t) * (means["log_headroom"] - t - rate)
        return np.asarray(means["ceiling_rise"] - self.ceiling_offset * slack, dtype=np.float64)

    def statistic_max(self, rate: float) -> float:
        """The larger of Z at l = l_max, H = 0 and at l = l_max, H = log2 V."""
        ends = self.ceiling_rises(np.array([0.0, math.log2(self.vocab_size)]))
        headroom = self.log_headroom(ends, np.full(2, self.loss.loss_max))
        return float(np.max(self.statistic({"ceiling_rise": ends, "log_headroom": headroom}, rate)))

    def values(self) -> dict[str, Any]:
        """b and c1."""
        return {"ceiling_offset": self.ceiling_offset, "ceiling_slope": ceiling_slope(self.slope_index)}

    @property
    def ceiling_offset(self) -> float:
        """b."""
        return ceiling_offset(self.loss.loss_max, self.margin_index)

    def ceiling_rises(self, entropy_bits: FloatArray) -> FloatArray:
        """c_i - b = c1 H_i, with H_i clamped to [0, log2 V]; shape (tokens,)."""
        return ceiling_slope(self.slope_index) * np.clip(entropy_bits, 0.0, math.log2(self.vocab_size))

    def log_headroom(self, rises: FloatArray, losses: FloatArray) -> FloatArray:
        """ln((c_i - l_i)/b) for c_i = b + rises; shape (tokens,)."""
        offset = self.ceiling_offset
        return log_ratio((offset - losses) + rises, (rises - losses) / offset, offset)


def _same_offset(point: Point, problem: Problem) -> Point:
    """The point whose b, at its own smoothing, is the one that ``point[0]`` stands for at the middle of the grid."""
    if len(point) == 2:
        return point
    grid = KlInf.smoothing_grid
    middle, own = (make_loss("bpd", problem.vocab_size, grid[k]).loss_max for k in (len(grid) // 2, point[2]))
    return (nearest_margin(own, ceiling_offset(middle, point[0])), *point[1:])


class _PilotSearch:
    """The whole bound predicted on a pilot sample, as a function of the grid indices."""

    def __init__(self, problem: Problem, pilot: TokenStatistics) -> None:
        self.problem, self.pilot = problem, pilot
        self.delta_1, delta_2 = constant_failure_probs(problem)
        self.sampling_rate = level_rate(delta_2, problem.n_windows)
        self._losses: dict[int | None, FloatArray] = {}

    def fit(self, point: Point) -> tuple[KlInf, float]:
        """The method at a point, with the t and the sampling ceiling that fit the pilot; the predicted bound."""
        smoothing = point[2] if len(point) == 3 else None
        problem = self.problem
        method = KlInf(
            problem.metric, problem.vocab_size, smoothing, point[0], point[1], 0.0, sampling_ceiling=math.inf
        )
        rate = complexity_rate(problem, method.selection(), self.delta_1)
        means = self._means(method)
        method = replace(method, linearisation=float(means["log_headroom"].mean()) - rate)
        ceiling, predicted = sampling_upper(
            method.statistic(means, rate), method.statistic_max(rate), self.sampling_rate
        )
        return replace(method, sampling_ceiling=ceiling), predicted

    def _means(self, method: KlInf) -> dict[str, FloatArray]:
        index = method.smoothing_index
        if index not in self._losses:
            self._losses[index] = method.loss.of(self.pilot)
        rises = method.ceiling_rises(self.pilot.entropy_bits)
        headroom = method.log_headroom(rises, self._losses[index])
        sizes = self.pilot.window_sizes
        return {"ceiling_rise": window_means(rises, sizes), "log_headroom": window_means(headroom, sizes)}
