"""The draws of a certificate: every window at most once, in the order of the seed's stream, or all that there are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import METRICS
from lm_bounds.certificates import Observations, verify
from lm_bounds.certificates.draws import _are_drawn
from lm_bounds.sampling import Windows, uniform_indices

Arrays = dict[str, np.ndarray]
NOT_DRAWN = "the drawn tokens are not those of the seed"


def permuted(order: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    """The rows of all arrays in another order."""

    def change(arrays: Arrays) -> None:
        rows = order(np.arange(len(arrays["start"])))
        arrays.update({name: values[rows] for name, values in arrays.items()})

    return change


def another_token_of_the_window(arrays: Arrays) -> None:
    row = int(np.argmax(arrays["stop"] - arrays["start"]))
    arrays["token_index"][row] = arrays["start"][row] + (arrays["token_index"][row] == arrays["start"][row])


def cut_at_the_token(arrays: Arrays) -> None:
    """Windows that begin with their token: smaller ones, which a later token of the stream may miss."""
    arrays["start"][:] = arrays["token_index"]
    arrays["stop"][:] = arrays["token_index"] + 1


CHANGES: dict[str, tuple[Callable[[Arrays], None], str]] = {
    "a window twice": (permuted(lambda rows: np.r_[rows[:-1], rows[0]]), NOT_DRAWN),
    "the last one twice": (permuted(lambda rows: np.r_[rows[:-2], rows[-1], rows[-1]]), NOT_DRAWN),
    "another order": (permuted(lambda rows: rows[::-1]), NOT_DRAWN),
    "the first one last": (permuted(lambda rows: np.roll(rows, -1)), NOT_DRAWN),
    "a draw passed over": (permuted(lambda rows: np.r_[rows[1:], rows[0]]), NOT_DRAWN),
    "another token of the same window": (another_token_of_the_window, NOT_DRAWN),
}


@pytest.mark.parametrize("consistently", [False, True])
@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("unit", ["window", "token"])
def test_draws_that_are_not_those_of_the_seed(
    unit: str, case: str, consistently: bool, fabricated: Callable[..., Any], restated: Callable[..., Any]
) -> None:
    change, words = CHANGES[case]
    verification = restated(fabricated(unit=unit), lambda fields: None, arrays=change, consistently=consistently)
    assert words in verification.failures
    assert verification.bound is None


def test_windows_that_end_before_their_token_or_behind_it_are_no_tokens(
    fabricated: Callable[..., Any], restated: Callable[..., Any]
) -> None:
    def longer(arrays: Arrays) -> None:
        arrays["stop"][3] += 1

    verification = restated(fabricated(unit="token"), lambda fields: None, arrays=longer, consistently=True)
    assert "a window does not end with its drawn token" in verification.failures


def test_windows_of_drawn_tokens_may_begin_at_the_same_token(fabricated: Callable[..., Any]) -> None:
    run = fabricated(unit="token", n_tokens=2000, n_windows=600)
    starts = run.observations.windows.start
    assert len(np.unique(starts)) < len(starts)
    assert len(np.unique(run.observations.windows.token_index)) == 600
    assert verify(run.path("bpd")).failures == ()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "chosen", [{}, {"unit": "token"}, {"shared_draws": 5}, {"method": "best"}, {"smoothing": "entropy"}]
)
def test_a_corpus_that_was_scored_whole(chosen: dict[str, Any], metric: str, fabricated: Callable[..., Any]) -> None:
    run = fabricated(n_tokens=3000, n_windows=5000, **chosen)
    assert int(run.observations.window_sizes.sum()) == 3000
    fields = run.certificates[metric].fields
    assert verify(run.path(metric)).failures == ()
    bound = run.certificates[metric].bound
    assert -1e-12 <= fields["terms"]["sampling"] <= 1e-12 * (1 + bound)
    columns = run.observations.sums
    assert fields["terms"]["risk"] == pytest.approx(columns[f"{metric}/loss"].sum() / 3000, rel=1e-12)
    assert fields["sample"]["windows"] == run.plan.n_windows < 5000 == fields["settings"]["windows"]


def test_a_part_of_a_corpus_is_not_the_whole(fabricated: Callable[..., Any], restated: Callable[..., Any]) -> None:
    """To leave out windows of a corpus that was scored whole leaves draws that the seed does not give."""
    run = fabricated(n_tokens=3000, n_windows=5000)
    verification = restated(run, lambda fields: None, arrays=permuted(lambda rows: rows[:-1]), consistently=True)
    assert NOT_DRAWN in verification.failures


def test_a_corpus_that_is_said_to_be_as_small_as_the_sample(run: Any, restated: Callable[..., Any]) -> None:
    """Windows that are not the pieces of so many tokens: they leave the corpus or overlap."""
    drawn = int(run.observations.window_sizes.sum())

    def smaller(fields: dict[str, Any]) -> None:
        fields["corpus"].update(n_tokens=drawn, n_documents=1)

    verification = restated(run, smaller)
    assert "a window does not hold its drawn token, or is longer than the context" in verification.failures


@pytest.mark.parametrize(("n_windows", "unit"), [(95, "window"), (2900, "token")])
def test_nearly_all_of_a_corpus(n_windows: int, unit: str, fabricated: Callable[..., Any]) -> None:
    run = fabricated(n_tokens=3000 if unit == "token" else 5200, n_windows=n_windows, unit=unit)
    assert run.plan.n_windows == n_windows
    assert verify(run.path("bpd")).failures == ()
    assert run.certificates["bpd"].fields["terms"]["sampling"] > 1e-6


def hostile(n: int, n_tokens: int, seed: int) -> Observations:
    """The first draws of the stream, in pieces that hold all tokens but the last one: one window is never drawn."""
    [first] = uniform_indices(1, n_tokens, seed).tolist()
    edges = np.linspace(0, n_tokens - n - 1, 3).astype(np.int64)
    assert edges[1] > first or edges[2] > first
    large = [(0, int(edges[1])), (int(edges[1]), int(edges[2]))]
    ones = [(n_tokens - 1 - k, n_tokens - k) for k in range(1, n)]
    stream = uniform_indices(1 << 12, n_tokens, seed).tolist()
    rows = []
    for token in stream:
        for start, stop in large:
            if start <= token < stop and all(start != row[1] for row in rows):
                rows.append((token, start, stop))
    rows += [(start, start, stop) for start, stop in ones[: n - len(rows)]]
    token, start, stop = (np.array(values, dtype=np.int64) for values in zip(*rows, strict=True))
    return Observations(Windows(token, start, stop), {})


@pytest.mark.parametrize("n", [3, 3000, 20_000])
@pytest.mark.parametrize("n_tokens", [10**6, 2**62])
def test_windows_that_are_never_drawn_are_not_waited_for(n: int, n_tokens: int) -> None:
    observations = hostile(n, n_tokens, seed=5)
    began = time.perf_counter()
    assert not _are_drawn(observations, n_tokens, 5, replacement=False)
    assert time.perf_counter() - began < 20.0


@pytest.mark.parametrize("n_tokens", [2**63, 2**63 + 1, 10**30])
def test_a_corpus_of_any_size_is_answered(
    n_tokens: int, run: Any, restated: Callable[..., Any], tmp_path: Path
) -> None:
    verification = restated(run, lambda fields: fields["corpus"].update(n_tokens=n_tokens))
    assert verification.failures
    path = tmp_path / run.path("bpd").name
    assert json.loads(path.read_bytes())["corpus"]["n_tokens"] == n_tokens
