"""Counting by drawing: a fixed number of uniform slots, and which share of the slots of its cell is tokens'.

The slots are those of a seed that depends on the files alone, on their sizes and on what is at 64 places that follow
from these: neither a model nor a draw seed changes the number of tokens that a corpus is taken to have.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_bounds.bounds import SHARE_GRID, TokenCount
from lm_bounds.corpora.slots.protocol import Cell, CellReader, Cells, CellTokens
from lm_bounds.corpora.token_stream import IntArray
from lm_bounds.corpora.tokenised import cache_error, tokenizer_software
from lm_bounds.errors import UsageError
from lm_bounds.home import write_atomically
from lm_bounds.sampling import stream_seed, uniform_indices

_LOG = logging.getLogger(__name__)
_PROBES = 64


@dataclass(frozen=True)
class Counted:
    """What was found at the slots that were drawn.

    Args:
        count: what the number of tokens follows from.
        sha256: of the cells that were read.
    """

    count: TokenCount
    sha256: str


@dataclass(frozen=True)
class Counting:
    """What is to be counted, and how.

    Args:
        cells: where the tokens are.
        reader: what they are.
        drawn: slots that are drawn.
        declared: see ``TokenCount``.
        tokens: what else decides which tokens a cell has, and where documents end: JSON.
    """

    cells: Cells
    reader: CellReader
    drawn: int
    declared: int | None
    tokens: list[Any]

    @property
    def key(self) -> str:
        """Under which it is kept."""
        rules = [self.cells.rule, self.cells.identity, self.reader.rule, self.tokens, self.drawn, self.declared]
        key = ["lm-bounds/count/2", *rules, tokenizer_software()]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


ReadCells = Callable[[IntArray], Iterable[tuple[Cell, CellTokens]]]


def counted(counting: Counting, read_cells: ReadCells, cache_dir: Path) -> Counted:
    """What is at the slots that are drawn; kept in the cache folder, so that a corpus is counted once.

    Args:
        counting: what is to be counted.
        read_cells: gives the cells of slots in increasing order, and their tokens.
        cache_dir: folder of the cache.

    Raises:
        CorpusError: the files cannot be read, or the cache cannot be written.
    """
    path = cache_dir / "counts" / f"{counting.key}.json"
    kept = _read(path)
    if kept is not None:
        return kept
    found = _count(counting, read_cells)
    try:
        write_atomically(path, json.dumps({"count": found.count.to_dict(), "sha256": found.sha256}).encode())
    except OSError as error:
        raise cache_error(path, error) from error
    return found


def _read(path: Path) -> Counted | None:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Counted(TokenCount(**kept["count"]), str(kept["sha256"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
        _LOG.warning("%s is damaged and is made again", path)
        return None


def _count(counting: Counting, read_cells: ReadCells) -> Counted:
    cells, per_token, row_tokens = counting.cells, counting.reader.per_token, counting.reader.row_tokens or 0
    probed = hashlib.sha256()
    for cell, tokens in read_cells(_drawn_slots(_PROBES, cells, "probes")):
        _update(probed, cell, tokens)
    slots = _drawn_slots(counting.drawn, cells, "count", probed.hexdigest())
    shares: Counter[str] = Counter()
    n_void, n_rows, n_void_rows = 0, 0, 0
    digest = hashlib.sha256()
    for slot, (cell, tokens) in zip(slots.tolist(), read_cells(slots), strict=True):
        owned = per_token * tokens.ids.size
        shares[str(owned * SHARE_GRID // cell.n_slots)] += 1
        n_void += tokens.void is not None
        if row_tokens and slot - cell.base < max(owned, tokens.n_void):
            n_rows += 1
            n_void_rows += tokens.void is not None
        _update(digest, cell, tokens)
    count = TokenCount(
        slots=cells.number,
        per_token=per_token,
        row_tokens=row_tokens,
        drawn=int(slots.size),
        shares=dict(shares),
        void=n_void,
        rows=n_rows,
        void_rows=n_void_rows,
        declared=counting.declared,
    )
    return Counted(count, digest.hexdigest())


def _drawn_slots(n: int, cells: Cells, *parts: Any) -> IntArray:
    """So many uniform slots in increasing order, whose seed is made of these parts and the rule of the cells."""
    return np.sort(uniform_indices(n, cells.number, stream_seed("corpus", *parts, cells.rule)))


def _update(digest: Any, cell: Cell, tokens: CellTokens) -> None:
    digest.update(f"{cell.base} {cell.n_slots} {tokens.ids.size} {tokens.starts.size}\n".encode())
    digest.update(tokens.ids.astype("<i8").tobytes())
    digest.update(tokens.starts.astype("<i8").tobytes())
