"""What a task reports: numbers under documented keys, certificates, tables and logged samples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm_bounds
from lm_bounds.certificates import read_certificate

METRICS = ["bpd", "top1", "top10", "top100"]
TASKS = [f"local_{metric}_bound" for metric in METRICS]
N_WINDOWS = 30
OWN = ["{}_bound", "{}_risk", "{}_complexity", "{}_sampling"]
COMMON = [
    "vacuous_at",
    "nonvacuous",
    "compressed_bits",
    "code_bits",
    "bits_per_parameter",
    "corpus_tokens",
    "scored_tokens",
    "windows",
]
Evaluate = Callable[..., dict[str, Any]]
Certificates = Callable[[], list[Path]]
Values = Callable[[dict[str, Any], str], dict[str, float]]


def keys_of(metric: str) -> list[str]:
    return [key.format(metric) for key in OWN] + COMMON


@pytest.fixture
def group(evaluate: Evaluate) -> dict[str, Any]:
    return evaluate("local_bounds")


def test_each_task_reports_exactly_the_documented_keys_as_floats(group: dict[str, Any], values_of: Values) -> None:
    assert sorted(group["results"]) == sorted([*TASKS, "local_bounds"])
    for metric, task in zip(METRICS, TASKS, strict=True):
        found = group["results"][task]
        reported = {key for key in found if key not in ("name", "alias", "sample_len")}
        wanted = keys_of(metric)
        assert reported == {f"{key}{stderr},none" for key in wanted for stderr in ("", "_stderr")}
        values = values_of(group, task)
        assert list(values) == wanted
        assert {type(value) for value in values.values()} == {float}
        assert {found[f"{key}_stderr,none"] for key in wanted} == {"N/A"}
    assert set(group["results"]["local_bounds"]) <= {"name", "alias", "sample_len", " "}


def test_the_three_terms_sum_to_the_bound_exactly(group: dict[str, Any], values_of: Values) -> None:
    for metric, task in zip(METRICS, TASKS, strict=True):
        values = values_of(group, task)
        terms = [values[f"{metric}_{term}"] for term in ("risk", "complexity", "sampling")]
        assert terms[0] + terms[1] + terms[2] == values[f"{metric}_bound"]
        assert terms[0] >= 0.0
        assert terms[1] > 0.0
        assert terms[2] > 0.0


def test_a_bound_that_is_not_vacuous_says_so(group: dict[str, Any], values_of: Values) -> None:
    values = values_of(group, TASKS[0])
    assert values["bpd_bound"] < values["vacuous_at"] == pytest.approx(8.0056, abs=1e-4)
    assert values["nonvacuous"] == 1.0


def test_a_bound_that_is_vacuous_says_so(evaluate: Evaluate, tiny_lm: Callable[..., Any], values_of: Values) -> None:
    values = values_of(evaluate(TASKS[0], tiny_lm("gpt2")), TASKS[0])
    assert values["bpd_bound"] >= values["vacuous_at"]
    assert values["nonvacuous"] == 0.0


def test_the_numbers_are_those_of_the_certificates(
    group: dict[str, Any], certificates: Certificates, values_of: Values
) -> None:
    assert [path.name for path in certificates()] == sorted(f"{task}.json" for task in TASKS)
    for path in certificates():
        fields, values = read_certificate(path), values_of(group, path.stem)
        metric, complexity = fields["claim"]["metric"], fields["complexity"]
        assert path.stem == f"local_{metric}_bound"
        assert values == {
            f"{metric}_bound": fields["claim"]["bound"],
            f"{metric}_risk": fields["terms"]["risk"],
            f"{metric}_complexity": fields["terms"]["complexity"],
            f"{metric}_sampling": fields["terms"]["sampling"],
            "vacuous_at": fields["claim"]["vacuous_at"],
            "nonvacuous": float(not fields["claim"]["vacuous"]),
            "compressed_bits": complexity["bits"],
            "code_bits": complexity["code_bits"],
            "bits_per_parameter": complexity["code_bits"] / complexity["n_parameters"],
            "corpus_tokens": float(fields["corpus"]["n_tokens"]),
            "scored_tokens": float(fields["sample"]["scored_tokens"]),
            "windows": float(N_WINDOWS),
        }
        assert values["compressed_bits"] > values["code_bits"] > 0


def test_certificates_lie_below_model_and_time_and_verify(
    group: dict[str, Any], certificates: Certificates, tmp_path: Path, values_of: Values
) -> None:
    [folder] = {path.parent for path in certificates()}
    assert folder.parent == tmp_path / "certificates" / "tiny-unigram"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}Z", folder.name)
    assert {path.name for path in folder.iterdir()} == {
        "local-observations.npz",
        *(f"{task}.json" for task in TASKS),
    }
    for path in certificates():
        found = lm_bounds.verify(path)
        assert found.ok, found.failures
        assert found.bound == values_of(group, path.stem)[f"{path.stem.split('_')[1]}_bound"]


def test_certificates_go_to_the_home_where_no_place_is_named(
    evaluate: Evaluate, lm_bounds_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate("local_top1_bound", certificates=None)
    [path] = (lm_bounds_home / "certificates" / "tiny-unigram").rglob("*.json")
    assert f"certificate: {path}\n" in capfd.readouterr().err
    assert not (tmp_path / "certificates").exists()


@pytest.mark.parametrize(("family", "says"), [("gpt2", True), ("unigram", False)])
def test_a_vacuous_bound_says_why(
    family: str, says: bool, evaluate: Evaluate, tiny_lm: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate("local_bpd_bound", tiny_lm(family))
    assert bool(re.search(r"^vacuous: [\d,]+ bits of model for [\d,]+ tokens;", capfd.readouterr().err, re.M)) == says


def test_logged_samples_are_short_and_stable(evaluate: Evaluate) -> None:
    from lm_eval.utils import handle_non_serializable

    runs = [evaluate("local_bounds", flags={"log_samples": True})["samples"] for _ in range(2)]
    for metric, task in zip(METRICS, TASKS, strict=True):
        for draw, (sample, again) in enumerate(zip(runs[0][task], runs[1][task], strict=True)):
            [[response]] = sample["resps"]
            assert re.fullmatch(rf"draw {draw}: tokens \d+ to \d+", str(response))
            assert str(response) == str(again["resps"][0][0])
            assert sample["filtered_resps"] == [response]
            assert (sample["doc"], sample["doc_id"], sample["target"]) == ({"draw": draw}, draw, "")
            assert (sample["doc_hash"], sample["prompt_hash"]) == (again["doc_hash"], again["prompt_hash"])
            assert sample["metrics"] == keys_of(metric)
            others = {key: sample[key] for key in keys_of(metric)[1:]}
            assert {type(value) for value in others.values()} == {float}
            assert others[f"{metric}_risk"] == again[f"{metric}_risk"]
        size = len(json.dumps(runs[0][task][0], default=handle_non_serializable))
        assert size < 2000


def test_lm_eval_saves_results_and_samples(evaluate: Evaluate, tmp_path: Path, values_of: Values) -> None:
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    results = evaluate(TASKS[0], flags={"log_samples": True, "evaluation_tracker": tracker})
    values, samples = values_of(results, TASKS[0]), results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    tracker.save_results_samples(task_name=TASKS[0], samples=samples[TASKS[0]])
    [saved] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(saved.read_text())["results"][TASKS[0]]
    assert {key: found[f"{key},none"] for key in values} == values
    [saved] = (tmp_path / "out").rglob("samples_*.jsonl")
    lines = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [line["bpd_bound"].partition(":")[0] for line in lines] == [f"draw {n}" for n in range(N_WINDOWS)]


@pytest.mark.parametrize("upper", ["kl_inf", "hoeffding"])
def test_the_risk_is_estimated_from_the_logged_risks(upper: str, evaluate: Evaluate, values_of: Values) -> None:
    """Their mean for draws with replacement; else each draw's estimate is what was seen before plus the rest at it."""
    results = evaluate("local_bounds", flags={"log_samples": True}, upper=upper)
    for metric, task in zip(METRICS, TASKS, strict=True):
        values, samples = values_of(results, task), results["samples"][task]
        risks = [sample[f"{metric}_risk"] for sample in samples]
        sizes, m = [sample["scored_tokens"] for sample in samples], values["corpus_tokens"]
        assert len(set(sizes)) > 5
        estimates = risks
        if upper == "kl_inf":
            before = [sum(sizes[:j]) for j in range(N_WINDOWS)]
            seen = [sum(size * risk for size, risk in zip(sizes[:j], risks[:j], strict=True)) for j in range(N_WINDOWS)]
            rows = zip(seen, before, risks, strict=True)
            estimates = [(known + (m - drawn) * risk) / m for known, drawn, risk in rows]
        assert sum(estimates) / N_WINDOWS == pytest.approx(values[f"{metric}_risk"], rel=1e-12)


