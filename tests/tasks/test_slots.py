"""Whole evaluations on corpora whose tokens are found by slots: text in parquet, rows of ids, rows encoded again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.corpora import tokenizer_sha256, vocabulary_sha256
from lm_bounds.corpora.spec import CorpusSpec, HubFiles, StoredTokens
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.pipeline import corpus_facts
from lm_bounds.settings import Settings
from lm_bounds.tasks.deep import verify_deep
from lm_bounds.tasks.extend import extend_run
from lm_bounds.tasks.reload import Places

Evaluate = Callable[..., dict[str, Any]]
Certificates = Callable[[], list[Path]]
Values = Callable[[dict[str, Any], str], dict[str, float]]
METHODS = [
    {"method": "kl_inf"},
    {"method": "freedman"},
    {"method": "azuma"},
    {"method": "paper"},
    {"method": "best"},
    {"upper": "bernstein"},
    {"unit": "token"},
    {"shared_draws": 3},
    {"family_wise": False, "failure_prob": 0.2},
]


@pytest.fixture
def stories(tmp_path: Path) -> str:
    """A copy of tinystories: two of its four files, with an empty story."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for number in range(2):
        texts = [f"story {number} {k}: the fox " + "ran and " * (k % 90) for k in range(300)]
        table = pyarrow.table({"text": [*texts, ""]})
        parquet.write_table(table, folder / f"train-{number:05}-of-00004-abc.parquet", row_group_size=40)
    return str(folder)


@pytest.mark.parametrize("chosen", METHODS, ids=str)
def test_every_method_gives_certificates_that_verify(
    evaluate: Evaluate, certificates: Certificates, stories: str, values_of: Values, chosen: dict[str, Any]
) -> None:
    results = evaluate("tinystories_bounds", corpus_path=stories, **chosen)
    assert len(certificates()) == 4
    for path in certificates():
        found = lm_bounds.verify(path)
        assert found.ok, found.failures
        assert "tokens, as estimated from 1,024 places)" in found.claim
        fields = read_certificate(path)
        assert fields["corpus"]["n_tokens_kind"] == "lower_bound"
        assert sum(fields["rates"][f"delta_{k}"] for k in (1, 3)) + fields["rates"]["delta_2"] * (
            chosen.get("shared_draws", 1)
        ) == pytest.approx(fields["claim"]["failure_prob"], rel=1e-9)
        task = f"tinystories_{fields['claim']['metric']}_bound"
        assert values_of(results, task)["corpus_tokens"] == fields["corpus"]["n_tokens"]


def test_the_same_text_as_a_corpus_of_counted_tokens_has_about_as_many(
    evaluate: Evaluate, stories: str, values_of: Values
) -> None:
    drawn = values_of(evaluate("tinystories_bpd_bound", corpus_path=stories), "tinystories_bpd_bound")
    counted = values_of(evaluate("local_bpd_bound", corpus_path=stories), "local_bpd_bound")
    assert 0.9 * counted["corpus_tokens"] < drawn["corpus_tokens"] < counted["corpus_tokens"]
    assert drawn["bpd_risk"] == pytest.approx(counted["bpd_risk"], abs=0.2)
    assert drawn["bpd_complexity"] > counted["bpd_complexity"]


def test_the_tasks_of_local_run_on_a_corpus_that_is_named(
    evaluate: Evaluate, certificates: Certificates, stories: str
) -> None:
    evaluate("tinystories_bpd_bound", corpus_path=stories)
    evaluate("local_bpd_bound", corpus="tinystories", corpus_path=stories)
    own, named = (read_certificate(path) for path in certificates())
    assert named["claim"] == own["claim"]
    assert named["sample"]["draws_sha256"] == own["sample"]["draws_sha256"]


def test_a_corpus_that_has_no_such_metric_or_is_unknown_is_refused(evaluate: Evaluate) -> None:
    with pytest.raises(UsageError, match=r"'structured' has no bound of top10: run --tasks local_bpd_bound,local_top1"):
        evaluate("local_top10_bound", corpus="structured")
    with pytest.raises(UsageError, match="unknown corpus 'tinystory': did you mean 'tinystories'"):
        evaluate("local_bpd_bound", corpus="tinystory")


