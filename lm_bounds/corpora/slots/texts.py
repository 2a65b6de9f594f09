"""Documents of text, tokenised where they are drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lm_bounds.corpora import text_documents
from lm_bounds.corpora.protocol import Tokenizer
from lm_bounds.corpora.slots.protocol import Cell, CellTokens, malformed
from lm_bounds.corpora.text_documents import TextPiece, split_pieces
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.corpora.tokenised import batches

# Slots that a document of text has beyond its bytes: a tokenizer may begin it with a token of its own, and one ends it.
EXTRA_SLOTS = 2
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Document:
    """The content of a cell of text.

    Args:
        text: what it says; empty for what is no document.
        ends: whether an end-of-text token follows.
        void: what is wrong with it; None where nothing is.
    """

    text: str
    ends: bool = True
    void: str | None = None


def document_of_bytes(content: bytes | memoryview) -> Document:
    """The document that some bytes are; a void one where they are no UTF-8 text.

    >>> document_of_bytes(b"caf\\xe9").void
    'not UTF-8 text (unexpected end of data)'
    """
    try:
        return Document(str(content, "utf-8"))
    except UnicodeDecodeError as error:
        return Document("", void=f"not UTF-8 text ({error.reason})")


@dataclass(frozen=True)
class TextReader:
    """Tokens of cells whose content is a ``Document``.

    The tokens are those of a model's tokenizer, without added special tokens, of pieces of whole lines of about a
    million characters; one end-of-text token follows a document that has tokens.

    Args:
        tokenizer: of the language model.
        end_of_text_id: the id that ends a document; None where the model has none.
    """

    tokenizer: Tokenizer
    end_of_text_id: int | None
    per_token: ClassVar[int] = 1
    row_tokens: ClassVar[None] = None
    reencoded_from: ClassVar[None] = None

    @property
    def rule(self) -> dict[str, Any]:
        """What decides the tokens besides the tokenizer."""
        return {"tokens": "text", "piece_chars": text_documents.PIECE_CHARS}

    def read(self, cells: Sequence[Cell]) -> list[CellTokens]:
        """The tokens of each cell; about two million characters are tokenised at a time."""
        ids: list[list[IntArray]] = [[] for _ in cells]
        for batch in batches(_pieces(cells)):
            texts = [piece.text for piece in batch]
            found = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for piece, each in zip(batch, found, strict=True):
                ids[piece.document].append(np.array(each, dtype=np.int64))
        return [self._tokens(cell, each) for cell, each in zip(cells, ids, strict=True)]

    def _tokens(self, cell: Cell, pieces: list[IntArray]) -> CellTokens:
        document: Document = cell.content
        if document.void is not None:
            return malformed(document.void, cell.n_slots)
        ids = np.concatenate([_NOTHING, *pieces])
        if ids.size and document.ends and self.end_of_text_id is not None:
            ids = np.append(ids, self.end_of_text_id)
        return CellTokens(ids, np.zeros(1, dtype=np.int64))


def _pieces(cells: Sequence[Cell]) -> Iterator[TextPiece]:
    for number, cell in enumerate(cells):
        for piece in split_pieces(io.StringIO(cell.content.text, newline="\n")):
            yield TextPiece(number, piece)
