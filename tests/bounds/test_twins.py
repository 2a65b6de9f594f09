"""Every formula against a slow twin in 60 digits.

The twins are written as the formulas are printed, with the large ceilings, tiny rates and cancelling terms left in;
float64 holds ``TOLERANCE`` on all of them. The twins are given the same floats as the package (a loss, a ceiling's
offset).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from lm_bounds.bounds import (
    METHODS,
    BitsPerDimension,
    EntropySmoothedBits,
    Problem,
    azuma_bound,
    chernoff_kl_upper,
    complexity_rate,
    freedman_bound,
    hoeffding_upper,
    kl_inf_upper,
    two_point_upper,
    window_means,
)
from lm_bounds.bounds.freedman import STEP_GRID
from lm_bounds.bounds.kl_inf import ceiling_offset, ceiling_slope
from lm_bounds.bounds.losses import SMOOTHING_GRID
from lm_bounds.bounds.search import level_rate

TOLERANCE = 4e-15  # relative to the largest of the terms that do not cancel: the mean value and the gap above it
RATES = [0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.05, 1.0, 7.0, 50.0]
MARGINS = [2.0**-12, 2.0**-3, 1.0, 2.0**10, 2.0**24]  # of the ceiling over l_max, relative to it
VOCABULARIES = [2, 62, 50257, 256_000]


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield


def exact(values: Sequence[float] | np.ndarray) -> list[mpf]:
    return [mpf(float(value)) for value in values]


def mean(values: Sequence[mpf]) -> mpf:
    return mpmath.fsum(values) / len(values)


def relative(found: float, true: mpf, *scales: float | mpf) -> float:
    """The error relative to the largest of the true value and other scales."""
    return float(abs(mpf(found) - true) / max(abs(true), *(abs(mpf(scale)) for scale in scales), mpf(10) ** -300))


def kl_inf_twin(values: np.ndarray, ceilings: np.ndarray, rate: float) -> mpf:
    v, c = exact(values), exact(np.broadcast_to(ceilings, values.shape))
    return mean(c) - mpmath.exp(mean([mpmath.log(ci - vi) for ci, vi in zip(c, v, strict=True)]) - mpf(rate))


def bernoulli_kl_twin(p: mpf, q: mpf) -> mpf:
    left = p * mpmath.log(p / q) if p > 0 else mpf(0)
    right = (1 - p) * mpmath.log((1 - p) / (1 - q)) if p < 1 else mpf(0)
    return left + right


def sample_losses(rng: np.random.Generator, loss_max: float) -> np.ndarray:
    n = int(rng.integers(1, 50))
    kind = rng.integers(5)
    if kind == 0:
        return np.full(n, loss_max)
    if kind == 1:
        return np.zeros(n)
    if kind == 2:
        return rng.choice([0.0, loss_max], n)
    return rng.uniform(0, loss_max, n) * (rng.random(n) < rng.random())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("margin", MARGINS)
def test_kl_inf_upper(rate: float, margin: float) -> None:
    rng = np.random.default_rng(11)
    for slope in (0.0, 0.0, 0.7, 2.0):
        loss_max = float(rng.uniform(1, 50))
        losses = sample_losses(rng, loss_max)
        ceilings = loss_max * (1 + margin) + slope * rng.uniform(0, 18, len(losses))
        true = kl_inf_twin(losses, ceilings, rate)
        assert relative(kl_inf_upper(losses, ceilings, rate), true, losses.mean()) < TOLERANCE
        if slope == 0.0:
            assert relative(kl_inf_upper(losses, float(ceilings[0]), rate), true, losses.mean()) < TOLERANCE


@pytest.mark.parametrize("rate", RATES)
def test_kl_inf_upper_of_values_far_below_zero(rate: float) -> None:
    rng = np.random.default_rng(12)
    values = np.array([3.0, -1e6, 2.5, -4e3, 0.0, -1e-9])
    for ceiling in (3.0 + 1e-6, 4.0, 1e9):
        found = kl_inf_upper(rng.permutation(values), ceiling, rate)
        assert relative(found, kl_inf_twin(values, np.array(ceiling), rate), values.mean()) < TOLERANCE


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("margin", MARGINS)
def test_two_point_upper(rate: float, margin: float) -> None:
    rng = np.random.default_rng(13)
    for share in (0.0, 1e-9, 0.3, 0.999, 1.0, float(rng.random())):
        low, high = 1e-6, float(rng.uniform(1, 50))
        middle = min(low + share * (high - low), high)
        ceiling = high * (1 + margin)
        c, p = mpf(ceiling), (mpf(middle) - mpf(low)) / (mpf(high) - mpf(low))
        log_headroom = (1 - p) * mpmath.log(c - mpf(low)) + p * mpmath.log(c - mpf(high))
        true = c - mpmath.exp(log_headroom - mpf(rate))
        assert relative(two_point_upper(middle, low, high, ceiling, rate), true) < TOLERANCE


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("share", [0.0, 1e-12, 1e-6, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-40, 1.0])
def test_chernoff_kl_upper(rate: float, share: float) -> None:
    p, level = mpf(share), mpf(rate)
    inside, outside = p, mpf(1)
    for _ in range(220):
        middle = (inside + outside) / 2
        # At the last digit before 1 the divergence is infinite.
        if middle < 1 and bernoulli_kl_twin(p, middle) <= level:
            inside = middle
        else:
            outside = middle
    found = chernoff_kl_upper(share, 0.0, 1.0, rate)
    assert relative(found, outside, 1e-30) < TOLERANCE
    scaled = chernoff_kl_upper(2.0 + 18.0 * share, 2.0, 20.0, rate)
    assert relative(scaled, 2 + 18 * outside) < 8 * TOLERANCE  # 2 + 18 share is rounded


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("step", [STEP_GRID[0], 0.1, STEP_GRID[-1]])
def test_freedman_bound(rate: float, step: float) -> None:
    rng = np.random.default_rng(14)
    for scale in (1.0, 17.0, 50.0):
        losses = sample_losses(rng, scale)
        centres = rng.uniform(0, scale, len(losses))
        s, width = mpf(step), mpf(scale)
        terms = [
            y - width / s * mpmath.log(1 + s * (y - loss) / width)
            for y, loss in zip(exact(centres), exact(losses), strict=True)
        ]
        true = mean(terms) + width / s * mpf(rate)
        assert relative(freedman_bound(losses, centres, scale, rate, step), true, centres.mean()) < TOLERANCE


@pytest.mark.parametrize("rate", RATES)
def test_azuma_bound(rate: float) -> None:
    for loss_range in (0.0, 1.0, 50.0):
        true = mpf("1.25") + mpf(loss_range) * mpmath.sqrt(mpf(rate) / 2)
        assert relative(azuma_bound(1.25, loss_range, rate), true) < TOLERANCE


@pytest.mark.parametrize("failure_prob", [1e-300, 1e-12, 0.0495, 0.5, 1.0])
def test_hoeffding_upper_and_level_rate(failure_prob: float) -> None:
    for n in (1, 1000, 10**12):
        nats = -mpmath.log(mpf(failure_prob))
        true = mpf("2.5") + 18 * mpmath.sqrt(nats / (2 * n))
        assert relative(hoeffding_upper(2.5, 18.0, n, failure_prob), true) < TOLERANCE
        assert relative(level_rate(failure_prob, n), nats / n) < TOLERANCE


@pytest.mark.parametrize("bits", [0.0, 1.0, 1e8 + 0.25, 1.72e10, 1e13])
@pytest.mark.parametrize("n_tokens", [1, 10**6, 1_259_130_000_000])
def test_complexity_rate(bits: float, n_tokens: int) -> None:
    for delta_1 in (0.0005, 1e-9, 0.5 * 1e4 / (1e4 + 1e12)):
        problem = Problem("bpd", 32000, n_tokens, 1000, bits, 0.05)
        selection = (("a", 8.0), ("b", 16.0), ("third", math.log2(3)))
        paid = mpf(bits) + 24 + mpf(math.log2(3))
        true = (mpmath.log(2) * paid - mpmath.log(mpf(delta_1))) / n_tokens
        assert relative(complexity_rate(problem, selection, delta_1), true) < TOLERANCE


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("smoothing", [SMOOTHING_GRID[0], 0.5, 1e-4, SMOOTHING_GRID[-1]])
def test_smoothed_loss(vocab_size: int, smoothing: float, statistics_of) -> None:
    loss = BitsPerDimension(vocab_size, smoothing)
    a, v = mpf(smoothing), mpf(vocab_size)
    assert relative(loss.loss_max, mpmath.log(v / a, 2)) < TOLERANCE
    assert relative(loss.loss_min, -mpmath.log(1 - a + a / v, 2), 1.0) < TOLERANCE
    assert relative(loss.loss_range, mpmath.log(1 + (1 - a) * v / a, 2)) < TOLERANCE
    sample = statistics_of(np.random.default_rng(15), 30, 4, vocab_size)
    for found, log2_prob in zip(loss.of(sample), sample.log2_prob, strict=True):
        probability = mpf(2) ** mpf(float(log2_prob)) if math.isfinite(log2_prob) else mpf(0)
        assert relative(float(found), -mpmath.log((1 - a) * probability + a / v, 2), 1.0) < TOLERANCE
        assert loss.loss_min <= found <= loss.loss_max


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize(("offset", "slope"), [(0.125, 0.0), (0.125, 3.875), (5.0, -4.0), (32.0, -4.0), (3.0, 0.125)])
def test_loss_smoothed_by_entropy(vocab_size: int, offset: float, slope: float, statistics_of) -> None:
    loss = EntropySmoothedBits(vocab_size, offset, slope)
    sample = statistics_of(np.random.default_rng(17), 30, 4, vocab_size)
    v = mpf(vocab_size)
    rows = zip(loss.of(sample), sample.log2_prob, sample.entropy_bits, strict=True)
    largest, ranges = loss.largest(sample.entropy_bits), loss.ranges(sample.entropy_bits)
    for i, (found, log2_prob, entropy) in enumerate(rows):
        exponent = min(max(mpf(offset) + mpf(slope) * mpf(float(entropy)), mpf(1) / 8), mpf(32))
        a = mpf(2) ** -exponent
        probability = mpf(2) ** mpf(float(log2_prob)) if math.isfinite(log2_prob) else mpf(0)
        # exponents of about 10 are rounded to 2e-15, and losses near 0 are as uncertain as a is
        assert relative(float(found), -mpmath.log((1 - a) * probability + a / v, 2), 1.0) < TOLERANCE
        assert relative(float(largest[i]), mpmath.log(v / a, 2)) < TOLERANCE
        assert relative(float(ranges[i]), mpmath.log(1 + (1 - a) * v / a, 2)) < TOLERANCE
        assert loss.loss_min <= found <= largest[i] <= loss.loss_max


@pytest.mark.parametrize("loss_max", [1.0, 15.1, 50.0])
def test_grids_of_the_ceiling(loss_max: float) -> None:
    for index in (0, 1, 777, 32767, 65534, 65535):
        for least in (0.0, 3.0, loss_max):
            true = mpf(least) + mpf(loss_max) * mpf(2) ** (mpf(-12) + mpf(36) * index / 65535)
            assert relative(ceiling_offset(least, loss_max, index), true) < TOLERANCE
            assert ceiling_offset(least, loss_max, index) > least
    assert [ceiling_slope(index) for index in (0, 51, 255)] == pytest.approx([0.0, 0.4, 2.0], abs=1e-15)


@dataclasses.dataclass(frozen=True)
class SmoothingTwin:
    """What is bounded, for a method's indices: E(H), l_max(H), the ends of the loss at any H."""

    metric: str
    vocab_size: int
    offset: mpf
    slope: mpf

    @classmethod
    def of(cls, method) -> SmoothingTwin:
        """With a smoothing a everywhere, E = log2 1/a."""
        if method.metric != "bpd":
            return cls(method.metric, method.vocab_size, mpf(0), mpf(0))
        if method.smoothing_slope_index is not None:
            slope = mpf(method.smoothing_slope_index - 32) / 8
            return cls("bpd", method.vocab_size, mpf(method.smoothing_index + 1) / 8, slope)
        alpha = mpf(method.smoothing_grid[method.smoothing_index])
        return cls("bpd", method.vocab_size, -mpmath.log(alpha, 2), mpf(0))

    @property
    def top(self) -> mpf:
        return mpmath.log(self.vocab_size, 2)

    def exponent(self, entropy: mpf) -> mpf:
        if not self.slope:
            return self.offset
        return min(max(self.offset + self.slope * entropy, mpf(1) / 8), mpf(32))

    def largest(self, entropy: mpf) -> mpf:
        return self.top + self.exponent(entropy) if self.metric == "bpd" else mpf(1)

    def least(self, entropy: mpf) -> mpf:
        if self.metric != "bpd":
            return mpf(0)
        alpha = mpf(2) ** -self.exponent(entropy)
        return -mpmath.log(1 - alpha + alpha / self.vocab_size, 2)

    def bends(self) -> list[mpf]:
        """0, log2 V, and where the exponent reaches a limit."""
        turns = [(limit - self.offset) / self.slope for limit in (mpf(1) / 8, mpf(32))] if self.slope else []
        return [mpf(0), self.top, *(turn for turn in turns if 0 < turn < self.top)]

    def ends(self) -> tuple[mpf, mpf]:
        at = self.bends()
        return min(self.least(h) for h in at), max(self.largest(h) for h in at)


