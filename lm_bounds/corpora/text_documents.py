"""Documents of text: text, .jsonl, .parquet and .arrow files, or a folder of them, read piece by piece."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from lm_bounds.corpora.byte_source import LocalBytes, unreadable
from lm_bounds.corpora.json_line import parse_line
from lm_bounds.corpora.source_files import TABLE_SUFFIXES, SourceFile, is_plain_text, suffix_of
from lm_bounds.corpora.text_columns import ArrowColumn, ParquetColumn, Strings
from lm_bounds.errors import CorpusError, printable

PIECE_CHARS = 1 << 20
# The field of a line of JSON, or the column of a table, that is the document.
TEXT_COLUMN = "text"
_LONGEST_NAMES = 100  # letters of the names of fields that are quoted
_SUPPORTED = "supported are UTF-8 text, .jsonl, .parquet and .arrow files, folders of them, and token .bin files"


class TextPiece(NamedTuple):
    """A part of a document; pieces of one document follow each other."""

    document: int
    text: str


def text_pieces(files: tuple[SourceFile, ...]) -> Iterator[TextPiece]:
    """The pieces of all documents in their order; a document without text has none.

    Raises:
        CorpusError: a file cannot be read, is not UTF-8 text, or has a line that is no document.
    """
    document = 0
    for file in files:
        try:
            for text in _documents(file):
                for piece in split_pieces(text):
                    if is_plain_text(file.name):
                        _refuse_nul(piece, file.path)
                    yield TextPiece(document, piece)
                document += 1
        except UnicodeDecodeError as error:
            raise _not_utf8(file.path, error) from error
        except OSError as error:
            raise unreadable(file.path, error) from error


def _documents(file: SourceFile) -> Iterator[TextIO]:
    suffix = suffix_of(file.name)
    if suffix in TABLE_SUFFIXES:
        for strings in _parquet_rows(file) if suffix == ".parquet" else _arrow_rows(file):
            yield from (io.StringIO(strings.text(row), newline="\n") for row in range(len(strings)))
        return
    with file.path.open(encoding="utf-8-sig", errors="strict", newline="\n") as stream:
        if suffix == ".jsonl":
            yield from _json_lines(file, stream)
        else:
            yield stream


def _parquet_rows(file: SourceFile) -> Iterator[Strings]:
    column = _parquet_column(file)
    for group, content in column.fetched(column.groups):
        yield from column.rows(group, content)


def _parquet_column(file: SourceFile) -> ParquetColumn:
    return ParquetColumn(LocalBytes(str(file.path), [(file.name, file.path)]), [0], TEXT_COLUMN)


def _arrow_rows(file: SourceFile) -> Iterator[Strings]:
    column = ArrowColumn(file.path, TEXT_COLUMN)
    for batch in range(len(column)):
        yield column.rows(batch)


def text_bytes(files: tuple[SourceFile, ...]) -> int:
    """How much text there is, about: the bytes of files, in .parquet files those of the column before compression.

    Raises:
        CorpusError: a .parquet file cannot be read, or has no such column.
    """
    return sum(
        sum(group.n_bytes for group in _parquet_column(file).groups)
        if suffix_of(file.name) == ".parquet"
        else file.n_bytes
        for file in files
    )


def split_pieces(stream: TextIO) -> Iterator[str]:
    """Cut a text into pieces: ``PIECE_CHARS`` characters and the rest of that line, at most as many again.

    Where a piece ends depends on the text up to there only, and bounds the memory that tokenising it takes.
    """
    while piece := stream.read(PIECE_CHARS):
        if not piece.endswith("\n"):
            piece += stream.readline(PIECE_CHARS)
        yield piece


def _json_lines(file: SourceFile, stream: TextIO) -> Iterator[TextIO]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            text, wrong = text_of_line(line, TEXT_COLUMN)
            if wrong is not None:
                raise CorpusError(f"{file.path}:{number}: {wrong}")
            yield io.StringIO(text, newline="\n")


def text_of_line(line: str, column: str) -> tuple[str, str | None]:
    """The string in a field of a line of JSON, and what is wrong with the line; None where nothing is.

    >>> text_of_line('{"text": "a\\\\n"}', "text")
    ('a\\n', None)
    """
    try:
        row = parse_line(line)
    except ValueError as error:
        return "", f"not JSON ({error}); each line must be one JSON object"
    if not isinstance(row, dict):
        return "", f'found a JSON {type(row).__name__}, need an object with a string field "{column}"'
    text = row.get(column)
    if not isinstance(text, str):
        fields = ", ".join(
            f"{name[:_LONGEST_NAMES]} ({type(value).__name__})" for name, value in list(row.items())[:10]
        )
        return "", f'need a string field "{column}", found the fields: {printable(fields, _LONGEST_NAMES) or "none"}'
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "", f'"{column}" holds half a surrogate pair, which is no character; repair it'
    return text, None


def decode_text(content: bytes, place: str, *, is_start: bool) -> str:
    """The text that a part of a file holds.

    Args:
        content: whole characters.
        place: of the file, for messages.
        is_start: whether the file begins with it, so that a byte-order mark is none of its text.

    Raises:
        CorpusError: it is not UTF-8, or has NUL bytes.
    """
    try:
        text = content.decode("utf-8-sig" if is_start else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(place, error) from error
    _refuse_nul(text, place)
    return text


def _refuse_nul(text: str, place: object) -> None:
    if "\0" in text:
        raise CorpusError(f"{place} is not text (it has NUL bytes); {_SUPPORTED}")


def _not_utf8(place: object, error: UnicodeDecodeError) -> CorpusError:
    return CorpusError(f"{place} is not UTF-8 text ({error.reason}); {_SUPPORTED}")
