"""lm_bounds.doctor on fabricated site-packages folders, and once on real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lm_bounds import doctor
from lm_bounds.doctor import checks
from lm_bounds.errors import LmBoundsError

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("local_bpd_bound.yaml", "local_top1_bound.yaml")
MODULES = ("__init__.py", "tasks/__init__.py", "evaluator.py", "api/model.py", "models/huggingface.py")


@pytest.fixture(autouse=True)
def task_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Two task files in place of the package's own, except where the package itself is installed."""
    if request.node.get_closest_marker("slow"):
        return
    source = tmp_path / "yaml"
    _write(source, {name: f"task: {name[:-5]}\n" for name in NAMES})
    monkeypatch.setattr("lm_bounds.doctor.locate.tasks_path", lambda: source)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages folder that holds the libraries and no lm_eval."""
    folder = tmp_path / "site-packages"
    for name in ("torch", "transformers", "accelerate", "datasets"):
        _distribution(folder, name, "9.0")
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A source tree of lm_eval under git."""
    folder = tmp_path / "clone"
    _write(folder / "lm_eval", dict.fromkeys(MODULES, ""))
    _git(folder, "init", "--quiet")
    _commit(folder)
    return folder


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _distribution(site: Path, name: str, version: str, files: dict[str, str] | None = None) -> None:
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    _write(site / f"{name}-{version}.dist-info", {"METADATA": metadata, **(files or {})})


def _install(site: Path, version: str = "0.4.13") -> None:
    _write(site / "lm_eval", dict.fromkeys(MODULES, ""))
    _distribution(site, "lm_eval", version)


def _install_editable(site: Path, clone: Path) -> None:
    url = {"url": clone.as_uri(), "dir_info": {"editable": True}}
    _distribution(site, "lm_eval", "0.4.13", {"direct_url.json": json.dumps(url)})


def _copies(folder: Path) -> Path:
    """What the wheel of lm-bounds puts below a folder lm_eval."""
    target = folder / "tasks" / "lm_bounds"
    _write(target, {name: f"task: {name[:-5]}\n" for name in NAMES})
    return target


def _git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def _commit(folder: Path) -> None:
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "all")


def _failed(path: Sequence[Path]) -> dict[str, doctor.Check]:
    found = doctor.diagnose([str(folder) for folder in path])
    assert found.ok == all(check.ok for check in found.checks)
    assert all(bool(check.fix) != check.ok for check in found.checks)
    return {check.name: check for check in found.checks if not check.ok}


def _fix(*path: Path) -> list[str]:
    return doctor.fix([str(folder) for folder in path])


def test_normal_install_is_fine(site: Path) -> None:
    _install(site)
    _copies(site / "lm_eval")
    assert _failed([site]) == {}
    assert _fix(site) == []


def test_running_interpreter_is_the_default() -> None:
    found = doctor.diagnose()
    assert {"python", "lm_eval", "import lm_eval", "tasks"} <= {check.name for check in found.checks}


def test_lm_eval_is_not_installed(site: Path) -> None:
    _copies(site / "lm_eval")
    failed = _failed([site])
    assert list(failed) == ["lm_eval"]
    assert failed["lm_eval"].fix.startswith("pip install")
    assert _fix(site) == []
    assert (site / "lm_eval" / "tasks").is_dir()


@pytest.mark.parametrize(
    ("version", "ok"), [("0.4.12", False), ("0.4.13", True), ("0.4.14.dev0", True), ("0.5.0", False)]
)
def test_supported_versions(site: Path, version: str, ok: bool) -> None:
    _install(site, version)
    assert ("lm_eval" not in _failed([site])) == ok


