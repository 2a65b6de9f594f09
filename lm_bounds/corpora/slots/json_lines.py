"""Lines of JSON as cells: each line that is not blank is a document, the string in one of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lm_bounds.corpora.byte_source import ByteSource
from lm_bounds.corpora.json_line import JSON_RULE
from lm_bounds.corpora.slots.lines import LineCells
from lm_bounds.corpora.slots.texts import Document
from lm_bounds.corpora.text_documents import text_of_line


@dataclass(frozen=True, eq=False)
class JsonLines(LineCells):
    """Lines of JSON; see ``LineCells``.

    A line has more bytes than its text: each character stands there as itself or as an escape, ``\\uXXXX`` (6 bytes for
    at most 3 of UTF-8), two of these (12 bytes for 4) or a shorter one (2 bytes for 1), between two quotes, after a
    name with two more, in braces. So the line has the slots for one token a byte and for ``EXTRA_SLOTS`` more.

    Args:
        column: name of the field.
    """

    column: str

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and their sizes."""
        return {**super().rule, "field": self.column, "json": JSON_RULE}


def json_lines(source: ByteSource, order: Sequence[int], column: str) -> JsonLines:
    """The lines of some files of a source, in that order, whose documents are in the field ``column``."""
    return JsonLines(source, order, partial(document_of_line, column=column), column)


def document_of_line(line: bytes, column: str) -> Document:
    """The document of a line; none for a blank one, a void one for what is no document.

    >>> document_of_line(b'{"text": "a"}', "text").text, document_of_line(b"[1]", "text").void
    ('a', 'found a JSON list, need an object with a string field "text"')
    """
    try:
        written = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Document("", void=f"not UTF-8 text ({error.reason})")
    if not written.strip():
        return Document("")
    text, wrong = text_of_line(written, column)
    return Document(text, void=wrong)
