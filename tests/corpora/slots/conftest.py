"""Files of rows of token ids, and what a reader finds in them who looks at every byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora.byte_source import open_bytes
from lm_bounds.corpora.slots import RowFormat, SlotCorpus, open_token_rows

ROWS = RowFormat(stored=6, counted=4, skipped=1, field="ids")
N_ENTRIES, END = 100_000, 7
NO_TOKEN, VOID = -1, -2
IntArray = np.ndarray[Any, np.dtype[np.int64]]


def row(ids: Sequence[Any], source: str = "web", separators: tuple[str, str] = (", ", ": ")) -> bytes:
    return json.dumps({"ids": list(ids), "source": source}, separators=separators).encode()


def valid_ids(line: bytes) -> list[int] | None:
    """The ids of a line that count, one check after another; None where it is no row."""
    try:
        parsed = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    ids = parsed.get("ids") if isinstance(parsed, dict) else None
    if not isinstance(ids, list) or len(ids) != 6:
        return None
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < N_ENTRIES:
            return None
    return ids[1:5]


@dataclass
class Written:
    """Files of rows, and every slot of them looked at.

    Args:
        corpus: that is tested.
        token: of each slot, or what stands for none. # shape: (slots,)
        ids: of each token, by its index.
        bounds: of the document of each token, by its index.
        shard: of each token, by its index.
        malformed: file and byte of every malformed line.
    """

    corpus: SlotCorpus
    token: IntArray
    ids: dict[int, int]
    bounds: dict[int, tuple[int, int]]
    shard: dict[int, int]
    malformed: list[str]

    @property
    def tokens(self) -> IntArray:
        """The indices of all tokens."""
        return np.array(sorted(self.ids))


def looked_at(corpus: SlotCorpus, folder: Path, shards: Sequence[bytes]) -> Written:
    """Every slot of some files; a token is that of the first 2 x 4 bytes of its line."""
    found = Written(corpus, np.full(sum(map(len, shards)), NO_TOKEN), {}, {}, {}, [])
    base = 0
    for shard, content in enumerate(shards):
        at = 0
        while at < len(content):
            end = content.find(b"\n", at)
            stop = len(content) if end < 0 else end + 1
            ids = valid_ids(content[at:stop].removesuffix(b"\n"))
            if ids is None:
                found.malformed.append(f"{folder / f'part_{shard}.jsonl'}, byte {at}")
                found.token[base + at : base + stop] = VOID
            else:
                add_row(found, base + at, ids, shard)
            at = stop
        base += len(content)
    return found


def add_row(found: Written, base: int, ids: list[int], shard: int) -> None:
    start = 0
    for place, each in enumerate(ids):
        found.ids[base + place], found.shard[base + place] = each, shard
        found.token[base + place] = found.token[base + 4 + place] = base + place
        if each == END or place == 3:
            for inside in range(start, place + 1):
                found.bounds[base + inside] = base + start, base + place + 1
            start = place + 1


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Written]:
    """Writes shards and opens them."""

    def write_them(shards: Sequence[bytes], n_counted: int | None = None, **options: Any) -> Written:
        folder = tmp_path / f"rows {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for number, content in enumerate(shards):
            (folder / f"part_{number}.jsonl").write_bytes(content)
        given = {"n_entries": N_ENTRIES, "n_ids": N_ENTRIES, "declared": None, "end_of_text_id": END} | options
        source = open_bytes(str(folder), folder / "cache", "*.jsonl")
        corpus = open_token_rows("rows", source, ROWS, tokenizer_hash="-", cache_dir=folder / "cache", **given)
        corpus.n_counted = n_counted
        return looked_at(corpus, folder, shards)

    return write_them
