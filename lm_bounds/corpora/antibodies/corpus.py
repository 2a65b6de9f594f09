"""Clonal families as one sequence of tokens."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lm_bounds.corpora import text_documents
from lm_bounds.corpora.antibodies.families import FamilyCounts, clonal_families
from lm_bounds.corpora.antibodies.parameters import AntibodyParameters
from lm_bounds.corpora.antibodies.tokenizer import check_antibody_tokenizer, family_pieces
from lm_bounds.corpora.antibodies.units import Unit, find_units
from lm_bounds.corpora.local import check_cache_apart
from lm_bounds.corpora.protocol import TokenCorpus, Tokenizer
from lm_bounds.corpora.text_documents import TextPiece
from lm_bounds.corpora.token_stream import check_token_ids
from lm_bounds.corpora.tokenised import TextSource, cache_error, tokenise_source
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256
from lm_bounds.errors import CorpusError
from lm_bounds.home import write_atomically

_LOG = logging.getLogger(__name__)
_RULES = "lm-bounds/antibodies/1"
_NOT_ROWS = ("files", "subjects", "rows", "families")


@dataclass(frozen=True, eq=False)
class AntibodyCorpus(TokenCorpus):
    """The tokens of clonal families, each family a document.

    Args:
        counts: how many rows were read, and where they went.
    """

    counts: FamilyCounts


def open_antibodies(
    corpus_id: str,
    parameters: AntibodyParameters,
    tokenizer: Tokenizer,
    *,
    end_of_text_id: int | None,
    n_logits: int | None,
    cache_dir: Path,
) -> AntibodyCorpus:
    """The clonal families of data units as tokens of a language model.

    A family is a document: its sequences, residues with spaces between them and ``[ClSep]`` between sequences, then one
    end-of-text token. m is the number of these tokens, whatever the context: ``sampling.fixed_windows`` cuts a family
    every ``context`` tokens from its start, so that each token is in one window and is counted once, and a later window
    is predicted without the earlier ones.

    Args:
        corpus_id: its id in the registry.
        parameters: where the sequences are, and which are a family.
        tokenizer: the tokenizer of the language model.
        end_of_text_id: the id that ends a family; None where the model has none.
        n_logits: number of logits of the language model, above every id; None where it is not known.
        cache_dir: folder for the tokens, made where it is missing.

    Raises:
        CorpusError: the tokenizer does not keep the text, a file is malformed, or there is no family.
        UsageError: the cache lies among the units.
    """
    check_antibody_tokenizer(tokenizer, corpus_id)
    check_cache_apart(parameters.location, cache_dir)
    units = find_units(parameters.location)
    sha256 = _sha256(units, parameters)
    made = FamilyCounts()
    source = TextSource(
        parameters.source,
        sha256,
        lambda: _pieces(units, parameters, made),
        lambda: find_units(parameters.location) == units,
    )
    tokenizer_hash = tokenizer_sha256(tokenizer)
    tokens, starts = tokenise_source(
        source, tokenizer, tokenizer_hash, end_of_text_id=end_of_text_id, cache_dir=cache_dir
    )
    if n_logits is not None:
        check_token_ids(tokens, n_logits, parameters.source, "use the model's own tokenizer")
    level = logging.WARNING if made.files else logging.INFO  # who makes the tokens says aloud what was left out
    counts = _kept_counts(cache_dir / f"{sha256}.families.json", made, units, parameters)
    _LOG.log(level, "%s: %s", parameters.source, counts)
    return AntibodyCorpus(corpus_id, parameters.source, tokens, starts, tokenizer_hash, end_of_text_id, counts)


def _sha256(units: list[Unit], parameters: AntibodyParameters) -> str:
    """Hash of what was read and of the rules that make families of it."""
    parts = [_RULES, parameters.min_family, str(parameters.identity), [unit.sha256 for unit in units]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _pieces(units: list[Unit], parameters: AntibodyParameters, counts: FamilyCounts) -> Iterator[TextPiece]:
    for number, family in enumerate(clonal_families(units, parameters, counts)):
        for piece in family_pieces(family, text_documents.PIECE_CHARS):
            yield TextPiece(number, piece)
    if not counts.families:
        raise CorpusError(
            f"{parameters.source}: no family of {parameters.min_family} sequences; {counts}; for smaller families name "
            "a YAML file with path, min_family and identity as corpus_path"
        )


def _kept_counts(path: Path, made: FamilyCounts, units: list[Unit], parameters: AntibodyParameters) -> FamilyCounts:
    """The counts of the tokens that were just made, or of those made earlier; made again where they were lost."""
    if not made.files:
        kept = _read_counts(path)
        if kept is not None:
            return kept
        deque(clonal_families(units, parameters, made), maxlen=0)
    try:
        write_atomically(path, json.dumps(asdict(made)).encode())
    except OSError as error:
        raise cache_error(path, error) from error
    return made


def _read_counts(path: Path) -> FamilyCounts | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = {each.name for each in fields(FamilyCounts)}
    if not isinstance(found, dict) or set(found) != names or any(type(value) is not int for value in found.values()):
        return None
    is_whole = found["rows"] == sum(value for name, value in found.items() if name not in _NOT_ROWS)
    return FamilyCounts(**found) if is_whole else None
