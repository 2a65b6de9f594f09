"""Recomputes a certificate from its stored terms with numpy alone.

This proves arithmetic and integrity: that the bound follows from the ledger and the observations that are stored. It
does not prove that the observations were made honestly: tasks/deep.py measures them again.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds.bounds import Method, Problem, complexity_rate, method_from_dict, vacuous_at
from lm_bounds.certificates.claim import claim_sentence
from lm_bounds.certificates.consistency import column_failures
from lm_bounds.certificates.draws import draw_failures
from lm_bounds.certificates.evidence import Levels, Observations
from lm_bounds.certificates.facts import fact_failures, method_failures, type_failures
from lm_bounds.certificates.files import digest, read_certificate, sha256_file
from lm_bounds.codelength import EvaluationSettings, length_prefix, settings_ledger
from lm_bounds.errors import VerificationError, printable
from lm_bounds.sampling import DRAW_ARRAYS, Windows

_TOLERANCE = 1e-9  # what other versions of numpy may change
_LEDGER_PARTS = ("weights", "description", "selection")


@dataclass(frozen=True)
class Verification:
    """What came of a certificate's verification.

    Args:
        path: the certificate's file.
        bound: the value that was recomputed; None where it could not be.
        failures: what does not hold, one line each; empty when all does.
        claim: the certificate's sentence; empty when it does not hold.
    """

    path: Path
    bound: float | None
    failures: tuple[str, ...]
    claim: str

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.failures


def verify(path: str | Path) -> Verification:
    """Checks the digest, the observations, the draws, the ledger, the terms and the claim of a certificate.

    Args:
        path: the certificate; its observations lie beside it.

    Returns:
        the verification, with every failure found; nothing that a file holds makes this raise.
    """
    where = Path(path)
    failures: list[str] = []
    bound, claim = None, ""
    try:
        fields = read_certificate(where)
        with np.errstate(all="ignore"):  # what overflows is not close to what is stated
            for failure in _failures(fields, where.parent):
                failures.append(failure)
        if not failures:
            bound, claim = float(fields["claim"]["bound"]), printable(fields["claim"]["sentence"])
    except VerificationError as error:
        failures.append(str(error).removeprefix(f"{where}: "))
    except Exception as error:  # what others wrote can be wrong in any way
        failures.append(f"a field is missing or has a value that is not allowed ({type(error).__name__}: {error})")
    return Verification(where, bound, tuple(printable(failure) for failure in failures), claim)


def _failures(fields: Mapping[str, Any], directory: Path) -> Iterator[str]:
    if digest(fields) != fields.get("digest"):
        yield "the digest does not fit the content: the certificate was changed after it was written"
        return
    mistyped = list(type_failures(fields))
    if mistyped:
        yield from mistyped
        return
    sample = fields["sample"]
    observations_path = directory / str(sample["observations"])
    if observations_path.parent != directory or not observations_path.is_file():
        yield f"the observations file {sample['observations']!r} is missing beside the certificate"
        return
    if sha256_file(observations_path) != sample["observations_sha256"]:
        yield f"the observations file {sample['observations']!r} is not the one that was certified (other sha256)"
        return
    observations = read_observations(observations_path, sample["unit"])
    if observations.n_windows != sample["windows"]:
        yield f"{sample['windows']!r} windows are certified, the observations hold {observations.n_windows}"
        return
    method, problem = method_from_dict(fields["method"]), _problem(fields)
    yield from method_failures(fields, method)
    yield from fact_failures(fields, observations)
    yield from _ledger_failures(fields, method)
    yield from draw_failures(fields, observations)
    yield from _bound_failures(fields, observations, method, problem)
    if fields["claim"]["sentence"] != claim_sentence(fields):
        yield "the claim's sentence does not say what the fields say"


def read_observations(path: Path, unit: str) -> Observations:
    """The observations of a run.

    Args:
        path: of their file.
        unit: ``window`` or ``token``.

    Raises:
        VerificationError: when the file is not what this package writes.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            sums = {name.removeprefix("sums/"): arrays[name] for name in arrays.files if name.startswith("sums/")}
            windows = Windows(**{name: arrays[name] for name in DRAW_ARRAYS if name in arrays.files})
    except Exception as error:  # a broken archive, a pickled object, a missing array, another shape, ...
        raise VerificationError(f"the observations file {path.name!r} cannot be read: {error}") from error
    for name, values in sums.items():
        if values.dtype != np.float64 or values.shape != (len(windows),) or not bool(np.all(np.isfinite(values))):
            raise VerificationError(
                f"the observations file {path.name!r}: sums/{name} is not one finite float64 for each window"
            )
    return Observations(windows, sums, unit)


