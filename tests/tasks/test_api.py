"""Certificates from Python are those of the tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.errors import ModelError, UsageError


@pytest.fixture
def certify(unigram_model: Callable[[], Any], byte_tokenizer: Any, metadata: dict[str, Any]) -> Callable[..., Any]:
    """``certify(model=None, **arguments)`` of the unigram model on the tests' corpus."""

    def run(model: Any = None, **arguments: Any) -> Any:
        return lm_bounds.certify(
            unigram_model() if model is None else model, byte_tokenizer, **{"batch_size": 8, **metadata, **arguments}
        )

    return run


def test_the_same_numbers_as_the_tasks(certify: Callable[..., Any], evaluate: Callable[..., Any]) -> None:
    found = certify()
    assert [certificate.metric for certificate in found] == ["bpd", "top1", "top10", "top100"]
    results = evaluate("local_bounds")["results"]
    for certificate in found:
        reported = results[f"local_{certificate.metric}_bound"]
        assert certificate.bound == reported[f"{certificate.metric}_bound,none"]
        for term in ("risk", "complexity", "sampling"):
            assert certificate.fields["terms"][term] == reported[f"{certificate.metric}_{term},none"]
        assert certificate.vacuous == (reported["nonvacuous,none"] == 0.0)
        assert lm_bounds.verify(certificate.path).ok


def test_the_same_draws_as_the_tasks(certify: Callable[..., Any], evaluate: Callable[..., Any], tmp_path: Path) -> None:
    [own] = certify(metrics=["top1"], certificates=str(tmp_path / "own"))
    evaluate("local_top1_bound")
    [path] = (tmp_path / "certificates").rglob("*.json")
    theirs = read_certificate(path)
    for name in ("draws_sha256", "observations_sha256", "seed_parts", "windows", "pilot"):
        assert own.fields["sample"][name] == theirs["sample"][name]


def test_some_metrics_in_the_order_asked_for(certify: Callable[..., Any], tmp_path: Path) -> None:
    found = certify(metrics=["top10", "bpd"], windows=8)
    assert [certificate.metric for certificate in found] == ["top10", "bpd"]
    assert sorted(path.name for path in (tmp_path / "certificates").rglob("*.json")) == [
        "local_bpd_bound.json",
        "local_top10_bound.json",
    ]
    assert [certificate.path.is_file() for certificate in found] == [True, True]
    assert found[0].claim.startswith("With probability at least 0.95")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["top5"]}, r"^metrics \['top5'\] were asked for: .* offer bpd, top1, top10, top100$"),
        ({"metrics": []}, r"^metrics \[\] were asked for: "),
        ({"windws": 3}, "^unknown metadata key 'lm_bounds.windws': did you mean 'lm_bounds.windows'"),
        ({"windows": 0}, "^windows must be a whole number of at least 1"),
        ({"corpus": "wikipedia"}, "'wikipedia'"),
        ({"corpus_path": None}, "^corpus 'local' needs its place"),
        ({"batch_size": 0}, "^batch_size must be at least 1"),
    ],
)
def test_what_is_not_allowed_is_refused(arguments: dict[str, Any], message: str, certify: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=message):
        certify(**arguments)


def test_processes_that_each_have_the_model_are_refused(
    certify: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"^2 processes were started, .* HFLM has no data parallelism on the CPU: run"):
        certify()
    assert not (tmp_path / "certificates").exists()


def test_an_encoder_decoder_is_refused(certify: Callable[..., Any]) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=260, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match=r"^the model is an encoder-decoder"):
        certify(T5ForConditionalGeneration(config))