def linearised_twin(method, loss: mpf, entropy: mpf, rate: float) -> mpf:
    """Z of one token as each method's formula is printed."""
    twin, rho = SmoothingTwin.of(method), mpf(rate)
    least, largest = twin.ends()
    if method.name == "kl_inf":
        c1 = mpf(ceiling_slope(method.slope_index))
        lowest = max(0, *(twin.largest(h) - c1 * h for h in twin.bends()))
        margin = largest * mpf(2) ** (mpf(-12) + mpf(36) * method.margin_index / 65535)
        b = mpf(method.ceiling_offset)  # any b above l_max,i - c1 H_i is valid; this one is that of the grid, rounded
        assert relative(method.ceiling_offset, lowest + margin) < TOLERANCE
        ceiling = b + c1 * entropy
        t = mpf(method.linearisation) + mpmath.log(b)
        return ceiling - mpmath.exp(t) * (1 - t - rho + mpmath.log(ceiling - loss))
    if method.name == "freedman":
        s, width = mpf(STEP_GRID[method.step_index]), largest - least
        drift = largest * method.centre_index / 255 + mpf(2) * method.slope_index / 255 * entropy
        centre = min(max(drift, least), largest)
        return centre - width / s * mpmath.log(1 + s * (centre - loss) / width) + width / s * rho
    if method.name == "azuma_lambda":
        tilt = mpf(2) ** (3 - mpf(method.lambda_index) / 4)
        return loss + tilt / 8 * (twin.largest(entropy) - twin.least(entropy)) ** 2 + rho / tilt
    return loss + (largest - least) * mpmath.sqrt(rho / 2)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("vocab_size", [20, 256_000])