def test_supported_versions_are_those_of_the_dependency() -> None:
    declared = re.search(r'"lm-eval\[hf\]>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared is not None
    assert tuple(tuple(map(int, part.split("."))) for part in declared.groups()) == checks._LM_EVAL_VERSIONS
    assert declared.group() == checks._INSTALL.removeprefix("pip install ")


def test_missing_library_and_module(site: Path) -> None:
    _install(site)
    _copies(site / "lm_eval")
    shutil.rmtree(site / "torch-9.0.dist-info")
    (site / "lm_eval" / "models" / "huggingface.py").unlink()
    failed = _failed([site])
    assert list(failed) == ["torch", "lm_eval modules"]
    assert "models/huggingface.py" in failed["lm_eval modules"].detail


def test_missing_and_stale_copies_are_replaced(site: Path) -> None:
    _install(site)
    target = site / "lm_eval" / "tasks" / "lm_bounds"
    _write(target, {NAMES[0]: "task: older\n", "mine.yaml": "task: mine\n"})
    detail = _failed([site])["tasks"].detail
    assert "1 of 2 task files are missing, 1 differ" in detail
    assert len(_fix(site)) == 1
    assert _failed([site]) == {}
    assert _fix(site) == []
    assert (target / "mine.yaml").read_text(encoding="utf-8") == "task: mine\n"
    assert "mine.yaml" in doctor.diagnose([str(site)]).checks[-1].detail


def test_shadow_of_a_clone_is_removed(site: Path, clone: Path) -> None:
    _install_editable(site, clone)
    shadow = site / "lm_eval"
    _write(_copies(shadow) / "__pycache__", {"x.cpython-311.pyc": ""})
    failed = _failed([site])
    assert list(failed) == ["import lm_eval", "leftover folders", "tasks"]
    assert str(shadow) in failed["import lm_eval"].detail
    assert str(clone / "lm_eval") in failed["import lm_eval"].detail

    done = _fix(site)
    assert len(done) == 3
    assert not shadow.exists()
    assert {file.name for file in (clone / "lm_eval/tasks/lm_bounds").iterdir()} == set(NAMES)
    assert _git(clone, "status", "--porcelain") == ""
    assert _failed([site]) == {}
    assert _fix(site) == []


def test_shadow_behind_which_the_clone_is_still_seen(site: Path, clone: Path) -> None:
    _install_editable(site, clone)
    _copies(site / "lm_eval")
    path = [site, clone]  # the clone's folder itself is searched, as a .pth file has it
    assert list(_failed(path)) == ["leftover folders", "tasks"]
    _fix(*path)
    assert not (site / "lm_eval").exists()
    assert _failed(path) == {}


def test_empty_folders_after_an_uninstall(site: Path, clone: Path) -> None:
    _install_editable(site, clone)
    (site / "lm_eval" / "tasks").mkdir(parents=True)
    assert "import lm_eval" in _failed([site])
    _fix(site)
    assert not (site / "lm_eval").exists()
    assert _failed([site]) == {}


@pytest.mark.parametrize("name", ["notes.txt", "tasks/lm_bounds/mine.yaml", "tasks/other/local_bpd_bound.yaml"])
def test_files_of_others_are_never_removed(site: Path, clone: Path, name: str) -> None:
    _install_editable(site, clone)
    shadow = site / "lm_eval"
    _copies(shadow)
    _write(shadow, {name: "precious"})
    _fix(site)
    assert (shadow / name).read_text(encoding="utf-8") == "precious"
    assert (shadow / "tasks" / "lm_bounds" / NAMES[0]).exists()
    failed = _failed([site])
    assert list(failed) == ["import lm_eval", "leftover folders"]
    assert str(shadow / name) in failed["leftover folders"].detail


def test_links_are_never_followed(site: Path, clone: Path, tmp_path: Path) -> None:
    _install_editable(site, clone)
    _write(tmp_path / "elsewhere", {"precious.yaml": "precious"})
    (site / "lm_eval").mkdir()
    (site / "lm_eval" / "tasks").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    _fix(site)
    assert (tmp_path / "elsewhere" / "precious.yaml").exists()
    assert (site / "lm_eval" / "tasks").is_symlink()


def test_files_of_an_earlier_version_are_ours(site: Path, clone: Path) -> None:
    _install_editable(site, clone)
    _distribution(site, "lm_bounds", "0.0.1", {"RECORD": "lm_eval/tasks/lm_bounds/older.yaml,,\n"})
    _write(_copies(site / "lm_eval"), {"older.yaml": "task: older\n"})
    _fix(site)
    assert not (site / "lm_eval").exists()


def test_folder_named_lm_eval_among_the_users_own(site: Path, tmp_path: Path) -> None:
    _install(site)
    _copies(site / "lm_eval")
    (tmp_path / "work" / "lm_eval").mkdir(parents=True)
    path = [tmp_path / "work", site]
    assert _failed(path) == {}
    assert _fix(*path) == []
    assert (tmp_path / "work" / "lm_eval").is_dir()


def test_linked_work_tree(site: Path, clone: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked [1]"
    _git(clone, "worktree", "add", "--quiet", "--detach", str(linked))
    _install_editable(site, linked)
    _fix(site)
    assert (linked / "lm_eval/tasks/lm_bounds" / NAMES[0]).exists()
    assert _git(linked, "status", "--porcelain") == ""


def test_clone_below_the_top_of_its_repository(site: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    clone = top / "vendored [x]"
    _write(clone / "lm_eval", dict.fromkeys(MODULES, ""))
    _git(top, "init", "--quiet")
    _write(top, {".git/info/exclude": "*.orig"})  # its last line has no end
    _commit(top)
    _install_editable(site, clone)
    _fix(site)
    assert _git(top, "status", "--porcelain") == ""
    assert (top / ".git/info/exclude").read_text(encoding="utf-8").startswith("*.orig\n")


def test_clone_without_git(site: Path, clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    _install_editable(site, clone)
    assert len(_fix(site)) == 1
    assert _failed([site]) == {}


def test_folder_that_cannot_be_written(site: Path) -> None:
    _install(site)
    _write(site / "lm_eval" / "tasks", {"lm_bounds": "a file"})
    with pytest.raises(LmBoundsError, match=r"doctor cannot change .*lm_bounds.*--include_path"):
        _fix(site)


# -- real installations ------------------------------------------------------------

LIST_TASKS = """
from lm_eval.tasks import TaskManager
print(*(name for name in TaskManager().all_tasks if name.startswith("local_")))
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees every package of this one, except lm_eval and lm_bounds."""

    folder: Path

    @property
    def site(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder)}))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "bin" / words[0]), *words[1:]]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def pip(self, *words: str) -> None:
        done = self.run("python", "-m", "pip", *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, *words: str) -> None:
        self.pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", *words)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    pytest.importorskip("pip")
    made = Environment(tmp_path / "venv")
    venv.create(made.folder, with_pip=False, symlinks=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"lm_eval|.*lm_bounds|__editable__|__pycache__|.*\.pth$", entry.name):
            (made.site / entry.name).symlink_to(entry)
    return made


