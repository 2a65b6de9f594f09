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
    EntropySmoothedBits,
    TokenStatistics,
    TopKError,
    make_loss,
    top_k,
    vacuous_at,
)
from lm_bounds.bounds.losses import SMOOTHING_OFFSETS, SMOOTHING_SLOPES
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


# Smoothing by entropy

by_entropy = st.builds(
    EntropySmoothedBits, vocabularies, st.sampled_from(SMOOTHING_OFFSETS), st.sampled_from(SMOOTHING_SLOPES)
)


def predicted(log2_prob: list[float], entropy: list[float]) -> TokenStatistics:
    n = len(entropy)
    return TokenStatistics(np.array(log2_prob), np.ones(n, int), np.array(entropy), np.ones(n), np.array([n]))


@given(by_entropy, st.floats(-200, 0) | st.just(-math.inf), st.floats(0, 1))
def test_loss_smoothed_by_entropy_is_the_code_length_of_its_mixture(
    loss: EntropySmoothedBits, log2_prob: float, share: float
) -> None:
    vocab_size, entropy = loss.vocab_size, share * math.log2(loss.vocab_size)
    exponent = min(max(loss.offset + loss.slope * entropy, 0.125), 32.0)
    alpha = 2.0**-exponent
    probability = 0.0 if log2_prob == -math.inf else 2.0**log2_prob
    [found] = loss.of(predicted([log2_prob], [entropy]))
    assert found == pytest.approx(-math.log2((1 - alpha) * probability + alpha / vocab_size), rel=1e-11, abs=1e-14)
    [largest], [own_range] = loss.largest(np.array([entropy])), loss.ranges(np.array([entropy]))
    assert largest == pytest.approx(math.log2(vocab_size) + exponent, rel=1e-14)
    assert own_range == pytest.approx(math.log2(1 + (1 - alpha) * vocab_size / alpha), rel=1e-12)
    [surest] = loss.of(predicted([0.0], [entropy]))
    assert own_range == pytest.approx(largest - surest, rel=1e-12)


@given(by_entropy)
def test_losses_smoothed_by_entropy_stay_below_what_their_entropy_allows(loss: EntropySmoothedBits) -> None:
    top = math.log2(loss.vocab_size)
    entropy = np.linspace(-1.0, top + 1.0, 400)
    for log2_prob in (0.0, -3.0, -1e3, -math.inf):
        found = loss.of(predicted([log2_prob] * 400, entropy.tolist()))
        assert np.all(found <= loss.largest(entropy))
        assert np.all((found >= loss.loss_min) & (found <= loss.loss_max))
    assert np.all(loss.ranges(entropy) <= loss.loss_range * (1 + 1e-15))
    assert loss.loss_range == pytest.approx(loss.loss_max - loss.loss_min, rel=1e-15)
    ends = loss.kinks()
    assert loss.largest(ends).max() == loss.loss_max
    least = [loss.of(predicted([0.0], [h]))[0] for h in ends]
    assert min(least) == pytest.approx(loss.loss_min, rel=1e-12, abs=1e-15)


@given(by_entropy)
def test_the_largest_loss_is_linear_between_kinks_and_bends_at_them(loss: EntropySmoothedBits) -> None:
    kinks, top = loss.kinks(), math.log2(loss.vocab_size)
    assert kinks.tolist() == sorted(set(kinks.tolist()))
    assert (kinks[0], kinks[-1]) == (0.0, top)
    for left, right in itertools.pairwise(kinks):
        ends = loss.largest(np.array([left, right]))
        inside = np.linspace(left, right, 9)
        wanted = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 9)
        assert loss.largest(inside) == pytest.approx(wanted, rel=1e-9)
    exponents = loss.largest(kinks[1:-1]) - top
    assert all(min(abs(exponent - 0.125), abs(exponent - 32.0)) < 1e-9 for exponent in exponents)


@given(vocabularies, st.sampled_from(SMOOTHING_OFFSETS), st.floats(-200, 0) | st.just(-math.inf), st.floats(0, 20))
def test_without_a_slope_it_is_one_smoothing_everywhere(
    vocab_size: int, offset: float, log2_prob: float, entropy: float
) -> None:
    one, other = EntropySmoothedBits(vocab_size, offset, 0.0), BitsPerDimension(vocab_size, 2.0**-offset)
    token = predicted([log2_prob], [entropy])
    assert one.of(token) == pytest.approx(other.of(token), rel=1e-13, abs=1e-15)
    for name in ("loss_max", "loss_min", "loss_range"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert one.kinks().tolist() == other.kinks().tolist()
    for name in ("largest", "ranges"):
        at = np.array([entropy])
        assert getattr(one, name)(at) == pytest.approx(getattr(other, name)(at), rel=1e-12)


def test_grids_of_the_smoothing_by_entropy() -> None:
    assert len(SMOOTHING_OFFSETS) == len(SMOOTHING_GRID) == 256
    assert [2.0**-offset for offset in SMOOTHING_OFFSETS] == list(SMOOTHING_GRID)
    assert len(SMOOTHING_SLOPES) == 64
    assert (SMOOTHING_SLOPES[0], SMOOTHING_SLOPES[32], SMOOTHING_SLOPES[-1]) == (-4.0, 0.0, 3.875)
    assert len(set(SMOOTHING_SLOPES)) == 64


def test_a_mixture_by_entropy_is_a_distribution() -> None:
    probabilities = np.random.default_rng(1).dirichlet(np.full(50, 0.3))
    entropy = float(-(probabilities * np.log2(probabilities)).sum())
    losses = EntropySmoothedBits(50, 3.0, -0.5).of(predicted(np.log2(probabilities).tolist(), [entropy] * 50))
    assert np.exp2(-losses).sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize(("vocab_size", "offset"), [(1, 3.0), (10, 0.1), (10, 32.1), (10, math.nan)])
def test_no_smoothing_by_entropy_outside_its_range(vocab_size: int, offset: float) -> None:
    with pytest.raises(UsageError, match=r"an offset in \[1/8, 32\]"):
        EntropySmoothedBits(vocab_size, offset, 0.0)


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
