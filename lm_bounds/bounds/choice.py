"""What the pilot chooses: the point of a method's grids for which the whole predicted bound is lowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from lm_bounds.bounds.losses import SMOOTHING_SLOPES
from lm_bounds.bounds.protocol import Problem, complexity_rate, constant_failure_probs
from lm_bounds.bounds.search import PILOT_TOKENS, SMOOTHING_STARTS, Point, level_rate, minimise_on_grid, sampling_upper
from lm_bounds.bounds.statistics import TEMPERATURE_GRID, UNIT_TEMPERATURE, FloatArray, Pilot, window_means

if TYPE_CHECKING:
    from lm_bounds.bounds.base import SampledMethod

_S = TypeVar("_S", bound="SampledMethod")


@dataclass(frozen=True)
class Axis:
    """A coded choice.

    Args:
        name: of the method's field that holds the index.
        size: points of its grid.
        starts: indices where a search begins.
    """

    name: str
    size: int
    starts: Sequence[int]


def loss_axes(metric: str, pilot: Pilot, smoothing: str, n_smoothings: int) -> tuple[Axis, ...]:
    """The choices that make a loss: none for a top-k error.

    Args:
        metric: of the loss.
        pilot: whether it offers temperatures.
        smoothing: ``global`` or ``entropy``.
        n_smoothings: points of the method's smoothing grid.
    """
    if metric != "bpd":
        return ()
    axes = [Axis("smoothing_index", n_smoothings, SMOOTHING_STARTS)]
    if smoothing == "entropy":
        axes.append(Axis("smoothing_slope_index", len(SMOOTHING_SLOPES), (len(SMOOTHING_SLOPES) // 2,)))
    if pilot.offers_temperatures:
        axes.append(Axis("temperature_index", len(TEMPERATURE_GRID), (UNIT_TEMPERATURE,)))
    return tuple(axes)


def _slope_starts(chosen: SampledMethod, axes: Sequence[Axis]) -> list[Point]:
    """Where to look for a smoothing by entropy: at the best global one, without and with a slope."""
    middle = len(SMOOTHING_SLOPES) // 2
    fields = {axis.name: getattr(chosen, axis.name) for axis in axes}
    return [
        tuple({**fields, "smoothing_slope_index": middle + turn}[axis.name] for axis in axes) for turn in (0, -4, 4)
    ]


class PilotSearch(Generic[_S]):
    """The whole bound predicted on a pilot sample, as a function of the indices of a method's grids.

    Args:
        method: its class.
        problem: the numbers.
        pilot: statistics of the pilot's tokens.
        axes: the choices, the indices of a point in their order.
    """

    def __init__(self, method: type[_S], problem: Problem, pilot: Pilot, axes: Sequence[Axis]) -> None:
        self.method, self.problem, self.pilot, self.axes = method, problem, pilot, axes
        self.sampling_rate = predicted_sampling_rate(constant_failure_probs(problem)[1], problem, pilot)
        self._losses: dict[tuple[int | None, ...], FloatArray] = {}

    def lowest(self, starts: Sequence[Point] | None = None) -> Point:
        """The best point that searches from the axes' starts, or from these, find."""
        begin = list(product(*(axis.starts for axis in self.axes))) if starts is None else starts
        return minimise_on_grid(lambda at: self.fit(at)[1], [axis.size for axis in self.axes], begin)[0]

    def at(self, point: Point) -> _S:
        """The method at a point, its free reals not chosen yet."""
        fields = {axis.name: index for axis, index in zip(self.axes, point, strict=True)}
        return make(self.method, self.problem, fields)

    def fit(self, point: Point) -> tuple[_S, float]:
        """The method at a point with the free reals that fit the pilot, and the bound that is predicted for it.

        The prediction may be above l_max, so that a search sees the way down from there.
        """
        method = self.at(point)
        rate = complexity_rate(self.problem, method.selection(), method.failure_probs(self.problem)[0])
        means = self._means(method)
        method = method.tuned(means, rate)
        ceiling, predicted = sampling_upper(
            method.statistic(means, rate), method.statistic_max(rate), self.sampling_rate
        )
        return replace(method, sampling_ceiling=ceiling), predicted

    def _means(self, method: _S) -> dict[str, FloatArray]:
        statistics = self.pilot.at(method.temperature_index)
        key = (method.smoothing_index, method.smoothing_slope_index, method.temperature_index)
        if key not in self._losses:
            self._losses[key] = method.loss.of(statistics)
        columns = method.columns_of(statistics, self._losses[key])
        return {name: window_means(values, statistics.window_sizes) for name, values in columns.items()}


def make(method: type[_S], problem: Problem, fields: dict[str, Any]) -> _S:
    """A method of a problem with these indices, its free reals not chosen yet."""
    smoothing = {"smoothing_index": None, **fields}
    return method(metric=problem.metric, vocab_size=problem.vocab_size, sampling_ceiling=np.inf, **smoothing)


def predicted_sampling_rate(failure_prob: float, problem: Problem, pilot: Pilot) -> float:
    """ln(1/delta_2)/n, times the share of the corpus that n windows of the pilot's size leave out.

    Draws without replacement that reach every token leave nothing to be bounded.
    """
    rate = level_rate(failure_prob, problem.n_windows)
    if problem.replacement:
        return rate
    size = float(pilot.at(None).window_sizes.mean())
    return rate * (1.0 - min(1.0, problem.n_windows * size / problem.n_tokens))


def search_pilot(method: type[_S], problem: Problem, pilot: Pilot, axes: Sequence[Axis]) -> _S:
    """The method at the best point found on a thinned pilot, its free reals from the whole pilot."""
    thinned = pilot.thinned(PILOT_TOKENS)
    starts: Sequence[Point] | None
    if any(axis.name == "smoothing_slope_index" for axis in axes):
        starts = _slope_starts(method.choose(problem, pilot), axes)
    else:
        starts = method.search_starts(problem, thinned, axes)
    point = PilotSearch(method, problem, thinned, axes).lowest(starts)
    return PilotSearch(method, problem, pilot, axes).fit(point)[0]