@pytest.fixture
def real_clone(tmp_path: Path) -> Path:
    """lm-eval's own code with one folder of its tasks, as a git repository that setuptools can install."""
    installed = Path(sysconfig.get_path("purelib")) / "lm_eval"
    if not (installed / "__init__.py").is_file():
        pytest.skip("needs lm_eval in this environment's site-packages")
    tasks = str(installed / "tasks")

    def ignore(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if folder == tasks and not name.endswith(".py") and name != "arithmetic"]

    clone = tmp_path / "lm-evaluation-harness"
    shutil.copytree(installed, clone / "lm_eval", ignore=ignore)
    project = '[project]\nname = "lm_eval"\nversion = "0.4.13"\n'
    packages = '[tool.setuptools.packages.find]\ninclude = ["lm_eval*"]\n'
    _write(clone, {"pyproject.toml": project + packages, ".gitignore": "__pycache__/\n*.egg-info/\n/build/\n"})
    _git(clone, "init", "--quiet")
    _commit(clone)
    return clone


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    from hatchling.builders.wheel import WheelBuilder

    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path / "dist"), versions=["standard"])))


@pytest.mark.slow
@pytest.mark.parametrize("clone_first", [True, False], ids=["clone first", "lm-bounds first"])
def test_editable_clone(environment: Environment, real_clone: Path, wheel: Path, clone_first: bool) -> None:
    steps = [("--editable", str(real_clone)), (str(wheel),)]
    for step in steps if clone_first else reversed(steps):
        environment.install(*step)
    assert "TaskManager" in environment.run("python", "-c", LIST_TASKS).stderr

    sick = environment.run("lm-bounds", "doctor")
    assert sick.returncode == 1, sick.stdout + sick.stderr
    assert str(environment.site / "lm_eval") in sick.stdout + sick.stderr
    assert "doctor --fix" in sick.stdout + sick.stderr

    for _ in range(2):
        fixed = environment.run("lm-bounds", "doctor", "--fix")
        assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert environment.run("lm-bounds", "doctor").returncode == 0
    assert not (environment.site / "lm_eval").exists()
    assert _git(real_clone, "status", "--porcelain") == ""

    listed = environment.run("python", "-c", LIST_TASKS)
    assert "local_bpd_bound" in listed.stdout.split(), listed.stderr

    environment.pip("uninstall", "--quiet", "--yes", "lm-bounds")
    assert list(environment.site.glob("*lm_bounds*")) == []
    assert environment.run("python", "-c", LIST_TASKS).returncode == 0
