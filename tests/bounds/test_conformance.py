"""One suite that every bounding method runs, for bits per dimension and two top-k errors."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import (
    METHODS,
    METRICS,
    Bound,
    Problem,
    certify,
    choose_method,
    complexity_rate,
    hoeffding_upper,
    kl_inf_upper,
    method_class,
    method_from_dict,
    window_means,
)
from lm_bounds.bounds.search import level_rate
from lm_bounds.errors import UsageError

VOCABULARY = 512
# log2 of the sizes of the grids: smoothing 2^8 (the paper's: 8 points), b 2^16, c1 2^8, y0 2^8, y1 2^8, s 2^6,
# lambda 2^6.
SELECTION_BITS = {
    ("kl_inf", "bpd"): [8, 16, 8],
    ("kl_inf", "top1"): [16, 8],
    ("freedman", "bpd"): [8, 8, 8, 6],
    ("freedman", "top1"): [8, 8, 6],
    ("azuma", "bpd"): [8],
    ("azuma", "top1"): [],
    ("azuma_lambda", "bpd"): [8, 6],
    ("azuma_lambda", "top1"): [6],
    ("paper", "bpd"): [3],
    ("paper", "top1"): [],
}


@pytest.fixture
def problem(metric: str) -> Problem:
    return Problem(metric, VOCABULARY, 10**6, 40, 12_345.0, 0.05, 3)


KINDS = ("plain", "temperatures", "entropy", "entropy and temperatures")
CASES = [(name, metric, "plain") for name in METHODS for metric in METRICS[:3]]
CASES += [(name, "bpd", "temperatures") for name in METHODS if name != "paper"]
CASES += [(name, "bpd", kind) for name in ("kl_inf", "freedman", "azuma_lambda") for kind in KINDS[2:]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize(("method_name", "metric", "kind"), CASES)


@pytest.fixture
def method(method_name: str, kind: str, problem: Problem, statistics_of, pilot_of, logits_of):
    rng = np.random.default_rng(5)
    smoothing = "entropy" if "entropy" in kind else "global"
    if "temperatures" not in kind:
        return choose_method(method_name, problem, statistics_of(rng, 32, 20, VOCABULARY), smoothing)
    pilot = pilot_of(*logits_of(rng, 320, VOCABULARY, 1.7), np.full(32, 10))
    return choose_method(method_name, problem, pilot, smoothing)


@pytest.fixture
def sample(problem: Problem, statistics_of):
    return statistics_of(np.random.default_rng(6), problem.n_windows, 20, VOCABULARY)


@pytest.fixture
def sizes(sample):
    return sample.window_sizes


@pytest.fixture
def means(method, sample):
    columns = method.columns(sample)
    assert next(iter(columns)) == "loss"
    assert all(values.shape == (sample.n_tokens,) and values.dtype == np.float64 for values in columns.values())
    return {name: window_means(values, sample.window_sizes) for name, values in columns.items()}


def rate_of(method, problem: Problem) -> float:
    return complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])


def test_it_is_what_was_asked_for(method, method_name: str, problem: Problem) -> None:
    assert isinstance(method, METHODS[method_name])
    assert method.name == method_name
    assert method.loss.to_dict()["metric"] == problem.metric
    assert method.loss.to_dict()["vocab_size"] == VOCABULARY


def test_selection_bits_are_log2_of_the_grids(method, method_name: str, metric: str, kind: str, grids_of) -> None:
    stated = [bits for _, bits in method.selection()]
    wanted = SELECTION_BITS[method_name, "bpd" if metric == "bpd" else "top1"]
    extra = [6] * ("entropy" in kind) + [4] * ("temperatures" in kind)  # the smoothing's slope 2^6, temperature 2^4
    assert stated == [*wanted[: metric == "bpd"], *extra, *wanted[metric == "bpd" :]]
    assert len({name for name, _ in method.selection()}) == len(stated)
    assert sorted(stated) == sorted(math.log2(size) for size in grids_of(method).values())


def test_every_grid_has_as_many_points_as_are_paid(method, grids_of) -> None:
    """Each index of each grid stands for parameters of its own, all of them accepted; the next one is refused."""
    fields = method.to_dict()
    grids = grids_of(method)
    assert math.log2(math.prod(grids.values())) == sum(bits for _, bits in method.selection())
    for name, size in grids.items():
        every = range(size) if size <= 256 else [0, 1, size // 2, size - 2, size - 1]
        written = set()
        for index in every:
            changed = type(method).from_dict(fields | {name: index})
            written.add(json.dumps({k: v for k, v in changed.to_dict().items() if k != name}))
        assert len(written) == len(every)


def test_failure_probabilities_are_split_and_not_exceeded(method, problem: Problem) -> None:
    for failure_prob in (1e-9, 0.05, 0.9):
        for shared in (1, 7):
            changed = dataclasses.replace(problem, failure_prob=failure_prob, shared_draws=shared)
            delta_1, delta_2 = method.failure_probs(changed)
            assert delta_1 + shared * delta_2 == pytest.approx(failure_prob, rel=1e-15)
            # A constant, except for the split that was published.
            share = 40 / (40 + 10**6) if method.name == "paper" else 0.01
            assert delta_1 == pytest.approx(failure_prob * share, rel=1e-15)


def test_terms_sum_to_the_bound_exactly(method, problem: Problem, means, sizes) -> None:
    bound = certify(method, problem, means, sizes)
    assert isinstance(bound, Bound)
    assert bound.value == bound.risk + bound.complexity + bound.sampling
    assert bound.risk == np.mean(means["loss"])
    assert bound.rate == rate_of(method, problem)
    assert bound.method == method.name
    statistic = method.statistic(means, bound.rate)
    assert bound.risk + bound.complexity == pytest.approx(min(np.mean(statistic), method.loss.loss_max), rel=1e-14)
    expected = min(method.upper(statistic, sizes, problem, bound.rate), method.loss.loss_max)
    assert bound.value == pytest.approx(expected, rel=1e-15)


def test_sampling_step_is_an_upper_bound_at_its_own_level(method, problem: Problem, means, sizes) -> None:
    rate = rate_of(method, problem)
    statistic, (_, delta_2) = method.statistic(means, rate), method.failure_probs(problem)
    found = method.upper(statistic, sizes, problem, rate)
    if method.name == "paper":
        expected = hoeffding_upper(statistic.mean(), method.loss.loss_range, problem.n_windows, delta_2)
    else:
        assert method.sampling_ceiling > method.statistic_max(rate)
        expected = kl_inf_upper(statistic, method.sampling_ceiling, level_rate(delta_2, problem.n_windows))
    assert found == expected
    assert found > statistic.mean()


def test_bound_is_never_above_the_largest_loss(method_name: str, metric: str, statistics_of) -> None:
    rng = np.random.default_rng(8)
    for bits, n_tokens in ((0.0, 1), (1e13, 1), (1e13, 10**6), (1e4, 10**3)):
        problem = Problem(metric, VOCABULARY, n_tokens, 5, bits, 0.05)
        method = choose_method(method_name, problem, statistics_of(rng, 5, 3, VOCABULARY))
        sample = statistics_of(rng, 5, 3, VOCABULARY)
        columns = {k: window_means(v, sample.window_sizes) for k, v in method.columns(sample).items()}
        bound = certify(method, problem, columns, sample.window_sizes)
        assert bound.value <= method.loss.loss_max * (1 + 2**-51)
        assert bound.risk + bound.complexity <= method.loss.loss_max * (1 + 2**-51)
        if bits == 1e13:
            assert bound.value == pytest.approx(method.loss.loss_max, rel=1e-15)


def test_round_trip_through_json(method, problem: Problem, means, sizes) -> None:
    text = json.dumps(method.to_dict(), allow_nan=False)
    fields = json.loads(text)
    again = method_from_dict(fields)
    assert again == method
    assert type(again) is type(method)
    assert again.to_dict() == fields
    assert certify(again, problem, means, sizes) == certify(method, problem, means, sizes)


def test_values_in_the_dictionary_are_those_of_the_indices(method) -> None:
    fields = method.to_dict()
    if "smoothing_slope_index" in fields:
        assert fields["smoothing_offset"] == (fields["smoothing_index"] + 1) / 8
        assert fields["smoothing_slope"] == (fields["smoothing_slope_index"] - 32) / 8
    elif fields["metric"] == "bpd":
        assert fields["smoothing"] == type(method).smoothing_grid[fields["smoothing_index"]]
    if "temperature_index" in fields:
        assert fields["temperature"] == method.temperature == 2 ** ((fields["temperature_index"] - 6) / 8)
    else:
        assert method.temperature == 1.0
        assert "temperature" not in fields
    if method.name == "azuma_lambda":
        assert fields["lambda"] == 2 ** (3 - fields["lambda_index"] / 4)
    if method.name == "kl_inf":
        entropies = np.linspace(0, math.log2(VOCABULARY), 99)
        ceilings = fields["ceiling_offset"] + fields["ceiling_slope"] * entropies
        assert np.all(ceilings > method.loss.largest(entropies))
        assert 0 <= fields["ceiling_slope"] <= 2
    if method.name == "freedman":
        assert fields["centre_offset"] == method.loss.loss_max * fields["centre_index"] / 255
        assert fields["centre_slope"] == 2 * fields["slope_index"] / 255
        assert fields["step"] == 2.0 ** (-(fields["step_index"] + 1) / 4)


@pytest.mark.parametrize("wrong", [-1, 10**6, 0.5, 3.0, math.nan, math.inf, True, "1", None])
def test_what_is_not_on_a_grid_is_refused(method, wrong, grids_of) -> None:
    fields = method.to_dict()
    for name in grids_of(method):
        if wrong is None and name in ("smoothing_slope_index", "temperature_index"):
            continue  # one smoothing everywhere, T = 1
        with pytest.raises(UsageError, match=r"grids|smoothing"):
            method_from_dict(fields | {name: wrong})


def test_the_index_after_the_last_is_refused(method, grids_of) -> None:
    fields = method.to_dict()
    for name, size in grids_of(method).items():
        method_from_dict(fields | {name: size - 1})
        with pytest.raises(UsageError, match="grids"):
            method_from_dict(fields | {name: size})


@pytest.mark.parametrize("index", ["smoothing_slope_index", "temperature_index"])
def test_a_choice_that_a_method_has_not_is_refused(method, index: str) -> None:
    has = {"smoothing_slope_index": "entropy" in method.smoothings, "temperature_index": method.has_temperature}
    if method.metric == "bpd" and has[index]:
        assert method_from_dict(method.to_dict() | {index: 3}).to_dict()[index] == 3
    else:
        with pytest.raises(UsageError, match="grids"):
            method_from_dict(method.to_dict() | {index: 3})


def test_a_smoothing_for_a_top_k_error_or_none_for_bpd_is_refused(method) -> None:
    fields = method.to_dict()
    swapped = 3 if fields["smoothing_index"] is None else None
    with pytest.raises(UsageError, match=r"grids|smoothing"):
        method_from_dict(fields | {"smoothing_index": swapped})


def test_unknown_methods_are_refused() -> None:
    for call in (lambda: method_class("bennett"), lambda: method_from_dict({"name": "bennett"})):
        with pytest.raises(UsageError, match=f"unknown method 'bennett': use one of {', '.join(METHODS)}, best"):
            call()


def test_a_sampling_ceiling_that_is_too_low_or_infinite_is_refused(method, problem: Problem, means, sizes) -> None:
    if method.name == "paper":
        assert not hasattr(method, "sampling_ceiling")
        return
    statistic_max = method.statistic_max(rate_of(method, problem))
    for ceiling in (statistic_max, statistic_max - 1, math.inf, math.nan):
        with pytest.raises(UsageError, match="sampling ceiling"):
            certify(dataclasses.replace(method, sampling_ceiling=ceiling), problem, means, sizes)


@pytest.mark.parametrize("t", [math.nan, math.inf, -math.inf, 701.0])
def test_a_linearisation_without_a_finite_exponential_is_refused(statistics_of, t: float) -> None:
    problem = Problem("bpd", VOCABULARY, 10**6, 40, 12_345.0, 0.05)
    method = choose_method("kl_inf", problem, statistics_of(np.random.default_rng(5), 9, 20, VOCABULARY))
    with pytest.raises(UsageError, match="linearisation"):
        method_from_dict(method.to_dict() | {"linearisation": t})


def test_windows_must_be_as_many_as_announced(method, problem: Problem, means, sizes) -> None:
    fewer = {name: values[:-1] for name, values in means.items()}
    with pytest.raises(UsageError, match="40 windows were announced, 39 were given"):
        certify(method, problem, fewer, sizes)
    with pytest.raises(UsageError, match="40 windows need as many sizes, 39 were given"):
        certify(method, problem, means, sizes[:-1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_means_must_be_finite(method, problem: Problem, means, sizes, value: float) -> None:
    for name in means:
        broken = {column: values.copy() for column, values in means.items()}
        broken[name][3] = value
        with pytest.raises(UsageError, match="finite"):
            certify(method, problem, broken, sizes)


def test_method_and_problem_must_agree(method, problem: Problem, means, sizes, metric: str) -> None:
    other = "top1" if metric != "top1" else "bpd"
    for change in ({"metric": other}, {"vocab_size": VOCABULARY + 1}):
        with pytest.raises(UsageError, match="the method bounds"):
            certify(method, dataclasses.replace(problem, **change), means, sizes)


def test_every_method_and_metric_is_in_the_suite() -> None:
    assert set(METHODS) == {name for name, _ in SELECTION_BITS}
    assert METRICS[:3] == ("bpd", "top1", "top10")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"failure_prob": 0.0}, r"failure_prob must be in \(0, 1\), 0.0"),
        ({"failure_prob": 1.0}, r"failure_prob must be in \(0, 1\), 1.0"),
        ({"failure_prob": math.nan}, r"failure_prob must be in \(0, 1\), nan"),
        ({"n_tokens": 0}, "n_tokens must be at least 1, 0"),
        ({"n_tokens": math.nan}, "n_tokens must be at least 1, nan"),
        ({"n_windows": 0}, "n_windows must be at least 1, 0"),
        ({"shared_draws": 0}, "shared_draws must be at least 1, 0"),
        ({"description_bits": -1.0}, "description_bits must be >= 0 and finite, -1.0"),
        ({"description_bits": math.inf}, "description_bits must be >= 0 and finite, inf"),
        ({"upper": "bennett"}, "unknown upper bound 'bennett': use one of kl_inf, hoeffding, bernstein"),
        ({"upper": "kl_imf"}, "unknown upper bound 'kl_imf': did you mean 'kl_inf'"),
        ({"upper": "hoeffding", "replacement": False}, "upper=hoeffding is for draws with replacement"),
        ({"upper": "bernstein", "replacement": False}, "upper=bernstein is for draws with replacement"),
        ({"description_bits": math.nan}, "description_bits must be >= 0 and finite, nan"),
    ],
)
def test_problems_outside_their_ranges_are_refused(change: dict[str, Any], message: str) -> None:
    problem = Problem("bpd", 2, 1, 1, 0.0, 0.05)
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(problem, **change)