def test_they_are_measured_again_and_extended(
    evaluate: Evaluate, certificates: Certificates, stories: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model_args = {"pretrained": str(tiny_checkpoint("unigram"))}
    flags = {"model_args": model_args, "device": "cpu", "batch_size": 8}
    evaluate("tinystories_bounds", lm="hf", flags=flags, corpus_path=stories, **model_args)
    [found] = verify_deep(certificates(), Places(), share=1.0)
    assert all(check.ok for check in found.checks), [str(check) for check in found.checks]
    extension = extend_run(certificates()[0], 15, str(tmp_path / "more"))
    assert extension.n_added == 15
    for certificate in extension.new:
        assert lm_bounds.verify(certificate.path).ok
        assert certificate.fields["sample"]["windows"] == 45
    [found] = verify_deep([certificate.path for certificate in extension.new], Places(), share=1.0)
    assert all(check.ok for check in found.checks), [str(check) for check in found.checks]
    moved = Path(stories).rename(tmp_path / "moved")
    with pytest.raises(CorpusError, match="is not here: pass --corpus_path FILE-OR-FOLDER"):
        extend_run(certificates()[0], 3, str(tmp_path / "more"))
    assert extend_run(certificates()[0], 3, str(tmp_path / "more"), Places(corpus_path=str(moved))).n_added == 3
    for file in sorted(moved.iterdir())[1:]:
        file.unlink()
    [found] = verify_deep([certificates()[0]], Places(corpus_path=str(moved)), share=1.0)
    [wrong] = [str(check) for check in found.checks if check.name == "corpus"]
    assert "count is not what is stated" in wrong
    assert len(wrong) < 300


def test_a_failure_probability_at_which_nothing_is_known_is_refused(invented_slots: Callable[..., Any]) -> None:
    corpus = invented_slots([6] * 10, [1] * 5 + [0] * 5)
    assert corpus_facts(corpus, Settings()).n_tokens == 4
    with pytest.raises(UsageError, match="at failure_prob=1e-300 nothing is known of how many tokens invented has"):
        corpus_facts(corpus, Settings(failure_prob=1e-300))


@pytest.fixture
def rows(tmp_path: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[CorpusSpec, str]:
    """Rows of ids of the byte tokenizer, an eighth of them malformed; the model has the tokenizer that it likes."""
    stored = StoredTokens(
        "bytes",
        "nobody/bytes",
        len(byte_tokenizer),
        vocabulary_sha256(byte_tokenizer, len(byte_tokenizer)),
        byte_tokenizer.eos_token_id,
    )
    spec = CorpusSpec(
        id="rows",
        title="Rows",
        description="Rows of ids.",
        layout="token_rows",
        metrics=("bpd", "top1"),
        n_tokens_kind="declared",
        document_rule="A row.",
        end_of_text_rule="Stored ones.",
        licence="CC0",
        caveats=(),
        parameters={"stored": 33, "counted": 32, "skipped": 1, "field": "token_ids"},
        hub=HubFiles("nobody/rows", "main", "part_*.jsonl", 2),
        stored_in=stored,
        n_tokens=2 * 120 * 32,
    )
    known = {"rows": spec}
    for module in ("lm_bounds.pipeline", "lm_bounds.tasks.task", "lm_bounds.tasks.reload"):
        monkeypatch.setattr(f"{module}.corpus_spec", lambda name: known[name])
    folder = tmp_path / "rows"
    folder.mkdir()
    text = "the a of bound token window model sample corpus prior loss risk bits draws " * 200
    ids = byte_tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0]
    random = np.random.default_rng(2)
    for number in range(2):
        lines = []
        for row in range(120):
            start = int(random.integers(len(ids) - 40))
            stored_ids = ids[start : start + (32 if row % 8 == 0 else 33)]
            lines.append(json.dumps({"token_ids": stored_ids, "source": "x" * int(random.integers(200))}))
        (folder / f"part_{number}.jsonl").write_text("\n".join(lines))
    byte_tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return spec, str(folder)


def test_rows_with_malformed_ones_are_certified(
    evaluate: Evaluate, certificates: Certificates, rows: tuple[CorpusSpec, str], caplog: pytest.LogCaptureFixture
) -> None:
    spec, folder = rows
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        evaluate("local_bpd_bound", corpus="rows", corpus_path=folder)
    said = [record.getMessage() for record in caplog.records]
    assert any(".jsonl, byte " in each and ": 32 ids where a row has 33: left out" in each for each in said)
    [path] = certificates()
    assert lm_bounds.verify(path).ok
    fields = read_certificate(path)
    corpus, sample = fields["corpus"], fields["sample"]
    assert corpus["reencoded_from"] is None
    assert corpus["count"]["declared"] == spec.n_tokens
    assert 0 < corpus["n_tokens"] < spec.n_tokens * 7 / 8
    assert corpus["count"]["void_rows"] > 0
    assert sample["void"] > 0
    assert "Malformed rows, on which" in fields["claim"]["sentence"]


@pytest.fixture
def other_tokenizer(byte_tokenizer: Any, tmp_path: Path) -> str:
    """A folder with a tokenizer whose ids of bytes are in another order."""
    described = json.loads(byte_tokenizer.backend_tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    letters = [token for token in vocabulary if len(token) == 1]
    ids = [vocabulary[token] for token in letters]
    described["model"]["vocab"] = {**vocabulary, **dict(zip(letters, reversed(ids), strict=True))}
    folder = tmp_path / "other"
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), eos_token=byte_tokenizer.eos_token
    )
    other.save_pretrained(folder)
    return str(folder)


def test_rows_are_encoded_again_for_a_model_with_another_tokenizer(
    evaluate: Evaluate,
    certificates: Certificates,
    rows: tuple[CorpusSpec, str],
    other_tokenizer: str,
    tiny_lm: Callable[..., Any],
) -> None:
    folder = rows[1]
    evaluate("local_bpd_bound", corpus="rows", corpus_path=folder)
    other = tiny_lm("unigram", tokenizer=other_tokenizer)
    evaluate("local_bpd_bound", lm=other, corpus="rows", corpus_path=folder)
    stored, again = (read_certificate(path)["corpus"] for path in certificates())
    found = lm_bounds.verify(certificates()[1])
    assert found.ok, found.failures
    assert again["reencoded_from"] == tokenizer_sha256(
        PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    )
    assert again["tokenizer_sha256"] != stored["tokenizer_sha256"]
    assert again["count"]["declared"] is None
    assert again["n_tokens"] == pytest.approx(stored["n_tokens"], rel=0.1)  # a token is a byte in both
    assert "The corpus is stored in the tokens of another tokenizer" in found.claim
