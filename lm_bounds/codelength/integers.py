"""What it costs to say how long a code is."""

from __future__ import annotations

import math
import operator

from lm_bounds.errors import UsageError


def elias_delta_bits(n: int) -> int:
    """Length of the Elias delta code of a positive integer.

    ``L + 2 floor(log2(L + 1)) + 1`` with ``L = floor(log2 n)``: the number of digits of the number of digits
    in unary, the number of digits, the digits after the leading one.

    Args:
        n: the integer, >= 1, of any size.

    Returns:
        Bits, exact (integer arithmetic only). ``sum_n 2^-bits(n) = 1``.

    Raises:
        UsageError: ``n`` is below 1.

    Reference: P. Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Inf.
    Theory 21(2), 1975.

    >>> [elias_delta_bits(n) for n in (1, 2, 4, 16, 10**100)]
    [1, 4, 5, 9, 349]
    """
    value = operator.index(n)
    if value < 1:
        raise UsageError(f"the Elias delta code is for integers >= 1, got {value}; code n + 1 where n may be 0")
    magnitude = value.bit_length() - 1
    return magnitude + 2 * ((magnitude + 1).bit_length() - 1) + 1


def paper_prefix_bits(code_bits: float) -> float:
    """Cost of making a code of ``C`` bits self-delimiting under the prior ``2^-C / C^2``.

    ``2 log2 C``, so that the whole description costs ``C + 2 log2 C``.

    Args:
        code_bits: ``C``, the length of the code in bits, >= 2: with ``C = 1`` allowed the prior would sum to
            more than one.

    Returns:
        Bits, fractional.

    Raises:
        UsageError: ``C`` is below 2 or not finite.

    Reference: S. Lotfi et al., "Unlocking Tokens as Data Points for Generalization Bounds on Larger Language
    Models", NeurIPS 2024, Theorem 1.

    >>> paper_prefix_bits(1024)
    20.0
    """
    if not 2 <= code_bits < math.inf:
        raise UsageError(f"the prefix C + 2 log2 C needs a code length of 2 bits or more, got {code_bits} bits")
    return 2 * math.log2(code_bits)
