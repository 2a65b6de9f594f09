"""Lines of files as cells: a byte is a slot, and the line that holds it is found by looking for the ends around it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange, ByteSource, refuse_pointers
from lm_bounds.corpora.byte_source.block_cache import BLOCK_BYTES
from lm_bounds.corpora.slots.protocol import Cell
from lm_bounds.corpora.slots.stored_cells import StoredCells, sizes_sha256
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError

_NEWLINE = b"\n"
# Files are read in windows at multiples of so many bytes. The windows that hold a line and the byte before it are those
# that are read to find it, from whichever of its bytes: what was read for one draw is all that another one needs.
_WINDOW = 2 * BLOCK_BYTES
_EVEN_STEPS = 16  # so many windows further on either side; a line of more than a megabyte is looked through faster
_LONGEST_STEP = 1 << 22
_READ_TOGETHER = 1 << 26
LONGEST_LINE = 1 << 28
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet", ".arrow")


@dataclass
class _Piece:
    """Bytes ``low .. high - 1`` of one line, counted through all files.

    Args:
        low: its first byte.
        high: after its last byte.
        starts: whether the line starts with it.
        stops: whether the line stops with it.
        text: what is written there; None where it was not kept.
    """

    low: int
    high: int
    starts: bool
    stops: bool
    text: bytes | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole line."""
        return self.starts and self.stops


