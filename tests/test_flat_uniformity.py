"""Every token of hostile token files is equally likely, wherever the files are cut; a uniform file would not do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from lm_bounds.corpora import FlatTokens
from lm_bounds.corpora.byte_source import open_bytes
from lm_bounds.corpora.flat_tokens import token_files
from lm_bounds.corpora.flat_tokens.documents import FoundDocuments
from lm_bounds.corpora.flat_tokens.stream import Rows, TokenSequence
from lm_bounds.sampling import all_windows, draw_distinct_windows, draw_windows, stream_seed

LEAST_P_VALUE = 1e-6
END, CONTEXT = 7, 5
IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Shape:
    """Token files and what is known of them.

    Args:
        tokens: stored ids.
        shards: how many of them each file has, with 0.5 for a cut inside an id.
        rows: which count.
        most: tokens of a document.
        n: draws.
    """

    tokens: list[int]
    shards: list[float]
    rows: Rows | None = None
    most: int | None = None
    n: int = 60_000

    @property
    def edges(self) -> IntArray:
        """Bytes at which files begin and the last one ends."""
        return np.concatenate([[0], np.cumsum(2 * np.array(self.shards))]).astype(np.int64)

    @property
    def counted(self) -> IntArray:
        """The stored ids that count, by their places."""
        places = np.arange(len(self.tokens))
        if self.rows is None:
            return places
        whole = places[: len(places) // self.rows.stored * self.rows.stored].reshape(-1, self.rows.stored)
        return whole[:, self.rows.skipped : self.rows.skipped + self.rows.counted].ravel()

    @property
    def starts(self) -> IntArray:
        """Where documents begin among the tokens that count."""
        ids, index = np.array(self.tokens)[self.counted], np.arange(self.counted.size)
        begins = (index == 0) | (np.roll(ids, 1) == END)
        return index[begins if self.most is None else begins | (index % self.most == 0)]


LONG = [1] * 1_000_003
SHAPES = {
    "files of very different sizes": Shape([1] * 300, [1, 250, 2, 47]),
    "documents of one token": Shape([END] * 20 + [1] * 180 + [END] * 50, [3, 217, 30]),
    "an end of text at the border of a file": Shape(([1] * 9 + [END]) * 12, [10, 90, 19, 1]),
    "files that are cut inside an id": Shape([2, END, 3] * 40, [0.5, 99, 20.5]),
    "rows": Shape(([1, END, 1, 1, END, 1, 1] * 30), [7, 150, 53], Rows(7, 5, 1), 5),
    "rows that are cut anywhere, and a rest": Shape(([1, 1, 1, END, 1] * 31), [2.5, 100, 52.5], Rows(9, 8, 1), 8),
    "a document of a million tokens": Shape([END] * 40 + LONG + [END] + [1, END] * 200, [11, 1_000_000, 433], n=4_000),
}
SMALL = [name for name, shape in SHAPES.items() if len(shape.tokens) < 1_000]


def opened(name: str, folder: Path) -> FlatTokens:
    shape, content = SHAPES[name], np.array(SHAPES[name].tokens, "<u2").tobytes()
    for number, (first, last) in enumerate(zip(shape.edges[:-1], shape.edges[1:], strict=True)):
        (folder / f"{number}.bin").write_bytes(content[first:last])
    files = token_files(open_bytes(str(folder), folder / "cache"), np.dtype("<u2"), cut_anywhere=True)
    sequence = TokenSequence(files, shape.rows)
    return FlatTokens("local", sequence, FoundDocuments(sequence, END, shape.most), "", END, 100)


def p_value(counts: IntArray, expected: Any = None) -> float:
    return float(chisquare(counts, expected).pvalue)


def by_file(shape: Shape, token: IntArray) -> tuple[IntArray, Any]:
    """How many of some tokens begin in each file, and how many should."""
    file = np.searchsorted(shape.edges, 2 * shape.counted, side="right") - 1
    sizes = np.bincount(file, minlength=len(shape.shards))
    found = np.bincount(file[token], minlength=len(shape.shards))
    held = sizes > 0
    assert (found[~held] == 0).all()
    return found[held], (sizes * (token.size / shape.counted.size))[held]


def naive_draws(shape: Shape, n: int, seed: int) -> IntArray:
    """The tempting sampler: a uniform file, then a uniform token of it."""
    generator = np.random.default_rng(seed)
    file = np.searchsorted(shape.edges, 2 * shape.counted, side="right") - 1
    first = np.searchsorted(file, np.arange(len(shape.shards)))
    sizes = np.bincount(file, minlength=len(shape.shards))
    held = np.flatnonzero(sizes)
    chosen = generator.choice(held, size=n)
    return first[chosen] + generator.integers(sizes[chosen])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_draws_are_uniform_over_files_and_places(name: str, seed: int, tmp_path: Path) -> None:
    shape, corpus = SHAPES[name], opened(name, tmp_path)
    assert corpus.n_tokens == shape.counted.size
    drawn = draw_windows(corpus, shape.n, CONTEXT, stream_seed("certify", seed))
    assert p_value(*by_file(shape, drawn.token_index)) > LEAST_P_VALUE
    n_bins = min(corpus.n_tokens, 500)
    edges = np.arange(n_bins + 1) * corpus.n_tokens // n_bins
    counts = np.histogram(drawn.token_index, edges)[0]
    assert p_value(counts, np.diff(edges) * (shape.n / corpus.n_tokens)) > LEAST_P_VALUE


@pytest.mark.parametrize("name", SHAPES)
def test_windows_come_up_in_proportion_to_their_size(name: str, tmp_path: Path) -> None:
    """The windows that are drawn are those of the documents, which are found here by looking at every token."""
    shape, corpus = SHAPES[name], opened(name, tmp_path)
    every = all_windows(shape.starts, corpus.n_tokens, CONTEXT)
    drawn = draw_windows(corpus, shape.n, CONTEXT, stream_seed("certify", 3))
    number = np.searchsorted(every.start, drawn.start)
    np.testing.assert_array_equal(every.start[number], drawn.start)
    np.testing.assert_array_equal(every.stop[number], drawn.stop)
    sizes, counts = every.stop - every.start, np.bincount(number, minlength=len(every))
    if len(every) > 1_000:  # many windows of one size are looked at together
        cut = np.linspace(0, len(every), 301).astype(int)[:-1]
        sizes, counts = np.add.reduceat(sizes, cut), np.add.reduceat(counts, cut)
    assert p_value(counts, sizes * (shape.n / sizes.sum())) > LEAST_P_VALUE


@pytest.mark.parametrize("name", SMALL)
def test_every_stored_id_that_counts_is_read_as_often_as_any_other(name: str, tmp_path: Path) -> None:
    shape, corpus = SHAPES[name], opened(name, tmp_path)
    drawn = draw_windows(corpus, 200 * corpus.n_tokens, CONTEXT, stream_seed("certify", 4)).token_index
    places = Counter(corpus.sequence.place_of(int(token)) for token in drawn)
    file = np.searchsorted(shape.edges, 2 * shape.counted, side="right") - 1
    offsets = 2 * shape.counted - shape.edges[file]
    wanted = {f"{tmp_path / f'{f}.bin'}, byte {at}" for f, at in zip(file, offsets, strict=True)}
    assert set(places) == wanted
    assert p_value(np.array(list(places.values()))) > LEAST_P_VALUE
    for token in np.unique(drawn).tolist():
        assert corpus.read(token, token + 1).tolist() == [shape.tokens[shape.counted[token]]]


@pytest.mark.parametrize("name", SHAPES)
def test_the_naive_sampler_is_caught(name: str) -> None:
    shape = SHAPES[name]
    assert p_value(*by_file(shape, naive_draws(shape, shape.n, seed=1))) < LEAST_P_VALUE


@pytest.mark.parametrize("name", ["documents of one token", "rows"])
def test_without_replacement_the_first_window_comes_up_in_proportion_to_its_size(name: str, tmp_path: Path) -> None:
    shape, corpus = SHAPES[name], opened(name, tmp_path)
    assert corpus.document_starts is None
    every = all_windows(shape.starts, corpus.n_tokens, CONTEXT)
    first, second = np.zeros(len(every), int), np.zeros(len(every), int)
    n = 4_000
    for k in range(n):
        drawn = draw_distinct_windows(corpus, 2, CONTEXT, stream_seed("certify", "flat", k))
        one, other = np.searchsorted(every.start, drawn.start)
        assert one != other
        first[one] += 1
        second[other] += 1
    share = (every.stop - every.start) / corpus.n_tokens
    assert p_value(first, share * n) > LEAST_P_VALUE
    after = (share[:, None] * share / (1 - share[:, None])).sum(axis=0) - share**2 / (1 - share)
    assert p_value(second, after * n) > LEAST_P_VALUE
