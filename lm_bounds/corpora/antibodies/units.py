"""Data units of antibody sequences: tables of the AIRR standard, in OAS with a line of metadata before them.

A ``.csv.gz`` file is a data unit of the Observed Antibody Space (Olsen, Boyles and Deane, Protein Science 31, 2022):
its first line is one JSON object, quoted as a single field of CSV, the second names the columns, all others are
sequences. ``.csv`` and ``.tsv`` files may be plain AIRR tables, which have no metadata.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

from lm_bounds.corpora.byte_source import unreadable
from lm_bounds.corpora.source_files import names_below
from lm_bounds.errors import CorpusError

_LOG = logging.getLogger(__name__)
_READ_BYTES = 1 << 20
_LONGEST_LINE = 1 << 24
_COLUMNS = ("productive", "v_call", "j_call", "junction_aa", "sequence_alignment_aa")
_OPTIONAL = ("locus", "subject_id")
_TRUTH = {"T": True, "TRUE": True, "1": True, "F": False, "FALSE": False, "0": False, "": False}
_NOT_KNOWN = ("", "no", "none", "nan", "unknown")


class Row(NamedTuple):
    """A sequence as its unit has it; an optional column that is not there is an empty text."""

    productive: bool
    v_call: str
    j_call: str
    junction: str
    sequence: str
    locus: str
    subject: str


@dataclass(frozen=True)
class Unit:
    """A file of sequences.

    Args:
        path: of the file.
        sha256: of its bytes.
    """

    path: Path
    sha256: str

    @cached_property
    def metadata(self) -> Mapping[str, Any] | None:
        """The JSON object of the first line; None in a plain table.

        Raises:
            CorpusError: the file is empty or cannot be read, or the first line is neither metadata nor column names.
        """
        _, first = next(_records(self.path), (0, None))
        if not first:
            raise CorpusError(f"{self.path} is empty; download the data unit again")
        is_unit = self.path.name.lower().endswith(".csv.gz")
        if not is_unit and not first[0].lstrip().startswith("{"):
            return None
        try:
            found = json.loads(first[0]) if len(first) == 1 else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise CorpusError(
                f"{self.path}:1: a data unit begins with its metadata, one JSON object quoted as a single field of "
                "CSV; download it again, or name a plain AIRR table .csv or .tsv"
            )
        return found

    @property
    def subject(self) -> tuple[str, ...]:
        """Whose antibodies they are: author and ``Subject`` of the metadata, author and ``Run`` where the subject is
        not known; a plain table is a subject of its own.

        Raises:
            CorpusError: as ``metadata``, or the metadata have neither a subject nor a run.
        """
        if self.metadata is None:
            return ("table", self.sha256)
        author = str(self.metadata.get("Author", ""))
        for kind in ("Subject", "Run"):
            given = self.metadata.get(kind)
            name = "" if given is None else str(given).strip()
            if name.lower() not in _NOT_KNOWN:
                return ("unit", author, kind, name)
        raise CorpusError(f"{self.path}:1: the metadata have neither a Subject nor a Run; download the data unit again")

    def rows(self) -> Iterator[Row]:
        """The sequences in their order, each row whole.

        Raises:
            CorpusError: the file cannot be read, a column is missing, or a row is malformed; with file and line.
        """
        records = _records(self.path)
        if self.metadata is not None:
            next(records)
        line, names = next(records, (1 + (self.metadata is not None), []))
        places = _column_places(names, f"{self.path}:{line}")
        n_rows = 0
        for line, record in records:
            if len(record) != len(names):
                raise CorpusError(
                    f"{self.path}:{line}: a row of {len(record)} fields under {len(names)} columns; "
                    "repair the file or download it again"
                )
            values = ["" if place is None else record[place] for place in places]
            productive = _TRUTH.get(values[0].upper())
            if productive is None:
                raise CorpusError(f"{self.path}:{line}: productive must be T or F, found {values[0]!r}")
            n_rows += 1
            yield Row(productive, *values[1:])
        declared = (self.metadata or {}).get("Unique sequences")
        if isinstance(declared, int) and declared != n_rows:
            _LOG.warning("%s has %d sequences, its metadata say %d", self.path, n_rows, declared)


def find_units(location: Path) -> list[Unit]:
    """The data units at a place, in the order of their content's hash: names and places play no part.

    Hidden files are left out; of files with the same content one is read.

    Args:
        location: a file, or a folder whose files are all units, at any depth.

    Raises:
        CorpusError: there is none, a file is of another kind, or something cannot be read.
    """
    paths = [location / name for name in sorted(names_below(location))] if location.is_dir() else [location]
    if not paths:
        raise CorpusError(f"{location} holds no data units; name the folder of the .csv.gz files")
    for path in paths:
        if not path.name.lower().endswith((".csv.gz", ".csv", ".tsv", ".tsv.gz")):
            raise CorpusError(
                f"{path} is not read: sequences are in OAS data units (.csv.gz) and AIRR tables (.csv, .tsv, .tsv.gz); "
                "a folder must hold nothing else"
            )
    units: dict[str, Unit] = {}
    for path in paths:
        unit = Unit(path, _file_sha256(path))
        units.setdefault(unit.sha256, unit)
    return [units[sha256] for sha256 in sorted(units)]


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def _column_places(names: list[str], where: str) -> list[int | None]:
    missing = [name for name in _COLUMNS if name not in names]
    twice = [name for name in (*_COLUMNS, *_OPTIONAL) if names.count(name) > 1]
    if missing or twice:
        wrong = f"no column {missing[0]}" if missing else f"two columns {twice[0]}"
        raise CorpusError(
            f"{where}: {wrong}; the unpaired sequences of the AIRR standard with amino acids have the columns "
            f"{', '.join(_COLUMNS)}, each once"
        )
    return [names.index(name) if name in names else None for name in (*_COLUMNS, *_OPTIONAL)]


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of the table, each with the number of its last line."""
    is_tabs = path.name.lower().endswith((".tsv", ".tsv.gz"))
    lines = _lines(path)
    reader = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        if is_tabs
        else csv.reader(lines, strict=True)
    )
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(f"{path}:{reader.line_num}: {error}; repair the file or download it again") from error
        yield reader.line_num, record


def _lines(path: Path) -> Iterator[str]:
    number = 0
    stream: IO[bytes]
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:  # type: ignore[assignment]
            while raw := stream.readline(_LONGEST_LINE):
                number += 1
                if len(raw) == _LONGEST_LINE:
                    raise CorpusError(f"{path}:{number}: longer than {_LONGEST_LINE:,} bytes, no line of sequences")
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}:{number}: not UTF-8 text ({error.reason}); download the file again") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(
            f"{path}:{number + 1}: the gzip file is cut off or damaged ({error}); download it again"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
