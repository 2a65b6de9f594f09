"""Files of text as cells: a file is a document, a long one is cut at lines about every 64 KiB.

The cuts are found around the places that are looked at: no file is read as a whole. Every piece has the slots of its
bytes and ``EXTRA_SLOTS`` more, so that the slots of a file follow from its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from lm_bounds.corpora.byte_source import ByteRange
from lm_bounds.corpora.slots.protocol import Cell
from lm_bounds.corpora.slots.stored_cells import StoredCells, sizes_sha256
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
class PlainText(StoredCells):
    """Files of UTF-8 text.

    Piece k of a file of n bytes, 0 <= k < n/P with P = ``PIECE_BYTES``, starts at the first line that starts in
    [k P, (k+1) P) and before the end of the file; where none does, at the first character that starts at or after k P,
    or at the end of the file where no character does; the first piece starts at 0. It ends where the next one starts,
    and the one that ends with the file ends the document. Its slots start at k ``EXTRA_SLOTS`` more than its bytes.

    Args:
        stored, order: the files, see ``StoredCells``.
    """

    def part_slots(self) -> IntArray:
        """The bytes of the files, and ``EXTRA_SLOTS`` for each piece."""
        return self.file_bytes + EXTRA_SLOTS * -(-self.file_bytes // PIECE_BYTES)

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and their sizes."""
        return {"cells": "text", "piece_bytes": PIECE_BYTES, "bytes": sizes_sha256(self.file_bytes)}

    def at(self, slot: IntArray) -> list[Cell]:
        """The piece of each slot; see ``Cells``.

        Raises:
            CorpusError: the files cannot be read, or are no UTF-8 text.
        """
        parts = self.part_of(slot)
        within = (slot - self.starts[parts]).tolist()
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
        base = int(self.starts[cut.part]) + start + EXTRA_SLOTS * cut.number
        document = Document(text, ends=stop == self.file_bytes[cut.part])
        return Cell(base, stop - start + EXTRA_SLOTS, document, f"{place}, byte {start}")

    def _cuts(self, wanted: set[_Cut]) -> dict[_Cut, int]:
        """Bytes at which pieces start; numbers below the first piece or above the last one stand for the ends."""
        cuts: dict[_Cut, int] = {}
        for cut in wanted:
            if cut.number <= 0:
                cuts[cut] = 0
            elif cut.number * PIECE_BYTES >= self.file_bytes[cut.part]:
                cuts[cut] = int(self.file_bytes[cut.part])
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
        stop = min(start + min(look, PIECE_BYTES), int(self.file_bytes[cut.part]))
        return ByteRange(self.order[cut.part], start - 1, stop - 1)

    def _first_character(self, cut: _Cut) -> int:
        """The first byte from the multiple of ``PIECE_BYTES`` on that starts a character."""
        start, size = cut.number * PIECE_BYTES, int(self.file_bytes[cut.part])
        [text] = self.stored.read_many([ByteRange(self.order[cut.part], start, min(start + _MOST_CHAR_BYTES, size))])
        starts = [place for place, byte in enumerate(text) if byte & 0xC0 != 0x80]
        return start + (starts[0] if starts else len(text))
