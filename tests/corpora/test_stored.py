"""Registered corpora on the Hub or in a copy: which reader they get, in whose tokens, and of how many tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lm_bounds.corpora import CorpusSpec, check_source, corpus_spec, open_corpus, tokenizer_sha256, vocabulary_sha256
from lm_bounds.corpora.sample import sample_windows
from lm_bounds.corpora.slots import SlotCorpus
from lm_bounds.errors import CorpusError, UsageError

WORDS = ["</s>", "a", "bb", "ccc", "dddd", "eeeee", "f", "g", "h", "i", "<unk>"]
STORED = 9
N_FILES, ROWS_OF_FILE = 3, 40


def word_tokenizer(words: list[str]) -> Any:
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def stored() -> Any:
    return word_tokenizer(WORDS)


class Letters:
    """A tokenizer of letters; 26 ends a text."""

    special_tokens_map = {"eos_token": "<eot>"}  # noqa: RUF012

    def __len__(self) -> int:
        return 27

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [[ord(letter) - 97 for letter in item if letter != " "] for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + place): place for place in range(27)}


def rows() -> list[list[int]]:
    return np.random.default_rng(5).integers(0, len(WORDS) - 1, (N_FILES * ROWS_OF_FILE, STORED)).tolist()


@pytest.fixture
def amber(tmp_path: Path, stored: Any) -> CorpusSpec:
    """Amber in small, with a copy in ``tmp_path / "copy"``."""
    folder = tmp_path / "copy" / "train"
    folder.mkdir(parents=True)
    for number in range(N_FILES):
        part = rows()[number * ROWS_OF_FILE : (number + 1) * ROWS_OF_FILE]
        lines = [json.dumps({"token_ids": row, "source": "c4" * 20}) for row in part]
        (folder / f"train_{number:03}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    stored.backend_tokenizer.save(str(tmp_path / "copy" / "tokenizer.json"))
    spec = corpus_spec("amber")
    assert spec.stored_in is not None
    assert spec.hub is not None
    n_entries = len(WORDS)
    tokens = replace(
        spec.stored_in, entries=n_entries, vocabulary_sha256=vocabulary_sha256(stored, n_entries), end_of_text_id=0
    )
    return replace(
        spec,
        stored_in=tokens,
        hub=replace(spec.hub, n_files=N_FILES),
        n_tokens=N_FILES * ROWS_OF_FILE * (STORED - 1),
        parameters={"stored": STORED, "counted": STORED - 1, "skipped": 1, "field": "token_ids"},
    )


def opened(spec: CorpusSpec, tmp_path: Path, tokenizer: Any, end: int | None = None, name: str = "copy") -> Any:
    place, cache = str(tmp_path / name), tmp_path / "cache"
    check_source(spec, place)
    return open_corpus(spec, place, tokenizer, end_of_text_id=end, n_logits=None, cache_dir=cache)


def test_rows_are_used_as_they_are_for_the_tokenizer_that_they_are_stored_in(
    amber: CorpusSpec, tmp_path: Path, stored: Any
) -> None:
    corpus = opened(amber, tmp_path, stored)
    cells = {cell.base: tokens.ids.tolist() for cell, tokens in corpus.read_cells(np.arange(corpus.number))}
    assert list(cells.values()) == [row[1:] for row in rows()]
    assert (corpus.end_of_text_id, corpus.tokenizer_sha256) == (0, tokenizer_sha256(stored))
    assert corpus.declared == amber.n_tokens
    assert (corpus.n_tokens_kind, corpus.n_ids) == ("lower_bound", len(WORDS))


def test_a_number_of_tokens_is_declared_for_all_files_alone(amber: CorpusSpec, tmp_path: Path, stored: Any) -> None:
    (tmp_path / "copy" / "train" / "train_002.jsonl").unlink()
    corpus = opened(amber, tmp_path, stored)
    true = (N_FILES - 1) * ROWS_OF_FILE * (STORED - 1)
    assert (corpus.declared, corpus.n_tokens_kind) == (None, "lower_bound")
    assert 0.8 * true < corpus.n_tokens <= true


def test_rows_are_encoded_again_for_another_tokenizer(amber: CorpusSpec, tmp_path: Path) -> None:
    corpus = opened(amber, tmp_path, Letters(), end=26)
    found = {cell.base: tokens.ids.tolist() for cell, tokens in corpus.read_cells(np.arange(corpus.number))}
    wanted = [
        [letter for token in row[1:] for letter in ([ord(c) - 97 for c in WORDS[token]] if token else [26])]
        for row in rows()
    ]
    assert list(found.values()) == wanted
    true = sum(map(len, wanted))
    token = corpus.tokens_at(np.arange(corpus.number))
    held = token[token >= 0]
    assert held.size == np.unique(held).size == true
    assert (corpus.declared, corpus.n_tokens_kind, corpus.end_of_text_id) == (None, "lower_bound", 26)
    assert 0.8 * true < corpus.n_tokens <= true


def test_malformed_rows_are_void_in_other_tokens_too(amber: CorpusSpec, tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "copy" / "train" / "train_001.jsonl"
    file.write_text("{broken\n" + file.read_text())
    corpus = opened(amber, tmp_path, Letters(), end=26)
    [void] = {tokens.void for _, tokens in corpus.read_cells(np.arange(corpus.number)) if tokens.void is not None}
    assert "broken JSON" in void
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{file}, byte 0: broken JSON")


def test_texts_are_read_in_the_tokens_of_the_model(tmp_path: Path) -> None:
    spec, folder = corpus_spec("tinystories"), tmp_path / "copy"
    assert spec.hub is not None
    folder.mkdir()
    spec = replace(spec, hub=replace(spec.hub, files="data/train-*-of-00004-*.jsonl"))
    texts = [["ab", "", "cde"], ["f g"]]
    for number, part in enumerate(texts):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"train-0000{number}-of-00004-{number}f1e2d.jsonl").write_text(lines)
    corpus = opened(spec, tmp_path, Letters(), end=26)
    assert isinstance(corpus, SlotCorpus)
    token = corpus.tokens_at(np.arange(corpus.number))
    ids = [int(corpus.read(each, each + 1)[0]) for each in token[token >= 0].tolist()]
    assert ids == [0, 1, 26, 2, 3, 4, 26, 5, 6, 26]
    assert corpus.n_ids == 27
    shown, windows = sample_windows(spec, str(folder), 5, context=9, draw_seed=2, cache_dir=tmp_path / "cache")
    assert shown.slots is not None
    assert {window.text.removesuffix("<|endoftext|>") for window in windows} <= {"ab", "cde", "f g"}


def test_it_is_looked_at_in_the_tokens_that_it_is_stored_in(
    amber: CorpusSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "copy")
    _, windows = sample_windows(amber, folder, 5, context=4, draw_seed=2, cache_dir=tmp_path / "cache")
    assert all(set(window.text.split()) <= set(WORDS) and window.text for window in windows)
    (tmp_path / "copy" / "tokenizer.json").unlink()

    def fail(name: str) -> Any:
        raise OSError(f"{name} is out of reach")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(UsageError, match=r"pass --tokenizer DIR or a Hub id to read them; .*LLM360/Amber is out of"):
        sample_windows(amber, folder, 5, context=4, draw_seed=2, cache_dir=tmp_path / "cache")
    with pytest.raises(CorpusError, match=r"'amber' is stored in the 11 tokens of Llama.*tokenizer\.json of"):
        opened(amber, tmp_path, Letters(), end=26)


@pytest.mark.parametrize(
    ("corpus_id", "parameters", "message"),
    [
        ("amber", {"stored": 9}, "'amber': the parameters must be exactly stored, counted, skipped, field"),
        (
            "amber",
            {"stored": 9, "counted": "8", "skipped": 1, "field": "ids"},
            "'amber': parameter counted is malformed, given '8'",
        ),
        ("amber", {"stored": 9, "counted": 9, "skipped": 1, "field": "ids"}, "rows of 9 ids cannot have 1"),
        ("openwebtext", {}, "'openwebtext': the parameters must be exactly column"),
        ("tinystories", {"column": 3}, "'tinystories': parameter column is malformed, given 3"),
    ],
)
def test_malformed_parameters_are_refused_before_anything_is_read(
    corpus_id: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        check_source(replace(corpus_spec(corpus_id), parameters=parameters), None)


def test_a_copy_that_is_not_there_is_refused() -> None:
    for corpus_id in ("amber", "openwebtext", "tinystories", "pile", "fineweb_edu"):
        check_source(corpus_spec(corpus_id), None)
        with pytest.raises(CorpusError, match="/nowhere/copy does not exist"):
            check_source(corpus_spec(corpus_id), "/nowhere/copy")
