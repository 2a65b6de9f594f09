"""Plain `lm_eval`, in a process of its own and in a folder that knows nothing of this package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_bounds.tasks.harness import task_names

pytestmark = pytest.mark.slow


def lm_eval(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command that pip installed, without PYTHONPATH and without a network."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "LM_BOUNDS_HOME": str(folder / "home")}
    program = Path(sys.executable).parent / "lm_eval"
    return subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def model(folder: Path) -> tuple[str, ...]:
    return ("--model", "hf", "--model_args", f"pretrained={folder}", "--device", "cpu", "--batch_size", "4")


def test_the_tasks_are_listed(tmp_path: Path) -> None:
    done = lm_eval(tmp_path, "ls", "tasks")
    assert done.returncode == 0, done.stderr
    for name in task_names():
        assert re.search(rf"\b{name}\b", done.stdout)


def test_the_last_line_of_a_failure_says_what_to_do(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> None:
    metadata = ("--metadata", "corpus_path=absent.txt", "windws=12")
    done = lm_eval(tmp_path, *model(tiny_checkpoint("gpt2")), "--tasks", "local_bpd_bound", *metadata)
    assert done.returncode != 0
    assert "did you mean 'windows'?" in done.stderr.strip().splitlines()[-1]
