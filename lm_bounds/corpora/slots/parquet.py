"""Rows of parquet files as cells: their slots follow from the footers, and a row group is read where one is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lm_bounds.corpora.slots.protocol import Cell
from lm_bounds.corpora.slots.stored_cells import StoredCells, sizes_sha256
from lm_bounds.corpora.slots.texts import EXTRA_SLOTS, Document, document_of_bytes
from lm_bounds.corpora.text_columns import ParquetColumn, RowGroup, Strings
from lm_bounds.corpora.token_stream import IntArray

_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class ParquetRows(StoredCells):
    """Rows of parquet files.

    A row group of r rows whose column has s bytes before compression (both from the footer) has s + ``EXTRA_SLOTS`` r
    slots. Its different documents follow each other in them, each with the slots of its UTF-8 bytes and ``EXTRA_SLOTS``
    more; a copy of a document of the same row group, and a null, have none, and the rest of the slots is nobody's.

    All of them have room wherever every string is written out once: as such (PLAIN, with 4 bytes before it), in a
    dictionary (each string of the row group once, as PLAIN), or behind a list of lengths (DELTA_LENGTH_BYTE_ARRAY, for
    which ``EXTRA_SLOTS`` r is added). Where strings share their beginnings (DELTA_BYTE_ARRAY), or the footer is wrong,
    the last documents may have no room: they are not in the corpus, and the rest of the slots is said to be malformed.

    Args:
        stored, order: the files, see ``StoredCells``.
        column: name of the column.
    """

    column: str

    @cached_property
    def _read(self) -> ParquetColumn:
        return ParquetColumn(self.stored, self.order, self.column)

    def part_slots(self) -> IntArray:
        """Those of the row groups, from the footers."""
        return np.array([group.n_bytes + EXTRA_SLOTS * group.n_rows for group in self._read.groups], dtype=np.int64)

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and the slots of the row groups."""
        return {"cells": "parquet", "column": self.column, "slots": sizes_sha256(self.part_slots())}

    def at(self, slot: IntArray) -> list[Cell]:
        """The document of each slot; see ``Cells``. Each row group is read once, as far as its last slot.

        Raises:
            CorpusError: the files cannot be read.
        """
        numbers, firsts = np.unique(self.part_of(slot), return_index=True)
        wanted = np.split(slot, firsts[1:])
        found: list[Cell] = []
        contents = self._read.fetched([self._read.groups[number] for number in numbers.tolist()])
        for number, slots, (group, content) in zip(numbers.tolist(), wanted, contents, strict=True):
            base, stop = int(self.starts[number]), int(self.starts[number + 1])
            cells = self._cells(group, content, base, stop)
            cell = next(cells)
            for each in slots.tolist():
                while each >= cell.base + cell.n_slots:
                    cell = next(cells)
                known = bool(found) and found[-1].base == cell.base
                found.append(found[-1] if known else cell._replace(content=_document(cell.content)))
        return found

    def _cells(self, group: RowGroup, content: bytes, base: int, stop: int) -> Iterator[Cell]:
        """The cells of a row group; the content of a document is its bytes."""
        place = f"{self.stored.files[group.file].place}, row group {group.number}"
        for row, text in _different(self._read.rows(group, content)):
            n_slots = len(text) + EXTRA_SLOTS
            if base + n_slots > stop:
                reason = f"the documents from row {row} on take more than the bytes that the footer says"
                yield Cell(base, stop - base, Document("", void=reason), place)
                return
            yield Cell(base, n_slots, text, f"{place}, row {row}")
            base += n_slots
        yield Cell(base, stop - base, Document(""), place)


def _different(rows: Iterator[Strings]) -> Iterator[tuple[int, memoryview]]:
    """Rows that are not null and no copies of an earlier one, by their numbers."""
    seen: set[bytes] = set()
    first = 0
    for strings in rows:
        for row in np.flatnonzero(~strings.is_null).tolist():
            text = strings.content(row)
            digest = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()
            if digest not in seen:
                seen.add(digest)
                yield first + row, text
        first += len(strings)


def _document(content: memoryview | Document) -> Document:
    return content if isinstance(content, Document) else document_of_bytes(content)
