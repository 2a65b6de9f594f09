"""A biased sample makes a false bound: every token of a hostile corpus is equally likely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from lm_bounds.corpora import TokenCorpus, open_local
from lm_bounds.sampling import (
    Windows,
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
