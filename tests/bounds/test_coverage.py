"""Failure probabilities by simulation, each of the two steps against its own level.

Step 1 compares the conditional risk mu, known exactly, with the exact corpus mean of Z; step 2 compares that mean with
its upper bound from sampled windows. (Together they would hardly ever fail: each step leaves room to the other.)
Failures are counted over seeded repetitions and judged by the exact binomial tail: a method is caught where so many
failures would come up with probability below 1e-6 at the level that it states. Controls that break one condition
each (complexity not paid, a leaked token, shared draws not paid, biased draws) have to be caught by the same counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from lm_bounds.bounds import (
    METHODS,
    Method,
    Problem,
    TokenStatistics,
    choose_method,
    complexity_rate,
    kl_inf_upper,
    method_class,
    window_means,
)
from lm_bounds.bounds.kl_inf import KlInf

LEAST_TAIL = 1e-6
Array = np.ndarray
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)
BOTH_METRICS = pytest.mark.parametrize("metric", ["bpd", "top1"])


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, probability)."""
    counts = np.arange(successes, trials + 1)
    log_choose = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts]
    log_terms = np.array(log_choose) + counts * math.log(probability) + (trials - counts) * math.log1p(-probability)
    peak = log_terms.max()
    return min(1.0, math.exp(peak) * float(np.exp(log_terms - peak).sum()))


def caught(failed: Array, level: float) -> bool:
    """Whether a failure probability of at most ``level`` is refuted."""
    return binomial_tail(int(failed.sum()), len(failed), level) < LEAST_TAIL


@pytest.mark.parametrize(
    ("successes", "trials", "probability"), [(0, 5, 0.3), (3, 5, 0.3), (180, 1500, 0.1), (9, 9, 0.5)]
)
def test_binomial_tail(successes: int, trials: int, probability: float) -> None:
    with mpmath.workdps(40):
        p = mpmath.mpf(probability)
        terms = [mpmath.binomial(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes, trials + 1)]
        assert binomial_tail(successes, trials, probability) == pytest.approx(float(mpmath.fsum(terms)), rel=1e-9)


# Step 1: a Markov source, and 2^N_BLOCKS predictors of equal prior probability of which the luckiest is taken

VOCABULARY = 4
N_TOKENS = 200
N_BLOCKS = 40
REPETITIONS = 1500
DELTA_1 = 0.1
SURENESS = np.array([0.4, 0.55, 0.75, 0.95])  # of the predictor, given the previous token


def transition_matrix() -> Array:
    return np.random.default_rng(1).dirichlet(np.full(VOCABULARY, 2.0), VOCABULARY)


def markov_corpora(rng: np.random.Generator) -> tuple[Array, Array]:
    """The previous and the next token at every position; each of shape (repetitions, tokens)."""
    steps = np.cumsum(transition_matrix(), axis=1)
    tokens = np.empty((REPETITIONS, N_TOKENS + 1), dtype=np.int64)
    tokens[:, 0] = rng.integers(VOCABULARY, size=REPETITIONS)
    for i in range(N_TOKENS):
        above = rng.random((REPETITIONS, 1)) > steps[tokens[:, i]]
        tokens[:, i + 1] = np.minimum(above.sum(axis=1), VOCABULARY - 1)
    return tokens[:, :-1], tokens[:, 1:]


def predictor_table(previous: Array, favourite: Array, token: Array) -> TokenStatistics:
    """A predictor that gives its favourite token SURENESS[previous] and shares the rest equally."""
    sure = SURENESS[previous]
    rest = (1 - sure) / (VOCABULARY - 1)
    entropy = -sure * np.log2(sure) - (VOCABULARY - 1) * rest * np.log2(rest)
    right = token == favourite
    log2_prob = np.log2(np.where(right, sure, rest))
    rank = np.where(right, 1, VOCABULARY)
    flat = [np.ascontiguousarray(values).reshape(-1) for values in (log2_prob, rank, entropy, sure)]
    return TokenStatistics(flat[0], flat[1], flat[2], flat[3], np.array([token.size]))


