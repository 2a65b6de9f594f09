"""A column of an .arrow file on this machine: record batches that are mapped into memory, of either IPC format.

The file format (``ARROW1``) lists its record batches; in the stream format, which ``datasets`` writes, the headers of
all batches are gone through once. Strings are not touched before they are asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_bounds.corpora.text_columns.strings import Strings, check_strings, reading
from lm_bounds.errors import CorpusError

_FILE_MAGIC = b"ARROW1"


class ArrowColumn:
    """A column of strings in an .arrow file.

    Args:
        path: of the file.
        column: its name.

    Raises:
        CorpusError: it cannot be read, or has no such column.
    """

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow

        self.place, self._column = str(path), column
        with reading(self.place, "arrow"):
            self._mapped = pyarrow.memory_map(self.place)
            is_file_format = self._mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            self._mapped.seek(0)
            self._batches = _FileBatches(self._mapped) if is_file_format else _StreamBatches(self._mapped, self.place)
        check_strings(self._batches.schema, column, self.place)

    def __len__(self) -> int:
        return len(self._batches)

    def rows(self, batch: int) -> Strings:
        """The rows of a record batch.

        Raises:
            CorpusError: they are damaged.
        """
        with reading(f"{self.place}, record batch {batch}", "arrow"):
            return Strings(self._batches.read(batch).column(self._column))


class _FileBatches:
    """Record batches of the file format."""

    def __init__(self, mapped: Any) -> None:
        from pyarrow import ipc

        self._reader = ipc.open_file(mapped)
        self.schema = self._reader.schema

    def __len__(self) -> int:
        return int(self._reader.num_record_batches)

    def read(self, number: int) -> Any:
        return self._reader.get_batch(number)


class _StreamBatches:
    """Record batches of the stream format, by the bytes at which they begin."""

    def __init__(self, mapped: Any, place: str) -> None:
        from pyarrow import ipc

        self._mapped = mapped
        self.schema = ipc.read_schema(mapped)
        self._starts: list[int] = []
        while True:
            start = mapped.tell()
            try:
                message = ipc.read_message(mapped)
            except EOFError:  # the mark of the end, or the end of the file, which may be without the mark
                return
            if message.type != "record batch":
                raise CorpusError(f"{place} has dictionaries, which are not read: write it with plain strings")
            self._starts.append(start)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, number: int) -> Any:
        from pyarrow import ipc

        self._mapped.seek(self._starts[number])
        return ipc.read_record_batch(ipc.read_message(self._mapped), self.schema)
