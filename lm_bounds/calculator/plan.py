"""Planning: how large may a model be before its bound says nothing?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lm_bounds.bounds import SMOOTHING_GRID, vacuous_at
from lm_bounds.calculator.summary import Summary, bound_from_summary
from lm_bounds.errors import UsageError

_SMOOTHINGS = SMOOTHING_GRID[15::16]  # from 1/4 to 2^-32; the one used is paid as one of the whole grid
_HALVINGS = 60


@dataclass(frozen=True)
class PlannedCorpus:
    """The corpus and sample that a model is planned for.

    Args:
        n_tokens: m, tokens of the corpus.
        vocab_size: V.
        n_samples: n, i.i.d. tokens of the sample; None for all m of them.
        failure_prob: delta.
    """

    n_tokens: int
    vocab_size: int
    n_samples: int | None
    failure_prob: float


def affordable_bits(method: str, risk: float, corpus: PlannedCorpus) -> float:
    """The largest compressed size in bits at which a model's bpd bound is still below log2 V; 0 where none is.

    The smoothing is the best of a grid, and the loss after it is at most risk - log2(1 - a). ``kl_inf`` takes the worst
    distribution of losses with that mean, so that a real model may be larger.

    Args:
        method: one of ``CALCULATED_METHODS``.
        risk: mean loss in bits per token, before smoothing.
        corpus: the numbers.

    Raises:
        UsageError: for a number outside its range.
    """
    if not 0.0 <= risk < math.inf:
        raise UsageError(f"the risk must be at least 0 bits and finite, {risk} was given")
    level = vacuous_at("bpd", corpus.vocab_size)
    return max(_largest(method, risk - math.log2(1.0 - a), a, level, corpus) for a in _SMOOTHINGS)


def _largest(method: str, risk: float, smoothing: float, level: float, corpus: PlannedCorpus) -> float:
    chosen = math.log2(len(SMOOTHING_GRID))

    def bound(code_bits: float) -> float:
        summary = Summary(
            "bpd",
            min(risk, math.log2(corpus.vocab_size / smoothing)),
            code_bits + chosen,
            corpus.n_tokens,
            corpus.vocab_size,
            smoothing,
            corpus.n_samples,
            corpus.failure_prob,
        )
        return bound_from_summary(method, summary)[0].value

    low, high = 2.0, 64.0 * corpus.n_tokens
    if bound(low) >= level:
        return 0.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if bound(middle) < level else (low, middle)
    return low
