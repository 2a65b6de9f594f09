"""A run from the command line, and the verification of what it leaves behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_bounds.certificates import Certificate, read_certificate, verify
from lm_bounds.tasks.results import RESULT_KEYS

METRICS = ("bpd", "top1", "top10", "top100")
PROGRESS = re.compile(r"scoring [a-z ]+: (\d+) of \d+ windows(, about \d+ s left| in \d+ s)")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The one good run of this file, from its first test on."""
    return {"folder": tmp_path_factory.mktemp("run") / "out"}


@pytest.fixture
def good(
    kept: dict[str, Any],
    command: Callable[..., Any],
    no_index: None,
    tiny_checkpoint: Callable[[str], Path],
    many_documents_file: Path,
) -> Any:
    """What ``lm-bounds run`` printed."""
    if "done" not in kept:
        model = f"pretrained={tiny_checkpoint('unigram')}"
        arguments = ("--model", "hf", "--model_args", model, "--tasks", "local_bounds", "--windows", 30)
        places = ("--corpus_path", many_documents_file, "--output_path", kept["folder"])
        kept["done"] = command("run", *arguments, *places, "--batch_size", 8, "--device", "cpu")
    return kept["done"]


@pytest.fixture
def certificates(good: Any, kept: dict[str, Any]) -> dict[str, Certificate]:
    """The certificates of the run by metric."""
    paths = kept["folder"].rglob("local_*_bound.json")
    found = [Certificate(read_certificate(path), path) for path in paths]
    return {certificate.metric: certificate for certificate in found}


def test_run_prints_a_table_and_nothing_but_progress_and_certificates_beside_it(
    good: Any, certificates: dict[str, Certificate]
) -> None:
    assert good.code == 0
    for metric in METRICS:
        assert f"local_{metric}_bound" in good.out
        assert re.search(rf"\|{metric}_bound +\|↓ +\| +{certificates[metric].bound:.4f}\|", good.out)
    lines = good.err.splitlines()
    others = [line for line in lines if not PROGRESS.fullmatch(line)]
    assert [line.partition(":")[0] for line in lines if line not in others] == [
        *["scoring the pilot"] * 2,
        *["scoring windows"] * 2,
    ]
    assert sorted(others) == sorted(f"certificate: {certificate.path}" for certificate in certificates.values())


def test_results_file_of_a_run(good: Any, certificates: dict[str, Certificate], kept: dict[str, Any]) -> None:
    [path] = kept["folder"].rglob("results_*.json")
    results = json.loads(path.read_bytes())["results"]
    assert {f"local_{metric}_bound" for metric in METRICS} <= set(results)
    for metric in METRICS:
        reported, fields = results[f"local_{metric}_bound"], certificates[metric].fields
        values = {name.removesuffix(",none"): value for name, value in reported.items() if name.endswith(",none")}
        values = {name: value for name, value in values.items() if not name.endswith("_stderr")}
        assert set(values) == {key.format(metric=metric) for key in RESULT_KEYS}
        assert all(type(value) is float for value in values.values())
        terms = [values[f"{metric}_{term}"] for term in ("risk", "complexity", "sampling")]
        assert values[f"{metric}_bound"] == sum(terms) == fields["claim"]["bound"]
        assert terms == list(fields["terms"].values())
        assert values["nonvacuous"] == (0.0 if fields["claim"]["vacuous"] else 1.0)
        assert values["compressed_bits"] == fields["complexity"]["bits"]
        assert values["corpus_tokens"] == fields["corpus"]["n_tokens"]
        assert values["scored_tokens"] == fields["sample"]["scored_tokens"]
        assert values["windows"] == 30.0
    assert results["local_bpd_bound"]["nonvacuous,none"] == 1.0


def test_every_certificate_of_a_run_verifies(command: Callable[..., Any], certificates: dict[str, Certificate]) -> None:
    assert set(certificates) == set(METRICS)
    [folder] = {certificate.path.parent for certificate in certificates.values()}
    assert sorted(path.name for path in folder.iterdir()) == [
        "local-observations.npz",
        *sorted(f"local_{metric}_bound.json" for metric in METRICS),
    ]
    for certificate in certificates.values():
        done = command("verify", certificate.path)
        assert (done.code, done.err) == (0, "")
        assert done.out == f"{certificate.path}: holds. {certificate.claim}\n"


@pytest.fixture
def spoilt(certificates: dict[str, Certificate], tmp_path: Path) -> Path:
    """A copy of a certificate in which a digit of the bound was changed."""
    certificate = certificates["bpd"]
    folder = tmp_path / "spoilt"
    shutil.copytree(certificate.path.parent, folder)
    path = folder / certificate.path.name
    text = path.read_text(encoding="utf-8")
    bound = repr(certificate.bound)
    changed = repr(float(f"{certificate.bound - 0.1:.3f}"))  # another number, in its shortest digits
    path.write_text(text.replace(f'"bound": {bound}', f'"bound": {changed}'), encoding="utf-8")
    return path


def test_verification_of_many_fails_when_one_does(
    command: Callable[..., Any], certificates: dict[str, Certificate], spoilt: Path
) -> None:
    whole = certificates["top1"].path
    done = command("verify", whole, spoilt, "missing.json")
    assert done.code == 3
    assert done.out == f"{whole}: holds. {certificates['top1'].claim}\n"
    first, second = done.err.splitlines()
    assert first == f"Error: {spoilt}: {verify(spoilt).failures[0]}"
    assert "the digest does not fit the content" in first
    assert second.startswith("Error: missing.json: cannot be read")


def test_verification_of_a_folder(command: Callable[..., Any], certificates: dict[str, Certificate]) -> None:
    folder = certificates["bpd"].path.parent
    assert command("verify", folder).out.count(": holds. ") == len(certificates)
    assert command("verify", *sorted(folder.iterdir())).out.count(": holds. ") == len(certificates)
    done = command("verify", folder / "local-observations.npz")
    assert done.code == 2
    assert "only observations were named" in done.error


def test_verification_for_programs(
    command: Callable[..., Any], certificates: dict[str, Certificate], spoilt: Path
) -> None:
    whole = certificates["top1"].path
    done = command("verify", "--json", whole, spoilt)
    assert done.code == 3
    first, second = json.loads(done.out)
    assert first == {"certificate": str(whole), "ok": True, "bound": certificates["top1"].bound, "failures": []}
    assert second == {
        "certificate": str(spoilt),
        "ok": False,
        "bound": None,
        "failures": list(verify(spoilt).failures),
    }
    assert command("verify", "--json", whole).code == 0


def test_a_config_file_gives_what_the_command_line_leaves_out(
    command: Callable[..., Any],
    no_index: None,
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Path],
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it takes longer than the run
    config = {
        "model": "hf",
        "model_args": f"pretrained={tiny_checkpoint('gpt2')}",
        "tasks": "local_top1_bound",
        "batch_size": 8,
        "device": "cpu",
        "metadata": {"corpus_path": str(text_file), "windows": 31, "draw_seed": 7},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = command("run", "--config", path, "--draw-seed", 8, "--pilot", 4, "--output_path", tmp_path / "out")
    assert done.code == 0
    [certificate] = (tmp_path / "out").rglob("local_*_bound.json")
    settings = read_certificate(certificate)["settings"]
    assert (settings["windows"], settings["draw_seed"], settings["pilot"]) == (31, 8, 4)
    assert verify(certificate).ok
