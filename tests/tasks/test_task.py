"""Whole evaluations: models, methods, corpora, and settings that are refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.errors import CorpusError, UsageError

METRICS = ["bpd", "top1", "top10", "top100"]
TASKS = [f"local_{metric}_bound" for metric in METRICS]
Evaluate = Callable[..., dict[str, Any]]
Certificates = Callable[[], list[Path]]
Values = Callable[[dict[str, Any], str], dict[str, float]]


def test_a_model_that_lm_eval_loads_from_its_arguments(
    evaluate: Evaluate, tiny_checkpoint: Callable[[str], Path], metadata: dict[str, Any], values_of: Values
) -> None:
    model_args = {"pretrained": str(tiny_checkpoint("unigram"))}
    flags = {"model_args": model_args, "device": "cpu", "batch_size": 8, "model": "hf"}
    by_name = evaluate(TASKS[0], lm="hf", flags={k: v for k, v in flags.items() if k != "model"}, **model_args)
    assert values_of(by_name, TASKS[0]) == values_of(evaluate(TASKS[0]), TASKS[0])


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_other_families(family: str, evaluate: Evaluate, tiny_lm: Callable[..., Any], certificates: Any) -> None:
    evaluate("local_bounds", tiny_lm(family))
    assert len(certificates()) == 4
    assert all(lm_bounds.verify(path).ok for path in certificates())


@pytest.mark.parametrize("method", ["kl_inf", "freedman", "azuma", "paper"])
def test_every_method_gives_certificates_that_verify(
    method: str, evaluate: Evaluate, certificates: Certificates
) -> None:
    evaluate("local_bounds", method=method, compressor="gzip")
    assert len(certificates()) == 4
    assert all(lm_bounds.verify(path).ok for path in certificates())
    assert {read_certificate(path)["method"]["name"] for path in certificates()} == {method}


def test_text_files_folders_and_token_files_are_evaluated(
    evaluate: Evaluate, text_file: Path, tmp_path: Path, certificates: Certificates, values_of: Values
) -> None:

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("one text " * 30, encoding="utf-8")
    (folder / "b.md").write_text("another text " * 30, encoding="utf-8")
    token_file = tmp_path / "tokens.bin"
    (np.arange(3000) % 257).astype("<u2").tofile(token_file)
    for path in (text_file, folder, token_file):
        values = values_of(evaluate(TASKS[0], corpus_path=str(path)), TASKS[0])
        assert (
            values["corpus_tokens"]
            == {
                text_file: text_file.stat().st_size + 1,
                folder: 30 * 9 + 30 * 13 + 2,
                token_file: 3000,
            }[path]
        )
    assert all(lm_bounds.verify(path).ok for path in certificates())


def test_windows_of_short_documents_are_as_long_as_the_documents(evaluate: Evaluate, values_of: Values) -> None:
    results = evaluate(TASKS[0], context=40, flags={"log_samples": True})
    sizes = [sample["scored_tokens"] for sample in results["samples"][TASKS[0]]]
    assert max(sizes) == 40
    assert len({size for size in sizes if size < 40}) > 5
    assert values_of(results, TASKS[0])["scored_tokens"] == sum(sizes)


def test_a_metric_that_means_nothing_for_the_vocabulary_is_refused_by_name(
    evaluate: Evaluate, tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path: Path, values_of: Values
) -> None:
    from lm_eval.models.huggingface import HFLM

    text = tmp_path / "text.txt"
    text.write_text("aaabbbcc" * 100, encoding="utf-8")
    lm = HFLM(pretrained=tiny_model("gpt2", vocab_size=100), tokenizer=byte_tokenizer, prefix_token_id=5)
    lm.tokenizer = WithoutEnd(byte_tokenizer)
    message = (
        r"^local_top100_bound means nothing for a vocabulary of 100: "
        r"run local_bpd_bound, local_top1_bound, local_top10_bound$"
    )
    for tasks in ("local_bounds", "local_top100_bound"):
        with pytest.raises(UsageError, match=message):
            evaluate(tasks, lm, corpus_path=str(text))
    values = evaluate(["local_bpd_bound", "local_top10_bound"], lm, corpus_path=str(text))
    assert values_of(values, "local_top10_bound")["vacuous_at"] == 0.9


class WithoutEnd:
    """A tokenizer without an end-of-text token, for a model that has no logit for it."""

    eos_token_id = bos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self.backend_tokenizer, self._tokenizer = tokenizer.backend_tokenizer, tokenizer

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._tokenizer(*args, **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"context": 65}, UsageError, "^context=65 is longer than the model allows: use at most 64$"),
        ({"corpus_path": "/nowhere"}, CorpusError, "^/nowhere does not exist"),
        ({"corpus_path": None}, UsageError, "^corpus 'local' needs its place: pass --corpus_path"),
        ({"method": "bernstein"}, UsageError, "^unknown method 'bernstein'"),
        ({"compressor": "rar"}, UsageError, "^no compressor is called 'rar'"),
        ({"windws": 5}, UsageError, "^unknown metadata key 'windws': did you mean 'windows'\\?$"),
        ({"lm_bounds.pilott": 5}, UsageError, "^unknown metadata key 'lm_bounds.pilott': did you mean"),
        ({"windows": 0}, UsageError, "^windows must be a whole number of at least 1, 0 was given$"),
        ({"failure_prob": 2}, UsageError, "^failure_prob must be a probability"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str, evaluate: Evaluate
) -> None:
    with pytest.raises(error, match=message):
        evaluate(TASKS[0], **changes)


def test_parameters_of_the_model_class_are_no_strangers(evaluate: Evaluate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        evaluate(TASKS[0], pretrained="x", dtype="float32", parallelize=False, backend="causal")
    assert [record for record in caplog.records if record.name == "lm_bounds"] == []


def test_unknown_keys_and_few_windows_are_warned_of_once(evaluate: Evaluate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        for _ in range(2):
            evaluate(TASKS[0], haystack_tokens=5, windows=29)
    messages = [record.message for record in caplog.records if record.name == "lm_bounds"]
    assert messages == [
        "metadata key 'haystack_tokens' is not one of lm-bounds: it is left to others",
        "only 29 windows: the sampling term will be large; 30 or more are usual",
    ]
