"""Whole evaluations: what they report, that tasks share one pass, and that a number does not depend on its company."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.errors import CorpusError, UsageError
from lm_bounds.tasks.task import BoundTask

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


def keys_of(metric: str) -> list[str]:
    return [key.format(metric) for key in OWN] + COMMON


def values_of(results: dict[str, Any], task: str) -> dict[str, float]:
    """The reported numbers under the names without lm-eval's filter."""
    suffix = ",none"
    found = results["results"][task]
    return {key.removesuffix(suffix): found[key] for key in found if key.endswith(suffix) and "_stderr" not in key}


def counted(lm: Any) -> list[tuple[int, ...]]:
    """The shapes of all inputs of the model from now on."""
    shapes: list[tuple[int, ...]] = []
    call = lm._model_call
    lm._model_call = lambda inputs: shapes.append(tuple(inputs.shape)) or call(inputs)
    return shapes


@pytest.fixture
def group(evaluate: Evaluate) -> dict[str, Any]:
    return evaluate("local_bounds")


def test_each_task_reports_exactly_the_documented_keys_as_floats(group: dict[str, Any]) -> None:
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


def test_the_three_terms_sum_to_the_bound_exactly(group: dict[str, Any]) -> None:
    for metric, task in zip(METRICS, TASKS, strict=True):
        values = values_of(group, task)
        terms = [values[f"{metric}_{term}"] for term in ("risk", "complexity", "sampling")]
        assert terms[0] + terms[1] + terms[2] == values[f"{metric}_bound"]
        assert terms[0] >= 0.0
        assert terms[1] > 0.0
        assert terms[2] > 0.0


def test_a_bound_that_is_not_vacuous_says_so(group: dict[str, Any]) -> None:
    values = values_of(group, TASKS[0])
    assert values["bpd_bound"] < values["vacuous_at"] == pytest.approx(8.0056, abs=1e-4)
    assert values["nonvacuous"] == 1.0


def test_a_bound_that_is_vacuous_says_so(evaluate: Evaluate, tiny_lm: Callable[..., Any]) -> None:
    values = values_of(evaluate(TASKS[0], tiny_lm("gpt2")), TASKS[0])
    assert values["bpd_bound"] >= values["vacuous_at"]
    assert values["nonvacuous"] == 0.0


def test_the_numbers_are_those_of_the_certificates(group: dict[str, Any], certificates: Certificates) -> None:
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
    group: dict[str, Any], certificates: Certificates, tmp_path: Path
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


def test_the_whole_group_scores_as_many_windows_as_one_task(evaluate: Evaluate, tiny_lm: Callable[..., Any]) -> None:
    shapes = {}
    for tasks in ("local_bounds", "local_top1_bound"):
        lm = tiny_lm("unigram")
        seen = counted(lm)
        evaluate(tasks, lm)
        shapes[tasks] = seen
    assert shapes["local_bounds"] == shapes["local_top1_bound"]
    assert sum(rows for rows, _ in shapes["local_bounds"]) > N_WINDOWS


@pytest.mark.parametrize("metric", METRICS)
def test_a_task_reports_the_same_alone_and_in_company(
    metric: str, evaluate: Evaluate, certificates: Certificates
) -> None:
    task = f"local_{metric}_bound"
    together = evaluate("local_bounds")
    some = evaluate([task, next(name for name in TASKS if name != task)])
    alone = evaluate(task)
    assert values_of(alone, task) == values_of(together, task) == values_of(some, task)
    samples = [read_certificate(path)["sample"] for path in certificates() if path.stem == task]
    assert len(samples) == 3
    assert len({sample["draws_sha256"] for sample in samples}) == 1
    assert len({json.dumps(sample["seed_parts"]) for sample in samples}) == 1


