"""Recomputes a certificate from its stored terms with numpy alone.

This proves arithmetic and integrity: that the bound follows from the ledger and the observations that are stored. It
does not prove that the observations were made honestly.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds.bounds import Method, Problem, method_from_dict, vacuous_at
from lm_bounds.certificates.claim import claim_sentence
from lm_bounds.certificates.evidence import MeasuredCode, Observations, certify_seed_parts
from lm_bounds.certificates.files import digest, read_certificate, sha256_file
from lm_bounds.codelength import EvaluationSettings, length_prefix, settings_ledger
from lm_bounds.errors import LmBoundsError
from lm_bounds.sampling import Windows, draws_sha256, stream_seed, uniform_indices

_RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verification:
    """What came of a certificate's verification.

    Args:
        path: the certificate's file.
        bound: the value that was recomputed; None where it could not be.
        failures: what does not hold, one line each; empty when all does.
        claim: the certificate's sentence; empty when it could not be read.
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
        the verification, with every failure found.
    """
    where = Path(path)
    try:
        fields = read_certificate(where)
    except LmBoundsError as error:
        return Verification(where, None, (str(error).removeprefix(f"{where}: "),), "")
    if digest(fields) != fields.get("digest"):
        failure = "the digest does not fit the content: the certificate was changed after it was written"
        return Verification(where, None, (failure,), "")
    try:
        failures = tuple(_failures(fields, where.parent))
        bound = None if failures else float(fields["claim"]["bound"])
        return Verification(where, bound, failures, str(fields["claim"]["sentence"]))
    except (KeyError, TypeError, ValueError, LmBoundsError) as error:
        failure = f"a field is missing or has a value that is not allowed ({type(error).__name__}: {error})"
        return Verification(where, None, (failure,), "")


def _failures(fields: Mapping[str, Any], directory: Path) -> Iterator[str]:
    sample = fields["sample"]
    observations_path = directory / str(sample["observations"])
    if observations_path.parent != directory or not observations_path.is_file():
        yield f"the observations file {sample['observations']!r} is missing beside the certificate"
        return
    if sha256_file(observations_path) != sample["observations_sha256"]:
        yield f"the observations file {sample['observations']!r} is not the one that was certified (other sha256)"
        return
    observations = read_observations(observations_path)
    method = method_from_dict(fields["method"])
    if method.to_dict() != fields["method"]:
        yield "the method's values are not those that its grid indices stand for"
    problem = _problem(fields)
    yield from _ledger_failures(fields, method)
    yield from _draw_failures(fields, observations)
    yield from _bound_failures(fields, observations, method, problem)
    if fields["claim"]["sentence"] != claim_sentence(fields):
        yield "the claim's sentence does not say what the fields say"


def read_observations(path: Path) -> Observations:
    """The observations of a run.

    Raises:
        ValueError: when the file is not what this package writes.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            sums = {name.removeprefix("sums/"): arrays[name] for name in arrays.files if name.startswith("sums/")}
            return Observations(arrays["token_index"], arrays["start"], arrays["stop"], sums)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path.name} is not an .npz file") from error


def _problem(fields: Mapping[str, Any]) -> Problem:
    settings, corpus, ledger = fields["settings"], fields["corpus"], fields["complexity"]["ledger"]
    share = corpus["n_metrics"] if settings["family_wise"] else 1
    return Problem(
        metric=fields["claim"]["metric"],
        vocab_size=fields["model"]["vocab_size"],
        n_tokens=corpus["n_tokens"],
        n_windows=fields["sample"]["windows"],
        description_bits=_part_bits(ledger, "weights") + _part_bits(ledger, "description"),
        failure_prob=settings["failure_prob"] / share,
        shared_draws=settings["shared_draws"],
    )


def _part_bits(ledger: list[dict[str, Any]], part: str) -> float:
    return float(sum(entry["bits"] for entry in ledger if entry["part"] == part))


