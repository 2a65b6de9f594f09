"""A plan that is restored from certificates is the plan that they were made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.certificates import Certificate, Plan, verify, write_certificates
from lm_bounds.certificates.files import digest
from lm_bounds.certificates.restore import restore_plan, run_certificates
from lm_bounds.errors import VerificationError
from lm_bounds.pipeline import open_session
from lm_bounds.settings import Settings

N_WINDOWS = 6
Written = Callable[..., tuple[Plan, list[Certificate]]]


@pytest.fixture
def written(tiny_lm: Callable[..., Any], many_documents_file: Path, shared_tokens: Path, tmp_path: Path) -> Written:
    """``written(metrics=None, lm=None, **settings)``: a plan, and the certificates of its run."""

    def write(metrics: list[str] | None = None, lm: Any = None, **chosen: Any) -> tuple[Plan, list[Certificate]]:
        settings = Settings(**{"corpus_path": str(many_documents_file), "pilot": 8, **chosen})
        session = open_session(tiny_lm("unigram") if lm is None else lm, "local", settings, N_WINDOWS)
        observations = session.observe(range(N_WINDOWS))
        plan = session.plan
        return plan, write_certificates(plan, observations, metrics or list(plan.methods), tmp_path / "run")

    return write


def restored(certificates: list[Certificate]) -> Plan:
    return restore_plan([json.loads(certificate.path.read_bytes()) for certificate in certificates])


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"method": "best", "family_wise": False, "windows": 31},
        {"method": "azuma_lambda", "smoothing": "entropy", "compressor": "gzip"},
        {"method": "paper"},
        {"method": "freedman", "upper": "bernstein", "unit": "token", "context": 20},
        {"shared_draws": 3, "draw_seed": 7},
    ],
    ids=str,
)
def test_a_restored_plan_is_the_plan(written: Written, chosen: dict[str, Any]) -> None:
    plan, certificates = written(**chosen)
    assert all(verify(certificate.path).ok for certificate in certificates)
    found = restored(certificates)
    assert found.certify_seed_parts() == plan.certify_seed_parts()
    assert found.certify_seed() == plan.certify_seed()
    assert found.overhead() == plan.overhead()
    assert list(found.methods) == list(plan.methods)
    for metric in plan.methods:
        assert found.problem(metric) == plan.problem(metric)
        assert found.methods[metric] == plan.methods[metric]
        assert found.charged_bits(metric) == plan.charged_bits(metric)
    assert found == replace(plan, code=replace(plan.code, seconds=0.0), methods=found.methods)


def test_one_certificate_names_all_methods_that_were_observed(written: Written) -> None:
    plan, certificates = written(["top10"])
    assert restored(certificates).methods == dict(plan.methods)


def test_where_draws_are_shared_the_methods_are_those_of_the_certificates(written: Written) -> None:
    plan, certificates = written(["top10", "bpd"], shared_draws=2)
    found = restored(certificates)
    assert found.methods == {metric: plan.methods[metric] for metric in ("bpd", "top10")}
    assert found.certify_seed() == plan.certify_seed()


def test_a_prefix_token_and_a_number_format_are_restored(written: Written, tiny_lm: Callable[..., Any]) -> None:
    plan, certificates = written(lm=tiny_lm("unigram", prefix_token_id=3, dtype="bfloat16"))
    found = restored(certificates)
    assert found.model == plan.model
    assert (found.model.prefix_token_id, found.model.default_prefix, found.model.dtype) == (3, False, "bfloat16")


def test_certificates_of_two_runs_make_no_plan(written: Written) -> None:
    _, certificates = written()
    fields = [json.loads(certificate.path.read_bytes()) for certificate in certificates]
    fields[1]["created"] = "2020-01-01T00:00:00.000000Z"
    with pytest.raises(VerificationError, match="not of one run"):
        restore_plan(fields)


def test_what_cannot_be_restored_is_one_line(written: Written) -> None:
    _, [certificate, *_] = written()
    fields = json.loads(certificate.path.read_bytes())
    del fields["complexity"]["stored_bytes"]
    with pytest.raises(VerificationError, match="stored_bytes"):
        restore_plan([fields])


def test_the_certificates_of_a_run_are_those_that_name_its_observations(written: Written) -> None:
    _, certificates = written()
    folder = certificates[0].path.parent
    (folder / "results.json").write_text("[]", encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    stranger = json.loads(certificates[0].path.read_bytes())
    stranger["sample"]["observations"] = "other-observations.npz"
    (folder / "stranger.json").write_text(json.dumps(stranger), encoding="utf-8")
    for certificate in certificates:
        found = run_certificates(certificate.path)
        assert [one.metric for one in found] == ["bpd", "top1", "top10", "top100"]
        assert [one.path for one in found] == [one.path for one in certificates]
    renamed = folder / "copy.txt"
    shutil.move(certificates[2].path, renamed)
    assert [one.path.name for one in run_certificates(renamed)][2] == "copy.txt"


@pytest.mark.parametrize(("value", "holds"), [("a" * 64, True), ("a" * 63, False), (None, False), ("A" * 64, False)])
def test_what_a_certificate_extends_is_a_digest(written: Written, value: Any, holds: bool) -> None:
    _, [certificate, *_] = written(["bpd"])
    fields = json.loads(certificate.path.read_bytes())
    fields["sample"]["extends"] = value
    fields["digest"] = digest(fields)
    certificate.path.write_text(json.dumps(fields), encoding="utf-8")
    verification = verify(certificate.path)
    assert verification.ok is holds
    assert holds or "sample.extends is not the digest of a certificate" in verification.failures
