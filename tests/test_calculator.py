"""Bounds from summary numbers against computations of their own, and against bounds from whole samples."""

from __future__ import annotations

import dataclasses
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

from lm_bounds.bounds import (
    METRICS,
    Problem,
    chernoff_kl_upper,
    hoeffding_upper,
    kl_inf_upper,
    make_loss,
    vacuous_at,
)
from lm_bounds.bounds.kl_inf import ceiling_offset
from lm_bounds.calculator import CALCULATED_METHODS, Summary, bound_from_summary
from lm_bounds.codelength import elias_delta_bits
from lm_bounds.errors import UsageError

LLAMA = Summary("bpd", 2.77, 1.72e10, 1_200_000_000_000, 32000, 0.1, 10_000, 0.05)
ERROR = Summary("top1", 0.31, 4.0e6, 10_000_000, 50257, None, 10_000, 0.05)
modest = settings(deadline=None, max_examples=60)


def bound(method: str, summary: Summary, **changes: object) -> float:
    found, _ = bound_from_summary(method, dataclasses.replace(summary, **changes))
    assert found.value == found.risk + found.complexity + found.sampling
    assert found.method == method
    return found.value


@st.composite
def summaries(draw: st.DrawFn) -> Summary:
    metric = draw(st.sampled_from(METRICS))
    vocab_size = draw(st.integers(120, 260_000))
    smoothing = draw(st.floats(2.0**-32, 0.9)) if metric == "bpd" else None
    loss = make_loss(metric, vocab_size, smoothing)
    share = draw(st.floats(0, 1))
    return Summary(
        metric=metric,
        risk=min(loss.loss_min + share * (loss.loss_max - loss.loss_min), loss.loss_max),
        code_bits=draw(st.floats(2, 1e13)),
        n_tokens=draw(st.integers(1, 10**13)),
        vocab_size=vocab_size,
        smoothing=smoothing,
        n_samples=draw(st.none() | st.integers(1, 10**7)),
        failure_prob=draw(st.floats(1e-6, 0.5)),
    )


def test_published_formula_digit_by_digit() -> None:
    """Lotfi et al. 2024: mean l + Delta [ sqrt((C ln2 + 2 ln C + ln 1/d1)/(2m)) + sqrt(ln(1/d2)/(2n)) ]."""
    with mpmath.workdps(50):
        c, m, n, v, a, delta = (mpf(text) for text in ("1.72e10", "1.2e12", "10000", "32000", "0.1", "0.05"))
        width = mpmath.log(1 + (1 - a) * v / a, 2)
        delta_1, delta_2 = delta * n / (n + m), delta * m / (n + m)
        complexity = width * mpmath.sqrt((c * mpmath.log(2) + 2 * mpmath.log(c) - mpmath.log(delta_1)) / (2 * m))
        sampling = width * mpmath.sqrt(-mpmath.log(delta_2) / (2 * n))
        terms = [float(mpf("2.77")), float(complexity), float(sampling), float(mpf("2.77") + complexity + sampling)]
    found, chosen = bound_from_summary("paper", LLAMA)
    assert [found.risk, found.complexity, found.sampling, found.value] == pytest.approx(terms, rel=1e-14)
    assert found.value == pytest.approx(4.27018, abs=5e-6)
    assert chosen == {}


def test_azuma_is_the_sum_of_its_two_steps() -> None:
    for summary in (LLAMA, ERROR):
        loss = make_loss(summary.metric, summary.vocab_size, summary.smoothing)
        bits = summary.code_bits + elias_delta_bits(int(summary.code_bits))
        rate = (bits * math.log(2) + math.log(100 / 0.05)) / summary.n_tokens
        level = math.log(1 / (0.05 * 0.99)) / summary.n_samples
        corpus = chernoff_kl_upper(summary.risk, loss.loss_min, loss.loss_max, level)
        gap = loss.loss_range * math.sqrt(rate / 2)
        found, chosen = bound_from_summary("azuma", summary)
        assert found.rate == pytest.approx(rate, rel=1e-14)
        assert found.complexity == pytest.approx(gap, rel=1e-12)
        assert found.sampling == pytest.approx(corpus - summary.risk, rel=1e-9)
        assert chosen == {}


