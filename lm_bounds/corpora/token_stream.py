"""Long token sequences, read in chunks so that a memory map stays on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from lm_bounds.errors import CorpusError

TokenArray: TypeAlias = np.ndarray[Any, np.dtype[np.uint16] | np.dtype[np.uint32]]
AnyArray: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any]]]
IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

CHUNK_TOKENS = 1 << 22


def token_chunks(tokens: AnyArray) -> Iterator[tuple[int, AnyArray]]:
    """Consecutive slices of at most ``CHUNK_TOKENS`` tokens with the index of their first token."""
    for start in range(0, tokens.size, CHUNK_TOKENS):
        yield start, tokens[start : start + CHUNK_TOKENS]


def find_document_starts(tokens: AnyArray, source_starts: IntArray, end_of_text_id: int | None) -> IntArray:
    """Where documents start: at the given starts and after every end-of-text token.

    Args:
        tokens: the ids. # shape: (n_tokens,)
        source_starts: index of the first token of each document of the source; repetitions and the index
            ``n_tokens`` stand for documents without tokens, which vanish.
        end_of_text_id: the id that ends a document; None where there is none.

    Returns:
        Strictly increasing int64 indices below ``n_tokens``. # shape: (n_documents,)

    >>> find_document_starts(np.array([5, 2, 6, 7, 2], np.uint32), np.array([0, 3, 3]), 2)
    array([0, 2, 3])
    """
    starts = [np.asarray(source_starts, dtype=np.int64)]
    if end_of_text_id is not None:
        starts += [np.flatnonzero(chunk == end_of_text_id) + first + 1 for first, chunk in token_chunks(tokens)]
    unique = np.unique(np.concatenate(starts))
    return unique[unique < tokens.size]


def check_token_ids(tokens: TokenArray, n_ids: int, source: str, advice: str) -> None:
    """Refuse a sequence with an id that is not in ``[0, n_ids)``.

    Raises:
        CorpusError: with the position and the id of the first such token.
    """
    for first, chunk in token_chunks(tokens):
        if int(chunk.max()) >= n_ids:
            position = int(np.argmax(chunk >= n_ids))
            raise CorpusError(
                f"{source}: token {first + position} has the id {int(chunk[position])}, "
                f"ids must be below {n_ids}; {advice}"
            )
