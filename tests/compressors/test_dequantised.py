"""Tensors that were made from codes and scales: both are found again, and multiply out bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_bounds.compressors import Best
from lm_bounds.compressors.classes import Context
from lm_bounds.compressors.counts import Counted
from lm_bounds.compressors.dequantised import NORMAL_FLOAT, dequantise, find_quantised, to_floats, to_words
from lm_bounds.compressors.modes import shortest
from lm_bounds.compressors.packed import Dequantised
from lm_bounds.compressors.words import WORDS
from lm_bounds.weights import Tensor
from lm_bounds.weights.protocol import DTYPE_BYTES

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ROWS, COLUMNS = 24, 256


def as_tensor(values: torch.Tensor) -> Tensor:
    dtype = {kind: name for name, kind in TORCH.items()}[values.dtype]
    raw = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    return Tensor.of_bytes("w", dtype, tuple(values.shape), raw)


def made(dtype: str, scale_dtype: str, group: int, bits: int, zero_points: bool, seed: int = 0) -> Tensor:
    """What torch multiplies out: codes less zero-points, times a scale for each group."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (ROWS, COLUMNS // group, group), generator=generator)
    zeros = (
        torch.randint(0, 2**bits, (ROWS, COLUMNS // group, 1), generator=generator) if zero_points else 2 ** (bits - 1)
    )
    scales = torch.rand((ROWS, COLUMNS // group, 1), generator=generator).mul(0.02).add(0.001).to(TORCH[scale_dtype])
    values = (codes - zeros).float() * scales.float()
    return as_tensor(values.to(TORCH[dtype]).reshape(ROWS, COLUMNS))


def rebuilt(tensor: Tensor) -> np.ndarray:
    found = find_quantised(tensor)
    assert found is not None
    scales = to_floats(found.scales.data().view(WORDS[DTYPE_BYTES[found.scale_dtype]]), found.scale_dtype)
    return dequantise(scales, found.levels.reshape(len(scales), -1), tensor.dtype, found.is_normal_float)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("scale_dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    ("group", "bits", "zero_points"), [(256, 8, False), (128, 4, True), (64, 3, False), (32, 2, True)]
)
def test_codes_and_scales_are_found_again(
    dtype: str, scale_dtype: str, group: int, bits: int, zero_points: bool
) -> None:
    tensor = made(dtype, scale_dtype, group, bits, zero_points)
    found = find_quantised(tensor)
    assert found is not None
    assert rebuilt(tensor).astype(WORDS[DTYPE_BYTES[dtype]]).tobytes() == tensor.data().tobytes()
    assert found.group == group
    limit = 2**bits if zero_points else 2 ** (bits - 1)
    assert abs(found.levels).max() <= limit
    bits_each = Dequantised().bits(Counted(tensor)) / tensor.n_elements
    assert bits_each < bits + 1.2 + 40 / group


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_normal_float_codes_are_found_again(dtype: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn((ROWS, COLUMNS // 64, 64), generator=generator)
    scales = weights.abs().amax(dim=2, keepdim=True)
    levels = (weights / scales)[..., None].sub(torch.from_numpy(NORMAL_FLOAT)).abs().argmin(dim=-1)
    values = torch.from_numpy(NORMAL_FLOAT)[levels] * scales
    tensor = as_tensor(values.to(TORCH[dtype]).reshape(ROWS, COLUMNS))
    found = find_quantised(tensor)
    assert found is not None
    assert (found.group, found.is_normal_float) == (64, True)
    assert rebuilt(tensor).astype(WORDS[DTYPE_BYTES[dtype]]).tobytes() == tensor.data().tobytes()


def test_negative_scales_keep_the_sign_of_zero() -> None:
    levels = torch.randint(-8, 8, (ROWS, 8, 32), generator=torch.Generator().manual_seed(2))
    scales = torch.linspace(-0.3, 0.4, ROWS * 8).reshape(ROWS, 8, 1).half().float()
    values = (levels * scales).to(torch.float16).reshape(ROWS, COLUMNS)
    tensor = as_tensor(values)
    assert rebuilt(tensor).tobytes() == tensor.data().tobytes()


def test_weights_that_were_never_quantised_are_left_alone() -> None:
    values = torch.randn((ROWS, COLUMNS), generator=torch.Generator().manual_seed(3))
    for dtype in TORCH.values():
        assert find_quantised(as_tensor(values.to(dtype))) is None
        assert find_quantised(as_tensor(torch.zeros(ROWS, COLUMNS, dtype=dtype))) is None
    broken = made("F16", "F16", 64, 4, False).data().copy()
    broken[-2:] = 255, 127  # a NaN in the last group, where no sample looks
    assert find_quantised(Tensor.of_bytes("w", "F16", (ROWS, COLUMNS), broken)) is None


def test_one_changed_bit_is_not_lost() -> None:
    tensor = made("F16", "F16", 64, 4, False)
    raw = tensor.data().copy()
    raw[2 * 777] ^= 1
    changed = Tensor.of_bytes("w", "F16", (ROWS, COLUMNS), raw)
    found = find_quantised(changed)
    assert found is None or rebuilt(changed).tobytes() == raw.tobytes()


def test_best_takes_levels_where_they_are_shorter() -> None:
    tensor = made("BF16", "F16", 128, 4, False)
    number, length = shortest(tensor, Best.modes)
    assert isinstance(Best.modes[number], Dequantised)
    assert length < 4.2 * tensor.n_elements
    assert Dequantised(Context.ROWS).bits(Counted(made("F32", "F32", 64, 8, True))) == math.inf  # 511 levels


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40), st.sampled_from(["F16", "BF16"]))
def test_rounding_is_that_of_torch(words: list[int], dtype: str) -> None:
    exact = to_floats(np.array(words, "<u2"), dtype)
    again = torch.from_numpy(exact.copy()).to(TORCH[dtype])
    finite = np.isfinite(exact)
    assert np.array_equal(to_words(exact, dtype)[finite], np.array(words)[finite])
    middle = np.array(words, "<u4") << 16 | 0x8000
    values = middle.astype("<u4").view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values.copy()).to(TORCH[dtype]).view(torch.int16).numpy().view("<u2")
    assert np.array_equal(to_words(values, dtype), expected)
    assert again.dtype is TORCH[dtype]