@pytest.mark.parametrize("summary", [LLAMA, ERROR, dataclasses.replace(LLAMA, risk=0.4, n_tokens=10**14)])
def test_kl_inf_is_the_best_ceiling_for_the_worst_losses_of_that_mean(summary: Summary) -> None:
    loss = make_loss(summary.metric, summary.vocab_size, summary.smoothing)
    bits = summary.code_bits + elias_delta_bits(int(summary.code_bits)) + 16
    rate = (bits * math.log(2) + math.log(100 / 0.05)) / summary.n_tokens
    level = math.log(1 / (0.05 * 0.99)) / summary.n_samples
    corpus = chernoff_kl_upper(summary.risk, loss.loss_min, loss.loss_max, level)
    found, chosen = bound_from_summary("kl_inf", summary)
    assert found.rate == pytest.approx(rate, rel=1e-14)
    share = (corpus - loss.loss_min) / loss.loss_range
    worst = {}
    for index in range(0, 1 << 16, 16):
        c = ceiling_offset(loss.loss_max, loss.loss_max, index)
        worst[c] = c - math.exp((1 - share) * math.log(c - loss.loss_min) + share * math.log(c - loss.loss_max) - rate)
    assert found.value == pytest.approx(min(worst.values()), rel=1e-6)
    # A grid of 2^16 ceilings is as good as all of them: the Chernoff-kl bound at the rate that pays for the grid.
    best = chernoff_kl_upper(corpus, loss.loss_min, loss.loss_max, rate)
    assert best <= found.value <= best + 1e-3 * (best - corpus)
    assert chosen["ceiling"] == pytest.approx(min(worst, key=worst.__getitem__), rel=0.02)


def test_kl_inf_pays_for_its_ceiling() -> None:
    rates = {method: bound_from_summary(method, LLAMA)[0].rate for method in ("azuma", "kl_inf")}
    assert rates["kl_inf"] - rates["azuma"] == pytest.approx(16 * math.log(2) / LLAMA.n_tokens, rel=1e-3)


