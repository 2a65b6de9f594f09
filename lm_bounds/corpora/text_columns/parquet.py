"""A column of parquet files: what their footers say of it, and the rows of one row group at a time."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from lm_bounds.corpora.byte_source import ByteRange, ByteSource
from lm_bounds.corpora.text_columns.footer import Footer
from lm_bounds.corpora.text_columns.strings import Strings, check_strings, reading
from lm_bounds.errors import CorpusError

_MAGIC = b"PAR1"
_END_BYTES = 8  # the length of the footer, and the magic number
_TAIL_BYTES = 1 << 16
_TAILS_TOGETHER = 256
_BATCH_ROWS = 1 << 8
_FETCHED_TOGETHER = 1 << 26
_KEPT_FOOTERS = 16


class RowGroup(NamedTuple):
    """The column in a row group.

    Args:
        file: its number in the source.
        number: of the row group in the file.
        n_rows: how many rows it has.
        n_bytes: of the column when it is no longer compressed, headers and lengths of strings included.
        stored: where it is in the file.
    """

    file: int
    number: int
    n_rows: int
    n_bytes: int
    stored: ByteRange


class ParquetColumn:
    """A column of strings in parquet files, here or behind URLs.

    Args:
        source: of the bytes.
        order: numbers of the files, in the order in which they follow each other.
        column: its name.
    """

    def __init__(self, source: ByteSource, order: Sequence[int], column: str) -> None:
        self._source, self._order, self._column = source, order, column
        self._footers: OrderedDict[int, Any] = OrderedDict()

    @cached_property
    def groups(self) -> list[RowGroup]:
        """Every row group, in the order of the files: what the footers say, and nothing else, is read.

        Raises:
            CorpusError: a file is no parquet file, or has no such column.
        """
        found: list[RowGroup] = []
        for first in range(0, len(self._order), _TAILS_TOGETHER):
            part = self._order[first : first + _TAILS_TOGETHER]
            for file, content in zip(part, self._read_footers(part), strict=True):
                found += self._groups_of(file, content)
        return found

    def _place(self, file: int) -> str:
        return self._source.files[file].place

    def _read_footers(self, files: Sequence[int]) -> list[bytes]:
        """The footers of files, most of them in one read for all."""
        sizes = [self._source.files[file].n_bytes for file in files]
        ranges = [ByteRange(file, max(0, n - _TAIL_BYTES), n) for file, n in zip(files, sizes, strict=True)]
        tails = self._source.read_many(ranges)
        lengths = [self._footer_bytes(file, tail) for file, tail in zip(files, tails, strict=True)]
        longer = [place for place, length in enumerate(lengths) if length > len(tails[place])]
        whole = [ByteRange(files[place], sizes[place] - lengths[place], sizes[place]) for place in longer]
        for place, tail in zip(longer, self._source.read_many(whole), strict=True):
            tails[place] = tail
        return [tail[-length:] for tail, length in zip(tails, lengths, strict=True)]

    def _footer_bytes(self, file: int, tail: bytes) -> int:
        """Bytes from the begin of the footer to the end of the file."""
        length = int.from_bytes(tail[-_END_BYTES:-4], "little") + _END_BYTES
        if len(tail) < _END_BYTES or tail[-4:] != _MAGIC or length > self._source.files[file].n_bytes:
            raise CorpusError(
                f"{self._place(file)} does not end as a parquet file does: it is cut off, encrypted, or only a pointer "
                "of git-lfs: copy it again"
            )
        return length

    def _parsed(self, file: int, content: bytes) -> Any:
        import pyarrow
        from pyarrow import parquet

        with reading(self._place(file), "parquet"):
            footer = parquet.read_metadata(pyarrow.BufferReader(content))
        self._footers[file] = footer
        if len(self._footers) > _KEPT_FOOTERS:
            self._footers.popitem(last=False)
        return footer

    def _footer(self, file: int) -> Any:
        if file in self._footers:
            self._footers.move_to_end(file)
            return self._footers[file]
        [content] = self._read_footers([file])
        return self._parsed(file, content)

    def _groups_of(self, file: int, content: bytes) -> Iterator[RowGroup]:
        place = self._place(file)
        with reading(place, "parquet"):
            footer = Footer(content[:-_END_BYTES])  # before pyarrow, which does not bound how deep it goes
            parsed = self._parsed(file, content)
            check_strings(parsed.schema.to_arrow_schema(), self._column, place)
            chunks = footer.chunks(self._column, place, self._source.files[file].n_bytes)
            if (parsed.num_columns, parsed.num_row_groups) != (footer.n_leaves, len(chunks)):
                raise ValueError("its footer can be read in two ways")
        for number, chunk in enumerate(chunks):
            stored = ByteRange(file, chunk.start, chunk.stop)
            yield RowGroup(file, number, chunk.n_rows, chunk.n_bytes, stored)

    def fetched(self, groups: Sequence[RowGroup]) -> Iterator[tuple[RowGroup, bytes]]:
        """Row groups with the bytes of the column: up to 64 MiB of them are read together, or a single longer one."""
        first = 0
        while first < len(groups):
            last, n_bytes = first, 0
            while last < len(groups):
                n_bytes += groups[last].stored.stop - groups[last].stored.start
                if last > first and n_bytes > _FETCHED_TOGETHER:
                    break
                last += 1
            contents = self._source.read_many([group.stored for group in groups[first:last]])
            yield from zip(groups[first:last], contents, strict=True)
            first = last

    def rows(self, group: RowGroup, content: bytes) -> Iterator[Strings]:
        """The rows of a row group, a few hundred at a time; stopping early saves the rest.

        Args:
            group: of ``groups``.
            content: the bytes at ``group.stored``.

        Raises:
            CorpusError: they are damaged.
        """
        from pyarrow import parquet

        place = f"{self._place(group.file)}, row group {group.number}"
        with reading(place, "parquet"):
            stream = _Bytes(self._source, group.file, group.stored.start, content)
            file = parquet.ParquetFile(stream, metadata=self._footer(group.file))
            batches = file.iter_batches(
                _BATCH_ROWS, row_groups=[group.number], columns=[self._column], use_threads=False
            )
        while True:
            with reading(place, "parquet"):
                batch = next(batches, None)
                if batch is None:
                    return
                # By its name: with "a.b" comes a structure "a" that has a "b".
                strings = Strings(batch.column(self._column))
            yield strings


class _Bytes(io.RawIOBase):
    """A file of a source as pyarrow reads it, a stretch of which is here already."""

    def __init__(self, source: ByteSource, file: int, start: int, content: bytes) -> None:
        self._source, self._file = source, file
        self._start, self._content = start, content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.files[self._file].n_bytes}
        self._at = base[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._source.files[self._file].n_bytes
        stop = end if size is None or size < 0 else min(end, self._at + size)
        start, self._at = min(self._at, stop), stop
        if self._start <= start and stop <= self._start + len(self._content):
            return self._content[start - self._start : stop - self._start]
        [content] = self._source.read_many([ByteRange(self._file, start, stop)])
        return content
