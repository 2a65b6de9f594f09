"""The task files: lm-eval skips one that it cannot read without a word, so that each is loaded here by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_bounds.corpora import corpus_specs
from lm_bounds.doctor import tasks_path
from lm_bounds.tasks.harness import task_corpora, task_names
from lm_bounds.tasks.task import BoundTask

FILES = sorted(tasks_path().glob("*.yaml"))


def names_of(metrics: tuple[str, ...], corpus_id: str) -> list[str]:
    return [f"{corpus_id}_{metric}_bound" for metric in metrics]


def corpus_of(path: Path) -> str:
    return max((each for each in corpus_specs() if path.stem.startswith(f"{each}_")), key=len)


def test_there_is_a_task_for_each_metric_of_each_corpus_and_a_group_of_them() -> None:
    wanted = {
        name for spec in corpus_specs().values() for name in (*names_of(spec.metrics, spec.id), f"{spec.id}_bounds")
    }
    assert {path.stem for path in FILES} == wanted == set(task_names())
    assert task_names() == sorted(task_names())


def test_the_folder_holds_task_files_alone() -> None:
    assert {path.suffix for path in tasks_path().iterdir()} == {".yaml"}


def test_lm_eval_finds_every_file(task_manager: Callable[..., Any]) -> None:
    found = task_manager()
    assert set(found.all_tasks) == {path.stem for path in FILES}
    assert set(found.all_groups) == {path.stem for path in FILES if path.stem.endswith("_bounds")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_loads_to_what_its_name_says(path: Path, task_manager: Callable[..., Any]) -> None:
    name, corpus_id = path.stem, corpus_of(path)
    loaded = task_manager({"windows": 7}).load([name])
    if name.endswith("_bounds"):
        assert list(loaded["groups"]) == [name]
        wanted = names_of(corpus_specs()[corpus_id].metrics, corpus_id)
        assert list(loaded["tasks"]) == loaded["group_map"][name] == wanted
        return
    assert list(loaded["tasks"]) == [name]
    task = loaded["tasks"][name]
    assert type(task) is BoundTask
    assert (task.corpus_id, task.metric) == (corpus_id, name.removeprefix(f"{corpus_id}_").split("_")[0])
    assert task.task_name == task.config.task == name
    assert task.settings.windows == len(task.eval_docs) == 7
    assert str(task.VERSION) == str(yaml.load(path.read_text(), yaml.BaseLoader)["metadata"]["version"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_corpora_of_each_file(path: Path) -> None:
    assert task_corpora(path.stem) == {corpus_of(path)}


def test_a_corpus_is_read_from_the_file_and_not_from_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_bounds.tasks.harness.tasks_path", lambda: tmp_path)
    task = "task: {}\nclass: !function no_such_package.BoundTask\ncorpus: {}\nmetric: bpd\n"
    for name, corpus_id in (("old_tales_bpd_bound", "old_tales"), ("tales_bpd_bound", "tales")):
        (tmp_path / f"{name}.yaml").write_text(task.format(name, corpus_id), encoding="utf-8")
    for group, members in (("old_bounds", "[old_tales_bpd_bound]"), ("all_bounds", "[old_bounds, tales_bpd_bound]")):
        (tmp_path / f"{group}.yaml").write_text(f"group: {group}\ntask: {members}\n", encoding="utf-8")
    assert task_corpora("old_tales_bpd_bound") == task_corpora("old_bounds") == {"old_tales"}
    assert task_corpora("all_bounds") == {"old_tales", "tales"}


def test_a_file_that_lm_eval_cannot_read_would_be_missed(tmp_path: Path) -> None:
    """Why every file is looked for by name above."""
    from lm_eval.tasks import TaskManager

    (tmp_path / "broken_bound.yaml").write_text("task: broken_bound\n  metric: [", encoding="utf-8")
    assert TaskManager(include_path=str(tmp_path), include_defaults=False).all_tasks == []
