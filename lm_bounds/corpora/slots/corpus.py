"""A corpus whose tokens nobody has counted: what is read is what is drawn."""

from __future__ import annotations

import bisect
import hashlib
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from lm_bounds.bounds import TokenCount
from lm_bounds.corpora.slots.counting import Counted, Counting, counted
from lm_bounds.corpora.slots.protocol import Cell, CellReader, Cells, CellTokens, malformed
from lm_bounds.corpora.token_stream import IntArray, find_document_starts
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import NO_TOKEN, VOID

_LOG = logging.getLogger("lm_bounds")
_BATCH_SLOTS = 512
_KEPT_TOKENS = 1 << 24
# The number of tokens that is shown where no failure probability is known.
SHOWN_FAILURE_PROB = 1e-3


@dataclass(eq=False)
class SlotCorpus:
    """One token sequence, found by its slots; its number of tokens is a lower confidence bound.

    Args:
        corpus_id: its id in the registry.
        cells: where the tokens are.
        reader: what they are.
        tokenizer_sha256: hash of the tokenizer of the language model, whose ids these are.
        end_of_text_id: the id that ends a document; None where there is none.
        n_ids: every id must be below it.
        cache_dir: folder in which the count is kept.
        n_counted: slots that are drawn to count.
        declared: tokens that it is said to have if no row is malformed; None where nothing is said.
    """

    corpus_id: str
    cells: Cells
    reader: CellReader
    tokenizer_sha256: str
    end_of_text_id: int | None
    n_ids: int
    cache_dir: Path
    n_counted: int
    declared: int | None = None
    _known: _KnownCells = field(init=False, repr=False)
    _reported: set[int] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        self._known = _KnownCells()

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

    @property
    def n_documents(self) -> None:
        """They are not counted."""
        return None

    @property
    def document_starts(self) -> None:
        """They are not listed."""
        return None

    @cached_property
    def _counted(self) -> Counted:
        tokens = [self.tokenizer_sha256, self.end_of_text_id]
        counting = Counting(self.cells, self.reader, self.n_counted, self.declared, tokens)
        found = counted(counting, self.read_cells, self.cache_dir)
        count = found.count
        if not count.at_least(SHOWN_FAILURE_PROB):
            raise CorpusError(
                f"{self.source}: hardly any token was found at {count.drawn} uniform places ({count.void} of them in "
                f"malformed rows); check that these are files of corpus {self.corpus_id!r}"
            )
        return found

    @property
    def count(self) -> TokenCount:
        """What the number of tokens follows from."""
        return self._counted.count

    @cached_property
    def _sha256(self) -> str:
        facts = [self.cells.rule, self.reader.rule, self.end_of_text_id, self.n_counted, self._counted.sha256]
        return hashlib.sha256(json.dumps(["lm-bounds/slots/1", *facts], sort_keys=True).encode()).hexdigest()

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
        for first in range(0, len(order), _BATCH_SLOTS):
            part = order[first : first + _BATCH_SLOTS]
            for place, (cell, tokens) in zip(part, self.read_cells(slot[part]), strict=True):
                found[place] = _token_of(int(slot[place]) - cell.base, cell, tokens, self.reader.per_token)
        return found

    def read_cells(self, slot: IntArray) -> list[tuple[Cell, CellTokens]]:
        """The cell of each slot, without its content, and its tokens; each malformed one is reported once.

        Args:
            slot: in increasing order. # shape: (n,)

        Raises:
            CorpusError: the files cannot be read, or an id is not below ``n_ids``.
        """
        known = [self._known.at(each) for each in slot.tolist()]
        missing = np.flatnonzero([each is None for each in known])
        cells = self.cells.at(slot[missing]) if missing.size else []
        distinct = {cell.base: cell for cell in cells}
        read = dict(zip(distinct, self._tokens(list(distinct.values())), strict=True))
        fresh = iter([(cell._replace(content=None), read[cell.base]) for cell in cells])
        found = [next(fresh) if each is None else each for each in known]
        for base, tokens in read.items():
            self._known.add(distinct[base]._replace(content=None), tokens)
        return found

    def _tokens(self, cells: list[Cell]) -> list[CellTokens]:
        found = []
        for cell, tokens in zip(cells, self.reader.read(cells) if cells else [], strict=True):
            wrong = np.flatnonzero((tokens.ids < 0) | (tokens.ids >= self.n_ids))
            if wrong.size:
                raise CorpusError(
                    f"{cell.where}: the id {int(tokens.ids[wrong[0]])}, ids must be below {self.n_ids}; use the "
                    "model's own tokenizer"
                )
            n = tokens.ids.size
            if self.reader.per_token * n > cell.n_slots:
                tokens = malformed(f"{n} tokens are more than there can be in {cell.n_slots} bytes", cell.n_slots)
            if tokens.void is not None:
                self._report(cell, tokens.void)
            starts = find_document_starts(tokens.ids, tokens.starts, self.end_of_text_id)
            found.append(CellTokens(tokens.ids, starts, tokens.void, min(tokens.n_void, cell.n_slots)))
        return found

    def _report(self, cell: Cell, reason: str) -> None:
        if cell.base not in self._reported:
            self._reported.add(cell.base)
            _LOG.warning(
                "%s: %s: left out, and the number of tokens is lowered for what is like it", cell.where, reason
            )

    def document_bounds(self, token_index: IntArray) -> tuple[IntArray, IntArray]:
        """The documents that hold these tokens, as ``[start, stop)``; see ``TokenCorpus.document_bounds``.

        Raises:
            UsageError: there is no such token.
        """
        flat, inverse = np.unique(np.asarray(token_index).ravel(), return_inverse=True)
        bounds = np.empty((2, flat.size), dtype=np.int64)
        for first in range(0, flat.size, _BATCH_SLOTS):
            part = flat[first : first + _BATCH_SLOTS]
            for place, (cell, tokens) in enumerate(self.read_cells(part), start=first):
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
        [(cell, tokens)] = self.read_cells(np.array([start], dtype=np.int64))
        if not 0 <= start < stop <= cell.base + tokens.ids.size:
            raise UsageError(f"corpus {self.corpus_id!r} has no tokens {start} to {stop - 1}")
        return tokens.ids[start - cell.base : stop - cell.base]


