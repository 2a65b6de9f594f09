"""A corpus of token ids in files, of any size: what is read is what is drawn and what tells where its document ends."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lm_bounds.corpora.flat_tokens.documents import Documents
from lm_bounds.corpora.flat_tokens.stream import TokenSequence
from lm_bounds.corpora.protocol import CountedTokens, check_token_indices
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import stream_seed, uniform_indices

_HASHED_WHOLE = 1 << 22
_PROBES, _PROBE_TOKENS = 64, 1 << 12


@dataclass(frozen=True, eq=False)
class FlatTokens(CountedTokens):
    """One token sequence in files, never read as a whole.

    Args:
        corpus_id: its id in the registry.
        sequence: the ids.
        documents: that partition them.
        tokenizer_sha256: hash of the tokenizer of the language model, whose ids these are.
        end_of_text_id: the id that ends a document; None where there is none.
        n_ids: every id must be below it.
    """

    corpus_id: str
    sequence: TokenSequence
    documents: Documents
    tokenizer_sha256: str
    end_of_text_id: int | None
    n_ids: int

    @property
    def source(self) -> str:
        """Where the files are, at which commit."""
        return self.sequence.files.source.source

    @property
    def n_tokens(self) -> int:
        """``m``, the number of tokens."""
        return self.sequence.n_tokens

    @property
    def identified_by(self) -> Literal["whole", "probes"]:
        """Whether ``sha256`` covers all tokens and documents, or 64 stretches of them."""
        rule_alone = self.documents.starts is not None or "listed" not in self.documents.rule
        return "whole" if self.n_tokens <= _HASHED_WHOLE and rule_alone else "probes"

    @property
    def n_documents(self) -> int | None:
        """The number of documents, None where they are not listed."""
        return None if self.documents.starts is None else int(self.documents.starts.size)

    @property
    def document_starts(self) -> IntArray | None:
        """Index of each document's first token, None where they are not listed."""
        return self.documents.starts

    @cached_property
    def _sha256(self) -> str:
        n_tokens = self.n_tokens
        facts = {"n_tokens": n_tokens, "end_of_text_id": self.end_of_text_id, "documents": self.documents.rule}
        digest = hashlib.sha256(f"lm-bounds/flat-tokens/1 {json.dumps(facts, sort_keys=True)}\n".encode())
        start = np.sort(uniform_indices(_PROBES, n_tokens, stream_seed("corpus", "probes", n_tokens)))
        for bounds in self.documents.bounds(start):
            digest.update(bounds.astype("<i8").tobytes())
        if self.documents.starts is not None:
            digest.update(self.documents.starts.astype("<i8").tobytes())
        if n_tokens <= _HASHED_WHOLE:
            ids = self.sequence.read(0, n_tokens)
        else:
            rows = self.sequence.rows
            end = np.full_like(start, n_tokens) if rows is None else (start // rows.counted + 1) * rows.counted
            ids, _ = self.sequence.read_many(start, np.minimum(start + _PROBE_TOKENS, end))
        digest.update(ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def sha256(self) -> str:
        """Hash of the number of tokens, of the rule or list of documents, and of tokens.

        Up to 2^22 tokens are hashed all, and so are documents that are listed; of more, 64 stretches of up to 4,096, at
        places that follow from the number of tokens, and the bounds of the documents there: see ``identified_by``. A
        copy has the same hash, wherever it is. Another corpus has another hash, unless it is one of the same length
        that agrees in all of these stretches; the draws do not depend on the rest. That a file stays the same while it
        is read is checked apart from that, by its ETag, its commit, or its size and time of change.
        """
        return self._sha256

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """The documents that hold these tokens, as ``[start, stop)``; see ``TokenCorpus.document_bounds``."""
        index = check_token_indices(token_index, self.n_tokens)
        flat, inverse = np.unique(index.ravel(), return_inverse=True)
        start, stop = self.documents.bounds(flat)
        return start[inverse].reshape(index.shape), stop[inverse].reshape(index.shape)

    def read(self, start: int, stop: int) -> IntArray:
        """Tokens ``start .. stop - 1``, int64.

        Raises:
            CorpusError: an id is not below ``n_ids``.
            UsageError: there are no such tokens.
        """
        if not 0 <= start <= stop <= self.n_tokens:
            raise UsageError(f"tokens {start} to {stop - 1} were asked for, the corpus has {self.n_tokens}")
        ids: IntArray = self.sequence.read(start, stop).astype(np.int64)
        wrong = np.flatnonzero((ids < 0) | (ids >= self.n_ids))
        if wrong.size:
            token = start + int(wrong[0])
            raise CorpusError(
                f"{self.sequence.place_of(token)}: token {token} has the id {int(ids[wrong[0]])}, ids must be below "
                f"{self.n_ids}; write it with this tokenizer, as {self.sequence.files.dtype.name}"
            )
        return ids
