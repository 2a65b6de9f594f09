"""Back from certificates to the plan that they were made from: years later the same windows are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_bounds.bounds import METRICS, Method, method_from_dict
from lm_bounds.certificates.evidence import CorpusFacts, ModelFacts, Plan, settings_charges
from lm_bounds.certificates.files import Certificate, read_certificate
from lm_bounds.codelength import CodeLength, LedgerItem, Prior
from lm_bounds.errors import LmBoundsError, VerificationError
from lm_bounds.settings import KEYS, Settings

_SHARED_PARTS = ("created", "corpus", "model", "settings")
_SHARED_COMPLEXITY = ("code_bits", "source", "compressor", "sha256", "n_parameters", "n_tensors", "stored_bytes")


def run_certificates(path: str | Path) -> list[Certificate]:
    """A certificate and those beside it that name the same observations file, in the order of the metrics.

    Args:
        path: of a certificate that holds.

    Raises:
        VerificationError: when it cannot be read.
    """
    where = Path(path)
    found = [Certificate(read_certificate(where), where)]
    name = found[0].fields["sample"]["observations"]
    for other in sorted(where.parent.glob("*.json")):
        fields = _readable(other)
        sample = fields.get("sample")
        if not other.samefile(where) and isinstance(sample, Mapping) and sample.get("observations") == name:
            found.append(Certificate(fields, other))
    return sorted(found, key=lambda certificate: _metric_order(certificate.metric))


def restore_plan(certificates: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan of one run.

    The methods are those that the seed of the draws depends on: all that were observed, whichever were certified. Where
    draws are shared between runs, the seed does not name them, and they are those of the certificates.

    Args:
        certificates: fields of certificates of one run that hold, one or more.

    Raises:
        VerificationError: when they are of more than one run, or a field is missing or malformed.
    """
    first = certificates[0]
    try:
        if any(_shared(fields) != _shared(first) for fields in certificates):
            raise VerificationError("the certificates that share these observations are not of one run")
        return _plan(first, _methods(certificates))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"a field is missing or has a value that is not allowed ({type(error).__name__}: {error}): pass "
            "certificates that `lm-bounds verify` accepts"
        ) from error


def _readable(path: Path) -> Mapping[str, Any]:
    """The fields of a certificate, none where the file is something else."""
    try:
        return read_certificate(path)
    except LmBoundsError:
        return {}


def _metric_order(metric: str) -> tuple[int, str]:
    return (METRICS.index(metric) if metric in METRICS else len(METRICS), metric)


def _shared(fields: Mapping[str, Any]) -> list[Any]:
    """What certificates of one run have in common; each extends one of its own."""
    sample = {name: value for name, value in fields["sample"].items() if name != "extends"}
    complexity = [fields["complexity"][name] for name in _SHARED_COMPLEXITY]
    complexity += [fields["complexity"].get(name) for name in ("artifact_sha256", "prior")]
    complexity += [entry for entry in fields["complexity"]["ledger"] if entry["part"] == "weights"]
    return [sample, complexity, *(fields[part] for part in _SHARED_PARTS)]


def _methods(certificates: Sequence[Mapping[str, Any]]) -> dict[str, Method]:
    parts = certificates[0]["sample"]["seed_parts"]
    chosen: Mapping[str, Any] = (
        parts[2] if parts[0] == "own" else {fields["claim"]["metric"]: fields["method"] for fields in certificates}
    )
    return {metric: method_from_dict(chosen[metric]) for metric in sorted(chosen, key=_metric_order)}


def _plan(fields: Mapping[str, Any], methods: Mapping[str, Method]) -> Plan:
    settings = Settings(**{name: value for name, value in fields["settings"].items() if name in KEYS})
    stated = fields["model"]
    model = ModelFacts(**{name: stated[name] for name in ModelFacts.__dataclass_fields__ if name in stated})
    corpus = {**fields["corpus"], "corpus_id": fields["corpus"]["id"]}
    return Plan(
        settings=settings,
        corpus=CorpusFacts(**{name: corpus[name] for name in CorpusFacts.__dataclass_fields__ if name in corpus}),
        model=model,
        code=_code(fields["complexity"]),
        settings_ledger=settings_charges(settings, model),
        methods=methods,
        n_windows=fields["sample"]["windows"],
        created=fields["created"],
    )


def _code(complexity: Mapping[str, Any]) -> CodeLength:
    ledger = complexity["ledger"]
    return CodeLength(
        compressor=complexity["compressor"]["name"],
        version=complexity["compressor"]["version"],
        bits=complexity["code_bits"],
        ledger=tuple(LedgerItem(entry["item"], entry["bits"]) for entry in ledger if entry["part"] == "weights"),
        n_parameters=complexity["n_parameters"],
        n_tensors=complexity["n_tensors"],
        stored_bytes=complexity["stored_bytes"],
        sha256=complexity["sha256"],
        seconds=0.0,
        exact=complexity["compressor"]["exact"],
        source=complexity["source"],
        artifact_sha256=complexity.get("artifact_sha256"),
        prior=Prior(**complexity["prior"]) if "prior" in complexity else None,
    )
