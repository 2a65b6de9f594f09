"""Lines of files as cells: a byte is a slot, and the line that holds it is found by looking for the ends around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange, ByteSource
from lm_bounds.corpora.slots.protocol import Cell
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError

_NEWLINE = b"\n"
# Bytes on either side of a byte that are read first: one block of what is read from afar, or two.
_REACH = 1 << 14
LONGEST_LINE = 1 << 28


@dataclass(frozen=True, eq=False)
class LineCells:
    """Lines of files.

    A line is what stands between the ends of two lines, without its own end; the end is a slot of the line. A last line
    without an end has no such slot. Bytes are looked at, and nothing else: a file is never read as a whole.

    Args:
        stored: the bytes of the files.
        order: their numbers, in the order in which they follow each other.
        content_of: what the reader is given of the bytes of a line.
    """

    stored: ByteSource
    order: Sequence[int]
    content_of: Callable[[bytes], Any]

    @cached_property
    def _starts(self) -> IntArray:
        sizes = [self.stored.files[number].n_bytes for number in self.order]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @property
    def number(self) -> int:
        """How many slots there are: the bytes of the files."""
        return int(self._starts[-1])

    @property
    def source(self) -> str:
        """Where the files are, at which commit."""
        return self.stored.source

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and their sizes."""
        return {"cells": "lines", "bytes": sizes_sha256(np.diff(self._starts))}

    @property
    def identity(self) -> str:
        """What would be another if a file were changed."""
        return files_identity(self.stored, self.order)

    def at(self, slot: IntArray) -> list[Cell]:
        """The line of each byte; see ``Cells``.

        Raises:
            CorpusError: the files cannot be read, or a line is longer than 256 MiB.
        """
        found: dict[int, Cell] = {}
        lines = np.full((2, len(slot)), -1, dtype=np.int64)  # bytes of the file at which each line starts and ends
        part = np.searchsorted(self._starts, slot, side="right") - 1
        place = slot - self._starts[part]
        size = np.diff(self._starts)[part]
        pending, reach = np.arange(len(slot)), _REACH
        while pending.size:
            if reach > LONGEST_LINE:
                raise CorpusError(f"{self._where(part[pending[0]], place[pending[0]])}: a line of more than 256 MiB")
            low, high = np.maximum(place - reach, 0)[pending], np.minimum(place + reach, size)[pending]
            texts = self.stored.read_many(
                [ByteRange(self.order[p], int(a), int(b)) for p, a, b in zip(part[pending], low, high, strict=True)]
            )
            for row, a, b, text in zip(pending.tolist(), low.tolist(), high.tolist(), texts, strict=True):
                start, stop = _line_around(text, int(place[row]) - a)
                if (start < 0 and a > 0) or (stop < 0 and b < size[row]):
                    continue
                start, stop = max(start, 0), len(text) if stop < 0 else stop
                lines[:, row] = a + start, a + stop
                base = int(self._starts[part[row]]) + a + start
                if base not in found:
                    content = self.content_of(text[start:stop].removesuffix(_NEWLINE))
                    found[base] = Cell(base, stop - start, content, self._where(part[row], a + start))
            pending, reach = pending[lines[0, pending] < 0], reach * 4
        return [found[int(self._starts[p]) + int(start)] for p, start in zip(part, lines[0], strict=True)]

    def _where(self, part: Any, byte: Any) -> str:
        return f"{self.stored.files[self.order[int(part)]].place}, byte {int(byte)}"


def _line_around(text: bytes, place: int) -> tuple[int, int]:
    """Where the line with a byte starts, and where it ends, its end included; -1 where that is not in the text."""
    before, end = text.rfind(_NEWLINE, 0, place), text.find(_NEWLINE, place)
    return (before + 1 if before >= 0 else -1), (end + 1 if end >= 0 else -1)


def sizes_sha256(sizes: IntArray) -> str:
    """Hash of numbers of slots, in their order."""
    return hashlib.sha256(np.asarray(sizes).astype("<i8").tobytes()).hexdigest()


def files_identity(source: ByteSource, order: Sequence[int]) -> str:
    """What would be another if one of some files were changed."""
    return hashlib.sha256(json.dumps([source.files[number].identity for number in order]).encode()).hexdigest()
