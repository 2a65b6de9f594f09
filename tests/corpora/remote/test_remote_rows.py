"""Rows of token ids behind URLs: the draws of a local copy, in few requests, whatever the server does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora.byte_source import open_bytes, range_requests
from lm_bounds.corpora.byte_source.range_requests import Patience
from lm_bounds.corpora.slots import RowFormat, SlotCorpus, open_token_rows
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import draw_windows, draws_sha256, stream_seed

ROWS = RowFormat(stored=2049, counted=2048, skipped=1, field="token_ids")
SEED = stream_seed("certify", 1)
CONTEXT = 512


def rows(n: int, seed: int) -> bytes:
    """Rows as long as those of real corpora, about 12 kB each, one of them broken."""
    generator = np.random.default_rng(seed)
    lines = []
    for _ in range(n):
        ids = (generator.integers(0, 32_000, 2049) // generator.choice([1, 1, 1, 10, 100], 2049)).tolist()
        lines.append(json.dumps({"token_ids": ids, "source": "arxiv"}))
    lines[n // 2] = lines[n // 2].replace(", ", ", x", 1)
    return ("\n".join(lines) + "\n").encode()


@dataclass
class Repeated:
    """A file in which some bytes come over and over, far larger than memory."""

    unit: bytes
    n_times: int

    def __len__(self) -> int:
        return len(self.unit) * self.n_times

    def __getitem__(self, wanted: slice) -> bytes:
        first, n = wanted.start % len(self.unit), wanted.stop - wanted.start
        return (self.unit * (2 + n // len(self.unit)))[first : first + n]


def opened(place: str, cache: Path, n_counted: int = 64) -> SlotCorpus:
    options = {"n_entries": 32_000, "n_ids": 32_000, "end_of_text_id": 2, "declared": None}
    source = open_bytes(place, cache, "*.jsonl")
    corpus = open_token_rows("rows", source, ROWS, tokenizer_hash="-", cache_dir=cache, **options)
    corpus.n_counted = n_counted
    return corpus


def drawn(corpus: SlotCorpus, n: int = 60) -> tuple[str, list[int]]:
    windows = draw_windows(corpus, n, CONTEXT, SEED)
    read = [corpus.read(start, stop) for start, stop in zip(windows.start, windows.stop, strict=True)]
    return draws_sha256(windows), np.concatenate(read).tolist()


@pytest.fixture
def patience(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More attempts than there are faults, whichever requests they come to."""
    patience = Patience(attempts=20, connect_timeout=5.0, read_timeout=0.5, least_rate=1e6)
    monkeypatch.setattr(range_requests, "Patience", lambda: patience)


@pytest.fixture
def shards(server: Any, tmp_path: Path) -> Path:
    """Two shards, behind URLs and on this machine."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for number in (0, 1):
        content = rows(40, number) * 8  # 4 MB
        (folder / f"train_{number}.jsonl").write_bytes(content)
        server.files[f"train_{number}.jsonl"] = content
    return folder


def test_draws_are_those_of_a_copy_and_a_second_model_asks_for_nothing(
    server: Any, shards: Path, tmp_path: Path
) -> None:
    near = opened(str(shards), tmp_path / "near")
    afar = opened(server.url("train_{0..1}.jsonl"), tmp_path / "afar")
    assert drawn(afar) == drawn(near)
    assert (afar.sha256(), afar.count, afar.n_tokens) == (near.sha256(), near.count, near.n_tokens)
    again = opened(server.url("train_{0..1}.jsonl"), tmp_path / "afar")
    server.asked.clear()
    assert drawn(again) == drawn(near)
    assert again.count == near.count
    assert server.asked == []


def test_at_most_four_requests_for_each_token(server: Any, patience: None, tmp_path: Path) -> None:
    """From 20 GB, so that hardly any two draws lie in the same block; nothing was read before but to count."""
    server.no_mark = True
    server.files["train_0.jsonl"] = Repeated(rows(160, 3), 10_000)
    corpus, n = opened(server.url("train_0.jsonl"), tmp_path / "cache"), 100
    assert corpus.number > 1.8e10
    assert corpus.count.drawn == 64
    counting = len(server.asked)
    assert counting <= 1.5 * (
        64 + 64
    )  # those that decide where to count; a row of 12 kB crosses a multiple of 64 KiB now and then
    windows = draw_windows(corpus, n, CONTEXT, SEED)
    assert len(server.asked) - counting <= 4 * n
    assert windows.attempt is not None
    assert int(windows.attempt[-1]) > 2 * n  # the line of a byte is not enough
    for _, asked in server.asked:
        first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
        assert last - first < 1 << 17
    server.asked.clear()
    for start, stop in zip(windows.start.tolist(), windows.stop.tolist(), strict=True):
        assert corpus.read(start, stop).size == stop - start
    assert server.asked == []


def test_failures_that_pass_change_nothing(
    server: Any, patience: None, shards: Path, tmp_path: Path, pauses: list[float]
) -> None:
    wanted = drawn(opened(str(shards), tmp_path / "near"))
    server.faults = [None, "stalls", "drops", "429 3", None, "ends early", "500", "stalls halfway", "shifts", "503"]
    assert drawn(opened(server.url("train_{0..1}.jsonl"), tmp_path / "afar")) == wanted
    assert server.faults == []
    assert 3.0 in pauses  # as long as the server asked for


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("416", "was changed while it was read: run again"),
        ("ignores range", "the server ignores range requests and would send the whole file"),
        ("429", "not to be had in 4 attempts"),
    ],
)
def test_other_failures_are_errors_and_what_was_read_is_kept(
    server: Any,
    shards: Path,
    tmp_path: Path,
    pauses: list[float],
    blocks: Callable[[], list[Path]],
    fault: str,
    message: str,
) -> None:
    corpus = opened(server.url("train_{0..1}.jsonl"), tmp_path / "cache")
    server.faults, server.always = [None] * 8, fault
    with pytest.raises(CorpusError, match=message) as caught:
        drawn(corpus)
    assert "\n" not in str(caught.value)
    kept = len(blocks())
    assert kept >= 8
    server.always = None
    assert drawn(corpus) == drawn(opened(str(shards), tmp_path / "near"))
    assert len(blocks()) > kept
