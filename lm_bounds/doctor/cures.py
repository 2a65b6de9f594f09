"""Remove what hides lm-eval, and put the task files where it looks for them."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lm_bounds.doctor.locate import foreign_files, locate, wrong_copies
from lm_bounds.errors import LmBoundsError


def fix(path: Sequence[str] | None = None) -> list[str]:
    """Mend what `diagnose` found, as far as files can mend it; a second call does nothing.

    A leftover folder is removed only if it holds nothing but this package's task files, caches and empty
    folders. In a clone under git the folder of the copies is added to ``.git/info/exclude``, so that
    ``git status`` stays clean.

    Args:
        path: the folders to search for packages; default: those of the running interpreter.

    Returns:
        what was done, one sentence each; `diagnose` tells what is left to do.

    Raises:
        LmBoundsError: a folder cannot be written.
    """
    path = sys.path if path is None else path
    found = locate(path)
    if found.tasks is None:
        return []
    try:
        done = [_remove(folder) for folder in found.leftovers if not foreign_files(folder, path)]
        done += _copy_tasks(found.tasks)
        if found.from_clone:
            done += _exclude_from_git(found.tasks)
    except OSError as error:
        raise LmBoundsError(
            f"doctor cannot change {error.filename}: {error.strerror}; run it as the owner of that folder, "
            'or pass `--include_path "$(lm-bounds tasks-path)"` to lm_eval'
        ) from error
    importlib.invalidate_caches()
    return done


def _remove(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"removed {folder}, which is no package and hides an editable lm_eval"


def _copy_tasks(target: Path) -> list[str]:
    wrong = wrong_copies(target)
    if not wrong:
        return []
    target.mkdir(parents=True, exist_ok=True)
    for name, content in wrong.items():
        (target / name).write_bytes(content)
    return [f"copied {len(wrong)} task files to {target}; delete that folder when you uninstall lm-bounds"]


def _exclude_from_git(target: Path) -> list[str]:
    """Add the folder to the clone's .git/info/exclude, a file that git never commits."""
    found = _git_folder(target)
    if found is None:
        return []
    top, git = found
    # Anchored at the top of the work tree; characters with a meaning in patterns are escaped.
    line = "/" + re.sub(r"([\\*?\[])", r"\\\1", target.relative_to(top).as_posix()) + "/"
    exclude = git / "info" / "exclude"
    lines = exclude.read_text(encoding="utf-8").splitlines() if exclude.exists() else []
    if line in lines:
        return []
    exclude.parent.mkdir(parents=True, exist_ok=True)
    exclude.write_text("\n".join([*lines, line, ""]), encoding="utf-8")
    return [f"added {line} to {exclude}"]


def _git_folder(inside: Path) -> tuple[Path, Path] | None:
    """(top of the work tree, git folder that its work trees share) around ``inside``; None outside git."""
    for top in inside.parents:
        git = top / ".git"
        if git.is_file():  # a linked work tree or a submodule: "gitdir: FOLDER"
            git = (top / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
            shared = git / "commondir"
            if shared.is_file():
                git = (git / shared.read_text(encoding="utf-8").strip()).resolve()
        if git.is_dir():
            return top, git
    return None
