"""Plain `lm_eval`, in a process of its own and in a folder that knows nothing of this package."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.tasks.harness import task_names

pytestmark = pytest.mark.slow


def model(folder: Path) -> tuple[str, ...]:
    return ("--model", "hf", "--model_args", f"pretrained={folder}", "--device", "cpu", "--batch_size", "4")


def test_the_tasks_are_listed(tmp_path: Path, run_apart: Callable[..., Any]) -> None:
    done = run_apart(tmp_path, ["lm_eval", "ls", "tasks"])
    assert done.returncode == 0, done.stderr
    for name in task_names():
        assert re.search(rf"\b{name}\b", done.stdout)


def test_the_last_line_of_a_failure_says_what_to_do(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path], run_apart: Callable[..., Any]
) -> None:
    metadata = ("--metadata", "corpus_path=absent.txt", "windws=12")
    done = run_apart(tmp_path, ["lm_eval", *model(tiny_checkpoint("gpt2")), "--tasks", "local_bpd_bound", *metadata])
    assert done.returncode != 0
    assert "did you mean 'windows'?" in done.stderr.strip().splitlines()[-1]
