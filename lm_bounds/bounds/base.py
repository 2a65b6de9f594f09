"""What the methods share: a loss smoothed at a point of a grid, a constant split of delta, a checked round trip."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from lm_bounds.bounds.choice import Axis, loss_axes, search_pilot
from lm_bounds.bounds.losses import (
    SMOOTHING_GRID,
    SMOOTHING_OFFSETS,
    SMOOTHING_SLOPES,
    EntropySmoothedBits,
    Loss,
    make_loss,
)
from lm_bounds.bounds.protocol import Columns, Problem, Selection, constant_failure_probs
from lm_bounds.bounds.search import Point, level_rate
from lm_bounds.bounds.statistics import TEMPERATURE_GRID, FloatArray, IntArray, Pilot, TokenStatistics
from lm_bounds.bounds.upper import bernstein_upper, hoeffding_upper, kl_inf_upper, without_replacement_upper
from lm_bounds.errors import UsageError

_M = TypeVar("_M", bound="SmoothedMethod")
_S = TypeVar("_S", bound="SampledMethod")


@dataclasses.dataclass(frozen=True)
class SmoothedMethod:
    """A method whose loss is one of a family: a point of the grids of smoothing and temperature.

    Args:
        metric: ``bpd`` or ``topK``.
        vocab_size: V, the number of logits.
        smoothing_index: of ``smoothing_grid`` (``SMOOTHING_OFFSETS`` with a slope) for bpd, None for a top-k error.
        smoothing_slope_index: of ``SMOOTHING_SLOPES`` where the smoothing depends on the entropy, else None.
        temperature_index: of ``TEMPERATURE_GRID`` where the temperature was chosen; None where it is fixed at 1.
    """

    name: ClassVar[str]
    smoothings: ClassVar[tuple[str, ...]] = ("global",)
    smoothing_grid: ClassVar[tuple[float, ...]] = SMOOTHING_GRID
    has_temperature: ClassVar[bool] = True

    metric: str
    vocab_size: int
    smoothing_index: int | None
    smoothing_slope_index: int | None = dataclasses.field(default=None, kw_only=True)
    temperature_index: int | None = dataclasses.field(default=None, kw_only=True)

    @cached_property
    def loss(self) -> Loss:
        """The bounded loss, of statistics at the method's temperature."""
        if self.smoothing_index is None:
            return make_loss(self.metric, self.vocab_size)
        if self.smoothing_slope_index is None:
            return make_loss(self.metric, self.vocab_size, self.smoothing_grid[self.smoothing_index])
        slope = SMOOTHING_SLOPES[self.smoothing_slope_index]
        return EntropySmoothedBits(self.vocab_size, SMOOTHING_OFFSETS[self.smoothing_index], slope)

    @property
    def temperature(self) -> float:
        """T: the predictive distribution is p^(1/T), made a distribution again."""
        return 1.0 if self.temperature_index is None else TEMPERATURE_GRID[self.temperature_index]

    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """(what is chosen, its index, the grid's size) of every choice besides the loss."""
        return ()

    def loss_grids(self) -> tuple[tuple[str, int, int], ...]:
        """The same of the choices that make the loss."""
        if self.smoothing_index is None:
            return ()
        smoothing = ("smoothing a", self.smoothing_index, len(self.smoothing_grid))
        chosen = [
            ("smoothing slope", self.smoothing_slope_index, len(SMOOTHING_SLOPES)),
            ("temperature", self.temperature_index, len(TEMPERATURE_GRID)),
        ]
        return (smoothing, *((name, index, size) for name, index, size in chosen if index is not None))

    def selection(self) -> Selection:
        """Bits that the choices cost, by name: log2 of the size of each grid."""
        return tuple((name, math.log2(size)) for name, _, size in (*self.loss_grids(), *self.grids()))

    def failure_probs(self, problem: Problem) -> tuple[float, float]:
        """(delta/100, the rest shared by the models that use the draws)."""
        return constant_failure_probs(problem)

    @abstractmethod
    def columns_of(self, statistics: TokenStatistics, losses: FloatArray) -> dict[str, FloatArray]:
        """``columns`` where the losses are known."""

    def columns(self, statistics: TokenStatistics) -> dict[str, FloatArray]:
        """Per-token columns, the first named ``loss``, of statistics at the method's temperature."""
        return self.columns_of(statistics, self.loss.of(statistics))

    def values(self) -> dict[str, Any]:
        """What the indices stand for, for a reader of ``to_dict``."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Every parameter, with the values that the indices stand for; JSON types only."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        fields["smoothing_index"] = self.smoothing_index
        if self.temperature_index is not None:
            fields["temperature"] = self.temperature
        return {"name": self.name, **self.loss.to_dict(), **fields, **self.values()}

    @classmethod
    def from_dict(cls: type[_M], fields: Mapping[str, Any]) -> _M:
        """The inverse of ``to_dict``.

        Raises:
            UsageError: for an index that is not a whole number inside its grid, or a choice that the method has not.
        """
        optional = ("smoothing_slope_index", "temperature_index")
        wanted = [field.name for field in dataclasses.fields(cls) if field.name not in optional or field.name in fields]
        method = cls(**{name: fields[name] for name in wanted})
        chosen = (*method.loss_grids(), *method.grids())
        is_bpd = method.metric == "bpd"
        loss_indices = (method.smoothing_index, method.smoothing_slope_index, method.temperature_index)
        if (
            is_bpd != (method.smoothing_index is not None)
            or (not is_bpd and any(index is not None for index in loss_indices))
            or (method.smoothing_slope_index is not None and "entropy" not in cls.smoothings)
            or (method.temperature_index is not None and not cls.has_temperature)
            or not all(type(index) is int and 0 <= index < size for _, index, size in chosen)
        ):
            raise UsageError(f"the parameters of {cls.name} for {method.metric} are not on its grids")
        return method


@dataclasses.dataclass(frozen=True)
class SampledMethod(SmoothedMethod):
    """A method whose sampling step is ``kl_inf_upper`` with a constant ceiling.

    Args:
        sampling_ceiling: above z_max.
    """

    smoothings: ClassVar[tuple[str, ...]] = ("global", "entropy")

    sampling_ceiling: float = dataclasses.field(kw_only=True)

    @classmethod
    def own_axes(cls) -> tuple[Axis, ...]:
        """The method's choices besides the loss."""
        return ()

    @classmethod
    def choose(cls: type[_S], problem: Problem, pilot: Pilot, smoothing: str = "global") -> _S:
        """The grid points with the lowest whole bound predicted on the pilot; then the free reals.

        Args:
            problem: the numbers.
            pilot: statistics of the pilot's tokens.
            smoothing: how the loss is smoothed, one of ``smoothings``.

        Raises:
            UsageError: for a smoothing that the method is not valid for.
        """
        return search_pilot(cls, problem, pilot, cls.axes(problem, pilot, smoothing))

    @classmethod
    def search_starts(cls, problem: Problem, pilot: Pilot, axes: Sequence[Axis]) -> Sequence[Point] | None:
        """Where to begin looking; None for the starts of the axes."""
        return None

    @classmethod
    def axes(cls, problem: Problem, pilot: Pilot, smoothing: str) -> tuple[Axis, ...]:
        """All choices, the method's own first.

        Raises:
            UsageError: for a smoothing that the method is not valid for.
        """
        check_smoothing(cls.name, cls.smoothings, smoothing)
        return (*cls.own_axes(), *loss_axes(problem.metric, pilot, smoothing, len(cls.smoothing_grid)))

    def tuned(self: _S, means: Columns, rate: float) -> _S:
        """The method with the free reals, for which nothing is paid, that fit the pilot's column means."""
        return self

    @abstractmethod
    def statistic(self, means: Columns, rate: float) -> FloatArray:
        """Z of every window from the columns' window means; shape (windows,)."""

    @abstractmethod
    def statistic_max(self, rate: float) -> float:
        """z_max: no token's Z is above it."""

    @abstractmethod
    def statistic_min(self, rate: float) -> float:
        """A number that no token's Z is below."""

    def upper(self, statistic: FloatArray, sizes: IntArray, problem: Problem, rate: float) -> float:
        """An upper confidence bound of the corpus mean of Z at level delta_2.

        ``kl_inf_upper``, its form without replacement where that applies, or the bound that the problem names.

        Raises:
            UsageError: when the sampling ceiling is not above z_max, or not finite.
        """
        largest, least = self.statistic_max(rate), self.statistic_min(rate)
        _, delta_2 = self.failure_probs(problem)
        if problem.upper == "hoeffding":
            return hoeffding_upper(float(np.mean(statistic)), largest - least, len(statistic), delta_2)
        if problem.upper == "bernstein":
            inside = np.clip(statistic, least, largest)  # they are, but for rounding
            return bernstein_upper(inside, least, largest, delta_2)
        if not largest < self.sampling_ceiling < math.inf:
            raise UsageError(f"the sampling ceiling {self.sampling_ceiling} must be finite and above z_max = {largest}")
        if problem.replacement:
            return kl_inf_upper(statistic, self.sampling_ceiling, level_rate(delta_2, len(statistic)))
        return without_replacement_upper(statistic, sizes, problem.n_tokens, self.sampling_ceiling, delta_2)


def check_smoothing(method: str, valid: tuple[str, ...], smoothing: str) -> None:
    """Refuses a smoothing that a method is not valid for.

    Raises:
        UsageError: naming those that it is valid for.
    """
    if smoothing not in valid:
        raise UsageError(f"method {method} is not valid with smoothing={smoothing!r}: use {' or '.join(valid)}")
