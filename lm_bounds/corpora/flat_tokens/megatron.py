"""The index beside a token file that Megatron-LM writes: how wide the ids are, and where documents begin.

The layout (MMapIndexedDataset, little-endian): ``MMIDIDX\\0\\0``; version, u64, 1; type of the ids, u8; number of
sequences, u64; number of document marks, u64; tokens of each sequence, i32; byte at which each begins, i64; then the
marks, i64: document k is made of the sequences ``mark[k] .. mark[k + 1] - 1``, the last mark is the number of
sequences. Where there is but one mark (some tools write no more), every sequence is a document.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_bounds.corpora.byte_source import ByteRange, ByteSource, LocalBytes
from lm_bounds.corpora.flat_tokens.documents import Documents, ListedDocuments
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError

INDEX_SUFFIX = ".idx"
_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_CHUNK_BYTES = 1 << 24
MOST_LISTED = 1 << 22


@dataclass(frozen=True)
class MegatronIndex:
    """An index file.

    Args:
        source: of the bytes.
        file: its number in the source.
        dtype: of the ids.
        n_sequences: how many there are.
        n_marks: how many document marks there are.
    """

    source: ByteSource
    file: int
    dtype: np.dtype[Any]
    n_sequences: int
    n_marks: int

    @property
    def _pointers(self) -> int:
        return _HEADER.size + 4 * self.n_sequences

    @property
    def _marks(self) -> int:
        return _HEADER.size + 12 * self.n_sequences

    def documents(self, n_tokens: int) -> Documents:
        """The documents of the token file beside it.

        Up to ``MOST_LISTED`` sequences and marks are read; more are looked up where they are needed.

        Raises:
            CorpusError: the index is not that of a file of so many tokens.
        """
        self._check_sequences(n_tokens)
        if self.has_marks:
            self._check_marks()
        if self._is_long:
            return IndexedDocuments(self, n_tokens)
        starts = self.pointers(np.arange(self.n_sequences))
        if self.has_marks:
            starts = np.append(starts, n_tokens)[self.marks(np.arange(self.n_marks - 1))]
        return ListedDocuments(np.unique(starts[starts < n_tokens]), n_tokens)

    @property
    def has_marks(self) -> bool:
        """Whether the marks say where documents begin; else every sequence is one."""
        return self.n_marks > 1

    @property
    def _is_long(self) -> bool:
        return self.n_sequences + self.n_marks > MOST_LISTED

    @property
    def _is_read(self) -> bool:
        """Whether all of it is read to be checked; of a long index afar only the ends are."""
        return not self._is_long or isinstance(self.source, LocalBytes)

    def _check_marks(self) -> None:
        """They rise from no sequence to all of them."""
        before = 0
        step = _CHUNK_BYTES // 8 if self._is_read else self.n_marks - 1
        for first in range(0, self.n_marks, step):
            last = min(first + step, self.n_marks) if self._is_read else first + 1
            marks = self._array(self._marks, 8, np.array([first, last]), "<i8")
            if marks[0] < before or (np.diff(marks) < 0).any() or (first == 0 and marks[0] != 0):
                raise self.wrong("its document marks do not rise from 0")
            before = int(marks[-1])
        if before != self.n_sequences:
            raise self.wrong(f"its document marks end at sequence {before} of {self.n_sequences}")

    def _check_sequences(self, n_tokens: int) -> None:
        """Sequences follow each other, from the first token to the last; of long indices afar only the last is read."""
        n_before, begin = 0, 0
        if not self._is_read and self.n_sequences:
            begin = self.n_sequences - 1
            n_before = int(self.pointers(np.array([begin]))[0])
        for first in range(begin, self.n_sequences, _CHUNK_BYTES // 8):
            numbers = np.array([first, min(first + _CHUNK_BYTES // 8, self.n_sequences)])
            sizes = self._array(_HEADER.size, 4, numbers, "<i4").astype(np.int64)
            pointers = self._array(self._pointers, 8, numbers, "<i8")
            ends = n_before + np.cumsum(sizes)
            if (sizes < 0).any() or (pointers != (ends - sizes) * self.dtype.itemsize).any():
                raise self.wrong("its sequences do not follow each other")
            n_before = int(ends[-1])
        if n_before != n_tokens:
            raise self.wrong(f"it lists {n_before} tokens, the token file holds {n_tokens}")

    def _array(self, offset: int, size: int, numbers: IntArray, dtype: str) -> Any:
        first, last = (offset + size * int(number) for number in numbers)
        return np.frombuffer(self.source.read_many([ByteRange(self.file, first, last)])[0], dtype=dtype)

    def pointers(self, sequence: IntArray) -> IntArray:
        """Index of the first token of some sequences; of sequence ``n_sequences`` there is none."""
        return self._integers(self._pointers, sequence) // self.dtype.itemsize

    def marks(self, number: IntArray) -> IntArray:
        """The first sequence of some documents."""
        return self._integers(self._marks, number)

    def _integers(self, offset: int, numbers: IntArray) -> IntArray:
        """The i64 numbers of an array in the file, each asked for once, neighbours together."""
        unique, inverse = np.unique(numbers, return_inverse=True)
        cuts = np.flatnonzero(np.diff(unique) > 1) + 1
        runs = zip(unique[np.append(0, cuts)], unique[np.append(cuts, unique.size) - 1], strict=True)
        ranges = [ByteRange(self.file, offset + 8 * int(first), offset + 8 * int(last) + 8) for first, last in runs]
        values: IntArray = np.frombuffer(b"".join(self.source.read_many(ranges)), dtype="<i8").astype(np.int64)
        return values[inverse].reshape(np.shape(numbers))

    def wrong(self, why: str) -> CorpusError:
        """That the index does not belong to the token file."""
        return CorpusError(f"{self.source.files[self.file].place} is not the index of the token file beside it: {why}")


def read_index(source: ByteSource, file: int) -> MegatronIndex:
    """The header of an index file.

    Raises:
        CorpusError: it is no such file, was cut off, or its ids are no integers.
    """
    facts = source.files[file]
    head = source.read_many([ByteRange(file, 0, min(_HEADER.size, facts.n_bytes))])[0]
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise CorpusError(f"{facts.place} is no index that Megatron-LM wrote; leave it out, or get it again")
    _, version, code, n_sequences, n_marks = _HEADER.unpack(head)
    if version != 1 or code not in _DTYPES:
        known = ", ".join(map(str, _DTYPES))
        raise CorpusError(f"{facts.place}: version {version}, type {code}; known are version 1 and the types {known}")
    index = MegatronIndex(source, file, np.dtype(_DTYPES[code]), n_sequences, n_marks)
    least = _HEADER.size + 12 * n_sequences + 8 * n_marks
    if facts.n_bytes < least:
        raise CorpusError(f"{facts.place} has {facts.n_bytes} of at least {least} bytes: it was cut off; get it again")
    return index


@dataclass(frozen=True)
class IndexedDocuments:
    """Documents that are looked up in an index too long to be kept in memory.

    Args:
        index: of the token file.
        n_tokens: of the sequence of tokens.
    """

    index: MegatronIndex
    n_tokens: int

    @property
    def rule(self) -> dict[str, Any]:
        """What decides where they begin."""
        return {"listed": True}

    @property
    def starts(self) -> None:
        """They are not listed in memory."""
        return None

    @property
    def _n_documents(self) -> int:
        return self.index.n_marks - 1 if self.index.has_marks else self.index.n_sequences

    def _first_token(self, document: IntArray) -> IntArray:
        sequence = self.index.marks(document) if self.index.has_marks else document
        found = np.full(document.shape, self.n_tokens, dtype=np.int64)
        inside = sequence < self.index.n_sequences
        if inside.any():
            found[inside] = self.index.pointers(sequence[inside])
        return found

    def bounds(self, index: IntArray) -> tuple[IntArray, IntArray]:
        """``[start, stop)`` of the documents that hold these tokens, by bisection."""
        if not index.size:
            return index.copy(), index.copy()
        low, high = np.zeros_like(index), np.full_like(index, self._n_documents)
        for _ in self._steps():  # the last document that begins at the token or before it is in [low, high)
            middle = (low + high) // 2
            before = self._first_token(middle) <= index
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        stop = np.full_like(index, self.n_tokens)
        inner = low + 1 < self._n_documents
        if inner.any():
            stop[inner] = self._first_token(low[inner] + 1)
        start = self._first_token(low)
        if (start > index).any() or (stop <= index).any():
            raise self.index.wrong("its documents do not follow each other")
        return start, stop

    def _steps(self) -> Iterator[int]:
        yield from range(self._n_documents.bit_length())