def test_results_print_as_lm_evals_table(group: dict[str, Any]) -> None:
    from lm_eval.utils import make_table

    table = make_table(group)
    for metric, task in zip(METRICS, TASKS, strict=True):
        assert task in table
        assert re.search(rf"\|{metric}_bound *\|↓", table)
    assert re.search(r"\|nonvacuous *\|↑", table)
    assert re.search(r"\|corpus_tokens *\| ", table)
    assert group["higher_is_better"]["local_bpd_bound"] == {
        "bpd_bound": False,
        "bpd_risk": False,
        "bpd_complexity": False,
        "bpd_sampling": False,
        "vacuous_at": False,
        "nonvacuous": True,
        "compressed_bits": False,
        "code_bits": False,
        "bits_per_parameter": False,
    }
    assert group["n-samples"]["local_bpd_bound"] == {"original": N_WINDOWS, "effective": N_WINDOWS}


def test_bootstrapped_errors_are_not_available(evaluate: Evaluate) -> None:
    found = evaluate(TASKS[1], flags={"bootstrap_iters": 50})["results"][TASKS[1]]
    assert {found[f"{key}_stderr,none"] for key in keys_of("top1")} == {"N/A"}


def test_progress_is_shown_on_standard_error(evaluate: Evaluate, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(TASKS[0])
    captured = capfd.readouterr()
    assert "scoring the pilot: 12 of 12 windows in " in captured.err
    assert f"scoring windows: {N_WINDOWS} of {N_WINDOWS} windows in " in captured.err
    assert captured.out == ""


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    """A corpus of seven windows and 400 tokens or so, in three documents."""
    path = tmp_path / "small.jsonl"
    path.write_text("".join(json.dumps({"text": "some words " * n}) + "\n" for n in (20, 5, 11)), encoding="utf-8")
    return {"corpus_path": str(path)}


def test_a_corpus_with_fewer_windows_than_are_asked_for(
    small: dict[str, Any],
    evaluate: Evaluate,
    values_of: Values,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every window is scored and none is sampled; the requests that are left over are answered and do not count."""
    results = evaluate("local_bounds", flags={"log_samples": True}, **small)
    n_tokens = int(values_of(results, TASKS[0])["corpus_tokens"])
    for metric, task in zip(METRICS, TASKS, strict=True):
        values, samples = values_of(results, task), results["samples"][task]
        assert (values["windows"], values["scored_tokens"]) == (7.0, n_tokens)
        assert abs(values[f"{metric}_sampling"]) < 1e-11
        assert len(samples) == N_WINDOWS
        shown = [str(sample["resps"][0][0]) for sample in samples]
        assert all(re.fullmatch(rf"draw {draw}: tokens \d+ to \d+", shown[draw]) for draw in range(7))
        assert shown[7:] == [f"draw {draw}: none, the corpus has 7 windows" for draw in range(7, N_WINDOWS)]
        assert {sample[f"{metric}_risk"] for sample in samples[7:]} == {0.0}
        sizes, risks = ([sample[key] for sample in samples[:7]] for key in ("scored_tokens", f"{metric}_risk"))
        assert sum(sizes) == n_tokens
        whole = sum(size * risk for size, risk in zip(sizes, risks, strict=True)) / n_tokens
        assert values[f"{metric}_risk"] == pytest.approx(whole, rel=1e-12)
    assert [lm_bounds.verify(path).failures for path in certificates()] == [()] * 4
    assert "the corpus has 7 windows in all: each is scored, none is sampled" in caplog.text


def test_the_table_says_how_many_windows_there_were(small: dict[str, Any], evaluate: Evaluate) -> None:
    from lm_eval.utils import make_table

    table = make_table(evaluate(TASKS[0], **small))
    assert re.search(r"\|windows +\| +\| +7(\.0*)?\|", table)


def test_as_many_windows_as_there_are_leave_nothing_over(
    small: dict[str, Any], evaluate: Evaluate, values_of: Values
) -> None:
    exact = values_of(evaluate(TASKS[0], **small, windows=7), TASKS[0])
    assert exact == values_of(evaluate(TASKS[0], **small), TASKS[0])
    fewer = values_of(evaluate(TASKS[0], **small, windows=6), TASKS[0])
    assert fewer["windows"] == 6.0
    assert fewer["scored_tokens"] < fewer["corpus_tokens"]


def test_tokens_of_a_small_corpus(small: dict[str, Any], evaluate: Evaluate, values_of: Values) -> None:
    windows = values_of(evaluate(TASKS[0], **small), TASKS[0])
    tokens = values_of(evaluate(TASKS[0], **small, unit="token", windows=1000), TASKS[0])
    assert tokens["windows"] == tokens["scored_tokens"] == windows["corpus_tokens"]
    assert tokens["bpd_risk"] > 0.0
    assert abs(tokens["bpd_sampling"]) < 1e-11
    some = values_of(evaluate(TASKS[0], **small, unit="token", windows=50), TASKS[0])
    assert some["scored_tokens"] == some["windows"] == 50.0


@pytest.mark.parametrize(
    "chosen",
    [{"upper": "hoeffding"}, {"upper": "bernstein"}, {"method": "best"}, {"unit": "token"}, {"smoothing": "entropy"}],
)
def test_every_setting_of_the_sample_ends_in_certificates_that_hold(
    chosen: dict[str, Any], evaluate: Evaluate, certificates: Certificates, values_of: Values
) -> None:
    results = evaluate("local_bounds", **chosen)
    for path in certificates():
        found = lm_bounds.verify(path)
        assert found.failures == ()
        metric = read_certificate(path)["claim"]["metric"]
        assert found.bound == values_of(results, path.stem)[f"{metric}_bound"]
        assert read_certificate(path)["settings"].items() >= chosen.items()
