"""The closed form of adaptive code lengths against mpmath and against a coder that goes symbol by symbol."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import adaptive_bits
from lm_bounds.errors import UsageError

SMALL_COUNTS = st.lists(st.integers(min_value=0, max_value=12), min_size=1, max_size=6)
CONCENTRATIONS = st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(1, 64), Fraction(5, 2)])


def exact_bits(counts: list[int], concentration: Fraction) -> mpmath.mpf:
    """The formula in 60 digits."""
    with mpmath.workdps(60):
        start = mpmath.mpf(concentration.numerator) / concentration.denominator
        total, alphabet = sum(counts), len(counts)
        nats = mpmath.loggamma(total + alphabet * start) - mpmath.loggamma(alphabet * start)
        for count in counts:
            nats += mpmath.loggamma(start) - mpmath.loggamma(count + start)
        return nats / mpmath.log(2)


def sequential_bits(symbols: list[int], alphabet: int, concentration: Fraction) -> float:
    """Multiply the predictive probabilities one symbol after another, in fractions."""
    probability = Fraction(1)
    seen = [0] * alphabet
    for position, symbol in enumerate(symbols):
        probability *= (seen[symbol] + concentration) / (position + alphabet * concentration)
        seen[symbol] += 1
    return math.log2(probability.denominator) - math.log2(probability.numerator)


@settings(deadline=None)
@given(SMALL_COUNTS, CONCENTRATIONS, st.randoms(use_true_random=False))
def test_closed_form_is_the_sequential_coder_in_any_order(counts, concentration, shuffler) -> None:
    symbols = [symbol for symbol, count in enumerate(counts) for _ in range(count)]
    shuffler.shuffle(symbols)
    slow = sequential_bits(symbols, len(counts), concentration)
    fast = adaptive_bits(counts, float(concentration))
    assert fast == pytest.approx(slow, abs=1e-8)
    assert fast >= slow - 1e-12 * (1 + slow)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(min_value=0, max_value=10**11), min_size=1, max_size=5), CONCENTRATIONS)
def test_never_below_the_exact_length_and_close_to_it(counts: list[int], concentration: Fraction) -> None:
    exact = exact_bits(counts, concentration)
    stated = adaptive_bits(counts, float(concentration))
    assert stated >= exact
    # At 1e11 symbols the terms reach 1e13, of which the slack is 1e-14.
    assert stated - exact <= 1e-8 + 1e-12 * sum(counts)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 255, 4096, 10**6, 10**9, 10**11])
def test_extremes_stay_above_mpmath(count: int) -> None:
    for counts in ([count, 0], [count, count], [count, 1, *[0] * 254], [count] * 8):
        assert adaptive_bits(counts) >= exact_bits(counts, Fraction(1, 2))


def test_large_histograms_stay_above_mpmath() -> None:
    counts = np.random.default_rng(7).geometric(1e-3, size=400)
    exact = exact_bits(counts.tolist(), Fraction(1, 2))
    stated = adaptive_bits(counts)
    assert 0 <= stated - exact <= 1e-6


def test_known_values() -> None:
    # Krichevsky-Trofimov: 1/2 * 3/4 * 5/6 for three equal symbols of two; 1/2 * 1/4 for one of each.
    assert adaptive_bits([3, 0]) == pytest.approx(-math.log2(0.3125), abs=1e-8)
    assert adaptive_bits([1, 1]) == pytest.approx(3, abs=1e-8)
    # Laplace: 1 / ((n + 1) binomial(n, k)).
    assert adaptive_bits([3, 4], 1.0) == pytest.approx(math.log2(8 * math.comb(7, 3)), abs=1e-8)


def test_rows_are_separate_sequences() -> None:
    table = np.array([[5, 0, 2], [0, 0, 0], [1, 9, 9]], dtype=np.uint16)
    assert adaptive_bits(table) == pytest.approx(sum(adaptive_bits(row) for row in table), abs=1e-8)


@given(SMALL_COUNTS, st.integers(min_value=0, max_value=5))
def test_one_more_symbol_never_costs_less(counts: list[int], which: int) -> None:
    longer = list(counts)
    longer[which % len(counts)] += 1
    assert adaptive_bits(longer) >= adaptive_bits(counts) - 1e-8


@given(SMALL_COUNTS, st.randoms(use_true_random=False))
def test_naming_of_the_symbols_does_not_matter(counts, shuffler) -> None:
    permuted = list(counts)
    shuffler.shuffle(permuted)
    assert adaptive_bits(permuted) == pytest.approx(adaptive_bits(counts), abs=1e-12)


def test_nothing_to_say_costs_nothing() -> None:
    assert adaptive_bits([0, 0, 0]) == 0
    assert adaptive_bits([10**11]) == 0
    assert adaptive_bits(np.zeros((0, 4), np.int64)) == 0


@pytest.mark.parametrize(
    ("counts", "concentration", "message"),
    [
        ([1.0, 2.0], 0.5, "counts must be integers"),
        ([1, -1], 0.5, "between 0 and"),
        ([2**53, 1], 0.5, "between 0 and"),
        ([], 0.5, "counts must"),
        (np.zeros((2, 2, 2), np.int64), 0.5, "shape"),
        ([1, 1], 0.0, "concentration"),
        ([1, 1], -1.0, "concentration"),
        ([1, 1], math.nan, "concentration"),
        ([1, 1], math.inf, "concentration"),
    ],
)
def test_wrong_arguments_are_refused(counts, concentration: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adaptive_bits(counts, concentration)
