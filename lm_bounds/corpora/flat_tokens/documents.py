"""Where the document of a token begins and ends: found around the token, or looked up in a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lm_bounds.corpora.flat_tokens.stream import TokenSequence
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError

_FIRST_TOKENS, _GROWTH, _MOST_TOKENS = 1 << 12, 4, 1 << 20
_BATCH_TOKENS = 1 << 22


class Documents(Protocol):
    """Documents that partition a token sequence."""

    @property
    def rule(self) -> dict[str, Any]:
        """What decides where they begin, JSON types only."""
        ...

    @property
    def starts(self) -> IntArray | None:
        """Index of each one's first token; None where they are not listed."""
        ...

    def bounds(self, index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens. # shapes: (n,)"""
        ...


@dataclass(frozen=True)
class FoundDocuments:
    """A document begins after each end-of-text token and at each multiple of a fixed number of tokens.

    So the document of a token begins at the later of the two before it, and ends at the earlier of the two behind it.

    Args:
        sequence: of the tokens.
        end_of_text_id: the id that ends a document; None where none does.
        most_tokens: of a document, >= 1; None for any number.
    """

    sequence: TokenSequence
    end_of_text_id: int | None
    most_tokens: int | None

    @property
    def rule(self) -> dict[str, Any]:
        """What decides where they begin."""
        return {"end_of_text_id": self.end_of_text_id, "most_tokens": self.most_tokens}

    @property
    def starts(self) -> None:
        """They are not listed: that would take all tokens."""
        return None

    def bounds(self, index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens.

        Tokens are read away from each index in stretches that grow, those of many indices together, until an
        end-of-text token or the limit is met.
        """
        n_tokens, most = self.sequence.n_tokens, self.most_tokens
        lowest = np.zeros_like(index) if most is None else index // most * most
        highest = np.full_like(index, n_tokens) if most is None else np.minimum(lowest + most, n_tokens)
        if self.end_of_text_id is None:
            return lowest, highest
        return self._searched_back(index, lowest), self._searched_on(index, highest)

    def _searched_back(self, index: IntArray, lowest: IntArray) -> IntArray:
        """After the last end-of-text token in ``[lowest, index)``, else ``lowest``."""
        found, edge, size = lowest.copy(), index.copy(), _FIRST_TOKENS
        pending = np.flatnonzero(edge > lowest)
        while pending.size:
            begin = np.maximum(lowest[pending], edge[pending] - size)
            hits = np.full(pending.size, -1, dtype=np.int64)
            for part in _batches(edge[pending] - begin):
                at, offsets = self._ends(begin[part], edge[pending[part]])
                last = np.searchsorted(at, offsets[1:]) - 1  # the last hit before the end of the stretch
                inside = last >= np.searchsorted(at, offsets[:-1])
                hits[part][inside] = at[last[inside]] - offsets[:-1][inside]
            hit = hits >= 0
            found[pending[hit]] = begin[hit] + hits[hit] + 1
            edge[pending] = begin
            pending = pending[~hit & (begin > lowest[pending])]
            size = min(size * _GROWTH, _MOST_TOKENS)
        return found

    def _searched_on(self, index: IntArray, highest: IntArray) -> IntArray:
        """After the first end-of-text token in ``[index, highest)``, else ``highest``."""
        found, edge, size = highest.copy(), index.copy(), _FIRST_TOKENS
        pending = np.flatnonzero(edge < highest)
        while pending.size:
            end = np.minimum(highest[pending], edge[pending] + size)
            hits = np.full(pending.size, -1, dtype=np.int64)
            for part in _batches(end - edge[pending]):
                at, offsets = self._ends(edge[pending[part]], end[part])
                first = np.searchsorted(at, offsets[:-1])
                inside = first < np.searchsorted(at, offsets[1:])
                hits[part][inside] = at[first[inside]] - offsets[:-1][inside]
            hit = hits >= 0
            found[pending[hit]] = edge[pending[hit]] + hits[hit] + 1
            edge[pending] = end
            pending = pending[~hit & (end < highest[pending])]
            size = min(size * _GROWTH, _MOST_TOKENS)
        return found

    def _ends(self, start: IntArray, stop: IntArray) -> tuple[IntArray, IntArray]:
        """Where end-of-text tokens are among the joined tokens of some stretches, and where each stretch begins."""
        ids, offsets = self.sequence.read_many(start, stop)
        return np.flatnonzero(ids == self.end_of_text_id), offsets


def _batches(lengths: IntArray) -> Iterator[slice]:
    """Consecutive stretches of at most ``_BATCH_TOKENS`` tokens together, or a single longer one."""
    ends, first = np.cumsum(lengths), 0
    while first < lengths.size:
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + _BATCH_TOKENS, side="right")), first + 1)
        yield slice(first, last)
        first = last


@dataclass(frozen=True, eq=False)
class ListedDocuments:
    """Documents whose starts are known.

    Args:
        document_starts: index of each one's first token, strictly increasing from 0. # shape: (n_documents,)
        n_tokens: of the sequence.
    """

    document_starts: IntArray
    n_tokens: int

    def __post_init__(self) -> None:
        starts = self.document_starts
        if not starts.size or starts[0] != 0 or starts[-1] >= self.n_tokens or (np.diff(starts) <= 0).any():
            raise CorpusError(f"document starts must increase strictly from 0 and stay below {self.n_tokens}")

    @property
    def rule(self) -> dict[str, Any]:
        """What decides where they begin."""
        return {"listed": True}

    @property
    def starts(self) -> IntArray:
        """Index of each one's first token."""
        return self.document_starts

    def bounds(self, index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens."""
        following = np.searchsorted(self.document_starts, index, side="right")
        stops = np.append(self.document_starts[1:], self.n_tokens)
        return self.document_starts[following - 1], stops[following - 1]
