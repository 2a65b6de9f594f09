"""Token ids in files as one sequence, of which any stretches can be read together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange
from lm_bounds.corpora.flat_tokens.layout import TokenFiles
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError

IdArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


@dataclass(frozen=True)
class Rows:
    """Rows of stored ids of which only some count.

    Args:
        stored: ids of a row in the files, >= 1.
        counted: ids of a row that count, >= 1.
        skipped: ids at the start of a row that do not, >= 0; with ``skipped + counted <= stored``.
    """

    stored: int
    counted: int
    skipped: int

    def __post_init__(self) -> None:
        if not (self.counted >= 1 and self.skipped >= 0 and self.skipped + self.counted <= self.stored):
            raise CorpusError(
                f"rows of {self.stored} ids cannot have {self.skipped} that are skipped and {self.counted} that count"
            )


@dataclass(frozen=True)
class TokenSequence:
    """The ids that count, in their order, wherever the files are cut.

    Args:
        files: that hold the ids.
        rows: which ids count; None where all do.
        n_rows: rows that count, from the first; None for all whole ones.

    Raises:
        CorpusError: the files end inside an id, or hold fewer rows.
    """

    files: TokenFiles
    rows: Rows | None = None
    n_rows: int | None = None

    def __post_init__(self) -> None:
        n_bytes, place = int(self._starts[-1]), self.files.source.source
        if self.rows is not None and self.n_rows is not None:
            needed = self.n_rows * self.rows.stored * self.files.dtype.itemsize
            if n_bytes < needed:
                raise CorpusError(
                    f"{place} holds {n_bytes} of {needed} bytes of the corpus; all of its files are needed, so that "
                    "every token can be drawn"
                )
        elif n_bytes % self.files.dtype.itemsize:
            name = self.files.dtype.name
            raise CorpusError(f"{place}: {n_bytes} bytes of {name} ids end inside an id: a file was cut off")
        if not self.n_tokens:
            raise CorpusError(f"{place} holds no token ids")

    @cached_property
    def _starts(self) -> IntArray:
        """Where each part begins among the bytes of all, and where the last one ends."""
        return np.concatenate([[0], np.cumsum([part.n_bytes for part in self.files.parts], dtype=np.int64)])

    @cached_property
    def n_tokens(self) -> int:
        """How many ids count."""
        n_stored = int(self._starts[-1]) // self.files.dtype.itemsize
        if self.rows is None:
            return n_stored
        n_rows = n_stored // self.rows.stored if self.n_rows is None else self.n_rows
        return n_rows * self.rows.counted

    def read_many(self, start: IntArray, stop: IntArray) -> tuple[IdArray, IntArray]:
        """The ids of some stretches, none of which goes on in another row, joined.

        Args:
            start: of each stretch. # shape: (n,)
            stop: after its last id, at least ``start``. # shape: (n,)

        Returns:
            ``(ids, offsets)``: stretch i is ``ids[offsets[i] : offsets[i + 1]]``. # shapes: (sum of lengths,), (n + 1,)
        """
        size = self.files.dtype.itemsize
        first = self._stored(start) * size
        last = first + (stop - start) * size
        part = np.searchsorted(self._starts, first, side="right") - 1
        ranges: list[ByteRange] = []
        for begin, end, number in zip(first.tolist(), last.tolist(), part.tolist(), strict=True):
            self._append(ranges, begin, end, number)
        content = b"".join(self.files.source.read_many(ranges))
        offsets = np.concatenate([[0], np.cumsum(stop - start)])
        return np.frombuffer(content, dtype=self.files.dtype), offsets

    def _append(self, ranges: list[ByteRange], begin: int, end: int, number: int) -> None:
        """The ranges of files that the bytes ``begin .. end - 1`` of all parts lie in."""
        while begin < end:
            part, base = self.files.parts[number], int(self._starts[number])
            here = min(end, base + part.n_bytes)
            ranges.append(ByteRange(part.file, part.offset + begin - base, part.offset + here - base))
            begin, number = here, number + 1

    def _stored(self, token: IntArray) -> IntArray:
        """Which stored id each one that counts is."""
        if self.rows is None:
            return token
        row, place = np.divmod(token, self.rows.counted)
        return row * self.rows.stored + self.rows.skipped + place

    def read(self, start: int, stop: int) -> IdArray:
        """The ids ``start .. stop - 1``."""
        cuts = [start, stop]
        if self.rows is not None:
            n = self.rows.counted
            cuts = [start, *range((start // n + 1) * n, stop, n), stop]
        return self.read_many(np.array(cuts[:-1], dtype=np.int64), np.array(cuts[1:], dtype=np.int64))[0]

    def place_of(self, token: int) -> str:
        """The file and the byte at which an id is stored."""
        at = int(self._stored(np.array(token))) * self.files.dtype.itemsize
        number = int(np.searchsorted(self._starts, at, side="right")) - 1
        part = self.files.parts[number]
        return f"{self.files.source.files[part.file].place}, byte {part.offset + at - int(self._starts[number])}"
