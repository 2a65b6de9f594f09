"""Stored ids in the tokens of another model: every token of every row equally likely, and what belongs to none."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lm_bounds.corpora import (
    CorpusSpec,
    StoredTokens,
    corpus_spec,
    named_tokenizer,
    open_corpus,
    tokenizer_sha256,
    vocabulary_sha256,
)
from lm_bounds.corpora.sample import sample_windows
from lm_bounds.corpora.slots import SlotCorpus, StoredIdCells, reencoded
from lm_bounds.errors import CorpusError
from lm_bounds.sampling import NO_TOKEN, VOID, draw_windows, stream_seed

LEAST_P_VALUE = 1e-6
END, EXTRA = "<|end|>", "<|extra|>"
TEXT = (
    "the cat sat on the mat , and the other cat sat on the other mat ; "
    "naïve Übermut costs € 4 . 50 日本語 中文 🙂 the end of the story is the end "
)
ROW = 16
Make = Callable[..., SlotCorpus]


@pytest.fixture(scope="session")
def stored() -> Any:
    """A byte-level tokenizer with merges, an end of text and another special token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[END, EXTRA], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, additional_special_tokens=[EXTRA])


class Bytes:
    """A tokenizer of bytes, each so many times; 256 ends a text."""

    special_tokens_map = {"eos_token": "<eot>"}  # noqa: RUF012

    def __init__(self, times: int = 1) -> None:
        self.times = times

    def __len__(self) -> int:
        return 257

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[byte for byte in item.encode() for _ in range(self.times)] for item in text]}

    def get_vocab(self) -> dict[str, int]:
        return {f"{self.times} x byte {value}": value for value in range(257)}


def ids_of(stored: Any, n_rows: int) -> list[int]:
    """Documents of very different lengths, cut anywhere by the rows; with an empty one and a special token."""
    words = TEXT.split(" ")
    generator = np.random.default_rng(7)
    ids: list[int] = [0, 0]
    while len(ids) < ROW * n_rows:
        length = int(generator.choice([1, 2, 5, 60]))
        ids += stored(" ".join(generator.choice(words, size=length)))["input_ids"]
        ids += [1] if generator.random() < 0.2 else []
        ids.append(0)
    return ids[: ROW * n_rows]


def written(folder: Path, ids: list[int], n_files: int = 3) -> Path:
    if folder.exists():
        return folder
    folder.mkdir()
    content = np.array(ids, "<u2").tobytes()
    for number, piece in enumerate(np.array_split(np.frombuffer(content, "u1"), n_files)):
        (folder / f"document-{number:05}-of-00020.bin").write_bytes(piece.tobytes())
    return folder


def spec_of(stored: Any, n_rows: int, **changes: Any) -> CorpusSpec:
    """Rows of 17 ids would be those of training; here all 16 that are stored count."""
    tokens = StoredTokens("merged bytes", "org/none", len(stored), vocabulary_sha256(stored, len(stored)), 0)
    pile = corpus_spec("pile")
    rows = {"stored": ROW, "counted": ROW, "skipped": 0}
    parameters = {**pile.parameters, "rows": rows, **changes}
    n_tokens = n_rows * ROW if parameters["rows"] else None
    return replace(pile, stored_in=tokens, n_tokens=n_tokens, parameters=parameters)