def _problem(fields: Mapping[str, Any]) -> Problem:
    settings, corpus, ledger = fields["settings"], fields["corpus"], fields["complexity"]["ledger"]
    return Problem(
        metric=fields["claim"]["metric"],
        vocab_size=fields["model"]["vocab_size"],
        n_tokens=corpus["n_tokens"],
        n_windows=fields["sample"]["windows"],
        description_bits=_part_bits(ledger, "weights") + _part_bits(ledger, "description"),
        failure_prob=_levels(fields).rest,
        shared_draws=settings["shared_draws"],
        replacement=fields["sample"]["replacement"],
        upper=settings["upper"],
    )


def _levels(fields: Mapping[str, Any]) -> Levels:
    corpus = fields["corpus"]
    return Levels.of(fields["settings"], corpus["n_metrics"], corpus.get("count"))


def _part_bits(ledger: list[dict[str, Any]], part: str) -> float:
    return float(sum(entry["bits"] for entry in ledger if entry["part"] == part))


def _ledger_failures(fields: Mapping[str, Any], method: Method) -> Iterator[str]:
    complexity, model = fields["complexity"], fields["model"]
    ledger = complexity["ledger"]
    if not all(type(entry["bits"]) in (int, float) and 0 <= entry["bits"] < math.inf for entry in ledger):
        yield "the ledger holds a number of bits that is negative, infinite or no number"
    if not all(entry["part"] in _LEDGER_PARTS for entry in ledger):
        yield f"the ledger holds a part that is none of {', '.join(_LEDGER_PARTS)}"
    if not _close(_part_bits(ledger, "weights"), complexity["code_bits"]):
        yield "the ledger's items of the weights do not add up to code_bits"
    charged = EvaluationSettings(
        complexity["compressor"]["name"], model["context"], model["default_prefix"], model["vocab_size"]
    )
    expected = [
        (entry.item, entry.bits)
        for entry in (length_prefix(method.name, complexity["code_bits"]), *settings_ledger(charged))
    ]
    if [(e["item"], e["bits"]) for e in ledger if e["part"] == "description"] != expected:
        yield "the ledger does not charge the length prefix and the settings as they have to be charged"
    if [(e["item"], e["bits"]) for e in ledger if e["part"] == "selection"] != list(method.selection()):
        yield "the ledger does not charge the method's choices as they have to be charged"
    if not _close(sum(entry["bits"] for entry in ledger), complexity["bits"]):
        yield "the ledger does not add up to the bits of the complexity"


def _bound_failures(
    fields: Mapping[str, Any], observations: Observations, method: Method, problem: Problem
) -> Iterator[str]:
    claim, terms, rates = fields["claim"], fields["terms"], fields["rates"]
    metric, n_choices = claim["metric"], fields["model"]["n_choices"]
    rate = complexity_rate(problem, method.selection(), method.failure_probs(problem)[0])
    yield from column_failures(observations, method, metric, rate)
    bound = observations.bound(metric, method, problem)
    recomputed = {
        "terms.risk": (terms["risk"], bound.risk, _TOLERANCE),
        "terms.complexity": (terms["complexity"], bound.complexity, _TOLERANCE),
        "terms.sampling": (terms["sampling"], bound.sampling, _TOLERANCE),
        "claim.bound": (claim["bound"], bound.value, _TOLERANCE),
        "claim.failure_prob": (claim["failure_prob"], _levels(fields).total, 0.0),
        "claim.vacuous_at": (claim["vacuous_at"], vacuous_at(metric, n_choices), 0.0),
        "rates.complexity_rate": (rates["complexity_rate"], bound.rate, 0.0),
        "rates.delta_1": (rates["delta_1"], method.failure_probs(problem)[0], 0.0),
        "rates.delta_2": (rates["delta_2"], method.failure_probs(problem)[1], 0.0),
    }
    if "delta_3" in rates or "count" in fields["corpus"]:
        recomputed["rates.delta_3"] = (rates.get("delta_3", 0.0), _levels(fields).count, 0.0)
    for name, (stated, found, absolute) in recomputed.items():
        if not math.isclose(stated, found, rel_tol=_TOLERANCE, abs_tol=absolute):
            yield f"{name} is {stated!r} but {found!r} was recomputed"
    if claim["bound"] != terms["risk"] + terms["complexity"] + terms["sampling"]:
        yield "the terms do not sum to the bound"
    if claim["vacuous"] != (claim["bound"] >= claim["vacuous_at"]):
        yield "claim.vacuous does not fit the bound"


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_TOLERANCE)
