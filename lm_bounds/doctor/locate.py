"""Where lm-eval and the task files are, found without importing anything."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


@dataclass(frozen=True)
class LmEval:
    """Where lm-eval is.

    Args:
        version: of the installed distribution; None where there is none.
        package: the folder of the real package, the one with ``__init__.py``; None where there is none.
        from_clone: whether that folder is a source tree (an editable install) and not part of site-packages.
        shadowed: whether ``import lm_eval`` would take a folder without ``__init__.py`` instead.
        leftovers: such folders, in site-packages or in the way.
    """

    version: str | None
    package: Path | None
    from_clone: bool
    shadowed: bool
    leftovers: tuple[Path, ...]

    @property
    def tasks(self) -> Path | None:
        """The folder in which lm-eval finds this package's tasks."""
        return self.package / "tasks" / "lm_bounds" if self.package else None


def tasks_path() -> Path:
    """The folder of this package's own task files, for ``lm_eval --include_path``.

    >>> tasks_path().parts[-3:]
    ('lm_bounds', 'tasks', 'yaml')
    """
    return Path(__file__).resolve().parents[1] / "tasks" / "yaml"


def task_files() -> dict[str, bytes]:
    """Name and content of each task file of this package."""
    return {file.name: file.read_bytes() for file in sorted(tasks_path().glob("*.yaml"))}


def wrong_copies(target: Path) -> dict[str, bytes]:
    """Name and right content of each task file that is missing in ``target`` or differs there."""
    return {
        name: content
        for name, content in task_files().items()
        if not (target / name).is_file() or (target / name).read_bytes() != content
    }


def locate(path: Sequence[str]) -> LmEval:
    """Find lm-eval as an import would, and what is in its way.

    Args:
        path: the folders to search; `sys.path` itself stands for the running interpreter and its
            import hooks.
    """
    importlib.invalidate_caches()
    distribution = next(distributions("lm_eval", path), None)
    specs = list(_specs(path))
    shadowed = bool(specs) and specs[0].origin is None
    package = next((Path(spec.origin).resolve().parent for spec in specs if spec.origin), None)
    clone = _editable_root(distribution)
    if package is None and clone is not None:
        candidates = (clone / "lm_eval", clone / "src" / "lm_eval")
        package = next((folder for folder in candidates if (folder / "__init__.py").is_file()), None)
    in_the_way = (specs[0].submodule_search_locations or ()) if shadowed else ()
    return LmEval(
        version=distribution.version if distribution else None,
        package=package,
        from_clone=package is not None and not _is_site(package.parent),
        shadowed=shadowed,
        leftovers=tuple(_without_init(path, [Path(folder).resolve() for folder in in_the_way])),
    )


def distributions(name: str, path: Sequence[str]) -> Iterator[metadata.Distribution]:
    """What is installed under this name, the one that counts first."""
    return iter(metadata.distributions(name=name, path=list(path)))


def foreign_files(folder: Path, path: Sequence[str]) -> list[Path]:
    """Files below ``folder`` that are neither this package's task files nor caches."""
    if folder.is_symlink():
        return [folder]
    recorded = {
        file.name
        for distribution in distributions("lm_bounds", path)
        for file in distribution.files or ()
        if file.parts[:-1] == ("lm_eval", "tasks", "lm_bounds")
    }
    ours = recorded | set(task_files())
    return [
        file
        for file in sorted(folder.rglob("*"))
        if (file.is_symlink() or not file.is_dir())
        and not (file.parent.name == "__pycache__" and file.suffix == ".pyc")
        and not (file.parent == folder / "tasks" / "lm_bounds" and file.name in ours)
    ]


def _specs(path: Sequence[str]) -> Iterator[ModuleSpec]:
    """What each finder says of lm_eval, first what an import would take; ``sys.modules`` is not consulted."""
    running = path is sys.path
    for finder in sys.meta_path if running else [PathFinder]:
        spec = finder.find_spec("lm_eval", None if running else list(path))
        if spec is not None:
            yield spec


def _editable_root(distribution: metadata.Distribution | None) -> Path | None:
    """The source tree of an editable install, from direct_url.json (PEP 610)."""
    text = distribution.read_text("direct_url.json") if distribution else None
    source = json.loads(text) if text else {}
    if not source.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlsplit(source["url"]).path))


def _is_site(folder: Path) -> bool:
    """Whether packages are installed in this folder."""
    return any(folder.glob("*.dist-info"))


def _without_init(path: Sequence[str], in_the_way: Sequence[Path]) -> Iterator[Path]:
    """Folders lm_eval that are no package: in site-packages always, elsewhere where an import takes them."""
    for entry in dict.fromkeys(Path(entry).resolve() for entry in path):
        folder = entry / "lm_eval"
        is_package = (folder / "__init__.py").exists()
        if folder.is_dir() and not is_package and (folder in in_the_way or _is_site(entry)):
            yield folder
