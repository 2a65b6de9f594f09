"""Bounds from summary numbers alone: what a paper's table gives instead of a model and a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lm_bounds.bounds import (
    METHODS,
    Bound,
    Problem,
    azuma_bound,
    chernoff_kl_upper,
    complexity_rate,
    make_loss,
    paper_bound,
    two_point_upper,
)
from lm_bounds.bounds.kl_inf import N_MARGINS, ceiling_offset
from lm_bounds.bounds.protocol import constant_failure_probs
from lm_bounds.bounds.search import level_rate, minimise_on_grid
from lm_bounds.codelength import length_prefix
from lm_bounds.errors import UsageError, nearest

CALCULATED_METHODS = ("paper", "azuma", "kl_inf")


@dataclass(frozen=True)
class Summary:
    """What is known of a model and its sample.

    Args:
        metric: ``bpd`` or ``topK``.
        risk: empirical risk, smoothed for bpd, in the metric's unit.
        code_bits: C, the compressed size of the weights in bits.
        n_tokens: m, tokens of the corpus.
        vocab_size: V.
        smoothing: a, fixed in advance; for bpd only.
        n_samples: n, i.i.d. tokens that the risk was measured on; None when it is the risk on all m tokens.
        failure_prob: delta.
    """

    metric: str
    risk: float
    code_bits: float
    n_tokens: int
    vocab_size: int
    smoothing: float | None
    n_samples: int | None
    failure_prob: float


def bound_from_summary(method: str, summary: Summary) -> tuple[Bound, dict[str, float]]:
    """The bound and what was chosen for it.

    ``paper``: the published formula. ``azuma``: the same with Elias-delta, delta_1 = delta/100 and the Chernoff-kl
    bound for the sample. ``kl_inf``: Chernoff-kl for the sample, then (KL) for the worst distribution of losses with
    that mean, one constant ceiling on a grid of 2^16 points (16 bits). The last two are never above l_max.

    Args:
        method: one of ``CALCULATED_METHODS``.
        summary: the numbers.

    Raises:
        UsageError: for an unknown method, or a number outside its range.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}{nearest(method, CALCULATED_METHODS)}")
    if method not in CALCULATED_METHODS:
        raise UsageError(f"method {method!r} needs losses, not a mean: use one of {', '.join(CALCULATED_METHODS)}")
    loss = make_loss(summary.metric, summary.vocab_size, summary.smoothing)
    if not loss.loss_min <= summary.risk <= loss.loss_max:
        raise UsageError(
            f"the risk must be between {loss.loss_min:.6g} and {loss.loss_max:.6g} for this metric, vocabulary and "
            f"smoothing, {summary.risk} was given"
        )
    problem = Problem(
        metric=summary.metric,
        vocab_size=summary.vocab_size,
        n_tokens=summary.n_tokens,
        n_windows=summary.n_tokens if summary.n_samples is None else summary.n_samples,
        description_bits=summary.code_bits + length_prefix(method, summary.code_bits).bits,
        failure_prob=summary.failure_prob,
    )
    if method == "paper":
        published = paper_bound(summary.risk, loss.loss_range, problem)
        return (_without_sampling(published) if summary.n_samples is None else published), {}
    delta_1, delta_2 = constant_failure_probs(problem)
    sampling_rate = 0.0 if summary.n_samples is None else level_rate(delta_2, summary.n_samples)
    corpus_risk = chernoff_kl_upper(summary.risk, loss.loss_min, loss.loss_max, sampling_rate)
    if method == "azuma":
        rate = complexity_rate(problem, (), delta_1)
        gap = azuma_bound(0.0, loss.loss_range, rate)
        return _capped(method, summary.risk, summary.risk + gap, corpus_risk + gap, loss.loss_max, rate), {}
    rate = complexity_rate(problem, (("ceiling b", math.log2(N_MARGINS)),), delta_1)

    def worst(mean: float, index: int) -> float:
        return two_point_upper(
            mean, loss.loss_min, loss.loss_max, ceiling_offset(loss.loss_max, loss.loss_max, index), rate
        )

    (best,), _ = minimise_on_grid(lambda at: worst(corpus_risk, at[0]), [N_MARGINS], [(16_000,), (32_000,)])
    whole, value = worst(summary.risk, best), worst(corpus_risk, best)
    bound = _capped(method, summary.risk, whole, value, loss.loss_max, rate)
    return bound, {"ceiling": ceiling_offset(loss.loss_max, loss.loss_max, best)}


def _capped(method: str, risk: float, whole: float, value: float, loss_max: float, rate: float) -> Bound:
    """The bound with its terms, neither it nor the bound without the sampling step above l_max."""
    complexity = min(whole, loss_max) - risk
    return Bound(method, risk, complexity, min(value, loss_max) - (risk + complexity), rate)


def _without_sampling(bound: Bound) -> Bound:
    return Bound(bound.method, bound.risk, bound.complexity, 0.0, bound.rate)
