"""Tasks share one pass over one sample, and a number does not depend on its company."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lm_bounds
from lm_bounds.certificates import read_certificate
from lm_bounds.tasks.task import BoundTask

METRICS = ["bpd", "top1", "top10", "top100"]
TASKS = [f"local_{metric}_bound" for metric in METRICS]
N_WINDOWS = 30
Evaluate = Callable[..., dict[str, Any]]
Certificates = Callable[[], list[Path]]
Values = Callable[[dict[str, Any], str], dict[str, float]]


def counted(lm: Any) -> list[tuple[int, ...]]:
    """The shapes of all inputs of the model from now on."""
    shapes: list[tuple[int, ...]] = []
    call = lm._model_call
    lm._model_call = lambda inputs: shapes.append(tuple(inputs.shape)) or call(inputs)
    return shapes


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
    metric: str, evaluate: Evaluate, certificates: Certificates, values_of: Values
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


def test_family_wise_widens_the_bound(evaluate: Evaluate, values_of: Values) -> None:
    wide, narrow = (values_of(evaluate(TASKS[1], family_wise=wise), TASKS[1]) for wise in (True, False))
    assert wide["top1_sampling"] > narrow["top1_sampling"]


@pytest.mark.parametrize("limit", [10, 0.34])
def test_limit_is_the_same_as_so_many_windows(
    limit: float, evaluate: Evaluate, certificates: Certificates, values_of: Values
) -> None:
    n_windows = 10 if limit == 10 else 11  # 0.34 of 30, rounded up
    limited = evaluate("local_bounds", flags={"limit": limit})
    asked = evaluate("local_bounds", windows=n_windows)
    for task in TASKS:
        assert values_of(limited, task) == values_of(asked, task)
        assert values_of(limited, task)["windows"] == n_windows
    assert {read_certificate(path)["sample"]["windows"] for path in certificates()} == {n_windows}
    assert all(lm_bounds.verify(path).ok for path in certificates())


def test_a_limit_above_the_number_of_windows_changes_nothing(evaluate: Evaluate, values_of: Values) -> None:
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
    task_manager: Callable[..., Any], tiny_lm: Callable[..., Any], metadata: dict[str, Any], values_of: Values
) -> None:
    from lm_eval.evaluator import evaluate

    loaded, lm = task_manager(metadata).load(["local_bounds"]), tiny_lm("unigram")
    first, second, shorter = (
        evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=False) for limit in (None, None, 5)
    )
    assert values_of(first, TASKS[0]) == values_of(second, TASKS[0])
    assert values_of(shorter, TASKS[0])["windows"] == 5.0


def test_lm_evals_own_seeds_do_not_touch_the_draws(evaluate: Evaluate, values_of: Values) -> None:
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    found = [values_of(evaluate(TASKS[0], flags=dict.fromkeys(seeds, seed)), TASKS[0]) for seed in (1, 99)]
    assert found[0] == found[1]


@pytest.mark.parametrize("batch_size", [1, 30, "auto"])
def test_the_batch_size_makes_no_difference(
    batch_size: int | str, evaluate: Evaluate, tiny_lm: Any, values_of: Values
) -> None:
    wanted = values_of(evaluate(TASKS[1], shared_draws=2), TASKS[1])
    lm = tiny_lm("unigram", batch_size=batch_size, max_batch_size=5)
    found = values_of(evaluate(TASKS[1], lm, shared_draws=2), TASKS[1])
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_response_cache_is_passed_through(
    evaluate: Evaluate, tiny_lm: Callable[..., Any], tmp_path: Path, values_of: Values
) -> None:
    plain = values_of(evaluate(TASKS[0]), TASKS[0])
    for _ in range(2):
        lm = tiny_lm("unigram")
        seen = counted(lm)
        found = evaluate(TASKS[0], lm, flags={"use_cache": str(tmp_path / "cache")})
        assert values_of(found, TASKS[0]) == plain
        assert seen  # nothing came from a cache


def test_tasks_with_other_settings_get_a_pass_of_their_own(
    evaluate: Evaluate, metadata: dict[str, Any], certificates: Certificates, values_of: Values
) -> None:
    def task(name: str, **changes: Any) -> BoundTask:
        config = {"task": name, "corpus": "local", "metric": "top1", "metadata": {**metadata, **changes}}
        return BoundTask(config)

    results = evaluate([task("short", context=16), task("long"), task("few", windows=12)])
    alone = values_of(evaluate(TASKS[1]), TASKS[1])
    assert values_of(results, "long") == alone
    assert values_of(results, "short") == values_of(evaluate(TASKS[1], context=16), TASKS[1]) != alone
    assert values_of(results, "few") == values_of(evaluate(TASKS[1], windows=12), TASKS[1]) != alone
