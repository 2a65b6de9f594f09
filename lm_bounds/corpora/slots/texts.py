"""Documents of text, tokenised where they are drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_bounds.corpora import text_documents
from lm_bounds.corpora.protocol import Tokenizer
from lm_bounds.corpora.slots.protocol import Cell, CellTokens, malformed
from lm_bounds.corpora.text_documents import split_pieces

# Slots that a document of text has beyond its bytes: a tokenizer may begin it with a token of its own, and one ends it.
EXTRA_SLOTS = 2


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

    @property
    def per_token(self) -> int:
        """Slots of each token."""
        return 1

    @property
    def row_tokens(self) -> None:
        """Documents are of any length."""
        return None

    @property
    def rule(self) -> dict[str, Any]:
        """What decides the tokens besides the tokenizer."""
        return {"tokens": "text", "piece_chars": text_documents.PIECE_CHARS}

    def read(self, cells: Sequence[Cell]) -> list[CellTokens]:
        """The tokens of each cell."""
        pieces = [list(split_pieces(io.StringIO(cell.content.text, newline="\n"))) for cell in cells]
        texts = [piece for each in pieces for piece in each]
        ids = iter(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
        return [
            self._tokens(cell, [token for _ in each for token in next(ids)])
            for cell, each in zip(cells, pieces, strict=True)
        ]

    def _tokens(self, cell: Cell, ids: list[int]) -> CellTokens:
        document: Document = cell.content
        if document.void is not None:
            return malformed(document.void, cell.n_slots)
        if ids and document.ends and self.end_of_text_id is not None:
            ids.append(self.end_of_text_id)
        return CellTokens(np.array(ids, dtype=np.int64), np.zeros(1, dtype=np.int64))
