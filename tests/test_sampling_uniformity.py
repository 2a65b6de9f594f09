"""A biased sample makes a false bound: every token of a hostile corpus is equally likely."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from lm_bounds.corpora import TokenCorpus, open_local
from lm_bounds.sampling import (
    Windows,
    all_windows,
    draw_distinct_windows,
    draw_windows,
    fixed_windows,
    stream_seed,
    uniform_indices,
)

LEAST_P_VALUE = 1e-6
END_OF_TEXT = 256
HOSTILE_TEXTS: dict[str, list[str]] = {
    "one long, many of one token": ["x" * 40, *["y"] * 40],
    "empty documents between": ["", "ab", "", "", "c" * 30, "\n", ""],
    "multi-byte characters": ["é🙂中" * 6, "ascii", "🙂"],
    "ends of text written out": ["a\x1f\x1f", "b\x1fc" * 9, "\x1f"],
    "one document": ["only"],
}


class Bytes:
    """A tokenizer: one token per byte of UTF-8; the byte 0x1f is end of text, 256."""

    def __len__(self) -> int:
        return 257

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [[256 if byte == 0x1F else byte for byte in item.encode()] for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {str(value): value for value in range(257)}


def every_window(corpus: TokenCorpus, context: int) -> Windows:
    """The windows of all m equally likely draws."""
    index = np.arange(corpus.n_tokens)
    return fixed_windows(*corpus.document_bounds(index), index, context)


def p_value(counts: np.ndarray[Any, Any]) -> float:
    return float(chisquare(counts).pvalue) if counts.size > 1 else 1.0


def hostile_corpus(name: str, folder: Path) -> TokenCorpus:
    path = folder / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in HOSTILE_TEXTS[name]))
    return open_local(path, Bytes(), end_of_text_id=END_OF_TEXT, n_logits=None, cache_dir=folder / "cache")


def naive_draws(corpus: TokenCorpus, n: int, seed: int) -> np.ndarray[Any, Any]:
    """The tempting sampler: a uniform document, then a uniform token of it."""
    generator = np.random.default_rng(seed)
    stops = np.append(corpus.document_starts[1:], corpus.n_tokens)
    document = generator.integers(corpus.n_documents, size=n)
    return generator.integers(corpus.document_starts[document], stops[document])


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_draws_are_uniform_over_tokens(name: str, seed: int, tmp_path: Path) -> None:
    corpus = hostile_corpus(name, tmp_path)
    n = 200 * corpus.n_tokens
    windows = draw_windows(corpus, n, context=4, seed=stream_seed("certify", seed))
    assert p_value(np.bincount(windows.token_index, minlength=corpus.n_tokens)) > LEAST_P_VALUE
    # A window comes up in proportion to its size.
    sizes = np.bincount(every_window(corpus, 4).start, minlength=corpus.n_tokens)
    counts = np.bincount(windows.start, minlength=corpus.n_tokens)
    assert (counts[sizes == 0] == 0).all()
    expected = sizes[sizes > 0] * (n / corpus.n_tokens)
    if expected.size > 1:
        assert chisquare(counts[sizes > 0], expected).pvalue > LEAST_P_VALUE


@pytest.mark.parametrize("name", [name for name in HOSTILE_TEXTS if name != "one document"])
def test_uniformity_test_rejects_the_naive_sampler(name: str, tmp_path: Path) -> None:
    corpus = hostile_corpus(name, tmp_path)
    counts = np.bincount(naive_draws(corpus, 200 * corpus.n_tokens, seed=1), minlength=corpus.n_tokens)
    assert p_value(counts) < LEAST_P_VALUE


def test_rejection_removes_the_bias_of_a_bare_remainder() -> None:
    """2^64 = 2.67 n_tokens: without rejection the lower two thirds come up half as often again."""
    n_tokens = 3 * 2**61
    third = n_tokens // 3
    drawn = uniform_indices(30_000, n_tokens, seed=5)
    assert p_value(np.bincount(drawn // third, minlength=3)) > LEAST_P_VALUE
    raw = np.random.Philox(key=5).random_raw(30_000) % np.uint64(n_tokens)
    assert p_value(np.bincount((raw // np.uint64(third)).astype(int), minlength=3)) < LEAST_P_VALUE


def test_successive_draws_are_independent() -> None:
    """Pairs of successive draws fill the square; a positive control of overlapping pairs does not."""
    drawn = uniform_indices(80_000, 20, seed=11)
    pairs = drawn[0::2] * 20 + drawn[1::2]
    assert p_value(np.bincount(pairs, minlength=400)) > LEAST_P_VALUE
    repeated = drawn[0::2] * 20 + np.where(np.arange(40_000) % 10 == 0, drawn[0::2], drawn[1::2])
    assert p_value(np.bincount(repeated, minlength=400)) < LEAST_P_VALUE


SUCCESSIVE_CONTEXT = 5
SUCCESSIVE_PARTS = (1, 12, 2, 5, 3, 8)  # documents of windows of 1; 5, 5, 2; 2; 5; 3; 5, 3 tokens


def small_corpus() -> TokenCorpus:
    starts = np.cumsum([0, *SUCCESSIVE_PARTS])
    return TokenCorpus("local", "-", np.zeros(starts[-1], np.uint16), starts[:-1].astype(np.int64), "", None)


def probability_of_first(sizes: list[int], drawn: tuple[int, ...]) -> float:
    """That these windows are the first ones, in this order, each in proportion to its size among those left."""
    probability, left = 1.0, sum(sizes)
    for number in drawn:
        probability *= sizes[number] / left
        left -= sizes[number]
    return probability


@pytest.mark.parametrize("n", [1, 2, 3])
def test_windows_without_replacement_come_up_in_proportion_to_their_size_among_those_left(n: int) -> None:
    """Every order of the first n windows, and the inclusion of every window and of every pair."""
    corpus, n_samples = small_corpus(), 6_000
    every = all_windows(corpus.document_starts, corpus.n_tokens, SUCCESSIVE_CONTEXT)
    number = {start: i for i, start in enumerate(every.start.tolist())}
    sizes = (every.stop - every.start).tolist()
    assert sizes == [1, 5, 5, 2, 2, 5, 3, 5, 3]
    orders = list(itertools.permutations(range(len(sizes)), n))
    exact = {order: probability_of_first(sizes, order) for order in orders}
    assert sum(exact.values()) == pytest.approx(1.0, abs=1e-12)
    counts = dict.fromkeys(orders, 0)
    for k in range(n_samples):
        seed = stream_seed("certify", "successive", n, k)
        drawn = draw_distinct_windows(corpus, n, SUCCESSIVE_CONTEXT, seed)
        counts[tuple(number[start] for start in drawn.start.tolist())] += 1
    common = [order for order in orders if exact[order] * n_samples >= 5]
    observed = [counts[order] for order in common] + [n_samples - sum(counts[order] for order in common)]
    wanted = [exact[order] * n_samples for order in common]
    wanted = [*wanted, n_samples - sum(wanted)]
    kept = [i for i, expected in enumerate(wanted) if expected > 1e-6 * n_samples]
    assert chisquare([observed[i] for i in kept], [wanted[i] for i in kept]).pvalue > LEAST_P_VALUE
    # inclusion of single windows, and of pairs, against the same probabilities summed over orders
    for members in range(1, min(n, 2) + 1):
        for group in itertools.combinations(range(len(sizes)), members):
            probability = sum(p for order, p in exact.items() if set(group) <= set(order))
            seen = sum(c for order, c in counts.items() if set(group) <= set(order))
            deviation = (seen - n_samples * probability) / (n_samples * probability * (1 - probability)) ** 0.5
            assert abs(deviation) < 5.5


def test_uniform_draws_of_windows_would_be_noticed() -> None:
    corpus, n_samples = small_corpus(), 6_000
    every = all_windows(corpus.document_starts, corpus.n_tokens, SUCCESSIVE_CONTEXT)
    sizes = every.stop - every.start
    counts = np.bincount(np.random.default_rng(1).integers(len(sizes), size=n_samples), minlength=len(sizes))
    assert chisquare(counts, n_samples * sizes / sizes.sum()).pvalue < LEAST_P_VALUE
