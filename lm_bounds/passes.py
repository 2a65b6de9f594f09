"""The two passes over windows of a corpus: the pilot, from which everything is chosen, and the certifying draws.

Several processes split the windows of each. What comes of them does not depend on how they were split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm_bounds.bounds import TEMPERATURE_GRID, UNIT_TEMPERATURE, Pilot, TokenStatistics, window_sums
from lm_bounds.bounds.statistics import FloatArray, IntArray
from lm_bounds.certificates.evidence import Observations, Plan
from lm_bounds.corpora import Corpus
from lm_bounds.errors import UsageError
from lm_bounds.processes import Processes, together
from lm_bounds.sampling import (
    Windows,
    all_windows,
    chosen_windows,
    count_windows,
    draw_distinct_tokens,
    draw_distinct_windows,
    draw_windows,
    ending_with_token,
    stream_seed,
    windows_around,
)
from lm_bounds.settings import Settings

Progress = Callable[[str, int, int], None]  # what is done, how much of it, out of how much
_Part = tuple[IntArray, list[TokenStatistics]]  # numbers of some windows, and what they showed at each temperature


def no_progress(what: str, done: int, total: int) -> None:
    """Reports nothing."""


def sample_size(settings: Settings, corpus: Corpus, context: int, n_asked: int) -> int:
    """How many certifying observations there will be: those that were asked for, or all that the corpus has.

    Args:
        settings: whether a window can be drawn twice, and whether windows or tokens are observed.
        corpus: where they are.
        context: scored tokens of a full window.
        n_asked: observations that were asked for.
    """
    if settings.replacement or corpus.slots is not None:
        return n_asked
    if settings.unit == "token":
        return min(n_asked, corpus.n_tokens)
    if corpus.document_starts is None:
        return n_asked
    return min(n_asked, count_windows(corpus.document_starts, corpus.n_tokens, context))


def certifying_windows(plan: Plan, corpus: Corpus) -> Windows:
    """The windows of all certifying draws, in their order; every window of the corpus where so many are asked for."""
    settings, context, n, seed = plan.settings, plan.model.context, plan.n_windows, plan.certify_seed()
    if plan.replacement:
        drawn = draw_windows(corpus, n, context, seed)
        return ending_with_token(drawn) if settings.unit == "token" else drawn
    if settings.unit == "token":
        if n < corpus.n_tokens:
            return draw_distinct_tokens(corpus, n, context, seed)
        return ending_with_token(windows_around(corpus, np.arange(n, dtype=np.int64), context))
    starts = corpus.document_starts
    if starts is not None and n == count_windows(starts, corpus.n_tokens, context):
        return all_windows(starts, corpus.n_tokens, context)
    return draw_distinct_windows(corpus, n, context, seed)


def stream_windows(plan: Plan, corpus: Corpus, stream: str, n: int) -> Windows:
    """Windows of the pilot or the calibration, drawn with replacement; they do not depend on the model."""
    seed = stream_seed(stream, plan.settings.draw_seed, plan.corpus.sha256)
    return draw_windows(corpus, n, plan.model.context, seed)


def score_pilot(plan: Plan, scorer: Any, corpus: Corpus, progress: Progress, processes: Processes) -> Pilot:
    """Statistics of the whole pilot at every temperature that can be chosen.

    Rank r scores the windows r, r + world_size, ...; the windows are put in their order, so that every sum over them is
    the same however they were scored.
    """
    indices = [UNIT_TEMPERATURE] if plan.settings.method == "paper" else list(range(len(TEMPERATURE_GRID)))
    temperatures = [TEMPERATURE_GRID[index] for index in indices]

    def score() -> list[_Part]:
        share = np.arange(processes.rank, plan.settings.n_pilot, processes.world_size)
        windows = chosen_windows(stream_windows(plan, corpus, "pilot", plan.settings.n_pilot), share)
        if plan.settings.unit == "token":
            windows = ending_with_token(windows)
        parts: list[_Part] = []
        done = 0
        progress("scoring the pilot", 0, len(share))
        for rows, statistics in scorer.score(corpus.read, windows, temperatures):
            parts.append((share[rows], [observed(plan.settings, each) for each in statistics]))
            done += len(rows)
            progress("scoring the pilot", done, len(share))
        return parts

    shares = processes.exchange(together(processes, score))
    parts = [part for share in shares for part in share]
    return Pilot({index: _in_order([(rows, each[k]) for rows, each in parts]) for k, index in enumerate(indices)})


def observed(settings: Settings, statistics: TokenStatistics) -> TokenStatistics:
    """What is observed of scored windows: all their tokens, or the drawn one, which is the last."""
    return statistics.last_tokens() if settings.unit == "token" else statistics


def _in_order(parts: Sequence[tuple[IntArray, TokenStatistics]]) -> TokenStatistics:
    numbers = np.concatenate([of_part for of_part, _ in parts])
    joined = {
        name: np.concatenate([getattr(statistics, name) for _, statistics in parts])
        for name in TokenStatistics.__dataclass_fields__
    }
    sizes = joined.pop("window_sizes")
    tokens = np.argsort(np.repeat(numbers, sizes), kind="stable")
    return TokenStatistics(
        **{name: values[tokens] for name, values in joined.items()}, window_sizes=sizes[np.argsort(numbers)]
    )


def score_certifying(plan: Plan, scorer: Any, corpus: Corpus, numbers: IntArray, progress: Progress) -> Observations:
    """What the certifying windows with these numbers showed.

    Raises:
        UsageError: for a number that is not in [0, n_windows).
    """
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < plan.n_windows):
        raise UsageError(f"draws are numbered from 0 to {plan.n_windows - 1}")
    windows = chosen_windows(certifying_windows(plan, corpus), numbers)
    temperatures = sorted({method.temperature for method in plan.methods.values()})
    sums: dict[str, FloatArray] = {}
    done = 0
    progress("scoring windows", 0, len(numbers))
    for rows, statistics in scorer.score(corpus.read, windows, temperatures):
        by_temperature = dict(zip(temperatures, (observed(plan.settings, each) for each in statistics), strict=True))
        for name, values in column_sums(plan, by_temperature).items():
            sums.setdefault(name, np.full(len(numbers), np.nan))[rows] = values
        done += len(rows)
        progress("scoring windows", done, len(numbers))
    return Observations(windows, sums, plan.settings.unit)


def column_sums(plan: Plan, statistics: dict[float, TokenStatistics]) -> dict[str, FloatArray]:
    """Per-window sums of every column of every metric, by ``metric/column``.

    Args:
        plan: with the method of each metric.
        statistics: of some windows, by temperature.
    """
    return {
        f"{metric}/{name}": window_sums(values, statistics[method.temperature].window_sizes)
        for metric, method in plan.methods.items()
        for name, values in method.columns(statistics[method.temperature]).items()
    }
