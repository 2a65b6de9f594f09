"""Every command: its help, its exit code, what it prints for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm_bounds
from lm_bounds.bounds import vacuous_at
from lm_bounds.calculator import CALCULATED_METHODS
from lm_bounds.cli import lm_bounds_command, main
from lm_bounds.corpora import corpus_specs
from lm_bounds.settings import KEYS
from lm_bounds.tasks.harness import task_names

COMMANDS = ("demo", "run", "compress", "unpack", "bound", "verify", "corpora", "models", "doctor", "tasks-path")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command(command: Callable[..., Any], flag: str) -> None:
    done = command(flag)
    assert (done.code, done.err) == (0, "")
    listed = done.out.partition("Commands:")[2].split("\n")
    assert sorted(line.split()[0] for line in listed if line.strip()) == sorted(COMMANDS)
    assert set(lm_bounds_command.commands) == set(COMMANDS)
    assert "3 verification failed" in done.out


@pytest.mark.parametrize("name", [*COMMANDS, "corpora show", "models path"])
def test_every_command_explains_itself(command: Callable[..., Any], name: str) -> None:
    done = command(*name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: lm-bounds {name} ")
    assert len(done.out.split("\n\n")[1].strip()) > 10


def test_every_metadata_key_is_an_option_of_run(command: Callable[..., Any]) -> None:
    shown = command("run", "--help").out
    for key in KEYS:
        assert f"--{key}" in shown
        assert f"--{key.replace('_', '-')}" in shown


def test_no_arguments_show_what_to_type_first_and_the_commands(command: Callable[..., Any]) -> None:
    done = command()
    assert (done.code, done.err) == (0, "")
    first_steps = [
        "lm-bounds demo",
        'lm_eval --model hf --model_args pretrained="$(lm-bounds models path structured)" --device cpu '
        "--tasks structured_bounds --metadata windows=100",
        "lm-bounds run --model hf --model_args pretrained=DIR --device cpu --tasks local_bounds --corpus_path book.txt "
        "--windows 100",
        "lm-bounds verify CERTIFICATE...",
    ]
    what, _, others = done.out.partition("First steps:\n")
    assert what.count(".") == 1
    steps, _, commands = others.partition("\n\n")
    assert [line.removeprefix("  ") for line in steps.splitlines() if not line.startswith("      ")] == first_steps
    assert commands == command("--help").out[-len(commands) :]
    assert commands.startswith("Commands:\n")


def test_the_first_steps_exist(command: Callable[..., Any]) -> None:
    typed = [line.split() for line in command().out.splitlines() if line.startswith(("  lm-bounds ", "  lm_eval "))]
    assert {words[1] for words in typed if words[0] == "lm-bounds"} <= set(lm_bounds_command.commands)
    assert {words[words.index("--tasks") + 1] for words in typed if "--tasks" in words} <= set(task_names())


def test_version(command: Callable[..., Any]) -> None:
    assert command("--version").out == f"lm-bounds, version {lm_bounds.__version__}\n"


def test_tasks_path(command: Callable[..., Any]) -> None:
    done = command("tasks-path")
    assert done.code == 0
    assert (Path(done.out.strip()) / "local_bpd_bound.yaml").is_file()


def test_doctor_says_the_same_to_people_and_programs(command: Callable[..., Any]) -> None:
    done = command("doctor", "--json")
    report = json.loads(done.out)
    assert set(report) == {"ok", "done", "checks"}
    assert report["done"] == []
    assert {frozenset(check) for check in report["checks"]} == {frozenset({"name", "ok", "detail", "fix"})}
    assert report["ok"] == all(check["ok"] for check in report["checks"])
    assert done.code == (0 if report["ok"] else 1)
    spoken = command("doctor")
    assert spoken.code == done.code
    for check in report["checks"]:
        assert f"{'ok ' if check['ok'] else 'BAD'} {check['name']}: {check['detail']}" in spoken.out


def test_corpora(command: Callable[..., Any]) -> None:
    listed = command("corpora")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == ["corpus", *corpus_specs()]
    entries = json.loads(command("corpora", "--json").out)
    assert [entry["id"] for entry in entries] == list(corpus_specs())
    shown = json.loads(command("corpora", "show", "local", "--json").out)
    assert shown == entries[0]
    assert {"id", "title", "description", "metrics", "n_tokens_kind", "licence", "caveats"} <= set(shown)
    spoken = " ".join(command("corpora", "show", "local").out.split())
    assert all(str(text) in spoken for text in (shown["title"], shown["licence"], *shown["caveats"], *shown["metrics"]))


def test_compress(command: Callable[..., Any], tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint("gpt2")
    done = command("compress", folder, "--compressor", "all", "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    keys = {"model", "source", "layout", "parameters", "tensors", "sha256", "results", "best", "given"}
    assert set(report) == keys
    assert report["model"] == report["source"] == str(folder)
    assert report["given"] is None
    by_name = {result["compressor"]: result for result in report["results"]}
    assert {"arithmetic", "gzip"} <= set(by_name)
    assert report["best"] == min(by_name, key=lambda name: by_name[name]["bits"])
    for result in by_name.values():
        assert set(result) == {
            *("compressor", "version", "bits", "bits_per_parameter", "ratio_to_stored", "seconds", "exact", "ledger"),
        }
        assert result["bits"] == sum(entry["bits"] for entry in result["ledger"])
        assert result["bits_per_parameter"] == result["bits"] / report["parameters"]
        assert all(set(entry) == {"item", "bits"} for entry in result["ledger"])
    spoken = command("compress", folder)
    header, names, row = spoken.out.splitlines()
    assert f"{report['parameters']:,} parameters in {report['tensors']} tensors" in header
    assert names.split()[0] == "compressor"
    assert row.split()[:2] == ["arithmetic", f"{by_name['arithmetic']['bits']:,.0f}"]


PAPER = (
    *("bound", "--method", "paper", "--metric", "bpd", "--risk", 2.77, "--code-bits", 1.72e10, "--tokens", 1.2e12),
    *("--vocab", 32000, "--alpha", 0.1, "--samples", 10000),
)


def test_bound_is_the_papers_formula(command: Callable[..., Any]) -> None:
    done = command(*PAPER, "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert {"bound", "vacuous_at", "vacuous", "method", "metric", "terms", "chosen"} <= set(report)

    m, n, delta, a, vocabulary = 1.2e12, 1e4, 0.05, 0.1, 32000
    bits = 1.72e10 + 2 * math.log2(1.72e10)
    delta_1, delta_2 = delta * n / (n + m), delta * m / (n + m)
    width = math.log2(1 + (1 - a) * vocabulary / a)
    complexity = width * math.sqrt((bits * math.log(2) + math.log(1 / delta_1)) / (2 * m))
    sampling = width * math.sqrt(math.log(1 / delta_2) / (2 * n))
    assert report["terms"] == pytest.approx({"risk": 2.77, "complexity": complexity, "sampling": sampling}, rel=1e-12)
    assert report["bound"] == pytest.approx(2.77 + complexity + sampling, rel=1e-12)
    assert report["vacuous_at"] == math.log2(32000)
    assert report["vacuous"] is False
    assert report["method"] == "paper"


def test_bound_for_people_rounds_against_itself(command: Callable[..., Any]) -> None:
    value = json.loads(command(*PAPER, "--json").out)["bound"]
    first, second = command(*PAPER).out.splitlines()
    shown = float(first.split()[2])
    assert first.startswith("bpd <= ")
    assert value <= shown <= value * (1 + 1e-5)
    assert second == "not vacuous: a uniform guess reaches 14.9657"


@pytest.mark.parametrize("method", CALCULATED_METHODS)
def test_bound_of_every_method_without_alpha_for_errors(command: Callable[..., Any], method: str) -> None:
    arguments = ("bound", "--metric", "top10", "--risk", 0.3, "--code-bits", 1e8, "--tokens", 1e10, "--vocab", 50257)
    report = json.loads(command(*arguments, "--method", method, "--json").out)
    assert set(report["terms"]) == {"risk", "complexity", "sampling"}
    assert report["bound"] == sum(report["terms"].values())
    assert 0.3 < report["bound"] < report["vacuous_at"] == vacuous_at("top10", 50257)
    assert report["terms"]["sampling"] == pytest.approx(0.0, abs=1e-15)
    sampled = json.loads(command(*arguments, "--method", method, "--samples", 1e4, "--json").out)
    assert sampled["bound"] > report["bound"]


def test_a_vacuous_bound_is_said_to_be_vacuous(command: Callable[..., Any]) -> None:
    arguments = ("bound", "--metric", "top1", "--risk", 0.5, "--code-bits", 1e12, "--tokens", 1e9, "--vocab", 100)
    assert json.loads(command(*arguments, "--json").out)["vacuous"] is True
    assert command(*arguments).out.splitlines()[1].startswith("vacuous: ")


def test_what_no_one_foresaw_is_one_line_and_a_traceback_on_demand(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("the sky\nis falling")

    monkeypatch.setattr("lm_bounds.corpora.corpus_specs", fail)
    done = command("corpora")
    assert done.code == 1
    assert done.error == "Error: RuntimeError: the sky is falling (set LM_BOUNDS_DEBUG=1 to see where it happened)"
    monkeypatch.setenv("LM_BOUNDS_DEBUG", "1")
    with pytest.raises(RuntimeError, match="the sky"):
        main(["corpora"])


def test_an_interruption_is_no_traceback(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_bounds.corpora.corpus_specs", interrupt)
    done = command("corpora")
    assert done.code == 1
    assert done.err.split() == ["Error:", "interrupted"]


def test_errors_of_the_package_keep_their_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_BOUNDS_DEBUG", "1")
    with pytest.raises(lm_bounds.errors.UsageError, match="unknown corpus"):
        main(["corpora", "show", "locale"])
