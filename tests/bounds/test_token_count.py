"""Lower confidence bounds of how many tokens there are: against scipy and slow twins, and by simulation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from lm_bounds.bounds import SHARE_GRID, TokenCount, mean_lower, proportion_upper
from lm_bounds.errors import UsageError


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1), st.floats(1e-9, 0.5))
def test_a_proportion_has_the_bound_of_clopper_and_pearson(n: int, share: float, failure_prob: float) -> None:
    k = round(share * n)
    wanted = 1.0 if k == n else beta.ppf(1 - failure_prob, k + 1, n - k)
    assert proportion_upper(k, n, failure_prob) == pytest.approx(wanted, rel=1e-6)


def test_a_proportion_of_no_trials_is_refused() -> None:
    for k, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(UsageError, match="successes"):
            proportion_upper(k, n, 0.1)


def products(values: np.ndarray, mean: float) -> float:
    """The mean of the bets' gains, bet by bet and draw by draw."""
    gains = []
    for k in range(12):
        stake, capital = 2 ** (-k / 2), 1.0
        for value in values:
            capital *= 1 - stake + stake * value / mean
        gains.append(capital)
    return sum(gains) / 12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1e-4, 0.5))
def test_the_bound_of_a_mean_is_where_the_bets_win(values: list[float], failure_prob: float) -> None:
    found = mean_lower(values, np.ones(len(values)), failure_prob)
    assert 0 <= found <= max(values)
    if found > 1e-12:
        assert products(np.array(values), found * (1 - 1e-9)) >= 1 / failure_prob * (1 - 1e-6)
    if found < 1:
        assert products(np.array(values), min(1.0, found * (1 + 1e-9) + 1e-15)) <= 1 / failure_prob * (1 + 1e-6)


def test_repeated_values_are_counted() -> None:
    values, counts = np.array([0.1, 0.4, 0.0]), np.array([30, 50, 7])
    assert mean_lower(values, counts, 0.01) == mean_lower(np.repeat(values, counts), np.ones(87), 0.01)


def test_values_outside_of_the_interval_are_refused() -> None:
    for values, counts in (([1.1], [1]), ([-0.1], [1]), ([], []), ([0.5], [0])):
        with pytest.raises(UsageError, match="lower confidence bound"):
            mean_lower(values, counts, 0.1)


@pytest.mark.parametrize("draw", ["constant", "binary", "text", "rare"])
def test_the_mean_is_below_its_bound_no_more_often_than_is_said(draw: str) -> None:
    random, n, level, n_trials = np.random.default_rng(3), 200, 0.1, 1500
    shapes: dict[str, tuple[Any, float]] = {
        "constant": (lambda: np.full(n, 0.25), 0.25),
        "binary": (lambda: (random.random(n) < 0.3).astype(float), 0.3),
        "text": (lambda: random.beta(40, 120, n), 0.25),
        "rare": (lambda: random.random(n) < 0.01, 0.01),
    }
    sample, mean = shapes[draw]
    failures = sum(mean_lower(sample(), np.ones(n), level) > mean for _ in range(n_trials))
    assert binomtest(failures, n_trials, level, alternative="greater").pvalue > 1e-6
    # the sample's mean itself, without its confidence, does not pass
    plain = sum(float(np.mean(sample())) > mean + 1e-9 for _ in range(n_trials))
    assert draw == "constant" or binomtest(plain, n_trials, level, alternative="greater").pvalue < 1e-6


def test_clopper_and_pearson_cover_exactly() -> None:
    n, level = 400, 0.05
    for p in (0.002, 0.01, 0.3):
        too_low = [proportion_upper(k, n, level) < p for k in range(n + 1)]
        assert float(binom.pmf(np.arange(n + 1), n, p) @ np.array(too_low)) <= level + 1e-9


def count_of(**given: Any) -> TokenCount:
    fields: dict[str, Any] = {"slots": 10**9, "per_token": 2, "row_tokens": 2048, "drawn": 100, "void": 3}
    fields.update(shares={"352": 97, "0": 3}, rows=40, void_rows=1)
    return TokenCount(**{**fields, **given})


def test_it_bounds_the_number_from_below() -> None:
    count = count_of(drawn=10_000, shares={"352": 9_700, "0": 300})
    true = 10**9 / 2 * (0.97 * 352 / SHARE_GRID)
    assert 0.98 * true < count.at_least(1e-3) < true
    assert count.at_least(1e-6) < count.at_least(1e-3)
    assert count.mean_share == pytest.approx(0.97 * 352 / SHARE_GRID)


def test_a_declared_number_is_lowered_for_malformed_rows() -> None:
    count = count_of(declared=10**7)
    wanted = 10**7 * (1 - beta.ppf(1 - 1e-3, 2, 39))
    assert count.at_least(1e-3) == pytest.approx(wanted, rel=1e-6)


def test_more_than_what_was_found_is_not_taken_at_its_word() -> None:
    assert count_of(declared=10**12).at_least(1e-3) == count_of().at_least(1e-3)


def test_it_survives_json() -> None:
    count = count_of(declared=5)
    assert TokenCount(**json.loads(json.dumps(count.to_dict()))) == count


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"per_token": 0},
        {"slots": 1.5},
        {"void": -1},
        {"drawn": 99},
        {"shares": {"1025": 100}},
        {"shares": {"-1": 100}},
        {"shares": {"5": 101, "6": -1}},
        {"declared": 0},
        {"declared": 1.0},
        {"declared": 5, "rows": 0},
        {"void": 101},
        {"rows": 101},
        {"void_rows": 4},
        {"rows": 2, "void_rows": 3},
    ],
)
def test_numbers_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        count_of(**wrong)


def test_slots_for_so_many_tokens_are_as_many_as_chance_has_it() -> None:
    random, n, share, outside = np.random.default_rng(5), 200, 0.25, 0
    exact = count_of(drawn=10**9, shares={"256": 10**9}, void=0, rows=0, void_rows=0)
    level = 0.01
    low, high = exact.attempts(n, level)
    for _ in range(2000):
        needed = n + random.negative_binomial(n, share)
        outside += not low <= needed <= high
    assert binomtest(outside, 2000, 2 * level, alternative="greater").pvalue > 1e-6
    assert 0.7 * n / share < low < n / share < high < 1.4 * n / share
    few = count_of(drawn=100, shares={"256": 100}, void=0, rows=0, void_rows=0).attempts(n, level)
    assert few[0] < low < high < few[1]
    none = count_of(drawn=100, shares={"0": 100}, void=0, rows=0, void_rows=0).attempts(n, level)
    assert none[1] == math.inf
