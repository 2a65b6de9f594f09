"""The request type ``token_statistics``: a method of lm-eval's LM that serves all bound tasks of a run in one pass."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from lm_bounds.certificates import Observations, Plan
from lm_bounds.errors import ModelError, UsageError
from lm_bounds.passes import Progress, no_progress
from lm_bounds.pipeline import Session, open_session
from lm_bounds.processes import ONE_PROCESS, Processes, check_alike, processes_of, together
from lm_bounds.settings import Settings, check_unknown_keys, parse_settings
from lm_bounds.tasks.progress import progress_report

REQUEST_TYPE = "token_statistics"
FEW_WINDOWS = 30
# what lm-eval itself puts into a task's metadata
_HARNESS_KEYS = ("version", "config_source")

_logger = logging.getLogger("lm_bounds")


@dataclass(frozen=True, eq=False)
class Observation:
    """What one certifying window showed, for all metrics of its corpus.

    Args:
        plan: of the run, shared by all its observations.
        draw: number of the certifying draw.
        drawn: the drawn token and its window: its row of each array of ``sampling.Windows``.
        sums: sums of the columns over the window's tokens, by ``metric/column``.
    """

    plan: Plan
    draw: int
    drawn: Mapping[str, int]
    sums: Mapping[str, float]

    @property
    def n_tokens(self) -> int:
        """Observed tokens of the window."""
        return self.drawn["stop"] - self.drawn["start"] if self.plan.settings.unit == "window" else 1

    @property
    def is_surplus(self) -> bool:
        """Whether the corpus has so few windows that this draw is none of them."""
        return self.draw >= self.plan.n_windows

    def __str__(self) -> str:
        if self.is_surplus:
            return f"draw {self.draw}: none, the corpus has {self.plan.n_windows} windows"
        return f"draw {self.draw}: tokens {self.drawn['start']} to {self.drawn['stop'] - 1}"

    __repr__ = __str__


def attach() -> None:
    """Gives every language model of lm-eval the method that its evaluator looks up by the request type's name."""
    setattr(LM, REQUEST_TYPE, token_statistics)


def shared_run(corpus_id: str, metadata: Mapping[str, Any], n_windows: int) -> str:
    """What tasks that share one pass have in common, as canonical JSON."""
    keys = {key: value for key, value in metadata.items() if key not in _HARNESS_KEYS}
    run = {"corpus": corpus_id, "metadata": keys, "windows": n_windows}
    return json.dumps(run, sort_keys=True, default=str)


def token_statistics(lm: LM, requests: list[Instance]) -> list[Observation]:
    """Observations of the requested draws; tasks on the same corpus with the same settings share one pass.

    Args:
        lm: the language model under evaluation.
        requests: of all bound tasks of a run, the share of this process; arguments are (name, JSON of what the run
            shares, metric). lm-eval may repeat one to give every process as many.

    Returns:
        one observation for each request, in their order.

    Raises:
        LmBoundsError: one line that says what to do.
    """
    processes = processes_of(lm)
    runs: dict[str, list[Instance]] = {}
    for request in requests:
        runs.setdefault(request.args[1], []).append(request)
    check_alike(processes, {"the number of runs": len(runs)})
    found: dict[tuple[str, int], Observation] = {}
    for shared, members in runs.items():
        run = json.loads(shared)
        draws = sorted({int(request.doc["draw"]) for request in members})
        session = _open(lm, run, {str(request.args[2]) for request in members}, processes)
        plan, needed = session.plan, [draw for draw in draws if draw < session.plan.n_windows]
        if processes.rank == 0 and plan.n_windows < run["windows"]:
            _warn_once(f"the corpus has {plan.n_windows} {plan.settings.unit}s in all: each is scored, none is sampled")
        observations = session.observe(needed, progress_bar(processes))
        found.update({(shared, entry.draw): entry for entry in _rows(plan, needed, observations)})
        found.update({(shared, draw): Observation(plan, draw, {}, {}) for draw in set(draws) - set(needed)})
    return [found[request.args[1], int(request.doc["draw"])] for request in requests]


def progress_bar(processes: Processes = ONE_PROCESS) -> Progress:
    """A progress report on standard error; rank 0 alone reports, on its share."""
    if processes.rank != 0:
        return no_progress
    return progress_report("" if processes.world_size == 1 else f" (1 of {processes.world_size} shares)")


def _open(lm: LM, shared: Mapping[str, Any], metrics: set[str], processes: Processes) -> Session:
    settings = together(processes, lambda: _checked_settings(lm, shared, processes))
    session = open_session(lm, shared["corpus"], settings, shared["windows"], progress_bar(processes), processes)
    together(processes, lambda: _check_metrics(session.plan, metrics))
    return session


def _checked_settings(lm: LM, shared: Mapping[str, Any], processes: Processes) -> Settings:
    from lm_eval.models.huggingface import HFLM

    call = getattr(type(lm), "_model_call", None)
    if call is not None and call is not HFLM._model_call:
        raise ModelError(
            f"model backend {type(lm).__name__} changes the forward pass of hf, and what it adds is not measured: "
            "use --model hf"
        )
    metadata = shared["metadata"]
    strangers = check_unknown_keys(metadata, _model_parameters(lm))
    if processes.rank == 0:
        _warn_of(strangers, shared["windows"])
    return replace(parse_settings(metadata), corpus=None)  # it is resolved: the corpus of the run


def _warn_of(strangers: list[str], n_windows: int) -> None:
    for key in strangers:
        _warn_once(f"metadata key {key!r} is not one of lm-bounds: it is left to others")
    if n_windows < FEW_WINDOWS:
        _warn_once(f"only {n_windows} windows: the sampling term will be large; {FEW_WINDOWS} or more are usual")


def _check_metrics(plan: Plan, metrics: set[str]) -> None:
    missing = sorted(metrics - set(plan.methods))
    if missing:
        corpus_id = plan.corpus.corpus_id
        offered = ", ".join(f"{corpus_id}_{metric}_bound" for metric in plan.methods)
        raise UsageError(
            f"{corpus_id}_{missing[0]}_bound means nothing for a vocabulary of {plan.model.n_choices}: run {offered}"
        )


def _model_parameters(lm: LM) -> set[str]:
    initialisers = (vars(cls).get("__init__") for cls in type(lm).__mro__)
    return {name for init in initialisers if inspect.isfunction(init) for name in inspect.signature(init).parameters}


def _rows(plan: Plan, draws: list[int], observations: Observations) -> list[Observation]:
    return [
        Observation(
            plan,
            draw,
            {name: int(values[row]) for name, values in observations.windows.arrays().items()},
            {name: float(values[row]) for name, values in observations.sums.items()},
        )
        for row, draw in enumerate(draws)
    ]


@functools.cache
def _warn_once(message: str) -> None:
    _logger.warning(message)
