"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_bounds.bounds.azuma import Azuma
from lm_bounds.bounds.freedman import Freedman
from lm_bounds.bounds.kl_inf import KlInf
from lm_bounds.bounds.paper import Paper
from lm_bounds.bounds.protocol import Method, Problem
from lm_bounds.bounds.statistics import TokenStatistics
from lm_bounds.errors import UsageError, nearest

METHODS: dict[str, type[Method]] = {
    "kl_inf": KlInf,
    "freedman": Freedman,
    "azuma": Azuma,
    "paper": Paper,
}


def choose_method(name: str, problem: Problem, pilot: TokenStatistics) -> Method:
    """The named method with its parameters chosen on the pilot.

    Raises:
        UsageError: for an unknown name.
    """
    return method_class(name).choose(problem, pilot)


def method_from_dict(fields: Mapping[str, Any]) -> Method:
    """The method that ``to_dict`` gave these fields.

    Raises:
        UsageError: for an unknown name or a parameter outside its grid.
    """
    return method_class(str(fields["name"])).from_dict(fields)


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: for an unknown name; the message has the nearest one.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}{nearest(name, METHODS)}")
    return METHODS[name]
