"""Look at everything that lm-eval needs to find and run the tasks."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_bounds.doctor.locate import (
    LmEval,
    distributions,
    foreign_files,
    locate,
    task_files,
    tasks_path,
    wrong_copies,
)

# As in pyproject.toml: at least the first, below the second.
_LM_EVAL_VERSIONS = ((0, 4, 13), (0, 5))
_INSTALL = 'pip install "lm-eval[hf]>=0.4.13,<0.5"'
_FIX = "run `lm-bounds doctor --fix`"
_INCLUDE = 'pass `--include_path "$(lm-bounds tasks-path)"` to lm_eval'
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets")
_MODULES = ("tasks/__init__.py", "evaluator.py", "api/model.py", "models/huggingface.py")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        fix: what to do; empty where ``ok``.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Every check, in the order in which to read them.

    >>> Diagnosis((Check("python", True, "3.11.7"),)).ok
    True
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check is."""
        return all(check.ok for check in self.checks)


def diagnose(path: Sequence[str] | None = None) -> Diagnosis:
    """Look at the versions, at what ``import lm_eval`` would take, and at the task files; changes nothing.

    Args:
        path: the folders to search for packages; default: those of the running interpreter.
    """
    path = sys.path if path is None else path
    found = locate(path)
    checks = [
        Check("python", True, f"{platform.python_version()} at {sys.executable}"),
        _check_version(found),
        *(_check_library(name, path) for name in _LIBRARIES),
    ]
    if found.package is not None:
        checks += [
            _check_import(found, found.package),
            _check_leftovers(found, path),
            _check_modules(found.package),
            _check_tasks(found.package / "tasks" / "lm_bounds"),
        ]
    return Diagnosis(tuple(checks))


def _check_version(found: LmEval) -> Check:
    if found.version is None or found.package is None:
        return Check("lm_eval", False, "is not installed", _INSTALL)
    number = tuple(int(part) for part in re.findall(r"\d+", found.version)[:3])
    lowest, limit = _LM_EVAL_VERSIONS
    if not lowest <= number < limit:
        return Check("lm_eval", False, f"version {found.version} is not supported", _INSTALL)
    return Check("lm_eval", True, found.version)


def _check_library(name: str, path: Sequence[str]) -> Check:
    distribution = next(distributions(name, path), None)
    if distribution is None:
        return Check(name, False, "is not installed", _INSTALL)
    return Check(name, True, distribution.version)


def _check_import(found: LmEval, package: Path) -> Check:
    kind = "an editable clone" if found.from_clone else "in site-packages"
    if not found.shadowed:
        return Check("import lm_eval", True, f"{package}, {kind}")
    hiding = ", ".join(str(folder) for folder in found.leftovers)
    detail = (
        f"Python takes {hiding}, which has no __init__.py, for the package and does not see {package}, "
        f"{kind}: `from lm_eval.tasks import TaskManager` fails"
    )
    return Check("import lm_eval", False, detail, _FIX)


def _check_leftovers(found: LmEval, path: Sequence[str]) -> Check:
    name = "leftover folders"
    if not found.leftovers:
        return Check(name, True, "none")
    detail = f"no package: {', '.join(str(folder) for folder in found.leftovers)}"
    foreign = [str(file) for folder in found.leftovers for file in foreign_files(folder, path)]
    if not foreign:
        return Check(name, False, f"{detail}; it holds nothing but what lm-bounds put there", _FIX)
    shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
    detail += f"; it holds files that lm-bounds did not put there: {shown}"
    return Check(name, False, detail, f"move these files elsewhere, then {_FIX}")


def _check_modules(package: Path) -> Check:
    missing = [name for name in _MODULES if not (package / name).is_file()]
    if missing:
        return Check("lm_eval modules", False, f"{package} lacks {', '.join(missing)}", _INSTALL)
    return Check("lm_eval modules", True, "tasks, evaluator and models are there")


def _check_tasks(target: Path) -> Check:
    ours = task_files()
    if not ours:
        return Check("tasks", False, f"{tasks_path()} holds no task files", "reinstall lm-bounds")
    wrong = wrong_copies(target)
    if wrong:
        n_stale = sum((target / name).exists() for name in wrong)
        detail = f"{target}: {len(wrong) - n_stale} of {len(ours)} task files are missing, {n_stale} differ"
        return Check("tasks", False, detail, f"{_FIX}, or {_INCLUDE}")
    others = sorted({file.name for file in target.glob("*.yaml")} - set(ours))
    extra = f"; not of this version: {', '.join(others)}" if others else ""
    return Check("tasks", True, f"{len(ours)} task files in {target}{extra}")
