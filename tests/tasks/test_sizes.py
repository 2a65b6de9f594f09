"""Sizes that no compressor gives: declared by the user, or that of a file; certificates say so."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_bounds.certificates import verify
from lm_bounds.certificates.claim import claim_sentence
from lm_bounds.certificates.files import digest
from lm_bounds.certificates.restore import restore_plan
from lm_bounds.complexity import complexity
from lm_bounds.errors import UsageError, VerificationError
from lm_bounds.settings import Settings, parse_settings
from lm_bounds.weights import read_checkpoint, read_module

Evaluate = Callable[..., dict[str, Any]]


def certificate_of(metadata: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    [path] = Path(metadata["certificates"]).rglob("local_bpd_bound.json")
    return path, json.loads(path.read_bytes())


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_bytes(b"print('weights')\n" * 50)
    return path


def test_a_declared_size_is_charged_and_marked_everywhere(evaluate: Evaluate, metadata: dict[str, Any]) -> None:
    values = evaluate(["local_bpd_bound"], code_bits=1e6)["results"]["local_bpd_bound"]
    path, fields = certificate_of(metadata)
    assert (values["code_bits,none"], values["declared,none"]) == (1e6, 1.0)
    assert fields["complexity"]["source"] == "declared"
    assert fields["complexity"]["compressor"]["exact"] is False
    assert "declared by the operator, 1,000,000 bits, and was not measured" in fields["claim"]["sentence"]
    assert verify(path).ok
    plan = restore_plan([fields])
    assert (plan.code.source, plan.code.bits) == ("declared", 1e6)


def test_a_measured_size_is_not_marked(evaluate: Evaluate, metadata: dict[str, Any]) -> None:
    values = evaluate(["local_bpd_bound"])["results"]["local_bpd_bound"]
    assert "declared,none" not in values
    assert certificate_of(metadata)[1]["complexity"]["source"] == "measured"


def test_a_file_counts_with_all_its_bytes(evaluate: Evaluate, metadata: dict[str, Any], artifact: Path) -> None:
    values = evaluate(["local_bpd_bound"], artifact=str(artifact))["results"]["local_bpd_bound"]
    path, fields = certificate_of(metadata)
    assert (values["code_bits,none"], values["artifact,none"]) == (8 * artifact.stat().st_size, 1.0)
    assert fields["complexity"]["source"] == "artifact"
    assert "is that of a file, 6,800 bits" in fields["claim"]["sentence"]
    assert verify(path).ok


@pytest.mark.parametrize("other", [{"code_bits": 2e6}, {}, {"artifact": True}])
def test_another_size_draws_other_windows(
    evaluate: Evaluate, metadata: dict[str, Any], artifact: Path, other: dict[str, Any], tmp_path: Path
) -> None:
    evaluate(["local_bpd_bound"], code_bits=1e6)
    chosen = {key: str(artifact) if value is True else value for key, value in other.items()}
    again = {**metadata, "certificates": str(tmp_path / "again")}
    evaluate(["local_bpd_bound"], **{**chosen, "certificates": again["certificates"]})
    one, two = certificate_of(metadata)[1], certificate_of(again)[1]
    assert one["sample"]["draws_sha256"] != two["sample"]["draws_sha256"]


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"source": "measured"}, "complexity.source is 'measured' where the size is that of 'declared'"),
        ({"source": "artifact", "artifact_sha256": "0" * 64}, "complexity.source is 'artifact'"),
        ({"artifact_sha256": "0" * 64}, "an artifact has no sha256 or no whole number of bytes, or there is none"),
        (
            {"source": "measured", "compressor": {"name": "arithmetic", "version": "", "exact": True}},
            "the settings name another compressor than was used",
        ),
    ],
)
def test_a_declared_size_cannot_pass_for_a_measured_one(
    evaluate: Evaluate, metadata: dict[str, Any], change: dict[str, Any], failure: str
) -> None:
    evaluate(["local_bpd_bound"], code_bits=1e6)
    path, fields = certificate_of(metadata)
    fields["complexity"].update(change)
    fields["claim"]["sentence"] = claim_sentence(fields)
    fields["digest"] = digest(fields)
    path.write_text(json.dumps(fields))
    assert any(failure in found for found in verify(path).failures)


@pytest.fixture
def prior(tiny_lm: Callable[..., Any], tmp_path: Path) -> Path:
    """The model itself before the last change to one of its tensors."""
    model = copy.deepcopy(tiny_lm("unigram").model)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0] += 0.25
    model.save_pretrained(tmp_path / "prior")
    return tmp_path / "prior"


def test_a_size_relative_to_a_prior_is_short_and_says_so(
    evaluate: Evaluate, metadata: dict[str, Any], prior: Path, tiny_lm: Callable[..., Any]
) -> None:
    values = evaluate(["local_bpd_bound"], given=str(prior))["results"]["local_bpd_bound"]
    path, fields = certificate_of(metadata)
    weights = read_module(tiny_lm("unigram").model)
    assert values["code_bits,none"] < complexity(weights, Settings()).bits / 5
    assert values["given,none"] == 1.0
    assert fields["complexity"]["prior"]["sha256"] == read_checkpoint(prior).sha256() != weights.sha256()
    assert fields["complexity"]["sha256"] == weights.sha256()
    assert f"relative to those of {str(prior)!r}" in fields["claim"]["sentence"]
    assert "if these were fixed before the corpus was seen" in fields["claim"]["sentence"]
    assert verify(path).ok
    assert restore_plan([fields]).code.prior is not None


def test_a_prior_cannot_be_left_out_of_a_certificate(evaluate: Evaluate, metadata: dict[str, Any], prior: Path) -> None:
    evaluate(["local_bpd_bound"], given=str(prior))
    path, fields = certificate_of(metadata)
    fields["settings"]["given"] = None
    del fields["complexity"]["prior"]
    for entry in fields["complexity"]["ledger"]:
        entry["item"] = entry["item"].replace("prior model (sha256)", "schema")
    fields["claim"]["sentence"] = claim_sentence(fields)
    fields["digest"] = digest(fields)
    path.write_text(json.dumps(fields))
    assert verify(path).failures == (
        "the seed of the draws does not depend on the weights, choices and corpus of the certificate",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_bits": 0.5}, "code_bits must be a number of bits of at least 1"),
        ({"code_bits": "many"}, "code_bits must be a number of bits of at least 1"),
        ({"code_bits": float("inf")}, "code_bits must be a number of bits of at least 1"),
        ({"code_bits": 100, "artifact": "a.bin"}, "code_bits and artifact were both given"),
        ({"given": "a/b", "artifact": "a.bin"}, "artifact and given were both given"),
        ({"artifact": "/nowhere/a.bin"}, r"no artifact at '/nowhere/a\.bin': give a file that exists"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(tiny_lm: Callable[..., Any], settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        complexity(read_module(tiny_lm("unigram").model), parse_settings(settings))


def test_a_declared_fraction_of_a_bit_is_rounded_up() -> None:
    assert parse_settings({"code_bits": 1000.25}) == Settings(code_bits=1001.0)


@pytest.mark.parametrize("part", ["artifact_sha256", "ledger"])
def test_certificates_of_one_run_agree_on_their_size(
    evaluate: Evaluate, metadata: dict[str, Any], artifact: Path, part: str
) -> None:
    """A deep verification measures once for all certificates of a run, so that none may say something else."""
    evaluate(["local_bpd_bound", "local_top1_bound"], artifact=str(artifact))
    fields = certificate_of(metadata)[1]
    other = json.loads(certificate_of(metadata)[0].with_name("local_top1_bound.json").read_bytes())
    if part == "ledger":
        other["complexity"]["ledger"][0]["item"] = "something else"
    else:
        other["complexity"][part] = "ab" * 32
    restore_plan([fields])
    with pytest.raises(VerificationError, match="are not of one run"):
        restore_plan([fields, other])
