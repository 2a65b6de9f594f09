"""Opens a registered corpus for a language model, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_bounds.corpora.antibodies import antibody_parameters, open_antibodies
from lm_bounds.corpora.byte_source import is_remote, parse_place
from lm_bounds.corpora.integer_processes import RandomProcess
from lm_bounds.corpora.local import locate_source, open_local
from lm_bounds.corpora.number_text import check_number_tokenizer
from lm_bounds.corpora.protocol import Corpus, Tokenizer
from lm_bounds.corpora.registry import read_yaml
from lm_bounds.corpora.request import Request
from lm_bounds.corpora.spec import CorpusSpec
from lm_bounds.corpora.stored import (
    check_flat,
    check_texts,
    check_token_rows,
    open_flat,
    open_rows,
    open_stored_texts,
)
from lm_bounds.corpora.synthetic import SyntheticCorpus, SyntheticParameters, synthetic_parameters
from lm_bounds.errors import CorpusError, UsageError


@dataclass(frozen=True)
class _Layout:
    """How the corpora of a layout are checked before there is a tokenizer, and opened."""

    check: Callable[[CorpusSpec, str | None], object]
    open: Callable[[Request], Corpus]


def check_source(spec: CorpusSpec, path: str | None) -> None:
    """Refuses what can be known to be wrong before there is a tokenizer.

    Raises:
        UsageError: the corpus needs a path and none was given.
        CorpusError: the path does not exist, or does not hold what the corpus needs.
    """
    _LAYOUTS[spec.layout].check(spec, path)


def open_corpus(
    spec: CorpusSpec,
    path: str | None,
    tokenizer: Tokenizer,
    *,
    end_of_text_id: int | None,
    n_logits: int | None,
    cache_dir: Path,
) -> Corpus:
    """The corpus as one sequence of the tokens of a language model.

    Args:
        spec: of the registry.
        path: for ``files`` the text or tokens; for sequences a YAML file of parameters in place of the registry's, or
            None; for antibodies the data units, or a YAML file that names them; for a corpus on the Hub a copy of its
            files, or None.
        tokenizer: the tokenizer of the language model.
        end_of_text_id: the id that ends a document of text; None where the model has none.
        n_logits: number of logits of the language model, above every id; None where it is not known.
        cache_dir: folder for the tokens of text and for what is read from afar, made where it is missing.

    Raises:
        CorpusError: the corpus cannot be read, or not with this tokenizer.
        UsageError: an argument is missing or out of range.
    """
    check_source(spec, path)
    return _LAYOUTS[spec.layout].open(Request(spec, path, tokenizer, end_of_text_id, n_logits, Path(cache_dir)))


def _check_place(path: str) -> None:
    if path.startswith("hf://"):
        parse_place(path)
    elif not is_remote(path):
        locate_source(path)


def _check_files(spec: CorpusSpec, path: str | None) -> None:
    if path is None:
        raise UsageError(
            f"corpus {spec.id!r} needs its place: pass --corpus_path FILE-OR-FOLDER; to plain lm_eval --metadata "
            "corpus_path=..."
        )
    _check_place(path)


def _open_files(given: Request) -> Corpus:
    return open_local(
        str(given.path),
        given.tokenizer,
        end_of_text_id=given.end_of_text_id,
        n_logits=given.n_logits,
        cache_dir=given.cache_dir,
    )


def _open_sequences(given: Request) -> Corpus:
    check_number_tokenizer(given.tokenizer, given.spec.id)
    return SyntheticCorpus(given.spec.id, parameters(given.spec, given.path), given.tokenizer_sha256)


def _check_antibodies(spec: CorpusSpec, path: str | None) -> None:
    antibody_parameters(spec.id, spec.parameters, path)


def _open_antibodies(given: Request) -> Corpus:
    return open_antibodies(
        given.spec.id,
        antibody_parameters(given.spec.id, given.spec.parameters, given.path),
        given.tokenizer,
        end_of_text_id=given.end_of_text_id,
        n_logits=given.n_logits,
        cache_dir=given.cache_dir,
    )


def _check_stored(check: Callable[[CorpusSpec], object]) -> Callable[[CorpusSpec, str | None], None]:
    """Checks the parameters of a corpus whose files are on the Hub, and where a copy of them is."""

    def check_both(spec: CorpusSpec, path: str | None) -> None:
        check(spec)
        if path is not None:
            _check_place(path)

    return check_both


def parameters(spec: CorpusSpec, path: str | None = None) -> SyntheticParameters:
    """The parameters of a corpus of sequences: the registry's, those in a YAML file before them.

    Raises:
        CorpusError: the file cannot be read, or a parameter is unknown or malformed.
    """
    return synthetic_parameters(spec.layout, _merged(spec.parameters, {} if path is None else _read(path)))


def derived_facts(spec: CorpusSpec) -> dict[str, Any]:
    """What follows exactly from the parameters of a corpus of random integers: how many there are, and the entropy
    rate of its tokens, below which no model's expected loss lies; nothing for other corpora."""
    process = parameters(spec).make_process() if spec.layout == "random" else None
    if not isinstance(process, RandomProcess):
        return {}
    rate = process.entropy_rate(parameters(spec).row_tokens)
    return {"distinct_integers": len(process.alphabet), "entropy_rate_in_bits_per_token": rate}


def _read(path: str) -> Mapping[str, Any]:
    location, is_folder = locate_source(path)
    if is_folder:
        raise CorpusError(f"{path} is a folder; name a YAML file with parameters of the sequences, or leave it out")
    given = read_yaml(location, path)
    if not isinstance(given, dict):
        raise CorpusError(f"{path} must be a YAML mapping of parameters, found {type(given).__name__}")
    return given


def _merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, overridden at every depth."""
    merged = {**defaults, **given}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(given.get(name), Mapping):
            merged[name] = _merged(value, given[name])
    return merged


_LAYOUTS = {
    "files": _Layout(_check_files, _open_files),
    "structured": _Layout(parameters, _open_sequences),
    "random": _Layout(parameters, _open_sequences),
    "antibodies": _Layout(_check_antibodies, _open_antibodies),
    "flat_tokens": _Layout(_check_stored(check_flat), open_flat),
    "token_rows": _Layout(_check_stored(check_token_rows), open_rows),
    "texts": _Layout(_check_stored(check_texts), open_stored_texts),
}
