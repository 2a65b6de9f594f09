"""Opens registered corpora whose files are on the Hub: as they are stored, or in the tokens of another model."""

from __future__ import annotations

from lm_bounds.corpora.flat_tokens import FlatParameters, flat_parameters, registered_sequence, registered_tokens
from lm_bounds.corpora.named_tokenizer import stored_tokenizer
from lm_bounds.corpora.protocol import Corpus
from lm_bounds.corpora.request import Request
from lm_bounds.corpora.slots import (
    ReencodedReader,
    RowFormat,
    SlotCorpus,
    StoredIdCells,
    StoredIdReader,
    open_texts,
    open_token_rows,
)
from lm_bounds.corpora.slots.protocol import CellReader, Cells
from lm_bounds.corpora.spec import CorpusSpec, check_parameters
from lm_bounds.corpora.stored_files import folder_of
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256
from lm_bounds.errors import CorpusError


def check_flat(spec: CorpusSpec) -> FlatParameters:
    """What the token files of a corpus hold.

    Raises:
        CorpusError: a parameter is unknown, missing or malformed, or its tokens are no whole number of rows.
    """
    flat = flat_parameters(spec.id, spec.parameters)
    if flat.rows is not None and (spec.n_tokens or 0) % flat.rows.counted:
        raise CorpusError(
            f"corpus {spec.id!r}: n_tokens must be a multiple of the {flat.rows.counted} tokens of a row, "
            f"given {spec.n_tokens}"
        )
    return flat


def open_flat(given: Request) -> Corpus:
    """A corpus of token ids that lie one after another.

    Raises:
        CorpusError: its files cannot be read, or the tokenizer that it is stored in is needed and cannot be loaded.
    """
    spec = given.spec
    flat = check_flat(spec)
    sequence = registered_sequence(given.source, flat, spec.n_tokens)
    if not given.is_as_stored:
        return _reencoded(given, StoredIdCells(sequence), StoredIdReader(given.stored_in.entries))
    return registered_tokens(
        spec.id,
        sequence,
        flat,
        end_of_text_id=given.stored_in.end_of_text_id,
        tokenizer_hash=given.tokenizer_sha256,
        n_ids=given.n_stored_ids,
    )


def check_token_rows(spec: CorpusSpec) -> RowFormat:
    """How the rows of a corpus are stored.

    Raises:
        CorpusError: a parameter is unknown, missing or malformed.
    """
    numbers = ("stored", "counted", "skipped")
    check_parameters(spec.id, spec.parameters, {**dict.fromkeys(numbers, (int,)), "field": (str,)})
    return RowFormat(**spec.parameters)


def open_rows(given: Request) -> Corpus:
    """A corpus of token ids in lines of JSON.

    Raises:
        CorpusError: its files cannot be read, or the tokenizer that it is stored in is needed and cannot be loaded.
    """
    stored = given.stored_in
    corpus = open_token_rows(
        given.spec.id,
        given.source,
        check_token_rows(given.spec),
        n_entries=stored.entries,
        tokenizer_hash=given.tokenizer_sha256,
        end_of_text_id=stored.end_of_text_id,
        n_ids=given.n_stored_ids,
        cache_dir=given.cache_dir,
        declared=given.declared,
    )
    return corpus if given.is_as_stored else _reencoded(given, corpus.cells, corpus.reader)


def check_texts(spec: CorpusSpec) -> str:
    """The column that has the text.

    Raises:
        CorpusError: a parameter is unknown, missing or malformed.
    """
    check_parameters(spec.id, spec.parameters, {"column": (str,)})
    return str(spec.parameters["column"])


def open_stored_texts(given: Request) -> Corpus:
    """A corpus of documents of text.

    Raises:
        CorpusError: its files cannot be read.
    """
    return open_texts(
        given.spec.id,
        given.source,
        check_texts(given.spec),
        given.tokenizer,
        tokenizer_hash=given.tokenizer_sha256,
        end_of_text_id=given.end_of_text_id,
        n_ids=given.n_ids,
        cache_dir=given.cache_dir,
    )


def _reencoded(given: Request, cells: Cells, stored_reader: CellReader) -> SlotCorpus:
    """The corpus in the tokens of the language model.

    Raises:
        CorpusError: the tokenizer that it is stored in cannot be loaded.
    """
    stored = given.stored_in
    try:
        decoder = stored_tokenizer(stored, folder_of(given.path))
    except CorpusError as error:
        raise CorpusError(
            f"corpus {given.spec.id!r} is stored in the {stored.entries} tokens of {stored.name}, and the tokenizer "
            f"of this model is another; to encode it again: {error}"
        ) from error
    reader = ReencodedReader(
        stored_reader,
        decoder,
        tokenizer_sha256(decoder),
        stored.end_of_text_id,
        given.tokenizer,
        given.end_of_text_id,
    )
    return SlotCorpus(
        given.spec.id,
        cells,
        reader,
        given.tokenizer_sha256,
        given.end_of_text_id,
        given.n_ids,
        given.cache_dir,
    )
