"""Upper confidence bounds of a mean from bounded or upper-bounded observations.

Notation: ``values`` are v_1..v_n, ``rate`` is ln(1/failure probability)/n (or the complexity rate rho when v is the
whole corpus), both in nats per observation.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lm_bounds.errors import UsageError

FloatArray = npt.NDArray[np.float64]


def kl_inf_upper(values: npt.ArrayLike, ceilings: npt.ArrayLike, rate: float) -> float:
    """Upper bound of the mean of the conditional expectations of ``values``, each below its predictable ceiling.

        mean c_i - exp( mean ln(c_i - v_i) - rate )

    Valid with probability at least 1 - failure_prob when ``rate`` is ln(1/failure_prob)/n and each c_i was fixed
    before v_i was seen; v may be negative without limit.

    Args:
        values: observations, shape (n,), any unit.
        ceilings: one number or shape (n,), same unit, each greater than its value.
        rate: nats per observation, >= 0.

    Raises:
        UsageError: for an empty sample, a value not below its ceiling, an infinite one, or a negative rate.

    Source: the dual of the KL_inf bound (Honda & Takemura 2010; Waudby-Smith & Ramdas 2024); with one constant
    ceiling and 0/1 values it is the Chernoff-kl bound.

    >>> round(kl_inf_upper([0.0, 1.0], 2.0, 0.0), 6)
    0.585786
    """
    observed = np.asarray(values, dtype=np.float64)
    ceiling = np.broadcast_to(np.asarray(ceilings, dtype=np.float64), observed.shape)
    if observed.size == 0:
        raise UsageError("an upper confidence bound needs at least one value, none was given")
    if not rate >= 0.0:
        raise UsageError(f"rate must be >= 0 nats per observation, {rate} was given")
    headroom = ceiling - observed
    if not bool(np.all((headroom > 0.0) & (headroom < math.inf))):
        raise UsageError("every value must be finite and below its finite ceiling: choose a larger ceiling")
    # mean v - R expm1( mean ln(headroom/R) - rate ) is the same number for R the mean headroom, but a ceiling
    # that lies far above the values does not cancel the digits of the result.
    mean, mean_ceiling, scale = float(observed.mean()), float(ceiling.mean()), float(headroom.mean())
    excess = ceiling - mean_ceiling
    log_headroom = log_ratio(headroom, (excess - (observed - mean)) / scale, scale)
    return mean + float(excess.mean()) - scale * math.expm1(float(log_headroom.mean()) - rate)


def without_replacement_upper(
    values: npt.ArrayLike, sizes: npt.ArrayLike, total: int, ceiling: float, failure_prob: float
) -> float:
    """Upper bound of a population's weighted mean from members drawn without replacement.

    The population has members of sizes that sum to M; each draw takes one of those that are left with probability
    proportional to its size. Given the first j - 1 draws, the expectation of the next value under a mean mu is

        mu_j = (M mu - S_{j-1})/(M - M_{j-1}),   S and M_j the sums of size times value and of size so far,

    so that prod (c - v_j)/(c - mu_j) is a non-negative martingale of mean 1 at the true mean, and the bound is the
    largest mu with sum ln(c - v_j) - sum ln(c - mu_j) <= ln 1/failure_prob (Ville's inequality) that leaves the rest a
    mean of at most c. Once every member has been drawn it is the exact mean.

    Args:
        values: v_j in the order of the draws, each below the ceiling. # shape: (n,)
        sizes: of the members drawn, >= 1. # shape: (n,)
        total: M.
        ceiling: c, fixed before the draws.
        failure_prob: in (0, 1].

    Raises:
        UsageError: for an empty sample, sizes that exceed the total, or a value not below the ceiling.

    Source: betting without replacement, Waudby-Smith & Ramdas 2024, section 4, with the bet of kl_inf.

    >>> without_replacement_upper([0.0, 1.0], [1, 3], 4, 2.0, 0.05)
    0.75
    """
    observed, weights = np.asarray(values, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if observed.size == 0 or observed.shape != weights.shape or not 0.0 < failure_prob <= 1.0:
        raise UsageError("an upper confidence bound needs as many sizes as values, and a probability in (0, 1]")
    if not bool(np.all((observed < ceiling) & np.isfinite(observed))) or not math.isfinite(ceiling):
        raise UsageError("every value must be finite and below its finite ceiling: choose a larger ceiling")
    if not bool(np.all(weights >= 1)) or weights.sum() > total:
        raise UsageError(f"the sizes of the draws must be at least 1 and sum to at most {total}")
    mean = float(weights @ observed / weights.sum())
    if weights.sum() == total:
        return mean
    # relative to the sample's mean, so that a far ceiling does not swallow the digits of the values
    deviation, room = observed - mean, ceiling - mean
    left = total - np.concatenate([[0.0], np.cumsum(weights)])  # before each draw, and after the last one
    before = np.concatenate([[0.0], np.cumsum(weights * deviation)])

    def excess(shift: float) -> float:
        """sum ln((c - v_j)/(c - mu_j)) for mu = mean + shift; infinite where a mu_j is not below c."""
        expected = (total * shift - before[:-1]) / left[:-1]
        if not bool(np.all(expected < room)):
            return math.inf
        return float(np.sum(np.log1p((expected - deviation) / (room - expected))))

    # above ``high`` some mu_j, or the mean of what is left after the last draw, would be above the ceiling
    high = float(np.min((room * left + before) / total))
    low = -max(1.0, abs(high))
    while excess(low) > 0.0:
        low *= 2.0
    target = -math.log(failure_prob)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if excess(middle) <= target else (low, middle)
    return mean + high


def bernstein_upper(values: npt.ArrayLike, low: float, high: float, failure_prob: float) -> float:
    """The empirical Bernstein upper bound of the mean of independent values in [low, high].

        mean + sqrt( 2 s^2 ln(2/failure_prob)/n ) + 7 (high - low) ln(2/failure_prob) / (3 (n - 1))

    with s^2 the unbiased sample variance.

    Args:
        values: observations. # shape: (n,), n >= 2
        low, high: the values' range.
        failure_prob: in (0, 1].

    Raises:
        UsageError: for fewer than two values, a value outside the range, or a probability outside (0, 1].

    Source: Maurer & Pontil 2009, Theorem 4.

    >>> round(bernstein_upper([0.0, 1.0] * 50, 0.0, 1.0, 0.05), 6)
    0.723438
    """
    observed = np.asarray(values, dtype=np.float64)
    if observed.size < 2 or not 0.0 < failure_prob <= 1.0:
        raise UsageError("the empirical Bernstein bound needs at least two values and a probability in (0, 1]")
    if not bool(np.all((observed >= low) & (observed <= high))):
        raise UsageError(f"every value must be in [{low}, {high}]")
    n, level = observed.size, math.log(2.0 / failure_prob)
    spread = math.sqrt(2.0 * float(observed.var(ddof=1)) * level / n)
    return float(observed.mean()) + spread + 7.0 * (high - low) * level / (3.0 * (n - 1))


def log_ratio(numbers: FloatArray, excess: FloatArray, scale: float) -> FloatArray:
    """ln(numbers/scale) where numbers = scale (1 + excess), without loss of digits for small and for large excess."""
    return np.where(excess > -0.5, np.log1p(np.maximum(excess, -0.5)), np.log(numbers / scale))


def hoeffding_upper(mean: float, value_range: float, n: int, failure_prob: float) -> float:
    """Hoeffding's upper bound: mean + range sqrt( ln(1/failure_prob) / (2n) ).

    Args:
        mean: sample mean of n i.i.d. values.
        value_range: length of an interval that holds every value, >= 0.
        n: sample size, >= 1.
        failure_prob: in (0, 1].

    Raises:
        UsageError: for arguments outside these ranges.

    Source: Hoeffding 1963; Lotfi et al. 2024, Eq. (5).

    >>> round(hoeffding_upper(0.5, 1.0, 10_000, 0.05), 6)
    0.512239
    """
    if n < 1 or not 0.0 < failure_prob <= 1.0 or not value_range >= 0.0:
        raise UsageError(
            f"hoeffding_upper needs n >= 1, 0 < failure_prob <= 1 and value_range >= 0; "
            f"n={n}, failure_prob={failure_prob}, value_range={value_range} were given"
        )
    return mean + value_range * math.sqrt(-math.log(failure_prob) / (2 * n))


def two_point_upper(mean: float, low: float, high: float, ceiling: float, rate: float) -> float:
    """The largest ``kl_inf_upper`` of any values in [low, high] with the given mean, for one constant ceiling.

        c - exp( (1 - p) ln(c - low) + p ln(c - high) - rate ),  p = (mean - low)/(high - low)

    ln(c - v) is concave in v, so the two-point distribution on {low, high} is the worst.

    Args:
        mean: of the values, in [low, high].
        low, high: the values' range.
        ceiling: greater than ``high``.
        rate: nats per observation, >= 0.

    Raises:
        UsageError: for a mean outside the range or a ceiling that is not above it.
    """
    if not low <= mean <= high < ceiling < math.inf or not rate >= 0.0:
        raise UsageError(
            f"two_point_upper needs low <= mean <= high < ceiling < inf and rate >= 0; mean={mean}, low={low}, "
            f"high={high}, ceiling={ceiling}, rate={rate} were given"
        )
    if high == low:
        return mean - (ceiling - mean) * math.expm1(-rate)
    share, scale = (mean - low) / (high - low), ceiling - mean
    above = math.log1p((mean - low) / scale)  # ln((c - low)/scale), scale = c - mean
    below = math.log((ceiling - high) / scale)
    if high - mean < 0.5 * scale:
        below = math.log1p((mean - high) / scale)
    return mean - scale * math.expm1((1 - share) * above + share * below - rate)


def chernoff_kl_upper(mean: float, low: float, high: float, rate: float) -> float:
    """The Chernoff-kl upper bound: the largest q with kl((mean - low)/(high - low), q) <= rate, scaled back.

    kl is the Bernoulli relative entropy. Valid for n i.i.d. values in [low, high] with
    rate = ln(1/failure_prob)/n, without any choice to pay for.

    Args:
        mean: sample mean, in [low, high].
        low, high: the values' range.
        rate: nats per observation, >= 0.

    Raises:
        UsageError: for a mean outside the range or a negative rate.

    Source: Chernoff 1952, Hoeffding 1963 (Theorem 1).

    >>> round(chernoff_kl_upper(0.0, 0.0, 1.0, 0.5), 6)  # 1 - exp(-rate)
    0.393469
    """
    if not low <= mean <= high or not rate >= 0.0:
        raise UsageError(
            f"chernoff_kl_upper needs low <= mean <= high and rate >= 0; "
            f"mean={mean}, low={low}, high={high}, rate={rate} were given"
        )
    if high == low:
        return high
    share = (mean - low) / (high - low)
    if share >= 1.0:
        return high
    inside, outside = share, 1.0  # kl(share, inside) <= rate < kl(share, outside) = inf
    for _ in range(200):
        middle = 0.5 * (inside + outside)
        if bernoulli_kl(share, middle) <= rate:
            inside = middle
        else:
            outside = middle
    return low + (high - low) * outside


def bernoulli_kl(p: float, q: float) -> float:
    """Relative entropy of Bernoulli(p) to Bernoulli(q) in nats, for p in [0, 1] and q in (0, 1]; may be inf.

    >>> round(bernoulli_kl(0.5, 0.25), 6)
    0.143841
    """
    if q >= 1.0:
        return 0.0 if p >= 1.0 else math.inf
    left = -p * math.log1p((q - p) / p) if p > 0.0 else 0.0
    right = (1 - p) * math.log1p((q - p) / (1 - q)) if p < 1.0 else 0.0
    return left + right