@pytest.fixture
def make(tmp_path: Path, stored: Any) -> Make:
    """A corpus of these rows for a model, with the stored tokenizer beside the files."""

    def made(ids: list[int], tokenizer: Any = None, end: int | None = 256, **changes: Any) -> Any:
        folder = written(tmp_path / "copy", ids)
        if not (folder / "tokenizer.json").exists():
            stored.backend_tokenizer.save(str(folder / "tokenizer.json"))
        spec = spec_of(stored, len(ids) // ROW, **changes)
        model = tokenizer or Bytes()
        return open_corpus(spec, str(folder), model, end_of_text_id=end, n_logits=257, cache_dir=tmp_path / "cache")

    return made


def twin(stored: Any, row: list[int], end: int | None = 256) -> list[list[int]]:
    """The documents of a row in bytes, written down as the rule says it."""
    letters = {letter: byte for byte, letter in byte_letters().items()}
    documents: list[list[int]] = [[]]
    for token in row:
        if token == 0:
            documents[-1] += [] if end is None else [end]
            documents.append([])
        elif token != 1:
            documents[-1] += [letters[letter] for letter in stored.convert_ids_to_tokens(token)]
    first, last = documents[0], documents[-1]
    first[:] = whole(first, front=True, end=end)
    if documents[-1] or len(documents) == 1:
        last[:] = whole(last, front=False, end=end)
    return [document for document in documents if document]


def whole(content: list[int], front: bool, end: int | None) -> list[int]:
    """Bytes without what is left of a character at their front, or at their back."""
    ends = bool(content) and content[-1] == end
    body = bytes(content[:-1] if ends else content)
    text = body.decode(errors="replace")
    text = text.lstrip("\ufffd") if front else text.rstrip("\ufffd")
    return [*text.encode(), *([256] if ends else [])]


def byte_letters() -> dict[int, str]:
    """The letter of each byte in a byte-level tokenizer."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def rows_of(ids: list[int]) -> list[list[int]]:
    return np.array(ids).reshape(-1, ROW).tolist()


def test_every_token_of_every_row_has_one_slot(make: Make, stored: Any) -> None:
    ids = ids_of(stored, 60)
    corpus = make(ids)
    assert corpus.number == reencoded.SLOTS_PER_ID * len(ids)
    token = corpus.tokens_at(np.arange(corpus.number))
    size = reencoded.SLOTS_PER_ID * ROW
    for number, row in enumerate(rows_of(ids)):
        documents, base = twin(stored, row), number * size
        held = [byte for document in documents for byte in document]
        assert token[base : base + len(held)].tolist() == list(range(base, base + len(held)))
        assert (token[base + len(held) : base + size] == NO_TOKEN).all()
        assert corpus.read(base, base + len(held)).tolist() == held
        start, stop = corpus.document_bounds(np.arange(base, base + len(held)))
        bounds = [(int(a), int(b)) for a, b in zip(start, stop, strict=True)]
        edges = base + np.cumsum([0, *map(len, documents)])
        wanted = [(int(a), int(b)) for a, b in pairwise(edges) for _ in range(b - a)]
        assert bounds == wanted
    assert (corpus.n_tokens_kind, corpus.identified_by) == ("lower_bound", "probes")
    assert corpus.reader.reencoded_from == tokenizer_sha256(stored)  # type: ignore[attr-defined]


def p_value(row: Any, weights: list[int]) -> float:
    found = np.bincount(row, minlength=len(weights))
    return float(chisquare(found, np.array(weights) * (found.sum() / sum(weights))).pvalue)


@pytest.mark.parametrize("seed", [1, 2])
def test_draws_are_uniform_where_rows_differ_in_tokens(make: Make, stored: Any, seed: int) -> None:
    ids = ids_of(stored, 60)
    corpus, size = make(ids), reencoded.SLOTS_PER_ID * ROW
    n_tokens = [sum(map(len, twin(stored, row))) for row in rows_of(ids)]
    drawn = draw_windows(corpus, 20_000, 5, stream_seed("certify", seed)).token_index
    assert p_value(drawn // size, n_tokens) > LEAST_P_VALUE
    places = np.concatenate([number * size + np.arange(n) for number, n in enumerate(n_tokens)])
    assert p_value(np.searchsorted(places, drawn), [1] * len(places)) > LEAST_P_VALUE
    assert np.isin(drawn, places).all()
    naive = np.random.default_rng(seed).integers(len(n_tokens), size=20_000)  # a uniform row, as it is stored
    assert p_value(naive, n_tokens) < LEAST_P_VALUE


def test_the_number_of_tokens_is_below_the_true_one_and_near_it(make: Make, stored: Any) -> None:
    ids = ids_of(stored, 200)
    corpus = make(ids)
    true = sum(len(document) for row in rows_of(ids) for document in twin(stored, row))
    assert 0.8 * true < corpus.n_tokens <= true
    assert corpus.count.void == 0


def test_ids_that_there_are_not_own_nothing(make: Make, stored: Any, caplog: pytest.LogCaptureFixture) -> None:
    ids = ids_of(stored, 60)
    ids[5 * ROW + 3] = len(stored)
    corpus, size = make(ids), reencoded.SLOTS_PER_ID * ROW
    with caplog.at_level(logging.WARNING):
        token = corpus.tokens_at(np.arange(corpus.number))
    assert (token[5 * size : 6 * size] == VOID).all()
    assert np.flatnonzero(token == VOID).size == size
    [said] = [record.getMessage() for record in caplog.records]
    assert f"byte {5 * ROW * 2}: the id {len(stored)}, ids must be below {len(stored)}: left out" in said


def test_a_row_with_more_tokens_than_slots_owns_nothing(make: Make, stored: Any) -> None:
    ids = [2] * ROW + [0] * ROW
    corpus = make(ids, Bytes(9))
    token = corpus.tokens_at(np.arange(corpus.number))
    assert (token[: corpus.number // 2] == VOID).all()
    assert np.flatnonzero(token >= 0).size == ROW


def test_a_character_that_a_row_cuts_is_dropped_and_no_other(make: Make, stored: Any) -> None:
    raw = {byte: stored.convert_tokens_to_ids(letter) for byte, letter in byte_letters().items()}
    smile, mark = [raw[byte] for byte in "🙂".encode()], [raw[byte] for byte in "\ufffd".encode()]
    filler = [raw[ord("a")]]
    ids = filler * (ROW - 2) + smile[:2] + smile[2:] + filler * 4 + mark + filler * (ROW - 9)
    ids += filler * (ROW - 3) + smile[:2] + [0]
    corpus, size = make(ids), reencoded.SLOTS_PER_ID * ROW
    cells = corpus.read_cells(np.arange(3) * size)
    found = [bytes(tokens.ids[tokens.ids < 256].tolist()).decode() for _, tokens in cells]
    assert found == ["a" * (ROW - 2), "aaaa\ufffd" + "a" * (ROW - 9), "a" * (ROW - 3) + "\ufffd"]


def test_text_is_not_changed_on_the_way(make: Make, stored: Any) -> None:
    """Spaces before punctuation and at the ends stay; ids of the same tokenizer come back."""
    ids = [*stored(" the cat , and  the mat ; ")["input_ids"], 0]
    ids += [0] * (-len(ids) % ROW)
    corpus = make(ids, most_tokens=None, rows=None)
    [(_, tokens)] = corpus.read_cells(np.zeros(1, np.int64))
    assert bytes(tokens.ids[tokens.ids < 256].tolist()).decode() == " the cat , and  the mat ; "
    again = replace_tokenizer(corpus, stored)
    assert again.read([corpus.cells.at(np.zeros(1, np.int64))[0]])[0].ids.tolist() == ids


def replace_tokenizer(corpus: SlotCorpus, tokenizer: Any) -> Any:
    return replace(corpus.reader, tokenizer=tokenizer, end_of_text_id=0)  # type: ignore[type-var]


def test_without_an_end_of_text_documents_end_all_the_same(make: Make, stored: Any) -> None:
    ids = ids_of(stored, 20)
    corpus, size = make(ids, end=None), reencoded.SLOTS_PER_ID * ROW
    for number, row in enumerate(rows_of(ids)):
        documents = twin(stored, row, end=None)
        [(_, tokens)] = corpus.read_cells(np.array([number * size]))
        assert tokens.ids.tolist() == [byte for document in documents for byte in document]
        if tokens.ids.size:
            assert np.diff([*tokens.starts, tokens.ids.size]).tolist() == [len(document) for document in documents]


def test_long_documents_are_cut_into_pieces(make: Make, stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reencoded, "PIECE_IDS", 10)
    ids = ids_of(stored, 3)
    corpus = make(ids, rows=None)
    assert isinstance(corpus.cells, StoredIdCells)
    cells = corpus.cells.at(np.arange(corpus.number))
    distinct = {cell.base: cell for cell in cells}
    assert [cell.n_slots for cell in distinct.values()] == [80, 80, 80, 80, 64]
    assert [cell.content.tolist() for cell in distinct.values()] == [ids[at : at + 10] for at in range(0, 48, 10)]
    assert [cell.base + cell.n_slots > slot >= cell.base for slot, cell in enumerate(cells)].count(False) == 0


def test_the_stored_tokenizer_is_loaded_by_name_where_no_file_is_there(
    tmp_path: Path, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = written(tmp_path / "copy", ids_of(stored, 20)), []

    def load(name: str) -> Any:
        asked.append(name)
        if name != "org/none":
            raise OSError(f"{name} is not there\nmore lines")
        return stored

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", load)

    def opened(spec: CorpusSpec) -> Any:
        return open_corpus(spec, str(folder), Bytes(), end_of_text_id=256, n_logits=None, cache_dir=tmp_path / "cache")

    spec = spec_of(stored, 20)
    assert opened(spec).n_ids == 257
    assert asked == ["org/none"]
    assert spec.stored_in is not None
    with pytest.raises(CorpusError) as caught:
        opened(replace(spec, stored_in=replace(spec.stored_in, tokenizer="org/away")))
    assert str(caught.value) == (
        f"corpus 'pile' is stored in the {len(stored)} tokens of merged bytes, and the tokenizer of this model is "
        "another; to encode it again: no tokenizer could be loaded from 'org/away': org/away is not there; put "
        "tokenizer.json of org/away beside the files and pass their folder as corpus_path, or unset HF_HUB_OFFLINE"
    )
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CorpusError, match=r"no tokenizer could be loaded from '.*tokenizer\.json': .*; put tokenizer"):
        opened(spec)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    with pytest.raises(CorpusError, match=r"the tokenizer of .*tokenizer\.json has other entries than merged bytes"):
        opened(spec)
    assert named_tokenizer.is_stored_in(stored, spec.stored_in)


def test_the_rule_and_the_count_are_those_of_both_tokenizers(make: Make, stored: Any) -> None:
    ids = ids_of(stored, 30)
    one, other = make(ids), make(ids, Bytes(2))
    assert one.sha256() != other.sha256() != make(ids, end=None).sha256()
    assert one.sha256() == make(ids).sha256()
    assert one.n_tokens < other.n_tokens
    assert Counter(one.count.shares) != Counter(other.count.shares)


def test_it_can_be_looked_at(make: Make, tmp_path: Path, stored: Any) -> None:
    """In its own tokens, and encoded again."""
    ids = ids_of(stored, 30)
    make(ids)
    spec, folder = spec_of(stored, 30), str(tmp_path / "copy")
    own, shown = sample_windows(spec, folder, 4, context=6, draw_seed=1, cache_dir=tmp_path / "cache")
    assert (own.n_tokens, own.n_tokens_kind) == (len(ids), "exact")
    assert {window.text for window in shown} <= {
        stored.decode(ids[start:stop]) for start in range(len(ids)) for stop in range(start + 1, start + 7)
    }
    other = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(byte_letters().values())}, merges=[]))
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=other, eos_token=END).save_pretrained(str(tmp_path / "other"))
    again, shown = sample_windows(
        spec, folder, 4, context=6, draw_seed=1, cache_dir=tmp_path / "cache", tokenizer_name=str(tmp_path / "other")
    )
    assert isinstance(again, SlotCorpus)
    assert len(shown) == 4
    text = "".join(stored.decode(row, skip_special_tokens=True) for row in rows_of(ids))
    assert all(window.text.replace(END, "").strip("\ufffd") in text for window in shown)
