"""From the observations of a task to its certificate and the numbers that lm-eval prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_bounds.certificates import Certificate, Observations, Plan, write_certificates
from lm_bounds.errors import UsageError
from lm_bounds.home import certificate_root
from lm_bounds.sampling import Windows
from lm_bounds.tasks.request import Observation

# The key of the bound comes first: its aggregation concludes the run.
RESULT_KEYS = (
    "{metric}_bound",
    "{metric}_risk",
    "{metric}_complexity",
    "{metric}_sampling",
    "vacuous_at",
    "nonvacuous",
    "compressed_bits",
    "code_bits",
    "bits_per_parameter",
    "corpus_tokens",
    "scored_tokens",
    "windows",
)

#: One of these comes after them, with the value 1, where the size of the weights is not simply measured.
MARKS = ("declared", "artifact", "given")


def mark(plan: Plan) -> str | None:
    """What marks the size of a run in every table; None where it was measured, of the weights alone."""
    if plan.code.prior is not None:
        return "given"
    return plan.code.source if plan.code.source in MARKS else None


@dataclass(frozen=True)
class Conclusion:
    """What a task reports.

    Args:
        values: in the order of ``RESULT_KEYS``.
        certificate: as it was written.
    """

    values: tuple[float, ...]
    certificate: Certificate


def conclude(observations: Sequence[Observation], metric: str) -> Conclusion:
    """Sorts the observations by draw, certifies the metric and writes its certificate.

    Raises:
        UsageError: when a draw is missing, was counted twice, or comes from another run.
    """
    plan, joined = join(observations)
    [certificate] = write_certificates(plan, joined, [metric], certificate_directory(plan))
    fields = certificate.fields
    terms, claim, complexity = fields["terms"], fields["claim"], fields["complexity"]
    values = (
        claim["bound"],
        terms["risk"],
        terms["complexity"],
        terms["sampling"],
        claim["vacuous_at"],
        0.0 if claim["vacuous"] else 1.0,
        complexity["bits"],
        complexity["code_bits"],
        plan.code.bits_per_parameter,
        plan.corpus.n_tokens,
        fields["sample"]["scored_tokens"],
        plan.n_windows,
    )
    return Conclusion(tuple(float(value) for value in values), certificate)


def join(observations: Sequence[Observation]) -> tuple[Plan, Observations]:
    """The plan and the observations of all draws, in the order of the draws.

    Raises:
        UsageError: when a draw is missing, was counted twice, or comes from another run.
    """
    plan = observations[0].plan
    ordered = sorted((entry for entry in observations if not entry.is_surplus), key=lambda entry: entry.draw)
    if [entry.draw for entry in ordered] != list(range(plan.n_windows)):
        raise UsageError(
            f"{plan.n_windows} certifying windows were drawn, {len(ordered)} observations came back: every window "
            "has to be scored exactly once"
        )
    if any(entry.plan is not plan and entry.plan != plan for entry in ordered):
        raise UsageError("observations of more than one run came back: evaluate the tasks again")

    drawn = {name: [entry.drawn[name] for entry in ordered] for name in ordered[0].drawn}
    windows = Windows(**{name: np.array(values, dtype=np.int64) for name, values in drawn.items()})
    sums = {name: np.array([entry.sums[name] for entry in ordered]) for name in ordered[0].sums}
    return plan, Observations(windows, sums, plan.settings.unit)


def window_values(observation: Observation, metric: str) -> tuple[float, ...]:
    """One window's numbers under every key but the bound's: its mean loss, its size, and what the run fixed."""
    plan = observation.plan
    if observation.is_surplus:
        return (0.0,) * (len(RESULT_KEYS) - 1)
    risk = observation.sums[f"{metric}/loss"] / observation.n_tokens
    fixed = (
        plan.charged_bits(metric),
        plan.code.bits,
        plan.code.bits_per_parameter,
        float(plan.corpus.n_tokens),
    )
    return (risk, 0.0, 0.0, 0.0, 0.0, *fixed, float(observation.n_tokens), 1.0)


def certificate_directory(plan: Plan) -> Path:
    """``<certificates>/<model>/<UTC time of the plan>``."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "_", plan.model.name.rstrip("/").rpartition("/")[2]).lstrip(".") or "model"
    return certificate_root(plan.settings.certificates) / model / plan.created.replace(":", "-")
