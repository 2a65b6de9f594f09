"""Rows of token ids as lines of JSON, each of the same number of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lm_bounds.corpora.byte_source import ByteSource
from lm_bounds.corpora.flat_tokens.layout import in_order
from lm_bounds.corpora.flat_tokens.stream import Rows
from lm_bounds.corpora.json_line import JSON_RULE, parse_line
from lm_bounds.corpora.slots.corpus import SlotCorpus
from lm_bounds.corpora.slots.lines import LineCells, check_line_files
from lm_bounds.corpora.slots.protocol import Cell, CellTokens, malformed
from lm_bounds.errors import CorpusError

_LONGEST_REASON = 100


@dataclass(frozen=True)
class RowFormat(Rows):
    """What is in a row, a JSON object in a line of its own.

    Args:
        stored, counted, skipped: see ``Rows``.
        field: that holds the ids.

    Raises:
        CorpusError: there cannot be such rows.

    >>> RowFormat(stored=2049, counted=2048, skipped=1, field="token_ids").counted
    2048
    """

    field: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.field:
            raise CorpusError("the field of a row that holds its ids must have a name")


@dataclass(frozen=True)
class TokenRowReader:
    """Tokens of cells whose content is the bytes of a line.

    A line is a row if it is a JSON object in UTF-8 whose field is a list of exactly ``stored`` whole numbers in
    ``[0, n_entries)``. Its tokens are ``counted`` of them after the first ``skipped`` ones. Every other line is
    malformed.

    A token has 2 slots, so that every row has enough of them: a list of ``stored`` numbers is written in at least
    ``2 stored + 1 > 2 counted`` bytes. This is rejection sampling: a uniform byte hits a row of L bytes in proportion
    to L, and one of its first ``2 counted`` bytes with probability ``2 counted / L`` then.

    Args:
        rows: what is in a row.
        n_entries: size of the vocabulary that the ids are of.

    Raises:
        CorpusError: there is no such vocabulary.
    """

    rows: RowFormat
    n_entries: int
    per_token: ClassVar[int] = 2  # a list of n numbers is written in at least n digits, n - 1 commas and 2 brackets
    reencoded_from: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.n_entries < 1:
            raise CorpusError(f"a vocabulary must have at least 1 entry, given {self.n_entries}")

    @property
    def row_tokens(self) -> int:
        """Tokens of every row that is not malformed."""
        return self.rows.counted

    @property
    def rule(self) -> dict[str, Any]:
        """What decides the tokens of a line."""
        return {"tokens": "rows", **vars(self.rows), "n_entries": self.n_entries, "json": JSON_RULE}

    def read(self, cells: Sequence[Cell]) -> list[CellTokens]:
        """The tokens of each line."""
        return [self._row(cell.content) for cell in cells]

    def _row(self, line: bytes) -> CellTokens:
        try:
            ids = self._ids(line)
        except ValueError as error:
            return malformed(str(error)[:_LONGEST_REASON], self.per_token * self.rows.counted)
        counted = ids[self.rows.skipped : self.rows.skipped + self.rows.counted]
        return CellTokens(np.array(counted, dtype=np.int64), np.zeros(1, dtype=np.int64))

    def _ids(self, line: bytes) -> list[int]:
        """The stored ids of a row.

        Raises:
            ValueError: saying why the line is none.
        """
        row = _parsed(line)
        if not isinstance(row, dict):
            raise ValueError("no JSON object")
        ids = row.get(self.rows.field)
        if not isinstance(ids, list):
            raise ValueError(f"no list in the field {self.rows.field!r}")
        if len(ids) != self.rows.stored:
            raise ValueError(f"{len(ids)} ids where a row has {self.rows.stored}")
        if set(map(type, ids)) != {int}:  # a bool is no number here
            place = next(number for number, each in enumerate(ids) if type(each) is not int)
            raise ValueError(f"the id at position {place} is no whole number")
        if min(ids) < 0 or max(ids) >= self.n_entries:
            place = next(number for number, each in enumerate(ids) if not 0 <= each < self.n_entries)
            raise ValueError(f"the id at position {place} is {ids[place]}, ids must be below {self.n_entries}")
        return ids


def _parsed(line: bytes) -> Any:
    """The JSON of a line; of other encodings than UTF-8, which ``json.loads`` would guess, nothing is taken.

    Raises:
        ValueError: saying where it is broken.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 from byte {error.start} of the line on") from error
    if not text.strip():
        raise ValueError("an empty line")
    return parse_line(text)


def open_token_rows(
    corpus_id: str,
    source: ByteSource,
    rows: RowFormat,
    *,
    n_entries: int,
    tokenizer_hash: str,
    end_of_text_id: int | None,
    n_ids: int,
    cache_dir: Path,
    declared: int | None,
) -> SlotCorpus:
    """Rows of ids in files of lines, in the order of the numbers in their names.

    A document begins with a row and after each end-of-text token, whichever is later.

    Args:
        corpus_id: its id in the registry.
        source: of the bytes.
        rows: what is in a row.
        n_entries: size of the vocabulary that the ids are of.
        tokenizer_hash: of the tokenizer of the language model.
        end_of_text_id: the id that ends a document; None where there is none.
        n_ids: every id must be below it.
        cache_dir: folder in which the count is kept.
        declared: tokens that it is said to have if no row is malformed; None where nothing is said.

    Raises:
        CorpusError: a file holds no lines, or there are no such rows.
    """
    check_line_files(source)
    order = in_order([file.name for file in source.files])
    return SlotCorpus(
        corpus_id=corpus_id,
        cells=LineCells(source, order, bytes),
        reader=TokenRowReader(rows, n_entries),
        tokenizer_sha256=tokenizer_hash,
        end_of_text_id=end_of_text_id,
        n_ids=n_ids,
        cache_dir=cache_dir,
        declared=declared,
    )
