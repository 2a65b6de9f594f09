"""What may differ when windows are scored again, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import TokenStatistics, window_sums
from lm_bounds.certificates import Observations, Plan
from lm_bounds.certificates.remeasured import (
    ALLOWANCES,
    HALF_PRECISION,
    Check,
    check_code,
    check_corpus,
    check_draws,
    check_model,
    check_scores,
    check_tokenizer,
    check_weights,
)
from lm_bounds.pipeline import open_session
from lm_bounds.sampling import Windows
from lm_bounds.settings import Settings

N_WINDOWS, SIZE = 20, 100
METHODS = ("kl_inf", "freedman", "azuma", "azuma_lambda")


@pytest.fixture(params=METHODS)
def plan(
    request: pytest.FixtureRequest, tiny_lm: Callable[..., Any], many_documents_file: Path, shared_tokens: Path
) -> Plan:
    """Of a tiny model, for every method."""
    settings = Settings(corpus_path=str(many_documents_file), pilot=8, method=request.param)
    return open_session(tiny_lm("unigram"), "local", settings, N_WINDOWS).plan


def tokens() -> TokenStatistics:
    """Invented statistics of all tokens of the windows."""
    random, n = np.random.default_rng(3), N_WINDOWS * SIZE
    surprise = random.exponential(3.0, n)
    return TokenStatistics(
        log2_prob=-surprise,
        rank=np.minimum(260, 1 + (2.0**surprise).astype(np.int64) // 2),
        entropy_bits=np.clip(surprise + random.normal(0.0, 1.0, n), 0.0, 8.0),
        max_prob=random.uniform(0.1, 1.0, n),
        window_sizes=np.full(N_WINDOWS, SIZE),
    )


def observed(plan: Plan, statistics: TokenStatistics) -> Observations:
    start = np.arange(N_WINDOWS, dtype=np.int64) * SIZE
    sums = {
        f"{metric}/{name}": window_sums(values, statistics.window_sizes)
        for metric, method in plan.methods.items()
        for name, values in method.columns(statistics).items()
    }
    return Observations(Windows(start, start, start + SIZE), sums)


def scored_again(plan: Plan, dtype: str, **changes: Any) -> Check:
    """The check of windows whose tokens have other statistics than before."""
    changed = replace(plan, model=replace(plan.model, dtype=dtype))
    return check_scores(changed, observed(plan, tokens()), observed(plan, replace(tokens(), **changes)), 200)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_sums_that_are_the_same_agree(plan: Plan, dtype: str) -> None:
    check = scored_again(plan, dtype)
    assert check.ok
    assert check.detail.startswith("20 of 200 windows scored again, largest difference 0.0e+00 per token (allowed ")
    assert check.values["largest_difference"] == check.values["largest_difference_of_errors"] == 0.0


@pytest.mark.parametrize(
    ("dtype", "rounding", "agrees"),
    [
        ("float64", 1e-7, True),
        ("float64", 1e-4, False),
        ("float32", 1e-5, True),
        ("float32", 0.1, False),
        ("bfloat16", 0.01, True),
        ("float16", 0.01, True),
        ("bfloat16", 2.0, False),
    ],
)
def test_rounding_of_a_number_format_is_allowed_and_no_more(
    plan: Plan, dtype: str, rounding: float, agrees: bool
) -> None:
    noise = rounding * np.random.default_rng(4).choice([-1.0, 1.0], N_WINDOWS * SIZE)
    check = scored_again(plan, dtype, log2_prob=np.minimum(tokens().log2_prob + noise, 0.0))
    assert check.ok is agrees, check.detail
    assert agrees or "bpd/" in check.detail


def test_a_small_shift_of_every_window_is_not_rounding(plan: Plan) -> None:
    """Less than what one window may move, but all windows the same way."""
    shift = 0.7e-3
    assert shift < ALLOWANCES["float32"].window
    check = scored_again(plan, "float32", log2_prob=tokens().log2_prob - shift)
    assert not check.ok
    assert "together they are not as stored: bpd/" in check.detail


def turned(rows: np.ndarray) -> np.ndarray:
    """Ranks where the errors of top-1 among some tokens became hits."""
    ranks = tokens().rank.copy()
    errors = rows[ranks[rows] > 1]
    ranks[errors] = 1
    return ranks


def test_near_ties_may_turn(plan: Plan) -> None:
    one_error = np.flatnonzero(tokens().rank > 1)[:1]
    check = scored_again(plan, "float32", rank=turned(one_error))
    assert check.ok, check.detail
    assert check.values["largest_difference_of_errors"] == 1.0
    assert "of errors in a window 1 (allowed 1)" in check.detail
    some_errors = np.flatnonzero(tokens().rank > 1)[:: N_WINDOWS * SIZE // 15]
    assert scored_again(plan, "bfloat16", rank=turned(some_errors)).ok


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_errors_that_vanish_are_noticed(plan: Plan, dtype: str) -> None:
    check = scored_again(plan, dtype, rank=turned(np.arange(SIZE)))
    assert not check.ok
    assert "1 are not as stored: top1/loss of tokens 0 to 99 is 0 per token, " in check.detail
    spread = scored_again(plan, dtype, rank=turned(np.arange(0, N_WINDOWS * SIZE, 10)))
    assert not spread.ok


def test_a_sum_that_is_not_a_number_is_noticed(plan: Plan) -> None:
    stored = observed(plan, tokens())
    sums = {**stored.sums, "bpd/loss": np.full(N_WINDOWS, np.nan)}
    assert not check_scores(plan, stored, replace(stored, sums=sums), 20).ok


def test_a_column_that_is_not_stored_is_noticed(plan: Plan) -> None:
    stored = observed(plan, tokens())
    fewer = replace(stored, sums={name: sums for name, sums in stored.sums.items() if name != "top1/loss"})
    check = check_scores(plan, fewer, stored, 20)
    assert (check.ok, check.detail) == (False, "20 of 20 windows scored again, no sums of top1/loss are stored")


def test_half_precision_is_allowed_more_than_float32() -> None:
    for name in ("window", "sample", "window_flips", "sample_flips"):
        assert getattr(ALLOWANCES["float64"], name) <= getattr(ALLOWANCES["float32"], name)
        assert getattr(ALLOWANCES["float32"], name) < getattr(HALF_PRECISION, name)


@pytest.mark.parametrize("plan", ["azuma"], indirect=True)
def test_facts_have_to_be_the_same(plan: Plan) -> None:
    code, model, corpus = plan.code, plan.model, plan.corpus
    assert str(check_weights(code, code)).startswith(f"weights: the same {code.n_parameters:,} parameters (sha256 ")
    other = check_weights(code, replace(code, sha256="b" * 64, n_parameters=7))
    stated = f"sha256 is bbbbbbbbbbbb, {code.sha256[:12]} is stated; n_parameters is 7, {code.n_parameters:,} is stated"
    assert (other.ok, other.detail) == (False, stated)
    assert str(check_code(code, code)) == f"code: {code.bits:,.0f} bits again"
    longer = check_code(code, replace(code, bits=code.bits + 1, version="2"))
    assert not longer.ok
    assert longer.detail.endswith(f"{code.bits:,.0f} bits are stated")
    assert check_model(model, replace(model, device="cuda:0", batch_size=1, name="elsewhere", revision="x")).ok
    for name, value in {"dtype": "bfloat16", "context": 9, "prefix_token_id": 3, "vocab_size": 5}.items():
        check = check_model(model, replace(model, **{name: value}))
        assert (check.ok, check.detail) == (False, f"{name} is {value}, {getattr(model, name)} is stated")
    assert check_tokenizer(corpus, corpus).ok
    assert not check_tokenizer(corpus, replace(corpus, tokenizer_sha256="c" * 64)).ok
    assert check_corpus(corpus, replace(corpus, source="elsewhere")).ok
    for name, value in {"sha256": "d" * 64, "n_tokens": 5, "n_documents": None, "n_metrics": 1}.items():
        assert not check_corpus(corpus, replace(corpus, **{name: value})).ok


@pytest.mark.parametrize("plan", ["azuma"], indirect=True)
def test_draws_have_to_be_the_same(plan: Plan) -> None:
    stored = observed(plan, tokens())
    windows = stored.windows
    assert check_draws(stored, windows).detail == "all 20 windows are those of the seed"
    shorter = Windows(windows.token_index, windows.start, windows.stop - (np.arange(N_WINDOWS) == 5))
    check = check_draws(stored, shorter)
    seen = "draw 5 is tokens 500 to 598, tokens 500 to 599 are stored"
    assert (check.ok, check.detail) == (False, f"1 of 20 windows are not those of the seed: {seen}")
    fewer = Windows(windows.token_index[:19], windows.start[:19], windows.stop[:19])
    assert check_draws(stored, fewer).detail == "the seed draws 19 windows, 20 are stored"
