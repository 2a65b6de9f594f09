"""``lm-bounds bound`` with losses, the comparison and the plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Command = Callable[..., Any]


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "losses.npz"
    np.savez(path, loss=rng.gamma(0.7, 3.6, 3000), entropy=rng.gamma(2.0, 1.2, 3000))
    return path


def test_losses(command: Command, losses: Path) -> None:
    options = ("bound", "--losses", losses, "--vocab", "32000", "--code-bits", "1e5", "--tokens", "1e8")
    done = command(*options)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("bpd <= ")
    reports = {}
    for method in ("kl_inf", "azuma", "best"):
        reports[method] = json.loads(command(*options, "--method", method, "--json").out)
        terms = reports[method]["terms"]
        assert reports[method]["bound"] == terms["risk"] + terms["complexity"] + terms["sampling"]
    assert reports["kl_inf"]["bound"] < reports["azuma"]["bound"]
    assert reports["best"]["chosen"]["name"] in ("kl_inf", "freedman")


def test_compare(command: Command, losses: Path) -> None:
    options = ("bound", "--losses", losses, "--vocab", "32000", "--compare")
    done = command(*options)
    assert (done.code, done.err) == (0, "")
    methods = [line.split("  ")[0] for line in done.out.splitlines()[1:]]
    assert methods[0] == "method"
    assert {"azuma", "freedman", "kl_inf", "kl_inf, entropy"} < set(methods)
    report = json.loads(command(*options, "--json").out)
    assert len(report["rates"]) == len(report["gaps"]["kl_inf"]) == 7


def test_plan(command: Command) -> None:
    options = ("bound", "--parameters", "7e9", "--tokens", "1.2e12", "--vocab", "32000")
    done = command(*options)
    assert (done.code, done.err) == (0, "")
    assert "7,000,000,000" in done.out
    rows = json.loads(command(*options, "--json").out)["bits_per_parameter"]
    assert all(row["kl_inf"] > row["azuma"] >= row["paper"] * 0.99 for row in rows)
    [one] = json.loads(command(*options, "--risk", "2", "--json").out)["bits_per_parameter"]
    assert one == next(row for row in rows if row["risk"] == 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vocab", "32000"), "--risk is missing"),
        (("--vocab", "32000", "--compare"), "--losses is missing"),
        (("--vocab", "32000", "--losses", "absent.npy"), "--code-bits is missing"),
        (("--vocab", "32000", "--losses", "absent.npy", "--code-bits", "9"), "--tokens is missing"),
        (("--vocab", "32000", "--losses", "absent.npy", "--code-bits", "9", "--tokens", "9"), "cannot be read"),
        (("--vocab", "1", "--risk", "1"), "--vocab must be at least 2"),
        (("--vocab", "32000", "--parameters", "7e9"), "--tokens is missing"),
        (("--vocab", "32000", "--parameters", "0.5", "--tokens", "9"), "--parameters must be a whole number"),
        (("--vocab", "9", "--parameters", "7", "--tokens", "9", "--metric", "top1"), "--metric bpd"),
        (("--vocab", "9", "--risk", "1", "--code-bits", "inf", "--tokens", "9"), "--code-bits must be"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_line(command: Command, options: tuple[str, ...], message: str) -> None:
    done = command("bound", *options)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_whole_corpus_is_as_long_as_its_losses(command: Command, losses: Path) -> None:
    options = ("bound", "--losses", losses, "--vocab", "32000", "--code-bits", "100", "--whole-corpus")
    report = json.loads(command(*options, "--json").out)
    assert abs(report["terms"]["sampling"]) < 1e-9
    assert json.loads(command(*options, "--tokens", "3000", "--json").out) == report
    assert "has 3000 losses" in command(*options, "--tokens", "3001").err
