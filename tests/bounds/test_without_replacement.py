"""Upper confidence bounds of a finite population's mean: digits, limits, and failure probabilities by simulation.

Failures are counted over seeded repetitions; a level is refuted where so many would come up with probability below 1e-4
at it. Draws that are not those that a bound was made for have to be refuted by the same counts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from scipy.stats import binom

from lm_bounds.bounds import (
    Problem,
    bernstein_upper,
    certify,
    choose_method,
    hoeffding_upper,
    kl_inf_upper,
    window_means,
    without_replacement_upper,
)
from lm_bounds.bounds.protocol import sample_mean
from lm_bounds.bounds.search import level_rate
from lm_bounds.errors import UsageError

Array = np.ndarray
SEEDS = st.integers(0, 2**32 - 1)
modest = settings(deadline=None, max_examples=60)
LEAST_TAIL = 1e-4


# The bound against a slow twin


def surprise(mean: mpf, values: list[mpf], sizes: list[int], total: int, ceiling: mpf) -> mpf:
    """ln of the product of (c - v_j)/(c - mu_j), draw after draw; infinite where some mu_j is not below c."""
    log_product, seen, drawn = mpf(0), mpf(0), 0
    for value, size in zip(values, sizes, strict=True):
        expected = (total * mean - seen) / (total - drawn)
        if expected >= ceiling:
            return mpf("inf")
        log_product += mpmath.log((ceiling - value) / (ceiling - expected))
        seen, drawn = seen + size * value, drawn + size
    return mpf("inf") if total * mean - seen > (total - drawn) * ceiling else log_product


def slow_upper(values: Array, sizes: Array, total: int, ceiling: float, failure_prob: float) -> mpf:
    numbers, whole = [mpf(float(value)) for value in values], [int(size) for size in sizes]
    if sum(whole) == total:
        return mpmath.fsum(size * value for size, value in zip(whole, numbers, strict=True)) / total
    low, high = min(numbers) - 1, mpf(ceiling)
    nats = -mpmath.log(mpf(failure_prob))
    for _ in range(130):
        middle = (low + high) / 2
        low, high = (middle, high) if surprise(middle, numbers, whole, total, mpf(ceiling)) <= nats else (low, middle)
    return high


def random_draws(rng: np.random.Generator, largest: int = 9) -> tuple[Array, Array, int]:
    """Values, sizes and a total that leaves nothing, one token, or much."""
    n = int(rng.integers(1, 40))
    values = rng.normal(0, 3, n) * rng.choice([1.0, 0.0], n, p=[0.8, 0.2])
    sizes = rng.integers(1, largest + 1, n)
    return values, sizes, int(sizes.sum()) + int(rng.choice([0, 1, 7, 300, 10**7]))


@settings(deadline=None, max_examples=80)
@given(SEEDS, st.floats(-9, 30), st.floats(-40, 0))
def test_twin(seed: int, log2_margin: float, log_failure_prob: float) -> None:
    rng = np.random.default_rng(seed)
    values, sizes, total = random_draws(rng)
    ceiling = float(values.max()) + 2.0**log2_margin
    failure_prob = math.exp(log_failure_prob)
    found = without_replacement_upper(values, sizes, total, ceiling, failure_prob)
    with mpmath.workdps(40):
        true = slow_upper(values, sizes, total, ceiling, failure_prob)
        # what certify adds is 1e-13 of one plus the bound's size: no digits are lost to a far ceiling, none above it
        assert abs(mpf(found) - true) <= mpf(2e-14) * (1 + abs(true))


@pytest.mark.parametrize("ceiling", [1e3, 1e6, 1e9, 1e12])
def test_huge_ceilings_lose_no_digits(ceiling: float) -> None:
    rng = np.random.default_rng(1)
    values, sizes = rng.normal(2, 1, 400), rng.integers(1, 9, 400)
    total = 4 * int(sizes.sum())
    found = without_replacement_upper(values, sizes, total, ceiling, 0.9999999)
    with mpmath.workdps(40):
        true = slow_upper(values, sizes, total, ceiling, 0.9999999)
    assert abs(mpf(found) - true) <= 2e-14 * (1 + abs(true))


@modest
@given(SEEDS)
def test_it_is_the_exact_mean_where_all_is_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, sizes, _ = random_draws(rng)
    total = int(sizes.sum())
    for ceiling, failure_prob in ((values.max() + 1e-3, 1e-300), (1e9, 0.5)):
        found = without_replacement_upper(values, sizes, total, ceiling, failure_prob)
        assert found == pytest.approx(float(np.average(values, weights=sizes)), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("failure_prob", [1e-9, 0.05, 0.9])
def test_it_approaches_the_bound_with_replacement_for_huge_totals(failure_prob: float) -> None:
    rng = np.random.default_rng(2)
    values, sizes = rng.gamma(1.0, 1.0, 200), rng.integers(1, 9, 200)
    ceiling = float(values.max()) + 0.7
    wanted = kl_inf_upper(values, ceiling, level_rate(failure_prob, 200))
    gaps = [
        without_replacement_upper(values, sizes, total, ceiling, failure_prob) - wanted
        for total in (10**5, 10**7, 10**13)
    ]
    assert all(abs(next_) < abs(gap) for gap, next_ in itertools.pairwise(gaps))
    assert abs(gaps[-1]) < 1e-9


@modest
@given(SEEDS, st.floats(1e-12, 1.0), st.floats(0, 1), st.floats(-6, 12))
def test_it_falls_with_the_failure_probability_and_rises_with_every_value(
    seed: int, failure_prob: float, share: float, log2_margin: float
) -> None:
    rng = np.random.default_rng(seed)
    values, sizes, total = random_draws(rng)
    ceiling = float(values.max()) + 2.0**log2_margin
    found = without_replacement_upper(values, sizes, total, ceiling, failure_prob)
    slack = 1e-12 * (1 + abs(found))
    surer = without_replacement_upper(values, sizes, total, ceiling, max(failure_prob * share, 1e-300))
    assert surer >= found - slack
    higher = values + (ceiling - values) * rng.random(len(values)) * 0.9
    assert without_replacement_upper(higher, sizes, total, ceiling, failure_prob) >= found - slack
    rest = total - int(sizes.sum())
    at_most = (float(sizes @ values) + rest * ceiling) / total  # what is left is below the ceiling
    assert found <= at_most + slack


@pytest.mark.parametrize(
    ("values", "sizes", "total", "ceiling", "failure_prob", "message"),
    [
        ([], [], 4, 2.0, 0.05, "as many sizes as values"),
        ([1.0], [1, 1], 4, 2.0, 0.05, "as many sizes as values"),
        ([1.0], [1], 4, 2.0, 0.0, r"a probability in \(0, 1\]"),
        ([1.0], [1], 4, 2.0, math.nan, r"a probability in \(0, 1\]"),
        ([2.0], [1], 4, 2.0, 0.05, "below its finite ceiling"),
        ([math.nan], [1], 4, 2.0, 0.05, "below its finite ceiling"),
        ([-math.inf], [1], 4, 2.0, 0.05, "below its finite ceiling"),
        ([1.0], [1], 4, math.inf, 0.05, "below its finite ceiling"),
        ([1.0], [0], 4, 2.0, 0.05, "at least 1 and sum to at most 4"),
        ([1.0, 1.0], [2, 3], 4, 2.0, 0.05, "at least 1 and sum to at most 4"),
    ],
)
def test_what_is_no_draw_of_a_population_is_refused(
    values: list[float], sizes: list[int], total: int, ceiling: float, failure_prob: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        without_replacement_upper(values, sizes, total, ceiling, failure_prob)


@pytest.mark.parametrize(
    ("values", "failure_prob", "message"),
    [
        ([0.5], 0.05, "at least two values"),
        ([0.5, 0.5], 0.0, r"a probability in \(0, 1\]"),
        ([0.5, 1.1], 0.05, r"every value must be in \[0.0, 1.0\]"),
        ([0.5, math.nan], 0.05, r"every value must be in \[0.0, 1.0\]"),
    ],
)
def test_what_empirical_bernstein_refuses(values: list[float], failure_prob: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bernstein_upper(values, 0.0, 1.0, failure_prob)


# The risk that is reported


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_sample_mean_is_unbiased_over_all_orders_of_draws(n: int) -> None:
    """Exactly, with fractions for the probability of every order; and the plain mean of the values is not."""
    sizes, values = [1, 4, 2, 7, 3], [5.0, 0.5, -2.0, 3.0, 0.25]
    total = sum(sizes)
    problem = Problem("bpd", 50, total, n, 0.0, 0.05, replacement=False)
    expectation, plain = Fraction(0), Fraction(0)
    for order in itertools.permutations(range(5), n):
        probability, left = Fraction(1), total
        for number in order:
            probability *= Fraction(sizes[number], left)
            left -= sizes[number]
        drawn = np.array([values[i] for i in order]), np.array([sizes[i] for i in order])
        found = sample_mean(*drawn, problem)
        expectation += probability * Fraction(found)
        plain += probability * Fraction(float(np.mean(drawn[0])))
        if n == 5:
            assert found == pytest.approx(np.average(values, weights=sizes), rel=1e-15)
    true = sum(size * Fraction(value) for size, value in zip(sizes, values, strict=True)) / total
    assert abs(float(expectation - true)) < 1e-15
    assert n == 1 or abs(float(plain - true)) > 0.1


def test_the_sample_mean_with_replacement_is_the_mean() -> None:
    problem = Problem("bpd", 50, 10, 3, 0.0, 0.05)
    assert sample_mean(np.array([1.0, 5.0, 0.0]), np.array([3, 1, 1]), problem) == 2.0


# Coverage


def refuted(failed: Array, level: float) -> bool:
    """Whether so many failures have a probability below 1e-4 at this level."""
    return float(binom.sf(int(failed.sum()) - 1, len(failed), level)) < LEAST_TAIL


def successive(rng: np.random.Generator, sizes: Array, n: int, repetitions: int) -> Array:
    """The first n of all windows, each in proportion to its size among those left; shape (repetitions, n)."""
    # the order of independent exponential times at rates that are the sizes
    return np.argsort(rng.exponential(size=(repetitions, len(sizes))) / sizes, axis=1)[:, :n]


def proportional(rng: np.random.Generator, sizes: Array, n: int, repetitions: int) -> Array:
    """n independent windows in proportion to their size; shape (repetitions, n)."""
    return rng.choice(len(sizes), size=(repetitions, n), p=sizes / sizes.sum())


def uniform(rng: np.random.Generator, sizes: Array, n: int, repetitions: int) -> Array:
    """The first n of all windows in a uniform order, whatever their sizes; shape (repetitions, n)."""
    return np.argsort(rng.random((repetitions, len(sizes))), axis=1)[:, :n]


def smallest_first(rng: np.random.Generator, sizes: Array, n: int, repetitions: int) -> Array:
    """Draws in proportion to their size, put in the order of their sizes; shape (repetitions, n)."""
    drawn = successive(rng, sizes, n, repetitions)
    return np.take_along_axis(drawn, np.argsort(sizes[drawn], axis=1, kind="stable"), axis=1)


def population(rng: np.random.Generator, n_windows: int, kind: str) -> tuple[Array, Array]:
    """Values in [0, 1] and sizes: the larger windows are the harder ones."""
    sizes = rng.permutation(np.resize([1, 2, 3, 9, 30], n_windows))
    if kind == "rare":
        values = np.zeros(n_windows)
        values[np.argsort(sizes)[-max(1, n_windows // 15) :]] = 1.0
        return values, sizes
    return np.clip(sizes / 40 + 0.2 * rng.random(n_windows), 0, 1), sizes


def failures(values: Array, sizes: Array, drawn: Array, upper: Callable[[Array, Array], float]) -> Array:
    true = float(np.average(values, weights=sizes))
    return np.array([upper(values[row], sizes[row]) < true for row in drawn])


@pytest.mark.parametrize("kind", ["rare", "even"])
@pytest.mark.parametrize(("n_windows", "n"), [(6, 1), (12, 6), (30, 20), (45, 44), (200, 30)])
@pytest.mark.parametrize("ceiling", [1.0001, 1.3, 4.0])
def test_coverage_without_replacement(kind: str, n_windows: int, n: int, ceiling: float) -> None:
    rng = np.random.default_rng(3)
    values, sizes = population(rng, n_windows, kind)
    level, total = 0.2, int(sizes.sum())
    drawn = successive(rng, sizes, n, 3000)
    failed = failures(values, sizes, drawn, lambda v, s: without_replacement_upper(v, s, total, ceiling, level))
    assert not refuted(failed, level)


def test_coverage_is_nearly_all_that_is_allowed_where_the_bound_is_tight() -> None:
    """No error is seen with probability just over the level, and the bound is then just below the share of errors."""
    rng = np.random.default_rng(4)
    n, level = 20, 0.2
    share = 0.0770  # 1 - 0.2^(1/20) = 0.0773 with replacement; without it a little fewer misses are as likely
    sizes = np.resize([1, 2, 3, 9, 30], 4000)
    order = rng.permutation(len(sizes))
    values = np.zeros(len(sizes))
    values[order[np.cumsum(sizes[order]) <= (share + 5e-4) * sizes.sum()]] = 1.0
    drawn = proportional(rng, sizes, 3 * n, 4000)
    total = int(sizes.sum())
    rows = np.array([list(dict.fromkeys(row.tolist()))[:n] for row in drawn])
    failed = failures(values, sizes, rows, lambda v, s: without_replacement_upper(v, s, total, 1 + 1e-9, level))
    assert not refuted(failed, level)
    assert failed.mean() > 0.9 * level
    assert refuted(failed, 0.8 * level)


BIASED: dict[str, Callable[[np.random.Generator, Array, int, int], Array]] = {
    "uniform draws": uniform,
    "in the order of their sizes": smallest_first,
}


@pytest.mark.parametrize("bias", BIASED)
def test_draws_that_are_not_in_proportion_to_their_size_are_refuted(bias: str) -> None:
    rng = np.random.default_rng(5)
    values, sizes = population(rng, 60, "even")
    level, total = 0.2, int(sizes.sum())

    def upper(v: Array, s: Array) -> float:
        return without_replacement_upper(v, s, total, 1.3, level)

    assert not refuted(failures(values, sizes, successive(rng, sizes, 30, 1500), upper), level)
    assert refuted(failures(values, sizes, BIASED[bias](rng, sizes, 30, 1500), upper), level)


@pytest.mark.parametrize("name", ["kl_inf", "hoeffding", "bernstein"])
def test_bounds_for_independent_draws_hold_for_them_and_not_for_draws_without_replacement(name: str) -> None:
    """Large hard windows that can be drawn but once: the mean of the draws is too small, and ever surer to be."""
    rng = np.random.default_rng(6)
    sizes = np.array([400] * 10 + [1] * 1200)
    values = np.where(sizes > 1, 0.9, 0.1) + 0.05 * rng.random(len(sizes))
    level, n = 0.2, 1000
    uppers: dict[str, Callable[[Array, Array], float]] = {
        "kl_inf": lambda v, s: kl_inf_upper(v, 1.5, level_rate(level, n)),
        "hoeffding": lambda v, s: hoeffding_upper(float(v.mean()), 1.0, n, level),
        "bernstein": lambda v, s: bernstein_upper(v, 0.0, 1.0, level),
    }
    assert not refuted(failures(values, sizes, proportional(rng, sizes, n, 600), uppers[name]), level)
    drawn = successive(rng, sizes, n, 600)
    assert refuted(failures(values, sizes, drawn, uppers[name]), level)
    total = int(sizes.sum())
    own = failures(values, sizes, drawn, lambda v, s: without_replacement_upper(v, s, total, 1.5, level))
    assert not refuted(own, level)


@pytest.mark.parametrize("kind", ["rare", "even"])
@pytest.mark.parametrize("n", [2, 20, 300])
@pytest.mark.parametrize("upper", ["hoeffding", "bernstein"])
def test_coverage_with_replacement(upper: str, n: int, kind: str) -> None:
    rng = np.random.default_rng(7)
    values, sizes = population(rng, 40, kind)
    level = 0.2
    drawn = proportional(rng, sizes, n, 3000)
    if upper == "hoeffding":
        failed = failures(values, sizes, drawn, lambda v, s: hoeffding_upper(float(v.mean()), 1.0, n, level))
    else:
        failed = failures(values, sizes, drawn, lambda v, s: bernstein_upper(v, 0.0, 1.0, level))
    assert not refuted(failed, level)


# Through a method


@pytest.mark.parametrize(("upper", "replacement"), [("kl_inf", False), ("hoeffding", True), ("bernstein", True)])
@pytest.mark.parametrize("name", ["kl_inf", "freedman", "azuma", "azuma_lambda"])
def test_the_upper_bound_of_a_problem_is_the_one_that_is_used(
    name: str, upper: str, replacement: bool, statistics_of
) -> None:
    rng = np.random.default_rng(8)
    sample = statistics_of(rng, 40, 6, 512)
    problem = Problem("bpd", 512, 10**6, 40, 9e3, 0.05, 3, replacement=replacement, upper=upper)
    method = choose_method(name, problem, statistics_of(rng, 64, 6, 512))
    means = {k: window_means(v, sample.window_sizes) for k, v in method.columns(sample).items()}
    bound = certify(method, problem, means, sample.window_sizes)
    z, (_, level) = method.statistic(means, bound.rate), method.failure_probs(problem)
    low, high = method.statistic_min(bound.rate), method.statistic_max(bound.rate)
    assert np.all((low <= z) & (z <= high))
    wanted = {
        "kl_inf": lambda: without_replacement_upper(z, sample.window_sizes, 10**6, method.sampling_ceiling, level),
        "hoeffding": lambda: hoeffding_upper(float(z.mean()), high - low, 40, level),
        "bernstein": lambda: bernstein_upper(z, low, high, level),
    }[upper]()
    assert bound.value == pytest.approx(min(wanted, method.loss.loss_max), rel=1e-12)
    assert bound.value >= min(wanted, method.loss.loss_max) * (1 - 1e-15)
    assert bound.value == bound.risk + bound.complexity + bound.sampling


@pytest.mark.parametrize("smoothing", ["global", "entropy"])
@pytest.mark.parametrize("name", ["kl_inf", "freedman"])
def test_nothing_is_added_for_the_sample_where_every_window_was_scored(
    name: str, smoothing: str, statistics_of
) -> None:
    rng = np.random.default_rng(9)
    sample = statistics_of(rng, 50, 6, 512)
    n_tokens = sample.n_tokens
    problem = Problem("bpd", 512, n_tokens, 50, 20.0, 0.05, replacement=False)
    method = choose_method(name, problem, statistics_of(rng, 64, 6, 512), smoothing)
    means = {k: window_means(v, sample.window_sizes) for k, v in method.columns(sample).items()}
    bound = certify(method, problem, means, sample.window_sizes)
    z = method.statistic(method.columns(sample), bound.rate)
    assert bound.value == pytest.approx(min(z.mean(), method.loss.loss_max), rel=1e-12)
    assert 0.0 <= bound.sampling <= 1e-11
    assert bound.risk == pytest.approx(method.loss.of(sample).mean(), rel=1e-13)
    fewer = dataclasses.replace(problem, n_tokens=n_tokens + 1)
    assert certify(method, fewer, means, sample.window_sizes).value > bound.value


def test_fewer_tokens_left_make_a_tighter_bound() -> None:
    rng = np.random.default_rng(10)
    values, sizes = rng.gamma(1.0, 1.0, 300), np.full(300, 8)
    bounds = [
        without_replacement_upper(values, sizes, total, 20.0, 0.05) for total in (2401, 2600, 4000, 10_000, 10**6)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] - values.mean() < 0.1 * (bounds[-1] - values.mean())
