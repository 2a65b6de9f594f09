"""The corpus of the user's own: text in files of several kinds, or flat token ids, here or behind a URL."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from lm_bounds.corpora.byte_source import ByteSource, LocalBytes, is_remote, open_bytes
from lm_bounds.corpora.flat_tokens import FlatTokens, are_token_files, map_small_file, open_places
from lm_bounds.corpora.flat_tokens.layout import TOKEN_SUFFIXES
from lm_bounds.corpora.protocol import TokenCorpus, Tokenizer
from lm_bounds.corpora.slots import TEXT_SUFFIXES, SlotCorpus, open_texts
from lm_bounds.corpora.source_files import is_skipped, source_files, suffix_of
from lm_bounds.corpora.text_documents import TEXT_COLUMN, text_bytes
from lm_bounds.corpora.token_stream import IntArray, TokenArray, check_token_ids, find_document_starts
from lm_bounds.corpora.tokenised import tokenise
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256
from lm_bounds.errors import CorpusError, UsageError

CORPUS_ID = "local"
# More text than this is not tokenised as a whole.
TOKENISED_BYTES = 1 << 31


def open_local(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    end_of_text_id: int | None,
    n_logits: int | None,
    cache_dir: Path,
) -> TokenCorpus | FlatTokens | SlotCorpus:
    """Open text files, a folder of them, or token files as one token sequence.

    Text is UTF-8, in files of text, in the field "text" of the lines of a .jsonl file, or in the column "text" of a
    .parquet or .arrow file. It is tokenised without added special tokens; each document that has tokens is followed by
    one end-of-text token. More than 2 GiB of text, and text behind a URL or on the Hub, is tokenised where it is drawn,
    and its number of tokens is a lower confidence bound, see ``slots.open_texts``.

    A .bin file holds flat little-endian ids, uint16 where ``len(tokenizer) <= 65536``
    and uint32 elsewhere; a .npy file, one with the header of llm.c, or one with a Megatron index beside it says itself
    what it holds. Documents start where those of the source do and after every end-of-text token of the sequence.
    One token file of up to 1 GiB is scanned as a whole; larger ones, folders of them and URLs are read where they are
    drawn from, see ``flat_tokens.open_places``.

    Args:
        path: what to read.
        tokenizer: the tokenizer of the language model.
        end_of_text_id: the id that ends a document; None where the model has none.
        n_logits: number of logits of the language model, above every id; None where it is not known.
        cache_dir: folder for the tokens of text, made where it is missing.

    Raises:
        CorpusError: the path is missing, empty, unreadable, binary, malformed, or has an id that the model
            does not know.
        UsageError: ``end_of_text_id`` or ``n_logits`` is out of range, or the cache lies among the text.
    """
    source, cache_dir = os.fspath(path), Path(cache_dir)
    location, is_folder = (Path(source), False) if is_remote(source) else locate_source(source)
    n_ids = _known_ids(tokenizer, end_of_text_id, n_logits)
    model = _Model(tokenizer, tokenizer_sha256(tokenizer), end_of_text_id, n_ids, n_logits)
    if holds_token_ids(source, location, is_folder, cache_dir):
        return _open_token_files(source, None if is_folder or is_remote(source) else location, model, cache_dir)
    return _open_text(source, location, model, cache_dir)


class _Model(NamedTuple):
    """What is known of a language model; see ``open_local``."""

    tokenizer: Tokenizer
    tokenizer_sha256: str
    end_of_text_id: int | None
    n_ids: int
    n_logits: int | None


def _open_token_files(source: str, local_file: Path | None, model: _Model, cache_dir: Path) -> TokenCorpus | FlatTokens:
    n_entries = len(model.tokenizer)
    tokens = None if local_file is None else map_small_file(local_file, n_entries)
    if tokens is not None:
        check_token_ids(tokens, model.n_ids, source, f"write it with this tokenizer, as {tokens.dtype.name}")
        return _scanned(source, tokens, np.zeros(1, dtype=np.int64), model)
    return open_places(
        CORPUS_ID,
        source,
        n_entries,
        end_of_text_id=model.end_of_text_id,
        tokenizer_hash=model.tokenizer_sha256,
        n_ids=model.n_ids,
        cache_dir=_remote_cache(cache_dir),
    )


def _open_text(source: str, location: Path, model: _Model, cache_dir: Path) -> TokenCorpus | SlotCorpus:
    large = _large_text(source, location, cache_dir)
    if large is not None:
        return open_texts(
            CORPUS_ID,
            large,
            TEXT_COLUMN,
            model.tokenizer,
            tokenizer_hash=model.tokenizer_sha256,
            end_of_text_id=model.end_of_text_id,
            n_ids=model.n_ids,
            cache_dir=cache_dir,
        )
    tokens, starts = tokenise(
        location, model.tokenizer, model.tokenizer_sha256, end_of_text_id=model.end_of_text_id, cache_dir=cache_dir
    )
    if model.n_logits is not None:
        check_token_ids(tokens, model.n_logits, source, "use the model's own tokenizer")
    return _scanned(source, tokens, starts, model)


def _scanned(source: str, tokens: TokenArray, source_starts: IntArray, model: _Model) -> TokenCorpus:
    """The corpus of tokens that are all there, a document more after each end of text."""
    starts: IntArray = find_document_starts(tokens, source_starts, model.end_of_text_id)
    return TokenCorpus(CORPUS_ID, source, tokens, starts, model.tokenizer_sha256, model.end_of_text_id)


def _remote_cache(cache_dir: Path) -> Path:
    return cache_dir / "remote"


def _large_text(source: str, location: Path, cache_dir: Path) -> ByteSource | None:
    """The bytes of text that is not tokenised as a whole; None where it is."""
    if is_remote(source):
        return open_bytes(source, _remote_cache(cache_dir))
    check_cache_apart(location, cache_dir)
    files = source_files(location)
    if text_bytes(files) <= TOKENISED_BYTES:
        return None
    return LocalBytes(source, [(file.name, file.path) for file in files])


def _known_ids(tokenizer: Tokenizer, end_of_text_id: int | None, n_logits: int | None) -> int:
    """How many ids a language model knows, checked."""
    n_known_ids = len(tokenizer) if n_logits is None else n_logits
    if n_known_ids < 1:
        raise UsageError(f"n_logits must be at least 1, given {n_known_ids}")
    if end_of_text_id is not None and not 0 <= end_of_text_id < n_known_ids:
        raise UsageError(f"end_of_text_id must be in [0, {n_known_ids}) or None, given {end_of_text_id}")
    return n_known_ids


def holds_token_ids(source: str, location: Path, is_folder: bool, cache_dir: Path) -> bool:
    """Whether a corpus of the user's is token files: by the suffix, or a folder of nothing else.

    Args:
        source: what the user pointed at.
        location: of it on this machine.
        is_folder: whether that is a folder.
        cache_dir: folder for what is read from afar: which files a folder on the Hub has.

    Raises:
        CorpusError: the Hub cannot be reached, or has no such folder.
    """
    if not is_remote(source):
        return are_token_files(location) if is_folder else location.suffix.lower() in TOKEN_SUFFIXES
    suffix = suffix_of(urlsplit(source).path)
    if suffix in (*TOKEN_SUFFIXES, *TEXT_SUFFIXES):
        return suffix in TOKEN_SUFFIXES
    files = open_bytes(source, _remote_cache(cache_dir)).files
    return any(suffix_of(file.name) in TOKEN_SUFFIXES for file in files)


def locate_source(source: str) -> tuple[Path, bool]:
    """Where a corpus of the user's is, and whether it is a folder.

    Raises:
        CorpusError: it does not exist, cannot be read, or is neither a file nor a folder.
        UsageError: the path is empty.
    """
    if not source:
        raise UsageError("the path of the corpus is empty; name a file or a folder")
    try:
        location = Path(source).expanduser()
        mode = location.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorpusError(f"{source} does not exist; name a file of text or tokens, a folder, or a URL") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{source} cannot be read: {reason}; check the path and its permissions") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise CorpusError(f"{source} is neither a file nor a folder; write the text to a file first")
    return location, stat.S_ISDIR(mode)


def check_cache_apart(location: Path, cache_dir: Path) -> None:
    """Refuses a cache among the documents, which the next run would read as one of them.

    Raises:
        UsageError: naming both.
    """
    try:
        below = cache_dir.resolve().relative_to(location.resolve())
    except ValueError:
        return
    if not any(is_skipped(part) for part in below.parts):
        raise UsageError(f"the cache folder {cache_dir} lies inside the corpus {location}; choose another")
