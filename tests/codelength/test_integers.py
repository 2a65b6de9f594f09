"""Elias delta lengths against a coder that writes and reads the code, and the prefix of the paper."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_bounds.codelength import elias_delta_bits, paper_prefix_bits
from lm_bounds.errors import UsageError


def elias_delta_encode(n: int) -> str:
    digits = f"{n:b}"
    length = f"{len(digits):b}"
    return "0" * (len(length) - 1) + length + digits[1:]


def elias_delta_decode(stream: str) -> tuple[int, str]:
    """The integer at the head of the stream, and the rest of the stream."""
    zeros = stream.index("1")
    length = int(stream[zeros : 2 * zeros + 1], 2)
    start = 2 * zeros + 1
    return int("1" + stream[start : start + length - 1], 2), stream[start + length - 1 :]


@given(st.lists(st.integers(min_value=1, max_value=10**400), min_size=1, max_size=5))
def test_codes_are_as_long_as_stated_and_delimit_themselves(numbers: list[int]) -> None:
    stream = "".join(elias_delta_encode(n) for n in numbers)
    assert len(stream) == sum(elias_delta_bits(n) for n in numbers)
    for n in numbers:
        decoded, stream = elias_delta_decode(stream)
        assert decoded == n
    assert stream == ""


def test_lengths_are_exact_at_powers_of_two_beyond_double_precision() -> None:
    # floor(log2(2^k - 1)) is k - 1, which a logarithm in double precision rounds up to k from k = 49 on.
    for k in (48, 49, 53, 64, 1000):
        magnitude_bits = 2 * (k.bit_length() - 1)
        assert elias_delta_bits(2**k - 1) == k - 1 + magnitude_bits + 1
        assert elias_delta_bits(2**k) == k + 2 * ((k + 1).bit_length() - 1) + 1


def test_lengths_satisfy_krafts_inequality() -> None:
    assert sum(Fraction(1, 2 ** elias_delta_bits(n)) for n in range(1, 5000)) < 1


@given(st.integers(min_value=1, max_value=10**30))
def test_longer_integers_never_cost_less(n: int) -> None:
    assert elias_delta_bits(n) <= elias_delta_bits(n + 1)


@pytest.mark.parametrize("n", [0, -3])
def test_integers_below_one_are_refused(n: int) -> None:
    with pytest.raises(UsageError, match=r"integers >= 1, got .*code n \+ 1"):
        elias_delta_bits(n)


def test_paper_prefix_is_twice_the_logarithm_of_the_length() -> None:
    assert paper_prefix_bits(2) == 2
    assert paper_prefix_bits(2**40) == 80
    assert paper_prefix_bits(2**2000) == 4000
    assert paper_prefix_bits(1e8) == pytest.approx(53.1508495182, abs=1e-9)


@pytest.mark.parametrize("code_bits", [1, 1.999, 0, -8, float("nan"), float("inf")])
def test_paper_prefix_is_refused_where_it_is_no_prior(code_bits: float) -> None:
    with pytest.raises(UsageError, match="2 bits or more"):
        paper_prefix_bits(code_bits)
