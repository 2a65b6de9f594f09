"""What is said of the progress: lines in a file, bars on a terminal, and how long it will take."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from lm_bounds.tasks.progress import progress_line, progress_lines, progress_report

Told = Callable[[list[tuple[float, int]]], list[str]]


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ((16, 100, 7.5), "scoring: 16 of 100 windows, about 40 s left"),
        ((1, 2, 0.001), "scoring: 1 of 2 windows, about 1 s left"),
        ((1, 100, 1.0), "scoring: 1 of 100 windows, about 99 s left"),
        ((1, 101, 1.0), "scoring: 1 of 101 windows, about 1.7 min left"),
        ((1, 100, 60.0), "scoring: 1 of 100 windows, about 99.0 min left"),
        ((1, 101, 60.0), "scoring: 1 of 101 windows, about 1.7 h left"),
        ((100, 100, 41.0), "scoring: 100 of 100 windows in 41 s"),
        ((100, 100, 7200.0), "scoring: 100 of 100 windows in 2.0 h"),
        ((32, 100, 8.0, 16), "scoring: 32 of 100 windows, about 34 s left"),
        ((100, 100, 42.0, 16), "scoring: 100 of 100 windows in 50 s"),
        ((16, 100, 0.0, 16), "scoring: 16 of 100 windows"),
        ((64, 64, 0.0, 64), "scoring: 64 of 64 windows"),
        ((0, 64, 0.0), "scoring: 0 of 64 windows"),
    ],
)
def test_wording(numbers: tuple[float, ...], line: str) -> None:
    assert progress_line("scoring", *numbers) == line  # type: ignore[arg-type]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """``told([(second, done), ...])``: the lines about a hundred windows."""

    def run(steps: list[tuple[float, int]]) -> list[str]:
        now = 0.0
        report = progress_lines(clock=lambda: now)
        for second, done in steps:
            now = second
            report("scoring", done, 100)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return run


def test_the_first_batch_is_followed_by_an_estimate(told: Told) -> None:
    assert told([(5.0, 0), (13.0, 20)]) == ["scoring: 20 of 100 windows, about 32 s left"]


def test_a_clock_that_starts_after_the_first_batch_waits_for_the_second(told: Told) -> None:
    assert told([(8.0, 20)]) == []
    assert told([(8.0, 20), (16.0, 40)]) == ["scoring: 40 of 100 windows, about 24 s left"]


def test_there_are_few_lines(told: Told) -> None:
    lines = told([(float(second), second) for second in range(101)])
    assert [line.split()[1] for line in lines] == ["1", "31", "61", "91", "100"]
    assert lines[-1] == "scoring: 100 of 100 windows in 1.7 min"


def test_a_single_batch_is_one_line(told: Told) -> None:
    assert told([(3.0, 100)]) == ["scoring: 100 of 100 windows"]
    assert told([(0.0, 0), (3.0, 100)]) == ["scoring: 100 of 100 windows in 3 s"]


def test_each_thing_that_is_done_has_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    report = progress_report(" (1 of 2 shares)")
    for what in ("one thing", "another"):
        report(what, 0, 10)
        report(what, 10, 10)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["one thing (1 of 2 shares)", "another (1 of 2 shares)"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("begins", [True, False])
def test_on_a_terminal_each_thing_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch, begins: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    report = progress_report()
    for done in (*[0] * begins, 3, 10):
        report("one thing", done, 10)
    report("another", 1, 4)
    bars = terminal.getvalue()
    assert "one thing:   0%|          | 0/10 [00:00<?, ?window/s]" in bars or not begins
    assert "one thing: 100%|" in bars
    assert "10/10 [00:00<" in bars
    assert "another:" in bars
