"""Files of text as cells: a file is a document, a long one is cut at lines about every 64 KiB.

The cuts are found around the places that are looked at: no file is read as a whole. Every piece has the slots of its
bytes and ``EXTRA_SLOTS`` more, so that the slots of a file follow from its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange, ByteSource
from lm_bounds.corpora.slots.lines import files_identity, sizes_sha256
from lm_bounds.corpora.slots.protocol import Cell
from lm_bounds.corpora.slots.texts import EXTRA_SLOTS, Document
from lm_bounds.corpora.text_documents import decode_text
from lm_bounds.corpora.token_stream import IntArray

PIECE_BYTES = 1 << 16
_FIRST_LOOK, _GROWTH = 1 << 12, 16
_MOST_CHAR_BYTES = 4
_NEWLINE = b"\n"


class _Cut(NamedTuple):
    """Where piece ``number`` of the file at place ``part`` of the order starts."""

    part: int
    number: int


@dataclass(frozen=True, eq=False)
class PlainText:
    """Files of UTF-8 text.

    Piece k of a file of n bytes, 0 <= k < n/P with P = ``PIECE_BYTES``, starts at the first line that starts in
    [k P, (k+1) P) and before the end of the file; where none does, at the first character that starts at or after k P,
    or at the end of the file where no character does; the first piece starts at 0. It ends where the next one starts,
    and the one that ends with the file ends the document. Its slots start at k ``EXTRA_SLOTS`` more than its bytes.

    Args:
        stored: the bytes of the files.
        order: their numbers, in the order in which they follow each other.
    """

    stored: ByteSource
    order: Sequence[int]

    @cached_property
    def _sizes(self) -> IntArray:
        return np.array([self.stored.files[number].n_bytes for number in self.order], dtype=np.int64)

    @cached_property
    def _starts(self) -> IntArray:
        pieces = -(-self._sizes // PIECE_BYTES)
        return np.concatenate([[0], np.cumsum(self._sizes + EXTRA_SLOTS * pieces)])

    @property
    def number(self) -> int:
        """How many slots there are: the bytes of the files, and ``EXTRA_SLOTS`` for each piece."""
        return int(self._starts[-1])

    @property
    def source(self) -> str:
        """Where the files are, at which commit."""
        return self.stored.source

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and their sizes."""
        return {"cells": "text", "piece_bytes": PIECE_BYTES, "bytes": sizes_sha256(self._sizes)}

    @property
    def identity(self) -> str:
        """What would be another if a file were changed."""
        return files_identity(self.stored, self.order)

    def at(self, slot: IntArray) -> list[Cell]:
        """The piece of each slot; see ``Cells``.

        Raises:
            CorpusError: the files cannot be read, or are no UTF-8 text.
        """
        parts = np.searchsorted(self._starts, slot, side="right") - 1
        within = (slot - self._starts[parts]).tolist()
        guesses = [_Cut(int(part), at // (PIECE_BYTES + EXTRA_SLOTS)) for part, at in zip(parts, within, strict=True)]
        cuts = self._cuts({_Cut(cut.part, cut.number + step) for cut in guesses for step in (-1, 0, 1)})
        # Slot number k (P + EXTRA_SLOTS) of a file is in piece k or in the one before: the cut lies in [k P, (k+1) P).
        found = [
            cut if cuts[cut] + EXTRA_SLOTS * cut.number <= at else _Cut(cut.part, cut.number - 1)
            for cut, at in zip(guesses, within, strict=True)
        ]
        pieces = sorted(set(found))
        bounds = [(cuts[cut], cuts[_Cut(cut.part, cut.number + 1)]) for cut in pieces]
        contents = self.stored.read_many(
            [ByteRange(self.order[cut.part], *bound) for cut, bound in zip(pieces, bounds, strict=True)]
        )
        cells = {
            cut: self._cell(cut, *bound, content) for cut, bound, content in zip(pieces, bounds, contents, strict=True)
        }
        return [cells[cut] for cut in found]

    def _cell(self, cut: _Cut, start: int, stop: int, content: bytes) -> Cell:
        place = self.stored.files[self.order[cut.part]].place
        text = decode_text(content, place, is_start=start == 0)
        base = int(self._starts[cut.part]) + start + EXTRA_SLOTS * cut.number
        document = Document(text, ends=stop == self._sizes[cut.part])
        return Cell(base, stop - start + EXTRA_SLOTS, document, f"{place}, byte {start}")

    def _cuts(self, wanted: set[_Cut]) -> dict[_Cut, int]:
        """Bytes at which pieces start; numbers below the first piece or above the last one stand for the ends."""
        cuts: dict[_Cut, int] = {}
        for cut in wanted:
            if cut.number <= 0:
                cuts[cut] = 0
            elif cut.number * PIECE_BYTES >= self._sizes[cut.part]:
                cuts[cut] = int(self._sizes[cut.part])
        pending, look = sorted(wanted - set(cuts)), _FIRST_LOOK
        while pending:
            ranges = [self._looked_at(cut, look) for cut in pending]
            for cut, looked, text in zip(pending, ranges, self.stored.read_many(ranges), strict=True):
                newline = text.find(_NEWLINE)
                if newline >= 0:
                    cuts[cut] = looked.start + newline + 1
                elif look >= PIECE_BYTES:
                    cuts[cut] = self._first_character(cut)
            pending, look = [cut for cut in pending if cut not in cuts], look * _GROWTH
        return cuts

    def _looked_at(self, cut: _Cut, look: int) -> ByteRange:
        """Where the newline before a cut may be, so that the line after it has a byte."""
        start = cut.number * PIECE_BYTES
        stop = min(start + min(look, PIECE_BYTES), int(self._sizes[cut.part]))
        return ByteRange(self.order[cut.part], start - 1, stop - 1)

    def _first_character(self, cut: _Cut) -> int:
        """The first byte from the multiple of ``PIECE_BYTES`` on that starts a character."""
        start, size = cut.number * PIECE_BYTES, int(self._sizes[cut.part])
        [text] = self.stored.read_many([ByteRange(self.order[cut.part], start, min(start + _MOST_CHAR_BYTES, size))])
        starts = [place for place, byte in enumerate(text) if byte & 0xC0 != 0x80]
        return start + (starts[0] if starts else len(text))
