"""The document-level bound: documents are independent draws from one distribution, and m is their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lm_bounds.bounds import Bound, Problem, complexity_rate, kl_inf_upper, make_loss
from lm_bounds.bounds.kl_inf import N_MARGINS, ceiling_offset, linearised_headroom
from lm_bounds.bounds.protocol import constant_failure_probs
from lm_bounds.bounds.search import level_rate, minimise_on_grid, sampling_upper
from lm_bounds.bounds.statistics import FloatArray
from lm_bounds.calculator.losses import pilot_size
from lm_bounds.codelength import length_prefix
from lm_bounds.errors import UsageError

DOCUMENT = "document"


@dataclass(frozen=True)
class DocumentProblem:
    """What a document-level bound depends on besides the losses.

    Args:
        metric: ``bpd`` or ``topK``.
        vocab_size: V.
        smoothing: a, fixed in advance; for bpd only.
        code_bits: C, the compressed size of the model in bits.
        n_documents: m, documents of the corpus; None where the sample is all of them.
        failure_prob: delta.
    """

    metric: str
    vocab_size: int
    smoothing: float | None
    code_bits: float
    n_documents: int | None
    failure_prob: float


def document_bound(losses: FloatArray, given: DocumentProblem) -> tuple[Bound, dict[str, float]]:
    """Bound of the expected loss of a new document, and what was chosen for it.

        mu <= c - exp( mean ln(c - l_d) - rho ),   rho = (K + ln 1/delta_1)/m

    with one constant ceiling c on a paid grid, linearised for a sample as ``kl_inf`` is. The first tenth of an i.i.d.
    sample of documents is the pilot.

    Args:
        losses: mean smoothed loss (or error rate) of each document. # shape: (documents,)
        given: the numbers.

    Raises:
        UsageError: for a loss outside the metric's range, or a number outside its range.
    """
    loss = make_loss(given.metric, given.vocab_size, given.smoothing)
    if losses.size and not loss.loss_min - 1e-9 <= float(losses.min()) <= float(losses.max()) <= loss.loss_max + 1e-9:
        raise UsageError(
            f"a document's mean loss must be between {loss.loss_min:.6g} and {loss.loss_max:.6g} for this metric, "
            "vocabulary and smoothing"
        )
    whole = given.n_documents is None
    n_pilot = 0 if whole else pilot_size(len(losses))
    pilot, certifying = (losses, losses) if whole else (losses[:n_pilot], losses[n_pilot:])
    problem = Problem(
        metric=given.metric,
        vocab_size=given.vocab_size,
        n_tokens=len(losses) if given.n_documents is None else given.n_documents,
        n_windows=len(certifying),
        description_bits=given.code_bits + length_prefix("kl_inf", given.code_bits).bits,
        failure_prob=given.failure_prob,
    )
    delta_1, delta_2 = constant_failure_probs(problem)
    rate = complexity_rate(problem, (("ceiling", math.log2(N_MARGINS)),), delta_1)
    sampling_rate = 0.0 if whole else level_rate(delta_2, len(certifying))

    def fitted(index: int) -> tuple[float, float, float, float]:
        """(predicted bound, ceiling c, t relative to ln c, sampling ceiling)."""
        ceiling = ceiling_offset(loss.loss_max, loss.loss_max, index)
        tilt = float(np.mean(np.log1p(-pilot / ceiling))) - rate
        largest = float(_statistic(np.array([loss.loss_max]), ceiling, tilt, rate)[0])
        upper, predicted = sampling_upper(_statistic(pilot, ceiling, tilt, rate), largest, sampling_rate)
        return predicted, ceiling, tilt, upper

    (best,), _ = minimise_on_grid(lambda at: fitted(at[0])[0], [N_MARGINS], [(16_000,), (32_000,), (48_000,)])
    _, ceiling, tilt, upper = fitted(best)
    values = _statistic(certifying, ceiling, tilt, rate)
    risk, before = float(certifying.mean()), min(float(values.mean()), loss.loss_max)
    value = before if whole else min(kl_inf_upper(values, upper, sampling_rate), loss.loss_max)
    return Bound(DOCUMENT, risk, before - risk, value - before, rate), {"ceiling": ceiling}


def _statistic(losses: FloatArray, ceiling: float, tilt: float, rate: float) -> FloatArray:
    """Z of ``kl_inf`` at a constant ceiling."""
    return -ceiling * linearised_headroom(np.log1p(-losses / ceiling), tilt, rate)
