"""Corpora whose tokens nobody has counted: uniform draws by rejection, and a number of tokens with its confidence."""

from lm_bounds.corpora.slots.corpus import SlotCorpus
from lm_bounds.corpora.slots.protocol import Cell, CellReader, Cells, CellTokens, malformed
from lm_bounds.corpora.slots.texts import EXTRA_SLOTS, Document, TextReader

__all__ = [
    "EXTRA_SLOTS",
    "Cell",
    "CellReader",
    "CellTokens",
    "Cells",
    "Document",
    "SlotCorpus",
    "TextReader",
    "malformed",
]
