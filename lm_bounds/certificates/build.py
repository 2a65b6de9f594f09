"""From a plan and its observations to certificate files."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds._version import __version__
from lm_bounds.bounds import Bound, vacuous_at
from lm_bounds.certificates.claim import claim_sentence
from lm_bounds.certificates.evidence import Observations, Plan
from lm_bounds.certificates.facts import REFERENCE_MACHINE
from lm_bounds.certificates.files import (
    SCHEMA,
    Certificate,
    digest,
    sha256_file,
)
from lm_bounds.home import write_atomically
from lm_bounds.sampling import draws_sha256

_SOFTWARE = ("lm_eval", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def write_certificates(
    plan: Plan,
    observations: Observations,
    metrics: Sequence[str],
    directory: Path,
    extends: Mapping[str, str] | None = None,
) -> list[Certificate]:
    """Writes the observations once and a certificate for each metric.

    Args:
        plan: what was fixed.
        observations: of all ``plan.n_windows`` certifying windows, in the order of the draws.
        metrics: those to certify.
        directory: made when missing.
        extends: by metric the digest of the certificate to whose windows others were added; None for a run of its own.

    Returns:
        the certificates in the order of ``metrics``.
    """
    observations_path = directory / f"{plan.corpus.corpus_id}-observations.npz"
    content = _npz(observations)
    if not observations_path.is_file() or observations_path.read_bytes() != content:
        write_atomically(observations_path, content)
    shared = _shared_fields(plan, observations, observations_path)
    certificates = []
    for metric in metrics:
        bound = observations.bound(metric, plan.methods[metric], plan.problem(metric))
        fields = {**shared, **_metric_fields(plan, metric, bound)}
        if extends is not None:
            fields["sample"] = {**shared["sample"], "extends": extends[metric]}
        fields["claim"]["sentence"] = claim_sentence(fields)
        fields["digest"] = digest(fields)
        path = directory / f"{plan.corpus.corpus_id}_{metric}_bound.json"
        write_atomically(path, json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False).encode())
        certificates.append(Certificate(fields, path))
    return certificates


def _metric_fields(plan: Plan, metric: str, bound: Bound) -> dict[str, Any]:
    level = vacuous_at(metric, plan.model.n_choices)
    method, problem = plan.methods[metric], plan.problem(metric)
    delta_1, delta_2 = method.failure_probs(problem)
    count = {} if plan.corpus.count is None else {"delta_3": plan.levels.count}
    ledger = [
        *({"part": "weights", **asdict(entry)} for entry in plan.code.ledger),
        *({"part": "description", **asdict(entry)} for entry in plan.overhead()),
        *({"part": "selection", "item": item, "bits": bits} for item, bits in method.selection()),
    ]
    return {
        "claim": {
            "metric": metric,
            "corpus": plan.corpus.corpus_id,
            "bound": bound.value,
            "vacuous_at": level,
            "vacuous": bound.value >= level,
            "failure_prob": plan.levels.total,
        },
        "method": method.to_dict(),
        "terms": {"risk": bound.risk, "complexity": bound.complexity, "sampling": bound.sampling},
        "rates": {"complexity_rate": bound.rate, "delta_1": delta_1, "delta_2": delta_2, **count},
        "complexity": {
            "bits": plan.charged_bits(metric),
            "code_bits": plan.code.bits,
            "source": plan.code.source,
            **({} if plan.code.artifact_sha256 is None else {"artifact_sha256": plan.code.artifact_sha256}),
            **({} if plan.code.prior is None else {"prior": asdict(plan.code.prior)}),
            "compressor": {
                "name": plan.code.compressor,
                "version": plan.code.version,
                "exact": plan.code.exact,
            },
            "sha256": plan.code.sha256,
            "n_parameters": plan.code.n_parameters,
            "n_tensors": plan.code.n_tensors,
            "stored_bytes": plan.code.stored_bytes,
            "ledger": ledger,
            "reference_machine": list(REFERENCE_MACHINE),
        },
    }


def _shared_fields(plan: Plan, observations: Observations, observations_path: Path) -> dict[str, Any]:
    corpus, settings = asdict(plan.corpus), plan.settings
    windows = observations.windows
    slots = {}
    if windows.attempt is not None and windows.voided is not None:
        slots = {"attempts": int(windows.attempt[-1]) + 1, "void": int(windows.voided[-1])}
    return {
        "schema": SCHEMA,
        "created": plan.created,
        "corpus": {
            "id": corpus.pop("corpus_id"),
            **corpus,
            "revision": None,
            "is_training_data": "unknown",
        },
        "model": {**asdict(plan.model), "context_rule": plan.model.context_rule},
        "settings": settings.to_dict(),
        "sample": {
            "unit": settings.unit,
            "replacement": plan.replacement,
            "windows": plan.n_windows,
            **slots,
            "scored_tokens": int(observations.window_sizes.sum()),
            "pilot": settings.n_pilot,
            "draw_seed": settings.draw_seed,
            "seed_parts": plan.certify_seed_parts(),
            "draws_sha256": draws_sha256(windows),
            "observations": observations_path.name,
            "observations_sha256": sha256_file(observations_path),
        },
        "software": {"lm_bounds": __version__, "python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _SOFTWARE:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _npz(observations: Observations) -> bytes:
    arrays: dict[str, Any] = {f"sums/{name}": values for name, values in observations.sums.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **{**arrays, **observations.windows.arrays()})
    return stream.getvalue()
