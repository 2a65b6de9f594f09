"""What a corpus is: one token sequence, cut into documents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from lm_bounds.bounds import TokenCount
from lm_bounds.corpora.token_stream import IntArray, TokenArray, token_chunks
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import Slots


class Tokenizer(Protocol):
    """What a corpus needs of a tokenizer; those of ``transformers`` have it.

    ``tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]`` is one list of ids per text.
    """

    def __len__(self) -> int: ...

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Any: ...


class Corpus(Protocol):
    """One token sequence ``x_1 .. x_m`` whose documents partition it, wherever its tokens are."""

    @property
    def corpus_id(self) -> str:
        """Its id in the registry."""
        ...

    @property
    def source(self) -> str:
        """What the user pointed at, or what it is made from."""
        ...

    @property
    def n_tokens(self) -> int:
        """``m``, the number of tokens."""
        ...

    @property
    def n_tokens_kind(self) -> str:
        """How ``n_tokens`` is known: ``exact``, ``declared`` or ``lower_bound``."""
        ...

    @property
    def slots(self) -> Slots | None:
        """What draws are uniform on; None where every token is counted, so that it is the tokens themselves."""
        ...

    @property
    def count(self) -> TokenCount | None:
        """What ``n_tokens`` follows from; None where every token is counted."""
        ...

    @property
    def reencoded_from(self) -> str | None:
        """Hash of the tokenizer that it is stored in; None where its tokens are what is stored, or it is text."""
        ...

    @property
    def identified_by(self) -> str:
        """What ``sha256`` covers: the ``whole``, or ``probes``, stretches at fixed places of a longer corpus."""
        ...

    @property
    def n_documents(self) -> int | None:
        """The number of documents, None where they were not counted."""
        ...

    @property
    def document_starts(self) -> IntArray | None:
        """Index of each document's first token, None where the documents are not listed."""
        ...

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of the tokenizer whose ids these are."""
        ...

    @property
    def end_of_text_id(self) -> int | None:
        """The id that ends a document; None where there is none."""
        ...

    def sha256(self) -> str:
        """Hash of what the tokens and documents are."""
        ...

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens."""
        ...

    def read(self, start: int, stop: int) -> IntArray:
        """Tokens ``start .. stop - 1``, int64."""
        ...


def check_token_indices(token_index: IntArray, n_tokens: int) -> IntArray:
    """The indices as int64.

    Raises:
        UsageError: an index is not an integer or not in ``[0, n_tokens)``.
    """
    index = np.asarray(token_index)
    if index.dtype.kind not in "iu":
        raise UsageError(f"token indices must be integers, given {index.dtype}")
    if index.size and (index.min() < 0 or index.max() >= n_tokens):
        raise UsageError(f"token indices must be in [0, {n_tokens}), given {index.min()} to {index.max()}")
    return index.astype(np.int64)


class CountedTokens:
    """What corpora have in common of which every token is counted."""

    @property
    def n_tokens_kind(self) -> Literal["exact"]:
        """How ``n_tokens`` is known."""
        return "exact"

    @property
    def slots(self) -> None:
        """Draws are uniform on the tokens themselves."""
        return None

    @property
    def count(self) -> None:
        """Nothing was estimated."""
        return None

    @property
    def reencoded_from(self) -> None:
        """They are not those of another tokenizer."""
        return None


class UnlistedDocuments:
    """What corpora have in common whose documents are found where a token is drawn."""

    @property
    def n_documents(self) -> None:
        """They are not counted."""
        return None

    @property
    def document_starts(self) -> None:
        """They are not listed."""
        return None


@dataclass(frozen=True, eq=False)
class TokenCorpus(CountedTokens):
    """One token sequence ``x_1 .. x_m`` whose documents partition it.

    Args:
        corpus_id: its id in the registry.
        source: what the user pointed at.
        tokens: the ids, uint16 or uint32, may be a memory map. # shape: (n_tokens,)
        document_starts: index of each document's first token, int64, strictly increasing from 0.
            # shape: (n_documents,)
        tokenizer_sha256: hash of the tokenizer whose ids these are.
        end_of_text_id: the id that ends a document; None where there is none.

    Raises:
        CorpusError: there is no token, or the starts do not partition the tokens.

    >>> corpus = TokenCorpus("local", "-", np.array([7, 8, 2, 9], np.uint32), np.array([0, 3]), "0" * 64, 2)
    >>> corpus.n_tokens, corpus.n_documents
    (4, 2)
    """

    corpus_id: str
    source: str
    tokens: TokenArray
    document_starts: IntArray
    tokenizer_sha256: str
    end_of_text_id: int | None

    def __post_init__(self) -> None:
        tokens, starts = self.tokens, self.document_starts
        if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32) or not tokens.size:
            raise CorpusError(
                f"{self.source}: tokens must be a non-empty one-dimensional array of uint16 or uint32, "
                f"given {tokens.dtype} of shape {tokens.shape}"
            )
        if starts.ndim != 1 or starts.dtype != np.int64 or not starts.size:
            raise CorpusError(
                f"{self.source}: document starts must be a non-empty one-dimensional array of int64, "
                f"given {starts.dtype} of shape {starts.shape}"
            )
        if starts[0] != 0 or starts[-1] >= tokens.size or (starts[1:] <= starts[:-1]).any():
            raise CorpusError(
                f"{self.source}: document starts must increase strictly from 0 and stay below the number "
                f"of tokens, {tokens.size}"
            )

    @property
    def n_tokens(self) -> int:
        """``m``, the number of tokens."""
        return int(self.tokens.size)

    @property
    def identified_by(self) -> Literal["whole"]:
        """``sha256`` covers all tokens and documents."""
        return "whole"

    @property
    def n_documents(self) -> int:
        """The number of documents, each of at least one token."""
        return int(self.document_starts.size)

    def sha256(self) -> str:
        """Hash of the token ids and the document starts, whatever integer type holds the ids."""
        digest = hashlib.sha256(f"lm-bounds/tokens/1 {self.n_tokens} {self.n_documents}\n".encode())
        for _, chunk in token_chunks(self.tokens):
            digest.update(chunk.astype("<u4").data)
        digest.update(self.document_starts.astype("<i8").data)
        return digest.hexdigest()

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """The documents that hold these tokens, as ``[start, stop)``.

        Args:
            token_index: integers in ``[0, n_tokens)``, any shape.

        Returns:
            ``(start, stop)``, int64, of the shape of ``token_index``: ``start <= token_index < stop``.

        Raises:
            UsageError: an index is not an integer or not in the range.

        >>> tokens, starts = np.array([7, 8, 2, 9], np.uint32), np.array([0, 3])
        >>> corpus = TokenCorpus("local", "-", tokens, starts, "0" * 64, 2)
        >>> corpus.document_bounds(np.array([3, 0]))
        (array([3, 0]), array([4, 3]))
        """
        index = check_token_indices(token_index, self.n_tokens)
        following = np.searchsorted(self.document_starts, index, side="right")
        last = following == self.n_documents
        stop = np.where(last, self.n_tokens, self.document_starts[np.where(last, 0, following)])
        return self.document_starts[following - 1], stop

    def read(self, start: int, stop: int) -> IntArray:
        """Tokens ``start .. stop - 1``, int64; nothing else of a memory map is read."""
        return np.asarray(self.tokens[start:stop], dtype=np.int64)
