"""The level at which a bound says nothing: what a uniform guess reaches."""

from __future__ import annotations

import math

from lm_bounds.bounds.losses import top_k


def vacuous_at(metric: str, n_choices: int) -> float:
    """The value at or above which a bound is vacuous: log2 V bits for bpd, 1 - k/V for top-k error.

    Args:
        metric: ``bpd`` or ``topK``.
        n_choices: V, the number of tokens that can occur, >= 2.

    >>> vacuous_at("bpd", 32000)
    14.965784284662087
    >>> vacuous_at("top10", 100)
    0.9
    """
    if metric == "bpd":
        return math.log2(n_choices)
    return 1.0 - min(top_k(metric), n_choices) / n_choices
