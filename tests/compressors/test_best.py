"""What the modes of ``best`` gain, and what the chosen lengths may depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_bounds.codelength import adaptive_bits
from lm_bounds.compressors import Arithmetic, Best
from lm_bounds.compressors.classes import Context
from lm_bounds.compressors.counts import CODEBOOK_VALUES, Counted
from lm_bounds.compressors.modes import FewValues, Mode, Planes, Raw, Split, shortest
from lm_bounds.models import built_in_model
from lm_bounds.weights import Tensor, Weights, read_checkpoint

EXTRA_BITS = Best.mode_bits - Arithmetic.mode_bits


def chosen(tensor: Tensor) -> Mode:
    return Best.modes[shortest(tensor, Best.modes)[0]]


@pytest.mark.parametrize(("name", "bits"), [("structured", 1_433_520), ("random", 159_432)])
def test_sizes_of_the_built_in_models_stay_what_they_are(name: str, bits: int) -> None:
    tensors = read_checkpoint(built_in_model(name).path).tensors
    assert sum(math.ceil(Best().tensor_bits(tensor)) for tensor in tensors) == bits


def test_modes_keep_their_numbers() -> None:
    assert len(set(Best.modes)) == len(Best.modes) <= 2**Best.mode_bits == 64
    numbered = {0: Raw(), 1: Split(3), 2: Planes(), 3: Split(0), 9: Split(7), 10: FewValues()}
    numbered |= {11: FewValues(Context.ROWS), 12: FewValues(Context.ROWS_AND_COLUMNS)}
    numbered |= {13: Split(0, Context.ROWS), 28: Split(7, Context.ROWS_AND_COLUMNS)}
    assert {number: Best.modes[number] for number in numbered} == numbered
    assert str(len(Best.modes)) in Best.models


def test_never_above_arithmetic_but_for_the_mode(mixed: Weights) -> None:
    for tensor in mixed.tensors:
        assert Best().tensor_bits(tensor) <= Arithmetic().tensor_bits(tensor) + EXTRA_BITS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=40),
    dtype=st.sampled_from(["F32", "F16", "BF16", "F64"]),
)
def test_never_above_arithmetic_but_for_the_mode_of_any_floats(tensor, values: list[float], dtype: str) -> None:
    example = tensor("w", np.array(values, np.float32), dtype)
    assert Best().tensor_bits(example) <= Arithmetic().tensor_bits(example) + EXTRA_BITS


@pytest.mark.parametrize("dtype", ["F32", "BF16", "I8", "I64"])
def test_few_values_cost_what_their_codes_do(tensor, dtype: str) -> None:
    """Codes of four bits cost their entropy in every dtype, and so do the weights that they stand for."""
    codes = np.clip(np.round(np.random.default_rng(0).normal(0, 2.5, 30_000)), -8, 7) + 0.0
    example = tensor("w", codes * (0.0131 if dtype in ("F32", "BF16") else 1), dtype)
    assert chosen(example) == (Planes() if dtype == "I8" else FewValues())  # bytes are codes already
    counts = np.unique_counts(codes).counts
    assert Best().tensor_bits(example) < Best.mode_bits + 12 + 16 * 80 + adaptive_bits(counts)


def test_a_codebook_has_a_largest_size(tensor) -> None:
    values = np.arange(2 * CODEBOOK_VALUES) % CODEBOOK_VALUES
    for dtype in ("I16", "I32"):
        full = Counted(tensor("w", values, dtype)).codebook
        assert full is not None
        assert full.values.tolist() == list(range(CODEBOOK_VALUES))
        assert Counted(tensor("w", np.append(values, CODEBOOK_VALUES), dtype)).codebook is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 5), min_size=1, max_size=60))
def test_collected_codebooks_are_the_distinct_values(tensor, monkeypatch, values: list[int]) -> None:
    monkeypatch.setattr("lm_bounds.compressors.counts._PIECE", 7)
    codebook = Counted(tensor("w", np.array(values), "I32")).codebook
    assert codebook is not None
    expected = np.unique_counts(np.array(values, np.int32).view(np.uint32))
    assert codebook.values.tolist() == expected.values.tolist()
    assert codebook.counts.tolist() == expected.counts.tolist()


@pytest.mark.parametrize("dtype", ["BF16", "I8"])
def test_rows_and_columns_of_different_scale_are_told_apart(tensor, dtype: str) -> None:
    """Two bits of scale in rows and in columns: the classes gain most of what knowing the scales would."""
    rng = np.random.default_rng(0)
    rows, columns = rng.choice([1, 4], (96, 1)), rng.choice([1, 4], (1, 128))
    noise = rng.normal(0, 0.6, (96, 128))
    for scale, context in ((1, Context.NONE), (rows, Context.ROWS), (rows * columns, Context.ROWS_AND_COLUMNS)):
        example = tensor("w", noise * scale, dtype)
        assert getattr(chosen(example), "context", Context.NONE) is context
        gain = (Arithmetic().tensor_bits(example) - Best().tensor_bits(example)) / example.n_elements
        assert gain > {Context.NONE: -0.001, Context.ROWS: 0.15, Context.ROWS_AND_COLUMNS: 0.3}[context]


def test_tables_have_two_rows_and_columns(tensor) -> None:
    for shape in ((), (12,), (1, 12), (12, 1), (3, 4), (2, 3, 2)):
        example = tensor("w", np.arange(math.prod(shape)).reshape(shape) % 3, "I8")
        able = FewValues(Context.ROWS).bits(Counted(example)) < math.inf
        assert able == (shape in ((3, 4), (2, 3, 2)))


def test_chunks_and_blocks_add_up(tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 0.02, (37, 27)) * np.exp(rng.normal(0, 1, (37, 1)))
    examples = [tensor("w", values, dtype) for dtype in ("F32", "F16", "BF16")]
    examples += [tensor("w", np.round(values * 100), dtype) for dtype in ("I8", "I16", "I64")]

    def lengths() -> list[list[float]]:
        return [[mode.bits(Counted(example)) for mode in Best.modes] for example in examples]

    whole = lengths()
    monkeypatch.setattr("lm_bounds.weights.protocol.CHUNK_BYTES", 64)
    monkeypatch.setattr("lm_bounds.compressors.counts._PIECE", 5)
    monkeypatch.setattr("lm_bounds.compressors.classes._BLOCK", 60)
    assert lengths() == whole
