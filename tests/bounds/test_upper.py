"""What the upper confidence bounds refuse, and their values where they are known without any computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lm_bounds.bounds import (
    azuma_bound,
    chernoff_kl_upper,
    freedman_bound,
    hoeffding_upper,
    kl_inf_upper,
    two_point_upper,
)
from lm_bounds.bounds.upper import bernoulli_kl
from lm_bounds.errors import UsageError


def test_without_a_rate_the_geometric_mean_remains() -> None:
    assert kl_inf_upper([1.0, 1.0], 5.0, 0.0) == 1.0
    assert kl_inf_upper([-4.0, 4.0], 5.0, 0.0) == pytest.approx(5 - 3, abs=1e-14)
    assert two_point_upper(2.0, 2.0, 2.0, 5.0, 0.0) == 2.0
    assert chernoff_kl_upper(0.25, 0.0, 1.0, 0.0) == pytest.approx(0.25, abs=1e-15)


def test_at_an_infinite_rate_the_ceiling_remains() -> None:
    assert kl_inf_upper([0.0, 1.0], [2.0, 4.0], math.inf) == pytest.approx(3.0, abs=1e-15)
    assert two_point_upper(0.5, 0.0, 1.0, 2.0, math.inf) == 2.0
    assert chernoff_kl_upper(0.5, 0.0, 1.0, math.inf) == 1.0


def test_one_value_at_a_constant_ceiling() -> None:
    for rate in (1e-9, 0.3, 4.0):
        expected = 0.25 + 0.75 * -math.expm1(-rate)
        assert kl_inf_upper([0.25], 1.0, rate) == pytest.approx(expected, rel=1e-15)
        assert two_point_upper(0.25, 0.25, 0.25, 1.0, rate) == pytest.approx(expected, rel=1e-15)


def test_a_sample_of_the_largest_value_says_nothing() -> None:
    assert chernoff_kl_upper(1.0, 0.0, 1.0, 0.1) == 1.0
    assert chernoff_kl_upper(3.0, 3.0, 3.0, 0.1) == 3.0
    assert two_point_upper(1.0, 0.0, 1.0, 1.0 + 1e-12, 5.0) == pytest.approx(1.0, abs=2e-12)


def test_chernoff_kl_is_where_the_divergence_reaches_the_rate() -> None:
    for share in (1e-9, 0.01, 0.5, 0.97):
        for rate in (1e-12, 1e-6, 0.01, 0.2):
            upper = chernoff_kl_upper(share, 0.0, 1.0, rate)
            assert bernoulli_kl(share, upper) >= rate  # rounded up
            assert bernoulli_kl(share, upper) == pytest.approx(rate, rel=1e-7)


def test_divergence_of_equal_and_of_impossible_distributions() -> None:
    assert bernoulli_kl(0.3, 0.3) == 0.0
    assert bernoulli_kl(0.0, 0.5) == pytest.approx(math.log(2))
    assert bernoulli_kl(1.0, 0.5) == pytest.approx(math.log(2))
    assert bernoulli_kl(1.0, 1.0) == 0.0
    assert bernoulli_kl(0.5, 1.0) == math.inf


@pytest.mark.parametrize(
    ("values", "ceilings"),
    [
        ([1.0], 1.0),
        ([1.0, 0.0], [2.0, 0.0]),
        ([0.0], math.inf),
        ([-math.inf], 1.0),
        ([math.nan], 1.0),
        ([0.0], math.nan),
    ],
)
def test_values_must_be_finite_and_below_finite_ceilings(values: list[float], ceilings: float | list[float]) -> None:
    with pytest.raises(UsageError, match="every value must be finite and below its finite ceiling"):
        kl_inf_upper(values, ceilings, 0.1)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one value, none was given"):
        kl_inf_upper(np.zeros(0), 1.0, 0.1)


@pytest.mark.parametrize(
    ("mean", "low", "high", "ceiling"),
    [
        (1.5, 0, 1, 2),
        (-0.5, 0, 1, 2),
        (0.5, 0, 1, 1),
        (0.5, 0, 1, math.inf),
        (math.nan, 0, 1, 2),
        (0.5, 0, 1, math.nan),
    ],
)
def test_two_point_needs_a_mean_in_range_below_the_ceiling(mean: float, low: int, high: int, ceiling: float) -> None:
    with pytest.raises(UsageError, match="low <= mean <= high < ceiling < inf"):
        two_point_upper(mean, low, high, ceiling, 0.1)


@pytest.mark.parametrize(("mean", "low", "high"), [(1.5, 0, 1), (-0.5, 0, 1), (math.nan, 0, 1), (0.5, 1, 0)])
def test_chernoff_kl_needs_a_mean_in_range(mean: float, low: int, high: int) -> None:
    with pytest.raises(UsageError, match="low <= mean <= high"):
        chernoff_kl_upper(mean, low, high, 0.1)


@pytest.mark.parametrize(
    ("value_range", "n", "failure_prob"), [(1, 0, 0.1), (-1, 5, 0.1), (1, 5, 0.0), (1, 5, 1.1), (math.nan, 5, 0.1)]
)
def test_hoeffding_outside_its_ranges(value_range: float, n: int, failure_prob: float) -> None:
    with pytest.raises(UsageError, match="hoeffding_upper needs n >= 1, 0 < failure_prob <= 1 and value_range >= 0"):
        hoeffding_upper(0.5, value_range, n, failure_prob)


@pytest.mark.parametrize(("loss_range", "rate"), [(-1.0, 0.1), (1.0, -0.1), (math.nan, 0.1), (1.0, math.nan)])
def test_azuma_outside_its_ranges(loss_range: float, rate: float) -> None:
    with pytest.raises(UsageError, match="azuma needs loss_range >= 0 and rate >= 0"):
        azuma_bound(0.5, loss_range, rate)


@pytest.mark.parametrize(("scale", "step"), [(0.0, 0.5), (-1.0, 0.5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)])
def test_freedman_outside_its_ranges(scale: float, step: float) -> None:
    with pytest.raises(UsageError, match="0 < s < 1, Delta > 0"):
        freedman_bound([0.5], 0.5, scale, 0.1, step)


def test_freedman_refuses_a_loss_too_far_above_its_centre() -> None:
    with pytest.raises(UsageError, match="choose a larger Delta"):
        freedman_bound([3.0], 0.0, 1.0, 0.1, 0.5)
    assert freedman_bound([1.0], 0.0, 1.0, 0.0, 0.5) == pytest.approx(2 * math.log(2))  # A = -1 is allowed
