"""What is in the wheel, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import lm_bounds

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "matplotlib"}


def _names(version: str, folder: Path) -> list[str]:
    built = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=[version]))
    with zipfile.ZipFile(built) as wheel:
        return wheel.namelist()


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_wheel_carries_the_tasks_into_lm_eval(version: str, tmp_path: Path) -> None:
    ours = {file.name for file in (ROOT / "lm_bounds" / "tasks" / "yaml").glob("*.yaml")}
    names = _names(version, tmp_path)
    assert ours
    assert {name for name in names if name.startswith("lm_eval/")} == {
        f"lm_eval/tasks/lm_bounds/{name}" for name in ours
    }


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    names = set(_names("standard", tmp_path))
    assert {name.split("/")[0] for name in names} == {
        "lm_bounds",
        "lm_eval",
        f"lm_bounds-{lm_bounds.__version__}.dist-info",
    }
    sources = (ROOT / "lm_bounds").rglob("*.py")
    assert {str(file.relative_to(ROOT)) for file in sources} | {"lm_bounds/py.typed"} <= names


def test_importing_loads_no_heavy_library() -> None:
    code = "import sys, lm_bounds, lm_bounds.cli, lm_bounds.doctor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_public_names() -> None:
    assert lm_bounds.__all__ == sorted(lm_bounds.__all__)
    assert set(lm_bounds.__all__) <= set(dir(lm_bounds))
    for name in lm_bounds.__all__:
        assert getattr(lm_bounds, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'certified'"):
        lm_bounds.certified  # noqa: B018
