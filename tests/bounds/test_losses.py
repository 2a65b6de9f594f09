"""The bounded losses, their grids and the level of a uniform guess."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_bounds.bounds import (
    METRICS,
    PAPER_SMOOTHING_GRID,
    SMOOTHING_GRID,
    BitsPerDimension,
    TokenStatistics,
    TopKError,
    make_loss,
    top_k,
    vacuous_at,
)
from lm_bounds.errors import UsageError

smoothings = st.floats(2.0**-32, 0.999)
vocabularies = st.integers(2, 300_000)


def tokens(log2_prob: list[float], rank: list[int]) -> TokenStatistics:
    n = len(rank)
    return TokenStatistics(np.array(log2_prob), np.array(rank), np.zeros(n), np.ones(n), np.array([n]))


@given(vocabularies, smoothings)
def test_smoothed_loss_of_a_uniform_guess_is_log2_of_the_vocabulary(vocab_size: int, smoothing: float) -> None:
    guess = tokens([-math.log2(vocab_size)], [1])
    assert BitsPerDimension(vocab_size, smoothing).of(guess)[0] == pytest.approx(math.log2(vocab_size), rel=1e-14)


@given(vocabularies, smoothings)
def test_smoothed_loss_ranges_from_the_surest_to_the_impossible_token(vocab_size: int, smoothing: float) -> None:
    loss = BitsPerDimension(vocab_size, smoothing)
    sure, impossible = loss.of(tokens([0.0, -math.inf], [1, 1]))
    assert sure == pytest.approx(loss.loss_min, rel=1e-15)
    assert loss.loss_min >= 0
    assert loss.loss_max * (1 - 1e-15) <= impossible <= loss.loss_max
    assert loss.loss_max - loss.loss_min == pytest.approx(loss.loss_range, rel=1e-12)


@given(vocabularies, smoothings, st.floats(-200, 0))
def test_smoothed_loss_is_the_code_length_of_the_mixture(vocab_size: int, smoothing: float, log2_prob: float) -> None:
    mixture = (1 - smoothing) * 2.0**log2_prob + smoothing / vocab_size
    found = BitsPerDimension(vocab_size, smoothing).of(tokens([log2_prob], [1]))[0]
    assert found == pytest.approx(-math.log2(mixture), rel=1e-12, abs=1e-15)


def test_a_mixture_of_distributions_is_a_distribution() -> None:
    probabilities = np.random.default_rng(1).dirichlet(np.full(50, 0.3))
    losses = BitsPerDimension(50, 0.03).of(tokens(np.log2(probabilities).tolist(), [1] * 50))
    assert np.exp2(-losses).sum() == pytest.approx(1, abs=1e-13)


def test_a_token_counts_as_right_up_to_rank_k() -> None:
    ranks = tokens([-1.0] * 5, [1, 2, 10, 11, 500])
    assert TopKError(500, 1).of(ranks).tolist() == [0, 1, 1, 1, 1]
    assert TopKError(500, 2).of(ranks).tolist() == [0, 0, 1, 1, 1]
    assert TopKError(500, 10).of(ranks).tolist() == [0, 0, 0, 1, 1]
    assert TopKError(500, 499).of(ranks).tolist() == [0, 0, 0, 0, 1]


def test_a_failed_token_has_the_largest_loss_of_every_metric() -> None:
    failed = tokens([-math.inf], [500])
    for metric in METRICS:
        loss = make_loss(metric, 500, 0.01)
        assert loss.of(failed).tolist() == pytest.approx([loss.loss_max], rel=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_losses_and_their_dictionaries(metric: str) -> None:
    loss = make_loss(metric, 50257, 0.01)
    fields = loss.to_dict()
    assert fields["metric"] == metric
    assert make_loss(fields["metric"], fields["vocab_size"], fields.get("smoothing")) == loss


def test_grids_are_decreasing_probabilities_of_as_many_points_as_are_paid() -> None:
    assert len(SMOOTHING_GRID) == 256
    assert SMOOTHING_GRID[0] == 2.0**-0.125
    assert SMOOTHING_GRID[-1] == 2.0**-32
    assert all(1 > a > b > 0 for a, b in itertools.pairwise(SMOOTHING_GRID))
    assert len(PAPER_SMOOTHING_GRID) == 8


@pytest.mark.parametrize(("vocab_size", "smoothing"), [(1, 0.1), (0, 0.1), (10, 0.0), (10, 1.0), (10, math.nan)])
def test_no_smoothing_outside_its_range(vocab_size: int, smoothing: float) -> None:
    with pytest.raises(UsageError, match=r"vocabulary of at least 2 and smoothing in \(0, 1\)"):
        BitsPerDimension(vocab_size, smoothing)


def test_bpd_needs_a_smoothing() -> None:
    with pytest.raises(UsageError, match=r"need a smoothing probability in \(0, 1\)"):
        make_loss("bpd", 100)


@pytest.mark.parametrize(("vocab_size", "k"), [(10, 0), (10, 10), (10, 11), (2, 2)])
def test_no_k_outside_its_range(vocab_size: int, k: int) -> None:
    with pytest.raises(UsageError, match="1 <= k < V"):
        TopKError(vocab_size, k)


def test_a_metric_is_bpd_or_top_and_a_number() -> None:
    assert [top_k(metric) for metric in METRICS[1:]] == [1, 10, 100]
    for name in ("top", "topk", "top-1", "top1.5", "top²", "bits", "", "TOP1"):
        with pytest.raises(UsageError, match="unknown metric"):
            make_loss(name, 100)


def test_a_uniform_guess() -> None:
    assert vacuous_at("bpd", 1024) == 10
    assert vacuous_at("top1", 4) == 0.75
    assert vacuous_at("top10", 4) == 0
    for metric in METRICS:
        loss = make_loss(metric, 512, 0.5)
        assert loss.loss_min < vacuous_at(metric, 512) < loss.loss_max
