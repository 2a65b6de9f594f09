"""Bounds from a file of losses: the same methods as a run has, on a sample that the user vouches for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds.bounds import (
    Bound,
    Method,
    Problem,
    TokenStatistics,
    certify,
    choose_method,
    complexity_rate,
    top_k,
)
from lm_bounds.bounds.statistics import FloatArray
from lm_bounds.codelength import length_prefix
from lm_bounds.codelength.charges import METHOD_SLOTS, SMOOTHING_SLOTS
from lm_bounds.errors import UsageError

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_COMPARED = (
    ("azuma", "global"),
    ("azuma_lambda", "entropy"),
    ("freedman", "global"),
    ("freedman", "entropy"),
    ("kl_inf", "global"),
    ("kl_inf", "entropy"),
)
_LEAST_SAMPLE = 20
_PILOT_SHARE = 10
# which method and which way to smooth: paid whether ``best`` chose them or the user did
_CHOICE_BITS = math.log2(METHOD_SLOTS) + math.log2(SMOOTHING_SLOTS)
_MANY = 10**15  # tokens: a rate is then that of the description, whatever the choices cost


@dataclass(frozen=True)
class LossSample:
    """Losses of single tokens.

    Args:
        losses: -log2 p in bits, unsmoothed, inf where the model failed; 0 or 1 for a top-k error. # shape: (tokens,)
        entropy_bits: of the predictive distributions; zeros where they are not known. # shape: (tokens,)
    """

    losses: FloatArray
    entropy_bits: FloatArray

    def statistics(self, metric: str, vocab_size: int) -> TokenStatistics:
        """The sample as what a metric's loss is computed from, each token a window of its own.

        Raises:
            UsageError: for losses that the metric cannot have.
        """
        n = len(self.losses)
        is_bpd = metric == "bpd"
        if not is_bpd and (top_k(metric) >= vocab_size or not bool(np.isin(self.losses, (0.0, 1.0)).all())):
            raise UsageError(f"losses of {metric} must be 0 or 1 (1: the token is not among the likeliest)")
        log2_vocab = math.log2(vocab_size)
        return TokenStatistics(
            log2_prob=-self.losses if is_bpd else np.zeros(n),
            rank=np.where(self.losses > 0.5, vocab_size, 1) if not is_bpd else np.ones(n, dtype=np.int64),
            entropy_bits=np.clip(self.entropy_bits, 0.0, log2_vocab),
            max_prob=np.zeros(n),
            window_sizes=np.ones(n, dtype=np.int64),
        )


def read_losses(path: str | Path) -> LossSample:
    """Losses of a .npy file, or of a .npz file with ``loss`` and, where it has it, ``entropy``.

    Raises:
        UsageError: the file cannot be read, or its arrays are not losses and entropies of as many tokens.
    """
    try:
        loaded: Any = np.load(Path(path), allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else {"loss": loaded}
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read as .npy or .npz ({error}): save it with numpy") from error
    if "loss" not in arrays:
        raise UsageError(f"{path}: has no array 'loss': save it with np.savez(path, loss=..., entropy=...)")
    if any(values.dtype.kind not in "fiu" for values in arrays.values()):
        raise UsageError(f"{path}: the arrays must hold real numbers")
    losses = np.asarray(arrays["loss"], dtype=np.float64)
    entropies = np.asarray(arrays.get("entropy", np.zeros_like(losses)), dtype=np.float64)
    if losses.ndim != 1 or losses.shape != entropies.shape or losses.size < _LEAST_SAMPLE:
        raise UsageError(
            f"{path}: 'loss' and 'entropy' must be one-dimensional, of one length of {_LEAST_SAMPLE} or more"
        )
    if bool(np.isnan(losses).any()) or bool((losses < 0).any()):
        raise UsageError(f"{path}: a loss is -log2 p in bits, at least 0 (inf where the model failed)")
    if not bool((np.isfinite(entropies) & (entropies >= 0)).all()):
        raise UsageError(f"{path}: an entropy is in bits, at least 0 and finite")
    return LossSample(losses, entropies)


@dataclass(frozen=True)
class LossProblem:
    """What a bound depends on besides the losses.

    Args:
        metric: ``bpd`` or ``topK``.
        vocab_size: V.
        code_bits: C, the compressed size of the model in bits.
        n_tokens: m, tokens of the corpus; None where the sample is the whole corpus.
        failure_prob: delta.
    """

    metric: str
    vocab_size: int
    code_bits: float
    n_tokens: int | None
    failure_prob: float


def bound_from_losses(
    method: str, smoothing: str | None, sample: LossSample, given: LossProblem
) -> tuple[Bound, Method]:
    """The bound and the method with its parameters.

    The method and the way to smooth pay their five bits. The first tenth of an i.i.d. sample is the pilot, the rest
    certifies. Of a whole corpus every token does both: what is chosen on it is paid for, the linearisation of
    ``kl_inf`` is free, and nothing is left to sampling.

    Args:
        method: of a run, or ``best``.
        smoothing: of a run.
        sample: the losses.
        given: the numbers.

    Raises:
        UsageError: for an unknown method, or a number outside its range.
    """
    statistics = sample.statistics(given.metric, given.vocab_size)
    whole = given.n_tokens is None
    if whole and method == "paper":
        raise UsageError("method paper bounds a sample: use another one for a whole corpus")
    n_pilot = 0 if whole else pilot_size(len(sample.losses))
    certifying = statistics if whole else _part(statistics, slice(n_pilot, None))
    problem = Problem(
        metric=given.metric,
        vocab_size=given.vocab_size,
        n_tokens=len(sample.losses) if given.n_tokens is None else given.n_tokens,
        n_windows=certifying.n_windows,
        description_bits=given.code_bits + length_prefix(method, given.code_bits).bits + _CHOICE_BITS,
        failure_prob=given.failure_prob,
        replacement=not whole,
    )
    chosen = choose_method(method, problem, statistics if whole else _part(statistics, slice(n_pilot)), smoothing)
    return certify(chosen, problem, chosen.columns(certifying), certifying.window_sizes), chosen


def pilot_size(n_losses: int) -> int:
    """How many of the first losses of a sample are the pilot: a tenth, at least 2."""
    return max(2, n_losses // _PILOT_SHARE)


def _part(statistics: TokenStatistics, which: slice) -> TokenStatistics:
    return TokenStatistics(**{name: getattr(statistics, name)[which] for name in TokenStatistics.__dataclass_fields__})


def gap_table(
    sample: LossSample, metric: str, vocab_size: int, rates: Sequence[float] = RATES
) -> dict[str, list[float]]:
    """How far each method's bound lies above the mean loss when the sample is a whole corpus, by complexity rate.

    Args:
        sample: the losses.
        metric: ``bpd`` or ``topK``.
        vocab_size: V.
        rates: rho in nats per token.

    Returns:
        by method (``kl_inf, entropy`` where the smoothing is by entropy), one gap for each rate, at the parameters that
        are best for it; a gap that reaches the largest loss is cut there.

    Raises:
        UsageError: for losses that the metric cannot have, or that are not finite.
    """
    statistics = sample.statistics(metric, vocab_size)
    mean = float(np.mean(sample.losses))
    if not math.isfinite(mean):
        raise UsageError("a gap is over the mean loss, and some losses are infinite: leave them out")
    table: dict[str, list[float]] = {}
    for name, smoothing in _COMPARED:
        if smoothing == "entropy" and metric != "bpd":
            continue
        table[name if smoothing == "global" else f"{name}, {smoothing}"] = [
            _gap(
                name, smoothing, statistics, Problem(metric, vocab_size, _MANY, _MANY, rate * _MANY / math.log(2), 0.5)
            )
            - mean
            for rate in rates
        ]
    return table


def _gap(name: str, smoothing: str, statistics: TokenStatistics, problem: Problem) -> float:
    """The bound when the sample is a whole corpus and its choices cost nothing beside the rate."""
    method = choose_method(name, problem, statistics, smoothing)
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    values = method.statistic(method.columns(statistics), rate)
    return min(float(np.mean(values)), method.loss.loss_max)