@pytest.mark.parametrize("family_wise", [True, False])
def test_family_wise_does_not_depend_on_the_tasks_that_run(
    family_wise: bool, evaluate: Evaluate, certificates: Certificates
) -> None:
    evaluate("local_bounds", family_wise=family_wise)
    evaluate("local_top1_bound", family_wise=family_wise)
    found = {read_certificate(path)["claim"]["failure_prob"] for path in certificates()}
    assert found == {0.05 / 4 if family_wise else 0.05}
    assert all(lm_bounds.verify(path).ok for path in certificates())


def test_family_wise_widens_the_bound(evaluate: Evaluate) -> None:
    wide, narrow = (values_of(evaluate(TASKS[1], family_wise=wise), TASKS[1]) for wise in (True, False))
    assert wide["top1_sampling"] > narrow["top1_sampling"]


@pytest.mark.parametrize("limit", [10, 0.34])
def test_limit_is_the_same_as_so_many_windows(
    limit: float, evaluate: Evaluate, certificates: Certificates
) -> None:
    n_windows = 10 if limit == 10 else 11  # 0.34 of 30, rounded up
    limited = evaluate("local_bounds", flags={"limit": limit})
    asked = evaluate("local_bounds", windows=n_windows)
    for task in TASKS:
        assert values_of(limited, task) == values_of(asked, task)
        assert values_of(limited, task)["windows"] == n_windows
    assert {read_certificate(path)["sample"]["windows"] for path in certificates()} == {n_windows}
    assert all(lm_bounds.verify(path).ok for path in certificates())


def test_a_limit_above_the_number_of_windows_changes_nothing(evaluate: Evaluate) -> None:
    task = TASKS[0]
    assert values_of(evaluate(task, flags={"limit": 500}), task) == values_of(evaluate(task), task)


def test_limit_takes_the_first_of_the_windows(evaluate: Evaluate) -> None:
    first, whole = (
        [sample["resps"][0][0] for sample in run["samples"][TASKS[1]]]
        for run in (
            evaluate(TASKS[1], shared_draws=2, flags={"limit": limit, "log_samples": True}) for limit in (8, None)
        )
    )
    assert [str(entry) for entry in first] == [str(entry) for entry in whole[:8]]
    assert len(whole) == N_WINDOWS


def test_the_same_task_objects_can_be_evaluated_again(
    task_manager: Callable[..., Any], tiny_lm: Callable[..., Any], metadata: dict[str, Any]
) -> None:
    from lm_eval.evaluator import evaluate

    loaded, lm = task_manager(metadata).load(["local_bounds"]), tiny_lm("unigram")
    first, second, shorter = (
        evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=False) for limit in (None, None, 5)
    )
    assert values_of(first, TASKS[0]) == values_of(second, TASKS[0])
    assert values_of(shorter, TASKS[0])["windows"] == 5.0


def test_lm_evals_own_seeds_do_not_touch_the_draws(evaluate: Evaluate) -> None:
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    found = [values_of(evaluate(TASKS[0], flags=dict.fromkeys(seeds, seed)), TASKS[0]) for seed in (1, 99)]
    assert found[0] == found[1]


@pytest.mark.parametrize("batch_size", [1, 30, "auto"])
def test_the_batch_size_makes_no_difference(batch_size: int | str, evaluate: Evaluate, tiny_lm: Any) -> None:
    wanted = values_of(evaluate(TASKS[1], shared_draws=2), TASKS[1])
    found = values_of(evaluate(TASKS[1], tiny_lm("unigram", batch_size=batch_size, max_batch_size=5), shared_draws=2), TASKS[1])
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_lm_eval_loads_from_its_arguments(
    evaluate: Evaluate, tiny_checkpoint: Callable[[str], Path], metadata: dict[str, Any]
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
    evaluate: Evaluate, text_file: Path, tmp_path: Path, certificates: Certificates
) -> None:
    import numpy as np

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("one text " * 30, encoding="utf-8")
    (folder / "b.md").write_text("another text " * 30, encoding="utf-8")
    token_file = tmp_path / "tokens.bin"
    (np.arange(3000) % 257).astype("<u2").tofile(token_file)
    for path in (text_file, folder, token_file):
        values = values_of(evaluate(TASKS[0], corpus_path=str(path)), TASKS[0])
        assert values["corpus_tokens"] == {
            text_file: text_file.stat().st_size + 1,
            folder: 30 * 9 + 30 * 13 + 2,
            token_file: 3000,
        }[path]
    assert all(lm_bounds.verify(path).ok for path in certificates())


