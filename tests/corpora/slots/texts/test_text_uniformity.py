"""Every token of hostile documents is equally likely, however they are stored; tempting samplers would not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from lm_bounds.sampling import draw_windows, stream_seed

LEAST_P_VALUE = 1e-6
LAYOUTS = ["jsonl", "parquet", "arrow", "txt"]
NAMES = ["byte level", "byte fallback"]
N = 40_000


def documents(shapes: Any, layout: str, tokenizer: Any, folder: Path) -> list[tuple[int, str, list[int]]]:
    """First slot, text and tokens of every document that has tokens."""
    found = []
    for base, text in shapes.bases(layout, shapes.FILES, folder):
        ids = tokenizer([text], add_special_tokens=False)["input_ids"][0]
        if ids:
            found.append((base, text, [*ids, shapes.END]))
    return found


def p_value(drawn: Any, known: list[tuple[int, str, list[int]]]) -> float:
    """Of tokens that should be uniform over all tokens of some documents; each must be one of them."""
    every = np.array([base + place for base, _, ids in known for place in range(len(ids))])
    counts = np.zeros(every.size, dtype=int)
    place = np.searchsorted(every, drawn)
    assert (every[np.minimum(place, every.size - 1)] == drawn).all()
    np.add.at(counts, place, 1)
    return float(chisquare(counts).pvalue)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_draws_are_uniform_over_documents_and_places(
    name: str, layout: str, tmp_path: Path, shapes: Any, tokenizers: Any
) -> None:
    folder = shapes.write(tmp_path / "text", layout, shapes.FILES)
    corpus = shapes.opened(shapes.local(folder), tokenizers[name], tmp_path / "cache")
    known = documents(shapes, layout, tokenizers[name], folder)
    drawn = draw_windows(corpus, N, 8, stream_seed("certify", layout, name))
    assert p_value(drawn.token_index, known) > LEAST_P_VALUE
    assert not drawn.voided.any()
    read = {base + place: token for base, _, ids in known for place, token in enumerate(ids)}
    for start, stop in zip(drawn.start[:300].tolist(), drawn.stop[:300].tolist(), strict=True):
        assert corpus.read(start, stop).tolist() == [read[place] for place in range(start, stop)]
    n_tokens = len(read)
    assert 0.7 * n_tokens < corpus.n_tokens <= n_tokens  # fails once in a thousand corpora, and this is one


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_naive_samplers_are_caught(name: str, layout: str, tmp_path: Path, shapes: Any, tokenizers: Any) -> None:
    """A uniform document, or the document of a uniform byte, and a uniform token of it."""
    known = documents(shapes, layout, tokenizers[name], shapes.write(tmp_path / "text", layout, shapes.FILES))
    generator = np.random.default_rng(0)
    sizes = np.array([len(text.encode()) + shapes.EXTRA for _, text, _ in known])
    for share in (None, sizes / sizes.sum()):
        chosen = generator.choice(len(known), size=N, p=share)
        drawn = [known[k][0] + generator.integers(len(known[k][2])) for k in chosen.tolist()]
        assert p_value(np.array(drawn), known) < LEAST_P_VALUE


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_windows_come_up_in_proportion_to_their_size(layout: str, tmp_path: Path, shapes: Any, tokenizers: Any) -> None:
    folder, context = shapes.write(tmp_path / "text", layout, shapes.FILES), 5
    corpus = shapes.opened(shapes.local(folder), tokenizers["byte level"], tmp_path / "cache")
    windows: dict[int, int] = {}
    for base, _, ids in documents(shapes, layout, tokenizers["byte level"], folder):
        for first in range(0, len(ids), context):
            windows[base + first] = min(context, len(ids) - first)
    drawn = draw_windows(corpus, N, context, stream_seed("certify", 5))
    starts = np.array(sorted(windows))
    counts = np.bincount(np.searchsorted(starts, drawn.start), minlength=starts.size)
    sizes = np.array([windows[start] for start in starts.tolist()])
    assert float(chisquare(counts, sizes * (N / sizes.sum())).pvalue) > LEAST_P_VALUE
    assert [windows[start] for start in drawn.start.tolist()] == (drawn.stop - drawn.start).tolist()
