"""Stored token ids in the tokens of another model: decoded, and encoded again where they are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from lm_bounds.corpora.flat_tokens.stream import TokenSequence
from lm_bounds.corpora.protocol import Tokenizer
from lm_bounds.corpora.slots.protocol import Cell, CellReader, CellTokens, malformed
from lm_bounds.corpora.slots.stored_cells import files_identity
from lm_bounds.corpora.token_stream import IntArray

# Slots of each stored id in files of ids: the text of so few bytes as an id stands for has hardly ever more tokens.
SLOTS_PER_ID = 8
# Stored ids of a cell where they are not in rows: a long document is cut after so many.
PIECE_IDS = 1 << 11
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class ReencodedReader:
    """Tokens of cells in which another reader finds stored ids.

    The ids are cut after each stored end of text; each part is decoded, without the special tokens in it, and encoded
    without added ones; one end of text of the model follows where a stored one stood. What is left of a character that
    the border of a cell cuts is dropped: U+FFFD at the start of the first part and at the end of an unfinished one. A
    part is a document, so that a document that wraps across cells is as many.

    Args:
        stored_reader: finds the stored ids of a cell, or what is wrong with it.
        stored: the tokenizer of the ids; ``stored.decode`` is that of transformers.
        stored_sha256: its hash.
        stored_end_of_text_id: its id that ends a document.
        tokenizer: of the language model.
        end_of_text_id: the id that ends a document for the language model; None where it has none.
    """

    stored_reader: CellReader
    stored: Any
    stored_sha256: str
    stored_end_of_text_id: int
    tokenizer: Tokenizer
    end_of_text_id: int | None
    per_token: ClassVar[int] = 1
    row_tokens: ClassVar[None] = None

    @property
    def reencoded_from(self) -> str:
        """Hash of the tokenizer that the corpus is stored in."""
        return self.stored_sha256

    @property
    def rule(self) -> dict[str, Any]:
        """What decides the tokens besides the tokenizer."""
        stored = {"sha256": self.stored_sha256, "end_of_text_id": self.stored_end_of_text_id}
        return {"tokens": "encoded again", "stored_in": stored, "stored": self.stored_reader.rule}

    def read(self, cells: Sequence[Cell]) -> list[CellTokens]:
        """The tokens of each cell."""
        stored = self.stored_reader.read(cells)
        parts = [list(self._parts(each.ids)) if each.void is None else [] for each in stored]
        texts = [text for each in parts for text, _ in each]
        ids = iter(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
        return [
            malformed(tokens.void, tokens.n_void)
            if tokens.void is not None
            else self._joined(islice(ids, len(each)), [ends for _, ends in each])
            for tokens, each in zip(stored, parts, strict=True)
        ]

    def _parts(self, ids: IntArray) -> Iterator[tuple[str, bool]]:
        """The text of each part, and whether a stored end of text follows."""
        stops = np.append(np.flatnonzero(ids == self.stored_end_of_text_id), ids.size).tolist()
        start = 0
        for number, stop in enumerate(stops):
            ends = number < len(stops) - 1
            text: str = self.stored.decode(
                ids[start:stop].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            text = text.lstrip(_REPLACEMENT) if number == 0 else text
            yield (text if ends else text.rstrip(_REPLACEMENT)), ends
            start = stop + 1

    def _joined(self, encoded: Iterable[Sequence[int]], ended: Sequence[bool]) -> CellTokens:
        ids: list[int] = []
        starts = [0]
        for part, ends in zip(encoded, ended, strict=True):
            ids += part
            if ends and self.end_of_text_id is not None:
                ids.append(self.end_of_text_id)
            starts.append(len(ids))
        return CellTokens(np.array(ids, dtype=np.int64), np.array(starts, dtype=np.int64))


@dataclass(frozen=True)
class StoredIdReader:
    """Tokens of cells whose content is the ids themselves; a cell with an id that there is not is malformed.

    Args:
        n_entries: every id must be below it.
    """

    n_entries: int
    per_token: ClassVar[int] = SLOTS_PER_ID
    row_tokens: ClassVar[None] = None
    reencoded_from: ClassVar[None] = None

    @property
    def rule(self) -> dict[str, Any]:
        """What decides the tokens of a cell."""
        return {"tokens": "ids", "n_entries": self.n_entries}

    def read(self, cells: Sequence[Cell]) -> list[CellTokens]:
        """The tokens of each cell."""
        return [self._tokens(cell) for cell in cells]

    def _tokens(self, cell: Cell) -> CellTokens:
        ids: IntArray = cell.content
        wrong = ids[(ids < 0) | (ids >= self.n_entries)]
        if wrong.size:
            return malformed(f"the id {int(wrong[0])}, ids must be below {self.n_entries}", cell.n_slots)
        return CellTokens(ids, np.zeros(1, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class StoredIdCells:
    """Rows of token ids in files, or pieces of ``PIECE_IDS`` of them; each id has ``SLOTS_PER_ID`` slots.

    Args:
        sequence: the ids that count.
    """

    sequence: TokenSequence

    @property
    def _ids_of_cell(self) -> int:
        return PIECE_IDS if self.sequence.rows is None else self.sequence.rows.counted

    @property
    def number(self) -> int:
        """How many slots there are."""
        return SLOTS_PER_ID * self.sequence.n_tokens

    @property
    def source(self) -> str:
        """Where the files are, at which commit."""
        return self.sequence.files.source.source

    @property
    def rule(self) -> dict[str, Any]:
        """How the ids are cut into cells, and how many there are."""
        sizes = {"stored_ids": self.sequence.n_tokens, "of_cell": self._ids_of_cell}
        return {"cells": "ids", **sizes, "slots_per_id": SLOTS_PER_ID}

    @property
    def identity(self) -> str:
        """What would be another if a file were changed."""
        files = self.sequence.files
        return files_identity(files.source, [part.file for part in files.parts])

    def at(self, slot: IntArray) -> list[Cell]:
        """The row or piece of each slot; see ``Cells``.

        Raises:
            CorpusError: the files cannot be read.
        """
        size = self._ids_of_cell
        numbers, cell_of = np.unique(np.asarray(slot, dtype=np.int64) // (SLOTS_PER_ID * size), return_inverse=True)
        start = numbers * size
        stop = np.minimum(start + size, self.sequence.n_tokens)
        ids, offsets = self.sequence.read_many(start, stop)
        found = [
            self._cell(int(first), ids[begin:end].astype(np.int64))
            for first, begin, end in zip(start, offsets[:-1], offsets[1:], strict=True)
        ]
        return [found[number] for number in cell_of.tolist()]

    def _cell(self, first: int, ids: IntArray) -> Cell:
        return Cell(SLOTS_PER_ID * first, SLOTS_PER_ID * ids.size, ids, self.sequence.place_of(first))
