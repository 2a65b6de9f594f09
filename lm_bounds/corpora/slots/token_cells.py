"""The tokens of cells, read in groups that fit into memory; those that may be asked for again are kept."""

from __future__ import annotations

import bisect
import logging
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from lm_bounds.corpora.slots.protocol import Cell, CellReader, Cells, CellTokens, malformed
from lm_bounds.corpora.token_stream import IntArray, find_document_starts
from lm_bounds.errors import CorpusError

_LOG = logging.getLogger("lm_bounds")
# Cells are read together up to so many slots and bytes, about: the next ones are taken to be as long as the last ones.
_FIRST_GROUP, _LARGEST_GROUP = 8, 512
_GROUP_BYTES = 1 << 26
_KEPT_TOKENS = 1 << 24
# So many malformed rows are reported one by one, and later on those with these numbers.
_REPORTED = 20
_MILESTONES = frozenset(10**power for power in range(2, 19))


class TokenCells:
    """The cells of a corpus with their tokens.

    Args:
        cells: where the tokens are.
        reader: what they are.
        end_of_text_id: the id that ends a document; None where there is none.
        n_ids: every id must be below it.
    """

    def __init__(self, cells: Cells, reader: CellReader, end_of_text_id: int | None, n_ids: int) -> None:
        self._cells, self._reader = cells, reader
        self._end_of_text_id, self._n_ids = end_of_text_id, n_ids
        self._known = _KnownCells()
        self._group = _FIRST_GROUP
        self._reported: set[int] = set()
        self.first_wrong: str | None = None  # the first malformed row that was met, and what is wrong with it

    def of(self, slot: IntArray) -> Iterator[tuple[Cell, CellTokens]]:
        """The cell of each slot, without its content, and its tokens; each malformed one is reported once.

        Args:
            slot: in increasing order. # shape: (n,)

        Raises:
            CorpusError: the files cannot be read, or an id is not below ``n_ids``.
        """
        first = 0
        while first < len(slot):
            part = slot[first : first + self._group]
            first += len(part)
            yield from self._read_together(part)

    def keep(self, cell: Cell) -> None:
        """Has a cell forgotten after those of which nothing was drawn."""
        self._known.keep(cell.base)

    def _read_together(self, slot: IntArray) -> list[tuple[Cell, CellTokens]]:
        known = [self._known.at(each) for each in slot.tolist()]
        missing = np.flatnonzero([each is None for each in known])
        cells = self._cells.at(slot[missing]) if missing.size else []
        distinct = {cell.base: cell for cell in cells}
        if distinct:
            mean = sum(cell.n_slots for cell in distinct.values()) / len(distinct)
            self._group = max(1, min(_LARGEST_GROUP, int(_GROUP_BYTES / mean)))
        tokens = self._tokens(list(distinct.values()))
        read = {
            base: (cell._replace(content=None), each)
            for (base, cell), each in zip(distinct.items(), tokens, strict=True)
        }
        for pair in read.values():
            self._known.add(*pair)
        fresh = (read[cell.base] for cell in cells)
        return [next(fresh) if each is None else each for each in known]

    def _tokens(self, cells: list[Cell]) -> list[CellTokens]:
        found = []
        for cell, tokens in zip(cells, self._reader.read(cells) if cells else [], strict=True):
            wrong = np.flatnonzero((tokens.ids < 0) | (tokens.ids >= self._n_ids))
            if wrong.size:
                raise CorpusError(
                    f"{cell.where}: the id {int(tokens.ids[wrong[0]])}, ids must be below {self._n_ids}; use the "
                    "model's own tokenizer"
                )
            n = tokens.ids.size
            if self._reader.per_token * n > cell.n_slots:
                tokens = malformed(f"{n} tokens are more than there can be in {cell.n_slots} bytes", cell.n_slots)
            if tokens.void is not None:
                self._report(cell, tokens.void)
            starts = find_document_starts(tokens.ids, tokens.starts, self._end_of_text_id)
            found.append(CellTokens(tokens.ids, starts, tokens.void, min(tokens.n_void, cell.n_slots)))
        return found

    def _report(self, cell: Cell, reason: str) -> None:
        if cell.base in self._reported:
            return
        self._reported.add(cell.base)
        self.first_wrong = self.first_wrong or f"{cell.where}: {reason}"
        n = len(self._reported)
        if n <= _REPORTED or n in _MILESTONES:
            _LOG.warning(
                "%s: %s: left out, and the number of tokens is lowered for what is like it", cell.where, reason
            )
        if n == _REPORTED or n in _MILESTONES:
            _LOG.warning("that was malformed row number %d; later ones are counted, and few of them are shown", n)


class _KnownCells:
    """Cells that were read, by their slots; those of which nothing was drawn are forgotten first."""

    def __init__(self) -> None:
        self._cells: dict[int, tuple[Cell, CellTokens]] = {}
        self._passed: OrderedDict[int, None] = OrderedDict()
        self._drawn: OrderedDict[int, None] = OrderedDict()
        self._bases: list[int] = []
        self._n_kept = 0

    def at(self, slot: int) -> tuple[Cell, CellTokens] | None:
        """The cell of a slot; None where it is not known."""
        place = bisect.bisect_right(self._bases, slot) - 1
        if place < 0:
            return None
        found = self._cells[self._bases[place]]
        return found if slot < found[0].base + found[0].n_slots else None

    def keep(self, base: int) -> None:
        """Has a cell forgotten last."""
        if base in self._passed:
            del self._passed[base]
            self._drawn[base] = None

    def add(self, cell: Cell, tokens: CellTokens) -> None:
        """Keeps a cell, and forgets others if they are too many."""
        if cell.base in self._cells:
            return
        self._cells[cell.base] = (cell, tokens)
        self._passed[cell.base] = None
        bisect.insort(self._bases, cell.base)
        self._n_kept += _size(tokens)
        while self._n_kept > _KEPT_TOKENS and len(self._cells) > 1:
            base, _ = (self._passed if len(self._passed) > 1 else self._drawn or self._passed).popitem(last=False)
            self._n_kept -= _size(self._cells.pop(base)[1])
            self._bases.pop(bisect.bisect_left(self._bases, base))


def _size(tokens: CellTokens) -> int:
    return tokens.ids.size + 64  # a cell without tokens takes memory too
