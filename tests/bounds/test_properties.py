"""What must hold of every number, whatever the numbers: order, monotonicity, tightness."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.bounds import (
    METHODS,
    METRICS,
    Problem,
    TokenStatistics,
    certify,
    chernoff_kl_upper,
    complexity_rate,
    freedman_bound,
    hoeffding_upper,
    kl_inf_upper,
    two_point_upper,
    window_means,
)
from lm_bounds.bounds.search import sampling_upper
from lm_bounds.errors import UsageError

SEEDS = st.integers(0, 2**32 - 1)
RATES = st.one_of(st.just(0.0), st.floats(1e-12, 50.0), st.floats(-27.0, 4.0).map(math.exp))
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)
EVERY_METRIC = pytest.mark.parametrize("metric", METRICS[:3])
modest = settings(deadline=None, max_examples=40)
SLACK = 1e-12  # relative; the sampling ceiling is never closer to z_max than 4e-12 (1 + |z_max|)


def bounded_above(left, right) -> bool:
    """left <= right up to rounding."""
    return bool(np.all(np.asarray(left) <= right + SLACK * (1 + np.abs(right))))


def column_means(method, sample: TokenStatistics) -> dict[str, np.ndarray]:
    return {name: window_means(values, sample.window_sizes) for name, values in method.columns(sample).items()}


# Upper confidence bounds of a mean


@modest
@given(SEEDS, RATES, st.floats(-10, 20))
def test_kl_inf_upper_lies_between_the_mean_and_the_mean_ceiling(seed: int, rate: float, log2_margin: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 5, rng.integers(1, 30))
    ceilings = values.max() + 2.0**log2_margin * (1 + rng.random(len(values)))
    upper = kl_inf_upper(values, ceilings, rate)
    assert bounded_above(values.mean(), upper)
    assert bounded_above(upper, ceilings.mean())
    assert bounded_above(upper, kl_inf_upper(values, ceilings, rate * 1.5))
    higher = values + rng.random(len(values)) * (ceilings - values) * 0.99
    assert bounded_above(upper, kl_inf_upper(higher, ceilings, rate))


@modest
@given(SEEDS, RATES, st.floats(-12, 20))
def test_two_point_is_the_worst_sample_of_a_mean(seed: int, rate: float, log2_margin: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 7, rng.integers(1, 30))
    ceiling = 7 + 8 * 2.0**log2_margin
    worst = two_point_upper(float(values.mean()), -1.0, 7.0, ceiling, rate)
    assert bounded_above(kl_inf_upper(values, ceiling, rate), worst)
    ends = np.repeat([-1.0, 7.0], rng.integers(1, 9, 2))
    at_ends = two_point_upper(float(ends.mean()), -1.0, 7.0, ceiling, rate)
    assert kl_inf_upper(ends, ceiling, rate) == pytest.approx(at_ends, rel=SLACK)


@modest
@given(st.floats(1e-6, 1 - 1e-6), RATES.filter(lambda rate: rate > 1e-9), SEEDS)
def test_chernoff_kl_is_the_least_two_point_bound(share: float, rate: float, seed: int) -> None:
    upper = chernoff_kl_upper(share, 0.0, 1.0, rate)
    ceilings = 1 + np.exp2(np.random.default_rng(seed).uniform(-30, 30, 50))
    assert all(bounded_above(upper, two_point_upper(share, 0.0, 1.0, float(c), rate)) for c in ceilings)
    # Where 1 + (upper - v)/(c - upper) is the likelihood ratio of Bernoulli(share) to Bernoulli(upper):
    best = upper + upper * (1 - upper) / (upper - share)
    if best > 1:
        assert two_point_upper(share, 0.0, 1.0, best, rate) == pytest.approx(upper, rel=1e-9)
    assert share < upper <= 1


@modest
@given(st.floats(0, 1), RATES, st.integers(1, 10**9))
def test_chernoff_kl_is_below_hoeffding(share: float, rate: float, n: int) -> None:
    failure_prob = math.exp(-min(rate * n, 500.0))
    level = -math.log(failure_prob) / n
    chernoff = chernoff_kl_upper(2 + 3 * share, 2.0, 5.0, level)
    assert bounded_above(chernoff, hoeffding_upper(2 + 3 * share, 3.0, n, failure_prob))
    assert bounded_above(2 + 3 * share, chernoff)


@modest
@given(SEEDS, RATES)
def test_kl_inf_with_the_matching_ceiling_is_never_above_freedman(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    scale, step, n = rng.uniform(0.5, 50), float(rng.choice([1e-5, 0.03, 0.5, 0.84, 0.999])), rng.integers(1, 40)
    losses, centres = rng.uniform(0, scale, (2, n)) * rng.choice([0.0, 1.0], (2, n), p=[0.2, 0.8])
    matching = kl_inf_upper(losses, centres + scale / step, rate)
    assert bounded_above(matching, freedman_bound(losses, centres, scale, rate, step))


@modest
@given(SEEDS, st.floats(1e-9, 5.0))
def test_sampling_ceiling_is_the_best_one(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    statistic = rng.gamma(rng.uniform(0.2, 5), 1.0, rng.integers(2, 200))
    statistic_max = float(statistic.max() + rng.choice([0.0, 1.0, 30.0]))
    ceiling, predicted = sampling_upper(statistic, statistic_max, rate)
    assert ceiling > statistic_max
    assert predicted == kl_inf_upper(statistic, ceiling, rate)
    reach = statistic_max + statistic.std() * np.exp2(np.linspace(-8, 16, 500))
    best = min(kl_inf_upper(statistic, c, rate) for c in reach)
    assert predicted - statistic.mean() <= 1.001 * (best - statistic.mean()) + SLACK


# The linearised statistic


@EVERY_METHOD
@EVERY_METRIC
@modest
@given(SEEDS, RATES)
def test_statistic_is_never_above_its_largest_value(method_of, statistics_of, name, metric, seed, rate) -> None:
    rng = np.random.default_rng(seed)
    vocab_size = int(rng.choice([12, 500, 256_000]))
    method = method_of(rng, name, metric, vocab_size)
    sample = statistics_of(rng, 20, 3, vocab_size)
    top = math.log2(vocab_size)
    grid = np.concatenate([np.linspace(0.0, top, 500), bends(method)])
    ends = TokenStatistics(  # the surest and the worst loss at every entropy
        np.tile([0.0, -math.inf], len(grid)),
        np.tile([1, vocab_size], len(grid)),
        np.repeat(grid, 2),
        np.ones(2 * len(grid)),
        np.array([2 * len(grid)]),
    )
    for case in (sample, ends):
        statistic = method.statistic(method.columns(case), rate)
        assert bounded_above(statistic, method.statistic_max(rate))
        assert bounded_above(method.statistic(column_means(method, case), rate), method.statistic_max(rate))
        assert bounded_above(method.statistic_min(rate), statistic)
    reached = float(np.max(method.statistic(method.columns(ends), rate)))
    assert reached == pytest.approx(method.statistic_max(rate), rel=SLACK)
    assert math.isfinite(method.statistic_min(rate))


def bends(method) -> np.ndarray:
    """The entropies at which the smoothing's exponent or the centre reaches a limit, found without the package."""
    fields, top = method.to_dict(), math.log2(method.vocab_size)
    lines = []
    if "smoothing_slope_index" in fields:
        lines += [(fields["smoothing_offset"], fields["smoothing_slope"], limit) for limit in (0.125, 32.0)]
    if "centre_slope" in fields:
        limits = (method.loss.loss_min, method.loss.loss_max)
        lines += [(fields["centre_offset"], fields["centre_slope"], limit) for limit in limits]
    at = np.array([(limit - offset) / slope for offset, slope, limit in lines if slope])
    return at[(at > 0) & (at < top)]