def test_linearised_statistic(method_name: str, rate: float, vocab_size: int, method_of, statistics_of) -> None:
    rng = np.random.default_rng(16)
    extremes = [
        {"margin_index": 65535, "smoothing_index": 255, "step_index": 63, "linearisation": 1e-9 - rate},
        {"margin_index": 0, "smoothing_index": 0, "step_index": 0, "linearisation": -3.0 - rate},
    ]
    extremes = extremes if method_name != "paper" else []
    if "entropy" in METHODS[method_name].smoothings:
        extremes += [fixed | {"smoothing_slope_index": slope} for fixed in extremes for slope in (0, 63)]
    for fixed in (*extremes, *({} for _ in range(6))):
        method = method_of(rng, method_name, "bpd", vocab_size, **fixed)
        twin = SmoothingTwin.of(method)
        sample = statistics_of(rng, 6, 3, vocab_size)
        columns = method.columns(sample)
        means = {name: window_means(values, sample.window_sizes) for name, values in columns.items()}
        found = method.statistic(means, rate)
        losses, entropies = exact(columns["loss"]), exact(sample.entropy_bits)
        tokens = [linearised_twin(method, *pair, rate) for pair in zip(losses, entropies, strict=True)]
        scales = [abs(value) for value in (*tokens, method.loss.loss_max)]
        stop = np.cumsum(sample.window_sizes)
        for window, (start, end) in enumerate(zip(stop - sample.window_sizes, stop, strict=True)):
            assert relative(float(found[window]), mean(tokens[start:end]), *scales) < TOLERANCE
        grid = [twin.top * k / 20 for k in range(21)] + twin.bends()
        if method_name == "freedman":  # where the centre reaches an end
            drifts = [(end - mpf(method.values()["centre_offset"])) for end in twin.ends()]
            slope = mpf(method.values()["centre_slope"])
            grid += [drift / slope for drift in drifts if slope and 0 < drift / slope < twin.top]
        largest = exact(method.loss.largest(np.array([float(h) for h in grid])))
        peaks = [linearised_twin(method, loss, mpf(float(h)), rate) for loss, h in zip(largest, grid, strict=True)]
        assert relative(method.statistic_max(rate), max(peaks), *peaks, method.loss.loss_max) < TOLERANCE
        lowest = min(linearised_twin(method, twin.least(h), h, rate) for h in grid)
        assert mpf(method.statistic_min(rate)) <= lowest + TOLERANCE * max(abs(peak) for peak in peaks)