@dataclass(frozen=True, eq=False)
class LineCells(StoredCells):
    """Lines of files.

    A line is what stands between the ends of two lines, without its own end; the end is a slot of the line. A last line
    without an end has no such slot, and no line goes on in another file. Bytes are looked at, and nothing else: a file
    is never read as a whole. A line takes one read, and another one where it crosses a multiple of 64 KiB.

    Args:
        stored, order: the files, see ``StoredCells``.
        content_of: what the reader is given of the bytes of a line.
    """

    content_of: Callable[[bytes], Any]

    def part_slots(self) -> IntArray:
        """A byte is a slot."""
        return self.file_bytes

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and their sizes."""
        return {"cells": "lines", "bytes": sizes_sha256(self.file_bytes)}

    def at(self, slot: IntArray) -> list[Cell]:
        """The line of each byte; see ``Cells``.

        Slots in one line share its search and its content, so that what is held in memory is the lines themselves and
        64 MiB at most.

        Raises:
            CorpusError: the files cannot be read, or a line is longer than 256 MiB.
        """
        pieces, step = _joined(self._around(np.asarray(slot, dtype=np.int64))), _WINDOW
        for n_steps in itertools.count():
            unknown = [piece for piece in pieces if not piece.is_whole]
            if not unknown:
                break
            step = step if n_steps < _EVEN_STEPS else min(2 * step, max(_LONGEST_STEP, _WINDOW))
            self._extend(unknown, step)
            pieces = _joined(pieces)
        self._check_lengths(pieces)
        unread = [piece for piece in pieces if piece.text is None]
        for piece, text in zip(unread, self._read([(piece.low, piece.high) for piece in unread]), strict=True):
            piece.text = text
        cells = [self._cell(piece) for piece in pieces]
        number = np.searchsorted([piece.low for piece in pieces], slot, side="right") - 1
        return [cells[each] for each in number.tolist()]

    def _around(self, slot: IntArray) -> list[_Piece]:
        """What lies in the window of each slot and in the same line."""
        windows: dict[tuple[int, int], list[int]] = {}
        for each in slot.tolist():
            _, first, last = self._file_of(each)
            low = each - (each - first) % _WINDOW
            windows.setdefault((low, min(low + _WINDOW, last)), []).append(each)
        pieces: list[_Piece] = []
        for (low, high), inside, text in zip(windows, windows.values(), self._read(list(windows)), strict=True):
            _, first, last = self._file_of(low)
            for each in inside:
                if pieces and each < pieces[-1].high:  # in the line that was found last
                    continue
                start = text.rfind(_NEWLINE, 0, each - low) + 1
                stop = text.find(_NEWLINE, each - low) + 1
                starts, stops = start > 0 or low == first, stop > 0 or high == last
                stop = stop or len(text)
                whole = text[start:stop] if starts and stops else None
                pieces.append(_Piece(low + start, low + stop, starts, stops, whole))
        return pieces

    def _extend(self, pieces: Sequence[_Piece], step: int) -> None:
        """Looks for the ends that are not known yet, some bytes further.

        Raises:
            CorpusError: a piece is longer than any line may be.
        """
        self._check_lengths(pieces)
        edges = [self._file_of(piece.low) for piece in pieces]
        before = [
            (piece.low if piece.starts else max(piece.low - step, first), piece.low)
            for piece, (_, first, _) in zip(pieces, edges, strict=True)
        ]
        for piece, (_, first, _), (low, _), text in zip(pieces, edges, before, self._read(before), strict=True):
            found = text.rfind(_NEWLINE) + 1
            piece.low = low + found
            piece.starts = piece.starts or found > 0 or low == first
        after = [
            (piece.high, piece.high if piece.stops else min(piece.high + step, last))
            for piece, (_, _, last) in zip(pieces, edges, strict=True)
        ]
        for piece, (_, _, last), (_, high), text in zip(pieces, edges, after, self._read(after), strict=True):
            found = text.find(_NEWLINE) + 1
            piece.high += found or len(text)
            piece.stops = piece.stops or found > 0 or high == last

    def _check_lengths(self, pieces: Sequence[_Piece]) -> None:
        for piece in pieces:
            if piece.high - piece.low > LONGEST_LINE:
                raise CorpusError(
                    f"{self._where(piece.low)}: a line of more than {LONGEST_LINE >> 20} MiB; check that these are "
                    "files of lines"
                )

    def _cell(self, piece: _Piece) -> Cell:
        content = self.content_of((piece.text or b"").removesuffix(_NEWLINE))
        return Cell(piece.low, piece.high - piece.low, content, self._where(piece.low))

    def _file_of(self, slot: int) -> tuple[int, int, int]:
        """Which file in their order holds a slot, the slot that it begins with, and the one after its last one."""
        part = int(np.searchsorted(self.starts, slot, side="right")) - 1
        return part, int(self.starts[part]), int(self.starts[part + 1])

    def _read(self, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes of spans of slots, none of which goes on in another file; not too many of them at once."""
        ranges: list[ByteRange] = []
        n_bytes = 0
        for low, high in spans:
            if ranges and n_bytes + high - low > _READ_TOGETHER:
                yield from self.stored.read_many(ranges)
                ranges, n_bytes = [], 0
            part, first, _ = self._file_of(min(low, self.number - 1))
            ranges.append(ByteRange(self.order[part], low - first, high - first))
            n_bytes += high - low
        yield from self.stored.read_many(ranges)

    def _where(self, slot: int) -> str:
        part, first, _ = self._file_of(slot)
        return f"{self.stored.files[self.order[part]].place}, byte {slot - first}"


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """The pieces in increasing order, those that overlap, so that they are of one line, as one."""
    joined: list[_Piece] = []
    for piece in sorted(pieces, key=lambda each: each.low):
        last = joined[-1] if joined else None
        if last is None or piece.low >= last.high:
            joined.append(piece)
            continue
        last.starts = last.starts or (piece.starts and piece.low == last.low)
        last.stops = last.stops or piece.stops
        last.high = max(last.high, piece.high)
        last.text = last.text if piece.text is None else piece.text
    return joined


def check_line_files(source: ByteSource) -> None:
    """Refuses files that hold no lines, at the cost of reading those that are small.

    Raises:
        CorpusError: one is empty, packed, or a pointer of git-lfs.
    """
    for file in source.files:
        if not file.n_bytes:
            raise CorpusError(f"{file.place} is empty; get it again, or leave it out")
        if file.name.lower().endswith(_PACKED):
            raise CorpusError(f"{file.place} is no file of lines; unpack it, or name those that are")
    refuse_pointers(source, range(len(source.files)))