@EVERY_METHOD
@EVERY_METRIC
@modest
@given(SEEDS)
def test_entropies_are_clamped_to_their_range(method_of, statistics_of, name, metric, seed) -> None:
    rng = np.random.default_rng(seed)
    method = method_of(rng, name, metric, 500)
    sample = statistics_of(rng, 20, 3, 500)
    beyond = rng.choice([-1e-9, -3.0, math.log2(500) + 1e-9, 40.0], sample.n_tokens)
    outside = dataclasses.replace(sample, entropy_bits=beyond)
    clamped = dataclasses.replace(sample, entropy_bits=np.clip(beyond, 0.0, math.log2(500)))
    for column, values in method.columns(outside).items():
        assert np.array_equal(values, method.columns(clamped)[column])


@EVERY_METHOD
@EVERY_METRIC
@modest
@given(SEEDS, RATES)
def test_statistic_rises_with_the_loss(method_of, statistics_of, name, metric, seed, rate) -> None:
    rng = np.random.default_rng(seed)
    method = method_of(rng, name, metric, 500)
    sample = statistics_of(rng, 20, 3, 500)
    worse = dataclasses.replace(
        sample,
        log2_prob=sample.log2_prob - rng.gamma(1.0, 1.0, sample.n_tokens),
        rank=np.minimum(sample.rank + rng.integers(0, 300, sample.n_tokens), 500),
    )
    better, raised = (method.statistic(method.columns(case), rate) for case in (sample, worse))
    assert bounded_above(better, raised)
    assert raised.sum() > better.sum()


@EVERY_METHOD
@EVERY_METRIC
@modest
@given(SEEDS, RATES)
def test_statistic_is_affine_in_the_columns(method_of, statistics_of, name, metric, seed, rate) -> None:
    rng = np.random.default_rng(seed)
    method = method_of(rng, name, metric, 500)
    sample = statistics_of(rng, 9, 5, 500)
    tokens = method.statistic(method.columns(sample), rate)
    windows = method.statistic(column_means(method, sample), rate)
    scale = 1 + np.abs(tokens).max()
    assert windows == pytest.approx(window_means(tokens, sample.window_sizes), abs=SLACK * scale)