def test_windows_of_short_documents_are_as_long_as_the_documents(evaluate: Evaluate) -> None:
    results = evaluate(TASKS[0], context=40, flags={"log_samples": True})
    sizes = [sample["scored_tokens"] for sample in results["samples"][TASKS[0]]]
    assert max(sizes) == 40
    assert len({size for size in sizes if size < 40}) > 5
    assert values_of(results, TASKS[0])["scored_tokens"] == sum(sizes)


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


def test_lm_eval_saves_results_and_samples(evaluate: Evaluate, tmp_path: Path) -> None:
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


def test_the_mean_of_the_logged_risks_is_the_risk(evaluate: Evaluate) -> None:
    results = evaluate("local_bounds", flags={"log_samples": True})
    for metric, task in zip(METRICS, TASKS, strict=True):
        risks = [sample[f"{metric}_risk"] for sample in results["samples"][task]]
        assert sum(risks) / N_WINDOWS == pytest.approx(values_of(results, task)[f"{metric}_risk"], rel=1e-12)


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


def test_the_response_cache_is_passed_through(
    evaluate: Evaluate, tiny_lm: Callable[..., Any], tmp_path: Path
) -> None:
    plain = values_of(evaluate(TASKS[0]), TASKS[0])
    for _ in range(2):
        lm = tiny_lm("unigram")
        seen = counted(lm)
        found = evaluate(TASKS[0], lm, flags={"use_cache": str(tmp_path / "cache")})
        assert values_of(found, TASKS[0]) == plain
        assert seen  # nothing came from a cache


def test_tasks_with_other_settings_get_a_pass_of_their_own(
    evaluate: Evaluate, metadata: dict[str, Any], certificates: Certificates
) -> None:
    def task(name: str, **changes: Any) -> BoundTask:
        config = {"task": name, "corpus": "local", "metric": "top1", "metadata": {**metadata, **changes}}
        return BoundTask(config)

    results = evaluate([task("short", context=16), task("long"), task("few", windows=12)])
    alone = values_of(evaluate(TASKS[1]), TASKS[1])
    assert values_of(results, "long") == alone
    assert values_of(results, "short") == values_of(evaluate(TASKS[1], context=16), TASKS[1]) != alone
    assert values_of(results, "few") == values_of(evaluate(TASKS[1], windows=12), TASKS[1]) != alone


def test_a_metric_that_means_nothing_for_the_vocabulary_is_refused_by_name(
    evaluate: Evaluate, tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path: Path
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
        ({"corpus_path": None}, UsageError, "^corpus 'local' needs its place: pass corpus_path="),
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


def test_parameters_of_the_model_class_are_no_strangers(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        evaluate(TASKS[0], pretrained="x", dtype="float32", parallelize=False, backend="causal")
    assert [record for record in caplog.records if record.name == "lm_bounds"] == []


def test_unknown_keys_and_few_windows_are_warned_of_once(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lm_bounds"):
        for _ in range(2):
            evaluate(TASKS[0], haystack_tokens=5, windows=29)
    messages = [record.message for record in caplog.records if record.name == "lm_bounds"]
    assert messages == [
        "metadata key 'haystack_tokens' is not one of lm-bounds: it is left to others",
        "only 29 windows: the sampling term will be large; 30 or more are usual",
    ]


def test_progress_is_shown_on_standard_error(evaluate: Evaluate, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(TASKS[0])
    captured = capfd.readouterr()
    assert "scoring the pilot: 100%" in captured.err
    assert "scoring windows: 100%" in captured.err
    assert captured.out == ""
