"""What the methods share: a loss smoothed at a point of a grid, a constant split of delta, a checked round trip."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from lm_bounds.bounds.losses import SMOOTHING_GRID, Loss, make_loss
from lm_bounds.bounds.protocol import Problem, Selection, constant_failure_probs
from lm_bounds.bounds.search import level_rate
from lm_bounds.bounds.statistics import FloatArray
from lm_bounds.bounds.upper import kl_inf_upper
from lm_bounds.errors import UsageError

_M = TypeVar("_M", bound="SmoothedMethod")


@dataclasses.dataclass(frozen=True)
class SmoothedMethod:
    """A method whose loss is smoothed by one global a of a grid.

    Args:
        metric: ``bpd`` or ``topK``.
        vocab_size: V, the number of logits.
        smoothing_index: of ``smoothing_grid`` for bpd, None for a top-k error.
    """

    name: ClassVar[str]
    smoothing_grid: ClassVar[tuple[float, ...]] = SMOOTHING_GRID

    metric: str
    vocab_size: int
    smoothing_index: int | None

    @property
    def loss(self) -> Loss:
        """The bounded loss."""
        smoothing = None if self.smoothing_index is None else self.smoothing_grid[self.smoothing_index]
        return make_loss(self.metric, self.vocab_size, smoothing)

    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """(what is chosen, its index, the grid's size) of every choice besides the smoothing."""
        return ()

    def selection(self) -> Selection:
        """Bits that the choices cost, by name: log2 of the size of each grid."""
        smoothing = () if self.smoothing_index is None else (("smoothing a", len(self.smoothing_grid)),)
        grids = (*smoothing, *((name, size) for name, _, size in self.grids()))
        return tuple((name, math.log2(size)) for name, size in grids)

    def failure_probs(self, problem: Problem) -> tuple[float, float]:
        """(delta/100, the rest shared by the models that use the draws)."""
        return constant_failure_probs(problem)

    def values(self) -> dict[str, Any]:
        """What the indices stand for, for a reader of ``to_dict``."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Every parameter, with the values that the indices stand for; JSON types only."""
        return {"name": self.name, **self.loss.to_dict(), **dataclasses.asdict(self), **self.values()}

    @classmethod
    def from_dict(cls: type[_M], fields: Mapping[str, Any]) -> _M:
        """The inverse of ``to_dict``.

        Raises:
            UsageError: for an index that is not a whole number inside its grid.
        """
        method = cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls)})
        smoothing = () if method.smoothing_index is None else ((method.smoothing_index, len(cls.smoothing_grid)),)
        chosen = (*smoothing, *((index, size) for _, index, size in method.grids()))
        if (method.metric == "bpd") != bool(smoothing) or not all(type(i) is int and 0 <= i < n for i, n in chosen):
            raise UsageError(f"the parameters of {cls.name} for {method.metric} are not on its grids")
        return method


@dataclasses.dataclass(frozen=True)
class SampledMethod(SmoothedMethod):
    """A method whose sampling step is ``kl_inf_upper`` with a constant ceiling.

    Args:
        sampling_ceiling: above z_max.
    """

    sampling_ceiling: float = dataclasses.field(kw_only=True)

    @abstractmethod
    def statistic_max(self, rate: float) -> float:
        """z_max: no token's Z is above it."""

    def upper(self, statistic: FloatArray, problem: Problem, rate: float) -> float:
        """``kl_inf_upper`` of the corpus mean of Z at level delta_2.

        Raises:
            UsageError: when the sampling ceiling is not above z_max, or not finite.
        """
        largest = self.statistic_max(rate)
        if not largest < self.sampling_ceiling < math.inf:
            raise UsageError(f"the sampling ceiling {self.sampling_ceiling} must be finite and above z_max = {largest}")
        _, delta_2 = self.failure_probs(problem)
        return kl_inf_upper(statistic, self.sampling_ceiling, level_rate(delta_2, len(statistic)))
