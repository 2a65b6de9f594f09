"""Failure probabilities of the pipeline's own steps: draws, choice on a pilot, and the two bounds, by simulation.

A Markov source whose conditional probabilities are known; a predictor of 2^N_BLOCKS that is taken because it fits the
corpus; documents of unequal lengths; windows drawn by the sampler with a seed of their own; the method's parameters
chosen on a pilot. Each step is held against its own level by the exact binomial tail, and mistakes put in on purpose
(complexity not paid, windows drawn alike whatever their size, the best of many models unpaid) have to be caught.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from lm_bounds.bounds import (
    KlInf,
    Method,
    Problem,
    TokenStatistics,
    choose_method,
    complexity_rate,
    window_means,
)
from lm_bounds.corpora import TokenCorpus
from lm_bounds.sampling import Windows, draw_distinct_windows, draw_windows, stream_seed

LEAST_TAIL = 1e-6
VOCABULARY, N_TOKENS, N_BLOCKS, CONTEXT = 4, 320, 107, 8
N_PILOT, N_WINDOWS = 16, 30
SURENESS = np.array([0.4, 0.55, 0.75, 0.95])  # of the predictor, given the previous token
TRANSITION = np.random.default_rng(1).dirichlet(np.full(VOCABULARY, 2.0), VOCABULARY)
Array = np.ndarray


def caught(failures: int, repetitions: int, level: float) -> bool:
    """Whether a failure probability of at most ``level`` is refuted."""
    return bool(binom.sf(failures - 1, repetitions, level) < LEAST_TAIL)


@dataclasses.dataclass(frozen=True)
class Run:
    """A corpus, the predictor that was chosen after seeing it, and what each token could have been."""

    corpus: TokenCorpus
    seen: TokenStatistics  # of every token, a window of its own
    possible: tuple[TokenStatistics, ...]  # the same with each token of the vocabulary as the next one
    likelihood: Array  # of each next token; shape (tokens, VOCABULARY)

    def risk(self, method: Method) -> float:
        """mu: every next token resampled given the previous one."""
        losses = np.stack([method.loss.of(statistics) for statistics in self.possible], axis=1)
        return float((self.likelihood * losses).sum(axis=1).mean())

    def part(self, windows: Windows) -> TokenStatistics:
        index = np.concatenate([np.arange(a, b) for a, b in zip(windows.start, windows.stop, strict=True)])
        arrays = (getattr(self.seen, name)[index] for name in ("log2_prob", "rank", "entropy_bits", "max_prob"))
        return TokenStatistics(*arrays, windows.stop - windows.start)


def statistics_of(previous: Array, favourite: Array, token: Array) -> TokenStatistics:
    """A predictor that gives its favourite token SURENESS[previous] and shares the rest equally."""
    sure = SURENESS[previous]
    rest = (1 - sure) / (VOCABULARY - 1)
    entropy = -sure * np.log2(sure) - (VOCABULARY - 1) * rest * np.log2(rest)
    right = token == favourite
    return TokenStatistics(
        np.log2(np.where(right, sure, rest)),
        np.where(right, 1, VOCABULARY),
        entropy,
        np.maximum(sure, rest),
        np.ones(len(token), dtype=np.int64),
    )


def simulate(rng: np.random.Generator) -> Run:
    steps = np.cumsum(TRANSITION, axis=1)
    tokens = np.empty(N_TOKENS + 1, dtype=np.int64)
    tokens[0] = rng.integers(VOCABULARY)
    for i, u in enumerate(rng.random(N_TOKENS)):
        tokens[i + 1] = min(int((u > steps[tokens[i]]).sum()), VOCABULARY - 1)
    previous, following = tokens[:-1], tokens[1:]
    block = np.arange(N_TOKENS) * N_BLOCKS // N_TOKENS
    # of two favourites, each block takes the one that was right more often
    options = [(previous + 1 + bit) % VOCABULARY for bit in range(2)]
    gains = [np.bincount(block, weights=SURENESS[previous] * (following == option)) for option in options]
    favourite = np.where((gains[1] > gains[0])[block], options[1], options[0])
    lengths = rng.choice([1, 2, 3, 20, 40], size=N_TOKENS)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    corpus = TokenCorpus("local", "-", following.astype(np.uint16), starts[starts < N_TOKENS], "0" * 64, None)
    possible = tuple(statistics_of(previous, favourite, np.full(N_TOKENS, token)) for token in range(VOCABULARY))
    return Run(corpus, statistics_of(previous, favourite, following), possible, TRANSITION[previous])


def problem(metric: str, failure_prob: float) -> Problem:
    return Problem(metric, VOCABULARY, N_TOKENS, N_WINDOWS, float(N_BLOCKS), failure_prob, replacement=False)


Draw = Callable[[TokenCorpus, int, int], Windows]


def proportional(corpus: TokenCorpus, n: int, seed: int) -> Windows:
    return draw_distinct_windows(corpus, n, CONTEXT, seed)


def alike(corpus: TokenCorpus, n: int, seed: int) -> Windows:
    """Every window as likely as any other: those of short documents come up too often."""
    every = draw_windows(corpus, 4000, CONTEXT, seed)
    first = np.sort(np.unique(every.start, return_index=True)[1])
    chosen = np.random.default_rng(seed).permutation(first)[:n]
    return Windows(every.token_index[chosen], every.start[chosen], every.stop[chosen])


def failures(name: str, metric: str, failure_prob: float, repetitions: int) -> tuple[int, int]:
    """How often mu was above the corpus mean of Z, and how often that mean was above its bound from the windows."""
    rng, given = np.random.default_rng(7), problem(metric, failure_prob)
    first = second = 0
    for repetition in range(repetitions):
        run = simulate(rng)
        pilot = run.part(draw_windows(run.corpus, N_PILOT, CONTEXT, stream_seed("pilot", repetition)))
        method = choose_method(name, given, pilot)
        delta_1, delta_2 = method.failure_probs(given)
        assert delta_1 + delta_2 <= failure_prob
        rate = complexity_rate(given, method.selection(), delta_1)
        exact = float(method.statistic(method.columns(run.seen), rate).mean())
        first += run.risk(method) > exact
        windows = proportional(run.corpus, N_WINDOWS, stream_seed("certify", repetition, method.to_dict()))
        sample = run.part(windows)
        means = {column: window_means(values, sample.window_sizes) for column, values in method.columns(sample).items()}
        second += exact > method.upper(method.statistic(means, rate), sample.window_sizes, given, rate)
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "repetitions"),
    [
        ("kl_inf", "bpd", 300),
        ("kl_inf", "top1", 300),
        ("azuma", "bpd", 300),
        ("freedman", "top1", 200),
        ("best", "top1", 100),
    ],
)
def test_each_step_keeps_its_level(name: str, metric: str, repetitions: int) -> None:
    first, second = failures(name, metric, 0.3, repetitions)
    assert not caught(first, repetitions, 0.3 / 100)
    assert not caught(second, repetitions, 0.3 * 0.99)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl_inf", "azuma"])
def test_complexity_that_is_not_paid_is_caught(name: str) -> None:
    """Everything as above, but the bits of the predictor and of the choices are left out."""
    rng, given = np.random.default_rng(7), dataclasses.replace(problem("top1", 0.3), description_bits=0.0)
    repetitions, count = 200, 0
    for repetition in range(repetitions):
        run = simulate(rng)
        pilot = run.part(draw_windows(run.corpus, N_PILOT, CONTEXT, stream_seed("pilot", repetition)))
        method = choose_method(name, given, pilot)
        rate = -math.log(method.failure_probs(given)[0]) / N_TOKENS
        if isinstance(method, KlInf):
            means = {column: np.array([values.mean()]) for column, values in method.columns(run.seen).items()}
            method = method.tuned(means, rate)
        count += run.risk(method) > float(method.statistic(method.columns(run.seen), rate).mean())
    assert caught(count, repetitions, 0.3 / 100)


@pytest.mark.slow
def test_windows_that_are_drawn_alike_are_caught() -> None:
    """Where the losses depend on the length of the document, the sizes of the windows matter."""
    repetitions, failure_prob = 300, 0.3
    assert not caught(biased(proportional, repetitions), repetitions, failure_prob * 0.99)
    assert caught(biased(alike, repetitions), repetitions, failure_prob * 0.99)


def biased(draw: Draw, repetitions: int) -> int:
    """Failures of the second step on a corpus whose long documents are hard and whose short ones are easy."""
    rng, given, count = np.random.default_rng(3), problem("top1", 0.3), 0
    for repetition in range(repetitions):
        run = simulate(rng)
        start, stop = run.corpus.document_bounds(np.arange(N_TOKENS))
        wrong = rng.random(N_TOKENS) < np.where(stop - start > 5, 0.7, 0.05)
        run = dataclasses.replace(run, seen=dataclasses.replace(run.seen, rank=np.where(wrong, VOCABULARY, 1)))
        pilot = run.part(draw_windows(run.corpus, N_PILOT, CONTEXT, stream_seed("pilot", repetition)))
        method = choose_method("azuma", given, pilot)
        rate = complexity_rate(given, method.selection(), method.failure_probs(given)[0])
        sample = run.part(draw(run.corpus, N_WINDOWS, stream_seed("certify", repetition)))
        means = {"loss": window_means(method.columns(sample)["loss"], sample.window_sizes)}
        exact = float(method.statistic(method.columns(run.seen), rate).mean())
        count += exact > method.upper(method.statistic(means, rate), sample.window_sizes, given, rate)
    return count
