"""Evaluations in this process, with the package's own task files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.doctor import tasks_path

N_WINDOWS = 30


@pytest.fixture(scope="session", autouse=True)
def _quick_results() -> Any:
    """lm-eval describes the machine after every evaluation, which takes longer than the evaluation."""
    import lm_eval.evaluator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
        patch.setattr(lm_eval.evaluator, "get_git_commit_hash", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _warnings_come_again() -> None:
    from lm_bounds.tasks import request

    request._warn_once.cache_clear()


@pytest.fixture
def metadata(many_documents_file: Path, shared_tokens: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of 30 windows over documents that are mostly shorter than a window; certificates in ``tmp_path``."""
    return {
        "corpus_path": str(many_documents_file),
        "windows": N_WINDOWS,
        "pilot": 12,
        "certificates": str(tmp_path / "certificates"),
    }


@pytest.fixture
def task_manager() -> Callable[..., Any]:
    """``task_manager(metadata)``: of the package's own tasks."""
    from lm_eval.tasks import TaskManager

    return lambda metadata=None: TaskManager(
        include_path=str(tasks_path()), include_defaults=False, metadata=metadata or {}
    )


@pytest.fixture
def evaluate(
    task_manager: Callable[..., Any], tiny_lm: Callable[..., Any], metadata: dict[str, Any]
) -> Callable[..., dict[str, Any]]:
    """``evaluate(tasks, lm=None, flags=None, **metadata)``: what lm-eval returns; flags: of simple_evaluate."""
    import lm_eval

    def run(tasks: Any, lm: Any = None, flags: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        results = lm_eval.simple_evaluate(
            model=tiny_lm("unigram") if lm is None else lm,
            tasks=[tasks] if isinstance(tasks, str) else tasks,
            task_manager=task_manager({**metadata, **changes}),
            **{"bootstrap_iters": 0, "log_samples": False, **(flags or {})},
        )
        assert results is not None
        return results

    return run


@pytest.fixture
def values_of() -> Callable[[dict[str, Any], str], dict[str, float]]:
    """``values_of(results, task)``: the reported numbers, their names without that of lm-eval's filter."""

    def find(results: dict[str, Any], task: str) -> dict[str, float]:
        found = results["results"][task]
        return {
            key.removesuffix(",none"): value
            for key, value in found.items()
            if key.endswith(",none") and "_stderr" not in key
        }

    return find


@pytest.fixture
def certificates(tmp_path: Path) -> Callable[[], list[Path]]:
    """The certificates that the test's evaluations wrote, oldest run first."""
    return lambda: sorted((tmp_path / "certificates").rglob("*.json"))
