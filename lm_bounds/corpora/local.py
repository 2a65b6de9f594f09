"""The corpus of the user's own: a text file, a folder, a .jsonl file or flat token ids, here or behind a URL."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from lm_bounds.corpora.byte_source import is_remote
from lm_bounds.corpora.flat_tokens import FlatTokens, are_token_files, map_small_file, open_places
from lm_bounds.corpora.flat_tokens.layout import TOKEN_SUFFIXES
from lm_bounds.corpora.protocol import TokenCorpus, Tokenizer
from lm_bounds.corpora.text_documents import is_skipped
from lm_bounds.corpora.token_stream import IntArray, TokenArray, check_token_ids, find_document_starts
from lm_bounds.corpora.tokenised import tokenise
from lm_bounds.corpora.tokenizer_hash import tokenizer_sha256
from lm_bounds.errors import CorpusError, UsageError

CORPUS_ID = "local"


def open_local(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    end_of_text_id: int | None,
    n_logits: int | None,
    cache_dir: Path,
) -> TokenCorpus | FlatTokens:
    """Open a text file, a folder of text files, a .jsonl file or token files as one token sequence.

    Text is UTF-8 and is tokenised without added special tokens; each document that has tokens is followed by
    one end-of-text token. A .bin file holds flat little-endian ids, uint16 where ``len(tokenizer) <= 65536``
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
    source = os.fspath(path)
    location, is_folder = (Path(source), False) if is_remote(source) else locate_source(source)
    n_known_ids = _known_ids(tokenizer, end_of_text_id, n_logits)
    tokenizer_hash = tokenizer_sha256(tokenizer)
    tokens: TokenArray
    if holds_token_ids(source, location, is_folder):
        mapped = None if is_folder or is_remote(source) else map_small_file(location, len(tokenizer))
        if mapped is None:
            return open_places(
                CORPUS_ID,
                source,
                len(tokenizer),
                end_of_text_id=end_of_text_id,
                tokenizer_hash=tokenizer_hash,
                n_ids=n_known_ids,
                cache_dir=Path(cache_dir) / "remote",
            )
        tokens, source_starts = mapped, np.zeros(1, dtype=np.int64)
        check_token_ids(tokens, n_known_ids, source, f"write it with this tokenizer, as {tokens.dtype.name}")
    else:
        check_cache_apart(location, Path(cache_dir))
        tokens, source_starts = tokenise(
            location, tokenizer, tokenizer_hash, end_of_text_id=end_of_text_id, cache_dir=Path(cache_dir)
        )
        if n_logits is not None:
            check_token_ids(tokens, n_logits, source, "use the model's own tokenizer")
    starts: IntArray = find_document_starts(tokens, source_starts, end_of_text_id)
    return TokenCorpus(CORPUS_ID, source, tokens, starts, tokenizer_hash, end_of_text_id)


def _known_ids(tokenizer: Tokenizer, end_of_text_id: int | None, n_logits: int | None) -> int:
    """How many ids a language model knows, checked."""
    n_known_ids = len(tokenizer) if n_logits is None else n_logits
    if n_known_ids < 1:
        raise UsageError(f"n_logits must be at least 1, given {n_known_ids}")
    if end_of_text_id is not None and not 0 <= end_of_text_id < n_known_ids:
        raise UsageError(f"end_of_text_id must be in [0, {n_known_ids}) or None, given {end_of_text_id}")
    return n_known_ids


def holds_token_ids(source: str, location: Path, is_folder: bool) -> bool:
    """Whether a corpus of the user's is token files: by the suffix, or a folder of nothing else; URLs always are."""
    if is_remote(source):
        return True
    return are_token_files(location) if is_folder else location.suffix.lower() in TOKEN_SUFFIXES


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
        raise CorpusError(f"{source} does not exist; name a text, .jsonl or .bin file, a folder, or a URL") from error
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
