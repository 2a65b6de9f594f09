"""Published numbers, and numbers worked out once outside this package."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from lm_bounds.bounds import (
    PAPER_SMOOTHING_GRID,
    BitsPerDimension,
    Problem,
    azuma_bound,
    certify,
    choose_method,
    complexity_rate,
    freedman_bound,
    hoeffding_upper,
    kl_inf_upper,
    paper_bound,
    vacuous_at,
    window_means,
)
from lm_bounds.bounds.protocol import constant_failure_probs
from lm_bounds.calculator import Summary, bound_from_summary

LOSSES = [0.2, 1.5, 0.1, 3.0, 0.7, 0.05, 2.2, 0.4]
CENTRES = [0.5, 1.0, 0.3, 1.2, 0.8, 0.2, 1.5, 0.6]

# Delta = log2(1 + (1 - a) V/a) of Lotfi et al. 2024 on their grid of a, for the vocabularies of LLaMA and GPT-2.
PAPER_RANGES = {
    32000: [28.2534, 24.9301, 22.6024, 21.5951, 19.2137, 18.1357, 16.5508, 14.9658],
    50257: [28.9046, 25.5814, 23.2537, 22.2464, 19.8650, 18.7870, 17.2020, 15.6171],
}
# (C, m, n) -> the square roots of their complexity and sampling terms: GPT-2 on OpenWebText, LLaMA2-70B on Amber.
PAPER_TERMS = {(1e8, 9e9, 1e4): (0.0620550, 0.0122387), (1.72e10, 1.2e12, 1e4): (0.0704809, 0.0122387)}


@pytest.mark.parametrize(
    ("step", "gap"), [(0.1, 2.006703), (0.3, 0.687897), (0.5, 0.437550), (0.7, 0.341858), (0.9, 0.299931)]
)
def test_freedman_gap_over_the_mean_loss(step: float, gap: float) -> None:
    bound = freedman_bound(LOSSES, CENTRES, 4.0, 0.05, step)
    assert bound - np.mean(LOSSES) == pytest.approx(gap, abs=5.1e-7)


def test_kl_inf_with_a_matching_ceiling_is_below_these_freedman_bounds() -> None:
    for step in (0.1, 0.3, 0.5, 0.7, 0.9):
        ceilings = np.array(CENTRES) + 4.0 / step
        assert kl_inf_upper(LOSSES, ceilings, 0.05) < freedman_bound(LOSSES, CENTRES, 4.0, 0.05, step)


@pytest.mark.parametrize("vocab_size", PAPER_RANGES)
def test_ranges_of_the_smoothed_loss(vocab_size: int) -> None:
    ranges = [BitsPerDimension(vocab_size, a).loss_range for a in PAPER_SMOOTHING_GRID]
    assert ranges == pytest.approx(PAPER_RANGES[vocab_size], abs=5.1e-5)


@pytest.mark.parametrize(("code_bits", "n_tokens", "n_samples"), PAPER_TERMS)
def test_square_root_terms_of_the_paper(code_bits: float, n_tokens: float, n_samples: float) -> None:
    complexity, sampling = PAPER_TERMS[code_bits, n_tokens, n_samples]
    described = code_bits + 2 * math.log2(code_bits)
    problem = Problem("bpd", 50257, int(n_tokens), int(n_samples), described, 0.05)
    bound = paper_bound(3.0, 1.0, problem)
    assert (bound.complexity, bound.sampling) == pytest.approx((complexity, sampling), abs=5.1e-8)
    assert bound.value == 3.0 + bound.complexity + bound.sampling


@pytest.mark.parametrize(("code_bits", "n_tokens", "n_samples"), PAPER_TERMS)
@pytest.mark.parametrize("alpha", PAPER_SMOOTHING_GRID)
def test_published_formula_from_summary_numbers(
    code_bits: float, n_tokens: float, n_samples: float, alpha: float
) -> None:
    roots = sum(PAPER_TERMS[code_bits, n_tokens, n_samples])
    value_range = PAPER_RANGES[32000][PAPER_SMOOTHING_GRID.index(alpha)]
    summary = Summary("bpd", 2.77, code_bits, int(n_tokens), 32000, alpha, int(n_samples), 0.05)
    bound, _ = bound_from_summary("paper", summary)
    assert bound.value == pytest.approx(2.77 + value_range * roots, abs=1e-5)


def test_pieces_worked_out_by_hand() -> None:
    # sqrt(ln 20 / 20000) = 0.012238734...; 2 + 4 sqrt(0.01) = 2.4; 2 - sqrt(2) from ceilings 2 and values 0, 1.
    assert hoeffding_upper(0.5, 1.0, 10_000, 0.05) == pytest.approx(0.512238734, abs=1e-9)
    assert azuma_bound(2.0, 4.0, 0.02) == pytest.approx(2.4, abs=1e-15)
    assert kl_inf_upper([0.0, 1.0], 2.0, 0.0) == pytest.approx(2 - math.sqrt(2), abs=1e-15)
    assert vacuous_at("bpd", 32000) == pytest.approx(5 + 3 * math.log2(10), abs=1e-12)
    assert vacuous_at("top1", 62) == 1 - 1 / 62


@pytest.mark.parametrize(("rate", "ratio"), [(0.001, 0.22), (0.01, 0.27), (0.03, 0.33), (0.1, 0.48), (0.3, 0.67)])
def test_kl_inf_against_azuma_on_realistic_losses(realistic, rate: float, ratio: float) -> None:
    """Ratio of the gaps over the unsmoothed risk, the sampling step left out: m and n are so large that neither the
    selection bits nor the sampling rate count."""
    sample = realistic(200, 512)
    n_tokens = 10**10
    problem = Problem("bpd", 32000, n_tokens, 10**8, rate * n_tokens / math.log(2), 0.05)
    unsmoothed = -float(np.mean(sample.log2_prob))
    gaps = {}
    for name in ("kl_inf", "azuma"):
        method = choose_method(name, problem, sample)
        found = complexity_rate(problem, method.selection(), constant_failure_probs(problem)[0])
        assert found == pytest.approx(rate, rel=1e-4)
        means = {column: window_means(values, sample.window_sizes) for column, values in method.columns(sample).items()}
        whole = float(np.mean(method.statistic(means, found)))
        n_windows = len(means["loss"])
        announced = Problem("bpd", 32000, n_tokens, n_windows, problem.description_bits, 0.05)
        certified = certify(method, announced, means, sample.window_sizes)
        assert certified.risk + certified.complexity == pytest.approx(whole, rel=1e-12)
        gaps[name] = certified.risk + certified.complexity - unsmoothed
    assert gaps["kl_inf"] / gaps["azuma"] == pytest.approx(ratio, abs=0.02)


# Ratios of the gaps of kl_inf and azuma at seven rates, as benchmarks/golden.py prints them.
RATIOS = {
    "realistic": [0.22, 0.24, 0.27, 0.33, 0.48, 0.67, 0.80],
    "uninformative": [0.28, 0.30, 0.34, 0.40, 0.51, 0.67, 0.80],
    "memorised": [0.08, 0.11, 0.17, 0.27, 0.46, 0.69, 0.90],
}


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[2] / "benchmarks" / "golden.py"
    spec = importlib.util.spec_from_file_location("golden", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ratios(golden):
    """By distribution and method, the gap over that of azuma at each rate."""
    return {
        distribution: {method: np.divide(row, gaps["azuma"]) for method, row in gaps.items()}
        for distribution, gaps in golden.table().items()
    }


def test_golden_table(golden, ratios) -> None:
    assert golden.RATES == (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    assert ratios.keys() == RATIOS.keys()
    for name, of_methods in ratios.items():
        assert of_methods["kl_inf"] == pytest.approx(RATIOS[name], abs=0.02), name


def test_golden_table_with_smoothing_by_entropy(ratios) -> None:
    """Never worse, for its bits count nothing here, and better where the entropy tells which tokens are hard."""
    for of_methods in ratios.values():
        assert np.all(of_methods["kl_inf, entropy"] <= of_methods["kl_inf"] + 1e-3)
    assert ratios["realistic"]["kl_inf, entropy"][0] < ratios["realistic"]["kl_inf"][0] - 0.01


def test_golden_corpus_is_the_one_of_these_tests(golden, realistic) -> None:
    ours, theirs = realistic(200, 512), golden.sample("realistic")
    assert np.array_equal(-ours.log2_prob, theirs.losses)
    assert np.array_equal(ours.entropy_bits, theirs.entropy_bits)
