"""``lm-bounds compress`` with all compressors, without the library of one, and on a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_bounds.codelength.charges import NAMED_COMPRESSORS
from lm_bounds.compressors import COMPRESSORS
from lm_bounds.weights import Weights

WITHOUT_BROTLI = "compressor 'brotli' needs a library: pip install 'lm-bounds[brotli]'"


@pytest.fixture
def folder(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("gpt2")


def test_one_row_each(command: Callable[..., Any], folder: Path) -> None:
    pytest.importorskip("brotli")
    done = command("compress", folder, "--compressor", "all")
    assert (done.code, done.err) == (0, "")
    _, header, *rows = done.out.splitlines()
    assert header.split("  ")[-1].strip() == "MB/s"
    assert [row.split()[0] for row in rows] == sorted(COMPRESSORS)
    assert all(len(row.split()) == 6 for row in rows)


def test_every_compressor_has_a_name_that_costs_nothing_to_spell() -> None:
    assert set(NAMED_COMPRESSORS) == set(COMPRESSORS)


def test_a_missing_library_is_one_line(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    done = command("compress", folder, "--compressor", "brotli")
    assert (done.code, done.error) == (2, f"Error: {WITHOUT_BROTLI}")
    done = command("compress", folder, "--compressor", "all", "--json")
    assert (done.code, done.err) == (0, f"left out: {WITHOUT_BROTLI}\n")
    found = [result["compressor"] for result in json.loads(done.out)["results"]]
    assert found == sorted(set(COMPRESSORS) - {"brotli"})


def test_the_weights_are_hashed_once(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    once = Weights.sha256
    monkeypatch.setattr(Weights, "sha256", lambda self: hashed.append(self) or once(self))
    assert command("compress", folder, "--compressor", "all").code == 0
    assert len(hashed) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    shown = io.StringIO()
    shown.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys.modules["lm_bounds.cli.compress"], "_PROGRESS_AFTER_S", 0)
    assert command("compress", folder, "--compressor", "gzip").code == 0
    assert ("B/s" in shown.getvalue()) == terminal
    assert terminal or shown.getvalue() == ""


def test_the_help_names_every_compressor(command: Callable[..., Any]) -> None:
    text = " ".join(command("compress", "--help").out.split())
    assert all(name in text for name in COMPRESSORS)