# Every (previous token, bit, next token): the bit of a predictor says which of two tokens is its favourite.
PREVIOUS, BIT, NEXT = np.meshgrid(np.arange(VOCABULARY), np.arange(2), np.arange(VOCABULARY), indexing="ij")
TABLE = predictor_table(PREVIOUS, (PREVIOUS + 1 + BIT) % VOCABULARY, NEXT)

# Points of the grids that the luckiest predictor may take as well; their selection bits are paid.
POINTS: dict[str, list[dict[str, int]]] = {
    "kl_inf": [
        {"smoothing_index": 15, "margin_index": 2000, "slope_index": 120},
        {"smoothing_index": 7, "margin_index": 21_000, "slope_index": 0},
        {"smoothing_index": 31, "margin_index": 0, "slope_index": 255},
        {"smoothing_index": 11, "smoothing_slope_index": 40, "margin_index": 21_000, "slope_index": 60},
    ],
    "freedman": [
        {"smoothing_index": 15, "centre_index": 60, "slope_index": 60, "step_index": 0},
        {"smoothing_index": 7, "centre_index": 0, "slope_index": 127, "step_index": 4},
        {"smoothing_index": 31, "centre_index": 128, "slope_index": 0, "step_index": 9},
        {"smoothing_index": 11, "smoothing_slope_index": 40, "centre_index": 30, "slope_index": 60, "step_index": 3},
    ],
    "azuma": [{"smoothing_index": 15}, {"smoothing_index": 7}, {"smoothing_index": 31}],
    "azuma_lambda": [
        {"smoothing_index": 15, "lambda_index": 26},
        {"smoothing_index": 7, "lambda_index": 24},
        {"smoothing_index": 11, "smoothing_slope_index": 40, "lambda_index": 26},
    ],
    "paper": [{"smoothing_index": 6}, {"smoothing_index": 7}, {"smoothing_index": 5}],
}


def fixed_method(name: str, metric: str, indices: dict[str, int], vocab_size: int = VOCABULARY) -> Method:
    fields = {"metric": metric, "vocab_size": vocab_size, "linearisation": 0.0, "sampling_ceiling": 1e30}
    if metric != "bpd":
        indices = {k: v for k, v in indices.items() if not k.startswith("smoothing")} | {"smoothing_index": None}
    return method_class(name).from_dict(fields | indices)


def rate_of(method: Method, bits: float, pay: bool = True) -> float:
    problem = Problem("bpd", VOCABULARY, N_TOKENS, 1, bits if pay else 0.0, 0.5)
    return complexity_rate(problem, method.selection() if pay else (), DELTA_1)


def corpus_means_of_z(method: Method, columns: dict[str, Array], rate: float) -> Array:
    """The mean of Z over each corpus, for kl_inf at the t that is best for that corpus; shape (repetitions,).

    Args:
        columns: of shape (repetitions, tokens).
    """
    means = {name: values.mean(axis=1) for name, values in columns.items()}
    if not isinstance(method, KlInf):
        return method.statistic(means, rate)
    z = np.empty(len(means["loss"]))
    for i, headroom in enumerate(means["log_headroom"]):
        best = dataclasses.replace(method, linearisation=float(headroom) - rate)
        z[i] = best.statistic({name: values[i : i + 1] for name, values in means.items()}, rate)[0]
    return z


