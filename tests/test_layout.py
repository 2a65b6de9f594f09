"""How the package is laid out: which room may import which, which libraries, how long files are, what is documented."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lm_bounds

PACKAGE = Path(lm_bounds.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 320
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Data flows down this list: a room imports only rooms above it. A new room gets a line of its own.
ROOMS = (
    "_version",
    "errors",
    "home",
    "processes",
    "models",
    "bounds",
    "codelength",
    "calculator",
    "settings",
    "sampling",
    "corpora",
    "weights",
    "compressors",
    "complexity",
    "scoring",
    "certificates",
    "passes",
    "pipeline",
    "doctor",
    "tasks",
    "cli",
    "__init__",
)

# The libraries that a room may import, at the top of a file or inside a function; any room may import numpy.
LIBRARIES = {
    "processes": {"torch"},
    "corpora": {"huggingface_hub", "pyarrow", "requests", "tokenizers", "tqdm", "transformers", "yaml"},
    "weights": {"accelerate", "gguf", "huggingface_hub", "peft", "torch", "transformers"},
    "compressors": {"brotli", "torch", "zstandard"},
    "scoring": {"torch"},
    "tasks": {"lm_eval", "tqdm", "transformers", "yaml"},
    "cli": {"click", "tqdm"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of everything that is imported anywhere in a file, by statement or by ``import_module("...")``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (value.value for value in node.args if isinstance(value, ast.Constant))


def rooms_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imported(ast.parse(path.read_text(encoding="utf-8")))]
    return {parts[1] for parts in names if parts[0] == "lm_bounds" and len(parts) > 1} - {room_of(path)}


def libraries_imported(path: Path) -> set[str]:
    names = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
    return names - set(sys.stdlib_module_names) - {"lm_bounds"}


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    above = set(ROOMS[: ROOMS.index(room_of(path))])
    assert rooms_imported(path) <= above


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_its_own_libraries(path: Path) -> None:
    assert libraries_imported(path) <= {"numpy"} | LIBRARIES.get(room_of(path), set())


def test_heavy_libraries_are_where_they_are_needed() -> None:
    """Certificates are verified, and bounds computed, with numpy alone; lm-eval is known to its tasks alone."""
    assert {room for room, names in LIBRARIES.items() if "lm_eval" in names} == {"tasks"}
    assert {"torch", "transformers"} & set().union(
        *(LIBRARIES.get(room, set()) for room in ("bounds", "codelength", "sampling", "certificates", "settings"))
    ) == set()
    assert {name for path in FILES if room_of(path) == "bounds" for name in rooms_imported(path)} == {"errors"}


def test_the_walk_sees_imports_of_every_kind() -> None:
    source = """
import torch.nn as nn
from lm_bounds import bounds
from lm_bounds.errors import UsageError
def inside():
    import scipy
    from yaml import load
    importlib.import_module("lm_eval.tasks")
"""
    found = set(imported(ast.parse(source)))
    assert found == {
        "torch.nn",
        "lm_bounds.bounds",
        "lm_bounds.errors.UsageError",
        "scipy",
        "yaml.load",
        "lm_eval.tasks",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_have_a_name_that_says_something(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    assert not VAGUE_NAMES & {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts}


def undocumented(body: list[ast.stmt], owner: str = "") -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield owner + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{owner}{node.name}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = list(undocumented(tree.body))
    if ast.get_docstring(tree) is None and path.name != "_version.py":
        missing.append("the module")
    assert missing == []
