"""Small data units that the tests write."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLAIN = {
    "sequence": "ACGT",
    "locus": "H",
    "productive": "T",
    "v_call": "IGHV3-23*01",
    "j_call": "IGHJ4*02",
    "sequence_alignment_aa": "EVQLCARDYWW",
    "junction_aa": "CARDYW",
    "ANARCI_status": "|Deletions: 1, 2|",
}
COLUMNS = tuple(PLAIN)
METADATA = {"Run": "SRR1", "Author": 'Parameswaran et al., 2014, "Dengue"', "Subject": "Subject-1", "Chain": "Heavy"}


def table(rows: list[dict[str, str]], delimiter: str = ",", columns: tuple[str, ...] = COLUMNS) -> str:
    """The rows under their columns; what a row does not say is that of a good one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**PLAIN, **row} for row in rows)
    return text.getvalue()


def metadata_line(**changes: Any) -> str:
    """The first line of a data unit: one JSON object, quoted as a field of CSV."""
    return '"' + json.dumps({**METADATA, **changes}).replace('"', '""') + '"\n'


@pytest.fixture
def units_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "units"
    folder.mkdir()
    return folder


@pytest.fixture
def written(units_dir: Path) -> Callable[..., Path]:
    """``written(name, rows, **metadata)``: a data unit in the folder of units."""

    def write(name: str, rows: list[dict[str, str]], **metadata: Any) -> Path:
        path = units_dir / name
        path.write_bytes(gzip.compress((metadata_line(**metadata) + table(rows)).encode()))
        return path

    return write


@pytest.fixture
def as_table() -> Callable[..., str]:
    return table


@pytest.fixture
def as_metadata() -> Callable[..., str]:
    return metadata_line
