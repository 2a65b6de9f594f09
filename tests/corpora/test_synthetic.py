"""Corpora that are made where they are read."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lm_bounds.corpora import SyntheticCorpus, corpus_spec, number_tokenizer, open_corpus, parameters, synthetic
from lm_bounds.corpora.expressions import Grammar, distinct_integers
from lm_bounds.corpora.integer_processes import RandomProcess
from lm_bounds.corpora.number_text import number_tokens
from lm_bounds.corpora.synthetic import SyntheticParameters, synthetic_parameters
from lm_bounds.errors import CorpusError, UsageError

IDS = ("structured", "random")
DELIMITER = 11


def made(corpus_id: str, **changes: Any) -> SyntheticCorpus:
    return SyntheticCorpus(corpus_id, dataclasses.replace(parameters(corpus_spec(corpus_id)), **changes), "t")


@pytest.fixture(params=IDS)
def corpus(request: pytest.FixtureRequest) -> SyntheticCorpus:
    return made(request.param)


def test_a_token_costs_nothing_until_it_is_read(corpus: SyntheticCorpus) -> None:
    assert corpus.n_tokens == 10**9
    huge = made(corpus.corpus_id, tokens=10**18)
    start, stop = huge.document_bounds(np.array([10**18 - 1]))
    assert 10**18 - 1000 <= start[0] < stop[0] == 10**18
    assert len(huge.read(10**18 - 5, 10**18)) == 5


def test_a_row_is_a_function_of_the_seed_and_its_number_alone(corpus: SyntheticCorpus) -> None:
    together = corpus.rows([3, 999_999, 4, 3])
    for number, (tokens, starts) in zip([3, 999_999, 4, 3], together, strict=True):
        [(alone, alone_starts)] = made(corpus.corpus_id, tokens=1_000_000_000_000).rows([number])
        assert np.array_equal(tokens, alone)
        assert np.array_equal(starts, alone_starts)
    assert not np.array_equal(together[0][0], together[2][0])
    [(other, _)] = made(corpus.corpus_id, seed=1).rows([3])
    assert not np.array_equal(together[0][0], other)


def text(tokens: np.ndarray) -> str:
    return "".join("0123456789?,"[token] for token in tokens)


def test_a_row_holds_whole_documents_and_the_beginning_of_one_more(corpus: SyntheticCorpus) -> None:
    for tokens, starts in corpus.rows(list(range(20))):
        assert len(tokens) == 1000
        assert starts[0] == 0
        *whole, last = np.split(tokens, starts[1:])
        assert len(last) > 0
        assert (last == DELIMITER).sum() <= 30
        for document in whole:
            assert document[-1] == DELIMITER
            assert (document == DELIMITER).sum() == 30
            numbers = text(document).split(",")[:-1]
            assert numbers == [str(int(number)) for number in numbers]


def test_structured_documents_count() -> None:
    corpus = made("structured")
    sequences = [
        [int(number) for number in text(document).split(",")[:-1]]
        for tokens, starts in corpus.rows(list(range(300)))
        for document in np.split(tokens, starts[1:])[:-1]
    ]
    values = np.array(sequences)
    assert values.max() <= 9999
    assert values.max() > 9000
    assert (values != values[:, :1]).any(axis=1).all()
    repeated = Counter(map(tuple, sequences))
    assert repeated[tuple(range(30))] / len(sequences) == pytest.approx(0.043, abs=0.02)  # (i * 1, i + 0, ...)


def test_random_documents_are_uniform_on_the_alphabet() -> None:
    corpus = made("random")
    alphabet = distinct_integers(corpus.parameters.grammar)
    counts: Counter[int] = Counter()
    for tokens, starts in corpus.rows(list(range(400))):
        for document in np.split(tokens, starts[1:])[:-1]:
            counts.update(int(number) for number in text(document).split(",")[:-1])
    assert set(counts) <= set(alphabet.tolist())
    observed = np.array([counts[int(value)] for value in alphabet])
    expected = observed.sum() / len(alphabet)
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = len(alphabet) - 1
    assert abs(statistic - degrees) < 5 * math.sqrt(2 * degrees)


def test_read_is_the_slice_of_the_rows(corpus: SyntheticCorpus) -> None:
    whole = np.concatenate([tokens for tokens, _ in corpus.rows([5, 6, 7])])
    for start, stop in ((5000, 5001), (5990, 6020), (5999, 6000), (5000, 8000)):
        found = corpus.read(start, stop)
        assert found.dtype == np.int64
        assert np.array_equal(found, whole[start - 5000 : stop - 5000])
    for start, stop in ((-1, 3), (3, 3), (10**9 - 1, 10**9 + 1)):
        with pytest.raises(UsageError, match="were asked for"):
            corpus.read(start, stop)


def test_documents_partition_every_row(corpus: SyntheticCorpus) -> None:
    index = np.arange(7000, 9000)
    start, stop = corpus.document_bounds(index)
    assert ((start <= index) & (index < stop)).all()
    firsts = np.unique(start)
    wanted = np.concatenate(
        [number * 1000 + starts for number, (_, starts) in zip((7, 8), corpus.rows([7, 8]), strict=True)]
    )
    assert firsts.tolist() == wanted.tolist()
    assert np.unique(stop).tolist() == [*firsts[1:].tolist(), 9000]
    square = index[:4].reshape(2, 2)
    assert corpus.document_bounds(square)[0].shape == (2, 2)
    with pytest.raises(UsageError, match="token indices must be in"):
        corpus.document_bounds(np.array([10**9]))


def test_few_rows_are_kept(corpus: SyntheticCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_KEPT_ROWS", 8)
    index = np.arange(0, 50_000, 500)
    bounds = corpus.document_bounds(index)
    assert len(corpus._rows) <= 8
    monkeypatch.setattr(synthetic, "_KEPT_ROWS", 1000)
    fresh = made(corpus.corpus_id)
    assert np.array_equal(bounds, fresh.document_bounds(index))
    assert len(fresh._rows) == 50


def test_the_hash_covers_parameters_and_code(corpus: SyntheticCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {corpus.sha256(), made(corpus.corpus_id).sha256()}
    assert len(seen) == 1
    seen |= {made(corpus.corpus_id, **change).sha256() for change in ({"seed": 1}, {"tokens": 10**8})}
    monkeypatch.setattr(synthetic, "number_tokens", lambda values: number_tokens(values + 1))
    seen.add(made(corpus.corpus_id).sha256())
    assert len(seen) == 4


def test_rows_are_the_same_on_every_machine_and_version() -> None:
    assert {corpus_id: made(corpus_id).sha256() for corpus_id in IDS} == {
        "structured": "1595a58adf08b1ce19f416816441d650d4dab9afc168676b4e1b0a69107b1282",
        "random": "bb7352504e5609e59c10a26706a9edff3e02ee2d97e0960979620f4bd22feec1",
    }


@pytest.mark.parametrize("row_tokens", [1, 2, 3, 5, 6])
def test_the_entropy_rate_is_that_of_all_rows(row_tokens: int) -> None:
    """Twelve integers, two of them of two digits: every row that there can be, with its probability."""
    process = RandomProcess(Grammar(constants=(), max_operators=0, terms=12))
    shares: Counter[str] = Counter()
    n = -(-row_tokens // 2)
    for integers in itertools.product(range(12), repeat=n):
        shares["".join(f"{value}," for value in integers)[:row_tokens]] += 1
    entropy = -sum(count / 12**n * math.log2(count / 12**n) for count in shares.values())
    assert process.entropy_rate(row_tokens) == pytest.approx(entropy / row_tokens, rel=1e-12)


def test_the_entropy_rate_of_long_rows_is_that_of_the_renewal_process() -> None:
    process = RandomProcess(parameters(corpus_spec("random")).grammar)
    ends = number_tokens(process.alphabet)[1]
    assert process.entropy_rate(10**5) == pytest.approx(math.log2(1373) * 1373 / ends[-1], abs=2e-5)


def test_a_grammar_without_sequences_is_refused() -> None:
    empty = made("structured", grammar=Grammar((), max_operators=0, terms=4, largest=2))
    with pytest.raises(CorpusError, match="too few sequences"):
        empty.rows([0])


def test_parameters_round_trip() -> None:
    for corpus_id in IDS:
        found = parameters(corpus_spec(corpus_id))
        read = yaml.safe_load(found.to_json())
        assert synthetic_parameters(read.pop("process"), read) == found


def test_a_file_overrides_parameters(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("tokens: 5000\ngrammar: {max_operators: 2, constants: [7]}\n")
    tokenizer = number_tokenizer()
    corpus = open_corpus(
        corpus_spec("structured"), str(path), tokenizer, end_of_text_id=None, n_logits=12, cache_dir=tmp_path
    )
    assert isinstance(corpus, SyntheticCorpus)
    assert corpus.n_tokens == 5000
    default: SyntheticParameters = parameters(corpus_spec("structured"))
    assert corpus.parameters.grammar == dataclasses.replace(default.grammar, max_operators=2, constants=(7,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tokens: 5001", "multiple of row_tokens"),
        ("tokens: 0", "tokens must be a whole number"),
        ("tokens: many", "tokens must be a whole number"),
        ("seed: -1", "seed must be a whole number"),
        ("row_tokens: true", "row_tokens must be a whole number"),
        ("grammar: 3", "grammar must be a mapping"),
        ("grammar: {leaves: 3}", "unknown field 'leaves'"),
        ("sead: 3", "unknown parameter 'sead'"),
        ("- 3", "must be a YAML mapping"),
        ("{", "cannot be read as YAML"),
        ("", "must be a YAML mapping"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(content)
    with pytest.raises(CorpusError, match=message):
        parameters(corpus_spec("random"), str(path))


def test_places_without_parameters(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a folder"):
        parameters(corpus_spec("random"), str(tmp_path))
    with pytest.raises(CorpusError, match="does not exist"):
        parameters(corpus_spec("random"), str(tmp_path / "none.yaml"))


def test_another_tokenizer_is_refused(byte_tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="digits and commas"):
        open_corpus(
            corpus_spec("structured"), None, byte_tokenizer, end_of_text_id=None, n_logits=260, cache_dir=tmp_path
        )
