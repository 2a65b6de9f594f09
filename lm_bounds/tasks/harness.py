"""Runs lm_eval in this process with metadata of ours, quietly, every failure as one line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import subprocess
import sys
import unittest.mock
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from lm_bounds.doctor import tasks_path
from lm_bounds.errors import LmBoundsError, UsageError, closest, nearest
from lm_bounds.pipeline import check_settings
from lm_bounds.settings import KEYS, check_unknown_keys, parse_settings

_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "LMEVAL_LOG_LEVEL": "ERROR",
}
HF_BACKENDS = ("hf", "hf-auto", "huggingface")
# Options of HFLM that quantise while loading, or load with another library, with what to do instead.
_ON_THE_FLY = "transformers 5 does not quantise in this way: save a quantised checkpoint and pass its directory"
_OTHER_LOADER = "leave it out: transformers loads GPTQ checkpoints itself (pip install 'lm-bounds[gptq]')"
_QUANTISED_LOADING = {
    "load_in_8bit": _ON_THE_FLY,
    "load_in_4bit": _ON_THE_FLY,
    "gptqmodel": _OTHER_LOADER,
    "autogptq": _OTHER_LOADER,
}
_TOKENIZER_FILE = re.compile(
    r"tokeni[sz]|vocab|merges|tekken|s(entence)?piece|\.(bpe|model|spm|tiktoken)$", re.IGNORECASE
)
# likeness from which a task's name is taken for a misspelt one of ours, and not for one that lm-eval may have
_NEAR = 0.75


def run_harness(arguments: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """``lm_eval run ARGUMENTS`` with metadata added; prints what lm_eval prints.

    What can be checked is checked before a model is loaded.

    Args:
        arguments: options of ``lm_eval run``.
        metadata: keys of ``lm_bounds.settings.Settings``, over those of ``--metadata``.

    Raises:
        LmBoundsError: for every failure, lm_eval's and transformers' own included.
    """
    quieten()
    parsed = _parse(arguments)
    try:
        _add_config(parsed)
        parsed.metadata = {**(parsed.metadata or {}), **metadata}
        if parsed.output_path:
            parsed.metadata.setdefault("certificates", str(parsed.output_path).removesuffix(".json"))
        _check(parsed)
        only_ours = set(parsed.tasks) <= set(task_names())
        with _own_tasks_only() if only_ours else contextlib.nullcontext(), _quiet_git():
            parsed.func(parsed)
    except (LmBoundsError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a model or lm_eval raises becomes one line
        if os.environ.get("LM_BOUNDS_DEBUG"):
            raise
        raise LmBoundsError(one_line(error, parsed.model_args or {})) from error


def quieten() -> None:
    """No warnings, logs and progress bars of the libraries: on standard error stand our own progress and errors."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    from lm_eval.utils import setup_logging

    setup_logging()
    # a library that is loaded already does not read the environment again
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def task_names() -> list[str]:
    """Names of the tasks and groups of this package."""
    return sorted(path.stem for path in tasks_path().glob("*.yaml"))


