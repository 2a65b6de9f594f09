"""What is known about a corpus before it is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lm_bounds.errors import CorpusError

METRICS = ("bpd", "top1", "top10", "top100")
N_TOKENS_KINDS = ("exact", "declared", "lower_bound")
# layout -> whether its files are on the Hub, and whether they hold token ids
LAYOUTS = {
    "files": (False, False),
    "structured": (False, False),
    "random": (False, False),
    "antibodies": (False, False),
    "flat_tokens": (True, True),
    "token_rows": (True, True),
    "texts": (True, False),
}
_ID = re.compile(r"[a-z][a-z0-9_]*")
_REPOSITORY = re.compile(r"[^/@\s]+/[^/@\s]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFiles:
    """Files of a data set on the Hub.

    Args:
        repository: ``ORG/NAME``.
        revision: branch, tag or commit.
        files: pattern of their paths; the first ``*`` of the last part stands for the number of a file.
        n_files: how many there are; None where that is not looked at.

    Raises:
        CorpusError: a field is not of its type or not in its range.

    >>> HubFiles("org/name", "main", "train/train_*.jsonl", None).pattern
    'train_*.jsonl'
    """

    repository: str
    revision: str
    files: str
    n_files: int | None

    def __post_init__(self) -> None:
        if not _is_text(self.repository) or not _REPOSITORY.fullmatch(self.repository):
            _refuse("hub.repository", "ORG/NAME", self.repository)
        for name in ("revision", "files"):
            if not _is_text(getattr(self, name)):
                _refuse(f"hub.{name}", "a non-empty string", getattr(self, name))
        if self.n_files is not None and not _is_count(self.n_files):
            _refuse("hub.n_files", "a number of at least 1, or null", self.n_files)

    @property
    def pattern(self) -> str:
        """Of the names of the files, without their folder."""
        return self.files.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """That they are in; empty where there is none."""
        return self.files.rpartition("/")[0]


@dataclass(frozen=True)
class StoredTokens:
    """Which tokens the ids in files stand for.

    Args:
        name: of the tokenizer, for people.
        tokenizer: Hub id from which it is loaded, where a model has another one.
        entries: how many ids it has.
        vocabulary_sha256: of these, see ``vocabulary_sha256``.
        end_of_text_id: the id that ends a document.

    Raises:
        CorpusError: a field is not of its type or not in its range.
    """

    name: str
    tokenizer: str
    entries: int
    vocabulary_sha256: str
    end_of_text_id: int

    def __post_init__(self) -> None:
        for name in ("name", "tokenizer"):
            if not _is_text(getattr(self, name)):
                _refuse(f"stored_in.{name}", "a non-empty string", getattr(self, name))
        if not _is_count(self.entries):
            _refuse("stored_in.entries", "a number of at least 1", self.entries)
        if not isinstance(self.vocabulary_sha256, str) or not _SHA256.fullmatch(self.vocabulary_sha256):
            _refuse("stored_in.vocabulary_sha256", "64 hexadecimal digits", self.vocabulary_sha256)
        if type(self.end_of_text_id) is not int or not 0 <= self.end_of_text_id < self.entries:
            _refuse("stored_in.end_of_text_id", f"an id below {self.entries}", self.end_of_text_id)


@dataclass(frozen=True)
class CorpusSpec:
    """What is known about a corpus before it is opened.

    Args:
        id: its name in tasks and options: lower-case letters, digits and underscores.
        title: a name for people, one line.
        description: what it is, in a sentence.
        layout: how its tokens are had: ``files`` of text or tokens that the user names, ``structured`` and
            ``random`` sequences that are made where they are read, ``antibodies`` in data units that the user names; or
            files on the Hub: ``flat_tokens``, ids one after another, ``token_rows``, lines of JSON with ids, ``texts``,
            documents of text.
        metrics: the metrics it offers, out of ``bpd``, ``top1``, ``top10``, ``top100``.
        n_tokens_kind: how its number of tokens is known: ``exact``, ``declared`` or ``lower_bound``.
        document_rule: where its documents begin and end.
        end_of_text_rule: which end-of-text tokens are part of the token sequence.
        licence: under which terms it may be used.
        caveats: what a reader of a bound on it should know; may be empty.
        parameters: of the layout, e.g. the seed and the grammar of sequences; ``files`` has none.
        hub: its files; None where they are the user's or there are none.
        stored_in: the tokenizer whose ids they hold; None where they hold text or there are none.
        n_tokens: how many tokens it has; None where they are counted or estimated when it is opened.
        models: that were trained on it, as Hub ids.

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
    hub: HubFiles | None = None
    stored_in: StoredTokens | None = None
    n_tokens: int | None = None
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "title", "description", "document_rule", "end_of_text_rule", "licence"):
            if not _is_text(getattr(self, name)):
                self._refuse(name, "a non-empty string", getattr(self, name))
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
        for name in ("caveats", "models"):
            if not _is_strings(getattr(self, name)):
                self._refuse(name, "a tuple of non-empty strings", getattr(self, name))
        if self.n_tokens is not None and not _is_count(self.n_tokens):
            self._refuse("n_tokens", "a number of at least 1, or null", self.n_tokens)
        self._check_storage()

    def _check_storage(self) -> None:
        is_on_hub, holds_ids = LAYOUTS[self.layout]
        kinds: tuple[tuple[str, type, bool], ...] = (
            ("hub", HubFiles, is_on_hub),
            ("stored_in", StoredTokens, holds_ids),
        )
        for name, kind, needed in kinds:
            value = getattr(self, name)
            if not isinstance(value, kind if needed else type(None)):
                self._refuse(name, f"{f'a {kind.__name__}' if needed else 'null'} for {self.layout}", value)

    def _refuse(self, name: str, wanted: str, given: object) -> None:
        raise CorpusError(f"corpus {self.id!r}: {name} must be {wanted}, given {given!r}")


def check_parameters(corpus_id: str, given: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    """Refuses other parameters of a layout than its own, or one of another type.

    Args:
        corpus_id: of the corpus, for the message.
        given: the parameters by name.
        types: those that each may have; a truth value is no number.

    Raises:
        CorpusError: naming the parameter.
    """
    for name in [*types, *given]:
        if name not in given or name not in types:
            raise CorpusError(f"corpus {corpus_id!r}: the parameters must be exactly {', '.join(types)}; see {name!r}")
    for name, value in given.items():
        if not isinstance(value, types[name]) or (isinstance(value, bool) and bool not in types[name]):
            raise CorpusError(f"corpus {corpus_id!r}: parameter {name} is malformed, given {value!r}")


def _refuse(name: str, wanted: str, given: object) -> NoReturn:
    raise CorpusError(f"{name} must be {wanted}, given {given!r}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_strings(value: object) -> bool:
    return isinstance(value, tuple) and all(_is_text(item) for item in value)
