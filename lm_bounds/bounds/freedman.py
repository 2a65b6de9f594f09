"""``freedman``: a Freedman-type bound with a predictable centre (Finzi et al. 2025).

    A_i = (Y_i - l_i)/Delta > -1,   mu <= mean[ Y_i - (Delta/s) ln(1 + s A_i) ] + (Delta/s)(K + ln(G/delta_1))/m

Y_i = clip(y0 + y1 H_i, l_min, l_max) is predictable and Delta = l_max - l_min, so that 1 + s A_i >= 1 - s > 0 for
every s of the grid; ln G is paid as the selection bits of s. Z is the summand plus the complexity term; it increases
with l, and at l = l_max,i it is convex in H wherever l_max,i and Y_i do not bend: z_max is the largest of its values
where they do and at the ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lm_bounds.bounds.base import SampledMethod
from lm_bounds.bounds.choice import Axis
from lm_bounds.bounds.protocol import Columns
from lm_bounds.bounds.statistics import FloatArray, TokenStatistics
from lm_bounds.errors import UsageError

N_CENTRES = 1 << 8  # y0 = l_max k/255: 8 bits
N_SLOPES = 1 << 8  # y1 = 2 k/255: 8 bits
STEP_GRID: tuple[float, ...] = tuple(2.0 ** (-(k + 1) / 4) for k in range(64))  # s: 6 bits, from 0.84 to 1.5e-5


def freedman_bound(losses: npt.ArrayLike, centres: npt.ArrayLike, scale: float, rate: float, step: float) -> float:
    """mean[ Y_i - (Delta/s) ln(1 + s A_i) ] + (Delta/s) rate, with A_i = (Y_i - l_i)/Delta.

    Args:
        losses: l_i of all m tokens of the corpus.
        centres: Y_i, predictable; one number or the losses' shape.
        scale: Delta > 0.
        rate: (K + ln(G/delta_1))/m in nats per token, >= 0, G the number of steps that s was chosen from.
        step: s in (0, 1).

    Raises:
        UsageError: for a step outside (0, 1), or where some 1 + s A_i is not positive.

    Source: Finzi et al. 2025.

    >>> round(freedman_bound([0.2, 1.5], [0.5, 1.0], 4.0, 0.05, 0.5) - 0.85, 6)
    0.410898
    """
    if not 0.0 < step < 1.0 or not scale > 0.0 or not rate >= 0.0:
        raise UsageError(f"freedman needs 0 < s < 1, Delta > 0, rate >= 0; {step}, {scale}, {rate} were given")
    centre = np.broadcast_to(np.asarray(centres, dtype=np.float64), np.shape(losses))
    growth = step * (centre - np.asarray(losses, dtype=np.float64)) / scale  # s A_i
    if not bool(np.all(growth > -1.0)):
        raise UsageError("freedman needs (Y_i - l_i)/Delta > -1 for every token: choose a larger Delta")
    return float(np.mean(centre - scale / step * np.log1p(growth)) + scale / step * rate)


@dataclass(frozen=True)
class Freedman(SampledMethod):
    """The method with its parameters fixed.

    Args:
        centre_index: of y0, 0 <= k < 2^8.
        slope_index: of y1, 0 <= k < 2^8.
        step_index: of s in ``STEP_GRID``.
    """

    name: ClassVar[str] = "freedman"

    centre_index: int
    slope_index: int
    step_index: int

    @classmethod
    def own_axes(cls) -> tuple[Axis, ...]:
        """The centre's two coefficients and the step."""
        return (
            Axis("centre_index", N_CENTRES, (0, 32)),
            Axis("slope_index", N_SLOPES, (0, 64, 128)),
            Axis("step_index", len(STEP_GRID), (0, 8, 16, 32)),
        )

    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """The centre's two coefficients and the step."""
        return (
            ("centre y0", self.centre_index, N_CENTRES),
            ("centre y1", self.slope_index, N_SLOPES),
            ("step s", self.step_index, len(STEP_GRID)),
        )

    def columns_of(self, statistics: TokenStatistics, losses: FloatArray) -> dict[str, FloatArray]:
        """``loss``, ``centre`` Y_i and ``log_growth`` ln(1 + s A_i) of every token."""
        centres = self.centres(statistics.entropy_bits)
        step = STEP_GRID[self.step_index]
        growth = np.log1p(step * (centres - losses) / self.loss.loss_range)
        return {"loss": losses, "centre": centres, "log_growth": growth}

    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z = Y - (Delta/s) ln(1 + s A) + (Delta/s) rate, each term a window mean."""
        scale = self.loss.loss_range / STEP_GRID[self.step_index]
        return np.asarray(means["centre"] - scale * means["log_growth"] + scale * rate, dtype=np.float64)

    def statistic_max(self, rate: float) -> float:
        """The largest of Z at l = l_max,i with H where l_max,i or the centre bends, or at an end."""
        step, loss = STEP_GRID[self.step_index], self.loss
        at = np.concatenate([loss.kinks(), self.centre_kinks()])
        centres = self.centres(at)
        growth = np.log1p(step * (centres - loss.largest(at)) / loss.loss_range)
        return float(np.max(self.statistic({"centre": centres, "log_growth": growth}, rate)))

    def statistic_min(self, rate: float) -> float:
        """l_min + (Delta/s) rate, because -ln(1 + s A) >= -s A."""
        return self.loss.loss_min + self.loss.loss_range / STEP_GRID[self.step_index] * rate

    def centres(self, entropy_bits: FloatArray) -> FloatArray:
        """Y_i = clip(y0 + y1 H_i, l_min, l_max), H_i clamped to [0, log2 V]; shape (tokens,)."""
        entropies = np.clip(entropy_bits, 0.0, math.log2(self.vocab_size))
        values = self.values()
        offset, slope = float(values["centre_offset"]), float(values["centre_slope"])
        return np.clip(offset + slope * entropies, self.loss.loss_min, self.loss.loss_max)

    def centre_kinks(self) -> FloatArray:
        """The entropies, clamped to [0, log2 V], at which the centre reaches l_min and l_max."""
        values = self.values()
        offset, slope = float(values["centre_offset"]), float(values["centre_slope"])
        if not slope:
            return np.zeros(0)
        turns = (np.array([self.loss.loss_min, self.loss.loss_max]) - offset) / slope
        return np.clip(turns, 0.0, math.log2(self.vocab_size))

    def values(self) -> dict[str, Any]:
        """y0, y1 and s."""
        return {
            "centre_offset": self.loss.loss_max * self.centre_index / (N_CENTRES - 1),
            "centre_slope": 2.0 * self.slope_index / (N_SLOPES - 1),
            "step": STEP_GRID[self.step_index],
        }
