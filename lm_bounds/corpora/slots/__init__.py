"""Corpora whose tokens nobody has counted: uniform draws by rejection, and a number of tokens with its confidence."""

from lm_bounds.corpora.slots.corpus import SlotCorpus
from lm_bounds.corpora.slots.protocol import Cell, CellReader, Cells, CellTokens, malformed
from lm_bounds.corpora.slots.reencoded import ReencodedReader, StoredIdCells, StoredIdReader
from lm_bounds.corpora.slots.text_files import TEXT_SUFFIXES, open_texts
from lm_bounds.corpora.slots.texts import EXTRA_SLOTS, Document, TextReader
from lm_bounds.corpora.slots.token_rows import RowFormat, TokenRowReader, open_token_rows

__all__ = [
    "EXTRA_SLOTS",
    "TEXT_SUFFIXES",
    "Cell",
    "CellReader",
    "CellTokens",
    "Cells",
    "Document",
    "ReencodedReader",
    "RowFormat",
    "SlotCorpus",
    "StoredIdCells",
    "StoredIdReader",
    "TextReader",
    "TokenRowReader",
    "malformed",
    "open_texts",
    "open_token_rows",
]
