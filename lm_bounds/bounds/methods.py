"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_bounds.bounds.azuma import Azuma, AzumaLambda
from lm_bounds.bounds.base import SampledMethod, check_smoothing
from lm_bounds.bounds.choice import predicted_sampling_rate
from lm_bounds.bounds.freedman import Freedman
from lm_bounds.bounds.kl_inf import KlInf
from lm_bounds.bounds.paper import Paper
from lm_bounds.bounds.protocol import Method, Problem, complexity_rate
from lm_bounds.bounds.statistics import UNIT_TEMPERATURE, Pilot, TokenStatistics, window_means
from lm_bounds.bounds.upper import kl_inf_upper
from lm_bounds.errors import UsageError, nearest

METHODS: dict[str, type[Method]] = {
    "kl_inf": KlInf,
    "freedman": Freedman,
    "azuma": Azuma,
    "azuma_lambda": AzumaLambda,
    "paper": Paper,
}
BEST = "best"  # of the methods below, that with the lowest bound predicted on the pilot
_CANDIDATES: tuple[type[SampledMethod], ...] = (KlInf, Freedman, Azuma, AzumaLambda)
SMOOTHINGS = ("global", "entropy")


def choose_method(name: str, problem: Problem, pilot: Pilot | TokenStatistics, smoothing: str | None = None) -> Method:
    """The named method with its parameters chosen on the pilot.

    ``best`` tries every method whose sampling step does not depend on the method; which one it takes is coded in the
    bits that every description pays for its method and its smoothing.

    Args:
        name: of a method, or ``best``.
        problem: the numbers.
        pilot: statistics of the pilot's tokens.
        smoothing: ``global`` or ``entropy``; None for ``global``, and for any of them under ``best``.

    Raises:
        UsageError: for an unknown name, or a smoothing that the method is not valid for.
    """
    given = Pilot({UNIT_TEMPERATURE: pilot}) if isinstance(pilot, TokenStatistics) else pilot
    check_method(name, smoothing)
    if name != BEST:
        return method_class(name).choose(problem, given, smoothing or "global")
    modes = SMOOTHINGS if smoothing is None and problem.metric == "bpd" else (smoothing or "global",)
    found = [
        candidate.choose(problem, given, mode)
        for candidate in _CANDIDATES
        for mode in modes
        if mode in candidate.smoothings
    ]
    return min(found, key=lambda method: predicted_bound(method, problem, given))


def predicted_bound(method: SampledMethod, problem: Problem, pilot: Pilot) -> float:
    """The bound that the pilot predicts for a method with its parameters fixed."""
    statistics = pilot.at(method.temperature_index)
    columns = method.columns(statistics)
    means = {name: window_means(values, statistics.window_sizes) for name, values in columns.items()}
    delta_1, delta_2 = method.failure_probs(problem)
    rate = complexity_rate(problem, method.selection(), delta_1)
    statistic = method.statistic(means, rate)
    upper = kl_inf_upper(statistic, method.sampling_ceiling, predicted_sampling_rate(delta_2, problem, pilot))
    return min(upper, method.loss.loss_max)


def method_from_dict(fields: Mapping[str, Any]) -> Method:
    """The method that ``to_dict`` gave these fields.

    Raises:
        UsageError: for an unknown name or a parameter outside its grid.
    """
    return method_class(str(fields["name"])).from_dict(fields)


def check_method(name: str, smoothing: str | None) -> None:
    """Refuses an unknown method, ``best`` aside, or a smoothing that it is not valid for.

    Raises:
        UsageError: naming what to use.
    """
    if name == BEST:
        check_smoothing(name, SMOOTHINGS, smoothing or "global")
    else:
        check_smoothing(name, method_class(name).smoothings, smoothing or "global")


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: for an unknown name; the message has the nearest one.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}{nearest(name, (*METHODS, BEST))}")
    return METHODS[name]
