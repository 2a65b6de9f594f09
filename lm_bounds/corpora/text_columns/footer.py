"""Where a column is in a parquet file, by its footer.

The numbers of a column are read here and not by pyarrow, which does not give an error where those of a column are
encrypted or damaged, but ends the process. The footer: https://github.com/apache/parquet-format, ``parquet.thrift``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lm_bounds.corpora.text_columns.thrift import AT, Shape, read_struct
from lm_bounds.errors import CorpusError, printable

# The names of the fields that are read, by the structures that they are in; their numbers are those of the format.
_SCHEMA, _ROW_GROUPS = 2, 4
_NAME, _N_CHILDREN = 4, 5
_COLUMNS, _N_ROWS = 1, 3
_OTHER_FILE, _NUMBERS, _CRYPTO, _ENCRYPTED_NUMBERS = 1, 3, 8, 9
_PATH, _UNPACKED_BYTES, _PACKED_BYTES, _DATA, _DICTIONARY = 3, 6, 7, 9, 11

_FOOTER: Mapping[int, Shape] = {
    _SCHEMA: [{_NAME: bytes, _N_CHILDREN: int}],
    _ROW_GROUPS: [{_COLUMNS: [AT], _N_ROWS: int}],
}
_CHUNK: Mapping[int, Shape] = {
    _OTHER_FILE: bytes,
    _NUMBERS: {_PATH: [bytes], _UNPACKED_BYTES: int, _PACKED_BYTES: int, _DATA: int, _DICTIONARY: int},
    _CRYPTO: AT,
    _ENCRYPTED_NUMBERS: bytes,
}
_LARGEST_BYTES = 1 << 40
_DEEPEST = 100
_OF_TABLE = 2  # what is open around a column of the table itself: the table, and what holds that


class ColumnChunk(NamedTuple):
    """A column in a row group.

    Args:
        n_rows: how many rows the row group has.
        n_bytes: of the column when it is no longer compressed, headers of pages included.
        start, stop: the bytes of the file at which it begins, and behind which it ends.
    """

    n_rows: int
    n_bytes: int
    start: int
    stop: int


class Footer:
    """What the footer of a file says of its columns.

    Args:
        content: the footer, without its length and the magic number.

    Raises:
        ValueError: it is damaged.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self._said = content, read_struct(content, _FOOTER)
        self._leaves = list(_leaves(_of(self._said, _SCHEMA)))

    @property
    def n_leaves(self) -> int:
        """How many columns the table has, those inside structures counted and not the structures."""
        return len(self._leaves)

    def chunks(self, column: str, place: str, n_bytes: int) -> list[ColumnChunk]:
        """A column of the table itself, not of one inside a structure, in each row group.

        Args:
            column: its name.
            place: where the file is, for messages.
            n_bytes: the size of the file.

        Raises:
            CorpusError: the column is encrypted, in another file, or cannot be where the footer says that it is.
            ValueError: the footer is damaged, or has not exactly one such column.
        """
        name, shown = column.encode(), printable(column)
        found = [number for number, leaf in enumerate(self._leaves) if leaf == name]
        if len(found) != 1:
            raise ValueError(f'it has {len(found)} columns "{shown}" without further columns inside')
        chunks: list[ColumnChunk] = []
        for number, group in enumerate(_of(self._said, _ROW_GROUPS)):
            starts = _of(group, _COLUMNS)
            if len(starts) != self.n_leaves:
                raise ValueError(f"row group {number} has {len(starts)} columns, the table has {self.n_leaves}")
            said = read_struct(self._content, _CHUNK, starts[found[0]])
            _check_readable(said, f'{place}: the column "{shown}" of row group {number}')
            numbers = _of(said, _NUMBERS)
            if _of(numbers, _PATH) != [name]:
                raise ValueError(f'row group {number} has another column in the place of "{shown}"')
            chunk = _located(numbers, _of(group, _N_ROWS))
            sizes_can_be = 0 <= chunk.n_rows < _LARGEST_BYTES and 0 <= chunk.n_bytes < _LARGEST_BYTES
            if not sizes_can_be or not 0 <= chunk.start <= chunk.stop <= n_bytes:
                raise CorpusError(f"{place}: its footer says what cannot be of row group {number}: copy it again")
            chunks.append(chunk)
        return chunks


def _of(said: Mapping[int, Any], field: int) -> Any:
    if field not in said:
        raise ValueError(f"field {field} of a structure is missing")
    return said[field]


def _leaves(schema: Sequence[Mapping[int, Any]]) -> Iterator[bytes | None]:
    """The columns that are no structures, by their names; those inside structures without."""
    missing = [1]  # elements that are still to come, in each structure that is open: each is before those inside it
    for number, element in enumerate(schema):
        while missing and not missing[-1]:
            missing.pop()
        n_inside = element.get(_N_CHILDREN, 0)
        if not missing or n_inside < 0 or len(missing) > _DEEPEST:
            raise ValueError(f"its columns are no tree, or one of more than {_DEEPEST} levels")
        missing[-1] -= 1
        if n_inside or not number:
            missing.append(n_inside)
        else:
            yield _of(element, _NAME) if len(missing) == _OF_TABLE else None
    if any(missing):
        raise ValueError("its columns are no tree")


def _check_readable(chunk: Mapping[int, Any], what: str) -> None:
    if _CRYPTO in chunk or _ENCRYPTED_NUMBERS in chunk:
        raise CorpusError(f"{what} is encrypted, which is not read: write it without encryption")
    if chunk.get(_OTHER_FILE):
        other = printable(chunk[_OTHER_FILE].decode(errors="replace"), 100)
        raise CorpusError(f'{what} is in another file, "{other}": name the files that hold the data themselves')


def _located(numbers: Mapping[int, Any], n_rows: int) -> ColumnChunk:
    start, dictionary = _of(numbers, _DATA), numbers.get(_DICTIONARY, 0)
    start = dictionary if 0 < dictionary < start else start
    return ColumnChunk(n_rows, _of(numbers, _UNPACKED_BYTES), start, start + _of(numbers, _PACKED_BYTES))
