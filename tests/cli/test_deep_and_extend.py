"""``lm-bounds verify --deep`` and ``lm-bounds run --extend``: what they print, and how they end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.certificates import Certificate, read_certificate, verify, write_certificates
from lm_bounds.certificates.claim import rounded_up
from lm_bounds.pipeline import open_session
from lm_bounds.settings import Settings

N_WINDOWS = 20
METRICS = ("bpd", "top1", "top10", "top100")
CHECKS = ["weights", "code", "model", "tokenizer", "corpus", "causality", "draws", "scores"]
PROGRESS = re.compile(r"scoring [a-z ]+: (\d+) of \d+ windows(, about \d+ s left| in \d+ s)")


@pytest.fixture
def made(
    tiny_lm: Callable[..., Any], many_documents_file: Path, shared_tokens: Path, tmp_path: Path
) -> Callable[..., list[Certificate]]:
    """``made(folder="old", **settings)``: the certificates of a run of 20 windows."""

    def make(folder: str = "old", **chosen: Any) -> list[Certificate]:
        settings = Settings(**{"corpus_path": str(many_documents_file), "pilot": 12, **chosen})
        session = open_session(tiny_lm("unigram"), "local", settings, N_WINDOWS)
        observations = session.observe(range(session.plan.n_windows))
        return write_certificates(session.plan, observations, list(session.plan.methods), tmp_path / folder)

    return make


def without_progress(text: str) -> list[str]:
    return [line for line in text.splitlines() if not PROGRESS.fullmatch(line)]


def test_deep_verification_says_what_agrees(command: Callable[..., Any], made: Any) -> None:
    certificates = made()
    folder = certificates[0].path.parent
    done = command("verify", folder, "--deep", "--share", 0.6, "--batch_size", 4)
    assert (done.code, without_progress(done.err)) == (0, [])
    lines = done.out.splitlines()
    assert [line.partition(": holds. ")[0] for line in lines[:4]] == sorted(str(one.path) for one in certificates)
    names = "local_bpd_bound.json, local_top100_bound.json, local_top10_bound.json, local_top1_bound.json"
    assert lines[4] == f"{folder}: measured again for {names}"
    assert [line.partition(": ")[0] for line in lines[5:]] == CHECKS
    assert re.fullmatch(r"weights: the same [\d,]+ parameters \(sha256 [0-9a-f]{12}\)", lines[5])
    assert re.fullmatch(r"code: [\d,]+ bits again", lines[6])
    prefix = "one prefix token (id 256) and the earlier tokens of the window"
    assert lines[7] == f"model: GPT2LMHeadModel in float32, 260 logits, {prefix}"
    assert lines[11] == "draws: all 20 windows are those of the seed"
    scored = (
        r"scores: 12 of 20 windows scored again, largest difference \S+ per token \(allowed 1e-03\), of errors in a "
    )
    assert re.fullmatch(scored + r"window 0 \(allowed 1\)", lines[12])


def test_deep_verification_of_two_runs(command: Callable[..., Any], made: Any) -> None:
    folders = [made("one")[0].path.parent, made("two", draw_seed=7)[0].path.parent]
    done = command("verify", *folders, "--deep")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if ": measured again for " in line] == [
        line
        for folder in folders
        for line in done.out.splitlines()
        if line.startswith(f"{folder}: measured again for local_bpd_bound.json, ")
    ]
    assert done.out.count("\nscores: 10 of 20 windows scored again") == 2


def test_every_disagreement_is_a_line_and_exit_code_3(
    command: Callable[..., Any], made: Any, documents_file: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    [certificate, *_] = made()
    folder = certificate.path.parent
    model = f"pretrained={tiny_checkpoint('gpt2')}"
    done = command("verify", certificate.path, "--deep", "--model_args", model, "--corpus-path", documents_file)
    assert done.code == 3
    lines = done.err.splitlines()
    assert [line.removeprefix(f"Error: {folder}: ").partition(": ")[0] for line in lines] == [
        *("weights", "code", "corpus", "scores")
    ]
    assert re.search(r"weights: sha256 is [0-9a-f]{12}, [0-9a-f]{12} is stated", lines[0])
    assert re.search(r"code: [\d,]+ bits by compressor arithmetic, [\d,]+ bits are stated", lines[1])
    assert "n_tokens is " in lines[2]
    assert [line.partition(": ")[0] for line in done.out.splitlines()[2:]] == ["model", "tokenizer"]


def test_deep_verification_for_programs(command: Callable[..., Any], made: Any, documents_file: Path) -> None:
    certificates = made()
    done = command("verify", "--json", "--deep", *(one.path for one in certificates))
    assert (done.code, without_progress(done.err)) == (0, [])
    found = json.loads(done.out)
    assert [one["certificate"] for one in found] == [str(one.path) for one in certificates]
    fields = certificates[0].fields
    for one in found:
        assert (one["ok"], one["failures"], list(one["deep"])) == (True, [], CHECKS)
        assert all(check["ok"] for check in one["deep"].values())
        assert one["deep"]["weights"]["sha256"] == fields["complexity"]["sha256"]
        assert one["deep"]["code"]["code_bits"] == fields["complexity"]["code_bits"]
        assert one["deep"]["corpus"]["n_tokens"] == fields["corpus"]["n_tokens"]
        assert one["deep"]["scores"]["allowed_difference"] == 1e-3
        assert (one["deep"]["scores"]["windows"], one["deep"]["scores"]["of"]) == (10, 20)
    done = command("verify", "--json", "--deep", certificates[0].path, "--corpus_path", documents_file)
    assert done.code == 3
    [one] = json.loads(done.out)
    assert (one["ok"], one["bound"]) == (False, certificates[0].bound)
    assert [failure.partition(":")[0] for failure in one["failures"]] == ["corpus", "scores"]
    assert len(without_progress(done.err)) == 2


def test_what_does_not_hold_is_not_measured(command: Callable[..., Any], made: Any) -> None:
    certificates = made()
    broken = certificates[0].path
    broken.write_text(
        broken.read_text(encoding="utf-8").replace('"draw_seed": 1234', '"draw_seed": 1'), encoding="utf-8"
    )
    done = command("verify", "--deep", broken)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"Error: {broken}: the digest does not fit the content")
    done = command("verify", "--deep", "--json", broken, certificates[1].path)
    assert done.code == 3
    first, second = json.loads(done.out)
    assert (first["ok"], first["deep"], second["ok"]) == (False, None, True)


@pytest.mark.parametrize("option", ["--model_args", "--corpus_path", "--device", "--batch_size", "--share"])
def test_options_of_deep_verification_go_with_it(command: Callable[..., Any], option: str) -> None:
    done = command("verify", "certificate.json", option, "0.5")
    assert (done.code, done.error) == (2, f"Error: {option} goes with --deep: add --deep, or leave it out")


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_a_share_is_above_0_and_at_most_1(command: Callable[..., Any], share: str) -> None:
    assert command("verify", "certificate.json", "--deep", "--share", share).code == 2


def test_what_cannot_be_loaded_is_one_line(command: Callable[..., Any], made: Any) -> None:
    done = command("verify", made()[0].path, "--deep", "--model_args", "pretrained=/nowhere/model")
    assert done.code == 2
    assert done.err.splitlines() == [
        "Error: no model directory '/nowhere/model': pass pretrained=DIRECTORY or a Hub id in --model_args"
    ]


def test_extension_prints_its_certificates_and_a_table(command: Callable[..., Any], made: Any, tmp_path: Path) -> None:
    old = made()
    out = tmp_path / "new"
    done = command("run", "--extend", old[0].path, "--windows", 15, "--output_path", out, "-b", 4, "--model", "hf")
    assert done.code == 0
    lines = without_progress(done.err)
    paths = [Path(line.removeprefix("certificate: ")) for line in lines]
    assert [path.name for path in paths] == [f"local_{metric}_bound.json" for metric in METRICS]
    assert all(path.is_relative_to(out) for path in paths)
    new = [Certificate(read_certificate(path), path) for path in paths]
    header, *rows = (line.split("  ") for line in done.out.splitlines())
    assert [cell.strip() for cell in header if cell] == [
        *("metric", "old bound", "new bound", "old windows", "new windows")
    ]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        [metric, rounded_up(before.bound), rounded_up(after.bound), "20", "35"]
        for metric, before, after in zip(METRICS, old, new, strict=True)
    ]
    assert all(verify(path).ok for path in paths)
    assert new[0].fields["model"]["batch_size"] == 4
    assert command("verify", "--deep", *paths).code == 0


def test_extension_says_when_fewer_windows_were_left(
    command: Callable[..., Any], made: Any, documents_file: Path, tmp_path: Path
) -> None:
    old = made(corpus_path=str(documents_file))
    done = command("run", "--extend", old[0].path, "--windows", 9999, "--certificates", tmp_path / "new")
    assert done.code == 0
    [path, *_] = (tmp_path / "new").rglob("*_bound.json")
    added = read_certificate(path)["sample"]["windows"] - N_WINDOWS
    wanted = f"{added} windows were left in the corpus, 9999 were asked for: now each is scored"
    assert without_progress(done.err)[0] == wanted
    done = command("run", "--extend", path, "--windows", 1)
    assert (done.code, "are scored already: there is none left to add" in done.error) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--extend needs the number of windows to add: pass --windows N"),
        (("--windows", 5, "--tasks", "local_bounds"), "--tasks does not go with --extend: a run keeps all its choices"),
        (("--windows", 5, "--metadata", "windows=5"), "--metadata does not go with --extend"),
        (("--windows", 5, "--limit", "5"), "--limit does not go with --extend"),
        (("--windows", 5, "--config", "run.yaml"), "--config does not go with --extend"),
        (("--windows", 5, "--model", "vllm"), "--model vllm does not go with --extend"),
        (("--windows", 5, "--corpus", "x"), "--corpus does not go with --extend"),
        (("--windows", 5, "--pilot", 5), "--pilot does not go with --extend"),
        (("--windows", 5, "--context", 5), "--context does not go with --extend"),
        (("--windows", 5, "--failure-prob", 0.1), "--failure_prob does not go with --extend"),
        (("--windows", 5, "--family_wise", "no"), "--family_wise does not go with --extend"),
        (("--windows", 5, "--method", "azuma"), "--method does not go with --extend"),
        (("--windows", 5, "--smoothing", "global"), "--smoothing does not go with --extend"),
        (("--windows", 5, "--unit", "token"), "--unit does not go with --extend"),
        (("--windows", 5, "--upper", "kl_inf"), "--upper does not go with --extend"),
        (("--windows", 5, "--compressor", "gzip"), "--compressor does not go with --extend"),
        (("--windows", 5, "--draw_seed", 1), "--draw_seed does not go with --extend"),
        (("--windows", 5, "--shared_draws", 2), "--shared_draws does not go with --extend"),
        (("--windows", 5, "stray"), "stray"),
        (("--windows", 0), "the number of windows to add must be at least 1, 0 was given"),
    ],
    ids=str,
)
def test_what_does_not_go_with_an_extension(
    command: Callable[..., Any], arguments: tuple[Any, ...], message: str
) -> None:
    done = command("run", "--extend", "certificate.json", *arguments)
    assert done.code == 2
    assert message in done.error


def test_a_certificate_that_does_not_hold_is_not_extended(command: Callable[..., Any], made: Any) -> None:
    path = made()[0].path
    path.write_text(path.read_text(encoding="utf-8").replace('"draw_seed": 1234', '"draw_seed": 1'), encoding="utf-8")
    done = command("run", "--extend", path, "--windows", 5)
    assert done.code == 3
    assert f"{path} does not hold and cannot be extended: the digest does not fit" in done.error


def test_extend_that_is_misspelt(command: Callable[..., Any]) -> None:
    done = command("run", "--extnd", "certificate.json", "--windows", 5)
    assert "No such option '--extnd': did you mean '--extend'?" in done.error
