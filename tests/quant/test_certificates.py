"""Whole evaluations of models that real libraries quantised: certificates are written, and hold when measured again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.compressors import measure
from lm_bounds.doctor import tasks_path
from lm_bounds.errors import ModelError
from lm_bounds.tasks.deep import verify_deep
from lm_bounds.tasks.reload import Places
from lm_bounds.weights import read_checkpoint

TASK = "local_bpd_bound"


@pytest.fixture
def certify(many_documents_file: Path, shared_tokens: Path, tmp_path: Path) -> Callable[..., Path]:
    """``certify(pretrained, **options of HFLM)``: evaluates a few windows; the certificate."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    metadata = {
        "corpus_path": str(many_documents_file),
        "windows": 30,
        "pilot": 12,
        "certificates": str(tmp_path / "certificates"),
    }

    def run(pretrained: Any, **options: Any) -> Path:
        manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
        lm_eval.simple_evaluate(
            model=HFLM(pretrained=pretrained, device="cpu", batch_size=8, **options),
            tasks=[TASK],
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=False,
        )
        [path] = (tmp_path / "certificates").rglob("*.json")
        return path

    return run


@pytest.mark.parametrize(
    "kind",
    [
        "aqlm",
        "auto_round:auto_round",
        "auto_round:auto_gptq",
        "auto_round:auto_awq",
        "bitnet",
        "bitsandbytes:nf4",
        "bitsandbytes:nf4-nested",
        "bitsandbytes:int8",
        "compressed_tensors:pack4",
        "compressed_tensors:fp8",
        "gptq:4",
        "gptq:2-act-order",
        "torchao:int8",
        "torchao:int4",
    ],
)
def test_a_checkpoint_gets_a_certificate_of_the_size_of_its_files(
    certify: Callable[..., Path], quantised: Callable[[str], Path], kind: str
) -> None:
    path = certify(str(quantised(kind)))
    assert lm_bounds.verify(path).ok
    assert read_certificate(path)["complexity"]["sha256"] == read_checkpoint(quantised(kind)).sha256()
    [measured] = verify_deep([path])
    assert measured.ok, measured


@pytest.mark.parametrize("kind", ["gguf:Q4_0", "gguf:Q8_0"])
def test_a_gguf_file_gets_a_certificate(
    certify: Callable[..., Path], quantised: Callable[[str], Path], byte_tokenizer: Any, kind: str
) -> None:
    folder = quantised(kind)
    path = certify(str(folder), gguf_file="model.gguf", tokenizer=byte_tokenizer)
    assert lm_bounds.verify(path).ok
    assert read_certificate(path)["complexity"]["sha256"] == read_checkpoint(folder / "model.gguf").sha256()
    places = Places(f"pretrained={folder},gguf_file=model.gguf,tokenizer={folder}")
    [measured] = verify_deep([path], places)
    assert measured.ok, measured


def test_a_layer_that_looks_at_all_tokens_for_outliers_is_refused(
    certify: Callable[..., Path], quantised: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match="not strictly causal"):
        certify(str(quantised("bitsandbytes:int8-outliers")))


@pytest.mark.parametrize(
    "name", ["bitsandbytes:nf4", "bitsandbytes:int8", "hqq:3", "hqq:4", "torchao:int4", "torchao:int8"]
)
def test_a_model_that_was_quantised_in_memory(
    certify: Callable[..., Path],
    in_memory: Callable[[str], Any],
    byte_tokenizer: Any,
    quantised: Callable[[str], Path],
    name: str,
) -> None:
    path = certify(in_memory(name), tokenizer=byte_tokenizer)
    assert lm_bounds.verify(path).ok
    stored = measure(read_checkpoint(quantised(name)), "arithmetic").bits
    assert read_certificate(path)["complexity"]["code_bits"] == pytest.approx(stored, rel=0.02)