@EVERY_METRIC
@modest
@given(SEEDS, RATES)
def test_linearised_bound_touches_the_geometric_mean_bound_at_the_best_t(
    method_of, statistics_of, metric, seed, rate
) -> None:
    rng = np.random.default_rng(seed)
    method = method_of(rng, "kl_inf", metric, 500)
    sample = statistics_of(rng, 20, 3, 500)
    columns = method.columns(sample)
    ceilings = method.ceiling_offset + columns["ceiling_rise"]
    whole = kl_inf_upper(columns["loss"], ceilings, rate)
    linear = float(np.mean(method.statistic(columns, rate)))
    assert bounded_above(whole, linear)
    best = dataclasses.replace(method, linearisation=float(columns["log_headroom"].mean()) - rate)
    touching = float(np.mean(best.statistic(columns, rate)))
    # c1 H is rounded once more where it is added to b.
    assert touching == pytest.approx(whole, rel=1e-9, abs=1e-15 * float(ceilings.max()))
    aside = dataclasses.replace(best, linearisation=best.linearisation + 0.3)
    beside = float(np.mean(aside.statistic(columns, rate)))
    assert beside > touching or (rate > 20 and beside == pytest.approx(touching, rel=SLACK))  # e^-rho fades


@EVERY_METRIC
@modest
@given(SEEDS, RATES)
def test_freedman_statistic_is_the_freedman_bound(method_of, statistics_of, metric, seed, rate) -> None:
    rng = np.random.default_rng(seed)
    method = method_of(rng, "freedman", metric, 500)
    columns = method.columns(statistics_of(rng, 20, 3, 500))
    step = method.to_dict()["step"]
    whole = freedman_bound(columns["loss"], columns["centre"], method.loss.loss_range, rate, step)
    assert float(np.mean(method.statistic(columns, rate))) == pytest.approx(whole, rel=SLACK)


# The whole bound, parameters fixed


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    return Problem(
        metric="bpd",
        vocab_size=500,
        n_tokens=draw(st.integers(1, 10**12)),
        n_windows=12,
        description_bits=draw(st.floats(0, 1e11)),
        failure_prob=draw(st.floats(1e-9, 0.999)),
        shared_draws=draw(st.integers(1, 1000)),
    )


@EVERY_METHOD
@EVERY_METRIC
@modest
@given(SEEDS, problems())
def test_bound_is_monotone_in_every_number(method_of, statistics_of, name, metric, seed, problem) -> None:
    rng = np.random.default_rng(seed)
    problem = dataclasses.replace(problem, metric=metric)
    sample = statistics_of(rng, problem.n_windows, 4, 500)
    easier = {
        "description_bits": problem.description_bits * float(rng.random()),
        "n_tokens": problem.n_tokens * int(rng.integers(2, 100)),
        "failure_prob": problem.failure_prob + (1 - problem.failure_prob) * 0.9 * float(rng.random()),
        "shared_draws": max(1, problem.shared_draws // 2),
    }
    method = method_of(rng, name, metric, 500)
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    if name == "kl_inf":  # a t that fits, so that the bound says something
        t = float(method.columns(sample)["log_headroom"].mean()) - rate
        method = dataclasses.replace(method, linearisation=t)
    if name != "paper":
        ceiling = method.statistic_max(rate) + method.loss.loss_range * 2.0 ** float(rng.uniform(-3, 6))
        method = dataclasses.replace(method, sampling_ceiling=ceiling)
    means = column_means(method, sample)
    sizes = sample.window_sizes
    bound = certify(method, problem, means, sizes)
    assert bound.value <= method.loss.loss_max * (1 + 1e-15)
    assert bound.value == bound.risk + bound.complexity + bound.sampling
    for field, value in easier.items():
        changed = dataclasses.replace(problem, **{field: value})
        assert bounded_above(certify(method, changed, means, sizes).value, bound.value)
    twice = {column: np.tile(values, 2) for column, values in means.items()}
    again = certify(method, dataclasses.replace(problem, n_windows=2 * problem.n_windows), twice, np.tile(sizes, 2))
    assert bounded_above(again.value, bound.value)
    less = TokenStatistics(sample.log2_prob / 2, (sample.rank + 1) // 2, *list(vars(sample).values())[2:])
    assert bounded_above(certify(method, problem, column_means(method, less), sizes).value, bound.value)


@given(st.floats(max_value=0, exclude_max=True, allow_nan=False) | st.just(math.nan))
@modest
def test_negative_rates_are_refused(rate: float) -> None:
    for call in (
        lambda: kl_inf_upper([0.0], 1.0, rate),
        lambda: two_point_upper(0.0, 0.0, 1.0, 2.0, rate),
        lambda: chernoff_kl_upper(0.0, 0.0, 1.0, rate),
        lambda: freedman_bound([0.0], 0.0, 1.0, rate, 0.5),
    ):
        with pytest.raises(UsageError, match="rate"):
            call()
