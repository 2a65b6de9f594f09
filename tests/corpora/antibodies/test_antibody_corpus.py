"""The corpus: tokens of families, made once, and what it is opened with."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.corpora import (
    AntibodyCorpus,
    antibody_tokenizer,
    check_source,
    corpus_spec,
    derived_facts,
    open_corpus,
    text_documents,
    tokenised,
)
from lm_bounds.corpora.antibodies import FamilyCounts
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.sampling import all_windows, count_windows

TOKENIZER = antibody_tokenizer(64)
END = TOKENIZER.eos_token_id
SPEC = corpus_spec("oas")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture
def opened(cache_dir: Path) -> Callable[..., AntibodyCorpus]:
    def open_it(place: Path, tokenizer: Any = TOKENIZER, end: int | None = END, n_logits: int | None = 29) -> Any:
        return open_corpus(SPEC, str(place), tokenizer, end_of_text_id=end, n_logits=n_logits, cache_dir=cache_dir)

    return open_it


def family(size: int, junction: str = "CARDYW") -> list[dict[str, str]]:
    ends = [one + other for one in RESIDUES for other in RESIDUES][:size]
    return [{"junction_aa": junction, "sequence_alignment_aa": f"EVQL{junction}{end}"} for end in ends]


@pytest.fixture
def units(written: Callable[..., Path], units_dir: Path) -> Path:
    """Families of 25 and 30 sequences and one of 24, of two subjects."""
    written("a.csv.gz", family(25) + family(24, "CGGGGGW"))
    written("b.csv.gz", [*family(30, "CTTTTTTW"), {"productive": "F"}], Subject="Subject-2")
    return units_dir


@pytest.fixture
def parameters_file(tmp_path: Path, units: Path) -> Callable[..., Path]:
    def write(content: str) -> Path:
        path = tmp_path / "parameters.yaml"
        path.write_text(content)
        return path

    return write


def test_a_family_is_a_document_with_its_end(units: Path, opened: Callable[..., AntibodyCorpus]) -> None:
    corpus = opened(units)
    assert isinstance(corpus, AntibodyCorpus)
    assert corpus.n_documents == corpus.counts.families == 2
    assert corpus.counts == FamilyCounts(2, 2, 80, 1, 0, 0, 0, 0, 24, 55, 2)
    # residues, separators, one end of text
    assert corpus.n_tokens == 25 * 12 + 24 + 1 + 30 * 14 + 29 + 1
    first, second = np.split(corpus.tokens, corpus.document_starts[1:])
    for document, size, junction in ((first, 25, "CARDYW"), (second, 30, "CTTTTTTW")):
        assert document[-1] == END
        sequences = TOKENIZER.decode(document[:-1].tolist()).replace(" ", "").split("[ClSep]")
        assert sorted(sequences) == [each["sequence_alignment_aa"] for each in family(size, junction)]
        assert sequences != sorted(sequences)
    assert corpus.source == str(units)
    assert corpus.end_of_text_id == END
    assert corpus.n_tokens_kind == "exact"


def test_no_end_where_the_model_has_none(units: Path, opened: Callable[..., AntibodyCorpus]) -> None:
    corpus = opened(units, end=None)
    assert corpus.n_tokens == opened(units).n_tokens - 2
    assert corpus.n_documents == 2
    assert END not in corpus.tokens


@pytest.mark.parametrize("context", [1, 7, 64, 324, 325, 326, 10_000])
def test_a_long_family_is_cut_and_every_token_is_in_one_window(
    units: Path, opened: Callable[..., AntibodyCorpus], context: int
) -> None:
    corpus = opened(units)
    windows = all_windows(corpus.document_starts, corpus.n_tokens, context)
    covered = np.concatenate([np.arange(a, b) for a, b in zip(windows.start, windows.stop, strict=True)])
    assert np.array_equal(covered, np.arange(corpus.n_tokens))
    assert (windows.stop - windows.start).max() == min(context, 450)
    assert len(windows) == count_windows(corpus.document_starts, corpus.n_tokens, context)
    assert len(windows) == -(-325 // context) + -(-450 // context)


def test_pieces_do_not_show(
    units: Path, opened: Callable[..., AntibodyCorpus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = opened(units)
    monkeypatch.setattr(text_documents, "PIECE_CHARS", 100)
    in_pieces = open_corpus(
        SPEC, str(units), TOKENIZER, end_of_text_id=END, n_logits=29, cache_dir=tmp_path / "another"
    )
    assert in_pieces.sha256() == whole.sha256()


def test_names_play_no_part(units: Path, opened: Callable[..., AntibodyCorpus], cache_dir: Path) -> None:
    before = opened(units)
    made = sorted(cache_dir.iterdir())
    (units / "a.csv.gz").rename(units / "z.csv.gz")
    (units / "b.csv.gz").rename(units / "a.csv.gz")
    after = opened(units)
    assert (after.sha256(), after.counts) == (before.sha256(), before.counts)
    assert sorted(cache_dir.iterdir()) == made


def test_tokens_are_made_once_and_counts_are_said_each_time(
    units: Path, opened: Callable[..., AntibodyCorpus], cache_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        first = opened(units)
    assert caplog.text.count("80 rows of 2 data units of 2 subjects: 1 not productive") == 1
    caplog.clear()
    assert sorted(path.suffix for path in cache_dir.iterdir()) == [".json", ".tokens"]
    built: list[object] = []
    monkeypatch.setattr(tokenised, "_build", lambda *given: built.append(given))
    with caplog.at_level(logging.INFO):
        again = opened(units)
    assert built == []
    assert again.counts == first.counts
    assert "80 rows of 2 data units of 2 subjects: 1 not productive" in caplog.text
    assert "55 sequences of 2 families are kept" in caplog.text


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"rows": 3}', "wrong sum"])
def test_lost_counts_are_made_again(
    units: Path, opened: Callable[..., AntibodyCorpus], cache_dir: Path, damage: str | None
) -> None:
    first = opened(units)
    [path] = cache_dir.glob("*.json")
    content = path.read_text()
    if damage is None:
        path.unlink()
    else:
        path.write_text(json.dumps({**json.loads(content), "rows": 7}) if damage == "wrong sum" else damage)
    assert opened(units).counts == first.counts
    assert path.read_text() == content
    assert not list(cache_dir.glob("*.partial"))
    assert not list(cache_dir.glob(".*"))


def test_what_is_read_and_the_parameters_decide(
    units: Path, opened: Callable[..., AntibodyCorpus], parameters_file: Callable[..., Path]
) -> None:
    seen = {opened(units).sha256()}
    same = opened(parameters_file("path: units\n"))
    assert same.sha256() in seen
    assert same.source.endswith("parameters.yaml")
    small = opened(parameters_file("path: units\nmin_family: 24\n"))
    assert small.counts.families == 3
    assert opened(parameters_file("path: units\nmin_family: 30\nidentity: 1\n")).counts.families == 1
    (units / "b.csv.gz").unlink()
    assert opened(units).counts.families == 1


def test_no_family_is_an_error_that_says_where_the_rows_went(
    units: Path, opened: Callable[..., AntibodyCorpus], parameters_file: Callable[..., Path], cache_dir: Path
) -> None:
    path = parameters_file("path: units\nmin_family: 31\n")
    with pytest.raises(CorpusError, match=r"no family of 31 sequences; 80 rows .* 79 in small families; .*min_family"):
        opened(path)
    assert list(cache_dir.iterdir()) == []


def test_a_unit_that_changes_meanwhile(
    units: Path, opened: Callable[..., AntibodyCorpus], monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    def tamper(*given: Any) -> None:
        finish(*given)
        (units / "b.csv.gz").unlink()

    finish = tokenised._TokenWriter.finish
    monkeypatch.setattr(tokenised._TokenWriter, "finish", tamper)
    with pytest.raises(CorpusError, match="was changed while it was read"):
        opened(units)
    assert list(cache_dir.iterdir()) == []


def test_a_broken_unit_leaves_nothing(units: Path, opened: Callable[..., AntibodyCorpus], cache_dir: Path) -> None:
    path = units / "b.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"b\.csv\.gz:\d+: the gzip file is cut off"):
        opened(units)
    assert not cache_dir.exists() or list(cache_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("min_family: 3", "the parameter 'path' is missing"),
        ("path: units\nsize: 3", "unknown parameter 'size'"),
        ("path: units\nmin_family: 0", "min_family must be a whole number"),
        ("path: units\nmin_family: true", "min_family must be a whole number"),
        ("path: units\nidentity: 0", "identity must be above 0 and at most 1"),
        ("path: units\nidentity: 80", "identity must be above 0 and at most 1"),
        ("path: units\nidentity: .nan", "identity must be above 0 and at most 1"),
        ("path: units\nidentity: high", "identity must be above 0 and at most 1"),
        ("path: nowhere", "nowhere does not exist"),
        ("path: 3", "path must name a data unit"),
        ("path:", "path must name a data unit"),
        ("- 3", "must be a YAML mapping"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_malformed_parameters(parameters_file: Callable[..., Path], content: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        check_source(SPEC, str(parameters_file(content)))


def test_a_place_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="corpus 'oas' needs its place: pass --corpus_path FOLDER"):
        check_source(SPEC, None)
    with pytest.raises(CorpusError, match="does not exist"):
        check_source(SPEC, str(tmp_path / "none"))


def test_other_tokenizers(units: Path, opened: Callable[..., AntibodyCorpus], byte_tokenizer: Any) -> None:
    in_bytes = opened(units, byte_tokenizer, 256, 260)
    assert in_bytes.counts == opened(units).counts
    assert in_bytes.n_tokens == 25 * (2 * 12 - 1) + 24 * 9 + 1 + 30 * (2 * 14 - 1) + 29 * 9 + 1
    with pytest.raises(CorpusError, match="use the model's own tokenizer"):
        opened(units, n_logits=20)


def test_the_cache_lies_apart(units: Path) -> None:
    with pytest.raises(UsageError, match="lies inside the corpus"):
        open_corpus(SPEC, str(units), TOKENIZER, end_of_text_id=END, n_logits=29, cache_dir=units / "cache")


def test_what_is_registered() -> None:
    assert SPEC.metrics == ("bpd", "top1", "top10")
    assert (SPEC.layout, SPEC.n_tokens_kind) == ("antibodies", "exact")
    assert SPEC.parameters == {"min_family": 25, "identity": 0.8}
    assert derived_facts(SPEC) == {}
