"""The command line in this process: what it prints, on which stream, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a command that failed."""
        assert self.code != 0, self.out
        assert self.out == ""
        [line] = self.err.splitlines()
        assert line.startswith("Error: ")
        assert len(line) > len("Error: ") + 10
        return line


@pytest.fixture(autouse=True)
def _plain_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory outside of any repository; the environment as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LM_BOUNDS_DEBUG", raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``command(*arguments)``: runs ``lm-bounds``; the streams are read at the level of file descriptors."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, out, err)

    return run


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when lm-eval is about to read the thousands of task files of its own."""
    import lm_eval.tasks

    class OwnTasks(lm_eval.tasks.TaskManager):
        def __init__(self, *arguments: Any, include_defaults: bool = True, **options: Any) -> None:
            assert not include_defaults, "lm-eval indexes its own tasks"
            super().__init__(*arguments, include_defaults=include_defaults, **options)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", OwnTasks)


@pytest.fixture(scope="session")
def encoder_checkpoint(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT, whose predictions depend on later tokens as well."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("models") / "encoder"
    config = BertConfig(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder
