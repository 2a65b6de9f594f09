"""What a corpus of antibodies is made from: where its sequences are, and which of them are a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lm_bounds.corpora.local import locate_source
from lm_bounds.corpora.registry import read_yaml
from lm_bounds.errors import CorpusError, UsageError

_NAMES = ("path", "min_family", "identity")
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class AntibodyParameters:
    """What a corpus of antibodies is a function of.

    Args:
        source: what the user pointed at.
        location: the data units: a file, or a folder of them.
        min_family: sequences of the smallest family that is kept, >= 1.
        identity: share of equal positions from which two junctions are linked, in (0, 1].
    """

    source: str
    location: Path
    min_family: int
    identity: Fraction


def antibody_parameters(corpus_id: str, defaults: Mapping[str, Any], path: str | None) -> AntibodyParameters:
    """The parameters of a corpus whose place is a path or is written in a YAML file.

    Args:
        corpus_id: its id in the registry.
        defaults: ``min_family`` and ``identity`` of the registry.
        path: a data unit, a folder of them, or a YAML file with the keys ``path`` (seen from the file's folder), and
            where they shall differ ``min_family`` and ``identity``.

    Raises:
        UsageError: no path was given.
        CorpusError: nothing is there, or a parameter is unknown, missing or malformed.
    """
    if path is None:
        raise UsageError(
            f"corpus {corpus_id!r} needs its place: pass --corpus_path FOLDER, with data units (.csv.gz); to plain "
            "lm_eval --metadata corpus_path=..."
        )
    location, is_folder = locate_source(path)
    values = {**defaults, "path": str(location)}
    if not is_folder and location.suffix.lower() in _YAML:
        values = {**defaults, **_read(location, path)}
    unknown = [name for name in values if name not in _NAMES]
    missing = [name for name in _NAMES if name not in values]
    if unknown or missing:
        wrong = f"unknown parameter {unknown[0]!r}" if unknown else f"the parameter {missing[0]!r} is missing"
        raise CorpusError(f"corpus {corpus_id}: {wrong}; the parameters are {', '.join(_NAMES)}")
    return _checked(corpus_id, path, location.parent, values)


def _read(location: Path, path: str) -> dict[str, Any]:
    given = read_yaml(location, path)
    if not isinstance(given, dict):
        raise CorpusError(f"{path} must be a YAML mapping of parameters, found {type(given).__name__}")
    return given


def _checked(corpus_id: str, source: str, folder: Path, values: Mapping[str, Any]) -> AntibodyParameters:
    place, min_family, identity = (values[name] for name in _NAMES)
    if not isinstance(place, str) or not place:
        raise CorpusError(f"corpus {corpus_id}: path must name a data unit or a folder of them, given {place!r}")
    if type(min_family) is not int or min_family < 1:
        raise CorpusError(f"corpus {corpus_id}: min_family must be a whole number of at least 1, given {min_family!r}")
    if type(identity) not in (int, float) or not 0 < identity <= 1:
        raise CorpusError(f"corpus {corpus_id}: identity must be above 0 and at most 1, given {identity!r}")
    location, _ = locate_source(str(folder / Path(place).expanduser()))
    # the decimal number that is written there, and not the binary one next to it
    return AntibodyParameters(source, location, min_family, Fraction(str(identity)))
