"""The corpora that can be named: the package's own YAML registry and those that other packages add."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from lm_bounds.errors import CorpusError, UsageError, nearest

ENTRY_POINT_GROUP = "lm_bounds.corpora"
METRICS = ("bpd", "top1", "top10", "top100")
N_TOKENS_KINDS = ("exact", "declared", "lower_bound")
LAYOUTS = ("files", "structured", "random", "antibodies", "flat_tokens")
_BUILT_IN = Path(__file__).with_name("registry.yaml")
_ID = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class CorpusSpec:
    """What is known about a corpus before it is opened.

    Args:
        id: its name in tasks and options: lower-case letters, digits and underscores.
        title: a name for people, one line.
        description: what it is, in a sentence.
        layout: how its tokens are had: ``files`` of text or tokens that the user names, ``structured`` and
            ``random`` sequences that are made where they are read, ``antibodies`` in data units that the user names, or
            ``flat_tokens``, files of ids on the Hub.
        metrics: the metrics it offers, out of ``bpd``, ``top1``, ``top10``, ``top100``.
        n_tokens_kind: how its number of tokens is known: ``exact``, ``declared`` or ``lower_bound``.
        document_rule: where its documents begin and end.
        end_of_text_rule: which end-of-text tokens are part of the token sequence.
        licence: under which terms it may be used.
        caveats: what a reader of a bound on it should know; may be empty.
        parameters: of the layout, e.g. the seed and the grammar of sequences; ``files`` has none.

    Raises:
        CorpusError: a field is not of its type or not in its range.
    """

    id: str
    title: str
    description: str
    layout: str
    metrics: tuple[str, ...]
    n_tokens_kind: str
    document_rule: str
    end_of_text_rule: str
    licence: str
    caveats: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "title", "description", "document_rule", "end_of_text_rule", "licence"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                self._refuse(name, "a non-empty string", value)
        if not _ID.fullmatch(self.id):
            self._refuse("id", "lower-case letters, digits and underscores, a letter first", self.id)
        if self.layout not in LAYOUTS:
            self._refuse("layout", f"one of {', '.join(LAYOUTS)}", self.layout)
        if not isinstance(self.parameters, Mapping) or (self.parameters and self.layout == "files"):
            self._refuse("parameters", "a mapping, empty for files", self.parameters)
        if self.n_tokens_kind not in N_TOKENS_KINDS:
            self._refuse("n_tokens_kind", f"one of {', '.join(N_TOKENS_KINDS)}", self.n_tokens_kind)
        if not _is_strings(self.metrics) or not self.metrics or not set(self.metrics) <= set(METRICS):
            self._refuse("metrics", f"a non-empty tuple out of {', '.join(METRICS)}", self.metrics)
        if len(set(self.metrics)) != len(self.metrics):
            self._refuse("metrics", "a tuple that names each metric once", self.metrics)
        if not _is_strings(self.caveats):
            self._refuse("caveats", "a tuple of non-empty strings", self.caveats)

    def _refuse(self, name: str, wanted: str, given: object) -> None:
        raise CorpusError(f"corpus {self.id!r}: {name} must be {wanted}, given {given!r}")


def _is_strings(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) and item.strip() for item in value)


def corpus_specs() -> dict[str, CorpusSpec]:
    """Every registered corpus by its id: the package's own first, then those of entry points.

    An entry point of the group ``lm_bounds.corpora`` loads to a ``CorpusSpec`` or to a function without
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


def read_registry(path: Path) -> dict[str, CorpusSpec]:
    """The corpora of a YAML file: mappings with the fields of ``CorpusSpec``, of which ``parameters`` is optional.

    Raises:
        CorpusError: the file cannot be read, or an entry has an unknown, missing or malformed field.
    """
    entries = read_yaml(path, f"registry {path}")
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
    if not isinstance(entry, dict):
        raise CorpusError(f"{where} must be a mapping, found {type(entry).__name__}")
    wanted = {each.name for each in fields(CorpusSpec)}
    unknown = sorted(str(name) for name in entry if name not in wanted)
    missing = sorted(wanted - set(entry) - {"parameters"})
    if unknown or missing:
        found = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        raise CorpusError(f"{where} must have exactly the fields of CorpusSpec; {found}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return CorpusSpec(**values)


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
    if not callable(loaded):
        raise TypeError(f"a CorpusSpec or a function is needed, found {type(loaded).__name__}")
    specs: Iterable[CorpusSpec] = loaded()
    return specs
