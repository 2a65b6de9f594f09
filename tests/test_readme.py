"""What README tells a reader to type works as it stands there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_bounds.certificates import verify

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"\n\n((?:    .+\n)+)", README)
COMMANDS = [
    line.strip() for block in BLOCKS for line in block.splitlines() if re.match(r"    (lm_eval|lm-bounds)( |$)", line)
]
PYTHON = "".join(line[4:] + "\n" for block in BLOCKS if "import lm_bounds" in block for line in block.splitlines())


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Callable[[str], Path], text_file: Path) -> Path:
    """Where a reader stands: a model in DIR and a text in book.txt."""
    shutil.copytree(tiny_checkpoint("gpt2"), tmp_path / "DIR")
    shutil.copy(text_file, tmp_path / "book.txt")
    return tmp_path


def test_every_command_is_tried() -> None:
    assert len(COMMANDS) >= 10
    assert sum(command.startswith("lm_eval") for command in COMMANDS) == 2
    others = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip() not in COMMANDS]
    assert not any("lm_eval " in line or "lm-bounds " in line for line in others)


@pytest.mark.slow
def test_the_commands_work(folder: Path, run_apart: Callable[..., Any]) -> None:
    printed = []
    for command in COMMANDS:
        done = run_apart(folder, ["bash", "-c", command])
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed += re.findall(r"^certificate: (.+)$", done.stderr, re.MULTILINE)
    assert len(printed) == 2 + 4 + 4 + 2  # lm_eval on structured and local, lm-bounds run and demo
    for path in printed:
        verification = verify(folder / path)
        assert verification.ok, verification.failures


def test_the_python_lines_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names = {
        "model": AutoModelForCausalLM.from_pretrained("DIR").eval(),
        "tokenizer": AutoTokenizer.from_pretrained("DIR"),
    }
    exec(PYTHON, names)
    assert capsys.readouterr().out.splitlines()[-1] == "True"
