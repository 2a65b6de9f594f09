"""``lm-bounds compress`` with all compressors, without the library of one, and on a terminal."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.codelength.charges import ARTIFACT, DECLARED, NAMED_COMPRESSORS
from lm_bounds.compressors import COMPRESSORS, measure_given
from lm_bounds.weights import Weights, read_checkpoint

WITHOUT_BROTLI = "compressor 'brotli' needs a library: pip install 'lm-bounds[brotli]'"


@pytest.fixture
def folder(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("gpt2")


def test_one_row_each(command: Callable[..., Any], folder: Path) -> None:
    pytest.importorskip("brotli")
    done = command("compress", folder, "--compressor", "all")
    assert (done.code, done.err) == (0, "")
    _, header, *rows = done.out.splitlines()
    assert header.split("  ")[-1].strip() == "MB/s"
    assert [row.split()[0] for row in rows] == sorted(COMPRESSORS)
    assert all(len(row.split()) == 6 for row in rows)


def test_every_compressor_has_a_name_that_costs_nothing_to_spell() -> None:
    assert set(NAMED_COMPRESSORS) - {ARTIFACT, DECLARED} == set(COMPRESSORS)


def test_a_missing_library_is_one_line(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    done = command("compress", folder, "--compressor", "brotli")
    assert (done.code, done.error) == (2, f"Error: {WITHOUT_BROTLI}")
    done = command("compress", folder, "--compressor", "all", "--json")
    assert (done.code, done.err) == (0, f"left out: {WITHOUT_BROTLI}\n")
    found = [result["compressor"] for result in json.loads(done.out)["results"]]
    assert found == sorted(set(COMPRESSORS) - {"brotli"})


def test_the_weights_are_hashed_once(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    once = Weights.sha256
    monkeypatch.setattr(Weights, "sha256", lambda self: hashed.append(self) or once(self))
    assert command("compress", folder, "--compressor", "all").code == 0
    assert len(hashed) == 1


def test_the_layout_of_the_tensors_is_shown(command: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder, tmp_path / "model")
    dense = command("compress", folder)
    assert "layout:" not in dense.out
    assert json.loads(command("compress", folder, "--json").out)["layout"] == "dense"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "vptq"}}))
    said = "unknown: vptq, measured as plain bytes"
    assert command("compress", folder).out.splitlines()[1] == f"layout: {said}"
    assert json.loads(command("compress", folder, "--json").out)["layout"] == said


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    shown = io.StringIO()
    shown.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys.modules["lm_bounds.cli.compress"], "_PROGRESS_AFTER_S", 0)
    assert command("compress", folder, "--compressor", "gzip").code == 0
    assert ("B/s" in shown.getvalue()) == terminal
    assert terminal or shown.getvalue() == ""


def test_the_help_names_every_compressor(command: Callable[..., Any]) -> None:
    text = " ".join(command("compress", "--help").out.split())
    assert all(name in text for name in COMPRESSORS)


@pytest.fixture
def tuned(folder: Path, tmp_path: Path) -> Path:
    """The model of the folder with a few changed rows of one matrix and a tensor more."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    changed = tensors["transformer.wte.weight"].copy()
    changed[[3, 200]] *= 1.5
    copy = tmp_path / "tuned"
    copy.mkdir()
    save_file({**tensors, "transformer.wte.weight": changed, "extra": changed[:1]}, copy / "model.safetensors")
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    return copy


def test_given_a_prior_only_what_differs_counts(command: Callable[..., Any], folder: Path, tuned: Path) -> None:
    alone = json.loads(command("compress", tuned, "--json").out)
    done = command("compress", tuned, "--given", folder, "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    n_tensors, sha256 = len(read_checkpoint(folder).tensors), read_checkpoint(folder).sha256()
    assert report["given"] == {
        "source": str(folder),
        "sha256": sha256,
        "tensors_identical": n_tensors - 1,
        "tensors_differ": 1,
        "tensors_coded_as_differences": 1,
        "tensors_new": 1,
    }
    for key in ("sha256", "parameters", "tensors"):
        assert report[key] == alone[key]
    [result] = report["results"]
    assert result["bits"] == measure_given(read_checkpoint(tuned), read_checkpoint(folder), "arithmetic").bits
    assert result["bits"] < 0.1 * alone["results"][0]["bits"]
    assert result["ledger"][0] == {"item": "prior model (sha256)", "bits": 260.0}
    spoken = command("compress", tuned, "--given", folder, "--compressor", "all")
    assert (spoken.code, spoken.err) == (0, "")
    model, given, header, *rows = spoken.out.splitlines()
    assert model.startswith(f"{tuned}: {report['parameters']:,} parameters")
    assert given == f"given {folder} (sha256 {sha256}): {n_tensors - 1} tensors identical, 1 differ, 1 new"
    assert header.split()[0] == "compressor"
    assert sorted(row.split()[0] for row in rows) == sorted(COMPRESSORS)


def test_the_prior_may_have_any_form_of_a_model(command: Callable[..., Any]) -> None:
    done = command("compress", "structured", "--given", "lm_bounds/random")
    assert done.code == 0
    assert done.out.startswith("lm_bounds/structured: ")
    assert "\ngiven lm_bounds/random (sha256 " in done.out


def test_what_cannot_be_read_is_one_line(command: Callable[..., Any], folder: Path) -> None:
    assert "no checkpoint at ./gone" in command("compress", folder, "--given", "./gone").error
    assert "of the Hub: HF_HUB_OFFLINE is set, and the cache has no" in command("compress", "org/gone").error
    done = command("compress", f"{folder},peft=")
    assert (done.code, "must be BASE,peft=ADAPTER" in done.error) == (2, True)


def test_progress_covers_the_comparison(
    command: Callable[..., Any], folder: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys.modules["lm_bounds.cli.compress"], "_PROGRESS_AFTER_S", 0)
    assert command("compress", tuned, "--given", folder).code == 0
    assert "B/s" in shown.getvalue()
