"""Reading and writing certificates: canonical JSON, its digest, and files that are never half-written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_bounds.errors import VerificationError

SCHEMA = "lm-bounds/certificate/1"


@dataclass(frozen=True, repr=False)
class Certificate:
    """A certificate: its fields, and the file that holds it.

    Args:
        fields: the JSON object.
        path: where it is.
    """

    fields: Mapping[str, Any]
    path: Path

    def __repr__(self) -> str:
        verdict = "vacuous" if self.vacuous else "not vacuous"
        return f"Certificate({self.metric} <= {self.bound:.6g}, {verdict}, {str(self.path)!r})"

    @property
    def claim(self) -> str:
        """The claim as a sentence."""
        return str(self.fields["claim"]["sentence"])

    @property
    def metric(self) -> str:
        """The bounded metric."""
        return str(self.fields["claim"]["metric"])

    @property
    def bound(self) -> float:
        """The certified value."""
        return float(self.fields["claim"]["bound"])

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing."""
        return bool(self.fields["claim"]["vacuous"])


def canonical_json(fields: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, UTF-8, shortest float digits that round-trip; no NaN."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON without the field ``digest``."""
    return hashlib.sha256(canonical_json({k: v for k, v in fields.items() if k != "digest"})).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def read_certificate(path: str | Path) -> dict[str, Any]:
    """The fields of a certificate file.

    Numbers have to be written as this package writes them, with the shortest digits that round-trip, and no key may
    occur twice: otherwise a text could be changed without a change of what it is read as.

    Raises:
        VerificationError: when it cannot be read, is not JSON, or is not a certificate of a known schema.
    """
    try:
        fields = json.loads(
            Path(path).read_bytes(),
            object_pairs_hook=_distinct_keys,
            parse_float=_shortest_float,
            parse_int=_shortest_int,
            parse_constant=_no_constant,
        )
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read ({error.strerror}): pass a certificate file") from error
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path}: is not JSON ({error}): pass a certificate that lm-bounds wrote") from error
    if not isinstance(fields, dict) or "schema" not in fields:
        raise VerificationError(f"{path}: is not a certificate (no field 'schema'): pass one that lm-bounds wrote")
    if fields["schema"] != SCHEMA:
        raise VerificationError(f"{path}: schema {fields['schema']!r} is unknown: this version reads {SCHEMA}")
    return fields


def latest_certificates(folder: Path) -> list[Certificate]:
    """The certificates of the last run below a folder that has one folder for each run, named by its UTC time.

    Args:
        folder: of a model, see ``lm_bounds.home.certificate_root``.
    """
    runs = sorted(path for path in folder.glob("*") if path.is_dir())
    return [Certificate(read_certificate(path), path) for path in sorted(runs[-1].glob("*.json"))] if runs else []


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key occurs twice")
    return fields


def _shortest_float(text: str) -> float:
    number = float(text)
    if repr(number) != text:
        raise ValueError(f"the number {text[:40]} is not written with its shortest digits")
    return number


def _shortest_int(text: str) -> int:
    number = int(text)
    if str(number) != text:
        raise ValueError(f"the number {text[:40]} is not written with its shortest digits")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
