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
from lm_bounds.certificates.consistency import column_failures, window_failures
from lm_bounds.certificates.evidence import MeasuredCode, Observations, certify_seed_parts
from lm_bounds.certificates.facts import fact_failures, method_failures, type_failures
from lm_bounds.certificates.files import digest, read_certificate, sha256_file
from lm_bounds.codelength import EvaluationSettings, Prior, length_prefix, settings_ledger
from lm_bounds.errors import VerificationError
from lm_bounds.sampling import Windows, draws_sha256, first_of_each, rounds, stream_seed, uniform_indices

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
            bound, claim = float(fields["claim"]["bound"]), _printable(fields["claim"]["sentence"])
    except VerificationError as error:
        failures.append(str(error).removeprefix(f"{where}: "))
    except Exception as error:  # what others wrote can be wrong in any way
        failures.append(f"a field is missing or has a value that is not allowed ({type(error).__name__}: {error})")
    return Verification(where, bound, tuple(_printable(failure) for failure in failures), claim)


def _printable(text: str) -> str:
    """One line without control characters: others wrote what is quoted in it."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


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
    yield from _draw_failures(fields, observations)
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
            windows = Windows(arrays["token_index"], arrays["start"], arrays["stop"])
    except Exception as error:  # a broken archive, a pickled object, a missing array, another shape, ...
        raise VerificationError(f"the observations file {path.name!r} cannot be read: {error}") from error
    for name, values in sums.items():
        if values.dtype != np.float64 or values.shape != (len(windows),) or not bool(np.all(np.isfinite(values))):
            raise VerificationError(
                f"the observations file {path.name!r}: sums/{name} is not one finite float64 for each window"
            )
    return Observations(windows.token_index, windows.start, windows.stop, sums, unit)


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
        replacement=fields["sample"]["replacement"],
        upper=settings["upper"],
    )


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


def _draw_failures(fields: Mapping[str, Any], observations: Observations) -> Iterator[str]:
    sample, corpus = fields["sample"], fields["corpus"]
    parts = sample["seed_parts"]
    if not _are_drawn(observations, corpus["n_tokens"], stream_seed("certify", *parts), sample["replacement"]):
        yield "the drawn tokens are not those of the seed"
    drawn = Windows(observations.token_index, observations.start, observations.stop)
    if draws_sha256(drawn) != sample["draws_sha256"]:
        yield "the draws have another sha256 than the certificate says"
    if not _seed_covers(parts, fields):
        yield "the seed of the draws does not depend on the weights, choices and corpus of the certificate"
    yield from window_failures(observations, corpus, fields["model"]["context"])
    if int(observations.window_sizes.sum()) != sample["scored_tokens"]:
        yield "the windows do not add up to scored_tokens"


def _are_drawn(observations: Observations, n_tokens: int, seed: int, replacement: bool) -> bool:
    """Whether the tokens are those of the stream, in their order, without those of windows that were drawn before.

    Where the windows are the whole corpus, nothing was drawn.
    """
    n = observations.n_windows
    if replacement:
        return np.array_equal(uniform_indices(n, n_tokens, seed), observations.token_index)
    identity = observations.token_index if observations.unit == "token" else observations.start
    if len(np.unique(identity)) != n:
        return False
    if int(observations.window_sizes.sum()) == n_tokens:
        return True
    windows = observations if observations.unit == "window" else _of_one_token(observations)
    order = np.argsort(windows.start)
    seen, n_seen = np.zeros(n, dtype=bool), 0
    for tokens in rounds(n, n_tokens, seed):
        place = np.searchsorted(windows.start[order], tokens, side="right") - 1
        holder = order[np.maximum(place, 0)]
        is_held = (place >= 0) & (tokens < windows.stop[holder])
        known = holder if bool(is_held.all()) else holder[: np.argmin(is_held)]
        first = first_of_each(known)
        fresh = first[~seen[known[first]]]
        if not np.array_equal(tokens[fresh], observations.token_index[n_seen : n_seen + len(fresh)]):
            return False
        seen[known[fresh]], n_seen = True, n_seen + len(fresh)
        if n_seen == n or len(known) < len(tokens):
            break
    return n_seen == n


def _of_one_token(observations: Observations) -> Windows:
    token = observations.token_index
    return Windows(token, token, token + 1)


def _seed_covers(parts: list[Any], fields: Mapping[str, Any]) -> bool:
    complexity = fields["complexity"]
    prior = Prior(**complexity["prior"]) if "prior" in complexity else None
    code = MeasuredCode(complexity["sha256"], complexity["compressor"]["name"], complexity["code_bits"], prior)
    own = parts[0] == "own"
    if own and parts[2].get(fields["claim"]["metric"]) != fields["method"]:
        return False
    choices = parts[2] if own else {}
    if not all(metric == method_from_dict(choice).loss.to_dict()["metric"] for metric, choice in choices.items()):
        return False
    settings, corpus, model = fields["settings"], fields["corpus"], fields["model"]
    return parts == certify_seed_parts(settings, corpus, model, code, choices, fields["sample"]["windows"])


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
        "claim.failure_prob": (claim["failure_prob"], problem.failure_prob, 0.0),
        "claim.vacuous_at": (claim["vacuous_at"], vacuous_at(metric, n_choices), 0.0),
        "rates.complexity_rate": (rates["complexity_rate"], bound.rate, 0.0),
        "rates.delta_1": (rates["delta_1"], method.failure_probs(problem)[0], 0.0),
        "rates.delta_2": (rates["delta_2"], method.failure_probs(problem)[1], 0.0),
    }
    for name, (stated, found, absolute) in recomputed.items():
        if not math.isclose(stated, found, rel_tol=_TOLERANCE, abs_tol=absolute):
            yield f"{name} is {stated!r} but {found!r} was recomputed"
    if claim["bound"] != terms["risk"] + terms["complexity"] + terms["sampling"]:
        yield "the terms do not sum to the bound"
    if claim["vacuous"] != (claim["bound"] >= claim["vacuous_at"]):
        yield "claim.vacuous does not fit the bound"


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_TOLERANCE)
