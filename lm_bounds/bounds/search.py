"""Minimisation over coded grids and over free reals, by array operations on the pilot sample.

Any result is valid: the pilot is independent of the certifying draws, and a point of a grid pays its bits wherever the
search ends. A better search only makes a tighter bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lm_bounds.bounds.statistics import FloatArray

Point = tuple[int, ...]


def minimise_on_grid(
    objective: Callable[[Point], float], sizes: Sequence[int], starts: Sequence[Point]
) -> tuple[Point, float]:
    """Pattern search on a product of index ranges: steps of a quarter of each range, halved until they are one.

    Args:
        objective: value at a point; may be inf where it is not defined.
        sizes: points of each axis.
        starts: where to begin; the best of all searches is returned.

    Returns:
        the best point and its value.

    >>> minimise_on_grid(lambda p: (p[0] - 77) ** 2 + (p[1] - 3) ** 2, [256, 8], [(0, 0)])
    ((77, 3), 0)
    """
    seen: dict[Point, float] = {}

    def value(point: Point) -> float:
        if point not in seen:
            seen[point] = objective(point)
        return seen[point]

    best = min(starts, key=value)
    for start in starts:
        found = _descend(value, sizes, start)
        if value(found) < value(best):
            best = found
    return best, value(best)


def _descend(value: Callable[[Point], float], sizes: Sequence[int], start: Point) -> Point:
    point, steps = start, [max(1, size // 4) for size in sizes]
    while True:
        moved = False
        for axis, size in enumerate(sizes):
            for sign in (-1, 1):
                index = min(max(point[axis] + sign * steps[axis], 0), size - 1)
                candidate = (*point[:axis], index, *point[axis + 1 :])
                if value(candidate) < value(point):
                    point, moved = candidate, True
        if not moved:
            if max(steps) == 1:
                return point
            steps = [max(1, step // 2) for step in steps]


# Distances of the sampling ceiling above z_max, relative to the statistic's spread.
_CEILING_MARGINS = np.exp2(np.arange(-16, 25) / 2)


def sampling_upper(statistic: FloatArray, statistic_max: float, rate: float) -> tuple[float, float]:
    """The sampling ceiling for which the upper bound predicted from pilot values is lowest, and that prediction.

        min over c > z_max of  c - exp( mean ln(c - z_j) - rate )

    The ceiling is a free real (nothing is paid): the certifying draws are independent of the pilot.

    Args:
        statistic: pilot values z_j <= z_max; shape (windows,).
        statistic_max: z_max.
        rate: ln(1/delta_2)/n for the certifying n, nats per observation.

    Returns:
        the ceiling and the predicted upper bound.
    """
    spread = max(float(statistic.std()), 1e-9 * (1.0 + abs(statistic_max)))
    margins = spread * _CEILING_MARGINS
    for _ in range(2):  # the coarse grid, then a fine one around its best point
        ceilings = statistic_max + margins  # shape: (margins,)
        log_headroom = np.log(ceilings[:, None] - statistic[None, :]).mean(axis=1)
        predicted = ceilings - np.exp(log_headroom - rate)
        best = int(np.argmin(predicted))
        margins = margins[best] * np.exp2(np.linspace(-0.5, 0.5, 17))
    return float(ceilings[best]), float(predicted[best])


def level_rate(failure_prob: float, n: int) -> float:
    """ln(1/failure_prob)/n: the rate of an upper confidence bound from n observations, nats per observation."""
    return -math.log(failure_prob) / n