def _token_of(within: int, cell: Cell, tokens: CellTokens, per_token: int) -> int:
    """The token of a slot of a cell."""
    if within < per_token * tokens.ids.size:
        return cell.base + within % tokens.ids.size
    return VOID if within < tokens.n_void else NO_TOKEN


class _KnownCells:
    """Cells that were read last, by their slots."""

    def __init__(self) -> None:
        self._cells: OrderedDict[int, tuple[Cell, CellTokens]] = OrderedDict()
        self._bases: list[int] = []
        self._n_kept = 0

    def at(self, slot: int) -> tuple[Cell, CellTokens] | None:
        """The cell of a slot; None where it is not known."""
        place = bisect.bisect_right(self._bases, slot) - 1
        if place < 0:
            return None
        found = self._cells[self._bases[place]]
        return found if slot < found[0].base + found[0].n_slots else None

    def add(self, cell: Cell, tokens: CellTokens) -> None:
        """Keeps a cell, and forgets those that were added first if they are too many."""
        if cell.base in self._cells:
            return
        self._cells[cell.base] = (cell, tokens)
        bisect.insort(self._bases, cell.base)
        self._n_kept += _size(tokens)
        while self._n_kept > _KEPT_TOKENS and len(self._cells) > 1:
            base, (_, forgotten) = self._cells.popitem(last=False)
            self._bases.pop(bisect.bisect_left(self._bases, base))
            self._n_kept -= _size(forgotten)


def _size(tokens: CellTokens) -> int:
    return tokens.ids.size + 64  # a cell without tokens takes memory too
