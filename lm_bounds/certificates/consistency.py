"""What the stored sums must satisfy whatever the model was: ranges, Jensen's inequality, and windows that partition.

Sums that break one of these cannot have been observed. Sums that satisfy all of them may still be invented: only
scoring the windows again can tell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lm_bounds.bounds import AzumaLambda, Freedman, KlInf, Method, top_k
from lm_bounds.bounds.statistics import FloatArray
from lm_bounds.certificates.evidence import Observations

_TOLERANCE = 1e-7  # relative to 1 + the largest value: what rounding may change


def window_failures(observations: Observations, corpus: Mapping[str, Any], context: int) -> Iterator[str]:
    """Windows that do not hold their draw, are too long, leave the corpus, or overlap.

    Args:
        observations: of one certificate.
        corpus: its facts of the corpus.
        context: scored tokens of a full window.
    """
    drawn, count = observations.windows, corpus.get("count")
    token, start, stop = drawn.token_index, drawn.start, drawn.stop
    end = corpus["n_tokens"] if count is None else count["slots"]
    inside = (start <= token) & (token < stop) & (start >= 0) & (stop <= end)
    if not bool(np.all(inside & (stop - start <= context))):
        yield "a window does not hold its drawn token, or is longer than the context"
    if observations.unit == "token":
        if bool(np.any(stop != token + 1)):
            yield "a window does not end with its drawn token"
        return
    windows = np.unique(np.stack([start, stop], axis=1), axis=0)  # shape: (distinct windows, 2)
    if bool(np.any(windows[1:, 0] < windows[:-1, 1])):
        yield "two windows overlap: windows cut the corpus into pieces"


def column_failures(observations: Observations, method: Method, metric: str, rate: float) -> Iterator[str]:
    """Sums of a metric's columns that no tokens can have.

    Args:
        observations: of one certificate.
        method: of the metric.
        metric: its name.
        rate: rho, nats per token.
    """
    means = observations.means(metric)
    loss = method.loss
    if not _within(means["loss"], loss.loss_min, loss.loss_max):
        yield f"a mean loss of a window is outside [{loss.loss_min:.6g}, {loss.loss_max:.6g}]"
    if metric != "bpd" and not _whole(observations.sums[f"{metric}/loss"]):
        yield f"the errors of {metric} in a window are not a whole number"
    if not _nested(observations):
        yield "a window has more errors among k tokens than among fewer"
    if isinstance(method, KlInf):
        yield from _ceiling_failures(method, means)
    elif isinstance(method, Freedman):
        yield from _centre_failures(method, means)
    elif isinstance(method, AzumaLambda):
        yield from _range_failures(method, means)
    statistic, largest = method.statistic(means, rate), method.statistic_max(rate)
    if not bool(np.all(statistic <= largest + _TOLERANCE * (1.0 + abs(largest)))):
        yield f"a window's statistic is above its largest possible value, {largest:.6g}"


def _ceiling_failures(method: KlInf, means: Mapping[str, FloatArray]) -> Iterator[str]:
    offset, loss = method.ceiling_offset, method.loss
    at = loss.kinks()
    rises = method.ceiling_rises(at)
    steepest = float(rises.max())
    if not _within(means["ceiling_rise"], 0.0, steepest):
        yield f"a window's mean ceiling_rise is outside [0, {steepest:.6g}]"
    excess = (means["ceiling_rise"] - means["loss"]) / offset
    ends = (float(np.min(rises - loss.largest(at))) / offset, (steepest - loss.loss_min) / offset)
    if not _mean_log(means["log_headroom"], excess, ends, offset, _has_two_values(method)):
        yield "a window's log_headroom does not fit its ceiling_rise and loss"


def _centre_failures(method: Freedman, means: Mapping[str, FloatArray]) -> Iterator[str]:
    lowest, highest = method.centres(np.array([0.0, math.log2(method.vocab_size)]))
    if not _within(means["centre"], lowest, highest):
        yield f"a window's mean centre is outside [{lowest:.6g}, {highest:.6g}]"
    scale = method.loss.loss_range / method.values()["step"]
    excess = (means["centre"] - means["loss"]) / scale
    ends = (float(lowest - method.loss.loss_max) / scale, float(highest - method.loss.loss_min) / scale)
    if not _mean_log(means["log_growth"], excess, ends, scale, _has_two_values(method)):
        yield "a window's log_growth does not fit its centre and loss"


def _range_failures(method: AzumaLambda, means: Mapping[str, FloatArray]) -> Iterator[str]:
    squares = method.loss.ranges(method.loss.kinks()) ** 2
    if not _within(means["squared_range"], float(squares.min()), float(squares.max())):
        yield f"a window's mean squared_range is outside [{squares.min():.6g}, {squares.max():.6g}]"


def _has_two_values(method: KlInf | Freedman) -> bool:
    """A constant ceiling or centre and losses of 0 or 1."""
    return method.slope_index == 0 and method.metric != "bpd"


def _mean_log(logs: FloatArray, excess: FloatArray, ends: tuple[float, float], scale: float, two_values: bool) -> bool:
    """Whether ``logs`` can be mean ln(1 + e) where ``excess`` is mean e: chord <= mean ln(1 + e) <= ln(1 + mean e).

    Args:
        logs, excess: one of each per window.
        ends: smallest and largest e, > -1.
        scale: a log times this has the loss's unit, in which the tolerance is.
        two_values: whether e is always one of the ends, so that the chord is the value.
    """
    low, high = ends
    mean = np.clip(excess, low, high)
    share = (mean - low) / (high - low) if high > low else np.zeros_like(mean)
    chord = scale * ((1.0 - share) * math.log1p(low) + share * math.log1p(high))
    return _within(scale * logs, chord, chord if two_values else scale * np.log1p(mean))


def _nested(observations: Observations) -> bool:
    errors = {name.partition("/")[0]: sums for name, sums in observations.sums.items() if name.endswith("/loss")}
    ordered = [errors[name] for name in sorted((name for name in errors if name != "bpd"), key=top_k)]
    return all(_within(more, 0.0, fewer) for fewer, more in itertools.pairwise(ordered))


def _within(values: FloatArray, low: float | FloatArray, high: float | FloatArray) -> bool:
    slack = _TOLERANCE * (1.0 + np.maximum(np.abs(low), np.abs(high)))
    return bool(np.all((values >= low - slack) & (values <= high + slack)))


def _whole(sums: FloatArray) -> bool:
    return bool(np.all(np.abs(sums - np.rint(sums)) <= 1e-6))
