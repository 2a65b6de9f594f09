"""Token statistics from logits: against float64 by definition, ties, failures, and what they allocate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lm_bounds.bounds import (
    SMOOTHING_GRID,
    TEMPERATURE_GRID,
    UNIT_TEMPERATURE,
    BitsPerDimension,
    TokenStatistics,
    TopKError,
)
from lm_bounds.scoring import logits as logits_module
from lm_bounds.scoring import token_statistics, total_probability
from lm_bounds.scoring.logits import tempered_statistics

FAMILIES = ["gpt2", "llama", "gpt_neox"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [20, 13, 1]


def by_definition(
    logits: torch.Tensor, targets: torch.Tensor, lengths: list[int], temperature: float = 1.0
) -> TokenStatistics:
    """Every statistic of every token in float64, one row at a time, as its definition reads."""
    log2_prob, rank, entropy_bits, max_prob = [], [], [], []
    for window, length in enumerate(lengths):
        for position in range(length):
            row = logits[window, position].double().numpy()
            target = int(targets[window, position])
            scaled = (row - row.max()) / temperature
            log_p = scaled - math.log(np.exp(scaled).sum())
            log2_prob.append(log_p[target] / math.log(2))
            rank.append(1 + sum(row[v] >= row[target] for v in range(len(row)) if v != target))
            entropy_bits.append(-(np.exp(log_p) * log_p).sum() / math.log(2))
            max_prob.append(np.exp(log_p).max())
    return TokenStatistics(
        np.array(log2_prob), np.array(rank), np.array(entropy_bits), np.array(max_prob), np.array(lengths)
    )


def assert_statistics_equal(found: TokenStatistics, wanted: TokenStatistics, bits: float = 2e-5) -> None:
    np.testing.assert_allclose(found.log2_prob, wanted.log2_prob, rtol=0, atol=bits)
    np.testing.assert_allclose(found.entropy_bits, wanted.entropy_bits, rtol=0, atol=bits)
    np.testing.assert_allclose(found.max_prob, wanted.max_prob, rtol=0, atol=bits)
    np.testing.assert_array_equal(found.rank, wanted.rank)
    np.testing.assert_array_equal(found.window_sizes, wanted.window_sizes)


def random_targets(shape: tuple[int, ...], vocab_size: int = 260) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(0).integers(0, vocab_size, shape))


@pytest.mark.parametrize("rows_per_chunk", [None, 3, 1], ids=["whole", "three rows", "one row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_real_logits_equal_the_definition(
    family: str,
    dtype: torch.dtype,
    rows_per_chunk: int | None,
    tiny_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if rows_per_chunk is not None:
        monkeypatch.setattr(logits_module, "CHUNK_ELEMENTS", rows_per_chunk * 260 + 7)
    targets = random_targets((3, 20))
    with torch.no_grad():
        logits = tiny_model(family).to(dtype)(random_targets((3, 20))).logits
    assert logits.dtype == dtype
    wanted = by_definition(logits, targets, LENGTHS)
    assert wanted.max_prob.max() > 0.1  # not a nearly uniform distribution, where everything looks alike
    found = token_statistics(logits, targets, LENGTHS)
    assert_statistics_equal(found, wanted)
    assert found.log2_prob.dtype == found.entropy_bits.dtype == found.max_prob.dtype == np.float64


def test_a_chunk_smaller_than_the_vocabulary_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn((2, 5, 50)), random_targets((2, 5), 50)
    whole = token_statistics(logits, targets, [5, 2])
    monkeypatch.setattr(logits_module, "CHUNK_ELEMENTS", 10)
    assert_statistics_equal(token_statistics(logits, targets, [5, 2]), whole)


@given(
    rows=st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    target=st.integers(0, 3),
)
def test_ties_count_against_the_model(rows: list[list[int]], target: int) -> None:
    logits = torch.tensor([rows], dtype=torch.float32)
    targets = torch.full((1, len(rows)), target)
    found = token_statistics(logits, targets, [len(rows)])
    assert_statistics_equal(found, by_definition(logits, targets, [len(rows)]))


def test_all_logits_equal_is_a_uniform_guess_of_the_last_rank() -> None:
    found = token_statistics(torch.full((1, 1, 64), 2.5), torch.tensor([[7]]), [1])
    assert found.rank.tolist() == [64]
    assert found.log2_prob.tolist() == pytest.approx([-6.0])
    assert found.entropy_bits.tolist() == pytest.approx([6.0])
    assert found.max_prob.tolist() == pytest.approx([1 / 64])


def test_two_tied_best_tokens_are_both_wrong_at_top1() -> None:
    logits = torch.tensor([[[1.0, 5.0, 5.0, 0.0]]]).repeat(1, 2, 1)
    found = token_statistics(logits, torch.tensor([[1, 2]]), [2])
    assert TopKError(4, 1).of(found).tolist() == [1.0, 1.0]
    assert TopKError(4, 2).of(found).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
@pytest.mark.parametrize("at_target", [True, False], ids=["at the target", "elsewhere"])
@pytest.mark.parametrize("everywhere", [True, False], ids=["whole row", "one logit"])
def test_a_logit_that_is_not_finite_scores_the_worst_loss(
    value: float, at_target: bool, everywhere: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn((1, 3, 32)), torch.tensor([[4, 9, 30]])
    if everywhere:
        logits[0, 1] = value
    else:
        logits[0, 1, 9 if at_target else 8] = value
    logits = logits.to(dtype)
    found = token_statistics(logits, targets, [3])
    assert found.log2_prob[1] == -math.inf
    assert found.rank[1] == 32
    assert found.entropy_bits[1] == 0.0
    assert found.max_prob[1] == 0.0
    good = by_definition(logits[:, [0, 2]], targets[:, [0, 2]], [2])
    np.testing.assert_allclose(found.log2_prob[[0, 2]], good.log2_prob, atol=2e-5)
    np.testing.assert_array_equal(found.rank[[0, 2]], good.rank)
    for smoothing in SMOOTHING_GRID:
        loss = BitsPerDimension(32, smoothing)
        assert loss.of(found)[1] == pytest.approx(loss.loss_max, rel=4e-16)
    assert [TopKError(32, k).of(found)[1] for k in (1, 10, 31)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("vocab_size", [2, 257, 32000, 50257, 151936])
def test_the_worst_loss_is_the_largest_of_the_range(vocab_size: int) -> None:
    failed = TokenStatistics(np.array([-math.inf]), np.array([vocab_size]), np.zeros(1), np.zeros(1), np.array([1]))
    for smoothing in SMOOTHING_GRID:
        loss = BitsPerDimension(vocab_size, smoothing)
        assert loss.of(failed)[0] <= loss.loss_max
        assert loss.of(failed)[0] == pytest.approx(loss.loss_max, rel=4e-16)


def test_statistics_stay_in_their_ranges_for_extreme_logits() -> None:
    logits = torch.zeros((1, 4, 16))
    logits[0, 0, 3] = 1e30
    logits[0, 1] = -1e30  # a common offset leaves the distribution uniform
    logits[0, 2, 5], logits[0, 2, 6] = -3e38, 3e38
    logits[0, 3] = torch.arange(16) * 1e-30
    found = token_statistics(logits, torch.tensor([[3, 3, 5, 15]]), [4])
    assert found.log2_prob.tolist()[:2] == pytest.approx([0.0, -4.0])
    assert np.all(found.log2_prob <= 0.0)
    assert np.all((found.entropy_bits >= 0.0) & (found.entropy_bits <= 4.0))
    assert np.all((found.max_prob >= 0.0) & (found.max_prob <= 1.0))
    assert np.all(np.isfinite(found.entropy_bits))
    assert found.rank.tolist() == [1, 16, 16, 1]


@pytest.mark.parametrize("offset", [-1e30, -1e6, 3e4, 1e8])
def test_a_common_offset_of_the_logits_gives_no_probability_away(offset: float) -> None:
    logits = torch.randint(-8, 9, (1, 5, 300)).double().add(offset).float()
    targets = random_targets((1, 5), 300)
    found = token_statistics(logits, targets, [5])
    assert_statistics_equal(found, by_definition(logits, targets, [5]))
    sums = total_probability(logits[0])
    assert sums.tolist() == pytest.approx([1.0] * 5, abs=1e-5)


@pytest.mark.parametrize("rows_per_chunk", [None, 3], ids=["whole", "three rows"])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_every_temperature_equals_the_definition(
    scale: float, rows_per_chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows_per_chunk is not None:
        monkeypatch.setattr(logits_module, "CHUNK_ELEMENTS", rows_per_chunk * 300)
    logits = scale * torch.randn((3, 20, 300), generator=torch.Generator().manual_seed(1)) - 40.0
    targets = random_targets((3, 20), 300)
    found = tempered_statistics(logits, targets, LENGTHS, TEMPERATURE_GRID)
    for statistics, temperature in zip(found, TEMPERATURE_GRID, strict=True):
        largest = float(logits.max() - logits.min()) / temperature
        wanted = by_definition(logits, targets, LENGTHS, temperature)
        assert_statistics_equal(statistics, wanted, 2e-6 * (10 + largest))
        log_p = torch.log_softmax(logits.double() / temperature, dim=-1)
        chosen = log_p.gather(-1, targets[:, :, None])[:, :, 0] / math.log(2)
        by_torch = torch.cat([chosen[window, :length] for window, length in enumerate(LENGTHS)])
        np.testing.assert_allclose(statistics.log2_prob, by_torch.numpy(), rtol=0, atol=2e-6 * (10 + largest))
        np.testing.assert_array_equal(statistics.rank, found[UNIT_TEMPERATURE].rank)
    plain = token_statistics(logits, targets, LENGTHS)
    for name, values in vars(plain).items():
        np.testing.assert_array_equal(getattr(found[UNIT_TEMPERATURE], name), values)


def test_the_entropy_rises_and_the_largest_probability_falls_with_the_temperature() -> None:
    logits, targets = 4 * torch.randn((1, 40, 300)), random_targets((1, 40), 300)
    found = tempered_statistics(logits, targets, [40], TEMPERATURE_GRID)
    for cool, warm in itertools.pairwise(found):
        assert np.all(warm.entropy_bits > cool.entropy_bits)
        assert np.all(warm.max_prob < cool.max_prob)


def test_a_failed_row_has_failed_at_every_temperature() -> None:
    logits, targets = torch.randn((1, 4, 40)), random_targets((1, 4), 40)
    logits[0, 1, 3], logits[0, 2, 5], logits[0, 3, 7] = math.nan, math.inf, -math.inf
    for statistics in tempered_statistics(logits, targets, [4], TEMPERATURE_GRID):
        assert np.isfinite(statistics.log2_prob).tolist() == [True, False, False, False]
        assert statistics.rank[1:].tolist() == [40, 40, 40]
        assert statistics.entropy_bits[1:].tolist() == [0.0, 0.0, 0.0]


def test_logits_as_far_apart_as_floats_reach_stay_finite_at_every_temperature() -> None:
    row = torch.zeros((1, 1, 40))
    row[0, 0, 0], row[0, 0, 1] = 3e38, -3e38
    for target in (0, 1, 2):
        for statistics in tempered_statistics(row, torch.tensor([[target]]), [1], TEMPERATURE_GRID):
            assert statistics.log2_prob[0] <= 0.0
            assert statistics.entropy_bits[0] == 0.0
            assert statistics.max_prob[0] == 1.0
            assert statistics.rank[0] == (1 if target == 0 else 40 if target == 1 else 39)


class LargestAllocation(TorchDispatchMode):
    """Remembers the largest tensor, in elements, that was made in new memory."""

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.known = {given.untyped_storage().data_ptr()}
        self.n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.n_elements = max(self.n_elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16", "fp16"])
def test_no_second_copy_of_the_logits_is_made(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_module, "CHUNK_ELEMENTS", 4 * 500)
    logits, targets = torch.randn((4, 40, 500)).to(dtype), random_targets((4, 40), 500)
    with LargestAllocation(logits) as seen:
        token_statistics(logits, targets, [40, 40, 40, 9])
    assert 0 < seen.n_elements <= 4 * 500
    with LargestAllocation(logits) as seen:
        tempered_statistics(logits, targets, [40, 40, 40, 9], TEMPERATURE_GRID)
    assert 0 < seen.n_elements <= 16 * 4 * 160  # what is kept of every token at every temperature
    with LargestAllocation(logits[0]) as seen:
        total_probability(logits[0])
    assert 0 < seen.n_elements <= 4 * 500
    with LargestAllocation(logits) as seen:
        torch.log_softmax(logits, dim=-1)
    assert seen.n_elements == logits.numel()


def test_total_probability_is_one_where_logits_are_finite_and_nan_elsewhere() -> None:
    logits = torch.randn((6, 40)) * 5
    logits[2, 3] = math.nan
    logits[4, 3] = math.inf
    sums = total_probability(logits)
    assert sums.dtype == torch.float64
    assert sums[[0, 1, 3, 5]].tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert torch.isnan(sums[[2, 4]]).all()
