"""Rows of .arrow files as cells: their slots follow from the offsets of the strings, which are mapped into memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange
from lm_bounds.corpora.slots.protocol import Cell
from lm_bounds.corpora.slots.stored_cells import StoredCells, sizes_sha256
from lm_bounds.corpora.slots.texts import EXTRA_SLOTS, Document, document_of_bytes
from lm_bounds.corpora.text_columns import ArrowColumn, MappedFiles, Strings
from lm_bounds.corpora.token_stream import IntArray


class _Batch(NamedTuple):
    """A record batch: its file's place in the order, and its number there."""

    part: int
    number: int


@dataclass(frozen=True, eq=False)
class ArrowRows(StoredCells):
    """Rows of .arrow files: each has the slots of its UTF-8 bytes and ``EXTRA_SLOTS`` more, and none is nobody's.

    Args:
        stored, order: the files, on this machine; see ``StoredCells``.
        column: name of the column.
    """

    column: str

    @cached_property
    def _columns(self) -> list[ArrowColumn]:
        mapped = MappedFiles()
        return [ArrowColumn(Path(self.stored.files[number].place), self.column, mapped) for number in self.order]

    @cached_property
    def _batches(self) -> list[_Batch]:
        return [_Batch(part, number) for part, column in enumerate(self._columns) for number in range(len(column))]

    def part_slots(self) -> IntArray:
        """Those of the record batches, from the offsets of their strings."""
        sizes = [_edges(self._columns[batch.part].rows(batch.number))[-1] for batch in self._batches]
        return np.array(sizes, dtype=np.int64)

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and the slots of the record batches."""
        return {"cells": "arrow", "column": self.column, "slots": sizes_sha256(np.diff(self.starts))}

    def at(self, slot: IntArray) -> list[Cell]:
        """The document of each slot; see ``Cells``.

        Raises:
            CorpusError: the files cannot be read, or one was changed.
        """
        numbers, firsts = np.unique(self.part_of(slot), return_index=True)
        parts = {self._batches[number].part for number in numbers.tolist()}
        found: list[Cell] = []
        for number, slots in zip(numbers.tolist(), np.split(slot, firsts[1:]), strict=True):
            batch = self._batches[number]
            strings = self._columns[batch.part].rows(batch.number)
            edges = _edges(strings)
            where = f"{self._columns[batch.part].place}, record batch {batch.number}"
            for row in (np.searchsorted(edges, slots - self.starts[number], side="right") - 1).tolist():
                base = int(self.starts[number] + edges[row])
                if found and found[-1].base == base:
                    found.append(found[-1])
                else:
                    document = Document("") if strings.is_null[row] else document_of_bytes(strings.content(row))
                    found.append(Cell(base, int(edges[row + 1] - edges[row]), document, f"{where}, row {row}"))
        self.stored.read_many([ByteRange(self.order[part], 0, 0) for part in parts])  # each is what was opened
        return found


def _edges(strings: Strings) -> IntArray:
    """Where the slots of each row begin, and where those of the last one end. # shape: (rows + 1,)"""
    return np.concatenate([[0], np.cumsum(strings.lengths + EXTRA_SLOTS)])
