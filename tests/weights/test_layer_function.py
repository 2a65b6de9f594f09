"""A layer applied to unit vectors: rounding is let through, other weights are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.errors import WeightsError
from lm_bounds.weights.integrity.layer_function import compare_layer, compare_values

FORMATS = [torch.float32, torch.float16, torch.bfloat16]


def grid(
    n_bits: int, shape: tuple[int, int] = (48, 160), group: int = 32, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of n_bits, and the scale of each."""
    random = np.random.default_rng(seed)
    scales = random.uniform(0.01, 1.0, (shape[0], shape[1] // group)).astype(np.float32).repeat(group, axis=1)
    codes = random.integers(-(2 ** (n_bits - 1)), 2 ** (n_bits - 1), shape).astype(np.float32)
    return codes, scales


def linear(matrix: np.ndarray, bias: np.ndarray | None = None, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None)
    layer.weight.data = torch.from_numpy(matrix.astype(np.float32))
    if bias is not None:
        layer.bias.data = torch.from_numpy(bias)
    return layer.to(dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("n_bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(48, 160), (3, 320), (300, 32)])
def test_rounding_is_let_through(dtype: torch.dtype, n_bits: int, shape: tuple[int, int]) -> None:
    codes, scales = grid(n_bits, shape)
    rounded = torch.from_numpy(scales).to(dtype) * torch.from_numpy(codes).to(dtype)
    difference = compare_layer(linear(rounded.float().numpy(), dtype=dtype), codes * scales, None, dtype)
    assert difference.is_rounding
    assert (difference.largest == 0) == (dtype == torch.float32)


@settings(max_examples=60, deadline=None)
@given(row=st.integers(0, 47), column=st.integers(0, 159), step=st.sampled_from([-1, 1]), n_bits=st.integers(2, 4))
def test_one_code_of_up_to_four_bits_is_seen(row: int, column: int, step: int, n_bits: int) -> None:
    codes, _ = grid(n_bits)
    scales = np.ones_like(codes)
    changed = codes.copy()
    changed[row, column] += step
    layer = linear(changed * scales, dtype=torch.bfloat16)
    assert not compare_layer(layer, codes * scales, None, torch.bfloat16).is_rounding


def test_all_codes_of_eight_bits_off_by_one_are_seen() -> None:
    codes, scales = grid(8)
    difference = compare_layer(linear((codes + 1) * scales, dtype=torch.bfloat16), codes * scales, None, torch.bfloat16)
    assert not difference.is_rounding


@pytest.mark.parametrize("dtype", FORMATS)
def test_other_weights_are_seen(dtype: torch.dtype) -> None:
    codes, scales = grid(4)
    others, _ = grid(4, seed=1)
    assert compare_layer(linear(others * scales, dtype=dtype), codes * scales, None, dtype).largest > 20


def test_a_difference_in_a_block_of_small_numbers_is_seen() -> None:
    matrix = np.full((2, 128), 1e-3, np.float32)
    matrix[:, 64:] = 1e3
    changed = matrix.copy()
    changed[1, 5] = 1.1e-3
    assert compare_layer(linear(matrix), matrix, None, torch.float32).is_rounding
    assert not compare_layer(linear(changed), matrix, None, torch.float32).is_rounding


def test_the_bias_is_that_of_the_files() -> None:
    codes, scales = grid(4)
    bias = np.linspace(-3, 3, 48, dtype=np.float32)
    layer = linear(codes * scales, bias)
    assert compare_layer(layer, codes * scales, bias, torch.float32).is_rounding
    assert not compare_layer(layer, codes * scales, None, torch.float32).is_rounding
    assert not compare_layer(layer, codes * scales, bias + 0.1, torch.float32).is_rounding


def test_embeddings_are_tables() -> None:
    matrix = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
    table = torch.nn.Embedding(300, 24)
    table.weight.data = torch.from_numpy(matrix.copy())
    assert compare_layer(table, matrix, None, torch.float32).largest == 0
    table.weight.data[299, 23] += 1
    assert not compare_layer(table, matrix, None, torch.float32).is_rounding


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_seen(value: float) -> None:
    matrix = np.ones((4, 8), np.float32)
    changed = matrix.copy()
    changed[2, 3] = value
    assert not compare_layer(linear(changed), matrix, None, torch.float32).is_rounding
    assert not compare_values(changed, matrix).is_rounding


def test_where_all_is_zero_nothing_may_differ() -> None:
    zeros = np.zeros((4, 8), np.float32)
    assert compare_layer(linear(zeros), zeros, None, torch.float32).is_rounding
    assert not compare_layer(linear(zeros + 1e-12), zeros, None, torch.float32).is_rounding


def test_layers_of_another_size_are_refused() -> None:
    with pytest.raises(WeightsError, match="does not have the 5 outputs"):
        compare_layer(linear(np.ones((4, 8))), np.ones((5, 8), np.float32), None, torch.float32)
    with pytest.raises(WeightsError, match="a Linear cannot be applied to unit vectors"):
        compare_layer(linear(np.ones((4, 8))), np.ones((4, 9), np.float32), None, torch.float32)
