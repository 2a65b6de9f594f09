"""The corpora that can be named: the package's own YAML registry and those that other packages add."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from lm_bounds.corpora.spec import CorpusSpec, HubFiles, StoredTokens
from lm_bounds.errors import CorpusError, UsageError, nearest

ENTRY_POINT_GROUP = "lm_bounds.corpora"
_BUILT_IN = Path(__file__).with_name("registry.yaml")
_STORAGE = {"hub": HubFiles, "stored_in": StoredTokens}


def corpus_specs() -> dict[str, CorpusSpec]:
    """Every registered corpus by its id: the package's own first, then those of entry points.

    An entry point of the group ``lm_bounds.corpora`` loads to a ``CorpusSpec``, to some, or to a function without
    arguments that returns some, e.g. ``lambda: read_registry(path).values()``.

    Raises:
        CorpusError: an entry is malformed, an entry point fails, or two corpora have one id.

    >>> corpus_specs()["local"].n_tokens_kind
    'exact'
    """
    specs = read_registry(_BUILT_IN)
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: (entry.name, entry.value)):
        for spec in _entry_point_specs(entry):
            if spec.id in specs:
                raise CorpusError(f"entry point {entry.value} adds corpus {spec.id!r}, which is already registered")
            specs[spec.id] = spec
    return specs


def corpus_spec(corpus_id: str) -> CorpusSpec:
    """The registered corpus with that id.

    Raises:
        UsageError: there is none; the message has the nearest name.

    >>> corpus_spec("locale")
    Traceback (most recent call last):
    lm_bounds.errors.UsageError: unknown corpus 'locale': did you mean 'local'?
    """
    specs = corpus_specs()
    if corpus_id in specs:
        return specs[corpus_id]
    raise UsageError(f"unknown corpus {corpus_id!r}{nearest(corpus_id, sorted(specs))}")


def read_registry(path: str | Path) -> dict[str, CorpusSpec]:
    """The corpora of a YAML file: mappings with the fields of ``CorpusSpec``; those with a default may be left out.

    Raises:
        CorpusError: the file cannot be read, or an entry has an unknown, missing or malformed field.
    """
    entries = read_yaml(Path(path), f"registry {path}")
    if not isinstance(entries, list):
        raise CorpusError(f"registry {path} must be a list of corpora, found {type(entries).__name__}")
    specs: dict[str, CorpusSpec] = {}
    for position, entry in enumerate(entries):
        spec = _spec_from_entry(entry, f"registry {path}, entry {position}")
        if spec.id in specs:
            raise CorpusError(f"registry {path} has two corpora with the id {spec.id!r}")
        specs[spec.id] = spec
    return specs


def read_yaml(path: Path, name: str) -> Any:
    """What a YAML file holds.

    Args:
        path: of the file.
        name: what it is called in a message.

    Raises:
        CorpusError: it cannot be read.
    """
    import yaml  # type: ignore[import-untyped, unused-ignore]

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CorpusError(f"{name} cannot be read as YAML: {error}") from error


def _spec_from_entry(entry: object, where: str) -> CorpusSpec:
    values = _checked_fields(CorpusSpec, entry, where)
    for name, kind in _STORAGE.items():
        if values.get(name) is not None:
            try:
                values[name] = kind(**_checked_fields(kind, values[name], f"{where}, {name}"))
            except CorpusError as error:
                raise CorpusError(f"corpus {values['id']!r}: {error}") from error
    return CorpusSpec(**values)


def _checked_fields(kind: type, entry: object, where: str) -> dict[str, Any]:
    """The fields of a mapping, lists as tuples; exactly those of a data class, but for those with a default."""
    if not isinstance(entry, dict):
        raise CorpusError(f"{where} must be a mapping, found {type(entry).__name__}")
    wanted: dict[str, Field[Any]] = {each.name: each for each in fields(kind)}
    unknown = sorted(str(name) for name in entry if name not in wanted)
    missing = sorted(name for name in set(wanted) - set(entry) if not _has_default(wanted[name]))
    if unknown or missing:
        found = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        raise CorpusError(f"{where} must have exactly the fields of {kind.__name__}; {found}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def _has_default(member: Field[Any]) -> bool:
    return member.default is not MISSING or member.default_factory is not MISSING


def _entry_point_specs(entry: EntryPoint) -> list[CorpusSpec]:
    try:
        loaded = entry.load()
        found = [loaded] if isinstance(loaded, CorpusSpec) else list(_called(loaded))
    except Exception as error:
        raise CorpusError(
            f"entry point {entry.name} = {entry.value} of {ENTRY_POINT_GROUP} failed: "
            f"{type(error).__name__}: {error}; repair or uninstall the package that declares it"
        ) from error
    for spec in found:
        if not isinstance(spec, CorpusSpec):
            raise CorpusError(f"entry point {entry.value} must give CorpusSpec objects, gave {type(spec).__name__}")
    return found


def _called(loaded: object) -> Iterable[CorpusSpec]:
    if not callable(loaded) and (isinstance(loaded, str) or not isinstance(loaded, Iterable)):
        raise TypeError(f"a CorpusSpec, several, or a function is needed, found {type(loaded).__name__}")
    specs: Iterable[CorpusSpec] = loaded() if callable(loaded) else loaded
    return specs