@modest
@given(summaries(), st.integers(0, 2**32 - 1))
def test_kl_inf_of_a_mean_is_above_kl_inf_of_every_sample_with_that_mean(summary: Summary, seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = make_loss(summary.metric, summary.vocab_size, summary.smoothing)
    n = int(rng.integers(2, 60))
    if summary.metric == "bpd":
        losses = loss.loss_min + loss.loss_range * rng.beta(0.4, 0.9, n)
        losses = np.clip(losses, loss.loss_min, loss.loss_max)
    else:
        losses = (rng.random(n) < rng.random()).astype(float)
    known = dataclasses.replace(summary, risk=float(losses.mean()), n_samples=None)
    found, chosen = bound_from_summary("kl_inf", known)
    on_sample = kl_inf_upper(losses, chosen["ceiling"], found.rate)
    assert min(on_sample, loss.loss_max) <= found.value * (1 + 1e-12)
    assert found.sampling == pytest.approx(0.0, abs=1e-12 * loss.loss_max)


@modest
@given(summaries())
def test_no_bound_but_the_published_one_is_above_the_largest_loss(summary: Summary) -> None:
    loss = make_loss(summary.metric, summary.vocab_size, summary.smoothing)
    for method in ("azuma", "kl_inf"):
        found, _ = bound_from_summary(method, summary)
        assert summary.risk * (1 - 1e-12) <= found.value <= loss.loss_max * (1 + 2**-51)
        assert found.risk + found.complexity <= loss.loss_max * (1 + 2**-51)
    published, _ = bound_from_summary("paper", summary)
    assert published.complexity == pytest.approx(loss.loss_range * math.sqrt(published.rate / 2), rel=1e-14)


@modest
@given(summaries(), st.floats(1.001, 100))
def test_bounds_are_monotone(summary: Summary, factor: float) -> None:
    better = {
        "code_bits": max(2.0, summary.code_bits / factor),
        "n_tokens": math.ceil(summary.n_tokens * factor),
        "failure_prob": min(0.9, summary.failure_prob * factor),
    }
    if summary.n_samples is not None:
        better["n_samples"] = math.ceil(summary.n_samples * factor)
    for method in CALCULATED_METHODS:
        value = bound(method, summary)
        for field, easier in better.items():
            if method == "paper" and field == "n_samples" and summary.n_samples is None:
                continue
            # The ceiling is searched on a grid of its own each time, to a relative 1e-6 of the best.
            assert bound(method, summary, **{field: easier}) <= value * (1 + 1e-6)


def test_a_risk_on_the_whole_corpus_has_no_sampling_term() -> None:
    for method in CALCULATED_METHODS:
        for summary in (LLAMA, ERROR):
            whole, _ = bound_from_summary(method, dataclasses.replace(summary, n_samples=None))
            sampled, _ = bound_from_summary(method, summary)
            assert whole.sampling == pytest.approx(0.0, abs=1e-12)
            assert whole.value < sampled.value
            assert sampled.sampling > 0


def test_sampling_step_of_azuma_is_below_that_of_the_paper() -> None:
    found, _ = bound_from_summary("azuma", LLAMA)
    loss = make_loss("bpd", 32000, 0.1)
    assert 0 < found.sampling < hoeffding_upper(0.0, loss.loss_range, 10_000, 0.05 * 0.99)


def test_kl_inf_of_a_good_mean_is_not_vacuous_where_azuma_is() -> None:
    hard = dataclasses.replace(LLAMA, n_tokens=12_500_000_000)
    assert bound("kl_inf", hard) < vacuous_at("bpd", 32000) < min(bound("azuma", hard), bound("paper", hard))


@pytest.mark.parametrize("method", CALCULATED_METHODS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": 25.0}, r"the risk must be between 0\.15.* and 18\.28.*, 25\.0 was given"),
        ({"risk": 0.1}, r"the risk must be between 0\.15.* and 18\.28.*, 0\.1 was given"),
        ({"risk": math.nan}, "the risk must be between .* nan was given"),
        ({"risk": math.inf}, "the risk must be between .* inf was given"),
        ({"n_tokens": 0}, "n_tokens must be at least 1, 0 was given"),
        ({"n_samples": 0}, "n_windows must be at least 1, 0 was given"),
        ({"n_samples": -3}, "n_windows must be at least 1, -3 was given"),
        ({"vocab_size": 1}, r"vocabulary of at least 2 and smoothing in \(0, 1\); 1 and 0.1 were given"),
        ({"smoothing": 1.0}, r"smoothing in \(0, 1\); 32000 and 1.0 were given"),
        ({"smoothing": 0.0}, r"smoothing in \(0, 1\); 32000 and 0.0 were given"),
        ({"smoothing": None}, r"need a smoothing probability in \(0, 1\)"),
        ({"failure_prob": 0.0}, r"failure_prob must be in \(0, 1\), 0.0 was given"),
        ({"failure_prob": 1.0}, r"failure_prob must be in \(0, 1\), 1.0 was given"),
        ({"code_bits": 0.0}, r"(at least 1 bit|2 bits or more).* 0\.0 bits"),
        ({"code_bits": -8.0}, r"(at least 1 bit|2 bits or more).* -8\.0 bits"),
        ({"code_bits": math.inf}, r"(at least 1 bit|2 bits or more).* inf bits"),
        ({"code_bits": math.nan}, r"(at least 1 bit|2 bits or more).* nan bits"),
        ({"metric": "top40000"}, "1 <= k < V; k=40000 and V=32000"),
        ({"metric": "loss"}, "unknown metric 'loss': use one of bpd, top1"),
    ],
)
def test_numbers_outside_their_ranges_are_refused(method: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bound_from_summary(method, dataclasses.replace(LLAMA, **change))


def test_methods_that_need_losses_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^method 'freedman' needs losses, not a mean: use one of paper, azuma"):
        bound_from_summary("freedman", LLAMA)


@pytest.mark.parametrize(
    ("method", "hint"), [("azumma", "did you mean 'azuma'\\?"), ("nothing", "use one of paper, azuma, kl_inf")]
)
def test_unknown_methods_are_refused(method: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown method '{method}': {hint}$"):
        bound_from_summary(method, LLAMA)


def test_error_rates_at_the_ends_of_their_range() -> None:
    for method in ("azuma", "kl_inf"):
        assert bound(method, ERROR, risk=1.0) == pytest.approx(1.0, abs=1e-15)
        assert 0 < bound(method, ERROR, risk=0.0) < bound(method, ERROR)


def test_problem_of_the_summary_is_the_problem_of_the_paper() -> None:
    """C + 2 log2 C bits and nothing for the smoothing, which is fixed in advance."""
    found, _ = bound_from_summary("paper", LLAMA)
    described = 1.72e10 + 2 * math.log2(1.72e10)
    problem = Problem("bpd", 32000, LLAMA.n_tokens, 10_000, described, 0.05)
    delta_1 = 0.05 * 1e4 / (1e4 + 1.2e12)
    assert found.rate == pytest.approx((problem.description_bits * math.log(2) - math.log(delta_1)) / 1.2e12, rel=1e-14)