def _ledger_failures(fields: Mapping[str, Any], method: Method) -> Iterator[str]:
    complexity, model, settings = fields["complexity"], fields["model"], fields["settings"]
    ledger = complexity["ledger"]
    if any(not entry["bits"] >= 0 or not math.isfinite(entry["bits"]) for entry in ledger):
        yield "the ledger holds a negative or infinite number of bits"
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
    if settings["method"] != method.name or settings["compressor"] != complexity["compressor"]["name"]:
        yield "the settings name another method or compressor than was used"


def _draw_failures(fields: Mapping[str, Any], observations: Observations) -> Iterator[str]:
    sample, corpus, model = fields["sample"], fields["corpus"], fields["model"]
    parts = sample["seed_parts"]
    indices = uniform_indices(sample["windows"], corpus["n_tokens"], stream_seed("certify", *parts))
    if not np.array_equal(indices, observations.token_index):
        yield "the drawn tokens are not those of the seed"
    drawn = Windows(observations.token_index, observations.start, observations.stop)
    if draws_sha256(drawn) != sample["draws_sha256"]:
        yield "the draws have another sha256 than the certificate says"
    if not _seed_covers(parts, fields):
        yield "the seed of the draws does not depend on the weights, choices and corpus of the certificate"
    sizes = observations.window_sizes
    inside = (observations.start <= observations.token_index) & (observations.token_index < observations.stop)
    within = (observations.start >= 0) & (observations.stop <= corpus["n_tokens"])
    if not bool(np.all(inside & within & (sizes <= model["context"]))):
        yield "a window does not hold its drawn token, or is longer than the context"
    if int(sizes.sum()) != sample["scored_tokens"]:
        yield "the windows do not add up to scored_tokens"


def _seed_covers(parts: list[Any], fields: Mapping[str, Any]) -> bool:
    complexity = fields["complexity"]
    code = MeasuredCode(complexity["sha256"], complexity["compressor"]["name"], complexity["code_bits"])
    own = parts[0] == "own"
    if own and parts[2].get(fields["claim"]["metric"]) != fields["method"]:
        return False
    choices = parts[2] if own else {}
    expected = certify_seed_parts(fields["settings"], fields["model"], fields["corpus"]["sha256"], code, choices)
    return parts == expected


def _bound_failures(
    fields: Mapping[str, Any], observations: Observations, method: Method, problem: Problem
) -> Iterator[str]:
    claim, terms, rates = fields["claim"], fields["terms"], fields["rates"]
    bound = observations.bound(claim["metric"], method, problem)
    recomputed = {
        "terms.risk": (terms["risk"], bound.risk),
        "terms.complexity": (terms["complexity"], bound.complexity),
        "terms.sampling": (terms["sampling"], bound.sampling),
        "claim.bound": (claim["bound"], bound.value),
        "claim.failure_prob": (claim["failure_prob"], problem.failure_prob),
        "claim.vacuous_at": (claim["vacuous_at"], vacuous_at(claim["metric"], fields["model"]["n_choices"])),
        "rates.complexity_rate": (rates["complexity_rate"], bound.rate),
        "rates.delta_1": (rates["delta_1"], method.failure_probs(problem)[0]),
        "rates.delta_2": (rates["delta_2"], method.failure_probs(problem)[1]),
    }
    for name, (stated, found) in recomputed.items():
        if not _close(stated, found):
            yield f"{name} is {stated!r} but {found!r} was recomputed"
    if claim["bound"] != terms["risk"] + terms["complexity"] + terms["sampling"]:
        yield "the terms do not sum to the bound"
    if claim["vacuous"] != (claim["bound"] >= claim["vacuous_at"]):
        yield "claim.vacuous does not fit the bound"
    if claim["corpus"] != fields["corpus"]["id"]:
        yield "claim.corpus is not the corpus"


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_RELATIVE_TOLERANCE)
