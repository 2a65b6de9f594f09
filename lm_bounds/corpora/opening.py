"""Opens a registered corpus for a language model, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_bounds.corpora.antibodies import antibody_parameters, open_antibodies
from lm_bounds.corpora.integer_processes import RandomProcess
from lm_bounds.corpora.local import locate_source, open_local
from lm_bounds.corpora.number_text import check_number_tokenizer
from lm_bounds.corpora.protocol import Corpus, Tokenizer
from lm_bounds.corpora.registry import CorpusSpec, read_yaml
from lm_bounds.corpora.synthetic import SyntheticCorpus, SyntheticParameters, synthetic_parameters
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256
from lm_bounds.errors import CorpusError, UsageError


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
            None; for antibodies the data units, or a YAML file that names them.
        tokenizer: the tokenizer of the language model.
        end_of_text_id: the id that ends a document of text; None where the model has none.
        n_logits: number of logits of the language model, above every id; None where it is not known.
        cache_dir: folder for the tokens of text, made where it is missing.

    Raises:
        CorpusError: the corpus cannot be read, or not with this tokenizer.
        UsageError: an argument is missing or out of range.
    """
    check_source(spec, path)
    use = {"end_of_text_id": end_of_text_id, "n_logits": n_logits, "cache_dir": cache_dir}
    return _LAYOUTS[spec.layout].open(spec, path, tokenizer, use)


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


@dataclass(frozen=True)
class _Layout:
    """What a storage layout does: ``check(spec, path)`` before there is a tokenizer, then ``open(spec, path, tokenizer,
    use)`` with the keyword arguments of ``open_corpus`` in ``use``."""

    check: Callable[[CorpusSpec, str | None], object]
    open: Callable[[CorpusSpec, str | None, Tokenizer, Mapping[str, Any]], Corpus]


def _check_files(spec: CorpusSpec, path: str | None) -> None:
    if path is None:
        raise UsageError(f"corpus {spec.id!r} needs its place: pass corpus_path=FILE-OR-FOLDER in --metadata")
    locate_source(path)


def _open_files(spec: CorpusSpec, path: str | None, tokenizer: Tokenizer, use: Mapping[str, Any]) -> Corpus:
    return open_local(str(path), tokenizer, **use)


def _open_sequences(spec: CorpusSpec, path: str | None, tokenizer: Tokenizer, use: Mapping[str, Any]) -> Corpus:
    check_number_tokenizer(tokenizer, spec.id)
    return SyntheticCorpus(spec.id, parameters(spec, path), tokenizer_sha256(tokenizer))


def _open_antibodies(spec: CorpusSpec, path: str | None, tokenizer: Tokenizer, use: Mapping[str, Any]) -> Corpus:
    return open_antibodies(spec.id, antibody_parameters(spec.id, spec.parameters, path), tokenizer, **use)


_LAYOUTS = {
    "files": _Layout(_check_files, _open_files),
    "structured": _Layout(parameters, _open_sequences),
    "random": _Layout(parameters, _open_sequences),
    "antibodies": _Layout(lambda spec, path: antibody_parameters(spec.id, spec.parameters, path), _open_antibodies),
}


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
