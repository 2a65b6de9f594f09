"""Minimisation over coded grids and over free reals, by array operations on the pilot sample.

Any result is valid: the pilot is independent of the certifying draws, and a point of a grid pays its bits wherever the
search ends. A better search only makes a tighter bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lm_bounds.bounds.statistics import FloatArray
from lm_bounds.bounds.upper import kl_inf_upper

Point = tuple[int, ...]
PILOT_TOKENS = 1 << 14  # a search looks at about so many tokens of the pilot
SMOOTHING_STARTS = (8, 24, 56, 96, 160)  # indices of a where searches begin
_SEARCHES = 3


def minimise_on_grid(
    objective: Callable[[Point], float], sizes: Sequence[int], starts: Sequence[Point]
) -> tuple[Point, float]:
    """Pattern search on a product of index ranges: steps of a sixteenth of each range, halved until they are one.

    Args:
        objective: value at a point; may be inf where it is not defined.
        sizes: points of each axis.
        starts: where to look first; a search begins at each of the best three, and the best that they find is returned.

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

    found = [_descend(value, sizes, start) for start in sorted(starts, key=value)[:_SEARCHES]]
    best = min(found, key=value)
    return best, value(best)


def _descend(value: Callable[[Point], float], sizes: Sequence[int], start: Point) -> Point:
    point, steps = start, [max(1, size // 16) for size in sizes]
    while True:
        moved = False
        for axis, size in enumerate(sizes):
            for sign in (-1, 1):
                index = min(max(point[axis] + sign * steps[axis], 0), size - 1)
                candidate = (*point[:axis], index, *point[axis + 1 :])
                if value(candidate) < value(point):
                    point, moved = candidate, True
        if not moved:
            if max(steps, default=1) == 1:
                return point
            steps = [max(1, step // 2) for step in steps]


# log2 of the sampling ceiling's distance above z_max, relative to the statistic's spread: the range searched.
_LEAST_MARGIN, _LARGEST_MARGIN = -8.0, 16.0
_HALVINGS = 12


def sampling_upper(statistic: FloatArray, statistic_max: float, rate: float) -> tuple[float, float]:
    """The sampling ceiling for which the upper bound predicted from pilot values is lowest, and that prediction.

        min over c > z_max of  c - exp( mean ln(c - z_j) - rate )

    The ceiling is a free real (nothing is paid): the certifying draws are independent of the pilot. The bound is
    convex in c, and falls as long as ln mean(1/(c - z_j)) + mean ln(c - z_j) > rate: bisection on ln(c - z_max).

    Args:
        statistic: pilot values z_j <= z_max; shape (windows,).
        statistic_max: z_max.
        rate: ln(1/delta_2)/n for the certifying n, nats per observation.

    Returns:
        the ceiling and the predicted upper bound.
    """
    spread = max(float(statistic.std()), 1e-9 * (1.0 + abs(statistic_max)))
    least_headroom = np.maximum(statistic_max - statistic, 0.0)
    low, high = _LEAST_MARGIN, _LARGEST_MARGIN
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        headroom = least_headroom + spread * 2.0**middle
        if math.log(float((1.0 / headroom).mean())) + float(np.log(headroom).mean()) > rate:
            low = middle
        else:
            high = middle
    ceiling = statistic_max + spread * 2.0**high
    return ceiling, kl_inf_upper(statistic, ceiling, rate)


def level_rate(failure_prob: float, n: int) -> float:
    """ln(1/failure_prob)/n: the rate of an upper confidence bound from n observations, nats per observation."""
    return -math.log(failure_prob) / n
