"""Any number of .arrow files is read with few of them open, and what keeps one from being opened is said."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lm_bounds.corpora.byte_source import LocalBytes
from lm_bounds.corpora.slots.arrow import ArrowRows
from lm_bounds.corpora.text_columns import ArrowColumn, MappedFiles
from lm_bounds.corpora.text_columns.strings import reading
from lm_bounds.errors import CorpusError

BATCHES: list[list[Any]] = [["a", None, "é"], ["", "four"], ["the end"]]


def write(path: Path, batches: list[list[Any]], *, stream: bool) -> Path:
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, pa.schema({"text": pa.string()})) as writer:
        for batch in batches:
            writer.write_table(pa.table({"text": pa.array(batch, pa.string())}))
    return path


@pytest.fixture
def few_files() -> Iterator[int]:
    """No more than 100 files may be open in this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 100, limits[1]))
    yield 100
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_files_than_may_be_open(tmp_path: Path, few_files: int) -> None:
    names = [f"{number:03}.arrow" for number in range(2 * few_files)]
    paths = [
        (name, write(tmp_path / name, [[f"{name} {row}"] for row in range(3)], stream=number % 2 == 0))
        for number, name in enumerate(names)
    ]
    cells = ArrowRows(LocalBytes("here", paths), range(len(paths)), "text")
    slots = np.random.default_rng(0).integers(0, cells.number, 500)
    slots.sort()
    found = cells.at(slots)
    row_slots = len("000.arrow 0") + 2
    assert cells.number == len(names) * 3 * row_slots
    for slot, cell in zip(slots.tolist(), found, strict=True):
        row = slot // row_slots
        assert (cell.base, cell.content.text) == (row * row_slots, f"{names[row // 3]} {row % 3}")
    with pytest.raises(CorpusError, match=r"Too many open files; let more files be open \(ulimit -n\)") as caught:
        [ArrowColumn(path, "text") for _, path in paths]  # each has a file of its own open
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_read_stays_when_its_file_is_closed(stream: bool, tmp_path: Path) -> None:
    mapped = MappedFiles(most=1)
    columns = [
        ArrowColumn(write(tmp_path / f"{number}.arrow", BATCHES, stream=stream), "text", mapped) for number in range(3)
    ]
    read = [(columns[number].rows(batch), batch) for batch in (2, 0, 1, 0) for number in (1, 0, 2)]
    for rows, batch in read:
        assert [rows.text(row) for row in range(len(rows))] == [text or "" for text in BATCHES[batch]]
        assert len(columns[0]) == 3


@pytest.mark.parametrize("stream", [True, False])
def test_names_of_columns_that_are_no_utf8(stream: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    table = pa.table({"NAME": ["b"], "text": ["a"]})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"NAME", b"N\xff\xfeE"))
    with pytest.raises(CorpusError, match=r"t\.arrow cannot be read as arrow: 'utf-8' codec can't decode"):
        ArrowColumn(path, "text")


def test_names_of_columns_are_quoted_in_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    table = pa.table({"\x1b[2J" + "n" * 5000: ["b"]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(CorpusError, match=r"found the columns: \?\[2Jnnn") as caught:
        ArrowColumn(path, "text")
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "x"), "a cannot be read: Too many open files; let more files be open"),
        (PermissionError(errno.EACCES, "x"), "a cannot be read: Permission denied; check that it exists"),
        (OSError("Corrupt snappy data"), "a cannot be read as arrow: Corrupt snappy data; it is cut off, damaged"),
        (OSError(errno.EINVAL, "lseek"), r"a cannot be read as arrow: \[Errno 22\] lseek; it is cut off, damaged"),
        (ValueError("bad \x1b\nvalue"), r"a cannot be read as arrow: bad \?; it is cut off"),
        (EOFError(), "a cannot be read as arrow: EOFError; it is cut off"),
        (CorpusError("said already"), "^said already$"),
    ],
)
def test_damage_is_told_from_what_keeps_a_file_from_being_opened(error: Exception, message: str) -> None:
    with pytest.raises(CorpusError, match=message), reading("a", "arrow"):
        raise error