def step_1_margins(method: Method, rate: float, corpora: tuple[Array, Array]) -> Array:
    """Mean Z minus mu for the predictor with the least of that: below zero the bound has failed."""
    previous, tokens = corpora
    table = {name: values.reshape(PREVIOUS.shape) for name, values in method.columns(TABLE).items()}
    risk = (transition_matrix()[:, None, :] * table["loss"]).sum(axis=2)  # E[l | previous token, bit]
    near = method
    if isinstance(method, KlInf):
        near = dataclasses.replace(method, linearisation=float(table["log_headroom"].mean()) - rate)
    z = near.statistic(table, rate)
    blocks = (REPETITIONS, N_TOKENS // N_BLOCKS, N_BLOCKS)
    luck = [(z[previous, bit, tokens] - risk[previous, bit]).reshape(blocks).sum(axis=1) for bit in (0, 1)]
    bit = np.tile(np.argmin(luck, axis=0), (1, N_TOKENS // N_BLOCKS))  # of the block of every token
    columns = {name: values[previous, bit, tokens] for name, values in table.items()}
    return corpus_means_of_z(method, columns, rate) - risk[previous, bit].mean(axis=1)


@pytest.fixture(scope="module")
def corpora() -> tuple[Array, Array]:
    return markov_corpora(np.random.default_rng(2))


def luckiest_failures(name: str, metric: str, corpora: tuple[Array, Array], pay: bool) -> Array:
    methods = [fixed_method(name, metric, point) for point in POINTS[name]]
    return np.min([step_1_margins(m, rate_of(m, N_BLOCKS, pay), corpora) for m in methods], axis=0) < 0


@EVERY_METHOD
@BOTH_METRICS
def test_step_1_holds_for_the_luckiest_predictor(name: str, metric: str, corpora: tuple[Array, Array]) -> None:
    assert not caught(luckiest_failures(name, metric, corpora, pay=True), DELTA_1)


@EVERY_METHOD
@BOTH_METRICS
def test_complexity_not_paid_is_caught(name: str, metric: str, corpora: tuple[Array, Array]) -> None:
    assert caught(luckiest_failures(name, metric, corpora, pay=False), DELTA_1)


@pytest.mark.parametrize("n_predictors", [8, 64, 500])
def test_step_1_fails_as_often_as_it_may_where_it_is_tight(n_predictors: int) -> None:
    """A corpus of one token of V, each predictor certain of another token, a ceiling just above 1: the predictor that
    was right has risk 1 - 1/V, and its bound 1 - delta_1 P(h) is below that as soon as V > 1/(delta_1 P(h))."""
    rng = np.random.default_rng(3)
    for paid, is_caught in ((n_predictors, False), (n_predictors / 1.1, True)):
        vocab_size = math.ceil(1.001 * paid / DELTA_1)
        right = rng.integers(vocab_size, size=200_000) < n_predictors
        bound = kl_inf_upper([0.0], 1 + 1e-9, math.log(paid / DELTA_1))
        failed = right & (bound < 1 - 1 / vocab_size)
        assert failed.mean() > 0.95 * DELTA_1
        assert caught(failed, DELTA_1) is is_caught


# Step 1, leaks: fixed predictors and parameters, so there is nothing to pay; only predictability is broken

LEAKS: dict[str, dict[str, int]] = {
    # Ceilings and centres whose slope is as large as the grids allow, so that they can follow the loss.
    "kl_inf": {"smoothing_index": 15, "margin_index": 0, "slope_index": 255},
    "freedman": {"smoothing_index": 15, "centre_index": 0, "slope_index": 255, "step_index": 0},
    "azuma": {"smoothing_index": 15},
    "azuma_lambda": {"smoothing_index": 15, "lambda_index": 25},
    "paper": {"smoothing_index": 6},
}


# Ceilings and centres that suit the source, so that little room is left.
FITTING: dict[str, dict[str, int]] = {
    "kl_inf": {"smoothing_index": 15, "margin_index": 22_000, "slope_index": 0},
    "freedman": {"smoothing_index": 15, "centre_index": 128, "slope_index": 0, "step_index": 3},
}


def fixed_failures(
    method: Method,
    corpora: tuple[Array, Array],
    favourite: Array,
    leak: Callable[[Method, TokenStatistics], TokenStatistics],
) -> Array:
    """Where mu exceeds the mean of Z for a predictor with the given favourites and leaked statistics."""
    previous, tokens = corpora
    rate = rate_of(method, 0.0, pay=False)
    seen = leak(method, predictor_table(previous, favourite, tokens))
    columns = {column: values.reshape(previous.shape) for column, values in method.columns(seen).items()}
    risk = np.zeros(previous.shape)
    for token in range(VOCABULARY):
        outcome = predictor_table(previous, favourite, np.full_like(tokens, token))
        loss = method.loss.of(outcome).reshape(previous.shape)
        risk += transition_matrix()[previous, token] * loss
    return corpus_means_of_z(method, columns, rate) < risk.mean(axis=1)


def nothing_leaks(method: Method, statistics: TokenStatistics) -> TokenStatistics:
    return statistics


def entropy_tells_the_loss(method: Method, statistics: TokenStatistics) -> TokenStatistics:
    """The entropy, from which ceilings and centres are made, is half the loss above its least value."""
    losses = method.loss.of(statistics)
    return dataclasses.replace(statistics, entropy_bits=(losses - losses.min()) / 2)


@EVERY_METHOD
def test_step_1_holds_for_a_fixed_predictor(name: str, corpora: tuple[Array, Array]) -> None:
    favourite = (corpora[0] + 1) % VOCABULARY
    for indices in (LEAKS[name], FITTING.get(name, LEAKS[name])):
        method = fixed_method(name, "bpd", indices)
        assert not caught(fixed_failures(method, corpora, favourite, nothing_leaks), DELTA_1)


@pytest.mark.parametrize("name", FITTING)
def test_step_1_is_not_vacuous_for_a_fixed_predictor(name: str, corpora: tuple[Array, Array]) -> None:
    """With a ceiling or centre that suits the source it does fail now and then."""
    favourite, method = (corpora[0] + 1) % VOCABULARY, fixed_method(name, "bpd", FITTING[name])
    assert fixed_failures(method, corpora, favourite, nothing_leaks).any()


@EVERY_METHOD
def test_a_predictor_that_sees_every_second_token_is_caught(name: str, corpora: tuple[Array, Array]) -> None:
    previous, tokens = corpora
    leaked = np.arange(N_TOKENS) % 2 == 0
    favourite = np.where(leaked, tokens, (previous + 1) % VOCABULARY)
    method = fixed_method(name, "bpd", LEAKS[name])
    assert caught(fixed_failures(method, corpora, favourite, nothing_leaks), DELTA_1)


@pytest.mark.parametrize("name", ["kl_inf", "freedman"])
def test_ceilings_and_centres_that_see_the_token_are_caught(name: str, corpora: tuple[Array, Array]) -> None:
    favourite, method = (corpora[0] + 1) % VOCABULARY, fixed_method(name, "bpd", LEAKS[name])
    assert caught(fixed_failures(method, corpora, favourite, entropy_tells_the_loss), DELTA_1)


# Step 2: windows of unequal size, drawn by their tokens

N_WINDOWS = 60
FAILURE_PROB = 0.2
RARE_VOCABULARY = 50


def sampling_problem(metric: str, shared_draws: int = 1) -> Problem:
    return Problem(metric, RARE_VOCABULARY, 10**6, N_WINDOWS, 5e4, FAILURE_PROB, shared_draws)


def corpus_of_windows(rng: np.random.Generator, n_windows: int = 400) -> TokenStatistics:
    """Larger windows are harder, and a few windows are very hard."""
    sizes = rng.integers(1, 9, n_windows)
    hard = np.repeat(sizes / 8 + 6 * (rng.random(n_windows) < 0.03), sizes)
    n = int(sizes.sum())
    entropy = rng.uniform(0, math.log2(RARE_VOCABULARY), n)
    rank = np.where(rng.random(n) < hard / 8, 9, 1)
    return TokenStatistics(-rng.gamma(1.0, 1.0, n) * hard * entropy, rank, entropy, np.ones(n), sizes)


def drawn_windows(rng: np.random.Generator, sizes: Array, repetitions: int) -> Array:
    """The window of each of N_WINDOWS uniform tokens; shape (repetitions, N_WINDOWS)."""
    window_of_token = np.repeat(np.arange(len(sizes)), sizes)
    return window_of_token[rng.integers(len(window_of_token), size=(repetitions, N_WINDOWS))]


def step_2_failures(method: Method, problem: Problem, z: Array, sizes: Array, drawn: Array) -> Array:
    """Where the exact corpus mean of Z exceeds its upper bound; z holds the value of every window."""
    mean = float(np.average(z, weights=sizes))
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    return np.array([method.upper(z[row], sizes[row], problem, rate) < mean for row in drawn])


def statistic_of(method: Method, problem: Problem, corpus: TokenStatistics) -> Array:
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    columns = method.columns(corpus)
    return method.statistic({k: window_means(v, corpus.window_sizes) for k, v in columns.items()}, rate)


@EVERY_METHOD
@BOTH_METRICS
def test_step_2_holds_with_the_choice_of_a_pilot(name: str, metric: str) -> None:
    rng = np.random.default_rng(4)
    corpus, problem = corpus_of_windows(rng), sampling_problem(metric)
    method = choose_method(name, problem, corpus_of_windows(rng, 64))
    z = statistic_of(method, problem, corpus)
    drawn = drawn_windows(rng, corpus.window_sizes, 1500)
    assert not caught(step_2_failures(method, problem, z, corpus.window_sizes, drawn), method.failure_probs(problem)[1])


def two_kinds(method: Method, share: float, rng: np.random.Generator) -> TokenStatistics:
    """Windows without any error and windows of nothing but errors; the latter hold ``share`` of the tokens."""
    sizes = rng.permutation(np.tile([1, 2, 3, 5, 9], 4000))
    wrong = np.cumsum(sizes) <= round(share * sizes.sum())
    rank = np.repeat(np.where(wrong, RARE_VOCABULARY, 1), sizes)
    n = len(rank)
    return TokenStatistics(np.where(rank > 1, -math.inf, 0.0), rank, np.zeros(n), np.ones(n), sizes)


def tight_method(name: str, metric: str, problem: Problem) -> Method:
    """Fixed parameters, and a sampling ceiling just above z_max."""
    indices = {
        "kl_inf": {"smoothing_index": 40, "margin_index": 24_000, "slope_index": 0},
        "freedman": {"smoothing_index": 40, "centre_index": 0, "slope_index": 0, "step_index": 3},
        "azuma": {"smoothing_index": 40},
        "azuma_lambda": {"smoothing_index": 40, "lambda_index": 12},
    }[name]
    method = fixed_method(name, metric, indices, RARE_VOCABULARY)
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    statistic_max = method.statistic_max(rate)
    return dataclasses.replace(method, sampling_ceiling=statistic_max + 1e-9 * abs(statistic_max))


TIGHT_METHODS = pytest.mark.parametrize("name", ["kl_inf", "freedman", "azuma", "azuma_lambda"])


@TIGHT_METHODS
@BOTH_METRICS
def test_step_2_fails_as_often_as_it_may_where_it_is_tight(name: str, metric: str) -> None:
    """The bound fails when no window of errors is drawn, if they hold just over 1 - delta_2^(1/n) of the tokens."""
    rng = np.random.default_rng(5)
    problem = sampling_problem(metric)
    method = tight_method(name, metric, problem)
    _, delta_2 = method.failure_probs(problem)
    corpus = two_kinds(method, 1 - delta_2 ** (1 / N_WINDOWS) + 5e-4, rng)
    z = statistic_of(method, problem, corpus)
    drawn = drawn_windows(rng, corpus.window_sizes, 4000)
    failed = step_2_failures(method, problem, z, corpus.window_sizes, drawn)
    assert not caught(failed, delta_2)
    assert failed.mean() > 0.9 * delta_2
    assert caught(failed, 0.8 * delta_2)


@TIGHT_METHODS
def test_windows_drawn_by_documents_are_caught(name: str) -> None:
    """A uniform document and then a uniform token of it: short documents, here the easy ones, come up too often."""
    rng = np.random.default_rng(6)
    problem = sampling_problem("bpd")
    lengths = np.repeat([1, 12], [300, 100])  # windows of one token, easy; documents of 12 such windows, hard
    document = np.repeat(np.arange(len(lengths)), lengths)
    hard = lengths[document] > 1
    n = len(hard)
    entropy = np.where(hard, 4.0, 1.0) + rng.uniform(-0.5, 0.5, n)
    losses = entropy * rng.uniform(0.5, 1.5, n)
    corpus = TokenStatistics(-losses, np.ones(n, int), entropy, np.ones(n), np.ones(n, dtype=np.int64))
    method = choose_method(name, problem, corpus)
    z = statistic_of(method, problem, corpus)
    _, delta_2 = method.failure_probs(problem)
    uniform = drawn_windows(rng, corpus.window_sizes, 500)
    assert not caught(step_2_failures(method, problem, z, corpus.window_sizes, uniform), delta_2)
    start = np.cumsum(lengths) - lengths
    picked = rng.integers(len(lengths), size=(500, N_WINDOWS))
    biased = start[picked] + np.floor(rng.random(picked.shape) * lengths[picked]).astype(np.int64)
    assert caught(step_2_failures(method, problem, z, corpus.window_sizes, biased), delta_2)


N_MODELS = 50


def best_of_many_failures(name: str, shared_draws: int, paid: int) -> tuple[Array, float]:
    """Failures of the model that looks best of N_MODELS on one sample, each wrong on windows of its own.

    Args:
        shared_draws: the number of models that the share of wrong windows is tight for.
        paid: the number of models that delta_2 is shared by.
    """
    rng = np.random.default_rng(7)
    problem = sampling_problem("top1", paid)
    method = tight_method(name, "top1", problem)
    _, delta_2 = method.failure_probs(problem)
    _, tight = method.failure_probs(sampling_problem("top1", shared_draws))
    sizes = rng.permutation(np.tile([1, 2, 3, 5, 9], 400))
    right, wrong = statistic_of(method, problem, two_kinds(method, 0.5, rng))[[-1, 0]]
    share = 1 - tight ** (1 / N_WINDOWS) + 1e-3
    order = np.argsort(rng.random((N_MODELS, len(sizes))), axis=1)
    covered = np.cumsum(sizes[order], axis=1) <= share * sizes.sum()
    errs = np.zeros((N_MODELS, len(sizes)), dtype=bool)
    np.put_along_axis(errs, order, covered, axis=1)
    failed = np.empty(600, dtype=bool)
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    for i, drawn in enumerate(drawn_windows(rng, sizes, len(failed))):
        best = int(np.argmin(errs[:, drawn].sum(axis=1)))
        z = np.where(errs[best], wrong, right)
        failed[i] = method.upper(z[drawn], sizes[drawn], problem, rate) < np.average(z, weights=sizes)
    return failed, delta_2 * paid


@TIGHT_METHODS
def test_the_best_of_many_models_on_one_sample_is_covered_where_it_is_paid(name: str) -> None:
    failed, level = best_of_many_failures(name, N_MODELS, N_MODELS)
    assert not caught(failed, level)
    assert failed.mean() > 0.7 * level


@TIGHT_METHODS
def test_the_best_of_many_models_on_one_sample_is_caught_where_it_is_not_paid(name: str) -> None:
    failed, level = best_of_many_failures(name, 1, 1)
    assert caught(failed, level)
