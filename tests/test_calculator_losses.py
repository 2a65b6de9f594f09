"""Bounds from a user's own losses, and how large a model may be."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_bounds.bounds import KlInf, vacuous_at
from lm_bounds.calculator import (
    DocumentProblem,
    LossProblem,
    LossSample,
    PlannedCorpus,
    Summary,
    affordable_bits,
    bound_from_losses,
    bound_from_summary,
    document_bound,
    gap_table,
    read_losses,
)
from lm_bounds.codelength import length_prefix
from lm_bounds.errors import UsageError

VOCABULARY = 32_000
BITS = math.log2(VOCABULARY)


@pytest.fixture(scope="module")
def sample() -> LossSample:
    """Losses whose entropies are known: mean 2.5 bits, standard deviation 3."""
    rng = np.random.default_rng(3)
    entropies = rng.gamma(2.5**2 / 3, 3 / 2.5, 6000)
    return LossSample(entropies * rng.gamma(1 / 0.65, 0.65, 6000), entropies)


def numbers(**changes: Any) -> LossProblem:
    values = {"metric": "bpd", "vocab_size": VOCABULARY, "code_bits": 1e5, "n_tokens": 10**8, "failure_prob": 0.05}
    return LossProblem(**{**values, **changes})


def test_a_whole_corpus_has_the_bound_of_the_formula(sample: LossSample) -> None:
    """mean c - exp( mean ln(c - l) - rho ), from the parameters that were chosen and nothing else of this package."""
    found, method = bound_from_losses("kl_inf", None, sample, numbers(code_bits=500.0, n_tokens=None))
    chosen = method.to_dict()
    smoothed = -np.log2((1 - chosen["smoothing"]) * 2.0**-sample.losses + chosen["smoothing"] / VOCABULARY)
    ceilings = chosen["ceiling_offset"] + chosen["ceiling_slope"] * np.clip(sample.entropy_bits, 0, BITS)
    bits = 500.0 + length_prefix("kl_inf", 500.0).bits + 16 + 8 + 8 + 3 + 2  # b, c1, a, method, way to smooth
    rho = (bits * math.log(2) + math.log(100 / 0.05)) / len(sample.losses)
    expected = ceilings.mean() - math.exp(np.log(ceilings - smoothed).mean() - rho)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.risk == pytest.approx(smoothed.mean(), rel=1e-12)
    assert abs(found.sampling) < 1e-9


def test_nothing_is_chosen_on_the_certifying_part(sample: LossSample) -> None:
    rng = np.random.default_rng(0)
    order = np.r_[np.arange(600), 600 + rng.permutation(5400)]
    other = LossSample(np.r_[sample.losses[:600], np.zeros(5400)], np.r_[sample.entropy_bits[:600], np.zeros(5400)])
    first, chosen = bound_from_losses("kl_inf", None, sample, numbers())
    shuffled = LossSample(sample.losses[order], sample.entropy_bits[order])
    again, same = bound_from_losses("kl_inf", None, shuffled, numbers())
    lower, kept = bound_from_losses("kl_inf", None, other, numbers())
    assert chosen == same == kept
    assert again.value == pytest.approx(first.value, rel=1e-12)
    assert lower.value < first.value
    swapped = LossSample(sample.losses[::-1], sample.entropy_bits[::-1])
    assert bound_from_losses("kl_inf", None, swapped, numbers())[1] != chosen


@pytest.mark.parametrize("method", ["kl_inf", "freedman", "azuma", "azuma_lambda", "paper", "best"])
def test_every_method_bounds_a_sample(method: str, sample: LossSample) -> None:
    found, chosen = bound_from_losses(method, None, sample, numbers())
    assert found.value == found.risk + found.complexity + found.sampling
    assert found.risk < found.value < BITS
    assert method in (chosen.name, "best")
    more, _ = bound_from_losses(method, None, sample, numbers(code_bits=1e7))
    assert more.value > found.value


def test_errors_are_losses_of_a_top_k_metric() -> None:
    errors = LossSample((np.random.default_rng(1).random(5000) < 0.3).astype(float), np.zeros(5000))
    found, _ = bound_from_losses("kl_inf", None, errors, numbers(metric="top10"))
    assert found.risk == errors.losses[500:].mean()
    assert found.risk < found.value < 0.4
    with pytest.raises(UsageError, match="0 or 1"):
        bound_from_losses("kl_inf", None, LossSample(errors.losses / 2, errors.entropy_bits), numbers(metric="top10"))


def test_a_model_that_failed_has_the_largest_loss(sample: LossSample) -> None:
    failed = LossSample(np.where(np.arange(6000) % 100 == 0, np.inf, sample.losses), sample.entropy_bits)
    found, _ = bound_from_losses("kl_inf", None, failed, numbers())
    assert bound_from_losses("kl_inf", None, sample, numbers())[0].value < found.value < math.inf
    with pytest.raises(UsageError, match="some losses are infinite"):
        gap_table(failed, "bpd", VOCABULARY)


def test_gaps_grow_with_the_rate_and_kl_inf_has_the_smallest(sample: LossSample) -> None:
    table = gap_table(sample, "bpd", VOCABULARY, rates=(0.01, 0.1))
    assert all(0 < gaps[0] < gaps[1] for gaps in table.values())
    plain = [gaps for name, gaps in table.items() if "entropy" not in name]
    assert all(table["kl_inf"][column] <= gaps[column] + 1e-9 for gaps in plain for column in (0, 1))
    assert table["kl_inf"][0] / table["azuma"][0] == pytest.approx(0.27, abs=0.02)


def test_files_round_trip(tmp_path: Path, sample: LossSample) -> None:
    np.save(tmp_path / "losses.npy", sample.losses)
    np.savez(tmp_path / "both.npz", loss=sample.losses.astype(np.float32), entropy=sample.entropy_bits, pmax=1.0)
    alone, both = read_losses(tmp_path / "losses.npy"), read_losses(tmp_path / "both.npz")
    assert np.array_equal(alone.losses, sample.losses)
    assert not alone.entropy_bits.any()
    assert np.allclose(both.losses, sample.losses)
    assert np.array_equal(both.entropy_bits, sample.entropy_bits)


GOOD = np.ones(30)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"entropy": GOOD}, "no array 'loss'"),
        ({"loss": np.ones(19)}, "one length of 20 or more"),
        ({"loss": GOOD, "entropy": np.ones(31)}, "one length"),
        ({"loss": np.ones((30, 1))}, "one-dimensional"),
        ({"loss": np.where(np.arange(30) == 3, np.nan, 1.0)}, "at least 0"),
        ({"loss": -GOOD}, "at least 0"),
        ({"loss": GOOD, "entropy": -GOOD}, "at least 0 and finite"),
        ({"loss": GOOD, "entropy": GOOD * np.inf}, "at least 0 and finite"),
        ({"loss": np.array(["a"] * 30)}, "real numbers"),
        ({"loss": GOOD * 1j}, "real numbers"),
    ],
)
def test_malformed_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "losses.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        read_losses(tmp_path / "losses.npz")


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("3.0")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("text.npy", "pickled.npy", "absent.npy"):
        with pytest.raises(UsageError, match=r"cannot be read as \.npy or \.npz"):
            read_losses(tmp_path / name)


CORPUS = PlannedCorpus(10**12, VOCABULARY, 10_000, 0.05)


@pytest.mark.parametrize("method", ["paper", "azuma", "kl_inf"])
def test_the_affordable_size_is_where_the_best_bound_becomes_vacuous(method: str) -> None:
    affordable = affordable_bits(method, 3.0, CORPUS)
    level = vacuous_at("bpd", VOCABULARY)

    def lowest(bits: float) -> float:
        smoothings = (2.0 ** -(k / 8) for k in range(16, 257, 16))
        summaries = (
            Summary("bpd", 3.0 - math.log2(1 - a), bits + 8, 10**12, VOCABULARY, a, 10_000, 0.05) for a in smoothings
        )
        return min(bound_from_summary(method, summary)[0].value for summary in summaries)

    assert lowest(affordable) < level <= lowest(affordable * 1.001)
    assert affordable_bits(method, 4.0, CORPUS) < affordable


def test_no_size_is_affordable_for_a_model_that_guesses() -> None:
    assert affordable_bits("kl_inf", BITS, CORPUS) == 0.0
    with pytest.raises(UsageError, match="at least 0 bits and finite"):
        affordable_bits("kl_inf", math.nan, CORPUS)


def test_the_method_that_is_returned_is_the_one_of_a_run(sample: LossSample) -> None:
    found, method = bound_from_losses("kl_inf", "entropy", sample, numbers())
    assert isinstance(method, KlInf)
    assert method.smoothing_slope_index is not None
    assert found.method == "kl_inf"
    with pytest.raises(UsageError, match="azuma is not valid with smoothing='entropy'"):
        bound_from_losses("azuma", "entropy", sample, numbers())
    with pytest.raises(UsageError, match="paper bounds a sample"):
        bound_from_losses("paper", None, sample, numbers(n_tokens=None))


def test_documents_are_the_observations_of_the_document_method() -> None:
    """The formula at the chosen ceiling; a sample costs more than the whole."""
    losses = np.random.default_rng(2).uniform(1.0, 5.0, 2000)
    whole = DocumentProblem("bpd", VOCABULARY, 0.1, 100.0, None, 0.05)
    found, chosen = document_bound(losses, whole)
    bits = 100.0 + length_prefix("kl_inf", 100.0).bits + 16
    rho = (bits * math.log(2) + math.log(100 / 0.05)) / 2000
    expected = chosen["ceiling"] - math.exp(np.log(chosen["ceiling"] - losses).mean() - rho)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.sampling == 0.0
    sampled, _ = document_bound(losses, dataclasses.replace(whole, n_documents=2000))
    assert sampled.sampling > 0.0
    assert sampled.value > found.value
    with pytest.raises(UsageError, match="mean loss must be between"):
        document_bound(losses + 20.0, whole)
