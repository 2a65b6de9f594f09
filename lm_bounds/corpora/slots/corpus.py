"""A corpus whose tokens nobody has counted: what is read is what is drawn."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from lm_bounds.bounds import TokenCount, counted_slots
from lm_bounds.corpora.protocol import UnlistedDocuments
from lm_bounds.corpora.slots.counting import Counted, Counting, counted
from lm_bounds.corpora.slots.protocol import Cell, CellReader, Cells, CellTokens
from lm_bounds.corpora.slots.token_cells import TokenCells
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import NO_TOKEN, VOID

# The number of tokens that is shown where no failure probability is known.
SHOWN_FAILURE_PROB = 1e-3


@dataclass(eq=False)
class SlotCorpus(UnlistedDocuments):
    """One token sequence, found by its slots; its number of tokens is a lower confidence bound.

    Args:
        corpus_id: its id in the registry.
        cells: where the tokens are.
        reader: what they are.
        tokenizer_sha256: hash of the tokenizer of the language model, whose ids these are.
        end_of_text_id: the id that ends a document; None where there is none.
        n_ids: every id must be below it.
        cache_dir: folder in which the count is kept.
        n_counted: slots that are drawn to count; None for as many as certificates are made with.
        declared: tokens that it is said to have if no row is malformed; None where nothing is said.
    """

    corpus_id: str
    cells: Cells
    reader: CellReader
    tokenizer_sha256: str
    end_of_text_id: int | None
    n_ids: int
    cache_dir: Path
    n_counted: int | None = None
    declared: int | None = None

    @cached_property
    def _read(self) -> TokenCells:
        return TokenCells(self.cells, self.reader, self.end_of_text_id, self.n_ids)

    @property
    def reencoded_from(self) -> str | None:
        """Hash of the tokenizer that it is stored in; None where these are its tokens, or it is text."""
        return self.reader.reencoded_from

    @property
    def source(self) -> str:
        """Where the files are, at which commit."""
        return self.cells.source

    @property
    def slots(self) -> SlotCorpus:
        """What draws are uniform on: see ``sampling.Slots``."""
        return self

    @property
    def number(self) -> int:
        """How many slots there are."""
        return self.cells.number

    @property
    def share(self) -> float:
        """Which share of the slots are tokens', as found when they were counted."""
        return self.count.mean_share

    @property
    def n_tokens(self) -> int:
        """Tokens that there are at least, but for a probability of 1/1000; ``count`` has them for any probability."""
        return self.count.at_least(SHOWN_FAILURE_PROB)

    @property
    def n_tokens_kind(self) -> Literal["lower_bound"]:
        """How ``n_tokens`` is known."""
        return "lower_bound"

    @property
    def identified_by(self) -> Literal["probes"]:
        """``sha256`` covers the sizes of the files and the cells that were drawn to count."""
        return "probes"

    @cached_property
    def _counted(self) -> Counted:
        tokens = [self.tokenizer_sha256, self.end_of_text_id]
        counting = Counting(self.cells, self.reader, self._n_drawn, self.declared, tokens)
        found = counted(counting, self._read.of, self.cache_dir)
        count = found.count
        if not count.at_least(SHOWN_FAILURE_PROB):
            wrong = "" if self._read.first_wrong is None else f", such as {self._read.first_wrong}"
            raise CorpusError(
                f"{self.source}: hardly any token was found at {count.drawn} uniform places ({count.void} of them in "
                f"malformed rows{wrong}); check that these are files of corpus {self.corpus_id!r}"
            )
        return found

    @property
    def _n_drawn(self) -> int:
        return counted_slots(self.reader.row_tokens is not None) if self.n_counted is None else self.n_counted

    @property
    def count(self) -> TokenCount:
        """What the number of tokens follows from."""
        return self._counted.count

    @cached_property
    def _sha256(self) -> str:
        facts = [self.cells.rule, self.reader.rule, self.end_of_text_id, self._n_drawn, self._counted.sha256]
        return hashlib.sha256(json.dumps(["lm-bounds/slots/2", *facts], sort_keys=True).encode()).hexdigest()

    def sha256(self) -> str:
        """Hash of the sizes of the files, of the rules, and of the cells that were drawn to count."""
        return self._sha256

    def tokens_at(self, slot: IntArray) -> IntArray:
        """The token of each slot, ``NO_TOKEN`` or ``VOID``.

        Args:
            slot: in ``[0, number)``, in any order. # shape: (n,)

        Returns:
            int64. # shape: (n,)

        Raises:
            CorpusError: the files cannot be read.
        """
        found = np.empty(len(slot), dtype=np.int64)
        order = np.argsort(slot, kind="stable")
        for place, (cell, tokens) in zip(order.tolist(), self._read.of(slot[order]), strict=True):
            found[place] = _token_of(int(slot[place]) - cell.base, cell, tokens, self.reader.per_token)
            if found[place] >= 0:
                self._read.keep(cell)
        return found

    def read_cells(self, slot: IntArray) -> list[tuple[Cell, CellTokens]]:
        """The cell of each slot, without its content, and its tokens.

        Args:
            slot: in increasing order. # shape: (n,)

        Raises:
            CorpusError: the files cannot be read.
        """
        return list(self._read.of(slot))

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """The documents that hold these tokens, as ``[start, stop)``; see ``TokenCorpus.document_bounds``.

        Raises:
            UsageError: there is no such token.
        """
        flat, inverse = np.unique(np.asarray(token_index).ravel(), return_inverse=True)
        bounds = np.empty((2, flat.size), dtype=np.int64)
        for place, (cell, tokens) in enumerate(self._read.of(flat)):
            within = int(flat[place]) - cell.base
            if within >= tokens.ids.size:
                raise UsageError(f"corpus {self.corpus_id!r} has no token {int(flat[place])}")
            number = int(np.searchsorted(tokens.starts, within, side="right"))
            stops = np.append(tokens.starts[1:], tokens.ids.size)
            bounds[:, place] = cell.base + tokens.starts[number - 1], cell.base + stops[number - 1]
        start, stop = bounds[:, inverse.ravel()].reshape(2, *np.shape(token_index))
        return start, stop

    def read(self, start: int, stop: int) -> IntArray:
        """Tokens ``start .. stop - 1`` of one document, int64.

        Raises:
            UsageError: there are no such tokens.
        """
        if start == stop:
            return np.empty(0, dtype=np.int64)
        [(cell, tokens)] = self._read.of(np.array([start], dtype=np.int64))
        if not 0 <= start < stop <= cell.base + tokens.ids.size:
            raise UsageError(f"corpus {self.corpus_id!r} has no tokens {start} to {stop - 1}")
        return tokens.ids[start - cell.base : stop - cell.base]


def _token_of(within: int, cell: Cell, tokens: CellTokens, per_token: int) -> int:
    """The token of a slot of a cell."""
    if within < per_token * tokens.ids.size:
        return cell.base + within % tokens.ids.size
    return NO_TOKEN if tokens.void is None else VOID