def task_corpora(name: str) -> set[str]:
    """The corpora of a task of this package, or of the members of a group, as their files have them.

    >>> task_corpora("local_bounds")
    {'local'}
    """
    text = (tasks_path() / f"{name}.yaml").read_text(encoding="utf-8")
    fields = yaml.load(text, Loader=yaml.BaseLoader)  # makes strings of everything, !function included
    if "corpus" in fields:
        return {fields["corpus"]}
    return {corpus_id for member in fields["task"] for corpus_id in task_corpora(member)}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    from lm_eval._cli.run import Run

    def refuse(message: str) -> None:
        raise UsageError(
            f"{message}: see `lm_eval run --help` for lm_eval's options and `lm-bounds run --help` for ours"
        )

    parser = argparse.ArgumentParser(prog="lm-bounds")
    subparsers = parser.add_subparsers()
    Run.create(subparsers)
    command = subparsers.choices["run"]
    command.error = refuse  # type: ignore[method-assign, assignment]
    parser.error = refuse  # type: ignore[method-assign, assignment]
    parsed, unknown = parser.parse_known_args(["run", *arguments])
    ours = ["--extend"]
    ours += [f"--{spelling}" for key in KEYS for spelling in (key, key.replace("_", "-"))]
    theirs = [spelling for spelling in command._option_string_actions if spelling.startswith("--")]
    for option in (item.partition("=")[0] for item in unknown if item.startswith("-")):
        meant = closest(option, [*ours, *theirs])
        if meant:
            raise UsageError(f"No such option {option!r}: did you mean {meant!r}?")
    if unknown:
        refuse(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


def _add_config(parsed: argparse.Namespace) -> None:
    """The options of a --config file that the command line does not give, as lm_eval itself would add them."""
    if not parsed.config:
        return
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import simple_parse_args_string

    for name, value in EvaluatorConfig.load_yaml_config(parsed.config).items():
        if not getattr(parsed, name, None):
            is_text = name in ("model_args", "metadata") and isinstance(value, str)
            setattr(parsed, name, simple_parse_args_string(value) if is_text else value)


def _check(parsed: argparse.Namespace) -> None:
    if not parsed.tasks:
        raise UsageError(f"no --tasks were given: use one of {', '.join(task_names())}")
    given = [parsed.tasks] if isinstance(parsed.tasks, str) else parsed.tasks
    parsed.tasks = [name for item in given for name in item.split(",") if name]
    if not parsed.include_path:  # else a name may be that of a task in there
        _check_task_names(parsed.tasks)
    model_args = parsed.model_args or {}
    check_unknown_keys(parsed.metadata, ())
    settings = parse_settings({**model_args, **parsed.metadata})
    ours = set(parsed.tasks) & set(task_names())
    corpora = {found for name in ours for found in task_corpora(name)}
    if settings.corpus is not None and ours and "local" not in corpora:
        raise UsageError(f"corpus={settings.corpus} goes with the tasks local_..., and none of them is run")
    for corpus_id in sorted({settings.corpus_of(found) for found in corpora}):
        check_settings(settings, corpus_id)
    if parsed.limit is not None and not parsed.limit > 0:
        raise UsageError(f"--limit must be above 0, {parsed.limit:g} was given")
    _check_backend(parsed.model or "hf")
    if (parsed.model or "hf") in HF_BACKENDS:
        check_model_args(model_args)
    else:
        _check_model_path(str(model_args.get("pretrained", "")))


def _check_task_names(given: Sequence[str]) -> None:
    """Refuses what is nearly a task of ours, or the name of a corpus; other names are lm-eval's to know."""
    for name in given:
        pattern_or_ours = set(name) & set("*?[") or name in task_names()
        meant = closest(name, task_names(), _NEAR) or closest(f"{name}_bounds", task_names(), 0.9)
        if meant and not pattern_or_ours:
            raise UsageError(f"no task is called {name!r}: did you mean {meant!r}?")


def _check_backend(name: str) -> None:
    from lm_eval.api.registry import model_registry
    from lm_eval.models import MODEL_MAPPING

    names = sorted({*MODEL_MAPPING, *model_registry.keys()})
    if name not in names:
        raise UsageError(f"lm_eval has no model backend {name!r}{nearest(name, names)}")


def check_model_args(model_args: Mapping[str, Any]) -> None:
    """Refuses what can be known to be wrong with the arguments of HFLM before a model is loaded.

    Raises:
        UsageError: there is no model, no tokenizer, or the model is to be loaded in a way that cannot be measured.
    """
    if not model_args.get("pretrained"):
        raise UsageError("no model was given: pass pretrained=DIRECTORY or a Hub id in --model_args")
    _check_checkpoint(model_args)
    _check_model_path(str(model_args["pretrained"]))


def _check_checkpoint(model_args: Mapping[str, Any]) -> None:
    """What transformers would say in many words, or not at all."""
    for name, cure in _QUANTISED_LOADING.items():
        if model_args.get(name):
            raise UsageError(f"{name}={model_args[name]} in --model_args: {cure}")
    folder = Path(str(model_args["pretrained"])) / str(model_args.get("subfolder") or "")
    if not (folder / "config.json").is_file():
        return
    if model_args.get("tokenizer") or model_args.get("gguf_file"):
        return
    if not any(_TOKENIZER_FILE.search(path.name) for path in folder.iterdir()):
        raise UsageError(
            f"no tokenizer in {str(folder)!r}: save it there, or pass tokenizer=DIR or a Hub id in --model_args"
        )


def _check_model_path(pretrained: str) -> None:
    looks_local = pretrained.startswith(("/", "./", "../", "~")) or pretrained.count("/") > 1
    if looks_local and not Path(pretrained).is_dir():
        raise UsageError(f"no model directory {pretrained!r}: pass pretrained=DIRECTORY or a Hub id in --model_args")


@contextlib.contextmanager
def _own_tasks_only() -> Iterator[None]:
    """lm_eval indexes 14,000 files of its own tasks at every start; a run of ours alone does not need them."""
    import lm_eval.tasks

    own = partial(lm_eval.tasks.TaskManager, include_defaults=False, include_path=str(tasks_path()))

    def make(include_path: Any = None, metadata: Any = None, **others: Any) -> Any:
        return own(metadata=metadata)

    with unittest.mock.patch.object(lm_eval.tasks, "TaskManager", make):
        yield


@contextlib.contextmanager
def _quiet_git() -> Iterator[None]:
    """lm_eval records the commit of the working directory; outside a repository git complains on standard error."""
    import lm_eval.evaluator
    from lm_eval.loggers.utils import get_commit_from_path

    def commit() -> str | None:
        command = ["git", "describe", "--always"]
        try:
            return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
        except (OSError, subprocess.CalledProcessError):
            found: str | None = get_commit_from_path(os.getcwd())
            return found

    with unittest.mock.patch.object(lm_eval.evaluator, "get_git_commit_hash", commit):
        yield


def one_line(error: Exception, model_args: Mapping[str, Any]) -> str:
    """The message of an error of transformers or lm_eval, with what to do where that is known.

    Args:
        error: whatever was raised.
        model_args: of the model backend.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines else type(error).__name__
    if text.startswith("Tasks not found"):
        return f"{text}: ours are {', '.join(task_names())}; `lm_eval ls tasks` lists the others"
    pretrained = str(model_args.get("pretrained", ""))
    if pretrained and isinstance(error, OSError) and not Path(pretrained).is_dir():
        text = f"model {pretrained!r} is no directory here and was not loaded from the Hub: {text}"
    return f"{text} (set LM_BOUNDS_DEBUG=1 to see where it happened)"
