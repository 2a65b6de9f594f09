"""A column of strings, its rows as bytes, and what is said of a damaged file that has it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.errors import CorpusError, printable

_MOST_NAMES = 10
_LONGEST_NAME = 100
_LONGEST_REASON = 300


@contextmanager
def reading(place: str, kind: str) -> Iterator[None]:
    """Says in one line which file is damaged, whatever was found; of one that could not be opened, why.

    Raises:
        CorpusError: in place of what pyarrow raises, and of a value error.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number not in (None, errno.EINVAL):  # EINVAL: a place in the file that cannot be, or nothing to map
            too_many = number in (errno.EMFILE, errno.ENFILE)
            advice = "let more files be open (ulimit -n)" if too_many else "check that it exists and its permissions"
            raise CorpusError(f"{place} cannot be read: {os.strerror(number)}; {advice}") from error
        reason = printable((str(error).strip() or type(error).__name__).partition("\n")[0], _LONGEST_REASON)
        raise CorpusError(
            f"{place} cannot be read as {kind}: {reason}; it is cut off, damaged, or only a pointer of git-lfs: copy "
            "it again"
        ) from error


def check_strings(schema: Any, column: str, place: str) -> None:
    """Refuses a table without a column of strings of that name.

    Raises:
        CorpusError: naming the columns that there are.
        ValueError: their names are not UTF-8.
    """
    from pyarrow import types

    fields = [field for field in schema if field.name == column]
    if len(fields) == 1 and (types.is_string(fields[0].type) or types.is_large_string(fields[0].type)):
        return
    names = [printable(f"{field.name} ({field.type})", _LONGEST_NAME) for field in list(schema)[:_MOST_NAMES]]
    shown = ", ".join(names)
    more = ", ..." if len(schema) > _MOST_NAMES else ""
    raise CorpusError(
        f'{place}: need one column "{column}" of strings, found the columns: {shown or "none"}{more}; rename the column'
    )


class Strings:
    """Consecutive rows of a column of strings.

    Args:
        array: of pyarrow, of strings.

    Raises:
        pyarrow.ArrowInvalid: it is not laid out as it must be.
    """

    def __init__(self, array: Any) -> None:
        import pyarrow

        array.validate()
        cast = array.cast(pyarrow.large_binary())
        _, offsets, values = cast.buffers()
        if len(cast):
            self._offsets = np.frombuffer(offsets, dtype=np.int64)[cast.offset : cast.offset + len(cast) + 1]
        else:
            self._offsets = np.zeros(1, dtype=np.int64)
        self._values = memoryview(values if values is not None else b"")
        self.is_null: np.ndarray[Any, np.dtype[np.bool_]] = cast.is_null().to_numpy(zero_copy_only=False)
        if (np.diff(self._offsets) < 0).any() or not 0 <= self._offsets[0] <= self._offsets[-1] <= len(self._values):
            raise pyarrow.ArrowInvalid("the offsets of its strings do not rise, or lie behind their end")

    def __len__(self) -> int:
        return int(self._offsets.size) - 1

    @property
    def lengths(self) -> IntArray:
        """Bytes of each row."""
        return np.diff(self._offsets)

    def content(self, row: int) -> memoryview:
        """The bytes of a row."""
        return self._values[int(self._offsets[row]) : int(self._offsets[row + 1])]

    def text(self, row: int) -> str:
        """What a row says; nothing where it is null.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return "" if self.is_null[row] else str(self.content(row), "utf-8")
