"""What a corpus is made of whose tokens nobody has counted: cells of slots, and how the tokens of a cell are read.

The slots of all cells are numbered through: bytes of files, or what stands for them. A cell is what one piece of text
or one row of ids takes up. Its n tokens own its first ``per_token n`` slots, each equally many: slot ``o`` of the cell
is that of token ``o mod n``. The rest of its slots is no token's. So a uniform slot, if it is a token's, is a uniform
token of the corpus, however long the cells are; a cell with more tokens than slots for them is left out. Token i of the
cell that starts at slot b is token ``b + i`` of the corpus: the indices have gaps, and none is used twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from lm_bounds.corpora.token_stream import IntArray


class Cell(NamedTuple):
    """A piece of a corpus as it is stored.

    Args:
        base: its first slot.
        n_slots: how many it has, at least 1.
        content: what its tokens are read from.
        where: its file and byte, for messages.
    """

    base: int
    n_slots: int
    content: Any
    where: str


class Cells(Protocol):
    """Cells that partition the slots of a corpus."""

    @property
    def number(self) -> int:
        """How many slots there are."""
        ...

    @property
    def source(self) -> str:
        """Where they are, at which commit."""
        ...

    @property
    def rule(self) -> dict[str, Any]:
        """How files are cut into cells, and their sizes: JSON that is the same for every copy, wherever it lies."""
        ...

    @property
    def identity(self) -> str:
        """What would be another if a file were changed."""
        ...

    def at(self, slot: IntArray) -> list[Cell]:
        """The cell of each slot.

        Args:
            slot: in increasing order, each in ``[0, number)``. # shape: (n,)

        Raises:
            CorpusError: they cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class CellTokens:
    """What is in a cell.

    Args:
        ids: its tokens, int64; none where it is malformed. # shape: (n,)
        starts: where its documents start, first of them 0, those after an end of text left out. # shape: (k,)
        void: what is wrong with it; None where nothing is.
        n_void: how many of its first slots would be tokens' if it were not malformed.
    """

    ids: IntArray
    starts: IntArray
    void: str | None = None
    n_void: int = 0


def malformed(reason: str, n_void: int) -> CellTokens:
    """A cell without tokens, because of what is wrong with it."""
    return CellTokens(np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64), reason, n_void)


class CellReader(Protocol):
    """How the tokens of a cell are read."""

    @property
    def per_token(self) -> int:
        """Slots of each token."""
        ...

    @property
    def row_tokens(self) -> int | None:
        """Tokens of every cell that is not malformed; None where they differ."""
        ...

    @property
    def reencoded_from(self) -> str | None:
        """Hash of the tokenizer that the cells are stored in, where the tokens are another's; else None."""
        ...

    @property
    def rule(self) -> dict[str, Any]:
        """What decides the tokens of a cell besides the tokenizer: JSON."""
        ...

    def read(self, cells: Sequence[Cell]) -> list[CellTokens]:
        """The tokens of each cell."""
        ...
