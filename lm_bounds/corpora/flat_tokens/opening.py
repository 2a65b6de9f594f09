"""Opens token files: those of a registered corpus, and those that a user points at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds.corpora.byte_source import ByteSource, LocalBytes, is_remote, open_bytes
from lm_bounds.corpora.flat_tokens.corpus import FlatTokens
from lm_bounds.corpora.flat_tokens.documents import Documents, FoundDocuments, ListedDocuments
from lm_bounds.corpora.flat_tokens.layout import TOKEN_SUFFIXES, TokenFiles, in_order, token_files
from lm_bounds.corpora.flat_tokens.megatron import INDEX_SUFFIX, MegatronIndex, read_index
from lm_bounds.corpora.flat_tokens.stream import Rows, TokenSequence
from lm_bounds.corpora.spec import check_parameters
from lm_bounds.corpora.token_stream import IntArray, TokenArray, find_document_starts
from lm_bounds.errors import CorpusError

MOST_DOCUMENT_TOKENS = 1 << 16
SCANNED_BYTES = 1 << 30
LISTED_TOKENS = 1 << 22
_UINT16_IDS = 1 << 16
_ROW_KEYS = {each.name for each in fields(Rows)}
_ENOUGH_IDS = 32  # from so many on, zeros in every second place are no chance


@dataclass(frozen=True)
class FlatParameters:
    """What the token files of a registered corpus hold.

    Args:
        dtype: of an id in a file without a header: ``uint16`` or ``uint32``.
        cut_anywhere: whether a file may end inside a row or an id, which the next file continues.
        rows: ``stored``, ``counted`` and ``skipped`` ids of a row, which is a document at most; None where all ids
            count.
        most_tokens: of a document; None for any number. Rows have their own.
    """

    dtype: str
    cut_anywhere: bool
    rows: Rows | None
    most_tokens: int | None


_TYPES: dict[str, tuple[type, ...]] = {
    "dtype": (str,),
    "cut_anywhere": (bool,),
    "rows": (Mapping, type(None)),
    "most_tokens": (int, type(None)),
}


def flat_parameters(corpus_id: str, given: Mapping[str, Any]) -> FlatParameters:
    """The parameters of a registered corpus.

    Raises:
        CorpusError: one is unknown, missing or malformed.
    """
    check_parameters(corpus_id, given, _TYPES)
    if given["dtype"] not in ("uint16", "uint32"):
        raise CorpusError(f"corpus {corpus_id!r}: dtype must be uint16 or uint32, given {given['dtype']!r}")
    rows = given["rows"]
    if rows is not None and (set(rows) != _ROW_KEYS or any(type(value) is not int for value in rows.values())):
        raise CorpusError(f"corpus {corpus_id!r}: parameter rows is malformed, given {rows!r}")
    return FlatParameters(**{**given, "rows": None if rows is None else Rows(**rows)})


def registered_sequence(source: ByteSource, parameters: FlatParameters, n_tokens: int | None) -> TokenSequence:
    """The ids of a registered corpus that count.

    Args:
        source: of its files.
        parameters: of the registry.
        n_tokens: how many there are, a multiple of those of a row; None where the files say it.

    Raises:
        CorpusError: the files cannot be read, or are not those of the corpus.
    """
    order = in_order([file.name for file in source.files])
    dtype = np.dtype(parameters.dtype).newbyteorder("<")
    files = token_files(source, dtype, order, cut_anywhere=parameters.cut_anywhere)
    rows = parameters.rows
    sequence = TokenSequence(files, rows, None if rows is None or n_tokens is None else n_tokens // rows.counted)
    if n_tokens is not None and sequence.n_tokens != n_tokens:
        raise CorpusError(f"{source.source} holds {sequence.n_tokens} tokens, and the corpus has {n_tokens}")
    return sequence


def registered_tokens(
    corpus_id: str,
    sequence: TokenSequence,
    parameters: FlatParameters,
    *,
    end_of_text_id: int,
    tokenizer_hash: str,
    n_ids: int,
) -> FlatTokens:
    """A registered corpus in the tokens that it is stored in.

    Args:
        corpus_id: its id.
        sequence: its ids.
        parameters: of the registry.
        end_of_text_id: the id that ends a document.
        tokenizer_hash: of the tokenizer of the language model.
        n_ids: every id must be below it.
    """
    most = parameters.most_tokens if parameters.rows is None else parameters.rows.counted
    documents = FoundDocuments(sequence, end_of_text_id, most)
    return FlatTokens(corpus_id, sequence, documents, tokenizer_hash, end_of_text_id, n_ids)


def are_token_files(folder: Path) -> bool:
    """Whether a folder holds token files, and their indices, and nothing else that is visible."""
    suffixes = {"" if path.is_dir() else path.suffix.lower() for path in folder.iterdir() if path.name[0] != "."}
    return bool(suffixes & set(TOKEN_SUFFIXES)) and suffixes <= {*TOKEN_SUFFIXES, INDEX_SUFFIX}


def default_dtype(n_entries: int) -> np.dtype[Any]:
    """The type of ids in a file without a header, for a tokenizer of so many entries."""
    return np.dtype("<u2" if n_entries <= _UINT16_IDS else "<u4")


def open_places(
    corpus_id: str,
    place: str,
    n_entries: int,
    *,
    end_of_text_id: int | None,
    tokenizer_hash: str,
    n_ids: int,
    cache_dir: Path,
) -> FlatTokens:
    """Token files that a user points at: one file, with its Megatron index where there is one; a folder of them; a URL.

    A document begins after each end-of-text token. Of more than ``LISTED_TOKENS`` tokens one also begins at each
    multiple of ``MOST_DOCUMENT_TOKENS`` tokens, so that its bounds are found in a bounded number of bytes; of fewer all
    are read. An index gives the documents in place of both.

    Raises:
        CorpusError: the files cannot be read, or are no token files.
    """
    source = _with_index(place) or open_bytes(place, cache_dir)
    names = [file.name for file in source.files]
    tokens = [number for number in in_order(names) if names[number].lower().endswith(TOKEN_SUFFIXES)]
    if not tokens:
        raise CorpusError(
            f"{place} has no token file: their names end in {' or '.join(TOKEN_SUFFIXES)}; copy text to this machine"
        )
    indices = _indices(source, tokens)
    default = indices[0].dtype if indices else default_dtype(n_entries)
    files = token_files(source, default, tokens)
    _check_width(files, n_entries)
    sequence = TokenSequence(files)
    documents: Documents = FoundDocuments(sequence, end_of_text_id, MOST_DOCUMENT_TOKENS)
    if indices:
        documents = _indexed(files, indices, sequence.n_tokens)
    corpus = FlatTokens(corpus_id, sequence, documents, tokenizer_hash, end_of_text_id, n_ids)
    if indices or sequence.n_tokens > LISTED_TOKENS:
        return corpus
    ids: Any = corpus.read(0, corpus.n_tokens)
    starts = find_document_starts(ids, np.zeros(1, dtype=np.int64), end_of_text_id)
    return replace(corpus, documents=ListedDocuments(starts, corpus.n_tokens))


def _with_index(place: str) -> ByteSource | None:
    """A local token file together with the index beside it; None where there is none."""
    location = Path(place).expanduser()
    index = location.with_suffix(INDEX_SUFFIX)
    if is_remote(place) or not location.is_file() or not index.is_file():
        return None
    return LocalBytes(place, [(location.name, location), (index.name, index)])


def _indices(source: ByteSource, tokens: list[int]) -> list[MegatronIndex]:
    """The index of each token file; none where no file has one."""
    by_name = {file.name: number for number, file in enumerate(source.files)}
    wanted = [source.files[number].name.rpartition(".")[0] + INDEX_SUFFIX for number in tokens]
    found = [by_name[name] for name in wanted if name in by_name]
    extra = [file.place for file in source.files if file.name.endswith(INDEX_SUFFIX) and file.name not in wanted]
    if extra or len(found) not in (0, len(tokens)):
        lone = extra[0] if extra else next(name for name in wanted if name not in by_name)
        raise CorpusError(
            f"{source.source}: {lone} stands alone: every .bin file of Megatron-LM needs its .idx file beside it, and "
            "the other way round"
        )
    return [read_index(source, file) for file in found]


def _indexed(files: TokenFiles, indices: list[MegatronIndex], n_tokens: int) -> Documents:
    counts = [part.n_bytes // files.dtype.itemsize for part in files.parts]
    for index in indices:
        if index.dtype != files.dtype:
            raise index.wrong(f"its ids are {index.dtype.name}, those of the first file {files.dtype.name}")
    listed = [index.documents(count) for index, count in zip(indices, counts, strict=True)]
    if len(listed) == 1:
        return listed[0]
    starts: list[IntArray] = []
    for index, documents, before in zip(indices, listed, np.cumsum([0, *counts[:-1]]), strict=True):
        if documents.starts is None:
            raise index.wrong("it is too long to be one of several: name one .bin file as the corpus")
        starts.append(documents.starts + before)
    return ListedDocuments(np.concatenate(starts), n_tokens)


def map_small_file(location: Path, n_entries: int) -> TokenArray | None:
    """The ids of a local file that is scanned in seconds, as a memory map; None for any other.

    Raises:
        CorpusError: it cannot be read, or is no token file.
    """
    if location.with_suffix(INDEX_SUFFIX).is_file():
        return None
    source = LocalBytes(str(location), [(location.name, location)])
    if source.files[0].n_bytes > SCANNED_BYTES:
        return None
    files = token_files(source, default_dtype(n_entries))
    _check_width(files, n_entries)
    part = files.parts[0]
    if files.dtype not in (np.uint16, np.uint32) or not files.dtype.isnative:
        return None
    n_ids = part.n_bytes // files.dtype.itemsize
    try:
        return np.memmap(location, dtype=files.dtype, mode="r", offset=part.offset, shape=(n_ids,))
    except OSError as error:
        raise CorpusError(f"{location} cannot be read: {error.strerror}; check its permissions") from error


def _check_width(files: TokenFiles, n_entries: int) -> None:
    """Refuses wider integers in a file without a header: their high halves are zeros in every second place."""
    part = files.parts[0]
    if part.offset or files.dtype.itemsize != 2:
        return
    n_ids = min(part.n_bytes // 2, 1 << 11)
    ids, _ = TokenSequence(files).read_many(np.array([0]), np.array([n_ids]))
    if n_ids >= _ENOUGH_IDS and not ids[1::2].any() and ids[::2].any():
        raise CorpusError(
            f"{files.source.files[part.file].place}: every second id is 0, as in a file of wider integers; a tokenizer "
            f"with {n_entries} ids needs little-endian uint16 ids: write it with .astype('<u2')"
        )
