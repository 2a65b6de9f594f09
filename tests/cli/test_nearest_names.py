"""A name that does not exist: one line with the nearest one that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from lm_bounds.cli import lm_bounds_command

BOUND = ("bound", "--risk", 3, "--code-bits", 1e6, "--tokens", 1e9, "--vocab", 32000, "--alpha", 0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("verfy", "x.json"), "No such command 'verfy': did you mean 'verify'?"),
        (("Verify", "x.json"), "No such command 'Verify': did you mean 'verify'?"),
        (("task-path",), "No such command 'task-path': did you mean 'tasks-path'?"),
        (("corpora", "shwo", "local"), "No such command 'shwo': did you mean 'show'?"),
        (("models", "pth"), "No such command 'pth': did you mean 'path'?"),
        (("--verson",), "No such option '--verson': did you mean '--version'?"),
        (("corpora", "show", "lcoal"), "unknown corpus 'lcoal': did you mean 'local'?"),
        (("corpora", "show", "struct"), "unknown corpus 'struct': did you mean 'structured'?"),
        (("compress", ".", "--compressor", "gzp"), "no compressor is called 'gzp': did you mean 'gzip'?"),
        ((*BOUND, "--method", "azumma"), "unknown method 'azumma': did you mean 'azuma'?"),
        ((*BOUND, "--metric", "bdp"), "unknown metric 'bdp': did you mean 'bpd'?"),
        ((*BOUND, "--metrc", "bpd"), "No such option '--metrc': did you mean '--metric'?"),
        (("verify", "--jsn", "x.json"), "No such option '--jsn': did you mean '--json'?"),
        (("doctor", "--fxi"), "No such option '--fxi': did you mean '--fix'?"),
        (("corpora", "--jsno"), "No such option '--jsno': did you mean '--json'?"),
        (("corpora", "show", "--jsno", "local"), "No such option '--jsno': did you mean '--json'?"),
        (("compress", ".", "--compresor", "gzip"), "No such option '--compresor': did you mean '--compressor'?"),
        (("demo", "--windws", 3), "No such option '--windws': did you mean '--windows'?"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else "",
)
def test_commands(command: Callable[..., Any], arguments: tuple[object, ...], words: str) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert done.error == f"Error: {words}"


def test_what_is_like_nothing_is_answered_with_what_there_is(command: Callable[..., Any]) -> None:
    listed = ", ".join(sorted(lm_bounds_command.commands))
    assert command("xyz").error == f"Error: No such command 'xyz': use one of {listed}"
    assert command("corpora", "xyz").error == "Error: No such command 'xyz': use one of sample, show"
    assert command("doctor", "-x").error == "Error: No such option '-x': use one of --fix, --json, --help"


@pytest.mark.parametrize(
    "path", ["", *(name for name, member in lm_bounds_command.commands.items() if isinstance(member, click.Group))]
)
def test_every_group_answers_in_these_words(command: Callable[..., Any], path: str) -> None:
    assert ": use one of " in command(*path.split(), "qqq").error


@pytest.fixture
def run_with(command: Callable[..., Any], tiny_checkpoint: Callable[[str], Path], no_index: None) -> Any:
    """``run_with(*arguments)``: a run of the built-in corpus in which nothing but the arguments is wrong."""
    usual = ("--model", "hf", "--model_args", f"pretrained={tiny_checkpoint('gpt2')}", "--tasks", "structured_bounds")
    return lambda *arguments: command("run", *usual, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tasks", "local_bdp_bound"), "no task is called 'local_bdp_bound': did you mean 'local_bpd_bound'?"),
        (("--tasks", "struct_bpd_bound"), "no task is called 'struct_bpd_bound': did you mean 'structured_bpd_bound'?"),
        (("--tasks", "random_bonds"), "no task is called 'random_bonds': did you mean 'random_bounds'?"),
        (("--tasks", "structured"), "no task is called 'structured': did you mean 'structured_bounds'?"),
        (("--tasks", "lcoal"), "no task is called 'lcoal': did you mean 'local_bounds'?"),
        (("--model", "hff"), "lm_eval has no model backend 'hff': did you mean 'hf'?"),
        (("--model", "HF"), "lm_eval has no model backend 'HF': did you mean 'hf'?"),
        (("--method", "azumma"), "unknown method 'azumma': did you mean 'azuma'?"),
        (("--compressor", "gzp"), "no compressor is called 'gzp': did you mean 'gzip'?"),
        (("--metadata", "windws=3"), "unknown metadata key 'windws': did you mean 'windows'?"),
        (("--metadata", "lm_bounds.pilt=3"), "unknown metadata key 'lm_bounds.pilt': did you mean 'lm_bounds.pilot'?"),
        (("--windws", 3), "No such option '--windws': did you mean '--windows'?"),
        (("--windws=3",), "No such option '--windws': did you mean '--windows'?"),
        (("--corpus_pth", "book.txt"), "No such option '--corpus_pth': did you mean '--corpus_path'?"),
        (("--draw-sed", 3), "No such option '--draw-sed': did you mean '--draw-seed'?"),
        (("--taks", "local_bounds"), "No such option '--taks': did you mean '--tasks'?"),
        (("--modelargs", "dtype=auto"), "No such option '--modelargs': did you mean '--model_args'?"),
        (("-model", "hf"), "No such option '-model': did you mean '--model'?"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_run(run_with: Any, arguments: tuple[object, ...], words: str) -> None:
    done = run_with(*arguments)
    assert done.code == 2
    assert done.error == f"Error: {words}"


def test_run_lists_the_backends(run_with: Any) -> None:
    done = run_with("--model", "qqq")
    assert done.code == 2
    assert "lm_eval has no model backend 'qqq': use one of anthropic-chat, " in done.error
    assert ", hf, " in done.error
