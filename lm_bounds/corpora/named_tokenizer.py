"""Tokenizers that are loaded by name: one that a user names, and the one that a corpus is stored in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lm_bounds.corpora.spec import StoredTokens
from lm_bounds.corpora.tokenizer_hash import vocabulary_sha256
from lm_bounds.errors import CorpusError

_TOKENIZER_FILE = "tokenizer.json"


def named_tokenizer(name: str) -> Any:
    """The tokenizer of a directory or a Hub id, loaded by transformers.

    Raises:
        CorpusError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every attempt
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # of whatever kind, transformers could not load it
        raise CorpusError(f"no tokenizer could be loaded from {name!r}: {_first_line(error)}") from error


def stored_tokenizer(stored: StoredTokens, folder: Path | None) -> Any:
    """The tokenizer that token ids are stored in, checked against the hash of its vocabulary.

    Args:
        stored: which one it is.
        folder: of a copy of the files; its ``tokenizer.json`` is taken where there is one, before the Hub's.

    Raises:
        CorpusError: it cannot be loaded, or is another one.
    """
    beside = None if folder is None else folder / _TOKENIZER_FILE
    file = beside if beside is not None and beside.is_file() else None
    cure = f"put {_TOKENIZER_FILE} of {stored.tokenizer} beside the files and pass their folder as corpus_path"
    try:
        found = named_tokenizer(stored.tokenizer) if file is None else _of_file(file)
    except CorpusError as error:
        raise CorpusError(f"{error}; {cure}{_offline()}") from error
    if not is_stored_in(found, stored):
        raise CorpusError(f"the tokenizer of {file or stored.tokenizer} has other entries than {stored.name}; {cure}")
    return found


def is_stored_in(tokenizer: Any, stored: StoredTokens) -> bool:
    """Whether ids that are stored mean the same to a tokenizer."""
    return vocabulary_sha256(tokenizer, stored.entries) == stored.vocabulary_sha256


def _of_file(file: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # of whatever kind, tokenizers could not read it
        raise CorpusError(f"no tokenizer could be loaded from {str(file)!r}: {_first_line(error)}") from error


def _offline() -> str:
    """What else may help where the Hub must not be asked."""
    from huggingface_hub import constants

    return ", or unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].removesuffix(".")
