"""Tokens by slots: every token equally often whatever the cells are, counted with confidence, read once, void said."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from lm_bounds.bounds import proportion_upper
from lm_bounds.corpora.slots import SlotCorpus, token_cells
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import NO_TOKEN, VOID, draw_windows, stream_seed

Make = Callable[..., SlotCorpus]


def owned(corpus: Any) -> dict[int, int]:
    """How many slots each token has, by walking over all slots."""
    counts: Counter[int] = Counter()
    for token in corpus.tokens_at(np.arange(corpus.number)).tolist():
        counts[token] += 1
    return {token: n for token, n in counts.items() if token >= 0}


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(1, 12), st.integers(-1, 6)), min_size=1, max_size=12),
    per_token=st.sampled_from([1, 2, 3]),
)
def test_every_token_has_as_many_slots_and_no_slot_two_tokens(
    invented_slots: Make, cells: list[tuple[int, int]], per_token: int
) -> None:
    sizes, tokens = zip(*[(1, 1), *cells], strict=True) if per_token == 1 else zip(*[(3, 1), *cells], strict=True)
    corpus = invented_slots(sizes, tokens, per_token)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    wanted = {
        int(start) + i
        for start, size, n in zip(edges, sizes, tokens, strict=False)
        if 0 <= n * per_token <= size
        for i in range(n)
    }
    found = owned(corpus)
    assert set(found) == wanted
    assert set(found.values()) <= {per_token}


def test_slots_that_are_nobodys_and_void_ones(invented_slots: Make) -> None:
    corpus = invented_slots([10, 10, 4], [2, -1, 3], per_token=2, row_tokens=2)
    # 2 tokens of 2 slots; a malformed row; 3 tokens that do not fit
    wanted = [0, 1, 0, 1, *[NO_TOKEN] * 6, *[VOID] * 14]
    assert corpus.tokens_at(np.arange(24)).tolist() == wanted
    order = np.random.default_rng(1).permutation(24)
    assert corpus.tokens_at(order).tolist() == [wanted[slot] for slot in order]


def test_draws_are_uniform_and_naive_ones_are_not(invented_slots: Make) -> None:
    random = np.random.default_rng(4)
    sizes = random.integers(5, 60, 60)
    tokens = np.minimum(random.integers(-1, 12, 60), sizes)
    corpus: Any = invented_slots(sizes.tolist(), tokens.tolist())
    cells = zip(corpus.cells.edges, tokens, strict=False)
    numbers = np.concatenate([[start + i for i in range(n)] for start, n in cells])
    n = 20_000

    def p_value(drawn: np.ndarray) -> float:
        counts = Counter(drawn.tolist())
        assert set(counts) <= set(numbers.astype(int).tolist())
        return float(chisquare([counts[int(token)] for token in numbers]).pvalue)

    windows = draw_windows(corpus, n, 5, stream_seed("certify", 1))
    assert p_value(windows.token_index) > 1e-6
    # a uniform slot, then a uniform token of its cell; a uniform cell, then a uniform token of it
    full = [k for k in range(60) if tokens[k] > 0]
    by_slot = random.choice(full, n, p=sizes[full] / sizes[full].sum())
    by_cell = random.choice(full, n)
    for cell in (by_slot, by_cell):
        assert p_value(corpus.cells.edges[cell] + random.integers(0, tokens[cell])) < 1e-6


def test_windows_come_up_in_proportion_to_their_size(invented_slots: Make) -> None:
    corpus = invented_slots([40, 30, 30], [33, 7, 1])
    windows = draw_windows(corpus, 30_000, 10, stream_seed("certify", 2))
    counts = Counter(zip(windows.start.tolist(), windows.stop.tolist(), strict=True))
    sizes = {(0, 10): 10, (10, 20): 10, (20, 30): 10, (30, 33): 3, (40, 47): 7, (70, 71): 1}
    assert set(counts) == set(sizes)
    expected = np.array(list(sizes.values())) * 30_000 / 41
    assert chisquare([counts[window] for window in sizes], expected).pvalue > 1e-6


def test_the_first_draws_of_more_are_those_of_fewer(invented_slots: Make) -> None:
    corpus = invented_slots([9, 50, 7, 80], [3, 11, -1, 2])
    many = draw_windows(corpus, 500, 4, 77)
    for n in (0, 1, 17, 499):
        few = draw_windows(corpus, n, 4, 77)
        assert len(few) == n
        assert all(values.tolist() == many.arrays()[name][:n].tolist() for name, values in few.arrays().items())


def test_tokens_and_documents_are_found_again(invented_slots: Make) -> None:
    corpus = invented_slots([40, 30, 30], [33, 7, 1])
    start, stop = corpus.document_bounds(np.array([[41, 3], [70, 32]]))
    assert start.tolist() == [[40, 0], [70, 0]]
    assert stop.tolist() == [[47, 33], [71, 33]]
    assert corpus.read(41, 44).tolist() == [1, 1, 1]
    assert corpus.read(5, 5).tolist() == []
    for first, last in ((5, 34), (47, 48), (45, 48)):
        with pytest.raises(UsageError, match="has no tokens"):
            corpus.read(first, last)
    with pytest.raises(UsageError, match="has no token 33"):
        corpus.document_bounds(np.array([33]))


def test_cells_are_read_once_as_long_as_they_fit(invented_slots: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    sizes = random.integers(5, 60, 60)
    tokens = np.minimum(random.integers(0, 12, 60), sizes)
    few: Any = invented_slots(sizes.tolist(), tokens.tolist())
    corpus: Any = invented_slots(sizes.tolist(), tokens.tolist())
    slots = random.integers(0, few.number, 3000)
    read: list[int] = []
    at = type(corpus.cells).at
    monkeypatch.setattr(type(corpus.cells), "at", lambda cells, slot: read.extend(slot.tolist()) or at(cells, slot))
    wanted = corpus.tokens_at(slots)
    once = len(read)
    assert corpus.tokens_at(slots).tolist() == wanted.tolist()
    assert len(read) == once
    monkeypatch.setattr(token_cells, "_KEPT_TOKENS", 300)
    assert few.tokens_at(slots).tolist() == wanted.tolist()
    before = len(read)
    assert few.tokens_at(slots).tolist() == wanted.tolist()
    assert len(read) > before  # what did not fit is read again


def test_malformed_cells_are_reported_once_with_their_place(
    invented_slots: Make, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = invented_slots([10, 10, 40], [2, -1, 3], per_token=2, row_tokens=2)
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        draw_windows(corpus, 50, 4, 1)
        draw_windows(corpus, 50, 4, 2)
    messages = [record.getMessage() for record in caplog.records if "malformed" in record.getMessage()]
    assert messages == [
        "invented, cell 1: is malformed: left out, and the number of tokens is lowered for what is like it",
    ]


def test_the_number_of_tokens_is_covered_by_its_bound(invented_slots: Make) -> None:
    random, failures, n_corpora = np.random.default_rng(6), 0, 300
    for _ in range(n_corpora):
        sizes = random.integers(20, 200, 80)
        tokens = np.where(random.random(80) < 0.1, -1, sizes // random.integers(2, 6, 80))
        true = int(tokens[tokens > 0].sum())
        count = invented_slots(sizes.tolist(), tokens.tolist(), n_counted=150).count
        assert count.at_least(1e-9) < true
        assert sum(count.shares.values()) == count.drawn == 150
        failures += count.at_least(0.1) > true
    assert binomtest(failures, n_corpora, 0.1, alternative="greater").pvalue > 1e-6


def test_rows_are_counted_among_those_that_a_slot_is_accepted_in(invented_slots: Make) -> None:
    random, n_void, n_rows = np.random.default_rng(6), 0, 0
    for _ in range(30):
        sizes = np.where(random.random(400) < 0.5, 20, 200)
        tokens = np.where((sizes == 20) & (random.random(400) < 0.2), -1, 8)  # short rows are the malformed ones
        count = invented_slots(sizes.tolist(), tokens.tolist(), per_token=2, row_tokens=8, n_counted=2000).count
        n_void, n_rows = n_void + count.void_rows, n_rows + count.rows
    # a tenth of the rows; of the bytes it is a hundredth
    assert 0.08 < n_void / n_rows < 0.12


def test_a_corpus_is_counted_once(invented_slots: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    sizes, tokens = [40, 30, 30], [33, 7, 1]
    one = invented_slots(sizes, tokens)
    other = SlotCorpus(**{name: getattr(one, name) for name in one.__dataclass_fields__ if name[0] != "_"})
    known = (one.count, one.sha256())
    monkeypatch.setattr(type(one.reader), "read", lambda reader, cells: pytest.fail("read again"))
    assert (other.count, other.sha256()) == known
    [kept] = (one.cache_dir / "counts").iterdir()
    kept.write_text(kept.read_text()[:-5])
    monkeypatch.undo()
    damaged = SlotCorpus(**{name: getattr(one, name) for name in one.__dataclass_fields__ if name[0] != "_"})
    assert (damaged.count, damaged.sha256()) == known


def test_the_hash_is_that_of_sizes_rules_and_contents(invented_slots: Make) -> None:
    given: list[Any] = [
        ([40, 30, 30], [33, 7, 1]),
        ([40, 30, 31], [33, 7, 1]),
        ([40, 30, 30], [33, 8, 1]),
        ([30, 40, 30], [33, 7, 1]),
    ]
    hashes = [invented_slots(*each).sha256() for each in given]
    hashes += [invented_slots(*given[0], n_counted=900).sha256(), invented_slots(*given[0], end_of_text_id=1).sha256()]
    assert len(set(hashes)) == len(hashes)
    assert invented_slots(*given[0]).sha256() == hashes[0]


def test_files_without_tokens_are_refused(invented_slots: Make) -> None:
    with pytest.raises(CorpusError, match=r"\(1024 of them in malformed rows, such as invented, cell 0: is malf"):
        _ = invented_slots([10, 10], [-1, -1]).n_tokens


@pytest.mark.parametrize("void_bytes", [300, 16, 7, 1])
def test_a_declared_number_is_lowered_enough_however_short_malformed_lines_are(
    invented_slots: Make, void_bytes: int
) -> None:
    """A share of the rows that were hit alone would not do: a line of one byte is hardly ever hit."""
    random, failures, n_corpora, alone = np.random.default_rng(9), 0, 100, 0
    for _ in range(n_corpora):
        is_void = random.random(300) < 0.3
        sizes = np.where(is_void, void_bytes, random.integers(16, 80, 300))
        tokens = np.where(is_void, -1, 8)
        given = {"per_token": 2, "row_tokens": 8, "n_counted": 500}
        count = invented_slots(sizes.tolist(), tokens.tolist(), **given, declared=8 * 300).count
        true = 8 * int((~is_void).sum())
        failures += count.at_least(0.05) > true
        alone += 8 * 300 * (1 - proportion_upper(count.void_rows, count.rows, 0.05)) > true
    assert binomtest(failures, n_corpora, 0.05, alternative="greater").pvalue > 1e-6
    assert void_bytes >= 16 or binomtest(alone, n_corpora, 0.05, alternative="greater").pvalue < 1e-6


def test_ids_that_the_model_does_not_know_are_refused(invented_slots: Make) -> None:
    with pytest.raises(CorpusError, match=r"invented, cell 3: the id 3, ids must be below 3; use the model's own"):
        invented_slots([5] * 4, [2] * 4, n_ids=3).tokens_at(np.arange(20))


def test_few_of_many_malformed_cells_are_shown(invented_slots: Make, caplog: pytest.LogCaptureFixture) -> None:
    corpus = invented_slots([4] * 300, [1, -1, -1] * 100)
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        corpus.tokens_at(np.arange(corpus.number))
    messages = [record.getMessage() for record in caplog.records]
    assert sum("is malformed: left out" in message for message in messages) == 21  # the first 20, and number 100
    assert [message for message in messages if message.startswith("that was")] == [
        f"that was malformed row number {n}; later ones are counted, and few of them are shown" for n in (20, 100)
    ]
