"""A column of an .arrow file on this machine: record batches that are mapped into memory, of either IPC format.

The file format (``ARROW1``) lists its record batches; in the stream format, which ``datasets`` writes, the headers of
all batches are gone through once. Strings are not touched before they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from lm_bounds.corpora.text_columns.strings import Strings, check_strings, reading
from lm_bounds.errors import CorpusError

_FILE_MAGIC = b"ARROW1"
_MOST_MAPPED = 64


class MappedFiles:
    """Files that are mapped into memory: the last ones that were asked for, since each is an open file.

    Args:
        most: how many, at least 1.
    """

    def __init__(self, most: int = _MOST_MAPPED) -> None:
        self._most = most
        self._mapped: OrderedDict[str, Any] = OrderedDict()

    def get(self, path: str) -> Any:
        """A file, mapped anew where it is not any more.

        Raises:
            OSError: it cannot be opened.
        """
        import pyarrow

        if path not in self._mapped:
            while len(self._mapped) >= self._most:
                self._mapped.popitem(last=False)[1].close()  # strings that were read from it stay mapped
            self._mapped[path] = pyarrow.memory_map(path)
        self._mapped.move_to_end(path)
        return self._mapped[path]


class ArrowColumn:
    """A column of strings in an .arrow file.

    Args:
        path: of the file.
        column: its name.
        mapped: where it is mapped; by default it is the only one.

    Raises:
        CorpusError: it cannot be read, or has no such column.
    """

    def __init__(self, path: Path, column: str, mapped: MappedFiles | None = None) -> None:
        self.place, self._column = str(path), column
        self._mapped = MappedFiles() if mapped is None else mapped
        with reading(self.place, "arrow"):
            file = self._mapped.get(self.place)
            is_file_format = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            file.seek(0)
            self._batches = _FileBatches(file) if is_file_format else _StreamBatches(file, self.place)
            check_strings(self._batches.schema, column, self.place)

    def __len__(self) -> int:
        return len(self._batches)

    def rows(self, batch: int) -> Strings:
        """The rows of a record batch.

        Raises:
            CorpusError: they are damaged.
        """
        with reading(f"{self.place}, record batch {batch}", "arrow"):
            return Strings(self._batches.read(self._mapped.get(self.place), batch).column(self._column))


class _FileBatches:
    """Record batches of the file format."""

    def __init__(self, file: Any) -> None:
        from pyarrow import ipc

        reader = ipc.open_file(file)
        self.schema, self._n = reader.schema, int(reader.num_record_batches)
        self._of, self._reader = file, reader

    def __len__(self) -> int:
        return self._n

    def read(self, file: Any, number: int) -> Any:
        from pyarrow import ipc

        if file is not self._of:  # it was mapped anew
            self._of, self._reader = file, ipc.open_file(file)
        return self._reader.get_batch(number)


class _StreamBatches:
    """Record batches of the stream format, by the bytes at which they begin."""

    def __init__(self, file: Any, place: str) -> None:
        from pyarrow import ipc

        self.schema = ipc.read_schema(file)
        self._starts: list[int] = []
        while True:
            start = file.tell()
            try:
                message = ipc.read_message(file)
            except EOFError:  # the mark of the end, or the end of the file, which may be without the mark
                return
            if message.type != "record batch":
                raise CorpusError(f"{place} has dictionaries, which are not read: write it with plain strings")
            self._starts.append(start)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, file: Any, number: int) -> Any:
        from pyarrow import ipc

        file.seek(self._starts[number])
        return ipc.read_record_batch(ipc.read_message(file), self.schema)
