"""Exact length of an adaptive code, from counts alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_bounds.errors import UsageError

# Error allowed for one evaluation of lgamma, relative and absolute: about 45 units in the last place.
_LGAMMA_ERROR = 1e-14
# Added once to every sum, in nats: no code length is ever stated more finely.
_FLOOR_NATS = 1e-9


def adaptive_bits(counts: ArrayLike, concentration: float = 0.5) -> float:
    """Length of a sequence under the adaptive Dirichlet code of its alphabet, in closed form.

    ``log2[ G(n + A a)/G(A a) prod_k G(a)/G(n_k + a) ]``, ``G`` the gamma function. It is what a coder spends
    that predicts symbol ``k`` with probability ``(n_k + a)/(n + A a)``, ``n_k`` the number of times that it
    has been seen, and starts from no counts at all; the order of the symbols does not matter.

    Args:
        counts: how often each symbol occurs, integers >= 0; shape (A,), or (contexts, A) for one independent
            sequence per row, whose lengths are added.
        concentration: ``a`` > 0; 1/2 is the Krichevsky-Trofimov estimator, 1 is Laplace's.

    Returns:
        Bits, rounded against ourselves: the sum carries ``1e-14 (1 + |lgamma|)`` nats for each of its terms
        and 1e-9 nats on top, above the error of double precision, so that it is never below the exact value.
        Exactly 0 where nothing is coded or the alphabet has one symbol.

    Raises:
        UsageError: counts that are negative, fractional or of another shape, or a concentration not above 0.

    Reference: R. Krichevsky and V. Trofimov, "The performance of universal encoding", IEEE Trans. Inf. Theory
    27(2), 1981.

    >>> round(adaptive_bits([3, 0]), 6)  # -log2(1/2 * 3/4 * 5/6)
    1.678072
    """
    table = _checked_counts(counts)
    if not 0 < concentration < math.inf:
        raise UsageError(f"the concentration must be a finite number above 0, got {concentration}")
    alphabet = table.shape[1]  # shape of table: (contexts, alphabet)
    totals = table.sum(axis=1)
    if alphabet == 1 or not totals.any():
        return 0.0
    spent_nats, spent_error = _log_gamma_ratio(totals, alphabet * concentration)
    saved_nats, saved_error = _log_gamma_ratio(table.ravel(), concentration)
    nats = math.fsum((spent_nats, -saved_nats, spent_error, saved_error, _FLOOR_NATS))
    return nats / math.log(2)


def _log_gamma_ratio(counts: NDArray[np.int64], concentration: float) -> tuple[float, float]:
    """``sum_k ln G(n_k + a)/G(a)`` over the non-zero counts, and a bound on its error, both in nats.

    lgamma is evaluated once for each distinct count, so that a large alphabet costs no more than its
    histogram.
    """
    values, repeats = np.unique(counts[counts > 0], return_counts=True)
    start = math.lgamma(concentration)
    terms: list[float] = []
    error = 0.0
    for value, repeat in zip(values.tolist(), repeats.tolist(), strict=True):
        end = math.lgamma(value + concentration)
        terms += [repeat * end, -repeat * start]
        error += _LGAMMA_ERROR * repeat * (2 + abs(end) + abs(start))
    return math.fsum(terms), error


def _checked_counts(counts: ArrayLike) -> NDArray[np.int64]:
    table: NDArray[Any] = np.asarray(counts)
    if table.dtype.kind not in "iu":
        raise UsageError(f"counts must be integers, got an array of {table.dtype}")
    if table.ndim not in (1, 2) or table.shape[-1] == 0:
        raise UsageError(f"counts must have shape (alphabet,) or (contexts, alphabet), got {table.shape}")
    if table.size and (table.min() < 0 or table.max() > 2**52):
        raise UsageError("counts must lie between 0 and 2^52, where double precision still counts exactly")
    return np.atleast_2d(table).astype(np.int64, copy=False)
